//! A TCP proxy that cuts what goes through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::dice::Dice;

/// Where a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At once, whatever is under way.
    Now,
    /// Before the next bytes from the worker are passed on.
    BeforeRequest,
    /// Half-way through the next bytes from the worker.
    InRequest,
    /// When the next bytes from the worker have been passed on: the answer is never read.
    AfterRequest,
    /// Before the next bytes to the worker are passed on.
    BeforeAnswer,
    /// Half-way through the next bytes to the worker.
    InAnswer,
}

impl Cut {
    pub const ALL: [Self; 6] = [
        Self::Now,
        Self::BeforeRequest,
        Self::InRequest,
        Self::AfterRequest,
        Self::BeforeAnswer,
        Self::InAnswer,
    ];
}

type Order = watch::Sender<Option<Cut>>;

/// A running proxy. It ends with this value.
pub struct Proxy {
    address: SocketAddr,
    links: Arc<Mutex<Vec<Arc<Order>>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let links: Arc<Mutex<Vec<Arc<Order>>>> = Arc::default();
        let open = Arc::clone(&links);
        let accepting = tokio::spawn(async move {
            while let Ok((worker, _)) = listener.accept().await {
                let order = Arc::new(watch::Sender::new(None));
                lock(&open).push(Arc::clone(&order));
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    // A target that is away ends the worker's connection, as the target itself would.
                    if let Ok(target) = TcpStream::connect(target).await {
                        carry(worker, target, &order).await;
                    }
                    lock(&open).retain(|other| !Arc::ptr_eq(other, &order));
                });
            }
        });
        Self {
            address,
            links,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Orders a cut of one of the open connections; `false` if there is none.
    pub fn cut(&self, cut: Cut, dice: &mut Dice) -> bool {
        let links = lock(&self.links);
        if links.is_empty() {
            return false;
        }
        dice.one_of(&links).send_replace(Some(cut));
        true
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(links: &Mutex<Vec<Arc<Order>>>) -> std::sync::MutexGuard<'_, Vec<Arc<Order>>> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both directions, until one of them ends.
async fn carry(worker: TcpStream, target: TcpStream, order: &Order) {
    for stream in [&worker, &target] {
        stream.set_nodelay(true).ok();
    }
    let (from_worker, to_worker) = worker.into_split();
    let (from_target, to_target) = target.into_split();
    let mut now = order.subscribe();
    tokio::select! {
        () = pass(from_worker, to_target, order, [Cut::BeforeRequest, Cut::InRequest, Cut::AfterRequest]) => {}
        () = pass(from_target, to_worker, order, [Cut::BeforeAnswer, Cut::InAnswer, Cut::Now]) => {}
        _ = now.wait_for(|cut| *cut == Some(Cut::Now)) => {}
    }
}

/// One direction. `cuts` are those that concern it: before, in the middle of, and after the next bytes.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    order: &Order,
    [before, amid, after]: [Cut; 3],
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let cut = *order.borrow();
        if [before, amid, after].map(Some).contains(&cut) && cut != Some(Cut::Now) {
            // The worker sees a reset; the other side an orderly end, so that what was passed on arrives.
            let worker: &TcpStream = if before == Cut::BeforeRequest {
                from.as_ref()
            } else {
                to.as_ref()
            };
            worker.set_zero_linger().ok();
        }
        if cut == Some(before) {
            return;
        }
        let end = if cut == Some(amid) {
            length / 2
        } else {
            length
        };
        if to.write_all(&bytes[..end]).await.is_err() || cut == Some(amid) || cut == Some(after) {
            return;
        }
    }
}
