//! A login against a daemon that answers from a list, in a time that passes by itself.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use clap::Parser;
use serde_json::{Value, json};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// What a login came to.
struct Ran {
    outcome: Result<(), Error>,
    stdout: String,
    stderr: String,
    asked: Vec<String>,
    took: Duration,
}

/// Runs `login` with arguments against a daemon that gives these answers, one for each connection, and is gone after the last. An
/// answer of `null` is a connection that is closed without one.
async fn login(arguments: &[&str], answers: &[Value]) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let over = Arc::new(AtomicBool::new(false));
    let daemon = daemon(&socket, answers, Arc::clone(&over));
    let args = Line::parse_from(["login", "https://scm.example.com/a"].iter().chain(arguments)).args;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut io = Io { stdin: &mut std::io::empty(), stdout: &mut stdout, stderr: &mut stderr, stdout_is_terminal: false };
    let attempt = Attempt { args: &args, socket: &socket, surroundings: &Surroundings::default() };
    let start = Instant::now();
    let outcome = attempt.run("https://scm.example.com/a".to_owned(), &mut io).await;
    let took = start.elapsed();
    // A daemon that still waits for questions learns that there are none; one that has given its last answer is gone.
    over.store(true, Ordering::SeqCst);
    let _ = UnixStream::connect(&socket);
    let text = |written| String::from_utf8(written).unwrap();
    Ran { outcome, stdout: text(stdout), stderr: text(stderr), asked: daemon.join().unwrap(), took }
}

fn daemon(socket: &Path, answers: &[Value], over: Arc<AtomicBool>) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(socket).unwrap();
    let mut answers: VecDeque<Value> = answers.iter().cloned().collect();
    std::thread::spawn(move || {
        let mut asked = Vec::new();
        while let Some(answer) = answers.pop_front() {
            let (mut stream, _) = listener.accept().unwrap();
            if over.load(Ordering::SeqCst) {
                break;
            }
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).unwrap();
            asked.push(question);
            if !answer.is_null() {
                stream.write_all(format!("{answer}\n\n").as_bytes()).unwrap();
            }
        }
        asked
    })
}

/// A device login that is asked about every 5 seconds and expires after 900.
fn begun() -> Value {
    json!({
        "session": "s-1", "host": "scm.example.com", "mode": "device", "user_code": "AB-CD",
        "verification_uri": "https://scm.example.com/device", "verification_uri_complete": null,
        "interval_seconds": 5, "expires_in_seconds": 900,
    })
}

fn pending(retry_in_seconds: impl Into<Option<u64>>) -> Value {
    json!({ "state": "pending", "retry_in_seconds": retry_in_seconds.into(), "host": "scm.example.com" })
}

fn progress(state: &str) -> Value {
    json!({ "state": state, "account": null, "host": "scm.example.com", "error": null, "next": null })
}

const WAIT: &str = "scm-agent/1 login-wait\nsession=s-1\n\n";
const CANCEL: &str = "scm-agent/1 login-cancel\nsession=s-1\n\n";

#[tokio::test(start_paused = true)]
async fn the_daemon_says_when_it_is_asked_again() {
    // Every 5 seconds, then every 10 for good, then as said.
    let answers = [begun(), pending(None), pending(10), pending(None), pending(7), progress("done")];
    let ran = login(&[], &answers).await;
    ran.outcome.unwrap();
    assert_eq!(ran.took.as_secs(), 5 + 5 + 10 + 10 + 7);
    assert_eq!(ran.asked[0], "scm-agent/1 login\nurl=https://scm.example.com/a\nmode=device\n\n");
    assert_eq!(ran.asked[1..], [WAIT; 5]);
    assert!(ran.stdout.ends_with("signed in to scm.example.com; git gets its tokens from now on\n"), "{}", ran.stdout);
}

#[tokio::test(start_paused = true)]
async fn senseless_intervals_make_no_storm_and_no_standstill() {
    let ran = login(&[], &[begun(), pending(0), pending(u64::MAX), progress("done")]).await;
    ran.outcome.unwrap();
    assert_eq!(ran.took.as_secs(), 5 + 1 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_nobody_finishes_ends_with_its_time_and_is_taken_back() {
    let mut short = begun();
    short["expires_in_seconds"] = json!(12);
    let ran = login(&["--json"], &[short, pending(5), pending(5), pending(5), json!({ "cancelled": true })]).await;
    let error = ran.outcome.unwrap_err();
    assert_eq!(error.to_string(), "nobody signed in to scm.example.com in time");
    assert_eq!((error.kind(), ran.took.as_secs()), (Kind::User, 12));
    assert_eq!(ran.asked[1..], [WAIT, WAIT, WAIT, CANCEL]);
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "expired");
    let mut endless = begun();
    endless["expires_in_seconds"] = json!(u64::MAX);
    login(&[], &[endless, progress("done")]).await.outcome.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_host_says_is_passed_on() {
    for (state, sentence) in [
        ("denied", "scm.example.com says that the login was denied"),
        ("expired", "nobody signed in to scm.example.com in time"),
        ("failed", "the login to scm.example.com failed"),
    ] {
        let mut answers = vec![begun(), progress(state)];
        answers.extend((state == "expired").then(|| json!({ "cancelled": false })));
        let ran = login(&[], &answers).await;
        assert_eq!(ran.outcome.unwrap_err().to_string(), sentence);
        assert_eq!(ran.asked.len(), answers.len());
    }
    let mut failed = progress("failed");
    failed["error"] = json!("the host does not know this app");
    failed["next"] = json!("register the app");
    let error = login(&[], &[begun(), failed]).await.outcome.unwrap_err();
    assert_eq!(error.to_string(), "the login to scm.example.com failed: the host does not know this app");
    assert_eq!(error.hints(), ["register the app"]);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_misses_a_question_is_asked_again_and_one_that_is_gone_is_not_for_long() {
    let ran = login(&[], &[begun(), Value::Null, Value::Null, pending(5), Value::Null, progress("done")]).await;
    ran.outcome.unwrap();
    assert_eq!(ran.asked.len(), 6);
    let ran = login(&[], &[begun(), pending(5)]).await;
    let error = ran.outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Upstream);
    assert!(error.to_string().contains("no scm-agent answers on"), "{error}");
    assert!(error.hints().iter().any(|hint| hint.contains("could not be told")), "{:?}", error.hints());
    assert_eq!(ran.took.as_secs(), 4 * 5);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_none_of_the_web_is_not_shown() {
    for field in ["verification_uri", "verification_uri_complete"] {
        let mut hostile = begun();
        hostile[field] = json!("http://canary.example/");
        let ran = login(&[], &[hostile, json!({ "cancelled": true })]).await;
        assert_eq!(ran.outcome.unwrap_err().to_string(), "scm.example.com names no https page to sign in at");
        assert_eq!(ran.asked[1..], [CANCEL]);
        assert!(!ran.stdout.contains("canary"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_of_another_kind_than_asked_for_is_taken_back() {
    let browser = json!({
        "session": "s-1", "host": "scm.example.com", "mode": "browser", "authorize_url": "https://scm.example.com/a", "expires_in_seconds": 9,
    });
    let ran = login(&["--device"], &[browser, json!({ "cancelled": true })]).await;
    assert_eq!(ran.outcome.unwrap_err().kind(), Kind::Upstream);
    assert_eq!(ran.asked[1..], [CANCEL]);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_asked_less_than_it_expects_does_not_keep_the_test() {
    let ran = login(&[], &[begun(), progress("denied"), pending(5), pending(5)]).await;
    assert_eq!(ran.asked.len(), 2);
    assert_eq!(ran.outcome.unwrap_err().hints(), ["to try again: scm-agent login https://scm.example.com/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_is_not_kept_says_so() {
    let mut done = progress("done");
    done["error"] = json!("the sign-in serves, but is not kept for the next start: no space");
    done["next"] = json!("scm-agent doctor");
    let ran = login(&[], &[begun(), done]).await;
    ran.outcome.unwrap();
    let warning = "warning: the sign-in serves, but is not kept for the next start: no space\nhint: scm-agent doctor\n";
    assert!(ran.stderr.ends_with(warning), "{}", ran.stderr);
}

#[tokio::test(start_paused = true)]
async fn who_has_several_accounts_there_is_told_how_git_chooses() {
    let account = |host: &str, name: &str| json!({ "host": host, "integration_id": "i", "account": name, "state": "valid" });
    let mut done = progress("done");
    done["account"] = json!("work");
    let others = [account("scm.example.com", "alice"), account("scm.example.com", "work"), account("other.example", "alice")];
    let choice = "you have 2 accounts there; to have git use this one: git config credential.https://scm.example.com.username work\n";
    for (count, told) in [(3, true), (1, false)] {
        let ran = login(&["--account", "work"], &[begun(), done.clone(), json!({ "accounts": others[..count] })]).await;
        ran.outcome.unwrap();
        assert_eq!(ran.stdout.ends_with(choice), told, "{}", ran.stdout);
    }
    // Scripts are given documents and nothing else.
    let ran = login(&["--json", "--account", "work"], &[begun(), done, json!({ "accounts": others })]).await;
    assert_eq!((ran.asked.len(), ran.stdout.lines().count()), (2, 2));
}
