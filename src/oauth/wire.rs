//! The fields of an OAuth reply, in whatever shape they came; every text is wiped on drop.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::ErrorCode;
use crate::http;

/// The longest lifetime of an access token that is believed.
const LONGEST_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The longest interval that is obeyed.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The longest lifetime of a refresh token that is believed.
const LONGEST_REFRESH_LIFETIME: Duration = Duration::from_secs(2 * 366 * 24 * 60 * 60);

/// The fields that are of use, of every kind of reply.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Wire {
    pub(super) access_token: Value,
    pub(super) device_code: Value,
    error: Value,
    /// Entra's numbers of what went wrong.
    error_codes: Value,
    pub(super) expires_in: Value,
    pub(super) interval: Value,
    /// Keycloak's name of `refresh_token_expires_in`.
    pub(super) refresh_expires_in: Value,
    pub(super) refresh_token: Value,
    /// GitHub's.
    pub(super) refresh_token_expires_in: Value,
    pub(super) scope: Value,
    /// Bitbucket's older name of `scope`.
    pub(super) scopes: Value,
    pub(super) token_type: Value,
    pub(super) user_code: Value,
    pub(super) verification_uri: Value,
    pub(super) verification_uri_complete: Value,
    /// An older name of `verification_uri`, from the drafts of RFC 8628.
    pub(super) verification_url: Value,
}

impl Wire {
    /// Reads JSON, and a form where one may stand. `None` for anything else.
    pub(super) fn read(reply: &http::Reply, form_replies: bool) -> Option<Self> {
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
            let Some(field) = wire.field_of_form(&name) else { continue };
            if !matches!(field, Value::Absent) {
                return None;
            }
            *field = value;
        }
        Some(wire)
    }

    /// The fields that GitHub sends as a form.
    fn field_of_form(&mut self, name: &str) -> Option<&mut Value> {
        Some(match name {
            "access_token" => &mut self.access_token,
            "device_code" => &mut self.device_code,
            "error" => &mut self.error,
            "expires_in" => &mut self.expires_in,
            "interval" => &mut self.interval,
            "refresh_token" => &mut self.refresh_token,
            "refresh_token_expires_in" => &mut self.refresh_token_expires_in,
            "scope" => &mut self.scope,
            "token_type" => &mut self.token_type,
            "user_code" => &mut self.user_code,
            "verification_uri" => &mut self.verification_uri,
            "verification_uri_complete" => &mut self.verification_uri_complete,
            _ => return None,
        })
    }

    /// What the reply fails with, if it does.
    pub(super) fn error_code(&self) -> Option<ErrorCode> {
        let code = match &self.error {
            Value::Absent => return None,
            Value::Text(text) => ErrorCode::parse(text),
            Value::List { .. } | Value::Number(_) | Value::Other => ErrorCode::parse(b""),
        };
        let number = match &self.error_codes {
            Value::List { number, .. } => number.and_then(error_number),
            _ => None,
        };
        Some(code.with_number(number))
    }

    /// The wait between two questions, 1 second to 5 minutes; `None` where it is not named or cannot be read.
    pub(super) fn interval(&self) -> Option<Duration> {
        lifetime(&self.interval).ok().flatten().map(|interval| interval.min(LONGEST_INTERVAL))
    }

    /// The interval that comes with a `slow_down`.
    pub(super) fn slower_interval(&self, code: &ErrorCode) -> Option<Duration> {
        if code.as_str() == Some("slow_down") { self.interval() } else { None }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range that was asked for")]
fn error_number(number: f64) -> Option<u32> {
    (number.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

/// Seconds as a number or a numeric string. What is not above zero cannot be told from an error, so it is one.
pub(super) fn lifetime(value: &Value) -> Result<Option<Duration>, ()> {
    seconds(value, LONGEST_LIFETIME)
}

/// The same of a refresh token; `None` for what cannot be read too.
pub(super) fn longer_lifetime(value: &Value) -> Option<Duration> {
    seconds(value, LONGEST_REFRESH_LIFETIME).unwrap_or_default()
}

fn seconds(value: &Value, longest: Duration) -> Result<Option<Duration>, ()> {
    let seconds = match value {
        Value::Absent => return Ok(None),
        Value::Number(seconds) => *seconds,
        Value::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| ())?;
            // Rust would also read "inf", "nan" and their like.
            let numeric = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
            text.parse::<f64>().ok().filter(|_| numeric).ok_or(())?
        }
        Value::List { .. } | Value::Other => return Err(()),
    };
    if !seconds.is_finite() || seconds < 1.0 {
        return Err(());
    }
    let whole = seconds.min(longest.as_secs_f64()).trunc();
    Ok(Some(Duration::from_secs_f64(whole)))
}

/// Splits at spaces (the RFC), at commas (GitHub), or takes a list. What is none of these is left out: no decision rests on it.
pub(super) fn scope_list(value: &Value) -> Option<Vec<String>> {
    let texts = match value {
        Value::Text(text) => std::slice::from_ref(text),
        Value::List { texts, .. } => texts.as_slice(),
        Value::Absent | Value::Number(_) | Value::Other => return None,
    };
    let texts = texts.iter().filter_map(|text| std::str::from_utf8(text).ok());
    Some(texts.flat_map(|text| text.split([' ', ','])).filter(|scope| !scope.is_empty()).map(str::to_owned).collect())
}

/// A JSON value as far as the fields of a token reply need it; every text is wiped on drop.
#[derive(Default)]
pub(super) enum Value {
    /// Not there, or null.
    #[default]
    Absent,
    /// A list's texts, and its first number.
    List {
        number: Option<f64>,
        texts: Vec<Zeroizing<Vec<u8>>>,
    },
    Number(f64),
    /// A truth value or an object.
    Other,
    Text(Zeroizing<Vec<u8>>),
}

impl Value {
    /// The text, if it is one of UTF-8.
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { std::str::from_utf8(text).ok() } else { None }
    }
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
        let (mut number, mut texts) = (None, Vec::new());
        // A list in a list comes back here; serde_json stops at a depth of 128.
        while let Some(item) = list.next_element::<Value>()? {
            match item {
                Value::Text(text) => texts.push(text),
                Value::Number(found) => number = number.or(Some(found)),
                Value::Absent | Value::List { .. } | Value::Other => {}
            }
        }
        Ok(Value::List { number, texts })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}
