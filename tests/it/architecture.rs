//! The absences that `ARCHITECTURE.md` names, held to the source. Comments may speak of anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every file below a directory of ours.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory of ours");
    entries
        .map(|entry| entry.expect("a directory of ours").path())
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Every Rust file of the crate, as a path below `src/`, without its comments and unit tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    files_below(&root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.strip_prefix(&root).expect("a file below src");
            let text = fs::read_to_string(&path).expect("a file of ours");
            let code = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or(&text);
            let code: Vec<&str> = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (name.to_string_lossy().into_owned(), code.join("\n"))
        })
        .collect()
}

/// The file of this module, or one in its folder.
fn is_part_of(file: &str, module: &str) -> bool {
    file == format!("{module}.rs") || file.starts_with(&format!("{module}/"))
}

/// None of `modules` contains any of `words`.
fn check(modules: &[&str], words: &[&str]) {
    let mut looked_at = 0;
    for (file, code) in sources() {
        if !modules.iter().any(|module| is_part_of(&file, module)) {
            continue;
        }
        looked_at += 1;
        for word in words {
            assert!(!code.contains(word), "src/{file} says {word:?}");
        }
    }
    assert!(
        looked_at >= modules.len(),
        "{modules:?}: only {looked_at} files"
    );
}

#[test]
fn the_outbox_knows_no_provider_and_no_http() {
    check(&["outbox"], &["provider::", "reqwest", "sandbox::"]);
}

#[test]
fn the_provider_knows_no_outbox_and_no_sql() {
    check(&["provider"], &["outbox::", "sqlx", "sandbox::"]);
}

#[test]
fn pure_files_know_no_database_no_network_no_runtime_and_no_clock() {
    check(
        &[
            "lifecycle",
            "backoff",
            "job",
            "message",
            "provider/classify",
            "splitting",
            "delivery",
            "dispatch/deliveries/schedule",
            "dispatch/deliveries/lists",
            "dispatch/deliveries/facts",
            "bench/figures",
        ],
        &[
            "sqlx",
            "reqwest",
            "tokio",
            "Instant",
            "SystemTime",
            "Utc::now",
            "std::env",
        ],
    );
}

#[test]
fn only_the_commands_and_the_private_postgres_read_the_environment() {
    for (file, code) in sources() {
        if is_part_of(&file, "cli") || is_part_of(&file, "embedded") {
            continue;
        }
        for word in ["env::var", "dotenv", "vars_os"] {
            assert!(!code.contains(word), "src/{file} says {word:?}");
        }
    }
}

#[test]
fn no_call_to_the_outbox_opens_a_transaction() {
    check(&["outbox", "producer", "dispatch", "daemon"], &[".begin("]);
    // Around one statement, where a pooler would give the server process away between preparing and executing it.
    let begins: Vec<String> = sources()
        .into_iter()
        .filter(|(_, code)| code.contains("BEGIN"))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(begins, ["outbox.rs"]);
}

#[test]
fn every_pool_is_guarded_against_lost_writes() {
    let mut pools = 0;
    for (file, code) in sources() {
        let guarded = code
            .matches("guard_against_lost_writes(PgPoolOptions::new())")
            .count()
            + code
                .matches("guard_against_lost_writes(sqlx::postgres::PgPoolOptions::new())")
                .count();
        assert_eq!(
            code.matches("PgPoolOptions::new(").count(),
            guarded,
            "src/{file}"
        );
        for unguarded in ["PgPool::connect", "PgPoolOptions::default", "Pool::<"] {
            assert!(!code.contains(unguarded), "src/{file} says {unguarded:?}");
        }
        pools += guarded;
    }
    assert!(pools > 0, "they are made in another way now");
}

#[test]
fn the_worker_and_the_sandbox_share_nothing() {
    check(
        &["sandbox"],
        &[
            "crate::outbox",
            "crate::provider",
            "crate::message",
            "crate::lifecycle",
            "crate::dispatch",
        ],
    );
    check(
        &[
            "daemon",
            "dispatch",
            "config",
            "lifecycle",
            "message",
            "backoff",
        ],
        &["sandbox::"],
    );
}

#[test]
fn only_the_outbox_speaks_sql_to_the_schema() {
    for (file, code) in sources() {
        // The demo plays an application; the measurements fill whole queues, and ask how it went.
        if ["outbox", "producer", "demo", "bench"]
            .iter()
            .any(|module| is_part_of(&file, module))
        {
            continue;
        }
        for word in ["sqlx::query", "raw_sql"] {
            assert!(!code.contains(word), "src/{file} says {word:?}");
        }
    }
}

#[test]
fn nothing_notifies_and_nothing_listens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["migrations", "src/outbox", "src/producer"] {
        for path in files_below(&root.join(directory)) {
            let text = fs::read_to_string(&path).expect("a file of ours");
            for word in ["NOTIFY", "LISTEN ", "pg_notify", "PgListener"] {
                assert!(!text.contains(word), "{} says {word:?}", path.display());
            }
        }
    }
}

/// The guard against copies and restored backups stands in the one function that claims; so nothing else may claim.
#[test]
fn there_is_one_way_to_a_claim() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let claiming: Vec<String> = files_below(&src.join("outbox"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a file of ours");
            text.contains("SET status = 'sending'") || text.contains("token + 1")
        })
        .map(|path| {
            path.strip_prefix(&src)
                .expect("below")
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(claiming, ["outbox/claim/mark.sql"]);
    let (of_claims, others): (Vec<_>, Vec<_>) = sources()
        .into_iter()
        .partition(|(file, _)| file == "outbox/claim.rs");
    let code: String = of_claims[0].1.split_whitespace().collect();
    for statement in ["CLAIM_SINGLES", "CLAIM_BULK"] {
        // Its definition, and its one use.
        assert_eq!(code.matches(statement).count(), 2, "{statement}");
        assert!(code.contains(&format!(".mark({statement},")), "{statement}");
    }
    assert_eq!(code.matches("fetch_all").count(), 1, "one place runs them");
    for (file, code) in others {
        // The failpoints rewrite a statement, and run none.
        let may = file == "failpoints/wrong.rs" || file == "outbox.rs";
        assert!(may || !code.contains("CLAIM_"), "src/{file} claims");
    }
}

/// What a crate with `sms-outbox = { default-features = false }` compiles, on the way down to this depth: names and features.
fn of_a_producer(depth: &str) -> BTreeMap<String, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--offline", "--locked", "--no-default-features"])
        .args(["--edges", "normal", "--prefix", "none", "--no-dedupe"])
        .args(["--format", "{p} {f}", "--depth", depth])
        .output()
        .expect("cargo runs these tests");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout)
        .expect("names")
        .lines()
        .map(|line| {
            // `tokio v1.54.1 time`, `serde_derive v1.0.229 (proc-macro) default`, and where this crate comes from in brackets
            let words: Vec<&str> = line.split(' ').collect();
            let features = words.last().copied().unwrap_or_default();
            (words[0].to_owned(), features.to_owned())
        })
        .filter(|(name, _)| name != "sms-outbox")
        .collect()
}

#[test]
fn a_producer_is_built_without_the_program() {
    let direct = of_a_producer("1");
    let names: Vec<&str> = direct.keys().map(String::as_str).collect();
    let expected = [
        "chrono",
        "serde",
        "serde_json",
        "sqlx",
        "thiserror",
        "tokio",
        "unicode-normalization",
        "uuid",
    ];
    assert_eq!(names, expected);
    // The runtime and TLS are the producer's to choose.
    assert_eq!(direct["tokio"], "time");
    assert_eq!(direct["sqlx"], "chrono,json,postgres,sqlx-postgres,uuid");

    let all = of_a_producer("100");
    assert!(all.len() > 50, "{all:?}");
    for name in [
        "anyhow",
        "axum",
        "backon",
        "clap",
        "comfy-table",
        "flate2",
        "http",
        "hyper",
        "indicatif",
        "mio",
        "native-tls",
        "nix",
        "openssl-sys",
        "prometheus-client",
        "reqwest",
        "ring",
        "rustix",
        "rustls",
        "rustls-platform-verifier",
        "signal-hook-registry",
        "socket2",
        "sqlx-macros",
        "tar",
        "tempfile",
        "terminal_size",
        "tokio-util",
        "tower",
        "tracing-subscriber",
    ] {
        assert!(!all.contains_key(name), "{name}");
    }
}

/// A producer may run anywhere that its sqlx runs, Windows included.
#[test]
fn what_a_producer_is_built_with_knows_no_operating_system_and_no_runtime_but_its_clock() {
    check(
        &["message", "job", "producer"],
        &["std::os", "nix::", "libc", "tokio::spawn", "cfg(unix)"],
    );
    for (file, code) in sources() {
        if is_part_of(&file, "producer") {
            let timed = code.matches("tokio::time::timeout").count();
            assert_eq!(code.matches("tokio::").count(), timed, "src/{file}");
        }
    }
}

#[test]
fn the_front_page_lists_what_can_be_imported() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("a file of ours");
    let list = lib
        .lines()
        .skip_while(|line| *line != "//! # What stays")
        .take_while(|line| line.starts_with("//!"));
    let listed: BTreeSet<&str> = list
        .flat_map(|line| line.split("[`").skip(1))
        .filter_map(|rest| rest.split('`').next())
        .collect();

    let mut there = BTreeSet::new();
    let mut hidden = false;
    for line in lib.lines() {
        if let Some(module) = line.strip_prefix("pub mod ")
            && !hidden
        {
            there.insert(module.trim_end_matches(';'));
        }
        hidden = line == "#[doc(hidden)]";
    }
    for group in lib.split("pub use ").skip(1) {
        let names = group.split(['{', '}']).nth(1).expect("names in brackets");
        there.extend(
            names
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty()),
        );
    }
    assert_eq!(listed, there);
}

/// Every Rust file below a directory, as a path from the top.
fn rust_files_of(directory: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    files_below(&root.join(directory))
        .iter()
        .map(|path| {
            path.strip_prefix(root)
                .expect("below")
                .display()
                .to_string()
        })
        .filter(|path| path.ends_with(".rs"))
        .collect()
}

#[test]
fn the_map_names_every_file_and_no_other() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
        .expect("a page of ours");
    let section = page.split("\n## The map\n").nth(1).expect("the map");
    let map = section.split("```").nth(1).expect("the map");
    // An entry begins at the margin, with the files and folders that it is about; what is indented names what is in them.
    let mut entries: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for line in map.lines().skip(1) {
        let words = line.split(|c: char| c.is_whitespace() || ",:;.()".contains(c));
        let paths = line
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| word.starts_with("src/") || word.starts_with("tests/"));
        if line.starts_with(' ') {
            let (_, named) = entries.last_mut().expect("it begins at the margin");
            named.extend(words);
        } else {
            entries.push((paths.collect(), words.collect()));
        }
    }
    let files: Vec<String> = ["src", "tests"]
        .into_iter()
        .flat_map(rust_files_of)
        .collect();
    for file in &files {
        let by_name = |(paths, named): &(Vec<&str>, Vec<&str>)| {
            paths.iter().any(|path| {
                let inside = file
                    .strip_prefix(path)
                    .and_then(|rest| rest.strip_suffix(".rs"));
                path == file
                    || (path.ends_with('/') && inside.is_some_and(|rest| named.contains(&rest)))
            })
        };
        assert!(entries.iter().any(by_name), "{file} is not on the map");
    }
    for path in entries.iter().flat_map(|(paths, _)| paths) {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        assert!(there.exists(), "{path} is on the map");
    }
}

/// Who thinks of another database has to know which statements a missing feature concerns.
#[test]
fn the_page_on_other_databases_names_the_statements_that_use_a_feature() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/scaling.md")).expect("a page of ours");
    for feature in ["SKIP LOCKED", "LATERAL", "ctid"] {
        let row = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("| `{feature}`: ")))
            .unwrap_or_else(|| panic!("no row about {feature}"));
        let cell = row.split(" | ").next().unwrap_or_default();
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        for (folder, prefix) in [
            ("src/outbox", ""),
            ("src/outbox/claim", "claim/"),
            ("src/producer", ""),
        ] {
            for entry in fs::read_dir(root.join(folder)).expect("a directory of ours") {
                let file = entry.expect("a directory of ours").file_name();
                let Some(name) = file
                    .to_string_lossy()
                    .strip_suffix(".sql")
                    .map(str::to_owned)
                else {
                    continue;
                };
                let sql =
                    fs::read_to_string(root.join(folder).join(&file)).expect("a file of ours");
                let uses = sql
                    .lines()
                    .any(|line| line.split("--").next().unwrap_or(line).contains(feature));
                let name = format!("{prefix}{name}");
                assert_eq!(
                    named.contains(&name.as_str()),
                    uses,
                    "{name}.sql and {feature}"
                );
            }
        }
    }
}

/// What the driver says is understood in one place.
#[test]
fn only_the_outbox_reads_what_the_driver_says() {
    for (file, code) in sources() {
        let may = ["outbox", "producer", "demo", "bench"]
            .iter()
            .any(|module| is_part_of(&file, module));
        assert!(may || !code.contains("sqlx::Error"), "src/{file}");
    }
}
