//! What the program promises, checked against a real PostgreSQL.

mod architecture;
mod configuration;
mod documentation;
mod private_postgres;
mod support;
mod test_database;
