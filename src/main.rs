//! The program `sms-outbox`.

fn main() {}
