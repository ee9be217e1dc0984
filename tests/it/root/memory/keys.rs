//! The runner's private key: of its file, its text and its passphrase nothing is left after the start; of its numbers only what
//! the key in use is made of.

use std::os::unix::fs::PermissionsExt;

use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode, SecretDocument};
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo};
use rsa::pkcs8::DecodePrivateKey;
use rsa::traits::PrivateKeyParts;

use super::assert_gone;
use crate::support::daemon::Daemon;
use crate::support::issuer::FakeIssuer;
use crate::support::memory::{Needle, base64_of, find};
use crate::support::world::World;

const PASSPHRASE: &str = "correct-horse-7f3a9c51-battery-staple";
const SECRET: &str = "the secret of the app";

/// A host whose daemon has loaded and used a new key.
struct Scene {
    daemon: Daemon,
    /// The PEM text in the file.
    file: String,
    /// The PrivateKeyInfo that it is about.
    key: SecretDocument,
    _issuer: FakeIssuer,
    _world: World,
}

impl Scene {
    async fn new(algorithm: &str, encrypted: bool) -> Self {
        let world = World::with_key(crate::binaries(), algorithm);
        let path = world.path("runner.pem");
        let issuer = FakeIssuer::start(&[("app", SECRET)]).await;
        let mut integration = world.integration(1, "host.example", "app", &world.seal(SECRET));
        integration["oauth"]["issuerUrl"] = issuer.issuer_url().into();
        world.write_list(&[integration]);
        let (_, key) = SecretDocument::from_pem(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let config = world.config("");
        if encrypted {
            std::fs::write(world.path("passphrase"), PASSPHRASE).unwrap();
            std::fs::set_permissions(world.path("passphrase"), PermissionsExt::from_mode(0o600)).unwrap();
            let info = PrivateKeyInfo::try_from(key.as_bytes()).unwrap();
            let encrypted = info.encrypt(rsa::rand_core::OsRng, PASSPHRASE).unwrap();
            std::fs::write(&path, encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).unwrap()).unwrap();
            let text = std::fs::read_to_string(&config).unwrap().replace("[key]\n", "[key]\npassphrase_file = \"passphrase\"\n");
            std::fs::write(&config, text).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap();
        let daemon = world.start(&config).await;
        daemon.until_synced().await;
        let (ok, _, error) = world.fill(&daemon, "https", "host.example").await;
        assert!(ok, "{error}\n{}", daemon.log());
        Self { daemon, file, key, _issuer: issuer, _world: world }
    }

    /// Checks that nothing of the file is left: no line of its text, and none of the bytes inside.
    async fn assert_no_trace_of_the_file(&self, private: &[u8]) {
        let mut needles: Vec<Needle> = Vec::new();
        for line in self.file.lines().filter(|line| !line.starts_with("-----")) {
            needles.extend(Needle::halves("a line of the file", line.as_bytes()));
        }
        for shift in 0..3 {
            needles.extend(Needle::halves("the key in Base64", &base64_of(private, shift)));
        }
        needles.extend(Needle::halves("the passphrase", PASSPHRASE.as_bytes()));
        if let Ok(encrypted) = SecretDocument::from_pem(&self.file).map(|(_, document)| document)
            && let Ok(info) = EncryptedPrivateKeyInfo::try_from(encrypted.as_bytes())
        {
            needles.extend(Needle::halves("the encrypted key", info.encrypted_data));
        }
        assert_gone(&self.daemon, "after the start", &needles).await;
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn of_an_rsa_key_only_the_numbers_in_use_are_in_memory() {
    for encrypted in [false, true] {
        let scene = Scene::new("rsa-2048", encrypted).await;
        let key = rsa::RsaPrivateKey::from_pkcs8_der(scene.key.as_bytes()).unwrap();
        let inverse = key.crt_coefficient().unwrap();
        let numbers = [
            ("d", key.d().clone()),
            ("p", key.primes()[0].clone()),
            ("q", key.primes()[1].clone()),
            ("d mod p-1", key.dp().unwrap().clone()),
            ("d mod q-1", key.dq().unwrap().clone()),
            ("1/q mod p", inverse),
        ];
        // As they stand in a file, and in any of its forms: none.
        let mut as_in_the_file = Vec::new();
        let mut as_in_use = Vec::new();
        for (name, number) in &numbers {
            as_in_the_file.extend(Needle::halves(&format!("{name}, big-endian"), &number.to_bytes_be()));
            as_in_use.extend(Needle::halves(&format!("{name}, little-endian"), &number.to_bytes_le()));
        }
        assert_gone(&scene.daemon, "the key's file", &as_in_the_file).await;
        scene.assert_no_trace_of_the_file(&numbers[1].1.to_bytes_be()).await;
        // The numbers as loaded, and again as aws-lc lays them out at the first use, so that no later one depends on their values
        // (its inverse is kept in Montgomery form there).
        let found = find(scene.daemon.pid(), &as_in_use).unwrap();
        assert_eq!(found.len(), as_in_use.len(), "{found:#?}");
        for (name, count) in found {
            assert_eq!(count, if name.starts_with("1/q") { 1 } else { 2 }, "{name}, encrypted: {encrypted}");
        }
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn of_an_x25519_key_only_the_scalar_in_use_is_in_memory() {
    for encrypted in [false, true] {
        let scene = Scene::new("x25519", encrypted).await;
        let info = PrivateKeyInfo::try_from(scene.key.as_bytes()).unwrap();
        let scalar = OctetStringRef::from_der(info.private_key).unwrap().as_bytes();
        scene.assert_no_trace_of_the_file(scalar).await;
        // Without its first and last bytes, which clamping changes.
        let found = find(scene.daemon.pid(), &Needle::halves("scalar", &scalar[1..31])).unwrap();
        assert_eq!(found, [("scalar, first half".to_owned(), 1), ("scalar, second half".to_owned(), 1)]);
        let reversed: Vec<u8> = scalar[1..31].iter().rev().copied().collect();
        assert_gone(&scene.daemon, "the scalar reversed", &Needle::halves("scalar", &reversed)).await;
    }
}
