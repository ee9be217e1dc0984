//! Serves git on a runner host with access tokens made from sealed OAuth app secrets.
//!
//! The folders are the flow: [`api`] fetches the runner's SCM integrations, [`integration`] says which of them answers for a
//! URL, [`key`] opens its secret, [`oauth`] turns that into an access token, [`git`] writes the answer. [`broker`] is the
//! flow in one function; [`agent`] is the daemon around it. `ARCHITECTURE.md` has the picture and the import rules.

pub mod agent;
pub mod api;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod denial;
pub mod error;
pub mod explain;
pub mod git;
pub mod harden;
pub mod http;
pub mod integration;
pub mod key;
pub mod login;
pub mod metrics;
pub mod oauth;
pub mod oauth_app;
pub mod sandbox;
pub mod secret;
pub mod service;
mod socket_trust;
pub mod state;
pub mod status;
pub mod store;
mod sys;
