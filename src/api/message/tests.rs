use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const RUNNER: &str = "0191e2d3-0000-7000-8000-00000000000a";

fn full() -> Value {
    json!({
        "id": "0191e2d3-1111-7000-8000-000000000001",
        "scmId": "azuredevops_entra",
        "host": "dev.azure.com/acme",
        "oauth": { "clientId": "client 1", "encryptedClientSecret": "+/8=", "issuerUrl": "https://login.example/t/v2.0" },
        "pat": true,
        "runnerId": RUNNER,
        "virtualDirectory": "/tfs",
    })
}

fn read(elements: &[Value]) -> IntegrationList {
    let mut reader = ListReader::new(Some(RUNNER), 100);
    assert_eq!(reader.page(json!({ "integrations": elements }).to_string().as_bytes()).unwrap(), "");
    reader.finish()
}

/// The reason why an integration is set aside, after one of its fields got another value.
fn reason(field: &str, value: Value) -> String {
    let mut integration = full();
    match field.strip_prefix("oauth.") {
        Some(field) => integration["oauth"][field] = value,
        None => integration[field] = value,
    }
    let neighbour = json!({ "id": "neighbour", "host": "git.example" });
    let list = read(&[integration, neighbour]);
    assert_eq!(list.integrations.len(), 1, "{field} got through, or cost its neighbour");
    assert_eq!((list.rejected.len(), list.rejected[0].position), (1, 0));
    list.rejected[0].reason.clone()
}

#[test]
fn every_field_is_read() {
    let list = read(&[full()]);
    assert_eq!(list.rejected, []);
    let expected = ScmIntegration {
        id: "0191e2d3-1111-7000-8000-000000000001".into(),
        scm_id: ScmId::AzureDevOpsEntra,
        host: "dev.azure.com/acme".into(),
        oauth: Some(OAuthApp {
            client_id: "client 1".into(),
            encrypted_client_secret: EncryptedClientSecret::new(vec![0xfb, 0xff]),
            issuer_url: Some("https://login.example/t/v2.0".into()),
        }),
        pat: true,
        runner_id: RUNNER.into(),
        virtual_directory: "/tfs".into(),
    };
    assert_eq!(list.integrations, [Arc::new(expected)]);
}

#[test]
fn the_original_field_names_are_read_too() {
    let snake = json!({
        "id": "0191e2d3-1111-7000-8000-000000000001",
        "scm_id": "azuredevops_entra",
        "host": "dev.azure.com/acme",
        "oauth": { "client_id": "client 1", "encrypted_client_secret": "-_8", "issuer_url": "https://login.example/t/v2.0" },
        "pat": true,
        "runner_id": RUNNER,
        "virtual_directory": "/tfs",
        "a_field_of_next_year": { "deep": [1, { "er": null }] },
    });
    assert_eq!(read(&[snake]), read(&[full()]));
}

#[test]
fn what_is_absent_or_null_has_its_default() {
    let absent = json!({ "id": "a", "host": "h" });
    let null = json!({ "id": "a", "scmId": null, "host": "h", "oauth": null, "pat": null, "runnerId": null, "virtualDirectory": null });
    let empty = json!({ "id": "a", "scmId": "", "host": "h", "oauth": {}, "pat": false, "runnerId": "", "virtualDirectory": "" });
    let list = read(&[absent]);
    assert_eq!(list.integrations[0].oauth, None);
    assert_eq!(list.integrations[0].scm_id, ScmId::Other(String::new()));
    assert_eq!(read(&[null]), list);
    assert_eq!(read(&[empty]), list);
    let no_secret = json!({ "id": "a", "host": "h", "oauth": { "clientId": "c" } });
    let oauth = read(&[no_secret]).integrations[0].oauth.clone().unwrap();
    assert!(oauth.encrypted_client_secret.is_empty() && oauth.issuer_url.is_none());
}

#[test]
fn an_unknown_scm_id_is_kept() {
    let mut integration = full();
    integration["scmId"] = json!("forgejo");
    assert_eq!(read(&[integration]).integrations[0].scm_id, ScmId::Other("forgejo".into()));
}

#[test]
fn a_wrong_type_is_told_by_the_name_of_its_field_and_costs_no_neighbour() {
    let wrong = [json!(1), json!(["canary"]), json!({ "canary": 1 }), json!(true), json!("canary")];
    for (field, right) in [
        ("id", json!("")),
        ("scmId", json!("")),
        ("host", json!("")),
        ("runnerId", json!("")),
        ("virtualDirectory", json!("")),
        ("oauth.clientId", json!("")),
        ("oauth.encryptedClientSecret", json!("")),
        ("oauth.issuerUrl", json!("")),
        ("pat", json!(true)),
        ("oauth", json!({})),
    ] {
        for value in wrong.iter().filter(|value| std::mem::discriminant(*value) != std::mem::discriminant(&right)) {
            let reason = reason(field, value.clone());
            assert!(reason.starts_with(field) && !reason.contains("canary"), "{field}: {reason}");
        }
    }
}

#[test]
fn each_field_has_its_bounds() {
    for (field, value, expected) in [
        ("id", json!(""), "id is missing"),
        ("id", json!(" "), "id contains a character that is not allowed in it"),
        ("id", json!("a/../b"), "id contains a character that is not allowed in it"),
        ("id", json!("a".repeat(129)), "id is longer than 128 characters"),
        ("host", json!(""), "host is missing"),
        ("host", json!("  "), "host contains a character that is not allowed in it"),
        ("host", json!("a\nb"), "host contains a character that is not allowed in it"),
        ("host", json!("gіthub.com"), "host contains a character that is not allowed in it"),
        ("host", json!("h".repeat(513)), "host is longer than 512 characters"),
        ("host", json!("h".repeat(4_000)), "host is longer than 512 characters"),
        ("scmId", json!("a\u{1b}[2J"), "scmId contains a character that is not allowed in it"),
        ("runnerId", json!("another"), "runnerId is that of another runner"),
        ("virtualDirectory", json!("/\u{7}"), "virtualDirectory contains a character that is not allowed in it"),
        ("oauth.clientId", json!(""), "oauth.clientId is missing"),
        ("oauth.clientId", json!(" "), "oauth.clientId is missing"),
        ("oauth.clientId", json!("a\0"), "oauth.clientId contains a character that is not allowed in it"),
        ("oauth.clientId", json!("a".repeat(513)), "oauth.clientId is longer than 512 characters"),
        ("oauth.issuerUrl", json!("https://a/ b"), "oauth.issuerUrl contains a character that is not allowed in it"),
        ("oauth.issuerUrl", json!("a".repeat(2049)), "oauth.issuerUrl is longer than 2048 characters"),
        ("oauth.encryptedClientSecret", json!("a"), "oauth.encryptedClientSecret is not base64"),
        (
            "oauth.encryptedClientSecret",
            json!(format!("{}=", "A".repeat(21_847))),
            "oauth.encryptedClientSecret is longer than 16384 bytes",
        ),
        ("oauth.encryptedClientSecret", json!("A".repeat(99_999)), "oauth.encryptedClientSecret is longer than 16384 bytes"),
        ("oauth", json!({ "clientId": "a", "client_id": "b" }), "oauth.clientId occurs twice"),
    ] {
        assert_eq!(reason(field, value), expected);
    }
    let mut longest = full();
    longest["oauth"]["encryptedClientSecret"] = json!(format!("{}==", "A".repeat(21_846)));
    longest["host"] = json!("h".repeat(512));
    longest["runnerId"] = json!(RUNNER.to_uppercase());
    assert_eq!(read(&[longest]).rejected, []);
}

#[test]
fn a_text_written_in_escapes_is_as_long_as_what_it_stands_for() {
    let host = r"\u0068".repeat(512);
    let mut reader = ListReader::new(None, 1);
    reader.page(format!(r#"{{"integrations":[{{"id":"a","host":"{host}"}}]}}"#).as_bytes()).unwrap();
    assert_eq!(reader.finish().integrations[0].host, "h".repeat(512));
}

#[test]
fn an_element_that_is_no_object_or_has_a_field_twice_is_set_aside() {
    let mut reader = ListReader::new(None, 100);
    let page = r#"{"integrations":[null,1,"a",["a","github","h"],{"id":"a","id":"b","host":"h"},{"id":"\ud800","host":"h"},{"id":"ok","host":"h"}]}"#;
    reader.page(page.as_bytes()).unwrap();
    let list = reader.finish();
    assert_eq!(list.integrations.len(), 1);
    let reasons: Vec<_> = list.rejected.iter().map(|rejected| rejected.reason.as_str()).collect();
    let no_object = "the integration is not an object";
    assert_eq!(reasons, [no_object, no_object, no_object, no_object, "id occurs twice", "id is not text"]);
}

#[test]
fn of_two_integrations_with_one_id_the_earlier_counts_also_over_pages() {
    let mut reader = ListReader::new(None, 100);
    reader.page(br#"{"integrations":[{"id":"a","host":"first"}],"pagination":{"nextToken":"n"}}"#).unwrap();
    reader.page(br#"{"integrations":[{"id":"b","host":"h"},{"id":"a","host":"second"}]}"#).unwrap();
    let list = reader.finish();
    assert_eq!(list.integrations.iter().map(|one| one.host.as_str()).collect::<Vec<_>>(), ["first", "h"]);
    let reason = "id is that of an earlier integration in the list".to_owned();
    assert_eq!(list.rejected, [RejectedIntegration { id: Some("a".into()), position: 2, reason }]);
}

#[test]
fn a_page_that_is_wrong_as_a_whole_is_an_error() {
    let read = |page: &str| ListReader::new(None, 2).page(page.as_bytes()).unwrap_err();
    assert_eq!(read(r#"{"integrations":{}}"#), MessageError::Field { field: "integrations" });
    assert_eq!(read(r#"{"integrations":[],"integrations":[]}"#), MessageError::Field { field: "integrations" });
    assert_eq!(read(r#"{"pagination":[]}"#), MessageError::Field { field: "pagination" });
    assert_eq!(read(r#"{"pagination":{"nextToken":1}}"#), MessageError::Field { field: "pagination.nextToken" });
    assert_eq!(
        read(&json!({ "pagination": { "nextToken": "n".repeat(4097) } }).to_string()),
        MessageError::Field { field: "pagination.nextToken" }
    );
    assert_eq!(read(r#"{"integrations":[1,2,3]}"#), MessageError::TooManyIntegrations { limit: 2 });
    assert_eq!(ListReader::new(None, 2).page(b"{\"a\":\"\xff\"}").unwrap_err(), MessageError::NotText);
    assert!(ListReader::new(None, 2).page(b"{}").is_ok(), "an empty list is left out");
}

/// The key in a `GetRunnerResponse`, for the runner `ours`.
fn public_key(reply: &Value) -> Result<Option<Vec<u8>>, MessageError> {
    read_public_key(reply.to_string().as_bytes(), "ours")
}

#[test]
fn the_registered_public_key_is_read_under_either_name_and_absent_or_empty_is_none() {
    for reply in [
        json!({ "runner": { "runnerId": "OURS", "status": { "publicKey": "AAEC/w==" } }, "more": 1 }),
        json!({ "runner": { "runner_id": "ours", "status": { "public_key": "AAEC_w" } } }),
        json!({ "runner": { "status": { "phase": 3, "publicKey": "AAEC/w==" } } }),
    ] {
        assert_eq!(public_key(&reply).unwrap().unwrap(), [0, 1, 2, 0xff], "{reply}");
    }
    for reply in [
        json!({ "runner": {} }),
        json!({ "runner": { "status": null } }),
        json!({ "runner": { "status": { "publicKey": "" } } }),
        json!({ "runner": { "status": { "publicKey": null } } }),
    ] {
        assert_eq!(public_key(&reply).unwrap(), None, "{reply}");
    }
}

#[test]
fn a_runner_that_cannot_be_read_is_told_by_the_name_of_its_field() {
    let (long, very_long) = ("AAAA".repeat(MAX_PUBLIC_KEY_BYTES / 3 + 1), "A".repeat(3 * MAX_PUBLIC_KEY_BYTES));
    for (reply, field) in [
        (json!({}), "runner"),
        (json!({ "runner": ["canary"] }), "runner"),
        (json!({ "runner": { "runnerId": "canary" } }), "runner.runnerId"),
        (json!({ "runner": { "runnerId": "ours", "runner_id": "ours" } }), "runner.runnerId"),
        (json!({ "runner": { "runnerId": 7 } }), "runner.runnerId"),
        (json!({ "runner": { "status": "canary" } }), "runner.status"),
        (json!({ "runner": { "status": { "publicKey": "can ary" } } }), "runner.status.publicKey"),
        (json!({ "runner": { "status": { "publicKey": 7 } } }), "runner.status.publicKey"),
        (json!({ "runner": { "status": { "publicKey": long } } }), "runner.status.publicKey"),
        (json!({ "runner": { "status": { "publicKey": very_long } } }), "runner.status.publicKey"),
        (json!({ "runner": { "status": { "publicKey": "", "public_key": "" } } }), "runner.status.publicKey"),
    ] {
        assert_eq!(public_key(&reply), Err(MessageError::Field { field }), "{reply}");
    }
    assert_eq!(read_public_key(b"\xff", "ours"), Err(MessageError::NotText));
    assert!(matches!(read_public_key(b"<html>", "ours"), Err(MessageError::Malformed { .. })));
}

proptest! {
    #[test]
    fn no_input_panics(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ListReader::new(None, 2).page(text.as_bytes());
        let _ = ListReader::new(None, 2).page(&bytes);
        let _ = read_single(text.as_bytes(), RUNNER);
        let _ = read_public_key(text.as_bytes(), RUNNER);
        let _ = public_key(&json!({ "runner": { "runnerId": text, "status": { "publicKey": text } } }));
        let _ = ListReader::new(None, 2).page(json!({ "integrations": [{ "id": text, "host": text, "oauth": { "clientId": text } }] }).to_string().as_bytes());
    }
}
