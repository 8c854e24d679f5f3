//! The messages of the demo: how each is written, what is to happen to it, and whether it did.

use chrono::{TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::DemoError;
use crate::{
    delivery::DeliveryStatus,
    lifecycle::Status,
    message::{Bulk, Iys, IysList, NewMessage, Priority},
    outbox::{Filter, JobRow, Outbox},
    producer::{enqueue, enqueue_bulk, enqueue_once},
    sandbox::{Fault, FaultKind, LedgerEntry, SandboxConfig, SandboxHandle},
};

/// A sender that the provider approves only while the demo runs.
const NEW_SENDER: &str = "NEWBRAND";
const ROLLED_BACK: &str = "Order 1002 is on its way.";
const BULK_NUMBERS: usize = 60_000;

/// What makes a step of a message's way: status, attempt, class of failure, delivery.
type Seen = (String, i16, Option<String>, Option<String>);

/// One message and its way so far.
pub(super) struct Role {
    pub(super) title: &'static str,
    job: Option<Uuid>,
    ends: Ends,
    way: Vec<String>,
    seen: Option<Seen>,
    pub(super) row: Option<JobRow>,
}

/// How a message is meant to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Sent, with an order of its own.
    Sent,
    /// Sent; one number was left out.
    SentToTheRest,
    /// Sent, as a duplicate of its original.
    SentAsDuplicate,
    /// Sent, and only the provider's duplicate guard could say so.
    SentAndProved,
    /// Failed: no number could be read.
    FailedForNumbers,
    /// Never sent, because it was worthless by then.
    Expired,
    /// Rolled back: neither in the table nor at the provider.
    Nothing,
}

/// Something happened.
pub(super) struct News {
    pub(super) title: &'static str,
    pub(super) what: String,
}

/// Whether a message came to its intended end.
pub(super) struct Check {
    pub(super) well: bool,
    pub(super) meaning: &'static str,
}

impl Role {
    pub(super) fn way(&self) -> String {
        self.way.join(" → ")
    }

    /// Nothing more will happen to it.
    pub(super) fn is_over(&self) -> bool {
        let status = self
            .row
            .as_ref()
            .and_then(|row| row.status.parse::<Status>().ok());
        self.job.is_none()
            || status.is_some_and(|status| status.is_final() || status == Status::Uncertain)
    }

    /// Whether the provider's reports have yet to say what became of it on the phone.
    pub(super) fn is_on_its_way_to_the_phone(&self) -> bool {
        self.row.as_ref().is_some_and(|row| {
            let delivery = row.delivery.as_deref().and_then(|text| text.parse().ok());
            row.order_id.is_some() && !delivery.is_some_and(DeliveryStatus::is_final)
        })
    }
}

/// The provider, with a fault for each message that is to meet one.
pub(super) fn sandbox() -> SandboxConfig {
    let mut config = SandboxConfig::default();
    config.rules.senders = ["YOURBRAND".to_owned()].into();
    config.faults = vec![
        Fault::next(
            2,
            FaultKind::Answer {
                code: 503,
                http: None,
            },
        )
        .on_text("invoice"),
        Fault::next(1, FaultKind::AcceptDrop).on_text("parcel"),
    ];
    config
}

/// Plays the application: writes every message.
pub(super) async fn write(pool: &PgPool) -> Result<Vec<Role>, DemoError> {
    let mut cast = Vec::new();
    let mut role = |title, job, ends| {
        cast.push(Role {
            title,
            job,
            ends,
            way: Vec::new(),
            seen: None,
            row: None,
        });
    };

    let mut transaction = pool.begin().await?;
    place_order(&mut transaction, 1001).await?;
    let job = notify(
        &mut transaction,
        "0532 000 00 01",
        "Order 1001 is on its way.",
    )
    .await?;
    transaction.commit().await?;
    role(
        "an order and its message, in one transaction",
        Some(job),
        Ends::Sent,
    );

    let mut transaction = pool.begin().await?;
    place_order(&mut transaction, 1002).await?;
    notify(&mut transaction, "0532 000 00 02", ROLLED_BACK).await?;
    transaction.rollback().await?;
    role("the same, rolled back", None, Ends::Nothing);

    let code = NewMessage::new(
        "YOURBRAND",
        ["+90 532 000 00 03"],
        "Your code is 428113.",
        Iys::Transactional,
    )?
    .with_priority(Priority::OTP)
    .with_expires_at(Utc::now() + TimeDelta::minutes(3));
    role(
        "a one-time password, good for three minutes",
        Some(enqueue(pool, &code).await?),
        Ends::Sent,
    );

    let late = NewMessage::new(
        "YOURBRAND",
        ["5320000004"],
        "Your code is 200945.",
        Iys::Transactional,
    )?
    .with_priority(Priority::OTP)
    .with_due_at(Utc::now() + TimeDelta::seconds(2))
    .with_expires_at(Utc::now() + TimeDelta::seconds(1));
    role(
        "a one-time password that comes too late",
        Some(enqueue(pool, &late).await?),
        Ends::Expired,
    );

    let twice = "Your table is booked for 20:00.";
    let first = NewMessage::new("YOURBRAND", ["0532 000 00 05"], twice, Iys::Transactional)?;
    let again = NewMessage::new("YOURBRAND", ["+905320000005"], twice, Iys::Transactional)?
        .with_due_at(Utc::now() + TimeDelta::milliseconds(500));
    role("a message", Some(enqueue(pool, &first).await?), Ends::Sent);
    role(
        "the same message once more, half a second later",
        Some(enqueue(pool, &again).await?),
        Ends::SentAsDuplicate,
    );

    let keyed = NewMessage::new(
        "YOURBRAND",
        ["0532 000 00 06"],
        "Thank you for paying.",
        Iys::Transactional,
    )?
    .with_idempotency_key("payment-77")?;
    let made = enqueue_once(pool, &keyed).await?.id();
    enqueue_once(pool, &keyed).await?;
    role("one key, inserted twice", Some(made), Ends::Sent);

    let refused = NewMessage::new(
        "YOURBRAND",
        ["0532 000 00 07"],
        "Your invoice is ready.",
        Iys::Transactional,
    )?;
    role(
        "the provider is unavailable, twice",
        Some(enqueue(pool, &refused).await?),
        Ends::Sent,
    );

    let lost = NewMessage::new(
        "YOURBRAND",
        ["0532 000 00 08"],
        "Your parcel has arrived.",
        Iys::Transactional,
    )?;
    role(
        "accepted, but the answer is lost",
        Some(enqueue(pool, &lost).await?),
        Ends::SentAndProved,
    );

    let some = notify_many(
        pool,
        &["0532 000 00 09", "ask reception"],
        "Doors open at nine.",
    )
    .await?;
    role(
        "two numbers, one of them unreadable",
        Some(some),
        Ends::SentToTheRest,
    );
    let none = notify_many(pool, &["0532 00"], "Nobody can read this number.").await?;
    role(
        "a number that nobody can read",
        Some(none),
        Ends::FailedForNumbers,
    );

    let scheduled = NewMessage::new(
        "YOURBRAND",
        ["0532 000 00 10"],
        "See you tomorrow.",
        Iys::Transactional,
    )?
    .with_due_at(Utc::now() + TimeDelta::seconds(4));
    role(
        "scheduled for four seconds later",
        Some(enqueue(pool, &scheduled).await?),
        Ends::Sent,
    );

    let unapproved = NewMessage::new(
        NEW_SENDER,
        ["0532 000 00 11"],
        "We have a new name.",
        Iys::Transactional,
    )?;
    role(
        "its sender is not approved yet",
        Some(enqueue(pool, &unapproved).await?),
        Ends::Sent,
    );

    let everyone = (0..BULK_NUMBERS).map(|n| format!("0533{n:07}"));
    let campaign = Iys::Commercial(IysList::Individual);
    let bulk = Bulk::new(
        "YOURBRAND",
        everyone,
        "Our summer sale begins today.",
        campaign,
    )?
    .map(|message| message.with_priority(Priority::CAMPAIGN));
    let titles = [
        "a campaign for 60,000 numbers, first part",
        "its second part",
    ];
    for (title, job) in titles.into_iter().zip(enqueue_bulk(pool, &bulk).await?) {
        role(title, Some(job), Ends::Sent);
    }
    Ok(cast)
}

async fn place_order(connection: &mut sqlx::PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("place_order.sql"))
        .bind(id)
        .bind("Ayşe")
        .execute(connection)
        .await
        .map(drop)
}

async fn notify(
    connection: &mut sqlx::PgConnection,
    number: &str,
    text: &str,
) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(include_str!("notify.sql"))
        .bind(number)
        .bind(text)
        .fetch_one(connection)
        .await
}

async fn notify_many(pool: &PgPool, numbers: &[&str], text: &str) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(include_str!("notify_many.sql"))
        .bind(numbers)
        .bind(text)
        .fetch_one(pool)
        .await
}

/// Looks at every message once more, and tells what is new.
pub(super) async fn look(outbox: &Outbox, cast: &mut [Role]) -> Result<Vec<News>, DemoError> {
    let ids: Vec<Uuid> = cast.iter().filter_map(|role| role.job).collect();
    let filter = Filter {
        at_most: i64::try_from(ids.len()).unwrap_or(i64::MAX),
        ids: Some(ids),
        ..Filter::default()
    };
    let rows = outbox.list(&filter).await?;
    let mut news = Vec::new();
    for role in cast {
        let Some(row) = rows.iter().find(|row| Some(row.id) == role.job) else {
            continue;
        };
        let now = (
            row.status.clone(),
            row.attempt,
            row.error_class.clone(),
            row.delivery.clone(),
        );
        if role.seen.as_ref() != Some(&now) {
            role.way.push(step(row));
            news.push(News {
                title: role.title,
                what: step(row),
            });
            role.seen = Some(now);
        }
        role.row = Some(row.clone());
    }
    Ok(news)
}

/// One step of a message's way, in a few words.
fn step(row: &JobRow) -> String {
    let failure = || {
        let code = row
            .error_code
            .map(|code| format!(" {code}"))
            .unwrap_or_default();
        row.error_class
            .as_ref()
            .map(|class| format!(" ({class}{code})"))
            .unwrap_or_default()
    };
    if let Some(delivery) = &row.delivery {
        return match row.delivery_total {
            Some(total) if total > 1 => {
                let delivered = row.delivered.unwrap_or(0);
                format!("{delivery}: {delivered} of {total} phones have it")
            }
            _ => delivery.clone(),
        };
    }
    match (
        row.status.as_str(),
        row.duplicate_of.is_some(),
        row.duplicate,
    ) {
        ("sent", true, _) => format!(
            "sent as a duplicate, order {}",
            row.order_id.as_deref().unwrap_or("unknown")
        ),
        ("sent", false, true) => "sent: the repeat met the duplicate guard (451)".to_owned(),
        ("sent", ..) => format!(
            "sent, order {}",
            row.order_id.as_deref().unwrap_or("unknown")
        ),
        ("queued", ..) if row.error_class.is_some() => format!("queued again{}", failure()),
        ("failed", ..) => format!("failed{}", failure()),
        (status, ..) => status.to_owned(),
    }
}

/// The provider approves the new sender once it has refused it: the pause then ends by itself.
pub(super) fn prompt(cast: &[Role], provider: &SandboxHandle) {
    let refused = cast
        .iter()
        .filter_map(|role| role.row.as_ref())
        .any(|row| row.sender == NEW_SENDER && row.error_class.as_deref() == Some("sender"));
    if refused {
        provider.approve_sender(NEW_SENDER);
    }
}

/// Compares every end with the intended one.
pub(super) fn check(cast: &[Role], ledger: &[LedgerEntry]) -> Vec<Check> {
    cast.iter().map(|role| check_one(role, ledger)).collect()
}

fn check_one(role: &Role, ledger: &[LedgerEntry]) -> Check {
    let row = role.row.as_ref();
    let is = |status: &str| row.is_some_and(|row| row.status == status);
    let has_order = row.is_some_and(|row| row.order_id.is_some());
    let duplicate = row.is_some_and(|row| row.duplicate);
    let has_original = row.is_some_and(|row| row.duplicate_of.is_some());
    let rejected = row
        .and_then(|row| row.rejected_recipients.as_ref())
        .map_or(0, Vec::len);
    // However often it was asked, the provider took it so often.
    let accepted = row.map_or(0, |row| {
        ledger
            .iter()
            .filter(|entry| entry.text == row.body && entry.sender == row.sender)
            .count()
    });
    let (well, meaning) = match role.ends {
        Ends::Sent => (
            is("sent") && has_order && !duplicate && accepted >= 1,
            "sent",
        ),
        Ends::SentToTheRest => (
            is("sent") && rejected == 1,
            "sent; the unreadable number is listed",
        ),
        Ends::SentAsDuplicate => (
            is("sent") && duplicate && has_original && has_order && accepted == 1,
            "sent once, as a duplicate",
        ),
        Ends::SentAndProved => (
            is("sent") && duplicate && !has_original && accepted == 1,
            "sent once, as 451 proves",
        ),
        Ends::FailedForNumbers => {
            let recipients =
                row.is_some_and(|row| row.error_class.as_deref() == Some("recipients"));
            (
                is("failed") && recipients && accepted == 0,
                "failed before any request",
            )
        }
        Ends::Expired => (is("expired") && accepted == 0, "expired, never sent"),
        Ends::Nothing => (
            !ledger.iter().any(|entry| entry.text == ROLLED_BACK),
            "never existed, never sent",
        ),
    };
    Check { well, meaning }
}
