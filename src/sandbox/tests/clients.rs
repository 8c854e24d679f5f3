//! The provider's own clients find what they look for. Each request has the shape that the client builds, read from its published
//! source (iletimerkezi-node, -php, -python, -go, -java, -csharp); where they agree, one stands for all.

use super::*;

/// What an official client posts; key and hash are those of the sandbox.
async fn post(connection: &mut Connection, action: &str, request: Value) -> Got {
    let mut request = request;
    request["authentication"] = json!({"key": "sandbox-key", "hash": "sandbox-hash"});
    let path = format!("/v1/{action}/json");
    let body = json!({"request": request}).to_string();
    connection.request("POST", &path, &body).await
}

/// An order as a client builds it without being told anything: marketing, and no time.
fn unscheduled(iys: Value, message: Value) -> Value {
    json!({"order": {
        "sender": "SANDBOX", "sendDateTime": "", "iys": iys, "iysList": "BIREYSEL", "message": message
    }})
}

fn text_to(text: &str, numbers: Value) -> Value {
    json!({"text": text, "receipents": {"number": numbers}})
}

#[tokio::test]
async fn every_official_client_can_send() {
    let (sandbox, handle) = started(SandboxConfig::default()).await;
    let mut connection = Connection::open(&sandbox).await;
    let one = json!(["905321234567"]);
    for (client, iys) in [
        ("node", json!(1)),
        ("node, consent off", json!(0)),
        ("php", json!("1")),
        ("php, consent on again", json!(1)),
        ("python", json!("1")),
        ("go", json!("0")),
        ("java", json!("1")),
        ("csharp", json!(1)),
    ] {
        let order = unscheduled(iys, text_to(client, one.clone()));
        let got = post(&mut connection, "send-sms", order).await;
        assert_eq!(got.code(), 200, "{client}");
        let id = &got.json()["response"]["order"]["id"];
        assert!(id.is_string(), "{client} reads a string");
    }
    assert!(
        handle
            .ledger()
            .iter()
            .all(|entry| entry.send_at == entry.accepted_at)
    );

    for (client, at, ignored) in [
        ("php and go", "01/01/2099 09:00", false),
        (
            "as the pages of node and java show it",
            "2099-01-01 09:00:00",
            true,
        ),
    ] {
        let mut order = unscheduled(json!("0"), text_to(client, one.clone()));
        order["order"]["sendDateTime"] = json!(at);
        assert_eq!(post(&mut connection, "send-sms", order).await.code(), 200);
        let ledger = handle.ledger();
        let entry = ledger.last().expect("accepted");
        assert_eq!(entry.schedule_ignored, ignored, "{client}");
    }
    let mut older_pages = unscheduled(json!("0"), text_to("an array", one));
    older_pages["order"]["sendDateTime"] = json!(["01/01/2099 09:00"]);
    let got = post(&mut connection, "send-sms", older_pages).await;
    assert_eq!(got.code(), 200);
}

#[tokio::test]
async fn one_order_with_a_text_for_each_number_has_one_id_and_an_entry_for_each_text() {
    let (sandbox, handle) = started(SandboxConfig {
        rules: Rules {
            delivery_delay: Span::ZERO,
            ..Rules::default()
        },
        ..SandboxConfig::default()
    })
    .await;
    let mut connection = Connection::open(&sandbox).await;
    for (client, numbers) in [
        (
            "node, python, go and csharp",
            [json!("905321234567"), json!("905321234568")],
        ),
        // The keys of a PHP array: digits become an integer, what has a plus does not.
        ("php", [json!(905_321_234_567_u64), json!("+905321234568")]),
    ] {
        let [first, second] = numbers;
        let messages = json!([
            text_to(&format!("{client}: one"), json!([first])),
            text_to(&format!("{client}: other"), json!([second])),
        ]);
        let before = handle.ledger().len();
        let got = post(&mut connection, "send-sms", unscheduled(json!(0), messages)).await;
        assert_eq!(got.code(), 200, "{client}");
        let id = got.json()["response"]["order"]["id"].clone();
        let entries = handle.ledger().split_off(before);
        let told: Vec<_> = entries
            .iter()
            .map(|entry| {
                (
                    json!(entry.order_id),
                    entry.text.clone(),
                    entry.numbers[0].clone(),
                )
            })
            .collect();
        let expected = [("one", "905321234567"), ("other", "905321234568")]
            .map(|(text, to)| (id.clone(), format!("{client}: {text}"), to.to_owned()));
        assert_eq!(told, expected);
        let report = post(&mut connection, "get-report", json!({"order": {"id": id}})).await;
        let order = &report.json()["response"]["order"];
        assert_eq!((&order["total"], &order["price"]), (&json!(2), &json!(2)));
        assert_eq!(order["message"][1]["number"], json!("+905321234568"));
    }
    assert_eq!(handle.stats().accepted_orders, 2);
    let repeat = unscheduled(
        json!(0),
        json!([text_to(
            "node, python, go and csharp: other",
            json!(["905321234568"])
        )]),
    );
    assert_eq!(post(&mut connection, "send-sms", repeat).await.code(), 451);
}

#[tokio::test]
async fn every_official_client_can_ask_what_became_of_its_orders() {
    let (sandbox, handle) = started(SandboxConfig {
        rules: Rules {
            delivery_delay: Span::ZERO,
            ..Rules::default()
        },
        ..SandboxConfig::default()
    })
    .await;
    let mut connection = Connection::open(&sandbox).await;
    for n in 0..31 {
        let order = unscheduled(json!("0"), text_to(&n.to_string(), json!(["905321234567"])));
        assert_eq!(post(&mut connection, "send-sms", order).await.code(), 200);
    }
    let id: u64 = handle.ledger()[0].order_id.parse().expect("digits");
    for (client, order) in [
        (
            "node, php, python, go, java, csharp",
            json!({"id": id, "page": 1, "rowCount": 1000}),
        ),
        (
            "the documentation",
            json!({"id": id.to_string(), "page": "1", "rowCount": "1000"}),
        ),
        ("the documentation, shortest", json!({"id": id.to_string()})),
    ] {
        let got = post(&mut connection, "get-report", json!({"order": order})).await;
        let order = &got.json()["response"]["order"];
        assert_eq!(order["status"], json!(114), "{client}");
        assert_eq!(
            order["message"],
            json!([{"number": "+905321234567", "status": 111}]),
            "{client}"
        );
    }
    // C# and Go read the id as an integer, the documentation has a string.
    handle.change_rules(|rules| rules.reply.report_id = IdShape::Number);
    let report = json!({"order": {"id": id, "page": 1, "rowCount": 1000}});
    let got = post(&mut connection, "get-report", report).await.json();
    assert_eq!(got["response"]["order"]["id"], json!(id));

    // What node calls `next` behind the last page.
    let next = json!({"order": {"id": id, "page": 2, "rowCount": 1000}});
    let got = post(&mut connection, "get-report", next).await.json();
    assert_eq!(got["response"]["order"]["message"], json!([]));

    let today = handle.ledger()[0].accepted_at;
    let day = schedule::local_date(today);
    let (start, end) = (day.to_string(), (day + chrono::Days::new(1)).to_string());
    for (client, request, expected) in [
        (
            "node, go, java, csharp",
            json!({"filter": {"start": start, "end": end, "page": 2}}),
            1,
        ),
        (
            "php, python: their page is not found, and the first one comes again",
            json!({"filter": {"start": start, "end": end}, "page": 2}),
            30,
        ),
    ] {
        let got = post(&mut connection, "get-reports", request).await.json();
        let told = &got["response"];
        assert_eq!(told["count"], json!(31), "{client}");
        let orders = told["orders"].as_array().expect("a list");
        assert_eq!(orders.len(), expected, "{client}");
        assert!(orders[0]["id"].is_u64(), "{client}");
    }
}

#[tokio::test]
async fn every_official_client_can_cancel_and_ask_about_its_account() {
    let (sandbox, _) = started(SandboxConfig::default()).await;
    let mut connection = Connection::open(&sandbox).await;
    for (client, as_text) in [("php, go, java", true), ("csharp", false)] {
        let mut order = unscheduled(json!("0"), text_to(client, json!(["905321234567"])));
        order["order"]["sendDateTime"] = json!("01/01/2099 09:00");
        let got = post(&mut connection, "send-sms", order).await.json();
        let id = got["response"]["order"]["id"]
            .as_str()
            .expect("accepted")
            .to_owned();
        let id = if as_text {
            json!(id)
        } else {
            json!(id.parse::<u64>().expect("digits"))
        };
        let cancel = json!({"order": {"id": id}});
        let got = post(&mut connection, "cancel-order", cancel.clone()).await;
        assert_eq!(got.code(), 200, "{client}");
        assert!(got.json()["response"].get("order").is_none());
        assert_eq!(
            post(&mut connection, "cancel-order", cancel).await.code(),
            455
        );
    }
    for action in ["get-balance", "get-sender"] {
        let got = post(&mut connection, action, json!({})).await;
        assert_eq!(got.code(), 200, "{action}");
    }
    let summary = json!({"order": {"id": 1}});
    let got = post(&mut connection, "get-report-summary", summary).await;
    assert_eq!(got.code(), 404, "go calls it, and no page has it");
}

#[tokio::test]
async fn every_official_client_can_manage_its_block_list() {
    let (sandbox, _) = started(SandboxConfig::default()).await;
    let mut connection = Connection::open(&sandbox).await;
    let number = json!({"blacklist": {"number": "905321234567"}});
    let got = post(&mut connection, "add-blacklist", number.clone()).await;
    assert_eq!(got.code(), 200);
    let until = json!({"start": "2020-01-01 00:00:00", "end": "2099-12-31 23:59:59"});
    for (client, query) in [
        ("node, go, java", json!({"page": 1, "rowCount": 1000})),
        (
            "csharp",
            json!({"filter": null, "page": 1, "rowCount": 1000}),
        ),
        (
            "csharp, from a day on",
            json!({"filter": {"start": "2020-01-01 00:00:00", "end": null}, "page": 1, "rowCount": 1000}),
        ),
        (
            "php, python",
            json!({"filter": until, "page": 1, "rowCount": 1000}),
        ),
    ] {
        let got = post(
            &mut connection,
            "get-blacklist",
            json!({"blacklist": query}),
        )
        .await;
        assert_eq!(
            got.json()["response"]["blacklist"],
            json!({"count": 1, "number": ["+905321234567"]}),
            "{client}"
        );
    }
    let got = post(&mut connection, "delete-blacklist", number).await;
    assert_eq!(got.code(), 200);
    let nobody = json!({"blacklist": {"number": ""}});
    let got = post(&mut connection, "add-blacklist", nobody).await;
    assert_eq!(got.code(), 466, "java without a number");
}
