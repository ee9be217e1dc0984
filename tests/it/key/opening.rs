//! Ciphertexts that other programs made open; everything else looks the same from outside.

use scm_agent::key::{Config, DecryptError, KeyRing, OaepHash};

use super::{Safe, box_with_shared_secret, fixtures, fixtures_in, key, name_of};

#[test]
fn what_openssl_sealed_opens_for_every_size_and_hash() {
    let mut opened = 0;
    for bits in [2048, 3072, 4096, 8192] {
        let ciphertexts =
            OaepHash::NAMES.map(|hash| (hash, std::fs::read(fixtures().join(format!("sealed/rsa-{bits}-{hash}.bin"))).unwrap()));
        for tried in OaepHash::NAMES {
            let key = key(&format!("rsa-{bits}.pem"), tried.parse().unwrap());
            for (hash, ciphertext) in &ciphertexts {
                match key.decrypt(ciphertext) {
                    Ok(secret) => {
                        assert_eq!(tried, *hash);
                        assert_eq!(secret.expose_secret(), format!("sealed by OpenSSL, {bits} bits, {hash}"));
                        opened += 1;
                    }
                    Err(DecryptError) => assert_ne!(tried, *hash, "{bits} bits"),
                }
            }
        }
    }
    assert_eq!(opened, 16);
}

#[test]
fn what_pynacl_sealed_opens() {
    let key = key("x25519.pem", OaepHash::default());
    let mut opened = 0;
    for file in fixtures_in("sealed") {
        let Some(length) = name_of(&file).trim_end_matches(".bin").strip_prefix("x25519-") else { continue };
        let length: usize = length.parse().unwrap();
        let secret = key.decrypt(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(secret.expose_secret(), &"sealed by PyNaCl. ".repeat(1000)[..length]);
        opened += 1;
    }
    assert_eq!(opened, 12);
}

fn ring(names: &[&str]) -> KeyRing {
    let safe = Safe::new();
    KeyRing::load(&Config { files: names.iter().map(|name| safe.good(name)).collect(), ..Config::default() }).unwrap()
}

#[test]
fn during_a_rotation_secrets_sealed_for_any_of_the_keys_open() {
    let names = ["rsa-2048.pem", "x25519.pem", "rsa-3072.pem", "rsa-4096.pem"];
    let ring = ring(&names);
    for name in names {
        let sealed = key(name, OaepHash::default()).public_key().seal(name.as_bytes()).unwrap();
        assert_eq!(ring.decrypt(&sealed).unwrap().expose_secret(), name);
    }
    let algorithms: Vec<String> = ring.descriptions().into_iter().map(|key| key.algorithm).collect();
    assert_eq!(algorithms, ["rsa-2048", "x25519", "rsa-3072", "rsa-4096"]);
    assert!(!ring.is_empty());
}

#[test]
fn the_same_key_in_two_files_counts_once() {
    let ring = ring(&["rsa-2048.pem", "rsa-2048-pkcs1.der", "x25519.raw", "x25519.pem"]);
    assert_eq!(ring.descriptions().len(), 2);
}

#[test]
fn one_bad_file_among_good_ones_loads_nothing() {
    let safe = Safe::new();
    let config = Config { files: vec![safe.good("x25519.pem"), safe.path("nothing")], ..Config::default() };
    assert!(KeyRing::load(&config).is_err());
}

#[test]
fn every_failure_to_open_looks_the_same() {
    let ring = ring(&["rsa-2048.pem", "x25519.pem"]);
    let rsa = key("rsa-2048.pem", OaepHash::default());
    let x25519 = key("x25519.pem", OaepHash::default());
    let mut wrong: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("zeros", vec![0; 256]),
        ("more than the modulus", vec![0xff; 256]),
        ("a byte too many", [rsa.public_key().seal(b"secret").unwrap(), vec![0]].concat()),
        ("another RSA key", key("rsa-3072.pem", OaepHash::default()).public_key().seal(b"secret").unwrap()),
        ("another hash", key("rsa-2048.pem", OaepHash::Sha1).public_key().seal(b"secret").unwrap()),
        ("empty content, RSA", rsa.public_key().seal(b"").unwrap()),
        ("empty content, X25519", x25519.public_key().seal(b"").unwrap()),
        ("content that is no client secret, RSA", rsa.public_key().seal(b"line\nline").unwrap()),
        ("content that is no client secret, X25519", x25519.public_key().seal("sécret".as_bytes()).unwrap()),
        ("no room for a tag", vec![9; 47]),
        ("far too long", vec![9; 100_000]),
    ];
    for good in [rsa.public_key().seal(b"secret").unwrap(), x25519.public_key().seal(b"secret").unwrap()] {
        assert!(ring.decrypt(&good).is_ok());
        for length in [1, 31, 32, 47, 48, good.len() - 1] {
            wrong.push(("cut off", good[..length.min(good.len() - 1)].to_vec()));
        }
        for index in 0..good.len() {
            let mut changed = good.clone();
            changed[index] ^= 0x80;
            // The top bit of a u-coordinate is masked (RFC 7748 section 5), but the nonce covers it.
            wrong.push(("changed", changed));
        }
    }
    for (what, ciphertext) in wrong {
        let error = ring.decrypt(&ciphertext).expect_err(what);
        assert_eq!(error, DecryptError, "{what}");
        assert_eq!(format!("{error} {error:?}"), "the ciphertext does not open with the runner's key DecryptError");
    }
}

#[test]
fn a_box_from_a_low_order_key_is_refused_although_its_tag_fits() {
    let key = key("x25519.pem", OaepHash::default());
    let recipient = key.public_key().registered_bytes();
    // 0, 1, p - 1, p, p + 1 and a point of order 8 (RFC 7748 sections 6.1 and 7).
    let p_minus_one: [u8; 32] = std::array::from_fn(|index| match index {
        0 => 0xec,
        31 => 0x7f,
        _ => 0xff,
    });
    let with_first = |first: u8| {
        let mut bytes = p_minus_one;
        bytes[0] = first;
        bytes
    };
    let small = |first: u8| std::array::from_fn(|index| if index == 0 { first } else { 0 });
    let order_8 = *b"\xe0\xeb\x7a\x7c\x3b\x41\xb8\xae\x16\x56\xe3\xfa\xf1\x9f\xc4\x6a\xda\x09\x8d\xeb\x9c\x32\xb1\xfd\x86\x62\x05\x16\x5f\x49\xb8\x00";
    for ephemeral in [small(0), small(1), p_minus_one, with_first(0xed), with_first(0xee), order_8] {
        let sealed = box_with_shared_secret(&ephemeral, recipient, &[0; 32], b"chosen by an attacker");
        assert_eq!(key.decrypt(&sealed).unwrap_err(), DecryptError, "{ephemeral:02x?}");
        let refused = scm_agent::key::RunnerPublicKey::from_registered(&ephemeral, OaepHash::default()).unwrap_err();
        assert!(refused.to_string().starts_with("the public key holds "), "{refused}");
    }
}

#[test]
fn debug_shows_nothing_of_a_private_key() {
    let key = key("rsa-2048.pem", OaepHash::default());
    assert_eq!(format!("{key:?}"), "RunnerPrivateKey([redacted])");
}
