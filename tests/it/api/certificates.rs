//! Certificates that must not be accepted, and the one that must.

use scm_agent::api::{ControlPlane, Error};
use scm_agent::http;
use serde_json::json;

use super::{TOKEN, client_with, token};
use crate::support::http::{Answer, FakeServer, TestAuthority};

/// The client's result and the number of requests that arrived, with the trusted authority, if any, in a `ca_file`.
async fn outcome(tls: tokio_rustls::rustls::ServerConfig, trusted: Option<&TestAuthority>) -> (Result<usize, Error>, usize) {
    let server = FakeServer::start_tls(tls, |_| async { Answer::json(200, &json!({})) }).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let ca_file = trusted.map(|authority| {
        std::fs::write(&ca_file, authority.pem()).unwrap();
        ca_file
    });
    let client: ControlPlane = client_with(&server.url("/api"), token(TOKEN), |http| http.ca_file = ca_file);
    let result = client.list_scm_integrations().await.map(|list| list.integrations.len());
    (result, server.received().len())
}

#[tokio::test]
async fn a_private_authority_in_the_ca_file_is_trusted() {
    let authority = TestAuthority::new();
    let (result, requests) = outcome(authority.identity(&["127.0.0.1"], |_| ()), Some(&authority)).await;
    assert_eq!((result.unwrap(), requests), (0, 1));
}

#[tokio::test]
async fn a_bad_certificate_gets_no_request_and_is_told_by_its_fault() {
    let authority = TestAuthority::new();
    let impostor = TestAuthority::new();
    let trusted = Some(&authority);
    for (tls, trusted, expected) in [
        (authority.identity(&["127.0.0.1"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)), trusted, "it has expired"),
        (authority.identity(&["127.0.0.1"], |params| params.not_before = rcgen::date_time_ymd(3000, 1, 1)), trusted, "it is not valid yet"),
        (authority.identity(&["control-plane.example"], |_| ()), trusted, "it is for another name"),
        (authority.identity(&["127.0.0.1"], |_| ()), None, "its authority is not trusted here"),
        // Of the same name as the trusted authority, but with a key of its own.
        (impostor.identity(&["127.0.0.1"], |_| ()), trusted, "it is not valid"),
    ] {
        let (result, requests) = outcome(tls, trusted).await;
        match result {
            Err(Error::Transport(http::Error::Certificate { reason, .. })) => assert_eq!(reason, expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(requests, 0, "{expected}");
    }
}
