//! Settings that change while the daemon serves: all of them come into force together, or none.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::control_plane::FakeControlPlane;
use crate::support::daemon::{Daemon, git_with_helper, run};
use crate::support::scene::{BEARER, Scene};
use crate::support::world::RUNNER_ID;

const HOST: &str = "scm.example.com";

/// A daemon that has a token for a host.
async fn scene() -> (Scene, Daemon) {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, HOST)]);
    let daemon = scene.world.start(&write(&scene, "", "")).await;
    daemon.until_synced().await;
    assert!(scene.token(&daemon, HOST).await.is_ok());
    (scene, daemon)
}

/// Writes the configuration with further lines in `[control_plane]` and at the end.
fn write(scene: &Scene, control_plane: &str, more: &str) -> PathBuf {
    write_for(scene, &scene.control_plane, control_plane, more)
}

fn write_for(scene: &Scene, plane: &FakeControlPlane, control_plane: &str, more: &str) -> PathBuf {
    let token = if control_plane.contains("token_file") { "" } else { "token_file = \"token\"\n" };
    let lines = format!("url = \"{}\"\nrunner_id = \"{RUNNER_ID}\"\n{token}{control_plane}", plane.base_url());
    let path = scene.world.config_with(&lines, more);
    // A level that a reload can change.
    let text = std::fs::read_to_string(&path).unwrap();
    if more.contains("[log]") {
        std::fs::write(&path, text.replace("[log]\nlevel = \"trace\"\n\n", "")).unwrap();
    }
    path
}

/// Adds lines to `[agent]`.
fn add_to_agent(path: &Path, lines: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replace("[agent]\n", &format!("[agent]\n{lines}\n"))).unwrap();
}

/// Runs `scm-agent reload`. Where the daemon listens is told apart from the configuration, which may be broken.
async fn reload(scene: &Scene) -> Output {
    let mut command = Command::from(scene.world.agent(&["reload", "--config"]));
    command.arg(scene.world.path("config.toml")).current_dir(scene.world.directory());
    command.env("SCM_AGENT__AGENT__SOCKET", scene.world.socket());
    run(command, "").await
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What git gets: the user name, or nothing.
async fn username(scene: &Scene, socket: &Path) -> Option<String> {
    let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, socket);
    command.args(["credential", "fill"]).env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "/bin/false");
    let output = run(command, &format!("protocol=https\nhost={HOST}\n\n")).await;
    let answer = String::from_utf8(output.stdout).unwrap();
    answer.lines().find_map(|line| line.strip_prefix("username=")).map(str::to_owned)
}

const DENIED: &str = "[[access]]\nallow = []\n";

#[tokio::test]
async fn rules_hosts_levels_limits_keys_and_the_token_s_place_are_taken_over_together() {
    let (scene, daemon) = scene().await;
    let before = daemon.status().await;
    daemon.until_logged("DEBUG").await;
    scene.world.make_key("second.pem", "x25519");
    std::fs::copy(scene.world.path("token"), scene.world.path("token-2")).unwrap();
    let provider = format!("[[provider]]\nhost = \"{HOST}\"\nusername = \"somebody\"\n");
    let path = write(&scene, "token_file = \"token-2\"", &format!("{provider}[log]\nlevel = \"error\"\n"));
    let text = std::fs::read_to_string(&path).unwrap().replace("[\"runner.pem\"]", "[\"second.pem\", \"runner.pem\"]");
    std::fs::write(&path, text).unwrap();
    add_to_agent(&path, "max_connections_per_user = 2");

    let output = reload(&scene).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "the settings, keys and token are those of now\n");
    assert_eq!(username(&scene, daemon.socket()).await.as_deref(), Some("somebody"));
    let status = daemon.status().await;
    assert_eq!(status["key"].as_array().unwrap().len(), 2);
    assert_eq!((&status["pid"], &status["degraded"]), (&before["pid"], &json!([])));
    assert_eq!(scene.issuer.token_requests(), 2, "the token of before was made for another word on the host");
    // Nobody reads the token at its old place any more.
    std::fs::remove_file(scene.world.path("token")).unwrap();
    assert!(daemon.ask("scm-agent/1 sync\n\n").await.contains("\"last_error\":null"));
    let _held = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
    let _too = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
    // Places for two: the third connection is told so.
    assert!(daemon.ask_busy().await.contains("too many connections"));
    daemon.until_logged("refused: too many connections").await;
    let log = daemon.log();
    let (_, since) = log.split_once("the settings were read again and are in force").unwrap();
    assert!(since.lines().skip(1).all(|line| line.contains(" audit: ")), "at level error only the audit log is written to: {since}");
    drop((_held, _too));

    // And back again.
    write(&scene, "token_file = \"token-2\"", DENIED);
    assert!(reload(&scene).await.status.success());
    assert_eq!(username(&scene, daemon.socket()).await, None);
    assert_eq!(daemon.status().await["key"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn with_one_bad_part_everything_stays_as_it_was_and_it_is_said_what_is_bad() {
    let (scene, daemon) = scene().await;
    std::fs::write(scene.world.path("weak.pem"), "canary-of-a-key").unwrap();
    std::fs::write(scene.world.path("ca.pem"), "canary-of-a-certificate").unwrap();
    std::fs::write(scene.world.path("open-token"), BEARER).unwrap();
    std::fs::set_permissions(scene.world.path("open-token"), PermissionsExt::from_mode(0o666)).unwrap();
    let in_config = |from: &str, to: &str| {
        let path = write(&scene, "", DENIED);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    };
    for (from, to, reason) in [
        ("[key]", "[key", "config.toml"),
        ("[key]", "[key]\ncanary = 1", "key.canary"),
        ("poll", "pool", "pool_interval"),
        ("allow = []", "allow = []\nusers = [\"no-such-user-here\"]", "access[0].users[0]: names a user that this machine does not have"),
        ("\"runner.pem\"", "\"weak.pem\"", "weak.pem"),
        ("\"runner.pem\"", "\"runner.pem\", \"missing.pem\"", "missing.pem"),
        ("token_file = \"token\"", "token_file = \"open-token\"", "open-token"),
        ("token_file = \"token\"", "token_file = \"missing-token\"", "missing-token"),
        ("[[access]]", "[scm]\nca_file = \"ca.pem\"\n[[access]]", "ca.pem"),
        ("token_file = \"token\"", "token_file = \"token\"\nca_file = \"ca.pem\"", "ca.pem"),
    ] {
        in_config(if from == "poll" { "token_file" } else { from }, if from == "poll" { "pool_interval = \"1s\"\ntoken_file" } else { to });
        let output = reload(&scene).await;
        assert_eq!(output.status.code(), Some(2), "{reason}");
        let text = said(&output);
        assert!(text.contains(reason) && text.contains("stay in use") && !text.contains("canary-of"), "{reason}: {text}");
        let status = daemon.status().await;
        let degraded = status["degraded"].to_string();
        assert!(degraded.contains(reason) && degraded.contains("the settings were not taken over"), "{reason}: {status}");
        // The rule that was written along with it denies everybody everything.
        assert!(scene.token(&daemon, HOST).await.is_ok(), "{reason}");
    }
    in_config("[[access]]", "[[access]]");
    assert!(reload(&scene).await.status.success());
    assert_eq!(daemon.status().await["degraded"], json!([]));
    assert!(scene.token(&daemon, HOST).await.is_err());
    assert_eq!(scene.issuer.token_requests(), 1);
    assert!(!daemon.ended_log().await.contains("canary-of"));
}

#[tokio::test]
async fn a_signal_that_meets_a_bad_file_is_answered_in_the_status_and_the_log() {
    let (scene, daemon) = scene().await;
    std::fs::create_dir(scene.world.path("config.d")).unwrap();
    std::fs::write(scene.world.path("config.d/a.toml"), "[agent]\nmax_connections = 0\n").unwrap();
    daemon.signal(Signal::HUP);
    let status = daemon.until(|status| status["degraded"].to_string().contains("agent.max_connections")).await;
    assert!(status["degraded"][0].as_str().unwrap().starts_with("the settings were not taken over"), "{status}");
    daemon.until_logged("the settings were read again and not taken over; those of before stay in use").await;
    assert!(scene.token(&daemon, HOST).await.is_ok());
    std::fs::write(scene.world.path("config.d/a.toml"), "[agent]\nmax_connections = 5\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.until(|status| status["degraded"] == json!([])).await;
}

#[tokio::test]
async fn a_named_configuration_that_is_broken_is_asked_of_nobody_else_s_daemon() {
    let (scene, daemon) = scene().await;
    std::fs::write(scene.world.path("config.toml"), "[agent\n").unwrap();
    let mut command = Command::from(scene.world.agent(&["reload", "--config"]));
    command.arg(scene.world.path("config.toml")).current_dir(scene.world.directory());
    let output = run(command, "").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("config.toml"), "{}", said(&output));
    assert_eq!(daemon.status().await["degraded"], json!([]));
}

#[tokio::test]
async fn what_counts_from_the_next_start_on_is_named_and_the_rest_is_in_force() {
    let (scene, daemon) = scene().await;
    let path = write(&scene, "", &format!("[[provider]]\nhost = \"{HOST}\"\nusername = \"somebody\"\n[store]\nkind = \"memory\"\n"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("socket = \"agent.sock\"", "socket = \"other.sock\"")).unwrap();
    // The command looks where the configuration says, where nobody is.
    let mut command = Command::from(scene.world.agent(&["reload", "--config"]));
    command.arg(&path).current_dir(scene.world.directory());
    assert_eq!(run(command, "").await.status.code(), Some(1));
    let output = reload(&scene).await;
    assert!(output.status.success(), "{}", said(&output));
    let waiting =
        "agent.socket and store.kind changed in the configuration and count from the next start on; run: systemctl restart scm-agent";
    assert!(said(&output).contains(waiting), "{}", said(&output));
    assert_eq!(daemon.status().await["degraded"], json!([waiting]));
    assert_eq!(username(&scene, daemon.socket()).await.as_deref(), Some("somebody"));
    assert!(!scene.world.path("other.sock").exists());
    // Taken back, there is nothing to say.
    write(&scene, "", "");
    assert_eq!(said(&reload(&scene).await), "the settings, keys and token are those of now\n");
    assert_eq!(daemon.status().await["degraded"], json!([]));
}

#[tokio::test]
async fn a_token_for_another_control_plane_is_not_shown_to_this_one() {
    let (scene, daemon) = scene().await;
    let other = FakeControlPlane::start("other-token-0123456789", RUNNER_ID).await;
    std::fs::write(scene.world.path("other-token"), "other-token-0123456789").unwrap();
    std::fs::set_permissions(scene.world.path("other-token"), PermissionsExt::from_mode(0o600)).unwrap();
    write_for(&scene, &other, "token_file = \"other-token\"", "");
    let output = reload(&scene).await;
    assert!(
        said(&output).contains("control_plane.url changed in the configuration and counts from the next start on"),
        "{}",
        said(&output)
    );
    let answer: Value = serde_json::from_str(&daemon.ask("scm-agent/1 sync\n\n").await).unwrap();
    assert_eq!(answer["last_error"], Value::Null, "this one's token is still the one that is shown");
    assert!(other.received().is_empty(), "nor is the other one asked before the restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_goes_by_the_rules_of_one_configuration_and_the_hosts_of_another() {
    const ROUNDS: usize = 12;
    let (scene, daemon) = scene().await;
    // The one lets everybody have the name `open`, the other nobody the name `closed`.
    let provider = |name: &str| format!("[[provider]]\nhost = \"{HOST}\"\nusername = \"{name}\"\n");
    let write_either = |round: usize| match round % 2 {
        0 => write(&scene, "", &format!("{}{DENIED}", provider("closed"))),
        _ => write(&scene, "", &provider("open")),
    };
    write_either(1);
    assert!(reload(&scene).await.status.success());
    let (answered, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let asking = async {
        let (mut open, mut denied) = (0, 0);
        while !is_over.load(Ordering::Relaxed) {
            match username(&scene, daemon.socket()).await.as_deref() {
                Some("open") => open += 1,
                None => denied += 1,
                Some(other) => panic!("neither configuration gives {other}"),
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
        (open, denied)
    };
    let reloading = async {
        for round in 0..ROUNDS {
            write_either(round);
            assert!(reload(&scene).await.status.success());
            // The first answer may be to a request from before; those after it are by the new settings.
            let before = answered.load(Ordering::Relaxed);
            while answered.load(Ordering::Relaxed) < before + 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let ((open, denied), ()) = tokio::join!(asking, reloading);
    assert!(open > 0 && denied > 0, "{open} {denied}");
}
