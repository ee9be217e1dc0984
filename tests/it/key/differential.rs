//! Our answers beside those of other implementations, on ciphertexts that nobody chose.

use std::sync::atomic::{AtomicUsize, Ordering};

use crypto_box::aead::OsRng;
use crypto_box::aead::rand_core::RngCore as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::{Oaep, RsaPrivateKey};
use scm_agent::key::{OaepHash, RunnerPrivateKey};

use super::{fixtures, key};

/// How many RSA ciphertexts are compared. `tests/run` asks for 10,000 (`SCM_AGENT_TEST_CIPHERTEXTS`), half a minute of two cores.
fn ciphertexts() -> usize {
    std::env::var("SCM_AGENT_TEST_CIPHERTEXTS").map_or(500, |count| count.parse().expect("SCM_AGENT_TEST_CIPHERTEXTS is a number"))
}

fn padding(hash: OaepHash) -> Oaep {
    match hash {
        OaepHash::Sha1 => Oaep::new::<sha1::Sha1>(),
        OaepHash::Sha256 => Oaep::new::<sha2::Sha256>(),
        OaepHash::Sha384 => Oaep::new::<sha2::Sha384>(),
        OaepHash::Sha512 => Oaep::new::<sha2::Sha512>(),
    }
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    OsRng.fill_bytes(&mut bytes);
    bytes
}

#[test]
fn random_rsa_ciphertexts_open_as_the_rsa_crate_opens_them() {
    let pem = std::fs::read_to_string(fixtures().join("good/rsa-2048.pem")).unwrap();
    let reference = RsaPrivateKey::from_pkcs8_pem(&pem).unwrap();
    let keys: Vec<(OaepHash, RunnerPrivateKey)> =
        OaepHash::NAMES.iter().map(|name| name.parse().unwrap()).map(|hash| (hash, key("rsa-2048.pem", hash))).collect();
    let count = ciphertexts();
    let (next, opened) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let (hash, ours) = &keys[number % keys.len()];
            let content = random(OsRng.next_u32() as usize % (ours.public_key().max_secret_bytes() + 1));
            // Sealed by either side, damaged in one bit, sealed for another hash, or anything at all.
            let ciphertext = match (number / keys.len()) % 5 {
                0 => ours.public_key().seal(&content).unwrap(),
                1 => reference.to_public_key().encrypt(&mut OsRng, padding(*hash), &content).unwrap(),
                2 => {
                    let mut sealed = ours.public_key().seal(&content).unwrap();
                    sealed[OsRng.next_u32() as usize % 256] ^= 1 << (OsRng.next_u32() % 8);
                    sealed
                }
                3 => keys[(number + 1) % keys.len()].1.public_key().seal(&content[..content.len().min(100)]).unwrap(),
                _ => random(256),
            };
            let theirs = reference.decrypt(padding(*hash), &ciphertext).ok();
            let opened_here = ours.open(&ciphertext).ok();
            assert_eq!(opened_here.as_deref(), theirs.as_ref(), "{hash} {ciphertext:02x?}");
            opened.fetch_add(usize::from(theirs.is_some()), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    // Two of the five kinds open.
    assert_eq!(opened.into_inner(), (0..count).filter(|number| (number / keys.len()) % 5 < 2).count());
}

#[test]
fn random_boxes_open_as_the_crypto_box_crate_opens_them() {
    let scalar: [u8; 32] = std::fs::read(fixtures().join("good/x25519.raw")).unwrap().try_into().unwrap();
    let reference = crypto_box::SecretKey::from(scalar);
    let ours = key("x25519.pem", OaepHash::default());
    assert_eq!(ours.public_key().registered_bytes(), reference.public_key().as_bytes());
    for number in 0..150 {
        let content = random(OsRng.next_u32() as usize % 200);
        let mut sealed = match number % 2 {
            0 => ours.public_key().seal(&content).unwrap(),
            _ => reference.public_key().seal(&mut OsRng, &content).unwrap(),
        };
        if number % 3 == 2 {
            // Not in the ephemeral key: on a twist point the reference differs from RFC 7748.
            let index = 32 + OsRng.next_u32() as usize % (sealed.len() - 32);
            sealed[index] ^= 1;
        }
        let theirs = reference.unseal(&sealed).ok();
        assert_eq!(ours.open(&sealed).ok().as_deref(), theirs.as_ref());
        assert_eq!(theirs.is_some(), number % 3 != 2);
    }
}
