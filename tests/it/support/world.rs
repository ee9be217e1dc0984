//! A runner host in a temporary directory: a key, a saved list of integrations, a configuration, and the real binaries.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command as StdCommand;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use scm_agent::key::{LoadOptions, RunnerPublicKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::daemon::{Daemon, git_with_helper, run};

/// The runner that everything belongs to.
pub const RUNNER_ID: &str = "0196f3a4-7d5c-7b51-9d2f-3f6f8a1c0e11";

/// Where the two programs are.
#[derive(Clone)]
pub struct Binaries {
    pub agent: PathBuf,
    pub helper: PathBuf,
}

/// The host.
pub struct World {
    pub binaries: Binaries,
    directory: TempDir,
}

impl World {
    /// Makes the host with a new RSA key.
    pub fn new(binaries: Binaries) -> Self {
        Self::with_key(binaries, "rsa-2048")
    }

    /// Makes the host with a new key of an algorithm, as `keygen` names them.
    pub fn with_key(binaries: Binaries, algorithm: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = Self { binaries, directory };
        world.make_key("runner.pem", algorithm);
        world
    }

    /// Makes a further key; the bytes that a control plane registers of it.
    pub fn make_key(&self, name: &str, algorithm: &str) -> Vec<u8> {
        let made = self.agent(&["keygen", "--algorithm", algorithm, "--out"]).arg(self.path(name)).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        STANDARD.decode(self.show_key(name)["public_key_base64"].as_str().unwrap()).unwrap()
    }

    /// What `key show --json` says of a key.
    pub fn show_key(&self, name: &str) -> Value {
        let shown = self.agent(&["key", "show", "--json"]).arg(self.path(name)).output().unwrap();
        serde_json::from_slice(&shown.stdout).unwrap()
    }

    /// A path below the host's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The host's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The socket that the configurations name.
    pub fn socket(&self) -> PathBuf {
        self.path("agent.sock")
    }

    /// `scm-agent` with arguments, away from the machine's own configuration.
    pub fn agent(&self, arguments: &[&str]) -> StdCommand {
        let mut command = StdCommand::new(&self.binaries.agent);
        command.args(arguments).env_remove("SCM_AGENT_CONFIG").env_remove("ONA_API_KEY").env_remove("GITPOD_API_KEY");
        command
    }

    /// `PATH` with the helper in it, as where it is installed.
    pub fn path_with_helper(&self) -> OsString {
        let folder = self.binaries.helper.parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).unwrap()
    }

    /// Encrypts a client secret for the host's key, as the control plane stores it.
    pub fn seal(&self, secret: &str) -> String {
        self.seal_for("runner.pem", secret)
    }

    /// Encrypts a client secret for the key in that file.
    pub fn seal_for(&self, key: &str, secret: &str) -> String {
        use std::io::Write;
        let mut child = self
            .agent(&["seal", "--key"])
            .arg(self.path(key))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Encrypts bytes that need not be a client secret, which `seal` refuses to.
    pub fn seal_anything(&self, bytes: &[u8]) -> String {
        use base64::Engine;
        let key = RunnerPublicKey::load(&self.path("runner.pem"), &LoadOptions::default()).unwrap();
        base64::prelude::BASE64_STANDARD.encode(key.seal(bytes).unwrap())
    }

    /// An integration with an OAuth app, as the control plane lists it.
    pub fn integration(&self, number: u16, host: &str, client_id: &str, sealed: &str) -> Value {
        json!({
            "id": format!("0196f3a4-0000-7000-8000-{number:012}"),
            "scmId": "custom",
            "host": host,
            "runnerId": RUNNER_ID,
            "oauth": { "clientId": client_id, "encryptedClientSecret": sealed },
        })
    }

    /// Writes the saved list that [`World::config`] names.
    pub fn write_list(&self, integrations: &[Value]) {
        let list = json!({ "pagination": {}, "integrations": integrations });
        std::fs::write(self.path("new.json"), list.to_string()).unwrap();
        std::fs::rename(self.path("new.json"), self.path("integrations.json")).unwrap();
    }

    /// Writes a configuration that takes the integrations from the saved list; `more` is appended.
    pub fn config(&self, more: &str) -> PathBuf {
        self.config_with("file = \"integrations.json\"\npoll_interval = \"1s\"", more)
    }

    /// Writes a configuration with the given lines in `[control_plane]`; `more` is appended.
    pub fn config_with(&self, control_plane: &str, more: &str) -> PathBuf {
        let path = self.path("config.toml");
        let text = format!(
            "[control_plane]\n{control_plane}\n\n[key]\nfiles = [\"runner.pem\"]\n\n[log]\nlevel = \"trace\"\n\n\
             [agent]\nsocket = \"agent.sock\"\nstate_dir = \"state\"\nallow_insecure_loopback = true\n\n{more}\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The daemon's program, not started.
    pub fn daemon_command(&self) -> Command {
        let mut command = Command::from(self.agent(&[]));
        command.current_dir(self.directory());
        command
    }

    /// Starts the daemon with the configuration of that path.
    pub async fn start(&self, config: &Path) -> Daemon {
        Daemon::start(self.daemon_command(), config, &self.socket()).await
    }

    /// What `git credential fill` prints for a host, and whether it succeeded.
    pub async fn fill(&self, daemon: &Daemon, protocol: &str, host: &str) -> (bool, String, String) {
        let mut command = git_with_helper(self.directory(), &self.binaries.helper, daemon.socket());
        command.args(["credential", "fill"]);
        let output = run(command, &format!("protocol={protocol}\nhost={host}\n\n")).await;
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}
