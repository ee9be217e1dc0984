//! Stage 5: git's credential protocol. A request in, an answer out; pure text, no I/O.
//!
//! [`CredentialRequest`] reads what git asks, [`CredentialAnswer`] writes what git is told, [`frame`] is how both travel
//! between helper and daemon, [`relay`] is what the helper lets through to git, and [`askpass`] reads the prompts of git's other way to ask. The parsers work on bytes, split lines on
//! LF only and refuse CR, NUL and control bytes, because each of git's own holes in this protocol (CVE-2020-5260,
//! CVE-2020-11008, CVE-2024-50349, CVE-2024-52006) was a value that two readers split differently.
//!
//! The helper binary compiles this folder on its own: it uses nothing but the standard library and no other module of ours.

pub mod answer;
pub mod askpass;
pub mod frame;
pub mod relay;
pub mod request;
mod url;
mod wiped;

pub use answer::{AnswerError, CredentialAnswer};
pub use request::{CredentialRequest, Password, RequestError};
pub use wiped::Wiped;

/// What git wants of a credential helper (git-credential(1) calls the same three fill, reject and approve).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The server refused this credential: forget it.
    Erase,
    /// Hand out a credential.
    Get,
    /// The server took this credential: keep it.
    Store,
}

impl Operation {
    /// The operation of that name; `None` for any other, which a helper must ignore in silence (gitcredentials(7)).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "erase" => Some(Self::Erase),
            "get" => Some(Self::Get),
            "store" => Some(Self::Store),
            _ => None,
        }
    }

    /// The name that git and the socket use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Erase => "erase",
            Self::Get => "get",
            Self::Store => "store",
        }
    }
}

/// What a helper says to git's `capability` action: the protocol's version, and the optional capabilities, both made use of.
pub const CAPABILITIES: &[u8] = b"version 0\ncapability authtype\ncapability state\n";

/// What each `state[]` of ours begins with: git hands those of all helpers to every helper (git-credential(1)).
pub const STATE_PREFIX: &str = "scm-agent:";

/// Longest `state[]` of ours in bytes, its prefix included.
pub const MAX_STATE_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_the_name_it_is_parsed_from() {
        for operation in [Operation::Erase, Operation::Get, Operation::Store] {
            assert_eq!(Operation::parse(operation.name()), Some(operation));
        }
        for other in ["", "GET", "get ", "fill", "capability", "storeerase"] {
            assert_eq!(Operation::parse(other), None, "{other:?}");
        }
    }
}
