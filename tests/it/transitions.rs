//! The table of transitions in `ARCHITECTURE.md` says what the statements do, and nothing else: it is compared with what their
//! SQL sets `jobs.status` to, and from which status its conditions take a job.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use sms_outbox::outbox::{CLAIM_BULK, CLAIM_SINGLES};

const STATUSES: [&str; 8] = [
    "queued",
    "sending",
    "sent",
    "split",
    "failed",
    "uncertain",
    "expired",
    "cancelled",
];
/// Where a job comes from that was not there before.
const INSERT: &str = "insert";

/// From, to, and the file of the statement, as the table names it.
type Transitions = BTreeSet<(String, String, String)>;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every statement by its file. The parts that claims are put together from are no statements.
fn statements() -> Vec<(String, String)> {
    let mut all = vec![
        ("claim/singles.sql".to_owned(), CLAIM_SINGLES.to_owned()),
        ("claim/bulk.sql".to_owned(), CLAIM_BULK.to_owned()),
    ];
    for folder in ["src/outbox", "src/producer"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in fs::read_dir(directory).expect("the source") {
            let name = entry.expect("an entry").file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".sql") {
                all.push((name.to_string(), read(&format!("{folder}/{name}"))));
            }
        }
    }
    all
}

fn without_comments(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(|line| line.split("--").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// The words at the top level of `text`, with where they begin; ends where a parenthesis closes that was opened before it.
fn top_level_words(text: &str) -> (Vec<(usize, &str)>, usize) {
    let (mut words, mut depth, mut quoted, mut began) = (Vec::new(), 0_usize, false, None);
    for (at, c) in text.char_indices() {
        let in_word = !quoted && depth == 0 && (c.is_ascii_alphanumeric() || c == '_');
        match (in_word, began) {
            (true, None) => began = Some(at),
            (false, Some(from)) => {
                words.push((from, &text[from..at]));
                began = None;
            }
            _ => {}
        }
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => return (words, at),
            ')' if !quoted => depth -= 1,
            _ => {}
        }
    }
    if let Some(from) = began {
        words.push((from, &text[from..]));
    }
    (words, text.len())
}

/// What an `UPDATE` sets, and what it says about the rows that it takes (`FROM` and `WHERE`).
fn parts_of_update(update: &str) -> (&str, &str) {
    let (words, end) = top_level_words(update);
    let place = |keyword: &str| {
        words
            .iter()
            .find(|(_, word)| *word == keyword)
            .map(|(at, _)| *at)
    };
    let set = place("SET").expect("an UPDATE sets something");
    let returning = place("RETURNING").unwrap_or(end);
    let condition = place("FROM")
        .or_else(|| place("WHERE"))
        .expect("an UPDATE has a condition");
    (
        &update[set + "SET".len()..condition],
        &update[condition..returning],
    )
}

/// The value that `status` is set to, if it is.
fn new_status(set: &str) -> Option<&str> {
    let mut rest = set;
    loop {
        let rest_of_it = rest.trim_start();
        if let Some(value) = rest_of_it.strip_prefix("status =") {
            return Some(&value[..end_of_assignment(value)]);
        }
        let end = end_of_assignment(rest);
        rest = rest.get(end + 1..)?;
    }
}

/// Where the comma is behind an assignment.
fn end_of_assignment(text: &str) -> usize {
    let (mut depth, mut quoted) = (0_usize, false);
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn statuses_in(words: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let is_status = |word: &String| STATUSES.contains(&word.as_str());
    words.into_iter().filter(is_status).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .map(str::to_owned)
}

/// What the value can be: a literal, one of several, a parameter that the file's head describes, or what a record says.
fn targets(value: &str, sql: &str) -> BTreeSet<String> {
    let value = value.trim();
    if value == "answer.status" {
        // The one place where a status is chosen outside SQL.
        let source = read("src/outbox/record.rs");
        let chosen = source.split("Status::").skip(1);
        return statuses_in(
            chosen.filter_map(|after| words(after).next().map(|word| word.to_lowercase())),
        );
    }
    if value.starts_with('$') {
        let described = sql
            .lines()
            .filter(|line| line.starts_with("--"))
            .find_map(|line| line.split_once(&format!("{value} ")))
            .unwrap_or_else(|| panic!("{value} is not described: {sql}"));
        return statuses_in(words(described.1.split('$').next().unwrap_or_default()));
    }
    statuses_in(words(value))
}

/// From which statuses a condition takes a job: what it says itself, or else what it is joined to.
fn sources(condition: &str, tables: &BTreeMap<&str, &str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if condition.contains("job.lease_until IS NOT NULL") {
        // Nothing else has one; record_sent.sql says why it asks like this.
        found.insert("sending".to_owned());
    }
    for (at, _) in condition.match_indices("status ") {
        let (before, after) = (&condition[..at], &condition[at + "status ".len()..]);
        let its_own = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "._".contains(c));
        if !its_own && !before.ends_with("job.") {
            continue;
        }
        let literal = |after: &str| after.split('\'').nth(1).unwrap_or_default().to_owned();
        if after.starts_with("= '") {
            found.insert(literal(after));
        } else if after.starts_with("<> '") {
            let other = literal(after);
            found.extend(
                statuses_in(STATUSES.map(str::to_owned))
                    .into_iter()
                    .filter(|status| *status != other),
            );
        }
    }
    if found.is_empty() {
        for name in words(condition) {
            if let Some(table) = tables.get(name.as_str()) {
                // A recursive one names itself.
                let mut others = tables.clone();
                others.remove(name.as_str());
                found.extend(sources(table, &others));
            }
        }
    }
    found
}

/// The bodies of the tables that `WITH` makes.
fn tables(sql: &str) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    for marker in [" AS MATERIALIZED (", " AS ("] {
        for (at, _) in sql.match_indices(marker) {
            let name = sql[..at]
                .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .next();
            let body = &sql[at + marker.len()..];
            let (_, end) = top_level_words(body);
            if let Some(name) = name {
                found.insert(name, &body[..end]);
            }
        }
    }
    found
}

fn transitions_in_sql() -> Transitions {
    let mut found = Transitions::new();
    for (file, text) in statements() {
        let sql = without_comments(&text);
        if sql.contains("INSERT INTO sms_outbox.jobs") || sql.contains("sms_outbox.enqueue_bulk(") {
            found.insert((INSERT.to_owned(), "queued".to_owned(), file.clone()));
        }
        let tables = tables(&sql);
        for (at, _) in sql.match_indices("UPDATE sms_outbox.jobs") {
            let (set, condition) = parts_of_update(&sql[at..]);
            let Some(value) = new_status(set) else {
                continue;
            };
            let (from, to) = (sources(condition, &tables), targets(value, &text));
            assert!(!from.is_empty(), "{file}: from which status? {condition}");
            assert!(!to.is_empty(), "{file}: to which status? {value}");
            for from in &from {
                for to in to.iter().filter(|to| *to != from) {
                    found.insert((from.clone(), to.clone(), file.clone()));
                }
            }
        }
    }
    found
}

/// The rows of the table: each names one status or more on either side, and one statement or more.
fn transitions_in_the_table() -> Transitions {
    let page = read("ARCHITECTURE.md");
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("Every transition\n"))
        .expect("ARCHITECTURE.md has a section Every transition");
    let in_code = |cell: &str| -> Vec<String> {
        let code = cell.split('`').skip(1).step_by(2);
        code.map(str::to_owned).collect()
    };
    let mut found = Transitions::new();
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        if cells[0].trim() == "from" {
            continue;
        }
        let from = match cells[0].trim() {
            "none" => vec![INSERT.to_owned()],
            cell => in_code(cell),
        };
        for from in from {
            for to in in_code(cells[1]) {
                for file in in_code(cells[2]) {
                    let row = (from.clone(), to.clone(), file);
                    assert!(found.insert(row.clone()), "twice in the table: {row:?}");
                }
            }
        }
    }
    found
}

#[test]
fn the_table_of_transitions_is_what_the_statements_do() {
    let (sql, table) = (transitions_in_sql(), transitions_in_the_table());
    let missing: Vec<_> = sql.difference(&table).collect();
    let invented: Vec<_> = table.difference(&sql).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not in the table: {missing:#?}\nin no statement: {invented:#?}"
    );
    assert!(sql.len() > 20, "only {} were found", sql.len());
}

#[test]
fn a_job_begins_as_queued() {
    let schema = read("migrations/0001_outbox.sql");
    let column = schema
        .lines()
        .find(|line| line.trim_start().starts_with("status  "))
        .expect("the column");
    assert!(column.contains("DEFAULT 'queued'"), "{column}");
    for (file, sql) in statements() {
        if let Some((_, insert)) = sql.split_once("INSERT INTO sms_outbox.jobs") {
            let columns = insert.split(')').next().unwrap_or_default();
            assert!(!words(columns).any(|word| word == "status"), "{file}");
        }
    }
}
