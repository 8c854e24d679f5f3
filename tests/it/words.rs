//! One thing has one name, and it is the one that the field uses: whoever reads a log line can search for it. These are the
//! words that this program used before. They must not come back in what people read: comments, log lines, answers of the
//! commands, metrics, SQL.

use std::{collections::HashMap, fs, path::Path};

/// A word or a phrase that is no longer used, and what is said instead.
const OLD: &[(&str, &str)] = &[
    ("doubt", "indeterminate"),
    ("doubts", "indeterminate jobs"),
    ("doubtful", "indeterminate"),
    ("unclear", "indeterminate"),
    ("twin", "duplicate, or original"),
    ("twins", "duplicates"),
    ("letter", "job"),
    ("letters", "jobs"),
    ("floor", "cursor"),
    ("floors", "cursors"),
    ("trail", "cursor"),
    ("aside", "held, or made uncertain"),
    ("park", "hold"),
    ("parked", "held"),
    ("parking", "holding"),
    ("unparked", "released"),
    ("unparking", "releasing"),
    ("claim s way", "held"),
    ("claims way", "held"),
    ("trouble", "failure"),
    ("troubles", "failures"),
    ("settlement", "outcome"),
    ("settlements", "outcomes"),
    ("decision", "outcome"),
    ("decisions", "outcomes"),
    ("situation", "job state"),
    ("situations", "job states"),
    ("admission", "pre-send check"),
    ("given back", "released"),
    ("gives back", "releases"),
    ("gave back", "released"),
    ("handed back", "released"),
    ("hands back", "releases"),
    ("rests", "cools down, or depends"),
    ("resting", "cooling down"),
    ("rested", "cooled down"),
    ("free hand", "free permit"),
    ("free hands", "free permits"),
    ("lane", "account state"),
    ("lanes", "account states"),
    ("slack", "lateness tolerance"),
    ("duty", "maintenance lease"),
    ("duties", "maintenance leases"),
    ("upkeep", "maintenance"),
    ("sought", "reconciled"),
    ("strike", "consecutive failure"),
    ("strikes", "consecutive failures"),
    ("noted", "pinned"),
    ("installation", "database identity"),
    ("out of order", "unhealthy, or unavailable"),
    ("account in order", "healthy"),
    ("provider in order", "healthy"),
    ("stop in order", "stop gracefully"),
    ("stops in order", "stops gracefully"),
    ("stopped in order", "stopped gracefully"),
    ("books", "provider state"),
    ("suspect", "say what is known"),
    ("suspects", "say what is known"),
    ("poison", "say what it does"),
    ("poisoned", "say what it does"),
    ("take over", "recover"),
    ("takes over", "recovers"),
    ("took over", "recovered"),
    ("taken over", "recovered"),
    ("taking over", "recovering"),
    ("another turn", "another slot"),
    ("harvest", "batch"),
    ("harmless", "read-only"),
];

/// Where an old word means something else.
const ALLOWED: &[(&str, &str)] = &[
    // Of an alphabet.
    ("src/cli/send/draft.rs", "letters"),
    ("src/message.rs", "letter"),
    ("src/message.rs", "letters"),
    ("src/message/parts.rs", "letter"),
    ("src/message/parts.rs", "letters"),
    ("src/sandbox/parts.rs", "letters"),
    ("src/sandbox/rules.rs", "letters"),
    // Failpoints strike.
    ("src/failpoints.rs", "strike"),
    ("src/failpoints.rs", "strikes"),
    ("src/failpoints/armed.rs", "strike"),
    ("src/failpoints/armed.rs", "strikes"),
    // What `bench` measures.
    ("src/bench.rs", "installation"),
    ("src/cli.rs", "installation"),
];

#[test]
fn nothing_that_people_read_uses_the_old_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "migrations"] {
        list(&root.join(folder), &mut files);
    }
    assert!(files.len() > 150, "{} files", files.len());
    let (mut found, mut allowed) = (Vec::new(), Vec::new());
    for (path, text) in &files {
        let name = Path::new(path).strip_prefix(root).expect("below the root");
        let name = name.to_str().expect("a readable name");
        for (line, old, new) in old_words(name, text) {
            if ALLOWED.contains(&(name, old)) {
                allowed.push((name, old));
            } else {
                found.push(format!("{name}:{line}: {old:?}; say: {new}"));
            }
        }
    }
    assert!(found.is_empty(), "old words:\n{}", found.join("\n"));
    for entry in ALLOWED {
        assert!(allowed.contains(entry), "{entry:?} need not be allowed");
    }
}

#[test]
fn old_words_are_found_where_people_read_them_and_only_there() {
    for (name, text, found) in [
        ("a.rs", "/// In doubt.", &[(1, "doubt")][..]),
        (
            "a.rs",
            "f(); // a twin\n// Set\n// aside.",
            &[(1, "twin"), (3, "aside")],
        ),
        ("a.rs", "// It is taken\n// over now.", &[(1, "taken over")]),
        ("a.rs", "/* a\nlane */", &[(2, "lane")]),
        (
            "a.rs",
            r#"info!("it was \"taken over\"");"#,
            &[(1, "taken over")],
        ),
        (
            "a.rs",
            "warn!(\"handed \\\n    back\");",
            &[(1, "handed back")],
        ),
        ("a.rs", "let s = r#\"a \"twin\"\"#;", &[(1, "twin")]),
        ("a.rs", "#[error(\"\\ndoubt\")]", &[(1, "doubt")]),
        ("a.rs", "let q = '\"'; let twin = 1; // no", &[]),
        ("a.rs", "fn lane<'a>(floor: &'a str) {}", &[]),
        ("a.rs", "// trailing, twinned, a flooring", &[]),
        ("a.rs", "f(\"taken\"); f(\"over\");", &[]),
        ("a.sql", "-- What's set aside\nSELECT twin", &[(1, "aside")]),
        (
            "a.sql",
            "COMMENT ON TABLE t IS 'a doubt''s age';",
            &[(1, "doubt")],
        ),
        ("a.sql", "SELECT twin.id FROM jobs AS twin", &[]),
    ] {
        let words: Vec<_> = old_words(name, text)
            .into_iter()
            .map(|(line, old, _)| (line, old))
            .collect();
        assert_eq!(words, found, "{text}");
    }
}

/// Every file that people read, with its text.
fn list(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, files);
        } else {
            let text = fs::read_to_string(&path).expect("a text");
            files.push((path.to_str().expect("a readable name").to_owned(), text));
        }
    }
}

/// The old words in comments and strings: line, word, and what to say instead.
fn old_words(name: &str, text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let read = if name.ends_with(".sql") {
        of_sql(text)
    } else {
        of_rust(text)
    };
    let mut words = Vec::new();
    for (number, line) in (1..).zip(read.lines()) {
        let parts = line.split_inclusive(|c: char| !c.is_alphabetic());
        for part in parts {
            let word = part.trim_end_matches(|c: char| !c.is_alphabetic());
            if !word.is_empty() {
                words.push((number, word.to_lowercase()));
            }
            if part.ends_with(END) {
                words.push((number, END.to_string()));
            }
        }
    }
    let mut by_first: HashMap<&str, Vec<(&'static str, &'static str)>> = HashMap::new();
    for (old, new) in OLD {
        let first = old.split(' ').next().expect("a word");
        by_first.entry(first).or_default().push((old, new));
    }
    let mut found = Vec::new();
    for (at, (line, word)) in words.iter().enumerate() {
        for (old, new) in by_first.get(word.as_str()).into_iter().flatten() {
            let here = words[at..].iter().map(|(_, word)| word.as_str());
            if here.take(old.split(' ').count()).eq(old.split(' ')) {
                found.push((*line, *old, *new));
            }
        }
    }
    found
}

/// Ends a string or a comment: no phrase goes on behind it.
const END: char = '\u{1e}';

/// The comments and strings of Rust code, everything in its line. Comments that follow each other are one text.
fn of_rust(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut read, mut at) = (String::new(), 0);
    let starts = |at: usize, with: &str| {
        chars[at..]
            .iter()
            .take(with.len())
            .copied()
            .eq(with.chars())
    };
    while at < chars.len() {
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                read.push(chars[at]);
                at += 1;
            }
            continue;
        }
        if starts(at, "/*") {
            while at < chars.len() && !starts(at, "*/") {
                read.push(chars[at]);
                at += 1;
            }
            continue;
        }
        let is_raw = chars[at] == 'r'
            && !(at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_'));
        let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
        if is_raw && chars.get(at + 1 + hashes) == Some(&'"') {
            let end = format!("\"{}", "#".repeat(hashes));
            at += 2 + hashes;
            while at < chars.len() && !starts(at, &end) {
                read.push(chars[at]);
                at += 1;
            }
            at += end.len();
            read.push(END);
            continue;
        }
        match chars[at] {
            '"' => {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    if chars[at] == '\\' {
                        // What an escape stands for is no part of a word; the end of a line stays one.
                        read.push(if chars[at + 1] == '\n' { '\n' } else { ' ' });
                        at += 2;
                    } else {
                        read.push(chars[at]);
                        at += 1;
                    }
                }
                read.push(END);
            }
            '\'' if chars.get(at + 1) == Some(&'\\') => {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
            }
            '\'' if chars.get(at + 2) == Some(&'\'') => at += 2,
            '\n' => read.push('\n'),
            c if !c.is_whitespace() => read.push(END),
            _ => {}
        }
        at += 1;
    }
    read
}

/// The comments and strings of SQL.
fn of_sql(text: &str) -> String {
    let (mut read, mut quoted) = (String::new(), false);
    for line in text.lines() {
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\'' => {
                    quoted = !quoted;
                    read.push(if quoted { ' ' } else { END });
                }
                '-' if !quoted && chars.peek() == Some(&'-') => read.extend(chars.by_ref()),
                _ if quoted => read.push(c),
                c if !c.is_whitespace() => read.push(END),
                _ => {}
            }
        }
        read.push('\n');
    }
    read
}
