//! What a browser may bring back, and what is sent on account of it.

use scm_agent::oauth::{Classified, Error, ErrorClass, UserEndpointSource};
use serde_json::json;
use url::Url;

use super::super::assert_keeps_quiet;
use super::{APP, REDIRECT, Scene};
use crate::support::manners::{GITEA, GITHUB, GITLAB, OIDC, encoded};

#[tokio::test]
async fn each_sign_in_has_a_state_and_a_challenge_of_its_own() {
    let scene = Scene::of_issuer("other", OIDC).await;
    let field = |url: &Url, name: &str| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let (one, other) = (scene.begin_code(), scene.begin_code());
    for name in ["state", "code_challenge"] {
        assert_ne!(field(&one.authorize_url, name), field(&other.authorize_url, name), "{name}");
    }
    // The one's callback does not end the other.
    let query = scene.host.sign_in(&one.authorize_url);
    assert_eq!(scene.exchange(&other, &query).await.unwrap_err(), Error::CallbackState);
    // With the other's state under the one's code the challenge does not fit.
    let state = field(&other.authorize_url, "state");
    let spliced = query.replace(&encoded(&field(&one.authorize_url, "state")), &encoded(&state));
    let Err(Error::SignInOver { code, .. }) = scene.exchange(&other, &spliced).await else { panic!("a spliced code is taken") };
    assert_eq!(code.as_str(), Some("invalid_grant"));
    assert!(!format!("{one:?}").contains(&field(&one.authorize_url, "state")), "{one:?}");
}

#[tokio::test]
async fn a_callback_that_is_not_this_sign_in_s_sends_nothing() {
    let scene = Scene::of_issuer("other", OIDC).await;
    let request = scene.begin_code();
    let good = scene.host.sign_in(&request.authorize_url);
    let state = request.authorize_url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let iss = encoded(&scene.host.issuer_url());
    let elsewhere = encoded("https://canary.example");
    let rows: Vec<(String, Error)> = vec![
        (String::new(), Error::CallbackState),
        ("code=canary".into(), Error::CallbackState),
        (format!("code=canary&iss={iss}&state="), Error::CallbackState),
        (format!("code=canary&iss={iss}&state={state}x"), Error::CallbackState),
        (format!("code=canary&iss={iss}&state={}", &state[1..]), Error::CallbackState),
        (format!("error=access_denied&iss={iss}&state=canary"), Error::CallbackState),
        (format!("{good}&state={state}"), Error::CallbackUnreadable { field: "state" }),
        (format!("{good}&code=canary"), Error::CallbackUnreadable { field: "code" }),
        (format!("{good}&iss={iss}"), Error::CallbackUnreadable { field: "iss" }),
        (format!("state={state}&iss={iss}"), Error::CallbackUnreadable { field: "code" }),
        (format!("state={state}&iss={iss}&code="), Error::CallbackUnreadable { field: "code" }),
        (format!("state={state}&iss={iss}&code=can%0Aary"), Error::CallbackUnreadable { field: "code" }),
        (format!("state={state}&iss={iss}&code=canary%C3%BC"), Error::CallbackUnreadable { field: "code" }),
        (format!("state={state}&iss={iss}&code={}", "x".repeat(9000)), Error::CallbackUnreadable { field: "code" }),
        (format!("{good}&x={}", "x".repeat(20_000)), Error::CallbackUnreadable { field: "query" }),
        (format!("state={state}&iss={elsewhere}&code=canary"), Error::CallbackIssuer { host: scene.host.url("").authority().into() }),
        // Promised, and not there.
        (format!("state={state}&code=canary"), Error::CallbackIssuer { host: scene.host.url("").authority().into() }),
        (format!("state={state}&iss={iss}%2F&code=canary"), Error::CallbackIssuer { host: scene.host.url("").authority().into() }),
    ];
    for (query, expected) in rows {
        let error = scene.exchange(&request, &query).await.unwrap_err();
        assert_eq!(error, expected, "{query}");
        assert_eq!(error.class(), ErrorClass::Terminal);
        assert_keeps_quiet(&error);
    }
    assert_eq!(scene.token_requests(), 0);
    // None of it ended the sign-in.
    assert!(scene.exchange(&request, &good).await.is_ok());
}

#[tokio::test]
async fn a_callback_that_tells_of_a_failure_is_sorted_by_its_code() {
    let scene = Scene::of_issuer("other", OIDC).await;
    let request = scene.begin_code();
    let state = request.authorize_url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let iss = encoded(&scene.host.issuer_url());
    for (code, class) in [
        ("access_denied", ErrorClass::Terminal),
        ("consent_required", ErrorClass::Terminal),
        ("temporarily_unavailable", ErrorClass::Transient),
        ("server_error", ErrorClass::Transient),
        ("invalid_scope", ErrorClass::Operator),
        ("unauthorized_client", ErrorClass::Operator),
        ("redirect_uri_mismatch", ErrorClass::Operator),
        ("Canary%20canary", ErrorClass::Operator),
    ] {
        let query = format!("error={code}&error_description=canary&state={state}&iss={iss}&code=canary");
        let error = scene.exchange(&request, &query).await.unwrap_err();
        assert!(matches!(error, Error::AuthorizationRefused { .. }) && error.class() == class, "{code}: {error:?}");
        assert_keeps_quiet(&error);
    }
    assert_eq!(scene.token_requests(), 0);
}

#[tokio::test]
async fn where_no_issuer_is_known_an_iss_has_to_be_of_the_host_that_was_asked() {
    for (scm_id, manners, path) in [("github", GITHUB, ""), ("gitlab", GITLAB, "/gitlab"), ("gitea", GITEA, "")] {
        let scene = Scene::of_family(scm_id, manners, path).await;
        let request = scene.begin_code();
        let query = scene.host.sign_in(&request.authorize_url);
        let bare = query.split("&iss=").next().unwrap();
        for iss in ["https://canary.example", "canary", "http://127.0.0.1", ""] {
            let error = scene.exchange(&request, &format!("{bare}&iss={}", encoded(iss))).await.unwrap_err();
            assert!(matches!(error, Error::CallbackIssuer { .. }), "{scm_id} {iss}: {error:?}");
        }
        assert_eq!(scene.token_requests(), 0);
        let own = encoded(scene.host.url("/login/oauth").as_str());
        assert!(scene.exchange(&request, &format!("{bare}&iss={own}")).await.is_ok(), "{scm_id}");
    }
}

#[tokio::test]
async fn a_redirect_elsewhere_than_to_this_machine_is_refused() {
    let scene = Scene::of_issuer("other", OIDC).await;
    let begin = |uri: &str| scene.client.begin_code(&scene.endpoints, APP.0, &Url::parse(uri).unwrap());
    for uri in [
        "https://127.0.0.1:1/",
        "http://127.0.0.1/",
        "http://127.0.0.2:1/",
        "http://canary.example:1/",
        "http://localhost.canary.example:1/",
        "http://canary@127.0.0.1:1/",
        "http://127.0.0.1:1/#canary",
        "canary:1",
    ] {
        let error = begin(uri).unwrap_err();
        assert_eq!((&error, error.class()), (&Error::RedirectUri, ErrorClass::Operator), "{uri}");
    }
    for uri in [REDIRECT, "http://[::1]:9/", "http://localhost:34106/"] {
        assert!(begin(uri).is_ok(), "{uri}");
    }
}

#[tokio::test]
async fn metadata_says_what_is_offered_and_the_operator_s_endpoints_stand_in() {
    let scene = Scene::of_issuer("other", OIDC).await;
    // A client that remembers no metadata yet.
    let found = || async { super::super::client().user_endpoints(&scene.plan).await };
    assert_eq!(found().await.unwrap().scopes, ["openid", "offline_access"]);
    scene.host.set_metadata("scopes_supported", json!(["openid"]));
    assert!(found().await.unwrap().scopes.is_empty());
    // No way to prove that the code was asked for here: no code flow.
    scene.host.set_metadata("code_challenge_methods_supported", json!(["plain"]));
    let endpoints = found().await.unwrap();
    assert!(endpoints.authorize.is_none() && endpoints.device.is_some());
    let error = scene.client.begin_code(&endpoints, APP.0, &Url::parse(REDIRECT).unwrap()).unwrap_err();
    assert!(matches!(error, Error::FlowNotOffered { flow: "sign-in with a browser", .. }), "{error:?}");
    scene.host.set_metadata("device_authorization_endpoint", json!("http://canary.example/device"));
    let error = found().await.unwrap_err();
    assert!(matches!(error, Error::FlowNotOffered { flow: "sign-in", .. }) && error.class() == ErrorClass::Operator, "{error:?}");
    let mut plan = scene.plan.clone();
    let UserEndpointSource::Issuer(issuer) = &mut plan.endpoints else { panic!("not by metadata") };
    issuer.device = Some(scene.host.url("/own/device"));
    assert_eq!(super::super::client().user_endpoints(&plan).await.unwrap().device, Some(scene.host.url("/own/device")));
}
