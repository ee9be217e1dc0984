//! The Connect protocol's errors: their codes, when to ask again, and what may be shown of their text.
//!
//! The message of an error is written by whoever answered, so it is shown only cut short, in plain characters, and without
//! anything that is or looks like the token that was sent.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::value::RawValue;

use super::proto_json;
use crate::http::Reply;
use crate::secret::BearerToken;

/// The longest wait that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);
const MAX_DETAILS: usize = 32;
const MAX_MESSAGE: usize = 200;
/// So many characters of the token in a row are as good as the token.
const TELLING_FRAGMENT: usize = 8;
/// A word longer than this with a digit in it may be a credential in some encoding.
const LONGEST_PLAIN_WORD: usize = 20;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why the control plane refused, in Connect's words.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// The code as it stands in an error's JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// A conflict between two operations.
    Aborted = "aborted",
    /// It exists already.
    AlreadyExists = "already_exists",
    /// The caller gave up.
    Canceled = "canceled",
    /// Data is lost for good.
    DataLoss = "data_loss",
    /// The server ran out of time.
    DeadlineExceeded = "deadline_exceeded",
    /// Not possible in the present state.
    FailedPrecondition = "failed_precondition",
    /// The server broke a promise of its own.
    Internal = "internal",
    /// The request is wrong in itself.
    InvalidArgument = "invalid_argument",
    /// There is no such thing.
    NotFound = "not_found",
    /// Outside the valid range.
    OutOfRange = "out_of_range",
    /// The token is good, but not for this.
    PermissionDenied = "permission_denied",
    /// A quota or rate limit.
    ResourceExhausted = "resource_exhausted",
    /// The token is missing or not good.
    Unauthenticated = "unauthenticated",
    /// Down for now.
    Unavailable = "unavailable",
    /// No such service or method.
    Unimplemented = "unimplemented",
    /// Anything else.
    Unknown = "unknown",
}

impl Code {
    /// What a status means where no code came with it (Connect protocol, "HTTP to Error Code").
    fn from_status(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A Connect error as the control plane sent it, without what must not be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Host and port.
    pub host: String,
    /// Why.
    pub code: Code,
    /// Whether the code is only what the status means, since the reply did not say one that is known.
    pub is_inferred: bool,
    /// The HTTP status.
    pub status: u16,
    /// What the server says of it: at most 200 plain characters. `None` when it says nothing or repeats the token.
    pub message: Option<String>,
    /// How long the server asked not to be asked again, at most 15 minutes.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {} (HTTP {})", self.host, self.code, self.status)?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// Reads the JSON body of a reply that is no success. Whatever part of it cannot be read counts as absent.
    pub(super) fn read(host: String, reply: &Reply, token: &BearerToken, now: SystemTime) -> Self {
        let body = std::str::from_utf8(&reply.body).unwrap_or_default();
        Self::read_parts(host, reply.status, &reply.headers, body, token, now)
    }

    /// Reads an error wherever its JSON stood.
    pub(super) fn read_parts(host: String, status: u16, headers: &HeaderMap, error: &str, token: &BearerToken, now: SystemTime) -> Self {
        let names = [("code", "code"), ("message", "message"), ("details", "details")];
        let [code, message, details] = proto_json::object(error, names).unwrap_or_default();
        let code = code.and_then(proto_json::string).and_then(|name| Code::from_name(&name));
        Self {
            host,
            code: code.unwrap_or_else(|| Code::from_status(status)),
            is_inferred: code.is_none(),
            status,
            message: message.and_then(proto_json::string).and_then(|message| presentable(&message, token)),
            retry_after: details.and_then(retry_info).or_else(|| retry_after(headers, now)).map(|delay| delay.min(MAX_RETRY_AFTER)),
        }
    }
}

/// The delay that a reply's headers ask for, at most 15 minutes: the control plane's own header, else the standard one
/// (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |value: Option<&reqwest::header::HeaderValue>| Some(value?.to_str().ok()?.trim().to_owned());
    let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
    let own = text(headers.get("ratelimit-retryafter")).and_then(|text| seconds(&text));
    let standard = || {
        let text = text(headers.get(RETRY_AFTER))?;
        seconds(&text).or_else(|| httpdate::parse_http_date(&text).ok()?.duration_since(now).ok())
    };
    own.or_else(standard).map(|delay| delay.min(MAX_RETRY_AFTER))
}

/// The delay of a `google.rpc.RetryInfo` among the details.
fn retry_info(details: &RawValue) -> Option<Duration> {
    let details = proto_json::list(details, MAX_DETAILS).ok()?;
    details.into_iter().find_map(|detail| {
        let [kind, value] = proto_json::object(detail.get(), [("type", "type"), ("value", "value")]).ok()?;
        // The type may come with its URL in front.
        if proto_json::string(kind?)?.rsplit('/').next() != Some("google.rpc.RetryInfo") {
            return None;
        }
        retry_delay(&proto_json::base64(&proto_json::string(value?)?)?)
    })
}

/// `RetryInfo.retry_delay` (field 1), a `Duration` of seconds (field 1) and nanoseconds (field 2), from protobuf's binary form.
fn retry_delay(message: &[u8]) -> Option<Duration> {
    let Some(Field::Bytes(delay)) = field(message, 1)? else { return None };
    let number = |tag| match field(delay, tag)? {
        Some(Field::Number(number)) => Some(number),
        Some(Field::Bytes(_)) => None,
        None => Some(0),
    };
    // A negative number is a huge one here, and no delay.
    let seconds = number(1).filter(|seconds| i64::try_from(*seconds).is_ok())?;
    let nanos = number(2).filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Finds a field of a protobuf message by its number; the last one counts. `None` for what is no protobuf message.
fn field(mut message: &[u8], number: u64) -> Option<Option<Field<'_>>> {
    let mut found = None;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => Field::Bytes(message.split_off(..8)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Field::Bytes(message.split_off(..length)?)
            }
            5 => Field::Bytes(message.split_off(..4)?),
            _ => return None,
        };
        if key >> 3 == number {
            found = Some(value);
        }
    }
    Some(found)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What may be shown of a server's text: plain characters, cut short, words that look like credentials masked; nothing at all
/// when a piece of the token is in it.
fn presentable(message: &str, token: &BearerToken) -> Option<String> {
    let plain = |character: char| if character == ' ' || character.is_ascii_graphic() { character } else { '?' };
    let message: String = message.chars().take(MAX_MESSAGE).map(plain).collect();
    let message = message.trim();
    if message.is_empty() || repeats(message, token) {
        return None;
    }
    let words: Vec<&str> = message.split(' ').map(|word| if looks_like_a_credential(word) { "***" } else { word }).collect();
    Some(words.join(" "))
}

fn repeats(message: &str, token: &BearerToken) -> bool {
    let message = message.to_ascii_lowercase();
    let token = zeroize::Zeroizing::new(token.expose_secret().to_ascii_lowercase());
    let size = TELLING_FRAGMENT.min(token.len());
    token.as_bytes().windows(size).any(|fragment| message.as_bytes().windows(size).any(|found| found == fragment))
}

fn looks_like_a_credential(word: &str) -> bool {
    let uuid_free = word.split(|character: char| !character.is_ascii_hexdigit() && character != '-').all(|part| !is_uuid(part));
    word.len() > LONGEST_PLAIN_WORD && word.bytes().any(|byte| byte.is_ascii_digit()) && uuid_free
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().enumerate().all(|(index, byte)| (byte == b'-') == matches!(index, 8 | 13 | 18 | 23))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const TOKEN: &str = "ona_Canary7f3a9c_0123456789abcdef";

    fn token() -> BearerToken {
        BearerToken::parse(Zeroizing::new(TOKEN.as_bytes().to_vec())).unwrap()
    }

    fn refusal(status: u16, headers: &[(&'static str, &str)], body: &str) -> Refusal {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let reply = Reply { status, headers, body: Zeroizing::new(body.as_bytes().to_vec()) };
        Refusal::read("cp.example".into(), &reply, &token(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    }

    #[test]
    fn every_code_is_known_by_its_name() {
        for name in [
            "canceled",
            "unknown",
            "invalid_argument",
            "deadline_exceeded",
            "not_found",
            "already_exists",
            "permission_denied",
            "resource_exhausted",
            "failed_precondition",
            "aborted",
            "out_of_range",
            "unimplemented",
            "internal",
            "unavailable",
            "data_loss",
            "unauthenticated",
        ] {
            assert_eq!(Code::from_name(name).unwrap().as_str(), name);
        }
        assert_eq!(Code::from_name("CODE_NEW"), None);
    }

    #[test]
    fn a_body_without_a_known_code_is_judged_by_its_status() {
        for (status, code) in [
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
            (418, Code::Unknown),
        ] {
            for body in ["", "{}", "[]", "null", "{\"code\":7}", "{\"code\":\"brand_new\"}", "{\"code\":\"not_found\"", "\u{feff}"] {
                assert_eq!(refusal(status, &[], body).code, code, "{status} {body}");
            }
        }
    }

    #[test]
    fn the_delay_comes_from_retry_info_else_from_the_own_header_else_from_the_standard_one() {
        let headers = [("ratelimit-retryafter", "11"), ("retry-after", "13")];
        let details = r#"{"details":[{"type":"x","value":"AA"},7,{"type":"google.rpc.RetryInfo","value":"CgIIBw=="}]}"#;
        assert_eq!(refusal(429, &headers, details).retry_after, Some(Duration::from_secs(7)));
        let no_protobuf = details.replace("CgIIBw==", "CgIIgA==");
        assert_eq!(refusal(429, &headers, &no_protobuf).retry_after, Some(Duration::from_secs(11)));
        assert_eq!(refusal(429, &headers[1..], "{}").retry_after, Some(Duration::from_secs(13)));
        assert_eq!(refusal(429, &[], "{}").retry_after, None);
    }

    #[test]
    fn retry_info_is_read_as_protobuf() {
        assert_eq!(retry_delay(&[0x0a, 0x06, 0x08, 0x07, 0x10, 0xc0, 0x84, 0x3d]), Some(Duration::from_millis(7001)));
        assert_eq!(retry_delay(&[0x0a, 0x00]), Some(Duration::ZERO));
        assert_eq!(retry_delay(&[0x12, 0x01, 0x00, 0x0a, 0x02, 0x08, 0x05]), Some(Duration::from_secs(5)), "an unknown field before it");
        for bad in [
            &[][..],
            &[0x0a],
            &[0x0a, 0x05, 0x08],
            &[0x08, 0x07],
            &[0x0a, 0x02, 0x08, 0x80],
            &[0x0a, 0x0b, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x0b],
            &[0xff; 12],
        ] {
            assert_eq!(retry_delay(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_standard_header_may_be_a_date_and_a_delay_is_at_most_fifteen_minutes() {
        // 1700000000 is Tue, 14 Nov 2023 22:13:20 GMT.
        assert_eq!(refusal(503, &[("retry-after", "Tue, 14 Nov 2023 22:13:50 GMT")], "").retry_after, Some(Duration::from_secs(30)));
        assert_eq!(refusal(503, &[("retry-after", "Tue, 14 Nov 2023 22:13:10 GMT")], "").retry_after, None, "in the past");
        for soon in ["-1", "1.5", "soon", "99999999999999999999999"] {
            assert_eq!(refusal(503, &[("retry-after", soon)], "").retry_after, None, "{soon}");
        }
        assert_eq!(refusal(503, &[("retry-after", "86400")], "").retry_after, Some(MAX_RETRY_AFTER));
        let details = r#"{"details":[{"type":"type.googleapis.com/google.rpc.RetryInfo","value":"CgMIgCA"}]}"#;
        assert_eq!(refusal(503, &[], details).retry_after, Some(MAX_RETRY_AFTER));
    }

    #[test]
    fn the_message_is_shown_in_plain_characters_and_cut_short() {
        let message = |text: &str| refusal(400, &[], &serde_json::json!({ "message": text }).to_string()).message;
        assert_eq!(message("runner does not have a public key").unwrap(), "runner does not have a public key");
        assert_eq!(message("a\u{1b}[31m\nb\u{202e}é").unwrap(), "a?[31m?b??");
        assert_eq!(message(&"word ".repeat(500)).unwrap().len(), 199);
        let id = "no runner 2f9e1f6a-90b3-4b3a-8d43-111111111111";
        assert_eq!(message(id).unwrap(), id);
        assert_eq!(message(" "), None);
    }

    #[test]
    fn the_token_never_gets_into_the_message() {
        let message = |text: &str| refusal(401, &[], &serde_json::json!({ "message": text }).to_string()).message;
        for text in [
            format!("bad token {TOKEN}"),
            format!("bad token {}", TOKEN.to_uppercase()),
            format!("bad token {}...", &TOKEN[..9]),
            format!("bad token ...{}", &TOKEN[TOKEN.len() - 8..]),
            format!("{}{TOKEN}", "long ".repeat(38)),
        ] {
            assert!(message(&text).is_none(), "{text}");
        }
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, TOKEN);
        assert_eq!(message(&format!("bad token {encoded}")).unwrap(), "bad token ***");
        assert_eq!(message("bad token eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0. here").unwrap(), "bad token *** here");
    }
}
