//! The process that git starts for a credential: its request from stdin to the agent's socket, the agent's answer to stdout.
//!
//! git waits for it without a limit of its own, believes what it prints and ignores how it exits. So it ends within
//! [`exchange::HARD_SECONDS`] of having read the request, prints a checked answer in one piece or nothing, and says at most one
//! line on stderr. Standard library and `src/git` only: it starts with every git command and cannot name a key or a token client.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[path = "git-credential-scm-agent/alarm.rs"]
mod alarm;
#[path = "git-credential-scm-agent/exchange.rs"]
mod exchange;
#[path = "../git/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the daemon's half of the same text is compiled along")]
mod git;
#[path = "git-credential-scm-agent/trust.rs"]
mod trust;

use exchange::{Deadline, ExchangeError};
use git::frame::{self, MAX_REQUEST_BYTES, printable};
use git::relay::Relay;
use git::{Operation, Wiped};
use trust::TrustError;

/// Where the agent listens unless `--socket` or [`SOCKET_VARIABLE`] say otherwise.
const DEFAULT_SOCKET: &str = "/run/scm-agent/agent.sock";

/// The environment variable of the configuration key `agent.socket`.
const SOCKET_VARIABLE: &str = "SCM_AGENT__AGENT__SOCKET";

/// How every line on stderr begins, so that it can be told from git's own.
const NAME: &str = "git-credential-scm-agent";

/// How long to wait before asking an agent again that had no free place.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

const USAGE: &str = "usage: git-credential-scm-agent [--socket PATH] get|store|erase|capability";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Ask(Operation, PathBuf),
    Capability,
    Help,
    /// An operation that helpers do not know must be passed over in silence (gitcredentials(7)).
    Ignore,
    Usage,
    Version,
}

fn main() -> ExitCode {
    match command(env::args_os().skip(1), env::var_os(SOCKET_VARIABLE)) {
        Command::Ask(operation, socket) => ask(operation, &socket),
        Command::Capability => print(git::CAPABILITIES),
        Command::Help => print(format!("{USAGE}\n").as_bytes()),
        Command::Ignore => ExitCode::SUCCESS,
        Command::Usage => {
            say(USAGE);
            ExitCode::from(2)
        }
        Command::Version => print(format!("{NAME} {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
    }
}

fn command(mut arguments: impl Iterator<Item = OsString>, variable: Option<OsString>) -> Command {
    let mut socket = variable.filter(|path| !path.is_empty());
    loop {
        let Some(argument) = arguments.next() else { return Command::Usage };
        let text = argument.to_str();
        match text {
            Some("--socket") => match arguments.next() {
                Some(path) if !path.is_empty() => socket = Some(path),
                _ => return Command::Usage,
            },
            Some("--help" | "-h") => return Command::Help,
            Some("--version" | "-V") => return Command::Version,
            Some("capability") => return Command::Capability,
            Some(text) if text.starts_with("--socket=") && text.len() > "--socket=".len() => {
                socket = Some(OsStr::new(&text["--socket=".len()..]).to_owned());
            }
            Some(text) if text.starts_with('-') => return Command::Usage,
            _ => {
                let operation = text.and_then(Operation::parse);
                return operation.map_or(Command::Ignore, |operation| {
                    Command::Ask(operation, socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from))
                });
            }
        }
    }
}

/// One request, from stdin to stdout.
fn ask(operation: Operation, socket: &Path) -> ExitCode {
    let text = match read_request() {
        Ok(Some(text)) => text,
        Ok(None) => return fail(&format!("git's request is longer than {MAX_REQUEST_BYTES} bytes")),
        Err(error) => return fail(&format!("cannot read git's request: {}", error.kind())),
    };
    let deadline = Deadline::after(Duration::from_millis(exchange::ANSWER_MILLISECONDS));
    alarm::end_process_after(exchange::HARD_SECONDS);
    let mut request = Wiped::with_capacity(text.len() + 64);
    frame::write_request(operation, text.expose_secret(), &mut request);

    let path = match trust::checked(socket) {
        Ok(path) => path,
        Err(TrustError::Unreachable(kind)) => return unreachable(operation, socket, &ExchangeError::Connect(kind)),
        Err(error) if operation == Operation::Get => return fail(&format!("not using the agent's socket: {error}")),
        Err(_) => return ExitCode::FAILURE,
    };
    let relay = loop {
        let mut connection = match exchange::connect(&path) {
            Ok(connection) => connection,
            Err(error) => return unreachable(operation, socket, &error),
        };
        let relay = match exchange::exchange(&mut connection, &request, &deadline) {
            Ok(answer) => Relay::read(answer.expose_secret()),
            Err(error) => return fail(&no_answer(socket, &error)),
        };
        let busy = matches!(&relay, Ok(Relay { error: Some(error), .. }) if error == frame::BUSY);
        // Places are free again within a moment: git has no patience of its own, so the helper lends it some.
        if !busy || !deadline.pause(BUSY_PAUSE) {
            break relay;
        }
    };
    match relay {
        Err(error) => fail(&format!("ignoring what the agent says: {error}")),
        Ok(Relay { error: Some(error), .. }) => fail(&format!("the agent refuses the request: {error}")),
        Ok(Relay { git, message, error: None }) => {
            if let Some(message) = message {
                say(&message);
            }
            // git looks at the output of `get` only.
            if operation == Operation::Get { print(git.expose_secret()) } else { ExitCode::SUCCESS }
        }
    }
}

/// Nobody to ask. git tells every helper of every credential, also of those that others gave: saying so for `get` is enough.
fn unreachable(operation: Operation, socket: &Path, error: &ExchangeError) -> ExitCode {
    if operation == Operation::Get { fail(&no_answer(socket, error)) } else { ExitCode::FAILURE }
}

/// git's text up to its blank line or its end; `None` when it is too long.
fn read_request() -> io::Result<Option<Wiped>> {
    // A descriptor of its own, since the buffer of `io::stdin` keeps a copy of the password.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut text = Wiped::with_capacity(READ_BYTES);
    let mut chunk = Wiped::zeroed(READ_BYTES);
    loop {
        let count = match stdin.read(chunk.expose_secret_mut()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let before = text.len();
        text.extend(&chunk.expose_secret()[..count]);
        let end = frame::text_end(text.expose_secret(), before);
        if end.unwrap_or(text.len()) > MAX_REQUEST_BYTES {
            return Ok(None);
        }
        if end.is_some() || count == 0 {
            text.truncate(end.unwrap_or(text.len()));
            return Ok(Some(text));
        }
    }
}

/// How much is read at once: more than git's requests have, and no page of memory more.
const READ_BYTES: usize = 4_096;

/// What to tell somebody whose git found no agent.
fn no_answer(socket: &Path, error: &ExchangeError) -> String {
    let socket = printable(&socket.to_string_lossy());
    match error {
        ExchangeError::Connect(io::ErrorKind::PermissionDenied) => {
            format!("no permission to use the agent's socket {socket}: the operator of this host has to add you to its group")
        }
        _ => format!("no answer from the agent at {socket}: {error}; see `systemctl status scm-agent`"),
    }
}

/// Prints all of it in one write, and nothing else.
fn print(bytes: &[u8]) -> ExitCode {
    if bytes.is_empty() {
        return ExitCode::SUCCESS;
    }
    let written = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).write_all(bytes));
    // Nobody is left to be told.
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line on stderr; a closed stderr is nobody's trouble.
fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{NAME}: {line}\n").as_bytes());
}

fn fail(line: &str) -> ExitCode {
    say(line);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str], variable: Option<&str>) -> Command {
        command(arguments.iter().map(OsString::from), variable.map(OsString::from))
    }

    fn get(socket: &str) -> Command {
        Command::Ask(Operation::Get, PathBuf::from(socket))
    }

    #[test]
    fn the_socket_is_the_argument_s_else_the_environment_s_else_the_usual_one() {
        assert_eq!(parsed(&["get"], None), get(DEFAULT_SOCKET));
        assert_eq!(parsed(&["get"], Some("")), get(DEFAULT_SOCKET));
        assert_eq!(parsed(&["get"], Some("/env")), get("/env"));
        assert_eq!(parsed(&["--socket", "/arg", "get"], Some("/env")), get("/arg"));
        assert_eq!(parsed(&["--socket=/arg", "get"], Some("/env")), get("/arg"));
    }

    #[test]
    fn an_operation_that_is_unknown_is_ignored() {
        for unknown in ["", "list", "GET", "get\n", "approve"] {
            assert_eq!(parsed(&[unknown], None), Command::Ignore, "{unknown:?}");
        }
    }

    #[test]
    fn a_command_line_without_operation_is_answered_with_the_usage() {
        for wrong in [&[][..], &["--socket"], &["--socket", ""], &["--socket="], &["--socket", "/a"], &["--sock", "/a", "get"], &["-x"]] {
            assert_eq!(parsed(wrong, None), Command::Usage, "{wrong:?}");
        }
        assert_eq!(parsed(&["--help"], None), Command::Help);
        assert_eq!(parsed(&["-V"], None), Command::Version);
        assert_eq!(parsed(&["capability"], None), Command::Capability);
    }

    #[test]
    fn what_is_said_about_a_socket_names_it_and_what_to_run() {
        let line = no_answer(Path::new("/run/a\nb"), &ExchangeError::Connect(io::ErrorKind::NotFound));
        assert_eq!(line, "no answer from the agent at /run/a b: there is no such socket; see `systemctl status scm-agent`");
        let line = no_answer(Path::new("/run/a"), &ExchangeError::Connect(io::ErrorKind::PermissionDenied));
        assert!(line.contains("/run/a") && line.contains("permission"), "{line}");
    }
}
