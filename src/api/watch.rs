//! The client of `gitpod.v1.EventService/WatchEvents`, a Connect server stream with JSON messages: a hint that something changed.
//!
//! The reference promises these events for other resources than ours, so no event says what there is now; it only says that a
//! fetch may be worth it. What cannot be read counts as such a hint too, as long as its envelope is sound.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tokio::time::{Instant, timeout, timeout_at};

use super::budget::Budget;
use super::connect::{Code, Refusal};
use super::control_plane::{CONNECT_PROTOCOL_VERSION, ControlPlane, JSON, authorization, check_form};
use super::envelope::{self, Decoder, Envelope};
use super::message::MessageError;
use super::{Error, proto_json};
use crate::http::{self, Request};
use crate::integration::source::{ChangeFeed, ChangeStream, FeedError};
use crate::integration::sync::{Jitter, RandomJitter};
use crate::secret::BearerToken;

const SERVICE: &str = "gitpod.v1.EventService";
const METHOD: &str = "WatchEvents";
const CONNECT_JSON: &str = "application/connect+json";
const RESOURCE_TYPE: &str = "RESOURCE_TYPE_RUNNER_SCM_INTEGRATION";
const SUBSCRIPTION: &[u8] = br#"{"organization":true,"resourceTypeFilters":[{"resourceType":"RESOURCE_TYPE_RUNNER_SCM_INTEGRATION"}]}"#;
/// How long a stream may go without a complete envelope, give or take a tenth. Servers need not send heartbeats, so silence
/// proves nothing; but a stream that a middlebox has forgotten looks the same, and is not noticed in any other way.
const IDLE_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long a refusal may take once the request is on its way. A server that has nothing to say may hold its reply's head back
/// until the first event, so whoever is silent for longer is watched.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// An open `WatchEvents` stream.
pub struct EventStream {
    budget: Budget,
    deadline: Instant,
    decoder: Decoder,
    hinted: bool,
    host: String,
    idle_limit: Duration,
    reply: Reply,
    /// What was sent, so that no error shows it.
    token: Arc<BearerToken>,
}

enum Reply {
    /// A stream; its headers may say when to come back.
    Accepted(HeaderMap, http::Stream),
    /// Nothing came so far.
    Awaited(http::Stream),
    /// There is no more.
    Over,
}

impl ControlPlane {
    /// Subscribes to the events of SCM integrations. A refused token that changed in the meantime is tried once more. A stream
    /// without a complete envelope for as long as the limit says is ended.
    ///
    /// # Errors
    /// [`Error`]; old servers and narrow tokens lead to [`Code::Unimplemented`] and [`Code::PermissionDenied`], here or later.
    pub async fn watch_events(&self, idle_limit: Duration) -> Result<EventStream, Error> {
        let token = Arc::new(self.token()?);
        let error = match self.subscribe(&token, idle_limit).await {
            Err(error) if error.code() == Some(Code::Unauthenticated) => error,
            result => return result,
        };
        match self.newer_token(&token)? {
            Some(token) => self.subscribe(&Arc::new(token), idle_limit).await,
            None => Err(error),
        }
    }

    async fn subscribe(&self, token: &Arc<BearerToken>, idle_limit: Duration) -> Result<EventStream, Error> {
        let host = self.host().to_owned();
        let body = envelope::encode(SUBSCRIPTION).map_err(|source| Error::Stream { host: host.clone(), source })?;
        let request = Request::post(self.method_url(SERVICE, METHOD), CONNECT_JSON, body)
            .header(CONNECT_PROTOCOL_VERSION, HeaderValue::from_static("1"))
            .header(AUTHORIZATION, authorization(token));
        let mut reply = self.client().open(request).await?;
        let opened = Instant::now();
        let refusal_limit = REFUSAL_LIMIT.min(idle_limit);
        let begun = timeout(refusal_limit, reply.head(idle_limit)).await.map(|head| head.map(drop));
        let mut stream = EventStream {
            budget: Budget::default(),
            deadline: opened + idle_limit,
            decoder: Decoder::default(),
            hinted: false,
            host,
            idle_limit,
            reply: Reply::Awaited(reply),
            token: Arc::clone(token),
        };
        if let Ok(begun) = begun {
            begun?;
            stream.accept(idle_limit).await?;
            // A refusal may as well be the end of a stream that has just begun.
            if let Ok(first) = timeout_at(opened + refusal_limit, stream.until_hint()).await {
                first?;
                stream.hinted = true;
            }
        }
        Ok(stream)
    }
}

impl EventStream {
    /// Waits until an event says that something may have changed. Must not be called again after an error.
    ///
    /// # Errors
    /// [`Error`]; [`Error::StreamEnded`] when the server had no more to say.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let result = if std::mem::take(&mut self.hinted) { Ok(()) } else { self.until_hint().await };
        if result.is_err() {
            // The connection is of no more use.
            self.reply = Reply::Over;
        }
        result
    }

    async fn until_hint(&mut self) -> Result<(), Error> {
        loop {
            self.budget.pause().await;
            let envelope = self.decoder.next().map_err(|source| Error::Stream { host: self.host.clone(), source })?;
            match envelope {
                None => self.read().await?,
                Some(Envelope::Message(message)) => {
                    self.budget.spend_envelope();
                    self.deadline = Instant::now() + self.idle_limit;
                    if is_hint(&message) {
                        return Ok(());
                    }
                }
                Some(Envelope::End(payload)) => return Err(self.end(&payload)),
            }
        }
    }

    /// Reads the next piece of the stream.
    async fn read(&mut self) -> Result<(), Error> {
        let limit = self.deadline.saturating_duration_since(Instant::now());
        if let Reply::Awaited(_) = self.reply {
            self.accept(limit).await?;
        }
        let Reply::Accepted(_, stream) = &mut self.reply else { return Err(Error::StreamEnded { host: self.host.clone() }) };
        match stream.next_chunk(limit).await? {
            Some(chunk) => {
                self.budget.spend_read(chunk.len());
                self.decoder.feed(&chunk);
                Ok(())
            }
            None if self.decoder.is_amid() => Err(http::Error::Interrupted { host: self.host.clone() }.into()),
            None => Err(Error::StreamEnded { host: self.host.clone() }),
        }
    }

    /// Waits for the reply's head; anything but a stream is an error.
    async fn accept(&mut self, limit: Duration) -> Result<(), Error> {
        let Reply::Awaited(stream) = &mut self.reply else { return Ok(()) };
        let head = stream.head(limit).await?;
        let (status, media_type, headers) = (head.status, head.media_type(), head.headers.clone());
        // A refusal may come as that of an ordinary call.
        check_form(&self.host, status, &headers, &media_type, if status == 200 { CONNECT_JSON } else { JSON })?;
        let Reply::Awaited(stream) = std::mem::replace(&mut self.reply, Reply::Over) else { return Ok(()) };
        if status != 200 {
            let reply = stream.into_reply().await?;
            return Err(Error::Refused(Refusal::read(self.host.clone(), &reply, &self.token, SystemTime::now())));
        }
        self.reply = Reply::Accepted(headers, stream);
        Ok(())
    }

    /// What the last envelope says.
    fn end(&self, payload: &[u8]) -> Error {
        let unreadable = |source| Error::Reply { host: self.host.clone(), source };
        let Ok(text) = std::str::from_utf8(payload) else { return unreadable(MessageError::NotText) };
        match proto_json::object(text, [("error", "error")]) {
            Err(error) => unreadable(error.into()),
            Ok([None]) => Error::StreamEnded { host: self.host.clone() },
            Ok([Some(error)]) => {
                let headers = match &self.reply {
                    Reply::Accepted(headers, _) => headers.clone(),
                    Reply::Awaited(_) | Reply::Over => HeaderMap::new(),
                };
                Error::Refused(Refusal::read_parts(self.host.clone(), 200, &headers, error.get(), &self.token, SystemTime::now()))
            }
        }
    }
}

/// Whether an event is about an integration. One without a resource type is about none: servers may send such as heartbeats.
fn is_hint(message: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(message) else { return true };
    match proto_json::object(text, [("resourceType", "resource_type")]) {
        Err(_) => true,
        Ok([None]) => false,
        Ok([Some(name)]) => proto_json::string(name).is_none_or(|name| name == RESOURCE_TYPE),
    }
}

impl ChangeFeed for ControlPlane {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ChangeStream>, FeedError>> {
        Box::pin(async {
            let permille = RandomJitter.permille();
            // From 90 % to 110 %, or the streams of a whole fleet would end in step.
            let stream = self.watch_events(IDLE_LIMIT * (9_000 + 2 * permille) / 10_000).await.map_err(|error| FeedError::from(&error))?;
            Ok(Box::new(stream) as Box<dyn ChangeStream>)
        })
    }
}

impl ChangeStream for EventStream {
    fn next(&mut self) -> BoxFuture<'_, Result<(), FeedError>> {
        Box::pin(async { self.changed().await.map_err(|error| FeedError::from(&error)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_other_resources_and_heartbeats_are_no_hints() {
        for message in [
            r#"{"operation":"RESOURCE_OPERATION_UPDATE","resourceType":"RESOURCE_TYPE_RUNNER_SCM_INTEGRATION","resourceId":"x"}"#,
            r#"{"resource_type":"RESOURCE_TYPE_RUNNER_SCM_INTEGRATION","operation":"RESOURCE_OPERATION_NEW","more":[{}]}"#,
            r#"{"resourceType":"RESOURCE_TYPE_RUNNER_SCM_INTEGRATION"}"#,
            r#"{"resourceType":21}"#,
            r#"{"resourceType":"a","resourceType":"b"}"#,
            r#"{"resourceType":"RESOURCE_TYPE_RUN"#,
            "",
            "[]",
        ] {
            assert!(is_hint(message.as_bytes()), "{message}");
        }
        assert!(is_hint(b"\xff"));
        for message in
            ["{}", r#"{"resourceType":"RESOURCE_TYPE_ENVIRONMENT"}"#, r#"{"resourceType":"RESOURCE_TYPE_NEW"}"#, r#"{"resourceType":null}"#]
        {
            assert!(!is_hint(message.as_bytes()), "{message}");
        }
    }

    #[test]
    fn the_subscription_is_json_and_names_the_resource() {
        let subscription: serde_json::Value = serde_json::from_slice(SUBSCRIPTION).unwrap();
        assert_eq!(subscription["organization"], true);
        assert_eq!(subscription["resourceTypeFilters"][0]["resourceType"], RESOURCE_TYPE);
    }
}
