//! What the tests stand on.

pub mod pgbouncer;
pub mod postgres;
pub mod provider;
pub mod worker;
