//! What the tests stand on.

pub mod clock;
pub mod faults;
pub mod pgbouncer;
pub mod postgres;
pub mod program;
pub mod provider;
pub mod proxy;
pub mod roles;
pub mod worker;
