//! Where a secret may stand: in its variable, in a file that `NAME_FILE` names (Docker, Kubernetes), or in a file of its own name in
//! the directory that systemd makes for `LoadCredential=`.

use std::path::{Path, PathBuf};

use super::Misconfigured;

/// systemd's own variable.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Every variable by which a setting of this name may be given.
#[must_use]
pub fn ways_to_give(name: &str) -> [String; 3] {
    [name.to_owned(), file_variable(name), CREDENTIALS.to_owned()]
}

fn file_variable(name: &str) -> String {
    format!("{name}_FILE")
}

/// The value of a secret, and `None` where it stands nowhere; `variable` reads the environment.
///
/// # Errors
/// When it is given twice, or its file cannot be read or holds nothing. Names are told, values never.
pub fn secret(
    name: &str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, Misconfigured> {
    let given = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let pointer = file_variable(name);
    match (given(name), given(&pointer)) {
        (Some(_), Some(_)) => Err(Misconfigured(format!(
            "{name} and {pointer} are both set: leave one of them out"
        ))),
        (Some(value), None) => Ok(Some(value.trim().to_owned())),
        (None, Some(path)) => read(&pointer, Path::new(path.trim())).map(Some),
        (None, None) => {
            let directory = given(CREDENTIALS).map(PathBuf::from);
            let path = directory
                .map(|directory| directory.join(name))
                .filter(|path| path.exists());
            path.map(|path| read(CREDENTIALS, &path)).transpose()
        }
    }
}

/// Editors end a file with a line break, which is no part of a secret.
fn read(variable: &str, path: &Path) -> Result<String, Misconfigured> {
    let refuse = |why: String| Misconfigured(format!("{variable} names {}, {why}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|error| refuse(format!("which cannot be read: {error}")))?;
    let value = text.trim();
    if value.is_empty() {
        return Err(refuse("which holds nothing".to_owned()));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_stands_in_its_variable_or_in_a_file_and_never_in_both() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("our own directory");
            path.display().to_string()
        };
        let good = file("good", "hunter2\n");
        let empty = file("empty", "\n");
        file("KEY", "from systemd\r\n");
        let missing = directory.path().join("missing").display().to_string();
        let own = directory.path().display().to_string();
        for (variables, expected) in [
            (vec![], Ok(None)),
            (vec![("KEY", "  ")], Ok(None)),
            (vec![("KEY", "hunter2")], Ok(Some("hunter2"))),
            (vec![("KEY_FILE", good.as_str())], Ok(Some("hunter2"))),
            (
                vec![("KEY", ""), ("KEY_FILE", good.as_str())],
                Ok(Some("hunter2")),
            ),
            (
                vec![("CREDENTIALS_DIRECTORY", own.as_str())],
                Ok(Some("from systemd")),
            ),
            (
                vec![("KEY", "hunter2"), ("CREDENTIALS_DIRECTORY", own.as_str())],
                Ok(Some("hunter2")),
            ),
            (
                vec![("KEY", "hunter2"), ("KEY_FILE", good.as_str())],
                Err("KEY and KEY_FILE are both set"),
            ),
            (vec![("KEY_FILE", missing.as_str())], Err("cannot be read")),
            (vec![("KEY_FILE", empty.as_str())], Err("holds nothing")),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(given, _)| *given == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            match (secret("KEY", &variable), expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.as_deref(), expected, "{variables:?}")
                }
                (Err(error), Err(part)) => {
                    let said = error.to_string();
                    assert!(said.contains(part) && said.contains("KEY_FILE"), "{said}");
                    assert!(!said.contains("hunter2"), "{said}");
                }
                (found, _) => panic!("{variables:?}: {found:?}"),
            }
        }
    }
}
