//! Reading `DATABASE_URL`: of every parameter it is known here what it does, and what the driver is shown is one server at a time.
//!
//! The driver ignores a parameter that it does not know, and logs its value, which may be a password (`sslpassword`). A misspelt
//! `sslmode` would be ignored as well. And it knows one host only.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// What the driver makes something of.
const KNOWN: [&str; 15] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// What other clients need and this one does by itself, or cannot do and does not miss. Managed services hand out addresses with
/// them.
const WITHOUT_EFFECT: [&str; 9] = [
    "connect_timeout",
    "channel_binding",
    "gssencmode",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "fallback_application_name",
    "load_balance_hosts",
];

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Why an address cannot be used. None of it repeats a value, which may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    #[error("user and password may not contain an unescaped /, ? or #")]
    Escaping,
    #[error(
        "its parameter {0:?} is not known here; the known ones are those of psql for TLS (sslmode, sslrootcert, sslcert, sslkey), host, \
             port, dbname, user, password, application_name and options"
    )]
    Unknown(String),
    #[error(
        "its parameter sslmode is none of disable, allow, prefer, require, verify-ca and verify-full"
    )]
    SslMode,
    #[error("its parameter target_session_attrs asks for a server that cannot be written to")]
    ReadOnly,
    #[error("it names {hosts} hosts and {ports} ports")]
    Ports { hosts: usize, ports: usize },
    #[error("one of its hosts is empty")]
    NoHost,
}

/// The servers that an address names, in its order: one at least.
pub(super) fn servers(url: &str) -> Result<Vec<PgConnectOptions>, sqlx::Error> {
    one_by_one(url.trim())
        .map_err(sqlx::Error::config)?
        .iter()
        .map(|url| PgConnectOptions::from_str(url))
        .collect()
}

/// The same address once for each of its hosts.
fn one_by_one(url: &str) -> Result<Vec<String>, AddressError> {
    let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
    if scheme != "postgres" && scheme != "postgresql" {
        return Err(AddressError::Scheme);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    // What follows belongs to a password that was cut in two, and is not to be shown as the name of a parameter.
    if rest.contains('#')
        || (!authority.contains('@') && authority.contains(':') && rest.contains('@'))
    {
        return Err(AddressError::Escaping);
    }
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let mut hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    let (mut kept, mut ports) = (Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_option = ["options[", "options%5B", "options%5b"]
            .iter()
            .any(|start| name.starts_with(start));
        let listed = || -> Vec<String> {
            let value = value.replace("%2C", ",").replace("%2c", ",");
            value.split(',').map(str::to_owned).collect()
        };
        match name {
            "sslmode" | "ssl-mode" if !MODES.contains(&value) => return Err(AddressError::SslMode),
            "target_session_attrs" if !["any", "read-write", "primary"].contains(&value) => {
                return Err(AddressError::ReadOnly);
            }
            "target_session_attrs" => {}
            "host" | "hostaddr" => hosts = listed().iter().map(|host| in_front(host)).collect(),
            "port" => ports = listed(),
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ if is_option || KNOWN.contains(&name) => kept.push(pair.to_owned()),
            _ => return Err(AddressError::Unknown(name.chars().take(40).collect())),
        }
    }
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err(AddressError::Ports {
            hosts: hosts.len(),
            ports: ports.len(),
        });
    }
    // A single one may be left out: the driver has a default.
    if hosts.len() > 1 && hosts.iter().any(String::is_empty) {
        return Err(AddressError::NoHost);
    }
    let one = |(place, host): (usize, &String)| {
        let port = ports.get(place).or(ports.first());
        let port = port.map(|port| format!("port={port}"));
        let query: Vec<String> = kept.iter().cloned().chain(port).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{scheme}://{user}{host}{path}{mark}{}", query.join("&"))
    };
    Ok(hosts.iter().enumerate().map(one).collect())
}

/// A host that was given as a parameter, as it is written in front of the path: a folder with a socket, an IPv6 address, a name.
fn in_front(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.replace('/', "%2F")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_several_hosts_is_one_address_for_each() {
        for (url, expected) in [
            ("postgres://u:p@h/db", vec!["postgres://u:p@h/db"]),
            ("postgresql:///db", vec!["postgresql:///db"]),
            (
                "postgres://u:p@h1,h2/db?sslmode=require",
                vec![
                    "postgres://u:p@h1/db?sslmode=require",
                    "postgres://u:p@h2/db?sslmode=require",
                ],
            ),
            (
                "postgres://u:p%40@h1:5432,[::1]:5433/db",
                vec![
                    "postgres://u:p%40@h1:5432/db",
                    "postgres://u:p%40@[::1]:5433/db",
                ],
            ),
            (
                "postgres://u@/db?host=a,b&port=1,2",
                vec!["postgres://u@a/db?port=1", "postgres://u@b/db?port=2"],
            ),
            (
                "postgres://u@/db?host=a%2Cb&port=1",
                vec!["postgres://u@a/db?port=1", "postgres://u@b/db?port=1"],
            ),
            (
                "postgres:///db?host=/var/run/postgresql",
                vec!["postgres://%2Fvar%2Frun%2Fpostgresql/db"],
            ),
            (
                "postgres://h/db?target_session_attrs=read-write&connect_timeout=3&channel_binding=require",
                vec!["postgres://h/db"],
            ),
            (
                "postgres://h/db?options[statement_timeout]=5&options=-c%20a%3Db",
                vec!["postgres://h/db?options[statement_timeout]=5&options=-c%20a%3Db"],
            ),
        ] {
            assert_eq!(one_by_one(url).expect(url), expected, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_without_a_value() {
        let unknown = |name: &str| AddressError::Unknown(name.to_owned());
        for (url, expected) in [
            ("mysql://u:hunter2@h/db", AddressError::Scheme),
            ("h/db", AddressError::Scheme),
            (
                "postgres://h/db?sslpassword=hunter2",
                unknown("sslpassword"),
            ),
            ("postgres://h/db?sslmod=require", unknown("sslmod")),
            ("postgres://h/db?sslmode=hunter2", AddressError::SslMode),
            (
                "postgres://h/db?target_session_attrs=standby",
                AddressError::ReadOnly,
            ),
            ("postgres://u:hun?ter2@h/db", AddressError::Escaping),
            ("postgres://u:hunter2#@h/db", AddressError::Escaping),
            ("postgres://u:hun/ter2@h/db", AddressError::Escaping),
            ("postgres://h1,,h2/db", AddressError::NoHost),
            (
                "postgres://h1,h2/db?port=1,2,3",
                AddressError::Ports { hosts: 2, ports: 3 },
            ),
        ] {
            let refused = one_by_one(url).expect_err(url);
            assert_eq!(refused, expected, "{url}");
            assert!(!refused.to_string().contains("ter2"), "{refused}");
        }
    }

    #[test]
    fn the_driver_reads_what_is_left() {
        let read =
            servers("postgres://u:p@one:1,two:2/db?sslmode=verify-full").expect("an address");
        let places: Vec<(&str, u16)> = read
            .iter()
            .map(|server| (server.get_host(), server.get_port()))
            .collect();
        assert_eq!(places, [("one", 1), ("two", 2)]);
        let socket = servers("postgres://u@/db?host=/tmp").expect("an address");
        assert_eq!(
            socket[0].get_socket().and_then(|path| path.to_str()),
            Some("/tmp")
        );
    }
}
