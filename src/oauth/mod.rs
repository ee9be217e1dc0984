//! Stage 4: an OAuth app's credentials in, an access token out.
//!
//! [`plan`] says which grant a host allows, [`TokenClient`] finds the token endpoint and asks it, [`TokenCache`] keeps what came
//! and lets one caller at a time ask for more. What must not live on is revoked ([`TokenClient::revoke`]). Whatever an issuer says is hostile until parsed: replies are bounded, an error keeps
//! the error code alone (RFC 6749 section 5.2) and never the description, which echoes parameters of the request.

mod cache;
mod client;
mod metadata;
mod moment;
mod provider;
mod reply;
mod revocation;

use std::time::Duration;

pub use cache::{CachedToken, MintError, TokenCache, TokenState, TokenStatus};
pub use client::{IssuedToken, TokenClient, TokenEndpoint};
pub use metadata::{Issuer, IssuerError};
pub use moment::{Deadline, Moment};
pub use provider::{ClientAuthentication, EndpointSource, GrantKind, Plan, ProviderOverride, ServicePlan, UnknownName, plan};
pub use reply::TokenReply;
pub use revocation::RevocationEndpoint;

use crate::http;

/// The longest that a `Retry-After` is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Why there is no access token, or why one was not revoked. Names the issuer's host and an error code; never a URL, a body or a description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The metadata lists neither `client_secret_basic` nor `client_secret_post`.
    #[error("the metadata of {host} offers no client authentication by secret")]
    AuthenticationNotOffered {
        /// Host and port of the issuer.
        host: String,
    },
    /// The metadata does not list `client_credentials` and nothing else promises it.
    #[error("the metadata of {host} does not offer client_credentials")]
    GrantNotOffered {
        /// Host and port of the issuer.
        host: String,
    },
    /// The request got no reply that may be read.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The metadata is for another issuer (RFC 8414 section 3.3): not to be used.
    #[error("the metadata of {host} names another issuer than the configured one{hint}")]
    IssuerMismatch {
        /// Host and port of the issuer.
        host: String,
        /// What to look at, in fixed words.
        hint: &'static str,
    },
    /// Neither well-known place holds metadata.
    #[error("{host} has no metadata at the issuer's well-known places")]
    MetadataMissing {
        /// Host and port of the issuer.
        host: String,
    },
    /// The metadata is no JSON object of the right shape.
    #[error("the metadata of {host} is not readable (line {line}, column {column})")]
    MetadataUnreadable {
        /// Host and port of the issuer.
        host: String,
        /// Where reading stopped, from 1; 0 when it did not start.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// The metadata names no token endpoint, or one that is no URL to send a secret to.
    #[error("the metadata of {host} names no usable token_endpoint")]
    NoTokenEndpoint {
        /// Host and port of the issuer.
        host: String,
    },
    /// The token endpoint said no (RFC 6749 section 5.2).
    #[error("{host} refused with {code} (HTTP {status})")]
    Refused {
        /// Host and port of the token endpoint.
        host: String,
        /// The error code.
        code: ErrorCode,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// The HTTP status; 200 on GitHub.
        status: u16,
    },
    /// A field of the token reply is missing or out of bounds.
    #[error("the token reply of {host} has no usable {field}")]
    ReplyField {
        /// Host and port of the token endpoint.
        host: String,
        /// The field's name.
        field: &'static str,
    },
    /// The token reply is neither JSON nor, where that is expected, a form.
    #[error("the token reply of {host} is not readable")]
    ReplyUnreadable {
        /// Host and port of the token endpoint.
        host: String,
    },
    /// An HTTP error without an OAuth error in it.
    #[error("{host} answered with HTTP {status}")]
    Status {
        /// Host and port.
        host: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// The HTTP status.
        status: u16,
    },
}

/// Who can mend a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The operator, by changing the app, the integration or the configuration. Asking again soon only gets the host banned.
    Operator,
    /// The user, by signing in again.
    Terminal,
    /// Time.
    Transient,
}

/// Errors that say who can mend them, for [`TokenCache`].
pub trait Classified: std::error::Error {
    /// Who can mend it.
    fn class(&self) -> ErrorClass;

    /// How long the other side asked to wait, at most 15 minutes.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl Classified for Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::AuthenticationNotOffered { .. }
            | Self::GrantNotOffered { .. }
            | Self::IssuerMismatch { .. }
            | Self::MetadataMissing { .. }
            | Self::NoTokenEndpoint { .. } => ErrorClass::Operator,
            // A page of a proxy in the way, or an issuer half way through an upgrade.
            Self::MetadataUnreadable { .. } | Self::ReplyField { .. } | Self::ReplyUnreadable { .. } => ErrorClass::Transient,
            Self::Http(error) => match error {
                http::Error::Connect { .. } | http::Error::Interrupted { .. } | http::Error::Proxy { .. } | http::Error::Timeout { .. } => {
                    ErrorClass::Transient
                }
                http::Error::Certificate { .. }
                | http::Error::ForbiddenAddress { .. }
                | http::Error::Insecure { .. }
                | http::Error::PrivateAddress { .. }
                | http::Error::ProxyAuthentication { .. }
                | http::Error::Redirect { .. }
                | http::Error::TooLarge { .. } => ErrorClass::Operator,
            },
            Self::Refused { code, status, .. } if !is_transient(*status) => code.class(),
            Self::Refused { .. } => ErrorClass::Transient,
            Self::Status { status, .. } if is_transient(*status) => ErrorClass::Transient,
            Self::Status { .. } => ErrorClass::Operator,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The `error` of a token reply: the RFC's own codes and every host's further ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorCode(Option<Box<str>>);

impl ErrorCode {
    /// Keeps a code of 1 to 64 lower-case letters and underscores; anything else is kept as "unreadable".
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let readable = (1..=64).contains(&text.len()) && text.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
        Self(readable.then(|| String::from_utf8_lossy(text).into()))
    }

    /// The code; `None` when it was unreadable.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }

    fn class(&self) -> ErrorClass {
        match self.as_str() {
            // RFC 6749 section 5.2, GitHub, Entra.
            Some("bad_refresh_token" | "consent_required" | "interaction_required" | "invalid_grant") => ErrorClass::Terminal,
            Some("server_error" | "slow_down" | "temporarily_unavailable") => ErrorClass::Transient,
            _ => ErrorClass::Operator,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str().unwrap_or("an unreadable error code"))
    }
}

/// Whether an HTTP status is about now rather than about the request.
fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

/// Reads `Retry-After`, seconds or a date (RFC 9110 section 10.2.3), never more than 15 minutes.
fn retry_after(reply: &http::Reply, now: std::time::SystemTime) -> Option<Duration> {
    let text = reply.headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, status: u16) -> Error {
        Error::Refused { host: "host".into(), code: ErrorCode::parse(code.as_bytes()), retry_after: None, status }
    }

    #[test]
    fn an_error_code_is_kept_only_when_it_can_hold_nothing_else() {
        assert_eq!(ErrorCode::parse(b"invalid_client").as_str(), Some("invalid_client"));
        for text in ["", "Invalid", "s3cret", "a b", "a\nb", "é", &"a".repeat(65)] {
            assert_eq!(ErrorCode::parse(text.as_bytes()).as_str(), None, "{text:?}");
        }
    }

    #[test]
    fn the_status_outweighs_the_code_only_when_it_is_about_now() {
        assert_eq!(refused("invalid_client", 401).class(), ErrorClass::Operator);
        assert_eq!(refused("incorrect_client_credentials", 200).class(), ErrorClass::Operator);
        assert_eq!(refused("bad_refresh_token", 200).class(), ErrorClass::Terminal);
        assert_eq!(refused("invalid_grant", 400).class(), ErrorClass::Terminal);
        assert_eq!(refused("temporarily_unavailable", 400).class(), ErrorClass::Transient);
        assert_eq!(refused("invalid_client", 429).class(), ErrorClass::Transient);
        assert_eq!(refused("invalid_client", 503).class(), ErrorClass::Transient);
    }
}
