//! What a receiver counts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Counters, Labels};

/// What may come of a request to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// It moved a delivery on, or could have.
    Recorded,
    /// It is kept for a worker to match.
    Inbox,
    /// It said what is known.
    NoNews,
    /// It was no event.
    Malformed,
    /// It was larger than an event is.
    TooLarge,
    /// It did not come in time.
    TooSlow,
    /// It came to no address of ours.
    NotFound,
    /// It could not be made durable: the sender has to try again.
    Unavailable,
}

impl EventResult {
    const ALL: [Self; 8] = [
        Self::Recorded,
        Self::Inbox,
        Self::NoNews,
        Self::Malformed,
        Self::TooLarge,
        Self::TooSlow,
        Self::NotFound,
        Self::Unavailable,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Inbox => "inbox",
            Self::NoNews => "no_news",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What may come of an event that goes on to another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardResult {
    /// It was taken there.
    Taken,
    /// It was refused, or could not be handed over, as often as it was tried.
    Failed,
    /// Too many were waiting.
    Dropped,
}

impl ForwardResult {
    const ALL: [Self; 3] = [Self::Taken, Self::Failed, Self::Dropped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Cloning it shares the counters.
#[derive(Clone)]
pub(crate) struct WebhookMetrics {
    events: Counters,
    forwards: Counters,
    batch: Histogram,
    answer: Histogram,
    silence: Family<Labels, Gauge<f64, AtomicU64>>,
    /// By account; an account that has had none yet is as old as the receiver.
    last: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        Self {
            events: Counters::default(),
            forwards: Counters::default(),
            batch: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]),
            answer: Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ]),
            silence: Family::default(),
            last: Arc::default(),
        }
    }
}

impl WebhookMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "webhook_events",
            "Requests to the receiver of webhooks, by what came of them",
            self.events.clone(),
        );
        registry.register(
            "webhook_forwards",
            "Events that were to go on to SMS_OUTBOX_WEBHOOK_FORWARD, by what came of them",
            self.forwards.clone(),
        );
        registry.register(
            "webhook_batch_events",
            "Events that were made durable together",
            self.batch.clone(),
        );
        registry.register_with_unit(
            "webhook_answer_duration",
            "From an event that was read to its answer",
            Unit::Seconds,
            self.answer.clone(),
        );
        registry.register_with_unit(
            "webhook_silence",
            "How long an account that is received has had no event here",
            Unit::Seconds,
            self.silence.clone(),
        );
        for result in EventResult::ALL {
            drop(self.events.get_or_create(&labels(result.as_str())));
        }
        for result in ForwardResult::ALL {
            drop(self.forwards.get_or_create(&labels(result.as_str())));
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This account is received from now on, or has had an event.
    pub(crate) fn heard(&self, account: &str) {
        let mut last = self.last();
        match last.get_mut(account) {
            Some(when) => *when = Instant::now(),
            None => {
                last.insert(account.to_owned(), Instant::now());
            }
        }
    }

    /// A request is answered; `took` since it was read, where it was an event.
    pub(crate) fn answered(&self, result: EventResult, took: Option<Duration>) {
        self.events.get_or_create(&labels(result.as_str())).inc();
        if let Some(took) = took {
            self.answer.observe(took.as_secs_f64());
        }
    }

    /// So many events are written together.
    pub(crate) fn batch(&self, events: usize) {
        self.batch.observe(events as f64);
    }

    /// An event went on, or did not.
    pub(crate) fn forwarded(&self, result: ForwardResult) {
        let counter: Counter = self.forwards.get_or_create_owned(&labels(result.as_str()));
        counter.inc();
    }

    /// Before they are shown: what grows by itself.
    pub(crate) fn refresh(&self) {
        for (account, when) in &*self.last() {
            self.silence
                .get_or_create(&vec![("account", account.clone())])
                .set(when.elapsed().as_secs_f64());
        }
    }
}

fn labels(result: &str) -> Labels {
    vec![("result", result.to_owned())]
}
