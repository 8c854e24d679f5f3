//! A transactional outbox for SMS on PostgreSQL, delivered through iletiMerkezi.

pub mod backoff;
pub mod lifecycle;
pub mod message;
