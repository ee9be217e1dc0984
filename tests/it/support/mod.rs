//! What the tests and the quickstart share: in-process fakes on loopback ports.

pub mod captured;
pub mod control_plane;
pub mod daemon;
pub mod git_host;
pub mod hostile;
pub mod http;
pub mod issuer;
pub mod manners;
pub mod memory;
pub mod proxy;
pub mod scene;
pub mod world;
