//! The process that git starts for a credential: its request from stdin to the agent's socket, the agent's answer to stdout.
//!
//! git waits for it without a limit of its own, believes what it prints and ignores how it exits. So it ends within
//! [`exchange::HARD_SECONDS`] of having read the request, prints a checked answer in one piece or nothing, and says at most one
//! line on stderr. Standard library and `src/git` only: it starts with every git command and cannot name a key or a token client.
//!
//! With a prompt in the place of the operation it is the program of `GIT_ASKPASS`, to which git gives no argument but that: it prints
//! what the prompt wants, or nothing and ends with 1. It never asks anybody itself.
#![cfg_attr(all(target_os = "linux", target_env = "gnu", not(test)), no_main)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[path = "git-credential-scm-agent/exchange.rs"]
mod exchange;
#[path = "../git/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the daemon's half of the same text is compiled along")]
mod git;
#[path = "git-credential-scm-agent/sys.rs"]
mod sys;
#[path = "../socket_trust.rs"]
mod trust;

use exchange::{Deadline, ExchangeError};
use git::askpass::{self, Prompt, Wanted};
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

/// How often to ask again when the agent closed the connection without an answer, and how long to wait each time. Few and short:
/// one that lets nobody in does the same.
const RESTARTS: u32 = 4;
const RESTART_PAUSE: Duration = Duration::from_millis(50);

const USAGE: &str = "usage: git-credential-scm-agent [--socket PATH] get|store|erase|capability|PROMPT";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Ask(Operation, PathBuf),
    /// A question of git's for `GIT_ASKPASS`.
    Askpass(OsString, PathBuf),
    Capability,
    Help,
    /// An operation that helpers do not know must be passed over in silence (gitcredentials(7)).
    Ignore,
    Usage,
    Version,
}

/// Exit codes; git looks at none of them.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const USED_WRONGLY: u8 = 2;

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(test))))]
fn main() -> std::process::ExitCode {
    run().into()
}

/// The whole process; returns its exit code.
fn run() -> u8 {
    let Ok(mut streams) = Streams::take() else { return FAILED };
    match command(env::args_os().skip(1), env::var_os(SOCKET_VARIABLE)) {
        Command::Ask(operation, socket) => ask(operation, &socket, &mut streams),
        Command::Askpass(prompt, socket) => answer_prompt(prompt.as_bytes(), &socket, &mut streams),
        Command::Capability => streams.print(git::CAPABILITIES),
        Command::Help => streams.print(format!("{USAGE}\n").as_bytes()),
        Command::Ignore => DONE,
        Command::Usage => {
            streams.say(USAGE);
            USED_WRONGLY
        }
        Command::Version => streams.print(format!("{NAME} {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
    }
}

/// Descriptors of our own for the three standard streams.
///
/// Those of `std::io` keep copies of what passes, which may be a password; and one that was closed would soon be the socket.
struct Streams {
    stdin: File,
    stdout: File,
    stderr: Option<File>,
}

impl Streams {
    fn take() -> io::Result<Self> {
        let stderr = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
        let stdout = io::stdout().as_fd().try_clone_to_owned()?.into();
        Ok(Self { stdin: io::stdin().as_fd().try_clone_to_owned()?.into(), stdout, stderr })
    }

    /// Prints all of it in one write, and nothing else.
    fn print(&mut self, bytes: &[u8]) -> u8 {
        // Where it fails, nobody is left to be told.
        if bytes.is_empty() || self.stdout.write_all(bytes).is_ok() { DONE } else { FAILED }
    }

    /// One line for the user; a closed stderr is nobody's trouble.
    fn say(&mut self, line: &str) {
        if let Some(stderr) = &mut self.stderr {
            let _ = stderr.write_all(format!("{NAME}: {line}\n").as_bytes());
        }
    }

    fn fail(&mut self, line: &str) -> u8 {
        self.say(line);
        FAILED
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
                let socket = socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from);
                return match text.and_then(Operation::parse) {
                    Some(operation) => Command::Ask(operation, socket),
                    None if askpass::is_prompt(argument.as_bytes()) => Command::Askpass(argument, socket),
                    None => Command::Ignore,
                };
            }
        }
    }
}

/// One request, from stdin to stdout.
fn ask(operation: Operation, socket: &Path, streams: &mut Streams) -> u8 {
    let text = match read_request(&mut streams.stdin) {
        Ok(Some(text)) => text,
        Ok(None) => return streams.fail(&format!("git's request is longer than {MAX_REQUEST_BYTES} bytes")),
        Err(error) => return streams.fail(&format!("cannot read git's request: {}", error.kind())),
    };
    match converse(operation, text.expose_secret(), socket, streams) {
        Ok(Relay { git, message, .. }) => {
            // git looks at the output of `get` only. The credential goes first: a stderr that is gone ends the process.
            let code = if operation == Operation::Get { streams.print(git.expose_secret()) } else { DONE };
            if let Some(message) = message {
                streams.say(&message);
            }
            code
        }
        Err(code) => code,
    }
}

/// One prompt: the question that `get` is, and of its answer the part that is wanted. Standard input is somebody else's here.
fn answer_prompt(prompt: &[u8], socket: &Path, streams: &mut Streams) -> u8 {
    let Some(Prompt { url, wanted }) = Prompt::parse(prompt) else {
        return streams.fail("not answering: this is no question of git's for a user name or password of an https URL");
    };
    let relay = match converse(Operation::Get, format!("url={url}\n").as_bytes(), socket, streams) {
        Ok(relay) => relay,
        Err(code) => return code,
    };
    // A user name alone is of no use: the next question would stay without an answer.
    let value = relay.value("password").and_then(|password| match wanted {
        Wanted::Password => Some(password),
        Wanted::Username => relay.value("username"),
    });
    let code = match value {
        Some(value) => {
            let mut line = Wiped::with_capacity(value.len() + 1);
            line.extend(value);
            line.extend(b"\n");
            streams.print(line.expose_secret())
        }
        None => FAILED,
    };
    match relay.message {
        Some(message) => streams.say(&message),
        None if value.is_none() => streams.say("the agent has no credential for this URL"),
        None => {}
    }
    code
}

/// Asks the agent one thing and sorts its answer; else says what is wrong, if anybody is to hear it, and returns the exit code.
fn converse(operation: Operation, text: &[u8], socket: &Path, streams: &mut Streams) -> Result<Relay, u8> {
    let deadline = Deadline::after(Duration::from_millis(exchange::ANSWER_MILLISECONDS));
    sys::end_process_after(exchange::HARD_SECONDS, streams.stderr.as_ref().map(AsRawFd::as_raw_fd));
    let mut request = Wiped::with_capacity(text.len() + 64);
    frame::write_request(operation, text, &mut request);

    let path = match trust::checked(socket) {
        Ok(path) => path,
        Err(TrustError::Unreachable(kind)) => return Err(unreachable(streams, operation, socket, &ExchangeError::Connect(kind))),
        Err(error) if operation == Operation::Get => return Err(streams.fail(&format!("not using the agent's socket: {error}"))),
        Err(_) => return Err(FAILED),
    };
    let mut restarts = RESTARTS;
    let relay = loop {
        let mut connection = match exchange::connect(&path) {
            Ok(connection) => connection,
            Err(error) => return Err(unreachable(streams, operation, socket, &error)),
        };
        let relay = match exchange::exchange(&mut connection, &request, &deadline) {
            Ok(answer) => Relay::read(answer.expose_secret()),
            // It was ended in the middle of this. Where systemd holds the socket, the next connection waits for its successor.
            Err(ExchangeError::Closed) if restarts > 0 && deadline.pause(RESTART_PAUSE) => {
                restarts -= 1;
                continue;
            }
            Err(error) => return Err(streams.fail(&no_answer(socket, &error))),
        };
        let busy = matches!(&relay, Ok(Relay { error: Some(error), .. }) if error == frame::BUSY || error == frame::TOO_FAST);
        // Places are free again within a moment: git has no patience of its own, so the helper lends it some.
        if !busy || !deadline.pause(BUSY_PAUSE) {
            break relay;
        }
    };
    match relay {
        Err(error) => Err(streams.fail(&format!("ignoring what the agent says: {error}"))),
        Ok(Relay { error: Some(error), .. }) => Err(streams.fail(&format!("the agent refuses the request: {error}"))),
        Ok(relay) => Ok(relay),
    }
}

/// Nobody to ask. git tells every helper of every credential, also of those that others gave: saying so for `get` is enough.
fn unreachable(streams: &mut Streams, operation: Operation, socket: &Path, error: &ExchangeError) -> u8 {
    if operation == Operation::Get { streams.fail(&no_answer(socket, error)) } else { FAILED }
}

/// git's text up to its blank line or its end; `None` when it is too long.
fn read_request(stdin: &mut File) -> io::Result<Option<Wiped>> {
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

/// How much is read at once: more than git's requests usually have; each page of memory more costs a fault at every start.
const READ_BYTES: usize = 1_024;

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
    fn a_prompt_is_a_question_for_git_askpass() {
        let prompt = "Username for 'https://git.example': ";
        assert_eq!(parsed(&[prompt], None), Command::Askpass(prompt.into(), PathBuf::from(DEFAULT_SOCKET)));
        assert_eq!(parsed(&[prompt], Some("/env")), Command::Askpass(prompt.into(), PathBuf::from("/env")));
        assert_eq!(parsed(&["--socket", "/arg", "Password:"], None), Command::Askpass("Password:".into(), PathBuf::from("/arg")));
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
