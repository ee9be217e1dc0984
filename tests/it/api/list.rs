//! What a well-behaved control plane hands over.

use scm_agent::api::{Code, Error, TokenSource};
use scm_agent::integration::source::IntegrationSource;
use scm_agent::integration::{EncryptedClientSecret, OAuthApp, ScmId, ScmIntegration};
use serde_json::json;

use super::{RUNNER, TOKEN, client, client_with, id, integrations, token_file};
use crate::support::control_plane::{FakeControlPlane, connect_error};
use crate::support::http::{Answer, FakeServer};

#[tokio::test]
async fn every_field_arrives() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    control_plane.set_integrations(vec![json!({
        "id": id(1),
        "scmId": "azuredevops_server",
        "host": "tfs.example:8443",
        "oauth": { "clientId": "client", "encryptedClientSecret": "AAEC/w==", "issuerUrl": "https://login.example" },
        "pat": true,
        "virtualDirectory": "/tfs",
    })]);
    let expected = ScmIntegration {
        id: id(1),
        scm_id: ScmId::AzureDevOpsServer,
        host: "tfs.example:8443".into(),
        oauth: Some(OAuthApp {
            client_id: "client".into(),
            encrypted_client_secret: EncryptedClientSecret::new(vec![0, 1, 2, 0xff]),
            issuer_url: Some("https://login.example".into()),
        }),
        pat: true,
        runner_id: RUNNER.into(),
        virtual_directory: "/tfs".into(),
    };
    let client = client(&control_plane.base_url());
    assert_eq!(client.get_scm_integration(&id(1)).await.unwrap(), expected);
    let list = client.fetch().await.unwrap();
    assert_eq!((list.integrations, list.rejected), (vec![std::sync::Arc::new(expected)], vec![]));
}

#[tokio::test]
async fn two_hundred_and_fifty_integrations_come_in_three_pages() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let mut all = integrations(250);
    all[120]["oauth"]["encryptedClientSecret"] = json!("not base64!");
    all.insert(7, json!({ "id": id(900), "host": "git.example", "runnerId": id(901) }));
    control_plane.set_integrations(all);
    let list = client(&control_plane.base_url()).list_scm_integrations().await.unwrap();
    assert_eq!(control_plane.list_calls(), 3);
    assert_eq!(list.integrations.len(), 249);
    assert!(list.integrations.iter().zip((0..250).filter(|number| *number != 120)).all(|(one, number)| one.id == id(number)));
    assert_eq!(list.rejected.len(), 1);
    let rejected = &list.rejected[0];
    assert_eq!((rejected.id.clone(), rejected.position), (Some(id(120)), 120));
    assert_eq!(rejected.reason, "oauth.encryptedClientSecret is not base64");
}

#[tokio::test]
async fn an_empty_list_is_a_list() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let list = client(&control_plane.base_url()).list_scm_integrations().await.unwrap();
    assert!(list.integrations.is_empty() && list.rejected.is_empty());
}

#[tokio::test]
async fn the_request_is_a_connect_call_for_this_runner_only() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    // With a slash at the end of the base URL, as people write it.
    client(&format!("{}/", control_plane.base_url())).list_scm_integrations().await.unwrap();
    let received = control_plane.received();
    let request = &received[0];
    assert_eq!((request.method.as_str(), request.query.as_str()), ("POST", ""));
    assert_eq!(request.path, "/api/gitpod.v1.RunnerConfigurationService/ListSCMIntegrations");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("connect-protocol-version"), "1");
    assert_eq!(request.header("accept-encoding"), "identity");
    assert_eq!(request.header("authorization"), format!("Bearer {TOKEN}"));
    assert!(request.header("user-agent").starts_with("scm-agent/"));
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body, json!({ "pagination": { "pageSize": 100, "token": "" }, "filter": { "runnerIds": [RUNNER] } }));
}

#[tokio::test]
async fn an_integration_of_another_runner_is_set_aside_though_the_filter_should_have_done_it() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let page = json!({ "integrations": [{ "id": id(1), "host": "a.example", "runnerId": id(9) }, { "id": id(2), "host": "b.example" }] });
    control_plane.fail_next(1, Answer::json(200, &page));
    let list = client(&control_plane.base_url()).list_scm_integrations().await.unwrap();
    assert_eq!(list.integrations.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(list.rejected[0].reason, "runnerId is that of another runner");
}

#[tokio::test]
async fn one_that_does_not_exist_is_not_found() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let error = client(&control_plane.base_url()).get_scm_integration(&id(404)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
}

#[tokio::test]
async fn another_integration_than_the_one_asked_for_is_refused() {
    let server = FakeServer::start(|_| async { Answer::json(200, &json!({ "integration": { "id": id(2), "host": "h" } })) }).await;
    let error = client(&server.url("")).get_scm_integration(&id(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { reason, .. } if reason == "id is not the one asked for"), "{error}");
}

#[tokio::test]
async fn a_rotated_token_file_counts_from_the_next_request_on() {
    let control_plane = FakeControlPlane::start("first", RUNNER).await;
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path(), "first\n");
    let client = client_with(&control_plane.base_url(), TokenSource::file(path), |_| ());
    client.list_scm_integrations().await.unwrap();
    control_plane.set_token("second");
    assert_eq!(client.list_scm_integrations().await.unwrap_err().code(), Some(Code::Unauthenticated));
    token_file(folder.path(), "second");
    client.list_scm_integrations().await.unwrap();
    let used: Vec<_> = control_plane.received().iter().map(|request| request.header("authorization").to_owned()).collect();
    assert_eq!(used, ["Bearer first", "Bearer first", "Bearer second"], "an unchanged token is not sent again");
}

#[tokio::test]
async fn a_token_rotated_during_the_request_is_tried_once_more_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path(), "token-0");
    let folder_path = folder.path().to_owned();
    // Each refusal comes with a rotation, so a client that keeps trying would never stop.
    let count = std::sync::atomic::AtomicUsize::new(1);
    let server = FakeServer::start(move |_| {
        token_file(&folder_path, &format!("token-{}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst)));
        async { connect_error("unauthenticated", "authentication required") }
    })
    .await;
    let client = client_with(&server.url(""), TokenSource::file(path), |_| ());
    assert_eq!(client.list_scm_integrations().await.unwrap_err().code(), Some(Code::Unauthenticated));
    let used: Vec<_> = server.received().iter().map(|request| request.header("authorization").to_owned()).collect();
    assert_eq!(used, ["Bearer token-0", "Bearer token-1"]);
}

#[tokio::test]
async fn a_missing_token_file_is_for_the_operator_and_nothing_is_sent() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let client = client_with(&control_plane.base_url(), TokenSource::file("/nonexistent/token"), |_| ());
    let error = client.fetch().await.unwrap_err();
    assert_eq!(error.kind, scm_agent::integration::source::SourceErrorKind::Operator);
    assert!(error.message.starts_with("cannot use the token file /nonexistent/token: it cannot be read: No such file"), "{error}");
    assert!(control_plane.received().is_empty());
}

#[tokio::test]
async fn the_registered_public_key_is_asked_for_by_the_runners_id() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let client = client(&control_plane.base_url());
    let error = client.registered_public_key().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    control_plane.set_public_key(&[]);
    assert_eq!(client.registered_public_key().await.unwrap(), None);
    control_plane.set_public_key(&[1; 32]);
    assert_eq!(client.registered_public_key().await.unwrap(), Some(vec![1; 32]));
    let asked = control_plane.received().pop().unwrap();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/api/gitpod.v1.RunnerService/GetRunner"));
    assert_eq!(asked.body, json!({ "runnerId": RUNNER }).to_string().into_bytes());
    control_plane.refuse_get_runner(Answer::json(200, &json!({ "runner": { "runnerId": "another" } })));
    let error = client.registered_public_key().await.unwrap_err();
    assert!(matches!(&error, Error::Reply { source, .. } if source.to_string() == "the field runner.runnerId is not usable"), "{error}");
}
