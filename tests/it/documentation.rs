//! What the pages print is true: every statement runs on the schema as it is, every command line is one that the program
//! takes, every link leads somewhere, every log line is one that a worker writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sms_outbox::outbox::RoleKind;
use sqlx::{AssertSqlSafe, Executor, PgConnection, raw_sql};

use crate::support::postgres::TestDatabase;
use crate::support::roles;

const PAGES: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/producers.md",
    "docs/sandbox.md",
    "docs/scaling.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// A fenced block, and the line that it begins in.
struct Block {
    page: &'static str,
    line: usize,
    text: String,
}

fn blocks(page: &'static str, language: &str) -> Vec<Block> {
    let text = read(page);
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let inside: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.trim_start().starts_with("```"))
            .collect();
        if info == language {
            found.push(Block {
                page,
                line: number + 1,
                text: inside.join("\n"),
            });
        }
    }
    found
}

/// Without the lines that begin or end a transaction: the tests have one of their own, and take it back.
fn statements(block: &Block) -> String {
    let inside = |line: &&str| {
        !["BEGIN;", "COMMIT;", "ROLLBACK;"]
            .iter()
            .any(|word| line.starts_with(word))
    };
    block
        .text
        .lines()
        .filter(inside)
        .collect::<Vec<_>>()
        .join("\n")
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

const APPLICATION: &str =
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer text); GRANT INSERT ON orders TO PUBLIC";

/// Who runs a statement: whom its page is about, unless its first line says otherwise. `None`: the owner.
fn whose(block: &Block) -> Option<RoleKind> {
    let first = block.text.lines().next().unwrap_or_default().trim_start();
    let said = |who: &str| first.starts_with(&format!("-- As {who}"));
    if said("the owner") {
        return None;
    }
    RoleKind::ALL
        .into_iter()
        .find(|kind| said(kind.with_article()))
        .or(match block.page {
            "README.md" | "docs/producers.md" => Some(RoleKind::Producer),
            "docs/operations.md" => Some(RoleKind::Operator),
            // What is asked of servers, and what is made beside the schema.
            _ => None,
        })
}

#[tokio::test]
async fn every_statement_in_the_pages_runs_as_the_role_that_it_is_for() {
    let database = TestDatabase::create().await;
    let mut ran = 0;
    for block in PAGES.into_iter().flat_map(|page| blocks(page, "sql")) {
        let mut transaction = database.pool().begin().await.expect("a fresh database");
        transaction
            .execute(APPLICATION)
            .await
            .expect("an empty schema public");
        if let Some(kind) = whose(&block).filter(|_| database.is_granted()) {
            let role = format!("SET LOCAL ROLE {}", roles::of(kind));
            run(&mut transaction, role).await.expect("a role of ours");
        }
        if let Err(error) = run(&mut transaction, statements(&block)).await {
            panic!("{}, line {}: {error}", block.page, block.line);
        }
        transaction.rollback().await.expect("an open transaction");
        ran += 1;
    }
    assert!(ran > 20, "only {ran} blocks were found");
}

#[tokio::test]
async fn every_constraint_that_the_pages_name_exists() {
    let database = TestDatabase::create().await;
    let known: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint
         WHERE conrelid = 'sms_outbox.jobs'::regclass OR contypid IN (
             SELECT oid FROM pg_type WHERE typnamespace = 'sms_outbox'::regnamespace AND typtype = 'd')
         UNION ALL
         -- What triggers raise.
         SELECT (regexp_matches(prosrc, $$CONSTRAINT = '(jobs_\\w+)'$$, 'g'))[1] FROM pg_proc
         WHERE pronamespace = 'sms_outbox'::regnamespace",
    )
    .fetch_all(database.pool())
    .await
    .expect("the catalogue");
    let mut named = 0;
    for page in PAGES {
        for name in read(page).split('`').filter(|word| {
            word.starts_with("jobs_") && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        }) {
            assert!(
                known.iter().any(|constraint| constraint == name),
                "{page}: {name}"
            );
            named += 1;
        }
    }
    assert!(named > 10, "only {named} names were found");
}

#[test]
fn every_command_line_in_the_pages_is_one_that_the_program_takes() {
    let mut checked = 0;
    for block in PAGES.into_iter().flat_map(|page| blocks(page, "sh")) {
        for line in block.text.lines() {
            // Without what is said about it, and without what reads its answer.
            let line = [" #", " |"].iter().fold(line, |line, end| {
                line.split(end).next().unwrap_or(line).trim_end()
            });
            let command = line.split_once("sms-outbox ");
            let Some((_, arguments)) = command.filter(|(before, _)| {
                // `sms-outbox worker`, `DATABASE_URL=… sms-outbox migrate`
                before.split_whitespace().all(|word| word.contains('='))
            }) else {
                continue;
            };
            let words = std::iter::once("sms-outbox".to_owned()).chain(split(arguments));
            if let Err(error) = sms_outbox::cli::command().try_get_matches_from(words) {
                let fine = matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                );
                assert!(fine, "{}, line {}: {line}\n{error}", block.page, block.line);
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} command lines were found");
}

/// Words as a shell makes them, as far as the pages need: single quotes hold together.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('\'').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    for page in PAGES {
        let text = read(page);
        let directory = Path::new(page).parent().expect("a file has a directory");
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target
                .split_once('#')
                .map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() {
                Path::new(page).to_owned()
            } else {
                directory.join(file)
            };
            assert!(
                root().join(&path).exists(),
                "{page}: {target} leads nowhere"
            );
            if let Some(anchor) = anchor {
                let there = fs::read_to_string(root().join(&path)).expect("a page that exists");
                let known = there
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| slug(line) == anchor);
                assert!(known, "{page}: {target} names no heading");
            }
        }
    }
}

/// A heading as links name it.
fn slug(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The map in `ARCHITECTURE.md` has a line for every module of the crate.
#[test]
fn the_map_names_every_module() {
    let map = read("ARCHITECTURE.md");
    for line in read("src/lib.rs").lines() {
        if let Some(module) = line
            .strip_prefix("pub ")
            .unwrap_or(line)
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        {
            assert!(
                map.contains(&format!("src/{module}.rs")),
                "{module} is not on the map"
            );
        }
    }
}

const RUNBOOK: &str = "docs/operations.md";

/// Whoever searches the runbook for a line of the log finds it, and at the level that it says.
#[test]
fn every_log_line_in_the_runbook_is_one_that_a_worker_writes() {
    let errors = logged("error");
    let warnings = logged("warn");
    let (table, sentence) = lines_to_watch();
    assert_eq!(not_logged(&table, &errors), [""; 0], "quoted as errors");
    assert_eq!(
        not_logged(&sentence, &warnings),
        [""; 0],
        "quoted as warnings"
    );
    assert!(
        table.len() > 10 && sentence.len() > 5,
        "{table:?} {sentence:?}"
    );

    let all = [errors, warnings, logged("info")].concat();
    // What reads like a sentence; commands, settings and SQL do not.
    let elsewhere: Vec<String> = quotes(&prose(RUNBOOK))
        .into_iter()
        .filter(|quote| {
            let plain = |c: char| c.is_ascii_lowercase() || " ,:;'…".contains(c);
            quote.split(' ').count() > 2 && quote.chars().all(plain)
        })
        .collect();
    assert_eq!(not_logged(&elsewhere, &all), [""; 0], "quoted");
    assert!(elsewhere.len() > 15, "{elsewhere:?}");
}

/// An error means that a person should look, so the runbook says where.
#[test]
fn every_error_that_a_worker_logs_is_in_the_runbook() {
    let (table, _) = lines_to_watch();
    for line in logged("error") {
        assert!(
            table.iter().any(|quote| is_of(quote, &line)),
            "{RUNBOOK} has no line for {line:?}"
        );
    }
}

#[test]
fn a_log_line_that_no_worker_writes_is_noticed() {
    let said = messages(
        "error",
        r#"tracing::error!(job.id = %job, names = names.join(" "), "uncertain: it may \"be\" \
               sent");
           tracing::warn!("failed");"#,
    );
    assert_eq!(said, [r#"uncertain: it may "be" sent"#]);
    let quotes = quotes("`Uncertain: …`, `uncertain`, `failed`, `uncertain: it\nmay …`");
    assert_eq!(not_logged(&quotes, &said), ["uncertain", "failed"]);
}

/// What the section on logs quotes: its table, and the sentence behind it.
fn lines_to_watch() -> (Vec<String>, Vec<String>) {
    let text = prose(RUNBOOK);
    let (_, section) = text
        .split_once("In the logs, `error` means")
        .expect("the section on logs");
    let (section, _) = section.split_once("\n## ").expect("a heading behind it");
    let (table, sentence) = section
        .split_once("and `warn` is worth reading:")
        .expect("the sentence on warnings");
    let table: String = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .collect();
    (quotes(&table), quotes(sentence))
}

/// A page without its fenced blocks.
fn prose(page: &str) -> String {
    let mut fenced = false;
    read(page)
        .lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// What stands in backticks.
fn quotes(text: &str) -> Vec<String> {
    let words = |quote: &str| quote.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split('`').skip(1).step_by(2).map(words).collect()
}

fn not_logged<'a>(quotes: &'a [String], logged: &[String]) -> Vec<&'a str> {
    quotes
        .iter()
        .filter(|quote| !logged.iter().any(|line| is_of(quote, line)))
        .map(String::as_str)
        .collect()
}

/// With "…" at its end, a quote is the beginning of its line.
fn is_of(quote: &str, line: &str) -> bool {
    let (quote, line) = (quote.to_lowercase(), line.to_lowercase());
    match quote.strip_suffix('…') {
        Some(beginning) => line.starts_with(beginning.trim_end()),
        None => line == quote,
    }
}

/// What the program logs at this level, the sandbox and the private PostgreSQL left out: nobody runs these for real.
fn logged(level: &str) -> Vec<String> {
    let mut folders: Vec<PathBuf> = vec![root().join("src")];
    let mut said = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if matches!(name, Some("sandbox" | "embedded")) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                said.extend(messages(level, &fs::read_to_string(path).expect("a text")));
            }
        }
    }
    assert!(!said.is_empty());
    said
}

/// The messages of the calls `tracing::LEVEL!(…)`: the last string in each.
fn messages(level: &str, source: &str) -> Vec<String> {
    source
        .split(&format!("tracing::{level}!("))
        .skip(1)
        .filter_map(|call| {
            let (mut depth, mut last) = (1, None);
            let mut chars = call.chars().peekable();
            while depth > 0 {
                match chars.next()? {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    '"' => {
                        let mut text = String::new();
                        loop {
                            match chars.next()? {
                                '"' => break,
                                // A line that goes on in the next one, or a quotation mark.
                                '\\' => match chars.next()? {
                                    '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                                    c => text.push(c),
                                },
                                c => text.push(c),
                            }
                        }
                        last = Some(text);
                    }
                    _ => {}
                }
            }
            last
        })
        .collect()
}
