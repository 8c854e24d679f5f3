//! What the pages print is true: every statement runs on the schema as it is, every command line is one that the program
//! takes, every link leads somewhere.

use std::{fs, path::Path};

use sqlx::{AssertSqlSafe, Executor, PgConnection, raw_sql};

use crate::support::postgres::TestDatabase;

const PAGES: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/producers.md",
    "docs/scaling.md",
];

/// The roles that the pages grant something to.
const ROLES: [&str; 4] = ["app", "sms_worker", "sms_support", "sms_janitor"];

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

const APPLICATION: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, customer text)";

#[tokio::test]
async fn every_statement_in_the_pages_runs() {
    let database = TestDatabase::create().await;
    let mut ran = 0;
    for block in PAGES.into_iter().flat_map(|page| blocks(page, "sql")) {
        let mut sql = statements(&block);
        // Roles belong to the whole server, which may be somebody else's.
        for role in ROLES {
            sql = sql.replace(&format!(" TO {role};"), " TO CURRENT_USER;");
        }
        let mut transaction = database.pool().begin().await.expect("a fresh database");
        transaction
            .execute(APPLICATION)
            .await
            .expect("an empty schema public");
        if let Err(error) = run(&mut transaction, sql).await {
            panic!("{}, line {}: {error}", block.page, block.line);
        }
        transaction.rollback().await.expect("an open transaction");
        ran += 1;
    }
    assert!(ran > 20, "only {ran} blocks were found");
}

/// A producer with the grants of the page can do what the page says, and no more.
#[tokio::test]
async fn the_grants_for_producers_suffice_and_give_nothing_away() {
    let database = TestDatabase::create().await;
    let may_make_roles: bool =
        sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(database.pool())
            .await
            .expect("a fresh database");
    if !may_make_roles {
        eprintln!("left out: making roles in this server is not ours to do");
        return;
    }
    let grants: Vec<Block> = blocks("docs/producers.md", "sql")
        .into_iter()
        .filter(|block| block.text.contains(" TO app;"))
        .collect();
    assert!(!grants.is_empty());

    let mut connection = database.pool().begin().await.expect("a fresh database");
    // Gone with the transaction.
    let role = format!("app_{}", database.name());
    run(&mut connection, format!("CREATE ROLE {role}"))
        .await
        .expect("a superuser");
    for block in &grants {
        let sql = statements(block).replace(" TO app;", &format!(" TO {role};"));
        run(&mut connection, sql)
            .await
            .unwrap_or_else(|error| panic!("{}, line {}: {error}", block.page, block.line));
    }
    run(&mut connection, format!("SET LOCAL ROLE {role}"))
        .await
        .expect("a role of ours");

    let insert = "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, idempotency_key) \
                  VALUES ('YOURBRAND', '{0532 123 45 67}', 'Hello', false, 'a-key')";
    for (may, sql) in [
        (true, format!("{insert} RETURNING id")),
        (
            true,
            format!("{insert} ON CONFLICT (account, idempotency_key) DO NOTHING RETURNING id"),
        ),
        (
            true,
            "SELECT id, status, order_id, error_class FROM sms_outbox.jobs \
             WHERE account = 'default' AND idempotency_key = 'a-key'"
                .to_owned(),
        ),
        (
            true,
            "SELECT sms_outbox.enqueue_bulk('YOURBRAND', '{05321234567}', 'Hello', false)".to_owned(),
        ),
        (
            true,
            "SELECT sms_outbox.normalize_number('0532 123 45 67')".to_owned(),
        ),
        (
            false,
            "INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, status, sent_at, finished_at) \
             VALUES ('YOURBRAND', '{05321234567}', 'Hello', false, 'sent', now(), now())"
                .to_owned(),
        ),
        (false, "SELECT body FROM sms_outbox.jobs".to_owned()),
        (false, "SELECT recipients FROM sms_outbox.jobs".to_owned()),
        (false, "UPDATE sms_outbox.jobs SET status = status".to_owned()),
        (false, "DELETE FROM sms_outbox.jobs".to_owned()),
        (false, "SELECT sms_outbox.prune(now())".to_owned()),
    ] {
        run(&mut connection, "SAVEPOINT before".to_owned()).await.expect("an open transaction");
        let result = run(&mut connection, sql.clone()).await;
        assert_eq!(result.is_ok(), may, "{sql}: {result:?}");
        if result.is_err() {
            run(&mut connection, "ROLLBACK TO before".to_owned()).await.expect("a savepoint");
        }
    }
    let job = sms_outbox::find_job_by_key(&mut *connection, "default", "a-key").await;
    assert!(job.expect("granted").is_some());
}

#[tokio::test]
async fn every_constraint_that_the_pages_name_exists() {
    let database = TestDatabase::create().await;
    let known: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint
         WHERE conrelid = 'sms_outbox.jobs'::regclass OR contypid IN ('sms_outbox.job_rules'::regtype, 'sms_outbox.job_id'::regtype)",
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
