//! The daemon under a service manager: what it tells it, and the socket that it takes over from it.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;

use crate::support::daemon::{Daemon, PATIENCE, git_with_helper, run};
use crate::support::git_host::{GitHost, create_repository};
use crate::support::scene::Scene;

/// Stands in for systemd: holds the socket on which git waits, and hears what the daemon says of itself.
struct FakeManager {
    listener: UnixListener,
    notifications: UnixDatagram,
    notify_path: std::path::PathBuf,
}

impl FakeManager {
    fn new(scene: &Scene) -> Self {
        let notify_path = scene.world.path("notify.sock");
        let notifications = UnixDatagram::bind(&notify_path).unwrap();
        notifications.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { listener: UnixListener::bind(scene.world.socket()).unwrap(), notifications, notify_path }
    }

    /// The daemon's program, which gets the socket as descriptor 3 and the process id that goes with it.
    fn activated(scene: &Scene, count: usize) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$@\"", "sh"]);
        command.arg(&scene.world.binaries.agent).args(["run", "--config"]).arg(scene.config("1s"));
        command.current_dir(scene.world.directory()).env_remove("ONA_API_KEY").env_remove("GITPOD_API_KEY");
        command.env("LISTEN_FDS", count.to_string());
        command
    }

    fn hand_over(&self) -> Stdio {
        Stdio::from(OwnedFd::from(self.listener.try_clone().unwrap()))
    }

    fn start(&self, scene: &Scene) -> Daemon {
        let mut command = Self::activated(scene, 1);
        command.env("NOTIFY_SOCKET", &self.notify_path);
        Daemon::spawn_with(command, &scene.world.socket(), self.hand_over())
    }

    /// Waits for a notification that has what is looked for.
    fn hear(&self, what: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.notifications.recv(&mut buffer).unwrap_or_else(|error| panic!("never heard {what}: {error}"));
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            assert!(!text.contains("MAINPID"), "{text}");
            if text.contains(what) {
                return text;
            }
        }
    }

    /// What has been said so far and nobody has heard.
    fn heard_meanwhile(&self) -> Vec<String> {
        self.notifications.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let heard = std::iter::from_fn(|| self.notifications.recv(&mut buffer).ok().map(|length| (length, buffer)))
            .map(|(length, buffer)| String::from_utf8(buffer[..length].to_vec()).unwrap())
            .collect();
        self.notifications.set_nonblocking(false).unwrap();
        heard
    }
}

/// A scene whose host has a repository, in which an integration answers for it.
async fn scene_with_host() -> (Scene, GitHost) {
    let scene = Scene::new(crate::binaries()).await;
    let root = scene.world.path("repositories");
    std::fs::create_dir(&root).unwrap();
    create_repository(&root, "project.git").await;
    let tokens = scene.issuer.tokens();
    let host = GitHost::start(&root, move |_, password| tokens.is_live(password)).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, &host.host())]);
    (scene, host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_hears_when_git_is_served_what_is_held_and_that_it_ends() {
    let (scene, _host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let daemon = manager.start(&scene);
    let ready = manager.hear("READY=1");
    // Not before the first list: then it would hold none.
    let line = ready.lines().find_map(|line| line.strip_prefix("STATUS=")).unwrap();
    assert!(line.starts_with("1 integration, 0 tokens, list ") && line.ends_with(" s old"), "{ready}");
    assert!(!ready.contains("WATCHDOG"), "nobody asked for it: {ready}");
    assert!(daemon.status().await["sync"]["last_success"].is_u64());
    assert!(daemon.terminate().await.success());
    assert!(manager.hear("STOPPING=1").contains("EXTEND_TIMEOUT_USEC=10000000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_in_the_line_that_the_manager_shows() {
    let (scene, _host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let _daemon = manager.start(&scene);
    manager.hear("READY=1");
    scene.use_token("another-token-0123456789");
    let line = manager.hear("degraded: ");
    assert!(line.starts_with("STATUS=1 integration") && !line.contains("another-token"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_begins_and_ends_for_the_manager_however_it_went() {
    let (scene, _host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let daemon = manager.start(&scene);
    manager.hear("READY=1");
    daemon.signal(Signal::HUP);
    assert!(manager.hear("RELOADING=1").contains("\nMONOTONIC_USEC="));
    assert!(!manager.hear("READY=1").contains("degraded"));
    std::fs::write(scene.world.path("config.toml"), "[nonsense]\n").unwrap();
    daemon.signal(Signal::HUP);
    manager.hear("RELOADING=1");
    assert!(manager.hear("READY=1").contains("degraded: the settings were not taken over"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_list_the_manager_waits_for_it_but_not_for_ever() {
    let (scene, _host) = scene_with_host().await;
    scene.use_token("another-token-0123456789");
    let manager = FakeManager::new(&scene);
    let daemon = manager.start(&scene);
    daemon.until(|status| status["sync"]["last_error"].is_string()).await;
    assert!(manager.hear("READY=1").contains("STATUS=0 integrations, 0 tokens, no list yet; degraded: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_hears_of_life_through_the_socket_only() {
    let (scene, _host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let mut command = scene.world.daemon_command();
    // A socket of its own, since another one is to be put in its place.
    command.env("NOTIFY_SOCKET", &manager.notify_path).env("WATCHDOG_USEC", "600000");
    std::fs::remove_file(scene.world.socket()).unwrap();
    let daemon = Daemon::start(command, &scene.config("1s"), &scene.world.socket()).await;
    manager.hear("READY=1");
    for _ in 0..3 {
        manager.hear("WATCHDOG=1");
    }
    // Something takes connections there and never answers: the process lives, its timers run, and git would hang all the same.
    let silent = scene.world.path("silent.sock");
    let _silent = UnixListener::bind(&silent).unwrap();
    std::fs::rename(&silent, scene.world.socket()).unwrap();
    daemon.until_logged("the agent's own socket does not answer").await;
    manager.heard_meanwhile();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let heard = manager.heard_meanwhile();
    assert!(!heard.iter().any(|news| news.contains("WATCHDOG")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_was_handed_over_stays_when_the_daemon_goes() {
    let (scene, host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let daemon = manager.start(&scene);
    manager.hear("READY=1");
    assert!(!scene.world.path("agent.sock.lock").exists(), "it is not the daemon's to guard");
    assert!(daemon.terminate().await.success());
    assert!(scene.world.socket().exists());
    // git waits for whoever comes next.
    let waiting = tokio::spawn({
        let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, &scene.world.socket());
        command.args(["ls-remote", &host.url("project.git")]);
        run(command, "")
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    let _daemon = manager.start(&scene);
    let output = waiting.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_clone_fails_while_the_daemon_is_killed_again_and_again() {
    const CLONES: usize = 24;
    const AT_ONCE: usize = 4;
    const KILLS: usize = 6;
    let (scene, host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let mut daemon = manager.start(&scene);
    manager.hear("READY=1");
    let (done, url) = (Arc::new(AtomicUsize::new(0)), host.url("project.git"));
    let mut clones = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let (done, url, directory) = (Arc::clone(&done), url.clone(), scene.world.directory().to_owned());
        let (helper, socket) = (scene.world.binaries.helper.clone(), scene.world.socket());
        clones.spawn(async move {
            for number in 0..CLONES / AT_ONCE {
                let mut command = git_with_helper(&directory, &helper, &socket);
                command.args(["clone", "--quiet", &url, &format!("clone-{worker}-{number}")]);
                let output = run(command, "").await;
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for kill in 1..=KILLS {
        let enough = kill * CLONES / (KILLS + 1);
        let waited = tokio::time::timeout(PATIENCE, async {
            while done.load(Ordering::SeqCst) < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap();
        daemon.signal(Signal::KILL);
        drop(daemon);
        daemon = manager.start(&scene);
    }
    while let Some(ended) = clones.join_next().await {
        ended.unwrap();
    }
    assert_eq!(done.load(Ordering::SeqCst), CLONES);
}

/// How a daemon ends that is handed something, and what it says.
async fn refused(mut command: Command, stdin: Stdio, socket: &Path) -> (ExitStatus, String) {
    command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(socket.exists(), "what others made is left alone");
    (output.status, String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn what_is_handed_over_and_cannot_be_served_on_is_refused_with_what_to_look_at() {
    let (scene, _host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let socket = scene.world.socket();
    let elsewhere = scene.world.path("elsewhere.sock");
    let others = || Stdio::from(OwnedFd::from(UnixListener::bind(&elsewhere).unwrap()));
    let stream = || Stdio::from(OwnedFd::from(std::os::unix::net::UnixStream::connect(&socket).unwrap()));
    let datagram = || Stdio::from(OwnedFd::from(UnixDatagram::unbound().unwrap()));
    for (count, stdin, said) in [
        (1, others(), "elsewhere.sock, and agent.socket says "),
        (1, stream(), "does not listen"),
        (1, datagram(), "is no Unix stream socket"),
        (1, Stdio::null(), "is no Unix stream socket"),
        (2, manager.hand_over(), "is one of 2"),
    ] {
        let (status, log) = refused(FakeManager::activated(&scene, count), stdin, &socket).await;
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(said) && log.contains("systemctl cat scm-agent.socket"), "{said}: {log}");
    }
}

#[tokio::test]
async fn a_socket_that_was_meant_for_another_process_is_not_taken() {
    let (scene, _host) = scene_with_host().await;
    for pid in ["1", "not a number"] {
        let mut command = scene.world.daemon_command();
        command.env("LISTEN_PID", pid).env("LISTEN_FDS", "1");
        let daemon = Daemon::start(command, &scene.config("1s"), &scene.world.socket()).await;
        daemon.until_synced().await;
        assert!(daemon.terminate().await.success());
        assert!(!scene.world.socket().exists(), "it was bound here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_whose_file_is_gone_is_said_to_be() {
    let (scene, _host) = scene_with_host().await;
    let manager = FakeManager::new(&scene);
    let daemon = manager.start(&scene);
    manager.hear("READY=1");
    std::fs::remove_file(scene.world.socket()).unwrap();
    daemon.until_logged("the socket's file is gone and cannot be made again").await;
    assert!(!scene.world.socket().exists(), "only who made it can make it again");
    assert!(manager.hear("degraded: the file of the socket").contains("is gone"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_before_anybody_served_is_answered() {
    use std::io::{Read, Write};
    let scene = Scene::new(crate::binaries()).await;
    let manager = FakeManager::new(&scene);
    // The listener has no SO_PASSCRED yet, and on some kernels connections are as the listener was when they were made.
    let mut early = std::os::unix::net::UnixStream::connect(scene.world.socket()).unwrap();
    early.write_all(b"scm-agent/1 ping\n\n").unwrap();
    early.shutdown(std::net::Shutdown::Write).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    let daemon = manager.start(&scene);
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"pid\":"), "{answer}\n{}", daemon.log());
}
