//! Tests of `http`: addresses, redirects, certificates and proxies, without a stage on top and through the daemon.

mod addresses;
mod certificates;
mod daemon;
mod proxy;
mod redirects;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use scm_agent::http::{Client, Config, Error, Lookup, Request};
use tempfile::TempDir;
use url::Url;

use crate::support::http::TestAuthority;

/// Long enough for any machine: nothing here is about time.
const PATIENT: Duration = Duration::from_secs(60);

/// A client of this configuration.
fn client(change: impl FnOnce(&mut Config)) -> Client {
    let mut config = Config { connect_timeout: PATIENT, timeout: PATIENT, ..Config::default() };
    change(&mut config);
    Client::new(&config).unwrap()
}

/// The status of what a GET is answered with.
async fn get(client: &Client, url: &str) -> Result<u16, Error> {
    client.send(Request::get(Url::parse(url).unwrap())).await.map(|reply| reply.status)
}

/// Answers lookups by a script, the last line of it for ever, and remembers what it was asked.
struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let addresses = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers.iter().map(addresses).collect()), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Lookup for Script {
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(name);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { Ok(answer.unwrap_or_default()) })
    }
}

/// The authority's certificate in a file.
fn ca_file(authority: &TestAuthority) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    (folder, path)
}
