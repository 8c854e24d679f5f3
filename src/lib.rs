//! A transactional outbox for SMS on PostgreSQL, delivered through iletiMerkezi.
#![warn(missing_docs)]
