//! Planning the events of an order, and what they say when they leave.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::WebhookEvent;
use super::queue::{Change, Planned, What};
use crate::sandbox::api::Shared;
use crate::sandbox::delivery::Fate;
use crate::sandbox::dice::lot;
use crate::sandbox::faults::WebhookFault;
use crate::sandbox::order::Order;
use crate::sandbox::span::{Span, micros};

/// Closed when the events that have to be there before the reply have been tried once.
pub type BeforeReply = mpsc::Receiver<Infallible>;

impl Shared {
    /// Plans the events of an order that was just accepted. The reply has to wait for what comes back.
    pub fn announce(&self, order: &Arc<Order>, now: i64) -> Option<BeforeReply> {
        let rules = self.rules();
        rules.webhooks.address(&order.head().account)?;
        let (first_try, before_reply) = mpsc::channel(1);
        let mut waits = false;
        let reply_due = now.saturating_add(micros(rules.latency.at(1.0)));
        let key = &self.accounts[order.account].key;
        let mut events = Vec::with_capacity(2 * order.total());
        for (index, (text, number)) in order.messages().enumerate() {
            let fault = self.faults.of_message(key, text, number, |at| {
                lot(
                    order.lots.seed,
                    [order.id, position(index), MESSAGE_FAULT | at],
                )
            });
            let (accepted_at, final_at) = moments(order, index, reply_due, rules.webhooks.delay);
            let mut accepted = change(order, index, accepted_at, Change::Accepted, false);
            if fault == Some(WebhookFault::BeforeReply) {
                accepted.at = now;
                accepted.first_try = Some(first_try.clone());
                waits = true;
            }
            let course = order.drawn(index);
            let ended = change(order, index, final_at, Change::Final(course.fate), false);
            match course.fate {
                Fate::Never => events.push(accepted),
                _ if fault == Some(WebhookFault::Reordered) => {
                    accepted.at = final_at;
                    events.extend([ended, accepted]);
                }
                _ => events.extend([accepted, ended]),
            }
        }
        self.webhooks.plan(events);
        waits.then_some(before_reply)
    }

    /// Sends the events of what somebody said of messages; after their acceptance, as ever.
    pub fn announce_said(&self, order: &Arc<Order>, positions: &[usize], fate: Fate, now: i64) {
        let rules = self.rules();
        if rules.webhooks.address(&order.head().account).is_none() {
            return;
        }
        let latency = micros(rules.latency.at(1.0));
        let reply_due = order.head().accepted_at.saturating_add(latency);
        let events = positions.iter().map(|index| {
            let (accepted_at, _) = moments(order, *index, reply_due, rules.webhooks.delay);
            change(
                order,
                *index,
                accepted_at.max(now),
                Change::Final(fate),
                true,
            )
        });
        self.webhooks.plan(events);
    }

    /// The event that tells of a change of a message.
    pub fn event(&self, order: &Order, index: usize, status: &str) -> Option<WebhookEvent> {
        let (text, number) = order.message(index)?;
        let mut body = text.sent_text.clone();
        if self.rules().webhooks.operator_code {
            body.push_str(" B186");
        }
        Some(WebhookEvent {
            id: order.message_id(index),
            packet_id: i64::try_from(order.id).unwrap_or(i64::MAX),
            status: status.to_owned(),
            to: format!("+{number}"),
            body,
        })
    }

    /// What an event says now that it leaves; `None` if it does not: its order was cancelled, or somebody said otherwise.
    pub fn said_by(&self, what: &What) -> Option<WebhookEvent> {
        match what {
            What::Given(event) => Some((**event).clone()),
            What::Change {
                order,
                index,
                change,
                said,
            } => {
                let state = self.state();
                let overruled = *change != Change::Accepted
                    && !said
                    && state.rulings(order).is_some_and(|r| r.contains_key(index));
                if overruled || state.not_sent(order, self.clock.now()).is_some() {
                    return None;
                }
                drop(state);
                self.event(order, *index, change.status()?)
            }
        }
    }

    /// The fault that applies to an event, to all its tries together.
    pub fn fault_of(&self, planned: &Planned) -> Option<WebhookFault> {
        let What::Change {
            order,
            index,
            change,
            ..
        } = &planned.what
        else {
            return None;
        };
        let (text, number) = order.message(*index)?;
        let question = match change {
            Change::Accepted => ACCEPTED_FAULT,
            Change::Final(_) => FINAL_FAULT,
        };
        let key = &self.accounts[order.account].key;
        self.faults.of_event(key, text, number, |at| {
            lot(order.lots.seed, [order.id, position(*index), question | at])
        })
    }
}

/// What the lots of faults are about; the position of the fault is added to it.
const MESSAGE_FAULT: u64 = 1 << 32;
const ACCEPTED_FAULT: u64 = 2 << 32;
const FINAL_FAULT: u64 = 3 << 32;
/// The lot of how late the events of a message leave.
const LATENESS: u64 = 4 << 32;

fn position(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}

/// When the events of a message leave: of its acceptance, and of its end.
fn moments(order: &Order, index: usize, reply_due: i64, delay: Span) -> (i64, i64) {
    // One delay for both, so that they keep their order.
    let delay = delay.at(lot(order.lots.seed, [order.id, position(index), LATENESS]));
    let accepted = reply_due.max(order.head().send_at);
    let ended = accepted.max(order.drawn(index).at);
    (
        accepted.saturating_add(micros(delay)),
        ended.saturating_add(micros(delay)),
    )
}

fn change(order: &Arc<Order>, index: usize, at: i64, change: Change, said: bool) -> Planned {
    let packet_id = i64::try_from(order.id).unwrap_or(i64::MAX);
    let what = What::Change {
        order: Arc::clone(order),
        index,
        change,
        said,
    };
    Planned::new(
        at,
        (packet_id, order.message_id(index)),
        order.account,
        what,
    )
}
