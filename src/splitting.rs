//! A list of numbers that the provider refuses because of some of them: which are to be left out, and what is sent on.
//!
//! The provider refuses a list as a whole (452, 466) and does not say because of which number. Those on the account's block list
//! are known; the others are found by halving: whatever is refused is cut in two, down to the number. And where nothing at all
//! is taken (a field of the wrong name, an account that may not send abroad), that has to end: some numbers go first, each by
//! itself, and if none of them is taken, and nothing else is either, the rest is not tried.
//!
//! Nothing here knows a database, a socket or a clock.

use std::collections::HashSet;

use crate::{
    lifecycle::{ErrorClass, Failure},
    message::Recipient,
};

/// What stands on a job that is given up with its whole list.
pub const GIVEN_UP: &str = "The provider took nothing of the whole list, and none of the numbers that were tried by themselves, so \
                            the rest was not tried: look for what all of them have in common (foreign numbers, the sender).";

/// Up to so many numbers halving finds soon enough that it is hopeless.
const FEW: usize = 16;

/// What is to be done about a refused list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The numbers that are surely refused, in their one spelling.
    pub refused: Vec<String>,
    /// What is sent on, each list as a job of its own, the most telling ones first. Empty: nothing is.
    pub parts: Vec<Vec<String>>,
    /// Nothing of the whole list is taken: what still waits of it is not tried any more.
    pub gives_up: bool,
}

/// What is known about the other parts of the list that a refused job belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// How many numbers the whole list had.
    pub size: usize,
    /// Whether the job is a part, and not the whole list.
    pub is_part: bool,
    /// Whether any part of it was taken.
    pub has_accepted: bool,
    /// How many single numbers were refused.
    pub refused_alone: usize,
}

/// Whether a refusal is about numbers, so that without some of them the rest may be taken.
#[must_use]
pub fn is_about_numbers(failure: &Failure) -> bool {
    failure.class == ErrorClass::Recipients && matches!(failure.code, Some(452 | 466))
}

/// What follows for a job whose numbers were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// It fails: its one number is refused.
    Fails,
    /// An earlier request for the whole list may have been taken. Then parts of it would be second messages.
    MayHaveBeenSent,
    /// It ends, and its numbers go on like this.
    Cut(Cut),
}

/// What follows for a job whose `numbers` were refused together. `is_indeterminate`: an earlier request of it may have been
/// taken. `blocked`: what is known of the account's block list.
#[must_use]
pub fn refused(
    numbers: &[Recipient],
    is_indeterminate: bool,
    blocked: &HashSet<Recipient>,
    family: Family,
) -> Consequence {
    let is_list = numbers.len() > 1;
    if is_list && is_indeterminate {
        Consequence::MayHaveBeenSent
    } else if is_list || family.is_part {
        let size = if family.is_part {
            family.size
        } else {
            numbers.len()
        };
        Consequence::Cut(cut(numbers, blocked, Family { size, ..family }))
    } else {
        Consequence::Fails
    }
}

fn cut(numbers: &[Recipient], blocked: &HashSet<Recipient>, family: Family) -> Cut {
    let written = |numbers: &[Recipient]| -> Vec<String> {
        let texts = numbers.iter().map(|number| number.as_str().to_owned());
        texts.collect()
    };
    if let [one] = numbers {
        return Cut {
            refused: written(std::slice::from_ref(one)),
            parts: Vec::new(),
            gives_up: is_hopeless(Family {
                refused_alone: family.refused_alone + 1,
                ..family
            }),
        };
    }
    if is_hopeless(family) {
        return Cut {
            refused: Vec::new(),
            parts: Vec::new(),
            gives_up: true,
        };
    }
    let (refused, rest): (Vec<Recipient>, Vec<Recipient>) = numbers
        .iter()
        .cloned()
        .partition(|number| blocked.contains(number));
    let parts = if rest.is_empty() {
        Vec::new()
    } else if !refused.is_empty() {
        // It may well be taken without them.
        vec![written(&rest)]
    } else {
        let first = if family.is_part {
            0
        } else {
            alone(rest.len()).unwrap_or(0)
        };
        // Spread over the list: what is wrong with numbers often comes in rows.
        let step = rest.len() / first.max(1);
        let goes_first =
            |place: usize| first > 0 && place.is_multiple_of(step) && place / step < first;
        let mut parts: Vec<Vec<String>> = Vec::with_capacity(first + 2);
        let mut others = Vec::with_capacity(rest.len());
        for (place, number) in rest.into_iter().enumerate() {
            if goes_first(place) {
                parts.push(written(&[number]));
            } else {
                others.push(number);
            }
        }
        let (one, other) = others.split_at(others.len() / 2);
        parts.extend([written(one), written(other)]);
        parts
    };
    Cut {
        refused: written(&refused),
        parts,
        gives_up: false,
    }
}

/// How many numbers of so many go first, each by itself: as many as halving takes steps to find one. With half of the list
/// refused, one list in 65,000 of 50,000 numbers is given up wrongly. `None`: there are too few for it to be worth it.
fn alone(size: usize) -> Option<usize> {
    (size > FEW).then(|| size.next_power_of_two().ilog2() as usize)
}

fn is_hopeless(family: Family) -> bool {
    !family.has_accepted && alone(family.size).is_some_and(|first| family.refused_alone >= first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ForeignNumbers;

    fn number(n: usize) -> Recipient {
        Recipient::parse(&format!("0532{n:07}"), ForeignNumbers::Refused).unwrap()
    }

    fn numbers(n: usize) -> Vec<Recipient> {
        (0..n).map(number).collect()
    }

    /// Sends a list to a provider that refuses whatever has a bad number in it, parts in the order in which they are cut.
    /// Returns the numbers sent to, those found to be refused, those not tried, and the number of requests.
    fn send(
        list: &[Recipient],
        is_bad: impl Fn(&str) -> bool,
    ) -> (Vec<String>, Vec<String>, usize, usize) {
        let (mut sent, mut refused, mut untried, mut requests) = (Vec::new(), Vec::new(), 0, 0);
        let mut family = Family {
            size: list.len(),
            ..Family::default()
        };
        let mut waiting = std::collections::VecDeque::from([list.to_vec()]);
        while let Some(part) = waiting.pop_front() {
            requests += 1;
            if !part.iter().any(|number| is_bad(number.as_str())) {
                family.has_accepted = true;
                sent.extend(part.iter().map(|number| number.as_str().to_owned()));
                family.is_part = true;
                continue;
            }
            let cut = cut(&part, &HashSet::new(), family);
            family.is_part = true;
            family.refused_alone += usize::from(part.len() == 1);
            refused.extend(cut.refused);
            if cut.gives_up {
                untried = waiting.drain(..).map(|part| part.len()).sum::<usize>()
                    + if part.len() > 1 { part.len() } else { 0 };
            }
            waiting.extend(cut.parts.iter().map(|part| {
                let parse = |text: &String| Recipient::parse(text, ForeignNumbers::Refused);
                part.iter().map(|text| parse(text).unwrap()).collect()
            }));
        }
        (sent, refused, untried, requests)
    }

    #[test]
    fn every_good_number_is_sent_to_once_and_every_bad_one_is_found() {
        for (size, bad) in [
            (2, 1),
            (3, 1),
            (3, 3),
            (16, 16),
            (17, 1),
            (100, 7),
            (1_000, 0),
            (1_000, 300),
            (50_000, 1),
            (50_000, 7),
            (50_000, 100),
        ] {
            let list = numbers(size);
            // Scattered, and the same every time.
            let bad: HashSet<String> = (0..bad)
                .map(|n| number((n * 7_919 + 13) % size).as_str().to_owned())
                .collect();
            let (mut sent, mut refused, untried, requests) =
                send(&list, |number| bad.contains(number));
            sent.extend(refused.iter().cloned());
            sent.sort_unstable();
            refused.sort_unstable();
            let all: Vec<String> = list.iter().map(|n| n.as_str().to_owned()).collect();
            assert_eq!(sent, all, "{size}");
            let mut expected: Vec<String> = bad.iter().cloned().collect();
            expected.sort_unstable();
            assert_eq!((refused, untried), (expected, 0), "{size}");
            // Halving asks both halves at each step to a number, and the steps that numbers share only once.
            let levels = (size.max(2) as f64).log2().ceil();
            let shared = (bad.len().max(1) as f64).log2();
            let halving = 1.0 + 2.0 * bad.len() as f64 * (levels - shared + 1.0);
            let most = if bad.is_empty() { 1.0 } else { 2.0 * halving };
            assert!(requests as f64 <= most, "{size}: {requests} of {most}");
        }
    }

    /// A job of the small world below: which of three numbers, whether an earlier request may have been taken, and its end.
    #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    struct SmallJob {
        numbers: Vec<usize>,
        is_part: bool,
        is_indeterminate: bool,
        end: Option<&'static str>,
    }

    /// Three numbers, two of which may be refused from some moment on; a provider that at the numbers before its
    /// duplicate guard, or behind it; answers that get lost; windows that close.
    #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    struct SmallWorld {
        jobs: Vec<SmallJob>,
        taken: Vec<Vec<usize>>,
        bad: Vec<usize>,
    }

    fn small_worlds_after(
        world: &SmallWorld,
        guard_first: bool,
        cuts_always: bool,
    ) -> Vec<SmallWorld> {
        let mut after = Vec::new();
        // One number after the other.
        if let Some(next) = [1, 2].get(world.bad.len()) {
            let mut later = world.clone();
            later.bad.push(*next);
            after.push(later);
        }
        for (place, job) in world.jobs.iter().enumerate() {
            if job.end.is_some() {
                continue;
            }
            let end = |end| {
                let mut later = world.clone();
                later.jobs[place].end = Some(end);
                later
            };
            if job.is_indeterminate {
                after.push(end("uncertain"));
            }
            let is_repeat = world.taken.contains(&job.numbers);
            let is_refused = job.numbers.iter().any(|n| world.bad.contains(n));
            let mut answered = if is_repeat && (guard_first || !is_refused) {
                end("sent")
            } else if is_refused {
                let numbers: Vec<Recipient> = job.numbers.iter().map(|n| number(*n)).collect();
                let family = Family {
                    size: 3,
                    is_part: job.is_part,
                    ..Family::default()
                };
                let is_indeterminate = job.is_indeterminate && !cuts_always;
                match refused(&numbers, is_indeterminate, &HashSet::new(), family) {
                    Consequence::Fails => end("failed"),
                    Consequence::MayHaveBeenSent => end("uncertain"),
                    Consequence::Cut(cut) => {
                        let mut later = end(if cut.parts.is_empty() {
                            "failed"
                        } else {
                            "split"
                        });
                        later.jobs.extend(cut.parts.iter().map(|part| {
                            SmallJob {
                                numbers: part
                                    .iter()
                                    .map(|text| {
                                        (0..3).find(|n| number(*n).as_str() == text).unwrap()
                                    })
                                    .collect(),
                                is_part: true,
                                is_indeterminate: false,
                                end: None,
                            }
                        }));
                        later
                    }
                }
            } else {
                let mut later = end("sent");
                later.taken.push(job.numbers.clone());
                later
            };
            after.push(answered.clone());
            // The same, and nobody learns of it.
            answered.jobs.truncate(world.jobs.len());
            answered.jobs[place] = SmallJob {
                is_indeterminate: true,
                ..job.clone()
            };
            after.push(answered);
        }
        after
    }

    /// How often a number was sent to at most, and whether one that was always good is without a message although nothing is
    /// left that could send it or may have.
    fn explore(guard_first: bool, cuts_always: bool) -> (usize, bool) {
        let whole = SmallJob {
            numbers: vec![0, 1, 2],
            is_part: false,
            is_indeterminate: false,
            end: None,
        };
        let mut todo = vec![SmallWorld {
            jobs: vec![whole],
            taken: Vec::new(),
            bad: Vec::new(),
        }];
        let mut seen: HashSet<SmallWorld> = todo.iter().cloned().collect();
        let (mut most, mut is_lost) = (0, false);
        while let Some(world) = todo.pop() {
            for number in 0..3 {
                let times = world
                    .taken
                    .iter()
                    .filter(|list| list.contains(&number))
                    .count();
                most = most.max(times);
                let may_come = world.jobs.iter().any(|job| {
                    job.numbers.contains(&number) && matches!(job.end, None | Some("uncertain"))
                });
                is_lost |= number == 0 && times == 0 && !may_come;
            }
            for later in small_worlds_after(&world, guard_first, cuts_always) {
                if seen.insert(later.clone()) {
                    todo.push(later);
                }
            }
        }
        assert!(seen.len() > 100, "{}", seen.len());
        (most, is_lost)
    }

    #[test]
    fn whatever_gets_lost_no_number_is_sent_to_twice_and_no_good_one_is_forgotten() {
        for guard_first in [true, false] {
            assert_eq!(explore(guard_first, false), (1, false), "{guard_first}");
        }
        // The model catches what it is there for.
        assert_eq!(explore(false, true).0, 2);
    }

    #[test]
    fn a_list_of_which_nothing_is_taken_is_given_up_soon() {
        for size in [17, 100, 1_000, 50_000] {
            let (sent, refused, untried, requests) = send(&numbers(size), |_| true);
            assert_eq!(sent.len(), 0);
            assert_eq!(refused.len() + untried, size, "{size}");
            assert!(requests <= 20, "{size}: {requests}");
        }
        // Few numbers are all tried.
        let (sent, refused, untried, requests) = send(&numbers(16), |_| true);
        assert_eq!((sent.len(), refused.len(), untried), (0, 16, 0));
        assert_eq!(requests, 31);
    }

    #[test]
    fn what_is_on_the_block_list_is_left_out_and_the_rest_sent_on_as_it_is() {
        let list = numbers(50);
        let blocked: HashSet<Recipient> = [number(3), number(7), number(99)].into();
        let whole = Family {
            size: 50,
            ..Family::default()
        };
        let cut_first = cut(&list, &blocked, whole);
        assert_eq!(cut_first.refused, [number(3).as_str(), number(7).as_str()]);
        assert_eq!(cut_first.parts.len(), 1);
        assert_eq!(cut_first.parts[0].len(), 48);
        let nothing_left = cut(&list[3..4], &blocked, whole);
        assert_eq!(nothing_left.parts.len(), 0);
        assert_eq!(
            cut(&[number(3), number(7)], &blocked, whole).refused.len(),
            2
        );
    }
}
