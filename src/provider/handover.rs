//! How far a request got, proved rather than guessed from an error's wording.
//!
//! The HTTP library takes the body from us before it writes anything to the socket (checked in hyper 1.12,
//! `proto/h1/dispatch.rs`: head and body are buffered in one pass, and flushed after it). So there is one moment at which
//! the request is handed over. Whoever gives up waiting first withdraws the body; if that succeeds, the body can no
//! longer be taken, no complete request can have left, and no error message needs to be believed.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use crate::{
    clock::Moment,
    failpoints::{self, Point},
};

/// The sender's end: can take the request back as long as the connection has not taken it.
#[derive(Debug)]
pub(super) struct Handover(Arc<Shared>);

/// The connection's end: the bytes of one request, which can be taken once.
pub(super) struct WatchedBody {
    bytes: Option<Bytes>,
    shared: Arc<Shared>,
    not_after: Option<Moment>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The connection stands, and the slot is over.
    missed: Notify,
}

#[derive(Debug)]
enum State {
    /// Nobody has taken it.
    Waiting {
        /// Until when it may be taken; `None`: whenever.
        slot_ends: Option<Moment>,
        /// The connection, once it stood too late for its slot_ends.
        connection: Option<Waker>,
    },
    HandedOver,
    Withdrawn,
}

/// Tells the connection that there is nothing to send any more.
#[derive(Debug, thiserror::Error)]
#[error("the request was withdrawn before it was sent")]
pub(super) struct Withdrawn;

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handover {
    /// A body to be sent, and the means to take it back. `bytes` must not be empty: nobody asks for an empty body.
    ///
    /// From `not_after` on it withdraws itself: connecting may have taken long since somebody asked whether it may leave.
    /// After `slot_ends` it waits for another slot, with the connection open.
    pub(super) fn of(
        bytes: Bytes,
        not_after: Option<Moment>,
        slot_ends: Option<Moment>,
    ) -> (Self, WatchedBody) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Waiting {
                slot_ends,
                connection: None,
            }),
            missed: Notify::new(),
        });
        let body = WatchedBody {
            bytes: Some(bytes),
            shared: Arc::clone(&shared),
            not_after,
        };
        (Self(shared), body)
    }

    /// Takes the request back if it has not been handed over. `true`: it surely never leaves, now or later.
    ///
    /// Under one lock with the taking, because the connection runs on another thread and may take the body at this very
    /// moment, in which case only one of the two wins.
    pub(super) fn withdraw(&self) -> bool {
        let mut state = self.0.state();
        match &mut *state {
            State::HandedOver => false,
            State::Withdrawn => true,
            State::Waiting { connection, .. } => {
                let connection = connection.take();
                *state = State::Withdrawn;
                drop(state);
                if let Some(connection) = connection {
                    connection.wake();
                }
                true
            }
        }
    }

    /// Waits until a connection stands that stood too late: the request has missed its slot_ends, and waits for another.
    pub(super) async fn missed(&self) {
        self.0.missed.notified().await;
    }

    /// The request may leave now, and until this moment.
    pub(super) fn take_slot(&self, until: Moment) {
        if let State::Waiting {
            slot_ends,
            connection,
        } = &mut *self.0.state()
        {
            *slot_ends = Some(until);
            if let Some(connection) = connection.take() {
                connection.wake();
            }
        }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        {
            let mut state = self.shared.state();
            let now = Moment::now();
            match &mut *state {
                State::Waiting { .. } if self.not_after.is_some_and(|moment| now >= moment) => {
                    // Whoever asks whether it left is told that it did not.
                    *state = State::Withdrawn;
                }
                State::Waiting {
                    slot_ends,
                    connection,
                } if slot_ends.is_some_and(|until| now > until) => {
                    // Said once, however often the connection asks.
                    if connection.replace(cx.waker().clone()).is_none() {
                        self.shared.missed.notify_one();
                    }
                    return Poll::Pending;
                }
                State::Waiting { .. } => *state = State::HandedOver,
                State::HandedOver | State::Withdrawn => {}
            }
            if matches!(*state, State::Withdrawn) {
                drop(state);
                self.bytes = None;
                return Poll::Ready(Some(Err(Withdrawn)));
            }
        }
        failpoints::point(Point::HandedOver);
        failpoints::soon(Point::InFlight);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    /// Exact, so that the request carries a `Content-Length` and not chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;

    fn poll(body: &mut WatchedBody) -> Option<Result<Bytes, Withdrawn>> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map(|f| f.into_data().unwrap())),
            Poll::Pending => panic!("a body that is there is never pending"),
        }
    }

    #[test]
    fn a_request_that_nobody_took_can_be_withdrawn_and_then_never_leaves() {
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None, None);
        assert!(handover.withdraw());
        assert!(handover.withdraw(), "asking twice changes nothing");
        assert!(matches!(poll(&mut body), Some(Err(Withdrawn))));
        assert!(poll(&mut body).is_none_or(|frame| frame.is_err()));
    }

    #[test]
    fn a_request_that_was_taken_cannot_be_withdrawn() {
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None, None);
        assert_eq!(body.size_hint().exact(), Some(1));
        assert_eq!(poll(&mut body).unwrap().unwrap(), "x");
        assert!(body.is_end_stream());
        assert!(poll(&mut body).is_none());
        assert!(!handover.withdraw());
    }

    #[test]
    fn a_request_whose_time_has_passed_never_leaves() {
        let (handover, mut body) =
            Handover::of(Bytes::from_static(b"x"), Some(Moment::now()), None);
        assert!(matches!(poll(&mut body), Some(Err(Withdrawn))));
        assert!(handover.withdraw(), "and it is known that it did not");
    }

    #[test]
    fn a_request_that_missed_its_slot_leaves_in_the_next_one_and_asks_for_it_once() {
        let over = Some(Moment::now().before(Duration::from_millis(1)));
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None, over);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(handover.missed().now_or_never().is_none(), "nobody asked");
        for _ in 0..3 {
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        }
        assert!(handover.missed().now_or_never().is_some());
        assert!(handover.missed().now_or_never().is_none(), "once is enough");
        handover.take_slot(Moment::now() + Duration::from_secs(60));
        assert_eq!(poll(&mut body).unwrap().unwrap(), "x");
        assert!(!handover.withdraw());
    }

    #[test]
    fn a_request_that_waits_for_its_slot_can_be_withdrawn() {
        let over = Some(Moment::now().before(Duration::from_millis(1)));
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None, over);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        assert!(handover.withdraw());
        handover.take_slot(Moment::now() + Duration::from_secs(60));
        assert!(matches!(poll(&mut body), Some(Err(Withdrawn))));
    }

    #[test]
    fn of_taking_and_withdrawing_at_once_exactly_one_wins() {
        for _ in 0..2_000 {
            let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None, None);
            let taker = std::thread::spawn(move || matches!(poll(&mut body), Some(Ok(_))));
            let withdrawn = handover.withdraw();
            assert_ne!(withdrawn, taker.join().unwrap());
        }
    }
}
