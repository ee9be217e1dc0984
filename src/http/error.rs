//! Why a request got no usable reply, in words that name the host and nothing else.

use std::error::Error as StdError;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use rustls::CertificateError;
use tower_service::Service;

use super::address::Reach;
use super::resolver::ResolveError;

/// Why a proxy opened no tunnel. The type has no other name outside of its crate.
type TunnelError = <Tunnel<HttpConnector> as Service<Uri>>::Error;

/// The reason of [`Error::Certificate`] where its time is over, by this machine's clock.
pub const EXPIRED: &str = "it has expired";
/// The reason of [`Error::Certificate`] where its time has not begun, by this machine's clock.
pub const NOT_YET_VALID: &str = "it is not valid yet";
/// The reason of [`Error::Certificate`] where it is another host's.
pub const OTHER_NAME: &str = "it is for another name";
/// The reason of [`Error::Connect`] where the host has no address.
pub const NO_SUCH_NAME: &str = "the name does not resolve";

/// Why a request got no usable reply. Names the host; never the URL, a header or a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The certificate is not one to trust.
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
    /// The address is in a private network, where only hosts may be that the operator named.
    #[error(
        "{host} is, or resolves to, a private address, and the configuration does not name it; if that is right, add a [[provider]] \
         table with this host"
    )]
    PrivateAddress {
        /// Host and port.
        host: String,
    },
    /// The proxy did not connect.
    #[error("cannot reach {host} through the proxy {proxy}: {reason}")]
    Proxy {
        /// Host and port.
        host: String,
        /// Host and port of the proxy.
        proxy: String,
        /// What went wrong, in fixed words.
        reason: &'static str,
    },
    /// The proxy wants to know who asks, and was not told or does not accept it.
    #[error(
        "the proxy {proxy} did not accept the username and password for it, or their absence (HTTP 407), and so {host} was not reached"
    )]
    ProxyAuthentication {
        /// Host and port.
        host: String,
        /// Host and port of the proxy.
        proxy: String,
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

/// The error for an address that may not be asked.
pub(super) fn refused_address(reach: Reach, host: String) -> Error {
    match reach {
        Reach::Private => Error::PrivateAddress { host },
        Reach::Forbidden | Reach::Loopback | Reach::Public => Error::ForbiddenAddress { host },
    }
}

/// Sorts a client error by cause. The error itself holds the URL, so it goes no further than here.
pub(super) fn classify(error: &reqwest::Error, host: &str, proxy: Option<&str>) -> Error {
    let failed = |reason| match proxy {
        Some(proxy) => Error::Proxy { host: host.to_owned(), proxy: proxy.to_owned(), reason },
        None => Error::Connect { host: host.to_owned(), reason },
    };
    // Whose certificate it is that is not accepted.
    let mut peer = host;
    let mut kind = None;
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<ResolveError>() {
            return match found {
                ResolveError::Forbidden => refused_address(Reach::Forbidden, host.to_owned()),
                ResolveError::Private => refused_address(Reach::Private, host.to_owned()),
                ResolveError::Lookup(_) | ResolveError::NoAddress => failed(NO_SUCH_NAME),
            };
        }
        if let (Some(found), Some(proxy)) = (current.downcast_ref::<TunnelError>(), proxy) {
            peer = proxy;
            match found {
                TunnelError::ConnectFailed(_) | TunnelError::Io(_) => {}
                TunnelError::ProxyAuthRequired => {
                    return Error::ProxyAuthentication { host: host.to_owned(), proxy: proxy.to_owned() };
                }
                // The status is not told. tinyproxy answers credentials that are wrong, unlike those that are missing, with 401.
                TunnelError::TunnelUnsuccessful => {
                    return failed("it refused; see whether it allows this host, and whether it knows the username and password");
                }
                TunnelError::TunnelUnexpectedEof => return failed("it closed the connection"),
                TunnelError::MissingHost | TunnelError::ProxyHeadersTooLong => return failed("its answer is not that of a proxy"),
            }
        }
        if let Some(found) = current.downcast_ref::<rustls::Error>() {
            return match found {
                rustls::Error::InvalidCertificate(fault) => Error::Certificate { host: peer.to_owned(), reason: certificate_reason(fault) },
                rustls::Error::PeerIncompatible(_) => failed("it does not speak TLS 1.2 or 1.3 with a common cipher"),
                rustls::Error::InvalidMessage(_) => failed("it does not speak TLS"),
                _ => failed("the TLS handshake failed"),
            };
        }
        if let Some(found) = current.downcast_ref::<std::io::Error>() {
            kind = Some(found.kind());
            if let Some(inner) = found.get_ref() {
                // An I/O error lends its inner error to `get_ref`, not to `source`.
                cause = Some(inner);
                continue;
            }
        }
        cause = current.source();
    }
    if error.is_timeout() {
        Error::Timeout { host: host.to_owned() }
    } else if error.is_connect() {
        failed(kind.map_or("no connection comes about", connect_reason))
    } else {
        Error::Interrupted { host: host.to_owned() }
    }
}

fn connect_reason(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => "connection closed by the other side",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route",
        ErrorKind::PermissionDenied => "this system does not permit it",
        ErrorKind::TimedOut => "timed out",
        _ => "no connection comes about",
    }
}

fn certificate_reason(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => EXPIRED,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => NOT_YET_VALID,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => OTHER_NAME,
        CertificateError::UnknownIssuer => "its authority is not trusted here",
        CertificateError::Revoked => "it has been revoked",
        _ => "it is not valid",
    }
}
