//! When deliveries are asked about, and about which of those that are due. No database, no clock.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use chrono_tz::Europe::Istanbul;

use crate::outbox::DueCheck;

/// How deliveries are followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Following {
    /// Without a final word for so long, a delivery is `unknown` (`SMS_OUTBOX_DELIVERY_HORIZON`).
    pub horizon: Duration,
    /// How many times faster than in life the steps follow one another. Only tests have another pace than 1.
    pub pace: f64,
}

/// The ages at which a delivery without a final word is asked about. Most phones have it within seconds, a phone that is off is
/// switched on within hours.
const AGES: [Duration; 10] = [
    Duration::from_secs(20),
    Duration::from_secs(60),
    Duration::from_mins(5),
    Duration::from_mins(15),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(6),
    Duration::from_hours(12),
    Duration::from_hours(24),
    Duration::from_hours(48),
];
/// In the first of these steps only a few are asked about.
const EARLY: i16 = 2;
/// The first step that asks about everything: how much a webhook has decided by itself is judged here.
pub(super) const FIRST_FOR_ALL: i16 = EARLY;
/// Where webhooks decide nearly everything, what they have not decided is given so long.
const WITH_WEBHOOK: Duration = Duration::from_mins(30);
/// The provider lists no days that are longer ago than this, with a day to spare.
const LISTED_DAYS: u64 = 9;
/// Later than this the provider's reports are not asked, whatever the horizon.
const LONGEST_ASKED: Duration = Duration::from_hours(24 * LISTED_DAYS);

/// Which of the due are asked about in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// What is urgent, and a few others: everything else has had little time yet.
    Early,
    /// What is left.
    All,
    /// What is left, for the last time: what is not decided then is overdue.
    Last,
}

/// One step of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its name in the database.
    pub(super) n: i16,
    /// The age that it comes to.
    pub(super) age: Duration,
    /// The age from which a job is left to the next step: a step that lags gives up on what will be asked about anyway.
    pub(super) until: Duration,
    /// How often it is looked at: what became due meanwhile is asked about together, because a page of a list costs one question
    /// however many of its orders are due.
    pub(super) every: Duration,
    pub(super) scope: Scope,
    /// Whether a webhook that decides nearly everything makes it superfluous.
    pub(super) waits_for_webhook: bool,
}

impl Following {
    /// The steps, the youngest first.
    pub(super) fn steps(&self) -> Vec<Step> {
        let paced = |time: Duration| time.div_f64(self.pace);
        let ages: Vec<(i16, Duration)> = (0..)
            .zip(AGES)
            .filter(|(_, age)| paced(*age) < self.horizon)
            .collect();
        let mut steps: Vec<Step> = Vec::with_capacity(ages.len() + 1);
        for (place, (n, age)) in ages.iter().enumerate() {
            let until = ages
                .get(place + 1)
                .map_or(self.horizon, |(_, next)| paced(*next));
            let every = if *n < EARLY {
                *age / 5
            } else {
                (*age / 2).min(Duration::from_mins(15))
            };
            steps.push(Step {
                n: *n,
                age: paced(*age),
                until,
                every: paced(every),
                scope: if *n < EARLY { Scope::Early } else { Scope::All },
                waits_for_webhook: *age < WITH_WEBHOOK,
            });
        }
        steps.push(Step {
            n: AGES.len() as i16,
            age: self.horizon,
            until: (self.horizon * 2).max(paced(LONGEST_ASKED)),
            every: paced(Duration::from_mins(1)),
            scope: Scope::Last,
            waits_for_webhook: false,
        });
        steps
    }
}

/// How much of what was sent webhooks have decided by themselves before anybody asked. Old experience counts for less and less.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WebhookShare {
    sent: f64,
    decided: f64,
}

impl WebhookShare {
    /// So many were sent some minutes ago, and of them webhooks have decided so many.
    pub(super) fn learn(&mut self, sent: u64, decided: u64) {
        // Remembers about the last thousand.
        let kept = (1.0 - sent as f64 / 1_000.0).max(0.0);
        self.sent = self.sent * kept + sent as f64;
        self.decided = self.decided * kept + decided as f64;
    }

    /// Whether nine of ten, and of enough to judge by.
    pub(super) fn is_trusted(self) -> bool {
        self.sent >= 10.0 && self.decided >= self.sent * 0.9
    }
}

/// The day, by Turkish clocks, whose list has this order; `None`: it is listed no more, or was held back since.
pub(super) fn day_of(due: &DueCheck) -> Option<NaiveDate> {
    let day = |moment: DateTime<Utc>| moment.with_timezone(&Istanbul).date_naive();
    let oldest = day(seen_at(due)).checked_sub_days(Days::new(LISTED_DAYS))?;
    Some(day(due.sent_at)).filter(|day| !due.is_scheduled && *day >= oldest)
}

/// When the database found it due, by its own clock.
pub(super) fn seen_at(due: &DueCheck) -> DateTime<Utc> {
    let age = TimeDelta::from_std(due.age).unwrap_or_default();
    due.sent_at.checked_add_signed(age).unwrap_or(due.sent_at)
}

/// Whether there is an answer at all that could be asked for.
pub(super) fn can_be_asked(due: &DueCheck) -> bool {
    due.age < LONGEST_ASKED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(horizon: Duration) -> Vec<Step> {
        Following { horizon, pace: 1.0 }.steps()
    }

    #[test]
    fn every_age_belongs_to_one_step_until_the_horizon() {
        for hours in [1, 24, 72, 200] {
            let steps = steps(Duration::from_hours(hours));
            for pair in steps.windows(2) {
                assert_eq!(pair[0].until, pair[1].age, "{hours}");
                assert!(
                    pair[0].age < pair[1].age && pair[0].n < pair[1].n,
                    "{hours}"
                );
            }
            let last = steps.last().expect("there is one");
            assert_eq!(
                (last.age, last.scope),
                (Duration::from_hours(hours), Scope::Last)
            );
            assert!(last.until > last.age);
            assert_eq!(
                last.n,
                AGES.len() as i16,
                "its cursor has one name, whatever the horizon"
            );
            let last = |step: &&Step| step.scope == Scope::Last;
            assert_eq!(steps.iter().filter(last).count(), 1);
        }
        assert_eq!(
            steps(Duration::from_secs(10)).len(),
            1,
            "a horizon below the first age"
        );
    }

    #[test]
    fn the_day_of_an_order_is_that_of_turkish_clocks_while_it_is_listed() {
        let due = |sent_at: &str, age, is_scheduled| DueCheck {
            job: uuid::Uuid::nil(),
            order: "1".to_owned(),
            priority: 1,
            recipients: 1,
            sent_at: sent_at.parse().expect("a moment"),
            age,
            is_scheduled,
            is_sample: false,
        };
        let day = |text: &str| text.parse::<NaiveDate>().ok();
        let hour = Duration::from_hours(1);
        for (sent_at, age, is_scheduled, expected) in [
            ("2026-05-01T20:59:59Z", hour, false, day("2026-05-01")),
            ("2026-05-01T21:00:00Z", hour, false, day("2026-05-02")),
            ("2026-05-01T21:00:00Z", hour, true, None),
            (
                "2026-05-01T12:00:00Z",
                hour * 24 * 9,
                false,
                day("2026-05-01"),
            ),
            ("2026-05-01T12:00:00Z", hour * 24 * 10, false, None),
        ] {
            let due = due(sent_at, age, is_scheduled);
            assert_eq!(day_of(&due), expected, "{due:?}");
        }
    }

    #[test]
    fn a_faster_pace_shortens_every_time_but_the_horizon() {
        let fast = Following {
            horizon: Duration::from_secs(3),
            pace: 600.0,
        };
        let steps = fast.steps();
        assert_eq!(steps[1].age, Duration::from_millis(100));
        assert_eq!(steps[2].age, Duration::from_millis(500));
        assert_eq!(
            steps.last().map(|last| last.age),
            Some(Duration::from_secs(3))
        );
    }

    #[test]
    fn a_webhook_is_trusted_that_decides_nine_of_ten_and_until_it_does_not() {
        let mut share = WebhookShare::default();
        assert!(!share.is_trusted(), "nothing is known");
        share.learn(9, 9);
        assert!(!share.is_trusted(), "too little is known");
        share.learn(100, 95);
        assert!(share.is_trusted());
        share.learn(200, 0);
        assert!(!share.is_trusted(), "it has fallen silent");
        for _ in 0..20 {
            share.learn(100, 99);
        }
        assert!(share.is_trusted());
    }
}
