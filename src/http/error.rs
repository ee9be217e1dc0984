//! Why a request got no usable reply, in words that name the host and nothing else.

use std::error::Error as StdError;

use super::address::ForbiddenByResolver;

/// Why a request got no usable reply. Names the host; never the URL, a header or a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The TLS handshake failed.
    #[error("the certificate of {host} is not accepted: {reason}")]
    Certificate {
        /// Host and port.
        host: String,
        /// What is wrong with it, in fixed words.
        reason: &'static str,
    },
    /// No connection came about.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// The system's reason, in fixed words.
        reason: &'static str,
    },
    /// The address belongs to this machine, to the link, or to a cloud's metadata service.
    #[error("{host} is, or resolves to, an address that may not be asked")]
    ForbiddenAddress {
        /// Host and port.
        host: String,
    },
    /// The URL is not https.
    #[error("the URL for {host} is not https")]
    Insecure {
        /// Host and port.
        host: String,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection to {host} broke before the reply was complete")]
    Interrupted {
        /// Host and port.
        host: String,
    },
    /// The reply points elsewhere.
    #[error("{host} answered with a redirect (HTTP {status}), which is never followed")]
    Redirect {
        /// Host and port.
        host: String,
        /// The status code.
        status: u16,
    },
    /// The time limit passed.
    #[error("{host} did not answer in time")]
    Timeout {
        /// Host and port.
        host: String,
    },
    /// The reply is longer than allowed.
    #[error("the reply of {host} is longer than {limit} bytes")]
    TooLarge {
        /// Host and port.
        host: String,
        /// The limit in bytes.
        limit: usize,
    },
}

/// Sorts a client error by cause. The error itself holds the URL, so it goes no further than here.
pub(super) fn classify(error: &reqwest::Error, host: &str) -> Error {
    let host = host.to_owned();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if current.is::<ForbiddenByResolver>() {
            return Error::ForbiddenAddress { host };
        }
        if let Some(found) = current.downcast_ref::<rustls::Error>() {
            return Error::Certificate { host, reason: certificate_reason(found) };
        }
        if let Some(found) = current.downcast_ref::<std::io::Error>() {
            if let Some(inner) = found.get_ref() {
                // An I/O error lends its inner error to `get_ref`, not to `source`.
                cause = Some(inner);
                continue;
            }
            if error.is_connect() && !error.is_timeout() {
                return Error::Connect { host, reason: connect_reason(found.kind()) };
            }
        }
        cause = current.source();
    }
    if error.is_timeout() {
        Error::Timeout { host }
    } else if error.is_connect() {
        Error::Connect { host, reason: "the name does not resolve or the proxy refused" }
    } else {
        Error::Interrupted { host }
    }
}

fn connect_reason(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => "connection closed by the other side",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route",
        ErrorKind::TimedOut => "timed out",
        _ => "the name does not resolve",
    }
}

fn certificate_reason(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError;
    match error {
        rustls::Error::InvalidCertificate(cause) => match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "it is for another name",
            CertificateError::UnknownIssuer => "its authority is not trusted here",
            CertificateError::Revoked => "it has been revoked",
            _ => "it is not valid",
        },
        _ => "the TLS handshake failed",
    }
}
