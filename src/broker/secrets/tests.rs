//! How often a ciphertext is tried, and at what rate new ones are. Time is the runtime's own, and paused.

use std::sync::LazyLock;

use futures_util::FutureExt;

use super::*;
use crate::key::{GeneratedKey, NewKey, OaepHash, RunnerPublicKey};

static TRIED: LazyLock<Mutex<HashMap<CiphertextDigest, usize>>> = LazyLock::new(Mutex::default);

/// Notes that a ciphertext is tried.
pub(super) fn count(ciphertext: &EncryptedClientSecret) {
    *TRIED.lock().unwrap().entry(digest(ciphertext)).or_default() += 1;
}

fn tried(ciphertext: &EncryptedClientSecret) -> usize {
    TRIED.lock().unwrap().get(&digest(ciphertext)).copied().unwrap_or_default()
}

/// A ledger with one new key, and its public half.
fn ledger() -> (SecretLedger, RunnerPublicKey) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let key = GeneratedKey::generate(NewKey::X25519).unwrap();
    key.write(&path, None).unwrap();
    let public = RunnerPublicKey::from_registered(key.public_key().registered_bytes(), OaepHash::default()).unwrap();
    let config = crate::key::Config { files: vec![path], ..Default::default() };
    (SecretLedger::new(KeyRing::load(&config).unwrap()), public)
}

fn sealed(key: &RunnerPublicKey, secret: &[u8]) -> EncryptedClientSecret {
    EncryptedClientSecret::new(key.seal(secret).unwrap())
}

/// A ciphertext that nothing opens, another one each time.
fn hopeless() -> EncryptedClientSecret {
    let mut bytes = vec![0; 80];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    EncryptedClientSecret::new(bytes)
}

/// Takes all that may be opened at once.
async fn exhaust(ledger: &SecretLedger) {
    for _ in 0..BURST {
        ledger.allowance.lock().await.take().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_did_not_open_is_not_tried_again_whoever_asks() {
    let (ledger, key) = ledger();
    let mut cut = key.seal(b"secret").unwrap();
    cut.pop();
    for bad in [hopeless(), EncryptedClientSecret::new(cut), sealed(&key, b"no\nsecret"), sealed(&key, b"")] {
        assert!(ledger.open(&bad).await.is_none());
        assert!(ledger.open(&bad).await.is_none());
        ledger.check_all(vec![bad.clone(), bad.clone()]).await;
        assert_eq!(tried(&bad), 1);
        assert_eq!(ledger.state(&bad), status::Secret::Undecryptable);
    }
}

#[tokio::test(start_paused = true)]
async fn what_many_ask_for_at_once_is_tried_once_when_it_does_not_open() {
    let (ledger, _) = ledger();
    let bad = hopeless();
    let answers = futures_util::future::join_all((0..32).map(|_| ledger.open(&bad))).await;
    assert!(answers.iter().all(Option::is_none));
    assert_eq!(tried(&bad), 1);
    assert_eq!(ledger.allowance.lock().await.left, BURST - 1);
}

#[tokio::test(start_paused = true)]
async fn a_good_secret_is_opened_for_each_use_and_never_kept() {
    let (ledger, key) = ledger();
    let good = sealed(&key, b"secret");
    for _ in 0..3 {
        assert_eq!(ledger.open(&good).await.unwrap().expose_secret(), "secret");
    }
    assert_eq!(tried(&good), 3);
    assert_eq!(ledger.allowance.lock().await.left, BURST - 1, "only the first time is new");
    assert_eq!(ledger.state(&good), status::Secret::Ok);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_burst_one_new_ciphertext_a_second_is_opened() {
    let (ledger, key) = ledger();
    exhaust(&ledger).await;
    let begun = Instant::now();
    for second in 1..=10 {
        let ciphertext = if second % 2 == 0 { hopeless() } else { sealed(&key, b"secret") };
        ledger.open(&ciphertext).await;
        assert_eq!(tried(&ciphertext), 1);
        assert!(begun.elapsed() >= REFILL * second, "the {second}. came after {:?}", begun.elapsed());
    }
    // A pause earns as many as it has seconds, and at most the burst again.
    tokio::time::advance(REFILL * 5).await;
    let begun = Instant::now();
    for _ in 0..5 {
        ledger.open(&hopeless()).await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    ledger.open(&hopeless()).await;
    assert!(begun.elapsed() >= REFILL);
    tokio::time::advance(REFILL * (BURST * 3)).await;
    exhaust(&ledger).await;
    let begun = Instant::now();
    ledger.open(&hopeless()).await;
    assert!(begun.elapsed() >= REFILL);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_new_ciphertexts_does_not_hold_up_known_ones() {
    let (ledger, key) = ledger();
    let good = sealed(&key, b"secret");
    let known_bad = hopeless();
    ledger.open(&good).await.unwrap();
    assert!(ledger.open(&known_bad).await.is_none());
    exhaust(&ledger).await;
    let mut list = vec![good.clone(), known_bad.clone()];
    list.extend((0..1000).map(|_| hopeless()));
    let mut flood = Box::pin(ledger.check_all(list));
    assert!((&mut flood).now_or_never().is_none(), "the flood does not wait");
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(ledger.open(&good).await.is_some());
        assert!(ledger.open(&known_bad).await.is_none());
    }
    assert!(begun.elapsed() < REFILL, "{:?}", begun.elapsed());
    // One that was never seen waits its turn, and only that: not for the whole flood.
    let new = sealed(&key, b"another");
    tokio::select! {
        () = &mut flood => panic!("a thousand at one a second"),
        opened = ledger.open(&new) => assert!(opened.is_some()),
    }
    assert!(begun.elapsed() <= REFILL * 5, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_list_no_longer_has_is_forgotten() {
    let (ledger, key) = ledger();
    let (kept, gone) = (sealed(&key, b"kept"), hopeless());
    ledger.check_all(vec![kept.clone(), gone.clone()]).await;
    assert_eq!(ledger.state(&gone), status::Secret::Undecryptable);
    ledger.check_all(vec![kept.clone()]).await;
    assert_eq!(ledger.lock().opens.len(), 1);
    assert_eq!(ledger.state(&kept), status::Secret::Ok);
}
