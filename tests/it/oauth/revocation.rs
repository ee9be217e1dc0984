//! Revoking tokens, at issuers of every manner.

use std::time::Duration;

use scm_agent::http;
use scm_agent::oauth::{Classified, ClientAuthentication, Error, ErrorClass, RevocationEndpoint, TokenClient};
use scm_agent::secret::AccessToken;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;
use zeroize::Zeroizing;

use super::{APP, assert_keeps_quiet, client, client_with, plan_for_issuer, plan_for_token_url, secret};
use crate::support::http::{Answer, FakeServer};
use crate::support::issuer::FakeIssuer;

const TOKEN: &str = "canary-token~+/=";

async fn revoke(client: &TokenClient, url: &str) -> Result<(), Error> {
    let endpoint = RevocationEndpoint { client_authentication: ClientAuthentication::Basic, url: Url::parse(url).unwrap() };
    client.revoke(&endpoint, APP.0, secret(APP.1), &token(TOKEN)).await
}

fn token(text: &str) -> AccessToken {
    AccessToken::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

/// The revocation endpoint that the issuer's metadata leads to.
async fn endpoint(client: &TokenClient, issuer: &FakeIssuer) -> Option<RevocationEndpoint> {
    let plan = plan_for_issuer(&issuer.issuer_url());
    client.revocation_endpoint(&plan.endpoint, plan.client_authentication).await.unwrap()
}

/// A server that answers one request, whatever it is, with bytes of its own, and says when it is done.
async fn raw<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/revoke", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).ends_with("token_type_hint=access_token") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        serve(stream).await;
    });
    url
}

#[tokio::test]
async fn a_token_dies_by_metadata_alone_and_the_others_live() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let plan = plan_for_issuer(&issuer.issuer_url());
    for (listed, authentication) in
        [(Value::Null, ClientAuthentication::Basic), (json!(["client_secret_post"]), ClientAuthentication::Post)]
    {
        issuer.set_metadata("revocation_endpoint_auth_methods_supported", listed);
        // One that remembers no metadata yet.
        let client = client();
        let token_endpoint = client.endpoint(&plan).await.unwrap();
        let doomed = client.client_credentials(&token_endpoint, APP.0, secret(APP.1), &plan).await.unwrap().access_token;
        let other = client.client_credentials(&token_endpoint, APP.0, secret(APP.1), &plan).await.unwrap().access_token;
        let endpoint = endpoint(&client, &issuer).await.unwrap();
        assert_eq!((endpoint.client_authentication, endpoint.url.as_str()), (authentication, issuer.revocation_url().as_str()));
        client.revoke(&endpoint, APP.0, secret(APP.1), &doomed).await.unwrap();
        assert!(!issuer.introspect(doomed.expose_secret()) && issuer.introspect(other.expose_secret()));
        // Again: it is not known any more, which is as good.
        client.revoke(&endpoint, APP.0, secret(APP.1), &doomed).await.unwrap();
    }
    let requests: Vec<_> = issuer.received().into_iter().filter(|request| request.path == "/revoke").collect();
    let names = |index: usize| requests[index].form().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(0), ["token", "token_type_hint"]);
    assert_eq!(names(2), ["token", "token_type_hint", "client_id", "client_secret"]);
    assert!(requests[0].header("authorization").starts_with("Basic ") && requests[2].header("authorization").is_empty());
    assert!(requests.iter().all(|request| request.query.is_empty()));
}

#[tokio::test]
async fn each_reply_is_a_success_or_an_error_of_its_class() {
    let client = client();
    let error = |code: &str| json!({ "error": code, "error_description": "canary" }).to_string();
    let html = "<html><title>canary</title></html>";
    type Expected = Option<(ErrorClass, &'static str)>;
    let cases: Vec<(u16, &str, String, Expected)> = vec![
        (200, "text/plain", String::new(), None),
        (200, "application/json", "{}".into(), None),
        (200, "application/json", "{\"error\": canary".into(), None),
        (200, "text/html", html.into(), None),
        (204, "text/plain", String::new(), None),
        (400, "application/json", error("unsupported_token_type"), Some((ErrorClass::Operator, "unsupported_token_type (HTTP 400)"))),
        (400, "application/json", error("Canary!"), Some((ErrorClass::Operator, "an unreadable error code (HTTP 400)"))),
        (401, "application/json", error("invalid_client"), Some((ErrorClass::Operator, "invalid_client (HTTP 401)"))),
        (403, "application/json", error("unauthorized_client"), Some((ErrorClass::Operator, "unauthorized_client (HTTP 403)"))),
        (403, "text/html", html.into(), Some((ErrorClass::Operator, "answered with HTTP 403"))),
        (404, "text/html", html.into(), Some((ErrorClass::Operator, "answered with HTTP 404"))),
        (429, "text/plain", String::new(), Some((ErrorClass::Transient, "answered with HTTP 429"))),
        (500, "text/html", html.into(), Some((ErrorClass::Transient, "answered with HTTP 500"))),
        (503, "application/json", error("server_error"), Some((ErrorClass::Transient, "server_error (HTTP 503)"))),
    ];
    for (status, content_type, body, expected) in cases {
        let answer = Answer::new(status, content_type, body.clone());
        let server = FakeServer::start(move |_| std::future::ready(answer.clone())).await;
        match (revoke(&client, &server.url("/revoke")).await, expected) {
            (Ok(()), None) => {}
            (Err(error), Some((class, text))) => {
                assert_eq!(error.class(), class, "{status} {body}");
                assert!(error.to_string().ends_with(text), "{status} {body}: {error}");
                assert_keeps_quiet(&error);
            }
            (result, expected) => panic!("{status} {body}: {result:?}, not {expected:?}"),
        }
        assert_eq!(server.received().len(), 1, "nothing is tried again here");
    }
}

#[tokio::test]
async fn a_retry_after_is_told_and_a_later_request_may_succeed() {
    let client = client();
    let issuer = FakeIssuer::start(&[APP]).await;
    issuer.fail_revocations(1, &Answer::new(503, "text/plain", "").header("retry-after", "17"));
    let error = revoke(&client, &issuer.revocation_url()).await.unwrap_err();
    assert_eq!((error.class(), error.retry_after()), (ErrorClass::Transient, Some(Duration::from_secs(17))));
    revoke(&client, &issuer.revocation_url()).await.unwrap();
    assert_eq!(issuer.revoked(), [TOKEN]);
}

#[tokio::test]
async fn a_redirect_takes_the_token_nowhere() {
    let client = client();
    let elsewhere = FakeServer::start(|_| std::future::ready(Answer::new(200, "text/plain", ""))).await;
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::new(status, "text/plain", "").header("location", &elsewhere.url("/revoke"));
        let server = FakeServer::start(move |_| std::future::ready(answer.clone())).await;
        let error = revoke(&client, &server.url("/revoke")).await.unwrap_err();
        assert_eq!(error, Error::Http(http::Error::Redirect { host: format!("127.0.0.1:{}", server.port()), status }));
    }
    assert_eq!(elsewhere.received().len(), 0);
}

#[tokio::test]
async fn an_endless_reply_and_one_that_breaks_off_are_errors() {
    let client = client();
    let endless = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n").await;
        while stream.write_all(&[b'~'; 4096]).await.is_ok() {}
    })
    .await;
    let error = revoke(&client, &endless).await.unwrap_err();
    assert!(matches!(error, Error::Http(http::Error::TooLarge { .. })), "{error:?}");
    for cut in ["", "HTTP/1.1 200 OK\r\nconte", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncanary"] {
        let url = raw(move |mut stream| async move {
            let _ = stream.write_all(cut.as_bytes()).await;
        })
        .await;
        let error = revoke(&client, &url).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{cut:?}");
        assert!(matches!(error, Error::Http(http::Error::Interrupted { .. } | http::Error::Connect { .. })), "{error:?}");
        assert_keeps_quiet(&error);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_to_be_used_takes_revocation_away_and_nothing_else() {
    let client = client();
    for (field, value) in [
        ("revocation_endpoint", Value::Null),
        ("revocation_endpoint", json!("")),
        ("revocation_endpoint", json!(7)),
        ("revocation_endpoint", json!(["https://git.example.com/revoke"])),
        ("revocation_endpoint", json!({ "url": "canary" })),
        ("revocation_endpoint", json!("/revoke")),
        ("revocation_endpoint", json!("http://git.example.com/revoke")),
        ("revocation_endpoint", json!("http://127.0.0.2/revoke")),
        ("revocation_endpoint", json!("file:///etc/passwd")),
        ("revocation_endpoint", json!("https://user:canary@git.example.com/revoke")),
        ("revocation_endpoint", json!("https://git.example.com/revoke#canary")),
        ("revocation_endpoint", json!("https://169.254.169.254/revoke")),
        ("revocation_endpoint_auth_methods_supported", json!(["private_key_jwt"])),
        ("revocation_endpoint_auth_methods_supported", json!([])),
        ("revocation_endpoint_auth_methods_supported", json!("client_secret_basic")),
    ] {
        let issuer = FakeIssuer::start(&[APP]).await;
        issuer.set_metadata(field, value.clone());
        let plan = plan_for_issuer(&issuer.issuer_url());
        let token_endpoint = client.endpoint(&plan).await.unwrap();
        client.client_credentials(&token_endpoint, APP.0, secret(APP.1), &plan).await.unwrap();
        assert_eq!(endpoint(&client, &issuer).await, None, "{field} {value}");
    }
}

#[tokio::test]
async fn the_metadata_of_the_token_endpoint_serves_for_revocation_too() {
    let client = client();
    let issuer = FakeIssuer::start(&[APP]).await;
    client.endpoint(&plan_for_issuer(&issuer.issuer_url())).await.unwrap();
    // What the plan says goes before what is listed, as at the token endpoint.
    let plan = plan_for_issuer(&issuer.issuer_url());
    let found = client.revocation_endpoint(&plan.endpoint, Some(ClientAuthentication::Post)).await.unwrap().unwrap();
    assert_eq!(found.client_authentication, ClientAuthentication::Post);
    assert_eq!(issuer.received().len(), 1);
}

#[tokio::test]
async fn a_token_endpoint_known_without_metadata_has_no_revocation() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let plan = plan_for_token_url("other", &issuer.token_url());
    let found = client().revocation_endpoint(&plan.endpoint, plan.client_authentication).await.unwrap();
    assert_eq!((found, issuer.received().len()), (None, 0));
}

#[tokio::test]
async fn a_token_is_sent_neither_in_clear_nor_to_a_forbidden_address() {
    let client = client_with(false);
    for url in ["http://git.example.com/revoke", "http://127.0.0.1:9/revoke", "https://169.254.169.254/revoke"] {
        let error = revoke(&client, url).await.unwrap_err();
        assert!(matches!(error, Error::Http(http::Error::Insecure { .. } | http::Error::ForbiddenAddress { .. })), "{url}: {error:?}");
        assert_eq!(error.class(), ErrorClass::Operator);
    }
}
