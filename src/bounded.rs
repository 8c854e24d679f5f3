//! A listener that nobody can use up: so many connections at once, and each for so long. What it leaves to the kernel costs the
//! process no file descriptor, which its messages need.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// Before another try where none can be accepted.
const RETRY: Duration = Duration::from_millis(200);

/// How much of it anybody may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Before the first byte of a connection: whoever connects has something to say.
    pub(crate) silence: Duration,
    /// From the first byte of a request to the first one of its answer.
    pub(crate) request: Duration,
    /// From there to the first byte of the next request.
    pub(crate) idle: Duration,
}

pub(crate) struct Bounded {
    listener: TcpListener,
    bounds: Bounds,
    free: Arc<Semaphore>,
}

impl Bounded {
    pub(crate) fn new(listener: TcpListener, bounds: Bounds) -> Self {
        Self {
            listener,
            bounds,
            free: Arc::new(Semaphore::new(bounds.connections)),
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Closed by nobody.
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    // Answers are one packet each; whether that is sent at once is all it changes.
                    stream.set_nodelay(true).ok();
                    let connection = Connection {
                        stream,
                        bounds: self.bounds,
                        ends: Box::pin(sleep(self.bounds.silence)),
                        is_asking: false,
                        _permit: permit,
                    };
                    return (connection, from);
                }
                Err(error) => {
                    // Out of file descriptors, most likely.
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends in time.
pub(crate) struct Connection {
    stream: TcpStream,
    bounds: Bounds,
    ends: Pin<Box<Sleep>>,
    /// Whether something was read since something was written.
    is_asking: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn lives(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ends.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn asks(&mut self, is_asking: bool) {
        if self.is_asking != is_asking {
            self.is_asking = is_asking;
            let more = if is_asking {
                self.bounds.request
            } else {
                self.bounds.idle
            };
            self.ends.as_mut().reset(Instant::now() + more);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lives(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.asks(true);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.lives(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.asks(false);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
