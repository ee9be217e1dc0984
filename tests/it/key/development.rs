//! The keys in `keys`: known by fingerprint, refused unless allowed, and their samples open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use scm_agent::key::{Config, Error, KeyRing, LoadOptions, Problem, RunnerPrivateKey, RunnerPublicKey};

use super::{Safe, name_of};

fn private_keys() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| std::fs::read_to_string(path).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_private_key_in_the_folder_is_known_as_a_development_key_and_refused() {
    let safe = Safe::new();
    let mut algorithms = BTreeSet::new();
    for file in private_keys() {
        let path = safe.copy(&file);
        let key = RunnerPrivateKey::load(&path, &LoadOptions::default()).unwrap();
        assert!(key.fingerprint().is_development(), "{} must be in the list", file.display());
        algorithms.insert(key.algorithm().to_string());

        let mut config = Config { files: vec![path.clone()], ..Config::default() };
        match KeyRing::load(&config).unwrap_err() {
            Error::KeyFile { path: named, problem: Problem::DevelopmentKey } => assert_eq!(named, path),
            other => panic!("{other}"),
        }
        config.allow_development_key = true;
        assert_eq!(KeyRing::load(&config).unwrap().descriptions().len(), 1);
    }
    assert_eq!(algorithms.into_iter().collect::<Vec<_>>(), ["rsa-2048", "x25519"]);
}

#[test]
fn beside_each_development_key_are_its_public_half_and_a_sample_that_opens() {
    let safe = Safe::new();
    for file in private_keys() {
        let key = RunnerPrivateKey::load(&safe.copy(&file), &LoadOptions::default()).unwrap();
        let public = RunnerPublicKey::load(&file.with_extension("public.pem"), &LoadOptions::default()).unwrap();
        assert_eq!(public.fingerprint(), key.fingerprint(), "{}", name_of(&file));
        let sealed = std::fs::read_to_string(file.with_extension("sealed")).unwrap();
        let sealed = base64::engine::general_purpose::STANDARD.decode(sealed.trim()).unwrap();
        assert_eq!(key.decrypt(&sealed).unwrap().expose_secret(), "development-client-secret");
    }
}

#[test]
fn a_key_of_ones_own_is_no_development_key() {
    let safe = Safe::new();
    for name in ["rsa-2048.pem", "x25519.pem"] {
        let config = Config { files: vec![safe.good(name)], ..Config::default() };
        assert!(!KeyRing::load(&config).unwrap().keys()[0].fingerprint().is_development());
    }
}
