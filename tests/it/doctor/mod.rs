//! `doctor` on setups that are broken for real: each fault is named, with what to do about it, and gone once that is done.

pub mod bench;
mod daemon;
mod files;
mod integrations;
mod network;
mod page;
mod programs;
mod tokens;

use std::path::Path;

use serde_json::Value;

use crate::support::control_plane::FakeControlPlane;
use crate::support::daemon::{run, succeed};
use crate::support::git_host::git;
use crate::support::world::{RUNNER_ID, World};

/// What doctor finds, with git configured by `home` and our helper in PATH if it is to be there.
async fn findings(world: &World, config: &Path, home: &Path, helper_in_path: bool) -> (bool, Vec<Value>) {
    let mut command = tokio::process::Command::from(world.agent(&["doctor", "--json", "--config"]));
    let helper_folder = world.binaries.helper.parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = if helper_in_path { format!("{}:{path}", helper_folder.display()) } else { path };
    command.arg(config).env("PATH", path).env("HOME", home).env("XDG_CONFIG_HOME", home).env("GIT_CONFIG_NOSYSTEM", "1");
    command.env_remove("SCM_AGENT__AGENT__SOCKET");
    let output = run(command, "").await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let healthy = document["healthy"].as_bool().unwrap();
    assert_eq!(healthy, output.status.success());
    (healthy, document["checks"].as_array().unwrap().clone())
}

/// Asserts that a check of that name has that state, mentions the detail, and says what to do.
fn assert_found(checks: &[Value], name: &str, state: &str, detail: &str) {
    let found = checks
        .iter()
        .find(|check| check["name"] == name && check["state"] == state && check["detail"].as_str().unwrap().contains(detail))
        .unwrap_or_else(|| panic!("no {state} of {name} with {detail:?} in {checks:#?}"));
    if state == "fail" || state == "warn" {
        assert!(!found["next"].as_str().unwrap_or_default().is_empty(), "{found} says no way out");
    }
}

/// Asserts what to run about the check that mentions the detail.
fn assert_next(checks: &[Value], detail: &str, next: &str) {
    let found = checks.iter().find(|check| check["detail"].as_str().unwrap().contains(detail));
    let found = found.unwrap_or_else(|| panic!("nothing about {detail:?} in {checks:#?}"));
    assert!(found["next"].as_str().unwrap_or_default().contains(next), "{found}");
}

async fn git_config(home: &Path, arguments: &[&str]) {
    let mut command = git(home);
    command.args(["config", "--global"]).args(arguments);
    succeed(command).await;
}

#[tokio::test]
async fn a_sound_setup_is_healthy() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let config = world.config("");
    let daemon = world.start(&config).await;
    daemon.until_synced().await;
    let (healthy, checks) = findings(&world, &config, world.directory(), true).await;
    assert!(healthy, "{checks:#?}");
    for name in ["config", "key", "daemon", "control-plane", "git", "helper"] {
        assert_found(&checks, name, "ok", "");
    }
}

#[tokio::test]
async fn faults_before_the_daemon_are_named() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let home = world.directory();
    let write = |name: &str, text: &str| {
        std::fs::write(world.path(name), text).unwrap();
        world.path(name)
    };
    let source = "[control_plane]\nfile = \"integrations.json\"\n";
    let socket = "[agent]\nsocket = \"agent.sock\"\nstate_dir = \"state\"\n";

    let (healthy, checks) = findings(&world, &world.path("nowhere.toml"), home, true).await;
    assert!(!healthy);
    assert_found(&checks, "config", "fail", "nowhere.toml");

    let misspelt = write("misspelt.toml", &format!("{source}[agent]\nsoket = \"a\"\n"));
    assert_found(&findings(&world, &misspelt, home, true).await.1, "config", "fail", "agent.soket");

    let no_key = write("no-key.toml", &format!("{source}{socket}"));
    assert_found(&findings(&world, &no_key, home, true).await.1, "config", "warn", "key.files");

    let missing = write("missing-key.toml", &format!("{source}{socket}[key]\nfiles = [\"nowhere.pem\"]\n"));
    let (_, checks) = findings(&world, &missing, home, true).await;
    assert_found(&checks, "files", "fail", "key.files");
    assert_found(&checks, "key", "fail", "nowhere.pem");

    let down = write("down.toml", &format!("{source}{socket}[key]\nfiles = [\"runner.pem\"]\n"));
    let (healthy, checks) = findings(&world, &down, home, true).await;
    assert!(!healthy);
    assert_found(&checks, "daemon", "fail", "agent.sock");
    assert_found(&checks, "control-plane", "ok", "0 integrations");

    let unreachable =
        "[control_plane]\nurl = \"http://127.0.0.1:1/api\"\nrunner_id = \"0196f3a4-7d5c-7b51-9d2f-3f6f8a1c0e11\"\ntoken_file = \"token\"\n";
    write("token", "a-token");
    std::fs::set_permissions(world.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let plane = write("plane.toml", &format!("{unreachable}{socket}allow_insecure_loopback = true\n[key]\nfiles = [\"runner.pem\"]\n"));
    assert_found(&findings(&world, &plane, home, true).await.1, "control-plane", "fail", "connection refused");
}

#[tokio::test]
async fn faults_behind_the_daemon_are_named() {
    let world = World::new(crate::binaries());
    let home = world.path("home");
    std::fs::create_dir(&home).unwrap();
    let undecryptable = world.integration(1, "one.example.com", "app", "AAAA");
    let mut unsupported = world.integration(2, "two.example.com", "app", &world.seal("secret"));
    unsupported["oauth"] = Value::Null;
    let mut no_issuer = world.integration(3, "three.example.com", "app", &world.seal("secret"));
    no_issuer["oauth"]["issuerUrl"] = Value::String("http://127.0.0.1:1".to_owned());
    world.write_list(&[undecryptable, unsupported, no_issuer]);
    let config = world.config("");
    let daemon = world.start(&config).await;
    daemon.until(|status| status["integrations"][0]["secret"] == "undecryptable").await;

    let (healthy, checks) = findings(&world, &config, &home, false).await;
    assert!(!healthy);
    assert_found(&checks, "integrations", "fail", "one.example.com");
    assert_found(&checks, "integrations", "warn", "two.example.com");
    assert_found(&checks, "issuers", "fail", "connection refused");
    assert_found(&checks, "helper", "fail", "PATH");
    assert_found(&checks, "git", "warn", "three.example.com");

    git_config(&home, &["credential.helper", "store"]).await;
    git_config(&home, &["--add", "credential.helper", "scm-agent"]).await;
    git_config(&home, &["http.https://three.example.com/.extraHeader", "Authorization: Basic canary"]).await;
    let (_, checks) = findings(&world, &config, &home, true).await;
    assert_found(&checks, "git", "warn", "\"store\"");
    assert_found(&checks, "git", "warn", "extraHeader sets an Authorization header for three.example.com");
    assert_next(&checks, "extraHeader", &format!("--file {}/.gitconfig --unset-all", home.display()));
    assert_next(&checks, "\"store\"", "scm-agent git setup --global");
    assert_found(&checks, "git", "fail", "/run/scm-agent/agent.sock");
    assert!(!format!("{checks:?}").contains("canary"));

    // A helper that is told where the socket is, and nothing beside it, is as it should be.
    git_config(&home, &["--unset-all", "credential.helper"]).await;
    git_config(&home, &["credential.helper", &format!("scm-agent --socket {}", daemon.socket().display())]).await;
    let (_, checks) = findings(&world, &config, &home, true).await;
    assert_found(&checks, "git", "ok", "every integration's host");

    // The list goes bad.
    std::fs::write(world.path("integrations.json"), "{").unwrap();
    daemon.until(|status| !status["sync"]["last_error"].is_null()).await;
    assert_found(&findings(&world, &config, &home, true).await.1, "control-plane", "fail", "integrations.json");
}

#[tokio::test]
async fn another_registered_key_and_a_broken_key_file_are_named() {
    let world = World::new(crate::binaries());
    let control_plane = FakeControlPlane::start("runner-token", RUNNER_ID).await;
    std::fs::write(world.path("token"), "runner-token").unwrap();
    std::fs::set_permissions(world.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let lines =
        format!("url = \"{}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"1s\"", control_plane.base_url());
    let config = world.config_with(&lines, "");
    control_plane.set_public_key(&world.make_key("other.pem", "x25519"));
    let daemon = world.start(&config).await;
    let status = daemon.until(|status| status["key"][0]["registered"] == false).await;
    let (healthy, checks) = findings(&world, &config, world.directory(), true).await;
    assert!(!healthy);
    assert_found(&checks, "registered-key", "fail", status["key"][0]["fingerprint"].as_str().unwrap());

    // The file goes bad under the daemon: it goes on with the key it has, and doctor says so.
    std::fs::remove_file(world.path("runner.pem")).unwrap();
    std::fs::write(world.path("runner.pem"), "canary").unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.until(|status| status["degraded"].to_string().contains("key files")).await;
    let (_, checks) = findings(&world, &config, world.directory(), true).await;
    assert_found(&checks, "key", "fail", "stay in use");
    assert!(!format!("{checks:?}").contains("canary"));
}

/// `doctor` in a folder, with git's configuration in the home folder.
async fn findings_in(folder: &Path, world: &World, config: &Path, home: &Path) -> Vec<Value> {
    let mut command = tokio::process::Command::from(world.agent(&["doctor", "--json", "--config"]));
    let path = format!("{}:{}", world.binaries.helper.parent().unwrap().display(), std::env::var("PATH").unwrap());
    command
        .arg(config)
        .current_dir(folder)
        .env("PATH", path)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1");
    let output = run(command, "").await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    document["checks"].as_array().unwrap().clone()
}

/// A daemon with a list of hosts, each given as SCM id and host, and an empty home folder.
async fn listing(hosts: &[(&str, &str)]) -> (World, std::path::PathBuf, crate::support::daemon::Daemon, std::path::PathBuf) {
    let world = World::new(crate::binaries());
    let home = world.path("home");
    std::fs::create_dir(&home).unwrap();
    let rows: Vec<Value> = hosts
        .iter()
        .zip(1..)
        .map(|((scm_id, host), number)| {
            let mut row = world.integration(number, host, "app", &world.seal("secret"));
            row["scmId"] = Value::String((*scm_id).to_owned());
            row["oauth"]["issuerUrl"] = Value::String("http://127.0.0.1:1".to_owned());
            row
        })
        .collect();
    world.write_list(&rows);
    let config = world.config("");
    let daemon = world.start(&config).await;
    daemon.until_synced().await;
    (world, config, daemon, home)
}

async fn set_up(world: &World, config: &Path, home: &Path) {
    let mut command = tokio::process::Command::from(world.agent(&["git", "setup", "--global", "--config"]));
    command.arg(config).env("HOME", home).env("XDG_CONFIG_HOME", home).env("GIT_CONFIG_NOSYSTEM", "1");
    succeed(command).await;
}

/// What git's part of doctor does not like.
fn complaints(checks: &[Value]) -> Vec<String> {
    let bad = checks.iter().filter(|check| check["name"] == "git" && check["state"] != "ok");
    bad.map(|check| check["detail"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn setup_is_what_doctor_asks_for() {
    let (world, config, _daemon, home) = listing(&[("gitlab", "one.example.com"), ("custom", "dev.azure.com/acme")]).await;
    let checks = findings_in(&home, &world, &config, &home).await;
    assert_found(&checks, "git", "warn", "does not ask scm-agent about acme.visualstudio.com, dev.azure.com/acme, one.example.com");
    assert_next(&checks, "does not ask", "scm-agent git setup");
    set_up(&world, &config, &home).await;
    let checks = findings_in(&home, &world, &config, &home).await;
    assert_eq!(complaints(&checks), [""; 0]);
    assert_found(&checks, "git", "ok", "every integration's host");

    // Each of these comes behind our lines.
    git_config(&home, &["credential.https://one.example.com/group.helper", "!cat canary"]).await;
    git_config(&home, &["credential.https://dev.azure.com/acme.useHttpPath", "false"]).await;
    git_config(&home, &["credential.https://gone.example.com.helper", "scm-agent"]).await;
    git_config(&home, &["credential.https://one.example.com.username", "nobody"]).await;
    let checks = findings_in(&home, &world, &config, &home).await;
    assert_found(&checks, "git", "warn", "is asked beside scm-agent about one.example.com/group and may keep its tokens");
    assert_found(&checks, "git", "warn", "which path it wants");
    assert_found(&checks, "git", "warn", "gone.example.com, for which it has no integration");
    assert_eq!(complaints(&checks).len(), 3, "{checks:#?}");
    assert!(!format!("{checks:?}").contains("canary"));

    // A helper for the place alone, asked before ours.
    std::fs::write(home.join(".gitconfig"), "[credential \"https://one.example.com\"]\n\thelper = cache\n\thelper = scm-agent\n").unwrap();
    let checks = findings_in(&home, &world, &config, &home).await;
    assert_found(&checks, "git", "warn", "the helper \"cache\" is asked before scm-agent about one.example.com and answers instead");
}

#[tokio::test]
async fn a_user_name_that_is_nobodys_is_named() {
    let (world, config, _daemon, home) = listing(&[("custom", "one.example.com"), ("bitbucket", "bitbucket.org")]).await;
    set_up(&world, &config, &home).await;
    for host in ["one.example.com", "bitbucket.org"] {
        git_config(&home, &[&format!("credential.https://{host}.username"), "canary"]).await;
    }
    let checks = findings_in(&home, &world, &config, &home).await;
    assert_found(&checks, "git", "warn", "asks about one.example.com with a user name that selects nobody");
    assert_next(&checks, "selects nobody", "--unset-all credential.https://one.example.com.username");
    assert_eq!(complaints(&checks).len(), 1, "{checks:#?}");
    assert!(!format!("{checks:?}").contains("canary"));
}

#[tokio::test]
async fn secrets_that_lie_about_are_named_and_not_shown() {
    let (world, config, _daemon, home) = listing(&[("gitlab", "one.example.com"), ("github", "github.com")]).await;
    set_up(&world, &config, &home).await;
    let repository = world.path("repository");
    let mut init = git(&home);
    init.args(["init", "--quiet"]).arg(&repository);
    succeed(init).await;
    // A repository may be anybody's: nothing that its configuration names is started.
    let trap = world.path("started");
    let started = format!("touch {}", trap.display());
    for (key, value) in [
        ("remote.origin.url", "https://user:canary@one.example.com/a/b"),
        ("remote.ev\u{1b}il.url", "https://ghp_canary0123@github.com/a/b"),
        ("remote.ssh.url", "git@github.com:a/b.git"),
        ("remote.other.url", "git@other.example.com:a/b.git"),
        ("http.https://one.example.com/.extraheader", "AUTHORIZATION: basic canary"),
        ("core.fsmonitor", &started),
        ("core.pager", &started),
        ("pager.config", &started),
        ("core.editor", &started),
        ("core.sshCommand", &started),
        ("credential.helper", &format!("!{started}")),
        ("alias.config", &format!("!{started}")),
    ] {
        let mut command = git(&repository);
        command.args(["config", "--local", key, value]);
        succeed(command).await;
    }
    git_config(&home, &["url.https://oauth2:canary@one.example.com/.insteadOf", "mine:"]).await;
    git_config(&home, &["url.git@one.example.com:.insteadOf", "https://one.example.com/"]).await;
    std::fs::write(home.join(".git-credentials"), "https://u:canary@other.example.com\nhttps://u:canary@github.com\n").unwrap();
    std::fs::write(home.join(".netrc"), "machine github.com\n login u\n password canary\n").unwrap();
    let checks = findings_in(&repository, &world, &config, &home).await;
    for (detail, next) in [
        ("remote \"origin\" has a password or token", "git remote set-url origin https://one.example.com/a/b;"),
        ("remote \"ev il\" has a password or token", "git remote set-url 'ev il' https://github.com/a/b;"),
        ("remote \"ssh\" goes over ssh to github.com", "git config --global --add url.https://github.com/.insteadOf git@github.com:"),
        ("url.*.insteadOf has a password or token in it", "--edit"),
        ("does not use https for one.example.com", "--unset-all url.git@one.example.com:.insteadof"),
        (
            "http.extraHeader sets an Authorization header for one.example.com",
            "git config --local --unset-all http.https://one.example.com/.extraheader",
        ),
        ("line 2 of ", "host=github.com\\n' | git credential-store --file"),
        ("line 1 of ", "take the entry out"),
        ("is asked beside scm-agent", "git config --local --unset-all credential.helper"),
    ] {
        assert_found(&checks, "git", "warn", detail);
        assert_next(&checks, detail, next);
    }
    assert_eq!(complaints(&checks).len(), 9, "{checks:#?}");
    assert!(!format!("{checks:?}").contains("canary"), "{checks:#?}");
    assert!(!trap.exists(), "a program of the repository's was started");

    // What doctor says to run helps.
    for line in checks.iter().filter_map(|check| check["next"].as_str()).filter(|next| next.starts_with("printf")) {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", line]).env("HOME", &home);
        succeed(command).await;
    }
    assert_eq!(std::fs::read_to_string(home.join(".git-credentials")).unwrap(), "https://u:canary@other.example.com\n");
    let checks = findings_in(&repository, &world, &config, &home).await;
    assert_eq!(complaints(&checks).len(), 8, "{checks:#?}");
}

#[tokio::test]
async fn a_configuration_that_git_cannot_read_is_a_fault() {
    let (world, config, _daemon, home) = listing(&[("gitlab", "one.example.com")]).await;
    std::fs::write(home.join(".gitconfig"), "[user\n").unwrap();
    let checks = findings_in(&home, &world, &config, &home).await;
    assert_found(&checks, "git", "fail", "does not understand its own configuration");
}
