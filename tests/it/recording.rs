//! What recording does to a job, step by step: the outbox called directly, without a worker, because the moments matter.

use std::time::Duration;

use sms_outbox::lifecycle::{ErrorClass, Failure, OrderId, Outcome, Progress};
use sms_outbox::outbox::{
    Claim, ClaimOrder, ContentKey, Evidence, Observer, Outbox, Record, Recorded,
};
use uuid::Uuid;

use crate::support::postgres::TestDatabase;
use crate::support::worker::{CLAIM, claim, count, execute, insert, insert_many, job};

async fn claim_one(outbox: &Outbox, worker: &str) -> Claim {
    let lease = Duration::from_secs(60);
    let order = ClaimOrder {
        lease,
        worker,
        ..CLAIM
    };
    let mut claims = claim(outbox, order, 1).await.expect("the database answers");
    assert_eq!(claims.len(), 1);
    claims.remove(0)
}

/// What became of a claim, in the eyes of the worker that made it.
fn record(claim: &Claim, worker: &str, outcome: Outcome, code: Option<i32>) -> Record {
    let progress = if code.is_some() {
        Progress::Answered
    } else {
        Progress::MaybeSent
    };
    Record {
        job: claim.id,
        token: claim.token,
        attempt: claim.attempt,
        worker: worker.into(),
        claimed: claim.asked,
        outcome,
        evidence: Some(Evidence {
            progress,
            http_status: code.map(|_| 200),
            code,
            duration: Duration::from_millis(7),
        }),
        rejected: Vec::new(),
        content: ContentKey::of("default", ["905320000001"], &claim.body),
        observer: Observer::Worker,
        cut: None,
    }
}

fn accepted(claim: &Claim, worker: &str, order: &str) -> Record {
    let order_id = OrderId::parse(order);
    assert!(order_id.is_some());
    record(
        claim,
        worker,
        Outcome::Sent {
            order_id,
            duplicate: false,
        },
        Some(200),
    )
}

/// A 200 for a claim that was lost long ago; each by a worker of its own, or the history would take them for one.
pub fn late_acceptance(job: Uuid, token: i32, order: &str) -> Record {
    Record {
        job,
        token: token - i32::from(order.ends_with('6')),
        attempt: 1,
        worker: "late".into(),
        claimed: sms_outbox::clock::Moment::now(),
        outcome: Outcome::Sent {
            order_id: OrderId::parse(order),
            duplicate: false,
        },
        evidence: Some(Evidence {
            progress: Progress::Answered,
            http_status: Some(200),
            code: Some(200),
            duration: Duration::from_millis(7),
        }),
        rejected: Vec::new(),
        content: ContentKey::of("default", ["905320000001"], "x"),
        observer: Observer::Worker,
        cut: None,
    }
}

fn repeated(claim: &Claim, worker: &str) -> Record {
    record(
        claim,
        worker,
        Outcome::Sent {
            order_id: None,
            duplicate: true,
        },
        Some(451),
    )
}

fn indeterminate(claim: &Claim, worker: &str) -> Record {
    let outcome = Outcome::Retry {
        delay: Duration::ZERO,
        failure: Failure::new(ErrorClass::Timeout, "no answer"),
    };
    record(claim, worker, outcome, None)
}

/// Two claims of one job: the second was made after the first one's lease had been lost.
async fn claimed_twice(outbox: &Outbox) -> (Claim, Claim) {
    insert(outbox.pool(), &[]).await;
    let first = claim_one(outbox, "first").await;
    execute(
        outbox.pool(),
        "UPDATE sms_outbox.jobs SET lease_until = now() - interval '1 s' WHERE status = 'sending'",
    )
    .await;
    let rescued = Record {
        observer: Observer::Rescue,
        cut: None,
        evidence: None,
        ..indeterminate(&first, "first")
    };
    let recorded = outbox
        .record(&[rescued])
        .await
        .expect("the database answers");
    assert!(matches!(recorded[0], Recorded::Settled { .. }));
    let second = claim_one(outbox, "second").await;
    assert_eq!(
        (second.id, second.token, second.attempt),
        (first.id, first.token + 1, 2)
    );
    (first, second)
}

async fn orders_on_record(outbox: &Outbox, id: Uuid) -> Vec<(i32, Option<i32>, Option<String>)> {
    let history = outbox.attempts(id).await.expect("the history");
    let mut seen: Vec<_> = history
        .into_iter()
        .filter(|a| a.observer == "worker")
        .map(|a| (a.token, a.provider_code, a.order_id))
        .collect();
    seen.sort();
    seen
}

#[tokio::test]
async fn two_acceptances_of_one_job_are_both_in_the_history_and_raise_the_alarm() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    // The first answer comes after the second one's, before it, and together with it, in either order.
    for order in 0..4 {
        let (first, second) = claimed_twice(&outbox).await;
        let (one, two) = (
            accepted(&first, "first", "111"),
            accepted(&second, "second", "222"),
        );
        let outcomes = match order {
            0 => [outbox.record(&[two]).await, outbox.record(&[one]).await]
                .map(|r| r.expect("recorded"))
                .concat(),
            1 => [outbox.record(&[one]).await, outbox.record(&[two]).await]
                .map(|r| r.expect("recorded"))
                .concat(),
            2 => outbox.record(&[one, two]).await.expect("recorded"),
            _ => outbox.record(&[two, one]).await.expect("recorded"),
        };
        let twice = outcomes
            .iter()
            .filter(|o| matches!(o, Recorded::AcceptedTwice { .. }))
            .count();
        assert_eq!(twice, 1, "{order}: {outcomes:?}");
        assert_eq!(job(database.pool(), first.id).await.status, "sent");
        assert_eq!(
            orders_on_record(&outbox, first.id).await,
            [
                (first.token, Some(200), Some("111".into())),
                (second.token, Some(200), Some("222".into()))
            ],
            "{order}"
        );
    }
}

#[tokio::test]
async fn a_repeats_451_beside_a_late_acceptance_is_no_second_acceptance() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    for order in 0..4 {
        let (first, second) = claimed_twice(&outbox).await;
        let (one, two) = (
            accepted(&first, "first", "111"),
            repeated(&second, "second"),
        );
        let outcomes = match order {
            0 => [outbox.record(&[two]).await, outbox.record(&[one]).await]
                .map(|r| r.expect("recorded"))
                .concat(),
            1 => [outbox.record(&[one]).await, outbox.record(&[two]).await]
                .map(|r| r.expect("recorded"))
                .concat(),
            2 => outbox.record(&[one, two]).await.expect("recorded"),
            _ => outbox.record(&[two, one]).await.expect("recorded"),
        };
        let twice = outcomes
            .iter()
            .filter(|o| matches!(o, Recorded::AcceptedTwice { .. }))
            .count();
        assert_eq!(twice, 0, "{order}: {outcomes:?}");
        let job = job(database.pool(), first.id).await;
        assert_eq!(job.status, "sent", "{order}");
        // The 451 said that the first one had arrived; its answer says under which order.
        assert_eq!(job.order_id.as_deref(), Some("111"), "{order}");
        let seen = orders_on_record(&outbox, first.id).await;
        assert_eq!(seen.len(), 2, "{order}: {seen:?}");
        assert_eq!(
            seen[0],
            (first.token, Some(200), Some("111".into())),
            "{order}"
        );
        assert_eq!((seen[1].0, seen[1].1), (second.token, Some(451)), "{order}");
    }
}

#[tokio::test]
async fn recording_the_same_end_of_a_claim_again_changes_nothing() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let failure = || Failure::with_code(ErrorClass::Content, 453, "too long");
    let ends: [fn(&Claim, Failure) -> Record; 8] = [
        |claim, _| accepted(claim, "w", "111"),
        |claim, _| repeated(claim, "w"),
        |claim, failure| record(claim, "w", Outcome::Failed(failure), Some(453)),
        |claim, _| indeterminate(claim, "w"),
        |claim, failure| record(claim, "w", Outcome::Uncertain(failure), None),
        |claim, _| Record {
            evidence: None,
            ..record(claim, "w", Outcome::Expired, None)
        },
        |claim, failure| {
            record(
                claim,
                "w",
                Outcome::Release {
                    failure: Some(failure),
                    delay: Duration::ZERO,
                },
                Some(401),
            )
        },
        |claim, _| Record {
            evidence: None,
            ..record(
                claim,
                "w",
                Outcome::Release {
                    failure: None,
                    delay: Duration::ZERO,
                },
                None,
            )
        },
    ];
    for (n, end) in ends.into_iter().enumerate() {
        execute(database.pool(), "DELETE FROM sms_outbox.jobs").await;
        insert(database.pool(), &[]).await;
        let claim = claim_one(&outbox, "w").await;
        let record = end(&claim, failure());
        let once = outbox
            .record(std::slice::from_ref(&record))
            .await
            .expect("recorded");
        assert!(matches!(once[0], Recorded::Settled { .. }), "{n}: {once:?}");
        let (before, history) = (
            job(database.pool(), claim.id).await,
            orders_on_record(&outbox, claim.id).await,
        );
        for _ in 0..2 {
            let again = outbox
                .record(std::slice::from_ref(&record))
                .await
                .expect("recorded");
            assert_eq!(again, [Recorded::Nothing], "{n}");
        }
        assert_eq!(
            format!("{:?}", job(database.pool(), claim.id).await),
            format!("{before:?}"),
            "{n}"
        );
        assert_eq!(orders_on_record(&outbox, claim.id).await, history, "{n}");
    }
}

#[tokio::test]
async fn a_job_that_is_claimed_is_claimed_by_nobody_else() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    insert_many(database.pool(), 500, &[]).await;
    let claimers = (0..8).map(|n| {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let worker = format!("w{n}");
                let order = ClaimOrder {
                    worker: &worker,
                    ..CLAIM
                };
                let claims = claim(&outbox, order, 7).await.expect("claims");
                if claims.is_empty() {
                    return mine;
                }
                assert!(claims.len() <= 7, "never more than there are permits");
                mine.extend(claims.into_iter().map(|claim| claim.id));
            }
        })
    });
    let mut all = Vec::new();
    for claimer in claimers.collect::<Vec<_>>() {
        all.extend(claimer.await.expect("no panic"));
    }
    all.sort();
    let claimed = all.len();
    all.dedup();
    assert_eq!((claimed, all.len()), (500, 500));
}

#[tokio::test]
async fn a_job_that_was_deleted_meanwhile_is_no_failure() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    insert(database.pool(), &[]).await;
    let claim = claim_one(&outbox, "w").await;
    execute(database.pool(), "DELETE FROM sms_outbox.jobs").await;
    for record in [
        accepted(&claim, "w", "111"),
        repeated(&claim, "w"),
        indeterminate(&claim, "w"),
    ] {
        assert_eq!(
            outbox.record(&[record]).await.expect("recorded"),
            [Recorded::Nothing]
        );
    }
}

#[tokio::test]
async fn a_late_acceptance_finds_its_way_into_every_status() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    let states = [
        (
            "queued",
            "status = 'queued', lease_until = NULL, ambiguous_since = now()",
        ),
        (
            "uncertain",
            "status = 'uncertain', lease_until = NULL, ambiguous_since = now()",
        ),
        (
            "failed",
            "status = 'failed', lease_until = NULL, finished_at = now(), error_class = 'timeout'",
        ),
        (
            "expired",
            "status = 'expired', lease_until = NULL, finished_at = now()",
        ),
        (
            "cancelled",
            "status = 'cancelled', lease_until = NULL, finished_at = now()",
        ),
        ("sending", "token = token + 1"),
    ];
    for (status, change) in states {
        insert(database.pool(), &[]).await;
        let claim = claim_one(&outbox, "w").await;
        execute(
            database.pool(),
            format!(
                "UPDATE sms_outbox.jobs SET {change} WHERE id = '{}'",
                claim.id
            ),
        )
        .await;
        let outcome = outbox
            .record(&[accepted(&claim, "w", "111")])
            .await
            .expect("recorded");
        assert_eq!(
            outcome,
            [Recorded::Late {
                was: status.parse().expect("a status")
            }]
        );
        let job = job(database.pool(), claim.id).await;
        assert_eq!(
            (job.status.as_str(), job.order_id.as_deref()),
            ("sent", Some("111")),
            "{status}"
        );
        assert_eq!(
            orders_on_record(&outbox, claim.id).await.len(),
            1,
            "{status}"
        );
    }
    // A person had said that it arrived, without knowing the order.
    insert(database.pool(), &[]).await;
    let claim = claim_one(&outbox, "w").await;
    let change = "status = 'sent', lease_until = NULL, ambiguous_since = now(), sent_at = now(), finished_at = now()";
    execute(
        database.pool(),
        format!(
            "UPDATE sms_outbox.jobs SET {change} WHERE id = '{}'",
            claim.id
        ),
    )
    .await;
    let outcome = outbox
        .record(&[accepted(&claim, "w", "111")])
        .await
        .expect("recorded");
    assert!(matches!(outcome[0], Recorded::Late { .. }), "{outcome:?}");
    assert_eq!(
        job(database.pool(), claim.id).await.order_id.as_deref(),
        Some("111")
    );
}

#[tokio::test]
async fn the_history_cannot_be_edited() {
    let database = TestDatabase::create().await;
    let outbox = Outbox::new(database.pool().clone());
    insert(database.pool(), &[]).await;
    let claim = claim_one(&outbox, "w").await;
    outbox
        .record(&[indeterminate(&claim, "w")])
        .await
        .expect("recorded");
    let edited = sqlx::query("UPDATE sms_outbox.attempt_log SET provider_code = 200")
        .execute(database.pool())
        .await;
    assert!(
        edited
            .expect_err("it is only appended to")
            .to_string()
            .contains("only appended to")
    );
    assert_eq!(
        count(database.pool(), "SELECT count(*) FROM sms_outbox.attempts").await,
        1
    );
}
