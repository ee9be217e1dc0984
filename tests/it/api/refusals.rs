//! What the client makes of errors: sorted by who can mend them, with the server's delay, without the token.

use std::time::Duration;

use scm_agent::api::{Code, Error};
use scm_agent::integration::source::{IntegrationSource, SourceError, SourceErrorKind};
use serde_json::json;

use super::{RUNNER, Scene, TOKEN, client, client_with, token};
use crate::support::control_plane::{FakeControlPlane, connect_error};
use crate::support::http::{Answer, FakeServer};

#[tokio::test]
async fn connect_errors_are_sorted_by_who_can_mend_them() {
    let scene = Scene::start().await;
    let operator = ["unauthenticated", "permission_denied", "not_found", "invalid_argument", "failed_precondition", "unimplemented"];
    let transient = [
        "canceled",
        "unknown",
        "deadline_exceeded",
        "already_exists",
        "resource_exhausted",
        "aborted",
        "out_of_range",
        "internal",
        "unavailable",
        "data_loss",
    ];
    let kinds = operator.map(|code| (code, SourceErrorKind::Operator)).into_iter();
    for (code, kind) in kinds.chain(transient.map(|code| (code, SourceErrorKind::Transient))) {
        let answer = connect_error(code, "as it is");
        let status = answer.status;
        let error = scene.error(answer).await;
        assert_eq!(error.code().unwrap().as_str(), code);
        assert_eq!(SourceError::from(&error).kind, kind, "{code}");
        assert!(error.to_string().ends_with(&format!(" answered {code} (HTTP {status}): as it is")), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_unauthenticated() {
    let control_plane = FakeControlPlane::start("another", RUNNER).await;
    let error = client(&control_plane.base_url()).fetch().await.unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Operator);
    assert_eq!(control_plane.received().len(), 1, "a token from the environment cannot have changed");
}

#[tokio::test]
async fn a_page_of_html_is_told_apart_from_the_control_plane() {
    let scene = Scene::start().await;
    let error = scene.error(Answer::new(502, "text/html; charset=utf-8", "<h1>canary</h1>").header("retry-after", "30")).await;
    let text = error.to_string();
    assert!(text.contains(" answered with text/html (HTTP 502), not as the control plane"), "{text}");
    assert!(!format!("{error:?}{text}").contains("canary"));
    let error = SourceError::from(&error);
    assert_eq!((error.kind, error.retry_after), (SourceErrorKind::Transient, Some(Duration::from_secs(30))));
    for (status, content_type) in [(200, "text/html"), (404, "text/plain"), (200, ""), (200, "application/json+x"), (403, "a\tb")] {
        let error = scene.error(Answer::new(status, content_type, r#"{"integrations":[]}"#)).await;
        assert!(matches!(error, Error::NotControlPlane { .. }), "{status} {content_type} {error}");
    }
}

#[tokio::test]
async fn a_json_error_without_a_code_is_judged_by_its_status() {
    let scene = Scene::start().await;
    let error = scene.error(Answer::json(403, &json!({ "message": "Forbidden" }))).await;
    assert_eq!(error.code(), Some(Code::PermissionDenied));
    let error = scene.error(Answer::json(404, &json!([]))).await;
    assert_eq!(error.code(), Some(Code::Unimplemented));
    let error = scene.error(Answer::json(204, &json!({}))).await;
    assert_eq!(error.code(), Some(Code::Unknown), "only 200 is a success");
}

#[tokio::test]
async fn the_delay_that_the_server_asks_for_reaches_the_poll() {
    let scene = Scene::start().await;
    let details = json!({ "code": "resource_exhausted", "details": [{ "type": "google.rpc.RetryInfo", "value": "CgIIBw" }] });
    let answer = Answer::json(429, &details).header("ratelimit-retryafter", "11").header("retry-after", "13");
    assert_eq!(SourceError::from(&scene.error(answer).await).retry_after, Some(Duration::from_secs(7)));
    let answer = connect_error("resource_exhausted", "").header("ratelimit-retryafter", "11").header("retry-after", "13");
    assert_eq!(SourceError::from(&scene.error(answer).await).retry_after, Some(Duration::from_secs(11)));
    let answer = connect_error("unavailable", "").header("retry-after", "100000");
    assert_eq!(SourceError::from(&scene.error(answer).await).retry_after, Some(Duration::from_secs(900)));
}

#[tokio::test]
async fn a_server_that_repeats_the_token_cannot_get_it_printed() {
    let scene = Scene::start().await;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, TOKEN);
    let hex: String = TOKEN.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut errors = Vec::new();
    for text in [TOKEN.to_owned(), format!("Bearer {TOKEN}"), format!("{}{TOKEN}", "x ".repeat(90)), encoded.clone(), hex.clone()] {
        errors.push(scene.error(connect_error("unauthenticated", &text)).await);
        errors.push(scene.error(Answer::json(401, &json!({ "code": text, "message": text }))).await);
        errors.push(scene.error(Answer::json(200, &json!({ "integrations": text }))).await);
        errors.push(scene.error(Answer::json(200, &json!({ "pagination": text }))).await);
        errors.push(scene.error(Answer::json(200, &json!({ "pagination": { "nextToken": [text] } }))).await);
        errors.push(scene.error(Answer::new(200, "application/json", format!("{{\"{text}\": {text}"))).await);
        errors.push(scene.error(Answer::new(500, "text/html", text.clone())).await);
        errors.push(scene.error(Answer::new(302, "text/html", text.clone()).header("location", &format!("/?{text}"))).await);
        errors.push(scene.error(Answer::json(200, &json!({})).header("content-encoding", &text)).await);
    }
    let Scene { control_plane, client } = scene;
    let rejected = json!({ "integrations": [{ "id": TOKEN, "host": format!("{TOKEN}\n") }, { "id": [TOKEN], "host": TOKEN }] });
    control_plane.fail_next(1, Answer::json(200, &rejected));
    let reasons: Vec<_> = client.list_scm_integrations().await.unwrap().rejected.into_iter().map(|one| one.reason).collect();
    let shown = errors.iter().map(|error| format!("{error} {error:?} {:?}", SourceError::from(error))).collect::<Vec<_>>().join("\n");
    let shown = format!("{shown} {client:?} {reasons:?}").to_lowercase();
    for form in [TOKEN, &encoded, &hex] {
        assert!(!shown.contains(&form.to_lowercase()[..12]), "{shown}");
    }
}

#[tokio::test]
async fn nobody_at_the_other_end_is_transient() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&url);
    let error = client.fetch().await.unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Transient);
    assert_eq!(error.message, format!("cannot connect to {}: connection refused", client.describe()));
}

#[tokio::test]
async fn a_wrong_path_in_the_url_is_told() {
    let server = FakeServer::start(|_| async { Answer::new(404, "text/plain", "404 page not found") }).await;
    let error = client_with(&server.url("/wrong"), token(TOKEN), |_| ()).list_scm_integrations().await.unwrap_err();
    assert!(error.to_string().ends_with("a proxy, or a wrong URL?"), "{error}");
}
