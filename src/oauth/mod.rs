//! Stage 4: an OAuth app's credentials in, an access token out.
//!
//! [`plan`] says which grant a host allows, [`TokenClient`] finds the endpoints and asks them, [`TokenCache`] keeps what came
//! and lets one caller at a time ask for more. A user signs in with a device code ([`TokenClient::begin_device`]) or in a browser
//! ([`TokenClient::begin_code`]), and [`TokenClient::refresh`] keeps that alive; what is to be kept of it is the caller's business.
//! What must not live on is revoked ([`TokenClient::revoke`]). Whatever an issuer says is hostile until parsed: replies are
//! bounded, an error keeps the error code alone (RFC 6749 section 5.2) and never the description, which echoes parameters of the
//! request.

mod account;
mod cache;
mod client;
mod code;
mod device;
mod endpoints;
mod grant;
mod metadata;
mod moment;
mod provider;
mod reply;
mod revocation;
mod wire;

use std::time::Duration;

pub use cache::{CachedToken, Expected, MintError, Prospect, TokenCache, TokenState, TokenStatus, longest_refresh_life};
pub use client::{IssuedToken, TokenClient, TokenEndpoint};
pub use code::CodeRequest;
pub use device::{DeviceAuthorization, DevicePoll};
pub use endpoints::{IssuerCheck, Revocation, UserEndpoints, UserInfo};
pub use grant::GrantedTokens;
pub use metadata::{Issuer, IssuerError};
pub use moment::{Deadline, Moment};
pub use provider::{
    ClientAuthentication, EndpointSource, GrantKind, Plan, ProviderOverride, Redirect, Rotation, ServicePlan, UnknownName,
    UserEndpointSource, UserIssuer, UserPlan, is_same_host, plan, sign_in_plan, username,
};
pub use reply::TokenReply;
pub use revocation::{RevocationEndpoint, Revoked};

use crate::http;

/// The longest that a `Retry-After` is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Why there is no access token, or why one was not revoked. Names the issuer's host and an error code; never a URL, a body or a description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The host ended a sign-in that was under way: by its callback (RFC 6749 section 4.1.2.1).
    #[error("{host} ended the sign-in with {code}")]
    AuthorizationRefused {
        /// Host and port of the authorization endpoint.
        host: String,
        /// The error code.
        code: ErrorCode,
    },
    /// The metadata lists neither `client_secret_basic` nor `client_secret_post`.
    #[error("the metadata of {host} offers no client authentication by secret")]
    AuthenticationNotOffered {
        /// Host and port of the issuer.
        host: String,
    },
    /// A callback names another issuer than the one that was asked (RFC 9207 section 2.4), or none where one is promised.
    #[error("the callback names another issuer than that of {host}")]
    CallbackIssuer {
        /// Host and port of the authorization endpoint.
        host: String,
    },
    /// A callback belongs to another sign-in, or to none.
    #[error("the callback does not belong to this sign-in")]
    CallbackState,
    /// A field of a callback is missing, there twice, or out of bounds.
    #[error("the callback has no usable {field}")]
    CallbackUnreadable {
        /// The field's name; `query` for the whole.
        field: &'static str,
    },
    /// The host has no such way to sign in.
    #[error("{host} offers no {flow}")]
    FlowNotOffered {
        /// Host and port.
        host: String,
        /// The way, in fixed words.
        flow: &'static str,
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
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Randomness,
    /// A redirect URI is not `http` at this machine's loopback with a port, or has parts that no redirect URI may have.
    #[error("the redirect URI is not an http URL of 127.0.0.1, [::1] or localhost with a port")]
    RedirectUri,
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
    /// The host no longer accepts what a user's sign-in left: the code, or the refresh token.
    #[error("{host} no longer accepts the sign-in: {code} (HTTP {status})")]
    SignInOver {
        /// Host and port of the token endpoint.
        host: String,
        /// The error code.
        code: ErrorCode,
        /// The HTTP status; 200 on GitHub.
        status: u16,
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

impl Error {
    /// Whether the host may have done what was asked although this came of it: the request left and no answer told. A refresh that
    /// failed so may have used its refresh token up.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Http(error) => matches!(
                error,
                http::Error::Interrupted { .. } | http::Error::Redirect { .. } | http::Error::Timeout { .. } | http::Error::TooLarge { .. }
            ),
            Self::ReplyField { .. } | Self::ReplyUnreadable { .. } => true,
            Self::Status { status, .. } => *status == 408 || *status >= 500,
            Self::Refused { status, .. } => *status >= 500,
            _ => false,
        }
    }
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
            Self::AuthorizationRefused { code, .. } => code.class(),
            Self::CallbackIssuer { .. } | Self::CallbackState | Self::CallbackUnreadable { .. } | Self::SignInOver { .. } => {
                ErrorClass::Terminal
            }
            Self::Randomness => ErrorClass::Transient,
            Self::AuthenticationNotOffered { .. }
            | Self::FlowNotOffered { .. }
            | Self::GrantNotOffered { .. }
            | Self::IssuerMismatch { .. }
            | Self::MetadataMissing { .. }
            | Self::NoTokenEndpoint { .. }
            | Self::RedirectUri => ErrorClass::Operator,
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

/// The `error` of a reply: the RFC's own codes and every host's further ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorCode {
    number: Option<u32>,
    text: Option<Box<str>>,
}

impl ErrorCode {
    /// Keeps a code of 1 to 64 lower-case letters and underscores; anything else is kept as "unreadable".
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let readable = (1..=64).contains(&text.len()) && text.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
        Self { number: None, text: readable.then(|| String::from_utf8_lossy(text).into()) }
    }

    fn with_number(self, number: Option<u32>) -> Self {
        Self { number, ..self }
    }

    /// The code; `None` when it was unreadable.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Entra's number of what went wrong, as in AADSTS7000222.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.number
    }

    fn class(&self) -> ErrorClass {
        match self.as_str() {
            Some(code) if TERMINAL.contains(&code) => ErrorClass::Terminal,
            Some("server_error" | "slow_down" | "temporarily_unavailable") => ErrorClass::Transient,
            _ => ErrorClass::Operator,
        }
    }
}

/// What only the user can mend, by signing in again: RFC 6749 sections 4.1.2.1 and 5.2, RFC 8628 section 3.5, OpenID Connect Core
/// section 3.1.2.6, GitHub, Entra.
const TERMINAL: [&str; 13] = [
    "access_denied",
    "account_selection_required",
    "authorization_declined",
    "bad_refresh_token",
    "bad_verification_code",
    "consent_required",
    "expired_token",
    "incorrect_device_code",
    "interaction_required",
    "invalid_grant",
    "login_required",
    "token_expired",
    "unverified_user_email",
];

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str().unwrap_or("an unreadable error code"))?;
        self.number.map_or(Ok(()), |number| write!(f, " AADSTS{number}"))
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
