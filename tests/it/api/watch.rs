//! `WatchEvents` against servers that stream: what is a hint, what is an end, and what means that there will be none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scm_agent::api::{ControlPlane, EnvelopeError, Error, EventStream};
use scm_agent::http;
use scm_agent::integration::source::{ChangeFeed, FeedError, SourceError, SourceErrorKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::{RUNNER, TOKEN, client, client_with, id, token, token_file};
use crate::support::control_plane::{FakeControlPlane, connect_error, envelope};
use crate::support::http::{Answer, FakeServer, Received, Served, Streamed};

/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(120);
const STREAM: &str = "application/connect+json";
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/connect+json\r\ntransfer-encoding: chunked\r\n\r\n";

fn event(resource_type: &str) -> Vec<u8> {
    envelope(0, &json!({ "operation": "RESOURCE_OPERATION_UPDATE", "resourceType": resource_type, "resourceId": id(1) }))
}

fn ours() -> Vec<u8> {
    event("RESOURCE_TYPE_RUNNER_SCM_INTEGRATION")
}

/// A Connect error as the end of a stream.
fn end(code: &str, message: &str) -> Vec<u8> {
    envelope(2, &json!({ "error": { "code": code, "message": message } }))
}

/// A stream that consists of these bytes.
fn streamed(bytes: impl Into<Vec<u8>>) -> Streamed {
    let (pieces, reply) = Streamed::new(200, STREAM);
    pieces.send(bytes.into()).unwrap();
    reply
}

/// A server and a client for it. Making a client reads the machine's certificates, so many replies share one.
struct Scene {
    client: ControlPlane,
    replies: Arc<Mutex<VecDeque<Served>>>,
    server: FakeServer,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut http::Config)) -> Self {
        let replies: Arc<Mutex<VecDeque<Served>>> = Arc::default();
        let queue = Arc::clone(&replies);
        let server = FakeServer::start(move |_: Received| {
            let reply = queue.lock().unwrap().pop_front().unwrap();
            async move { reply }
        })
        .await;
        let client = client_with(&server.url("/api"), token(TOKEN), change);
        Self { client, replies, server }
    }

    /// What the client makes of this reply: how many hints, and the error behind them.
    async fn outcome(&self, reply: impl Into<Served>) -> (usize, Error) {
        self.replies.lock().unwrap().push_back(reply.into());
        hints(self.client.watch_events(LONG).await).await
    }

    async fn error(&self, reply: impl Into<Served>) -> Error {
        let (hints, error) = self.outcome(reply).await;
        assert_eq!(hints, 0, "{error}");
        error
    }
}

async fn hints(stream: Result<EventStream, Error>) -> (usize, Error) {
    let mut stream = match stream {
        Err(error) => return (0, error),
        Ok(stream) => stream,
    };
    for hints in 0.. {
        if let Err(error) = stream.changed().await {
            return (hints, error);
        }
    }
    unreachable!("no stream has so many")
}

/// A server that writes what it likes to the first connection after it has read the request.
async fn raw<F>(write: impl FnOnce(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}]}") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
        write(stream).await;
    });
    url
}

async fn write_chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk).await
}

#[tokio::test]
async fn it_subscribes_with_one_envelope_and_hears_of_each_change() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    control_plane.allow_watch();
    let mut stream = client(&control_plane.base_url()).watch_events(LONG).await.unwrap();
    for operation in ["CREATE", "UPDATE", "DELETE", "UPDATE_STATUS", "BRAND_NEW"] {
        control_plane.announce(operation, &id(1));
        stream.changed().await.unwrap();
    }
    let request = control_plane.received().remove(0);
    assert_eq!((&*request.method, &*request.path), ("POST", "/api/gitpod.v1.EventService/WatchEvents"));
    assert_eq!(request.header("content-type"), STREAM);
    assert_eq!(request.header("connect-protocol-version"), "1");
    assert_eq!(request.header("accept-encoding"), "identity");
    assert_eq!(request.header("content-length"), request.body.len().to_string());
    let subscription = json!({ "organization": true, "resourceTypeFilters": [{ "resourceType": "RESOURCE_TYPE_RUNNER_SCM_INTEGRATION" }] });
    assert_eq!(request.body[..5], envelope(0, &subscription)[..5]);
    assert_eq!(serde_json::from_slice::<Value>(&request.body[5..]).unwrap(), subscription);
    control_plane.end_watches(None);
    assert!(matches!(stream.changed().await, Err(Error::StreamEnded { .. })));
    assert!(matches!(stream.changed().await, Err(Error::StreamEnded { .. })), "and it stays over");
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    control_plane.allow_watch();
    let stream = client(&control_plane.base_url()).watch_events(LONG).await.unwrap();
    assert_eq!(control_plane.watchers(), 1);
    drop(stream);
    while control_plane.watchers() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_that_holds_its_head_back_until_the_first_event_is_open_all_the_same() {
    for (later, expected) in [(ours(), 1), (end("unavailable", "restarts"), 0)] {
        let ready = Arc::new(Notify::new());
        let gate = Arc::clone(&ready);
        let server = FakeServer::start(move |_| {
            let (gate, later) = (Arc::clone(&gate), later.clone());
            async move {
                gate.notified().await;
                streamed(later)
            }
        })
        .await;
        // Less time for an ordinary reply than this one takes.
        let client = client_with(&server.url(""), token(TOKEN), |http| http.timeout = Duration::from_millis(700));
        let stream = client.watch_events(LONG).await;
        assert!(stream.is_ok());
        ready.notify_one();
        assert_eq!(hints(stream).await.0, expected);
    }
    let ready = Arc::new(Notify::new());
    let gate = Arc::clone(&ready);
    let server = FakeServer::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            connect_error("permission_denied", "not for runners")
        }
    })
    .await;
    let mut stream = client(&server.url("")).open().await.unwrap();
    ready.notify_one();
    assert!(matches!(stream.next().await, Err(FeedError::Unsupported { .. })));
}

#[tokio::test]
async fn the_same_comes_out_wherever_the_stream_is_cut_into_pieces() {
    let bytes = [envelope(0, &json!({})), ours(), event("RESOURCE_TYPE_PROJECT"), ours(), envelope(2, &json!({ "metadata": {} }))].concat();
    let scene = Scene::start().await;
    for cut in 0..=bytes.len() {
        let (pieces, reply) = Streamed::new(200, STREAM);
        let (first, second) = bytes.split_at(cut);
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            pieces.send(piece.to_vec()).unwrap();
        }
        let (hints, error) = scene.outcome(reply).await;
        assert!(hints == 2 && matches!(error, Error::StreamEnded { .. }), "cut at {cut}: {hints}, {error}");
    }
    let (pieces, reply) = Streamed::new(200, STREAM);
    bytes.iter().for_each(|byte| pieces.send(vec![*byte]).unwrap());
    assert_eq!(scene.outcome(reply).await.0, 2);
}

#[tokio::test]
async fn a_stream_that_breaks_off_inside_an_envelope_is_told_from_one_that_ends() {
    let scene = Scene::start().await;
    let bytes = [ours(), ours()].concat();
    for length in 0..=bytes.len() {
        let (hints, error) = scene.outcome(streamed(&bytes[..length])).await;
        assert_eq!(hints, length / ours().len(), "{length} bytes");
        match error {
            Error::StreamEnded { .. } => assert!(length.is_multiple_of(ours().len()), "{length} bytes"),
            Error::Transport(http::Error::Interrupted { .. }) => assert!(!length.is_multiple_of(ours().len()), "{length} bytes"),
            error => panic!("{length} bytes: {error}"),
        }
    }
    let url = raw(|mut stream| async move {
        stream.write_all(HEAD.as_bytes()).await.unwrap();
        write_chunk(&mut stream, &ours()).await.unwrap();
    })
    .await;
    let (hints, error) = hints(client(&url).watch_events(LONG).await).await;
    assert!(hints == 1 && matches!(error, Error::Transport(http::Error::Interrupted { .. })), "{error}");
}

#[tokio::test]
async fn a_burst_is_handed_on_event_by_event() {
    let scene = Scene::start().await;
    assert_eq!(scene.outcome(streamed(ours().repeat(1_000))).await.0, 1_000);
    let (pieces, reply) = Streamed::new(200, STREAM);
    (0..1_000).for_each(|_| pieces.send(ours()).unwrap());
    drop(pieces);
    assert_eq!(scene.outcome(reply).await.0, 1_000);
}

#[tokio::test]
async fn an_endless_stream_is_read_at_a_bounded_rate_and_loses_no_hint() {
    for flood in [envelope(0, &json!({})), event("RESOURCE_TYPE_PROJECT"), ours()] {
        let scene = Scene::start().await;
        let (pieces, reply) = Streamed::new(200, STREAM);
        scene.replies.lock().unwrap().push_back(reply.into());
        let stream = scene.client.watch_events(LONG * 1_000).await.unwrap();
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        (0..100).for_each(|_| pieces.send(flood.repeat(500)).unwrap());
        pieces.send(ours()).unwrap();
        drop(pieces);
        let (hints, error) = hints(Ok(stream)).await;
        assert!(matches!(error, Error::StreamEnded { .. }), "{error}");
        assert_eq!(hints, if flood == ours() { 50_001 } else { 1 });
        // Two thousand in a second, and a thousand more at once every ten seconds.
        assert!(began.elapsed() > Duration::from_secs(20), "{:?}", began.elapsed());
        tokio::time::resume();
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_hint_and_the_stream_goes_on() {
    let scene = Scene::start().await;
    let unreadable = [&[0, 0, 0, 0, 3, 0xff, b'{', 7][..], &[0; 5]].concat();
    let bytes = [unreadable, envelope(0, &json!(["a list"])), ours(), event("RESOURCE_TYPE_OF_TOMORROW"), ours()].concat();
    assert_eq!(scene.outcome(streamed(bytes)).await.0, 5);
}

#[tokio::test]
async fn broken_framing_ends_the_stream_but_not_what_came_before_it() {
    let scene = Scene::start().await;
    let limit = 64 * 1024;
    for (broken, expected) in [
        (&[1, 0, 0, 0, 0][..], EnvelopeError::Compressed),
        (&[3, 0, 0, 0, 2, b'{', b'}'], EnvelopeError::Compressed),
        (&[4, 0, 0, 0, 0], EnvelopeError::Flags),
        (&[0x80], EnvelopeError::Flags),
        (&[0, 0xff, 0xff, 0xff, 0xff], EnvelopeError::TooLong { limit }),
        (&[2, 0x7f, 0xff, 0xff, 0xff], EnvelopeError::TooLong { limit }),
        (&[0, 0, 1, 0, 1], EnvelopeError::TooLong { limit }),
    ] {
        // The stream stays open: it is the client who ends it.
        let (pieces, reply) = Streamed::new(200, STREAM);
        pieces.send([ours(), broken.to_vec()].concat()).unwrap();
        let (hints, error) = scene.outcome(reply).await;
        assert_eq!(hints, 1);
        assert!(matches!(error, Error::Stream { source, .. } if source == expected), "{broken:?}: {error}");
        let ended = FeedError::from(&error);
        assert!(matches!(ended, FeedError::Ended(SourceError { kind: SourceErrorKind::Transient, .. })), "{ended:?}");
    }
    for last in [&b"\xff"[..], b"", b"[]", b"{", b"{\"error\":{},\"error\":{}}"] {
        let bytes = [&[2, 0, 0, 0, u8::try_from(last.len()).unwrap()][..], last].concat();
        assert!(matches!(scene.error(streamed(bytes)).await, Error::Reply { .. }), "{last:?}");
    }
}

#[tokio::test]
async fn an_endless_envelope_and_an_endless_refusal_are_cut_off() {
    for head in [HEAD.to_owned(), HEAD.replace("200 OK", "500 Error").replace(STREAM, "application/json")] {
        let url = raw(move |mut stream| async move {
            stream.write_all(head.as_bytes()).await.unwrap();
            let _ = write_chunk(&mut stream, &[0, 0x7f, 0, 0, 0]).await;
            while write_chunk(&mut stream, &[b' '; 10_000]).await.is_ok() {}
        })
        .await;
        let (_, error) = hints(client(&url).watch_events(LONG).await).await;
        assert!(matches!(error, Error::Stream { .. } | Error::Transport(http::Error::TooLarge { limit: 65_536, .. })), "{error}");
    }
}

#[tokio::test]
async fn an_error_at_the_end_of_a_stream_is_sorted_by_its_code() {
    let scene = Scene::start().await;
    let unsupported = ["permission_denied", "unimplemented"];
    let operator = ["unauthenticated", "not_found", "invalid_argument", "failed_precondition"];
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
        "code_of_tomorrow",
    ];
    for code in unsupported.iter().chain(&operator).chain(&transient) {
        for (before, expected) in [(vec![], 0), (ours(), 1)] {
            let (hints, error) = scene.outcome(streamed([before, end(code, "as it is")].concat())).await;
            assert_eq!(hints, expected, "{code}");
            assert!(error.to_string().contains(" (HTTP 200): as it is"), "{error}");
            match FeedError::from(&error) {
                FeedError::Unsupported { message } => assert!(unsupported.contains(code) && message.contains("as it is"), "{code}"),
                FeedError::Ended(error) if operator.contains(code) => assert_eq!(error.kind, SourceErrorKind::Operator, "{code}"),
                FeedError::Ended(error) => {
                    assert!(transient.contains(code) && error.kind == SourceErrorKind::Transient, "{code}");
                }
            }
        }
    }
    let asks = json!({ "code": "resource_exhausted", "details": [{ "type": "google.rpc.RetryInfo", "value": "CgIIBw" }] });
    let error = scene.error(streamed(envelope(2, &json!({ "error": asks })))).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let (pieces, mut reply) = Streamed::new(200, STREAM);
    reply.headers.push(("retry-after".into(), "9".into()));
    pieces.send(end("unavailable", "")).unwrap();
    assert_eq!(scene.error(reply).await.retry_after(), Some(Duration::from_secs(9)));
}

#[tokio::test]
async fn replies_that_are_no_stream_are_sorted_by_whether_there_will_ever_be_one() {
    let scene = Scene::start().await;
    let text = |status| Answer::new(status, "text/plain; charset=utf-8", "404 page not found");
    for answer in [
        text(404),
        text(405),
        text(415),
        text(501),
        connect_error("unimplemented", ""),
        connect_error("permission_denied", ""),
        Answer::json(404, &json!({})),
        Answer::json(405, &json!({})),
        Answer::json(415, &json!({ "code": "brand_new" })),
        Answer::json(501, &json!([])),
    ] {
        let status = answer.status;
        let error = FeedError::from(&scene.error(answer).await);
        assert!(matches!(error, FeedError::Unsupported { .. }), "{status}: {error:?}");
    }
    for (answer, kind) in [
        (Answer::new(200, "text/html", "<h1>canary</h1>"), SourceErrorKind::Transient),
        (Answer::new(502, "text/html", "<h1>canary</h1>"), SourceErrorKind::Transient),
        (Answer::new(403, "text/html", "<h1>canary</h1>"), SourceErrorKind::Transient),
        // A load balancer without a server behind it.
        (Answer::new(404, "text/html; charset=utf-8", "<h1>canary</h1>"), SourceErrorKind::Transient),
        (Answer::new(405, "text/html", "<h1>canary</h1>"), SourceErrorKind::Transient),
        (Answer::new(501, "text/html", "<h1>canary</h1>"), SourceErrorKind::Transient),
        (Answer::new(404, "", ""), SourceErrorKind::Transient),
        (Answer::new(415, "", ""), SourceErrorKind::Transient),
        (text(403), SourceErrorKind::Transient),
        (Answer::json(403, &json!({ "message": "forbidden" })), SourceErrorKind::Operator),
        (Answer::json(200, &json!({})), SourceErrorKind::Transient),
        (Answer::new(200, "application/grpc-web+json", ours()), SourceErrorKind::Transient),
        (Answer::new(503, STREAM, ours()), SourceErrorKind::Transient),
        (Answer::new(200, STREAM, ours()).header("content-encoding", "gzip"), SourceErrorKind::Transient),
        (Answer::new(204, "", ""), SourceErrorKind::Transient),
        (connect_error("unavailable", ""), SourceErrorKind::Transient),
        (connect_error("unauthenticated", ""), SourceErrorKind::Operator),
        (connect_error("not_found", ""), SourceErrorKind::Operator),
    ] {
        let status = answer.status;
        let error = scene.error(answer).await;
        assert!(!format!("{error} {error:?}").contains("canary"));
        let error = FeedError::from(&error);
        assert!(matches!(&error, FeedError::Ended(error) if error.kind == kind), "{status}: {error:?}");
    }
    let error = scene.error(Answer::new(503, "text/html", "").header("retry-after", "30")).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let scene = Scene::start().await;
    let elsewhere = FakeServer::start(|_| async { streamed(ours()) }).await;
    for status in [301, 302, 303, 307, 308] {
        let error = scene.error(Answer::new(status, STREAM, "").header("location", &elsewhere.url("/"))).await;
        assert!(matches!(error, Error::Transport(http::Error::Redirect { status: found, .. }) if found == status), "{error}");
    }
    assert_eq!((scene.server.received().len(), elsewhere.received().len()), (5, 0));
}

#[tokio::test]
async fn a_refused_token_that_has_changed_since_is_tried_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = token_file(folder.path(), TOKEN);
    for as_end in [true, false] {
        token_file(folder.path(), TOKEN);
        let directory = folder.path().to_owned();
        let server = FakeServer::start(move |request: Received| {
            let good = request.header("authorization") == "Bearer the-second";
            token_file(&directory, "the-second");
            async move {
                match (good, as_end) {
                    (true, _) => streamed(ours()).into(),
                    (false, true) => streamed(end("unauthenticated", "")).into(),
                    (false, false) => Served::Whole(connect_error("unauthenticated", "")),
                }
            }
        })
        .await;
        let client = client_with(&server.url(""), scm_agent::api::TokenSource::file(path.clone()), |_| ());
        assert_eq!(hints(client.watch_events(LONG).await).await.0, 1);
        assert_eq!(server.received().len(), 2);
    }
    let scene = Scene::start().await;
    scene.error(streamed(end("unauthenticated", ""))).await;
    scene.error(connect_error("unauthenticated", "")).await;
    assert_eq!(scene.server.received().len(), 2, "one that has not changed is not tried again");
}

#[tokio::test]
async fn a_server_that_repeats_the_token_cannot_get_it_printed() {
    let scene = Scene::start().await;
    for reply in [
        Served::from(streamed(end("unavailable", &format!("bad token {TOKEN}")))),
        streamed(end(TOKEN, TOKEN)).into(),
        streamed(envelope(2, &json!(TOKEN))).into(),
        connect_error("unavailable", &format!("Bearer {TOKEN}")).into(),
        Answer::new(500, "text/html", TOKEN).into(),
    ] {
        let error = scene.error(reply).await;
        let shown = format!("{error} {error:?} {:?}", FeedError::from(&error));
        assert!(!shown.contains(&TOKEN[..12]), "{shown}");
    }
}

#[tokio::test]
async fn a_silent_stream_a_silent_server_and_a_drip_run_into_the_idle_limit() {
    let limit = Duration::from_millis(300);
    let late = |error: &Error| matches!(error, Error::Transport(http::Error::Timeout { .. }));
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    control_plane.allow_watch();
    let (_, error) = hints(client(&control_plane.base_url()).watch_events(limit).await).await;
    assert!(late(&error), "{error}");

    let url = raw(async |stream| {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let (_, error) = hints(client(&url).watch_events(limit).await).await;
    assert!(late(&error), "{error}");

    let url = raw(|mut stream| async move {
        stream.write_all(HEAD.as_bytes()).await.unwrap();
        write_chunk(&mut stream, &[0, 0, 0, 0xff, 0xff]).await.unwrap();
        while write_chunk(&mut stream, b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let (_, error) = hints(client(&url).watch_events(limit).await).await;
    assert!(late(&error), "{error}");
}

#[tokio::test]
async fn any_complete_message_is_a_sign_of_life() {
    let (pieces, reply) = Streamed::new(200, STREAM);
    let scene = Scene::start().await;
    scene.replies.lock().unwrap().push_back(reply.into());
    let beats = async |pieces: UnboundedSender<Vec<u8>>| {
        for beat in [envelope(0, &json!({})), event("RESOURCE_TYPE_PROJECT")].iter().cycle().take(12) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            pieces.send(beat.clone()).unwrap();
        }
        pieces.send(ours()).unwrap();
    };
    // Three seconds in all.
    let stream = async { hints(scene.client.watch_events(Duration::from_secs(2)).await).await };
    let ((hints, error), ()) = tokio::join!(stream, beats(pieces));
    assert!(hints == 1 && matches!(error, Error::StreamEnded { .. }), "{hints}, {error}");
}

#[tokio::test]
async fn connecting_and_being_refused_have_their_limits() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Somebody accepts and says nothing, so no handshake comes about.
    let mute = client_with(&format!("https://{address}"), token(TOKEN), |http| {
        (http.timeout, http.connect_timeout) = (Duration::from_millis(200), LONG);
    });
    let (_, error) = hints(mute.watch_events(LONG).await).await;
    assert!(matches!(error, Error::Transport(http::Error::Timeout { .. })), "{error}");
    let (_, error) = hints(client("http://127.0.0.1:1").watch_events(LONG).await).await;
    assert!(matches!(error, Error::Transport(http::Error::Connect { .. })), "{error}");

    let url = raw(|mut stream| async move {
        let head = HEAD.replace("200 OK", "503 No").replace(STREAM, "application/json");
        stream.write_all(head.as_bytes()).await.unwrap();
        while write_chunk(&mut stream, b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let client = client_with(&url, token(TOKEN), |http| http.timeout = Duration::from_millis(300));
    let (_, error) = hints(client.watch_events(LONG).await).await;
    assert!(matches!(error, Error::Transport(http::Error::Timeout { .. })), "{error}");
}

#[tokio::test]
async fn an_old_server_has_no_feed_and_a_token_that_cannot_be_read_is_worth_another_try() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let Err(error) = client(&control_plane.base_url()).open().await else { panic!("it opened") };
    assert!(matches!(&error, FeedError::Unsupported { message } if message.contains("text/plain (HTTP 404)")), "{error:?}");
    let missing = scm_agent::api::TokenSource::file("/nonexistent/token");
    let Err(error) = client_with(&control_plane.base_url(), missing, |_| ()).open().await else { panic!("it opened") };
    assert!(matches!(&error, FeedError::Ended(error) if error.kind == SourceErrorKind::Operator), "{error:?}");
    assert_eq!(control_plane.watch_calls(), 1);
}
