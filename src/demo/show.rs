//! What the demo prints.

use std::time::Instant;

use comfy_table::{Cell, ContentArrangement, Table, presets};

use super::scenes::{Check, News, Role};

pub(super) fn headline(text: &str) {
    println!("\n{text}\n");
}

pub(super) fn part(name: &str, text: &str, started: Instant) {
    println!(
        "  {:>5.1} s  {name:<9} {text}",
        started.elapsed().as_secs_f64()
    );
}

pub(super) fn news(news: &News, started: Instant) {
    println!(
        "  {:>5.1} s  {:<47} {}",
        started.elapsed().as_secs_f64(),
        news.title,
        news.what
    );
}

pub(super) fn table(cast: &[Role], checks: &[Check]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        table.set_width(120);
    }
    table.set_header(["", "message", "meant to be", "its way", "attempts"]);
    for (role, check) in cast.iter().zip(checks) {
        let attempts = role
            .row
            .as_ref()
            .map_or_else(String::new, |row| row.attempt.to_string());
        table.add_row([
            Cell::new(if check.well { "✓" } else { "✗" }),
            Cell::new(role.title),
            Cell::new(check.meaning),
            Cell::new(role.way()),
            Cell::new(attempts),
        ]);
    }
    println!("{table}");
}

pub(super) fn questions() {
    println!(
        "\nThe questions behind this table, in SQL:\n
  SELECT status, order_id, error_class, delivery, delivered_at, price FROM sms_outbox.messages ORDER BY created_at;
  SELECT * FROM sms_outbox.attempts ORDER BY started_at;
  SELECT * FROM sms_outbox.queue_stats;"
    );
}

pub(super) fn where_to_look(url: &str, base_url: &str) {
    println!(
        "\nLook for yourself:\n
  psql '{url}'
  curl {base_url}/_sandbox/ledger      what the provider took, under its own order numbers"
    );
}

pub(super) fn waiting() {
    println!(
        "\nThe worker goes on. Send something yourself:\n
  INSERT INTO sms_outbox.jobs (sender, recipients, body, iys)
  VALUES ('YOURBRAND', '{{0532 123 45 67}}', 'Hello from psql.', false);\n
Ctrl-C ends it all and leaves nothing behind."
    );
}

pub(super) fn verdict(well: bool, started: Instant) {
    let took = started.elapsed().as_secs_f64();
    if well {
        println!("\nEvery message came to its intended end, in {took:.1} s.");
    } else {
        println!("\nSomething ended otherwise than intended (✗), after {took:.1} s.");
    }
}
