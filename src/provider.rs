//! The only place that knows the iletiMerkezi API over HTTP.
//!
//! One call makes one request. Nothing here repeats anything: a request that is repeated behind the back of the outbox
//! is a second message.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{CONTENT_TYPE, DATE, RETRY_AFTER},
};
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::{
    clock::Moment,
    lifecycle::{ErrorClass, Failure, OrderId, Progress, Verdict},
    message::{Iys, Recipient},
};

mod block_list;
mod classify;
mod event;
mod handover;
mod reply;
mod reports;
mod wire;
mod words;

pub use block_list::BlockListPage;
use classify::classify;
pub use event::{Event, News};
use handover::Handover;
use reply::{Answer, LONGEST_BODY, Reply};
pub use reports::{NumbersPage, ReportPage, ReportedNumber};
pub(crate) use wire::full_minute;

/// Where the provider is, unless `ILETIMERKEZI_BASE_URL` says otherwise.
pub const DEFAULT_BASE_URL: &str = "https://api.iletimerkezi.com";

/// Key and hash of one account, from the provider's panel (Settings > Security > API Access). `Debug` shows neither.
#[derive(Clone)]
pub struct Credentials {
    key: SecretString,
    hash: SecretString,
}

impl Credentials {
    /// Both as the panel shows them; the hash is sent as it is.
    #[must_use]
    pub const fn new(key: SecretString, hash: SecretString) -> Self {
        Self { key, hash }
    }

    fn wire(&self) -> wire::Authentication<'_> {
        wire::Authentication {
            key: self.key.expose_secret(),
            hash: self.hash.expose_secret(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// What the client is built from.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// `ILETIMERKEZI_BASE_URL`: with or without a slash or `/v1` at its end.
    pub base_url: String,
    /// The longest one request may take, from looking up the name to the last byte of the answer
    /// (`SMS_OUTBOX_REQUEST_TIMEOUT`).
    pub request_timeout: Duration,
    /// The longest that connecting may take of it, TLS included (`SMS_OUTBOX_CONNECT_TIMEOUT`).
    pub connect_timeout: Duration,
    /// Whether a connection serves several requests. If not, each one pays for a handshake, and none can meet a
    /// connection that the provider is just closing.
    pub reuse_connections: bool,
    /// How we introduce ourselves.
    pub user_agent: String,
}

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The address is none that requests could be sent to.
    #[error("the provider's address {url:?} cannot be used: {reason}")]
    Address {
        /// The address, without a password it may contain.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up, usually because the machine has no root certificates.
    #[error("TLS could not be set up (are the CA certificates installed?)")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be built.
    #[error("the HTTP client could not be built")]
    Client(#[source] reqwest::Error),
}

/// What one request asks the provider to send.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// The approved header.
    pub sender: &'a str,
    /// 1 to 50,000 numbers.
    pub recipients: &'a [Recipient],
    /// The text, as it was fixed when the message was enqueued.
    pub body: &'a str,
    /// Whether it markets something.
    pub iys: Iys,
    /// When the provider is to send it; `None`: at once.
    pub send_at: Option<DateTime<Utc>>,
    /// The moment from which it must not leave any more, however long connecting takes; `None`: no such moment.
    pub not_after: Option<Moment>,
    /// Until when it may leave without asking for another slot_ends, however long connecting takes; `None`: whenever.
    pub slot_ends: Option<Moment>,
}

/// Neither text nor numbers.
impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("sender", &self.sender)
            .field("recipients", &self.recipients.len())
            .field("iys", &self.iys)
            .field("send_at", &self.send_at)
            .finish_non_exhaustive()
    }
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it means.
    pub verdict: Verdict,
    /// The HTTP status, if an answer came.
    pub http_status: Option<u16>,
    /// The provider's own number, if one could be read: 200 and 451 too.
    pub code: Option<i32>,
    /// How far it got.
    pub progress: Progress,
    /// How long it took.
    pub duration: Duration,
}

/// What an account has left. Which of the two counts depends on the kind of account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Balance {
    /// In TL, for accounts that pay by balance; `None`: not readable.
    pub amount: Option<f64>,
    /// In SMS, for accounts that pay by credits; `None`: not readable.
    pub sms: Option<f64>,
}

/// A read-only call that was not answered with 200.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", failure.message)]
pub struct ProbeError {
    /// Whose failure it is, and what to do.
    pub failure: Failure,
    /// The HTTP status, if an answer came.
    pub http_status: Option<u16>,
}

impl Balance {
    /// Whether nothing is left of either.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        let left = |figure: Option<f64>| figure.is_some_and(|figure| figure > 0.0);
        (self.amount.is_some() || self.sms.is_some()) && !left(self.amount) && !left(self.sms)
    }
}

impl ProbeError {
    /// Whether the provider itself has answered, although it did not like the question.
    #[must_use]
    pub fn is_from_the_provider(&self) -> bool {
        self.failure.code.is_some() && self.failure.class != ErrorClass::Unavailable
    }
}

/// What the provider made of a request to cancel an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelling {
    /// It is cancelled.
    Done,
    /// It is not. 455: there is no such order, or it is too late.
    Refused(Failure),
    /// The request may have arrived, and its answer is not known.
    Unanswered(Failure),
    /// The request surely never left.
    NotAsked(Failure),
}

/// A client for the provider. Cloning it shares its connections.
#[derive(Clone)]
pub struct Provider {
    client: Client,
    base: Url,
    request_timeout: Duration,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("base", &self.base.as_str())
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// What a request met, before anyone asks what it means.
struct Exchange {
    result: Result<Reply, Lost>,
    duration: Duration,
}

/// No answer.
struct Lost {
    /// Whether the request surely never left.
    withdrawn: bool,
    failure: Failure,
}

impl Provider {
    /// Builds a client; connects to nothing yet.
    ///
    /// # Errors
    /// When the address is no plain `http` or `https` one, or the machine has no root certificates for TLS.
    pub fn new(config: ProviderConfig) -> Result<Self, ProviderError> {
        let base = base_url(&config.base_url)?;
        let tls = tls(&base)?;
        Self::build(config, base, tls)
    }

    fn build(
        config: ProviderConfig,
        base: Url,
        tls: rustls::ClientConfig,
    ) -> Result<Self, ProviderError> {
        let client = Client::builder()
            .user_agent(config.user_agent)
            // Each of the following three would otherwise send an order again on its own.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            // The request's body holds the credentials, so it goes to the provider or nowhere: a proxy that happens to
            // be set in the environment is not asked.
            .no_proxy()
            .referer(false)
            .timeout(config.request_timeout)
            .connect_timeout(config.connect_timeout)
            // Servers commonly close idle connections after five seconds or more. Closing it ourselves before that
            // leaves hardly a request to meet a connection that is just going away.
            .pool_idle_timeout(Duration::from_secs(4))
            .pool_max_idle_per_host(if config.reuse_connections {
                usize::MAX
            } else {
                0
            })
            .tcp_keepalive(Duration::from_secs(15))
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(ProviderError::Client)?;
        Ok(Self {
            client,
            base,
            request_timeout: config.request_timeout,
        })
    }

    /// What is wrong with an address that shows credentials to a network.
    #[must_use]
    pub fn exposed(&self) -> Option<String> {
        let exposed = self.base.scheme() == "http" && !is_loopback(&self.base);
        exposed.then(|| {
            format!(
                "{} is not encrypted, so that credentials, numbers and texts can be read on the way: use https",
                self.base
            )
        })
    }

    /// Places one order with exactly one request.
    ///
    /// It always comes back, after the request timeout at the latest. Dropped before that, the request may have left.
    ///
    /// `next_slot` is asked when a connection stands only after the order's slot is over; it comes back when the next
    /// one has begun, and says until when it lasts.
    ///
    /// # Errors
    /// What `next_slot` refused with. The request has surely not left then.
    pub async fn send<R, T>(
        &self,
        credentials: &Credentials,
        order: &Order<'_>,
        next_slot: impl Fn() -> T,
    ) -> Result<Observation, R>
    where
        T: Future<Output = Result<Moment, R>>,
    {
        let (iys, iys_list) = wire::iys_fields(order.iys);
        let request = wire::SendSms {
            authentication: credentials.wire(),
            order: wire::Order {
                sender: order.sender,
                iys,
                iys_list,
                send_date_time: order.send_at.map(wire::send_date_time),
                message: wire::Message {
                    text: order.body,
                    receipents: wire::Receipents {
                        number: order.recipients,
                    },
                },
            },
        };
        // Without escapes and credentials, this is what it takes: sixteen bytes a number.
        let expected_len = 512 + order.body.len() + 16 * order.recipients.len();
        let (request, handover) = self.request(
            wire::SEND_SMS,
            request,
            expected_len,
            order.not_after,
            order.slot_ends,
        );
        let exchange = self.exchange(request, handover, next_slot).await?;
        let duration = exchange.duration;
        Ok(match exchange.result {
            Ok(reply) => {
                let (verdict, code) = classify(&reply, &Answer::read(&reply.body));
                Observation {
                    verdict,
                    http_status: Some(reply.http_status),
                    code,
                    progress: Progress::Answered,
                    duration,
                }
            }
            Err(lost) => {
                let (verdict, progress) = if lost.withdrawn {
                    (Verdict::NotSent(lost.failure), Progress::NotSent)
                } else {
                    let verdict = Verdict::Indeterminate(lost.failure);
                    (verdict, Progress::MaybeSent)
                };
                Observation {
                    verdict,
                    http_status: None,
                    code: None,
                    progress,
                    duration,
                }
            }
        })
    }

    /// Asks what the account has left: read-only, and so the probe that ends an account's pause.
    ///
    /// # Errors
    /// On anything but the provider's 200.
    pub async fn balance(&self, credentials: &Credentials) -> Result<Balance, ProbeError> {
        let request = wire::AccountQuery {
            authentication: credentials.wire(),
        };
        let answer = self.ask(wire::GET_BALANCE, request).await?;
        let figure = |name| answer.field(&["balance", name])?.as_figure();
        Ok(Balance {
            amount: figure("amount"),
            sms: figure("sms"),
        })
    }

    /// Asks which senders are approved: read-only, and so the probe that ends a sender's pause.
    ///
    /// # Errors
    /// On anything but the provider's 200 with a list in it.
    pub async fn senders(&self, credentials: &Credentials) -> Result<Vec<String>, ProbeError> {
        let request = wire::AccountQuery {
            authentication: credentials.wire(),
        };
        let answer = self.ask(wire::GET_SENDER, request).await?;
        let names = match answer.field(&["senders", "sender"]) {
            Some(reply::Tree::List(names)) => {
                names.iter().filter_map(reply::Tree::as_text).collect()
            }
            Some(reply::Tree::Text(name)) => vec![name.as_str()],
            // An account without senders may well leave the list out.
            Some(_) | None => Vec::new(),
        };
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    /// Asks for one page, from 1, of the orders of some days by Turkish clocks: read-only. Whether `last` counts is not
    /// documented, nor is the order of the list, nor how soon a new order is in it; at most ten days.
    ///
    /// # Errors
    /// On anything but the provider's 200 with a list in it.
    pub async fn reports(
        &self,
        credentials: &Credentials,
        first: NaiveDate,
        last: NaiveDate,
        page: u32,
    ) -> Result<ReportPage, ProbeError> {
        let request = wire::Reports {
            authentication: credentials.wire(),
            filter: wire::ReportsFilter {
                start: first.format("%Y-%m-%d").to_string(),
                end: last.format("%Y-%m-%d").to_string(),
                page,
            },
        };
        let answer = self.ask(wire::GET_REPORTS, request).await?;
        ReportPage::read(&answer).ok_or_else(|| unlisted("orders"))
    }

    /// Asks for one page, from 1, of the numbers of an order: read-only. A page has at most
    /// [`NUMBERS_A_PAGE`](Self::NUMBERS_A_PAGE).
    ///
    /// # Errors
    /// On anything but the provider's 200 with a list in it: 455 for an order that is not there (yet), 456 for one whose time
    /// has not come.
    pub async fn report(
        &self,
        credentials: &Credentials,
        order: &OrderId,
        page: u32,
    ) -> Result<NumbersPage, ProbeError> {
        let request = wire::Report {
            authentication: credentials.wire(),
            order: wire::ReportOrder {
                id: order.as_str(),
                page: page.to_string(),
                row_count: "1000",
            },
        };
        let answer = self.ask(wire::GET_REPORT, request).await?;
        NumbersPage::read(&answer).ok_or_else(|| unlisted("numbers"))
    }

    /// Asks the provider to cancel an order that it holds until its moment, with exactly one request.
    pub async fn cancel(&self, credentials: &Credentials, order: &OrderId) -> Cancelling {
        let request = wire::CancelOrder {
            authentication: credentials.wire(),
            order: wire::CancelledOrder { id: order.as_str() },
        };
        let reply = match self.answer_to(wire::CANCEL_ORDER, request).await {
            Ok(reply) => reply,
            Err(lost) if lost.withdrawn => return Cancelling::NotAsked(lost.failure),
            Err(lost) => return Cancelling::Unanswered(lost.failure),
        };
        match classify(&reply, &Answer::read(&reply.body)).0 {
            Verdict::Accepted(_) => Cancelling::Done,
            Verdict::Refused(failure)
            | Verdict::Blocked { failure, .. }
            | Verdict::Throttled { failure, .. } => Cancelling::Refused(failure),
            Verdict::Duplicate => Cancelling::Unanswered(not_a_question()),
            Verdict::NotSent(failure) => Cancelling::NotAsked(failure),
            Verdict::Indeterminate(failure) => Cancelling::Unanswered(failure),
        }
    }

    /// Asks for one page, from 1, of the numbers on the account's block list: read-only. A page has at most
    /// [`NUMBERS_A_PAGE`](Self::NUMBERS_A_PAGE).
    ///
    /// # Errors
    /// On anything but the provider's 200 with a list in it.
    pub async fn block_list(
        &self,
        credentials: &Credentials,
        page: u32,
    ) -> Result<BlockListPage, ProbeError> {
        let request = wire::BlockList {
            authentication: credentials.wire(),
            blacklist: wire::BlockListQuery {
                // Whenever it was.
                filter: wire::BlockListFilter {
                    start: "2000-01-01 00:00:00",
                    end: "2099-12-31 23:59:59",
                },
                page,
                row_count: Self::NUMBERS_A_PAGE,
            },
        };
        let answer = self.ask(wire::GET_BLACKLIST, request).await?;
        BlockListPage::read(&answer).ok_or_else(|| unlisted("numbers"))
    }

    /// How many numbers [`report`](Self::report) and [`block_list`](Self::block_list) ask for at once: the most there may be.
    pub const NUMBERS_A_PAGE: usize = 1_000;

    /// One request that waits for no slot.
    async fn answer_to<T: Serialize>(&self, path: &str, request: T) -> Result<Reply, Lost> {
        let (request, handover) = self.request(path, request, 256, None, None);
        let always = || std::future::pending::<Result<Moment, Infallible>>();
        let Ok(exchange) = self.exchange(request, handover, always).await;
        exchange.result
    }

    async fn ask<T: Serialize>(&self, path: &str, request: T) -> Result<Answer, ProbeError> {
        let reply = self.answer_to(path, request).await;
        let reply = reply.map_err(|lost| ProbeError {
            failure: lost.failure,
            http_status: None,
        })?;
        let answer = Answer::read(&reply.body);
        let failure = match classify(&reply, &answer).0 {
            Verdict::Accepted(_) => return Ok(answer),
            Verdict::Duplicate => not_a_question(),
            Verdict::Refused(failure)
            | Verdict::Blocked { failure, .. }
            | Verdict::Throttled { failure, .. }
            | Verdict::NotSent(failure)
            | Verdict::Indeterminate(failure) => failure,
        };
        Err(ProbeError {
            failure,
            http_status: Some(reply.http_status),
        })
    }

    /// A POST that has not begun.
    fn request<T: Serialize>(
        &self,
        path: &str,
        request: T,
        expected_len: usize,
        not_after: Option<Moment>,
        slot_ends: Option<Moment>,
    ) -> (RequestBuilder, Handover) {
        let mut json = Vec::with_capacity(expected_len);
        serde_json::to_writer(&mut json, &wire::Envelope { request })
            .expect("structs of texts always become JSON, and a Vec takes every byte");
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        let (handover, body) = Handover::of(Bytes::from(json), not_after, slot_ends);
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(reqwest::Body::wrap(body));
        (request, handover)
    }

    /// Exactly one POST.
    async fn exchange<R, T>(
        &self,
        request: RequestBuilder,
        handover: Handover,
        next_slot: impl Fn() -> T,
    ) -> Result<Exchange, R>
    where
        T: Future<Output = Result<Moment, R>>,
    {
        let start = Instant::now();
        let mut answer = std::pin::pin!(request.send());
        let answered = loop {
            tokio::select! {
                answered = &mut answer => break answered,
                () = handover.missed() => {}
            }
            tokio::select! {
                answered = &mut answer => break answered,
                slot = next_slot() => match slot {
                    Ok(until) => handover.take_slot(until),
                    // It waits for a slot_ends, so nobody can have taken it.
                    Err(refusal) => {
                        handover.withdraw();
                        return Err(refusal);
                    }
                }
            }
        };
        let result = match answered {
            // Whatever that answers, it is not the request, which is still waiting for its slot_ends.
            Ok(response) if handover.withdraw() => Err(Lost {
                withdrawn: true,
                failure: Failure::new(
                    ErrorClass::Network,
                    format!(
                        "The request was not sent: HTTP {} came before it could leave.",
                        response.status().as_u16()
                    ),
                ),
            }),
            Ok(response) => Ok(read(response).await),
            Err(error) => {
                let withdrawn = handover.withdraw();
                let failure = self.failure(error, withdrawn);
                Err(Lost { withdrawn, failure })
            }
        };
        Ok(Exchange {
            result,
            duration: start.elapsed(),
        })
    }

    /// Why no answer came, in one sentence.
    fn failure(&self, error: reqwest::Error, withdrawn: bool) -> Failure {
        let (class, cause) = cause(error);
        let said = match (withdrawn, class) {
            (true, _) => format!("The request was not sent: {cause}."),
            (false, ErrorClass::Timeout) => format!(
                "The request was sent, and no answer came within {:?}.",
                self.request_timeout
            ),
            (false, _) => format!("The request was sent, and no answer came: {cause}."),
        };
        Failure::new(class, said)
    }
}

fn not_a_question() -> Failure {
    Failure::with_code(
        ErrorClass::Unknown,
        451,
        "Code 451. The provider calls a question a repeated order.",
    )
}

fn unlisted(what: &str) -> ProbeError {
    let said = format!("The answer has no list of {what} where the documentation has it.");
    ProbeError {
        failure: Failure::new(ErrorClass::Unknown, said),
        http_status: Some(200),
    }
}

/// Reads an answer as far as it comes, within the request timeout.
async fn read(mut response: Response) -> Reply {
    let header = |name| response.headers().get(name)?.to_str().ok();
    // A date is meant by the clock of whoever wrote it.
    let now = header(DATE)
        .and_then(|date| DateTime::parse_from_rfc2822(date).ok())
        .map_or_else(Utc::now, |date| date.to_utc());
    let retry_after = header(RETRY_AFTER).and_then(|value| reply::retry_after(value, now));
    let http_status = response.status().as_u16();

    let mut body = Vec::new();
    let cut = loop {
        match response.chunk().await {
            Ok(None) => break None,
            Ok(Some(chunk)) => {
                let room = LONGEST_BODY - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    break Some(Failure::new(
                        ErrorClass::Unknown,
                        format!(
                            "HTTP {http_status} with an answer of more than a megabyte, of which the rest was not read."
                        ),
                    ));
                }
            }
            Err(error) => {
                let (class, cause) = cause(error);
                let said = format!("HTTP {http_status}, and then the answer broke off: {cause}.");
                break Some(Failure::new(class, said));
            }
        }
    };
    Reply {
        http_status,
        retry_after,
        body,
        cut,
    }
}

/// The kind of a failure, and what lies at the bottom of it.
///
/// The address is taken off; none of the layers has seen the body.
fn cause(error: reqwest::Error) -> (ErrorClass, String) {
    let class = if error.is_timeout() {
        ErrorClass::Timeout
    } else {
        ErrorClass::Network
    };
    let error = error.without_url();
    let mut layers: Vec<String> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(layer) = next {
        let said = layer.to_string();
        // A layer that repeats its cause adds nothing to it.
        layers.retain(|above| !above.contains(&said));
        layers.push(said);
        next = layer.source();
    }
    // These say where in the library it happened, and nothing of what did.
    let telling = |said: &&String| {
        ![
            "error sending request",
            "client error (",
            "request or response body error",
            "error decoding response body",
            "error reading a body",
        ]
        .iter()
        .any(|empty| said.starts_with(empty))
    };
    let said: Vec<&str> = layers.iter().filter(telling).map(String::as_str).collect();
    let said = if said.is_empty() {
        layers.join(": ")
    } else {
        said.join(": ")
    };
    (class, words::scrub(&said))
}

/// Plain TLS settings with the machine's own root certificates.
pub(crate) fn tls(base: &Url) -> Result<rustls::ClientConfig, ProviderError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ProviderError::Tls)?;
    let config = if base.scheme() == "https" {
        config
            .with_platform_verifier()
            .map_err(ProviderError::Tls)?
    } else {
        // The sandbox speaks plain HTTP and is never redirected: a machine without root certificates may use it.
        config.with_root_certificates(rustls::RootCertStore::empty())
    };
    Ok(config.with_no_client_auth())
}

fn base_url(text: &str) -> Result<Url, ProviderError> {
    let refused = |url: &str, reason: &str| ProviderError::Address {
        url: url.to_owned(),
        reason: reason.to_owned(),
    };
    let text = text.trim();
    let mut url = Url::parse(text).map_err(|error| {
        // Whatever could not be parsed may hold a password somewhere.
        let shown = if text.contains('@') { "…" } else { text };
        refused(shown, &error.to_string())
    })?;
    let has_password = !url.username().is_empty() || url.password().is_some();
    if has_password {
        // Removing them fails only for addresses without a host, which have neither.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        return Err(refused(url.as_str(), "credentials do not belong in it"));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(refused(
            text,
            "it must start with https:// (or http://) and name a host",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused(text, "it must not contain ? or #"));
    }
    // Both forms stand in the documentation, so both get pasted.
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Scheme, host and port of the provider, as the queue keeps them: without credentials, path and what is the default anyway.
///
/// # Errors
/// When the address is no plain `http` or `https` one.
pub fn origin(base_url: &str) -> Result<String, ProviderError> {
    Ok(self::base_url(base_url)?.origin().ascii_serialization())
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
