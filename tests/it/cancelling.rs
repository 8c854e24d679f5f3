//! What the provider holds until its moment can be cancelled there, and never counts as cancelled because nobody answers.

use serde_json::Value;
use sms_outbox::sandbox::{Action, CancelledShows, Fault, Sandbox, SandboxConfig, SandboxHandle};
use sqlx::PgPool;
use uuid::Uuid;

use crate::cli::Shell;
use crate::support::postgres::TestDatabase;
use crate::support::worker::{HASH, KEY, Worker, count, execute, insert, wait_for_status};

struct World {
    database: TestDatabase,
    sandbox: Sandbox,
    handle: SandboxHandle,
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::start(SandboxConfig {
            key: KEY.to_owned(),
            hash: HASH.to_owned(),
            ..SandboxConfig::default()
        })
        .await
        .expect("a free port");
        let handle = sandbox.handle();
        handle.approve_sender("BRAND");
        Self {
            database: TestDatabase::create().await,
            sandbox,
            handle,
        }
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// A job that the provider took and sends after `wait`, an SQL interval, has passed; none: at once.
    async fn sent(&self, wait: Option<&str>) -> Uuid {
        let at = wait.map(|wait| format!("now() + interval '{wait}'"));
        let at = at.unwrap_or_else(|| "NULL".to_owned());
        let id = insert(self.pool(), &[("provider_send_at", at.as_str())]).await;
        let worker = Worker::start_at(&self.database.url(), &self.sandbox.base_url(), &[]);
        wait_for_status(self.pool(), id, "sent").await;
        worker.stop().await;
        id
    }

    fn shell(&self) -> Shell {
        self.shell_without_credentials()
            .with("ILETIMERKEZI_API_KEY", KEY)
            .with("ILETIMERKEZI_API_HASH", HASH)
    }

    fn shell_without_credentials(&self) -> Shell {
        Shell::at(&self.database)
            .with("ILETIMERKEZI_BASE_URL", self.sandbox.base_url())
            .with("SMS_OUTBOX_REQUEST_TIMEOUT", "2s")
    }

    async fn cancel(&self, id: Uuid) -> (Option<i32>, String) {
        self.shell().run(&["cancel", &id.to_string()]).await.said()
    }

    async fn stand(&self, id: Uuid) -> (String, Option<String>) {
        sqlx::query_as("SELECT status, delivery FROM sms_outbox.messages WHERE id = $1")
            .bind(id)
            .fetch_one(self.pool())
            .await
            .expect("the message")
    }

    fn fault(&self, line: &str) {
        let fault: Fault = line.parse().expect("a fault");
        self.handle.add_fault(fault.on_action(Action::CancelOrder));
    }
}

fn sent(delivery: Option<&str>) -> (String, Option<String>) {
    ("sent".to_owned(), delivery.map(str::to_owned))
}

#[tokio::test]
async fn a_scheduled_order_is_cancelled_at_the_provider() {
    let world = World::new().await;
    let id = world.sent(Some("2 hours")).await;
    let (code, said) = world.cancel(id).await;
    assert!(
        code == Some(0) && said.contains("the provider has cancelled its order"),
        "{said}"
    );
    assert_eq!(world.stand(id).await, sent(Some("cancelled")));
    let shown = world.shell().run(&["show", &id.to_string()]).await.done();
    assert!(
        shown.contains("cancelled, as the provider confirmed to an operator"),
        "{shown}"
    );
    // Once more is what was asked for, and nobody is asked again.
    let (code, said) = world.cancel(id).await;
    assert!(code == Some(0) && said.contains("already"), "{said}");
    assert_eq!(world.handle.requests_for(Action::CancelOrder), 1);
    let told = "SELECT count(*) FROM sms_outbox.change_log";
    assert_eq!(
        count(world.pool(), told).await,
        2,
        "sent, and then cancelled"
    );
}

#[tokio::test]
async fn what_has_gone_out_is_not_cancelled() {
    let world = World::new().await;
    let at_once = world.sent(None).await;
    let (code, said) = world.cancel(at_once).await;
    assert!(code == Some(1) && said.contains("too late"), "{said}");
    // Less than a minute is left: nobody is asked.
    let soon = world.sent(Some("50 seconds")).await;
    execute(
        world.pool(),
        format!("UPDATE sms_outbox.jobs SET provider_send_at = now() + interval '50 seconds' WHERE id = '{soon}'"),
    )
    .await;
    let (code, said) = world.cancel(soon).await;
    assert!(code == Some(1) && said.contains("too late"), "{said}");
    assert_eq!(world.handle.requests_for(Action::CancelOrder), 0);
    // By our clock it has time, and the provider has sent it.
    execute(
        world.pool(),
        format!("UPDATE sms_outbox.jobs SET provider_send_at = now() + interval '1 hour' WHERE id = '{at_once}'"),
    )
    .await;
    let (code, said) = world.cancel(at_once).await;
    assert!(
        code == Some(1) && said.contains("too late: the provider is sending it"),
        "{said}"
    );
    assert_eq!(world.handle.requests_for(Action::CancelOrder), 1);
    assert_eq!(world.stand(at_once).await, sent(None));
}

#[tokio::test]
async fn an_order_that_the_provider_refused_by_itself_is_refused_and_not_cancelled() {
    let world = World::new().await;
    let id = world.sent(Some("2 hours")).await;
    let order = crate::support::worker::job(world.pool(), id).await.order_id;
    assert!(world.handle.refuse_order(&order.expect("an order")));
    let (code, said) = world.cancel(id).await;
    assert!(code == Some(1) && said.contains("it is not sent"), "{said}");
    assert_eq!(world.stand(id).await, sent(Some("refused")));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_then_the_report_is_believed() {
    let world = World::new().await;
    for fault in ["accept-drop*1", "accept-http:502*1", "accept-stall*2"] {
        let id = world.sent(Some("2 hours")).await;
        world.fault(fault);
        let (code, said) = world.cancel(id).await;
        assert_eq!(code, Some(0), "{fault}: {said}");
        assert_eq!(world.stand(id).await, sent(Some("cancelled")), "{fault}");
    }
}

#[tokio::test]
async fn nothing_is_cancelled_on_silence() {
    let world = World::new().await;
    let scheduled = world.sent(Some("2 hours")).await;
    // Nothing was done, and nobody says so.
    world.fault("drop*2");
    let (code, said) = world.cancel(scheduled).await;
    assert!(
        code == Some(1) && said.contains("whether it is cancelled is not known"),
        "{said}"
    );
    assert_eq!(world.stand(scheduled).await, sent(None));
    // It was cancelled, and no report tells it.
    world
        .handle
        .change_rules(|rules| rules.cancelled_shows = CancelledShows::Unknown);
    world.fault("accept-drop*1");
    let (code, said) = world.cancel(scheduled).await;
    assert!(
        code == Some(1) && said.contains("whether it is cancelled is not known"),
        "{said}"
    );
    assert_eq!(world.stand(scheduled).await, sent(None));
    // Nobody knows the order.
    let unknown = world.sent(Some("2 hours")).await;
    execute(
        world.pool(),
        format!("UPDATE sms_outbox.jobs SET order_id = '999' WHERE id = '{unknown}'"),
    )
    .await;
    let (code, said) = world.cancel(unknown).await;
    assert!(code == Some(1) && said.contains("455"), "{said}");
    assert_eq!(world.stand(unknown).await, sent(None));
    // The account is the trouble.
    world.handle.set_api_access(false);
    let (code, said) = world.cancel(unknown).await;
    assert!(
        code == Some(1) && said.contains("the provider does not cancel it"),
        "{said}"
    );
    assert_eq!(
        count(world.pool(), "SELECT count(*) FROM sms_outbox.deliveries").await,
        0
    );
}

#[tokio::test]
async fn a_filter_reaches_what_waits_here_and_what_waits_there() {
    let world = World::new().await;
    let there = world.sent(Some("2 hours")).await;
    let gone = world.sent(None).await;
    let here = insert(world.pool(), &[]).await;
    let cancel_all = ["cancel", "--all", "--json"];
    let dry: Value = world
        .shell()
        .run(&[&cancel_all[..], &["--dry-run"]].concat())
        .await
        .json();
    assert_eq!(dry["would_change"], serde_json::json!([here]));
    assert_eq!(dry["would_cancel_at_provider"], serde_json::json!([there]));
    assert_eq!(world.handle.requests_for(Action::CancelOrder), 0);
    assert_eq!(world.stand(here).await.0, "queued");

    // Without credentials the one that waits here is cancelled all the same.
    let ran = world.shell_without_credentials().run(&cancel_all).await;
    let answer = ran.json();
    assert_eq!(answer["done"], serde_json::json!([here]));
    let why = answer["left"][0]["why"].as_str().expect("a reason");
    assert!(why.contains("ILETIMERKEZI_API_KEY is not set"), "{why}");

    let answer: Value = world.shell().run(&cancel_all).await.json();
    assert_eq!(answer["cancelled_at_provider"], serde_json::json!([there]));
    assert_eq!(world.stand(there).await, sent(Some("cancelled")));
    assert_eq!(world.stand(gone).await, sent(None));
    let (code, said) = world.shell().run(&["cancel", "--all"]).await.said();
    assert!(
        code == Some(0) && said.contains("No queued job was cancelled"),
        "{said}"
    );
}
