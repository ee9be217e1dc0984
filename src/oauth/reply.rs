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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
    use serde_json::{Value as Json, json};
    use zeroize::Zeroizing;

    use super::*;

    const FIELDS: [&str; 9] = [
        "access_token",
        "error",
        "error_codes",
        "expires_in",
        "refresh_expires_in",
        "refresh_token",
        "refresh_token_expires_in",
        "scope",
        "token_type",
    ];

    fn parse(status: u16, form: bool, body: &[u8]) -> Result<GrantReply, Error> {
        let media_type = if form { "application/x-www-form-urlencoded" } else { "application/json" };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        let reply = http::Reply { status, headers, body: Zeroizing::new(body.to_vec()) };
        GrantReply::parse(&reply, "host", true, SystemTime::UNIX_EPOCH)
    }

    /// What holds of every reply: tokens of the allowed characters, lifetimes within bounds, and errors that say nothing of it.
    fn check(found: Result<GrantReply, Error>) {
        match found {
            Ok(GrantReply { refresh_expires_in, refresh_token, token }) => {
                assert!(token.access_token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()));
                assert!(refresh_token.is_none_or(|token| token.expose_secret().bytes().all(|byte| (b' '..=b'~').contains(&byte))));
                let within = |lifetime: Option<Duration>, days: u64| {
                    lifetime.is_none_or(|lifetime| (1..=days * 24 * 60 * 60).contains(&lifetime.as_secs()))
                };
                assert!(within(token.expires_in, 30) && within(refresh_expires_in, 732));
            }
            Err(error) => assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}"),
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<f64>().prop_map(|number| json!(number)),
            any::<i64>().prop_map(Json::from),
            "CANARY[ -~]{0,20}".prop_map(Json::from),
            "\\PC{0,10}".prop_map(Json::from),
            Just(json!("bearer")),
            Just(json!("invalid_grant")),
        ];
        leaf.prop_recursive(2, 8, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Json::from))
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused_in_silence(status in 200u16..600, form: bool, body in prop::collection::vec(any::<u8>(), 0..200)) {
            check(parse(status, form, &body));
        }

        #[test]
        fn any_object_is_read_or_refused_in_silence(
            status in prop_oneof![Just(200u16), Just(400), Just(503)],
            fields in prop::collection::hash_map(prop::sample::select(FIELDS.as_slice()), any_json(), 0..6),
        ) {
            check(parse(status, false, json!(fields).to_string().as_bytes()));
            // And cut off anywhere.
            let text = json!(fields).to_string();
            for end in 0..text.len() {
                check(parse(status, false, &text.as_bytes()[..end]));
            }
        }

        #[test]
        fn any_form_is_read_or_refused_in_silence(fields in prop::collection::vec((prop::sample::select(FIELDS.as_slice()), "CANARY\\PC{0,10}"), 0..6)) {
            let form: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            check(parse(200, true, form.as_bytes()));
        }

        #[test]
        fn a_good_reply_is_read_whole(access in "[!-~]{1,3000}", refresh in "[ -~]{1,3000}", seconds in 1u64..100_000_000) {
            let body = json!({ "access_token": access, "refresh_token": refresh, "refresh_token_expires_in": seconds });
            let found = parse(200, false, body.to_string().as_bytes()).unwrap();
            prop_assert_eq!(found.token.access_token.expose_secret(), access);
            prop_assert!(found.refresh_token.unwrap().matches(refresh.as_bytes()));
            prop_assert_eq!(found.refresh_expires_in.unwrap().as_secs(), seconds.min(732 * 24 * 60 * 60));
        }
    }
}
