//! Everything that is denied is one line of the audit log: each way to be refused, by users whom it is there for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;

use super::access::{CI, DEV, GROUP, ask_as, config, scene};
use super::peers::copy_of_this_program;
use super::units::Connector;
use crate::support::daemon::{Daemon, run};
use crate::support::scene::Scene;

/// Somebody who is not in the socket's group.
const STRANGER: u32 = 54_399;

/// A daemon with rules and further keys of `[agent]`, and a program that says what it is told to its socket.
struct Machine {
    daemon: Daemon,
    program: PathBuf,
    scene: Scene,
}

impl Machine {
    async fn start(agent: &str, rules: &str) -> Self {
        let scene = scene().await;
        let mut held = scene.integration(3, "held.example.com");
        let others = [scene.integration(1, "one.example.com"), scene.integration(2, "two.example.com")];
        scene.control_plane.set_integrations([&others[..], &[held.clone()]].concat());
        let path = config(&scene, rules);
        let text = fs::read_to_string(&path).unwrap().replace("[agent]\n", &format!("[agent]\n{agent}\n"));
        fs::write(&path, text).unwrap();
        let program = copy_of_this_program(&scene.world);
        let daemon = scene.world.start(&path).await;
        daemon.until_synced().await;
        // The same secret under another id and for another host, which nobody has trusted, and where personal access tokens are taken.
        held["id"] = json!("0196f3a4-0000-7000-8000-000000000009");
        held["host"] = json!("moved.example.com");
        held["pat"] = json!(true);
        scene.control_plane.set_integrations([&others[..], &[held]].concat());
        daemon.ask("scm-agent/1 sync\n\n").await;
        daemon.until(|status| status.to_string().contains("moved.example.com")).await;
        Self { daemon, program, scene }
    }

    /// Says something to the socket as a user; what comes back.
    async fn say(&self, uid: u32, request: &str) -> String {
        say(&self.program, self.daemon.socket(), uid, request).await
    }

    /// What the audit log has by now: the daemon answers only after it has written.
    async fn end(self) -> String {
        self.daemon.final_log().await
    }
}

async fn say(program: &Path, socket: &Path, uid: u32, request: &str) -> String {
    let gid = if uid == STRANGER { STRANGER } else { GROUP };
    // A stranger's connection may be closed before it has said anything.
    let test = if uid == STRANGER { "child::asks_for_the_status" } else { "child::asks_what_it_is_told_to" };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]).arg(program);
    command.args(["--ignored", "--exact", "--nocapture", test]).env("SOCKET", socket).env("REQUEST", request).current_dir("/");
    let output = run(command, "").await;
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The lines about denials.
fn denials(log: &str) -> Vec<&str> {
    let is_denial =
        |line: &&str| ["denied", "not_given", "refused_more"].iter().any(|event| line.contains(&format!(" event=\"{event}\" ")));
    log.lines().filter(|line| line.contains(" audit: ")).filter(is_denial).collect()
}

#[tokio::test]
#[ignore = "needs root"]
async fn each_way_to_be_refused_is_one_line_with_who_what_and_why() {
    let rules =
        format!("[[access]]\nusers = [\"{CI}\"]\nallow = [\"service\", \"own\"]\n[[access]]\nhosts = [\"two.example.com\"]\nallow = []\n");
    let machine = Machine::start("", &rules).await;
    fs::set_permissions(machine.daemon.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let get = |host: &str| format!("scm-agent/1 get\nprotocol=https\nhost={host}\n\n");
    let rows: Vec<(u32, String, &str, &[&str])> = vec![
        (STRANGER, String::new(), "not_admitted", &["refused: not in the socket's group", "gid="]),
        (DEV, "scm-agent/2 get\n\n".to_owned(), "malformed", &["reason=\"the request does not begin with scm-agent/1\""]),
        (DEV, "scm-agent/1 GET\n\n".to_owned(), "malformed", &["names no valid verb"]),
        (DEV, "scm-agent/1 no-such-verb\n\n".to_owned(), "malformed", &["does not know that verb"]),
        (DEV, "scm-agent/1 get\nbroken\n\n".to_owned(), "malformed", &["reason="]),
        (DEV, "scm-agent/1 explain\nbroken\n\n".to_owned(), "malformed", &["reason="]),
        (DEV, "scm-agent/1 oauth-app\n\n".to_owned(), "malformed", &["which URL it is about"]),
        (DEV, "scm-agent/1 login\n\n".to_owned(), "malformed", &["operation=\"login\""]),
        (DEV, "scm-agent/1 login-wait\n\n".to_owned(), "malformed", &["operation=\"login-wait\""]),
        (DEV, "scm-agent/1 logout\n\n".to_owned(), "malformed", &["operation=\"logout\""]),
        (DEV, "scm-agent/1 reload\n\n".to_owned(), "not_privileged", &["operation=\"reload\""]),
        (DEV, "scm-agent/1 trust\nid=x\nchange=y\n\n".to_owned(), "not_privileged", &["operation=\"trust\""]),
        (DEV, "scm-agent/1 grant\nunit=a.service\n\n".to_owned(), "not_privileged", &["operation=\"grant\""]),
        (DEV, "scm-agent/1 grants\n\n".to_owned(), "not_privileged", &["operation=\"grants\""]),
        (DEV, "scm-agent/1 grant-revoke\nid=x\n\n".to_owned(), "not_privileged", &["operation=\"grant-revoke\""]),
        (0, "scm-agent/1 grant\n\n".to_owned(), "malformed", &["operation=\"grant\""]),
        (0, "scm-agent/1 trust\n\n".to_owned(), "malformed", &["what is to be trusted"]),
        (DEV, get("one.example.com"), "access_rules", &["host=https://one.example.com", "operation=\"get\""]),
        (DEV, get("two.example.com"), "access_rules", &["rule=2", "operation=\"get\""]),
        (0, get("one.example.com"), "access_rules", &["operation=\"get\""]),
        (
            DEV,
            get("one.example.com").replace(" get", " erase").replace("\n\n", "\nusername=x\npassword=p\n\n"),
            "access_rules",
            &["operation=\"erase\""],
        ),
        (
            DEV,
            "scm-agent/1 login\nurl=https://two.example.com\nmode=device\n\n".to_owned(),
            "access_rules",
            &["operation=\"login\"", "rule=2"],
        ),
        (CI, "scm-agent/1 login\nurl=https://no.example\nmode=device\n\n".to_owned(), "sign_in", &["host=https://no.example"]),
        (
            CI,
            "scm-agent/1 login\nurl=https://user:canary@one.example.com/x\nmode=device\n\n".to_owned(),
            "sign_in",
            &["host=https://one.example.com"],
        ),
        (
            CI,
            "scm-agent/1 oauth-app\nurl=https://one.example.com\n\n".to_owned(),
            "app_secret",
            &["rule=1", "host=https://one.example.com"],
        ),
        (CI, "scm-agent/1 oauth-app\nurl=https://no.example\n\n".to_owned(), "app", &["reason="]),
        // Held back: git goes on to ask for a personal access token, and the refusal is told all the same.
        (CI, get("moved.example.com"), "token", &["held back", "host=https://moved.example.com"]),
    ];
    let mut expected = Vec::new();
    for (uid, request, event, words) in &rows {
        machine.say(*uid, request).await;
        expected.push((*uid, *event, *words));
    }
    // None of these is refused.
    for request in ["scm-agent/1 status\n\n", "scm-agent/1 ping\n\n", "scm-agent/1 accounts\n\n"] {
        machine.say(DEV, request).await;
    }
    machine.say(CI, &get("unknown.example.com")).await;
    let token = machine.say(CI, &get("one.example.com")).await;
    assert!(token.contains("password="), "{token}");
    let log = machine.end().await;
    let lines = denials(&log);
    let shown = lines.join("\n");
    for (line, (uid, event, words)) in lines.iter().zip(&expected) {
        assert!(line.contains(&format!(" kind=\"{event}\" ")) && line.contains(&format!(" uid={uid} ")), "{event} {uid}: {line}\n{shown}");
        assert!(line.contains(" pid="), "{line}");
        words.iter().for_each(|word| assert!(line.contains(word), "no {word} in {line}"));
    }
    assert_eq!(lines.len(), expected.len(), "{shown}");
    // Nobody is refused in another way.
    assert_eq!(log.matches("refused").count(), log.lines().filter(|line| line.contains(" audit: ") && line.contains("refused")).count());
    assert!(!log.contains("canary"));
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_flood_of_what_is_refused_is_counted_and_does_not_fill_the_log() {
    const FLOOD: usize = 60;
    let machine = Machine::start("", "[[access]]\nallow = []\n").await;
    for _ in 0..FLOOD / 12 {
        join_all((0..12).map(|_| machine.say(DEV, "scm-agent/1 reload\n\n"))).await;
    }
    machine.say(CI, "scm-agent/1 reload\n\n").await;
    machine.daemon.signal(Signal::TERM);
    machine.daemon.until_logged("stopped").await;
    let log = machine.daemon.log();
    let of_dev = |line: &&&str| line.contains(&format!(" uid={DEV} "));
    let lines = denials(&log);
    let more =
        |line: &&str| line.split(" more=").nth(1).map_or(1, |rest| rest.split_whitespace().next().unwrap().parse::<usize>().unwrap());
    assert_eq!(lines.iter().filter(of_dev).map(more).sum::<usize>(), FLOOD, "{log}");
    // Who refuses slowly writes more: every ten seconds twenty lines and one.
    assert!(lines.iter().filter(of_dev).count() < FLOOD && lines.iter().any(|line| line.contains("refused more of the same")), "{log}");
    assert_eq!(lines.iter().filter(|line| line.contains(&format!(" uid={CI} "))).count(), 1, "{log}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn who_asks_too_much_waits_and_only_a_crowd_is_refused_each_time_with_a_line() {
    let machine = Machine::start("max_requests_per_second = 1\nmax_request_burst = 1\nmax_connections_per_user = 40", "").await;
    let Machine { daemon, scene, .. } = &machine;
    // git's helper has the patience: none of these fails, though only one is served at once.
    let get = "protocol=https\nhost=one.example.com\n\n";
    let printed = join_all((0..3).map(|_| ask_as(scene, daemon, DEV, &[], "get", get))).await;
    assert!(printed.iter().all(|printed| printed.contains("password=")), "{printed:?}");
    let answers = join_all((0..24).map(|_| machine.say(CI, "scm-agent/1 ping\n\n"))).await;
    let refused = answers.iter().filter(|answer| answer.contains("error=too many requests")).count();
    assert!(refused > 0 && answers.iter().any(|answer| answer.contains("\"pid\"")), "{answers:?}");
    // Root is not held to it.
    let answers = join_all((0..12).map(|_| machine.say(0, "scm-agent/1 ping\n\n"))).await;
    assert!(answers.iter().all(|answer| answer.contains("\"pid\"")), "{answers:?}");

    machine.daemon.signal(Signal::TERM);
    machine.daemon.until_logged("stopped").await;
    let log = machine.daemon.log();
    let limited = denials(&log).into_iter().filter(|line| line.contains(" kind=\"rate\" ") && line.contains(&format!(" uid={CI} ")));
    let counted = limited.map(|line| line.split(" more=").nth(1).map_or(1, |rest| rest.trim().parse::<usize>().unwrap())).sum::<usize>();
    assert_eq!(counted, refused, "{log}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_connection_for_which_there_is_no_place_is_one_line() {
    let machine = Machine::start("max_connections_per_user = 4", "").await;
    let held = [(); 4].map(|()| Connector::new(&machine.program, &machine.daemon, DEV, None));
    let answer = machine.say(DEV, "").await;
    assert!(answer.contains("error=too many connections"), "{answer}");
    drop(held);
    let log = machine.end().await;
    let lines = denials(&log);
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(" kind=\"busy\" ") && lines[0].contains(&format!(" uid={DEV} ")), "{log}");
}
