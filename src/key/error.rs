//! What can be wrong with a key file, with making a key, with sealing; and the one thing that can be wrong with opening.

use std::io;
use std::path::PathBuf;

/// Why a key could not be loaded, made, written or used for sealing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library could not make a key.
    #[error("cannot make a new key: the cryptographic library refused")]
    Generate,
    /// A key file is not what it must be.
    #[error("key file {}: {problem}", path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The passphrase file is not what it must be.
    #[error("passphrase file {}: {problem}", path.display())]
    PassphraseFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Public key bytes from elsewhere, for example from the control plane, are not a key.
    #[error("the public key {problem}")]
    PublicKey {
        /// What is wrong with it.
        problem: Problem,
    },
    /// More than the key can seal.
    #[error("the secret is longer than this key can seal, which is {limit} bytes")]
    SecretTooLong {
        /// The most bytes that it takes.
        limit: usize,
    },
    /// The library could not seal.
    #[error("cannot seal: the cryptographic library refused")]
    Seal,
    /// The file to write exists.
    #[error("{} exists, and a key is never overwritten", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The file could not be written.
    #[error("cannot write the key file {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong with a key file or a passphrase file. Never says what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    // The file itself
    /// No such file.
    #[error("does not exist")]
    Missing,
    /// The system does not let this user open it.
    #[error("cannot be opened by this user: permission denied")]
    PermissionDenied,
    /// Opening or reading failed otherwise.
    #[error("cannot be read: {0}")]
    Unreadable(io::ErrorKind),
    /// A symbolic link.
    #[error("is a symbolic link")]
    Symlink,
    /// A directory.
    #[error("is a directory")]
    Directory,
    /// A named pipe.
    #[error("is a named pipe")]
    Fifo,
    /// A socket.
    #[error("is a socket")]
    Socket,
    /// A block or character device.
    #[error("is a device")]
    Device,
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// Over the limit.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Someone else's file.
    #[error("belongs to user {owner}, who is neither root nor the user that runs this")]
    ForeignOwner {
        /// The owner's uid.
        owner: u32,
    },
    /// Group or others may do something with it.
    #[error("is open to its group or to others (mode {mode:04o})")]
    OpenToOthers {
        /// The permission bits.
        mode: u32,
    },

    // What is in it
    /// Not a key in any known form.
    #[error("holds no private key in a form that is known")]
    Unrecognised,
    /// Text of 32 characters, which is hardly 32 random bytes.
    #[error("holds 32 characters of text, which are no 32 random bytes")]
    TextNotRaw,
    /// 32 bytes that are all the same.
    #[error("holds 32 equal bytes, which are no key")]
    NotRandom,
    /// PEM that breaks RFC 7468.
    #[error("holds damaged PEM")]
    DamagedPem,
    /// DER that is cut off or broken.
    #[error("holds damaged DER")]
    DamagedDer,
    /// More than one PEM block.
    #[error("holds {count} PEM blocks, and must hold one key only")]
    Several {
        /// How many.
        count: usize,
    },
    /// A public key where a private one is needed.
    #[error("holds a public key, not a private one")]
    PublicKey,
    /// An X.509 certificate.
    #[error("holds a certificate, not a private key")]
    Certificate,
    /// A PKCS#10 request.
    #[error("holds a certificate request, not a private key")]
    CertificateRequest,
    /// A PKCS#12 bundle.
    #[error("holds a PKCS#12 bundle, not a bare private key")]
    Pkcs12,
    /// OpenSSH's own format.
    #[error("holds a key in OpenSSH's own format")]
    OpenSsh,
    /// An OpenSSH public key line.
    #[error("holds an OpenSSH public key, not a private key")]
    OpenSshPublic,
    /// PuTTY's own format.
    #[error("holds a key in PuTTY's own format")]
    Putty,
    /// A JSON Web Key or other JSON.
    #[error("holds JSON, for example a JSON Web Key")]
    Json,
    /// An elliptic curve key other than X25519.
    #[error("holds an elliptic curve key, which is for signing")]
    EllipticCurve,
    /// An Ed25519 or Ed448 key.
    #[error("holds an Edwards curve key, which is for signing")]
    Edwards,
    /// An X448 key.
    #[error("holds an X448 key")]
    X448,
    /// An RSA key that its algorithm identifier keeps to signatures or to OAEP parameters of its own.
    #[error("holds an RSA key that is restricted to PSS signatures or to OAEP parameters of its own")]
    RestrictedRsa,
    /// Some other algorithm.
    #[error("holds a key of an algorithm that is not supported")]
    UnsupportedAlgorithm,
    /// A modulus under 2048 bits.
    #[error("holds an RSA key of {bits} bits, and 2048 are the least")]
    RsaTooSmall {
        /// Its size.
        bits: usize,
    },
    /// A modulus over 8192 bits.
    #[error("holds an RSA key of {bits} bits, and 8192 are the most")]
    RsaTooLarge {
        /// Its size.
        bits: usize,
    },
    /// More than two primes.
    #[error("holds an RSA key with more than two primes")]
    RsaMultiPrime,
    /// Numbers that do not belong together.
    #[error("holds an RSA key whose numbers do not fit together")]
    RsaInconsistent,
    /// An X25519 key that is not 32 bytes.
    #[error("holds an X25519 key that is not 32 bytes long")]
    X25519Length,
    /// A public key on which every exchange ends in zero.
    #[error("holds an X25519 public key of low order, with which nothing can be sealed")]
    X25519LowOrder,
    /// The public half stored beside the private one is another key's.
    #[error("holds a public half that does not belong to its private half")]
    PublicHalfMismatch,
    /// Sealing and opening a sample with it failed.
    #[error("holds a key that failed its self-test: what it sealed did not open")]
    SelfTest,

    // Encryption
    /// Encrypted, and nothing to open it with.
    #[error("is encrypted, and no passphrase file was named")]
    PassphraseNeeded,
    /// Does not open with this passphrase.
    #[error("does not open with this passphrase")]
    PassphraseWrong,
    /// Not PBES2 with scrypt or PBKDF2 and AES.
    #[error("is encrypted in a way that is not supported")]
    EncryptionUnsupported,
    /// PEM encryption of before PKCS#8.
    #[error("is encrypted in the old PEM way (`Proc-Type: 4,ENCRYPTED`)")]
    EncryptionTraditional,
    /// Deriving the key would take too long or too much memory.
    #[error("asks for more work to derive its encryption key than is allowed")]
    DerivationTooCostly,
    /// A passphrase file of more than one line.
    #[error("holds more than one line")]
    SeveralLines,

    // Policy
    /// A key that everyone has.
    #[error("holds a development key of this project, which everyone has")]
    DevelopmentKey,
}

/// A ciphertext that no key opened. Says nothing about why, on purpose: every difference would help to forge one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ciphertext does not open with the runner's key")]
pub struct DecryptError;
