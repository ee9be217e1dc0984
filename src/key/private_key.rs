//! One private key of the runner: loaded from a file, described, and put to its one use.

use std::fmt;
use std::path::Path;

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroizing, zeroize_stack};

use super::file::Contents;
use super::form::{self, Form};
use super::public_key::Sealing;
use super::{Algorithm, DecryptError, Error, Fingerprint, LoadOptions, OaepHash, Problem, RunnerPublicKey, oaep, sealed_box, state_key};
use crate::secret::{ClientSecret, StateKey};

/// How much of the stack is wiped after a private key was read or used: shared secrets and cipher keys are moved about there by
/// the libraries. Several times what they use; a microsecond's work.
const STACK_BYTES: usize = 32 * 1024;

/// A private key of the runner. The key itself rests in aws-lc's memory and cannot be read back, so what is derived from it is
/// derived when it is loaded.
pub struct RunnerPrivateKey {
    opening: Opening,
    public: RunnerPublicKey,
    state_key: StateKey,
}

enum Opening {
    Oaep(oaep::PrivateKey),
    SealedBox(sealed_box::PrivateKey),
}

impl RunnerPrivateKey {
    /// Loads the one key of a file, in any of its forms, and tests it by sealing and opening a sample.
    ///
    /// The file must be regular, belong to root, to this user or to the owner that the options name, and be closed to everyone else.
    ///
    /// # Errors
    /// [`Error::KeyFile`] and [`Error::PassphraseFile`], with what is wrong.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, Error> {
        let passphrase = options.passphrase()?;
        let load = || {
            Self::parse(&Contents::read_private(path, options.owner)?.bytes, passphrase.as_deref().map(Vec::as_slice), options.oaep_hash)
        };
        load().map_err(|problem| Error::KeyFile { path: path.to_owned(), problem })
    }

    /// Takes the one key out of a file's bytes.
    ///
    /// # Errors
    /// [`Problem`], which names no path.
    pub fn parse(bytes: &[u8], passphrase: Option<&[u8]>, hash: OaepHash) -> Result<Self, Problem> {
        let parsed = Self::parse_on_stack(bytes, passphrase, hash);
        // Clear intermediates
        zeroize_stack::<STACK_BYTES>();
        parsed
    }

    #[inline(never)]
    fn parse_on_stack(bytes: &[u8], passphrase: Option<&[u8]>, hash: OaepHash) -> Result<Self, Problem> {
        Self::from_form(form::read(bytes, passphrase)?, hash)
    }

    pub(super) fn from_form(form: Form, hash: OaepHash) -> Result<Self, Problem> {
        match form {
            Form::RsaPrivate(pkcs1) => {
                let (private, public, spki) = oaep::PrivateKey::load(&pkcs1, hash)?;
                let state_key = state_key::of_rsa(&pkcs1).ok_or(Problem::SelfTest)?;
                Self::tested(Opening::Oaep(private), RunnerPublicKey::new(Sealing::Oaep(public), spki), state_key)
            }
            Form::X25519Private { scalar, public } => Self::x25519(&scalar, public.as_deref()),
            Form::Bare(scalar) => {
                let Self { opening, public, state_key } = Self::x25519(&scalar, None)?;
                Ok(Self { opening, public: public.noted_as_bare(), state_key })
            }
            Form::RsaPublic(_) | Form::X25519Public(_) => Err(Problem::PublicKey),
        }
    }

    fn x25519(scalar: &[u8], stored_public: Option<&[u8]>) -> Result<Self, Problem> {
        if scalar.len() != sealed_box::KEY_BYTES {
            return Err(Problem::X25519Length);
        }
        let private = sealed_box::PrivateKey::load(scalar)?;
        let public = private.public_key();
        if stored_public.is_some_and(|stored| stored != public.0) {
            return Err(Problem::PublicHalfMismatch);
        }
        let spki = form::spki(form::X25519, &public.0).ok_or(Problem::SelfTest)?;
        let state_key = state_key::of_x25519(scalar).ok_or(Problem::SelfTest)?;
        Self::tested(Opening::SealedBox(private), RunnerPublicKey::new(Sealing::SealedBox(public), spki), state_key)
    }

    fn tested(opening: Opening, public: RunnerPublicKey, state_key: StateKey) -> Result<Self, Problem> {
        const SAMPLE: &[u8] = b"self-test";
        let key = Self { opening, public, state_key };
        let sealed = key.public.seal(SAMPLE).map_err(|_| Problem::SelfTest)?;
        let opened = key.open(&sealed).map_err(|_| Problem::SelfTest)?;
        if opened.as_slice() == SAMPLE { Ok(key) } else { Err(Problem::SelfTest) }
    }

    /// What the key is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// The public half's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint()
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &RunnerPublicKey {
        &self.public
    }

    /// The public half alone; the private one is wiped.
    #[must_use]
    pub fn into_public_key(self) -> RunnerPublicKey {
        self.public
    }

    /// The key for the daemon's state that is derived from this one: the same for every form of this key's file.
    #[must_use]
    pub fn state_key(&self) -> StateKey {
        StateKey::new(self.state_key.expose_secret())
    }

    /// Opens a sealed client secret.
    ///
    /// # Errors
    /// [`DecryptError`], whatever went wrong: the wrong length, the wrong key, damage, or content that is no client secret.
    pub fn decrypt(&self, ciphertext: &[u8]) -> Result<ClientSecret, DecryptError> {
        ClientSecret::parse(self.open(ciphertext)?).map_err(|_| DecryptError)
    }

    /// Opens a ciphertext and leaves it to the caller what its content may be.
    ///
    /// # Errors
    /// [`DecryptError`], whatever went wrong.
    pub fn open(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let opened = self.open_on_stack(ciphertext);
        // Clear intermediates
        zeroize_stack::<STACK_BYTES>();
        opened.ok_or(DecryptError)
    }

    #[inline(never)]
    fn open_on_stack(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match &self.opening {
            Opening::Oaep(key) => key.fits(ciphertext).then(|| key.open(ciphertext))?,
            Opening::SealedBox(key) => key.fits(ciphertext).then(|| key.open(ciphertext))?,
        }
    }

    /// Whether both are the same key.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.public.spki().ct_eq(other.public.spki()).into()
    }
}

impl fmt::Debug for RunnerPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunnerPrivateKey([redacted])")
    }
}
