//! Deciding what the provider says to an order, from the order and the account's settings alone.
//!
//! Nothing here knows sockets, clocks or what was sent before: repeats (451), the balance (402) and the rate are decided in
//! [`super::state`], because they depend on history. Where the documentation is silent or contradicts itself, the choice made here
//! is written beside the field or the function.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::delivery::DeliveryShares;
use super::guard::{GuardKey, Overlap, guard_keys};
use super::numbers::{NumberSet, read_number};
use super::parts::{Coding, MAX_PARTS, measure};
use super::price::Price;
use super::schedule::{BadSchedule, Schedule, read_schedule};
use super::span::{Span, spelled};
use super::webhooks::WebhookRules;
use super::wire::{Call, Refusal, ReplyStyle, number_text, numbers_of, text_of};

/// The sender that may be used before any header is approved; it sends a fixed text and wants `iys` `"0"` (provider
/// documentation, test-mode page).
pub const APITEST: &str = "APITEST";

/// What is sent instead of the text when the sender is [`APITEST`].
pub const APITEST_TEXT: &str = "Bu bir test mesajidir.";

/// The most recipients in one order (provider documentation, send-sms page).
pub const MAX_RECIPIENTS: usize = 50_000;

/// What happens to an order in which some number cannot be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unsendable {
    /// The whole order is refused.
    #[default]
    Reject,
    /// That number is left out; the order is refused only if no number remains.
    Skip,
}

/// What happens above the rate limit. How the provider throttles is not documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverRate {
    /// It is counted, and nothing else happens.
    #[default]
    Count,
    /// HTTP 429 with `Retry-After: 1` and a body without the provider's envelope.
    #[serde(rename = "429")]
    Answer429,
}

/// What becomes of a marketing order when none of its recipients has consented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum NobodyLeft {
    /// It is accepted, and complete with nobody in it: 114 and a total of 0.
    #[default]
    #[serde(rename = "114")]
    Complete,
    /// It is accepted, and then not dispatched: 115 and a total of 0.
    #[serde(rename = "115")]
    NotSent,
    /// It is refused with 452.
    #[serde(rename = "452")]
    Refused,
}

/// In which order `get-reports` lists the orders of its days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportsOrder {
    /// The newest first: pages shift while orders come in.
    #[default]
    Newest,
    /// The oldest first: new orders come at the end.
    Oldest,
}

/// What `get-report` says of an order that was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum CancelledShows {
    /// An order with the status 115.
    #[default]
    #[serde(rename = "115")]
    NotSent,
    /// 455, as of an order that never was.
    #[serde(rename = "455")]
    Unknown,
}

/// What `consent/show` says of a recipient of whom nothing is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum MissingConsent {
    /// 422.
    #[default]
    #[serde(rename = "422")]
    Refused,
    /// 200 and `consent: []`.
    #[serde(rename = "empty")]
    Empty,
}

/// The account's settings and the sandbox's readings of what the documentation leaves open. All of it may be changed while the
/// sandbox runs.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The panel's switch "Allow API access". While it is off every call answers 401.
    pub api_access: bool,
    /// Approved senders, compared byte by byte (450). `APITEST` may be used without being here.
    pub senders: BTreeSet<String>,
    /// The panel's "abroad" mode: foreign numbers are taken instead of answered with 466.
    pub abroad: bool,
    /// Refuse Turkish numbers that do not start 50, 53, 54 or 55 (466). Seen for an unassigned prefix; off by default.
    pub known_prefixes_only: bool,
    /// Whether one bad number refuses its whole order (466) or only itself. Not documented.
    pub bad_numbers: Unsendable,
    /// The account's own block list. `add-blacklist` and `delete-blacklist` change it.
    pub blocked: NumberSet,
    /// Whether a blocked recipient refuses the order (452) or is only reported as 112 later on. The sources say both.
    pub blocked_numbers: Unsendable,
    /// Numbers to which nothing is ever delivered: they end as 112 in the report.
    pub unreachable: NumberSet,
    /// Whether an order without `iys` is refused (468). The send-sms page says so, and also that some versions accept it.
    pub iys_required: bool,
    /// Whether the İYS brand code is set on the account; without it marketing orders answer 470, and the consent endpoints 403.
    pub iys_brand: bool,
    /// Recipients without consent: silently dropped from marketing orders, which still answer 200. `consent/create` changes it.
    pub no_consent: NumberSet,
    /// What `consent/show` says of somebody who was never registered. The documentation has both.
    pub missing_consent: MissingConsent,
    /// What becomes of an order of which nobody remains. Not documented.
    pub nobody_left: NobodyLeft,
    /// How long the same sender, recipient and text are refused with 451; zero switches the guard off.
    #[serde(with = "spelled")]
    pub guard_window: Duration,
    /// Which orders to several recipients count as a repeat.
    pub guard_overlap: Overlap,
    /// Whether an order refused for the balance (402) arms the guard as an accepted one does. Not documented.
    pub refusals_arm_guard: bool,
    /// Recipients per second and account; 0 means no limit.
    pub rate_limit: u32,
    /// What happens above it.
    pub over_rate: OverRate,
    /// How long every reply takes, after the order was accepted.
    pub latency: Span,
    /// How long after its acceptance an order stays unknown (455) to the reports.
    #[serde(with = "spelled")]
    pub visible_after: Duration,
    /// How much later than to `get-report` an order becomes known to `get-reports`.
    #[serde(with = "spelled")]
    pub listed_after: Duration,
    /// In which order `get-reports` lists. Not documented.
    pub reports_order: ReportsOrder,
    /// What `get-report` says of a cancelled order. The documentation has both.
    pub cancelled_shows: CancelledShows,
    /// Which share of the messages ends how, and which share of the orders is not dispatched after all. It counts for orders that
    /// are accepted from then on.
    pub delivery: DeliveryShares,
    /// How long after it was sent a message is final; drawn for each message if it is a range.
    pub delivery_delay: Span,
    /// Where the events that tell of messages go, and how.
    pub webhooks: WebhookRules,
    /// What a credit costs, as reports show it.
    pub price: Price,
    /// How replies are dressed.
    pub reply: ReplyStyle,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            api_access: true,
            senders: ["SANDBOX", "YOURBRAND", APITEST].map(str::to_owned).into(),
            abroad: false,
            known_prefixes_only: false,
            bad_numbers: Unsendable::default(),
            blocked: NumberSet::default(),
            blocked_numbers: Unsendable::default(),
            unreachable: NumberSet::default(),
            iys_required: true,
            iys_brand: true,
            no_consent: NumberSet::default(),
            missing_consent: MissingConsent::default(),
            nobody_left: NobodyLeft::default(),
            guard_window: Duration::from_secs(600),
            guard_overlap: Overlap::default(),
            refusals_arm_guard: false,
            rate_limit: 100,
            over_rate: OverRate::default(),
            latency: Span::ZERO,
            visible_after: Duration::ZERO,
            listed_after: Duration::ZERO,
            reports_order: ReportsOrder::default(),
            cancelled_shows: CancelledShows::default(),
            delivery: DeliveryShares::default(),
            delivery_delay: Span::fixed(Duration::from_secs(1)),
            webhooks: WebhookRules::default(),
            price: Price::default(),
            reply: ReplyStyle::default(),
        }
    }
}

/// Whom a marketing order addresses: `iysList`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum IysList {
    /// Individuals.
    Bireysel,
    /// Merchants.
    Tacir,
}

/// An order that follows the rules. Whether it is accepted depends on what came before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// As given.
    pub sender: String,
    /// What is sent, and to whom; never empty. One order may have several texts.
    pub texts: Vec<SubmittedText>,
    /// Marketing, and to whom; `None` for transactional orders.
    pub iys_list: Option<IysList>,
    /// `sendDateTime` as it came, if anything came.
    pub send_date_time: Option<Value>,
    /// What becomes of it.
    pub schedule: Schedule,
}

/// One text of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmittedText {
    /// As given.
    pub text: String,
    /// Who it goes to, in one spelling, in the order given. Repeated numbers stay repeated.
    pub numbers: Vec<String>,
    /// Who was left out and is never heard of again: no consent, or an unreadable number that is skipped.
    pub dropped: Vec<String>,
    /// How the text is encoded.
    pub coding: Coding,
    /// Into how many parts it is cut.
    pub parts: usize,
}

impl SubmittedText {
    /// Credits that it costs: one per recipient and part.
    pub fn cost(&self) -> u64 {
        u64::try_from(self.numbers.len() * self.parts).unwrap_or(u64::MAX)
    }
}

impl Submission {
    /// Credits that the order costs.
    pub fn cost(&self) -> u64 {
        self.texts.iter().map(SubmittedText::cost).sum()
    }

    /// How many messages it is.
    pub fn messages(&self) -> usize {
        self.texts.iter().map(|text| text.numbers.len()).sum()
    }

    /// What the duplicate guard remembers of it.
    pub fn guard_keys(&self) -> Vec<GuardKey> {
        let texts = self.texts.iter();
        texts
            .flat_map(|text| guard_keys(&self.sender, &text.text, &text.numbers))
            .collect()
    }
}

/// Checks an order field by field (provider documentation, send-sms and error-codes pages). The order of the checks is not
/// documented; here it is: types (422), sender (459, 460, 450), recipients (452, 466), text (454, 453), İYS (468, 469, 470),
/// schedule (457).
pub fn judge(rules: &Rules, call: &Call, now: i64) -> Result<Submission, Refusal> {
    check_types(call)?;
    let sender = judge_sender(rules, call)?;
    let recipients = judge_recipients(rules, call)?;
    let mut texts = call
        .messages()
        .iter()
        .zip(recipients)
        .map(|(message, recipients)| judge_text(message, recipients))
        .collect::<Result<Vec<_>, _>>()?;
    let iys_list = judge_iys(rules, call, sender)?;
    let (schedule, send_date_time) = judge_schedule(call, now)?;

    if iys_list.is_some() && !rules.no_consent.is_empty() {
        for text in &mut texts {
            let (without, with): (Vec<String>, Vec<String>) = std::mem::take(&mut text.numbers)
                .into_iter()
                .partition(|number| rules.no_consent.contains(number));
            text.dropped.extend(without);
            text.numbers = with;
        }
    }
    let submission = Submission {
        sender: sender.to_owned(),
        texts,
        iys_list,
        send_date_time,
        schedule,
    };
    if submission.messages() == 0 && rules.nobody_left == NobodyLeft::Refused {
        return Err(Refusal::code(452));
    }
    Ok(submission)
}

/// A field that is missing gets its own code further on (459, 452, 454, 468); one of the wrong type gets a 422.
fn check_types(call: &Call) -> Result<(), Refusal> {
    let absent_or = |field: Option<&Value>, right: fn(&Value) -> bool| {
        field.is_none_or(|v| v.is_null() || right(v))
    };
    let order = match call.order() {
        Some(order) if order.is_object() => order,
        _ => return Err(Refusal::field("order", "order alanı zorunludur.")),
    };
    if !absent_or(order.get("sender"), Value::is_string) {
        return Err(Refusal::field("sender", "sender alanı metin olmalıdır."));
    }
    if !absent_or(order.get("iysList"), Value::is_string) {
        return Err(Refusal::field("iysList", "iysList alanı metin olmalıdır."));
    }
    let messages = call.messages();
    if messages.is_empty() || !messages.iter().all(Value::is_object) {
        return Err(Refusal::field("message", "message alanı zorunludur."));
    }
    let texts = messages.iter().map(|message| message.get("text"));
    if !texts
        .into_iter()
        .all(|text| absent_or(text, Value::is_string))
    {
        return Err(Refusal::field(
            "message.text",
            "message.text alanı metin olmalıdır.",
        ));
    }
    Ok(())
}

fn judge_sender<'a>(rules: &Rules, call: &'a Call) -> Result<&'a str, Refusal> {
    let sender = call.sender().unwrap_or_default();
    if sender.is_empty() {
        return Err(Refusal::code(459));
    }
    if sender.chars().count() > 11 || sender.chars().any(|c| "çÇğĞıİöÖşŞüÜ".contains(c))
    {
        return Err(Refusal::code(460));
    }
    if sender != APITEST && !rules.senders.contains(sender) {
        return Err(Refusal::code(450));
    }
    Ok(sender)
}

/// Who gets a text, and who is left out of it.
type Recipients = (Vec<String>, Vec<String>);

/// The recipients of each text. The limit is that of the whole order.
fn judge_recipients(rules: &Rules, call: &Call) -> Result<Vec<Recipients>, Refusal> {
    if call.recipients() > MAX_RECIPIENTS {
        return Err(Refusal::code(452));
    }
    let lists = call.messages().iter();
    let read = lists
        .map(|message| read_recipients(rules, numbers_of(message).unwrap_or_default()))
        .collect::<Result<Vec<_>, _>>()?;
    if read.iter().all(|(numbers, _)| numbers.is_empty()) {
        return Err(Refusal::code(466));
    }
    // When they are skipped, blocked numbers stay in the order and end as 112, as the block-list pages say.
    let mut numbers = read.iter().flat_map(|(numbers, _)| numbers);
    if rules.blocked_numbers == Unsendable::Reject
        && numbers.any(|number| rules.blocked.contains(number))
    {
        return Err(Refusal::code(452));
    }
    Ok(read)
}

fn read_recipients(rules: &Rules, given: &[Value]) -> Result<Recipients, Refusal> {
    if given.is_empty() {
        return Err(Refusal::code(452));
    }
    let mut numbers = Vec::with_capacity(given.len());
    let mut dropped = Vec::new();
    for entry in given {
        // What is neither a string nor an integer makes a list that cannot be verified.
        let entry = number_text(entry).ok_or_else(|| Refusal::code(452))?;
        match read_number(&entry, rules.abroad, rules.known_prefixes_only) {
            Some(number) => numbers.push(number),
            None if rules.bad_numbers == Unsendable::Skip => dropped.push(entry.into_owned()),
            None => return Err(Refusal::code(466)),
        }
    }
    Ok((numbers, dropped))
}

fn judge_text(message: &Value, (numbers, dropped): Recipients) -> Result<SubmittedText, Refusal> {
    let text = text_of(message).unwrap_or_default();
    if text.is_empty() {
        return Err(Refusal::code(454));
    }
    let (coding, parts) = measure(text);
    if parts > MAX_PARTS {
        return Err(Refusal::code(453));
    }
    Ok(SubmittedText {
        text: text.to_owned(),
        numbers,
        dropped,
        coding,
        parts,
    })
}

/// `iys` is documented as the string `"1"` or `"0"`; official clients also send the integers, which are taken here.
fn judge_iys(rules: &Rules, call: &Call, sender: &str) -> Result<Option<IysList>, Refusal> {
    let field = |name: &str| call.order().and_then(|order| order.get(name));
    let marketing = match field("iys") {
        None | Some(Value::Null) if !rules.iys_required => false,
        Some(Value::String(iys)) if iys == "0" => false,
        Some(Value::String(iys)) if iys == "1" => true,
        Some(Value::Number(iys)) if iys.as_u64() == Some(0) => false,
        Some(Value::Number(iys)) if iys.as_u64() == Some(1) => true,
        _ => return Err(Refusal::code(468)),
    };
    if !marketing {
        return Ok(None);
    }
    // That APITEST wants "0" is documented, the code for a "1" is not.
    if sender == APITEST {
        return Err(Refusal::code(468));
    }
    let list = match field("iysList").and_then(Value::as_str) {
        Some("BIREYSEL") => IysList::Bireysel,
        Some("TACIR") => IysList::Tacir,
        _ => return Err(Refusal::code(469)),
    };
    if !rules.iys_brand {
        return Err(Refusal::code(470));
    }
    Ok(Some(list))
}

fn judge_schedule(call: &Call, now: i64) -> Result<(Schedule, Option<Value>), Refusal> {
    let field = call.order().and_then(|order| order.get("sendDateTime"));
    let schedule = read_schedule(field, now).map_err(|BadSchedule| Refusal::code(457))?;
    Ok((schedule, field.cloned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::wire::Action;
    use super::*;

    fn order() -> Value {
        json!({
            "sender": "SANDBOX", "iys": "0",
            "message": {"text": "hello", "receipents": {"number": ["905321234567"]}}
        })
    }

    /// The plain order with one place changed. `null` counts as missing.
    fn with(pointer: &str, value: Value) -> Value {
        let mut order = order();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let object = order
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .expect("an object");
        object.insert(field.to_owned(), value);
        order
    }

    fn judged(rules: &Rules, order: Value) -> Result<Submission, u16> {
        let call = Call::read(
            Action::SendSms,
            json!({"request": {"order": order}}).to_string().as_bytes(),
        );
        judge(rules, &call, 0).map_err(|refusal| refusal.code)
    }

    fn check(order: Value, expected: Result<(), u16>, why: &str) {
        assert_eq!(
            judged(&Rules::default(), order).map(|_| ()),
            expected,
            "{why}"
        );
    }

    #[test]
    fn the_documented_order_is_taken() {
        let taken = judged(&Rules::default(), order()).expect("taken");
        assert_eq!(taken.schedule, Schedule::AtOnce);
        let [text] = &taken.texts[..] else {
            panic!("one text: {taken:?}")
        };
        assert_eq!(text.numbers, ["905321234567"]);
        assert_eq!((text.parts, text.coding), (1, Coding::English));
    }

    #[test]
    fn fields_of_the_wrong_type_are_422() {
        check(with("/sender", json!(7)), Err(422), "sender is a number");
        check(
            with("/message/text", json!(["hello"])),
            Err(422),
            "text is a list",
        );
        check(with("/message", json!(null)), Err(422), "no message");
        check(
            with("/message", json!([])),
            Err(422),
            "no message in the list",
        );
        check(json!("order"), Err(422), "order is a string");
        check(json!(null), Err(422), "no order");
    }

    #[test]
    fn senders_are_checked_for_form_and_then_for_approval() {
        check(with("/sender", json!("")), Err(459), "empty");
        check(with("/sender", json!(null)), Err(459), "missing");
        check(
            with("/sender", json!("TWELVE CHARS")),
            Err(460),
            "12 characters",
        );
        check(
            with("/sender", json!("ŞİRKET")),
            Err(460),
            "Turkish letters",
        );
        check(with("/sender", json!("NOBODY")), Err(450), "not approved");
        check(with("/sender", json!("sandbox")), Err(450), "another case");
        check(
            with("/sender", json!("SANDBOX ")),
            Err(450),
            "a space too many",
        );
        check(
            with("/sender", json!("APITEST")),
            Ok(()),
            "needs no approval",
        );
    }

    #[test]
    fn recipients_must_be_a_list_of_strings_in_the_right_place() {
        check(
            with("/message/receipents", json!(null)),
            Err(452),
            "missing",
        );
        check(
            with("/message/receipents", json!({"number": []})),
            Err(452),
            "empty",
        );
        check(
            with("/message/receipents", json!({"number": "905321234567"})),
            Err(452),
            "a bare string",
        );
        check(
            with(
                "/message/receipents",
                json!({"number": [905_321_234_567_u64]}),
            ),
            Ok(()),
            "an integer, as the PHP client sends it",
        );
        check(
            with("/message/receipents", json!({"number": [true]})),
            Err(452),
            "neither",
        );
        check(
            with("/message/receipents", json!({"number": ["05321234567"]})),
            Err(466),
            "the trunk form",
        );
        check(
            with(
                "/message/receipents",
                json!({"number": vec!["905321234567"; 50_000]}),
            ),
            Ok(()),
            "the most there may be",
        );
        check(
            with(
                "/message/receipents",
                json!({"number": vec!["905321234567"; 50_001]}),
            ),
            Err(452),
            "one too many",
        );
        let one_bad = with(
            "/message/receipents",
            json!({"number": ["905321234567", "12"]}),
        );
        check(one_bad.clone(), Err(466), "one bad number refuses all");
        let forgiving = Rules {
            bad_numbers: Unsendable::Skip,
            ..Rules::default()
        };
        let taken = judged(&forgiving, one_bad).expect("the good one remains");
        assert_eq!(
            (taken.messages(), &taken.texts[0].dropped[..]),
            (1, &["12".to_owned()][..])
        );
    }

    #[test]
    fn a_blocked_recipient_refuses_the_order_or_stays_in_it() {
        let mut rules = Rules {
            blocked: ["905321234567"].into_iter().collect(),
            ..Rules::default()
        };
        assert_eq!(judged(&rules, order()), Err(452));
        rules.blocked_numbers = Unsendable::Skip;
        assert_eq!(judged(&rules, order()).expect("taken").messages(), 1);
    }

    #[test]
    fn a_text_has_one_to_seven_parts() {
        check(with("/message/text", json!("")), Err(454), "empty");
        check(with("/message/text", json!(null)), Err(454), "missing");
        check(
            with("/message/text", json!("a".repeat(1_073))),
            Ok(()),
            "seven parts",
        );
        check(
            with("/message/text", json!("a".repeat(1_074))),
            Err(453),
            "eight parts",
        );
    }

    #[test]
    fn marketing_says_so_and_says_to_whom() {
        let iys = |iys: Value, list: Value| {
            let mut order = with("/iys", iys);
            order["iysList"] = list;
            order
        };
        check(iys(json!(null), json!(null)), Err(468), "missing");
        check(iys(json!("2"), json!(null)), Err(468), "neither 0 nor 1");
        check(iys(json!(true), json!(null)), Err(468), "a bool");
        check(
            iys(json!(0), json!(null)),
            Ok(()),
            "an integer, as some clients send it",
        );
        check(
            iys(json!("0"), json!("NONSENSE")),
            Ok(()),
            "ignored when there is nothing to market",
        );
        check(iys(json!("1"), json!(null)), Err(469), "no list");
        check(
            iys(json!("1"), json!("TICARI")),
            Err(469),
            "a list that does not exist",
        );
        check(iys(json!("1"), json!("BIREYSEL")), Ok(()), "individuals");
        check(iys(json!("1"), json!("TACIR")), Ok(()), "merchants");
        let mut apitest = iys(json!("1"), json!("BIREYSEL"));
        apitest["sender"] = json!("APITEST");
        check(apitest, Err(468), "the test sender does not market");

        let lenient = Rules {
            iys_required: false,
            ..Rules::default()
        };
        assert!(judged(&lenient, iys(json!(null), json!(null))).is_ok());
        let without_brand = Rules {
            iys_brand: false,
            ..Rules::default()
        };
        assert_eq!(
            judged(&without_brand, iys(json!("1"), json!("TACIR"))),
            Err(470)
        );
        assert!(judged(&without_brand, order()).is_ok());
    }

    #[test]
    fn recipients_without_consent_vanish_from_marketing_only() {
        let rules = Rules {
            no_consent: ["905321234567"].into_iter().collect(),
            ..Rules::default()
        };
        assert_eq!(judged(&rules, order()).expect("taken").messages(), 1);
        let mut marketing = with("/iys", json!("1"));
        marketing["iysList"] = json!("BIREYSEL");
        let taken = judged(&rules, marketing.clone()).expect("taken all the same");
        assert_eq!((taken.messages(), taken.texts[0].dropped.len()), (0, 1));
        let strict = Rules {
            nobody_left: NobodyLeft::Refused,
            ..rules
        };
        assert_eq!(judged(&strict, marketing), Err(452));
    }

    #[test]
    fn a_badly_formed_schedule_is_457_and_one_with_seconds_is_ignored() {
        check(
            with("/sendDateTime", json!("2026-05-01T13:00")),
            Err(457),
            "another format",
        );
        let taken = judged(
            &Rules::default(),
            with("/sendDateTime", json!("01/05/2026 13:00:00")),
        )
        .expect("taken");
        assert_eq!(taken.schedule, Schedule::IgnoredSeconds);
    }

    #[test]
    fn one_order_may_have_several_texts() {
        let two = |second: Value| {
            let first = json!({"text": "hello", "receipents": {"number": ["905321234567"]}});
            with("/message", json!([first, second]))
        };
        let good = json!({"text": "a".repeat(200), "receipents": {"number": ["905321234568", "905321234569"]}});
        let taken = judged(&Rules::default(), two(good.clone())).expect("taken");
        assert_eq!((taken.messages(), taken.cost()), (3, 1 + 2 * 2));
        assert_eq!(taken.guard_keys().len(), 3);
        for (field, value, code) in [
            ("text", json!(""), 454),
            ("text", json!(7), 422),
            ("text", json!("a".repeat(1_074)), 453),
            ("receipents", json!(null), 452),
            ("receipents", json!({"number": ["12"]}), 466),
            (
                "receipents",
                json!({"number": vec!["905321234567"; 50_000]}),
                452,
            ),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            check(two(bad), Err(code), field);
        }
        check(two(json!("hello")), Err(422), "a bare text");
    }
}
