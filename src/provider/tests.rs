//! Against raw sockets on loopback, because most of what matters is what a well-behaved server never does.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    lifecycle::{OrderId, PauseScope},
    message::{ForeignNumbers, IysList},
};

/// What the server does with one request it has read.
#[derive(Clone)]
enum Step {
    Answer(String),
    AnswerAndClose(String),
    /// Closes an instant later, which is about when the next request comes.
    AnswerAndCloseSoon(String),
    Close,
    Stall,
    /// Writes, and then neither goes on nor closes.
    AnswerAndStall(String),
}

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Takes one step per request, in order; the last one again and again.
    async fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let steps = Arc::new(Mutex::new(steps.into_iter().collect::<VecDeque<_>>()));
        let (seen, counted) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *counted.lock().unwrap() += 1;
                tokio::spawn(serve(stream, Arc::clone(&steps), Arc::clone(&seen)));
            }
        });
        Self {
            address,
            requests,
            connections,
            task,
        }
    }

    async fn answering(reply: String) -> Self {
        Self::start([Step::Answer(reply)]).await
    }

    fn provider(&self) -> Provider {
        Provider::new(self.config()).unwrap()
    }

    fn config(&self) -> ProviderConfig {
        config(&format!("http://{}", self.address))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    steps: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push(request);
        let step = {
            let mut steps = steps.lock().unwrap();
            if steps.len() > 1 {
                steps.pop_front().unwrap()
            } else {
                steps[0].clone()
            }
        };
        match step {
            Step::Answer(reply) => stream.write_all(reply.as_bytes()).await.unwrap(),
            Step::AnswerAndClose(reply) => {
                stream.write_all(reply.as_bytes()).await.unwrap();
                return;
            }
            Step::AnswerAndCloseSoon(reply) => {
                stream.write_all(reply.as_bytes()).await.unwrap();
                let instants = seen.lock().unwrap().len() % 40;
                for _ in 0..instants {
                    tokio::task::yield_now().await;
                }
                return;
            }
            Step::Close => return,
            Step::Stall => std::future::pending().await,
            Step::AnswerAndStall(reply) => {
                stream.write_all(reply.as_bytes()).await.unwrap();
                std::future::pending().await
            }
        }
    }
}

/// One whole request; `None` when the connection ends before it is whole.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn http(status: u16, body: &str) -> String {
    http_with(status, "", body)
}

fn http_with(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn accepted(id: u32) -> String {
    http(
        200,
        &format!(
            r#"{{"response":{{"status":{{"code":200,"message":"İşlem başarılı"}},"order":{{"id":"{id}"}}}}}}"#
        ),
    )
}

fn status(code: u16) -> String {
    format!(r#"{{"response":{{"status":{{"code":{code},"message":"m"}}}}}}"#)
}

fn config(base_url: &str) -> ProviderConfig {
    ProviderConfig {
        base_url: base_url.to_owned(),
        request_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(10),
        reuse_connections: true,
        user_agent: "sms-outbox/test".to_owned(),
    }
}

/// With a timeout that a test can wait for.
fn impatient(base_url: &str) -> ProviderConfig {
    ProviderConfig {
        request_timeout: Duration::from_millis(300),
        ..config(base_url)
    }
}

fn credentials() -> Credentials {
    Credentials::new("the-key".into(), "the-hash".into())
}

fn number() -> Recipient {
    Recipient::parse("0532 123 45 67", ForeignNumbers::Refused).unwrap()
}

async fn send(provider: &Provider) -> Observation {
    send_text(provider, "Kodunuz: 4711").await
}

async fn send_text(provider: &Provider, body: &str) -> Observation {
    let order = Order {
        sender: "BRAND",
        recipients: &[number()],
        body,
        iys: Iys::Transactional,
        send_at: None,
        not_after: None,
        slot_ends: None,
    };
    place(provider, &order).await
}

/// At any time.
async fn place(provider: &Provider, order: &Order<'_>) -> Observation {
    let never = || std::future::pending::<Result<Moment, Infallible>>();
    let Ok(outcome) = provider.send(&credentials(), order, never).await;
    outcome
}

#[track_caller]
fn assert_not_sent(outcome: &Observation, class: ErrorClass) {
    match &outcome.verdict {
        Verdict::NotSent(failure) => {
            assert_eq!(failure.class, class, "{failure:?}");
            assert!(
                failure.message.starts_with("The request was not sent: "),
                "{failure:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome.progress, Progress::NotSent);
    assert_eq!((outcome.http_status, outcome.code), (None, None));
}

#[track_caller]
fn assert_indeterminate(outcome: &Observation, class: ErrorClass, progress: Progress) {
    match &outcome.verdict {
        Verdict::Indeterminate(failure) => assert_eq!(failure.class, class, "{failure:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome.progress, progress);
}

#[tokio::test]
async fn an_order_leaves_exactly_as_documented() {
    let server = Server::answering(accepted(312_891_245)).await;
    let outcome = send(&server.provider()).await;
    assert_eq!(
        outcome.verdict,
        Verdict::Accepted(OrderId::parse("312891245"))
    );
    assert_eq!((outcome.http_status, outcome.code), (Some(200), Some(200)));
    assert_eq!(outcome.progress, Progress::Answered);

    let body = r#"{"request":{"authentication":{"key":"the-key","hash":"the-hash"},"order":{"sender":"BRAND","iys":"0","message":{"text":"Kodunuz: 4711","receipents":{"number":["905321234567"]}}}}}"#;
    let expected = format!(
        "POST /v1/send-sms/json HTTP/1.1\r\ncontent-type: application/json\r\naccept: */*\r\nuser-agent: sms-outbox/test\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    assert_eq!(server.requests(), [expected]);
}

#[tokio::test]
async fn a_scheduled_marketing_order_carries_its_list_and_its_moment() {
    let server = Server::answering(accepted(1)).await;
    let order = Order {
        sender: "Brand Two",
        recipients: &[
            number(),
            Recipient::parse("+4917112345678", ForeignNumbers::Allowed).unwrap(),
        ],
        body: "İndirim \"yarın\"\nbaşlıyor",
        iys: Iys::Commercial(IysList::Individual),
        send_at: Some("2026-05-01T09:00:01Z".parse().unwrap()),
        not_after: None,
        slot_ends: None,
    };
    place(&server.provider(), &order).await;
    let requests = server.requests();
    let (_, body) = requests[0].split_once("\r\n\r\n").unwrap();
    let sent: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({"request": {
        "authentication": {"key": "the-key", "hash": "the-hash"},
        "order": {
            "sender": "Brand Two",
            "iys": "1",
            "iysList": "BIREYSEL",
            "sendDateTime": "01/05/2026 12:01",
            "message": {
                "text": "İndirim \"yarın\"\nbaşlıyor",
                "receipents": {"number": ["905321234567", "+4917112345678"]},
            },
        },
    }});
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn fifty_thousand_recipients_leave_in_one_request() {
    let server = Server::answering(accepted(1)).await;
    let numbers: Vec<Recipient> = (0..50_000)
        .map(|n| Recipient::parse(&format!("0532{n:07}"), ForeignNumbers::Refused).unwrap())
        .collect();
    let order = Order {
        sender: "BRAND",
        recipients: &numbers,
        body: "x",
        iys: Iys::Transactional,
        send_at: None,
        not_after: None,
        slot_ends: None,
    };
    let outcome = place(&server.provider(), &order).await;
    assert_eq!(outcome.verdict, Verdict::Accepted(OrderId::parse("1")));
    assert!(server.requests()[0].ends_with(r#""905320049999"]}}}}}"#));
}

/// An order whose slot was over before anyone could connect.
fn late(recipients: &[Recipient]) -> Order<'_> {
    Order {
        sender: "BRAND",
        recipients,
        body: "x",
        iys: Iys::Transactional,
        send_at: None,
        not_after: None,
        slot_ends: Some(Moment::now().before(Duration::from_millis(1))),
    }
}

#[tokio::test]
async fn an_order_that_missed_its_slot_leaves_in_the_next_one_on_the_same_connection() {
    let server = Server::answering(accepted(1)).await;
    let asked = AtomicUsize::new(0);
    // The second one is over before it is used, too.
    let another = async || {
        let over = asked.fetch_add(1, Ordering::SeqCst) == 0;
        let now = Moment::now();
        Ok::<_, Infallible>(if over {
            now.before(Duration::from_millis(1))
        } else {
            now + Duration::from_secs(60)
        })
    };
    let recipients = [number()];
    let order = late(&recipients);
    let Ok(outcome) = server
        .provider()
        .send(&credentials(), &order, &another)
        .await;
    assert_eq!(outcome.verdict, Verdict::Accepted(OrderId::parse("1")));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(*server.connections.lock().unwrap(), 1);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_order_that_gets_no_other_slot_has_not_left() {
    let server = Server::answering(accepted(1)).await;
    let recipients = [number()];
    let order = late(&recipients);
    let provider = server.provider();
    let refused = provider
        .send(&credentials(), &order, async || Err("too late"))
        .await;
    assert_eq!(refused, Err("too late"));
    // The connection it had is of no use to the next one.
    send(&provider).await;
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_a_server_says_before_the_order_has_left_is_no_answer_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        stream.write_all(http(408, "").as_bytes()).await.unwrap();
        // Nothing comes after that but the end.
        stream.read_to_end(&mut seen).await.ok();
        seen
    });
    let recipients = [number()];
    let order = late(&recipients);
    let never = || std::future::pending::<Result<Moment, Infallible>>();
    let provider = Provider::new(config(&url)).unwrap();
    let Ok(outcome) = provider.send(&credentials(), &order, never).await;
    assert_not_sent(&outcome, ErrorClass::Network);
    assert!(server.await.unwrap().ends_with(b"\r\n\r\n"));
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Server::answering(accepted(1)).await;
        let location = format!(
            "location: http://{}/v1/send-sms/json\r\n",
            elsewhere.address
        );
        let server = Server::answering(http_with(status, &location, "")).await;
        let outcome = send(&server.provider()).await;
        match outcome.verdict {
            Verdict::Blocked { scope, failure } => {
                assert_eq!(scope, PauseScope::Account);
                assert_eq!(failure.class, ErrorClass::Account);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.requests().len(), 1);
        assert_eq!(elsewhere.requests().len(), 0);
    }
}

#[tokio::test]
async fn no_answer_whatever_makes_a_second_request() {
    for (http_status, headers) in [
        (200, ""),
        (408, "connection: close\r\n"),
        (421, ""),
        (425, ""),
        (429, "retry-after: 0\r\n"),
        (500, ""),
        (502, ""),
        (503, "retry-after: 0\r\n"),
        (504, ""),
    ] {
        let server = Server::answering(http_with(http_status, headers, "<html>")).await;
        let outcome = send(&server.provider()).await;
        assert_eq!(outcome.http_status, Some(http_status));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn the_code_in_the_body_is_read_under_unheard_of_http_statuses() {
    for (http_status, code, expected) in [
        (451, 451, Some(Verdict::Duplicate)),
        (400, 451, Some(Verdict::Duplicate)),
        (200, 451, Some(Verdict::Duplicate)),
        (200, 200, Some(Verdict::Accepted(None))),
        (200, 401, None),
        (999, 466, None),
    ] {
        let server = Server::answering(http(http_status, &status(code))).await;
        let outcome = send(&server.provider()).await;
        assert_eq!(outcome.http_status, Some(http_status));
        assert_eq!(outcome.code, Some(i32::from(code)));
        match expected {
            Some(verdict) => assert_eq!(outcome.verdict, verdict),
            None => assert!(
                matches!(
                    outcome.verdict,
                    Verdict::Blocked { .. } | Verdict::Refused(_)
                ),
                "{outcome:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_wish_to_wait_is_taken_from_the_header_by_the_servers_clock() {
    for (headers, expected) in [
        ("retry-after: 7\r\n", Some(7)),
        (
            "date: Sun, 22 Nov 2020 12:00:00 GMT\r\nretry-after: Sun, 22 Nov 2020 12:01:30 GMT\r\n",
            Some(90),
        ),
        ("retry-after: later\r\n", None),
        ("", None),
    ] {
        let server = Server::answering(http_with(429, headers, "")).await;
        match send(&server.provider()).await.verdict {
            Verdict::Throttled { retry_after, .. } => {
                assert_eq!(retry_after, expected.map(Duration::from_secs), "{headers}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refused_connection_was_surely_not_sent() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let outcome = send(&Provider::new(config(&url)).unwrap()).await;
    assert_not_sent(&outcome, ErrorClass::Network);
    let Verdict::NotSent(failure) = outcome.verdict else {
        unreachable!("asserted above")
    };
    assert!(failure.message.contains("refused"), "{}", failure.message);
    assert!(!failure.message.contains("http://"), "{}", failure.message);
}

#[tokio::test]
async fn a_name_that_nobody_knows_was_surely_not_sent() {
    let provider = Provider::new(config("http://no-such-host.invalid")).unwrap();
    let outcome = send(&provider).await;
    assert!(
        matches!(outcome.verdict, Verdict::NotSent(_)),
        "{outcome:?}"
    );
    assert_eq!(outcome.progress, Progress::NotSent);
}

/// A client that speaks TLS to `address`, without needing root certificates on the machine that runs the test.
fn over_tls(address: SocketAddr, config: ProviderConfig) -> Provider {
    let base = base_url(&format!("https://{address}")).unwrap();
    let plain = base_url("http://localhost").unwrap();
    Provider::build(config, base, tls(&plain).unwrap()).unwrap()
}

#[tokio::test]
async fn a_failed_tls_handshake_was_surely_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 This is no TLS\r\n\r\n")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
    });
    let outcome = send(&over_tls(address, config(""))).await;
    assert_not_sent(&outcome, ErrorClass::Network);
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_not_ready_in_time_was_surely_not_sent() {
    // Nobody accepts, so TCP connects (the backlog) and TLS never does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let by_connect_timeout = ProviderConfig {
        connect_timeout: Duration::from_millis(200),
        ..config("")
    };
    assert_not_sent(
        &send(&over_tls(address, by_connect_timeout)).await,
        ErrorClass::Timeout,
    );
    // The total timeout ends first: no word of connecting is in the library's error then.
    assert_not_sent(
        &send(&over_tls(address, impatient(""))).await,
        ErrorClass::Timeout,
    );
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_indeterminate() {
    let server = Server::start([Step::Close]).await;
    let outcome = send(&server.provider()).await;
    assert_indeterminate(&outcome, ErrorClass::Network, Progress::MaybeSent);
    assert_eq!(outcome.http_status, None);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_indeterminate() {
    let server = Server::start([Step::Stall]).await;
    let url = format!("http://{}", server.address);
    let outcome = send(&Provider::new(impatient(&url)).unwrap()).await;
    assert_indeterminate(&outcome, ErrorClass::Timeout, Progress::MaybeSent);
    assert!(
        outcome.duration >= Duration::from_millis(300),
        "{outcome:?}"
    );
    assert!(outcome.duration < Duration::from_secs(5), "{outcome:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_that_never_reads_is_indeterminate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let provider = Provider::new(impatient(&url)).unwrap();
    assert_indeterminate(
        &send(&provider).await,
        ErrorClass::Timeout,
        Progress::MaybeSent,
    );
    // Larger than what the kernel takes: the request surely is not whole, but that is not ours to know.
    let long = "x".repeat(32 * 1024 * 1024);
    let outcome = send_text(&provider, &long).await;
    assert_indeterminate(&outcome, ErrorClass::Timeout, Progress::MaybeSent);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_indeterminate() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"response\":{\"status\":{\"code\":20";
    for (step, class) in [
        (Step::AnswerAndClose(head.to_owned()), ErrorClass::Network),
        (Step::AnswerAndStall(head.to_owned()), ErrorClass::Timeout),
    ] {
        let server = Server::start([step]).await;
        let url = format!("http://{}", server.address);
        let outcome = send(&Provider::new(impatient(&url)).unwrap()).await;
        assert_indeterminate(&outcome, class, Progress::Answered);
        assert_eq!(outcome.http_status, Some(200));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let server = Server::answering(http(200, &"x".repeat(3 * LONGEST_BODY))).await;
    let outcome = send(&server.provider()).await;
    assert_indeterminate(&outcome, ErrorClass::Unknown, Progress::Answered);
}

#[tokio::test]
async fn what_is_no_http_is_indeterminate() {
    let server = Server::start([Step::AnswerAndClose("SSH-2.0-OpenSSH\r\n".to_owned())]).await;
    let outcome = send(&server.provider()).await;
    assert_indeterminate(&outcome, ErrorClass::Network, Progress::MaybeSent);
}

#[tokio::test]
async fn connections_are_kept_unless_told_otherwise() {
    for (reuse_connections, expected) in [(true, 1), (false, 5)] {
        let server = Server::answering(accepted(1)).await;
        let provider = Provider::new(ProviderConfig {
            reuse_connections,
            ..server.config()
        })
        .unwrap();
        for _ in 0..5 {
            send(&provider).await;
            // The connection goes back to the pool when its task has seen the end of the answer.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(*server.connections.lock().unwrap(), expected);
        assert_eq!(server.requests().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_under_the_next_request_never_doubles_it() {
    // The server promises to keep each connection, and closes it: behind the answer, an instant later, or when the next
    // request has arrived.
    let steps = [
        Step::AnswerAndClose(accepted(1)),
        Step::AnswerAndCloseSoon(accepted(1)),
        Step::AnswerAndCloseSoon(accepted(1)),
        Step::Answer(accepted(1)),
        Step::Close,
    ];
    let server = Server::start(steps.into_iter().cycle().take(1_000)).await;
    let provider = server.provider();
    let mut outcomes = HashMap::new();
    for n in 0..800 {
        let text = format!("text number {n}.");
        let outcome = send_text(&provider, &text).await;
        outcomes.insert(text, outcome);
    }
    let requests = server.requests();
    for (text, outcome) in outcomes {
        let arrived = requests
            .iter()
            .filter(|request| request.contains(&text))
            .count();
        match outcome.verdict {
            Verdict::Accepted(_) => assert_eq!(arrived, 1, "{text}"),
            Verdict::NotSent(_) => assert_eq!(arrived, 0, "{text}"),
            Verdict::Indeterminate { .. } => assert!(arrived <= 1, "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_at_the_very_moment_of_sending_is_never_called_not_sent() {
    // The timeout falls into the connecting, the writing or the waiting, wherever it likes.
    let server = Server::answering(accepted(1)).await;
    for n in 0u64..200 {
        let provider = Provider::new(ProviderConfig {
            request_timeout: Duration::from_millis(n % 5),
            ..server.config()
        })
        .unwrap();
        let text = format!("text number {n}.");
        let outcome = send_text(&provider, &text).await;
        if let Verdict::NotSent(_) = outcome.verdict {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let arrived = server
                .requests()
                .iter()
                .any(|request| request.contains(&text));
            assert!(!arrived, "{n}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn the_balance_is_read_as_numbers_or_text() {
    for (balance, amount, sms) in [
        (r#"{"amount":10.584,"sms":67}"#, Some(10.584), Some(67.0)),
        (
            r#"{"amount":"0,0372","sms":"18343"}"#,
            Some(0.0372),
            Some(18343.0),
        ),
        (r#"{"sms":"0"}"#, None, Some(0.0)),
        ("null", None, None),
    ] {
        let body = format!(r#"{{"response":{{"status":{{"code":"200"}},"balance":{balance}}}}}"#);
        let server = Server::answering(http(200, &body)).await;
        let read = server.provider().balance(&credentials()).await.unwrap();
        assert_eq!(read, Balance { amount, sms });
        let requests = server.requests();
        assert!(requests[0].starts_with("POST /v1/get-balance/json HTTP/1.1\r\n"));
        assert!(
            requests[0]
                .ends_with(r#"{"request":{"authentication":{"key":"the-key","hash":"the-hash"}}}"#)
        );
    }
}

#[tokio::test]
async fn senders_are_a_list_or_a_single_name() {
    for (senders, expected) in [
        (
            r#"{"sender":["BRAND","Brand Two"]}"#,
            &["BRAND", "Brand Two"][..],
        ),
        (r#"{"sender":"BRAND"}"#, &["BRAND"]),
        (r#"{"sender":[]}"#, &[]),
        ("null", &[]),
    ] {
        let body = format!(r#"{{"response":{{"status":{{"code":200}},"senders":{senders}}}}}"#);
        let server = Server::answering(http(200, &body)).await;
        assert_eq!(
            server.provider().senders(&credentials()).await.unwrap(),
            expected
        );
        assert!(server.requests()[0].starts_with("POST /v1/get-sender/json HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn a_call_that_fails_says_whose_failure_it_is() {
    let server = Server::answering(http(401, &status(401))).await;
    let error = server.provider().balance(&credentials()).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::Auth);
    assert_eq!(error.failure.code, Some(401));
    assert_eq!(error.http_status, Some(401));
    assert!(error.to_string().contains("API access"), "{error}");

    let server = Server::start([Step::Close]).await;
    let error = server.provider().senders(&credentials()).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::Network);
    assert_eq!(error.http_status, None);
}

#[tokio::test]
async fn nothing_that_is_kept_or_shown_repeats_what_was_sent() {
    let echo = r#"{"response":{"status":{"code":422,"message":"key the-key, hash the-hash, text Kodunuz: 4711, to +90 532 123 45 67"},"errors":{"905321234567":"Kodunuz: 4711"}}}"#;
    let server = Server::answering(http(422, echo)).await;
    let provider = server.provider();
    let recipients = [number()];
    let order = Order {
        sender: "BRAND",
        recipients: &recipients,
        body: "Kodunuz: 4711",
        iys: Iys::Transactional,
        send_at: None,
        not_after: None,
        slot_ends: None,
    };
    let outcome = place(&provider, &order).await;
    let error = provider.balance(&credentials()).await.unwrap_err();
    let shown = format!(
        "{provider:?} {:?} {order:?} {outcome:?} {:?}",
        credentials(),
        error.http_status
    );
    for secret in ["the-key", "the-hash", "4711", "532123", "532 123"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn an_address_is_taken_in_every_form_that_people_paste() {
    for (text, path) in [
        ("https://api.iletimerkezi.com", "/v1/send-sms/json"),
        ("https://api.iletimerkezi.com/", "/v1/send-sms/json"),
        (" https://api.iletimerkezi.com/v1/ ", "/v1/send-sms/json"),
        ("http://127.0.0.1:8080/sandbox", "/sandbox/v1/send-sms/json"),
        (
            "http://127.0.0.1:8080/sandbox/v1",
            "/sandbox/v1/send-sms/json",
        ),
    ] {
        let mut url = base_url(text).unwrap();
        url.set_path(&format!(
            "{}{}",
            url.path().trim_end_matches('/'),
            wire::SEND_SMS
        ));
        assert_eq!(url.path(), path, "{text}");
    }
    for text in [
        "",
        "api.iletimerkezi.com",
        "ftp://api.iletimerkezi.com",
        "https://",
        "https://api.iletimerkezi.com/?key=s3cret",
        "https://user:s3cret@api.iletimerkezi.com",
        "https://user:s3cret@bad host/",
    ] {
        let error = Provider::new(config(text)).unwrap_err();
        assert!(
            matches!(error, ProviderError::Address { .. }),
            "{text}: {error:?}"
        );
        if text.contains('@') {
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }
}

#[test]
fn plain_http_to_another_machine_exposes_what_is_sent() {
    for (url, warned) in [
        ("http://127.0.0.1:8080", false),
        ("http://localhost:8080", false),
        ("http://[::1]:8080", false),
        ("http://api.iletimerkezi.com", true),
        ("http://192.168.1.5", true),
    ] {
        let provider = Provider::new(config(url)).unwrap();
        assert_eq!(provider.exposed().is_some(), warned, "{url}");
    }
}
