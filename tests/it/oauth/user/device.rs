//! The device flow's turns, and what a device authorization reply may say.

use std::time::{Duration, SystemTime};

use scm_agent::oauth::{DevicePoll, Error, Moment, ProviderOverride, plan};
use serde_json::{Value, json};

use super::super::{assert_keeps_quiet, client, secret};
use super::{Scene, user};
use crate::support::http::{Answer, FakeServer};
use crate::support::manners::{APP, ENTRA, GITHUB, GITLAB, OIDC};

async fn scenes() -> Vec<(&'static str, Scene)> {
    vec![
        ("github", Scene::of_family("github", GITHUB, "").await),
        ("gitlab", Scene::of_family("gitlab", GITLAB, "/gitlab").await),
        ("entra", Scene::of_issuer("azuredevops_entra", ENTRA).await),
        ("oidc", Scene::of_issuer("other", OIDC).await),
    ]
}

#[tokio::test]
async fn both_spellings_of_no_and_of_too_late_are_understood() {
    for (name, scene) in scenes().await {
        let device = scene.begin_device().await.unwrap();
        scene.host.answer_device(&device.user_code, Some("deny"));
        assert!(matches!(scene.poll(&device).await, Ok(DevicePoll::Denied)), "{name}");
        scene.host.answer_device(&device.user_code, Some("expire"));
        assert!(matches!(scene.poll(&device).await, Ok(DevicePoll::Expired)), "{name}");
        for code in ["access_denied", "authorization_declined"] {
            scene.host.answer_device(&device.user_code, Some(code));
            assert!(matches!(scene.poll(&device).await, Ok(DevicePoll::Denied)), "{name} {code}");
        }
        for code in ["expired_token", "token_expired", "code_expired"] {
            scene.host.answer_device(&device.user_code, Some(code));
            assert!(matches!(scene.poll(&device).await, Ok(DevicePoll::Expired)), "{name} {code}");
        }
    }
}

#[tokio::test]
async fn a_host_that_wants_to_be_asked_less_often_may_name_the_interval() {
    let scene = Scene::of_family("github", GITHUB, "").await;
    let device = scene.begin_device().await.unwrap();
    assert_eq!(device.interval, Duration::from_secs(5));
    scene.host.answer_device(&device.user_code, Some("slow_down"));
    let Ok(DevicePoll::SlowDown { interval }) = scene.poll(&device).await else { panic!("not slowed down") };
    assert_eq!(interval, Some(Duration::from_secs(10)));
    assert!(matches!(scene.poll(&device).await, Ok(DevicePoll::Pending)));
    // Said with a status of its own, and nothing named.
    scene.host.fail_next(Answer::json(429, &json!({ "error": "slow_down" })));
    assert!(matches!(scene.poll(&device).await, Ok(DevicePoll::SlowDown { interval: None })));
    scene.host.fail_next(Answer::json(429, &json!({ "error": "slow_down" })).header("retry-after", "40"));
    let Ok(DevicePoll::SlowDown { interval }) = scene.poll(&device).await else { panic!("not slowed down") };
    assert_eq!(interval, Some(Duration::from_secs(40)));
}

#[tokio::test]
async fn github_s_device_flow_sees_no_secret_and_the_others_do() {
    for (name, scene) in scenes().await {
        scene.by_device().await;
        let requests: Vec<_> = scene.host.received().into_iter().filter(|request| request.method == "POST").collect();
        assert_eq!(requests.len(), 3, "{name}");
        for request in requests {
            let shown = !request.header("authorization").is_empty() || request.form().iter().any(|(field, _)| field == "client_secret");
            assert_eq!(shown, name != "github", "{name}");
            assert!(request.query.is_empty(), "{name}");
        }
    }
}

/// A usable device authorization reply with one field replaced, or removed by null.
fn reply(field: &str, value: Value) -> Value {
    let mut reply = json!({
        "device_code": "canary device code",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://id.example.com/device",
        "verification_uri_complete": "https://id.example.com/device?user_code=WDJB-MJHT",
        "expires_in": 900,
        "interval": 7,
    });
    match value {
        Value::Null => reply.as_object_mut().unwrap().remove(field),
        value => reply.as_object_mut().unwrap().insert(field.to_owned(), value),
    };
    reply
}

/// What comes of a reply: interval and lifetime in seconds, whether there is a complete link; or the field that is wrong.
type Found = Result<(u64, u64, bool), &'static str>;

async fn read(reply: &Value) -> Found {
    let answer = Answer::json(200, reply);
    let server = FakeServer::start(move |_| {
        let answer = answer.clone();
        async move { answer }
    })
    .await;
    let url = |path: &str| server.url(path).parse().ok();
    let provider = ProviderOverride {
        device_url: url("/device"),
        host: "git.example.com".into(),
        token_url: url("/token"),
        ..ProviderOverride::default()
    };
    let plan = user(plan("other", "git.example.com", None, false, true, &[provider]));
    let client = client();
    let endpoints = client.user_endpoints(&plan).await.unwrap();
    match client.begin_device(&endpoints, APP.0, secret(APP.1), &plan).await {
        Ok(device) => {
            assert!(!format!("{device:?}").contains("canary") && !format!("{device:?}").contains("WDJB"), "{device:?}");
            // In whole seconds from when it was sent, so a little less than named.
            let left = device.expires.wall().duration_since(SystemTime::now()).unwrap().as_secs() + 1;
            let now = Moment { monotonic: tokio::time::Instant::now(), wall: SystemTime::now() };
            assert!(device.expires.remaining(now) <= Duration::from_secs(left));
            Ok((device.interval.as_secs(), left, device.verification_uri_complete.is_some()))
        }
        Err(error) => {
            assert_keeps_quiet(&error);
            let Error::ReplyField { field, .. } = error else { panic!("{error:?}") };
            Err(field)
        }
    }
}

#[tokio::test]
async fn device_authorization_matrix() {
    let long = "x".repeat(65);
    let rows: Vec<(&str, Value, Found)> = vec![
        ("unknown", json!("x"), Ok((7, 900, true))),
        ("interval", Value::Null, Ok((5, 900, true))),
        ("interval", json!("12"), Ok((12, 900, true))),
        ("interval", json!(0), Ok((5, 900, true))),
        ("interval", json!(-5), Ok((5, 900, true))),
        ("interval", json!("soon"), Ok((5, 900, true))),
        ("interval", json!(1e12), Ok((300, 900, true))),
        ("expires_in", Value::Null, Ok((7, 300, true))),
        ("expires_in", json!(1e12), Ok((7, 1800, true))),
        ("expires_in", json!(0), Err("expires_in")),
        ("expires_in", json!("canary"), Err("expires_in")),
        ("verification_uri_complete", Value::Null, Ok((7, 900, false))),
        ("verification_uri_complete", json!("javascript:canary"), Ok((7, 900, false))),
        ("verification_uri", Value::Null, Err("verification_uri")),
        ("verification_uri", json!("http://canary.example/device"), Err("verification_uri")),
        ("verification_uri", json!("https://u:canary@id.example.com/"), Err("verification_uri")),
        ("verification_uri", json!("canary"), Err("verification_uri")),
        ("verification_uri", json!(format!("https://id.example.com/{}", "x".repeat(1024))), Err("verification_uri")),
        ("verification_uri", json!("http://127.0.0.1:1/device"), Ok((7, 900, true))),
        ("user_code", Value::Null, Err("user_code")),
        ("user_code", json!(""), Err("user_code")),
        ("user_code", json!("can\u{1b}[31mary"), Err("user_code")),
        ("user_code", json!("canarü"), Err("user_code")),
        ("user_code", json!(long), Err("user_code")),
        ("user_code", json!(12345), Err("user_code")),
        ("device_code", Value::Null, Err("device_code")),
        ("device_code", json!(["canary"]), Err("device_code")),
        ("device_code", json!("can\nary"), Err("device_code")),
    ];
    for (field, value, expected) in rows {
        let shown = value.to_string();
        let found = read(&reply(field, value)).await;
        // The clock goes on while the test runs.
        let close = |found: u64, expected: u64| expected - found.min(expected) <= 30 && found <= expected + 1;
        match (&found, &expected) {
            (Ok(found), Ok(expected)) => {
                assert!(found.0 == expected.0 && close(found.1, expected.1) && found.2 == expected.2, "{field} {shown}: {found:?}");
            }
            _ => assert_eq!(found, expected, "{field} {shown}"),
        }
    }
    let mut older = reply("verification_uri", Value::Null);
    older["verification_url"] = json!("https://id.example.com/device");
    assert!(read(&older).await.is_ok());
}
