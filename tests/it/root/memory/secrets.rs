//! Client secrets: found while a request holds one, and never after, whichever way the request ends.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use super::{assert_gone, cut, new_secret, provider};
use crate::support::daemon::Daemon;
use crate::support::http::{Answer, FakeServer, TestAuthority};
use crate::support::memory::{Needle, find, needles_of};
use crate::support::world::World;

/// An issuer that gives everyone the same token, and at `/refused` repeats what it was sent in an error.
async fn issuer(token: &str) -> FakeServer {
    let token = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 });
    FakeServer::start(move |request| {
        let answer = if request.path == "/refused" {
            let sent = String::from_utf8_lossy(&request.body).into_owned();
            Answer::json(401, &json!({ "error": "invalid_client", "error_description": sent }))
        } else {
            Answer::json(200, &token)
        };
        async move { answer }
    })
    .await
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_secret_sealed_for_an_rsa_key_is_in_memory_while_a_request_holds_it_and_never_after() {
    every_path("rsa-2048").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_secret_sealed_for_an_x25519_key_is_in_memory_while_a_request_holds_it_and_never_after() {
    every_path("x25519").await;
}

async fn every_path(algorithm: &str) {
    let world = World::with_key(crate::binaries(), algorithm);
    let other = World::with_key(crate::binaries(), algorithm);
    let secrets = ["basic", "post", "refused", "held", "damaged", "foreign", "no-secret"].map(new_secret);
    let [basic, post, refused, held, damaged, foreign, no_secret] = &secrets;
    let token = new_secret("token");
    // One each, so that no later request overwrites what an earlier one left in a connection's buffers.
    let issuers = [issuer(&token).await, issuer(&token).await, issuer(&token).await];
    // Accepts connections and never says a word, so that the TLS handshake holds the request, and with it the secret.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("https://127.0.0.1:{}/token", silent.local_addr().unwrap().port());
    let integration = |number, name: &str, sealed: &str| world.integration(number, &format!("{name}.example"), "client", sealed);
    world.write_list(&[
        integration(1, "basic", &world.seal(basic)),
        integration(2, "post", &world.seal(post)),
        integration(3, "refused", &world.seal(refused)),
        integration(4, "held", &world.seal(held)),
        integration(5, "damaged", &cut(&world.seal(damaged))),
        integration(6, "foreign", &other.seal(foreign)),
        // Opens, but what comes out is no client secret.
        integration(7, "no-secret", &world.seal_anything(format!("{no_secret}\nsecond line").as_bytes())),
    ]);
    let mut more = String::new();
    for (name, issuer, path, authentication) in [
        ("basic", 0, "/token", "client_secret_basic"),
        ("post", 1, "/token", "client_secret_post"),
        ("refused", 2, "/refused", "client_secret_post"),
        ("damaged", 1, "/token", "client_secret_post"),
        ("foreign", 1, "/token", "client_secret_post"),
        ("no-secret", 1, "/token", "client_secret_post"),
    ] {
        more.push_str(&provider(&format!("{name}.example"), &issuers[issuer].url(path), authentication));
    }
    more.push_str(&provider("held.example", &silent_url, "client_secret_post"));
    let daemon = world.start(&world.config_with("file = \"integrations.json\"\ntimeout = \"6s\"", &more)).await;
    daemon.until_synced().await;
    daemon.until(|status| status["integrations"].as_array().unwrap()[4..].iter().all(|one| one["secret"] == "undecryptable")).await;

    // Held: the scan can find a secret, or it shows nothing.
    let mut waiting = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut waiting, b"scm-agent/1 get\nprotocol=https\nhost=held.example\n\n").await.unwrap();
    let held_needles = needles_of(held);
    let mut seen = false;
    for _ in 0..500 {
        if !find(daemon.pid(), &held_needles).unwrap().is_empty() {
            seen = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen, "the positive control was never found; log:\n{}", daemon.log());

    // Used or refused or never usable: whatever became of the tokens, the secrets are gone.
    for (host, works) in [("basic", true), ("post", true), ("refused", false), ("damaged", false), ("foreign", false), ("no-secret", false)]
    {
        let (_, answer, error) = world.fill(&daemon, "https", &format!("{host}.example")).await;
        assert_eq!(answer.contains(&format!("password={token}\n")), works, "{host}: {error}\n{}", daemon.log());
    }
    assert!(!find(daemon.pid(), &[Needle::new("token", token.as_str())]).unwrap().is_empty(), "the access token in use was not found");
    for secret in [basic, post, refused, damaged, foreign, no_secret] {
        assert_gone(&daemon, secret, &needles_of(secret)).await;
    }

    // Failed: the request that was held is over.
    daemon.until(|status| status["integrations"][3]["tokens"][0]["state"] == "failing").await;
    assert_gone(&daemon, "after a failed request", &held_needles).await;

    // Nor is any of them in what the daemon writes or is started with.
    let mut places = Vec::new();
    for name in ["cmdline", "environ"] {
        places.push((name, String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/{name}", daemon.pid())).unwrap()).into_owned()));
    }
    places.push(("status", daemon.status().await.to_string()));
    places.push(("log", daemon.final_log().await));
    for (place, text) in places {
        assert!(!text.is_empty() || place == "environ", "nothing in the {place}");
        for secret in secrets.iter().chain([&token]) {
            for needle in needles_of(secret) {
                let contained = memchr::memmem::find(text.as_bytes(), &needle.bytes).is_some();
                assert!(!contained, "{} ({secret}) is in the daemon's {place}", needle.name);
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn without_the_wiping_allocator_the_scan_finds_what_is_left() {
    for algorithm in ["rsa-2048", "x25519"] {
        let world = World::with_key(crate::binaries(), algorithm);
        let secret = new_secret("left");
        let issuer = issuer("a-token").await;
        world.write_list(&[world.integration(1, "left.example", "client-left", &world.seal(&secret))]);
        let config = world.config(&provider("left.example", &issuer.url("/token"), "client_secret_post"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "--nocapture", "child::a_daemon_that_does_not_wipe"])
            .env("CONFIG", &config)
            .current_dir(world.directory())
            .stdin(Stdio::null());
        let daemon = Daemon::start_as(command, &world.socket()).await;
        daemon.until_synced().await;
        let (ok, _, error) = world.fill(&daemon, "https", "left.example").await;
        assert!(ok, "{error}\n{}", daemon.log());
        let found = find(daemon.pid(), &needles_of(&secret)).unwrap();
        assert!(!found.is_empty(), "{algorithm}: nothing is left even without wiping, so the scan proves nothing");
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_secret_that_was_sent_over_tls_leaves_nothing_either() {
    let authority = TestAuthority::new();
    let token = new_secret("token");
    let reply = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 });
    let issuer = FakeServer::start_tls(authority.identity(&["127.0.0.1"], |_| {}), move |_| {
        let answer = Answer::json(200, &reply);
        async move { answer }
    })
    .await;
    let world = World::new(crate::binaries());
    std::fs::write(world.path("ca.pem"), authority.pem()).unwrap();
    let (basic, post) = (new_secret("basic"), new_secret("post"));
    world.write_list(&[
        world.integration(1, "basic.example", "client", &world.seal(&basic)),
        world.integration(2, "post.example", "client", &world.seal(&post)),
    ]);
    let more = [
        provider("basic.example", &issuer.url("/token"), "client_secret_basic"),
        provider("post.example", &issuer.url("/token"), "client_secret_post"),
    ]
    .concat();
    let daemon = world.start(&world.config_with("file = \"integrations.json\"\nca_file = \"ca.pem\"", &more)).await;
    daemon.until_synced().await;
    for host in ["basic.example", "post.example"] {
        let (_, answer, error) = world.fill(&daemon, "https", host).await;
        assert!(answer.contains(&format!("password={token}\n")), "{error}\n{}", daemon.log());
    }
    // The control: what is in use is found.
    assert!(!find(daemon.pid(), &[Needle::new("token", token.as_str())]).unwrap().is_empty());
    for secret in [&basic, &post] {
        assert_gone(&daemon, secret, &needles_of(secret)).await;
    }
}
