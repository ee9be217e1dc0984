//! A rotation: of the key that was replaced nothing is left, and of the secrets that it opened neither.

use std::path::Path;

use pkcs8::PrivateKeyInfo;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode, SecretDocument};
use rsa::pkcs8::DecodePrivateKey;
use rsa::traits::PrivateKeyParts;
use serde_json::json;

use super::{assert_gone, new_secret};
use crate::support::issuer::FakeIssuer;
use crate::support::memory::{Needle, find, needles_of};
use crate::support::world::World;

#[tokio::test]
#[ignore = "needs root"]
async fn a_replaced_key_and_the_secrets_it_opened_are_gone_from_memory() {
    for algorithm in ["rsa-2048", "x25519"] {
        let world = World::with_key(crate::binaries(), algorithm);
        let secret = new_secret("rotated");
        let issuer = FakeIssuer::start(&[("app", &secret)]).await;
        let mut integration = world.integration(1, "host.example", "app", &world.seal(&secret));
        integration["oauth"]["issuerUrl"] = json!(issuer.issuer_url());
        world.write_list(&[integration]);
        let key = numbers_in_use(&world.path("runner.pem"));
        let daemon = world.start(&world.config("")).await;
        let before = daemon.until_synced().await["key"].clone();
        assert!(world.fill(&daemon, "https", "host.example").await.0, "{}", daemon.log());
        assert!(!find(daemon.pid(), &key).unwrap().is_empty(), "{algorithm}: the key in use was not found");

        std::fs::remove_file(world.path("runner.pem")).unwrap();
        world.make_key("runner.pem", algorithm);
        daemon.signal(rustix::process::Signal::HUP);
        daemon.until(|status| status["key"] != before && status["integrations"][0]["secret"] == "undecryptable").await;
        assert_gone(&daemon, "the replaced key", &key).await;
        assert_gone(&daemon, "the secret after a rotation", &needles_of(&secret)).await;
        // What was got with it goes on working.
        assert!(world.fill(&daemon, "https", "host.example").await.0, "{}", daemon.log());
    }
}

/// The halves of a key's numbers as a library has them in memory: integers with the least significant byte first, and a scalar
/// without the bytes that clamping changes.
fn numbers_in_use(file: &Path) -> Vec<Needle> {
    let (_, document) = SecretDocument::from_pem(&std::fs::read_to_string(file).unwrap()).unwrap();
    if let Ok(key) = rsa::RsaPrivateKey::from_pkcs8_der(document.as_bytes()) {
        return key.primes().iter().flat_map(|prime| Needle::halves("a prime", &prime.to_bytes_le())).collect();
    }
    let info = PrivateKeyInfo::try_from(document.as_bytes()).unwrap();
    let scalar = OctetStringRef::from_der(info.private_key).unwrap();
    Needle::halves("the scalar", &scalar.as_bytes()[1..31]).into_iter().collect()
}
