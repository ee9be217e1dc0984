//! What can go wrong in this stage, and who can mend it.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use super::bounded_file::FileError;
use super::connect::{Code, Refusal};
use super::envelope::EnvelopeError;
use super::message::MessageError;
use crate::http;
use crate::integration::source::{FeedError, SourceError, SourceErrorKind};
use crate::secret::SecretError;

/// Why the integrations could not be had. Names the host, file or field; never a URL, a value, a body or the token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base URL cannot be one.
    #[error("the control plane's URL is not usable: {reason}")]
    BaseUrl {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The client could not be set up.
    #[error("cannot set up the client for the control plane")]
    Client(#[from] http::BuildError),
    /// The reply is compressed, though only plain replies were asked for.
    #[error("{host} answered in an encoding that was not asked for (HTTP {status}): a proxy?")]
    Encoded {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The file of integrations cannot be read.
    #[error("cannot use the integrations file {path}")]
    File {
        /// The configured path.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The file of integrations is no complete, saved reply.
    #[error("the integrations file {path} is no saved ListSCMIntegrations reply")]
    FileContent {
        /// The configured path.
        path: PathBuf,
        /// Why.
        source: MessageError,
    },
    /// The file of integrations is one page of several.
    #[error("the integrations file {path} holds one page of several: its field pagination.nextToken is not empty")]
    FileIncomplete {
        /// The configured path.
        path: PathBuf,
    },
    /// What answered is not the control plane.
    #[error("{host} answered with {media_type} (HTTP {status}), not as the control plane: a proxy, or a wrong URL?")]
    NotControlPlane {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The media type of the reply in plain characters, cut short.
        media_type: String,
        /// How long the server asked not to be asked again, at most 15 minutes.
        retry_after: Option<Duration>,
    },
    /// The pages of the list do not add up.
    #[error("the list of integrations from {host} {problem}")]
    Paging {
        /// Host and port.
        host: String,
        /// How.
        problem: PagingError,
    },
    /// The control plane refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The integration that was asked for cannot be used.
    #[error("the integration from {host} is not usable: {reason}")]
    Rejected {
        /// Host and port.
        host: String,
        /// Names the field.
        reason: String,
    },
    /// The reply cannot be read.
    #[error("cannot read the reply of {host}")]
    Reply {
        /// Host and port.
        host: String,
        /// Why.
        source: MessageError,
    },
    /// The stream of events cannot be read any further.
    #[error("cannot read the stream of events from {host}")]
    Stream {
        /// Host and port.
        host: String,
        /// Why.
        source: EnvelopeError,
    },
    /// The stream of events is over, as every stream is some day.
    #[error("{host} ended the stream of events")]
    StreamEnded {
        /// Host and port.
        host: String,
    },
    /// The token file cannot be used.
    #[error("cannot use the token file {path}")]
    Token {
        /// The configured path.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The token in the environment cannot be used.
    #[error("the token in {name} {reason}")]
    TokenVariable {
        /// The variable.
        name: &'static str,
        /// Why.
        reason: SecretError,
    },
    /// No reply came.
    #[error(transparent)]
    Transport(#[from] http::Error),
}

/// How the pages of a list fail to add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PagingError {
    /// A page token came back.
    #[error("goes round in circles: a page token came twice")]
    Repeats,
    /// All pages together are too long.
    #[error("is longer than {limit} bytes in all")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// All pages together took too long.
    #[error("took longer than {limit:?} in all")]
    TooLong {
        /// The limit.
        limit: Duration,
    },
    /// There is always one page more.
    #[error("does not end after {limit} pages")]
    TooManyPages {
        /// The limit.
        limit: usize,
    },
}

impl Error {
    /// How long the server asked not to be asked again, at most 15 minutes.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotControlPlane { retry_after, .. } => *retry_after,
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// The Connect code, where the control plane gave one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// What to look at: the part of the configuration, or of this host, that the error is likely to be about.
    fn next(&self) -> Option<&'static str> {
        const NETWORK: &str = "see control_plane.url and proxy, and whether the network lets this host through";
        const TOKEN: &str = "see control_plane.token_file: is it this runner's token, and still valid? A new one counts without a restart";
        match self {
            Self::BaseUrl { .. } => Some("see control_plane.url"),
            Self::Client(_) => Some("see control_plane.ca_file and control_plane.proxy"),
            Self::File { .. } | Self::FileContent { .. } => Some("see control_plane.file: it is a reply to ListSCMIntegrations, whole"),
            Self::FileIncomplete { .. } => Some("save all pages of the list as one, without a nextToken"),
            Self::Token { .. } | Self::TokenVariable { .. } => Some("see control_plane.token_file, or the variable ONA_API_KEY"),
            Self::Refused(refusal) => match refusal.code {
                Code::Unauthenticated => Some(TOKEN),
                Code::PermissionDenied => {
                    Some("the token may not list this runner's integrations: see its permissions, and control_plane.runner_id")
                }
                Code::InvalidArgument | Code::NotFound => Some("see control_plane.runner_id and control_plane.url"),
                Code::Unimplemented => Some("see control_plane.url: is it the base URL of the API?"),
                _ => None,
            },
            Self::Encoded { .. } | Self::NotControlPlane { .. } => {
                Some("see control_plane.url and proxy: something else answers in between")
            }
            Self::Paging { .. } | Self::Rejected { .. } | Self::Reply { .. } | Self::Stream { .. } | Self::StreamEnded { .. } => None,
            Self::Transport(error) => match error {
                http::Error::Certificate { reason, .. } => Some(match *reason {
                    http::EXPIRED | http::NOT_YET_VALID => {
                        "see whether this machine's clock is right (date); else whoever runs the control plane has to renew the certificate"
                    }
                    http::OTHER_NAME => "see control_plane.url: its host has to be the name in the certificate",
                    _ => "see ca_file in [control_plane]: whose authority signed the certificate?",
                }),
                http::Error::ProxyAuthentication { .. } => Some("see proxy in [control_plane]: its username and password"),
                http::Error::Redirect { .. } => Some("see control_plane.url: it has to be the address that answers"),
                http::Error::Insecure { .. } => Some("see control_plane.url: it has to be https"),
                http::Error::Proxy { .. } => Some("see proxy and no_proxy in [control_plane], or HTTPS_PROXY and NO_PROXY of the service"),
                http::Error::Connect { reason: http::NO_SUCH_NAME, .. } => {
                    Some("see the name in control_plane.url, and the name servers of this machine: /etc/resolv.conf")
                }
                http::Error::Connect { .. } | http::Error::Timeout { .. } => Some(NETWORK),
                _ => None,
            },
        }
    }

    fn kind(&self) -> SourceErrorKind {
        match self {
            Self::BaseUrl { .. }
            | Self::Client(_)
            | Self::File { .. }
            | Self::FileContent { .. }
            | Self::FileIncomplete { .. }
            | Self::Token { .. }
            | Self::TokenVariable { .. }
            | Self::Transport(http::Error::Insecure { .. } | http::Error::ProxyAuthentication { .. }) => SourceErrorKind::Operator,
            Self::Refused(refusal) => match refusal.code {
                Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented => SourceErrorKind::Operator,
                _ => SourceErrorKind::Transient,
            },
            Self::Encoded { .. }
            | Self::NotControlPlane { .. }
            | Self::Paging { .. }
            | Self::Rejected { .. }
            | Self::Reply { .. }
            | Self::Stream { .. }
            | Self::StreamEnded { .. }
            | Self::Transport(_) => SourceErrorKind::Transient,
        }
    }
}

impl From<&Error> for SourceError {
    fn from(error: &Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(current) = cause {
            message.push_str(": ");
            message.push_str(&current.to_string());
            cause = current.source();
        }
        Self { kind: error.kind(), message, next: error.next(), retry_after: error.retry_after() }
    }
}

impl From<&Error> for FeedError {
    fn from(error: &Error) -> Self {
        // How servers without the method, or without streams, answer on their own.
        let is_without = |status| matches!(status, 404 | 405 | 415 | 501);
        let unsupported = match error {
            Error::Refused(Refusal { is_inferred: true, status, .. }) => is_without(*status),
            Error::Refused(refusal) => matches!(refusal.code, Code::PermissionDenied | Code::Unimplemented),
            // HTML is what load balancers answer while there is no server behind them, as during an update.
            Error::NotControlPlane { status, media_type, .. } => media_type == "text/plain" && is_without(*status),
            _ => false,
        };
        let error = SourceError::from(error);
        if unsupported { Self::Unsupported { message: error.message } } else { Self::Ended(error) }
    }
}
