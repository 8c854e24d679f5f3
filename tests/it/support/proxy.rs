//! A stand-in for the network between a worker and its database: it passes PostgreSQL's messages on, and can be told what to
//! do to one statement: to lose it, to lose its answer, or to keep either back until it is let go.
//!
//! It knows just enough of the protocol to tell which statement a message belongs to and where an answer ends. It runs on a
//! thread of its own, so that a test that blocks does not hold up what passes.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a busy machine, shorter than anyone's patience.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where a statement meets its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before the server has seen it.
    Request,
    /// After the server has carried it out and committed it, before its answer is passed on.
    Answer,
}

/// What is done to it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection is cut, on both sides.
    Cut,
    /// It is kept back until it is let go.
    Held,
}

/// A statement that is waited for.
#[derive(Clone, Debug)]
pub struct Trap {
    statement: &'static str,
    at: At,
    fate: Fate,
    sprung: CancellationToken,
    released: CancellationToken,
}

impl Trap {
    /// Waits until it has caught its statement.
    pub async fn sprung(&self) {
        let sprung = tokio::time::timeout(DEADLINE, self.sprung.cancelled()).await;
        sprung.unwrap_or_else(|_| panic!("waited in vain for the statement\n{}", self.statement));
    }

    /// Lets go what is held.
    pub fn release(&self) {
        self.released.cancel();
    }
}

#[derive(Default)]
struct Shared {
    traps: Mutex<Vec<Trap>>,
    /// Cancelled when the connections of now fall silent; the next ones have a new one.
    silence: Mutex<CancellationToken>,
    /// Whether a connection falls silent when its client asks whether it is still there.
    silent_when_asked: Mutex<bool>,
    end: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running proxy. It ends with this value, and so do its connections.
pub struct Proxy {
    url: Url,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Stands in front of the database that this URL names.
    pub fn before(database_url: &str) -> Self {
        let mut url = Url::parse(database_url).expect("a URL that others connect with");
        let target = (
            url.host_str().expect("a host").to_owned(),
            url.port().unwrap_or(5432),
        );
        let shared = Arc::new(Shared::default());
        let (told, tell) = mpsc::channel();
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs only a few file descriptors");
            runtime.block_on(async {
                let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
                let listener = listener.expect("a free port");
                let port = listener.local_addr().expect("it is bound").port();
                told.send(port).expect("someone waits for it");
                let end = serving.end.clone();
                let _ = end
                    .run_until_cancelled(accept(listener, target, serving))
                    .await;
            });
        });
        let port = tell.recv().expect("the proxy starts");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(port)).expect("a port");
        // What is encrypted cannot be told apart.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        Self {
            url,
            shared,
            thread: Some(thread),
        }
    }

    /// The database's URL, by way of this proxy.
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// Lies in wait for the next statement with this text, once.
    pub fn trap(&self, statement: &'static str, at: At, fate: Fate) -> Trap {
        let trap = Trap {
            statement,
            at,
            fate,
            sprung: CancellationToken::new(),
            released: CancellationToken::new(),
        };
        lock(&self.shared.traps).push(trap.clone());
        trap
    }

    /// The connections of now fall silent: they stay open, and nothing passes them any more, as when a firewall has
    /// forgotten them. New ones are made as before.
    pub fn falls_silent(&self) {
        let mut silence = lock(&self.shared.silence);
        silence.cancel();
        *silence = CancellationToken::new();
    }

    /// From now on each connection falls silent at the moment at which its client has no statement, but only asks whether
    /// it is still there.
    pub fn falls_silent_when_asked(&self) {
        *lock(&self.shared.silent_when_asked) = true;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed there.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, target: (String, u16), shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let (target, shared) = (target.clone(), Arc::clone(&shared));
        let silence = lock(&shared.silence).child_token();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else {
                return;
            };
            client.set_nodelay(true).ok();
            server.set_nodelay(true).ok();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let caught = Arc::new(Mutex::new(None));
            let asking = Asking {
                shared,
                statements: HashMap::new(),
                caught: Arc::clone(&caught),
                silence: silence.clone(),
            };
            // Whichever end closes first closes the other as well.
            tokio::select! {
                () = asking.pass(from_client, to_server) => {}
                () = answer(from_server, to_client, caught, silence) => {}
            }
        });
    }
}

/// The way from the client to the server.
struct Asking {
    shared: Arc<Shared>,
    /// What the names of this connection's prepared statements stand for.
    statements: HashMap<Vec<u8>, String>,
    /// The trap that waits for the answer to what was passed on last.
    caught: Arc<Mutex<Option<Trap>>>,
    silence: CancellationToken,
}

impl Asking {
    async fn pass(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = Vec::new();
        // The first message has no type.
        let Some(start) = message(&mut from, &mut buffer, 0).await else {
            return;
        };
        if to.write_all(&start).await.is_err() {
            return;
        }
        let mut before = b'S';
        while let Some(message) = message(&mut from, &mut buffer, 1).await {
            // A question with nothing in it: is anybody there?
            if message[0] == b'S' && before == b'S' && *lock(&self.shared.silent_when_asked) {
                self.silence.cancel();
            }
            before = message[0];
            if let Some(statement) = self.statement(&message)
                && let Some(trap) = self.spring(&statement)
            {
                match (trap.at, trap.fate) {
                    (At::Request, Fate::Cut) => {
                        trap.sprung.cancel();
                        return;
                    }
                    (At::Request, Fate::Held) => {
                        trap.sprung.cancel();
                        trap.released.cancelled().await;
                    }
                    (At::Answer, _) => *lock(&self.caught) = Some(trap),
                }
            }
            if self.silence.is_cancelled() {
                std::future::pending::<()>().await;
            }
            if to.write_all(&message).await.is_err() {
                return;
            }
        }
    }

    /// The statement that this message carries out.
    fn statement(&mut self, message: &[u8]) -> Option<String> {
        let mut texts = message[5..].split(|byte| *byte == 0);
        match message[0] {
            b'Q' => Some(String::from_utf8_lossy(texts.next()?).into_owned()),
            b'P' => {
                let name = texts.next()?.to_vec();
                let text = String::from_utf8_lossy(texts.next()?).into_owned();
                self.statements.insert(name, text);
                None
            }
            b'B' => {
                let _portal = texts.next()?;
                self.statements.get(texts.next()?).cloned()
            }
            _ => None,
        }
    }

    fn spring(&self, statement: &str) -> Option<Trap> {
        let mut traps = lock(&self.shared.traps);
        let place = traps
            .iter()
            .position(|trap| trap.statement.trim() == statement.trim())?;
        Some(traps.remove(place))
    }
}

/// The way back.
async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    caught: Arc<Mutex<Option<Trap>>>,
    silence: CancellationToken,
) {
    let mut buffer = Vec::new();
    let mut held = Vec::new();
    while let Some(message) = message(&mut from, &mut buffer, 1).await {
        // The server is ready for the next statement: this one is over, and committed.
        let is_over = message[0] == b'Z';
        held.extend(message);
        let trap = lock(&caught).clone();
        if let Some(trap) = trap {
            if !is_over {
                continue;
            }
            trap.sprung.cancel();
            match trap.fate {
                Fate::Cut => return,
                Fate::Held => trap.released.cancelled().await,
            }
            *lock(&caught) = None;
        }
        if silence.is_cancelled() {
            std::future::pending::<()>().await;
        }
        if write(&mut to, &mut held).await.is_err() {
            return;
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), held: &mut Vec<u8>) -> std::io::Result<()> {
    to.write_all(held).await?;
    held.clear();
    Ok(())
}

/// The next whole message, `None` at the end: a type of so many bytes, a length that counts itself, and the rest.
async fn message(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    kind: usize,
) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = buffer.get(kind..kind + 4) {
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            if buffer.len() >= kind + length {
                return Some(buffer.drain(..kind + length).collect());
            }
        }
        if from.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
