//! The HTTP client under both network stages: no redirects, bounded replies, https only, checked addresses.
//!
//! Everything sent through here may carry a secret, so a redirect is an error (a 307 would send the body to wherever the reply
//! says), replies are never decompressed and are cut off at a limit, and errors name the host but never the URL or the body.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method, Proxy, redirect, retry, tls};
use url::{Host, Url};
use zeroize::Zeroizing;

mod address;
mod error;
mod proxy;
mod resolver;
mod stream;

use address::{Guard, host_key, literal};
pub use error::{EXPIRED, Error, NO_SUCH_NAME, NOT_YET_VALID, OTHER_NAME};
use error::{classify, refused_address};
use proxy::Route;
pub(crate) use proxy::{NO_PROXY_VARIABLES, PROXY_VARIABLES};
use resolver::GuardedResolver;
pub use resolver::{Lookup, SystemLookup};
pub use stream::{Head, Stream};

/// How long a connection is silent before its peer is asked for a sign of life, and how long between two such questions.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long a peer may leave what was sent to it unacknowledged, those questions included.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How a client reaches its hosts. No `Debug`: a proxy's URL can hold a password.
#[derive(Clone)]
pub struct Config {
    /// Lets `http://` stand for `127.0.0.1`, `[::1]` and `localhost`, and https reach them.
    pub allow_insecure_loopback: bool,
    /// PEM file of further certificate authorities, added to the system's. `SSL_CERT_FILE` and `SSL_CERT_DIR`, when either is set,
    /// stand instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How names become addresses, those of proxies included.
    pub lookup: Arc<dyn Lookup>,
    /// Hosts that may be at private addresses (RFC 1918 and the like) though the operator did not write the URL.
    pub named_hosts: BTreeSet<String>,
    /// What is asked directly though there is a proxy: names with their subdomains, addresses, networks, or `*`. `None` follows
    /// `NO_PROXY`.
    pub no_proxy: Option<Vec<String>>,
    /// The proxy for all requests; `None` follows `HTTPS_PROXY` and `ALL_PROXY`. This machine's own names never go through one.
    ///
    /// The proxy resolves the names of what it connects to, so only addresses in URLs are checked here, not what names resolve to.
    pub proxy: Option<Url>,
    /// How long a request may take from connecting to the last byte of the reply.
    pub timeout: Duration,
    /// Whether the operator wrote the URLs. URLs from anywhere else may not name this machine, a link-local address or a metadata
    /// service, and private addresses only for [`Config::named_hosts`].
    pub trusted_urls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_insecure_loopback: false,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            lookup: Arc::new(SystemLookup),
            named_hosts: BTreeSet::new(),
            no_proxy: None,
            proxy: None,
            timeout: Duration::from_secs(30),
            trusted_urls: false,
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The CA file could not be read.
    #[error("cannot read the CA file {path}")]
    CaFileUnreadable {
        /// The configured path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CA file holds no usable PEM certificate.
    #[error("the CA file {path} holds no PEM certificate")]
    CaFileInvalid {
        /// The configured path.
        path: PathBuf,
    },
    /// The proxy's URL is not usable.
    #[error("the proxy URL is not usable")]
    Proxy,
    /// A variable of the environment that should name a proxy does not.
    #[error("the variable {variable} names no http or https proxy")]
    ProxyVariable {
        /// The variable.
        variable: &'static str,
    },
    /// The TLS stack did not start, for want of any certificate authority.
    #[error("cannot set up TLS: neither the system nor SSL_CERT_FILE, SSL_CERT_DIR or ca_file gives a usable certificate authority")]
    Tls,
}

/// A request to send.
pub struct Request {
    url: Url,
    method: Method,
    headers: HeaderMap,
    body: Vec<u8>,
    max_reply_bytes: usize,
    takes_redirects: bool,
}

impl Request {
    /// Starts a GET.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self { url, method: Method::GET, headers: HeaderMap::new(), body: Vec::new(), max_reply_bytes: 64 * 1024, takes_redirects: false }
    }

    /// Starts a POST of a body with its content type. The body is wiped with the request.
    #[must_use]
    pub fn post(url: Url, content_type: &'static str, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { url, method: Method::POST, headers, body, max_reply_bytes: 64 * 1024, takes_redirects: false }
    }

    /// Starts a DELETE with a body and its content type, as GitHub wants it. The body is wiped with the request.
    #[must_use]
    pub fn delete(url: Url, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { method: Method::DELETE, ..Self::post(url, content_type, body) }
    }

    /// Adds a header. Mark values that carry a secret as sensitive.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Limits the reply's body, 64 KiB by default.
    #[must_use]
    pub fn max_reply_bytes(mut self, limit: usize) -> Self {
        self.max_reply_bytes = limit;
        self
    }

    /// Has a redirect come back as a reply, for whoever wants to say where it leads. It is followed no more than otherwise.
    #[must_use]
    pub fn take_redirects(mut self) -> Self {
        self.takes_redirects = true;
        self
    }
}

/// A complete reply. Redirects get here only where the request takes them; every other status does.
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, whole, wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The media type in lower case without its parameters, `""` when there is none.
    #[must_use]
    pub fn media_type(&self) -> String {
        media_type(&self.headers)
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// An HTTP client with the rules of this module.
#[derive(Debug, Clone)]
pub struct Client {
    allow_insecure_loopback: bool,
    direct: reqwest::Client,
    guard: Arc<Guard>,
    proxied: Option<(reqwest::Client, Arc<Route>)>,
    timeout: Duration,
}

impl Client {
    /// Builds the client; nothing is connected yet.
    ///
    /// # Errors
    /// [`BuildError`] for an unreadable CA file or an unusable proxy.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let certificates = match &config.ca_file {
            None => Vec::new(),
            Some(path) => load_certificates(path)?,
        };
        let builder = |guard: &Arc<Guard>| {
            reqwest::Client::builder()
                .user_agent(concat!("scm-agent/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.connect_timeout)
                .timeout(config.timeout)
                // A stream of events may be silent for minutes: a peer that is gone is noticed all the same.
                .tcp_keepalive(KEEPALIVE)
                .tcp_keepalive_interval(KEEPALIVE)
                .tcp_user_timeout(UNACKNOWLEDGED)
                .redirect(redirect::Policy::none())
                // What may be sent twice is decided by the stage that sends it, never below.
                .retry(retry::never())
                .referer(false)
                .tls_version_min(tls::Version::TLS_1_2)
                .tls_certs_merge(certificates.clone())
                // The buffers of a connection that waits for its next request still hold the last one's headers, and with them a
                // bearer token or a client secret.
                .pool_max_idle_per_host(0)
                .no_proxy()
                .dns_resolver(GuardedResolver { guard: Arc::clone(guard), lookup: Arc::clone(&config.lookup) })
        };
        let guard = Arc::new(Guard {
            loopback: config.allow_insecure_loopback,
            named: config.named_hosts.iter().map(|host| host_key(host).to_owned()).collect(),
            trusted: config.trusted_urls,
        });
        let direct = builder(&guard).build().map_err(|_| BuildError::Tls)?;
        let route = Route::new(config.proxy.as_ref(), config.no_proxy.as_deref(), |name| std::env::var(name).ok())?;
        let proxied = match route {
            // A client of its own reads the system's certificates again, so there is one only where there is a proxy.
            None => None,
            Some(route) => {
                let proxy = Proxy::all(route.url.clone()).map_err(|_| BuildError::Proxy)?;
                // It resolves the proxy's name only, which may be anywhere.
                let anywhere = Arc::new(Guard { trusted: true, ..Guard::default() });
                let client = builder(&anywhere).proxy(proxy).build().map_err(|_| BuildError::Tls)?;
                Some((client, Arc::new(route)))
            }
        };
        Ok(Self { allow_insecure_loopback: config.allow_insecure_loopback, direct, guard, proxied, timeout: config.timeout })
    }

    /// The proxy that a URL is asked through, as host and port; `None` when it is asked directly.
    #[must_use]
    pub fn proxy_for(&self, url: &Url) -> Option<&str> {
        self.route(url).1
    }

    /// The proxy that is there for what is not excepted from it, as host and port.
    #[must_use]
    pub fn proxy(&self) -> Option<&str> {
        self.proxied.as_ref().map(|(_, route)| &*route.name)
    }

    fn route(&self, url: &Url) -> (&reqwest::Client, Option<&str>) {
        match &self.proxied {
            Some((client, route)) if route.takes(url) => (client, Some(&route.name)),
            _ => (&self.direct, None),
        }
    }

    /// Sends a request and reads the whole reply.
    ///
    /// # Errors
    /// [`Error`]; an HTTP error status is a reply, not an error.
    pub async fn send(&self, request: Request) -> Result<Reply, Error> {
        let Request { url, method, headers, body, max_reply_bytes, takes_redirects } = request;
        let host = host_and_port(&url);
        self.check(&url)?;
        let (client, proxy) = self.route(&url);
        let asked = Asked { host, proxy: proxy.map(str::to_owned) };
        let sent = client
            .request(method, url)
            .headers(headers)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .body(body)
            .send()
            .await;
        let mut response = sent.map_err(|error| asked.error(&error))?;
        let status = response.status();
        if status.is_redirection() && !takes_redirects {
            return Err(Error::Redirect { host: asked.host, status: status.as_u16() });
        }
        let headers = std::mem::take(response.headers_mut());
        let body = stream::whole_body(&headers, &mut response, &asked, max_reply_bytes).await?;
        Ok(Reply { status: status.as_u16(), headers, body })
    }

    /// Checks a URL as [`Client::send`] does before it connects.
    ///
    /// # Errors
    /// [`Error::Insecure`], [`Error::ForbiddenAddress`] or [`Error::PrivateAddress`].
    pub fn check(&self, url: &Url) -> Result<(), Error> {
        let secure = url.scheme() == "https" || url.scheme() == "http" && self.allow_insecure_loopback && is_loopback_name(url);
        if !secure {
            return Err(Error::Insecure { host: host_and_port(url) });
        }
        // hyper connects to literals without asking the resolver, so they are checked here.
        match literal(url) {
            Some(address) => {
                let host = url.host_str().unwrap_or_default();
                self.guard.check(host, address).map_err(|reach| refused_address(reach, host_and_port(url)))
            }
            None => Ok(()),
        }
    }
}

/// Who is asked, for messages.
struct Asked {
    /// Host and port.
    host: String,
    /// Host and port of the proxy in between.
    proxy: Option<String>,
}

impl Asked {
    fn error(&self, error: &reqwest::Error) -> Error {
        classify(error, &self.host, self.proxy.as_deref())
    }

    fn late(&self) -> Error {
        Error::Timeout { host: self.host.clone() }
    }

    fn too_large(&self, limit: usize) -> Error {
        Error::TooLarge { host: self.host.clone(), limit }
    }
}

/// The host of a URL with its port where one is written, for messages.
#[must_use]
pub fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("(no host)");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the URL names this machine in one of the three spellings that `allow_insecure_loopback` is about.
#[must_use]
pub fn is_loopback_name(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address == Ipv4Addr::LOCALHOST,
        Some(Host::Ipv6(address)) => address == Ipv6Addr::LOCALHOST,
        None => false,
    }
}

fn load_certificates(path: &Path) -> Result<Vec<Certificate>, BuildError> {
    let pem = std::fs::read(path).map_err(|source| BuildError::CaFileUnreadable { path: path.to_owned(), source })?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(BuildError::CaFileInvalid { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted_urls: bool, allow_insecure_loopback: bool) -> Client {
        Client::new(&Config { allow_insecure_loopback, trusted_urls, ..Config::default() }).unwrap()
    }

    #[test]
    fn http_stands_only_on_loopback_and_only_when_allowed() {
        let strict = client(true, false);
        let loose = client(true, true);
        for url in ["http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/"] {
            let url = Url::parse(url).unwrap();
            assert!(strict.check(&url).is_err(), "{url}");
            assert!(loose.check(&url).is_ok(), "{url}");
        }
        for url in [
            "http://127.0.0.2/",
            "http://localhost.evil.example/",
            "http://example.com/",
            "ftp://127.0.0.1/",
            "http://localhost@evil.example/",
        ] {
            assert!(loose.check(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_not_asked() {
        let Err(error) = client(false, false).send(Request::get(Url::parse("https://localhost:9/").unwrap())).await else {
            panic!("localhost was asked");
        };
        assert_eq!(error, Error::ForbiddenAddress { host: "localhost:9".into() });
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_host_and_nothing_else() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = Url::parse(&format!("http://127.0.0.1:{port}/path?query=canary")).unwrap();
        let Err(error) = client(false, true).send(Request::get(url)).await else { panic!("something answered") };
        assert_eq!(error, Error::Connect { host: format!("127.0.0.1:{port}"), reason: "connection refused" });
    }
}
