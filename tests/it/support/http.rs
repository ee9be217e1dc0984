//! A small HTTP server in the process, plain or with TLS, that records what it was asked.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Clone)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Received {
    /// A header's text, `""` when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The fields of a form body, in order.
    pub fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

/// A reply to give.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".into(), content_type.into())], body: body.into() }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A reply whose body is still being made: what the other end sends, piece by piece, until it is dropped.
pub struct Streamed {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub pieces: UnboundedReceiver<Vec<u8>>,
}

impl Streamed {
    pub fn new(status: u16, content_type: &str) -> (UnboundedSender<Vec<u8>>, Self) {
        let (sender, pieces) = mpsc::unbounded_channel();
        (sender, Self { status, headers: vec![("content-type".into(), content_type.into())], pieces })
    }
}

/// What a handler may answer.
pub enum Served {
    Streamed(Streamed),
    Whole(Answer),
}

impl From<Answer> for Served {
    fn from(answer: Answer) -> Self {
        Self::Whole(answer)
    }
}

impl From<Streamed> for Served {
    fn from(streamed: Streamed) -> Self {
        Self::Streamed(streamed)
    }
}

impl Served {
    fn into_parts(self) -> (u16, Vec<(String, String)>, UnsyncBoxBody<Bytes, Infallible>) {
        match self {
            Self::Whole(Answer { status, headers, body }) => (status, headers, Full::new(Bytes::from(body)).boxed_unsync()),
            Self::Streamed(Streamed { status, headers, pieces }) => {
                let frames = stream::unfold(pieces, |mut pieces| async move {
                    let piece = pieces.recv().await?;
                    Some((Ok(Frame::data(Bytes::from(piece))), pieces))
                });
                (status, headers, BodyExt::boxed_unsync(StreamBody::new(frames)))
            }
        }
    }
}

/// A server that lives as long as this value.
pub struct FakeServer {
    address: SocketAddr,
    scheme: &'static str,
    received: Arc<Mutex<Vec<Received>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeServer {
    /// Serves plain HTTP on a free loopback port.
    pub async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Received) -> F + Send + Sync + 'static,
        F: Future<Output: Into<Served>> + Send + 'static,
    {
        Self::start_with(None, handler).await
    }

    /// Serves HTTPS on a free loopback port with the given identity.
    pub async fn start_tls<H, F>(tls: tokio_rustls::rustls::ServerConfig, handler: H) -> Self
    where
        H: Fn(Received) -> F + Send + Sync + 'static,
        F: Future<Output: Into<Served>> + Send + 'static,
    {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(tls))), handler).await
    }

    async fn start_with<H, F>(tls: Option<TlsAcceptor>, handler: H) -> Self
    where
        H: Fn(Received) -> F + Send + Sync + 'static,
        F: Future<Output: Into<Served>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        let handler = Arc::new(handler);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, handler, log) = (tls.clone(), Arc::clone(&handler), Arc::clone(&log));
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, handler, log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, handler, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, received, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:PORT` with a path behind it.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Everything it was asked so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S, H, F>(stream: S, handler: Arc<H>, log: Arc<Mutex<Vec<Received>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Received) -> F + Send + Sync + 'static,
    F: Future<Output: Into<Served>> + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
            let received = Received {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                headers: parts.headers,
                body,
            };
            log.lock().unwrap().push(received.clone());
            let (status, headers, body) = handler(received).await.into().into_parts();
            let mut response = hyper::Response::new(body);
            *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(&value).unwrap());
            }
            Ok::<_, Infallible>(response)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A certificate authority of the test's own, and server identities signed by it.
pub struct TestAuthority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl TestAuthority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// The authority's certificate, to be written to a `ca_file`.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// An identity for the given names and addresses, with a chance to spoil it.
    pub fn identity(&self, names: &[&str], spoil: impl FnOnce(&mut rcgen::CertificateParams)) -> tokio_rustls::rustls::ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        spoil(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        tokio_rustls::rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap()
    }
}
