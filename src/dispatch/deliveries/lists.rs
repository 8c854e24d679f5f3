//! Which page of a day's list has an order? The list shows thirty orders a page, in an order that is not documented, and grows
//! while it is read. So places are counted from the oldest order: an order's rank stays what it is, whichever end new ones are put
//! to. What is known of ranks and times only saves questions: an order that is not found is asked about by itself.
//!
//! No database, no network, no clock.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

/// How many orders a page has, until one shows otherwise.
const A_PAGE: u64 = 30;
/// How far the provider's time of an order and ours may be apart.
const MARGIN: TimeDelta = TimeDelta::minutes(2);
/// So many pages are read to find one order.
const TRIES: u32 = 6;
/// After so many pages in a row with none of what is wanted, and a tenth of the questions that it would cost otherwise, it is not
/// where it ought to be.
const IN_VAIN: usize = 8;
/// Pages have to bring so many each: a page costs as much as the question about one.
const WORTH_A_PAGE: f64 = 1.5;
/// The first page of a list that nothing is known of is worth reading for so many.
const WORTH_A_LOOK: usize = 3;
/// More than these are forgotten: about 32 bytes each.
const SAMPLES: usize = 4_096;

/// How a list is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sorting {
    OldestFirst,
    NewestFirst,
    /// By something else. Then no page can be told to have an order.
    Otherwise,
}

/// What to do about the oldest order that is still to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read this page: it has that one, as far as can be told, and others.
    Page(u32),
    /// It is alone, or not to be found: a question about itself costs no more.
    Ask,
}

/// What is known of one day's list.
#[derive(Clone, Debug)]
pub(super) struct DayList {
    begins: DateTime<Utc>,
    count: Option<u64>,
    page_size: u64,
    sorting: Option<Sorting>,
    /// Times by rank.
    samples: BTreeMap<u64, DateTime<Utc>>,
    /// Ranks that were read in this walk: first and last, with their times.
    read: Vec<(u64, u64, DateTime<Utc>, DateTime<Utc>)>,
    looked: bool,
    leader: Option<DateTime<Utc>>,
    tries: u32,
    left: usize,
    in_vain: usize,
}

impl DayList {
    /// Of a day that begins then.
    pub(super) fn new(begins: DateTime<Utc>) -> Self {
        Self {
            begins,
            count: None,
            page_size: A_PAGE,
            sorting: None,
            samples: BTreeMap::new(),
            read: Vec::new(),
            looked: false,
            leader: None,
            tries: 0,
            left: 0,
            in_vain: 0,
        }
    }

    /// A new walk: what was read before may say something else by now.
    pub(super) fn start(&mut self) {
        self.read.clear();
        self.looked = false;
        self.leader = None;
        self.tries = 0;
        self.left = usize::MAX;
        self.in_vain = 0;
    }

    /// What to do about the first of these, of which there is one at least; they are in the order of their times.
    pub(super) fn next(&mut self, wanted: &[DateTime<Utc>], now: DateTime<Utc>) -> Next {
        if self.sorting == Some(Sorting::Otherwise) {
            return Next::Ask;
        }
        let Some(count) = self.count else {
            return if !self.looked && wanted.len() >= WORTH_A_LOOK {
                self.looked = true;
                Next::Page(1)
            } else {
                Next::Ask
            };
        };
        let leader = wanted[0];
        if self.leader != Some(leader) {
            self.leader = Some(leader);
            self.tries = 0;
        }
        if wanted.len() < self.left {
            self.in_vain = 0;
        }
        self.left = wanted.len();
        let near = &wanted[..wanted.len().min(self.page_size as usize)];
        let rank = self.rank_of(leader, count, now);
        let last = near
            .last()
            .map_or(rank, |last| self.rank_of(*last, count, now));
        let pages = last.saturating_sub(rank) as f64 / self.page_size as f64 + 1.0;
        if count == 0
            || self.tries >= TRIES
            || self.in_vain >= IN_VAIN + wanted.len() / 10
            || (near.len() as f64) < WORTH_A_PAGE * pages
        {
            // It leaves the list by another way.
            self.left = self.left.saturating_sub(1);
            return Next::Ask;
        }
        self.tries += 1;
        self.in_vain += 1;
        // Where a guess has failed, half of what is left is ruled out for certain.
        let guess = if self.tries > 2 && self.tries.is_multiple_of(2) {
            let ((before, _), (behind, _)) = self.around(leader, count, now);
            before.midpoint(behind).min(count - 1)
        } else {
            rank
        };
        let Some(rank) = self.unread(guess, leader, count) else {
            self.left = self.left.saturating_sub(1);
            return Next::Ask;
        };
        let page = self.page_of(rank, count);
        u32::try_from(page).map_or(Next::Ask, Next::Page)
    }

    /// A page was read: how many orders the list has, and the times of those on the page, in their places.
    pub(super) fn learn(&mut self, page: u32, count: Option<u64>, times: &[DateTime<Utc>]) {
        self.looked = true;
        let page = u64::from(page.max(1));
        let entries = times.len() as u64;
        self.count = count;
        let Some(count) = count else { return };
        if page * self.page_size < count && entries > 0 && entries != self.page_size {
            self.page_size = entries;
            self.samples.clear();
            self.read.clear();
        }
        let sorting = sorting_of(times);
        if let Some(sorting) = sorting
            && self.sorting != Some(sorting)
        {
            self.sorting = Some(sorting);
            self.samples.clear();
            self.read.clear();
        }
        let (first, last) = self.ranks_of(page, count);
        let (Some(one), Some(other)) = (times.first(), times.last()) else {
            // Beyond the end.
            self.read.push((first, last, self.begins, self.begins));
            return;
        };
        let (oldest, newest) = (*one.min(other), *one.max(other));
        // What does not rise with the ranks is no longer true.
        let before = self.samples.range(..first).next_back();
        let behind = self.samples.range(last + 1..).next();
        if before.is_some_and(|(_, time)| *time > oldest)
            || behind.is_some_and(|(_, time)| *time < newest)
            || self.samples.len() >= SAMPLES
        {
            self.samples.clear();
        }
        self.samples.insert(first, oldest);
        self.samples.insert(last, newest);
        self.read.push((first, last, oldest, newest));
    }

    /// The known ranks and times on either side of this time.
    fn around(
        &self,
        time: DateTime<Utc>,
        count: u64,
        now: DateTime<Utc>,
    ) -> ((u64, DateTime<Utc>), (u64, DateTime<Utc>)) {
        let before = self.samples.iter().rev().find(|(_, known)| **known <= time);
        let behind = self.samples.iter().find(|(_, known)| **known > time);
        (
            before.map_or((0, self.begins), |(rank, time)| (*rank, *time)),
            behind.map_or((count, now.max(time)), |(rank, time)| (*rank, *time)),
        )
    }

    /// About which rank an order of this time has.
    fn rank_of(&self, time: DateTime<Utc>, count: u64, now: DateTime<Utc>) -> u64 {
        let (before, behind) = self.around(time, count, now);
        let span = (behind.1 - before.1).num_milliseconds().max(1) as f64;
        let part = (time - before.1).num_milliseconds().max(0) as f64 / span;
        let ranks = behind.0.saturating_sub(before.0) as f64;
        (before.0 + (part * ranks) as u64).min(count.saturating_sub(1))
    }

    /// The nearest rank that was not read in this walk and may be that of an order of this time.
    fn unread(&self, rank: u64, time: DateTime<Utc>, count: u64) -> Option<u64> {
        let over = |rank: u64| {
            let mut over = self
                .read
                .iter()
                .filter(|(first, last, ..)| (*first..=*last).contains(&rank));
            over.next()
        };
        let mut up = Some(rank);
        while let Some(at) = up
            && let Some((_, last, _, newest)) = over(at)
        {
            up = Some(last + 1).filter(|next| *next < count && *newest <= time + MARGIN);
        }
        let mut down = Some(rank);
        while let Some(at) = down
            && let Some((first, _, oldest, _)) = over(at)
        {
            down = first.checked_sub(1).filter(|_| *oldest >= time - MARGIN);
        }
        match (up, down) {
            (Some(up), Some(down)) if rank - down < up - rank => Some(down),
            (Some(up), _) => Some(up),
            (None, down) => down,
        }
    }

    fn is_newest_first(&self) -> bool {
        self.sorting == Some(Sorting::NewestFirst)
    }

    fn page_of(&self, rank: u64, count: u64) -> u64 {
        let place = if self.is_newest_first() {
            count - 1 - rank
        } else {
            rank
        };
        place / self.page_size + 1
    }

    /// The ranks of a page, the smallest and the greatest.
    fn ranks_of(&self, page: u64, count: u64) -> (u64, u64) {
        let first = (page - 1) * self.page_size;
        let last = (first + self.page_size).min(count).saturating_sub(1);
        if self.is_newest_first() {
            (
                (count - 1).saturating_sub(last),
                (count - 1).saturating_sub(first),
            )
        } else {
            (first, last.max(first))
        }
    }
}

/// How these are sorted; `None`: they do not tell.
fn sorting_of(times: &[DateTime<Utc>]) -> Option<Sorting> {
    let (first, last) = (times.first()?, times.last()?);
    let rises = times.is_sorted();
    let falls = times.is_sorted_by(|one, other| one >= other);
    match (rises, falls) {
        (true, true) => None,
        (true, false) => Some(Sorting::OldestFirst),
        (false, true) => Some(Sorting::NewestFirst),
        // A few that were taken at the same time may have changed places.
        (false, false) if (*last - *first).abs() <= TimeDelta::seconds(2) => None,
        (false, false) => {
            let steps = times.windows(2);
            let ups = steps.clone().filter(|pair| pair[0] < pair[1]).count();
            let downs = steps.filter(|pair| pair[0] > pair[1]).count();
            Some(if downs * 8 < ups {
                Sorting::OldestFirst
            } else if ups * 8 < downs {
                Sorting::NewestFirst
            } else {
                Sorting::Otherwise
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: TimeDelta = TimeDelta::hours(24);

    fn begins() -> DateTime<Utc> {
        "2026-05-01T21:00:00Z".parse().expect("a moment")
    }

    /// A provider's list: the times of its orders, the oldest first, and how it shows them. It shows whole seconds.
    struct Provider {
        orders: Vec<DateTime<Utc>>,
        newest_first: bool,
    }

    impl Provider {
        fn page(&self, page: u32) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
            let places = (page as usize - 1) * 30..;
            let taken = places.take(30);
            let whole_second =
                |time: DateTime<Utc>| DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time);
            let at = |place: usize| {
                let place = if self.newest_first {
                    self.orders.len().checked_sub(place + 1)?
                } else {
                    place
                };
                self.orders.get(place).copied()
            };
            taken
                .map_while(at)
                .map(|time| (time, whole_second(time)))
                .collect()
        }

        /// Walks; returns how many pages were read and how many orders are asked for alone.
        fn walk(&self, list: &mut DayList, mut wanted: Vec<DateTime<Utc>>) -> (u32, usize) {
            let (mut pages, mut alone) = (0, 0);
            list.start();
            wanted.sort();
            while !wanted.is_empty() {
                match list.next(&wanted, begins() + DAY) {
                    Next::Page(page) => {
                        pages += 1;
                        let (there, shown): (Vec<_>, Vec<_>) = self.page(page).into_iter().unzip();
                        list.learn(page, Some(self.orders.len() as u64), &shown);
                        wanted.retain(|time| !there.contains(time));
                    }
                    Next::Ask => {
                        alone += 1;
                        wanted.remove(0);
                    }
                }
                assert!(pages < 10_000, "it has no end");
            }
            (pages, alone)
        }
    }

    /// So many orders, spread over a part of the day, each at a time of its own.
    fn orders(count: usize, from: TimeDelta, over: TimeDelta) -> Vec<DateTime<Utc>> {
        (0..count)
            .map(|n| begins() + from + over * n as i32 / count as i32)
            .collect()
    }

    #[test]
    fn a_burst_is_found_in_about_as_many_pages_as_it_fills_whichever_way_it_is_sorted() {
        for newest_first in [false, true] {
            for (others, burst) in [(0, 1_000), (5_000, 1_000), (34_000, 600)] {
                let wanted = orders(burst, TimeDelta::hours(13), TimeDelta::minutes(5));
                let mut all = orders(others, TimeDelta::zero(), DAY);
                all.extend(&wanted);
                all.sort();
                let span: Vec<_> = all
                    .iter()
                    .filter(|time| **time >= wanted[0] && **time <= wanted[burst - 1])
                    .collect();
                let provider = Provider {
                    orders: all.clone(),
                    newest_first,
                };
                let mut list = DayList::new(begins());
                let (pages, alone) = provider.walk(&mut list, wanted.clone());
                let least = span.len().div_ceil(30);
                let questions = pages as usize + alone;
                assert!(
                    questions <= least + 12,
                    "{newest_first} {others}: {pages} pages and {alone} alone, of {least}"
                );
                // The second time the way is known.
                let (pages, alone) = provider.walk(&mut list, wanted);
                assert!(
                    pages as usize + alone <= least + 4,
                    "{newest_first} {others}: {pages} pages and {alone} alone, of {least}"
                );
            }
        }
    }

    #[test]
    fn a_burst_within_a_second_or_two_is_found_in_about_as_many_pages_as_it_fills() {
        for newest_first in [false, true] {
            for others in [0, 20_000] {
                let wanted = orders(1_000, TimeDelta::hours(13), TimeDelta::seconds(2));
                let mut all = orders(others, TimeDelta::zero(), DAY);
                all.extend(&wanted);
                all.sort();
                let provider = Provider {
                    orders: all,
                    newest_first,
                };
                let mut list = DayList::new(begins());
                let (pages, alone) = provider.walk(&mut list, wanted);
                let questions = pages as usize + alone;
                assert!(questions <= 60, "{newest_first} {others}: {questions}");
            }
        }
    }

    #[test]
    fn what_is_scattered_is_asked_for_alone() {
        for newest_first in [false, true] {
            let provider = Provider {
                orders: orders(30_000, TimeDelta::zero(), DAY),
                newest_first,
            };
            let wanted: Vec<_> = provider.orders.iter().step_by(3_001).copied().collect();
            let many = wanted.len();
            let (pages, alone) = provider.walk(&mut DayList::new(begins()), wanted);
            assert!(
                pages as usize + alone <= many + 4,
                "{newest_first}: {pages} and {alone} for {many}"
            );
        }
    }

    #[test]
    fn a_list_that_grows_is_walked_on_from_where_the_last_walk_ended() {
        for newest_first in [false, true] {
            let all = orders(20_000, TimeDelta::zero(), DAY);
            let mut list = DayList::new(begins());
            let mut questions = 0;
            for end in (2_000..=20_000).step_by(500) {
                let provider = Provider {
                    orders: all[..end].to_vec(),
                    newest_first,
                };
                let (pages, alone) = provider.walk(&mut list, all[end - 500..end].to_vec());
                questions += pages as usize + alone;
            }
            let least = (18_500_usize).div_ceil(30);
            assert!(
                questions <= least + least / 4 + 20,
                "{newest_first}: {questions} of {least}"
            );
        }
    }

    #[test]
    fn orders_of_one_second_are_found_and_those_that_are_not_listed_end_the_search() {
        for newest_first in [false, true] {
            let mut all = orders(3_000, TimeDelta::zero(), DAY);
            let at = all[1_500];
            all.extend(std::iter::repeat_n(at, 400));
            all.sort();
            let provider = Provider {
                orders: all,
                newest_first,
            };
            let mut list = DayList::new(begins());
            let (pages, _) = provider.walk(&mut list, vec![at; 400]);
            assert!(pages <= 20, "{newest_first}: {pages}");
            let missing = vec![at + TimeDelta::milliseconds(1); 5];
            let (pages, alone) = provider.walk(&mut list, missing);
            assert!(
                pages <= 5 * TRIES && alone >= 1,
                "{newest_first}: {pages} and {alone}"
            );
        }
    }

    #[test]
    fn a_list_in_no_order_is_not_walked() {
        let mut all = orders(900, TimeDelta::zero(), DAY);
        let half = all.split_off(450);
        let mixed: Vec<_> = all
            .into_iter()
            .zip(half)
            .flat_map(|(a, b)| [a, b])
            .collect();
        let wanted = mixed[100..400].to_vec();
        let provider = Provider {
            orders: mixed,
            newest_first: false,
        };
        let (pages, alone) = provider.walk(&mut DayList::new(begins()), wanted);
        assert!(pages <= 2, "{pages}");
        assert!(alone >= 290, "{alone}");
    }

    #[test]
    fn a_provider_with_other_pages_is_read_too() {
        let mut list = DayList::new(begins());
        list.start();
        let all = orders(500, TimeDelta::zero(), DAY);
        list.learn(1, Some(500), &all[..50]);
        assert_eq!(list.page_of(120, 500), 3);
        // One that does not say how many orders there are is asked about each by itself.
        let mut silent = DayList::new(begins());
        silent.start();
        assert_eq!(silent.next(&all, begins() + DAY), Next::Page(1));
        silent.learn(1, None, &all[..30]);
        assert_eq!(silent.next(&all, begins() + DAY), Next::Ask);
    }
}
