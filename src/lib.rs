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
//! # What stays
//!
//! The names below. Everything else that can be reached from outside belongs to the program, changes with any version, and is
//! not on these pages.
//!
//! For producers, with `default-features = false`: no worker, no HTTP, no TLS. The runtime is your own sqlx's, and tokio.
//!
//! - [`NewMessage`], [`Bulk`], [`Iys`], [`IysList`], [`Priority`], [`Recipient`], [`MessageError`], [`RecipientError`], and
//!   what they are made of in [`message`]: what can be said, as types. Parsing is the only way in.
//! - [`enqueue`], [`enqueue_once`], [`enqueue_bulk`], [`Enqueued`], [`EnqueueError`].
//! - [`find_job`], [`find_job_by_key`], [`Job`], [`Status`], [`DeliveryStatus`], [`ErrorClass`], [`OrderId`], [`UnknownValue`],
//!   [`FindError`].
//! - [`guard_against_lost_writes`]: for your own pool, whichever way you insert.
//!
//! For tests of any program that talks to the provider:
//!
//! - [`sandbox`], with the feature `sandbox`: a stand-in for the provider on a local port, with faults on demand and a ledger.
//! - [`embedded`], with the feature `private-postgres`: a PostgreSQL server for as long as it is needed, from programs found
//!   on this machine or, with the feature `postgres-download`, fetched.
//!
//! The features `worker`, `cli`, `demo` and `bench` are the program. `ARCHITECTURE.md` in the repository says how its modules
//! hold together and what must stay true.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod job;
pub mod message;
mod producer;

#[cfg(feature = "private-postgres")]
pub mod embedded;
#[cfg(feature = "sandbox")]
pub mod sandbox;

#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod backoff;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "worker")]
mod bounded;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod clock;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod daemon;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod delivery;
#[cfg(feature = "demo")]
#[doc(hidden)]
pub mod demo;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod dispatch;
#[cfg(all(feature = "worker", not(failpoints)))]
mod failpoints;
#[cfg(all(feature = "worker", failpoints))]
#[doc(hidden)]
pub mod failpoints;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod lifecycle;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod metrics;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod monitoring;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod outbox;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod provider;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod receiver;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod reconciliation;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod splitting;

pub use job::{DeliveryStatus, ErrorClass, Job, OrderId, Status, UnknownValue};
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
