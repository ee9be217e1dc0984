//! What can be wrong in a configuration, in words that never hold a value.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::Origin;

/// Everything that is wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    problems: Vec<Problem>,
}

impl Error {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// Makes an error of problems, if there are any.
    #[must_use]
    pub fn from_problems(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self { problems })
    }

    /// The problems, in the order of the files and then of the documentation.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The files of the configuration that the system did not let this process read.
    pub fn denied_files(&self) -> impl Iterator<Item = &Path> {
        self.problems.iter().filter_map(|problem| match (&problem.origin, &problem.cause) {
            (Origin::File(path), Cause::Unreadable(io::ErrorKind::PermissionDenied)) => Some(path.as_path()),
            _ => None,
        })
    }
}

/// One problem on one line, several below a line that counts them.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => problem.fmt(f),
            problems => {
                write!(f, "the configuration has {} problems", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Error {}

/// One thing that is wrong: where, and what. Prints as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    origin: Origin,
    key: String,
    cause: Cause,
}

impl Problem {
    pub(super) fn new(origin: &Origin, key: impl Into<String>, cause: Cause) -> Self {
        Self { origin: origin.clone(), key: key.into(), cause }
    }

    /// A problem with a whole file.
    pub(super) fn of_file(path: impl Into<PathBuf>, cause: Cause) -> Self {
        Self { origin: Origin::File(path.into()), key: String::new(), cause }
    }

    /// A problem with a key that nobody wrote.
    pub(super) fn of_key(key: impl Into<String>, cause: Cause) -> Self {
        Self { origin: Origin::Default, key: key.into(), cause }
    }

    /// What is wrong.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, cause } = self;
        match origin {
            // The variable's name says the key.
            Origin::Variable(name) => write!(f, "{}: {cause}", printable(name)),
            Origin::Default if key.is_empty() => write!(f, "{cause}"),
            Origin::Default | Origin::Section(_) => write!(f, "{}: {cause}", printable(key)),
            Origin::File(path) if key.is_empty() => write!(f, "{}: {cause}", printable(&path.to_string_lossy())),
            Origin::File(path) => write!(f, "{}: {}: {cause}", printable(&path.to_string_lossy()), printable(key)),
            Origin::Credential(name) => write!(f, "the systemd credential {name}: {cause}"),
        }
    }
}

/// What is wrong with a key or a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// A duration without a unit.
    #[error("is a number without a unit; write a duration such as 30s, 5m or 1h30m")]
    BareNumber,
    /// None of the words that the key takes.
    #[error("must be one of {}", .0.join(", "))]
    Choice(Vec<&'static str>),
    /// What is no name of a systemd credential.
    #[error("must be the name of a systemd credential: a file name of at most {most} bytes, no path")]
    CredentialName {
        /// In bytes.
        most: usize,
    },
    /// Two keys of which only one can hold.
    #[error("cannot stand beside {other}, which is set in {origin}; remove one of them")]
    Conflict {
        /// The other key.
        other: &'static str,
        /// Where that was set.
        origin: Origin,
    },
    /// A control character in a text.
    #[error("contains a control character")]
    ControlCharacter,
    /// A second table for a host.
    #[error("names the same host as {first}; write one [[provider]] for each host")]
    DuplicateHost {
        /// The earlier table's key.
        first: String,
    },
    /// The same entry twice in a list.
    #[error("names the same thing twice")]
    DuplicateEntry,
    /// Nothing between the quotes.
    #[error("is empty")]
    Empty,
    /// A path that a shell would have to read.
    #[error("begins with ~, which is not expanded; write the whole path")]
    Home,
    /// No paths of cgroups.
    #[error("must hold paths of cgroups such as /system.slice/job-1.service, without a slash at the end")]
    Cgroups,
    /// No SCM hosts.
    #[error("must hold hosts such as gitlab.example.com or dev.azure.com/acme, without https:// and without *")]
    Hosts,
    /// No SCM host.
    #[error("must be a host such as gitlab.example.com, with its port and path if it has them, without https://")]
    Host,
    /// A URL that would carry a secret in clear.
    #[error("must be an https URL (http only for 127.0.0.1, [::1] and localhost, with agent.allow_insecure_loopback = true)")]
    InsecureUrl,
    /// Nowhere that a browser could come back to on this machine, or not in the spelling that goes to the host.
    #[error("must be http://127.0.0.1:PORT/PATH, or that of [::1] or localhost, letter by letter as the app registered it")]
    RedirectUri,
    /// Nowhere on this machine alone.
    #[error("must be unix:PATH, or 127.0.0.1:PORT or [::1]:PORT: metrics are for this machine only")]
    MetricsAddress,
    /// A required key that nobody set.
    #[error("is required; set it in the configuration file or as {variable}")]
    Missing {
        /// The variable that sets it.
        variable: String,
    },
    /// A required key that nobody set in one of several tables.
    #[error("is required in every [[{section}]]")]
    MissingInTable {
        /// The tables' section.
        section: &'static str,
    },
    /// A path to nothing.
    #[error("names a file that cannot be read: {}", reason(*.0))]
    NamedUnreadable(io::ErrorKind),
    /// A path to a file of nothing.
    #[error("names an empty file")]
    NamedEmpty,
    /// A path to a directory, a pipe or a device.
    #[error("names something that is not a regular file")]
    NamedNotAFile,
    /// The default file is not there, and what is set elsewhere is not enough.
    #[error("is not there; start from config.example.toml, or name a file with --config or SCM_AGENT_CONFIG")]
    NoDefaultFile,
    /// No private key anywhere.
    #[error("is required to open secrets; name a private key file, or give the service the systemd credential runner-key")]
    NoKey,
    /// No bearer token anywhere.
    #[error(
        "is required for a control plane; name a file, give the service the systemd credential control-plane-token, \
         or set ONA_API_KEY or GITPOD_API_KEY"
    )]
    NoToken,
    /// No duration.
    #[error("must be a duration such as 30s, 5m or 1h30m")]
    NotADuration,
    /// A directory, a pipe or a device.
    #[error("is not a regular file")]
    NotAFile,
    /// A section of which there can be several, written as if there were one.
    #[error("must be written as [[{section}]]")]
    NotListed {
        /// The section.
        section: &'static str,
    },
    /// No systemd units.
    #[error("must hold names of units such as job-*.service, that end with .service, .scope or .slice")]
    Units,
    /// No user or group.
    #[error("holds a number that no user or group can have")]
    NotAnAccount,
    /// No http or https URL without a path.
    #[error("must be an http or https URL of a proxy, such as http://proxy.example.com:3128")]
    NotAProxy,
    /// No exception from a proxy.
    #[error("must be host names such as example.com, IP addresses, networks such as 10.0.0.0/8, or *, without scheme and port")]
    NotAnException,
    /// No URL.
    #[error("must be a URL such as https://example.com/path")]
    NotAUrl,
    /// No UUID.
    #[error("must be a UUID such as 01234567-89ab-cdef-0123-456789abcdef")]
    NotAUuid,
    /// Broken TOML. The line itself is left out: it may hold a secret.
    #[error("is not valid TOML at line {line}, column {column}")]
    NotToml {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// TOML with a number that no integer or float of 64 bits holds; the parser does not say where.
    #[error("is not valid TOML: a number in it is too large")]
    NotTomlNumber,
    /// Bytes that are no text.
    #[error("is not UTF-8 text")]
    NotUtf8,
    /// A number or duration that is too small or too large.
    #[error("must be from {least} to {most}")]
    OutOfRange {
        /// The least that is taken.
        least: String,
        /// The most that is taken.
        most: String,
    },
    /// No scope of RFC 6749 section 3.3.
    #[error("holds a scope with a character that scopes may not have")]
    Scope,
    /// More than a socket's address holds.
    #[error("is longer than the {most} bytes that a Unix socket's path may have")]
    SocketPath {
        /// The most bytes.
        most: usize,
    },
    /// No mode that keeps others out.
    #[error("must be 0600 or 0660, written in quotes: others may never use the socket")]
    SocketMode,
    /// More than a configuration can sensibly be.
    #[error("is larger than {most} bytes")]
    TooLarge {
        /// The most bytes.
        most: u64,
    },
    /// A key that does not exist.
    #[error("unknown key; the nearest known key is {nearest}")]
    UnknownKey {
        /// The key or variable that was perhaps meant.
        nearest: String,
    },
    /// A section that does not exist.
    #[error("unknown section; the nearest known section is {nearest}")]
    UnknownSection {
        /// The section that was perhaps meant.
        nearest: String,
    },
    /// The system did not give the file.
    #[error("cannot be read: {}", reason(*.0))]
    Unreadable(io::ErrorKind),
    /// A username or password in a URL.
    #[error("must not hold a username or password")]
    UrlUserinfo,
    /// A query or fragment in a URL.
    #[error("must not hold a query or a fragment")]
    UrlQuery,
    /// A file that anyone could have written.
    #[error("can be written by every user of this machine; run chmod o-w on it")]
    WorldWritable,
    /// A value of another kind.
    #[error("must be {expected}")]
    WrongType {
        /// What it must be.
        expected: &'static str,
    },
}

fn reason(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        other => other.to_string(),
    }
}

/// Text that somebody else chose, fit for a terminal and for one line.
fn printable(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown: String =
        text.chars().take(MOST).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
