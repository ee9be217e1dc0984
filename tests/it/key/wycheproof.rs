//! Known answers from Project Wycheproof. What cannot be run is counted by reason, so that a case cannot get lost.

use std::collections::BTreeMap;

use scm_agent::key::{OaepHash, Problem, RunnerPrivateKey};
use wycheproof::{HashFunction, Mgf, TestResult, rsa_oaep, xdh};

use super::box_with_shared_secret;

fn hash_of(hash: HashFunction) -> Option<OaepHash> {
    match hash {
        HashFunction::Sha1 => Some(OaepHash::Sha1),
        HashFunction::Sha2_256 => Some(OaepHash::Sha256),
        HashFunction::Sha2_384 => Some(OaepHash::Sha384),
        HashFunction::Sha2_512 => Some(OaepHash::Sha512),
        _ => None,
    }
}

#[test]
fn every_rsa_oaep_case_that_can_be_run_comes_out_right() {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut count = |what| *counted.entry(what).or_default() += 1;
    for name in rsa_oaep::TestName::all() {
        for group in rsa_oaep::TestSet::load(name).unwrap().test_groups {
            assert_eq!(group.mgf, Mgf::Mgf1);
            let loaded = match (hash_of(group.hash), hash_of(group.mgf_hash)) {
                (Some(hash), Some(mgf)) if hash == mgf => {
                    RunnerPrivateKey::parse(&group.pkcs8, None, hash).map_err(|problem| match problem {
                        Problem::RsaTooSmall { .. } => "skipped: key under 2048 bits",
                        other => panic!("{other}"),
                    })
                }
                (Some(_), Some(_)) => Err("skipped: MGF1 hash is another than the OAEP hash"),
                _ => Err("skipped: hash that OAEP is not offered with"),
            };
            for test in &group.tests {
                let key = match &loaded {
                    Ok(key) => key,
                    Err(reason) => {
                        count(reason);
                        continue;
                    }
                };
                let opened = key.open(&test.ct).ok();
                match (test.result, test.label.is_empty()) {
                    (TestResult::Valid, true) => {
                        assert_eq!(opened.unwrap().as_slice(), test.pt.as_slice(), "{name:?} {}", test.tc_id);
                        count("opened");
                    }
                    // The runner's label is the empty one.
                    (TestResult::Valid, false) => {
                        assert!(opened.is_none(), "{name:?} {}", test.tc_id);
                        count("refused: sealed with a label");
                    }
                    (TestResult::Invalid, _) => {
                        assert!(opened.is_none(), "{name:?} {}", test.tc_id);
                        count("refused");
                    }
                    (TestResult::Acceptable, _) => {
                        if let Some(opened) = opened {
                            assert_eq!(opened.as_slice(), test.pt.as_slice(), "{name:?} {}", test.tc_id);
                        }
                        count("acceptable");
                    }
                }
            }
        }
    }
    assert_eq!(
        counted,
        BTreeMap::from([
            ("opened", 125),
            ("refused", 150),
            ("refused: sealed with a label", 70),
            ("acceptable", 3),
            ("skipped: MGF1 hash is another than the OAEP hash", 408),
            ("skipped: hash that OAEP is not offered with", 324),
            ("skipped: key under 2048 bits", 18),
        ])
    );
}

/// Each case's public key is a box's ephemeral one, and the box is sealed with the shared secret that the case says: it opens if
/// and only if the exchange ends in that, and never if that is zero. (crypto_box 0.9.1 opens 103 of the 487: it reduces the scalar.)
#[test]
fn every_x25519_case_comes_out_right() {
    /// A PrivateKeyInfo up to the scalar (RFC 8410 section 7).
    const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x6e\x04\x22\x04\x20";
    let (mut agreed, mut zero) = (0, 0);
    for group in xdh::TestSet::load(xdh::TestName::X25519).unwrap().test_groups {
        for test in &group.tests {
            let key = RunnerPrivateKey::parse(&[&PKCS8, test.private_key.as_slice()].concat(), None, OaepHash::default()).unwrap();
            let recipient = key.public_key().registered_bytes();
            let sealed = box_with_shared_secret(&test.public_key, recipient, &test.shared_secret, b"content");
            if test.shared_secret.iter().all(|byte| *byte == 0) {
                assert!(key.open(&sealed).is_err(), "{}", test.tc_id);
                zero += 1;
            } else {
                assert_eq!(key.open(&sealed).unwrap().as_slice(), b"content", "{}", test.tc_id);
                agreed += 1;
            }
        }
    }
    assert_eq!((agreed, zero), (487, 31));
}
