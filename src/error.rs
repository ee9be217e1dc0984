//! What a command ends with: a kind, an exit code, what is wrong and what to run next.
//!
//! Each stage has its own error; this file alone turns them into what a person reads.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use crate::key::{self, Problem};
use crate::state;

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The configuration must change. Exit code 2.
    Config,
    /// A defect, or the machine is out of something. Exit code 1.
    Internal,
    /// The user pressed Ctrl-C. Exit code 130, as shells count it: 128 and the number of the signal.
    Interrupted,
    /// The control plane, an issuer or the daemon did not do its part. Exit code 1.
    Upstream,
    /// The command line must change. Exit code 2.
    Usage,
    /// What was asked for cannot be done as asked. Exit code 1.
    User,
}

impl Kind {
    /// The process's exit code for an error of this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config | Self::Usage => 2,
            Self::Internal | Self::Upstream | Self::User => 1,
            Self::Interrupted => 130,
        }
    }
}

/// An error as a command reports it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of a kind from one sentence: lower case, no full stop, no secret.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new(), source: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence and its causes in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(current) = cause {
            text.push_str(&format!(": {current}"));
            cause = current.source();
        }
        text
    }

    /// What to do next, a sentence each.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The whole report: the sentence, its causes, the hints, one a line.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}\n");
        let mut cause = self.source();
        while let Some(current) = cause {
            text.push_str(&format!("cause: {current}\n"));
            cause = current.source();
        }
        for hint in &self.hints {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(Kind::Internal, "cannot read or write").because(error)
    }
}

impl From<crate::config::Error> for Error {
    fn from(error: crate::config::Error) -> Self {
        Self::new(Kind::Config, error.to_string()).hint("change the configuration, then run `scm-agent config check`")
    }
}

impl From<crate::agent::access::Error> for Error {
    fn from(error: crate::agent::access::Error) -> Self {
        // It names every key, and there is nothing behind it.
        Self::new(Kind::Config, error.to_string())
            .hint("create the users and groups, or change the configuration; then run `scm-agent config check`")
    }
}

impl From<crate::agent::socket::Error> for Error {
    fn from(error: crate::agent::socket::Error) -> Self {
        use crate::agent::socket::Error as SocketError;
        let hint = match &error {
            SocketError::Gone { .. } => "systemd makes it anew with the socket unit: systemctl restart scm-agent.socket scm-agent",
            SocketError::Inherited { .. } => "see ListenStream= in the socket unit: systemctl cat scm-agent.socket",
            SocketError::InUse { .. } => "see what it holds: scm-agent status; or give this one another agent.socket",
            SocketError::NotASocket { .. } => "move that file away, or change agent.socket",
            SocketError::System { action: "set the group of", .. } => "the user that runs the agent must be a member of agent.socket_group",
            SocketError::System { .. } => "the directory of agent.socket must belong to the user that runs the agent",
        };
        Self::new(Kind::Config, "cannot open the agent's socket").because(error).hint(hint)
    }
}

impl From<crate::api::Error> for Error {
    fn from(error: crate::api::Error) -> Self {
        Self::new(Kind::Config, "cannot set up the control plane's client").because(error).hint("run: scm-agent config check")
    }
}

impl From<key::Error> for Error {
    fn from(error: key::Error) -> Self {
        let (kind, hint) = match &error {
            key::Error::Generate | key::Error::Seal => (Kind::Internal, None),
            key::Error::KeyFile { path, problem } => (Kind::Config, Some(key_file_hint(path, *problem))),
            key::Error::PassphraseFile { path, problem } => (Kind::Config, Some(passphrase_file_hint(path, *problem))),
            key::Error::PublicKey { .. } => (Kind::Upstream, Some("register the public key that `scm-agent key show` prints".to_owned())),
            key::Error::SecretTooLong { .. } => {
                (Kind::User, Some("an X25519 key, or a larger RSA key, seals longer secrets: scm-agent keygen --help".to_owned()))
            }
            key::Error::Exists { .. } => {
                (Kind::User, Some("name another file, or move that one away yourself once nothing is sealed for it any more".to_owned()))
            }
            key::Error::Write { .. } => (Kind::User, Some("name a file in a directory that exists and that you may write to".to_owned())),
        };
        let mut report = Self::new(kind, error.to_string());
        if let key::Error::Write { source, .. } = error {
            report = report.because(source);
        }
        match hint {
            Some(hint) => report.hint(hint),
            None => report,
        }
    }
}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Self {
        use std::io::ErrorKind;
        let make = |path: &Path| {
            let path = path.display();
            format!(
                "make it: install -d -o scm-agent -m 700 {path}; in a systemd unit: StateDirectory=scm-agent; or change agent.state_dir"
            )
        };
        let (kind, hint) = match &error {
            state::Error::ForeignOwner { path, .. } => {
                (Kind::Config, format!("give it to the user that runs the agent: chown scm-agent {}", path.display()))
            }
            state::Error::InUse { .. } => {
                (Kind::Config, "see what it holds: scm-agent status; or give this one another agent.state_dir".to_owned())
            }
            state::Error::Newer { .. } => (Kind::Config, NEWER_STATE.to_owned()),
            state::Error::NoKey { .. } => (Kind::Config, "name the runner's private key in key.files".to_owned()),
            state::Error::NoParent { path } => (Kind::Config, make(path)),
            state::Error::NotADirectory { .. } => (Kind::Config, "move that file away, or change agent.state_dir".to_owned()),
            state::Error::Seal { .. } => (Kind::Internal, "start the agent again; if it stays, report it".to_owned()),
            state::Error::Symlink { .. } => (Kind::Config, "name the directory that the link leads to in agent.state_dir".to_owned()),
            state::Error::System { path, reason, .. } => match reason.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    (Kind::Internal, format!("make room on the file system of {}", path.display()))
                }
                ErrorKind::ReadOnlyFilesystem => {
                    (Kind::Config, "mount the file system writable; in a systemd unit: StateDirectory=scm-agent".to_owned())
                }
                ErrorKind::PermissionDenied | ErrorKind::NotFound => (
                    Kind::Config,
                    "the state directory must be there and belong to the user that runs the agent:                      install -d -o scm-agent -m 700 DIR; in a systemd unit: StateDirectory=scm-agent"
                        .to_owned(),
                ),
                _ => (Kind::Internal, "see whether the file system is mounted and healthy".to_owned()),
            },
            state::Error::TooLarge { .. } => (Kind::Internal, "report it: nothing that the agent keeps grows that large".to_owned()),
            state::Error::WritableByOthers { path, .. } => {
                (Kind::Config, format!("close it, after a look at who may have written to it: chmod go-w {}", path.display()))
            }
        };
        Self::new(kind, error.to_string()).hint(hint)
    }
}

impl From<state::LoadError> for Error {
    fn from(error: state::LoadError) -> Self {
        let hint = match &error {
            state::LoadError::Damaged { .. } | state::LoadError::TooLarge { .. } => {
                "put the file back from a copy, or move it away; the agent then starts over with what it can fetch"
            }
            state::LoadError::Io { .. } => "the file must belong to the user that runs the agent, on a healthy file system",
            state::LoadError::UnknownKey { .. } => "add the key that it was sealed with to key.files, or move the file away",
            state::LoadError::Newer { .. } => NEWER_STATE,
        };
        Self::new(Kind::Config, error.to_string()).hint(hint)
    }
}

/// What to do about a state that another version wrote.
const NEWER_STATE: &str = "install that version of scm-agent again, or move the file away; docs/upgrade.md says what is lost then";

/// What to do about a key file.
fn key_file_hint(path: &Path, problem: Problem) -> String {
    let path = path.display();
    match problem {
        Problem::Missing => format!("make a key: scm-agent keygen --algorithm rsa-3072 --out {path}"),
        Problem::PermissionDenied => "run this as the user that the key belongs to, or as root".to_owned(),
        Problem::Unreadable(_) => "see whether the file system is mounted and healthy".to_owned(),
        Problem::Symlink => "name the file that the link points to; links are not followed, so that nobody can swap the key".to_owned(),
        Problem::Directory => "name the key file in it".to_owned(),
        Problem::Fifo | Problem::Socket | Problem::Device => "name a regular file that holds the key".to_owned(),
        Problem::Empty => "put the key back from where it is kept, or make a new one with scm-agent keygen".to_owned(),
        Problem::TooLarge { .. } => "name the key file itself; the largest key takes a tenth of the limit".to_owned(),
        Problem::ForeignOwner { .. } => format!("give it to the user that runs the agent: chown scm-agent {path}"),
        Problem::OpenToOthers { .. } => {
            format!("close it, and think about replacing the key if others could read it: chmod 600 {path}")
        }
        Problem::Unrecognised => {
            "a key is PKCS#8 or PKCS#1, PEM or DER, or an X25519 key of 32 bytes, raw or in base64: keys/README.md".to_owned()
        }
        Problem::TextNotRaw => "a raw X25519 key is 32 random bytes; write them raw, or as base64".to_owned(),
        Problem::NotRandom => "make a real key: scm-agent keygen --algorithm x25519 --out FILE".to_owned(),
        Problem::DamagedPem | Problem::DamagedDer | Problem::PublicHalfMismatch | Problem::RsaInconsistent | Problem::SelfTest => {
            format!("put the key back from where it is kept; openssl pkey -check -noout -in {path} says more")
        }
        Problem::Several { .. } => "write each key to a file of its own, without certificates, and list the files in key.files".to_owned(),
        Problem::PublicKey | Problem::OpenSshPublic => {
            "name the file with the private half; the public half is for the control plane".to_owned()
        }
        Problem::Certificate | Problem::CertificateRequest => "name the file with the private key that the certificate is for".to_owned(),
        Problem::Pkcs12 => format!("take the private key out of it: openssl pkcs12 -in {path} -nocerts -out runner.pem"),
        Problem::OpenSsh => {
            "for an RSA key, convert a copy: ssh-keygen -p -m PKCS8 -f COPY; keys of other kinds cannot open secrets".to_owned()
        }
        Problem::Putty => {
            format!("for an RSA key, convert it: puttygen {path} -O private-openssh -o FILE, then ssh-keygen -p -m PKCS8 -f FILE")
        }
        Problem::Json => "write the key as PKCS#8 PEM; a raw X25519 key may also be the base64 of its 32 bytes".to_owned(),
        Problem::EllipticCurve | Problem::Edwards | Problem::X448 | Problem::UnsupportedAlgorithm => {
            "the agent takes RSA and X25519 keys: scm-agent keygen --algorithm rsa-3072 --out FILE".to_owned()
        }
        Problem::RestrictedRsa => "make a plain RSA key (rsaEncryption): scm-agent keygen --algorithm rsa-3072 --out FILE".to_owned(),
        Problem::RsaTooSmall { .. } | Problem::RsaTooLarge { .. } | Problem::RsaMultiPrime => {
            "make a key that is in range and register it: scm-agent keygen --algorithm rsa-3072 --out FILE".to_owned()
        }
        Problem::X25519Length | Problem::X25519LowOrder => "make a new one: scm-agent keygen --algorithm x25519 --out FILE".to_owned(),
        Problem::PassphraseNeeded => "name the file with its passphrase: key.passphrase_file, or --passphrase-file FILE".to_owned(),
        Problem::PassphraseWrong => {
            "see whether the passphrase file belongs to this key; nothing but its one line end is left out".to_owned()
        }
        Problem::EncryptionUnsupported | Problem::EncryptionTraditional | Problem::DerivationTooCostly => {
            format!("encrypt it again: openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -iter 600000 -in {path} -out FILE")
        }
        Problem::SeveralLines => "a passphrase is one line".to_owned(),
        Problem::DevelopmentKey => {
            "make a key of your own with scm-agent keygen, or add --allow-development-key on a machine without secrets".to_owned()
        }
    }
}

/// What to do about a passphrase file.
fn passphrase_file_hint(path: &Path, problem: Problem) -> String {
    match problem {
        Problem::Missing | Problem::Empty => "write the passphrase to it as one line, with mode 0600".to_owned(),
        other => key_file_hint(path, other),
    }
}
