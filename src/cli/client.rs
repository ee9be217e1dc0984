//! Asks the running daemon one thing over its socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Config, DEFAULT_FILE, Environment};
use crate::error::{Error, Kind};

/// Where the daemon listens, for commands that need nothing else.
///
/// Whoever may use the socket need not be able to read the configuration: then the variable of `agent.socket` counts, else its
/// default. A configuration that was named has to be read.
///
/// # Errors
/// What is wrong with the configuration.
pub(super) fn socket(explicit: Option<&Path>, environment: &Environment) -> Result<PathBuf, Error> {
    match Config::load(explicit, environment) {
        Ok(config) => Ok(config.agent.socket),
        Err(_) if explicit.is_none() && !is_readable(environment) => {
            let variable = std::env::var_os("SCM_AGENT__AGENT__SOCKET").filter(|path| !path.is_empty());
            Ok(variable.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the configuration is there for the calling user.
pub(super) fn is_readable(environment: &Environment) -> bool {
    environment.config_file().is_some() || std::fs::File::open(DEFAULT_FILE).is_ok()
}

/// How long the daemon may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The default of `agent.socket`.
pub(super) const DEFAULT_SOCKET: &str = "/run/scm-agent/agent.sock";

/// The longest answer taken: the status of 5,000 integrations is about 3 MiB.
const MAX_ANSWER_BYTES: u64 = 32 * 1024 * 1024;

/// Sends a verb without a body and returns the JSON document that the daemon answers with.
///
/// # Errors
/// When nobody answers on the socket, or with something else.
pub(super) fn ask<T: serde::de::DeserializeOwned>(socket: &Path, verb: &str) -> Result<T, Error> {
    let path = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "only members of the socket's group may ask: add the user to it, or run as root",
            _ => "start it: systemctl start scm-agent, or scm-agent run",
        };
        Error::new(Kind::Upstream, format!("no scm-agent answers on {path}")).because(error).hint(hint)
    })?;
    let exchange = || {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(format!("{} {verb}\n\n", crate::git::frame::PROTOCOL).as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange().map_err(|error| Error::new(Kind::Upstream, format!("scm-agent on {path} did not answer")).because(error))?;
    if answer.is_empty() {
        return Err(Error::new(Kind::Upstream, format!("scm-agent on {path} refused the connection"))
            .hint("only root, the daemon's own user and members of the socket's group may ask"));
    }
    serde_json::from_slice(&answer).map_err(|_| {
        let said = String::from_utf8_lossy(&answer);
        let reason = said.strip_prefix("error=").and_then(|rest| rest.lines().next()).map(str::to_owned);
        Error::new(
            Kind::Upstream,
            reason.map_or_else(|| format!("scm-agent on {path} answered something else"), |reason| format!("scm-agent: {reason}")),
        )
    })
}
