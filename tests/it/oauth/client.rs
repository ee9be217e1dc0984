//! The request for a token, and what becomes of failures on the way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use scm_agent::clock::SystemClock;
use scm_agent::http;
use scm_agent::oauth::{Classified, ClientAuthentication, Error, ErrorClass, ProviderOverride, TokenCache, TokenEndpoint, plan};
use url::Url;

use super::{APP, ask, assert_keeps_quiet, client, plan_for_issuer, plan_for_token_url, secret, service};
use crate::support::http::{Answer, FakeServer};
use crate::support::issuer::{FakeIssuer, Manner};

#[tokio::test]
async fn a_secret_becomes_a_live_token_by_metadata_alone() {
    let client = client();
    let issuer = FakeIssuer::start(&[APP]).await;
    let plan = plan_for_issuer(&issuer.issuer_url());
    let endpoint = client.endpoint(&plan).await.unwrap();
    assert_eq!(endpoint.client_authentication, ClientAuthentication::Basic);
    let before = SystemTime::now();
    let issued = client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await.unwrap();
    assert!(issuer.introspect(issued.access_token.expose_secret()));
    let expires_at = issued.expires_at().unwrap();
    assert!(expires_at >= before + Duration::from_secs(3600) && expires_at <= SystemTime::now() + Duration::from_secs(3600));
    assert!(!format!("{issued:?}").contains(issued.access_token.expose_secret()));
    issuer.revoke_all();
    assert!(!issuer.introspect(issued.access_token.expose_secret()));
    assert_eq!((issuer.token_requests(), issuer.issued()), (1, 1));
}

#[tokio::test]
async fn every_character_of_an_id_and_a_secret_arrives_in_the_header_and_in_the_body() {
    let client = client();
    let visible: String = (b' '..=b'~').map(char::from).collect();
    let ids = ["~", "%", ":", "+", "ü", "a b", "=&", "id:with:colons", "%7E", "50ae4c1e-29ae-4e6c-8f4e-5a9d1a4a6e0d"];
    let secrets = ["~", "%", ":", "+", "a b", "=&", "8Q~8Q~x.y_z-w", "%7E+%20", visible.as_str()];
    for id in ids {
        for text in secrets {
            let issuer = FakeIssuer::start(&[(id, text)]).await;
            for client_authentication in [ClientAuthentication::Basic, ClientAuthentication::Post] {
                let plan = plan_for_token_url("other", &issuer.token_url());
                let endpoint = TokenEndpoint { client_authentication, url: Url::parse(&issuer.token_url()).unwrap() };
                let issued = client.client_credentials(&endpoint, id, secret(text), &plan).await;
                assert!(issued.is_ok(), "{id} {text} {client_authentication:?}: {issued:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_secret_is_shown_in_one_place_per_request_and_never_in_the_url() {
    let client = client();
    let issuer = FakeIssuer::start(&[APP]).await;
    let provider = |client_authentication| ProviderOverride {
        host: "git.example.com".into(),
        token_url: Some(Url::parse(&issuer.token_url()).unwrap()),
        scopes: Some(vec!["read".into(), "write".into()]),
        token_endpoint_auth: Some(client_authentication),
        ..ProviderOverride::default()
    };
    for client_authentication in [ClientAuthentication::Basic, ClientAuthentication::Post] {
        let plan = service(plan("gitlab", "git.example.com", None, false, true, &[provider(client_authentication)]));
        let endpoint = client.endpoint(&plan).await.unwrap();
        client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await.unwrap();
    }
    let received = issuer.received();
    let [by_header, by_body] = received.as_slice() else { panic!("{} requests", received.len()) };
    let names = |index: usize| received[index].form().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(0), ["grant_type", "scope"]);
    assert_eq!(names(1), ["grant_type", "scope", "client_id", "client_secret"]);
    assert!(by_header.header("authorization").starts_with("Basic ") && by_body.header("authorization").is_empty());
    for request in &received {
        assert_eq!(request.form()[1].1, "read write");
        assert_eq!((request.method.as_str(), request.header("accept"), request.query.as_str()), ("POST", "application/json", ""));
    }
}

#[tokio::test]
async fn no_scope_is_sent_where_none_is_wanted() {
    let client = client();
    let issuer = FakeIssuer::start(&[APP]).await;
    ask(&client, &issuer, "bitbucket").await.unwrap();
    assert!(issuer.received()[0].form().iter().all(|(name, _)| name != "scope"));
}

#[tokio::test]
async fn a_wrong_secret_is_for_the_operator() {
    let client = client();
    let issuer = FakeIssuer::start(&[(APP.0, "another")]).await;
    let error = ask(&client, &issuer, "other").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Operator);
    assert_eq!(error.to_string(), format!("{} refused with invalid_client (HTTP 401)", host_of(&issuer)));
    assert_keeps_quiet(&error);
}

#[tokio::test]
async fn each_host_s_way_of_answering_is_understood() {
    let client = client();
    let issuer = FakeIssuer::start(&[APP]).await;
    issuer.set_manner(Manner::Bitbucket);
    issuer.set_expires_in(7200);
    let issued = ask(&client, &issuer, "bitbucket").await.unwrap();
    assert!(issued.access_token.expose_secret().len() > 2500);
    assert_eq!((issued.expires_in, issued.scopes.unwrap()), (Some(Duration::from_secs(7200)), vec!["repository".to_owned()]));

    issuer.set_manner(Manner::GitHubForm);
    let issued = ask(&client, &issuer, "github").await.unwrap();
    assert_eq!((issued.expires_in, issued.scopes.unwrap()), (None, vec!["repo".to_owned(), "gist".to_owned()]));
    assert!(matches!(ask(&client, &issuer, "gitlab").await.unwrap_err(), Error::ReplyUnreadable { .. }));

    for (manner, code, class) in [
        (Manner::GitHubRefusal, Some("incorrect_client_credentials"), ErrorClass::Operator),
        (Manner::GitLabRefusal, Some("invalid_client"), ErrorClass::Operator),
        (Manner::EntraExpiredSecret, Some("invalid_client"), ErrorClass::Operator),
        (Manner::TooManyRequests(17), Some("slow_down"), ErrorClass::Transient),
        (Manner::Unavailable, None, ErrorClass::Transient),
        (Manner::Html, None, ErrorClass::Transient),
    ] {
        issuer.set_manner(manner.clone());
        let error = ask(&client, &issuer, "other").await.unwrap_err();
        let found = if let Error::Refused { code, .. } = &error { code.as_str() } else { None };
        assert_eq!((found, error.class()), (code, class), "{manner:?}");
        assert_keeps_quiet(&error);
    }
}

#[tokio::test]
async fn a_retry_after_in_seconds_or_as_a_date_is_kept_and_bounded() {
    let client = client();
    let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    let past = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH);
    for (value, low, high) in [
        ("17", Some(17), 17),
        ("0", Some(0), 0),
        ("99999999", Some(900), 900),
        (soon.as_str(), Some(90), 100),
        (past.as_str(), Some(0), 0),
        ("-1", None, 0),
        ("soon", None, 0),
        ("99999999999999999999999", None, 0),
    ] {
        let answer = Answer::new(503, "text/plain", "").header("retry-after", value);
        let server = FakeServer::start(move |_| std::future::ready(answer.clone())).await;
        let plan = plan_for_token_url("other", &server.url("/token"));
        let endpoint = client.endpoint(&plan).await.unwrap();
        let error = client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await.unwrap_err();
        let found = error.retry_after().map(|wait| wait.as_secs());
        assert_eq!(found.is_some(), low.is_some(), "{value}");
        assert!(found.is_none_or(|found| low.is_some_and(|low| (low..=high).contains(&found))), "{value}: {found:?}");
    }
}

#[tokio::test]
async fn a_redirect_takes_the_secret_nowhere() {
    let client = client();
    let elsewhere = FakeServer::start(|_| std::future::ready(Answer::new(200, "application/json", "{}"))).await;
    for status in [301, 302, 303, 307, 308] {
        let target = elsewhere.url("/token");
        let server = FakeServer::start(move |request| {
            let target = if request.path == "/same" { "/token".to_owned() } else { target.clone() };
            std::future::ready(Answer::new(status, "text/plain", "").header("location", &target))
        })
        .await;
        for path in ["/token", "/same"] {
            let plan = plan_for_token_url("other", &server.url(path));
            let endpoint = client.endpoint(&plan).await.unwrap();
            let error = client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await.unwrap_err();
            assert_eq!(error, Error::Http(http::Error::Redirect { host: format!("127.0.0.1:{}", server.port()), status }));
            assert_eq!(error.class(), ErrorClass::Operator);
        }
        assert_eq!(server.received().len(), 2, "each was asked once");
    }
    assert_eq!(elsewhere.received().len(), 0);
}

#[tokio::test]
async fn a_secret_is_sent_neither_in_clear_nor_to_a_forbidden_address() {
    let client = super::client_with(false);
    for (url, insecure) in [
        ("http://git.example.com/token", true),
        ("http://10.0.0.1/token", true),
        ("https://169.254.169.254/token", false),
        ("https://[::ffff:169.254.169.254]/token", false),
        ("https://0x7f.1/token", false),
    ] {
        let plan = plan_for_token_url("other", url);
        let endpoint = client.endpoint(&plan).await.unwrap();
        let error = client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await.unwrap_err();
        match error {
            Error::Http(http::Error::Insecure { .. }) => assert!(insecure, "{url}"),
            Error::Http(http::Error::ForbiddenAddress { .. }) => assert!(!insecure, "{url}"),
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_issuer_that_is_down_is_a_matter_of_time() {
    let client = client();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    drop(listener);
    let plan = plan_for_token_url("other", &url);
    let endpoint = client.endpoint(&plan).await.unwrap();
    let error = client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_keeps_quiet(&error);
}

#[tokio::test]
async fn a_hundred_callers_against_a_slow_issuer_cost_one_request() {
    let issuer = FakeIssuer::start(&[APP]).await;
    issuer.set_delay(Duration::from_millis(50));
    let client = Arc::new(client());
    let cache = Arc::new(TokenCache::<&str>::new(Arc::new(SystemClock)));
    let plan = plan_for_issuer(&issuer.issuer_url());
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (cache, client, plan) = (Arc::clone(&cache), Arc::clone(&client), plan.clone());
            tokio::spawn(async move {
                let mint = move || async move {
                    let endpoint = client.endpoint(&plan).await?;
                    client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await
                };
                cache.get_or_mint(&"key", mint).await.map(|token| token.access_token.expose_secret().to_owned())
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for caller in callers {
        tokens.push(caller.await.unwrap().unwrap());
    }
    tokens.dedup();
    assert_eq!((tokens.len(), issuer.token_requests(), issuer.received().len()), (1, 1, 2));
    assert!(issuer.introspect(&tokens[0]));
}

fn host_of(issuer: &FakeIssuer) -> String {
    http::host_and_port(&Url::parse(&issuer.token_url()).unwrap())
}
