//! What is written about the configuration is what the program reads.

use std::{fs, path::Path};

use sms_outbox::{
    cli,
    config::{Variable, variables},
};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines of the form `NAME=value`, those among them that are commented out too (`#NAME=value`): a comment proper has a space
/// behind its `#`.
fn assignments(text: &str) -> Vec<(&str, &str, bool)> {
    let read = |line| {
        let (line, active) = match str::strip_prefix(line, "#") {
            Some(rest) => (rest, false),
            None => (line, true),
        };
        let (name, value) = line.split_once('=')?;
        let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        is_name.then_some((name, value, active))
    };
    text.lines().filter_map(read).collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names
}

#[test]
fn the_example_file_names_every_variable_and_no_other() {
    let known = variables(&cli::command());
    let example = page(".env.example");
    assert_eq!(
        names(assignments(&example).iter().map(|(name, ..)| *name)),
        names(known.iter().map(|variable| variable.name.as_str()))
    );
}

#[test]
fn the_example_file_shows_the_defaults_and_sets_only_what_has_none() {
    let example = page(".env.example");
    let assignments = assignments(&example);
    for Variable { name, default } in variables(&cli::command()) {
        let (_, value, active) = assignments
            .iter()
            .find(|(known, ..)| *known == name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        if let Some(default) = default {
            assert_eq!(*value, default, "{name}");
            assert!(
                !active,
                "{name} has a default, and would be fixed by a copy of the file"
            );
        }
    }
}

#[test]
fn the_readme_lists_every_variable_with_its_default_and_no_other() {
    let readme = page("README.md");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Configuration\n"))
        .expect("the README has a section Configuration");
    // | `NAME`, `NAME` | `default`, `default` | … |
    let code = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let mut listed: Vec<(String, Option<String>)> = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let (names, defaults) = (code(cells[0]), code(cells[1]));
        assert!(defaults.len() <= names.len(), "{line}");
        let mut defaults = defaults.into_iter();
        listed.extend(names.into_iter().map(|name| (name, defaults.next())));
    }
    listed.sort();
    let known: Vec<(String, Option<String>)> = variables(&cli::command())
        .into_iter()
        .map(|Variable { name, default }| (name, default))
        .collect();
    assert_eq!(listed, known);
}
