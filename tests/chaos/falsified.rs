//! The checker, checked on paper: each rule has to notice when the evidence of a run says otherwise.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::checker::{self, Findings};
use super::evidence::{Attempt, Evidence, Job, Move};
use super::plan::{MARK, Obstacle};
use super::support::worker::HASH;

type Falsification = (&'static str, &'static str, fn(&mut Evidence));

/// A job that was plainly sent, and that no other has the content of: a duplicate could stand in for it.
fn sent(evidence: &mut Evidence) -> &mut Job {
    let mut texts: HashMap<&str, usize> = HashMap::new();
    for message in &evidence.messages {
        *texts.entry(&message.text).or_default() += 1;
    }
    let unique: HashSet<Uuid> = evidence
        .messages
        .iter()
        .filter(|message| texts[message.text.as_str()] == 1)
        .map(|message| message.id)
        .collect();
    let plainly = |job: &&mut Job| {
        job.status == "sent"
            && !job.duplicate
            && job.expires_at.is_none()
            && job.order_id.is_some()
            && unique.contains(&job.id)
    };
    let found = evidence.jobs.iter_mut().find(plainly);
    found.expect("a run sends something")
}

const FALSIFICATIONS: [Falsification; 26] = [
    ("a job vanishes", checker::EXISTS, |evidence| {
        let id = sent(evidence).id;
        evidence.jobs.retain(|job| job.id != id);
    }),
    ("a job fails", checker::EXISTS, |evidence| {
        sent(evidence).status = "failed".to_owned()
    }),
    ("an order was never accepted", checker::EXISTS, |evidence| {
        let order = sent(evidence).order_id.clone();
        let lost = evidence
            .ledger
            .iter()
            .find(|known| Some(&known.order_id) == order.as_ref());
        let text = lost.expect("it is there").text.clone();
        evidence.ledger.retain(|known| known.text != text);
    }),
    (
        "a rolled-back message is asked for",
        checker::EXISTS,
        |evidence| {
            let text = evidence
                .messages
                .iter()
                .find(|message| message.rolled_back)
                .map(|message| message.text.clone());
            evidence.requests[0].text = text;
        },
    ),
    (
        "somebody else's message is asked for",
        checker::EXISTS,
        |evidence| {
            evidence.requests[0].text = Some("?".to_owned());
        },
    ),
    ("an order is accepted twice", checker::ONCE, |evidence| {
        let order = sent(evidence).order_id.clone();
        let again = evidence
            .ledger
            .iter()
            .find(|known| Some(&known.order_id) == order.as_ref())
            .cloned();
        let mut again = again.expect("it is there");
        again.order_id.push('0');
        for _ in 0..3 {
            evidence.ledger.push(again.clone());
        }
    }),
    (
        "an accepted job is expired",
        checker::ON_ITS_JOB,
        |evidence| {
            let job = sent(evidence);
            job.status = "expired".to_owned();
            job.order_id = None;
        },
    ),
    (
        "an acceptance is known and not believed",
        checker::ON_ITS_JOB,
        |evidence| {
            let job = sent(evidence);
            job.status = "expired".to_owned();
            let attempt = Attempt {
                job: job.id,
                token: 1,
                observer: "worker".to_owned(),
                order_id: job.order_id.take(),
            };
            evidence.attempts.push(attempt);
        },
    ),
    (
        "a job names another's order",
        checker::ON_ITS_JOB,
        |evidence| {
            sent(evidence).order_id = Some("1".to_owned());
        },
    ),
    ("the limit was lower", checker::LIMIT, |evidence| {
        evidence.settings.limit = 1
    }),
    ("a request has no claim", checker::MARKED, |evidence| {
        let id = sent(evidence).id;
        evidence.moves.retain(|one| one.job != id);
    }),
    (
        "a claim is younger than its request",
        checker::MARKED,
        |evidence| {
            let id = sent(evidence).id;
            for one in evidence.moves.iter_mut().filter(|one| one.job == id) {
                one.committed_at += 3_600_000_000;
            }
        },
    ),
    ("a job had expired", checker::IN_TIME, |evidence| {
        let first = evidence
            .requests
            .iter()
            .map(|request| request.arrived_at)
            .min();
        for job in &mut evidence.jobs {
            job.expires_at = first.map(|first| first - 1_000_000);
        }
    }),
    ("a number is logged", checker::SILENT, |evidence| {
        let number = evidence
            .messages
            .iter()
            .find_map(|message| message.numbers.first())
            .expect("one");
        let spelled = format!(
            "INFO sent to=0{} {} {}",
            &number[2..5],
            &number[5..8],
            &number[8..]
        );
        evidence.lines.push(spelled);
    }),
    ("a text or a hash is logged", checker::SILENT, |evidence| {
        evidence.lines.push(format!("DEBUG {MARK}"));
        evidence.lines.push(format!("DEBUG {HASH}"));
    }),
    ("a job is left over", checker::DRAINS, |evidence| {
        sent(evidence).status = "sending".to_owned()
    }),
    ("a lease had held on", checker::LEASES, |evidence| {
        for one in &mut evidence.moves {
            one.lease_until = one.lease_until.map(|until| until + 3_600_000_000);
        }
    }),
    ("a sent job is queued again", checker::FINAL, |evidence| {
        let job = sent(evidence).id;
        evidence.moves.push(Move {
            job,
            was: "sent".to_owned(),
            status: "queued".to_owned(),
            token: 1,
            lease_until: None,
            at: 0,
            committed_at: 0,
        });
    }),
    (
        "a young indeterminate job is given up",
        checker::UNREPEATABLE,
        |evidence| {
            let job = sent(evidence);
            job.status = "uncertain".to_owned();
            job.ambiguous_since = Some(0);
            let id = job.id;
            evidence.moves.push(Move {
                job: id,
                was: "sending".to_owned(),
                status: "uncertain".to_owned(),
                token: 1,
                lease_until: None,
                at: 1_000_000,
                committed_at: 1_000_000,
            });
        },
    ),
    ("an outage fails a job", checker::OUTAGE, |evidence| {
        let job = sent(evidence);
        job.status = "failed".to_owned();
        job.error_class = Some("unavailable".to_owned());
    }),
    ("a job waits for another's row", checker::ROWS, |evidence| {
        let id = sent(evidence).id;
        evidence.held_up.push(id);
    }),
    ("a refused row is not named", checker::ROWS, |evidence| {
        evidence.refused.clear()
    }),
    (
        "a firewall pauses instead of failing",
        checker::FIREWALL,
        |evidence| {
            let id = evidence
                .messages
                .iter()
                .find(|message| message.obstacle == Some(Obstacle::Firewall))
                .map(|message| message.id);
            for job in evidence.jobs.iter_mut().filter(|job| Some(job.id) == id) {
                job.status = "queued".to_owned();
            }
        },
    ),
    (
        "a number of a list is left out",
        checker::LISTS,
        |evidence| {
            let list = evidence
                .messages
                .iter()
                .find(|message| message.is_to_blocked())
                .expect("one is written when the faults are over")
                .text
                .clone();
            evidence.ledger.retain(|order| order.text != list);
        },
    ),
    ("a job waits for nothing", checker::EXPLAINED, |evidence| {
        let id = sent(evidence).id;
        evidence.unexplained.push(id);
    }),
    (
        "an outage makes everything indeterminate",
        checker::OUTAGE,
        |evidence| {
            let since = evidence.outages.first().map(|(from, _)| *from);
            for job in &mut evidence.jobs {
                job.ambiguous_since = since;
            }
        },
    ),
];

/// What was falsified and not noticed.
pub fn unnoticed(evidence: &Evidence) -> Vec<String> {
    let before = Findings::of(evidence).broken();
    let times = |broken: &[(&str, usize)], rule: &str| {
        broken
            .iter()
            .find(|(r, _)| *r == rule)
            .map_or(0, |(_, n)| *n)
    };
    FALSIFICATIONS
        .iter()
        .filter(|(_, rule, falsify)| {
            let mut falsified = evidence.clone();
            falsify(&mut falsified);
            let after = Findings::of(&falsified).broken();
            times(&after, rule) <= times(&before, rule)
        })
        .map(|(what, rule, _)| format!("{what}, and nobody says that {rule:?} does not hold"))
        .collect()
}
