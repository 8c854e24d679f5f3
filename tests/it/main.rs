//! What the program promises, checked against a real PostgreSQL.

mod answers;
mod doubts;
mod expiry;
mod limits;
mod logs;
mod pauses;
mod architecture;
mod configuration;
mod documentation;
mod private_postgres;
mod producers;
mod recording;
mod retries;
mod stopping;
mod support;
mod test_database;
