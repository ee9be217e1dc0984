//! The integration tests: one module per part of `src`, against in-process fakes on loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod agent;
mod api;
mod config;
mod flow;
mod git;
mod helper;
mod integration;
mod key;
mod leaks;
mod oauth;
mod support;
