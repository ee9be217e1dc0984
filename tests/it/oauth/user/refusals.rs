//! How each host says no, and who can mend it.

use std::time::Duration;

use scm_agent::oauth::{Classified, Error, ErrorClass};
use serde_json::json;

use super::super::{assert_keeps_quiet, secret};
use super::{APP, Scene, hosts};
use crate::support::http::Answer;
use crate::support::manners::{ENTRA, GITEA, GITHUB, OIDC};
use ErrorClass::{Operator, Terminal, Transient};

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

#[tokio::test]
async fn a_wrong_secret_is_for_the_operator_at_every_host() {
    for (name, scene) in hosts().await {
        let tokens = scene.by_browser().await;
        let refresh_token = tokens.refresh_token.as_ref().unwrap();
        let error = scene.client.refresh(&scene.endpoints, APP.0, secret("canary"), &scene.plan, refresh_token).await.unwrap_err();
        assert_eq!(error.class(), Operator, "{name}: {error:?}");
        assert!(matches!(error, Error::Refused { .. }) && !error.outcome_unknown(), "{name}: {error:?}");
        assert_keeps_quiet(&error);
        assert_eq!(scene.lives(&tokens), (true, true), "{name}");
    }
}

#[tokio::test]
async fn refresh_refusal_matrix() {
    let oauth = |status: u16, code: &str| Answer::json(status, &json!({ "error": code, "error_description": "canary" }));
    let form = |body: &str| Answer::new(200, FORM, body);
    // At which host; the answer; who mends it; whether the sign-in is over; whether the refresh may have happened all the same.
    let rows: Vec<(&str, Answer, ErrorClass, bool, bool)> = vec![
        ("any", oauth(400, "invalid_grant"), Terminal, true, false),
        ("any", oauth(401, "invalid_grant"), Terminal, true, false),
        ("any", oauth(400, "interaction_required"), Terminal, true, false),
        ("any", oauth(400, "consent_required"), Terminal, true, false),
        ("any", oauth(401, "invalid_client"), Operator, false, false),
        ("any", oauth(400, "invalid_scope"), Operator, false, false),
        ("any", oauth(400, "unsupported_grant_type"), Operator, false, false),
        ("any", oauth(400, "Canary"), Operator, false, false),
        ("any", oauth(400, "temporarily_unavailable"), Transient, false, false),
        ("any", oauth(429, "invalid_grant"), Transient, false, false),
        ("any", oauth(503, "invalid_grant"), Transient, false, true),
        ("any", Answer::new(500, "text/html", "canary"), Transient, false, true),
        ("any", Answer::new(429, "text/plain", "canary"), Transient, false, false),
        ("any", Answer::new(403, "text/html", "canary"), Operator, false, false),
        ("any", Answer::new(200, "text/html", "<p>canary</p>"), Transient, false, true),
        ("any", Answer::json(200, &json!({ "access_token": "can\nary" })), Transient, false, true),
        ("any", Answer::json(200, &json!({ "access_token": "tok", "refresh_token": "can\nary" })), Transient, false, true),
        ("any", Answer::json(200, &json!({ "access_token": "tok", "refresh_token": ["canary"] })), Transient, false, true),
        ("any", Answer::json(200, &json!({ "access_token": "tok", "token_type": "mac" })), Transient, false, true),
        ("any", Answer::new(200, "application/json", vec![b' '; 70_000]), Operator, false, true),
        ("oidc", oauth(400, "unauthorized_client"), Operator, false, false),
        ("entra", oauth(400, "unauthorized_client"), Operator, false, false),
        ("gitea", oauth(400, "unauthorized_client"), Terminal, true, false),
        ("github", form("error=bad_refresh_token&error_description=canary"), Terminal, true, false),
        ("github", form("error=incorrect_client_credentials&error_uri=canary"), Operator, false, false),
        ("github", form("error=canary&error=bad_refresh_token"), Transient, false, true),
        // Nobody else answers with forms.
        ("oidc", form("error=invalid_grant"), Transient, false, true),
    ];
    let scenes = [
        ("github", Scene::of_family("github", GITHUB, "").await),
        ("entra", Scene::of_issuer("azuredevops_entra", ENTRA).await),
        ("gitea", Scene::of_family("gitea", GITEA, "").await),
        ("oidc", Scene::of_issuer("other", OIDC).await),
    ];
    for (name, scene) in scenes {
        let tokens = scene.by_browser().await;
        let refresh_token = tokens.refresh_token.as_ref().unwrap();
        for (_, answer, class, over, unknown) in rows.iter().filter(|(host, ..)| [name, "any"].contains(host)) {
            let shown = format!("{name} {} {}", answer.status, String::from_utf8_lossy(&answer.body[..answer.body.len().min(80)]));
            scene.host.fail_next(answer.clone());
            let error = scene.refresh(refresh_token).await.unwrap_err();
            assert_eq!((error.class(), matches!(error, Error::SignInOver { .. })), (*class, *over), "{shown}: {error:?}");
            assert_eq!(error.outcome_unknown(), *unknown, "{shown}: {error:?}");
            assert_keeps_quiet(&error);
        }
        // The fake never saw it, so the next one is good.
        assert!(scene.refresh(refresh_token).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn entra_s_number_is_told_and_nothing_else_of_its_description() {
    let scene = Scene::of_issuer("azuredevops_entra", ENTRA).await;
    let tokens = scene.by_browser().await;
    let refused = |codes: serde_json::Value| {
        Answer::json(
            401,
            &json!({ "error": "invalid_client", "error_description": "AADSTS7000222: canary", "error_codes": codes, "trace_id": "canary" }),
        )
    };
    for (codes, expected) in [
        (json!([7_000_222]), "refused with invalid_client AADSTS7000222 (HTTP 401)"),
        (json!([7_000_222, 1]), "refused with invalid_client AADSTS7000222 (HTTP 401)"),
        (json!(["canary"]), "refused with invalid_client (HTTP 401)"),
        (json!([-1]), "refused with invalid_client (HTTP 401)"),
        (json!([1.5]), "refused with invalid_client (HTTP 401)"),
        (json!([1e300]), "refused with invalid_client (HTTP 401)"),
        (json!("canary"), "refused with invalid_client (HTTP 401)"),
    ] {
        scene.host.fail_next(refused(codes.clone()));
        let error = scene.refresh(tokens.refresh_token.as_ref().unwrap()).await.unwrap_err();
        assert!(error.to_string().ends_with(expected), "{codes}: {error}");
        assert_keeps_quiet(&error);
    }
}

#[tokio::test]
async fn a_wait_that_the_host_asks_for_is_told() {
    let scene = Scene::of_issuer("other", OIDC).await;
    let tokens = scene.by_browser().await;
    for (answer, expected) in [
        (Answer::new(429, "text/plain", "").header("retry-after", "30"), 30),
        (Answer::json(503, &json!({ "error": "temporarily_unavailable" })).header("retry-after", "100000"), 900),
    ] {
        scene.host.fail_next(answer);
        let error = scene.refresh(tokens.refresh_token.as_ref().unwrap()).await.unwrap_err();
        assert_eq!((error.class(), error.retry_after()), (Transient, Some(Duration::from_secs(expected))));
    }
}

#[tokio::test]
async fn a_host_that_hangs_up_leaves_the_outcome_open_and_one_that_is_not_there_does_not() {
    let scene = Scene::of_issuer("other", OIDC).await;
    let tokens = scene.by_browser().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoints = scene.endpoints.clone();
    endpoints.token.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    let refresh = || scene.client.refresh(&endpoints, APP.0, secret(APP.1), &scene.plan, tokens.refresh_token.as_ref().unwrap());
    let hang_up = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("grant_type=") {
            assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.unwrap(), 0);
        }
    };
    let (error, ()) = tokio::join!(refresh(), hang_up);
    let error = error.unwrap_err();
    assert!(error.outcome_unknown() && error.class() == Transient, "{error:?}");
    drop(listener);
    let error = refresh().await.unwrap_err();
    assert!(!error.outcome_unknown() && error.class() == Transient, "{error:?}");
}
