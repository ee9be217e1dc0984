//! Users' own grants, with the real daemon: signing in, being served, being renewed, and the end.

mod bench;
mod clock;
mod crash;
pub mod disk;
pub mod host;
mod pace;

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::daemon::{Daemon, PATIENCE, git_with_helper, run};
use crate::support::scene::Scene;
use crate::support::world::World;
use host::{Host, USER};

pub const SCM: &str = "scm.example.com";
pub const URL: &str = "https://scm.example.com";

/// What the helper asks.
pub const GET: &str = "scm-agent/1 get\nprotocol=https\nhost=scm.example.com\n\n";

/// A runner host with an integration whose users sign in.
pub struct Stage {
    pub scene: Scene,
    pub host: Host,
}

impl Stage {
    pub async fn new() -> Self {
        let stage = Self { scene: Scene::in_world(World::with_key(crate::binaries(), "x25519")).await, host: Host::start().await };
        let mut integration = stage.scene.integration(1, SCM);
        integration["oauth"]["issuerUrl"] = json!(stage.host.issuer_url());
        stage.scene.control_plane.set_integrations(vec![integration]);
        stage
    }

    pub async fn start(&self) -> Daemon {
        self.start_by(self.scene.world.daemon_command()).await
    }

    /// Starts the daemon by a command that ends in its program.
    pub async fn start_by(&self, command: Command) -> Daemon {
        let daemon = Daemon::start(command, &self.scene.config("60s"), &self.scene.world.socket()).await;
        // With a kept list it would take its time.
        daemon.ask("scm-agent/1 sync\n\n").await;
        daemon.until_synced().await;
        daemon
    }

    /// Signs in with a device code that the user confirms at once.
    pub async fn sign_in(&self, daemon: &Daemon, account: &str) -> Value {
        self.host.confirm(true);
        let account = if account.is_empty() { String::new() } else { format!("account={account}\n") };
        let begun = ask(daemon, "login", &format!("url={URL}\nmode=device\n{account}")).await;
        let session = begun["session"].as_str().unwrap_or_else(|| panic!("{begun}"));
        let progress = until_over(daemon, session).await;
        assert_eq!(progress["state"], "done", "{progress}");
        progress
    }

    /// Signs in with a browser that is as fast as it gets.
    pub async fn sign_in_with_browser(&self, daemon: &Daemon) {
        let begun = ask(daemon, "login", &format!("url={URL}\nmode=browser\nredirect_uri=http://127.0.0.1:1/\n")).await;
        let redirect = self.host.sign_in(begun["authorize_url"].as_str().unwrap_or_else(|| panic!("{begun}")));
        let (session, query) = (begun["session"].as_str().unwrap(), redirect.query().unwrap());
        let done = ask(daemon, "login-finish", &format!("session={session}\nquery={query}\n")).await;
        assert_eq!(done["state"], "done", "{done}");
    }

    /// What the daemon answers for git, or tells it.
    pub async fn get(&self, daemon: &Daemon) -> Result<String, String> {
        let answer = daemon.ask(GET).await;
        let password = answer.lines().find_map(|line| line.strip_prefix("password=")).map(str::to_owned);
        password.ok_or(answer)
    }

    /// What git gets, or is told.
    pub async fn token(&self, daemon: &Daemon) -> Result<String, String> {
        self.scene.token(daemon, SCM).await
    }

    /// Has the daemon take a token for refused by its host, which took it before: else it would not be replaced again and again.
    pub async fn erase(&self, daemon: &Daemon, token: &str) {
        for operation in ["store", "erase"] {
            daemon.ask(&format!("scm-agent/1 {operation}\nprotocol=https\nhost={SCM}\nusername=x\npassword={token}\n\n")).await;
        }
    }
}

pub async fn ask(daemon: &Daemon, verb: &str, fields: &str) -> Value {
    let answer = daemon.ask(&format!("scm-agent/1 {verb}\n{fields}\n")).await;
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no JSON: {answer}"))
}

pub async fn until_over(daemon: &Daemon, session: &str) -> Value {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let progress = ask(daemon, "login-wait", &format!("session={session}\n")).await;
            if progress["state"] != "pending" {
                return progress;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    waited.await.unwrap()
}

/// The first grant that the status shows.
pub fn grant(status: &Value) -> &Value {
    &status["integrations"][0]["tokens"][0]
}

#[tokio::test]
async fn a_user_who_signs_in_with_a_device_code_is_served_and_stays_so_after_a_restart() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    let before = stage.token(&daemon).await.unwrap_err();
    assert!(before.contains(&format!("no token for {SCM}: nobody is signed in; run: scm-agent login {URL}")), "{before}");

    let begun = ask(&daemon, "login", &format!("url={URL}/group/project.git\nmode=device\n")).await;
    assert_eq!((begun["user_code"].as_str(), begun["interval_seconds"].as_u64()), (Some("AB-CD"), Some(1)), "{begun}");
    let session = begun["session"].as_str().unwrap();
    assert_eq!(ask(&daemon, "login-wait", &format!("session={session}\n")).await["state"], "pending");
    stage.host.confirm(true);
    let done = until_over(&daemon, session).await;
    assert_eq!((&done["state"], &done["account"], &done["host"]), (&json!("done"), &json!(USER), &json!(SCM)));
    let token = stage.token(&daemon).await.unwrap();
    assert!(stage.host.lives(&token));
    let accounts = ask(&daemon, "accounts", "").await;
    assert_eq!((&accounts["accounts"][0]["account"], &accounts["accounts"][0]["state"]), (&json!(USER), &json!("valid")));
    let status = daemon.status().await;
    assert_eq!((&status["store"], &status["degraded"]), (&json!({ "kind": "file", "healthy": true }), &json!([])));
    assert_eq!(grant(&status)["state"], "valid");
    assert!(grant(&status)["subject"].as_str().unwrap().ends_with(" as mona"));
    assert!(!daemon.log().contains(&token) && !daemon.log().contains("refresh_1"));
    assert!(daemon.terminate().await.success());

    let daemon = stage.start().await;
    assert_eq!(stage.token(&daemon).await, Ok(token));
    assert_eq!(stage.host.refreshes_asked(), 0);
}

#[tokio::test]
async fn a_user_signs_in_with_a_browser_through_the_command_line() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    let mut command = Command::new(crate::binaries().agent);
    command.args(["login", URL, "--browser", "--json"]).env_clear().env("SCM_AGENT__AGENT__SOCKET", daemon.socket());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let begun: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    let redirect = stage.host.sign_in(begun["authorize_url"].as_str().unwrap());
    let mut browser = TcpStream::connect(("127.0.0.1", redirect.port().unwrap())).await.unwrap();
    let visit = format!("GET /?{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", redirect.query().unwrap(), redirect.port().unwrap());
    browser.write_all(visit.as_bytes()).await.unwrap();
    let mut page = String::new();
    browser.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let done: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&done["state"], &done["account"]), (&json!("done"), &json!(USER)), "{done}");
    assert!(child.wait().await.unwrap().success());
    assert!(stage.host.lives(&stage.token(&daemon).await.unwrap()));
}

#[tokio::test]
async fn a_hundred_requests_on_a_dead_token_cause_one_refresh_and_the_new_pair_serves_the_next_one() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    for round in 1..=2 {
        let dead = stage.token(&daemon).await.unwrap();
        stage.erase(&daemon, &dead).await;
        let mut fills = JoinSet::new();
        for _ in 0..50 {
            let mut command = git_with_helper(stage.scene.world.directory(), &stage.scene.world.binaries.helper, daemon.socket());
            command.args(["credential", "fill"]);
            fills.spawn(run(command, "protocol=https\nhost=scm.example.com\n\n"));
        }
        while let Some(output) = fills.join_next().await {
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("password=access_{}\n", round + 1)));
        }
        assert_eq!((stage.host.refreshes_asked(), stage.host.replays()), (round, 0));
    }
}

#[tokio::test]
async fn of_several_accounts_the_user_name_says_which() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "work").await;
    stage.sign_in(&daemon, "home").await;
    let told = stage.token(&daemon).await.unwrap_err();
    assert!(told.contains("home, work; say which: git config credential.https://scm.example.com.username NAME"), "{told}");
    let fill = |name: &str| {
        let text = format!("scm-agent/1 get\nprotocol=https\nhost={SCM}\nusername={name}\n\n");
        let daemon = &daemon;
        async move { daemon.ask(&text).await }
    };
    assert!(fill("work").await.contains("password=access_1\n"));
    assert!(fill("home").await.contains("password=access_2\n"));
    assert_eq!(fill("other").await, "\n");
    // Signed out of one, the other is the only one.
    let gone = ask(&daemon, "logout", &format!("url={URL}\naccount=work\n")).await;
    assert_eq!(gone["removed"], json!([{ "host": SCM, "account": "work", "grant": "user", "revoked": true }]));
    assert_eq!(stage.token(&daemon).await.as_deref(), Ok("access_2"));
    assert_eq!((stage.host.revoked(), stage.host.lives("access_1"), stage.host.live_pairs()), (2, false, 1));
}

#[tokio::test]
async fn a_grant_whose_integration_is_removed_is_gone_and_revoked() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    stage.scene.control_plane.set_integrations(Vec::new());
    daemon.ask("scm-agent/1 sync\n\n").await;
    let waited = tokio::time::timeout(PATIENCE, async {
        while stage.host.live_pairs() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap();
    assert_eq!(ask(&daemon, "accounts", "").await["accounts"], json!([]));
}

#[tokio::test]
async fn a_refused_refresh_is_said_everywhere_and_never_tried_again() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    let token = stage.token(&daemon).await.unwrap();
    stage.host.refuse();
    stage.erase(&daemon, &token).await;
    for _ in 0..5 {
        let told = stage.token(&daemon).await.unwrap_err();
        assert!(told.contains("the sign-in is over") && told.contains(&format!("run: scm-agent login {URL} --account {USER}")), "{told}");
    }
    let status = daemon.status().await;
    assert_eq!(grant(&status)["state"], "needs_login");
    assert!(grant(&status)["last_error"].as_str().unwrap().contains("invalid_grant"));
    let mut doctor = Command::from(stage.scene.world.agent(&["doctor", "--config"]));
    doctor.arg(stage.scene.world.path("config.toml"));
    let report = String::from_utf8(run(doctor, "").await.stdout).unwrap();
    assert!(report.contains("warn  sign-ins") && report.contains(&format!("scm-agent login {URL} --account {USER}")), "{report}");
    assert!(daemon.terminate().await.success());
    let daemon = stage.start().await;
    stage.token(&daemon).await.unwrap_err();
    assert_eq!(stage.host.refreshes_asked(), 1, "{}", daemon.log());
}

#[tokio::test]
async fn a_host_in_trouble_costs_no_grant() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    let token = stage.token(&daemon).await.unwrap();
    stage.host.set_unavailable(true);
    stage.erase(&daemon, &token).await;
    assert!(stage.token(&daemon).await.unwrap_err().contains("HTTP 503"));
    assert_eq!(grant(&daemon.status().await)["state"], "failing");
    stage.host.set_unavailable(false);
    let waited = tokio::time::timeout(PATIENCE, async {
        while stage.token(&daemon).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    waited.await.unwrap();
    assert_eq!(stage.host.replays(), 0);
}

#[tokio::test]
async fn a_cancelled_sign_in_leaves_nothing_and_other_words_than_ours_get_an_error() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    let begun = ask(&daemon, "login", &format!("url={URL}\nmode=device\n")).await;
    let session = format!("session={}\n", begun["session"].as_str().unwrap());
    assert_eq!(ask(&daemon, "login-cancel", &session).await, json!({ "cancelled": true }));
    assert_eq!(ask(&daemon, "login-cancel", &session).await, json!({ "cancelled": false }));
    stage.host.confirm(true);
    assert_eq!(ask(&daemon, "login-wait", &session).await["state"], "failed");
    assert_eq!(ask(&daemon, "accounts", "").await["accounts"], json!([]));
    for (fields, error) in [
        ("url=https://other.example.com\nmode=device\n", "https://other.example.com is no host of this agent's"),
        ("url=ssh://scm.example.com\nmode=device\n", "no sign-in there: protocol is not https"),
        ("url=https://scm.example.com\n", "the request does not say everything that it has to"),
        ("url=https://scm.example.com\nmode=browser\nredirect_uri=https://evil.example/\n", "the redirect URI is not an http URL of"),
        ("url=https://scm.example.com\nmode=device\naccount=a b\n", "the account's name may have"),
    ] {
        let answer = ask(&daemon, "login", fields).await;
        assert!(answer["error"].as_str().unwrap().contains(error), "{answer}");
    }
}
