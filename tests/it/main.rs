//! What the program promises, checked against a real PostgreSQL.

mod answers;
mod doubts;
mod limits;
mod pauses;
mod private_postgres;
mod recording;
mod retries;
mod support;
mod test_database;
