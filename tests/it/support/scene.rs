//! A runner host in the middle of things: a control plane that lists integrations of an app, and the app's issuer.
#![allow(dead_code, reason = "each of those who include this file uses a part of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::control_plane::FakeControlPlane;
use super::daemon::{Daemon, git_with_helper, run};
use super::issuer::FakeIssuer;
use super::world::{Binaries, RUNNER_ID, World};

/// The control plane's token.
pub const BEARER: &str = "runner-token-0123456789";
/// The app's id.
pub const CLIENT_ID: &str = "app-1";
/// The app's secret, with characters that forms and headers have to encode.
pub const CLIENT_SECRET: &str = "s3cret ~%+/ of the app";

/// A host with a control plane, an issuer and a daemon between them.
pub struct Scene {
    pub world: World,
    pub control_plane: FakeControlPlane,
    pub issuer: FakeIssuer,
}

impl Scene {
    pub async fn new(binaries: Binaries) -> Self {
        Self::in_world(World::new(binaries)).await
    }

    pub async fn in_world(world: World) -> Self {
        let scene = Self {
            world,
            control_plane: FakeControlPlane::start(BEARER, RUNNER_ID).await,
            issuer: FakeIssuer::start(&[(CLIENT_ID, CLIENT_SECRET)]).await,
        };
        scene.use_token(BEARER);
        scene
    }

    /// Puts another token into the token file.
    pub fn use_token(&self, token: &str) {
        let new = self.world.path("new-token");
        std::fs::write(&new, format!("{token}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(new, self.world.path("token")).unwrap();
    }

    /// The configuration that points at the control plane.
    pub fn config(&self, poll_interval: &str) -> PathBuf {
        let url = self.control_plane.base_url();
        let lines = format!("url = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"{poll_interval}\"");
        self.world.config_with(&lines, "")
    }

    /// Starts the daemon and waits for the first answer of the control plane, good or bad.
    pub async fn start(&self, poll_interval: &str) -> Daemon {
        let daemon = self.world.start(&self.config(poll_interval)).await;
        daemon.until(|status| status["sync"]["last_attempt"].is_u64()).await;
        daemon
    }

    /// An integration of the issuer's app for a host, with a ciphertext of its own.
    pub fn integration(&self, number: u16, host: &str) -> Value {
        let sealed = self.world.seal_anything(CLIENT_SECRET.as_bytes());
        let mut integration = self.world.integration(number, host, CLIENT_ID, &sealed);
        integration["oauth"]["issuerUrl"] = json!(self.issuer.issuer_url());
        integration
    }

    /// What git gets for a host, or what it is told instead.
    pub async fn token(&self, daemon: &Daemon, host: &str) -> Result<String, String> {
        let mut command = git_with_helper(self.world.directory(), &self.world.binaries.helper, daemon.socket());
        command.args(["credential", "fill"]).env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "/bin/false");
        let output = run(command, &format!("protocol=https\nhost={host}\n\n")).await;
        let answer = String::from_utf8(output.stdout).unwrap();
        let password = answer.lines().find_map(|line| line.strip_prefix("password=")).map(str::to_owned);
        password.ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
