//! The integration tests: one module per part of `src`, against in-process fakes on loopback.
#![allow(unreachable_pub, reason = "the support modules are also the quickstart's")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod access;
mod api;
mod askpass;
mod bearer;
mod child;
mod config;
mod current;
mod docs;
mod doctor;
mod explain;
mod flow;
mod git;
mod git_setup;
mod grants;
mod healing;
mod helper;
mod hostile_memory;
mod http;
mod integration;
mod key;
mod login_cli;
mod logs;
mod metrics;
mod oauth;
mod oauth_app;
mod oracle;
mod pats;
mod probe;
mod redirect;
mod reload;
mod revocation;
mod root;
mod rotation;
mod sandbox;
mod service;
mod state;
mod store;
mod support;

/// The programs under test.
fn binaries() -> support::world::Binaries {
    support::world::Binaries {
        agent: env!("CARGO_BIN_EXE_scm-agent").into(),
        helper: env!("CARGO_BIN_EXE_git-credential-scm-agent").into(),
    }
}
