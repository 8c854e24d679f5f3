//! A stand-in for the provider: HTTP/1.1 on a bare socket, so that it can misbehave in every way a server can.
//!
//! It says what it is told to say and remembers every request with the moment it came. It has no rules of its own: a test
//! states what the provider does, in one closure. The moments are those at which the kernel received the last byte of a
//! request, and not those at which a busy test got round to reading it.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{Backlog, ControlMessageOwned, MsgFlags, listen, recvmsg};
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimestampns};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const SEND: &str = "/v1/send-sms/json";
pub const BALANCE: &str = "/v1/get-balance/json";
pub const SENDERS: &str = "/v1/get-sender/json";

/// Longer than anything takes on a busy machine, shorter than anyone's patience.
const DEADLINE: Duration = Duration::from_secs(30);

/// What came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number among the requests to the same path, from 1.
    pub n: usize,
    pub path: String,
    /// Method, path and headers, as they came.
    pub head: String,
    /// The body, byte by byte.
    pub raw: Vec<u8>,
    pub json: Value,
    /// When all of it was there.
    pub arrived: Instant,
}

impl Request {
    pub fn order(&self) -> &Value {
        &self.json["request"]["order"]
    }

    pub fn text(&self) -> &str {
        self.order()["message"]["text"].as_str().unwrap_or_default()
    }

    pub fn sender(&self) -> &str {
        self.order()["sender"].as_str().unwrap_or_default()
    }

    pub fn key(&self) -> &str {
        self.json["request"]["authentication"]["key"]
            .as_str()
            .unwrap_or_default()
    }

    pub fn hash(&self) -> &str {
        self.json["request"]["authentication"]["hash"]
            .as_str()
            .unwrap_or_default()
    }

    pub fn numbers(&self) -> Vec<&str> {
        let numbers = self.order()["message"]["receipents"]["number"].as_array();
        numbers.map_or_else(Vec::new, |all| {
            all.iter().filter_map(Value::as_str).collect()
        })
    }
}

/// What goes back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer.
    Whole {
        http: u16,
        headers: String,
        body: Vec<u8>,
    },
    /// An answer whose body ends before its `ContentKey-Length` does.
    Cut { http: u16, body: Vec<u8> },
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// The end of the connection without a byte.
    Hangup,
    /// Nothing, for as long as the other side waits.
    Silence,
    /// These bytes, and then nothing for as long as the other side waits.
    Stall(Vec<u8>),
    /// A whole answer, of whose body one byte a second comes.
    Trickle { http: u16, body: Vec<u8> },
    /// Nothing until the hold is released, and then this.
    Held(Hold, Box<Reply>),
}

impl Reply {
    pub fn json(http: u16, body: &Value) -> Self {
        Self::text(http, &body.to_string())
    }

    pub fn text(http: u16, body: &str) -> Self {
        Self::Whole {
            http,
            headers: String::new(),
            body: body.as_bytes().to_vec(),
        }
    }

    /// HTTP 200, code 200, and this order id as it stands.
    pub fn accepted(order: impl Into<Value>) -> Self {
        let order: Value = order.into();
        Self::json(
            200,
            &json!({"response": {"status": {"code": 200, "message": "İşlem başarılı"}, "order": {"id": order}}}),
        )
    }

    /// A code without an order, as number or as text, under any HTTP status.
    pub fn code(http: u16, code: impl Into<Value>) -> Self {
        let code: Value = code.into();
        Self::json(
            http,
            &json!({"response": {"status": {"code": code, "message": "olmadı"}}}),
        )
    }

    pub fn with_header(self, name: &str, value: &str) -> Self {
        match self {
            Self::Whole {
                http,
                headers,
                body,
            } => Self::Whole {
                http,
                headers: format!("{headers}{name}: {value}\r\n"),
                body,
            },
            other => other,
        }
    }

    pub fn held(self, hold: &Hold) -> Self {
        Self::Held(hold.clone(), Box::new(self))
    }
}

/// Keeps replies back until it is released, all at once.
#[derive(Clone, Debug, Default)]
pub struct Hold(CancellationToken);

impl Hold {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn release(&self) {
        self.0.cancel();
    }
}

type Script = Box<dyn FnMut(&Request) -> Reply + Send>;

struct Shared {
    requests: Mutex<Vec<Request>>,
    script: Mutex<Script>,
    connections: AtomicUsize,
    /// Whether connections are closed as soon as they are accepted.
    shut: AtomicBool,
    count: watch::Sender<usize>,
    end: CancellationToken,
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running stand-in. It ends with this value.
pub struct FakeProvider {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Connections that were made only to fill a queue.
    uncounted: AtomicUsize,
    thread: Option<thread::JoinHandle<()>>,
}

impl FakeProvider {
    /// Takes every order, and answers questions about balance and senders (`BRAND` is approved).
    pub fn start() -> Self {
        Self::scripted(healthy)
    }

    /// Answers as `script` says. [`healthy`] is what a provider without a fault would say.
    pub fn scripted(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script)
    }

    /// As [`scripted`](Self::scripted), on an address that was refused until now: see [`nowhere`].
    pub fn listen(
        address: SocketAddr,
        script: impl FnMut(&Request) -> Reply + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        Self::serve(listener, script)
    }

    fn serve(
        listener: std::net::TcpListener,
        script: impl FnMut(&Request) -> Reply + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            connections: AtomicUsize::new(0),
            shut: AtomicBool::new(false),
            count: watch::Sender::new(0),
            end: CancellationToken::new(),
        });
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs only a few file descriptors");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("a socket of ours");
                let listener = TcpListener::from_std(listener).expect("a socket of ours");
                let end = serving.end.clone();
                let _ = end.run_until_cancelled(accept(listener, serving)).await;
            });
        });
        Self {
            address,
            shared,
            uncounted: AtomicUsize::new(0),
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it answers like this.
    pub fn now_says(&self, script: impl FnMut(&Request) -> Reply + Send + 'static) {
        *self
            .shared
            .script
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Whether connections are closed as soon as they are accepted.
    pub fn shuts_the_door(&self, shut: bool) {
        self.shared.shut.store(shut, Ordering::SeqCst);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests().clone()
    }

    /// Every order so far, the first one first.
    pub fn orders(&self) -> Vec<Request> {
        let mut orders = self.requests();
        orders.retain(|request| request.path == SEND);
        orders
    }

    /// The orders with this text.
    pub fn orders_of(&self, text: &str) -> Vec<Request> {
        let mut orders = self.orders();
        orders.retain(|request| request.text() == text);
        orders
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        let uncounted = self.uncounted.load(Ordering::SeqCst);
        let accepted = self.shared.connections.load(Ordering::SeqCst);
        accepted.saturating_sub(uncounted)
    }

    /// Waits until so many connections have been accepted.
    pub async fn wait_for_connections(&self, connections: usize) {
        let began = Instant::now();
        while self.connections() < connections {
            assert!(began.elapsed() < DEADLINE, "waited in vain for connections");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until what has come in fulfils `enough`.
    pub async fn wait(&self, what: &str, enough: impl Fn(&[Request]) -> bool) {
        let mut count = self.shared.count.subscribe();
        let waiting = async {
            loop {
                count.borrow_and_update();
                if enough(&self.shared.requests()) {
                    return;
                }
                count.changed().await.expect("we hold the sender");
            }
        };
        if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
            let seen: Vec<String> = self
                .requests()
                .iter()
                .map(|r| format!("{} {:?}", r.path, r.text()))
                .collect();
            panic!(
                "waited in vain until {what}; {} requests came: {seen:#?}",
                seen.len()
            );
        }
    }

    /// Waits until so many orders have come.
    pub async fn wait_for_orders(&self, orders: usize) {
        self.wait(&format!("{orders} orders came"), |all| {
            all.iter().filter(|r| r.path == SEND).count() >= orders
        })
        .await;
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.shared.end.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed there.
            let _ = thread.join();
        }
    }
}

/// An address before which connections queue up and do not get in, as before a server that is overloaded: who connects waits.
pub struct Door {
    listener: std::net::TcpListener,
    queue: Vec<std::net::TcpStream>,
}

impl Door {
    /// Shut until it is [opened](Self::open).
    pub fn shut() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .expect("a free port");
        let listener = socket.listen(0).and_then(TcpListener::into_std);
        let listener = listener.expect("a socket that is bound");
        let address = listener.local_addr().expect("it is bound");
        // Whoever is let in although the queue has no length fills it.
        let mut queue = Vec::new();
        while let Ok(stream) =
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))
        {
            queue.push(stream);
            assert!(queue.len() < 100, "this queue has no end");
        }
        Self { listener, queue }
    }

    pub fn url(&self) -> String {
        let address = self.listener.local_addr().expect("it is bound");
        format!("http://{address}")
    }

    /// How many wait before it.
    fn waiting(&self) -> usize {
        let address = self.listener.local_addr().expect("it is bound");
        let asking = format!(":{:04X} 02 ", address.port());
        let connections = std::fs::read_to_string("/proc/net/tcp");
        connections.expect("Linux tells").matches(&asking).count()
    }

    /// Whether somebody waits before it.
    pub fn has_someone(&self) -> bool {
        self.waiting() > 0
    }

    /// Waits until somebody waits before it.
    pub async fn wait_for_someone(&self) {
        self.wait_for(1).await;
    }

    /// Waits until so many wait before it.
    pub async fn wait_for(&self, many: usize) {
        let began = Instant::now();
        while self.waiting() < many {
            let waiting = self.waiting();
            assert!(began.elapsed() < DEADLINE, "only {waiting} came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets everybody in: who waits gets through when its system tries again, within a few seconds.
    pub fn open(self, script: impl FnMut(&Request) -> Reply + Send + 'static) -> FakeProvider {
        // Where many come at once before a queue without length, the system throws away what the late ones write, and they
        // write it again long after.
        let roomy = Backlog::new(128).expect("a length that is allowed");
        listen(&self.listener, roomy).expect("a socket of ours");
        let provider = FakeProvider::serve(self.listener, script);
        // Those who only filled the queue are let in first, and leave.
        provider.uncounted.store(self.queue.len(), Ordering::SeqCst);
        provider
    }
}

/// What a provider without a fault says: order 312000001 for the first one, and so on.
pub fn healthy(request: &Request) -> Reply {
    match request.path.as_str() {
        SEND => Reply::accepted(order_id(request.n)),
        BALANCE => Reply::json(
            200,
            &json!({"response": {"status": {"code": 200}, "balance": {"amount": 10.5, "sms": 67}}}),
        ),
        SENDERS => Reply::json(
            200,
            &json!({"response": {"status": {"code": 200}, "senders": {"sender": ["BRAND"]}}}),
        ),
        _ => Reply::code(404, 404),
    }
}

/// The provider's duplicate guard, as documented: the same sender, numbers and text are taken once.
#[derive(Debug, Default)]
pub struct Guard(Vec<(String, Vec<String>, String)>);

impl Guard {
    /// Takes the order, or says 451.
    pub fn take(&mut self, request: &Request) -> Reply {
        let numbers = request.numbers().into_iter().map(str::to_owned).collect();
        let content = (
            request.sender().to_owned(),
            numbers,
            request.text().to_owned(),
        );
        if self.0.contains(&content) {
            return Reply::code(400, 451);
        }
        self.0.push(content);
        Reply::accepted(order_id(request.n))
    }
}

/// The order that [`healthy`] gives to the nth request.
pub fn order_id(n: usize) -> String {
    (312_000_000 + n).to_string()
}

/// An address on which nobody listens: connections are refused.
pub fn nowhere() -> SocketAddr {
    // Each call its own port, and from below the range of passing connections: nobody else sits there when someone starts
    // to listen.
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::SeqCst);
        assert!(port < 32_000, "no free port");
        if let Ok(listener) = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().expect("it is bound");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        if shared.shut.load(Ordering::SeqCst) {
            continue;
        }
        stream.set_nodelay(true).ok();
        #[cfg(target_os = "linux")]
        setsockopt(&stream, ReceiveTimestampns, &true).expect("a socket of ours");
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// One connection, request after request, until somebody ends it.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some((head, raw, arrived)) = read_request(&mut stream, &mut buffer).await {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let request = {
            let mut requests = shared.requests();
            let n = 1 + requests.iter().filter(|r| r.path == path).count();
            let json = serde_json::from_slice(&raw).unwrap_or(Value::Null);
            let request = Request {
                n,
                path,
                head,
                raw,
                json,
                arrived,
            };
            requests.push(request.clone());
            request
        };
        let mut reply = {
            let mut script = shared.script.lock().unwrap_or_else(PoisonError::into_inner);
            script(&request)
        };
        shared.count.send_modify(|count| *count += 1);
        while let Reply::Held(hold, then) = reply {
            // Whoever gives up waiting closes its end.
            tokio::select! {
                () = hold.0.cancelled() => {}
                _ = closed(&mut stream, &mut buffer) => return,
            }
            reply = *then;
        }
        let written = match reply {
            Reply::Whole {
                http,
                headers,
                body,
            } => {
                let head = format!(
                    "HTTP/1.1 {http} Whatever\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
                    body.len()
                );
                let answer = [head.as_bytes(), &body].concat();
                stream.write_all(&answer).await
            }
            Reply::Cut { http, body } => {
                let head = format!(
                    "HTTP/1.1 {http} Whatever\r\ncontent-length: {}\r\n\r\n",
                    body.len() + 20
                );
                let answer = [head.as_bytes(), &body].concat();
                stream.write_all(&answer).await.ok();
                stream.shutdown().await.ok();
                return;
            }
            Reply::Bytes(bytes) => {
                stream.write_all(&bytes).await.ok();
                stream.shutdown().await.ok();
                return;
            }
            Reply::Hangup => return,
            Reply::Silence => {
                closed(&mut stream, &mut buffer).await;
                return;
            }
            Reply::Stall(bytes) => {
                stream.write_all(&bytes).await.ok();
                closed(&mut stream, &mut buffer).await;
                return;
            }
            Reply::Trickle { http, body } => {
                let (mut read, mut write) = stream.split();
                tokio::select! {
                    () = trickle(&mut write, http, &body) => {}
                    () = closed(&mut read, &mut buffer) => {}
                }
                return;
            }
            Reply::Held(..) => unreachable!("unwrapped above"),
        };
        if written.is_err() {
            return;
        }
    }
}

/// Head, body, and when all of it was there; `None` once the other side has closed.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Option<(String, Vec<u8>, Instant)> {
    let mut arrived = Instant::now();
    if buffer.is_empty() {
        arrived = receive(stream, buffer).await?;
    }
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse::<usize>().ok())
                .unwrap_or(0);
            let whole = end + 4 + length;
            while buffer.len() < whole {
                arrived = receive(stream, buffer).await?;
            }
            let body = buffer[end + 4..whole].to_vec();
            buffer.drain(..whole);
            return Some((head, body, arrived));
        }
        arrived = receive(stream, buffer).await?;
    }
}

/// What has come in, and when its last byte did; `None` once the other side has closed.
async fn receive(stream: &TcpStream, buffer: &mut Vec<u8>) -> Option<Instant> {
    let mut bytes = [0; 16 * 1024];
    loop {
        stream.readable().await.ok()?;
        let received = stream.try_io(Interest::READABLE, || {
            let mut room = [IoSliceMut::new(&mut bytes)];
            let mut notes = nix::cmsg_space!(nix::sys::time::TimeSpec);
            let fd = stream.as_raw_fd();
            let message = recvmsg::<()>(fd, &mut room, Some(&mut notes), MsgFlags::empty())?;
            let stamp = message.cmsgs()?.find_map(|note| match note {
                #[cfg(target_os = "linux")]
                ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
                _ => None,
            });
            Ok((message.bytes, stamp))
        });
        match received {
            Ok((0, _)) => return None,
            Ok((count, stamp)) => {
                buffer.extend_from_slice(&bytes[..count]);
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let late = stamp.map_or(Duration::ZERO, |stamp| now.saturating_sub(stamp));
                return Instant::now().checked_sub(late);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

/// Answers as slowly as that takes.
async fn trickle(stream: &mut (impl AsyncWrite + Unpin), http: u16, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {http} Whatever\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    for byte in body {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}

/// Waits until the other side closes.
async fn closed(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) {
    while stream.read_buf(buffer).await.is_ok_and(|read| read > 0) {}
}
