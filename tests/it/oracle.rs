//! Whoever sends ciphertexts learns nothing from what becomes of them: every secret that does not open looks like any other, in the
//! status, to git and in the log.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::support::issuer::FakeIssuer;
use crate::support::world::World;

/// Ciphertexts of one length that fail for as many reasons as there are, with what they are called here.
fn bad_ciphertexts(world: &World, algorithm: &str) -> Vec<(&'static str, String)> {
    let other = World::with_key(crate::binaries(), algorithm);
    let other_algorithm = World::with_key(crate::binaries(), if algorithm == "x25519" { "rsa-2048" } else { "x25519" });
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = BASE64_STANDARD.decode(world.seal("secret")).unwrap();
        change(&mut bytes);
        BASE64_STANDARD.encode(bytes)
    };
    vec![
        ("for another key", other.seal("secret")),
        ("for another algorithm", other_algorithm.seal("secret")),
        ("cut off", changed(|bytes| bytes.truncate(bytes.len() - 1))),
        ("one byte", changed(|bytes| bytes.truncate(1))),
        ("too long", changed(|bytes| bytes.push(0))),
        ("first bit flipped", changed(|bytes| bytes[0] ^= 1)),
        ("last bit flipped", changed(|bytes| *bytes.last_mut().unwrap() ^= 1)),
        ("garbage", changed(|bytes| bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + 3) as u8))),
        ("zeroes", changed(|bytes| bytes.fill(0))),
        ("highest number", changed(|bytes| bytes.fill(0xff))),
        ("an empty secret", world.seal_anything(b"")),
        ("two lines", world.seal_anything(b"secret\nsecret")),
        ("not ASCII", world.seal_anything("sécret".as_bytes())),
        ("a zero byte", world.seal_anything(b"secret\0")),
    ]
}

#[tokio::test]
async fn all_rsa_secrets_that_do_not_open_look_alike() {
    all_look_alike("rsa-2048").await;
}

#[tokio::test]
async fn all_x25519_secrets_that_do_not_open_look_alike() {
    all_look_alike("x25519").await;
}

async fn all_look_alike(algorithm: &str) {
    let world = World::with_key(crate::binaries(), algorithm);
    let issuer = FakeIssuer::start(&[("app", "secret")]).await;
    let bad = bad_ciphertexts(&world, algorithm);
    let host = |number: usize| format!("host-{number:02}.example");
    let mut integrations = Vec::new();
    for (number, sealed) in bad.iter().map(|(_, sealed)| sealed).chain([&world.seal("secret")]).enumerate() {
        let mut integration = world.integration(u16::try_from(number).unwrap(), &host(number), "app", sealed);
        integration["oauth"]["issuerUrl"] = issuer.issuer_url().into();
        integrations.push(integration);
    }
    world.write_list(&integrations);
    let daemon = world.start(&world.config("")).await;
    let count = bad.len();
    daemon.until(|status| (0..count).all(|number| status["integrations"][number]["secret"] == "undecryptable")).await;

    // The control: the flow works for a secret that opens.
    let (ok, _, error) = world.fill(&daemon, "https", &host(count)).await;
    assert!(ok, "{error}\n{}", daemon.log());
    assert_eq!(issuer.token_requests(), 1);

    // To git, twice each: known now, and it stays so.
    let mut said = Vec::new();
    for number in 0..count {
        for _ in 0..2 {
            let (ok, answer, error) = world.fill(&daemon, "https", &host(number)).await;
            assert!(!ok);
            said.push(format!("{answer}{error}"));
        }
    }
    assert_eq!(issuer.token_requests(), 1, "a secret that does not open led to a token request");
    let status = daemon.status().await;
    let log = daemon.final_log().await;

    let surfaces = |number: usize| {
        let id = integrations[number]["id"].as_str().unwrap();
        // Without what names the integration, or the moment and the process that asked.
        let plain = |text: &str| {
            let words = text.replace(id, "ID").replace(&host(number), "HOST");
            words.split(' ').filter(|word| !word.starts_with("pid=") && !word.ends_with('Z')).collect::<Vec<_>>().join(" ")
        };
        let mentions = |text: &&str| text.contains(id) || text.contains(&host(number));
        let degraded: Vec<String> =
            status["degraded"].as_array().unwrap().iter().filter_map(|line| line.as_str()).filter(mentions).map(&plain).collect();
        // Of refusals, the log has only so many in a while.
        let (mut refused, logged): (Vec<String>, Vec<String>) =
            log.lines().filter(mentions).map(&plain).partition(|line| line.contains("refused"));
        refused.dedup();
        assert!(!degraded.is_empty());
        let shown =
            (plain(&status["integrations"][number].to_string()), degraded, logged, plain(&said[2 * number]), plain(&said[2 * number + 1]));
        (shown, refused)
    };
    let (expected, refused) = surfaces(0);
    assert_eq!(refused.len(), 1, "{refused:#?}");
    assert!(expected.3.contains("no runner key opens the client secret of integration ID"), "{expected:#?}");
    for number in 1..count {
        let (shown, refusals) = surfaces(number);
        assert_eq!(shown, expected, "{} and {}", bad[number].0, bad[0].0);
        assert!(refusals.is_empty() || refusals == refused, "{} and {}: {refusals:#?}", bad[number].0, bad[0].0);
    }
}
