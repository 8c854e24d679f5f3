//! Sockets that can be cut from outside, and a door that can be shut.
//!
//! A reply that never comes has to look real: not a byte after the request, then an end of file or a reset. So every connection
//! carries a [`Link`]; cutting it makes its next read or write fail, which is where the HTTP server gives it up.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How a connection ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// The client reads an end of file.
    Close = 1,
    /// The client sees a reset.
    Reset = 2,
}

/// One connection, as seen by whoever may cut it.
#[derive(Debug, Default)]
pub struct Link {
    cut: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
    used: AtomicBool,
}

impl Link {
    /// Ends the connection. Nothing more is read from it or written to it.
    pub fn cut(&self, how: Cut) {
        self.cut.store(how as u8, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire) != 0
    }
}

/// What a handler learns about the connection that its request came on.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Link>);

impl Caller {
    /// Ends the connection.
    pub fn cut(&self, how: Cut) {
        self.0.cut(how);
    }

    /// True once: for the first request of a connection.
    pub fn is_first_request(&self) -> bool {
        !self.0.used.load(Ordering::Relaxed) && !self.0.used.swap(true, Ordering::Relaxed)
    }
}

impl Connected<IncomingStream<'_, Door>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Caller(Arc::clone(&stream.io().link))
    }
}

/// All open connections, and whether the door is to be open.
#[derive(Debug)]
pub struct Links {
    open: Mutex<HashMap<u64, Arc<Link>>>,
    next: AtomicU64,
    over: AtomicBool,
    away_until: Mutex<Option<Instant>>,
    door_changes: Notify,
    door_is_open: watch::Sender<bool>,
}

impl Default for Links {
    fn default() -> Self {
        Links {
            open: Mutex::default(),
            next: AtomicU64::new(0),
            over: AtomicBool::new(false),
            away_until: Mutex::default(),
            door_changes: Notify::new(),
            door_is_open: watch::Sender::new(true),
        }
    }
}

impl Links {
    /// Ends every open connection.
    pub fn cut_all(&self, how: Cut) {
        for link in self.open().values() {
            link.cut(how);
        }
    }

    /// Ends every open connection, and every one that might still come.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.cut_all(Cut::Close);
    }

    /// Shuts the door for so long: new connections are refused by the operating system, open ones end. Returns when it is shut.
    pub async fn go_away(&self, length: Duration) {
        let mut door = self.door_is_open.subscribe();
        *self
            .away_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + length);
        self.door_changes.notify_one();
        // Fails only when the door is gone for good, which is shut enough.
        let _ = door.wait_for(|open| !open).await;
    }

    fn is_away(&self) -> Option<Instant> {
        let mut away_until = self
            .away_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *away_until = away_until.filter(|until| *until > Instant::now());
        *away_until
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Link>>> {
        // A map of handles is usable whatever happened to whoever held it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides whether a fresh connection is turned away unread.
pub type Doorman = Box<dyn Fn() -> bool + Send>;

/// The listening socket.
pub struct Door {
    listener: Option<TcpListener>,
    address: SocketAddr,
    links: Arc<Links>,
    turns_away: Doorman,
}

impl Door {
    /// Opens the door.
    pub async fn open(
        address: SocketAddr,
        links: Arc<Links>,
        turns_away: Doorman,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Door {
            address: listener.local_addr()?,
            listener: Some(listener),
            links,
            turns_away,
        })
    }

    /// Where it is, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shuts the door while the sandbox is to be away, and opens it again.
    async fn listener(&mut self) -> &TcpListener {
        while let Some(until) = self.links.is_away() {
            self.listener = None;
            self.links.cut_all(Cut::Reset);
            self.links.door_is_open.send_replace(false);
            tokio::time::sleep_until(until).await;
        }
        while self.listener.is_none() {
            match TcpListener::bind(self.address).await {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "the sandbox cannot listen again yet");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.links
            .door_is_open
            .send_if_modified(|open| !std::mem::replace(open, true));
        self.listener
            .as_ref()
            .expect("the loop above ends only with a listener")
    }
}

impl Listener for Door {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let links = Arc::clone(&self.links);
        loop {
            let arrived = tokio::select! {
                arrived = async { self.listener().await.accept().await } => arrived,
                () = links.door_changes.notified() => continue,
            };
            match arrived {
                Ok((stream, from)) => {
                    if (self.turns_away)() {
                        drop(stream);
                        continue;
                    }
                    return (Socket::new(stream, &links), from);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: waiting helps, spinning does not.
                    tracing::warn!(%error, "the sandbox could not take a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// A connection that obeys its [`Link`].
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    link: Arc<Link>,
    id: u64,
    links: Arc<Links>,
}

impl Socket {
    fn new(stream: TcpStream, links: &Arc<Links>) -> Self {
        // Replies are one small write each; waiting to fill a packet would only add 40 ms.
        let _ = stream.set_nodelay(true);
        let link = Arc::new(Link::default());
        let id = links.next.fetch_add(1, Ordering::Relaxed);
        links.open().insert(id, Arc::clone(&link));
        if links.over.load(Ordering::SeqCst) {
            link.cut(Cut::Close);
        }
        Socket {
            stream,
            link,
            id,
            links: Arc::clone(links),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.links.open().remove(&self.id);
        if self.link.cut.load(Ordering::Acquire) == Cut::Reset as u8 {
            // Closing with a linger of zero sends a reset. If it fails, the client sees an end of file instead.
            let _ = self.stream.set_zero_linger();
        }
    }
}

fn cut_off<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

/// Looks at the link before the operation, and again after a wait began, because it may be cut in between.
fn unless_cut<T>(
    link: &Link,
    waker: &AtomicWaker,
    context: &mut Context<'_>,
    operation: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if link.is_cut() {
        return cut_off();
    }
    let outcome = operation(context);
    if outcome.is_pending() {
        waker.register(context.waker());
        if link.is_cut() {
            return cut_off();
        }
    }
    outcome
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Socket { stream, link, .. } = self.get_mut();
        unless_cut(link, &link.reader, context, |context| {
            Pin::new(stream).poll_read(context, buffer)
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Socket { stream, link, .. } = self.get_mut();
        unless_cut(link, &link.writer, context, |context| {
            Pin::new(stream).poll_write(context, bytes)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Socket { stream, link, .. } = self.get_mut();
        unless_cut(link, &link.writer, context, |context| {
            Pin::new(stream).poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { stream, link, .. } = self.get_mut();
        if link.is_cut() {
            // Dropping the socket ends it in the way that was asked for.
            return Poll::Ready(Ok(()));
        }
        Pin::new(stream).poll_shutdown(context)
    }
}
