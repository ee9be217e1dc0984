//! What a command ends with: a kind, an exit code, what is wrong and what to run next.
//!
//! Each stage has its own error; this file alone turns them into what a person reads.

use std::error::Error as StdError;
use std::fmt;

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The configuration must change. Exit code 2.
    Config,
    /// A defect, or the machine is out of something. Exit code 1.
    Internal,
    /// The control plane, an issuer or the daemon did not do its part. Exit code 1.
    Upstream,
    /// What was asked for cannot be done as asked. Exit code 1.
    User,
}

impl Kind {
    /// The process's exit code for an error of this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config => 2,
            Self::Internal | Self::Upstream | Self::User => 1,
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
