//! Signing in with a browser at hosts that compare the redirect URI to the letter: the daemon, the command line and the host together.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;
use url::Url;

use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::manners::{APP, BITBUCKET, DATA_CENTER, FakeHost, GITEA, GITHUB, Manners};
use crate::support::scene::{BEARER, Scene};
use crate::support::world::RUNNER_ID;

/// A runner host with one integration whose users sign in, and the daemon.
struct Stage {
    scene: Scene,
    host: FakeHost,
    daemon: Daemon,
    /// The integration's host.
    scm: &'static str,
}

impl Stage {
    /// `more` is what the host's `[[provider]]` has beside the endpoints.
    async fn new(scm_id: &str, scm: &'static str, manners: Manners, more: &str) -> Self {
        let (scene, host) = (Scene::new(crate::binaries()).await, FakeHost::start(manners).await);
        scene.use_token(BEARER);
        let mut integration = scene.world.integration(1, scm, APP.0, &scene.world.seal_anything(APP.1.as_bytes()));
        integration["scmId"] = json!(scm_id);
        scene.control_plane.set_integrations(vec![integration]);
        let plane = format!("url = \"{}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"", scene.control_plane.base_url());
        let provider = format!(
            "[[provider]]\nhost = \"{scm}\"\nauthorize_url = \"{}\"\ntoken_url = \"{}\"\nbearer = false\n{more}",
            host.url(manners.authorize),
            host.url(manners.token),
        );
        let daemon = scene.world.start(&scene.world.config_with(&plane, &provider)).await;
        daemon.until_synced().await;
        Self { scene, host, daemon, scm }
    }

    fn login(&self) -> Command {
        let mut command = Command::new(crate::binaries().agent);
        command.args(["login", &format!("https://{}", self.scm), "--browser", "--json"]);
        command.env_clear().env("SCM_AGENT__AGENT__SOCKET", self.daemon.socket());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Signs in to the end; where the browser came back to.
    async fn sign_in(&self) -> String {
        let mut child = self.login().spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let Some(line) = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() else {
            panic!("{}", String::from_utf8_lossy(&child.wait_with_output().await.unwrap().stderr));
        };
        let begun: Value = serde_json::from_str(&line).unwrap();
        let authorize_url = Url::parse(begun["authorize_url"].as_str().unwrap_or_else(|| panic!("{begun}"))).unwrap();
        let query = self.host.sign_in(&authorize_url);
        let redirect_uri = authorize_url.query_pairs().find(|(name, _)| name == "redirect_uri").unwrap().1.into_owned();
        let back = Url::parse(&redirect_uri).unwrap();
        let place = format!("{}:{}", back.host_str().unwrap(), back.port().unwrap());
        let mut browser = TcpStream::connect(&place).await.unwrap();
        let visit = format!("GET {}?{query} HTTP/1.1\r\nHost: {place}\r\n\r\n", back.path());
        browser.write_all(visit.as_bytes()).await.unwrap();
        let mut page = String::new();
        timeout(PATIENCE, browser.read_to_string(&mut page)).await.unwrap().unwrap();
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        let done = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&done).unwrap()["state"], "done", "{done}");
        assert!(child.wait().await.unwrap().success());
        redirect_uri
    }

    /// Signs in where that cannot be: what standard error says.
    async fn refused(&self) -> String {
        let Output { status, stderr, .. } = timeout(PATIENCE, self.login().output()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(1));
        String::from_utf8(stderr).unwrap()
    }
}

/// A port that was free a moment ago: what a configuration names has to be known before anybody listens there.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn the_browser_comes_back_to_the_registered_uri_where_the_host_takes_no_other() {
    for (scm_id, scm, manners, path) in [
        ("gitea", "scm.example.com", GITEA, "/"),
        ("forgejo", "scm.example.com", GITEA, "/sign-in/back"),
        ("bitbucket", "scm.example.com", DATA_CENTER, "/callback"),
        ("bitbucket", "bitbucket.org", BITBUCKET, "/"),
    ] {
        let registered = format!("http://127.0.0.1:{}{path}", free_port().await);
        let more = format!("grant = \"user\"\nredirect_uri = \"{registered}\"");
        let stage = Stage::new(scm_id, scm, manners, &more).await;
        stage.host.register(&registered);
        assert_eq!(stage.sign_in().await, registered, "{scm_id}");
        let token = stage.scene.token(&stage.daemon, scm).await.unwrap();
        assert!(stage.host.lives(&token), "{scm_id}");
    }
}

#[tokio::test]
async fn any_port_will_do_where_the_host_says_so_and_nothing_is_configured() {
    let stage = Stage::new("github", "scm.example.com", GITHUB, "").await;
    stage.host.register("http://127.0.0.1/");
    stage.sign_in().await;
    assert!(stage.host.lives(&stage.scene.token(&stage.daemon, "scm.example.com").await.unwrap()));
}

#[tokio::test]
async fn without_a_registered_uri_the_login_says_which_key_is_missing() {
    for (scm_id, device, with_a_code) in [("gitea", "", false), ("bitbucket", "device_url = \"https://scm.example.com/device\"", true)] {
        let stage = Stage::new(scm_id, "scm.example.com", GITEA, device).await;
        let told = stage.refused().await;
        assert!(told.contains("scm.example.com sends browsers back only to the redirect URI that the app registered"), "{told}");
        assert!(told.contains("redirect_uri in the [[provider]] of scm.example.com"), "{told}");
        assert_eq!(told.contains("add --device"), with_a_code, "{told}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stage = Stage::new("gitea", "scm.example.com", GITEA, &format!("redirect_uri = \"http://127.0.0.1:{port}/\"")).await;
    let told = stage.refused().await;
    assert!(told.contains(&format!("port {port} is taken, and the host sends browsers back to 127.0.0.1:{port} only")), "{told}");
}
