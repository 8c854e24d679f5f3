//! A transactional outbox for SMS on PostgreSQL, delivered through iletiMerkezi.
//!
//! A message is a row in `sms_outbox.jobs` that is inserted in the transaction it is about: both happen, or neither. The
//! program `sms-outbox` sends it and writes down what became of it. This crate is that program, and the way in for
//! producers written in Rust.
//!
//! ```no_run
//! use sms_outbox::{Enqueued, Iys, NewMessage, Priority};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! // Any pool will do. This one is guarded against a fault of sqlx 0.9.0 that can lose writes.
//! let pool = sms_outbox::guard_against_lost_writes(sqlx::postgres::PgPoolOptions::new())
//!     .connect("postgres://localhost/app")
//!     .await?;
//!
//! // Numbers as people type them. What could never be sent is refused here, before anything is written.
//! let code = NewMessage::new("YOURBRAND", ["0532 123 45 67"], "Your code is 123456.", Iys::Transactional)?
//!     .with_priority(Priority::OTP)
//!     .with_expires_at(chrono::Utc::now() + chrono::TimeDelta::minutes(3))
//!     .with_idempotency_key("login-77-code-1")?;
//!
//! let mut transaction = pool.begin().await?;
//! sqlx::query("INSERT INTO logins (id) VALUES (77)").execute(&mut *transaction).await?;
//! let job = sms_outbox::enqueue_once(&mut *transaction, &code).await?;
//! transaction.commit().await?;
//!
//! match job {
//!     Enqueued::New(id) => println!("job {id}"),
//!     Enqueued::Existing(id) => println!("the key was taken by job {id}: nothing was written"),
//! }
//! # Ok(()) }
//! ```
//!
//! [`find_job`] and [`find_job_by_key`] say what became of it.
//!
//! # Modules
//!
//! For producers:
//! - [`message`]: what can be said, as types. Parsing is the only way in.
//! - [`outbox`]: everything that touches the database. [`enqueue`], [`enqueue_once`] and [`enqueue_bulk`] are here as well.
//! - [`lifecycle`]: what a job can be ([`Status`](lifecycle::Status)) and what can go wrong
//!   ([`ErrorClass`](lifecycle::ErrorClass)).
//!
//! For tests of any program that talks to the provider:
//! - [`sandbox`]: a stand-in for the provider on a local port, with faults on demand and a ledger.
//! - [`embedded`]: a private PostgreSQL server, found on this machine or fetched.
//!
//! The worker, from the top down: [`cli`], [`config`], [`daemon`], [`dispatch`], [`provider`],
//! [`reconciliation`], [`backoff`]; [`monitoring`], [`metrics`]; and [`demo`] and [`bench`](mod@bench).
//! `ARCHITECTURE.md` in the repository says how they hold together and what must stay true.

pub mod backoff;
pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod dispatch;
pub mod embedded;
#[cfg(not(failpoints))]
mod failpoints;
#[cfg(failpoints)]
pub mod failpoints;
pub mod job;
pub mod lifecycle;
pub mod message;
pub mod metrics;
pub mod monitoring;
pub mod outbox;
mod producer;
pub mod provider;
pub mod reconciliation;
pub mod sandbox;

pub use job::{ErrorClass, Job, OrderId, Status, UnknownValue};
pub use message::{
    Bulk, Iys, IysList, MessageError, NewMessage, Priority, Recipient, RecipientError,
};
pub use producer::{
    EnqueueError, Enqueued, FindError, enqueue, enqueue_bulk, enqueue_once, find_job,
    find_job_by_key, guard_against_lost_writes,
};

/// The Rust in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
