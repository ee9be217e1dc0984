//! The whole job on one machine: a control plane, an OAuth issuer and a git host on loopback, and between them the real daemon, the
//! real helper and real git. Needs Rust and git; leaves nothing behind.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "telling what happens is what this program is for")]
#![allow(unreachable_pub, reason = "the support modules are also the tests'")]
#![allow(dead_code, reason = "not everything that the tests need is needed here")]
#![allow(clippy::unwrap_used, reason = "a demonstration that cannot go on should stop, with the place where")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::json;

#[path = "../tests/it/support/mod.rs"]
mod support;

use support::control_plane::FakeControlPlane;
use support::daemon::{git_with_helper, run, succeed};
use support::git_host::{GitHost, create_repository, git};
use support::issuer::FakeIssuer;
use support::world::{Binaries, RUNNER_ID, World};

const RUNNER_TOKEN: &str = "the-runners-own-api-token";
const CLIENT_ID: &str = "quickstart-app";
const CLIENT_SECRET: &str = "a secret that nobody types on the runner";

#[tokio::main]
async fn main() -> ExitCode {
    match demonstrate().await {
        Ok(()) => {
            println!("\ndone: cloned and pushed; no secret was typed, written to disk or logged");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("\nfailed: {reason}");
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate() -> Result<(), String> {
    let world = World::new(build()?);
    say("a runner host", &format!("made an RSA key in {}", world.directory().display()));

    let issuer = FakeIssuer::start(&[(CLIENT_ID, CLIENT_SECRET)]).await;
    say("an OAuth issuer", &issuer.issuer_url());

    let repositories = world.path("repositories");
    std::fs::create_dir(&repositories).map_err(|error| error.to_string())?;
    let bare = create_repository(&repositories, "project.git").await;
    let live = issuer.tokens();
    let host = GitHost::start(&repositories, move |_, password| live.is_live(password)).await;
    say("a git host", &format!("{}, open to live tokens only", host.url("project.git")));

    let control_plane = FakeControlPlane::start(RUNNER_TOKEN, RUNNER_ID).await;
    let sealed = world.seal(CLIENT_SECRET);
    let mut integration = world.integration(1, &host.host(), CLIENT_ID, &sealed);
    integration["oauth"]["issuerUrl"] = json!(issuer.issuer_url());
    control_plane.set_integrations(vec![integration]);
    say("a control plane", &format!("{}, holding the app's secret sealed for the runner: {}…", control_plane.base_url(), &sealed[..24]));

    let token_file = world.path("token");
    std::fs::write(&token_file, RUNNER_TOKEN).map_err(|error| error.to_string())?;
    std::fs::set_permissions(&token_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(|error| error.to_string())?;
    let source = format!("url = \"{}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"", control_plane.base_url());
    let daemon = world.start(&world.config_with(&source, "")).await;
    let status = daemon.until_synced().await;
    say("scm-agent run", &format!("fetched {} integration from the control plane", status["integrations"].as_array().map_or(0, Vec::len)));

    let mut alone = git(world.directory());
    alone.args(["clone", "--quiet", &host.url("project.git"), "alone"]);
    if run(alone, "").await.status.success() {
        return Err("the git host let git in without a token, so this shows nothing".to_owned());
    }
    say("git clone, alone", "refused, as it should be");

    let with_helper = |directory: &Path, arguments: &[&str]| {
        let mut command = git_with_helper(directory, &world.binaries.helper, daemon.socket());
        command.args(arguments);
        command
    };
    let work = world.path("work");
    succeed(with_helper(world.directory(), &["clone", "--quiet", &host.url("project.git"), "work"])).await;
    say("git clone, helped", "the daemon opened the secret, got a token, wiped the secret and answered git");

    std::fs::write(work.join("hello.txt"), "hello\n").map_err(|error| error.to_string())?;
    succeed(with_helper(&work, &["add", "hello.txt"])).await;
    succeed(with_helper(&work, &["commit", "--quiet", "--message", "Say hello"])).await;
    succeed(with_helper(&work, &["push", "--quiet", "origin", "HEAD:main"])).await;
    let ours = succeed(with_helper(&work, &["rev-parse", "HEAD"])).await;
    let mut at_the_host = git(&bare);
    at_the_host.args(["rev-parse", "main"]);
    if succeed(at_the_host).await != ours {
        return Err("the commit did not arrive at the git host".to_owned());
    }
    say("git push", &format!("commit {} is at the host", &ours[..12]));

    let status = daemon.status().await;
    let token = &status["integrations"][0]["tokens"][0];
    say("scm-agent status", &format!("token {}, {} token request in all", token["state"], issuer.token_requests()));
    if daemon.log().contains(CLIENT_SECRET) {
        return Err("the client secret is in the daemon's log".to_owned());
    }
    if !daemon.terminate().await.success() {
        return Err("the daemon did not end well".to_owned());
    }
    say("SIGTERM", "the daemon drained, removed its socket and ended");
    Ok(())
}

fn say(who: &str, what: &str) {
    println!("{who:<18} {what}");
}

/// Builds the two programs in the profile that this one was built in, and says where they are.
fn build() -> Result<Binaries, String> {
    let example = std::env::current_exe().map_err(|error| error.to_string())?;
    let target: PathBuf = example.ancestors().nth(2).ok_or("cannot tell where the programs are built")?.to_owned();
    let release = target.ends_with("release");
    say("cargo build", if release { "scm-agent and its helper, once (a minute or two)" } else { "scm-agent and its helper" });
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(directory) = target.parent() {
        cargo.arg("--target-dir").arg(directory);
    }
    if release {
        cargo.arg("--release");
    }
    match cargo.status() {
        Ok(status) if status.success() => Ok(Binaries { agent: target.join("scm-agent"), helper: target.join("git-credential-scm-agent") }),
        Ok(_) => Err("the build failed".to_owned()),
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}
