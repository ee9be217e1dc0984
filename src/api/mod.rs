//! Stage 1: fetches the runner's SCM integrations from the control plane, or from a saved reply in a file.
//!
//! The control plane is not trusted with more than it needs: every reply is bounded before it is read, a list is whole or an
//! error, and what goes wrong is said without its URL, its body or the token.

mod bounded_file;
mod budget;
mod connect;
mod control_plane;
mod envelope;
mod error;
mod file;
mod followed_file;
mod message;
mod proto_json;
mod replaceable;
mod token;
mod watch;

pub use bounded_file::FileError;
pub use connect::{Code, Refusal};
pub use control_plane::{Config, ControlPlane};
pub use envelope::EnvelopeError;
pub use error::{Error, PagingError};
pub use file::IntegrationFile;
pub use message::MessageError;
pub use replaceable::Replaceable;
pub use token::TokenSource;
pub use watch::EventStream;

/// The most integrations that a runner may have.
pub const MAX_INTEGRATIONS: usize = 5_000;

/// The longest saved reply in bytes.
pub const MAX_FILE_BYTES: usize = 8 * 1024 * 1024;

/// The longest list in bytes, all its pages together: [`MAX_INTEGRATIONS`] of 600 bytes, which is more than one takes with a secret
/// for an X25519 key, or 4,000 with secrets for an RSA-2048 key. A list takes two to three times its length in memory, and the list
/// of before is still there while the next is read.
pub const MAX_LIST_BYTES: usize = 3 * 1024 * 1024;

/// The longest page of a list in bytes. A page has a hundred integrations, so this is 20 KiB for each.
pub const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
