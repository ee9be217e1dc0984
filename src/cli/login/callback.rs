//! The end of a login in a browser: a listener on loopback that takes one redirect (RFC 8252, section 7.3), on a port of the system's
//! choice or at the URI that an app has registered.
//!
//! Every process of the machine and every page in the browser can reach it. It therefore takes a request only as the host's own
//! redirect looks: the right method, `Host`, path and `state`. Anything else is turned away and waited past.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use url::Url;

/// A listener that waits for the browser. Dropping it closes the port.
pub(super) struct Callback {
    listener: TcpListener,
    /// The other one of a name that stands for two addresses.
    second: Option<TcpListener>,
    /// What the host is told to send the browser back to.
    uri: Url,
    /// Whether the redirect has come; a second one is turned away.
    taken: Cell<bool>,
}

impl Callback {
    /// Opens a port of the system's choice on `127.0.0.1`. The path is the one under which other tools for git are registered.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let uri = Url::parse(&format!("http://{}/", listener.local_addr()?)).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        Ok(Self { listener, second: None, uri, taken: Cell::new(false) })
    }

    /// Opens the port of a redirect URI, on the address that it names.
    ///
    /// # Errors
    /// What the system says; [`ErrorKind::InvalidInput`] where the URI is not `http` on this machine's loopback with a port.
    pub(super) async fn open_at(uri: Url) -> io::Result<Self> {
        let port = uri.port().filter(|_| uri.scheme() == "http" && uri.query().is_none()).ok_or(ErrorKind::InvalidInput)?;
        let (first, second) = match uri.host() {
            Some(url::Host::Ipv4(address)) if address.is_loopback() => (SocketAddr::from((address, port)), None),
            Some(url::Host::Ipv6(address)) if address.is_loopback() => (SocketAddr::from((address, port)), None),
            // A browser may try either, and where we are not somebody else may be.
            Some(url::Host::Domain("localhost")) => {
                (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Some(SocketAddr::from((Ipv6Addr::LOCALHOST, port))))
            }
            _ => return Err(ErrorKind::InvalidInput.into()),
        };
        let listener = TcpListener::bind(first).await?;
        let second = match second {
            None => None,
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => Some(listener),
                Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
                // There is no IPv6 here, then.
                Err(_) => None,
            },
        };
        Ok(Self { listener, second, uri, taken: Cell::new(false) })
    }

    /// What the host is told to send the browser back to.
    pub(super) fn redirect_uri(&self) -> &str {
        self.uri.as_str()
    }

    /// The next connection, at whichever address.
    async fn accept(&self) -> io::Result<TcpStream> {
        let second = async {
            match &self.second {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.listener.accept() => accepted,
            accepted = second => accepted,
        }
        .map(|(stream, _)| stream)
    }

    /// Waits for the host's redirect and returns its query as it came: printable ASCII. `state` is what it has to carry.
    pub(super) async fn receive(&self, state: Option<&str>) -> String {
        // Browsers open connections that they may never use, so none may keep the others waiting.
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok(stream) => open.push(self.serve(stream, state)),
                    // Out of descriptors, or the peer is gone again.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(served) = open.next(), if !open.is_empty() => {
                    if let Some(query) = served {
                        return query;
                    }
                }
            }
        }
    }

    /// Answers one connection's one request; the query if it was the redirect.
    async fn serve(&self, mut stream: TcpStream, state: Option<&str>) -> Option<String> {
        let mut head = Vec::with_capacity(1_024);
        let verdict = match timeout(READ_TIMEOUT, self.read(&mut stream, &mut head, state)).await {
            Ok(verdict) => verdict?.and_then(|query| match self.taken.replace(true) {
                false => Ok(query),
                true => Err(Refusal { status: "410 Gone", headers: "" }),
            }),
            Err(_) => Err(Refusal { status: "408 Request Timeout", headers: "" }),
        };
        let (status, headers, body) = match &verdict {
            Ok(_) => ("200 OK", "", TAKEN),
            Err(refusal) => (refusal.status, refusal.headers, REFUSED),
        };
        let answer = format!("HTTP/1.1 {status}\r\n{headers}{HEADERS}Content-Length: {}\r\n\r\n{body}", body.len());
        let tell = async {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            // Closing with unread bytes would reset the connection under the answer.
            let mut rest = [0; 1_024];
            while stream.read(&mut rest).await.is_ok_and(|length| length > 0) {}
        };
        let _ = timeout(LINGER, tell).await;
        verdict.ok()
    }

    /// Reads a request up to its blank line and judges it; `None` when the peer says nothing more.
    async fn read(&self, stream: &mut TcpStream, head: &mut Vec<u8>, state: Option<&str>) -> Option<Result<String, Refusal>> {
        let mut chunk = [0; 1_024];
        loop {
            match stream.read(&mut chunk).await {
                Ok(length) if length > 0 => head.extend_from_slice(&chunk[..length]),
                _ => return None,
            }
            if let Some(verdict) = judge(head, &self.uri, state) {
                return Some(verdict);
            }
            if head.len() > MAX_HEAD_BYTES {
                return Some(Err(Refusal { status: "431 Request Header Fields Too Large", headers: "" }));
            }
        }
    }
}

/// How a request is turned away.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: &'static str,
    headers: &'static str,
}

/// Whether the start of a request is the redirect; `None` while more of it is to come.
fn judge(head: &[u8], uri: &Url, state: Option<&str>) -> Option<Result<String, Refusal>> {
    let bad = || Some(Err(Refusal { status: "400 Bad Request", headers: "" }));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return bad(),
    }
    // A page whose name was made to resolve to this machine says another host (DNS rebinding).
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let expected = crate::http::host_and_port(uri);
    if hosts.next().is_none_or(|host| host.value != expected.as_bytes()) || hosts.next().is_some() {
        return bad();
    }
    let (path, query) = request.path.and_then(|target| target.split_once('?')).or(request.path.map(|path| (path, "")))?;
    if path != uri.path() {
        return Some(Err(Refusal { status: "404 Not Found", headers: "" }));
    }
    if request.method != Some("GET") {
        return Some(Err(Refusal { status: "405 Method Not Allowed", headers: "Allow: GET\r\n" }));
    }
    if !query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return bad();
    }
    let values = |wanted: &'static str| url::form_urlencoded::parse(query.as_bytes()).filter(move |(name, _)| name == wanted);
    // RFC 6749, sections 4.1.2 and 4.1.2.1.
    if values("code").chain(values("error")).count() != 1 {
        return bad();
    }
    if let Some(state) = state
        && !values("state").map(|(_, value)| value).eq([state])
    {
        return bad();
    }
    Some(Ok(query.to_owned()))
}

/// The `state` that an authorization URL asks for; the redirect has to bring it back.
pub(super) fn state_of(authorize_url: &url::Url) -> Option<String> {
    authorize_url.query_pairs().find(|(name, _)| name == "state").map(|(_, value)| value.into_owned())
}

/// Longest request up to its blank line, in bytes: codes are long at some hosts.
const MAX_HEAD_BYTES: usize = 32 * 1_024;

/// How many header fields a request may have; browsers send about 15.
const MAX_HEADERS: usize = 64;

/// Connections served at a time.
const MAX_CONNECTIONS: usize = 32;

/// How long a request may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the answer may take to be read.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait after a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// No copy of the code stays in the browser's cache or goes on to another page, and the page can do nothing.
const HEADERS: &str = "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n\
    Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n";

const TAKEN: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>scm-agent</title></head>\n\
    <body><p>The answer has arrived. The terminal says whether you are signed in; this page can be closed.</p></body></html>\n";

const REFUSED: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>scm-agent</title></head>\n\
    <body><p>This is not what the login in the terminal waits for.</p></body></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn uri() -> Url {
        Url::parse("http://127.0.0.1:4711/").unwrap()
    }

    fn request(line: &str, host: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n")
    }

    fn judged(head: &str) -> Result<String, &'static str> {
        judge(head.as_bytes(), &uri(), Some("st ate")).unwrap().map_err(|refusal| refusal.status)
    }

    #[test]
    fn the_redirect_is_taken_as_it_came() {
        for query in
            ["code=a%2Fb&state=st%20ate", "state=st+ate&code=x&iss=https%3A%2F%2Fscm.example", "error=access_denied&state=st%20ate"]
        {
            assert_eq!(judged(&request(&format!("GET /?{query}"), "127.0.0.1:4711")), Ok(query.to_owned()));
        }
        let head = request("GET /?code=x", "127.0.0.1:4711");
        assert_eq!(judge(head.as_bytes(), &uri(), None), Some(Ok("code=x".to_owned())));
    }

    #[test]
    fn anything_else_is_turned_away() {
        let good = "/?code=x&state=st%20ate";
        let ours = "127.0.0.1:4711";
        for (line, host, status) in [
            (format!("POST {good}"), ours, "405 Method Not Allowed"),
            (format!("HEAD {good}"), ours, "405 Method Not Allowed"),
            ("GET /favicon.ico".to_owned(), ours, "404 Not Found"),
            ("GET /other?code=x&state=st%20ate".to_owned(), ours, "404 Not Found"),
            (format!("GET http://127.0.0.1:4711{good}"), ours, "404 Not Found"),
            (format!("GET {good}"), "evil.example:4711", "400 Bad Request"),
            (format!("GET {good}"), "127.0.0.1", "400 Bad Request"),
            (format!("GET {good}"), "localhost:4711", "400 Bad Request"),
            ("GET /".to_owned(), ours, "400 Bad Request"),
            ("GET /?state=st%20ate".to_owned(), ours, "400 Bad Request"),
            ("GET /?code=x".to_owned(), ours, "400 Bad Request"),
            ("GET /?code=x&state=another".to_owned(), ours, "400 Bad Request"),
            ("GET /?code=x&state=st%20ate&state=st%20ate".to_owned(), ours, "400 Bad Request"),
            ("GET /?code=x&code=y&state=st%20ate".to_owned(), ours, "400 Bad Request"),
            ("GET /?code=x&error=y&state=st%20ate".to_owned(), ours, "400 Bad Request"),
            ("GET /?code=\u{e9}&state=st%20ate".to_owned(), ours, "400 Bad Request"),
            ("\u{1}".to_owned(), ours, "400 Bad Request"),
        ] {
            assert_eq!(judged(&request(&line, host)), Err(status), "{line}");
        }
        assert_eq!(judged(&format!("GET {good} HTTP/1.1\r\n\r\n")), Err("400 Bad Request"));
        assert_eq!(judged(&format!("GET {good} HTTP/1.1\r\nHost: {ours}\r\nHost: {ours}\r\n\r\n")), Err("400 Bad Request"));
    }

    #[tokio::test]
    async fn only_the_first_redirect_is_taken() {
        let callback = Callback::open().await.unwrap();
        let host = crate::http::host_and_port(&callback.uri);
        let visits = async {
            let mut first = TcpStream::connect(&host).await.unwrap();
            let mut second = TcpStream::connect(&host).await.unwrap();
            first.write_all(request("GET /?code=first", &host).as_bytes()).await.unwrap();
            let mut start = [0; 12];
            first.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
            // The listener may be gone by now.
            let _ = second.write_all(request("GET /?code=second", &host).as_bytes()).await;
            let mut answer = Vec::new();
            let _ = second.read_to_end(&mut answer).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 410"), "{}", String::from_utf8_lossy(&answer));
        };
        let received = async {
            let query = callback.receive(None).await;
            drop(callback);
            query
        };
        assert_eq!(tokio::join!(received, visits).0, "code=first");
    }

    #[test]
    fn a_registered_uri_has_a_host_and_a_path_of_its_own() {
        let uri = Url::parse("http://localhost:4711/sign-in/a%20b").unwrap();
        for (target, host, status) in [
            ("/sign-in/a%20b?code=x", "localhost:4711", Ok(())),
            ("/sign-in/a%20b?code=x", "127.0.0.1:4711", Err("400 Bad Request")),
            ("/?code=x", "localhost:4711", Err("404 Not Found")),
            ("/sign-in/a%20b/?code=x", "localhost:4711", Err("404 Not Found")),
        ] {
            let verdict = judge(request(&format!("GET {target}"), host).as_bytes(), &uri, None).unwrap();
            assert_eq!(verdict.map(|_| ()).map_err(|refusal| refusal.status), status, "{target}");
        }
    }

    #[tokio::test]
    async fn only_loopback_is_listened_on_and_localhost_at_each_address() {
        for uri in ["https://127.0.0.1:4711/", "http://127.0.0.1/", "http://0.0.0.0:4711/", "http://scm.example:4711/", "http://[::]:4711/"]
        {
            let refused = Callback::open_at(Url::parse(uri).unwrap()).await.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{uri}");
        }
        let (port, callback) = loop {
            // Free at one address need not mean free at the other.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Ok(callback) = Callback::open_at(Url::parse(&format!("http://localhost:{port}/")).unwrap()).await {
                break (port, callback);
            }
        };
        let taken = Callback::open_at(Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap()).await.err().unwrap();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        let address = if callback.second.is_some() { format!("[::1]:{port}") } else { format!("127.0.0.1:{port}") };
        let visit = async {
            let mut browser = TcpStream::connect(&address).await.unwrap();
            browser.write_all(request("GET /?code=x", &format!("localhost:{port}")).as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            browser.read_to_end(&mut answer).await.unwrap();
        };
        assert_eq!(tokio::join!(callback.receive(None), visit).0, "code=x");
    }

    #[test]
    fn half_a_request_is_waited_for() {
        let head = request("GET /?code=x&state=st%20ate", "127.0.0.1:4711");
        for end in 0..head.len() {
            assert_eq!(judge(&head.as_bytes()[..end], &uri(), Some("st ate")), None, "{end}");
        }
    }
}
