//! Replies that nobody honest would send: each one is an error, soon, and never half a list.

mod matrix;
pub(crate) mod rows;
mod truncation;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scm_agent::api::{Error, MAX_INTEGRATIONS, MAX_PAGE_BYTES, MessageError, PagingError};
use scm_agent::http;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Scene, TOKEN, client, client_with, id, integrations, token};
use crate::support::http::{Answer, FakeServer};

/// A body in an otherwise good reply.
fn good(body: impl Into<Vec<u8>>) -> Answer {
    Answer::new(200, "application/json", body)
}

/// A server that writes what it likes to the first connection, after it has read a request. Returns its URL and how many bytes it
/// got rid of.
async fn raw<F>(write: impl FnOnce(TcpStream, Arc<AtomicUsize>) -> F + Send + 'static) -> (String, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let complete = |request: &[u8]| request.ends_with(b"}}") || request.ends_with(b"]}}");
        while !complete(&request) && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
        write(stream, count).await;
    });
    (url, written)
}

/// Writes until the other side has had enough.
async fn pour(mut stream: TcpStream, head: &str, piece: &[u8], written: Arc<AtomicUsize>) {
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    while stream.write_all(piece).await.is_ok() {
        written.fetch_add(piece.len(), Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_announced_end_is_an_error_even_where_the_json_is_complete() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let body = if head.starts_with("content") { "{}" } else { "2\r\n{}\r\n" };
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}\r\n\r\n{body}");
        let (url, _) = raw(|mut stream, _| async move { stream.write_all(reply.as_bytes()).await.unwrap() }).await;
        let result = client(&url).list_scm_integrations().await;
        assert!(matches!(result, Err(Error::Transport(http::Error::Interrupted { .. }))), "{head}: {result:?}");
    }
}

#[tokio::test]
async fn a_later_page_that_fails_takes_the_whole_list_with_it() {
    let calls = AtomicUsize::new(0);
    let server = FakeServer::start(move |_| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        let page = json!({ "integrations": integrations(2), "pagination": { "nextToken": "n" } });
        async move { if first { Answer::json(200, &page) } else { Answer::new(200, "application/json", "{\"integrations\":[") } }
    })
    .await;
    let result = client(&server.url("")).list_scm_integrations().await;
    assert!(matches!(result, Err(Error::Reply { source: MessageError::Malformed { .. }, .. })), "{result:?}");
}

#[tokio::test]
async fn what_is_no_json_is_an_error() {
    let scene = Scene::start().await;
    let deep = "[".repeat(100_000);
    for body in [
        "\u{feff}{}".to_owned(),
        r#"{"integrations":[{"id":NaN}]}"#.to_owned(),
        r#"{"integrations":[{"id":"a","pat":Infinity}]}"#.to_owned(),
        r#"{"integrations":[],}"#.to_owned(),
        r#"{'integrations':[]}"#.to_owned(),
        "{}{}".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"{}\"".to_owned(),
        "<html>".to_owned(),
        deep.clone(),
        format!("{{\"integrations\":{deep}"),
        "{\"a\":".repeat(100_000),
        r#"{"integrations":[{"id":"\uZZZZ"}]}"#.to_owned(),
    ] {
        let result = scene.outcome(good(body.clone())).await;
        assert!(matches!(result, Err(Error::Reply { source: MessageError::Malformed { .. }, .. })), "{body:.40}: {result:?}");
    }
    assert!(matches!(scene.outcome(good(b"{\"a\":\"\xc3\x28\"}".to_vec())).await, Err(Error::Reply { source: MessageError::NotText, .. })));
}

#[tokio::test]
async fn fields_of_the_wrong_type_or_twice_around_the_list_are_an_error() {
    let scene = Scene::start().await;
    for (body, field) in [
        (r#"{"integrations":{}}"#, "integrations"),
        (r#"{"integrations":"a"}"#, "integrations"),
        (r#"{"integrations":[],"integrations":[]}"#, "integrations"),
        (r#"{"pagination":[]}"#, "pagination"),
        (r#"{"pagination":1}"#, "pagination"),
        (r#"{"pagination":{"nextToken":1}}"#, "pagination.nextToken"),
        (r#"{"pagination":{"nextToken":"\ud800"}}"#, "pagination.nextToken"),
        (r#"{"pagination":{"nextToken":"a","next_token":"b"}}"#, "pagination.nextToken"),
    ] {
        match scene.outcome(good(body)).await {
            Err(Error::Reply { source: MessageError::Field { field: found }, .. }) => assert_eq!(found, field, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broken_integration_costs_no_other() {
    let scene = Scene::start().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for broken in [
        deep.clone(),
        format!(r#"{{"id":"b","host":{deep}}}"#),
        r#"{"id":"b","host":"\ud800"}"#.to_owned(),
        r#"{"id":"b","id":"c","host":"h"}"#.to_owned(),
        r#"{"id":"a","host":"the id of the good one"}"#.to_owned(),
        "null".to_owned(),
    ] {
        let body = format!(r#"{{"integrations":[{{"id":"a","host":"good.example","unknown":{deep}}},{broken}]}}"#);
        assert_eq!(scene.outcome(good(body)).await.unwrap(), 1, "{broken:.40}");
    }
}

#[tokio::test]
async fn a_body_announced_as_huge_is_not_even_read() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10737418240\r\n\r\n";
    let (url, written) = raw(move |stream, written| pour(stream, head, &[b' '; 65_536], written)).await;
    let result = client(&url).list_scm_integrations().await;
    assert!(matches!(result, Err(Error::Transport(http::Error::TooLarge { limit: MAX_PAGE_BYTES, .. }))), "{result:?}");
    assert!(written.load(Ordering::SeqCst) < 4 * MAX_PAGE_BYTES);
}

#[tokio::test]
async fn a_body_without_an_end_is_cut_off_at_the_limit() {
    for (head, piece) in [
        ("transfer-encoding: chunked\r\n\r\n", format!("10000\r\n{}\r\n", " ".repeat(65_536))),
        ("connection: close\r\n\r\n", " ".repeat(65_536)),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}");
        let (url, written) = raw(|stream, written| async move { pour(stream, &head, piece.as_bytes(), written).await }).await;
        let result = client(&url).list_scm_integrations().await;
        assert!(matches!(result, Err(Error::Transport(http::Error::TooLarge { limit: MAX_PAGE_BYTES, .. }))), "{result:?}");
        // What the sockets buffer comes on top of the limit.
        assert!(written.load(Ordering::SeqCst) < 8 * MAX_PAGE_BYTES);
    }
}

#[tokio::test]
async fn headers_without_an_end_are_an_error() {
    let (url, _) = raw(|stream, written| pour(stream, "HTTP/1.1 200 OK\r\n", b"x-more: aaaaaaaaaaaaaaaaaaaaaaaa\r\n", written)).await;
    let result = client(&url).list_scm_integrations().await;
    assert!(matches!(result, Err(Error::Transport(http::Error::Interrupted { .. }))), "{result:?}");
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    for reply in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"\x15\x03\x01\x00\x02\x02\x46", b"", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"] {
        let (url, _) = raw(move |mut stream, _| async move { stream.write_all(reply).await.unwrap() }).await;
        let result = client(&url).list_scm_integrations().await;
        assert!(matches!(result, Err(Error::Transport(http::Error::Interrupted { .. }))), "{reply:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_reply_that_drips_runs_into_the_total_timeout() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    let (url, _) = raw(move |mut stream, _| async move {
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let client = client_with(&url, token(TOKEN), |http| http.timeout = Duration::from_millis(300));
    let result = client.list_scm_integrations().await;
    assert!(matches!(result, Err(Error::Transport(http::Error::Timeout { .. }))), "{result:?}");
}

#[tokio::test]
async fn a_compressed_reply_is_refused_and_not_unpacked() {
    let scene = Scene::start().await;
    for encoding in ["gzip", "zstd", "br", "identity, gzip"] {
        let result = scene.outcome(good("{}").header("content-encoding", encoding)).await;
        assert!(matches!(result, Err(Error::Encoded { status: 200, .. })), "{encoding}: {result:?}");
    }
    assert_eq!(scene.outcome(good("{}").header("content-encoding", "identity")).await.unwrap(), 0);
}

#[tokio::test]
async fn a_redirect_leaks_nothing() {
    let scene = Scene::start().await;
    let elsewhere = FakeServer::start(|_| async { Answer::json(200, &json!({})) }).await;
    for status in [301, 302, 303, 307, 308] {
        for target in [elsewhere.url("/api"), elsewhere.url("/").replace("127.0.0.1", "localhost"), "/same-host".to_owned()] {
            let result = scene.outcome(Answer::json(status, &json!({})).header("location", &target)).await;
            assert!(
                matches!(result, Err(Error::Transport(http::Error::Redirect { status: found, .. })) if found == status),
                "{target}: {result:?}"
            );
        }
    }
    assert_eq!(scene.control_plane.received().len(), 15, "one request each, none to follow");
    assert_eq!(elsewhere.received().len(), 0);
}

/// A server whose pages this function makes from their number.
async fn pages(page: impl Fn(usize) -> Value + Send + Sync + 'static) -> FakeServer {
    let calls = AtomicUsize::new(0);
    FakeServer::start(move |_| {
        let answer = Answer::json(200, &page(calls.fetch_add(1, Ordering::SeqCst)));
        async move { answer }
    })
    .await
}

#[tokio::test]
async fn five_thousand_integrations_are_taken_and_one_more_is_an_error() {
    let page = |number: usize| -> Vec<Value> { (0..100).map(|place| json!({ "id": id(number * 100 + place), "host": "h" })).collect() };
    let next = |number: usize, last: usize| if number == last { String::new() } else { format!("page {number}") };
    let server = pages(move |number| json!({ "integrations": page(number), "pagination": { "nextToken": next(number, 49) } })).await;
    let list = client(&server.url("")).list_scm_integrations().await.unwrap();
    assert_eq!((list.integrations.len(), server.received().len()), (MAX_INTEGRATIONS, 50));
    let server = pages(move |number| {
        let integrations = if number == 50 { vec![json!({ "id": "one-more", "host": "h" })] } else { page(number) };
        json!({ "integrations": integrations, "pagination": { "nextToken": next(number, 50) } })
    })
    .await;
    let result = client(&server.url("")).list_scm_integrations().await;
    assert!(
        matches!(result, Err(Error::Reply { source: MessageError::TooManyIntegrations { limit: MAX_INTEGRATIONS }, .. })),
        "{result:?}"
    );
    let result = Scene::start().await.outcome(good(json!({ "integrations": vec![0; MAX_INTEGRATIONS + 1] }).to_string())).await;
    assert!(matches!(result, Err(Error::Reply { source: MessageError::TooManyIntegrations { .. }, .. })), "{result:?}");
}

#[tokio::test]
async fn pages_that_go_in_circles_or_never_end_are_an_error() {
    for circle in [1, 2, 7] {
        let server = pages(move |number| json!({ "pagination": { "nextToken": format!("page {}", number % circle) } })).await;
        let result = client(&server.url("")).list_scm_integrations().await;
        assert!(matches!(result, Err(Error::Paging { problem: PagingError::Repeats, .. })), "{result:?}");
        assert_eq!(server.received().len(), circle + 1);
    }
    let server = pages(|number| json!({ "pagination": { "nextToken": format!("page {number}") } })).await;
    let result = client(&server.url("")).list_scm_integrations().await;
    assert!(matches!(result, Err(Error::Paging { problem: PagingError::TooManyPages { limit }, .. }) if limit == server.received().len()));
}

#[tokio::test(start_paused = true)]
async fn pages_that_take_too_long_in_all_are_an_error_however_long_one_may_take() {
    let (url, _) = raw(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let hour = Duration::from_secs(3600);
    let client = client_with(&url, token(TOKEN), |http| (http.timeout, http.connect_timeout) = (hour, hour));
    let result = client.list_scm_integrations().await;
    assert!(matches!(result, Err(Error::Paging { problem: PagingError::TooLong { .. }, .. })), "{result:?}");
}
