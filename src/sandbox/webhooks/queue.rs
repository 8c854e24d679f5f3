//! The events that are to be sent: which one is next, and which has to wait for another. Times are arguments.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{WebhookEvent, WebhookStats};
use crate::sandbox::delivery::Fate;
use crate::sandbox::faults::WebhookFault;
use crate::sandbox::order::Order;

/// Events that wait at most; what comes on top is lost. A receiver that is never there must not use up the memory.
const MOST_WAITING: usize = 2_000_000;

/// What tells messages apart: the ids of its order and its own.
pub type MessageKey = (i64, i64);

/// An event and when it is due. Which event it is, is only worked out when it leaves: it may have been overtaken by then.
#[derive(Debug)]
pub struct Planned {
    /// When it is due, microseconds since 1970.
    pub at: i64,
    /// Which message it tells of.
    pub message: MessageKey,
    /// Position of the account, for the address.
    pub account: usize,
    /// What it tells.
    pub what: What,
    /// How often it was tried.
    pub attempt: usize,
    /// The fault that applies to it.
    pub fault: Option<WebhookFault>,
    /// Dropped when the first try is over; somebody may wait for that.
    pub first_try: Option<mpsc::Sender<Infallible>>,
    /// The order in which they were planned, for those of one moment.
    number: u64,
    /// It goes before all others of its message: it was on its way already, or is the next after such a one.
    goes_on: bool,
}

/// What an event tells.
#[derive(Debug, Clone)]
pub enum What {
    /// A change of a message of an order.
    Change {
        /// Which order.
        order: Arc<Order>,
        /// Which of its messages.
        index: usize,
        /// What happens to it.
        change: Change,
        /// By somebody, and not by the draw.
        said: bool,
    },
    /// Exactly this.
    Given(Box<WebhookEvent>),
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was accepted.
    Accepted,
    /// It ended.
    Final(Fate),
}

impl Change {
    /// The word for it, if there is one.
    pub fn status(self) -> Option<&'static str> {
        match self {
            Change::Accepted => Some("accepted"),
            Change::Final(Fate::Delivered) => Some("delivered"),
            Change::Final(Fate::Undelivered) => Some("undelivered"),
            Change::Final(Fate::Never) => None,
        }
    }
}

impl Planned {
    /// An event that was not tried yet.
    pub fn new(at: i64, message: MessageKey, account: usize, what: What) -> Self {
        Planned {
            at,
            message,
            account,
            what,
            attempt: 0,
            fault: None,
            first_try: None,
            number: 0,
            goes_on: false,
        }
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The events that wait and those that are on their way.
#[derive(Debug)]
pub struct Queue {
    /// How many may wait for their time.
    most: usize,
    due: BinaryHeap<Reverse<Planned>>,
    /// Messages of which an event is on its way, and the events that come after it.
    under_way: HashMap<MessageKey, VecDeque<Planned>>,
    /// How many come after another.
    behind: usize,
    /// Events that were taken and are neither over nor put off.
    taken: usize,
    next_number: u64,
    /// The counts, but for [`WebhookStats::waiting`].
    pub stats: WebhookStats,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            most: MOST_WAITING,
            due: BinaryHeap::new(),
            under_way: HashMap::new(),
            behind: 0,
            taken: 0,
            next_number: 0,
            stats: WebhookStats::default(),
        }
    }
}

impl Queue {
    /// Forgets what waits. What was taken may still be put off, or be over.
    pub fn clear(&mut self) {
        *self = Queue {
            most: self.most,
            taken: self.taken,
            next_number: self.next_number,
            ..Queue::default()
        };
    }

    /// Events that wait or are on their way.
    pub fn waiting(&self) -> usize {
        self.due.len() + self.behind + self.taken
    }

    /// When the next event is due.
    pub fn next_due(&self) -> Option<i64> {
        self.due.peek().map(|Reverse(next)| next.at)
    }

    /// A new event.
    pub fn plan(&mut self, planned: Planned) {
        if self.due.len() >= self.most {
            self.stats.lost += 1;
        } else {
            self.push(planned);
        }
    }

    /// The next event that is due and whose message has no other on its way. Afterwards it is put off, or over.
    pub fn take(&mut self, now: i64) -> Option<Planned> {
        while self.next_due().is_some_and(|at| at <= now) {
            let Reverse(next) = self.due.pop()?;
            match self.under_way.get_mut(&next.message) {
                Some(after) if !next.goes_on => {
                    after.push_back(next);
                    self.behind += 1;
                }
                _ => {
                    self.under_way.entry(next.message).or_default();
                    self.taken += 1;
                    return Some(next);
                }
            }
        }
        None
    }

    /// An event that was taken leaves later, or another one in its place; those of its message go on waiting.
    pub fn put_off(&mut self, planned: Planned, until: i64) {
        self.taken -= 1;
        // Else everything was forgotten meanwhile.
        if self.under_way.contains_key(&planned.message) {
            self.resume(planned, until);
        }
    }

    /// An event that was taken is over and done with: the next one of its message may leave.
    pub fn over(&mut self, message: MessageKey, now: i64) {
        self.taken -= 1;
        let Some(after) = self.under_way.get_mut(&message) else {
            return;
        };
        match after.pop_front() {
            Some(next) => {
                self.behind -= 1;
                self.resume(next, now);
            }
            None => {
                self.under_way.remove(&message);
            }
        }
    }

    fn resume(&mut self, mut planned: Planned, at: i64) {
        planned.at = at;
        planned.goes_on = true;
        self.push(planned);
    }

    fn push(&mut self, mut planned: Planned) {
        planned.number = self.next_number;
        self.next_number += 1;
        self.due.push(Reverse(planned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: i64, message: i64, status: &str) -> Planned {
        let event = WebhookEvent {
            id: message,
            packet_id: 7,
            status: status.to_owned(),
            to: String::new(),
            body: String::new(),
        };
        Planned::new(at, (7, message), 0, What::Given(Box::new(event)))
    }

    /// The event that is taken at some moment, and what it says.
    fn take(queue: &mut Queue, now: i64) -> Option<(Planned, String)> {
        let taken = queue.take(now)?;
        let What::Given(event) = &taken.what else {
            panic!("all are given here")
        };
        let said = format!("{} {}", event.id, event.status);
        Some((taken, said))
    }

    fn said(queue: &mut Queue, now: i64) -> Option<String> {
        take(queue, now).map(|(_, said)| said)
    }

    #[test]
    fn events_leave_when_they_are_due_and_those_of_one_moment_as_they_were_planned() {
        let mut queue = Queue::default();
        for (at, message) in [(5, 1), (3, 2), (3, 3)] {
            queue.plan(event(at, message, "accepted"));
        }
        assert_eq!((queue.next_due(), queue.waiting()), (Some(3), 3));
        assert_eq!(said(&mut queue, 2), None);
        assert_eq!(said(&mut queue, 3).as_deref(), Some("2 accepted"));
        assert_eq!(said(&mut queue, 3).as_deref(), Some("3 accepted"));
        assert_eq!(said(&mut queue, 4), None);
        assert_eq!(said(&mut queue, 9).as_deref(), Some("1 accepted"));
    }

    #[test]
    fn an_event_waits_for_the_one_before_it_even_while_that_is_tried_again() {
        let mut queue = Queue::default();
        queue.plan(event(1, 1, "accepted"));
        queue.plan(event(2, 1, "delivered"));
        queue.plan(event(2, 2, "accepted"));
        let (first, _) = take(&mut queue, 5).expect("due");
        assert_eq!(said(&mut queue, 5).as_deref(), Some("2 accepted"));
        queue.put_off(first, 100);
        assert_eq!(
            said(&mut queue, 99),
            None,
            "the end waits for its beginning"
        );
        let (again, what) = take(&mut queue, 100).expect("due again");
        assert_eq!(what, "1 accepted");
        queue.over(again.message, 100);
        assert_eq!(said(&mut queue, 100).as_deref(), Some("1 delivered"));
        queue.over((7, 1), 100);
        queue.over((7, 2), 100);
        assert_eq!(queue.waiting(), 0);
        assert!(queue.under_way.is_empty());
    }

    #[test]
    fn what_finds_too_many_others_waiting_is_lost_and_counted() {
        let mut queue = Queue {
            most: 2,
            ..Queue::default()
        };
        for message in 1..=3 {
            queue.plan(event(1, message, "accepted"));
        }
        assert_eq!((queue.waiting(), queue.stats.lost), (2, 1));
        let (first, _) = take(&mut queue, 1).expect("due");
        queue.plan(event(1, 4, "accepted"));
        queue.put_off(first, 2);
        assert_eq!(queue.waiting(), 3, "what was on its way is not lost");
    }

    #[test]
    fn what_was_forgotten_does_not_come_back() {
        let mut queue = Queue::default();
        for message in [1, 2] {
            queue.plan(event(1, message, "accepted"));
            queue.plan(event(1, message, "delivered"));
        }
        let (first, _) = take(&mut queue, 1).expect("due");
        let (second, _) = take(&mut queue, 1).expect("due");
        queue.clear();
        assert_eq!(queue.waiting(), 2, "both are on their way");
        queue.put_off(first, 5);
        queue.over(second.message, 5);
        assert_eq!((queue.waiting(), queue.next_due()), (0, None));
    }
}
