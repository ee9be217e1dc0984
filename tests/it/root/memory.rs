//! What of a client secret is left in the daemon's memory: nothing, on any path.

use std::net::TcpListener;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::support::daemon::Daemon;
use crate::support::http::{Answer, FakeServer};
use crate::support::memory::{Needle, find, needles_of};
use crate::support::world::World;

/// Random-looking, in no binary, with characters that a form has to encode.
fn new_secret(mark: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let words: Vec<String> = (0..3).map(|_| format!("{:016x}", RandomState::new().hash_one(mark))).collect();
    format!("{mark}~{}+/", words.join("%"))
}

/// An issuer that gives everyone the same token.
async fn issuer(token: &str) -> FakeServer {
    let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 });
    FakeServer::start(move |_| {
        let body = body.clone();
        async move { Answer::json(200, &body) }
    })
    .await
}

fn provider(host: &str, token_url: &str, authentication: &str) -> String {
    format!("[[provider]]\nhost = \"{host}\"\ntoken_url = \"{token_url}\"\ntoken_endpoint_auth = \"{authentication}\"\n")
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_client_secret_is_in_memory_while_a_request_holds_it_and_never_after() {
    let world = World::new(crate::binaries());
    let (basic, post, held) = (new_secret("basic"), new_secret("post"), new_secret("held"));
    let token = new_secret("token");
    let issuer = issuer(&token).await;
    // Accepts connections and never says a word, so that the TLS handshake holds the request, and with it the secret.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("https://127.0.0.1:{}/token", silent.local_addr().unwrap().port());
    world.write_list(&[
        world.integration(1, "basic.example", "client-basic", &world.seal(&basic)),
        world.integration(2, "post.example", "client-post", &world.seal(&post)),
        world.integration(3, "held.example", "client-held", &world.seal(&held)),
    ]);
    let more = [
        provider("basic.example", &issuer.url("/token"), "client_secret_basic"),
        provider("post.example", &issuer.url("/token"), "client_secret_post"),
        provider("held.example", &silent_url, "client_secret_post"),
    ]
    .concat();
    let config = world.config_with("file = \"integrations.json\"\ntimeout = \"6s\"", &more);
    let daemon = world.start(&config).await;
    daemon.until_synced().await;

    // Held: the scan can find a secret, or it shows nothing.
    let mut waiting = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut waiting, b"scm-agent/1 get\nprotocol=https\nhost=held.example\n\n").await.unwrap();
    let held_needles = needles_of(&held, "client-held");
    let mut seen = false;
    for _ in 0..500 {
        if !find(daemon.pid(), &held_needles).unwrap().is_empty() {
            seen = true;
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(seen, "the positive control was never found; log:\n{}", daemon.log());

    // Used: the tokens are there, their secrets are not.
    for host in ["basic.example", "post.example"] {
        let (ok, answer, error) = world.fill(&daemon, "https", host).await;
        assert!(ok && answer.contains(&format!("password={token}\n")), "{error}\n{}", daemon.log());
    }
    let token_needle = [Needle { name: "the access token", bytes: token.clone().into() }];
    assert!(!find(daemon.pid(), &token_needle).unwrap().is_empty(), "the access token in use was not found");
    for (secret, client_id) in [(&basic, "client-basic"), (&post, "client-post")] {
        let found = find(daemon.pid(), &needles_of(secret, client_id)).unwrap();
        assert!(found.is_empty(), "{client_id}: {found:?}");
    }

    // Failed: the request that was held is over.
    daemon.until(|status| status["integrations"][2]["tokens"][0]["state"] == "failing").await;
    let found = find(daemon.pid(), &held_needles).unwrap();
    assert!(found.is_empty(), "after a failed request: {found:?}");

    // Rotated: every secret was tried with the new key.
    std::fs::remove_file(world.path("runner.pem")).unwrap();
    world.make_key("runner.pem", "rsa-2048");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.until(|status| (0..3).all(|index| status["integrations"][index]["secret"] == "undecryptable")).await;
    for (secret, client_id) in [(&basic, "client-basic"), (&post, "client-post"), (&held, "client-held")] {
        let found = find(daemon.pid(), &needles_of(secret, client_id)).unwrap();
        assert!(found.is_empty(), "{client_id} after a rotation: {found:?}");
    }

    // Nor is any of them in what the daemon writes or is started with.
    let mut places = vec![("log", daemon.log())];
    for name in ["cmdline", "environ"] {
        places.push((name, String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/{name}", daemon.pid())).unwrap()).into_owned()));
    }
    places.push(("status", daemon.status().await.to_string()));
    for (place, text) in places {
        for (secret, client_id) in [(&basic, "client-basic"), (&post, "client-post"), (&held, "client-held"), (&token, "token")] {
            for needle in needles_of(secret, client_id) {
                let contained = memchr::memmem::find(text.as_bytes(), &needle.bytes).is_some();
                assert!(!contained, "{} of {client_id} is in the daemon's {place}", needle.name);
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn without_the_wiping_allocator_the_scan_finds_what_is_left() {
    let world = World::new(crate::binaries());
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
    let found = find(daemon.pid(), &needles_of(&secret, "client-left")).unwrap();
    assert!(!found.is_empty(), "nothing is left even without wiping, so the scan proves nothing");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_private_key_is_gone_from_memory_once_another_took_its_place() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let scalar: Vec<u8> = new_secret("scalar").into_bytes().into_iter().map(|byte| byte | 0x80).take(32).collect();
    for needles in [needles_of_rsa(&world.path("runner.pem")), needles_of_scalar(&scalar)] {
        if needles[0].name == "the scalar" {
            std::fs::write(world.path("runner.pem"), &scalar).unwrap();
        }
        let daemon = world.start(&world.config("")).await;
        let before = daemon.until_synced().await["key"].clone();
        let names = find(daemon.pid(), &needles).unwrap();
        assert_eq!(names.len(), needles.len(), "the key in use was not found: {names:?}");
        std::fs::remove_file(world.path("runner.pem")).unwrap();
        world.make_key("runner.pem", "rsa-2048");
        daemon.signal(rustix::process::Signal::HUP);
        daemon.until(|status| status["key"] != before).await;
        let found = find(daemon.pid(), &needles).unwrap();
        assert!(found.is_empty(), "{found:?}");
        assert!(daemon.terminate().await.success());
    }
}

/// Parts of an RSA key's numbers as a library's integers have them in memory, the least significant byte first.
fn needles_of_rsa(file: &std::path::Path) -> Vec<Needle> {
    use rsa::pkcs8::DecodePrivateKey;
    use rsa::traits::{PrivateKeyParts, PublicKeyParts};
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(key.size(), 256);
    let numbers = [("a prime", &key.primes()[0]), ("the other prime", &key.primes()[1])];
    numbers.map(|(name, number)| Needle { name, bytes: number.to_bytes_le()[32..64].to_vec() }).into()
}

/// The halves of an X25519 key, but for the bytes in which bits are cleared and set.
fn needles_of_scalar(scalar: &[u8]) -> Vec<Needle> {
    vec![Needle { name: "the scalar", bytes: scalar[1..16].to_vec() }, Needle { name: "the scalar's end", bytes: scalar[16..31].to_vec() }]
}
