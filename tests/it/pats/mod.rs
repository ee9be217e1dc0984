//! Personal access tokens, with the real daemon: git asks its user, the daemon keeps what works, gives it back, and forgets it.

mod disk;
mod keeping;
mod operator;
mod places;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::daemon::{Daemon, git_with_helper, run};
use crate::support::git_host::{GitHost, create_repository};
use crate::support::world::{RUNNER_ID, World};

/// A runner host with an integration that takes personal access tokens, and the git host behind it.
pub struct Desk {
    pub world: World,
    pub host: GitHost,
    /// User names and tokens that the git host takes.
    accepted: Arc<Mutex<HashSet<(String, String)>>>,
}

/// What git's user is asked and answers.
pub struct Prompt {
    log: PathBuf,
    script: PathBuf,
}

impl Desk {
    pub async fn new() -> Self {
        let world = World::with_key(crate::binaries(), "x25519");
        let root = world.path("repositories");
        std::fs::create_dir(&root).unwrap();
        create_repository(&root, "group/project.git").await;
        let accepted: Arc<Mutex<HashSet<(String, String)>>> = Arc::default();
        let known = Arc::clone(&accepted);
        let accepts = move |user: &str, password: &str| known.lock().unwrap().contains(&(user.to_owned(), password.to_owned()));
        let desk = Self { host: GitHost::start(&root, accepts).await, world, accepted };
        desk.list(true);
        desk
    }

    /// Writes the list with the one integration, which takes personal access tokens or does not.
    pub fn list(&self, pat: bool) {
        self.world.write_list(&[self.integration(pat)]);
    }

    pub fn integration(&self, pat: bool) -> Value {
        integration(1, "gitlab", &self.host.host(), pat)
    }

    pub async fn start(&self) -> Daemon {
        self.start_with("").await
    }

    /// Starts the daemon with more lines of configuration.
    pub async fn start_with(&self, more: &str) -> Daemon {
        let daemon = self.world.start(&self.world.config(more)).await;
        daemon.until_synced().await;
        daemon
    }

    /// Has the git host take a user name with a token, or no more.
    pub fn accept(&self, user: &str, token: &str, accepted: bool) {
        let pair = (user.to_owned(), token.to_owned());
        let mut known = self.accepted.lock().unwrap();
        if accepted {
            known.insert(pair)
        } else {
            known.remove(&pair)
        };
    }

    /// A user who answers git's questions so.
    pub fn prompt(&self, user: &str, token: &str) -> Prompt {
        let (log, script) = (self.world.path("asked"), self.world.path("askpass"));
        let _ = std::fs::remove_file(&log);
        let text =
            format!("#!/bin/sh\necho \"$1\" >>'{}'\ncase \"$1\" in Username*) echo '{user}' ;; *) echo '{token}' ;; esac\n", log.display());
        // Never written to while it may run.
        let new = self.world.path("askpass.new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&new, &script).unwrap();
        Prompt { log, script }
    }

    /// git in the host's directory, whose user answers so.
    pub fn git(&self, daemon: &Daemon, prompt: &Prompt) -> Command {
        let mut command = git_with_helper(self.world.directory(), &self.world.binaries.helper, daemon.socket());
        command.env("GIT_ASKPASS", &prompt.script);
        command
    }

    pub async fn ls_remote(&self, daemon: &Daemon, prompt: &Prompt) -> Output {
        let mut command = self.git(daemon, prompt);
        command.args(["ls-remote", &self.host.url("group/project.git")]);
        run(command, "").await
    }

    /// What the daemon answers to a request of git's for the git host.
    pub async fn ask(&self, daemon: &Daemon, operation: &str, lines: &str) -> String {
        daemon.ask(&format!("scm-agent/1 {operation}\nprotocol=http\nhost={}\n{lines}\n", self.host.host())).await
    }

    /// The lines of `store` or `erase` for a user name with a token.
    pub async fn tell(&self, daemon: &Daemon, operation: &str, user: &str, token: &str) {
        let answer = self.ask(daemon, operation, &format!("username={user}\npassword={token}\n")).await;
        assert_eq!(answer, "\n");
    }

    /// The token that git gets, with its user name.
    pub async fn get(&self, daemon: &Daemon, lines: &str) -> Option<(String, String)> {
        credential(&self.ask(daemon, "get", lines).await)
    }
}

impl Prompt {
    /// How many questions git has asked since the last time.
    pub fn asked(&self) -> usize {
        let asked = std::fs::read_to_string(&self.log).unwrap_or_default();
        let _ = std::fs::remove_file(&self.log);
        asked.lines().count()
    }
}

/// An integration without an app.
pub fn integration(number: u16, scm_id: &str, host: &str, pat: bool) -> Value {
    json!({ "id": format!("0196f3a4-0000-7000-8000-{number:012}"), "scmId": scm_id, "host": host, "runnerId": RUNNER_ID, "pat": pat })
}

/// User name and password of an answer.
pub fn credential(answer: &str) -> Option<(String, String)> {
    let value = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    value("username").zip(value("password"))
}

pub fn pair(user: &str, token: &str) -> Option<(String, String)> {
    Some((user.to_owned(), token.to_owned()))
}

/// What the daemon says of the caller's grants.
pub async fn accounts(daemon: &Daemon) -> Value {
    serde_json::from_str::<Value>(&daemon.ask("scm-agent/1 accounts\n\n").await).unwrap()["accounts"].clone()
}
