//! How much memory hostile replies take in the daemon: every one of the table, through the real process.
//!
//! What is compared is the most that was ever resident (`VmHWM`) with what was resident after a good list: the mark never falls, so no
//! moment in between is missed, and no right to reset it is needed.

use std::sync::Arc;
use std::time::Duration;

use crate::api::RUNNER;
use crate::api::hostile::rows::{self, CANARY, Row};
use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::hostile::HostileServer;
use crate::support::world::World;

/// The most by which the mark may rise with a reply that came before, in KiB.
const MAX_CREEP: u64 = 2 * 1024;

/// The most that the process may grow by, in KiB.
const MAX_GROWTH: u64 = 16 * 1024;

/// A daemon that has had a good list from a server that is about to turn.
struct Scene {
    server: HostileServer,
    daemon: Daemon,
    /// What was resident after the good list, in KiB.
    before: u64,
    world: World,
}

impl Scene {
    async fn start() -> Self {
        let server = HostileServer::start().await;
        server.set(|_| rows::good_list());
        let world = World::with_key(crate::binaries(), "x25519");
        write_token(&world);
        let control_plane = format!(
            "url = \"{}\"\nrunner_id = \"{RUNNER}\"\ntoken_file = \"token\"\npoll_interval = \"1h\"\ntimeout = \"1s\"",
            server.url()
        );
        // The allocator keeps a share for each thread, so their number decides what a second and a third reply may still add.
        let mut command = world.daemon_command();
        command.env("TOKIO_WORKER_THREADS", "2");
        let config = world.config_with(&control_plane, "request_timeout = \"5m\"");
        let daemon = Daemon::start(command, &config, &world.socket()).await;
        daemon.until_synced().await;
        let before = memory(&daemon, "VmRSS");
        Self { server, daemon, before, world }
    }

    /// Has the daemon fetch a row once; how far the mark is above the beginning, in KiB.
    async fn fetch(&self, row: &Row) -> u64 {
        let script = Arc::clone(&row.script);
        self.server.set(move |number| script(number));
        // Who asks so often is put off, but a token that looks new is tried at once.
        write_token(&self.world);
        let asked = tokio::time::timeout(PATIENCE, async {
            while self.server.requests() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(asked.await.is_ok(), "{}: not asked", row.name);
        // Answered after the attempt that goes on, or after another one.
        let asking = self.daemon.ask("scm-agent/1 sync\n\n");
        let answer = tokio::time::timeout(PATIENCE - Duration::from_secs(5), asking).await;
        assert!(answer.is_ok_and(|answer| answer.starts_with('{')), "{}: no answer", row.name);
        memory(&self.daemon, "VmHWM").saturating_sub(self.before)
    }
}

/// Puts the token's file in the place of the one before.
fn write_token(world: &World) {
    let new = world.path("new-token");
    std::fs::write(&new, "a-token").unwrap();
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(new, world.path("token")).unwrap();
}

/// A line of the process's status, in KiB.
fn memory(daemon: &Daemon, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How many daemons share the table: a daemon looks at its token every other second.
const DAEMONS: usize = 24;

/// Runs rows through one daemon, each as often as told; how far the mark got with each.
async fn run(rows: Vec<Row>, times: usize) -> Vec<(String, u64)> {
    let scene = Scene::start().await;
    let mut marks = Vec::new();
    for row in rows {
        for _ in 0..times {
            marks.push((row.name.clone(), scene.fetch(&row).await));
        }
    }
    let log = scene.daemon.final_log().await;
    assert!(!log.contains("internal error") && !log.contains(CANARY), "{log:.2000}");
    marks
}

/// Runs each of the groups through a daemon of its own, all at the same time.
async fn run_all(groups: Vec<Vec<Row>>, times: usize) -> Vec<Vec<(String, u64)>> {
    let running: Vec<_> = groups.into_iter().map(|rows| tokio::spawn(run(rows, times))).collect();
    futures_util::future::join_all(running).await.into_iter().map(Result::unwrap).collect()
}

/// The first step beyond the limit in each group, where there is one.
fn beyond_limit(groups: &[Vec<(String, u64)>]) -> Vec<&(String, u64)> {
    groups.iter().filter_map(|marks| marks.iter().find(|(_, growth)| *growth >= MAX_GROWTH)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_reply_makes_the_daemon_grow_by_sixteen_mebibytes() {
    let mut groups = vec![Vec::new(); DAEMONS];
    for (number, row) in rows::all().into_iter().enumerate() {
        groups[number % DAEMONS].push(row);
    }
    let marks = run_all(groups, 1).await;
    assert!(beyond_limit(&marks).is_empty(), "{:?}", beyond_limit(&marks));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_however_costly_does_either_when_it_comes_again_and_again() {
    // The same list comes while it is in use, so that there are two of it.
    let marks = run_all(rows::costly_lists().into_iter().map(|row| vec![row]).collect(), 3).await;
    assert!(beyond_limit(&marks).is_empty(), "{:?}", beyond_limit(&marks));
}

/// Runs the longest replies again and again, each in a daemon of its own; checks that the mark stands still after a warm-up.
async fn assert_no_creep(times: usize) {
    let rows = rows::legal_sizes()
        .into_iter()
        .filter(|row| ["open lists in an entry", "nested lists", "blanks in small chunks"].contains(&row.name.as_str()));
    let marks = run_all(rows.map(|row| vec![row]).collect(), times).await;
    assert_eq!(marks.len(), 3);
    for group in marks {
        let (warm, last) = (&group[times / 2], &group[times - 1]);
        assert!(last.1 < warm.1 + MAX_CREEP, "{warm:?} {last:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_hostile_reply_again_and_again_does_not_add_up() {
    assert_no_creep(8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: a daemon asks no more than once a second"]
async fn the_same_hostile_reply_a_hundred_times_does_not_add_up() {
    assert_no_creep(100).await;
}
