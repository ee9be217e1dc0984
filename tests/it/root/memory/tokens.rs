//! Tokens: an access token in as few copies as serving it takes and none once it is replaced, and no copy of the control plane's
//! token between two fetches.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use super::{assert_gone, new_secret};
use crate::support::control_plane::FakeControlPlane;
use crate::support::daemon::{Daemon, git_with_helper, run};
use crate::support::issuer::FakeIssuer;
use crate::support::memory::{Needle, find, needles_of};
use crate::support::world::{RUNNER_ID, World};

const HOST: &str = "host.example";
const SECRET: &str = "the secret of the app";

struct Scene {
    world: World,
    issuer: FakeIssuer,
    integration: serde_json::Value,
}

impl Scene {
    async fn new() -> Self {
        let world = World::with_key(crate::binaries(), "x25519");
        let issuer = FakeIssuer::start(&[("app", SECRET)]).await;
        let mut integration = world.integration(1, HOST, "app", &world.seal(SECRET));
        integration["oauth"]["issuerUrl"] = json!(issuer.issuer_url());
        world.write_list(std::slice::from_ref(&integration));
        Self { world, issuer, integration }
    }

    /// The token that git gets.
    async fn token(&self, daemon: &Daemon) -> String {
        let (ok, answer, error) = self.world.fill(daemon, "https", HOST).await;
        assert!(ok, "{error}\n{}", daemon.log());
        answer.lines().find_map(|line| line.strip_prefix("password=")).unwrap().to_owned()
    }
}

fn copies(daemon: &Daemon, token: &str) -> usize {
    find(daemon.pid(), &[Needle::new("token", token)]).unwrap().first().map_or(0, |(_, count)| *count)
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_access_token_is_there_once_and_gone_when_git_erases_it() {
    let scene = Scene::new().await;
    let daemon = scene.world.start(&scene.world.config("")).await;
    daemon.until_synced().await;
    let first = scene.token(&daemon).await;
    let mut count = copies(&daemon, &first);
    for _ in 0..20 {
        if count == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        count = copies(&daemon, &first);
    }
    assert_eq!(count, 1, "copies of the token in use");

    let mut reject = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
    reject.args(["credential", "reject"]);
    let input = format!("protocol=https\nhost={HOST}\nusername=x\npassword={first}\n\n");
    assert!(run(reject, &input).await.status.success());
    assert_gone(&daemon, "an erased token", &needles_of(&first)).await;
    let second = scene.token(&daemon).await;
    assert_ne!(first, second);
    assert_gone(&daemon, "a replaced token", &needles_of(&first)).await;

    // An integration that is gone takes its token along, once the issuer was told.
    scene.world.write_list(&[]);
    daemon.until(|status| status["integrations"].as_array().is_some_and(Vec::is_empty)).await;
    while scene.issuer.revoked() != [second.as_str()] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_gone(&daemon, "the token of an integration that is gone", &needles_of(&second)).await;
    assert_gone(&daemon, "the secret that it was revoked with", &needles_of(SECRET)).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_access_token_is_gone_when_it_is_refreshed() {
    let scene = Scene::new().await;
    scene.issuer.set_expires_in(4);
    let daemon = scene.world.start(&scene.world.config("")).await;
    daemon.until_synced().await;
    // Without git, to which so short a life is none.
    let token = async || {
        let answer = daemon.ask(&format!("scm-agent/1 get\nprotocol=https\nhost={HOST}\n\n")).await;
        answer.lines().find_map(|line| line.strip_prefix("password=")).unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let first = token().await;
    scene.issuer.set_expires_in(3600);
    while token().await == first {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_gone(&daemon, "a token that was refreshed", &needles_of(&first)).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn the_control_planes_token_is_not_in_memory_between_two_fetches() {
    let scene = Scene::new().await;
    let bearer = new_secret("bearer");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let control_plane = FakeControlPlane::start(&bearer, RUNNER_ID).await;
    control_plane.set_integrations(vec![scene.integration.clone()]);
    std::fs::write(scene.world.path("token"), &bearer).unwrap();
    std::fs::set_permissions(scene.world.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let lines = |url: &str| format!("url = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"10m\"");

    // The control: while a fetch goes on, the scan finds it.
    let url = format!("http://127.0.0.1:{}", silent.local_addr().unwrap().port());
    let daemon = scene.world.start(&scene.world.config_with(&lines(&url), "")).await;
    while find(daemon.pid(), &needles_of(&bearer)).unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(daemon.final_log().await);

    let lines = lines(&control_plane.base_url());
    let daemon = scene.world.start(&scene.world.config_with(&lines, "")).await;
    daemon.until_synced().await;
    assert_eq!(control_plane.list_calls(), 1);
    assert_gone(&daemon, "after a fetch", &needles_of(&bearer)).await;

    // Refused: the answer repeats the token.
    control_plane.set_token("another");
    control_plane.fail_next(3, crate::support::control_plane::connect_error("unauthenticated", &format!("not accepted: {bearer}")));
    daemon.ask("scm-agent/1 sync\n\n").await;
    daemon.until(|status| status["sync"]["last_error"].is_string()).await;
    assert_gone(&daemon, "after a refused fetch", &needles_of(&bearer)).await;
}
