//! Stage 1: fetches the runner's SCM integrations from the control plane, or from a saved reply in a file.
//!
//! The control plane is not trusted with more than it needs: every reply is bounded before it is read, a list is whole or an
//! error, and what goes wrong is said without its URL, its body or the token.

mod bounded_file;
mod connect;
mod control_plane;
mod envelope;
mod error;
mod file;
mod followed_file;
mod message;
mod proto_json;
mod token;
mod watch;

pub use bounded_file::FileError;
pub use connect::{Code, Refusal};
pub use control_plane::{Config, ControlPlane};
pub use envelope::EnvelopeError;
pub use error::{Error, PagingError};
pub use file::IntegrationFile;
pub use message::MessageError;
pub use token::TokenSource;
pub use watch::EventStream;

/// The most integrations that a runner may have.
pub const MAX_INTEGRATIONS: usize = 5_000;

/// The longest page of a list, and the longest saved reply, in bytes.
pub const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;
