//! The JSON of the API: what is found where in a request, and how a reply is dressed.
//!
//! Names and nesting are the provider's (documentation pages overview, authentication, send-sms and error-codes). How a reply is
//! dressed can be varied where the sources disagree: number or string, which HTTP status, which extras.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

/// What is asked for: the `<action>` in `/v1/<action>/json`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Creates an order.
    SendSms,
    /// Asks for the balance.
    GetBalance,
    /// Asks for the approved senders.
    GetSender,
    /// Asks for one order, number by number.
    GetReport,
    /// Lists orders by date.
    GetReports,
    /// Lists the account's own block list.
    GetBlacklist,
    /// Puts a number on it.
    AddBlacklist,
    /// Takes a number off it.
    DeleteBlacklist,
    /// Registers consents with İYS.
    #[serde(rename = "consent/create")]
    ConsentCreate,
    /// Asks for one of them.
    #[serde(rename = "consent/show")]
    ConsentShow,
    /// Cancels a scheduled order.
    CancelOrder,
    /// A path or a method that the sandbox does not have; it answers 404.
    Unknown,
}

impl Action {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Action; 12] = [
        Action::SendSms,
        Action::GetBalance,
        Action::GetSender,
        Action::GetReport,
        Action::GetReports,
        Action::GetBlacklist,
        Action::AddBlacklist,
        Action::DeleteBlacklist,
        Action::ConsentCreate,
        Action::ConsentShow,
        Action::CancelOrder,
        Action::Unknown,
    ];

    /// The action of a path, whatever the method.
    pub fn of_path(path: &str) -> Self {
        let name = path
            .strip_prefix("/v1/")
            .and_then(|rest| rest.strip_suffix("/json"));
        Action::ALL
            .into_iter()
            .find(|action| name == Some(action.name()))
            .unwrap_or(Action::Unknown)
    }

    /// The name in the path.
    pub fn name(self) -> &'static str {
        match self {
            Action::SendSms => "send-sms",
            Action::GetBalance => "get-balance",
            Action::GetSender => "get-sender",
            Action::GetReport => "get-report",
            Action::GetReports => "get-reports",
            Action::GetBlacklist => "get-blacklist",
            Action::AddBlacklist => "add-blacklist",
            Action::DeleteBlacklist => "delete-blacklist",
            Action::ConsentCreate => "consent/create",
            Action::ConsentShow => "consent/show",
            Action::CancelOrder => "cancel-order",
            Action::Unknown => "unknown",
        }
    }
}

/// A request as it arrived, read as far as it could be.
#[derive(Debug)]
pub struct Call {
    /// What is asked for.
    pub action: Action,
    /// Tells two bodies apart: equal fingerprints mean equal bytes (up to one chance in 2^64).
    pub body_fingerprint: u64,
    /// The body; `None` if it is not JSON.
    body: Option<Value>,
}

impl Call {
    /// Reads a body. Never fails: what cannot be read is answered with 400 later on.
    pub fn read(action: Action, body: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Call {
            action,
            body_fingerprint: hasher.finish(),
            body: serde_json::from_slice(body).ok(),
        }
    }

    /// The object under `request`; without it the request is "not parsable", 400.
    pub fn request(&self) -> Option<&Map<String, Value>> {
        self.body.as_ref()?.get("request")?.as_object()
    }

    /// `authentication.key` and `.hash`, if both are strings.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        let authentication = self.request()?.get("authentication")?;
        Some((
            authentication.get("key")?.as_str()?,
            authentication.get("hash")?.as_str()?,
        ))
    }

    /// The field `order`, whatever it is.
    pub fn order(&self) -> Option<&Value> {
        self.request()?.get("order")
    }

    /// `order.sender`, if it is a string.
    pub fn sender(&self) -> Option<&str> {
        self.order()?.get("sender")?.as_str()
    }

    /// `order.message`: one text and who gets it, or a list of these, as older pages and official clients have it.
    pub fn messages(&self) -> &[Value] {
        match self.order().and_then(|order| order.get("message")) {
            None => &[],
            Some(Value::Array(messages)) => messages,
            Some(message) => std::slice::from_ref(message),
        }
    }

    /// The texts that are strings.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages().iter().filter_map(text_of)
    }

    /// The entries of all lists of recipients.
    pub fn numbers(&self) -> impl Iterator<Item = &Value> {
        self.messages().iter().filter_map(numbers_of).flatten()
    }

    /// How many that are.
    pub fn recipients(&self) -> usize {
        let lists = self.messages().iter().filter_map(numbers_of);
        lists.map(<[Value]>::len).sum()
    }
}

/// `message.text`, if it is a string.
pub fn text_of(message: &Value) -> Option<&str> {
    message.get("text")?.as_str()
}

/// The entries of `message.receipents.number` (the misspelling is the documented name), if it is an array.
pub fn numbers_of(message: &Value) -> Option<&[Value]> {
    let numbers = message.get("receipents")?.get("number")?;
    numbers.as_array().map(Vec::as_slice)
}

/// Numbers and strings of digits are used alike by the official clients.
pub fn number_in(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
}

/// A telephone number. The documentation has strings; where one is the key of an array, the official PHP client sends an integer.
pub fn number_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => other.as_u64().map(|digits| digits.to_string().into()),
    }
}

/// Pages start at 1, else it is 464; a missing page is the first.
pub fn page_of(holder: Option<&Value>) -> Result<usize, Refusal> {
    match holder.and_then(|holder| holder.get("page")) {
        None | Some(Value::Null) => Ok(1),
        Some(page) => {
            let page = number_in(page).and_then(|n| usize::try_from(n).ok());
            page.filter(|n| *n >= 1).ok_or_else(|| Refusal::code(464))
        }
    }
}

/// Numbers on one page: 1,000 unless fewer are asked for.
pub fn rows_of(holder: Option<&Value>) -> usize {
    const MOST: usize = 1_000;
    let rows = holder
        .and_then(|holder| holder.get("rowCount"))
        .and_then(number_in);
    rows.and_then(|rows| usize::try_from(rows).ok())
        .unwrap_or(MOST)
        .clamp(1, MOST)
}

/// A reply other than 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `status.code`.
    pub code: u16,
    /// Field name to complaint; only a 422 carries them.
    pub errors: Vec<(&'static str, &'static str)>,
}

impl Refusal {
    /// A refusal with nothing but its code.
    pub fn code(code: u16) -> Self {
        Refusal {
            code,
            errors: Vec::new(),
        }
    }

    /// 422: a field has the wrong type.
    pub fn field(name: &'static str, complaint: &'static str) -> Self {
        Refusal {
            code: 422,
            errors: vec![(name, complaint)],
        }
    }
}

/// `status.message` of a code (provider documentation, error-codes page). Unknown codes have a text of the sandbox's own.
pub fn message_of(code: u16) -> &'static str {
    match code {
        200 => "İşlem başarılı",
        400 => "İstek çözümlenemedi",
        401 => "Üyelik bilgileri hatalı",
        402 => "Bakiye yetersiz",
        403 => "Aktif abonelik bulunamadı",
        404 => "API istek yapılan yönteme sahip değil",
        422 => "İstek doğrulanamadı",
        450 => "Gönderilen başlık kullanıma uygun değil",
        451 => "Tekrar eden sipariş",
        452 => "Mesaj alıcıları hatalı",
        453 => "Sipariş boyutu aşıldı",
        454 => "Mesaj metni boş",
        455 => "Sipariş bulunamadı",
        456 => "Sipariş gönderim tarihi henüz gelmedi",
        457 => "Mesaj gönderim tarihinin formatı hatalı",
        458 => "Tarih aralığı hatalı",
        459 => "Mesaj başlığı boş",
        460 => "Mesaj başlığı en fazla 11 karakter olabilir ve Türkçe karakter içeremez",
        464 => "Sayfa numarası 1'den başlamalıdır",
        466 => "Hatalı numara",
        467 => "Evrak bilgisi eksik",
        468 => "İYS sorgusu yapılıp yapılmayacağını belirtmelisiniz",
        469 => "İYS alıcı listesini seçmelisiniz: BIREYSEL veya TACIR",
        470 => "IYS kodunuzu ayarlamalısınız",
        474 => "Bu numara üzerindeki engelleme kaldırılamaz",
        503 => "Sunucu geçici olarak servis dışı",
        _ => "Bilinmeyen durum",
    }
}

/// Number or string: the sources show both for the same fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `200`
    #[default]
    Number,
    /// `"200"`
    String,
}

impl Shape {
    fn dress(self, value: u64) -> Value {
        match self {
            Shape::Number => json!(value),
            Shape::String => json!(value.to_string()),
        }
    }
}

/// What a success says about `order.id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderIdShape {
    /// `"312891245"`, as on the send-sms page.
    #[default]
    String,
    /// `312891245`, as in a test of an official client.
    Number,
    /// No `order` at all. Not documented; a careful client survives it.
    Missing,
}

/// An id as a string or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdShape {
    /// `"312891245"`
    #[default]
    String,
    /// `312891245`
    Number,
}

impl IdShape {
    /// The id in that shape.
    pub fn dress(self, id: u64) -> Value {
        match self {
            IdShape::String => json!(id.to_string()),
            IdShape::Number => json!(id),
        }
    }
}

/// Which HTTP status goes with a code. The sources do not agree (send-sms page against error-codes page).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpStatus {
    /// The same number, 451 included.
    #[default]
    Mirror,
    /// 200 whatever the code is.
    #[serde(rename = "always-200")]
    Always200,
    /// 400 for every failure; a success stays 200.
    #[serde(rename = "failures-400")]
    Failures400,
}

impl HttpStatus {
    /// The HTTP status for a code.
    pub fn of(self, code: u16) -> u16 {
        match self {
            HttpStatus::Always200 => 200,
            HttpStatus::Failures400 if code != 200 => 400,
            // Codes such as 111 are no final HTTP status.
            HttpStatus::Mirror | HttpStatus::Failures400 if (200..=599).contains(&code) => code,
            HttpStatus::Mirror | HttpStatus::Failures400 => 200,
        }
    }
}

/// How replies are dressed, wherever the documentation leaves a choice or contradicts itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplyStyle {
    /// Which HTTP status goes with a code.
    pub http_status: HttpStatus,
    /// `status.code`.
    pub code: Shape,
    /// `order.id` of a success.
    pub order_id: OrderIdShape,
    /// `order.id` of a report: a string in the documentation, a number for the C# and Go clients.
    pub report_id: IdShape,
    /// Balances, prices and the statuses in reports.
    pub figures: Shape,
    /// `get-report` says only an order's id, its status and its messages, as in the documentation of 2022.
    pub bare_reports: bool,
    /// Adds keys that nobody documents.
    pub extra_keys: bool,
    /// Starts the body with a byte order mark.
    pub bom: bool,
}

impl ReplyStyle {
    /// `{"response":{"status":{"code":…,"message":…}, …extras}}` as bytes.
    pub fn envelope(&self, code: u16, message: &str, extras: Map<String, Value>) -> Vec<u8> {
        let mut response = Map::new();
        response.insert(
            "status".to_owned(),
            json!({"code": self.code.dress(u64::from(code)), "message": message}),
        );
        response.extend(extras);
        if self.extra_keys {
            response.insert("requestId".to_owned(), json!("7b0c9a52"));
            response.insert("meta".to_owned(), json!({"elapsed": 0.013, "tags": []}));
        }
        let mut body = if self.bom {
            "\u{feff}".to_owned().into_bytes()
        } else {
            Vec::new()
        };
        serde_json::to_writer(&mut body, &json!({"response": response}))
            .expect("a JSON value is always written to a Vec");
        body
    }

    /// A refusal in the envelope.
    pub fn refusal(&self, refusal: &Refusal) -> Vec<u8> {
        let mut extras = Map::new();
        if !refusal.errors.is_empty() {
            let errors: Map<String, Value> = refusal
                .errors
                .iter()
                .map(|(field, complaint)| ((*field).to_owned(), json!(complaint)))
                .collect();
            extras.insert("errors".to_owned(), Value::Object(errors));
        }
        self.envelope(refusal.code, message_of(refusal.code), extras)
    }

    /// The reply to an accepted order.
    pub fn accepted(&self, order_id: u64) -> Vec<u8> {
        let mut extras = Map::new();
        match self.order_id {
            OrderIdShape::String => {
                extras.insert("order".to_owned(), json!({"id": order_id.to_string()}))
            }
            OrderIdShape::Number => extras.insert("order".to_owned(), json!({"id": order_id})),
            OrderIdShape::Missing => None,
        };
        self.envelope(200, message_of(200), extras)
    }

    /// A count, a status or a price in whole credits.
    pub fn figure(&self, value: u64) -> Value {
        self.figures.dress(value)
    }

    /// An amount of money in ten-thousandths. As a string it has this decimal mark: older reports show a comma.
    pub fn money(&self, amount: u64, decimal: char) -> Value {
        let (whole, rest) = (amount / 10_000, amount % 10_000);
        match self.figures {
            // `1`, as in the documentation's sample.
            Shape::Number if rest == 0 => json!(whole),
            #[expect(
                clippy::cast_precision_loss,
                reason = "a balance beyond 2^53 ten-thousandths is not shown exactly anywhere"
            )]
            Shape::Number => json!(amount as f64 / 10_000.0),
            Shape::String => json!(format!("{whole}{decimal}{rest:04}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).expect("UTF-8")
    }

    #[test]
    fn the_plain_replies_are_those_of_the_documentation() {
        let style = ReplyStyle::default();
        let accepted: Value = serde_json::from_slice(&style.accepted(312_891_245)).expect("JSON");
        assert_eq!(
            accepted,
            json!({"response":{"status":{"code":200,"message":"İşlem başarılı"},"order":{"id":"312891245"}}})
        );
        let refused: Value =
            serde_json::from_slice(&style.refusal(&Refusal::code(401))).expect("JSON");
        assert_eq!(
            refused,
            json!({"response":{"status":{"code":401,"message":"Üyelik bilgileri hatalı"}}})
        );
    }

    #[test]
    fn a_422_says_which_field_beside_the_status() {
        let refused: Value = serde_json::from_slice(
            &ReplyStyle::default().refusal(&Refusal::field("sender", "metin olmalıdır")),
        )
        .expect("JSON");
        assert_eq!(
            refused["response"]["errors"],
            json!({"sender": "metin olmalıdır"})
        );
    }

    #[test]
    fn replies_can_be_dressed_in_every_way_that_was_seen() {
        let style = ReplyStyle {
            code: Shape::String,
            order_id: OrderIdShape::Number,
            ..ReplyStyle::default()
        };
        let body = text(style.accepted(7));
        assert!(
            body.contains(r#""code":"200""#) && body.contains(r#""id":7"#),
            "{body}"
        );

        let style = ReplyStyle {
            order_id: OrderIdShape::Missing,
            bom: true,
            extra_keys: true,
            ..ReplyStyle::default()
        };
        let body = text(style.accepted(7));
        assert!(
            body.starts_with('\u{feff}') && !body.contains("order\"") && body.contains("requestId"),
            "{body}"
        );
    }

    #[test]
    fn money_is_shown_in_every_way_that_was_seen() {
        let as_number = ReplyStyle::default();
        let as_text = ReplyStyle {
            figures: Shape::String,
            ..ReplyStyle::default()
        };
        for (amount, number, text) in [
            (10_000, json!(1), "1,0000"),
            (5_000, json!(0.5), "0,5000"),
            (372, json!(0.0372), "0,0372"),
            (0, json!(0), "0,0000"),
        ] {
            assert_eq!(as_number.money(amount, ','), number);
            assert_eq!(as_text.money(amount, ','), json!(text));
        }
    }

    #[test]
    fn the_http_status_mirrors_the_code_or_does_not() {
        for (status, code, expected) in [
            (HttpStatus::Mirror, 451, 451),
            (HttpStatus::Mirror, 114, 200),
            (HttpStatus::Always200, 451, 200),
            (HttpStatus::Failures400, 451, 400),
            (HttpStatus::Failures400, 200, 200),
        ] {
            assert_eq!(status.of(code), expected, "{status:?} {code}");
        }
    }

    #[test]
    fn a_path_names_its_action() {
        assert_eq!(Action::of_path("/v1/send-sms/json"), Action::SendSms);
        assert_eq!(Action::of_path("/v1/get-reports/json"), Action::GetReports);
        assert_eq!(
            Action::of_path("/v1/consent/create/json"),
            Action::ConsentCreate
        );
        for other in [
            "/v1/send-sms",
            "/v1/send-sms/json/",
            "/v2/send-sms/json",
            "/v1/unknown/json",
            "/",
        ] {
            assert_eq!(Action::of_path(other), Action::Unknown, "{other}");
        }
    }

    #[test]
    fn recipients_are_found_under_the_misspelled_name_inside_the_message_only() {
        let read = |order: Value| {
            Call::read(
                Action::SendSms,
                json!({"request": {"order": order}}).to_string().as_bytes(),
            )
        };
        for (message, expected) in [
            (json!({"text": "x", "receipents": {"number": ["1"]}}), 1),
            (
                json!([
                    {"text": "x", "receipents": {"number": ["1"]}},
                    {"text": "y", "receipents": {"number": ["2", 3]}}
                ]),
                3,
            ),
            (json!({"text": "x", "recipients": {"number": ["1"]}}), 0),
            (json!({"text": "x", "receipents": ["1"]}), 0),
            (json!("x"), 0),
        ] {
            let call = read(json!({"message": message}));
            assert_eq!(call.recipients(), expected, "{message}");
            assert_eq!(call.numbers().count(), expected, "{message}");
        }
        let outside = read(json!({"message": {"text": "x"}, "receipents": {"number": ["1"]}}));
        assert_eq!((outside.recipients(), outside.texts().count()), (0, 1));
    }
}
