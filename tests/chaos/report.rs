//! What happened, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use sms_outbox::failpoints::Variant;

use super::chaos::Outcome;
use super::checker::Findings;
use super::variants::Scenario;

#[derive(Default)]
pub struct Report {
    seed: u64,
    /// Everything that speaks against the run; empty: it passed.
    pub objections: Vec<String>,
    pub variants_lasted: Duration,
    rows: Vec<(String, Value)>,
    failpoints: Vec<(String, usize)>,
    noticed: Vec<(String, String)>,
}

impl Report {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    fn row(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.rows.push((name.into(), value.into()));
    }

    pub fn chaos(&mut self, outcome: &Outcome, findings: &Findings) {
        let evidence = &outcome.evidence;
        let with = |status: &str| {
            evidence
                .jobs
                .iter()
                .filter(|job| job.status == status)
                .count()
        };
        self.row("messages committed", outcome.met.committed);
        self.row("messages rolled back", outcome.met.rolled_back);
        self.row(
            "transactions of producers broken off, and written again",
            outcome.met.broken,
        );
        self.row("workers started", outcome.workers);
        for (name, times) in &outcome.injected {
            self.row(*name, *times);
        }
        let strikes: usize = outcome.struck.values().sum();
        self.row(
            format!("strikes at {} failpoints", outcome.struck.len()),
            strikes,
        );
        self.row(
            "requests that met a fault of the provider",
            outcome.stats["struck"].clone(),
        );
        self.row(
            "connections refused by the provider",
            outcome.stats["refused_connections"].clone(),
        );
        let amid = evidence
            .requests
            .iter()
            .filter(|request| request.arrived_at < outcome.quiet_at)
            .count();
        self.row("requests", evidence.requests.len());
        self.row("of these, while the faults lasted", amid);
        self.row("orders accepted", evidence.ledger.len());
        self.row(
            "of these, answers kept back by the provider",
            outcome.stats["accepted_unanswered"].clone(),
        );
        for status in ["sent", "failed", "expired", "cancelled"] {
            self.row(status, with(status));
        }
        let duplicates = evidence.jobs.iter().filter(|job| job.duplicate).count();
        self.row("sent, and known by the duplicate guard (451)", duplicates);
        let settled = evidence
            .jobs
            .iter()
            .filter(|job| job.status == "sent" && job.ambiguous_since.is_some())
            .count();
        self.row("indeterminate jobs that were sent in the end", settled);
        self.row("uncertain", findings.uncertain);
        let ended = evidence
            .jobs
            .iter()
            .filter(|job| job.status == "uncertain" && job.expires_at.is_some())
            .count();
        self.row("of these, because `expires_at` forbade a repeat", ended);
        self.row("**lost**", findings.lost);
        self.row("**doubled**", findings.doubled);
        self.row("rules broken", findings.broken().len());
        self.row("seconds in all", outcome.lasted.as_secs());
        self.row(
            "seconds until the queue was empty, after the faults",
            outcome.drained_after.as_secs(),
        );
        self.failpoints = outcome
            .struck
            .iter()
            .map(|(name, times)| ((*name).to_owned(), *times))
            .collect();
    }

    pub fn variant(&mut self, scenario: Scenario, variant: Option<Variant>, findings: &Findings) {
        let broken: Vec<String> = findings
            .broken()
            .iter()
            .map(|(rule, times)| format!("{rule} ({times})"))
            .collect();
        let objections = &mut self.objections;
        match variant {
            None => objections.extend(
                findings
                    .violations
                    .iter()
                    .map(|(rule, what)| format!("the right worker, {scenario:?}: {rule}: {what}")),
            ),
            Some(variant) => {
                let expected = Scenario::of(variant).1;
                if !findings
                    .violations
                    .iter()
                    .any(|(rule, _)| *rule == expected)
                {
                    objections.push(format!(
                        "the wrong variant {} was not noticed: {scenario:?} was to break {expected:?}, and broke {broken:?}",
                        variant.name()
                    ));
                }
                self.noticed
                    .push((variant.name().to_owned(), broken.join("; ")));
            }
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let mut table = |head: &str, rows: &mut dyn Iterator<Item = (String, String)>| {
            let mut rows = rows.peekable();
            if rows.peek().is_some() {
                writeln!(text, "\n{head}").expect("writing to a String");
            }
            for (name, value) in rows {
                writeln!(text, "| {name} | {value} |").expect("writing to a String");
            }
        };
        table(
            &format!("| seed {} | |\n|---|---:|", self.seed),
            &mut self
                .rows
                .iter()
                .map(|(name, value)| (name.clone(), value.to_string())),
        );
        table(
            "| failpoint | strikes |\n|---|---:|",
            &mut self
                .failpoints
                .iter()
                .map(|(name, times)| (format!("`{name}`"), times.to_string())),
        );
        table(
            "| wrong on purpose | noticed, because these did not hold |\n|---|---|",
            &mut self
                .noticed
                .iter()
                .map(|(name, rules)| (format!("`{name}`"), rules.clone())),
        );
        text
    }

    pub fn json(&self) -> Value {
        let object =
            |rows: &[(String, Value)]| rows.iter().cloned().collect::<serde_json::Map<_, _>>();
        let failpoints: serde_json::Map<_, _> = self
            .failpoints
            .iter()
            .map(|(name, times)| (name.clone(), json!(times)))
            .collect();
        let noticed: serde_json::Map<_, _> = self
            .noticed
            .iter()
            .map(|(name, rules)| (name.clone(), json!(rules)))
            .collect();
        json!({
            "seed": self.seed,
            "passed": self.objections.is_empty(),
            "objections": self.objections,
            "counts": object(&self.rows),
            "failpoints": failpoints,
            "wrong_variants": noticed,
            "wrong_variants_seconds": self.variants_lasted.as_secs(),
        })
    }
}
