//! What the tests and the quickstart share: in-process fakes on loopback ports.

pub mod control_plane;
pub mod http;
pub mod issuer;
