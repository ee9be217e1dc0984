//! Users' sign-ins: device codes, authorization codes and their PKCE verifiers, and refresh tokens are in memory while they are of use,
//! and not after.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{assert_gone, new_secret};
use crate::grants::host::Hold;
use crate::grants::{GET, Stage, URL, ask, until_over};
use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::memory::{find, needles_of};

/// The control: what the scan must find, or it shows nothing.
async fn assert_there(daemon: &Daemon, what: &str, secret: &str) {
    for _ in 0..500 {
        if !find(daemon.pid(), &needles_of(secret)).unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} is not found where it has to be");
}

/// Sends a request in a task of its own; what came back.
fn ask_meanwhile(daemon: &Daemon, request: String) -> tokio::task::JoinHandle<String> {
    let socket = daemon.socket().to_owned();
    tokio::spawn(async move {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    })
}

async fn until(reached: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap();
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_device_code_is_gone_when_the_user_has_signed_in_or_given_up() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    for gives_up in [true, false] {
        stage.host.set_mark(&new_secret("code"));
        let begun = ask(&daemon, "login", &format!("url={URL}\nmode=device\n")).await;
        let session = begun["session"].as_str().unwrap().to_owned();
        let code = stage.host.device_code();
        assert_there(&daemon, "the device code", &code).await;
        stage.host.set_mark(&new_secret("token"));
        match gives_up {
            true => assert_eq!(ask(&daemon, "login-cancel", &format!("session={session}\n")).await, json!({ "cancelled": true })),
            false => {
                stage.host.confirm(true);
                assert_eq!(until_over(&daemon, &session).await["state"], "done");
            }
        }
        assert_gone(&daemon, "the device code", &needles_of(&code)).await;
    }
    assert_gone(&daemon, "a refresh token that rests", &needles_of(&stage.host.newest_refresh())).await;
    let token = stage.get(&daemon).await.unwrap();
    assert_there(&daemon, "the access token in use", &token).await;
    assert_gone(&daemon, "a refresh token that rests", &needles_of(&stage.host.newest_refresh())).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_code_and_its_verifier_are_gone_when_they_were_exchanged() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.host.set_mark(&new_secret("code"));
    let begun = ask(&daemon, "login", &format!("url={URL}\nmode=browser\nredirect_uri=http://127.0.0.1:1/\n")).await;
    let redirect = stage.host.sign_in(begun["authorize_url"].as_str().unwrap());
    let (_, code) = redirect.query_pairs().find(|(name, _)| name == "code").unwrap();
    stage.host.set_mark(&new_secret("token"));
    stage.host.hold(Hold::Before);
    let session = begun["session"].as_str().unwrap();
    let finish = format!("scm-agent/1 login-finish\nsession={session}\nquery={}\n\n", redirect.query().unwrap());
    let finishing = ask_meanwhile(&daemon, finish);
    until(|| !stage.host.verifiers().is_empty()).await;
    let verifier = stage.host.verifiers().remove(0);
    assert_there(&daemon, "the verifier", &verifier).await;
    assert_there(&daemon, "the code", &code).await;
    stage.host.hold(Hold::Nowhere);
    let done = finishing.await.unwrap();
    assert!(done.contains("\"done\""), "{done}");
    assert_gone(&daemon, "the verifier", &needles_of(&verifier)).await;
    assert_gone(&daemon, "the code", &needles_of(&code)).await;
    assert_gone(&daemon, "a refresh token that rests", &needles_of(&stage.host.newest_refresh())).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_refresh_token_is_there_while_it_is_used_and_of_the_old_pair_nothing_is_left() {
    let stage = Stage::new().await;
    let daemon = stage.start().await;
    stage.host.set_mark(&new_secret("first"));
    stage.sign_in_with_browser(&daemon).await;
    let (access, refresh) = (stage.get(&daemon).await.unwrap(), stage.host.newest_refresh());
    stage.host.set_mark(&new_secret("second"));
    stage.host.hold(Hold::Before);
    stage.erase(&daemon, &access).await;
    let asking = ask_meanwhile(&daemon, GET.to_owned());
    until(|| stage.host.refreshes_asked() == 1).await;
    assert_there(&daemon, "the refresh token", &refresh).await;
    stage.host.hold(Hold::Nowhere);
    assert!(asking.await.unwrap().contains("password="));
    let next = stage.get(&daemon).await.unwrap();
    assert_there(&daemon, "the access token in use", &next).await;
    for (what, secret) in [("the old token", &access), ("the old refresh token", &refresh), ("the new one", &stage.host.newest_refresh())] {
        assert_gone(&daemon, what, &needles_of(secret)).await;
    }

    // Refused, and signed out.
    stage.host.refuse();
    stage.erase(&daemon, &next).await;
    stage.get(&daemon).await.unwrap_err();
    assert_gone(&daemon, "a refused refresh token", &needles_of(&stage.host.newest_refresh())).await;
    ask(&daemon, "logout", &format!("url={URL}\n")).await;
    assert_gone(&daemon, "the token of who signed out", &needles_of(&next)).await;
}
