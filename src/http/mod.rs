//! The HTTP client under both network stages: no redirects, bounded replies, https only, checked addresses.
//!
//! Everything sent through here may carry a secret, so a redirect is an error (a 307 would send the body to wherever the reply
//! says), replies are never decompressed and are cut off at a limit, and errors name the host but never the URL or the body.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method, Proxy, redirect, retry, tls};
use url::{Host, Url};
use zeroize::Zeroizing;

mod address;
mod error;
mod stream;

use address::{GuardedResolver, is_forbidden};
pub use error::Error;
use error::classify;
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
    /// PEM file of further certificate authorities, added to the system's.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The proxy for all requests; `None` follows the usual environment variables.
    pub proxy: Option<Url>,
    /// How long a request may take from connecting to the last byte of the reply.
    pub timeout: Duration,
    /// Whether the operator wrote the URLs. URLs from anywhere else may not name this machine or a link-local address.
    pub trusted_urls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_insecure_loopback: false,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
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
    /// The TLS stack did not start.
    #[error("cannot set up TLS")]
    Tls,
}

/// A request to send.
pub struct Request {
    url: Url,
    method: Method,
    headers: HeaderMap,
    body: Vec<u8>,
    max_reply_bytes: usize,
}

impl Request {
    /// Starts a GET.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self { url, method: Method::GET, headers: HeaderMap::new(), body: Vec::new(), max_reply_bytes: 64 * 1024 }
    }

    /// Starts a POST of a body with its content type. The body is wiped with the request.
    #[must_use]
    pub fn post(url: Url, content_type: &'static str, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { url, method: Method::POST, headers, body, max_reply_bytes: 64 * 1024 }
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
}

/// A complete reply. Redirects never get here; every other status does.
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
    direct: reqwest::Client,
    proxied: reqwest::Client,
    allow_insecure_loopback: bool,
    timeout: Duration,
    trusted_urls: bool,
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
        let builder = |proxied: bool| {
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
                .dns_resolver(GuardedResolver { any_address: proxied || config.trusted_urls, loopback: config.allow_insecure_loopback })
        };
        let direct = builder(false).no_proxy().build().map_err(|_| BuildError::Tls)?;
        let proxied = match &config.proxy {
            // A client of its own reads the system's certificates again, so there is one only where there is a proxy.
            None if !has_environment_proxy() => direct.clone(),
            None => builder(true).build().map_err(|_| BuildError::Tls)?,
            Some(proxy) => {
                let proxy = Proxy::all(proxy.clone()).map_err(|_| BuildError::Proxy)?;
                builder(true).no_proxy().proxy(proxy).build().map_err(|_| BuildError::Tls)?
            }
        };
        let Config { allow_insecure_loopback, timeout, trusted_urls, .. } = *config;
        Ok(Self { direct, proxied, allow_insecure_loopback, timeout, trusted_urls })
    }

    /// Sends a request and reads the whole reply.
    ///
    /// # Errors
    /// [`Error`]; an HTTP error status is a reply, not an error.
    pub async fn send(&self, request: Request) -> Result<Reply, Error> {
        let Request { url, method, headers, body, max_reply_bytes } = request;
        let host = host_and_port(&url);
        self.check(&url)?;
        // A proxy is another machine: this one's loopback means nothing there.
        let client = if is_loopback_name(&url) { &self.direct } else { &self.proxied };
        let sent = client
            .request(method, url)
            .headers(headers)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .body(body)
            .send()
            .await;
        let mut response = sent.map_err(|error| classify(&error, &host))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(Error::Redirect { host, status: status.as_u16() });
        }
        let headers = std::mem::take(response.headers_mut());
        let body = stream::whole_body(&headers, &mut response, &host, max_reply_bytes).await?;
        Ok(Reply { status: status.as_u16(), headers, body })
    }

    /// Checks a URL as [`Client::send`] does before it connects.
    ///
    /// # Errors
    /// [`Error::Insecure`] or [`Error::ForbiddenAddress`].
    pub fn check(&self, url: &Url) -> Result<(), Error> {
        let secure = url.scheme() == "https" || url.scheme() == "http" && self.allow_insecure_loopback && is_loopback_name(url);
        if !secure {
            return Err(Error::Insecure { host: host_and_port(url) });
        }
        // hyper connects to literals without asking the resolver, so they are checked here.
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        match literal {
            Some(address) if !self.trusted_urls && is_forbidden(address, self.allow_insecure_loopback) => {
                Err(Error::ForbiddenAddress { host: host_and_port(url) })
            }
            _ => Ok(()),
        }
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

/// Whether the environment names a proxy, so that a name may resolve to wherever that proxy is.
fn has_environment_proxy() -> bool {
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
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

    #[test]
    fn no_spelling_of_this_machine_or_of_a_metadata_service_is_asked() {
        let guarded = client(false, false);
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.53",
            "127.255.255.254",
            "0.0.0.0",
            "0",
            "0.1.2.3",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "169.254.0.1",
            "0251.0376.0251.0376",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "100.100.100.200",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::127.0.0.1]",
            "[::a9fe:a9fe]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::]",
            "[fe80::1]",
            "[febf::1]",
            "[ff02::1]",
            "[fd00:ec2::254]",
            "１２７.0.0.1",
            "127。0。0。1",
        ] {
            let url = Url::parse(&format!("https://{host}/token")).unwrap();
            assert!(matches!(guarded.check(&url), Err(Error::ForbiddenAddress { .. })), "{host} passes as {url}");
        }
        for host in ["192.0.2.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "[2001:db8::1]", "[::ffff:10.0.0.1]", "example.com"] {
            assert!(guarded.check(&Url::parse(&format!("https://{host}/")).unwrap()).is_ok(), "{host}");
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
