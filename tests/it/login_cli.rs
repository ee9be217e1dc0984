//! `login`, `logout` and `accounts` as processes of their own, against a daemon that the test plays.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};

use futures_util::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::daemon::PATIENCE;

/// The daemon's place: its socket, and a home for what is started.
struct Daemon {
    listener: UnixListener,
    home: TempDir,
}

/// What the program asked, to be answered.
struct Question {
    fields: BTreeMap<String, String>,
    stream: UnixStream,
}

impl Daemon {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("agent.sock")).unwrap();
        Self { listener, home }
    }

    /// The next question, which has to be this verb.
    async fn asked(&self, verb: &str) -> Question {
        let (mut stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let mut lines = text.strip_suffix("\n\n").unwrap().lines();
        assert_eq!(lines.next(), Some(format!("scm-agent/1 {verb}").as_str()));
        let fields = lines.map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Question { fields, stream }
    }

    /// Asserts that nothing has been asked but what was answered.
    fn assert_not_asked(&self) {
        assert!(self.listener.accept().now_or_never().is_none(), "there is another question");
    }

    /// The program with arguments, without a display and away from the machine's own configuration.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::binaries().agent);
        command.env_clear().env("HOME", self.home.path()).env("SCM_AGENT__AGENT__SOCKET", self.home.path().join("agent.sock"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// The same on a desktop, where opening a URL writes it to a file.
    fn desktop(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.env("DISPLAY", ":0").env("PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/desktop"));
        command
    }

    /// What the desktop was asked to open.
    async fn opened(&self) -> String {
        let waited = timeout(PATIENCE, async {
            loop {
                match std::fs::read_to_string(self.home.path().join("opened")) {
                    Ok(text) if text.ends_with('\n') => return text.trim_end().to_owned(),
                    _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            }
        });
        waited.await.unwrap()
    }
}

impl Question {
    async fn answer(mut self, document: Value) {
        self.stream.write_all(format!("{document}\n\n").as_bytes()).await.unwrap();
    }

    fn assert_fields(&self, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(self.fields, expected);
    }
}

async fn end(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Reads standard output up to a line that contains `wanted`.
async fn until(lines: &mut BufReader<ChildStdout>, wanted: &str) -> String {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert_ne!(timeout(PATIENCE, lines.read_line(&mut line)).await.unwrap().unwrap(), 0, "no {wanted:?} on standard output");
    }
    line
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap(), signal).unwrap();
}

fn device() -> Value {
    json!({
        "session": "s-1", "host": "scm.example.com", "mode": "device", "user_code": "AB\u{1b}CD",
        "verification_uri": "https://scm.example.com/device", "verification_uri_complete": "https://scm.example.com/device?c=AB",
        "interval_seconds": 1, "expires_in_seconds": 900,
    })
}

fn progress(state: &str) -> Value {
    json!({ "state": state, "retry_in_seconds": 1, "account": "alice", "host": "scm.example.com", "error": null, "next": null })
}

const URL: &str = "https://scm.example.com/group/app.git";
const SESSION: &[(&str, &str)] = &[("session", "s-1")];

#[tokio::test]
async fn a_user_without_a_display_signs_in_with_a_code() {
    let daemon = Daemon::start();
    let child = daemon.command(&["login", URL, "--account", "work"]).spawn().unwrap();
    let question = daemon.asked("login").await;
    question.assert_fields(&[("url", URL), ("mode", "device"), ("account", "work")]);
    question.answer(device()).await;
    for state in ["pending", "done"] {
        let question = daemon.asked("login-wait").await;
        question.assert_fields(SESSION);
        question.answer(progress(state)).await;
    }
    let account = |name: &str| json!({ "host": "scm.example.com", "integration_id": "i", "account": name, "state": "valid" });
    daemon.asked("accounts").await.answer(json!({ "accounts": [account("alice"), account("work")] })).await;
    let (code, stdout, stderr) = end(child).await;
    let expected = "\
To sign in to scm.example.com, open this page in any browser:

  https://scm.example.com/device?c=AB

and see that it shows the code AB CD, or enter it at https://scm.example.com/device

signed in to scm.example.com as alice; git gets its tokens from now on
you have 2 accounts there; to have git use this one: git config credential.https://scm.example.com.username alice
";
    assert_eq!((code, stdout.as_str()), (Some(0), expected));
    assert!(stderr.starts_with("waiting for you to sign in, for 1") && stderr.lines().count() == 1, "{stderr}");
    daemon.assert_not_asked();
}

#[tokio::test]
async fn scripts_get_one_document_a_line_and_nothing_else() {
    let daemon = Daemon::start();
    let child = daemon.command(&["login", URL, "--device", "--json"]).spawn().unwrap();
    daemon.asked("login").await.answer(device()).await;
    daemon.asked("login-wait").await.answer(progress("denied")).await;
    let (code, stdout, stderr) = end(child).await;
    let documents: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut begun = device();
    begun["user_code"] = json!("AB CD");
    assert_eq!((code, documents), (Some(1), vec![begun, progress("denied")]));
    assert!(stderr.starts_with("error: scm.example.com says that the login was denied\n"), "{stderr}");

    let child = daemon.command(&["login", URL, "--json"]).spawn().unwrap();
    let refused = json!({ "error": "the host offers no device login", "next": "run: scm-agent login --browser" });
    daemon.asked("login").await.answer(refused.clone()).await;
    let (code, stdout, stderr) = end(child).await;
    assert_eq!((code, serde_json::from_str(&stdout).ok()), (Some(1), Some(refused)));
    assert_eq!(stderr, "error: the host offers no device login\nhint: run: scm-agent login --browser\n");
    daemon.assert_not_asked();
}

#[tokio::test]
async fn ctrl_c_and_sigterm_take_back_what_has_begun() {
    for (number, expected) in [(Signal::INT, 130), (Signal::TERM, 1), (Signal::HUP, 1)] {
        let daemon = Daemon::start();
        let mut child = daemon.command(&["login", URL]).spawn().unwrap();
        daemon.asked("login").await.answer(device()).await;
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        until(&mut lines, "AB CD").await;
        signal(&child, number);
        let cancel = loop {
            // It may have asked how far it is a moment before.
            let (mut stream, _) = timeout(PATIENCE, daemon.listener.accept()).await.unwrap().unwrap();
            let mut text = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
            match text.starts_with("scm-agent/1 login-cancel\n") {
                true => break Question { fields: BTreeMap::from([("text".to_owned(), text)]), stream },
                false => assert!(text.starts_with("scm-agent/1 login-wait\n"), "{text}"),
            }
        };
        cancel.assert_fields(&[("text", "scm-agent/1 login-cancel\nsession=s-1\n\n")]);
        cancel.answer(json!({ "cancelled": true })).await;
        let (code, _, stderr) = end(child).await;
        assert_eq!(code, Some(expected), "{stderr}");
        assert!(stderr.ends_with("error: the login was given up\n"), "{stderr}");
    }
}

#[tokio::test]
async fn ctrl_c_before_the_login_has_a_name_takes_it_back_too() {
    let daemon = Daemon::start();
    let child = daemon.command(&["login", URL]).spawn().unwrap();
    let question = daemon.asked("login").await;
    signal(&child, Signal::INT);
    question.answer(device()).await;
    let cancel = daemon.asked("login-cancel").await;
    cancel.assert_fields(SESSION);
    cancel.answer(json!({ "cancelled": false })).await;
    let (code, _, stderr) = end(child).await;
    assert_eq!(code, Some(130));
    assert!(stderr.contains("see what came of it: scm-agent accounts"), "{stderr}");
}

/// Starts a login with a browser; the process, its standard output, and where its listener is.
async fn browser(daemon: &Daemon, mut command: Command) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = command.spawn().unwrap();
    let question = daemon.asked("login").await;
    let redirect_uri = question.fields["redirect_uri"].clone();
    question.assert_fields(&[("url", URL), ("mode", "browser"), ("redirect_uri", &redirect_uri)]);
    let address = redirect_uri.strip_prefix("http://").unwrap().strip_suffix('/').unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let begun = json!({
        "session": "s-1", "host": "scm.example.com", "mode": "browser",
        "authorize_url": "https://scm.example.com/authorize?state=st%2Fate&x='$(id)'", "expires_in_seconds": 600,
    });
    question.answer(begun).await;
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines, address)
}

/// Sends a request as it is and returns all that comes back.
async fn visit(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who sends too much may be cut off.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_browser_comes_back_once_and_nothing_else_is_taken_for_it() {
    let daemon = Daemon::start();
    let (child, mut lines, address) = browser(&daemon, daemon.desktop(&["login", URL])).await;
    until(&mut lines, "A browser opens to sign in to scm.example.com").await;
    let url = until(&mut lines, "https://").await;
    assert_eq!(daemon.opened().await, format!("1 {}", url.trim()));
    assert!(url.contains("state=st%2Fate") && !url.contains('\''), "{url}");

    // A connection that says nothing keeps nobody waiting.
    let _idle = TcpStream::connect(&address).await.unwrap();
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let right = "/?code=a%2Fb+c&state=st%2Fate";
    let huge = format!("GET {right} HTTP/1.1\r\nHost: {address}\r\nX-Fill: {}", "x".repeat(40_000));
    for (request, status) in [
        (get("/favicon.ico"), "404"),
        (get("/other?code=a&state=st%2Fate"), "404"),
        (get("/"), "400"),
        (get("/?code=a&state=another"), "400"),
        (get(right).replace("GET", "POST"), "405"),
        (get(right).replace("127.0.0.1", "evil.example"), "400"),
        (huge, "431"),
        ("\u{0}\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = visit(&address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    daemon.assert_not_asked();

    let answer = visit(&address, &get(right)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for header in ["Cache-Control: no-store\r\n", "Referrer-Policy: no-referrer\r\n", "Content-Security-Policy: default-src 'none'"] {
        assert!(answer.contains(header), "{answer}");
    }
    assert!(!answer.contains("<script") && !answer.contains("a%2Fb"), "{answer}");

    let finish = daemon.asked("login-finish").await;
    finish.assert_fields(&[("session", "s-1"), ("query", "code=a%2Fb+c&state=st%2Fate")]);
    // The port is closed before anything is decided.
    assert!(TcpStream::connect(&address).await.is_err());
    finish.answer(progress("pending")).await;
    daemon.asked("login-wait").await.answer(progress("done")).await;
    until(&mut lines, "signed in to scm.example.com as alice").await;
    daemon.asked("accounts").await.answer(json!({ "accounts": [] })).await;
    assert_eq!(end(child).await.0, Some(0));
    daemon.assert_not_asked();
}

#[tokio::test]
async fn a_login_in_a_browser_that_is_given_up_leaves_no_listener() {
    let daemon = Daemon::start();
    let (child, mut lines, address) = browser(&daemon, daemon.command(&["login", URL, "--browser"])).await;
    until(&mut lines, "Open this page in a browser on this machine").await;
    assert!(TcpStream::connect(&address).await.is_ok());
    signal(&child, Signal::INT);
    let cancel = daemon.asked("login-cancel").await;
    assert!(TcpStream::connect(&address).await.is_err());
    cancel.answer(json!({ "cancelled": true })).await;
    assert_eq!(end(child).await.0, Some(130));
}

#[tokio::test]
async fn without_a_desktop_of_its_own_a_login_takes_a_code() {
    let daemon = Daemon::start();
    let mut no_display = daemon.desktop(&["login", URL]);
    no_display.env_remove("DISPLAY");
    let mut over_ssh = daemon.desktop(&["login", URL]);
    over_ssh.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
    let mut no_opener = daemon.desktop(&["login", URL]);
    no_opener.env("PATH", daemon.home.path());
    let told = daemon.desktop(&["login", URL, "--device"]);
    for mut command in [no_display, over_ssh, no_opener, told] {
        let child = command.spawn().unwrap();
        let question = daemon.asked("login").await;
        question.assert_fields(&[("url", URL), ("mode", "device")]);
        question.answer(json!({ "error": "enough", "next": null })).await;
        assert_eq!(end(child).await.0, Some(1));
    }
}

#[tokio::test]
async fn a_url_that_is_none_is_a_usage_error_that_repeats_no_password() {
    let daemon = Daemon::start();
    for command in ["login", "logout"] {
        for url in ["https://user:canary@scm.example.com/", "http://canary.example.com", "canary.example.com", "https://"] {
            let (code, stdout, stderr) = end(daemon.command(&[command, url]).spawn().unwrap()).await;
            assert_eq!((code, stdout.as_str()), (Some(2), ""));
            assert!(stderr.starts_with("error: URL ") && stderr.contains("\nhint: ") && !stderr.contains("canary"), "{stderr}");
        }
        let (code, _, stderr) = end(daemon.command(&[command, URL, "--account", "a\nb"]).spawn().unwrap()).await;
        assert_eq!(code, Some(2), "{stderr}");
    }
    assert_eq!(end(daemon.command(&["login", URL, "--device", "--browser"]).spawn().unwrap()).await.0, Some(2));
    daemon.assert_not_asked();
}

#[tokio::test]
async fn without_a_daemon_a_login_says_what_to_start() {
    let daemon = Daemon::start();
    std::fs::remove_file(daemon.home.path().join("agent.sock")).unwrap();
    let (code, stdout, stderr) = end(daemon.command(&["login", URL]).spawn().unwrap()).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("hint: start it: "), "{stderr}");
}

/// Runs a command that asks one thing, and answers it.
async fn once(daemon: &Daemon, arguments: &[&str], verb: &str, fields: &[(&str, &str)], answer: Value) -> (Option<i32>, String, String) {
    let child = daemon.command(arguments).spawn().unwrap();
    let question = daemon.asked(verb).await;
    question.assert_fields(fields);
    question.answer(answer).await;
    end(child).await
}

#[tokio::test]
async fn a_logout_says_what_is_gone_and_what_may_live_on() {
    let daemon = Daemon::start();
    let removed =
        |account: &str, revoked: bool| json!({ "host": "scm.example.com", "account": account, "grant": "user", "revoked": revoked });
    let all = json!({ "removed": [removed("alice", true), removed("bob", false)], "error": null, "next": null });
    let expected = "\
signed out of scm.example.com as alice; the host has withdrawn the grant
signed out of scm.example.com as bob; the host was not told or did not say: see its settings to withdraw the grant there
";
    let ended = once(&daemon, &["logout", URL], "logout", &[("url", URL)], all.clone()).await;
    assert_eq!(ended, (Some(0), expected.to_owned(), String::new()));

    let fields = [("url", URL), ("account", "alice")];
    let (code, stdout, _) = once(&daemon, &["logout", URL, "--account", "alice", "--json"], "logout", &fields, all.clone()).await;
    assert_eq!((code, serde_json::from_str(&stdout).ok()), (Some(0), Some(all)));

    let nothing = json!({ "removed": [], "error": null, "next": null });
    let (code, stdout, stderr) = once(&daemon, &["logout", URL], "logout", &[("url", URL)], nothing.clone()).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr, "error: you are not signed in there\nhint: see where you are: scm-agent accounts\n");
    // A script is told as well.
    let fields = [("url", URL), ("account", "bob")];
    let (code, stdout, _) = once(&daemon, &["logout", URL, "--account", "bob", "--json"], "logout", &fields, nothing).await;
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["error"]), (Some(1), &json!("you are not signed in there as bob")));

    let partly = json!({ "removed": [removed("alice", true)], "error": "the store cannot be written", "next": "make room" });
    let (code, stdout, stderr) = once(&daemon, &["logout", URL], "logout", &[("url", URL)], partly).await;
    assert_eq!((code, stdout.lines().count()), (Some(1), 1));
    assert_eq!(stderr, "error: the store cannot be written\nhint: make room\n");
}

#[tokio::test]
async fn accounts_are_listed_for_people_and_for_scripts() {
    let daemon = Daemon::start();
    let accounts = json!({ "accounts": [{
        "host": "scm.example.com", "integration_id": "an-id", "account": "al\u{1b}ice", "grant": "user", "state": "needs_login",
        "expires_at": null, "scopes": ["read"], "last_error": "invalid_grant",
    }] });
    let (code, stdout, _) = once(&daemon, &["accounts"], "accounts", &[], accounts.clone()).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("scm.example.com  al ice   sign-in  needs login  read    an-id\n"), "{stdout}");
    assert!(stdout.contains("scm-agent login https://scm.example.com"), "{stdout}");
    let (code, stdout, _) = once(&daemon, &["accounts", "--json"], "accounts", &[], accounts).await;
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &shown["accounts"][0]["state"]), (Some(0), &json!("needs_login")));
}

#[tokio::test]
async fn a_daemon_without_these_verbs_is_quoted() {
    let daemon = Daemon::start();
    let child = daemon.command(&["accounts"]).spawn().unwrap();
    let mut question = daemon.asked("accounts").await;
    question.stream.write_all(b"error=there is no verb accounts\n\n").await.unwrap();
    drop(question);
    let (code, _, stderr) = end(child).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "error: scm-agent: there is no verb accounts\nhint: see how it is: scm-agent doctor\n"));
}
