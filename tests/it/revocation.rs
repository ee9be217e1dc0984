//! Tokens of integrations that are gone: revoked at the issuer by the real daemon, in the background.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::http::Answer;
use crate::support::issuer::{FakeIssuer, Manner};
use crate::support::world::World;

const APP: (&str, &str) = ("app-1", "s3cret ~%+/ of the app");
const REVOKED: &str = "revoked the token of an integration that is gone";
const GIVEN_UP: &str = "cannot revoke the token of an integration that is gone";

/// Two integrations of one app, on hosts `one` and `two`, and everything around them.
struct Scene {
    world: World,
    issuer: FakeIssuer,
    one: Value,
    two: Value,
}

impl Scene {
    async fn new() -> Self {
        let world = World::with_key(crate::binaries(), "x25519");
        let issuer = FakeIssuer::start(&[APP]).await;
        let integration = |number, host| {
            let mut integration = world.integration(number, host, APP.0, &world.seal(APP.1));
            integration["oauth"]["issuerUrl"] = json!(issuer.issuer_url());
            integration
        };
        let (one, two) = (integration(1, "one.example.com"), integration(2, "two.example.com"));
        world.write_list(&[one.clone(), two.clone()]);
        Self { world, issuer, one, two }
    }

    async fn start(&self) -> Daemon {
        let daemon = self.world.start(&self.world.config("")).await;
        daemon.until_synced().await;
        daemon
    }

    /// Has the daemon act on another list.
    async fn change_to(&self, daemon: &Daemon, list: &[&Value]) {
        self.world.write_list(&list.iter().map(|&integration| integration.clone()).collect::<Vec<_>>());
        daemon.ask("scm-agent/1 sync\n\n").await;
    }

    /// Waits until the issuer revoked a number of tokens.
    async fn until_revoked(&self, daemon: &Daemon, count: usize) {
        until(daemon, "no revocation", || self.issuer.revoked().len() >= count).await;
    }
}

async fn until(daemon: &Daemon, what: &str, done: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(waited.is_ok(), "{what}:\n{}", daemon.log());
}

async fn until_logged(daemon: &Daemon, line: &str) {
    until(daemon, line, || daemon.log().contains(line)).await;
}

/// Waits until the daemon has dropped tokens so many times.
async fn until_dropped(daemon: &Daemon, times: usize) {
    until(daemon, "tokens were not dropped", || count(&daemon.log(), "dropped the tokens") == times).await;
}

async fn ask(daemon: &Daemon, host: &str) -> String {
    daemon.ask(&format!("scm-agent/1 get\nprotocol=https\nhost={host}\n\n")).await
}

async fn token(daemon: &Daemon, host: &str) -> String {
    let answer = ask(daemon, host).await;
    answer.lines().find_map(|line| line.strip_prefix("password=")).unwrap_or_else(|| panic!("{answer}\n{}", daemon.log())).to_owned()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

/// Ends the daemon and checks that neither the app's secret nor a token is in its log, down to trace.
async fn final_log(daemon: Daemon, tokens: &[&str]) -> String {
    let log = daemon.final_log().await;
    assert!(!log.contains(APP.1) && tokens.iter().all(|token| !log.contains(token)), "{log}");
    log
}

#[tokio::test]
async fn the_token_of_a_removed_integration_is_revoked_and_the_other_one_lives() {
    let scene = Scene::new().await;
    let daemon = scene.start().await;
    let (one, two) = (token(&daemon, "one.example.com").await, token(&daemon, "two.example.com").await);
    scene.change_to(&daemon, &[&scene.two]).await;
    scene.until_revoked(&daemon, 1).await;
    assert_eq!(scene.issuer.revoked(), [one.as_str()]);
    assert!(!scene.issuer.introspect(&one) && scene.issuer.introspect(&two));
    assert_eq!(token(&daemon, "two.example.com").await, two, "what stays is served as before");
    assert!(!ask(&daemon, "one.example.com").await.contains("password"));
    let request = scene.issuer.received().into_iter().find(|request| request.path == "/revoke").unwrap();
    assert!(request.header("authorization").starts_with("Basic "));
    // The same list again is no reason to ask again.
    daemon.ask("scm-agent/1 sync\n\n").await;
    until_logged(&daemon, REVOKED).await;
    let log = final_log(daemon, &[&one, &two]).await;
    assert_eq!((count(&log, REVOKED), scene.issuer.revocation_requests()), (1, 1), "{log}");
    let line = log.lines().find(|line| line.contains(REVOKED)).unwrap();
    assert!(line.contains(scene.one["id"].as_str().unwrap()) && line.contains("one.example.com"), "{line}");
}

#[tokio::test]
async fn the_token_of_an_app_that_was_removed_is_revoked() {
    let scene = Scene::new().await;
    let daemon = scene.start().await;
    let one = token(&daemon, "one.example.com").await;
    let mut without = scene.one.clone();
    without.as_object_mut().unwrap().remove("oauth");
    without["pat"] = json!(true);
    scene.change_to(&daemon, &[&without, &scene.two]).await;
    scene.until_revoked(&daemon, 1).await;
    assert_eq!(scene.issuer.revoked(), [one.as_str()]);
    final_log(daemon, &[&one]).await;
}

#[tokio::test]
async fn a_token_is_left_to_expire_when_its_integration_only_changed() {
    let scene = Scene::new().await;
    let daemon = scene.start().await;
    let mut tokens = vec![token(&daemon, "one.example.com").await];
    // A secret that was sealed anew, another host, and an entry that cannot be read.
    let mut changed = scene.one.clone();
    changed["oauth"]["encryptedClientSecret"] = json!(scene.world.seal(APP.1));
    scene.change_to(&daemon, &[&changed]).await;
    until_dropped(&daemon, 1).await;
    tokens.push(token(&daemon, "one.example.com").await);
    changed["host"] = json!("three.example.com");
    scene.change_to(&daemon, &[&changed]).await;
    until_dropped(&daemon, 2).await;
    tokens.push(token(&daemon, "three.example.com").await);
    changed["host"] = json!("https://three.example.com:port/");
    scene.change_to(&daemon, &[&changed]).await;
    until_dropped(&daemon, 3).await;
    assert!(daemon.status().await["degraded"].to_string().contains("is not usable"));
    assert!(!ask(&daemon, "three.example.com").await.contains("password"));
    // One that is removed for certain, to know that the others would have been revoked by now.
    changed["host"] = json!("four.example.com");
    scene.change_to(&daemon, &[&changed]).await;
    let last = token(&daemon, "four.example.com").await;
    scene.change_to(&daemon, &[]).await;
    scene.until_revoked(&daemon, 1).await;
    assert_eq!(scene.issuer.revoked(), [last.as_str()]);
    tokens.dedup();
    assert!(tokens.len() == 3 && tokens.iter().all(|token| scene.issuer.introspect(token)));
}

#[tokio::test]
async fn a_token_that_comes_for_a_removed_integration_is_revoked_and_served_to_nobody() {
    let scene = Scene::new().await;
    let daemon = scene.start().await;
    let two = token(&daemon, "two.example.com").await;
    scene.issuer.hold(true);
    let (answer, ()) = tokio::join!(ask(&daemon, "one.example.com"), async {
        until(&daemon, "no request for a token", || scene.issuer.token_requests() == 2).await;
        scene.change_to(&daemon, &[]).await;
        // The other one's token shows that the list was acted on.
        scene.until_revoked(&daemon, 1).await;
        scene.issuer.hold(false);
    });
    assert!(!answer.contains("password"), "{answer}");
    scene.until_revoked(&daemon, 2).await;
    assert_eq!((scene.issuer.issued(), scene.issuer.token_requests()), (2, 2));
    let revoked = scene.issuer.revoked();
    assert!(revoked[0] == two && revoked[1].starts_with("tok_1_"), "{revoked:?}");
    final_log(daemon, &[&two, &revoked[1]]).await;
}

#[tokio::test]
async fn a_token_that_another_integration_has_too_lives_until_both_are_gone() {
    let scene = Scene::new().await;
    let reply = json!({ "access_token": "tok_shared", "token_type": "Bearer", "expires_in": 3600 });
    scene.issuer.set_manner(Manner::Fixed(200, "application/json", reply.to_string().into_bytes()));
    let daemon = scene.start().await;
    assert_eq!(token(&daemon, "one.example.com").await, token(&daemon, "two.example.com").await);
    scene.change_to(&daemon, &[&scene.two]).await;
    until_logged(&daemon, "not revoked: another integration was given the same token").await;
    assert_eq!((scene.issuer.revocation_requests(), token(&daemon, "two.example.com").await.as_str()), (0, "tok_shared"));
    scene.change_to(&daemon, &[]).await;
    scene.until_revoked(&daemon, 1).await;
    assert_eq!(scene.issuer.revoked(), ["tok_shared"]);
    final_log(daemon, &["tok_shared"]).await;
}

#[tokio::test]
async fn a_refusal_is_final_and_said_once() {
    let scene = Scene::new().await;
    let daemon = scene.start().await;
    let one = token(&daemon, "one.example.com").await;
    let refusal = json!({ "error": "unsupported_token_type", "error_description": format!("not this one: {one}") });
    scene.issuer.fail_revocations(1, &Answer::json(400, &refusal));
    scene.change_to(&daemon, &[&scene.two]).await;
    until_logged(&daemon, GIVEN_UP).await;
    token(&daemon, "two.example.com").await;
    let log = final_log(daemon, &[&one]).await;
    assert_eq!((count(&log, GIVEN_UP), scene.issuer.revocation_requests()), (1, 1), "{log}");
    assert!(log.contains("refused with unsupported_token_type (HTTP 400)"), "{log}");
}

#[tokio::test]
async fn an_issuer_that_revokes_nothing_is_no_cause_for_alarm() {
    let scene = Scene::new().await;
    scene.issuer.set_metadata("revocation_endpoint", Value::Null);
    let daemon = scene.start().await;
    let one = token(&daemon, "one.example.com").await;
    scene.change_to(&daemon, &[&scene.two]).await;
    until_logged(&daemon, "its issuer revokes none").await;
    let log = final_log(daemon, &[&one]).await;
    assert_eq!((count(&log, " WARN "), scene.issuer.revocation_requests()), (0, 0), "{log}");
}

#[tokio::test]
async fn an_issuer_that_is_down_holds_up_neither_the_daemon_nor_its_end() {
    let Scene { world, issuer, two, .. } = Scene::new().await;
    let daemon = world.start(&world.config("")).await;
    daemon.until_synced().await;
    let (one, other) = (token(&daemon, "one.example.com").await, token(&daemon, "two.example.com").await);
    drop(issuer);
    world.write_list(&[two]);
    daemon.ask("scm-agent/1 sync\n\n").await;
    until_logged(&daemon, "cannot revoke a token yet").await;
    assert_eq!(token(&daemon, "two.example.com").await, other);
    daemon.signal(Signal::TERM);
    let stopped = "stopped before every token of an integration that is gone was revoked";
    until_logged(&daemon, stopped).await;
    let log = final_log(daemon, &[&one, &other]).await;
    assert_eq!((count(&log, stopped), count(&log, "cannot revoke a token yet"), count(&log, " WARN ")), (1, 1, 1), "{log}");
}

#[tokio::test]
async fn a_removed_integration_that_comes_back_before_its_token_keeps_nothing_of_it() {
    let scene = Scene::new().await;
    let daemon = scene.start().await;
    let one = token(&daemon, "one.example.com").await;
    scene.change_to(&daemon, &[&scene.two]).await;
    scene.until_revoked(&daemon, 1).await;
    scene.change_to(&daemon, &[&scene.one, &scene.two]).await;
    let again = token(&daemon, "one.example.com").await;
    assert_ne!(again, one);
    assert!(scene.issuer.introspect(&again));
    assert_eq!(scene.issuer.revoked(), [one]);
}
