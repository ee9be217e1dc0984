//! Asks the running daemon one thing over its socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use zeroize::Zeroizing;

use super::unreachable;
use crate::config::{Config, DEFAULT_FILE, Environment};
use crate::error::{Error, Kind};
use crate::git::CredentialRequest;
use crate::socket_trust::{self, TrustError};
use crate::sys;

/// The configuration, for commands that need little of it or nothing.
///
/// `None` where the calling user cannot read it: whoever may use the socket need not be able to. A configuration that was named
/// has to be read.
///
/// # Errors
/// What is wrong with the configuration.
pub(super) fn configuration(explicit: Option<&Path>, environment: &Environment) -> Result<Option<Config>, Error> {
    let named = explicit.is_some() || environment.config_file().is_some();
    match Config::load(explicit, environment) {
        Ok(config) => Ok(Some(config)),
        Err(_) if !named && std::fs::File::open(DEFAULT_FILE).is_err() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether somebody named a configuration, and no socket beside it: then only that configuration says where the daemon listens.
pub(super) fn is_named(explicit: Option<&Path>, environment: &Environment) -> bool {
    let is_variable = std::env::var_os("SCM_AGENT__AGENT__SOCKET").is_some_and(|path| !path.is_empty());
    !is_variable && (explicit.is_some() || environment.config_file().is_some())
}

/// Where the daemon listens: as configured, else as the variable of `agent.socket` says, else its default.
pub(super) fn socket(config: Option<&Config>) -> PathBuf {
    let variable = || std::env::var_os("SCM_AGENT__AGENT__SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
    let configured = config.map(|config| config.agent.socket.clone());
    configured.or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

/// How long the daemon may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The default of `agent.socket`.
pub(super) const DEFAULT_SOCKET: &str = "/run/scm-agent/agent.sock";

/// The longest answer taken: the status of 5,000 integrations is about 3 MiB.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Sends a verb without fields and returns the JSON document that the daemon answers with.
///
/// # Errors
/// When nobody answers on the socket, or with something else.
pub(super) fn ask<T: serde::de::DeserializeOwned>(socket: &Path, verb: &str) -> Result<T, Error> {
    ask_about(socket, verb, &[])
}

/// Sends a verb with fields and returns the JSON document that the daemon answers with.
///
/// # Errors
/// When nobody answers on the socket, or with something else.
pub(super) fn ask_about<T: serde::de::DeserializeOwned>(socket: &Path, verb: &str, fields: &[(&str, &str)]) -> Result<T, Error> {
    ask_within(TIMEOUT, socket, verb, fields)
}

/// The same, for questions that the daemon has to pass on to a host, or that nobody waits long for.
///
/// # Errors
/// When nobody answers on the socket in time, or with something else, or a field has a control character in it.
pub(super) fn ask_within<T: serde::de::DeserializeOwned>(
    limit: Duration,
    socket: &Path,
    verb: &str,
    fields: &[(&str, &str)],
) -> Result<T, Error> {
    let mut request = format!("{} {verb}\n", crate::git::frame::PROTOCOL);
    for (name, value) in fields {
        // It would begin another field, or another request.
        if value.contains(|character: char| character.is_control()) {
            return Err(Error::new(Kind::Usage, format!("the {name} to ask scm-agent about has a control character in it")));
        }
        request.push_str(&format!("{name}={value}\n"));
    }
    request.push('\n');
    let path = socket.display();
    let answer = converse(limit, socket, &request)?;
    let document = serde_json::from_slice(&answer).map(printable);
    document.and_then(serde_json::from_value).map_err(|_| match said(&answer) {
        Some(said) => Error::new(Kind::Upstream, format!("scm-agent: {said}")).hint("see how it is: scm-agent doctor"),
        None => Error::new(Kind::Upstream, format!("scm-agent on {path} answered something else"))
            .hint("the program and the daemon may be of different versions, or it is no scm-agent: see agent.socket, and start it anew"),
    })
}

/// Sends a whole request and returns the daemon's answer, which is not empty.
fn converse(limit: Duration, socket: &Path, request: &str) -> Result<Vec<u8>, Error> {
    let path = socket.display();
    let deadline = Instant::now() + limit;
    let trusted = match socket_trust::checked(socket) {
        Ok(path) => path,
        // What is wrong there shows in connecting.
        Err(TrustError::NotASocket(_) | TrustError::Unreachable(_)) => socket.to_owned(),
        Err(error) => {
            return Err(Error::new(Kind::User, format!("not asking on {path}, as git would not: {error}"))
                .hint("name the agent's own socket in agent.socket; its folder belongs to root or to the agent's user"));
        }
    };
    let mut stream = sys::connect_within(&trusted, limit.min(TIMEOUT)).map_err(|error| {
        let hint = unreachable::hint(socket, error.kind());
        Error::new(Kind::Upstream, format!("no scm-agent answers on {path}")).because(error).hint(hint)
    })?;
    let answer = exchange(&mut stream, request, deadline).map_err(|error| {
        let hint = unreachable::silence(&stream);
        Error::new(Kind::Upstream, format!("scm-agent on {path} did not answer")).because(error).hint(hint)
    })?;
    if answer.is_empty() {
        return Err(Error::new(Kind::Upstream, format!("scm-agent on {path} refused the connection")).hint(unreachable::refusal(socket)));
    }
    Ok(answer)
}

/// Asks for a credential as git's helper does, and returns the daemon's answer as git's own text. Its copies here are wiped.
///
/// # Errors
/// When nobody answers on the socket.
pub(super) fn get(socket: &Path, request: &CredentialRequest) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut text = Vec::new();
    request.write(&mut text).map_err(|error| Error::new(Kind::Usage, format!("git could not ask for that: {error}")))?;
    let request = format!("{} get\n{}\n", crate::git::frame::PROTOCOL, String::from_utf8_lossy(&text));
    converse(TIMEOUT, socket, &request).map(Zeroizing::new)
}

/// What the daemon says instead of a document: why it refuses, or that it could not answer in time.
fn said(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    let said = text.lines().find_map(|line| line.strip_prefix("error=").or_else(|| line.strip_prefix("message=")))?;
    Some(crate::git::frame::printable(said))
}

/// Sends a request and returns all that comes back, until the end or the deadline.
fn exchange(stream: &mut UnixStream, request: &str, deadline: Instant) -> std::io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    // A daemon that refuses may have closed already; what it said is still to be read.
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    // It may hold a token.
    let mut chunk = Zeroizing::new([0_u8; 16 * 1024]);
    while answer.len() < MAX_ANSWER_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(chunk.as_mut_slice()) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // Closed with our request unread: that is the end of the answer.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err(std::io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Replaces what a terminal would act upon in every text of a document: whoever holds the socket wrote it.
fn printable(document: Value) -> Value {
    match document {
        Value::Array(items) => items.into_iter().map(printable).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, printable(value))).collect(),
        Value::String(text) => Value::String(text.replace(crate::git::frame::is_hidden, " ")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_instead_of_a_document_is_shown() {
        assert_eq!(said(b"error=only root may\n\n").as_deref(), Some("only root may"));
        assert_eq!(said(b"message=no answer in \x1btime\nquit=1\n\n").as_deref(), Some("no answer in  time"));
        for other in [&b"username=x\n\n"[..], b"not JSON", b"{\"a\":1}"] {
            assert_eq!(said(other), None);
        }
    }

    #[test]
    fn nothing_that_a_terminal_acts_upon_is_left_in_an_answer() {
        let hostile = serde_json::json!({ "a": ["x\u{1b}]0;y\u{7}", { "b": "line\nline\u{9b}31m" }], "c": 1 });
        let expected = serde_json::json!({ "a": ["x ]0;y ", { "b": "line line 31m" }], "c": 1 });
        assert_eq!(printable(hostile), expected);
    }
}
