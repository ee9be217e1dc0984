//! Always current, never at the control plane's mercy: the real daemon while lists change, vanish and lie.

use serde_json::{Value, json};

use crate::support::control_plane::connect_error;
use crate::support::daemon::{Daemon, PATIENCE, run};
use crate::support::http::{Answer, FakeServer};
use crate::support::issuer::FakeIssuer;
use crate::support::scene::{CLIENT_ID, CLIENT_SECRET, Scene};

/// Long enough that no poll brings anything within a test.
const NEVER: &str = "24h";

async fn scene() -> Scene {
    Scene::new(crate::binaries()).await
}

fn id(integration: &Value) -> &str {
    integration["id"].as_str().unwrap()
}

/// What the status says of an integration.
fn entry<'s>(status: &'s Value, integration: &Value) -> &'s Value {
    let list = status["integrations"].as_array().unwrap();
    list.iter().find(|entry| entry["id"] == integration["id"]).unwrap_or(&Value::Null)
}

/// Has the list fetched, whatever comes of it.
async fn sync(daemon: &Daemon) {
    daemon.ask("scm-agent/1 sync\n\n").await;
}

/// Runs a command of ours against the daemon; whether it succeeded, and what it printed.
async fn command(scene: &Scene, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::from(scene.world.agent(arguments));
    command.arg("--config").arg(scene.world.path("config.toml"));
    let output = run(command, "").await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn changes_that_are_announced_reach_git_without_a_poll() {
    let scene = scene().await;
    scene.control_plane.allow_watch();
    let (mut one, two) = (scene.integration(1, "one.example.com"), scene.integration(2, "two.example.com"));
    scene.control_plane.set_integrations(vec![one.clone()]);
    let daemon = scene.start(NEVER).await;
    daemon.until(|status| status["sync"]["watching"] == true).await;
    let before = scene.token(&daemon, "one.example.com").await.unwrap();
    // New.
    scene.control_plane.set_integrations(vec![one.clone(), two.clone()]);
    scene.control_plane.announce("CREATE", id(&two));
    daemon.until(|status| !entry(status, &two).is_null()).await;
    scene.token(&daemon, "two.example.com").await.unwrap();
    // Changed: a new ciphertext of the same secret, and another host.
    one["oauth"]["encryptedClientSecret"] = scene.integration(9, "x")["oauth"]["encryptedClientSecret"].clone();
    one["host"] = json!("moved.example.com");
    scene.control_plane.set_integrations(vec![one.clone(), two.clone()]);
    scene.control_plane.announce("UPDATE", id(&one));
    daemon.until(|status| entry(status, &one)["host"] == "moved.example.com").await;
    assert_ne!(scene.token(&daemon, "moved.example.com").await.unwrap(), before, "minted with the new secret");
    scene.token(&daemon, "one.example.com").await.unwrap_err();
    // Removed.
    scene.control_plane.set_integrations(vec![one]);
    scene.control_plane.announce("DELETE", id(&two));
    daemon.until(|status| entry(status, &two).is_null()).await;
    scene.token(&daemon, "two.example.com").await.unwrap_err();
}

#[tokio::test]
async fn a_control_plane_without_events_is_polled_and_that_is_said_once() {
    for code in ["unimplemented", "permission_denied"] {
        let scene = scene().await;
        scene.control_plane.refuse_watch(connect_error(code, "no"));
        let daemon = scene.start("1s").await;
        daemon.until(|_| daemon.log().contains("polled, for good")).await;
        let added = scene.integration(1, "one.example.com");
        scene.control_plane.set_integrations(vec![added.clone()]);
        let status = daemon.until(|status| !entry(status, &added).is_null()).await;
        assert_eq!(status["sync"]["watching"], false);
        assert_eq!(scene.control_plane.watch_calls(), 1, "{code}");
        assert_eq!(daemon.final_log().await.matches("polled, for good").count(), 1);
    }
}

#[tokio::test]
async fn after_a_restart_without_a_control_plane_the_last_list_serves_marked_as_old() {
    let scene = scene().await;
    let (one, two) = (scene.integration(1, "one.example.com"), scene.integration(2, "two.example.com"));
    scene.control_plane.set_integrations(vec![one.clone(), two.clone()]);
    let daemon = scene.start("1s").await;
    let learned = daemon.status().await["sync"]["last_success"].as_u64().unwrap();
    assert!(daemon.terminate().await.success());
    scene.control_plane.fail_next(1_000_000, Answer::new(503, "text/html", "<h1>down</h1>"));
    let daemon = scene.start("1s").await;
    scene.token(&daemon, "one.example.com").await.unwrap();
    let status = daemon.until(|status| status["sync"]["consecutive_failures"].as_u64() > Some(1)).await;
    assert_eq!((&status["sync"]["stale"], status["integrations"].as_array().unwrap().len()), (&json!(true), 2));
    assert!(status["sync"]["last_success"].as_u64().unwrap() >= learned);
    assert!(status["degraded"].to_string().contains("was kept from before the start"), "{}", status["degraded"]);
    let (_, table) = command(&scene, &["status"]).await;
    assert!(table.contains("STALE list of "), "{table}");
    // What was taken away meanwhile goes with the first answer.
    scene.control_plane.set_integrations(vec![one]);
    scene.control_plane.recover();
    let status = daemon.until(|status| status["sync"]["stale"] == false).await;
    assert!(entry(&status, &two).is_null());
    scene.token(&daemon, "two.example.com").await.unwrap_err();
    assert_eq!(daemon.status().await["degraded"], json!([]));
}

#[tokio::test]
async fn what_was_taken_away_while_the_daemon_was_down_is_not_served_from_the_kept_list() {
    let scene = scene().await;
    let one = scene.integration(1, "one.example.com");
    scene.control_plane.set_integrations(vec![one]);
    let daemon = scene.start(NEVER).await;
    scene.token(&daemon, "one.example.com").await.unwrap();
    assert!(daemon.terminate().await.success());
    scene.control_plane.set_integrations(Vec::new());
    let asked = scene.issuer.token_requests();
    // Asked at once, before the first fetch had to happen by itself.
    let daemon = scene.world.start(&scene.config(NEVER)).await;
    scene.token(&daemon, "one.example.com").await.unwrap_err();
    assert_eq!(scene.issuer.token_requests(), asked);
}

#[tokio::test]
async fn a_damaged_state_is_set_aside_and_nothing_of_it_is_believed() {
    let scene = scene().await;
    let one = scene.integration(1, "one.example.com");
    scene.control_plane.set_integrations(vec![one]);
    let daemon = scene.start("1s").await;
    assert!(daemon.terminate().await.success());
    let kept = scene.world.path("state/integrations");
    let mut bytes = std::fs::read(&kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    let daemon = scene.start("1s").await;
    let status = daemon.until(|status| status["sync"]["last_success"].is_u64()).await;
    assert!(status["degraded"][0].as_str().unwrap().contains("integrations.damaged-1"), "{}", status["degraded"]);
    assert!(scene.world.path("state/integrations.damaged-1").exists());
    scene.token(&daemon, "one.example.com").await.unwrap();
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_stops_nothing_and_is_named() {
    let scene = scene().await;
    std::fs::write(scene.world.path("state"), b"").unwrap();
    scene.control_plane.set_integrations(vec![scene.integration(1, "one.example.com")]);
    let daemon = scene.start("1s").await;
    scene.token(&daemon, "one.example.com").await.unwrap();
    let status = daemon.until(|status| status["degraded"].as_array().is_some_and(|degraded| degraded.len() == 3)).await;
    assert!(status["degraded"][0].as_str().unwrap().ends_with("what the control plane says is trusted anew"), "{}", status["degraded"]);
    assert!(status["degraded"][1].as_str().unwrap().contains("is not kept for the next start"), "{}", status["degraded"]);
    assert!(status["degraded"][2].as_str().unwrap().starts_with("sign-ins are kept in memory only"), "{}", status["degraded"]);
}

#[tokio::test]
async fn two_daemons_do_not_share_a_state_directory() {
    let scene = scene().await;
    let _daemon = scene.start("1s").await;
    let mut second = tokio::process::Command::from(scene.world.agent(&["run", "--config"]));
    second.arg(scene.config("1s")).env("SCM_AGENT__AGENT__SOCKET", scene.world.path("second.sock"));
    let output = run(second, "").await;
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    let path = scene.world.path("state");
    assert!(told.contains(&format!("another scm-agent uses the state directory {}", path.display())), "{told}");
}

#[tokio::test]
async fn the_kept_list_opens_after_the_keys_changed() {
    let scene = scene().await;
    scene.world.make_key("new.pem", "x25519");
    scene.control_plane.set_integrations(vec![scene.integration(1, "one.example.com")]);
    let daemon = scene.start(NEVER).await;
    std::fs::rename(scene.world.path("new.pem"), scene.world.path("runner.pem")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.until(|status| status["key"][0]["algorithm"] == "x25519").await;
    // Saved anew before the reload is over; the signal's fetch may still be on its way.
    daemon.until(|_| daemon.log().contains("the keys changed")).await;
    sync(&daemon).await;
    assert!(daemon.terminate().await.success());
    scene.control_plane.fail_next(1_000_000, connect_error("unavailable", "down"));
    let daemon = scene.start(NEVER).await;
    let status = daemon.status().await;
    assert_eq!((status["integrations"].as_array().unwrap().len(), &status["sync"]["stale"]), (1, &json!(true)));
}

#[tokio::test]
async fn an_issuer_that_is_swapped_under_an_old_ciphertext_gets_nothing_until_it_is_trusted() {
    let scene = scene().await;
    let other = FakeIssuer::start(&[(CLIENT_ID, CLIENT_SECRET)]).await;
    let mut one = scene.integration(1, "one.example.com");
    scene.control_plane.set_integrations(vec![one.clone()]);
    let daemon = scene.start("1s").await;
    let before = scene.token(&daemon, "one.example.com").await.unwrap();
    one["oauth"]["issuerUrl"] = json!(other.issuer_url());
    scene.control_plane.set_integrations(vec![one.clone()]);
    let status = daemon.until(|status| entry(status, &one)["secret"] == "quarantined").await;
    assert_eq!(entry(&status, &one)["issuer"], scene.issuer.issuer_url());
    assert_eq!(entry(&status, &one)["quarantine"]["fields"][0]["proposed"], other.issuer_url());
    // The old token serves, and new ones come from where they always came from.
    assert_eq!(scene.token(&daemon, "one.example.com").await.unwrap(), before);
    daemon.ask(&format!("scm-agent/1 erase\nprotocol=https\nhost=one.example.com\nusername=x\npassword={before}\n\n")).await;
    let after = scene.token(&daemon, "one.example.com").await.unwrap();
    assert!(scene.issuer.introspect(&after) && after != before);
    let (healthy, report) = command(&scene, &["doctor"]).await;
    assert!(!healthy && report.contains("oauth.issuerUrl changed without a new secret") && report.contains("scm-agent trust "), "{report}");
    let (shown, table) = command(&scene, &["trust"]).await;
    assert!(shown && table.contains(&scene.issuer.issuer_url()) && table.contains(&other.issuer_url()), "{table}");
    assert_eq!(other.received().len(), 0, "not even its metadata was asked for");

    let (refused, report) = command(&scene, &["trust", id(&one), "--change", "0000000000000000"]).await;
    assert!(!refused && report.contains("no longer what was shown"), "{report}");
    let (accepted, report) = command(&scene, &["trust", id(&one)]).await;
    assert!(accepted && report.contains("accepted; it is in use now"), "{report}");
    assert!(other.introspect(&scene.token(&daemon, "one.example.com").await.unwrap()));
    assert_eq!(daemon.status().await["degraded"], json!([]));
    let (again, report) = command(&scene, &["trust", id(&one)]).await;
    assert!(!again && report.contains("nothing is held back"), "{report}");
    // It lasts.
    assert!(daemon.terminate().await.success());
    let daemon = scene.start("1s").await;
    assert!(other.introspect(&scene.token(&daemon, "one.example.com").await.unwrap()));
    let log = daemon.final_log().await;
    assert!(!log.contains("held back"), "{log}");
}

#[tokio::test]
async fn a_swap_of_any_field_sends_nothing_anywhere_new() {
    let scene = scene().await;
    let original = scene.integration(1, "one.example.com");
    let listener = FakeServer::start(async |_| Answer::new(500, "text/plain", "")).await;
    let evil = format!("localhost:{}", listener.url("").rsplit(':').next().unwrap());
    let swaps: [(&str, Value); 5] = [
        ("id", json!("0196f3a4-0000-7000-8000-000000000777")),
        ("scmId", json!("gitea")),
        ("host", json!(evil)),
        ("virtualDirectory", json!("/evil")),
        ("oauth.clientId", json!("evil")),
    ];
    let daemon = {
        scene.control_plane.set_integrations(vec![original.clone()]);
        scene.start("1s").await
    };
    for (field, value) in swaps {
        let mut swapped = original.clone();
        match field.strip_prefix("oauth.") {
            Some(field) => swapped["oauth"][field] = value,
            None => swapped[field] = value,
        }
        scene.control_plane.set_integrations(vec![swapped.clone()]);
        let status = daemon.until(|status| entry(status, &swapped)["secret"] == "quarantined").await;
        assert_eq!(entry(&status, &swapped)["quarantine"]["fields"][0]["field"], field);
        let answer = scene.token(&daemon, "one.example.com").await;
        if field == "id" {
            // The integration that was trusted is gone; what came in its place is not trusted with its secret.
            assert!(answer.unwrap_err().contains("scm-agent trust"), "{field}");
        } else {
            answer.unwrap();
        }
        scene.token(&daemon, &evil).await.unwrap_err();
        scene.control_plane.set_integrations(vec![original.clone()]);
        daemon.until(|status| entry(status, &original)["secret"] == "ok").await;
    }
    assert_eq!(listener.received().len(), 0);
    // A new ciphertext may bring anything.
    let mut rotated = scene.integration(1, "moved.example.com");
    rotated["scmId"] = json!("gitea-like");
    scene.control_plane.set_integrations(vec![rotated]);
    sync(&daemon).await;
    scene.token(&daemon, "moved.example.com").await.unwrap();
}

#[tokio::test]
async fn a_new_token_in_the_file_ends_a_long_wait() {
    let scene = scene().await;
    scene.use_token("stale-token");
    let daemon = scene.start(NEVER).await;
    daemon.until(|status| status["sync"]["last_error"].as_str().is_some_and(|error| error.contains("unauthenticated"))).await;
    scene.use_token(crate::support::scene::BEARER);
    daemon.until(|status| status["sync"]["last_success"].is_u64()).await;
    assert!(scene.control_plane.received().len() < 5);
}

#[tokio::test]
async fn who_asks_is_told_when_a_retry_after_is_over_and_the_key_is_left_alone_until_then() {
    let scene = scene().await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "one.example.com")]);
    scene.control_plane.set_public_key(&[7; 32]);
    let daemon = scene.start(NEVER).await;
    daemon.until(|status| status["key"][0]["registered"] == false).await;
    scene.control_plane.fail_next(10_000, connect_error("unavailable", "").header("retry-after", "900"));
    sync(&daemon).await;
    let keys = scene.control_plane.get_runner_calls();
    // Even an operator has to wait ten seconds, and is told so.
    let answer: Value = serde_json::from_str(&daemon.ask("scm-agent/1 sync\n\n").await).unwrap();
    assert!(answer["next_attempt_in_seconds"].is_u64() && answer["last_error"].is_string(), "{answer}");
    for _ in 0..20 {
        sync(&daemon).await;
    }
    assert_eq!(scene.control_plane.get_runner_calls(), keys);
    // The key is asked for once the list comes again.
    scene.control_plane.recover();
    let asked = async {
        while scene.control_plane.get_runner_calls() == keys {
            sync(&daemon).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert_eq!(daemon.status().await["sync"]["last_error"], json!(null));
}

#[tokio::test]
async fn the_issuer_hears_nothing_of_a_secret_that_does_not_open() {
    let scene = scene().await;
    let mut integration = scene.integration(1, "one.example.com");
    integration["oauth"]["encryptedClientSecret"] = json!("AAAA");
    scene.control_plane.set_integrations(vec![integration]);
    let daemon = scene.start(NEVER).await;
    let refusal = scene.token(&daemon, "one.example.com").await.unwrap_err();
    assert!(refusal.contains("no runner key opens"), "{refusal}");
    assert_eq!(scene.issuer.received().len(), 0);
}
