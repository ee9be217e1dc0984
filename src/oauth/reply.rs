//! Reading a token reply (RFC 6749 section 5) from a server that may be broken or hostile.
//!
//! The body is read before the status is judged: GitHub refuses with 200. An `error` is a failure whatever else is there. Texts of
//! the reply are copied only into buffers that are wiped, and no error holds any of them but a well-formed error code.

use std::time::{Duration, SystemTime};

use super::wire::{Value, Wire, lifetime, longer_lifetime, scope_list};
use super::{Error, retry_after};
use crate::http;
use crate::secret::{AccessToken, RefreshToken};

/// What a token endpoint granted.
#[derive(Debug)]
pub struct TokenReply {
    /// The token: visible ASCII, any length that fits the reply.
    pub access_token: AccessToken,
    /// Its lifetime, 1 second to 30 days; `None` when the reply does not say.
    ///
    /// A longer one is cut to 30 days. A short one is kept as it is: stretching it would serve a dead token.
    pub expires_in: Option<Duration>,
    /// The scopes, however they were separated; `None` when the reply names none.
    pub scopes: Option<Vec<String>>,
}

impl TokenReply {
    /// Reads the reply of the token endpoint at `host`; `form_replies` lets a form-encoded one stand, as GitHub sends it.
    ///
    /// A missing `token_type` is taken as Bearer: the RFC demands it, some servers forget it, and the token goes to git as a
    /// password either way. One that says anything but Bearer is refused (section 7.1).
    ///
    /// # Errors
    /// [`Error::Refused`] for an OAuth error, [`Error::Status`] for an HTTP error without one, [`Error::ReplyUnreadable`] and
    /// [`Error::ReplyField`] for a reply that claims success and is none.
    pub fn parse(reply: &http::Reply, host: &str, form_replies: bool, now: SystemTime) -> Result<Self, Error> {
        granted(&read(reply, host, form_replies, now)?, host)
    }
}

/// What a token endpoint granted on a user's behalf.
pub(super) struct GrantReply {
    pub(super) refresh_expires_in: Option<Duration>,
    pub(super) refresh_token: Option<RefreshToken>,
    pub(super) token: TokenReply,
}

impl GrantReply {
    /// As [`TokenReply::parse`], with the refresh token.
    pub(super) fn parse(reply: &http::Reply, host: &str, form_replies: bool, now: SystemTime) -> Result<Self, Error> {
        let wire = read(reply, host, form_replies, now)?;
        let token = granted(&wire, host)?;
        let refresh_token = match &wire.refresh_token {
            Value::Absent => None,
            Value::Text(text) => Some(RefreshToken::parse(text.clone()).map_err(|_| field(host, "refresh_token"))?),
            _ => return Err(field(host, "refresh_token")),
        };
        // Only for display, so what cannot be read is left out. Keycloak says 0 of one that does not expire.
        let refresh_expires_in = longer_lifetime(&wire.refresh_token_expires_in).or_else(|| longer_lifetime(&wire.refresh_expires_in));
        Ok(Self { refresh_expires_in, refresh_token, token })
    }
}

/// The fields of a reply that is no failure.
pub(super) fn read(reply: &http::Reply, host: &str, form_replies: bool, now: SystemTime) -> Result<Wire, Error> {
    let wire = Wire::read(reply, form_replies);
    if !is_success(reply.status) || wire.as_ref().is_some_and(|wire| wire.error_code().is_some()) {
        return Err(failure(wire.as_ref(), reply, host, now));
    }
    wire.ok_or_else(|| Error::ReplyUnreadable { host: host.to_owned() })
}

/// The error for a field that is missing or out of bounds.
pub(super) fn field(host: &str, field: &'static str) -> Error {
    Error::ReplyField { host: host.to_owned(), field }
}

fn granted(wire: &Wire, host: &str) -> Result<TokenReply, Error> {
    match &wire.token_type {
        Value::Absent => {}
        Value::Text(name) if name.eq_ignore_ascii_case(b"bearer") => {}
        _ => return Err(field(host, "token_type")),
    }
    let Value::Text(access_token) = &wire.access_token else { return Err(field(host, "access_token")) };
    Ok(TokenReply {
        access_token: AccessToken::parse(access_token.clone()).map_err(|_| field(host, "access_token"))?,
        expires_in: lifetime(&wire.expires_in).map_err(|()| field(host, "expires_in"))?,
        scopes: scope_list(&wire.scope).or_else(|| scope_list(&wire.scopes)),
    })
}

/// Whether an HTTP status is one of success.
pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Why an endpoint refused: by the error code that the reply holds as JSON, else by its status.
pub(super) fn refusal(reply: &http::Reply, host: &str, now: SystemTime) -> Error {
    failure(Wire::read(reply, false).as_ref(), reply, host, now)
}

fn failure(wire: Option<&Wire>, reply: &http::Reply, host: &str, now: SystemTime) -> Error {
    let (host, retry_after, status) = (host.to_owned(), retry_after(reply, now), reply.status);
    match wire.and_then(|wire| Some((wire, wire.error_code()?))) {
        // GitHub names the new interval beside a `slow_down`.
        Some((wire, code)) => Error::Refused { host, retry_after: retry_after.max(wire.slower_interval(&code)), code, status },
        None => Error::Status { host, retry_after, status },
    }
}
