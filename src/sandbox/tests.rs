//! The sandbox over real sockets. The client is a bare TCP stream, so that nothing is repeated, reused or smoothed over on the way.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

mod clients;
mod webhooks;

const SOON: Duration = Duration::from_secs(10);

/// What came back on a connection.
#[derive(Debug)]
enum Got {
    /// A whole reply.
    Reply {
        status: u16,
        headers: String,
        body: Vec<u8>,
    },
    /// The end of the connection; with so many bytes before it.
    End { bytes: usize },
    /// A reset.
    Reset,
}

impl Got {
    fn status(&self) -> u16 {
        match self {
            Got::Reply { status, .. } => *status,
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Got::Reply { body, .. } => serde_json::from_slice(body).expect("JSON"),
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    fn code(&self) -> u64 {
        self.json()["response"]["status"]["code"]
            .as_u64()
            .expect("a code")
    }

    fn header(&self, line: &str) -> bool {
        match self {
            Got::Reply { headers, .. } => headers.lines().any(|l| l.eq_ignore_ascii_case(line)),
            _ => false,
        }
    }
}

struct Connection(TcpStream);

impl Connection {
    async fn open(sandbox: &Sandbox) -> Self {
        Connection(
            TcpStream::connect(sandbox.address())
                .await
                .expect("connected"),
        )
    }

    async fn request(&mut self, method: &str, path: &str, body: &str) -> Got {
        self.write(method, path, body).await;
        self.read().await
    }

    async fn write(&mut self, method: &str, path: &str, body: &str) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: sandbox\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        // A connection that was refused may be gone already; reading says so.
        let _ = self.0.write_all(head.as_bytes()).await;
    }

    async fn read(&mut self) -> Got {
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                let headers = String::from_utf8_lossy(&seen[..end]).into_owned();
                let length = headers.lines().find_map(|l| {
                    l.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                });
                if seen.len() >= end + 4 + length.unwrap_or(0) {
                    let status = headers
                        .split(' ')
                        .nth(1)
                        .and_then(|s| s.parse().ok())
                        .expect("a status");
                    return Got::Reply {
                        status,
                        headers,
                        body: seen.split_off(end + 4),
                    };
                }
            }
            match tokio::time::timeout(SOON, self.0.read(&mut chunk))
                .await
                .expect("something within ten seconds")
            {
                Ok(0) => return Got::End { bytes: seen.len() },
                Ok(n) => seen.extend_from_slice(&chunk[..n]),
                Err(_) => return Got::Reset,
            }
        }
    }
}

async fn started(config: SandboxConfig) -> (Sandbox, SandboxHandle) {
    let sandbox = Sandbox::start(config).await.expect("started");
    let handle = sandbox.handle();
    (sandbox, handle)
}

fn authenticated(order: Value) -> String {
    json!({"request": {"authentication": {"key": "sandbox-key", "hash": "sandbox-hash"}, "order": order}}).to_string()
}

fn order(text: &str) -> String {
    authenticated(json!({
        "sender": "SANDBOX", "iys": "0",
        "message": {"text": text, "receipents": {"number": ["905321234567"]}}
    }))
}

async fn send(sandbox: &Sandbox, text: &str) -> Got {
    Connection::open(sandbox)
        .await
        .request("POST", "/v1/send-sms/json", &order(text))
        .await
}

async fn admin(sandbox: &Sandbox, method: &str, path: &str, body: Value) -> Value {
    let got = Connection::open(sandbox)
        .await
        .request(method, path, &body.to_string())
        .await;
    assert_eq!(got.status(), 200, "{path}: {}", got.json());
    got.json()
}

#[tokio::test]
async fn an_order_is_accepted_written_down_and_charged() {
    let (sandbox, handle) = started(SandboxConfig {
        balance_sms: 5,
        ..SandboxConfig::default()
    })
    .await;
    let got = send(&sandbox, "hello").await;
    assert_eq!((got.status(), got.code()), (200, 200));
    let ledger = handle.ledger();
    assert_eq!(
        got.json()["response"]["order"]["id"],
        json!(ledger[0].order_id)
    );
    assert_eq!(
        (ledger[0].text.as_str(), ledger[0].replied, handle.balance()),
        ("hello", true, 4)
    );
    assert!(!format!("{ledger:?}").contains("sandbox-key"));
}

#[tokio::test]
async fn a_repeat_is_451_and_leaves_no_second_order() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let mut connection = Connection::open(&sandbox).await;
    assert_eq!(
        connection
            .request("POST", "/v1/send-sms/json", &order("hello"))
            .await
            .code(),
        200
    );
    let repeat = connection
        .request("POST", "/v1/send-sms/json", &order("hello"))
        .await;
    assert_eq!((repeat.status(), repeat.code()), (451, 451));
    assert!(repeat.json()["response"].get("order").is_none());
    assert_eq!((handle.ledger().len(), handle.requests().len()), (1, 2));
    assert_eq!(
        handle.requests()[0].body_fingerprint,
        handle.requests()[1].body_fingerprint
    );
}

#[tokio::test]
async fn of_many_equal_orders_at_once_exactly_one_is_accepted() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let codes = futures_util::future::join_all((0..20).map(|_| send(&sandbox, "hello"))).await;
    assert_eq!(codes.iter().filter(|got| got.code() == 200).count(), 1);
    assert_eq!(handle.stats().codes, [(200, 1), (451, 19)].into());
}

#[tokio::test]
async fn wrong_credentials_bodies_and_paths_have_their_codes() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let mut connection = Connection::open(&sandbox).await;
    let wrong_hash = order("x").replace("sandbox-hash", "wrong");
    for (method, path, body, code) in [
        ("POST", "/v1/send-sms/json", wrong_hash.as_str(), 401),
        ("POST", "/v1/send-sms/json", r#"{"request":{}}"#, 401),
        ("POST", "/v1/send-sms/json", r#"{"request":"#, 400),
        ("POST", "/v1/send-sms/json", "", 400),
        ("POST", "/v1/send-sms/json", "[]", 400),
        ("POST", "/v1/fly-away/json", &order("x"), 404),
        ("GET", "/v1/send-sms/json", "", 404),
    ] {
        let got = connection.request(method, path, body).await;
        assert_eq!(
            (got.code(), u64::from(got.status())),
            (code, code),
            "{method} {path} {body}"
        );
    }
    handle.set_api_access(false);
    let balance = connection
        .request("POST", "/v1/get-balance/json", &authenticated(json!({})))
        .await;
    assert_eq!(balance.code(), 401);
    assert!(handle.ledger().is_empty());
}

#[tokio::test]
async fn balance_and_senders_are_told() {
    let (sandbox, _) = started(SandboxConfig {
        balance_sms: 67,
        ..SandboxConfig::default()
    })
    .await;
    let mut connection = Connection::open(&sandbox).await;
    let balance = connection
        .request("POST", "/v1/get-balance/json", &authenticated(json!({})))
        .await
        .json();
    assert_eq!(
        balance["response"]["balance"],
        json!({"amount": 10.586, "sms": 67})
    );
    let senders = connection
        .request("POST", "/v1/get-sender/json", &authenticated(json!({})))
        .await
        .json();
    assert_eq!(
        senders["response"]["senders"]["sender"],
        json!(["APITEST", "SANDBOX", "YOURBRAND"])
    );
}

#[tokio::test]
async fn accept_then_drop_writes_the_order_down_and_sends_not_a_byte() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults([Fault::next(1, FaultKind::AcceptDrop)]);
    assert!(matches!(
        send(&sandbox, "hello").await,
        Got::End { bytes: 0 }
    ));
    let entry = &handle.ledger()[0];
    assert_eq!(
        (entry.replied, entry.fault.as_deref()),
        (false, Some("accept-drop"))
    );
    assert_eq!(send(&sandbox, "hello").await.code(), 451);
}

#[tokio::test]
async fn accept_then_reset_looks_like_a_reset() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults([Fault::next(1, FaultKind::AcceptReset)]);
    assert!(matches!(send(&sandbox, "hello").await, Got::Reset));
    assert_eq!(handle.stats().accepted_unanswered, 1);
}

#[tokio::test]
async fn accept_then_stall_ends_without_a_byte_after_its_time() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults(["accept-stall:30ms".parse().expect("a fault")]);
    assert!(matches!(
        send(&sandbox, "hello").await,
        Got::End { bytes: 0 }
    ));
    assert_eq!(handle.ledger().len(), 1);
}

#[tokio::test]
async fn dropped_refused_and_unavailable_orders_are_never_accepted() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults(
        ["drop*1", "http:503*1", "http:429/7*1", "answer:402/400*1"]
            .map(|f| f.parse().expect("a fault")),
    );
    assert!(matches!(
        send(&sandbox, "hello").await,
        Got::End { bytes: 0 }
    ));
    assert_eq!(send(&sandbox, "hello").await.status(), 503);
    let throttled = send(&sandbox, "hello").await;
    assert_eq!(
        (throttled.status(), throttled.header("retry-after: 7")),
        (429, true)
    );
    assert!(throttled.json().get("response").is_none());
    let answered = send(&sandbox, "hello").await;
    assert_eq!((answered.status(), answered.code()), (400, 402));
    assert!(handle.ledger().is_empty());
    assert_eq!(handle.requests().len(), 4);
    assert_eq!(send(&sandbox, "hello").await.code(), 200);
}

#[tokio::test]
async fn refused_connections_end_before_anything_is_read() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let mut open = Connection::open(&sandbox).await;
    assert_eq!(
        open.request("POST", "/v1/send-sms/json", &order("first"))
            .await
            .code(),
        200
    );
    handle.set_faults([Fault::next(2, FaultKind::Refuse)]);
    let fresh = send(&sandbox, "second").await;
    assert!(
        matches!(fresh, Got::End { bytes: 0 } | Got::Reset),
        "{fresh:?}"
    );
    let reused = open
        .request("POST", "/v1/send-sms/json", &order("second"))
        .await;
    assert!(
        matches!(reused, Got::End { bytes: 0 } | Got::Reset),
        "{reused:?}"
    );
    assert_eq!(
        (handle.requests().len(), handle.stats().refused_connections),
        (1, 2)
    );
    assert_eq!(send(&sandbox, "second").await.code(), 200);
}

#[tokio::test]
async fn replies_are_spoiled_after_the_order_was_accepted() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    for (fault, check) in [
        (
            "accept-http:502",
            (|got: &Got| got.status() == 502 && got.header("content-type: text/html"))
                as fn(&Got) -> bool,
        ),
        (
            "accept-garbage",
            |got| matches!(got, Got::Reply { status: 200, body, .. } if serde_json::from_slice::<Value>(body).is_err()),
        ),
        (
            "accept-cut",
            |got| matches!(got, Got::Reply { status: 200, body, .. } if body.starts_with(b"{\"response\"")),
        ),
        (
            "accept-empty",
            |got| matches!(got, Got::Reply { status: 200, body, .. } if body.is_empty()),
        ),
        (
            "accept-cut-body",
            |got| matches!(got, Got::End { bytes } if *bytes > 100),
        ),
    ] {
        handle.set_faults([fault.parse().expect("a fault")]);
        let got = send(&sandbox, fault).await;
        assert!(check(&got), "{fault}: {got:?}");
    }
    assert_eq!(handle.ledger().len(), 5);
    assert!(handle.ledger().iter().all(|entry| !entry.replied));
}

#[tokio::test]
async fn a_held_reply_comes_when_it_is_released() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults(["accept-hold*1", "hold*1"].map(|f| f.parse().expect("a fault")));
    let mut after = Connection::open(&sandbox).await;
    after
        .write("POST", "/v1/send-sms/json", &order("after"))
        .await;
    assert!(handle.holds(1, SOON).await);
    assert_eq!(handle.ledger().len(), 1);
    let mut before = Connection::open(&sandbox).await;
    before
        .write("POST", "/v1/send-sms/json", &order("before"))
        .await;
    assert!(handle.holds(2, SOON).await);
    assert_eq!(
        handle.ledger().len(),
        1,
        "a request that is held is not looked at"
    );
    assert_eq!(
        handle.max_recipients_in_any_second(),
        2,
        "both have arrived"
    );
    handle.release();
    assert_eq!(
        (after.read().await.code(), before.read().await.code()),
        (200, 200)
    );
    assert_eq!((handle.ledger().len(), handle.held()), (2, 0));
}

#[tokio::test]
async fn a_late_order_is_accepted_although_the_client_has_gone() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults(["accept-late:100ms*1".parse().expect("a fault")]);
    let mut connection = Connection::open(&sandbox).await;
    connection
        .write("POST", "/v1/send-sms/json", &order("hello"))
        .await;
    let struck = async {
        while handle.faults()[0].struck == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, struck)
        .await
        .expect("the request arrives");
    drop(connection);
    assert_eq!(handle.ledger().len(), 0);
    assert!(handle.accepted(1, SOON).await);
    assert!(handle.ledger()[0].accepted_at - handle.ledger()[0].arrived_at >= 100_000);
}

#[tokio::test]
async fn a_schedule_with_seconds_is_ignored_and_the_ledger_says_so() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    for (text, at) in [
        ("seconds", "01/01/2099 12:00:00"),
        ("minutes", "01/01/2099 12:00"),
    ] {
        let mut order: Value = serde_json::from_str(&order(text)).expect("JSON");
        order["request"]["order"]["sendDateTime"] = json!(at);
        let got = Connection::open(&sandbox)
            .await
            .request("POST", "/v1/send-sms/json", &order.to_string())
            .await;
        assert_eq!(got.code(), 200);
    }
    let ledger = handle.ledger();
    assert!(ledger[0].schedule_ignored && ledger[0].send_at == ledger[0].accepted_at);
    assert!(!ledger[1].schedule_ignored && ledger[1].send_at > ledger[1].accepted_at);
}

#[tokio::test]
async fn a_full_second_is_noticed_and_throttled_on_request() {
    let (sandbox, handle) = started(SandboxConfig {
        rules: Rules {
            rate_limit: 2,
            over_rate: OverRate::Answer429,
            ..Rules::default()
        },
        ..SandboxConfig::default()
    })
    .await;
    let statuses =
        futures_util::future::join_all(["a", "b", "c"].map(|text| send(&sandbox, text))).await;
    assert_eq!(statuses.iter().filter(|got| got.status() == 429).count(), 1);
    assert_eq!(
        (
            handle.max_recipients_in_any_second(),
            handle.stats().over_rate
        ),
        (3, 1)
    );
    assert_eq!(handle.ledger().len(), 2);
}

#[tokio::test]
async fn accounts_are_apart() {
    let (sandbox, handle) = started(SandboxConfig {
        further_accounts: vec![("other-key".to_owned(), "other-hash".to_owned())],
        ..SandboxConfig::default()
    })
    .await;
    handle.set_faults([Fault::always(FaultKind::Answer {
        code: 402,
        http: None,
    })
    .on_account("other-key")]);
    let other = order("hello").replace("sandbox-", "other-");
    let mut connection = Connection::open(&sandbox).await;
    assert_eq!(
        connection
            .request("POST", "/v1/send-sms/json", &other)
            .await
            .code(),
        402
    );
    assert_eq!(
        connection
            .request("POST", "/v1/send-sms/json", &order("hello"))
            .await
            .code(),
        200
    );
    handle.clear_faults();
    assert_eq!(
        connection
            .request("POST", "/v1/send-sms/json", &other)
            .await
            .code(),
        200
    );
    assert_eq!(handle.ledger()[1].account, fingerprint("other-key"));
}

#[tokio::test]
async fn every_accepted_order_is_in_the_file_before_its_answer_and_a_second_run_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.jsonl");
    let config = SandboxConfig {
        ledger_file: Some(path.clone()),
        keep: Keep::CountsOnly,
        ..SandboxConfig::default()
    };
    let read = || -> Vec<LedgerEntry> {
        let text = std::fs::read_to_string(&path).expect("the file");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("an entry"))
            .collect()
    };
    let (sandbox, handle) = started(config.clone()).await;
    assert_eq!(send(&sandbox, "hello").await.code(), 200);
    assert_eq!((read().len(), handle.ledger().len()), (1, 0));
    sandbox.stop().await;

    let (sandbox, _) = started(config).await;
    assert_eq!(send(&sandbox, "hello").await.code(), 200);
    let ids: Vec<u64> = read()
        .iter()
        .map(|entry| entry.order_id.parse().expect("digits"))
        .collect();
    assert_eq!(ids[1], ids[0] + 1);
}

#[tokio::test]
async fn a_stopped_sandbox_ends_its_connections_and_frees_its_port() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.set_faults([Fault::always(FaultKind::AcceptStall(None))]);
    let address = sandbox.address();
    let mut connection = Connection::open(&sandbox).await;
    connection
        .write("POST", "/v1/send-sms/json", &order("hello"))
        .await;
    assert!(handle.accepted(1, SOON).await);
    sandbox.stop().await;
    assert!(matches!(
        connection.read().await,
        Got::End { bytes: 0 } | Got::Reset
    ));
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(
        handle.ledger().len(),
        1,
        "what was written down stays readable"
    );
}

#[tokio::test]
async fn a_sandbox_that_is_away_refuses_connections_and_comes_back_at_the_same_port() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let mut open = Connection::open(&sandbox).await;
    assert_eq!(
        open.request("POST", "/v1/send-sms/json", &order("first"))
            .await
            .code(),
        200
    );
    handle.go_away(Duration::from_millis(150)).await;
    let refused = TcpStream::connect(sandbox.address())
        .await
        .expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(matches!(open.read().await, Got::Reset));
    let back = async {
        while TcpStream::connect(sandbox.address()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, back)
        .await
        .expect("it comes back");
    assert_eq!(send(&sandbox, "second").await.code(), 200);
}

#[tokio::test]
async fn everything_can_be_steered_over_http() {
    let (sandbox, handle) = started(SandboxConfig {
        balance_sms: 0,
        ..SandboxConfig::default()
    })
    .await;
    assert_eq!(send(&sandbox, "hello").await.code(), 402);
    admin(&sandbox, "POST", "/_sandbox/topup", json!({"sms": 10})).await;
    assert_eq!(send(&sandbox, "hello").await.code(), 200);

    admin(
        &sandbox,
        "POST",
        "/_sandbox/senders",
        json!({"withdraw": ["SANDBOX"], "approve": ["NEWBRAND"]}),
    )
    .await;
    assert_eq!(send(&sandbox, "other").await.code(), 450);
    admin(
        &sandbox,
        "POST",
        "/_sandbox/senders",
        json!({"approve": ["SANDBOX"]}),
    )
    .await;

    let set = admin(
        &sandbox,
        "POST",
        "/_sandbox/faults",
        json!({"faults": ["answer:401*1?action=any"]}),
    )
    .await;
    assert_eq!(set["faults"][0]["left"], json!(1));
    assert_eq!(send(&sandbox, "other").await.code(), 401);
    let wrong = Connection::open(&sandbox)
        .await
        .request("POST", "/_sandbox/faults", r#"{"faults":["explode"]}"#)
        .await;
    assert_eq!(wrong.status(), 400);
    admin(&sandbox, "DELETE", "/_sandbox/faults", json!(null)).await;

    let rules =
        json!({"guard_window": "0ms", "reply": {"http_status": "always-200", "code": "string"}});
    admin(&sandbox, "POST", "/_sandbox/rules", rules).await;
    assert_eq!(
        send(&sandbox, "hello").await.json()["response"]["status"]["code"],
        json!("200")
    );
    let wrong = Connection::open(&sandbox)
        .await
        .request("POST", "/_sandbox/rules", r#"{"gravity":"off"}"#)
        .await;
    assert_eq!(wrong.status(), 400);

    let ledger = admin(
        &sandbox,
        "GET",
        "/_sandbox/ledger?text=ell&number=5321234567&limit=1",
        json!(null),
    )
    .await;
    assert_eq!(
        (&ledger["count"], &ledger["orders"][0]["text"]),
        (&json!(1), &json!("hello"))
    );
    let stats = admin(&sandbox, "GET", "/_sandbox/stats", json!(null)).await;
    assert_eq!(stats["stats"]["accepted_orders"], json!(2));
    assert_eq!(
        admin(&sandbox, "GET", "/_sandbox/requests", json!(null)).await["count"],
        json!(5)
    );

    admin(&sandbox, "POST", "/_sandbox/reset", json!(null)).await;
    assert_eq!(
        (
            handle.ledger().len(),
            handle.balance(),
            handle.rules().guard_window
        ),
        (0, 0, Duration::from_secs(600))
    );
}

#[tokio::test]
async fn how_a_message_ends_can_be_said_over_http() {
    let (sandbox, handle) = started(SandboxConfig {
        rules: Rules {
            delivery: "never".parse().expect("shares"),
            ..Rules::default()
        },
        ..SandboxConfig::default()
    })
    .await;
    let id = send(&sandbox, "hello").await.json()["response"]["order"]["id"].clone();
    let report = authenticated(json!({"id": id}));
    let mut connection = Connection::open(&sandbox).await;
    let mut status = async || {
        let got = connection
            .request("POST", "/v1/get-report/json", &report)
            .await;
        got.json()["response"]["order"]["message"][0]["status"].clone()
    };
    assert_eq!(status().await, json!(110));
    for (said, shown) in [("undelivered", 112), ("delivered", 111), ("refused", 112)] {
        let body = json!({"order_id": id, "status": said});
        let told = admin(&sandbox, "POST", "/_sandbox/deliver", body).await;
        assert_eq!(told["concerned"], json!(1));
        assert_eq!(status().await, json!(shown), "{said}");
    }
    for wrong in [
        json!({"order_id": 1, "status": "delivered"}),
        json!({"order_id": id, "number": "905329999999", "status": "delivered"}),
        json!({"order_id": id, "status": "lost"}),
        json!({"order_id": id, "number": "905321234567", "status": "refused"}),
    ] {
        let got = Connection::open(&sandbox)
            .await
            .request("POST", "/_sandbox/deliver", &wrong.to_string())
            .await;
        assert_eq!(got.status(), 400, "{wrong}");
    }
    assert_eq!(handle.deliver("nonsense", None, Fate::Delivered), 0);
}

#[tokio::test]
async fn the_next_order_meets_what_the_lists_were_changed_to() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let mut connection = Connection::open(&sandbox).await;
    let mut ask = async |action: &str, field: &str, value: Value| {
        let body = json!({"request": {
            "authentication": {"key": "sandbox-key", "hash": "sandbox-hash"}, field: value
        }});
        let path = format!("/v1/{action}/json");
        connection.request("POST", &path, &body.to_string()).await
    };
    let number = json!({"number": "5321234567"});
    assert_eq!(
        ask("add-blacklist", "blacklist", number.clone())
            .await
            .code(),
        200
    );
    assert_eq!(send(&sandbox, "blocked").await.code(), 452);
    let listed = ask("get-blacklist", "blacklist", json!({})).await.json();
    assert_eq!(
        listed["response"]["blacklist"],
        json!({"count": 1, "number": ["+905321234567"]})
    );
    assert_eq!(
        ask("delete-blacklist", "blacklist", number.clone())
            .await
            .code(),
        200
    );
    assert_eq!(
        ask("delete-blacklist", "blacklist", number).await.code(),
        474
    );
    assert_eq!(send(&sandbox, "free again").await.code(), 200);

    let refusal = json!({"brandCode": 1234, "list": [{
        "recipient": "+905321234567", "recipientType": "BIREYSEL", "type": "MESAJ", "status": "RET",
        "source": "HS_WEB", "consentDate": "2026-01-07 23:50:00"
    }]});
    assert_eq!(ask("consent/create", "consent", refusal).await.code(), 200);
    let marketing = json!({
        "sender": "SANDBOX", "iys": "1", "iysList": "BIREYSEL",
        "message": {"text": "only today", "receipents": {"number": ["905321234567"]}}
    });
    assert_eq!(ask("send-sms", "order", marketing).await.code(), 200);
    let ledger = handle.ledger();
    let last = ledger.last().expect("accepted");
    assert_eq!((last.numbers.len(), last.dropped.len()), (0, 1));
    assert_eq!(handle.requests_for(Action::ConsentCreate), 1);
    handle.reset();
    assert!(handle.rules().no_consent.is_empty());
}

#[tokio::test]
async fn the_test_sender_sends_a_fixed_text() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let body = order("hello").replace("SANDBOX", APITEST);
    let got = Connection::open(&sandbox)
        .await
        .request("POST", "/v1/send-sms/json", &body)
        .await;
    assert_eq!(got.code(), 200);
    let entry = &handle.ledger()[0];
    assert_eq!(
        (entry.text.as_str(), entry.sent_text.as_str()),
        ("hello", APITEST_TEXT)
    );
}

#[tokio::test]
async fn fifty_thousand_recipients_fit_into_one_order() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let numbers: Vec<String> = (0..50_000).map(|n| format!("90532{n:07}")).collect();
    let body = authenticated(json!({
        "sender": "SANDBOX", "iys": "0", "message": {"text": "hello", "receipents": {"number": numbers}}
    }));
    let got = Connection::open(&sandbox)
        .await
        .request("POST", "/v1/send-sms/json", &body)
        .await;
    assert_eq!(got.code(), 200);
    assert_eq!(handle.ledger()[0].numbers.len(), 50_000);
    assert_eq!(
        (
            handle.stats().max_bulk_at_once,
            handle.max_recipients_in_any_second()
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn a_sandbox_that_cannot_start_says_why() {
    let (sandbox, _) = started(SandboxConfig::default()).await;
    let taken = SandboxConfig {
        listen: sandbox.address(),
        ..SandboxConfig::default()
    };
    assert!(matches!(
        Sandbox::start(taken).await,
        Err(SandboxError::Listen { .. })
    ));
    let twice = SandboxConfig {
        further_accounts: vec![("sandbox-key".to_owned(), "x".to_owned())],
        ..SandboxConfig::default()
    };
    assert!(matches!(
        Sandbox::start(twice).await,
        Err(SandboxError::Accounts)
    ));
    let nowhere = SandboxConfig {
        ledger_file: Some("/nowhere/ledger".into()),
        ..SandboxConfig::default()
    };
    assert!(matches!(
        Sandbox::start(nowhere).await,
        Err(SandboxError::LedgerFile { .. })
    ));
}
