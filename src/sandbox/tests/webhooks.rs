//! What a receiver gets to see.

use std::collections::VecDeque;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use tokio::sync::watch;

use super::*;

/// A receiver of events that writes down what it gets.
struct Receiver {
    address: SocketAddr,
    seen: Arc<Seen>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    bodies: Mutex<Vec<Bytes>>,
    paths: Mutex<Vec<String>>,
    /// What the next requests are answered with; then 200.
    answers: Mutex<VecDeque<u16>>,
    count: watch::Sender<usize>,
    /// While it is set no request is answered.
    held: watch::Sender<bool>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Seen::default());
        let sees = Arc::clone(&seen);
        let app = Router::new().fallback(async move |uri: Uri, body: Bytes| {
            sees.bodies.lock().expect("whole").push(body);
            sees.paths
                .lock()
                .expect("whole")
                .push(uri.path().to_owned());
            sees.count.send_modify(|count| *count += 1);
            let mut held = sees.held.subscribe();
            held.wait_for(|held| !held).await.expect("it is ours");
            let answer = sees.answers.lock().expect("whole").pop_front();
            StatusCode::from_u16(answer.unwrap_or(200)).expect("a status")
        });
        let server = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("it serves");
        });
        Receiver {
            address,
            seen,
            server,
        }
    }

    fn url(&self) -> WebhookUrl {
        let url = format!("http://{}/webhooks/default/secret", self.address);
        url.parse().expect("an address")
    }

    fn answer(&self, statuses: &[u16]) {
        *self.seen.answers.lock().expect("whole") = statuses.iter().copied().collect();
    }

    fn hold(&self, held: bool) {
        self.seen.held.send_replace(held);
    }

    async fn has(&self, count: usize) {
        let mut seen = self.seen.count.subscribe();
        tokio::time::timeout(SOON, seen.wait_for(|seen| *seen >= count))
            .await
            .expect("soon")
            .expect("it is ours");
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.seen.bodies.lock().expect("whole").clone()
    }

    /// Message id and status of each event that could be read.
    fn events(&self) -> Vec<(i64, String)> {
        let event = |body: &Bytes| {
            let event: Value = serde_json::from_slice(body).ok()?;
            let report = &event["report"];
            Some((
                report["id"].as_i64()?,
                report["status"].as_str()?.to_owned(),
            ))
        };
        self.bodies().iter().filter_map(event).collect()
    }

    fn statuses(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .map(|(_, status)| status)
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A sandbox that tells this receiver of everything at once.
async fn telling(receiver: &Receiver, change: impl FnOnce(&mut Rules)) -> (Sandbox, SandboxHandle) {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    handle.change_rules(|rules| {
        rules.delivery_delay = Span::ZERO;
        rules.webhooks.url = Some(receiver.url());
        rules.webhooks.delay = Span::ZERO;
        rules.webhooks.retries = vec![Duration::from_millis(1); 2];
        change(rules);
    });
    (sandbox, handle)
}

async fn accepted(sandbox: &Sandbox, text: &str) -> String {
    let got = send(sandbox, text).await.json();
    let id = &got["response"]["order"]["id"];
    id.as_str().expect("accepted").to_owned()
}

#[tokio::test]
async fn a_message_is_told_of_when_it_is_accepted_and_when_it_has_arrived() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |_| {}).await;
    let id: i64 = accepted(&sandbox, "hello").await.parse().expect("digits");
    assert!(handle.told(2, SOON).await);
    let bodies: Vec<Value> = receiver
        .bodies()
        .iter()
        .map(|body| serde_json::from_slice(body).expect("JSON"))
        .collect();
    let event = |status: &str| {
        json!({"report": {
            "id": 1_599_558_518, "packet_id": id, "status": status, "to": "+905321234567", "body": "hello"
        }})
    };
    assert_eq!(bodies, [event("accepted"), event("delivered")]);
    // Byte by byte the documentation's sample, with other values.
    let sample = format!(
        r#"{{"report":{{"id":1599558518,"packet_id":{id},"status":"accepted","to":"+905321234567","body":"hello"}}}}"#
    );
    assert_eq!(receiver.bodies()[0], sample);
    assert_eq!(
        receiver.seen.paths.lock().expect("whole")[0],
        "/webhooks/default/secret"
    );
    let sent = handle.webhooks();
    assert_eq!((sent.len(), sent[0].answer), (2, Some(200)));
    assert!(!format!("{:?}", handle.rules()).contains("secret"));
}

#[tokio::test]
async fn ids_may_be_larger_than_32_bits_hold() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = started(SandboxConfig {
        first_order_id: 5_000_000_000,
        first_message_id: 6_000_000_000,
        ..SandboxConfig::default()
    })
    .await;
    handle.change_rules(|rules| rules.webhooks.url = Some(receiver.url()));
    assert_eq!(accepted(&sandbox, "hello").await, "5000000000");
    assert!(handle.told(1, SOON).await);
    let event: Value = serde_json::from_slice(&receiver.bodies()[0]).expect("JSON");
    assert_eq!(
        (&event["report"]["packet_id"], &event["report"]["id"]),
        (&json!(5_000_000_000_u64), &json!(6_000_000_000_u64))
    );
}

#[tokio::test]
async fn an_event_that_is_not_taken_is_sent_again_and_then_given_up_and_the_next_one_waits_for_that()
 {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |_| {}).await;
    receiver.answer(&[500, 503, 404]);
    accepted(&sandbox, "hello").await;
    assert!(handle.told_all(SOON).await);
    assert_eq!(
        receiver.statuses(),
        ["accepted", "accepted", "accepted", "delivered"]
    );
    let stats = handle.stats().webhooks;
    assert_eq!(
        (stats.requests, stats.failed, stats.given_up, stats.taken),
        (4, 3, 1, 1)
    );
}

#[tokio::test]
async fn a_receiver_that_is_silent_or_away_is_tried_again() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |rules| {
        rules.webhooks.timeout = Duration::from_millis(50);
    })
    .await;
    receiver.hold(true);
    accepted(&sandbox, "hello").await;
    receiver.has(2).await;
    receiver.hold(false);
    assert!(handle.told_all(SOON).await);
    assert!(handle.stats().webhooks.failed >= 1);

    let nowhere = "http://127.0.0.1:1/".parse().expect("an address");
    handle.change_rules(|rules| rules.webhooks.url = Some(nowhere));
    let before = handle.stats().webhooks.given_up;
    accepted(&sandbox, "into the void").await;
    assert!(handle.told_all(SOON).await);
    assert_eq!(handle.stats().webhooks.given_up, before + 2);
}

#[tokio::test]
async fn events_are_lost_repeated_reordered_and_spoiled_on_demand() {
    for (fault, statuses, whole) in [
        ("webhook-lost*1", &["delivered"][..], 1),
        (
            "webhook-repeated*1",
            &["accepted", "accepted", "delivered"],
            3,
        ),
        ("webhook-reordered", &["delivered", "accepted"], 2),
        ("webhook-delayed:20ms*1", &["accepted", "delivered"], 2),
        ("webhook-malformed*1", &["accepted", "delivered"], 2),
    ] {
        let receiver = Receiver::start().await;
        let (sandbox, handle) = telling(&receiver, |_| {}).await;
        if fault.starts_with("webhook-malformed") {
            receiver.answer(&[400]);
        }
        handle.set_faults([fault.parse().expect("a fault")]);
        accepted(&sandbox, "hello").await;
        assert!(handle.told_all(SOON).await);
        assert_eq!(receiver.statuses(), statuses, "{fault}");
        assert_eq!(receiver.events().len(), whole, "{fault}");
        assert_eq!(handle.faults()[0].struck, 1, "{fault}");
    }
}

#[tokio::test]
async fn a_forged_event_claims_the_opposite_of_what_the_report_says() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |rules| {
        rules.delivery = "undelivered".parse().expect("shares");
    })
    .await;
    accepted(&sandbox, "an order before").await;
    assert!(handle.told_all(SOON).await);
    handle.set_faults(["webhook-forged?text=hello".parse().expect("a fault")]);
    accepted(&sandbox, "hello").await;
    assert!(handle.told_all(SOON).await);
    let events = receiver.events().split_off(2);
    let true_id = events[0].0;
    let (true_ones, forged): (Vec<_>, Vec<_>) = events.iter().partition(|(id, _)| *id == true_id);
    let statuses = |events: Vec<&(i64, String)>| -> Vec<String> {
        events
            .into_iter()
            .map(|(_, status)| status.clone())
            .collect()
    };
    assert_eq!(statuses(true_ones), ["accepted", "undelivered"]);
    assert_eq!(statuses(forged), ["delivered", "delivered"]);
}

#[tokio::test]
async fn an_event_can_be_there_before_the_reply() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |_| {}).await;
    handle.set_faults(["webhook-before-reply".parse().expect("a fault")]);
    receiver.hold(true);
    let mut connection = Connection::open(&sandbox).await;
    connection
        .write("POST", "/v1/send-sms/json", &order("hello"))
        .await;
    receiver.has(1).await;
    assert_eq!(receiver.statuses(), ["accepted"]);
    let mut byte = [0; 1];
    let peek = connection.0.try_read(&mut byte);
    assert!(
        peek.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
        "no reply before the event was taken"
    );
    receiver.hold(false);
    assert_eq!(connection.read().await.code(), 200);
    assert!(handle.told(2, SOON).await);
}

#[tokio::test]
async fn what_somebody_says_of_a_message_is_told_at_once() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |rules| {
        rules.delivery_delay = "1h".parse().expect("a span");
    })
    .await;
    let id = accepted(&sandbox, "hello").await;
    assert_eq!(handle.deliver(&id, None, Fate::Undelivered), 1);
    assert!(handle.told(2, SOON).await);
    assert_eq!(handle.deliver(&id, Some("5321234567"), Fate::Delivered), 1);
    assert!(handle.told(3, SOON).await);
    assert_eq!(
        receiver.statuses(),
        ["accepted", "undelivered", "delivered"]
    );
}

#[tokio::test]
async fn an_order_that_is_not_dispatched_sends_no_more_events() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |_| {}).await;
    receiver.hold(true);
    let id = accepted(&sandbox, "hello").await;
    receiver.has(1).await;
    assert!(handle.refuse_order(&id));
    receiver.hold(false);
    assert!(handle.told_all(SOON).await);
    assert_eq!(receiver.statuses(), ["accepted"]);
}

#[tokio::test]
async fn any_event_can_be_sent_true_or_not() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let post = async |body: Value| {
        Connection::open(&sandbox)
            .await
            .request("POST", "/_sandbox/webhook", &body.to_string())
            .await
    };
    let id = accepted(&sandbox, "hello").await;
    let event = json!({"order_id": id, "status": "delivered", "times": 2});
    assert_eq!(post(event.clone()).await.status(), 400, "to nowhere");
    let url = String::from(receiver.url());
    let rules = json!({"webhooks": {"url": url, "operator_code": true}});
    admin(&sandbox, "POST", "/_sandbox/rules", rules).await;

    assert_eq!(post(event).await.status(), 200);
    assert!(handle.told(2, SOON).await);
    // An order from the panel, and one whose id does not fit into 32 bits.
    let panel =
        json!({"order_id": 9_999_999_999_i64, "number": "0532 123 45 67", "status": "accepted"});
    assert_eq!(post(panel).await.status(), 200);
    assert!(handle.told(3, SOON).await);
    let forged = json!({"order_id": id, "status": "delivered", "message_id": 5, "body": "other"});
    assert_eq!(post(forged).await.status(), 200);
    assert!(handle.told(4, SOON).await);
    let bodies = receiver.bodies();
    let report = |n: usize| -> Value {
        let event: Value = serde_json::from_slice(&bodies[n]).expect("JSON");
        event["report"].clone()
    };
    assert_eq!(report(0), report(1));
    assert_eq!(report(0)["body"], json!("hello B186"));
    assert_eq!(
        (&report(2)["packet_id"], &report(2)["to"]),
        (&json!(9_999_999_999_i64), &json!("+905321234567"))
    );
    assert_eq!(
        (&report(3)["id"], &report(3)["body"]),
        (&json!(5), &json!("other"))
    );
    assert_eq!(
        post(json!({"order_id": 1, "status": "delivered"}))
            .await
            .status(),
        400,
        "whose message?"
    );
    let listed = admin(&sandbox, "GET", "/_sandbox/webhooks", json!(null)).await;
    assert_eq!(listed["count"], json!(4));
    let stats = admin(&sandbox, "GET", "/_sandbox/stats", json!(null)).await;
    assert_eq!(stats["stats"]["webhooks"]["taken"], json!(4));
}

#[tokio::test]
async fn each_account_can_have_its_own_address() {
    let (first, second) = (Receiver::start().await, Receiver::start().await);
    let (sandbox, handle) = started(SandboxConfig {
        further_accounts: vec![("other-key".to_owned(), "other-hash".to_owned())],
        keep: Keep::CountsOnly,
        ..SandboxConfig::default()
    })
    .await;
    handle.change_rules(|rules| {
        rules.webhooks.url = Some(first.url());
        let other = fingerprint("other-key");
        rules.webhooks.accounts.insert(other, second.url());
        rules.delivery = "never".parse().expect("shares");
    });
    accepted(&sandbox, "hello").await;
    let other = order("hello").replace("sandbox-", "other-");
    let got = Connection::open(&sandbox)
        .await
        .request("POST", "/v1/send-sms/json", &other)
        .await;
    assert_eq!(got.code(), 200);
    assert!(handle.told(2, SOON).await);
    assert_eq!(
        (first.events().len(), second.events().len()),
        (1, 1),
        "events leave although no order is remembered"
    );
    assert!(handle.webhooks().is_empty());
}

#[tokio::test]
async fn each_message_of_a_large_order_is_told_of_in_its_order() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |rules| {
        rules.delivery = "undelivered@0.1,never@0.1".parse().expect("shares");
    })
    .await;
    let numbers: Vec<String> = (0..500).map(|n| format!("90532{n:07}")).collect();
    let body = authenticated(json!({
        "sender": "SANDBOX", "iys": "0", "message": {"text": "hello", "receipents": {"number": numbers}}
    }));
    let got = Connection::open(&sandbox)
        .await
        .request("POST", "/v1/send-sms/json", &body)
        .await;
    assert_eq!(got.code(), 200);
    assert!(handle.told_all(SOON).await);
    let mut by_message: std::collections::BTreeMap<i64, Vec<String>> = Default::default();
    for (id, status) in receiver.events() {
        by_message.entry(id).or_default().push(status);
    }
    assert_eq!(by_message.len(), 500);
    assert!(by_message.values().all(|told| told[0] == "accepted"));
    let report = authenticated(json!({"id": handle.ledger()[0].order_id}));
    let told = Connection::open(&sandbox)
        .await
        .request("POST", "/v1/get-report/json", &report)
        .await
        .json();
    let count = |status: &str| {
        let told = by_message.values().map(|told| told.get(1));
        told.filter(|last| last.is_some_and(|last| last == status))
            .count()
    };
    let order = &told["response"]["order"];
    assert_eq!(order["delivered"], json!(count("delivered")));
    assert_eq!(order["undelivered"], json!(count("undelivered")));
    let silent = by_message.values().filter(|told| told.len() == 1).count();
    assert_eq!(order["waiting"], json!(silent));
}

#[tokio::test]
async fn the_same_seed_loses_the_same_events() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let receiver = Receiver::start().await;
        let (sandbox, handle) = started(SandboxConfig {
            seed,
            ..SandboxConfig::default()
        })
        .await;
        handle.change_rules(|rules| {
            rules.delivery_delay = Span::ZERO;
            rules.webhooks.url = Some(receiver.url());
            rules.webhooks.delay = "1ms-20ms".parse().expect("a span");
        });
        handle.set_faults(["webhook-lost@0.3".parse().expect("a fault")]);
        let numbers: Vec<String> = (0..100).map(|n| format!("90532{n:07}")).collect();
        let body = authenticated(json!({
            "sender": "SANDBOX", "iys": "0", "message": {"text": "hello", "receipents": {"number": numbers}}
        }));
        let got = Connection::open(&sandbox)
            .await
            .request("POST", "/v1/send-sms/json", &body)
            .await;
        assert_eq!(got.code(), 200);
        assert!(handle.told_all(SOON).await);
        let mut events = receiver.events();
        events.sort();
        assert!((100..180).contains(&events.len()), "{}", events.len());
        runs.push(events);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn a_reset_forgets_the_events_that_wait() {
    let receiver = Receiver::start().await;
    let (sandbox, handle) = telling(&receiver, |_| {}).await;
    receiver.hold(true);
    accepted(&sandbox, "hello").await;
    receiver.has(1).await;
    handle.reset();
    receiver.hold(false);
    assert!(handle.told_all(SOON).await);
    assert_eq!(receiver.statuses(), ["accepted"]);
}
