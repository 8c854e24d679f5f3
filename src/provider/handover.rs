//! How far a request got, proved rather than guessed from an error's wording.
//!
//! The HTTP library takes the body from us before it writes anything to the socket (checked in hyper 1.12,
//! `proto/h1/dispatch.rs`: head and body are buffered in one pass, and flushed after it). So there is one moment at which
//! the request is handed over. Whoever gives up waiting first withdraws the body; if that succeeds, the body can no
//! longer be taken, no complete request can have left, and no error message needs to be believed.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::faults::{self, Point};

const WAITING: u8 = 0;
const HANDED_OVER: u8 = 1;
const WITHDRAWN: u8 = 2;

/// The sender's end: can take the request back as long as the connection has not taken it.
#[derive(Debug)]
pub(super) struct Handover(Arc<AtomicU8>);

/// The connection's end: the bytes of one request, which can be taken once.
pub(super) struct WatchedBody {
    bytes: Option<Bytes>,
    state: Arc<AtomicU8>,
    not_after: Option<Instant>,
}

/// Tells the connection that there is nothing to send any more.
#[derive(Debug, thiserror::Error)]
#[error("the request was withdrawn before it was sent")]
pub(super) struct Withdrawn;

impl Handover {
    /// A body to be sent, and the means to take it back. `bytes` must not be empty: nobody asks for an empty body.
    ///
    /// From `not_after` on it withdraws itself: connecting may have taken long since somebody asked whether it may leave.
    pub(super) fn of(bytes: Bytes, not_after: Option<Instant>) -> (Self, WatchedBody) {
        let state = Arc::new(AtomicU8::new(WAITING));
        let body = WatchedBody {
            bytes: Some(bytes),
            state: Arc::clone(&state),
            not_after,
        };
        (Self(state), body)
    }

    /// Takes the request back if it has not been handed over. `true`: it surely never leaves, now or later.
    ///
    /// One atomic step, because the connection runs on another thread and may take the body at this very moment, in
    /// which case only one of the two wins.
    pub(super) fn withdraw(&self) -> bool {
        match self
            .0
            .compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(state) => state == WITHDRAWN,
        }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        if self
            .not_after
            .is_some_and(|moment| Instant::now() >= moment)
        {
            // Whoever asks whether it left is told that it did not; if it was taken before, this changes nothing.
            self.state
                .compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire)
                .ok();
        }
        let taken =
            self.state
                .compare_exchange(WAITING, HANDED_OVER, Ordering::AcqRel, Ordering::Acquire);
        if taken == Err(WITHDRAWN) {
            self.bytes = None;
            return Poll::Ready(Some(Err(Withdrawn)));
        }
        faults::point(Point::HandedOver);
        faults::soon(Point::InFlight);
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
    use std::task::Waker;

    fn poll(body: &mut WatchedBody) -> Option<Result<Bytes, Withdrawn>> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map(|f| f.into_data().unwrap())),
            Poll::Pending => panic!("a body that is there is never pending"),
        }
    }

    #[test]
    fn a_request_that_nobody_took_can_be_withdrawn_and_then_never_leaves() {
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None);
        assert!(handover.withdraw());
        assert!(handover.withdraw(), "asking twice changes nothing");
        assert!(matches!(poll(&mut body), Some(Err(Withdrawn))));
        assert!(poll(&mut body).is_none_or(|frame| frame.is_err()));
    }

    #[test]
    fn a_request_that_was_taken_cannot_be_withdrawn() {
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None);
        assert_eq!(body.size_hint().exact(), Some(1));
        assert_eq!(poll(&mut body).unwrap().unwrap(), "x");
        assert!(body.is_end_stream());
        assert!(poll(&mut body).is_none());
        assert!(!handover.withdraw());
    }

    #[test]
    fn a_request_whose_time_has_passed_never_leaves() {
        let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), Some(Instant::now()));
        assert!(matches!(poll(&mut body), Some(Err(Withdrawn))));
        assert!(handover.withdraw(), "and it is known that it did not");
    }

    #[test]
    fn of_taking_and_withdrawing_at_once_exactly_one_wins() {
        for _ in 0..2_000 {
            let (handover, mut body) = Handover::of(Bytes::from_static(b"x"), None);
            let taker = std::thread::spawn(move || matches!(poll(&mut body), Some(Ok(_))));
            let withdrawn = handover.withdraw();
            assert_ne!(withdrawn, taker.join().unwrap());
        }
    }
}
