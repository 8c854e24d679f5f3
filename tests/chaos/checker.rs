//! What must hold after every run, each rule by itself, as plain functions of the evidence.

use std::collections::{HashMap, HashSet};

use sms_outbox::sandbox::LedgerEntry;
use uuid::Uuid;

use super::evidence::{Attempt, Evidence, Job, Move, Request};
use super::plan::{BLOCKED, MARK, Message, Obstacle};
use super::producers::Told;
use super::support::worker::{HASH, KEY};

/// Between the clocks of Postgres and of the sandbox, which takes the system's time once and counts from there.
const CLOCKS_US: i64 = 20_000;
/// From the last look at `expires_at`, as the first byte leaves, to the moment at which the provider has read the last.
const ON_THE_WAY_US: i64 = 300_000;
/// Orders of more recipients are bulk orders, which follow another limit.
const BULK: usize = 100;

/// A rule, and what speaks against it.
pub type Rule = (&'static str, fn(&View<'_>) -> Vec<String>);

pub const EXISTS: &str =
    "every committed job exists once and ends, and a rolled-back one is never asked for";
pub const ONCE: &str = "nothing is accepted twice";
pub const ON_ITS_JOB: &str =
    "every accepted order is on its job, or the job says that reconciliation looks for it";
pub const LIMIT: &str = "no closed second holds more recipients than the limit";
pub const MARKED: &str = "every request has a committed claim older than itself";
pub const IN_TIME: &str = "nothing is sent after its end, nor after it was cancelled unclaimed";
pub const SILENT: &str = "no log holds a number, a text, a key or a hash";
pub const DRAINS: &str = "the queue drains when the faults stop";
pub const LEASES: &str = "no claim is recovered while its lease holds";
pub const FINAL: &str = "what has ended stays as it ended, unless it was accepted after all";
pub const UNREPEATABLE: &str = "only a job that could not be repeated in time is uncertain";
pub const OUTAGE: &str = "an outage fails no job, and makes no more of them indeterminate than requests could be under way";
pub const ROWS: &str =
    "no job waits for another's row, and one that cannot be changed is named and sent in the end";
pub const FIREWALL: &str = "a text that something in front of the provider refuses fails alone";
pub const LISTS: &str = "a number that the provider refuses costs the others of its list nothing";
pub const EXPLAINED: &str = "no job waits for nothing";
pub const WHOLE: &str = "no worker breaks by itself";

/// The first eight are the promises; the others are how the first eight could be broken without anyone noticing yet.
pub const RULES: [Rule; 17] = [
    (EXISTS, exists),
    (ONCE, once),
    (ON_ITS_JOB, on_its_job),
    (LIMIT, limit),
    (MARKED, marked),
    (IN_TIME, in_time),
    (SILENT, silent),
    (DRAINS, drains),
    (LEASES, leases),
    (FINAL, stays),
    (UNREPEATABLE, unsettled),
    (OUTAGE, outage),
    (ROWS, rows),
    (FIREWALL, firewall),
    (LISTS, lists),
    (EXPLAINED, explained),
    (WHOLE, whole),
];

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub violations: Vec<(&'static str, String)>,
    pub lost: usize,
    pub doubled: usize,
    pub uncertain: usize,
}

impl Findings {
    pub fn of(evidence: &Evidence) -> Self {
        let view = View::new(evidence);
        let mut found = Self::default();
        for (rule, check) in RULES {
            found
                .violations
                .extend(check(&view).into_iter().map(|what| (rule, what)));
        }
        let against = |rule| found.violations.iter().filter(|(r, _)| *r == rule).count();
        found.lost = against(EXISTS);
        found.doubled = against(ONCE);
        found.uncertain = evidence
            .jobs
            .iter()
            .filter(|job| job.status == "uncertain")
            .count();
        found
    }

    /// How often each rule was broken, of those that were.
    pub fn broken(&self) -> Vec<(&'static str, usize)> {
        RULES
            .iter()
            .map(|(rule, _)| {
                (
                    *rule,
                    self.violations.iter().filter(|(r, _)| r == rule).count(),
                )
            })
            .filter(|(_, times)| *times > 0)
            .collect()
    }
}

/// Everything about one text: a message, or several of equal content, which the provider cannot tell apart.
#[derive(Default)]
struct Group<'a> {
    messages: Vec<&'a Message>,
    jobs: Vec<&'a Job>,
    requests: Vec<&'a Request>,
    orders: Vec<&'a LedgerEntry>,
}

/// The evidence, put together by text and by job.
pub struct View<'a> {
    evidence: &'a Evidence,
    groups: HashMap<&'a str, Group<'a>>,
    jobs: HashMap<Uuid, &'a Job>,
    moves: HashMap<Uuid, Vec<&'a Move>>,
}

impl<'a> View<'a> {
    pub fn new(evidence: &'a Evidence) -> Self {
        let mut groups: HashMap<&str, Group<'a>> = HashMap::new();
        let jobs: HashMap<Uuid, &Job> = evidence.jobs.iter().map(|job| (job.id, job)).collect();
        let mut parts: HashMap<Uuid, Vec<&Job>> = HashMap::new();
        for job in &evidence.jobs {
            if let Some(list) = job.part_of {
                parts.entry(list).or_default().push(job);
            }
        }
        for message in &evidence.messages {
            let group = groups.entry(&message.text).or_default();
            group.messages.push(message);
            group.jobs.extend(jobs.get(&message.id));
            group
                .jobs
                .extend(parts.remove(&message.id).unwrap_or_default());
        }
        for request in &evidence.requests {
            let text = request.text.as_deref().unwrap_or_default();
            groups.entry(text).or_default().requests.push(request);
        }
        for order in &evidence.ledger {
            groups.entry(&order.text).or_default().orders.push(order);
        }
        for group in groups.values_mut() {
            group.requests.sort_by_key(|request| request.arrived_at);
        }
        let mut moves: HashMap<Uuid, Vec<&Move>> = HashMap::new();
        for one in &evidence.moves {
            moves.entry(one.job).or_default().push(one);
        }
        Self {
            evidence,
            groups,
            jobs,
            moves,
        }
    }

    /// Everything that is known of a job, in milliseconds from its first claim.
    pub fn history(&self, id: Uuid) -> String {
        let Some(job) = self.jobs.get(&id) else {
            return "no such job".to_owned();
        };
        let mut events: Vec<(i64, String)> = Vec::new();
        for one in self.moves_of(id) {
            events.push((
                one.at,
                format!("{} -> {} (claim {})", one.was, one.status, one.token),
            ));
        }
        let message = self
            .evidence
            .messages
            .iter()
            .find(|message| message.id == id);
        if let Some(group) = message.and_then(|message| self.groups.get(message.text.as_str())) {
            let arrived = |request: &&Request| (request.arrived_at, "request".to_owned());
            events.extend(group.requests.iter().map(arrived));
            let accepted = |order: &&LedgerEntry| {
                (order.accepted_at, format!("accepted as {}", order.order_id))
            };
            events.extend(group.orders.iter().map(accepted));
        }
        events.extend(
            job.ambiguous_since
                .map(|at| (at, "indeterminate".to_owned())),
        );
        events.extend(job.expires_at.map(|at| (at, "expires".to_owned())));
        events.sort();
        let claimed = self.moves_of(id).first().map_or(0, |one| one.at);
        let told: Vec<String> = events
            .into_iter()
            .map(|(at, what)| format!("{} {what}", (at - claimed) / 1_000))
            .collect();
        format!(
            "{} after {} attempts, {}: {}",
            job.status,
            job.attempt,
            job.error_message.as_deref().unwrap_or("no failure"),
            told.join("; ")
        )
    }

    /// Whether a claim of it was abandoned and recovered.
    fn was_rescued(&self, job: Uuid) -> bool {
        self.evidence
            .attempts
            .iter()
            .any(|attempt| attempt.job == job && attempt.observer == "rescue")
    }

    fn moves_of(&self, job: Uuid) -> &[&'a Move] {
        self.moves.get(&job).map_or(&[], Vec::as_slice)
    }
}

fn exists(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for message in &view.evidence.messages {
        let id = message.id;
        let group = &view.groups[message.text.as_str()];
        let job = view.jobs.get(&id);
        match (view.evidence.told.get(&id), job) {
            (Some(Told::Committed), None) => {
                found.push(format!("job {id} was committed and is gone"))
            }
            (Some(Told::RolledBack) | None, Some(_)) => {
                found.push(format!("job {id} was rolled back and is there"));
            }
            (Some(Told::RolledBack) | None, None) => {
                if group.messages.len() == 1 && !group.requests.is_empty() {
                    found.push(format!("job {id} was rolled back and was asked for"));
                }
            }
            (Some(Told::Committed), Some(job)) => {
                let as_asked = match job.status.as_str() {
                    "sent" => !message.numbers.is_empty() && !group.orders.is_empty(),
                    // Whoever died with the claim of one without a number left an indeterminate job although nothing was sent.
                    "uncertain" => !message.numbers.is_empty() || view.was_rescued(id),
                    "failed" => {
                        message.numbers.is_empty() || message.obstacle == Some(Obstacle::Firewall)
                    }
                    "split" => message.is_to_blocked(),
                    "expired" => message.expires_after.is_some(),
                    "cancelled" => message.cancel_after.is_some(),
                    _ => false,
                };
                if !as_asked {
                    found.push(format!(
                        "job {id} is {} ({}) after {} attempts, with {} orders in the ledger",
                        job.status,
                        job.error_class.as_deref().unwrap_or("no failure"),
                        job.attempt,
                        group.orders.len()
                    ));
                }
                if message.numbers.is_empty() && !group.requests.is_empty() {
                    found.push(format!("job {id} has no readable number and was asked for"));
                }
            }
        }
    }
    for group in view.groups.values() {
        let plainly_sent = group
            .jobs
            .iter()
            .filter(|job| job.status == "sent" && !job.duplicate)
            .count();
        if !group.orders.is_empty() && plainly_sent > group.orders.len() {
            found.push(format!(
                "{plainly_sent} jobs of one content are sent, and {} orders are in the ledger",
                group.orders.len()
            ));
        }
        if group.messages.is_empty() {
            found.push(format!(
                "{} requests were for no message of ours",
                group.requests.len()
            ));
        }
    }
    let unique: HashSet<Uuid> = view.evidence.jobs.iter().map(|job| job.id).collect();
    let written: HashSet<Uuid> = view
        .evidence
        .jobs
        .iter()
        .map(|job| job.part_of.unwrap_or(job.id))
        .collect();
    let known: HashSet<Uuid> = view
        .evidence
        .messages
        .iter()
        .map(|message| message.id)
        .collect();
    if unique.len() != view.evidence.jobs.len() || !written.is_subset(&known) {
        found.push("there are jobs that nobody wrote, or that are there twice".to_owned());
    }
    found
}

fn once(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for group in view.groups.values() {
        let wanted = group.jobs.len().max(1);
        for order in group.orders.iter().skip(wanted) {
            let first = group.orders[0];
            found.push(format!(
                "job {:?} was accepted once more, as order {}, {} ms after order {}",
                group.messages.first().map(|message| message.id),
                order.order_id,
                (order.accepted_at - first.accepted_at) / 1_000,
                first.order_id
            ));
        }
    }
    found
}

fn on_its_job(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    // A second acceptance is in the history of a job that is sent. In that of any other it would be known and not believed.
    let of_sent = |attempt: &&Attempt| {
        view.jobs
            .get(&attempt.job)
            .is_some_and(|job| job.status == "sent")
    };
    let named: HashSet<&str> = view
        .evidence
        .jobs
        .iter()
        .filter_map(|job| job.order_id.as_deref())
        .chain(
            view.evidence
                .attempts
                .iter()
                .filter(of_sent)
                .filter_map(|attempt| attempt.order_id.as_deref()),
        )
        .collect();
    for group in view.groups.values() {
        let unnamed: Vec<&&LedgerEntry> = group
            .orders
            .iter()
            .filter(|order| !named.contains(order.order_id.as_str()))
            .collect();
        let seek = group
            .jobs
            .iter()
            .filter(|job| match job.status.as_str() {
                "sent" => job.order_id.is_none() || job.duplicate,
                "uncertain" => true,
                // Whoever cancelled it was told that it may have been sent.
                "cancelled" => job.ambiguous_since.is_some(),
                _ => false,
            })
            .count();
        for order in unnamed.into_iter().skip(seek) {
            let jobs: Vec<String> = group
                .jobs
                .iter()
                .map(|job| format!("{} is {}", job.id, job.status))
                .collect();
            found.push(format!(
                "order {} is on no job: {}",
                order.order_id,
                jobs.join(", ")
            ));
        }
        for job in &group.jobs {
            let Some(order) = &job.order_id else { continue };
            if !group.orders.iter().any(|known| known.order_id == *order) {
                found.push(format!(
                    "job {} names order {order}, which is not its own",
                    job.id
                ));
            }
        }
    }
    found
}

fn limit(view: &View<'_>) -> Vec<String> {
    let mut requests: Vec<&Request> = view
        .evidence
        .requests
        .iter()
        .filter(|request| request.recipients <= BULK)
        .collect();
    requests.sort_by_key(|request| request.arrived_at);
    let (mut first, mut within, mut worst) = (0, 0, (0, 0));
    let mut over = 0;
    for last in &requests {
        within += last.recipients;
        // A closed second: both ends belong to it.
        while last.arrived_at - requests[first].arrived_at > 1_000_000 {
            within -= requests[first].recipients;
            first += 1;
        }
        over += usize::from(within > view.evidence.settings.limit);
        worst = worst.max((within, last.arrived_at));
    }
    if over == 0 {
        return Vec::new();
    }
    vec![format!(
        "{} recipients in the second before {}, and {over} requests beyond the limit of {}",
        worst.0, worst.1, view.evidence.settings.limit
    )]
}

fn marked(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for group in view.groups.values() {
        let mut claims: Vec<i64> = group
            .jobs
            .iter()
            .flat_map(|job| view.moves_of(job.id))
            .filter(|one| one.status == "sending")
            .map(|one| one.committed_at)
            .collect();
        claims.sort_unstable();
        for (n, request) in group.requests.iter().enumerate() {
            // The nth request needs n claims before it: one claim is one request.
            if claims
                .get(n)
                .is_none_or(|claim| *claim > request.arrived_at + CLOCKS_US)
            {
                found.push(format!(
                    "request {} of job {:?} at {} came before its claim",
                    n + 1,
                    group.messages.first().map(|message| message.id),
                    request.arrived_at
                ));
            }
        }
    }
    found
}

fn in_time(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    // Which of two equal contents a request was for, nobody can tell.
    for group in view
        .groups
        .values()
        .filter(|group| group.messages.len() == 1)
    {
        let Some(job) = group.jobs.first() else {
            continue;
        };
        let last = group.requests.last().map(|request| request.arrived_at);
        if let (Some(last), Some(end)) = (last, job.expires_at)
            && last >= end + ON_THE_WAY_US
        {
            found.push(format!(
                "job {} was asked for {} ms after its end",
                job.id,
                (last - end) / 1_000
            ));
        }
        if job.status == "expired" && !group.orders.is_empty() {
            found.push(format!("job {} is expired and was accepted", job.id));
        }
        let moves = view.moves_of(job.id);
        let unclaimed = moves.iter().all(|one| one.status != "sending");
        if unclaimed && job.status == "cancelled" && last.is_some() {
            found.push(format!(
                "job {} was cancelled before any claim and was asked for",
                job.id
            ));
        }
    }
    found
}

fn silent(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let local = |number: &str| number[number.len() - 10..].to_owned();
    let numbers: HashSet<String> = view
        .evidence
        .messages
        .iter()
        .flat_map(|message| &message.numbers)
        .map(|number| local(number))
        .collect();
    for line in &view.evidence.lines {
        if let Some(secret) = [KEY, HASH, MARK]
            .iter()
            .find(|secret| line.contains(**secret))
        {
            found.push(format!("a log line holds {secret:?}"));
        }
        // However its parts are set apart.
        let close: String = line
            .chars()
            .filter(|c| !matches!(c, ' ' | '(' | ')'))
            .collect();
        let holds_a_number = close
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| digits.len() >= 10)
            .any(|digits| (0..=digits.len() - 10).any(|at| numbers.contains(&digits[at..at + 10])));
        if holds_a_number {
            found.push("a log line holds a number".to_owned());
        }
    }
    found
}

fn drains(view: &View<'_>) -> Vec<String> {
    view.evidence
        .jobs
        .iter()
        .filter(|job| matches!(job.status.as_str(), "queued" | "sending"))
        .map(|job| format!("job {} is still {}", job.id, job.status))
        .collect()
}

fn leases(view: &View<'_>) -> Vec<String> {
    let rescued: HashSet<(Uuid, i32)> = view
        .evidence
        .attempts
        .iter()
        .filter(|attempt| attempt.observer == "rescue")
        .map(|attempt| (attempt.job, attempt.token))
        .collect();
    let early = |one: &&Move| {
        one.was == "sending"
            && rescued.contains(&(one.job, one.token))
            && one.lease_until.is_some_and(|until| one.at < until)
    };
    view.evidence
        .moves
        .iter()
        .filter(early)
        .map(|one| {
            format!(
                "claim {} of job {} was recovered while its lease held",
                one.token, one.job
            )
        })
        .collect()
}

fn stays(view: &View<'_>) -> Vec<String> {
    let left = |one: &&Move| match one.was.as_str() {
        "sent" => true,
        "failed" | "expired" | "cancelled" | "uncertain" => one.status != "sent",
        _ => false,
    };
    view.evidence
        .moves
        .iter()
        .filter(left)
        .map(|one| format!("job {} was {} and became {}", one.job, one.was, one.status))
        .collect()
}

fn unsettled(view: &View<'_>) -> Vec<String> {
    let settings = &view.evidence.settings;
    let mut found = Vec::new();
    for job in view
        .evidence
        .jobs
        .iter()
        .filter(|job| job.status == "uncertain")
    {
        let became = view
            .moves_of(job.id)
            .iter()
            .rev()
            .find(|one| one.status == "uncertain");
        let (Some(became), Some(since)) = (became, job.ambiguous_since) else {
            found.push(format!(
                "job {} is uncertain and was never indeterminate",
                job.id
            ));
            continue;
        };
        // A repeat has to cool down first, and to end while the guard still stands.
        let room =
            settings.guard_window_us - settings.request_timeout_us - settings.settle_delay_us;
        let too_old = became.at - since >= room - settings.asking_takes_us;
        let ended = job
            .expires_at
            .is_some_and(|end| became.at >= end - CLOCKS_US);
        let used_up = job.attempt >= job.max_attempts;
        if !(too_old || ended || used_up) {
            found.push(format!(
                "job {} is uncertain {} ms after it became indeterminate: there was room for a repeat. {}",
                job.id,
                (became.at - since) / 1_000,
                view.history(job.id)
            ));
        }
    }
    found
}

fn outage(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for job in &view.evidence.jobs {
        let class = job.error_class.as_deref().unwrap_or_default();
        if job.status == "failed" && ["network", "timeout", "unavailable"].contains(&class) {
            found.push(format!("job {} failed for {class}", job.id));
        }
    }
    let under_way = view.evidence.settings.under_way;
    for (from, to) in &view.evidence.outages {
        let indeterminate = view
            .evidence
            .jobs
            .iter()
            .filter_map(|job| job.ambiguous_since)
            .filter(|since| (from..=to).contains(&since))
            .count();
        if indeterminate > under_way {
            found.push(format!(
                "{indeterminate} jobs became indeterminate in an outage of {} ms, and {under_way} requests could be under way",
                (to - from) / 1_000
            ));
        }
    }
    found
}

/// The committed jobs that this stands in the way of.
fn behind<'a>(view: &View<'a>, obstacle: Obstacle) -> impl Iterator<Item = &'a Job> {
    view.evidence
        .messages
        .iter()
        .filter(move |message| message.obstacle == Some(obstacle))
        .filter_map(|message| view.jobs.get(&message.id).copied())
}

fn rows(view: &View<'_>) -> Vec<String> {
    let mut found: Vec<String> = view
        .evidence
        .held_up
        .iter()
        .map(|id| format!("job {id} waited, and nothing stood in its way"))
        .collect();
    for job in behind(view, Obstacle::Rule) {
        if !view.evidence.refused.contains(&job.id) {
            found.push(format!("job {} was refused and not named", job.id));
        }
    }
    for job in behind(view, Obstacle::Rule).chain(behind(view, Obstacle::Lock)) {
        if job.status != "sent" {
            found.push(format!(
                "job {} was in nobody's way any more and is {}",
                job.id, job.status
            ));
        }
    }
    found
}

fn firewall(view: &View<'_>) -> Vec<String> {
    behind(view, Obstacle::Firewall)
        .filter(|job| match job.status.as_str() {
            "failed" => job.error_class.as_deref() != Some("request"),
            // With an unanswered request behind it nobody knows that it failed.
            "uncertain" => job.ambiguous_since.is_none(),
            _ => true,
        })
        .map(|job| {
            format!(
                "job {} is {} ({})",
                job.id,
                job.status,
                job.error_class.as_deref().unwrap_or("no failure")
            )
        })
        .collect()
}

fn lists(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for message in view.evidence.messages.iter().filter(|m| m.is_to_blocked()) {
        let orders = &view.groups[message.text.as_str()].orders;
        for number in &message.numbers {
            let times = orders
                .iter()
                .flat_map(|order| &order.numbers)
                .filter(|accepted| *accepted == number)
                .count();
            if times != usize::from(number != BLOCKED) {
                found.push(format!(
                    "a number of job {} was accepted {times} times",
                    message.id
                ));
            }
        }
    }
    found
}

fn explained(view: &View<'_>) -> Vec<String> {
    view.evidence
        .unexplained
        .iter()
        .map(|id| format!("job {id} waited for nothing: {}", view.history(*id)))
        .collect()
}

fn whole(view: &View<'_>) -> Vec<String> {
    let says = |line: &&String| {
        // A panic that a failpoint has made is no bug.
        let panicked = line.contains("a bug: please report") && !line.contains("src/failpoints/");
        panicked || line.contains("a task of the worker died")
    };
    view.evidence
        .lines
        .iter()
        .filter(says)
        .chain(&view.evidence.broken_workers)
        .cloned()
        .collect()
}
