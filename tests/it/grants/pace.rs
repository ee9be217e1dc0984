//! Renewals that take long, fail at many grants at once, or come to an end that nobody wants any more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::host::Hold;
use super::{SCM, Stage, URL, ask, grant, until_over};
use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::http::{Answer, FakeServer};
use crate::support::scene::Scene;

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Has a refresh begin that the host holds, for an asker who then gives up.
async fn begin_refresh(stage: &Stage, daemon: &Daemon, hold: Hold) {
    let token = stage.token(daemon).await.unwrap();
    stage.host.hold(hold);
    let before = stage.host.refreshes_asked();
    stage.erase(daemon, &token).await;
    let begun = || stage.host.refreshes_asked() > before && (hold != Hold::After || !stage.host.lives(&token));
    tokio::select! {
        _ = stage.token(daemon) => panic!("served"),
        () = until("a refresh", begun) => {}
    }
}

#[tokio::test]
async fn who_gives_up_waiting_cancels_nothing_and_the_next_one_waits_for_the_same_refresh() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    begin_refresh(&stage, &daemon, Hold::After).await;
    let (token, ()) = tokio::join!(stage.token(&daemon), async { stage.host.hold(Hold::Nowhere) });
    assert!(stage.host.lives(&token.unwrap()));
    assert_eq!((stage.host.refreshes_asked(), stage.host.replays()), (1, 0));
}

#[tokio::test]
async fn a_pair_that_comes_after_its_user_signed_out_is_revoked_and_kept_nowhere() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    begin_refresh(&stage, &daemon, Hold::After).await;
    assert_eq!(stage.host.live_pairs(), 1);
    ask(&daemon, "logout", &format!("url={URL}\n")).await;
    stage.host.hold(Hold::Nowhere);
    until("revoked", || stage.host.live_pairs() == 0 && !stage.host.lives("access_2")).await;
    assert_eq!(ask(&daemon, "accounts", "").await["accounts"], json!([]));
    assert!(daemon.terminate().await.success());
    let daemon = stage.start().await;
    assert_eq!(ask(&daemon, "accounts", "").await["accounts"], json!([]));
}

#[tokio::test]
async fn who_signs_in_anew_has_the_new_pair_and_what_came_of_the_old_one_is_revoked() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    stage.sign_in(&daemon, "").await;
    until("the old token is revoked", || !stage.host.lives("access_1")).await;
    assert_eq!(stage.token(&daemon).await.as_deref(), Ok("access_2"));
    // The host may hold both sign-ins for one grant, which a revoked refresh token would end.
    assert_eq!((stage.host.revoked(), stage.host.live_pairs()), (1, 2));
    // The same while the old one is being renewed.
    begin_refresh(&stage, &daemon, Hold::After).await;
    assert!(stage.host.lives("access_3"));
    stage.sign_in(&daemon, "").await;
    stage.host.hold(Hold::Nowhere);
    until("what was renewed is revoked", || !stage.host.lives("access_3")).await;
    assert_eq!(stage.token(&daemon).await.as_deref(), Ok("access_4"));
    assert!(stage.host.lives("access_4"));
    stage.erase(&daemon, "access_4").await;
    assert_eq!(stage.token(&daemon).await.as_deref(), Ok("access_5"));
    assert_eq!(stage.host.replays(), 0);
}

#[tokio::test]
async fn an_issuer_in_trouble_is_not_asked_for_every_grant_at_once() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    let accounts: Vec<String> = (1..=14).map(|number| format!("account{number}")).collect();
    // A user may have four sign-ins under way.
    for some in accounts.chunks(4) {
        futures_util::future::join_all(some.iter().map(|account| stage.sign_in(&daemon, account))).await;
    }
    stage.host.set_unavailable(true);
    let fill = |account: &str| format!("scm-agent/1 get\nprotocol=https\nhost={SCM}\nusername={account}\n\n");
    let mut resting = 0;
    for account in &accounts {
        let answer = daemon.ask(&fill(account)).await;
        let token = answer.lines().find_map(|line| line.strip_prefix("password=")).unwrap();
        stage.erase(&daemon, token).await;
        resting += usize::from(daemon.ask(&fill(account)).await.contains("is left alone for "));
    }
    let asked = stage.host.refreshes_asked();
    assert!((10..14).contains(&asked) && resting == 14 - asked, "{asked} asked, {resting} put off");
    // Nothing is lost.
    stage.host.set_unavailable(false);
    let waited = tokio::time::timeout(PATIENCE * 2, async {
        while !daemon.ask(&fill("account14")).await.contains("password=") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    waited.await.unwrap();
    assert_eq!(stage.host.replays(), 0);
}

/// An issuer whose answers to refreshes are written down beforehand.
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<usize>>,
    scene: Scene,
    _server: FakeServer,
}

impl Script {
    async fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Arc::new(Mutex::new(VecDeque::from_iter(answers)));
        let (asked, base) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(String::new())));
        let handler = (Arc::clone(&answers), Arc::clone(&asked), Arc::clone(&base));
        let server = FakeServer::start(move |request| {
            let (answers, asked, base) = handler.clone();
            async move {
                let base = base.lock().unwrap().clone();
                let field = |name: &str| request.form().into_iter().find(|(field, _)| field == name).map(|(_, value)| value);
                match (request.path.as_str(), field("grant_type").as_deref()) {
                    ("/.well-known/openid-configuration", _) => Answer::json(
                        200,
                        &json!({
                            "issuer": base, "token_endpoint": format!("{base}/token"), "device_authorization_endpoint": format!("{base}/device"),
                            "grant_types_supported": ["refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
                            "token_endpoint_auth_methods_supported": ["client_secret_post"],
                        }),
                    ),
                    ("/device", _) => Answer::json(
                        200,
                        &json!({ "device_code": "d", "user_code": "U", "verification_uri": format!("{base}/enter"), "expires_in": 600, "interval": 1 }),
                    ),
                    ("/token", Some("refresh_token")) => {
                        *asked.lock().unwrap() += 1;
                        answers.lock().unwrap().pop_front().unwrap_or_else(|| Answer::new(503, "text/plain", ""))
                    }
                    ("/token", _) => tokens("first"),
                    _ => Answer::new(404, "text/plain", ""),
                }
            }
        })
        .await;
        *base.lock().unwrap() = server.url("");
        let scene = Scene::new(crate::binaries()).await;
        let mut integration = scene.integration(1, SCM);
        integration["oauth"]["issuerUrl"] = json!(server.url(""));
        scene.control_plane.set_integrations(vec![integration]);
        Self { answers, asked, scene, _server: server }
    }

    /// Signs in, and has the token refused so that the next request renews it.
    async fn start(&self) -> Daemon {
        let daemon = self.scene.start("60s").await;
        daemon.until_synced().await;
        let begun = ask(&daemon, "login", &format!("url={URL}\nmode=device\naccount=a\n")).await;
        assert_eq!(until_over(&daemon, begun["session"].as_str().unwrap_or_else(|| panic!("{begun}"))).await["state"], "done");
        daemon.ask(&format!("scm-agent/1 erase\nprotocol=https\nhost={SCM}\nusername=a\npassword=access_first\n\n")).await;
        self.scene.token(&daemon, SCM).await.unwrap_err();
        daemon
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    /// What git is told once every answer was given.
    async fn told_in_the_end(&self, daemon: &Daemon) -> Result<String, String> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let told = self.scene.token(daemon, SCM).await;
                if self.answers.lock().unwrap().is_empty() {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        waited.await.unwrap()
    }
}

fn tokens(name: &str) -> Answer {
    let reply = json!({
        "access_token": format!("access_{name}"), "refresh_token": format!("refresh_{name}"), "token_type": "Bearer", "expires_in": 7200,
    });
    Answer::json(200, &reply)
}

fn unavailable() -> Answer {
    Answer::new(502, "text/html", "<h1>bad gateway</h1>")
}

#[tokio::test]
async fn a_further_try_that_brings_no_answer_is_not_the_one_that_counts() {
    let script = Script::new([unavailable(), unavailable(), tokens("second")]).await;
    let daemon = script.start().await;
    assert_eq!(script.told_in_the_end(&daemon).await.as_deref(), Ok("access_second"), "{}", daemon.log());
    assert_eq!(script.asked(), 3);
}

#[tokio::test]
async fn a_page_where_tokens_should_be_ends_no_grant_however_often_it_comes() {
    let maintenance = || Answer::new(200, "text/html", "<h1>down for maintenance</h1>");
    let script = Script::new([maintenance(), Answer::json(200, &json!({ "status": "maintenance" })), tokens("second")]).await;
    let daemon = script.start().await;
    assert_eq!(script.told_in_the_end(&daemon).await.as_deref(), Ok("access_second"), "{}", daemon.log());
    assert_eq!(script.asked(), 3);
}

#[tokio::test]
async fn the_first_refusal_after_a_lost_answer_is_the_last() {
    let refused = Answer::json(400, &json!({ "error": "invalid_grant" }));
    let script = Script::new([Answer::json(200, &json!({ "token_type": "Bearer" })), refused]).await;
    let daemon = script.start().await;
    let told = script.told_in_the_end(&daemon).await.unwrap_err();
    assert!(told.contains("the answer to its last renewal was lost") && told.contains("run: scm-agent login"), "{told}");
    assert_eq!(grant(&daemon.status().await)["state"], "needs_login");
    assert!(daemon.terminate().await.success());
    let daemon = script.scene.start("60s").await;
    daemon.until_synced().await;
    script.scene.token(&daemon, SCM).await.unwrap_err();
    assert_eq!(script.asked(), 2);
}

#[tokio::test]
async fn what_comes_of_a_sign_in_is_in_the_audit_log() {
    let script = Script::new([Answer::json(400, &json!({ "error": "invalid_grant" }))]).await;
    let daemon = script.start().await;
    script.scene.token(&daemon, SCM).await.unwrap_err();
    ask(&daemon, "logout", &format!("url={URL}\n")).await;
    script.scene.token(&daemon, SCM).await.unwrap_err();
    let log = daemon.final_log().await;
    for words in ["a sign-in begins", "signed in", "a sign-in is over", "signed out", "nobody is signed in"] {
        assert!(log.lines().any(|line| line.contains(" audit: ") && line.contains(words)), "{words}\n{log}");
    }
    assert!(!log.contains("access_first") && !log.contains("refresh_first"));
}
