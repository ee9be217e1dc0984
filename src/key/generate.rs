//! Makes a private key and writes it where only its owner can read it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use pkcs8::der::{Encode as _, SecretDocument, asn1::OctetStringRef, pem};
use pkcs8::{LineEnding, PrivateKeyInfo};
use zeroize::Zeroizing;

use super::{Error, OaepHash, RunnerPrivateKey, RunnerPublicKey, UnknownName, encryption, form, sealed_box};

/// The keys that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewKey {
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
    /// X25519.
    X25519,
}

impl NewKey {
    /// The names that [`FromStr`] takes, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["rsa-2048", "rsa-3072", "rsa-4096", "x25519"];

    /// Whether making one takes long enough that a person wonders.
    #[must_use]
    pub fn takes_long(self) -> bool {
        matches!(self, Self::Rsa3072 | Self::Rsa4096)
    }
}

impl fmt::Display for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::X25519 => "x25519",
        })
    }
}

impl FromStr for NewKey {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "rsa-2048" => Ok(Self::Rsa2048),
            "rsa-3072" => Ok(Self::Rsa3072),
            "rsa-4096" => Ok(Self::Rsa4096),
            "x25519" => Ok(Self::X25519),
            _ => Err(UnknownName),
        }
    }
}

/// A key that was just made, on its way to a file.
pub struct GeneratedKey {
    /// The PrivateKeyInfo (RFC 5958), wiped on drop.
    pkcs8: SecretDocument,
    key: RunnerPrivateKey,
}

impl GeneratedKey {
    /// Makes a key, and tests it by sealing and opening a sample.
    ///
    /// # Errors
    /// [`Error::Generate`] when the library refuses.
    pub fn generate(algorithm: NewKey) -> Result<Self, Error> {
        let pkcs8 = match algorithm {
            NewKey::Rsa2048 => rsa(KeySize::Rsa2048),
            NewKey::Rsa3072 => rsa(KeySize::Rsa3072),
            NewKey::Rsa4096 => rsa(KeySize::Rsa4096),
            NewKey::X25519 => x25519(),
        }
        .ok_or(Error::Generate)?;
        let key = RunnerPrivateKey::parse(pkcs8.as_bytes(), None, OaepHash::default()).map_err(|_| Error::Generate)?;
        Ok(Self { pkcs8, key })
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &RunnerPublicKey {
        self.key.public_key()
    }

    /// The key as PKCS#8 PEM (RFC 7468 sections 10 and 11), encrypted if there is a passphrase.
    ///
    /// # Errors
    /// [`Error::Generate`] when the library refuses.
    pub fn to_pem(&self, passphrase: Option<&[u8]>) -> Result<Zeroizing<String>, Error> {
        let pem = match passphrase {
            None => pem::encode_string("PRIVATE KEY", LineEnding::LF, self.pkcs8.as_bytes()),
            Some(passphrase) => {
                let encrypted = encryption::encrypt(self.pkcs8.as_bytes(), passphrase)?;
                pem::encode_string("ENCRYPTED PRIVATE KEY", LineEnding::LF, encrypted.as_bytes())
            }
        };
        pem.map(Zeroizing::new).map_err(|_| Error::Generate)
    }

    /// Writes [`to_pem`](Self::to_pem) to a new file of mode 0600 and waits until it is on disk, the directory's entry too.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is anything by that name, a dangling link too; [`Error::Write`] otherwise, and then no file is left.
    pub fn write(&self, path: &Path, passphrase: Option<&[u8]>) -> Result<(), Error> {
        let pem = self.to_pem(passphrase)?;
        write_new(path, pem.as_bytes()).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
            _ => Error::Write { path: path.to_owned(), source },
        })
    }
}

fn rsa(size: KeySize) -> Option<SecretDocument> {
    let key = PrivateDecryptingKey::generate(size).ok()?;
    let der: Pkcs8V1Der<'_> = key.as_der().ok()?;
    SecretDocument::try_from(der.as_ref()).ok()
}

fn x25519() -> Option<SecretDocument> {
    let mut scalar = Zeroizing::new([0; sealed_box::KEY_BYTES]);
    aws_lc_rs::rand::fill(scalar.as_mut_slice()).ok()?;
    // An OCTET STRING inside the OCTET STRING (RFC 8410 section 7).
    let inner = Zeroizing::new(OctetStringRef::new(scalar.as_slice()).ok()?.to_der().ok()?);
    SecretDocument::try_from(PrivateKeyInfo::new(form::X25519, &inner)).ok()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // O_EXCL follows no link and overwrites nothing. The mode holds from the moment the file is there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = (|| {
        // The umask may have taken bits away that the owner needs.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // The file is ours: it did not exist before.
        let _ = std::fs::remove_file(path);
    }
    written
}
