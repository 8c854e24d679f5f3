//! A transactional outbox for SMS on PostgreSQL, delivered through iletiMerkezi.

pub mod backoff;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod dispatch;
pub mod embedded;
pub mod lifecycle;
pub mod message;
pub mod outbox;
pub mod provider;
pub mod sandbox;

pub use message::{
    Bulk, Iys, IysList, MessageError, NewMessage, Priority, Recipient, RecipientError,
};
pub use outbox::{
    EnqueueError, Enqueued, enqueue, enqueue_bulk, enqueue_once, guard_against_lost_writes,
};
