//! What became of messages on the phones, as workers and receivers learn it.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Counters, Histograms};
use crate::{
    delivery::{DeliveryStatus, Source},
    outbox::Learnt,
};

/// Who may have the last word on a delivery.
const SOURCES: [Source; 4] = [
    Source::Webhook,
    Source::List,
    Source::Report,
    Source::Horizon,
];

/// Cloning it shares the counters.
#[derive(Clone)]
pub(crate) struct DeliveryMetrics {
    told: Counters,
    conflicts: Counters,
    duration: Histograms,
}

impl Default for DeliveryMetrics {
    fn default() -> Self {
        Self {
            told: Counters::default(),
            conflicts: Counters::default(),
            // From a phone in somebody's hand to one that was switched off over a weekend.
            duration: Family::new_with_constructor(|| {
                Histogram::new([
                    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
                    259_200.0,
                ])
            }),
        }
    }
}

impl DeliveryMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "deliveries",
            "Messages whose delivery was decided, or given up, by the source of the last word",
            self.told.clone(),
        );
        registry.register(
            "delivery_conflicts",
            "Numbers of which was said that they have the message, and that they have not",
            self.conflicts.clone(),
        );
        registry.register_with_unit(
            "delivery_duration",
            "From the acceptance of a message to the last word on it, as it became known here",
            Unit::Seconds,
            self.duration.clone(),
        );
    }

    /// The part that belongs to one account.
    pub(crate) fn account(&self, account: &str) -> AccountDeliveries {
        let own = || ("account", account.to_owned());
        let source = |source: Source| ("source", source.as_str().to_owned());
        AccountDeliveries {
            told: DeliveryStatus::ALL.map(|status| {
                let result = || ("result", status.as_str().to_owned());
                SOURCES.map(|one| {
                    self.told
                        .get_or_create_owned(&vec![own(), result(), source(one)])
                })
            }),
            duration: SOURCES
                .map(|one| self.duration.get_or_create_owned(&vec![own(), source(one)])),
            conflicts: self.conflicts.get_or_create_owned(&vec![own()]),
        }
    }
}

/// What is counted of one account's deliveries.
#[derive(Clone, Debug)]
pub(crate) struct AccountDeliveries {
    /// In the order of [`DeliveryStatus::ALL`] and [`SOURCES`].
    told: [[Counter; SOURCES.len()]; DeliveryStatus::ALL.len()],
    /// In the order of [`SOURCES`].
    duration: [Histogram; SOURCES.len()],
    conflicts: Counter,
}

impl AccountDeliveries {
    /// News of a delivery were recorded.
    pub(crate) fn learnt(&self, learnt: &Learnt) {
        let outcome = learnt.outcome();
        self.conflicts.inc_by(learnt.new_conflicts() as u64);
        let place = SOURCES.iter().position(|source| *source == outcome.source);
        let (Some(place), true) = (place, learnt.is_new()) else {
            return;
        };
        for (status, counters) in DeliveryStatus::ALL.iter().zip(&self.told) {
            if *status == outcome.status {
                counters[place].inc();
            }
        }
        if outcome.status.is_final() {
            self.duration[place].observe(learnt.since_sent().as_secs_f64());
        }
    }
}
