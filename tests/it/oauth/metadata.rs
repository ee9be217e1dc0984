//! Finding the token endpoint, at well-behaved issuers and others.

use std::time::Duration;

use scm_agent::http;
use scm_agent::oauth::{Classified, ClientAuthentication, Error, ErrorClass, ProviderOverride, plan};
use serde_json::{Value, json};

use super::{APP, assert_keeps_quiet, client, client_with, plan_for_issuer, service};
use crate::support::http::{Answer, FakeServer, Received};
use crate::support::issuer::FakeIssuer;

/// A server that answers metadata for its own base and path at one place only, and something else everywhere else.
async fn server_with(path: &'static str, place: &'static str, elsewhere: Answer) -> FakeServer {
    FakeServer::start(move |request: Received| {
        let base = format!("http://{}", request.header("host"));
        let answer = if request.path == place {
            Answer::json(
                200,
                &json!({
                    "issuer": format!("{base}{path}"),
                    "token_endpoint": format!("{base}/token"),
                    "grant_types_supported": ["client_credentials"],
                }),
            )
        } else {
            elsewhere.clone()
        };
        std::future::ready(answer)
    })
    .await
}

#[tokio::test]
async fn both_places_are_looked_at_for_issuers_with_and_without_a_path() {
    let client = client();
    for (path, place, requests) in [
        ("", "/.well-known/openid-configuration", 1),
        ("", "/.well-known/oauth-authorization-server", 2),
        ("/", "/.well-known/openid-configuration", 1),
        ("/tenant/v2.0", "/tenant/v2.0/.well-known/openid-configuration", 1),
        ("/tenant/v2.0", "/.well-known/oauth-authorization-server/tenant/v2.0", 2),
        ("/tenant/", "/tenant/.well-known/openid-configuration", 1),
    ] {
        for elsewhere in [
            Answer::new(404, "text/plain", "not found"),
            Answer::new(403, "text/html", "<html>canary</html>"),
            Answer::new(200, "text/html", "<html>canary</html>"),
            Answer::new(302, "text/plain", "").header("location", "/sign-in"),
            Answer::json(200, &json!({ "issuer": "https://another.example.com", "token_endpoint": "https://another.example.com/t" })),
        ] {
            let server = server_with(path, place, elsewhere.clone()).await;
            let endpoint = client.endpoint(&plan_for_issuer(&server.url(path))).await;
            assert_eq!(endpoint.unwrap().url.as_str(), server.url("/token"), "{path:?} {place} {}", elsewhere.status);
            assert_eq!(server.received().len(), requests, "{path:?} {place}");
        }
    }
}

#[tokio::test]
async fn metadata_that_is_not_to_be_used_is_not_used() {
    let client = client();
    type Judge = fn(&Error) -> bool;
    let insecure: Judge = |error| matches!(error, Error::Http(http::Error::Insecure { .. }));
    let forbidden: Judge = |error| matches!(error, Error::Http(http::Error::ForbiddenAddress { .. }));
    let mismatch: Judge = |error| matches!(error, Error::IssuerMismatch { .. });
    let no_endpoint: Judge = |error| matches!(error, Error::NoTokenEndpoint { .. });
    let unreadable: Judge = |error| matches!(error, Error::MetadataUnreadable { .. });
    let not_offered: Judge = |error| matches!(error, Error::GrantNotOffered { .. });
    let no_authentication: Judge = |error| matches!(error, Error::AuthenticationNotOffered { .. });
    for (field, value, judge) in [
        ("issuer", json!("https://canary.example.com"), mismatch),
        ("issuer", json!("http://127.0.0.1"), mismatch),
        ("issuer", json!(""), mismatch),
        ("issuer", Value::Null, mismatch),
        ("issuer", json!(7), unreadable),
        ("issuer", json!(["canary"]), unreadable),
        ("token_endpoint", Value::Null, no_endpoint),
        ("token_endpoint", json!(""), no_endpoint),
        ("token_endpoint", json!("/token/canary"), no_endpoint),
        ("token_endpoint", json!("https://git.example.com/token#canary"), no_endpoint),
        ("token_endpoint", json!("https://user:canary@git.example.com/token"), no_endpoint),
        ("token_endpoint", json!({ "url": "canary" }), unreadable),
        ("token_endpoint", json!("http://git.example.com/canary"), insecure),
        ("token_endpoint", json!("http://127.0.0.2/canary"), insecure),
        ("token_endpoint", json!("file:///etc/canary"), insecure),
        ("token_endpoint", json!("https://169.254.169.254/canary"), forbidden),
        ("token_endpoint", json!("https://[fe80::1]/canary"), forbidden),
        ("token_endpoint_auth_methods_supported", json!(["private_key_jwt", "canary"]), no_authentication),
        ("token_endpoint_auth_methods_supported", json!([]), no_authentication),
        ("token_endpoint_auth_methods_supported", json!("client_secret_basic"), unreadable),
        ("grant_types_supported", json!(["authorization_code", "refresh_token"]), not_offered),
        ("grant_types_supported", json!([]), not_offered),
        ("grant_types_supported", Value::Null, not_offered),
        ("grant_types_supported", json!({ "client_credentials": true }), unreadable),
    ] {
        let issuer = FakeIssuer::start(&[APP]).await;
        issuer.set_metadata(field, value.clone());
        let error = client.endpoint(&plan_for_issuer(&issuer.issuer_url())).await.unwrap_err();
        assert!(judge(&error), "{field} {value}: {error:?}");
        let transient = matches!(error, Error::MetadataUnreadable { .. });
        assert_eq!(error.class() == ErrorClass::Transient, transient, "{field} {value}");
        assert_keeps_quiet(&error);
        assert_eq!(issuer.token_requests(), 0);
    }
}

#[tokio::test]
async fn an_issuer_that_differs_by_a_slash_is_refused_with_a_hint() {
    let issuer = FakeIssuer::start_at("/tenant", &[APP]).await;
    let error = client().endpoint(&plan_for_issuer(&format!("{}/", issuer.issuer_url()))).await.unwrap_err();
    assert!(error.to_string().ends_with("(the slash at the end differs)"), "{error}");
}

#[tokio::test]
async fn a_body_that_is_no_metadata_is_told_apart_from_none() {
    let client = client();
    let large = format!("{{\"issuer\":\"{}\"}}", "x".repeat(256 * 1024));
    for (status, body, expected) in [
        (404, "canary", "has no metadata at the issuer's well-known places"),
        (401, "{}", "has no metadata"),
        (200, "<html>canary</html>", "is not readable"),
        (200, "", "is not readable"),
        (200, "[\"canary\", \"http://127.0.0.1/\"]", "is not readable"),
        (200, "{\"issuer\": \"canary\"", "is not readable"),
        (200, "{\"issuer\": \"a\", \"issuer\": \"canary\"}", "is not readable"),
        (200, large.as_str(), "is longer than 262144 bytes"),
        (503, "canary", "answered with HTTP 503"),
        (302, "canary", "answered with a redirect"),
    ] {
        let answer = Answer::new(status, "application/json", body).header("location", "https://canary.example.com/");
        let server = FakeServer::start(move |_| std::future::ready(answer.clone())).await;
        let error = client.endpoint(&plan_for_issuer(&server.url(""))).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{status}: {error}");
        assert_keeps_quiet(&error);
        assert_eq!(server.received().len(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_redirect_of_the_metadata_is_not_followed() {
    let client = client();
    let elsewhere = FakeServer::start(|_| std::future::ready(Answer::new(200, "application/json", "{}"))).await;
    for status in [301, 302, 303, 307, 308] {
        let target = elsewhere.url("/.well-known/openid-configuration");
        let server =
            FakeServer::start(move |_| std::future::ready(Answer::new(status, "text/plain", "").header("location", &target))).await;
        let error = client.endpoint(&plan_for_issuer(&server.url(""))).await.unwrap_err();
        assert_eq!(error, Error::Http(http::Error::Redirect { host: format!("127.0.0.1:{}", server.port()), status }));
    }
    assert_eq!(elsewhere.received().len(), 0);
}

#[tokio::test]
async fn an_issuer_is_asked_over_https_only() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let error = client_with(false).endpoint(&plan_for_issuer(&issuer.issuer_url())).await.unwrap_err();
    assert!(matches!(error, Error::Http(http::Error::Insecure { .. })));
    let error = client().endpoint(&plan_for_issuer("http://id.example.com")).await.unwrap_err();
    assert!(matches!(error, Error::Http(http::Error::Insecure { .. })));
    assert_eq!(issuer.received().len(), 0);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_reached_is_asked_once() {
    let server = FakeServer::start(|_| std::future::pending::<Answer>()).await;
    let http = http::Config { allow_insecure_loopback: true, timeout: Duration::from_secs(1), ..http::Config::default() };
    let client = scm_agent::oauth::TokenClient::new(http::Client::new(&http).unwrap(), std::sync::Arc::new(scm_agent::clock::SystemClock));
    let error = client.endpoint(&plan_for_issuer(&server.url(""))).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn entra_s_metadata_without_grants_is_good_enough_and_its_secret_goes_into_the_body() {
    let issuer = FakeIssuer::start_at("/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0", &[APP]).await;
    issuer.set_metadata("grant_types_supported", Value::Null);
    issuer.set_metadata("token_endpoint_auth_methods_supported", json!(["client_secret_post", "private_key_jwt", "client_secret_basic"]));
    let plan = service(plan("azuredevops_entra", "dev.azure.com/acme", Some(&issuer.issuer_url()), false, true, &[]));
    let client = client();
    let endpoint = client.endpoint(&plan).await.unwrap();
    assert_eq!(endpoint.client_authentication, ClientAuthentication::Post);
    let issued = client.client_credentials(&endpoint, APP.0, super::secret(APP.1), &plan).await.unwrap();
    assert_eq!(issued.scopes.unwrap(), ["499b84ac-1321-427f-aa17-267ca6975798/.default"]);
}

#[tokio::test]
async fn the_operator_s_promise_stands_in_for_the_metadata_s() {
    let issuer = FakeIssuer::start(&[APP]).await;
    issuer.set_metadata("grant_types_supported", Value::Null);
    let provider = ProviderOverride {
        host: "git.example.com".into(),
        issuer: Some(issuer.issuer_url().parse().unwrap()),
        grant: Some(scm_agent::oauth::GrantKind::Service),
        ..ProviderOverride::default()
    };
    let plan = service(plan("gitea", "git.example.com", None, false, true, &[provider]));
    let endpoint = client().endpoint(&plan).await.unwrap();
    assert_eq!(endpoint.url.as_str(), issuer.token_url());
    assert_eq!(plan.issuer_host(), format!("127.0.0.1:{}", endpoint.url.port().unwrap()));
}

#[tokio::test]
async fn metadata_is_remembered_for_an_hour_and_failures_are_not() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let plan = plan_for_issuer(&issuer.issuer_url());
    let client = client();
    issuer.set_metadata("token_endpoint", Value::Null);
    client.endpoint(&plan).await.unwrap_err();
    issuer.set_metadata("token_endpoint", json!(issuer.token_url()));
    let asked = issuer.received().len();
    for _ in 0..3 {
        client.endpoint(&plan).await.unwrap();
    }
    assert_eq!(issuer.received().len(), asked + 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60 * 60)).await;
    tokio::time::resume();
    client.endpoint(&plan).await.unwrap();
    assert_eq!(issuer.received().len(), asked + 2);
}
