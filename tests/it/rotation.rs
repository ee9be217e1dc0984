//! Keys that change under the running daemon: nobody notices, except where something is wrong.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::control_plane::{FakeControlPlane, connect_error};
use crate::support::daemon::Daemon;
use crate::support::http::Answer;
use crate::support::issuer::FakeIssuer;
use crate::support::world::{RUNNER_ID, World};

const BEARER: &str = "runner-token-0123456789";
const CLIENT_ID: &str = "app-1";
const CLIENT_SECRET: &str = "s3cret ~%+/ of the app";
const STAYS: &str = "; the keys loaded before stay in use";

/// A runner with the keys `runner.pem` and `second.pem`, which begin as one, and everything around it.
struct Scene {
    world: World,
    control_plane: FakeControlPlane,
    issuer: FakeIssuer,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new(crate::binaries());
        let control_plane = FakeControlPlane::start(BEARER, RUNNER_ID).await;
        let issuer = FakeIssuer::start(&[(CLIENT_ID, CLIENT_SECRET)]).await;
        let scene = Self { world, control_plane, issuer };
        scene.place("token", BEARER.as_bytes());
        scene.copy("runner.pem", "second.pem");
        scene
    }

    /// Starts the daemon with both keys. It polls once a second, and looks at the keys as often.
    async fn start(&self) -> Daemon {
        let files = [self.world.path("runner.pem"), self.world.path("second.pem")].map(|path| path.display().to_string());
        self.start_with(&files.join(",")).await
    }

    async fn start_with(&self, files: &str) -> Daemon {
        let url = self.control_plane.base_url();
        let lines = format!("url = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"1s\"");
        let config = self.world.config_with(&lines, "");
        let mut command = self.world.daemon_command();
        command.env("SCM_AGENT__KEY__FILES", files);
        let daemon = Daemon::start(command, &config, &self.world.socket()).await;
        daemon.until_synced().await;
        daemon
    }

    /// Puts a file in another's place at once.
    fn place(&self, name: &str, bytes: &[u8]) {
        let new = self.world.path("placed");
        std::fs::write(&new, bytes).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(new, self.world.path(name)).unwrap();
    }

    fn copy(&self, from: &str, to: &str) {
        self.place(to, &std::fs::read(self.world.path(from)).unwrap());
    }

    fn integration(&self, number: u16, host: &str, key: &str) -> Value {
        let mut integration = self.world.integration(number, host, CLIENT_ID, &self.world.seal_for(key, CLIENT_SECRET));
        integration["oauth"]["issuerUrl"] = json!(self.issuer.issuer_url());
        integration
    }

    fn fingerprint(&self, key: &str) -> Value {
        self.world.show_key(key)["fingerprint"].clone()
    }
}

/// The token for a host, or what was answered instead.
async fn token(daemon: &Daemon, host: &str) -> Result<String, String> {
    let answer = daemon.ask(&format!("scm-agent/1 get\nprotocol=https\nhost={host}\n\n")).await;
    let token = answer.lines().find_map(|line| line.strip_prefix("password=")).map(str::to_owned);
    token.ok_or(answer)
}

/// Has a token dropped that the host took before, so that the next request needs the secret.
async fn erase(daemon: &Daemon, host: &str, token: &str) {
    for operation in ["store", "erase"] {
        daemon.ask(&format!("scm-agent/1 {operation}\nprotocol=https\nhost={host}\nusername=x\npassword={token}\n\n")).await;
    }
}

fn fingerprints(status: &Value) -> Vec<&Value> {
    status["key"].as_array().unwrap().iter().map(|key| &key["fingerprint"]).collect()
}

fn secret(status: &Value, index: usize) -> &str {
    status["integrations"][index]["secret"].as_str().unwrap()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[tokio::test]
async fn a_second_key_is_added_and_old_and_new_secrets_open_without_another_list() {
    let scene = Scene::new().await;
    scene.world.make_key("new.pem", "x25519");
    scene
        .control_plane
        .set_integrations(vec![scene.integration(1, "old.example.com", "runner.pem"), scene.integration(2, "new.example.com", "new.pem")]);
    let daemon = scene.start().await;
    let status = daemon.until(|status| secret(status, 1) == "undecryptable").await;
    assert_eq!((secret(&status, 0), status["key"].as_array().unwrap().len()), ("ok", 1), "one key in two files is one");
    let before = token(&daemon, "old.example.com").await.unwrap();
    // A failure that is remembered for minutes, unless the rotation ends it.
    let refusal = token(&daemon, "new.example.com").await.unwrap_err();
    assert!(refusal.contains("no runner key opens"), "{refusal}");

    scene.copy("new.pem", "second.pem");
    daemon.signal(Signal::HUP);
    let status = daemon.until(|status| secret(status, 1) == "ok").await;
    assert_eq!(secret(&status, 0), "ok");
    assert_eq!(fingerprints(&status), [&scene.fingerprint("runner.pem"), &scene.fingerprint("new.pem")]);
    let status = daemon.until(|status| status["degraded"] == json!([])).await;
    assert_eq!(status["integrations"][1]["tokens"], json!([]), "the failure is forgotten");
    token(&daemon, "new.example.com").await.unwrap();
    assert_eq!(token(&daemon, "old.example.com").await.unwrap(), before, "tokens are kept");
    erase(&daemon, "old.example.com", &before).await;
    assert_ne!(token(&daemon, "old.example.com").await.unwrap(), before);
    let log = daemon.ended_log().await;
    assert_eq!(count(&log, "the keys changed"), 1, "{log}");
}

#[tokio::test]
async fn a_key_file_that_is_replaced_is_noticed_without_a_signal() {
    let scene = Scene::new().await;
    scene.world.make_key("new.pem", "rsa-2048");
    scene
        .control_plane
        .set_integrations(vec![scene.integration(1, "old.example.com", "runner.pem"), scene.integration(2, "new.example.com", "new.pem")]);
    let daemon = scene.start().await;
    let before = token(&daemon, "old.example.com").await.unwrap();
    for name in ["second.pem", "runner.pem"] {
        scene.copy("new.pem", name);
    }
    let status = daemon.until(|status| secret(status, 1) == "ok" && secret(status, 0) == "undecryptable").await;
    assert_eq!(fingerprints(&status), [&scene.fingerprint("new.pem")]);
    token(&daemon, "new.example.com").await.unwrap();
    // Without its key a secret opens no more, but the token that it led to lives on.
    assert_eq!(token(&daemon, "old.example.com").await.unwrap(), before);
    erase(&daemon, "old.example.com", &before).await;
    assert!(token(&daemon, "old.example.com").await.unwrap_err().contains("no runner key opens"));
}

#[tokio::test]
async fn a_bad_new_file_keeps_the_old_keys_in_use_and_says_so_until_it_is_mended() {
    let scene = Scene::new().await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com", "runner.pem")]);
    let daemon = scene.start().await;
    let good = std::fs::read(scene.world.path("runner.pem")).unwrap();
    let loaded = scene.fingerprint("runner.pem");
    let second = scene.world.path("second.pem");
    let spoil: [(&str, &dyn Fn()); 4] = [
        ("holds no private key in a form that is known", &|| scene.place("second.pem", b"garbage canary\n")),
        ("is open to its group or to others (mode 0640)", &|| {
            scene.place("second.pem", &good);
            std::fs::set_permissions(&second, PermissionsExt::from_mode(0o640)).unwrap();
        }),
        ("does not exist", &|| std::fs::remove_file(&second).unwrap()),
        ("is a directory", &|| std::fs::create_dir(&second).unwrap()),
    ];
    for (problem, spoil) in spoil {
        spoil();
        let said = |status: &Value| status["degraded"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains(problem));
        let status = daemon.until(said).await;
        let line = status["degraded"][0].as_str().unwrap();
        assert!(line.starts_with("the key files changed but could not be loaded: key file ") && line.ends_with(STAYS), "{line}");
        assert!(line.contains("second.pem") && !line.contains("canary"), "{line}");
        assert_eq!((fingerprints(&status), secret(&status, 0)), (vec![&loaded], "ok"));
        let held = token(&daemon, "scm.example.com").await.unwrap();
        erase(&daemon, "scm.example.com", &held).await;
        token(&daemon, "scm.example.com").await.unwrap();
    }
    // Asking for it does not make it better, nor the log longer.
    daemon.signal(Signal::HUP);
    std::fs::remove_dir(&second).unwrap();
    scene.world.make_key("new.pem", "x25519");
    scene.copy("new.pem", "second.pem");
    let status = daemon.until(|status| status["degraded"] == json!([])).await;
    assert_eq!(fingerprints(&status), [&loaded, &scene.fingerprint("new.pem")]);
    let log = daemon.ended_log().await;
    // The directory goes before the new file comes, which may be seen or not.
    assert!((4..=5).contains(&count(&log, "cannot be loaded")), "{log}");
    assert_eq!(count(&log, "the keys changed"), 1, "{log}");
}

#[tokio::test]
async fn no_request_fails_while_keys_and_secrets_change_again_and_again() {
    let scene = Arc::new(Scene::new().await);
    for (name, algorithm) in [("a.pem", "rsa-2048"), ("b.pem", "x25519"), ("c.pem", "rsa-2048")] {
        scene.world.make_key(name, algorithm);
    }
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com", "runner.pem")]);
    let daemon = Arc::new(scene.start().await);
    let rotated = Arc::new(AtomicBool::new(false));
    let (asking, over) = (Arc::clone(&daemon), Arc::clone(&rotated));
    let requests = tokio::spawn(async move {
        let mut answered = 0_usize;
        while answered < 200 || !over.load(Ordering::SeqCst) {
            let held = match token(&asking, "scm.example.com").await {
                Ok(held) => held,
                Err(answer) => panic!("request {answered} failed: {answer}\n{}", asking.log()),
            };
            answered += 1;
            // Every other one needs the secret to be opened.
            if answered.is_multiple_of(2) {
                erase(&asking, "scm.example.com", &held).await;
            }
        }
        answered
    });
    let mut rotations = 0;
    for (next, signal) in [("a.pem", true), ("b.pem", false), ("c.pem", true), ("b.pem", true)] {
        let fingerprint = scene.fingerprint(next);
        let told = || {
            if signal {
                daemon.signal(Signal::HUP);
            }
        };
        // Both keys; then the secrets for the new one; then the old one goes.
        scene.copy(next, "second.pem");
        told();
        daemon.until(|status| fingerprints(status).len() == 2 && fingerprints(status)[1] == &fingerprint).await;
        let calls = scene.control_plane.list_calls();
        scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com", next)]);
        told();
        // One that began after the change has ended when the next one begins.
        daemon.until(|_| scene.control_plane.list_calls() > calls + 2).await;
        scene.copy(next, "runner.pem");
        told();
        let status = daemon.until(|status| fingerprints(status) == [&fingerprint]).await;
        assert_eq!(secret(&status, 0), "ok");
        rotations += 2;
    }
    rotated.store(true, Ordering::SeqCst);
    assert!(requests.await.unwrap() >= 200);
    let log = Arc::into_inner(daemon).unwrap().ended_log().await;
    assert_eq!(count(&log, "the keys changed"), rotations, "{log}");
    assert!(!log.contains("cannot be loaded") && !log.contains("no token"), "{log}");
}

#[tokio::test]
async fn a_key_that_came_through_a_pipe_stays_when_a_signal_asks_for_new_ones() {
    use std::io::Write;
    let scene = Scene::new().await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com", "runner.pem")]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&std::fs::read(scene.world.path("runner.pem")).unwrap()).unwrap();
    drop(writer);
    // Lets the daemon inherit it.
    rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty()).unwrap();
    let daemon = scene.start_with(&format!("/dev/fd/{}", reader.as_raw_fd())).await;
    drop(reader);
    daemon.signal(Signal::HUP);
    let said = daemon.until(|_| daemon.log().contains("the keys came through a pipe")).await;
    assert_eq!(said["degraded"], json!([]));
    token(&daemon, "scm.example.com").await.unwrap();
}

/// The daemon's status once the registered key is known, for this control plane.
async fn status_when(scene: &Scene, daemon: &Daemon, registered: &Value) -> Value {
    let status = daemon.until(|status| status["key"][0]["registered"] == *registered).await;
    assert!(scene.control_plane.get_runner_calls() > 0);
    status
}

#[tokio::test]
async fn the_registered_key_is_recognised_in_either_algorithm() {
    let scene = Scene::new().await;
    let rsa = scene.world.make_key("rsa.pem", "rsa-2048");
    let x25519 = scene.world.make_key("x25519.pem", "x25519");
    assert_eq!(x25519.len(), 32);
    for (name, key) in [("rsa.pem", rsa), ("x25519.pem", x25519)] {
        scene.control_plane.set_public_key(&key);
        scene.copy(name, "second.pem");
        let daemon = scene.start().await;
        // One of the two that are loaded is enough.
        let status = daemon.until(|status| status["key"][1]["registered"] == true).await;
        assert_eq!((&status["key"][0]["registered"], &status["degraded"]), (&json!(false), &json!([])), "{name}");
        assert!(daemon.terminate().await.success());
    }
}

#[tokio::test]
async fn another_registered_key_is_a_named_problem_until_it_is_put_right() {
    let scene = Scene::new().await;
    for algorithm in ["rsa-2048", "x25519"] {
        let name = format!("{algorithm}.pem");
        let key = scene.world.make_key(&name, algorithm);
        scene.copy("runner.pem", "second.pem");
        scene.control_plane.set_public_key(&key);
        let daemon = scene.start().await;
        let status = status_when(&scene, &daemon, &json!(false)).await;
        let problem = status["degraded"][0].as_str().unwrap();
        for part in [scene.fingerprint(&name).as_str().unwrap(), scene.fingerprint("runner.pem").as_str().unwrap(), "key.files"] {
            assert!(problem.contains(part), "{problem}");
        }
        let problem = problem.to_owned();
        // By loading it: what is registered is compared with the new keys at once, and in the log once.
        scene.copy(&name, "second.pem");
        let status = daemon.until(|status| status["degraded"] == json!([])).await;
        assert_eq!(status["key"][1]["registered"], true);
        let log = daemon.ended_log().await;
        assert_eq!(count(&log, &problem), 1, "{log}");
    }
}

#[tokio::test]
async fn a_key_that_is_registered_at_last_is_seen_after_a_signal() {
    let scene = Scene::new().await;
    let key = scene.world.make_key("new.pem", "x25519");
    scene.control_plane.set_public_key(&[]);
    let daemon = scene.start().await;
    let status = status_when(&scene, &daemon, &json!(false)).await;
    assert!(status["degraded"][0].as_str().unwrap().starts_with("no public key is registered for this runner"), "{status}");
    scene.control_plane.set_public_key(b"canary, no key");
    daemon.signal(Signal::HUP);
    let status = daemon.until(|status| status["degraded"].to_string().contains("not usable")).await;
    assert!(!status.to_string().contains("canary"));
    scene.copy("new.pem", "second.pem");
    scene.control_plane.set_public_key(&key);
    daemon.signal(Signal::HUP);
    let status = daemon.until(|status| status["degraded"] == json!([])).await;
    assert_eq!(status["key"][1]["registered"], true);
}

#[tokio::test]
async fn a_control_plane_that_does_not_say_what_is_registered_is_no_problem() {
    let scene = Scene::new().await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com", "runner.pem")]);
    let html = Answer::new(404, "text/html", "<h1>not here</h1>");
    let refusals = ["unimplemented", "permission_denied", "not_found", "unavailable"].map(|code| connect_error(code, "no"));
    for answer in refusals.into_iter().chain([html]) {
        scene.control_plane.refuse_get_runner(answer);
        let daemon = scene.start().await;
        daemon.until(|_| daemon.log().contains("the registered public key is not to be had")).await;
        let status = daemon.status().await;
        assert_eq!((&status["key"][0]["registered"], &status["degraded"]), (&Value::Null, &json!([])));
        token(&daemon, "scm.example.com").await.unwrap();
        assert!(daemon.terminate().await.success());
    }
}

#[tokio::test]
async fn a_saved_list_says_nothing_of_registered_keys() {
    let scene = Scene::new().await;
    scene.world.write_list(&[scene.integration(1, "scm.example.com", "runner.pem")]);
    let daemon = scene.world.start(&scene.world.config("")).await;
    let status = daemon.until_synced().await;
    assert_eq!((&status["key"][0]["registered"], &status["degraded"]), (&Value::Null, &json!([])));
}
