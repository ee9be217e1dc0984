//! Answers scrapes over HTTP. Whoever can connect may read the numbers, and that is all that anybody can do here: every connection has one
//! request, little room and little time, and the oldest gives way to the next when there are too many.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::{debug, info, warn};

use super::listen::{Address, Bound, Error};
use super::{Format, Gauges, Metrics};

/// Connections at a time. One Prometheus has one.
const MAX_CONNECTIONS: usize = 16;

/// How long a client may take to send its request, and how long all of it may take.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The most of a request that is read.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// How long what is held counts as looked at just now: who scrapes in a loop costs no more than who does so each second.
const FRESH: Duration = Duration::from_secs(1);

/// How often it is looked whether the listener is still there, or can be had at last.
const CHECK: Duration = Duration::from_secs(2);

/// How long accepting pauses after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Looks at what is held now. It may take some milliseconds.
pub type Look = Arc<dyn Fn() -> Gauges + Send + Sync>;

/// Has scrapes answered elsewhere.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Option<(Address, Bound)>>);

impl Handle {
    /// Puts another listener in the place of the one in use, or none.
    pub async fn replace(&self, next: Option<(Address, Bound)>) {
        // Where nobody takes it the daemon is ending.
        let _ = self.0.send(next).await;
    }
}

/// Answers scrapes for as long as [`Server::run`] is polled.
pub struct Server {
    address: Option<Address>,
    bound: Option<Listening>,
    changes: mpsc::Receiver<Option<(Address, Bound)>>,
    /// What was bound beforehand, until the runtime runs.
    first: Option<Bound>,
    source: Arc<Source>,
}

/// What a scrape is made of.
struct Source {
    look: Look,
    metrics: Arc<Metrics>,
    seen: Mutex<Option<(Instant, Gauges)>>,
}

/// A listener, and the runtime's view of it.
struct Listening {
    bound: Bound,
    listener: Listener,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn of(bound: &Bound) -> Result<Self, Error> {
        let listener = match bound {
            Bound::Tcp(listener) => listener.try_clone().and_then(TcpListener::from_std).map(Self::Tcp),
            Bound::Unix(socket) => socket.listener.try_clone().and_then(UnixListener::from_std).map(Self::Unix),
        };
        listener.map_err(Error::Runtime)
    }
}

impl Server {
    /// Will listen at an address with what is bound to it, else as soon as that can be had: that the metrics cannot be served is no
    /// reason not to serve git.
    #[must_use]
    pub fn new(address: Option<Address>, first: Option<Bound>, metrics: Arc<Metrics>, look: Look) -> (Self, Handle) {
        let (sender, changes) = mpsc::channel(1);
        let source = Source { look, metrics, seen: Mutex::default() };
        (Self { address, bound: None, changes, first, source: Arc::new(source) }, Handle(sender))
    }

    /// Answers. Never ends while there is a [`Handle`].
    pub async fn run(mut self) {
        let mut connections = JoinSet::new();
        let mut handles: VecDeque<AbortHandle> = VecDeque::new();
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = self.changes.recv() => match change {
                    None => return,
                    Some(next) => self.replace(next),
                },
                _ = check.tick() => self.check(),
                accepted = accept(self.bound.as_ref(), &self.source) => match accepted {
                    Ok(connection) => {
                        handles.retain(|handle| !handle.is_finished());
                        if handles.len() >= MAX_CONNECTIONS {
                            handles.pop_front().iter().for_each(AbortHandle::abort);
                        }
                        handles.push_back(connections.spawn(connection));
                    }
                    Err(error) => {
                        debug!(error = %error, "cannot accept a scrape");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }

    fn replace(&mut self, next: Option<(Address, Bound)>) {
        self.bound = None;
        let (address, bound) = next.unzip();
        self.address = address;
        let problem = bound.and_then(|bound| self.take(bound).err());
        self.source.metrics.note_problem(problem.map(|error| error.to_string()));
    }

    /// Listens where that was not possible before, and makes the file of a socket again that somebody deleted.
    fn check(&mut self) {
        let Some(address) = &self.address else { return };
        let done = match &mut self.bound {
            None => self.first.take().map_or_else(|| Bound::bind(address), Ok).and_then(|bound| self.take(bound)),
            Some(listening) => match listening.bound.restore() {
                Ok(true) => Listener::of(&listening.bound).map(|listener| listening.listener = listener),
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
        };
        let problem = done.err().map(|error| error.to_string());
        if let Some(problem) = &problem
            && self.source.metrics.problem().as_ref() != Some(problem)
        {
            warn!(problem, "trying on");
        }
        self.source.metrics.note_problem(problem);
    }

    fn take(&mut self, bound: Bound) -> Result<(), Error> {
        let listener = Listener::of(&bound)?;
        match &self.address {
            Some(Address::Tcp(address)) => info!(address = %address, "serving metrics"),
            Some(Address::Unix { path, .. }) => info!(socket = %path.display(), "serving metrics"),
            None => {}
        }
        self.bound = Some(Listening { bound, listener });
        Ok(())
    }
}

/// The next connection, as what is to be done for it. Without a listener there is none.
async fn accept(listening: Option<&Listening>, source: &Arc<Source>) -> std::io::Result<BoxFuture<'static, ()>> {
    let Some(Listening { listener, .. }) = listening else { return std::future::pending().await };
    let source = Arc::clone(source);
    Ok(match listener {
        Listener::Tcp(listener) => Box::pin(serve(listener.accept().await?.0, true, source)),
        Listener::Unix(listener) => Box::pin(serve(listener.accept().await?.0, false, source)),
    })
}

/// Answers one request, if it comes in time and does not ask for too much.
async fn serve<S>(stream: S, is_tcp: bool, source: Arc<Source>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, is_tcp, &source).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(error = %error, "a scrape came to nothing"),
        Err(_) => debug!("a scrape took too long"),
    }
}

async fn answer(request: &Request<Incoming>, is_tcp: bool, source: &Source) -> Response<Full<Bytes>> {
    // A page in a browser can reach ports of this machine under a name of its own (DNS rebinding).
    if is_tcp && !is_local(request) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1, [::1] or localhost\n");
    }
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz") {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if path == "/healthz" {
        return plain(StatusCode::OK, "ok\n");
    }
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()).collect::<Vec<_>>().join(",");
    let format = Format::accepted(&accepted);
    response(StatusCode::OK, format.content_type(), source.scrape(format).await)
}

/// Whether a request is for this machine by a name that only this machine has: exactly one `Host`, and no other in the first line.
fn is_local(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
    let is_ours = |authority: &Authority| {
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    host.is_some_and(|host| is_ours(&host)) && hosts.next().is_none() && request.uri().authority().is_none_or(is_ours)
}

impl Source {
    /// A scrape. Those that come while another is made wait for it, and are made of what it saw.
    async fn scrape(&self, format: Format) -> String {
        let mut seen = self.seen.lock().await;
        let gauges = match &*seen {
            Some((at, gauges)) if at.elapsed() < FRESH => gauges.clone(),
            _ => {
                let look = Arc::clone(&self.look);
                // Thousands of integrations take a while to count, and git is not to wait for that.
                let gauges = tokio::task::spawn_blocking(move || look()).await.unwrap_or_default();
                *seen = Some((Instant::now(), gauges.clone()));
                gauges
            }
        };
        drop(seen);
        self.metrics.scrape(&gauges, format)
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
