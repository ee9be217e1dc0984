//! Replies that have no end: the request is sent as any other, the reply is handed out as it comes.
//!
//! Servers of event streams often hold back even the reply's head until they have something to say, so a stream counts as open
//! once the request is on its way; what was answered, if anything, is asked for afterwards.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use reqwest::{Body, Response};
use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Asked, Client, Error, Reply, Request, host_and_port, media_type};

/// The head of a reply whose body is still to come.
#[derive(Debug)]
pub struct Head {
    /// The status code. Redirects get here only where the request takes them; every other status does.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
}

impl Head {
    /// The media type in lower case without its parameters, `""` when there is none.
    #[must_use]
    pub fn media_type(&self) -> String {
        media_type(&self.headers)
    }
}

/// A reply that is read as it comes. Dropping it closes the connection.
pub struct Stream {
    asked: Asked,
    max_reply_bytes: usize,
    reply: Incoming,
    takes_redirects: bool,
    timeout: Duration,
}

enum Incoming {
    /// Nothing was answered so far.
    Awaited(BoxFuture<'static, reqwest::Result<Response>>),
    /// The head is here.
    Begun(Head, Response),
    /// There will be none.
    Failed(Error),
}

impl Client {
    /// Sends a request and returns as soon as it is on its way, at the latest after the configured timeout. The reply may take
    /// as long as it likes. The checks are those of [`Client::send`].
    ///
    /// # Errors
    /// [`Error`]; an HTTP error status is part of the stream.
    pub async fn open(&self, request: Request) -> Result<Stream, Error> {
        let Request { url, method, headers, body, max_reply_bytes, takes_redirects } = request;
        let host = host_and_port(&url);
        self.check(&url)?;
        let (client, proxy) = self.route(&url);
        let asked = Asked { host, proxy: proxy.map(str::to_owned) };
        let (tell, taken) = oneshot::channel();
        let mut sending: BoxFuture<'static, _> = Box::pin(
            client
                .request(method, url)
                .headers(headers)
                .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
                // Instead of the client's limit, which is one on the whole reply.
                .timeout(Duration::MAX)
                .body(Body::wrap(Announced { body: body.into(), tell: Some(tell) }))
                .send(),
        );
        let begun = async {
            tokio::select! {
                biased;
                sent = &mut sending => sent.map(Some),
                // An error means that the body was dropped unread, and then there is a reply.
                Ok(()) = taken => Ok(None),
            }
        };
        let begun = timeout(self.timeout, begun).await.map_err(|_| asked.late())?;
        let reply = match begun.map_err(|error| asked.error(&error))? {
            Some(response) => Incoming::begun(response, &asked.host, takes_redirects)?,
            None => Incoming::Awaited(sending),
        };
        Ok(Stream { asked, max_reply_bytes, reply, takes_redirects, timeout: self.timeout })
    }
}

impl Incoming {
    fn begun(mut response: Response, host: &str, takes_redirects: bool) -> Result<Self, Error> {
        let status = response.status();
        if status.is_redirection() && !takes_redirects {
            return Err(Error::Redirect { host: host.to_owned(), status: status.as_u16() });
        }
        let headers = std::mem::take(response.headers_mut());
        Ok(Self::Begun(Head { status: status.as_u16(), headers }, response))
    }

    /// Waits so long for the head.
    async fn wait(&mut self, asked: &Asked, takes_redirects: bool, limit: Duration) -> Result<(&mut Head, &mut Response), Error> {
        if let Self::Awaited(sending) = self {
            let sent = timeout(limit, sending).await.map_err(|_| asked.late())?;
            let begun = sent.map_err(|error| asked.error(&error)).and_then(|response| Self::begun(response, &asked.host, takes_redirects));
            *self = begun.unwrap_or_else(Self::Failed);
        }
        match self {
            Self::Awaited(_) => Err(asked.late()),
            Self::Begun(head, response) => Ok((head, response)),
            Self::Failed(error) => Err(error.clone()),
        }
    }
}

impl Stream {
    /// Waits so long for the reply's head. Can be dropped at any time and called again.
    ///
    /// # Errors
    /// [`Error`], [`Error::Timeout`] when the limit passed.
    pub async fn head(&mut self, limit: Duration) -> Result<&Head, Error> {
        let (head, _) = self.reply.wait(&self.asked, self.takes_redirects, limit).await?;
        Ok(head)
    }

    /// Waits so long for the next piece of the body; `None` at its end. Can be dropped at any time and called again: nothing
    /// is lost.
    ///
    /// # Errors
    /// [`Error`], [`Error::Timeout`] when the limit passed.
    pub async fn next_chunk(&mut self, limit: Duration) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Self { asked, reply, takes_redirects, .. } = self;
        let next = async {
            let (_, response) = reply.wait(asked, *takes_redirects, limit).await?;
            response.chunk().await.map_err(|error| asked.error(&error))
        };
        let chunk = timeout(limit, next).await.map_err(|_| asked.late())??;
        Ok(chunk.map(|chunk| Zeroizing::new(chunk.to_vec())))
    }

    /// Reads the rest as the reply to an ordinary request, within its limits of size and time.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn into_reply(self) -> Result<Reply, Error> {
        let Self { asked, max_reply_bytes, mut reply, takes_redirects, timeout: limit } = self;
        let whole = async {
            let (head, response) = reply.wait(&asked, takes_redirects, limit).await?;
            let body = whole_body(&head.headers, response, &asked, max_reply_bytes).await?;
            Ok(Reply { status: head.status, headers: std::mem::take(&mut head.headers), body })
        };
        timeout(limit, whole).await.map_err(|_| asked.late())?
    }
}

/// Reads a body to its end, unless it is or says to be longer than the limit.
pub(super) async fn whole_body(
    headers: &HeaderMap,
    response: &mut Response,
    asked: &Asked,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(asked.too_large(limit));
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(4096)));
    while let Some(chunk) = response.chunk().await.map_err(|error| asked.error(&error))? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(asked.too_large(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A request's body that tells when it is asked for: then there is a connection, and the head is on its way.
struct Announced {
    body: Body,
    tell: Option<oneshot::Sender<()>>,
}

impl HttpBody for Announced {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(tell) = self.tell.take() {
            // Whoever no longer listens has a reply already.
            let _ = tell.send(());
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[tokio::test]
    async fn a_stream_is_opened_only_where_a_request_may_go() {
        let client = Client::new(&Config::default()).unwrap();
        let error = async |url: &str| client.open(Request::get(url.parse().unwrap())).await.err();
        assert_eq!(error("http://example.com/").await, Some(Error::Insecure { host: "example.com".into() }));
        for host in ["127.0.0.1:9", "169.254.169.254", "localhost:9"] {
            assert_eq!(error(&format!("https://{host}/")).await, Some(Error::ForbiddenAddress { host: host.into() }));
        }
    }

    #[tokio::test]
    async fn what_failed_stays_failed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = Client::new(&Config { allow_insecure_loopback: true, ..Config::default() }).unwrap();
        let request = Request::post(format!("http://{address}/").parse().unwrap(), "text/plain", b"canary".to_vec());
        let (stream, accepted) = tokio::join!(client.open(request), listener.accept());
        let (mut stream, limit) = (stream.unwrap(), Duration::from_secs(60));
        drop(accepted);
        for _ in 0..3 {
            assert!(matches!(stream.next_chunk(limit).await, Err(Error::Interrupted { .. })));
            assert!(matches!(stream.head(limit).await, Err(Error::Interrupted { .. })));
        }
    }
}
