//! Tests of `key`: files good and bad, ciphertexts that others sealed, known answers, and the commands.

mod commands;
mod development;
mod differential;
mod files;
mod opening;
mod wycheproof;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use scm_agent::key::{LoadOptions, OaepHash, RunnerPrivateKey};
use tempfile::TempDir;

/// The passphrase of every encrypted key in the fixtures.
const PASSPHRASE: &str = "correct horse\n";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/key")
}

/// The files of a folder of fixtures, in order, without those that say what to expect.
fn fixtures_in(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(fixtures().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.extension().is_some_and(|extension| extension == "report" || extension == "fingerprint"))
        .collect();
    files.sort();
    files
}

/// A folder of one test's own, in which files have the permissions that keys need: git keeps none.
struct Safe(TempDir);

impl Safe {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        self.write_with_mode(name, bytes, 0o600)
    }

    fn write_with_mode(&self, name: &str, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn copy(&self, original: &Path) -> PathBuf {
        self.write(name_of(original), std::fs::read(original).unwrap())
    }

    fn good(&self, name: &str) -> PathBuf {
        self.copy(&fixtures().join("good").join(name))
    }

    /// Options with the fixtures' passphrase.
    fn options(&self) -> LoadOptions {
        LoadOptions { passphrase_file: Some(self.write("passphrase", PASSPHRASE)), ..LoadOptions::default() }
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// A good key of the fixtures.
fn key(name: &str, hash: OaepHash) -> RunnerPrivateKey {
    let options = LoadOptions { oaep_hash: hash, ..LoadOptions::default() };
    RunnerPrivateKey::load(&Safe::new().good(name), &options).unwrap()
}

/// A sealed box as someone makes it who knows what the exchange between the ephemeral key and the recipient's ends in.
fn box_with_shared_secret(ephemeral: &[u8], recipient: &[u8], shared: &[u8], content: &[u8]) -> Vec<u8> {
    use blake2::Digest as _;
    use crypto_secretbox::{AeadInPlace as _, Kdf as _, Key, KeyInit as _, XSalsa20Poly1305, consts::U24};

    let nonce = blake2::Blake2b::<U24>::new().chain_update(ephemeral).chain_update(recipient).finalize();
    let cipher = XSalsa20Poly1305::new(&XSalsa20Poly1305::kdf(Key::from_slice(shared), &Default::default()));
    let mut sealed = content.to_vec();
    let tag = cipher.encrypt_in_place_detached(&nonce, &[], &mut sealed).unwrap();
    [ephemeral, &tag, &sealed].concat()
}
