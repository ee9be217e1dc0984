//! Where scrapes are answered: a Unix socket, or a port that this machine alone can reach.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use crate::agent::socket::{self, BoundSocket};

/// Owner and group may connect. Nobody else needs to.
const SOCKET_MODE: u32 = 0o660;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// At a loopback address. Every user of this machine can connect.
    Tcp(SocketAddr),
    /// At a path.
    Unix {
        /// The group that may connect; `None` leaves it to the process.
        gid: Option<u32>,
        /// The socket's path.
        path: PathBuf,
    },
}

/// Why nobody can ask for the metrics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime did not take it.
    #[error("cannot serve metrics: {}", .0.kind())]
    Runtime(#[source] io::Error),
    /// The Unix socket could not be made.
    #[error("cannot serve metrics: {error}{}", because(.error))]
    Socket {
        /// Why.
        error: socket::Error,
    },
    /// The port could not be had.
    #[error("cannot serve metrics at {address}: {}", .source.kind())]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn because(error: &socket::Error) -> String {
    match error {
        socket::Error::System { source, .. } => format!(": {}", source.kind()),
        _ => String::new(),
    }
}

/// A listener that is in place. Dropping it ends it, and takes a Unix socket's file away.
#[derive(Debug)]
pub enum Bound {
    /// On a port.
    Tcp(TcpListener),
    /// On a path.
    Unix(BoundSocket),
}

impl Bound {
    /// Listens; nobody is answered yet.
    ///
    /// # Errors
    /// [`Error`]; a live socket of another daemon's is left alone.
    pub fn bind(address: &Address) -> Result<Self, Error> {
        match address {
            Address::Tcp(address) => {
                let failed = |source| Error::Tcp { address: *address, source };
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener))
            }
            Address::Unix { gid, path } => {
                BoundSocket::bind(path, SOCKET_MODE, *gid).map(Self::Unix).map_err(|error| Error::Socket { error })
            }
        }
    }

    /// Makes the file of a Unix socket again if it is gone; says whether it did.
    ///
    /// # Errors
    /// [`Error::Socket`] when it is gone and cannot be made again.
    pub(super) fn restore(&mut self) -> Result<bool, Error> {
        match self {
            Self::Tcp(_) => Ok(false),
            Self::Unix(socket) => socket.restore().map_err(|error| Error::Socket { error }),
        }
    }
}
