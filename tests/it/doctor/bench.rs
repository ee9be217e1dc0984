//! A runner host to break: one thing at a time, for real, and then mended as doctor says.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use crate::support::daemon::{Daemon, run};
use crate::support::world::World;

/// The configuration of a sound host, without the sections that rows put in other words.
pub const SOURCE: &str = "[control_plane]\nfile = \"integrations.json\"\npoll_interval = \"1s\"\n";
pub const KEY: &str = "[key]\nfiles = [\"runner.pem\"]\n";
pub const AGENT: &str = "[agent]\nsocket = \"agent.sock\"\nstate_dir = \"state\"\nallow_insecure_loopback = true\n";

/// The host.
pub struct Bench {
    pub world: World,
    /// Variables of doctor's and of what it says to run.
    pub environment: Vec<(String, String)>,
}

/// What doctor found.
pub struct Report {
    pub code: Option<i32>,
    pub checks: Vec<Value>,
    pub text: String,
}

/// What is expected of a broken setup.
pub struct Expected<'a> {
    pub check: &'a str,
    pub state: &'a str,
    /// Words of its sentence.
    pub words: &'a [&'a str],
    /// Words of what it says to do.
    pub next: &'a [&'a str],
}

/// A failed check.
pub fn fail<'a>(check: &'a str, words: &'a [&'a str], next: &'a [&'a str]) -> Expected<'a> {
    Expected { check, state: "fail", words, next }
}

/// A check that warns.
pub fn warn<'a>(check: &'a str, words: &'a [&'a str], next: &'a [&'a str]) -> Expected<'a> {
    Expected { check, state: "warn", words, next }
}

impl Bench {
    /// A sound host with an empty list.
    pub fn new() -> Self {
        let world = World::with_key(crate::binaries(), "x25519");
        world.write_list(&[]);
        std::fs::create_dir(world.path("home")).unwrap();
        let bench = Self { world, environment: Vec::new() };
        bench.configure(&[SOURCE, KEY, AGENT]);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Writes a file of the host's with mode 0600.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        self.mode(name, 0o600);
        path
    }

    pub fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Writes the configuration.
    pub fn configure(&self, parts: &[&str]) -> PathBuf {
        self.write("config.toml", &parts.concat())
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub async fn start(&self) -> Daemon {
        let daemon = self.world.start(&self.config()).await;
        daemon.until(|status| status["sync"]["last_attempt"].is_u64()).await;
        daemon
    }

    /// The same environment for doctor and for what it says to run.
    pub fn surround(&self, command: &mut Command) {
        let home = self.home();
        command.current_dir(&home).env("PATH", self.path_variable()).env("HOME", &home).env("XDG_CONFIG_HOME", &home);
        // Root's `git setup` writes the system's file: never this machine's.
        command
            .env("GIT_CONFIG_SYSTEM", self.path("system"))
            .env("GIT_CONFIG_NOSYSTEM", "0")
            .env("GIT_CEILING_DIRECTORIES", "/")
            .env("NO_PROXY", "127.0.0.1,localhost");
        for name in ["SCM_AGENT_CONFIG", "SCM_AGENT__AGENT__SOCKET", "GIT_ASKPASS", "SSH_ASKPASS", "GIT_SSL_NO_VERIFY", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
        for name in ["https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_CONFIG_COUNT", "GIT_CONFIG_GLOBAL"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    fn path_variable(&self) -> std::ffi::OsString {
        let own = std::iter::once(self.path("bin"));
        let found = self.world.path_with_helper();
        std::env::join_paths(own.chain(std::env::split_paths(&found))).unwrap()
    }

    /// Puts a program before all others in PATH.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.path("bin");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub async fn doctor(&self) -> Report {
        self.doctor_with(&self.config(), &[]).await
    }

    pub async fn doctor_with(&self, config: &Path, more: &[&str]) -> Report {
        let mut command = Command::from(self.world.agent(&["doctor", "--json", "--config"]));
        command.arg(config).args(more);
        self.surround(&mut command);
        Report::of(run(command, "").await)
    }

    /// Runs a line as doctor prints it: `sudo` is left out, and so is what stands after the command.
    pub async fn run(&self, line: &str, input: &str) {
        let mut command = Command::new("sh");
        command.args(["-c", &line.replace("sudo ", "")]);
        self.surround(&mut command);
        command.env("SCM_AGENT_CONFIG", self.config());
        let output = run(command, input).await;
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The command in a remedy, from its first word on, up to what ends it.
    pub fn command_in(next: &str, first: &str, end: &str) -> String {
        let at = next.find(first).unwrap_or_else(|| panic!("no {first:?} in {next:?}"));
        next[at..].split(end).next().unwrap().trim().to_owned()
    }

    /// Runs git for the user of the host.
    pub async fn git_config(&self, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.args(["config", "--global"]).args(arguments);
        self.surround(&mut command);
        let output = run(command, "").await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Report {
    pub fn of(output: std::process::Output) -> Self {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
        let checks = document["checks"].as_array().unwrap().clone();
        let failed = checks.iter().any(|check| check["state"] == "fail");
        assert_eq!((document["healthy"].as_bool(), output.status.code()), (Some(!failed), Some(i32::from(failed))), "{text}");
        assert!(!text.contains("canary"), "{text}");
        for check in &checks {
            let wants_remedy = check["state"] == "fail" || check["state"] == "warn";
            assert_eq!(wants_remedy, check["next"].as_str().is_some_and(|next| !next.is_empty()), "{check}");
        }
        Self { code: output.status.code(), checks, text }
    }

    /// Asserts that a check came out so; what it says to do.
    #[track_caller]
    pub fn expect(&self, expected: &Expected<'_>) -> String {
        let Expected { check: name, state, words, next } = expected;
        let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let is_it = |check: &&Value| {
            check["name"] == *name && check["state"] == *state && words.iter().all(|word| text(check, "detail").contains(word))
        };
        let found = self.checks.iter().find(is_it).unwrap_or_else(|| panic!("no {state} of {name} with {words:?} in {}", self.text));
        let remedy = text(found, "next");
        assert!(next.iter().all(|word| remedy.contains(word)), "{next:?} is not in {found}");
        if *state == "fail" {
            assert_eq!(self.code, Some(1));
        }
        remedy
    }

    /// Asserts that a check is fine, and nothing else is said by its name.
    #[track_caller]
    pub fn expect_ok(&self, name: &str) {
        let states: Vec<&Value> = self.checks.iter().filter(|check| check["name"] == name).map(|check| &check["state"]).collect();
        assert!(!states.is_empty() && states.iter().all(|state| **state == "ok"), "{name}: {}", self.text);
    }

    /// Asserts that nothing is said by that name, or nothing that is not fine.
    #[track_caller]
    pub fn expect_quiet(&self, name: &str) {
        let bad = self.checks.iter().find(|check| check["name"] == name && (check["state"] == "fail" || check["state"] == "warn"));
        assert!(bad.is_none(), "{}", self.text);
    }
}
