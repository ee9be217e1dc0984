//! Reading a token reply (RFC 6749 section 5) from a server that may be broken or hostile.
//!
//! The body is read before the status is judged: GitHub refuses with 200. An `error` is a failure whatever else is there. Texts of
//! the reply are copied only into buffers that are wiped, and no error holds any of them but a well-formed error code.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{Error, ErrorCode, retry_after};
use crate::http;
use crate::secret::AccessToken;

/// The longest lifetime that is believed.
const LONGEST_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

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
        let wire = Wire::read(reply, form_replies);
        let code = wire.as_ref().and_then(Wire::error_code);
        if code.is_some() || !is_success(reply.status) {
            return Err(failure(code, reply, host, now));
        }
        let wire = wire.ok_or_else(|| Error::ReplyUnreadable { host: host.to_owned() })?;
        wire.into_granted().map_err(|field| Error::ReplyField { host: host.to_owned(), field })
    }
}

/// Whether an HTTP status is one of success.
pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Why an endpoint refused: by the error code that the reply holds as JSON, else by its status.
pub(super) fn refusal(reply: &http::Reply, host: &str, now: SystemTime) -> Error {
    failure(Wire::read(reply, false).as_ref().and_then(Wire::error_code), reply, host, now)
}

fn failure(code: Option<ErrorCode>, reply: &http::Reply, host: &str, now: SystemTime) -> Error {
    let (host, retry_after, status) = (host.to_owned(), retry_after(reply, now), reply.status);
    match code {
        Some(code) => Error::Refused { host, code, retry_after, status },
        None => Error::Status { host, retry_after, status },
    }
}

/// The fields that are of use, in whatever shape they came.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    access_token: Value,
    error: Value,
    expires_in: Value,
    scope: Value,
    /// Bitbucket's older name of `scope`.
    scopes: Value,
    token_type: Value,
}

impl Wire {
    fn read(reply: &http::Reply, form_replies: bool) -> Option<Self> {
        let body = reply.body.as_slice();
        // serde would also read the fields from an array, in their order.
        if body.trim_ascii_start().first() == Some(&b'{') {
            // The error may quote the token, so it ends here. A field given twice is one: which of the two counts is anyone's guess.
            return serde_json::from_slice(body).ok();
        }
        (form_replies && reply.media_type() == "application/x-www-form-urlencoded").then(|| Self::read_form(body)).flatten()
    }

    fn read_form(body: &[u8]) -> Option<Self> {
        let mut wire = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            let value = Value::Text(Zeroizing::new(value.into_owned().into_bytes()));
            let field = match &*name {
                "access_token" => &mut wire.access_token,
                "error" => &mut wire.error,
                "expires_in" => &mut wire.expires_in,
                "scope" => &mut wire.scope,
                "token_type" => &mut wire.token_type,
                _ => continue,
            };
            if !matches!(field, Value::Absent) {
                return None;
            }
            *field = value;
        }
        Some(wire)
    }

    fn error_code(&self) -> Option<ErrorCode> {
        match &self.error {
            Value::Absent => None,
            Value::Text(text) => Some(ErrorCode::parse(text)),
            Value::List(_) | Value::Number(_) | Value::Other => Some(ErrorCode::parse(b"")),
        }
    }

    /// The grant, or the name of the field that stands in its way.
    fn into_granted(self) -> Result<TokenReply, &'static str> {
        let Self { access_token, error: _, expires_in, scope, scopes, token_type } = self;
        match token_type {
            Value::Absent => {}
            Value::Text(name) if name.eq_ignore_ascii_case(b"bearer") => {}
            _ => return Err("token_type"),
        }
        let Value::Text(access_token) = access_token else { return Err("access_token") };
        Ok(TokenReply {
            access_token: AccessToken::parse(access_token).map_err(|_| "access_token")?,
            expires_in: lifetime(&expires_in).map_err(|()| "expires_in")?,
            scopes: scope_list(&scope).or_else(|| scope_list(&scopes)),
        })
    }
}

/// Seconds as a number or a numeric string. What is not above zero cannot be told from an error, so it is one.
fn lifetime(value: &Value) -> Result<Option<Duration>, ()> {
    let seconds = match value {
        Value::Absent => return Ok(None),
        Value::Number(seconds) => *seconds,
        Value::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| ())?;
            // Rust would also read "inf", "nan" and their like.
            let numeric = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
            text.parse::<f64>().ok().filter(|_| numeric).ok_or(())?
        }
        Value::List(_) | Value::Other => return Err(()),
    };
    if !seconds.is_finite() || seconds < 1.0 {
        return Err(());
    }
    let whole = seconds.min(LONGEST_LIFETIME.as_secs_f64()).trunc();
    Ok(Some(Duration::from_secs_f64(whole)))
}

/// Splits at spaces (the RFC), at commas (GitHub), or takes a list. What is none of these is left out: no decision rests on it.
fn scope_list(value: &Value) -> Option<Vec<String>> {
    let texts = match value {
        Value::Text(text) => std::slice::from_ref(text),
        Value::List(texts) => texts.as_slice(),
        Value::Absent | Value::Number(_) | Value::Other => return None,
    };
    let texts = texts.iter().filter_map(|text| std::str::from_utf8(text).ok());
    Some(texts.flat_map(|text| text.split([' ', ','])).filter(|scope| !scope.is_empty()).map(str::to_owned).collect())
}

/// A JSON value as far as the fields of a token reply need it; every text is wiped on drop.
#[derive(Default)]
enum Value {
    /// Not there, or null.
    #[default]
    Absent,
    /// A list's texts.
    List(Vec<Zeroizing<Vec<u8>>>),
    Number(f64),
    /// A truth value or an object.
    Other,
    Text(Zeroizing<Vec<u8>>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

#[expect(clippy::cast_precision_loss, reason = "seconds beyond 2^53 are cut to 30 days")]
impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Absent)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    // Escapes make serde_json assemble the text in a buffer of its own, which only the wiping allocator clears.
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text.as_bytes().to_vec())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut texts = Vec::new();
        // A list in a list comes back here; serde_json stops at a depth of 128.
        while let Some(item) = list.next_element::<Value>()? {
            if let Value::Text(text) = item {
                texts.push(text);
            }
        }
        Ok(Value::List(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}
