//! `sms-outbox sandbox`: the stand-in for the provider, for the shell.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::sandbox::{
    CancelledShows, DeliveryShares, Fault, HttpStatus, IdShape, Keep, MissingConsent, NobodyLeft,
    NumberSet, OrderIdShape, OverRate, Price, ReplyStyle, ReportsOrder, Rules, Sandbox,
    SandboxConfig, Shape, Span, Unsendable, WebhookRules, WebhookUrl, fingerprint, parse_duration,
    show_duration,
};

const FAULTS_HELP: &str = "\
Faults, as --fault or over HTTP:
  KIND[:DETAIL][*TIMES | @CHANCE][?FIELD=VALUE[&FIELD=VALUE...]]

  the order is treated as usual, only the reply suffers:
    accept-drop           the connection closes without a reply
    accept-reset          the same, as a reset
    accept-stall[:TIME]   no reply; closed after TIME, or never
    accept-hold           the reply waits for POST /_sandbox/release
    accept-late:TIME      the order is looked at only then, even if the client has gone
    accept-http:STATUS    a page of HTML instead of the reply, such as 502
    accept-garbage, accept-cut, accept-cut-body, accept-empty
    delay:TIME[-TIME]     the reply takes that long
  nobody looks at the order:
    answer:CODE[/HTTP]    that code in the provider's envelope
    http:STATUS[/SECONDS] a bare status, with Retry-After: SECONDS
    drop                  read, then closed without a reply
    stall[:TIME]          no reply; closed after TIME, or never
    hold                  waits for POST /_sandbox/release, then goes on as usual
    refuse                connections close before anything is read
  nothing happens to the order, an event about a message suffers (--webhook):
    webhook-lost          it is never sent
    webhook-repeated      it is sent twice
    webhook-delayed:TIME[-TIME]
    webhook-malformed     at the first try the JSON ends half way
    webhook-forged        after it somebody else claims the opposite
    webhook-reordered     the message's end is told before its acceptance
    webhook-before-reply  its acceptance is told before the order is answered

  fields: to=NUMBER, sender=NAME, text=PART, account=KEY, action=NAME or any (default send-sms)
  examples: 'accept-drop*2'  'answer:402'  'http:429/2*3'  'delay:100ms-2s@0.05'  'drop*1?text=hello'

While it runs, over HTTP:
  GET  /_sandbox/ledger    accepted orders (?order_id= number= sender= text= account= since= limit=)
  GET  /_sandbox/requests  every request that arrived
  GET  /_sandbox/stats     counts, among them the most recipients in any one second
  GET, POST, DELETE /_sandbox/faults   {\"faults\": [\"accept-drop*2\"], \"add\": false}
  GET, POST /_sandbox/rules            {\"api_access\": false, \"guard_window\": \"30s\"}
  POST /_sandbox/senders   {\"approve\": [\"MYBRAND\"], \"withdraw\": []}
  POST /_sandbox/topup     {\"sms\": 1000}
  POST /_sandbox/deliver   {\"order_id\": 312891245, \"number\": \"905321234567\", \"status\": \"delivered\"}
                           or undelivered, never; without a number the whole order, also refused
  POST /_sandbox/webhook   {\"order_id\": 312891245, \"status\": \"delivered\", \"times\": 2}
                           sends events now, true or not; also number (needed where the order is
                           none of the sandbox's), message_id, body
  GET  /_sandbox/webhooks  what was sent, and what was answered
  POST /_sandbox/release   lets go what is held
  POST /_sandbox/away      {\"for\": \"2s\"} shuts the port for so long
  POST /_sandbox/reset     back to the beginning";

/// Runs a stand-in for the iletiMerkezi API on this machine: same paths, codes and oddities, no messages and no bills.
#[derive(Debug, clap::Args)]
#[command(after_long_help = FAULTS_HELP)]
pub struct Args {
    /// Where to listen; port 0 takes any free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8025")]
    listen: SocketAddr,

    /// The API key that it accepts.
    #[arg(long, default_value = "sandbox-key")]
    key: String,

    /// The API hash that it accepts.
    #[arg(long, default_value = "sandbox-hash")]
    hash: String,

    /// A further account, with a balance, a duplicate guard and a rate of its own. May be repeated.
    #[arg(long = "account", value_name = "KEY:HASH", value_parser = parse_account)]
    accounts: Vec<(String, String)>,

    /// Approved senders, compared exactly; APITEST may be used even if it is not among them.
    #[arg(long = "sender", value_name = "NAME", value_delimiter = ',', default_values = ["SANDBOX", "YOURBRAND", "APITEST"])]
    senders: Vec<String>,

    /// Credits of each account; a message costs one per recipient and part.
    #[arg(long, value_name = "CREDITS", default_value_t = 1_000_000_000)]
    balance: u64,

    /// How long the same sender, recipient and text are refused with 451; 0s switches that off.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    guard_window: Duration,

    /// Recipients per second and account; 0 means no limit.
    #[arg(long, value_name = "RECIPIENTS", default_value_t = 100)]
    rate: u32,

    /// What happens above the rate: it is only counted, or answered with HTTP 429.
    #[arg(long, default_value = "count", value_parser = by_name::<OverRate>(&["count", "429"]))]
    over_rate: OverRate,

    /// Append every accepted order to this file, as one line of JSON, before it is answered.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,

    /// Keep no orders and no requests in memory, only counts: for long and fast runs.
    #[arg(long)]
    counts_only: bool,

    /// How long every reply takes, such as 20ms or 10ms-50ms.
    #[arg(long, value_name = "TIME[-TIME]", default_value = "0ms")]
    latency: Span,

    /// A fault on demand, such as 'accept-drop*2'; --help lists all kinds. May be repeated; the first that matches is used.
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,

    /// The seed of everything drawn by chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// The id of the first order, such as 5000000000, which does not fit into 32 bits. A ledger file that is continued counts more.
    #[arg(long, value_name = "ID", default_value_t = SandboxConfig::default().first_order_id)]
    first_order_id: u64,

    /// The id of the first message, as events say it.
    #[arg(long, value_name = "ID", default_value_t = SandboxConfig::default().first_message_id)]
    first_message_id: i64,

    /// Take foreign numbers ("abroad" mode) instead of answering 466.
    #[arg(long)]
    abroad: bool,

    /// Have no İYS brand code on the account: marketing orders answer 470, and the consent endpoints 403.
    #[arg(long)]
    no_iys_brand: bool,

    /// A number that has not consented to marketing: silently dropped from marketing orders. May be repeated.
    #[arg(long, value_name = "NUMBER")]
    no_consent: Vec<String>,

    /// What consent/show says of somebody who was never registered: 422, or 200 with an empty list.
    #[arg(long, default_value = "422", value_parser = by_name::<MissingConsent>(&["422", "empty"]))]
    missing_consent: MissingConsent,

    /// What becomes of a marketing order when nobody in it has consented: complete and empty (114), not sent (115), or refused (452).
    #[arg(long, default_value = "114", value_parser = by_name::<NobodyLeft>(&["114", "115", "452"]))]
    nobody_left: NobodyLeft,

    /// A number on the account's block list. May be repeated.
    #[arg(long, value_name = "NUMBER")]
    blocked: Vec<String>,

    /// A number that nothing is ever delivered to (112). May be repeated.
    #[arg(long, value_name = "NUMBER")]
    unreachable: Vec<String>,

    /// A blocked number refuses its whole order (452), or is only left undelivered.
    #[arg(long, default_value = "reject", value_parser = by_name::<Unsendable>(&["reject", "skip"]))]
    blocked_numbers: Unsendable,

    /// An unreadable number refuses its whole order (466), or is only left out.
    #[arg(long, default_value = "reject", value_parser = by_name::<Unsendable>(&["reject", "skip"]))]
    bad_numbers: Unsendable,

    /// The HTTP status that goes with a code.
    #[arg(long, default_value = "mirror", value_parser = by_name::<HttpStatus>(&["mirror", "always-200", "failures-400"]))]
    http_status: HttpStatus,

    /// status.code as a number or a string.
    #[arg(long, default_value = "number", value_parser = by_name::<Shape>(&["number", "string"]))]
    code: Shape,

    /// What a credit costs, as get-report shows it: 1 where the account pays in credits, such as 0.0372 where it pays in lira.
    #[arg(long, value_name = "AMOUNT", default_value = "1")]
    price: Price,

    /// order.id as a string, as a number, or not at all.
    #[arg(long, default_value = "string", value_parser = by_name::<OrderIdShape>(&["string", "number", "missing"]))]
    order_id: OrderIdShape,

    /// order.id in a report as a string or a number.
    #[arg(long, default_value = "string", value_parser = by_name::<IdShape>(&["string", "number"]))]
    report_id: IdShape,

    /// Balances, prices and statuses in reports as numbers or strings.
    #[arg(long, default_value = "number", value_parser = by_name::<Shape>(&["number", "string"]))]
    figures: Shape,

    /// Let get-report say no more than in the documentation of 2022: id, status and messages.
    #[arg(long)]
    bare_reports: bool,

    /// Add keys to every reply that nobody documents.
    #[arg(long)]
    extra_keys: bool,

    /// Start every reply with a byte order mark.
    #[arg(long)]
    bom: bool,

    /// How long an order stays unknown to the reports (455).
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    visible_after: Duration,

    /// How much later than to get-report an order becomes known to get-reports.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    listed_after: Duration,

    /// In which order get-reports lists.
    #[arg(long, default_value = "newest", value_parser = by_name::<ReportsOrder>(&["newest", "oldest"]))]
    reports_order: ReportsOrder,

    /// What get-report says of a cancelled order.
    #[arg(long, default_value = "115", value_parser = by_name::<CancelledShows>(&["115", "455"]))]
    cancelled_shows: CancelledShows,

    /// How messages end: which share is undelivered, which is never heard of (the rest is delivered), and which share of the orders
    /// is refused after it was accepted (115). Such as 'undelivered@0.04,never@0.01,refused@0.001'.
    #[arg(long, value_name = "SHARES", default_value = "delivered")]
    delivery: DeliveryShares,

    /// How long after sending a message is final, such as 1s-20s; drawn for each message.
    #[arg(long, value_name = "TIME[-TIME]", default_value = "1s")]
    delivery_delay: Span,

    /// Where to tell of each message: accepted, then delivered or undelivered, as JSON. An http address.
    #[arg(long, value_name = "URL")]
    webhook: Option<WebhookUrl>,

    /// Another address for one account. May be repeated.
    #[arg(long = "webhook-account", value_name = "KEY=URL", value_parser = parse_webhook_account)]
    webhook_accounts: Vec<(String, WebhookUrl)>,

    /// How long after a change its event leaves.
    #[arg(long, value_name = "TIME[-TIME]", default_value = "50ms")]
    webhook_delay: Span,

    /// How long the receiver of an event may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    webhook_timeout: Duration,

    /// How long to wait before each further try of an event that was not answered with 2xx; nothing means that there is none.
    #[arg(long, value_name = "TIME,...", num_args = 0.., value_delimiter = ',', default_values = ["1s", "5s", "25s"], value_parser = parse_duration)]
    webhook_retries: Vec<Duration>,

    /// Let the texts of events end with the operator's code B186, as those of messages do.
    #[arg(long)]
    webhook_operator_code: bool,
}

/// Runs the sandbox until Ctrl-C or SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let (key, hash) = (args.key.clone(), args.hash.clone());
    let (rate, window) = (args.rate, args.guard_window);
    let loopback = args.listen.ip().is_loopback();
    let sandbox = Sandbox::start(config(args)).await?;
    let url = sandbox.base_url();
    println!("The sandbox answers for iletiMerkezi at {url}");
    if !loopback {
        println!(
            "Anyone who reaches this address can read its ledger and steer it: it has no password."
        );
    }
    println!();
    println!("Point a worker at it:");
    println!("  export ILETIMERKEZI_BASE_URL={url}");
    println!("  export ILETIMERKEZI_API_KEY={key}");
    println!("  export ILETIMERKEZI_API_HASH={hash}");
    println!();
    println!("Look and steer (sandbox --help lists everything):");
    println!("  curl {url}/_sandbox/stats");
    println!("  curl {url}/_sandbox/ledger");
    println!("  curl {url}/_sandbox/faults --json '{{\"faults\":[\"accept-drop*2\"]}}'");
    println!();
    let limit = if rate == 0 {
        "no rate limit".to_owned()
    } else {
        format!("{rate} recipients per second")
    };
    println!(
        "Repeats are 451 for {}; {limit}. Ctrl-C stops it.",
        show_duration(window)
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let stats = sandbox.handle().stats();
    sandbox.stop().await;
    println!();
    println!(
        "{} orders accepted for {} recipients; at most {} recipients in any one second.",
        stats.accepted_orders, stats.accepted_recipients, stats.max_recipients_in_any_second
    );
    Ok(())
}

fn config(args: Args) -> SandboxConfig {
    SandboxConfig {
        listen: args.listen,
        key: args.key,
        hash: args.hash,
        further_accounts: args.accounts,
        balance_sms: args.balance,
        ledger_file: args.ledger,
        keep: if args.counts_only {
            Keep::CountsOnly
        } else {
            Keep::Everything
        },
        faults: args.faults,
        seed: args.seed,
        first_order_id: args.first_order_id,
        first_message_id: args.first_message_id,
        rules: Rules {
            senders: args.senders.into_iter().collect(),
            abroad: args.abroad,
            bad_numbers: args.bad_numbers,
            blocked: args.blocked.into_iter().collect::<NumberSet>(),
            blocked_numbers: args.blocked_numbers,
            unreachable: args.unreachable.into_iter().collect::<NumberSet>(),
            iys_brand: !args.no_iys_brand,
            no_consent: args.no_consent.into_iter().collect::<NumberSet>(),
            missing_consent: args.missing_consent,
            nobody_left: args.nobody_left,
            guard_window: args.guard_window,
            rate_limit: args.rate,
            over_rate: args.over_rate,
            latency: args.latency,
            visible_after: args.visible_after,
            listed_after: args.listed_after,
            reports_order: args.reports_order,
            cancelled_shows: args.cancelled_shows,
            delivery: args.delivery,
            delivery_delay: args.delivery_delay,
            webhooks: WebhookRules {
                url: args.webhook,
                accounts: args.webhook_accounts.into_iter().collect(),
                delay: args.webhook_delay,
                timeout: args.webhook_timeout,
                retries: args.webhook_retries,
                operator_code: args.webhook_operator_code,
            },
            price: args.price,
            reply: ReplyStyle {
                http_status: args.http_status,
                code: args.code,
                order_id: args.order_id,
                report_id: args.report_id,
                figures: args.figures,
                bare_reports: args.bare_reports,
                extra_keys: args.extra_keys,
                bom: args.bom,
            },
            ..Rules::default()
        },
    }
}

fn parse_account(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, hash)) if !key.is_empty() && !hash.is_empty() => {
            Ok((key.to_owned(), hash.to_owned()))
        }
        _ => Err("an account is written KEY:HASH".to_owned()),
    }
}

/// The account is known by its fingerprint from here on.
fn parse_webhook_account(text: &str) -> Result<(String, WebhookUrl), String> {
    match text.split_once('=') {
        Some((key, url)) if !key.is_empty() => {
            let url = url.parse().map_err(|error| format!("{error}"))?;
            Ok((fingerprint(key), url))
        }
        _ => Err("the address of an account is written KEY=URL".to_owned()),
    }
}

/// A setting is spelled on the command line as it is in JSON, so that there is one list of names.
fn by_name<T>(names: &'static [&'static str]) -> impl clap::builder::TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(names)
        .try_map(|name| serde_json::from_value::<T>(serde_json::Value::String(name)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Result<SandboxConfig, clap::Error> {
        Program::try_parse_from([&["sandbox"], flags].concat()).map(|program| config(program.args))
    }

    #[test]
    fn without_flags_the_shell_gets_the_defaults_of_the_library() {
        let config = parse(&[]).expect("no flag is required");
        assert_eq!(config.rules, Rules::default());
        assert_eq!(config.balance_sms, SandboxConfig::default().balance_sms);
    }

    #[test]
    fn flags_are_read_into_the_configuration() {
        let config = parse(&[
            "--account",
            "k2:h2",
            "--sender",
            "A,B",
            "--fault",
            "accept-drop*2",
            "--over-rate",
            "429",
            "--http-status",
            "failures-400",
            "--latency",
            "10ms-50ms",
            "--guard-window",
            "30s",
            "--order-id",
            "missing",
            "--blocked-numbers",
            "skip",
            "--delivery",
            "undelivered@0.1,never@0.01",
            "--webhook",
            "http://127.0.0.1:8027/webhooks/default/s",
            "--webhook-account",
            "k2=http://127.0.0.1:8028/",
            "--webhook-retries",
        ])
        .expect("flags");
        assert_eq!(
            config.further_accounts,
            [("k2".to_owned(), "h2".to_owned())]
        );
        assert_eq!(config.rules.senders.len(), 2);
        assert_eq!(config.faults[0].to_string(), "accept-drop*2");
        assert_eq!(config.rules.over_rate, OverRate::Answer429);
        assert_eq!(config.rules.reply.http_status, HttpStatus::Failures400);
        assert_eq!(config.rules.reply.order_id, OrderIdShape::Missing);
        assert_eq!(config.rules.guard_window, Duration::from_secs(30));
        assert_eq!(config.rules.blocked_numbers, Unsendable::Skip);
        assert_eq!(
            config.rules.delivery.to_string(),
            "undelivered@0.1,never@0.01"
        );
        let address = |key| config.rules.webhooks.address(&fingerprint(key)).cloned();
        let first = address("sandbox-key").map(String::from);
        assert!(first.is_some_and(|url| url.contains(":8027/webhooks/default/s")));
        let second = address("k2").map(String::from);
        assert!(second.is_some_and(|url| url.contains(":8028/")));
        assert!(config.rules.webhooks.retries.is_empty());
    }

    #[test]
    fn a_flag_that_makes_no_sense_is_refused() {
        for flags in [
            ["--fault", "explode"],
            ["--account", "k2"],
            ["--guard-window", "10"],
            ["--over-rate", "maybe"],
            ["--delivery", "lost@0.1"],
            ["--delivery-delay", "1"],
            ["--webhook", "https://example.com/"],
            ["--webhook-account", "http://127.0.0.1:8028/"],
        ] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
    }
}
