//! What the daemon takes away from itself once everything is open: files, ports and processes that it has no business with (Landlock),
//! and system calls of no service (seccomp).
//!
//! systemd's unit does more than this. Here is what also holds in a container, and for `scm-agent run` by hand.

mod calls;
mod files;
mod places;

use std::path::PathBuf;

pub use places::{Named, Places};

/// Whether there has to be a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As much of it as the kernel offers.
    Auto,
    /// None.
    Off,
    /// No start without both layers.
    Require,
}

/// Why the daemon may not start, or may not use what it was told to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is required, and a layer of it is missing.
    #[error("agent.sandbox is \"require\", and {problem}")]
    Missing {
        /// Which layer, and why.
        problem: String,
    },
    /// A place was named after the doors were shut.
    #[error("{key}: {} is outside of what the daemon let itself have at its start; a restart takes it", path.display())]
    Outside {
        /// The key of the configuration.
        key: String,
        /// What it names.
        path: PathBuf,
    },
    /// A port was named after the doors were shut.
    #[error("{key}: port {port} is none of those that the daemon let itself listen on at its start; a restart takes it")]
    Port {
        /// The key of the configuration.
        key: String,
        /// The TCP port.
        port: u16,
    },
}

/// What is in force, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Files and ports: `abi 6` and the like, `off`, `partial` where threads were there before it, or `unsupported`.
    pub landlock: String,
    /// System calls: `on`, `off` or `unsupported`.
    pub seccomp: &'static str,
    /// Whether no program that this process could start gains rights by its file (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
    /// What is missing of it, and why.
    pub reason: Option<String>,
}

/// The sandbox that this process is in.
#[derive(Debug, Clone)]
pub struct Sandbox {
    report: Report,
    /// `None` where files are not restricted.
    admitted: Option<files::Admitted>,
}

impl Sandbox {
    /// Shuts this process in, for good: threads that begin later are in it, and so are those that exist, but for files and ports.
    /// To be called before there are any.
    ///
    /// # Errors
    /// [`Error::Missing`], with [`Mode::Require`] alone.
    pub fn enter(mode: Mode, places: &Places) -> Result<Self, Error> {
        if mode == Mode::Off {
            return Ok(Self { report: report("off".to_owned(), "off", None), admitted: None });
        }
        let mut missing = Vec::new();
        let others = files::other_threads();
        let (landlock, admitted) = match files::restrict(places) {
            Ok((abi, admitted)) if !others.is_empty() => {
                missing.push(format!("other threads ({}) began before files and ports were restricted", others.join(", ")));
                (format!("partial, abi {abi}"), Some(admitted))
            }
            Ok((abi, admitted)) => (format!("abi {abi}"), Some(admitted)),
            Err(reason) => {
                missing.push(format!("the kernel does not restrict files and ports: {reason}"));
                ("unsupported".to_owned(), None)
            }
        };
        let seccomp = match calls::restrict() {
            Ok(()) => "on",
            Err(reason) => {
                missing.push(format!("system calls are not filtered: {reason}"));
                "unsupported"
            }
        };
        let problem = (!missing.is_empty()).then(|| missing.join("; "));
        match problem {
            Some(problem) if mode == Mode::Require => Err(Error::Missing { problem }),
            reason => Ok(Self { report: report(landlock, seccomp, reason), admitted }),
        }
    }

    /// What is in force.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether these places can still be used: a sandbox is never widened.
    ///
    /// # Errors
    /// [`Error::Outside`] and [`Error::Port`] for the first one that cannot.
    pub fn check(&self, places: &Places) -> Result<(), Error> {
        self.admitted.as_ref().map_or(Ok(()), |admitted| admitted.check(places))
    }
}

fn report(landlock: String, seccomp: &'static str, reason: Option<String>) -> Report {
    Report { landlock, seccomp, no_new_privs: rustix::thread::no_new_privs().unwrap_or(false), reason }
}
