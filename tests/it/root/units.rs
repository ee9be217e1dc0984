//! Access by systemd unit, with real cgroups; and connections that are handed to others, or outlive who made them.
//!
//! A directory below the root of the hierarchy whose name ends with `.service` is to the agent a unit of the system's.

use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::access::{CI, DEV, GROUP, config, scene};
use super::peers::{copy_of_this_program, copy_program};
use crate::support::daemon::{Daemon, run};
use crate::support::scene::Scene;

/// A cgroup of its own, which is to the agent a unit.
pub(super) struct Unit {
    directory: PathBuf,
    name: String,
}

impl Unit {
    fn new(kind: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let root =
            roots.into_iter().find(|root| root.join("cgroup.controllers").exists()).expect("there is no cgroup hierarchy of version 2");
        let name = format!("{kind}-{}-{}.service", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = root.join(&name);
        fs::create_dir(&directory).unwrap();
        Self { directory, name }
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Ends it, as systemd does once nothing runs in it.
    fn end(&self) {
        for _ in 0..500 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("something still runs in {}", self.name);
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

const GET: &str = "scm-agent/1 get\nprotocol=https\nhost=one.example.com\n\n";
const STATUS: &str = "scm-agent/1 ping\n\n";

/// A process of a user's that has connected and handed the connection over.
pub(super) struct Connector {
    child: Child,
    control: UnixStream,
    connection: OwnedFd,
}

impl Connector {
    pub(super) fn new(program: &Path, daemon: &Daemon, uid: u32, unit: Option<&Unit>) -> Self {
        let (mut control, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(program);
        command.args(["--ignored", "--exact", "--nocapture", "child::connects_and_hands_it_over"]).env("SOCKET", daemon.socket());
        command.uid(uid).gid(GROUP).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        if let Some(unit) = unit {
            unit.take_in(child.id());
        }
        control.write_all(b"x").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(control.as_fd(), &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let connection = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
            _ => None,
        });
        Self { child, control, connection: connection.unwrap() }
    }

    /// A process of a user's that writes a request to the connection and prints the answer.
    fn hand_to(&self, uid: u32, request: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "printf %s \"$0\" >&0; exec timeout 20 head -c 4096", request]).uid(uid).gid(GROUP).current_dir("/");
        command.stdin(Stdio::from(self.connection.try_clone().unwrap())).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Ends the process that connected and has it waited for, so that its number is free.
    fn end(&mut self) -> u32 {
        self.control.shutdown(std::net::Shutdown::Both).unwrap();
        let pid = self.child.id();
        self.child.wait().unwrap();
        pid
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process prints; the connection's other holders are done with it.
fn printed(connector: Connector, mut command: Command) -> String {
    let child = command.spawn().unwrap();
    drop(command);
    printed_by(connector, child)
}

fn printed_by(connector: Connector, child: Child) -> String {
    // The answer ends with the connection, which the agent ends once nobody says anything more.
    let output = child.wait_with_output().unwrap();
    drop(connector);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the helper as a user, in a unit; what it prints of a token, or on standard error.
async fn ask_in(scene: &Scene, daemon: &Daemon, uid: u32, unit: Option<&Unit>, host: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new("sh");
    let enter = unit.map_or_else(|| "/dev/null".into(), |unit| unit.directory.join("cgroup.procs"));
    let script = "echo $$ > \"$0\"; exec setpriv \"$@\"";
    command.args(["-c", script]).arg(enter).args([format!("--reuid={uid}"), format!("--regid={GROUP}"), "--clear-groups".to_owned()]);
    command.arg(scene.world.path("helper")).arg("--socket").arg(daemon.socket()).arg("get").current_dir("/");
    let output = run(command, &format!("protocol=https\nhost={host}\n\n")).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let token = text.lines().find_map(|line| line.strip_prefix("password=")).map(str::to_owned);
    token.ok_or_else(|| String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_rule_about_a_unit_is_for_its_processes_of_whatever_user_and_for_nobody_else() {
    let scene = scene().await;
    let (job, other) = (Unit::new("job"), Unit::new("other"));
    let below = job.directory.join("payload");
    let rules = "[[access]]\nunits = [\"job-*.service\"]\nhosts = [\"one.example.com\"]\nallow = [\"service\"]\n";
    let daemon = scene.world.start(&config(&scene, rules)).await;
    daemon.until_synced().await;
    // The refused come first.
    assert!(ask_in(&scene, &daemon, CI, None, "one.example.com").await.is_err());
    assert!(ask_in(&scene, &daemon, CI, Some(&other), "one.example.com").await.is_err());
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "two.example.com").await.is_err());
    assert_eq!(scene.issuer.token_requests(), 0);
    for uid in [CI, DEV, 0] {
        assert!(ask_in(&scene, &daemon, uid, Some(&job), "one.example.com").await.is_ok(), "{}", daemon.log());
    }
    fs::create_dir(&below).unwrap();
    let payload = Unit { directory: below, name: "payload".to_owned() };
    assert!(ask_in(&scene, &daemon, DEV, Some(&payload), "one.example.com").await.is_ok());
    // A unit inside another is that other one.
    let inner = Unit { directory: other.directory.join("job-1.service"), name: "job-1.service".to_owned() };
    fs::create_dir(&inner.directory).unwrap();
    assert!(ask_in(&scene, &daemon, DEV, Some(&inner), "one.example.com").await.is_err());
    let log = daemon.final_log().await;
    let refusals: Vec<&str> = log.lines().filter(|line| line.contains("refused: access rules")).collect();
    assert_eq!(refusals.len(), 4, "{log}");
    assert!(
        refusals[1].contains(&format!("unit=\"{}\"", other.name)) && refusals[3].contains(&format!("unit=\"{}\"", other.name)),
        "{log}"
    );
    drop(payload);
    drop(inner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_connection_is_of_no_use_to_another_user_and_gives_what_a_unit_has_to_no_other_process() {
    let scene = scene().await;
    let job = Unit::new("job");
    let rules = format!(
        "[[access]]\nunits = [\"{}\"]\nallow = [\"service\"]\n[[access]]\nusers = [\"{CI}\"]\nhosts = [\"two.example.com\"]\n\
         allow = [\"service\"]\n",
        job.name
    );
    let daemon = scene.world.start(&config(&scene, &rules)).await;
    daemon.until_synced().await;
    let program = copy_of_this_program(&scene.world);
    let connect = |uid, unit| Connector::new(&program, &daemon, uid, unit);
    let other_host = GET.replace("one.", "two.");

    // Another user, root included, is not even told whether the daemon is well.
    for uid in [DEV, 0] {
        for request in [GET, STATUS] {
            let connector = connect(CI, Some(&job));
            let command = connector.hand_to(uid, request);
            let said = printed(connector, command);
            assert!(said.contains("error=the request was written by another user than the one who connected"), "{uid} {said}");
        }
    }
    // The same user outside the unit has what is the user's, and nothing of the unit's: while the process that connected lives ...
    let ask = |connector: Connector, request: &str| {
        let command = connector.hand_to(CI, request);
        printed(connector, command)
    };
    assert!(ask(connect(CI, Some(&job)), GET).contains("do not give you a token"));
    // ... and when it has ended and left the connection to others.
    let mut connector = connect(CI, Some(&job));
    connector.end();
    assert!(ask(connector, GET).contains("do not give you a token"));
    assert_eq!(scene.issuer.token_requests(), 0);
    assert!(ask(connect(CI, Some(&job)), &other_host).contains("password="), "{}", daemon.log());
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "one.example.com").await.is_ok());
    let log = daemon.final_log().await;
    let reasons: Vec<&str> = log.lines().filter(|line| line.contains("refused: access rules")).collect();
    assert_eq!(reasons.len(), 2, "{log}");
    assert!(reasons.iter().all(|line| line.contains("another process than the one that connected wrote the request")), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("kind=\"other_writer\"")).count(), 4, "{log}");
}

/// A process with a certain number that does what the command says, in a unit from the start. Numbers are given out one after the
/// other, so it is tried until nobody else came in between.
fn spawn_as_number(pid: u32, unit: &Unit, mut command: impl FnMut() -> Command) -> Child {
    for _ in 0..2_000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        // It waits in a pipe of its own until it is where it belongs.
        let mut child = command().spawn().unwrap();
        if child.id() == pid {
            unit.take_in(pid);
            return child;
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("number {pid} was never free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_process_with_the_number_of_the_one_that_connected_is_not_taken_for_it() {
    let scene = scene().await;
    let job = Unit::new("job");
    let daemon = scene.world.start(&config(&scene, "[[access]]\nunits = [\"job-*.service\"]\nallow = [\"service\"]\n")).await;
    daemon.until_synced().await;
    let program = copy_of_this_program(&scene.world);
    // Who connects is in no unit, and who has its number after it is in the one that may.
    let mut connector = Connector::new(&program, &daemon, CI, None);
    let pid = connector.end();
    let fifo = scene.world.path("go");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::set_permissions(&fifo, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let child = spawn_as_number(pid, &job, || {
        let mut command = connector.hand_to(CI, GET);
        let script = "read -r go < \"$1\"; printf %s \"$0\" >&0; exec timeout 20 head -c 4096";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, GET]).arg(&fifo).uid(CI).gid(GROUP).current_dir("/");
        shell.stdin(Stdio::from(connector.connection.try_clone().unwrap())).stdout(Stdio::piped()).stderr(Stdio::null());
        command.stdin(Stdio::null());
        shell
    });
    fs::write(&fifo, "go\n").unwrap();
    // sh's printf is its own: the writer has that number.
    let said = printed_by(connector, child);
    assert!(said.contains("do not give you a token"), "{said}\n{}", daemon.log());
    assert_eq!(scene.issuer.token_requests(), 0);
    let log = daemon.final_log().await;
    let refusals: Vec<&str> = log.lines().filter(|line| line.contains("refused: access rules")).collect();
    assert_eq!(refusals.len(), 1, "{log}");
    assert!(refusals[0].contains("the process that connected has ended") && refusals[0].contains(&format!(" pid={pid} ")), "{log}");
}

/// `scm-agent grant` as a user: its exit code and all that it printed.
async fn grant_as(scene: &Scene, daemon: &Daemon, uid: u32, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={GROUP}"), "--clear-groups".to_owned()]);
    command.arg(scene.world.path("agent")).arg("grant").args(arguments).current_dir("/");
    command.env("SCM_AGENT__AGENT__SOCKET", daemon.socket()).env_remove("SCM_AGENT_CONFIG");
    let output = run(command, "").await;
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_unit_that_was_given_a_host_has_it_until_it_ends_or_it_is_taken_back() {
    let scene = scene().await;
    let agent = scene.world.path("agent");
    copy_program(&scene.world.binaries.agent, &agent);
    fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (job, other) = (Unit::new("job"), Unit::new("other"));
    let daemon = scene.world.start(&config(&scene, "[[access]]\nallow = []\n")).await;
    daemon.until_synced().await;
    let give = ["--unit", &job.name, "--host", "one.example.com", "--ttl", "10m"];

    let (code, said) = grant_as(&scene, &daemon, CI, &give).await;
    assert!(code == Some(1) && said.contains("only root and the agent's own user may say what units are given"), "{said}");
    let (code, said) = grant_as(&scene, &daemon, CI, &["--list"]).await;
    assert!(code == Some(1) && said.contains("only root"), "{said}");
    let (code, said) = grant_as(&scene, &daemon, 0, &["--unit", "no-such.service", "--host", "one.example.com"]).await;
    assert!(code == Some(1) && said.contains("the unit no-such.service does not run"), "{said}");
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "one.example.com").await.is_err());

    let (code, said) = grant_as(&scene, &daemon, 0, &give).await;
    assert!(code == Some(0) && said.contains(&format!("{} has service of one.example.com until it ends", job.name)), "{said}");
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "one.example.com").await.is_ok(), "{}", daemon.log());
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "two.example.com").await.is_err());
    assert!(ask_in(&scene, &daemon, CI, Some(&other), "one.example.com").await.is_err());
    assert!(ask_in(&scene, &daemon, CI, None, "one.example.com").await.is_err());
    let (_, listed) = grant_as(&scene, &daemon, 0, &["--list", "--json"]).await;
    let grants: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&grants[0]["unit"], &grants[0]["host"]), (&job.name.as_str().into(), &"one.example.com".into()), "{listed}");
    let id = grants[0]["id"].as_str().unwrap();
    assert_eq!(daemon.status().await["unit_grants"], grants);

    assert_eq!(grant_as(&scene, &daemon, 0, &["--revoke", id]).await.0, Some(0));
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "one.example.com").await.is_err());
    assert_eq!(grant_as(&scene, &daemon, 0, &["--revoke", id]).await.0, Some(1));

    // Another run of the unit has nothing of it.
    assert_eq!(grant_as(&scene, &daemon, 0, &give).await.0, Some(0));
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "one.example.com").await.is_ok());
    job.end();
    fs::create_dir(&job.directory).unwrap();
    assert!(ask_in(&scene, &daemon, CI, Some(&job), "one.example.com").await.is_err());
    assert_eq!(grant_as(&scene, &daemon, 0, &["--list"]).await.1, "no unit has a grant\n");
    let log = daemon.final_log().await;
    let events = |name: &str| {
        log.lines().filter(|line| ["event", "kind"].iter().any(|field| line.contains(&format!(" {field}=\"{name}\" ")))).count()
    };
    let counts = ["unit_granted", "unit_grant_revoked", "unit_grant_ended", "not_privileged"].map(events);
    assert_eq!(counts, [2, 1, 1, 2], "{log}");
}
