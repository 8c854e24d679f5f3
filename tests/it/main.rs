//! What the program promises, checked against a real PostgreSQL.

mod adversity;
mod answers;
mod architecture;
mod cli;
mod configuration;
mod crashes;
mod documentation;
mod doubts;
mod expiry;
mod limits;
mod logs;
mod metrics;
mod migrations;
mod parking;
mod pauses;
mod pgbouncer;
mod private_postgres;
mod producers;
mod reconciliation;
mod recording;
mod restores;
mod retries;
mod statements;
mod stopping;
mod support;
mod test_database;
