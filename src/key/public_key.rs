//! The public half of a runner's key: what the control plane seals with, and what is registered there.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pkcs8::LineEnding;
use pkcs8::der::pem;

use super::file::Contents;
use super::form::{self, Form};
use super::{Algorithm, Error, Fingerprint, LoadOptions, OaepHash, Problem, RunnerPrivateKey, oaep, sealed_box};

/// A public key of a runner.
pub struct RunnerPublicKey {
    sealing: Sealing,
    /// The SubjectPublicKeyInfo's DER, in which the fingerprint and the PEM are.
    spki: Vec<u8>,
    bare: bool,
}

pub(super) enum Sealing {
    Oaep(oaep::PublicKey),
    SealedBox(sealed_box::PublicKey),
}

impl RunnerPublicKey {
    pub(super) fn new(sealing: Sealing, spki: Vec<u8>) -> Self {
        Self { sealing, spki, bare: false }
    }

    /// Loads a public key file, or the public half of a private key file.
    ///
    /// A private key must be as safe as [`RunnerPrivateKey::load`] wants it; a public one may be anyone's. 32 bare bytes, raw or
    /// in base64, do not say which half they are: they are taken for a public key, because to take a public key for a private
    /// one would seal to a key that everyone knows.
    ///
    /// # Errors
    /// [`Error::KeyFile`] and [`Error::PassphraseFile`], with what is wrong.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, Error> {
        let passphrase = options.passphrase()?;
        let load = || {
            let contents = Contents::read(path)?;
            match form::read(&contents.bytes, passphrase.as_deref().map(Vec::as_slice)) {
                Ok(private @ (Form::RsaPrivate(_) | Form::X25519Private { .. })) => {
                    contents.check_private(path, options.owner)?;
                    RunnerPrivateKey::from_form(private, options.oaep_hash).map(RunnerPrivateKey::into_public_key)
                }
                form => Self::from_form(form?, options.oaep_hash),
            }
        };
        load().map_err(|problem| Error::KeyFile { path: path.to_owned(), problem })
    }

    /// Whether it was read from 32 bare bytes, raw or in base64, which do not say whether they are a private or a public key.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// The same key, noted as read from bare bytes.
    pub(super) fn noted_as_bare(self) -> Self {
        Self { bare: true, ..self }
    }

    /// Takes a public key as the control plane has it registered: 32 raw bytes, DER or PEM.
    ///
    /// # Errors
    /// [`Error::PublicKey`], with what is wrong.
    pub fn from_registered(bytes: &[u8], hash: OaepHash) -> Result<Self, Error> {
        let parse = || match form::read(bytes, None)? {
            Form::RsaPrivate(_) | Form::X25519Private { .. } => Err(Problem::Unrecognised),
            form => Self::from_form(form, hash),
        };
        parse().map_err(|problem| Error::PublicKey { problem })
    }

    fn from_form(form: Form, hash: OaepHash) -> Result<Self, Problem> {
        match form {
            Form::RsaPublic(pkcs1) => oaep::PublicKey::load(&pkcs1, hash).map(|(key, spki)| Self::new(Sealing::Oaep(key), spki)),
            Form::X25519Public(bytes) => Self::x25519(&bytes),
            Form::Bare(bytes) => Self::x25519(&bytes).map(Self::noted_as_bare),
            form @ (Form::RsaPrivate(_) | Form::X25519Private { .. }) => {
                RunnerPrivateKey::from_form(form, hash).map(RunnerPrivateKey::into_public_key)
            }
        }
    }

    fn x25519(bytes: &[u8]) -> Result<Self, Problem> {
        let key = sealed_box::PublicKey::load(bytes.try_into().map_err(|_| Problem::X25519Length)?)?;
        let spki = form::spki(form::X25519, &key.0).ok_or(Problem::X25519Length)?;
        Ok(Self::new(Sealing::SealedBox(key), spki))
    }

    /// What the key is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match &self.sealing {
            Sealing::Oaep(key) => Algorithm::Rsa { bits: key.bits() },
            Sealing::SealedBox(_) => Algorithm::X25519,
        }
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.spki)
    }

    /// The most bytes that it can seal.
    #[must_use]
    pub fn max_secret_bytes(&self) -> usize {
        match &self.sealing {
            Sealing::Oaep(key) => key.max_plaintext_bytes(),
            Sealing::SealedBox(_) => sealed_box::MAX_PLAINTEXT_BYTES,
        }
    }

    /// Seals a secret as the control plane does.
    ///
    /// # Errors
    /// [`Error::SecretTooLong`], and [`Error::Seal`] when the library refuses.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let limit = self.max_secret_bytes();
        if plaintext.len() > limit {
            return Err(Error::SecretTooLong { limit });
        }
        match &self.sealing {
            Sealing::Oaep(key) => key.seal(plaintext),
            Sealing::SealedBox(key) => key.seal(plaintext),
        }
    }

    /// The key as PEM (RFC 7468 section 13), with a line end at its end.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode_string("PUBLIC KEY", LineEnding::LF, &self.spki).expect("a key of at most 8192 bits and a valid label encode")
    }

    /// The bytes that the control plane registers: an X25519 key's own 32 bytes, an RSA key's SubjectPublicKeyInfo.
    #[must_use]
    pub fn registered_bytes(&self) -> &[u8] {
        match &self.sealing {
            Sealing::Oaep(_) => &self.spki,
            Sealing::SealedBox(key) => &key.0,
        }
    }

    /// [`registered_bytes`](Self::registered_bytes) in base64, as JSON carries them.
    #[must_use]
    pub fn to_registration_base64(&self) -> String {
        STANDARD.encode(self.registered_bytes())
    }

    pub(super) fn spki(&self) -> &[u8] {
        &self.spki
    }
}

impl fmt::Debug for RunnerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunnerPublicKey({}, {})", self.algorithm(), self.fingerprint())
    }
}
