//! The helper process itself, against a fake agent on a real socket.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use scm_agent::git::frame::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, RequestParser, Verb};
use scm_agent::git::{CredentialAnswer, CredentialRequest, Operation};
use tempfile::TempDir;

const HELPER: &str = env!("CARGO_BIN_EXE_git-credential-scm-agent");
const REQUEST: &[u8] = b"capability[]=state\nprotocol=https\nhost=git.example\nusername=canary-user\npassword=canary-word\n";
const ANSWER: &[u8] = b"username=x-token-auth\npassword=canary-token\npassword_expiry_utc=4102444800\n";

/// What a fake agent does with a connection whose request it has read.
type Reply = Box<dyn Fn(&mut UnixStream) -> io::Result<()> + Send>;

/// A request as the fake agent saw it.
type Seen = (Verb, Vec<u8>);

/// A listener in a directory of its own that treats every connection alike.
struct Agent {
    socket: PathBuf,
    requests: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<()>>,
    _home: TempDir,
}

impl Agent {
    fn start(reply: impl Fn(&mut UnixStream) -> io::Result<()> + Send + 'static) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply): (_, Reply) = (Arc::clone(&requests), Box::new(reply));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut parser = RequestParser::new();
                let request = loop {
                    let mut chunk = [0; 4_096];
                    let count = stream.read(&mut chunk).unwrap();
                    parser.push(&chunk[..count]);
                    match parser.next_request() {
                        Ok(None) if count > 0 => {}
                        Ok(request) => break request,
                        Err(_) => break None,
                    }
                };
                let Some(request) = request else { continue };
                if request.verb == Verb::Other("stop".into()) {
                    return;
                }
                seen.lock().unwrap().push((request.verb, request.body.expose_secret().to_vec()));
                // A helper that gives up early is what some of the tests are about.
                let _ = reply(&mut stream);
            }
        });
        Self { socket, requests, thread: Some(thread), _home: home }
    }

    fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |stream| stream.write_all(&answer))
    }

    fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(mut stream) = UnixStream::connect(&self.socket) {
            let _ = stream.write_all(b"scm-agent/1 stop\n\n");
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer with its final blank line.
fn ended(answer: &[u8]) -> Vec<u8> {
    [answer, b"\n"].concat()
}

fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Child {
    Command::new(HELPER).args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn run(socket: &Path, operation: &str, request: &[u8]) -> Output {
    let mut helper = start(&[OsStr::new("--socket"), socket.as_os_str(), OsStr::new(operation)]);
    // A helper that has nothing to do does not read.
    let _ = helper.stdin.take().unwrap().write_all(request);
    let output = helper.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(!shown.contains("canary"), "stderr repeats what it was given: {shown}");
    assert!(shown.lines().count() <= 1 && (shown.is_empty() || shown.ends_with('\n')), "more than a line: {shown}");
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Nothing for git, one line for the user.
fn assert_gave_nothing(output: &Output, expected: &str) {
    assert!(output.stdout.is_empty(), "{} bytes for git: {}", output.stdout.len(), stderr(output));
    assert!(!output.status.success());
    assert!(stderr(output).starts_with("git-credential-scm-agent: ") && stderr(output).contains(expected), "{}", stderr(output));
}

#[test]
fn the_agent_s_answer_reaches_git_s_side_and_git_s_text_the_agent() {
    let agent = Agent::answering(ended(ANSWER));
    let output = run(&agent.socket, "get", REQUEST);
    assert!(output.status.success());
    assert_eq!(output.stdout, ANSWER);
    assert_eq!(stderr(&output), "");
    assert_eq!(agent.requests(), [(Verb::Git(Operation::Get), REQUEST.to_vec())]);
}

#[test]
fn a_request_ends_with_its_blank_line_though_stdin_stays_open() {
    let agent = Agent::answering(ended(ANSWER));
    let mut helper = start(&[OsStr::new("--socket"), agent.socket.as_os_str(), OsStr::new("get")]);
    let mut stdin = helper.stdin.take().unwrap();
    stdin.write_all(REQUEST).unwrap();
    stdin.write_all(b"\nhost=evil.example\n").unwrap();
    let output = helper.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.stdout, ANSWER);
    assert_eq!(agent.requests()[0].1, REQUEST);
}

#[test]
fn store_and_erase_are_sent_and_print_nothing() {
    for (operation, verb) in [("store", Operation::Store), ("erase", Operation::Erase)] {
        let agent = Agent::answering(ended(ANSWER));
        let output = run(&agent.socket, operation, REQUEST);
        assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{operation}");
        assert_eq!(agent.requests(), [(Verb::Git(verb), REQUEST.to_vec())]);
    }
}

#[test]
fn the_environment_names_the_socket_too() {
    let agent = Agent::answering(ended(ANSWER));
    let mut helper = Command::new(HELPER)
        .arg("get")
        .env_clear()
        .env("SCM_AGENT__AGENT__SOCKET", &agent.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    helper.stdin.take().unwrap().write_all(REQUEST).unwrap();
    assert_eq!(helper.wait_with_output().unwrap().stdout, ANSWER);
}

#[test]
fn an_unknown_operation_is_passed_over_in_silence_without_asking_the_agent() {
    let agent = Agent::answering(ended(ANSWER));
    for operation in ["list", "fill", "GET", "", "approve"] {
        let output = run(&agent.socket, operation, REQUEST);
        assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{operation:?}");
    }
    assert_eq!(agent.requests(), []);
}

#[test]
fn capabilities_version_and_usage_need_no_agent() {
    let nowhere = Path::new("/nonexistent/agent.sock");
    assert_eq!(run(nowhere, "capability", b"").stdout, b"version 0\ncapability authtype\ncapability state\n");
    assert_eq!(run(nowhere, "--version", b"").stdout, format!("git-credential-scm-agent {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    assert!(run(nowhere, "--help", b"").stdout.starts_with(b"usage: "));
    let wrong = run(nowhere, "--unknown", b"");
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
    assert_eq!(start::<&str>(&[]).wait_with_output().unwrap().status.code(), Some(2));
}

#[test]
fn without_an_agent_get_says_what_to_run_and_store_and_erase_say_nothing() {
    let home = tempfile::tempdir().unwrap();
    let stale = home.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for (socket, why) in [(home.path().join("none.sock"), "no such socket"), (stale, "nobody listens")] {
        let output = run(&socket, "get", REQUEST);
        assert_gave_nothing(&output, why);
        assert!(stderr(&output).contains(socket.to_str().unwrap()) && stderr(&output).contains("`systemctl status scm-agent`"));
        for operation in ["store", "erase"] {
            let output = run(&socket, operation, REQUEST);
            assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{operation}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_socket_that_anybody_can_have_put_there_is_sent_nothing() {
    let agent = Agent::answering(ended(ANSWER));
    let open = agent.socket.parent().unwrap();
    fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.sock");
    symlink(&agent.socket, &link).unwrap();
    for socket in [&agent.socket, &link] {
        assert_gave_nothing(&run(socket, "get", REQUEST), "is writable by everybody");
    }
    assert_eq!(agent.requests(), []);
    fs::set_permissions(open, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(run(&link, "get", REQUEST).stdout, ANSWER);
}

#[test]
fn a_file_that_is_no_socket_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("agent.sock");
    fs::write(&file, "").unwrap();
    assert_gave_nothing(&run(&file, "get", REQUEST), "is not a socket");
}

#[test]
fn what_git_must_not_see_of_an_answer_is_dropped() {
    let answer = b"protocol=http\nhost=evil.example\nusername=u\noauth_refresh_token=canary\npath=x\npassword=p\nwwwauth[]=x\nquit=1\n\n";
    let agent = Agent::answering(&answer[..]);
    assert_eq!(run(&agent.socket, "get", REQUEST).stdout, b"username=u\npassword=p\nquit=1\n");
}

#[test]
fn a_message_goes_to_the_user_and_an_error_means_no_answer() {
    let agent = Agent::answering(&b"message=run \x1b[1m`scm-agent login`\nquit=1\n\n"[..]);
    for operation in ["get", "store"] {
        let output = run(&agent.socket, operation, REQUEST);
        assert!(output.status.success());
        assert_eq!(output.stdout, if operation == "get" { &b"quit=1\n"[..] } else { b"" });
        assert_eq!(stderr(&output), "git-credential-scm-agent: run  [1m`scm-agent login`\n");
    }
    let agent = Agent::answering(&b"password=p\nerror=the request names host twice\n\n"[..]);
    assert_gave_nothing(&run(&agent.socket, "get", REQUEST), "refuses the request: the request names host twice");
}

#[test]
fn an_answer_that_is_not_whole_or_not_sound_gives_git_nothing() {
    let long = [b"password=", "a".repeat(MAX_ANSWER_BYTES).as_bytes(), b"\n\n"].concat();
    let table: &[(&[u8], &str)] = &[
        (b"", "closed the connection"),
        (b"username=u\npassword=canary\n", "closed the connection"),
        (b"username=u\npassword=canary", "closed the connection"),
        (b"canary\n\n", "line 1 of the answer"),
        (b"username=u\ncanary\n\n", "line 2 of the answer"),
        (b"HTTP/1.1 400 canary\r\n\r\n\n\n", "line 1 of the answer"),
        (b"{\"password\":\"canary\"}\n\n", "line 1 of the answer"),
        (b"username=u\npassword=canary\rhost=evil.example\n\n", "line 2 of the answer"),
        (b"username=u\r\npassword=canary\r\n\n", "line 1 of the answer"),
        (b"password=canary\0\n\n", "line 1 of the answer"),
        (b"\xff\xfe\0\n\n", "line 1 of the answer"),
        (b"password=canary\npassword=other\n\n", "line 2 of the answer"),
        (b"password=canary\npassword_expiry_utc=soon\n\n", "line 2 of the answer"),
        (&long, "longer than"),
    ];
    for (answer, expected) in table {
        let agent = Agent::answering(*answer);
        assert_gave_nothing(&run(&agent.socket, "get", REQUEST), expected);
    }
}

#[test]
fn an_agent_that_is_restarted_in_the_middle_of_an_answer_is_asked_again_and_one_that_never_answers_is_not_for_ever() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let agent = Agent::start(move |stream| {
        // Ended before the answer, in the middle of it, and then its successor.
        let answer = [&b""[..], &ANSWER[..30], &[ANSWER, b"\n"].concat()][count.fetch_add(1, std::sync::atomic::Ordering::SeqCst)].to_vec();
        stream.write_all(&answer)
    });
    let output = run(&agent.socket, "get", REQUEST);
    assert_eq!(output.stdout, ANSWER, "{}", stderr(&output));
    let seen = agent.requests();
    assert!(seen.len() == 3 && seen.iter().all(|request| *request == seen[0]));

    let agent = Agent::answering("");
    assert_gave_nothing(&run(&agent.socket, "get", REQUEST), "closed the connection");
    assert_eq!(agent.requests().len(), 5);
}

#[test]
fn an_answer_may_arrive_in_pieces() {
    let agent = Agent::start(|stream| {
        for piece in ended(ANSWER).chunks(3) {
            stream.write_all(piece)?;
            thread::yield_now();
        }
        Ok(())
    });
    assert_eq!(run(&agent.socket, "get", REQUEST).stdout, ANSWER);
}

#[test]
fn a_request_of_the_greatest_size_is_sent_and_a_greater_one_is_not() {
    let agent = Agent::answering(ended(ANSWER));
    let of = |size: usize| [b"protocol=https\nhost=a\n", "x=y\n".repeat(size).as_bytes()].concat()[..size].to_vec();
    let mut greatest = of(MAX_REQUEST_BYTES - 1);
    greatest.push(b'\n');
    assert_eq!(run(&agent.socket, "get", &greatest).stdout, ANSWER);
    assert_eq!(agent.requests()[0].1.len(), MAX_REQUEST_BYTES);
    assert_gave_nothing(&run(&agent.socket, "get", &of(MAX_REQUEST_BYTES + 1)), "longer than 65536 bytes");
    assert_eq!(agent.requests().len(), 1);
}

#[test]
fn a_stdout_or_stderr_that_is_gone_is_no_reason_to_panic() {
    let agent = Agent::answering(ended(ANSWER));
    let socket = agent.socket.to_str().unwrap().to_owned();
    let gone = |arguments: &[&str]| {
        let mut helper = start(arguments);
        drop((helper.stdout.take(), helper.stderr.take()));
        // Only now, so that both are gone when it has something to say.
        helper.stdin.take().unwrap().write_all(REQUEST).unwrap();
        let status = helper.wait().unwrap();
        (status.code(), status.signal())
    };
    // SIGPIPE, as for any C program.
    assert_eq!(gone(&["--socket", &socket, "get"]), (None, Some(13)));
    assert_eq!(gone(&["--socket", "/nonexistent/agent.sock", "get"]), (None, Some(13)));
}

#[test]
fn a_stream_that_was_closed_before_the_start_is_not_mistaken_for_the_socket() {
    let agent = Agent::answering(ended(b"message=canary\nusername=u\n"));
    for (closed, expected) in [("<&-", &b""[..]), (">&-", b""), ("2>&-", b"username=u\n")] {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("exec \"$0\" --socket \"$1\" get {closed}"), HELPER])
            .arg(&agent.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _ = shell.stdin.take().unwrap().write_all(REQUEST);
        assert_eq!(shell.wait_with_output().unwrap().stdout, expected, "{closed}");
    }
    assert!(agent.requests().iter().all(|(_, body)| body == REQUEST));
}

/// The one test that waits: both ways in which an agent can keep the process waiting, and a stderr that does too, at the same time.
#[test]
fn an_agent_that_hangs_does_not_hang_git() {
    let home = tempfile::tempdir().unwrap();
    let full = home.path().join("full.sock");
    // A listener with room for one connection, taken, that never accepts: connecting blocks.
    let listener = {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&full).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        listener
    };
    let waiting = UnixStream::connect(&full).unwrap();

    let silent = home.path().join("silent.sock");
    let dripping = UnixListener::bind(&silent).unwrap();
    let drip = thread::spawn(move || {
        let (mut stream, _) = dripping.accept().unwrap();
        for byte in [b'a'; 300].iter().chain(b"=\n\n") {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(100));
        }
    });

    let [stuck, dripped] = [&full, &silent].map(|socket| {
        let mut helper = start(&[OsStr::new("--socket"), socket.as_os_str(), OsStr::new("get")]);
        helper.stdin.take().unwrap().write_all(REQUEST).unwrap();
        helper
    });
    // Full as well: what the first of them says cannot be said here.
    let (_unread, mut stderr_of_blocked) = UnixStream::pair().unwrap();
    stderr_of_blocked.set_nonblocking(true).unwrap();
    while stderr_of_blocked.write(&[b'x'; 4096]).is_ok() {}
    stderr_of_blocked.set_nonblocking(false).unwrap();
    let mut blocked = Command::new(HELPER)
        .args([OsStr::new("--socket"), full.as_os_str(), OsStr::new("get")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::os::fd::OwnedFd::from(stderr_of_blocked))
        .spawn()
        .unwrap();
    blocked.stdin.take().unwrap().write_all(REQUEST).unwrap();
    let dripped = dripped.wait_with_output().unwrap();
    assert_gave_nothing(&dripped, "took too long");
    let stuck = stuck.wait_with_output().unwrap();
    assert_gave_nothing(&stuck, "took too long");
    assert_eq!(blocked.wait().unwrap().signal(), Some(14));
    drip.join().unwrap();
    drop((listener, waiting));
}

/// Runs `git credential fill` with the helper as git runs it: by name, from `PATH`.
fn fill(agent: &Agent, request: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    let bin = Path::new(HELPER).parent().unwrap();
    let path = std::env::join_paths([bin.to_owned()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
    let mut git = Command::new("git")
        .arg("-c")
        .arg("credential.helper=")
        .arg("-c")
        .arg(format!("credential.helper=scm-agent --socket '{}'", agent.socket.display()))
        .args(["credential", "fill"])
        .current_dir(home.path())
        .env_clear()
        .env("PATH", path)
        .env("HOME", home.path())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    git.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    git.wait_with_output().unwrap()
}

#[test]
fn git_itself_takes_the_credential() {
    let mut answer = Vec::new();
    let credential = CredentialAnswer {
        username: Some("x-token-auth"),
        password: Some(b"t0ken="),
        password_expiry_utc: Some(4_102_444_800),
        ..CredentialAnswer::default()
    };
    credential.write(&mut answer).unwrap();
    let agent = Agent::answering(ended(&answer));
    let output = fill(&agent, "url=https://git.example/team/a.git\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let filled = String::from_utf8(output.stdout).unwrap();
    assert!(filled.contains("host=git.example\n") && filled.contains("username=x-token-auth\npassword=t0ken=\n"), "{filled}");
    let (verb, body) = agent.requests().remove(0);
    assert_eq!(verb, Verb::Git(Operation::Get));
    let request = CredentialRequest::parse(&body).unwrap();
    assert_eq!((request.protocol.as_str(), request.host.as_str()), ("https", "git.example"));
}

#[test]
fn git_itself_stops_when_told_to_and_shows_the_message() {
    let agent = Agent::answering(&b"message=run `scm-agent login https://git.example`\nquit=1\n\n"[..]);
    let output = fill(&agent, "protocol=https\nhost=git.example\n");
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(stderr(&output).contains("git-credential-scm-agent: run `scm-agent login https://git.example`\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("told us to quit"), "{}", stderr(&output));
}

#[test]
fn the_helper_is_made_of_the_standard_library_only() {
    let strings = |program: &Path| String::from_utf8_lossy(&fs::read(program).unwrap()).into_owned();
    let helper = strings(Path::new(HELPER));
    for part in ["tokio", "reqwest", "serde", "aws_lc", "aws-lc", "rustls", "hyper", "tracing", "zeroize"] {
        assert!(!helper.contains(part), "{part}");
    }
    assert!(helper.contains("scm-agent/1"));
    // This test would find them: they are in this program.
    let program = strings(&std::env::current_exe().unwrap());
    assert!(program.contains("tokio") && program.contains("serde") && program.contains("rustls"));
}
