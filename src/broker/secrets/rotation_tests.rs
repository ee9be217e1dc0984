//! What other keys change of what is known about a secret.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::key::Config;

/// A ring of X25519 keys made from these seeds, and what each seals.
fn ring(seeds: &[u8]) -> KeyRing {
    let folder = tempfile::tempdir().unwrap();
    KeyRing::load(&Config { files: seeds.iter().map(|seed| file(folder.path(), *seed)).collect(), ..Config::default() }).unwrap()
}

fn sealed(seed: u8) -> EncryptedClientSecret {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), seed);
    let ring = KeyRing::load(&Config { files: vec![path], ..Config::default() }).unwrap();
    EncryptedClientSecret::new(ring.keys()[0].public_key().seal(b"the secret").unwrap())
}

fn file(folder: &std::path::Path, seed: u8) -> std::path::PathBuf {
    let path = folder.join(seed.to_string());
    let bytes: Vec<u8> = (0..32).map(|index| seed.wrapping_mul(41).wrapping_add(index * 3) | 0x80).collect();
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn other_keys_try_again_what_did_not_open_and_look_again_at_what_did() {
    let ledger = SecretLedger::new(ring(&[1]));
    let (first, second) = (sealed(1), sealed(2));
    ledger.check_all(vec![first.clone(), second.clone()]).await;
    assert_eq!((ledger.state(&first), ledger.state(&second)), (status::Secret::Ok, status::Secret::Undecryptable));
    assert!(ledger.open(&second).await.is_none());
    ledger.replace(ring(&[2]));
    // Until it was looked at anew, what was known counts for the status, but not for who needs the secret.
    assert_eq!((ledger.state(&first), ledger.state(&second)), (status::Secret::Ok, status::Secret::Undecryptable));
    assert!(ledger.open(&second).await.is_some());
    ledger.check_all(vec![first.clone(), second.clone()]).await;
    assert_eq!((ledger.state(&first), ledger.state(&second)), (status::Secret::Undecryptable, status::Secret::Ok));
}

#[tokio::test(start_paused = true)]
async fn what_was_looked_at_before_needs_no_allowance_after_a_rotation() {
    let ledger = SecretLedger::new(ring(&[1]));
    let (first, second) = (sealed(1), sealed(2));
    ledger.check_all(vec![first.clone(), second.clone()]).await;
    ledger.allowance.lock().await.left = 0;
    ledger.replace(ring(&[1, 2]));
    let before = Instant::now();
    ledger.check_all(vec![first, second.clone()]).await;
    assert_eq!((before.elapsed(), ledger.state(&second)), (Duration::ZERO, status::Secret::Ok));
    // A new one does.
    assert!(ledger.open(&sealed(2)).await.is_some());
    assert!(before.elapsed() > Duration::ZERO);
}

#[test]
fn what_older_keys_did_is_not_taken_for_what_those_in_use_do() {
    let mut state = State { ring: Arc::new(ring(&[])), rotation: 1, opens: HashMap::new() };
    let digest = [7; 32];
    assert!(!state.remember(digest, Known { opens: false, rotation: 0 }));
    assert!(state.known_now(&digest).is_none() && state.keys_for(&digest).is_some());
    assert!(state.remember(digest, Known { opens: false, rotation: 1 }));
    assert!(state.keys_for(&digest).is_none());
    assert!(state.remember(digest, Known { opens: true, rotation: 1 }));
    assert!(!state.remember(digest, Known { opens: false, rotation: 0 }));
    assert!(state.opens[&digest].opens && state.keys_for(&digest).is_some());
}
