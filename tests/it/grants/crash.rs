//! A daemon that is killed at every step of a renewal, at a host that kills the old pair at once.
//!
//! Where a kill hit is told from what it left: the files of the state directory, and what the host was asked. Each round is played
//! until its step was hit often enough.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::process::{Pid, Signal, kill_process};
use scm_agent::key::{self, KeyRing};
use scm_agent::state::{StateDir, StateKeys};
use scm_agent::store::{FileStore, GrantState, GrantStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::host::Hold;
use super::{GET, Stage, grant};
use crate::support::daemon::{Daemon, PATIENCE};

/// How often each step is hit; random instants are ten times as many. `tests/run` asks for 20 (`SCM_AGENT_TEST_KILLS`).
fn times() -> usize {
    std::env::var("SCM_AGENT_TEST_KILLS").map_or(2, |count| count.parse().expect("SCM_AGENT_TEST_KILLS is a number"))
}

/// How far a renewal got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The intent is not on disk.
    Begun,
    /// The intent is, and the host was not asked.
    Intended,
    /// The host was asked, and has not renewed.
    Asked,
    /// The host has renewed, and its reply is withheld.
    Renewed,
    /// The host has replied, and the new pair is not on disk.
    Replied,
    /// The new pair is on disk.
    Kept,
}

/// What a host has seen.
#[derive(Clone, Copy)]
struct Seen {
    asked: usize,
    renewed: usize,
    replied: usize,
    replays: usize,
}

impl Stage {
    fn seen(&self) -> Seen {
        let host = &self.host;
        Seen { asked: host.refreshes_asked(), renewed: host.rotations(), replied: host.replied(), replays: host.replays() }
    }

    /// Opens a copy of what a daemon left, which must be whole; how far it had got.
    fn left(&self, before: Seen) -> Step {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.scene.world.path("state")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let config = key::Config { files: vec![self.scene.world.path("runner.pem")], ..key::Config::default() };
        let keys = StateKeys::new(KeyRing::load(&config).unwrap().state_keys());
        let store = FileStore::open(&StateDir::open(copy.path()).unwrap(), keys).unwrap();
        assert_eq!(store.problems(), Vec::<String>::new());
        let [summary] = store.list().unwrap().try_into().unwrap();
        let record = store.load(&summary.key).unwrap().unwrap();
        let now = self.seen();
        match record.state {
            _ if now.renewed > before.renewed && record.refresh_token.unwrap().expose_secret() == self.host.newest_refresh() => Step::Kept,
            _ if now.replied > before.replied => Step::Replied,
            _ if now.renewed > before.renewed => Step::Renewed,
            _ if now.asked > before.asked => Step::Asked,
            GrantState::Refreshing { .. } => Step::Intended,
            _ => Step::Begun,
        }
    }
}

/// Watches the state directory, and kills when something there is what was waited for.
struct Killer(std::thread::JoinHandle<()>, Arc<AtomicBool>);

impl Killer {
    /// `when` is told each name with what was done to it: what begins to be written, and what was.
    fn arm(stage: &Stage, daemon: &Daemon, mut when: impl FnMut(&str, ReadFlags) -> bool + Send + 'static) -> Self {
        let events: OwnedFd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let watched = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, stage.scene.world.path("state"), watched).unwrap();
        let (pid, is_over) = (Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap(), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&is_over);
        let kills = move || {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(&events, &mut buffer);
            while !over.load(Ordering::Relaxed) {
                let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                if poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&pause)) == Ok(0) {
                    continue;
                }
                let Ok(event) = reader.next() else { continue };
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if when(&name, event.events()) {
                    kill_process(pid, Signal::KILL).unwrap();
                    return;
                }
            }
        };
        Self(std::thread::spawn(kills), is_over)
    }

    /// Until it has killed, or for as long as a renewal can take.
    async fn wait(self) {
        let begun = Instant::now();
        while !self.0.is_finished() && begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.1.store(true, Ordering::Relaxed);
        self.0.join().unwrap();
    }
}

/// Asks for a token that has to be renewed first, and does not care for the answer.
fn ask_away(daemon: &Daemon) -> tokio::task::JoinHandle<()> {
    let socket = daemon.socket().to_owned();
    tokio::spawn(async move {
        let Ok(mut stream) = UnixStream::connect(socket).await else { return };
        let _ = stream.write_all(GET.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
}

/// Kills the daemon in a renewal, about at a step.
async fn kill_about(stage: &Stage, daemon: Daemon, step: Step, attempt: usize) {
    let before = stage.seen();
    let random = usize::try_from(RandomState::new().hash_one(attempt) % 8).unwrap();
    // The head is written once to see whether there is room, once with the intent and once with the new pair, each time after the
    // database.
    let begins = |name: &str, done: ReadFlags| name == ".grants-head.partial" && done.contains(ReadFlags::CREATE);
    let (replied, probe) = (before.replied, stage.host.probe());
    let mut count = 0;
    let killer = match step {
        Step::Begun => Some(Killer::arm(stage, &daemon, move |_, _| {
            count += 1;
            count > random
        })),
        Step::Intended | Step::Kept => Some(Killer::arm(stage, &daemon, move |name, done| {
            count += usize::from(begins(name, done));
            count == if step == Step::Kept { 3 } else { 2 }
        })),
        Step::Replied => Some(Killer::arm(stage, &daemon, move |name, _| {
            count += usize::from(name == "grants.redb" && probe() > replied);
            count > random % 2
        })),
        Step::Asked | Step::Renewed => None,
    };
    stage.host.hold(match step {
        Step::Asked => Hold::Before,
        Step::Renewed => Hold::After,
        _ => Hold::Nowhere,
    });
    let asking = ask_away(&daemon);
    match killer {
        Some(killer) => killer.wait().await,
        None => {
            let reached = || if step == Step::Asked { stage.seen().asked > before.asked } else { stage.seen().renewed > before.renewed };
            let waited = tokio::time::timeout(PATIENCE, async {
                while !reached() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            waited.await.unwrap();
        }
    }
    daemon.final_log().await;
    asking.await.unwrap();
}

/// What was hit, after the restarted daemon did what it has to: no more than was lost is lost, and it is said.
async fn restart(stage: &Stage, before: Seen) -> (Daemon, Step) {
    // What the daemon had asked for when it died is never done: its connection is gone.
    stage.host.forget_held();
    let step = stage.left(before);
    let asked = stage.seen().asked;
    let daemon = stage.start().await;
    let told = stage.get(&daemon).await;
    let now = stage.seen();
    assert!(now.replays - before.replays <= 1, "{step:?}");
    assert_eq!(daemon.status().await["degraded"], serde_json::json!([]), "{step:?}\n{}", daemon.log());
    match step {
        Step::Renewed | Step::Replied => {
            for _ in 0..2 {
                let told = stage.token(&daemon).await.unwrap_err();
                assert!(told.contains("the answer to its last renewal was lost") && told.contains("scm-agent login"), "{step:?}: {told}");
            }
            assert_eq!(grant(&daemon.status().await)["state"], "needs_login");
            assert_eq!((stage.seen().asked, stage.seen().replays), (asked + 1, before.replays + 1), "{step:?}");
            stage.sign_in_with_browser(&daemon).await;
        }
        _ => {
            let token = told.unwrap_or_else(|told| panic!("{step:?}: {told}\n{}", daemon.log()));
            assert!(stage.host.lives(&token), "{step:?}");
            assert_eq!((now.renewed, now.replays), (before.renewed + 1, before.replays), "{step:?}");
            assert_eq!(now.asked, asked + usize::from(step != Step::Kept), "{step:?}");
        }
    }
    (daemon, step)
}

/// A daemon whose token is dead, so that the next request renews the grant.
async fn due(stage: &Stage, daemon: &Daemon) {
    let token = stage.get(daemon).await.unwrap();
    stage.erase(daemon, &token).await;
}

async fn kill_at(step: Step) {
    let stage = Stage::new().await;
    let mut daemon = stage.start().await;
    stage.sign_in_with_browser(&daemon).await;
    let mut hits: BTreeMap<Step, usize> = BTreeMap::new();
    for attempt in 0..5 * times() {
        if hits.get(&step).is_some_and(|count| *count == times()) {
            break;
        }
        due(&stage, &daemon).await;
        let before = stage.seen();
        kill_about(&stage, daemon, step, attempt).await;
        let (next, hit) = restart(&stage, before).await;
        daemon = next;
        *hits.entry(hit).or_default() += 1;
    }
    assert_eq!(hits.get(&step), Some(&times()), "{hits:?}");
}

#[tokio::test]
async fn killed_before_the_intent_is_on_disk_nothing_is_lost() {
    kill_at(Step::Begun).await;
}

#[tokio::test]
async fn killed_between_the_intent_and_the_request_nothing_is_lost() {
    kill_at(Step::Intended).await;
}

#[tokio::test]
async fn killed_before_the_host_has_renewed_nothing_is_lost() {
    kill_at(Step::Asked).await;
}

#[tokio::test]
async fn killed_after_the_host_has_renewed_there_is_one_replay_and_then_the_user_is_asked() {
    kill_at(Step::Renewed).await;
}

#[tokio::test]
async fn killed_while_the_new_pair_is_written_there_is_one_replay_at_most_and_then_the_user_is_asked() {
    kill_at(Step::Replied).await;
}

#[tokio::test]
async fn killed_when_the_new_pair_is_on_disk_it_serves_and_the_host_is_not_asked() {
    kill_at(Step::Kept).await;
}

#[tokio::test]
async fn killed_at_any_instant_a_grant_is_lost_only_if_the_host_had_renewed_and_the_pair_was_not_here() {
    let stage = Stage::new().await;
    let mut daemon = stage.start().await;
    stage.sign_in_with_browser(&daemon).await;
    // As far away as a host in the same building, or nothing would be hit while it works.
    stage.host.set_latency(Duration::from_millis(10));
    due(&stage, &daemon).await;
    let begun = Instant::now();
    stage.get(&daemon).await.unwrap();
    let mut span = begun.elapsed();
    let mut hits: BTreeMap<Step, usize> = BTreeMap::new();
    for round in 0..10 * times() {
        due(&stage, &daemon).await;
        let before = stage.seen();
        let asking = ask_away(&daemon);
        let part = u32::try_from(RandomState::new().hash_one(round) % 1000).unwrap();
        tokio::time::sleep(span / 1000 * part).await;
        daemon.final_log().await;
        asking.await.unwrap();
        let (next, hit) = restart(&stage, before).await;
        daemon = next;
        *hits.entry(hit).or_default() += 1;
        // The machine is not always as fast: most kills are to be in the middle.
        span = if hit == Step::Kept {
            span * 9 / 10
        } else if hit == Step::Begun {
            span * 21 / 20
        } else {
            span
        };
    }
    assert!(hits.len() > 2, "too early or too late to hit much: {hits:?}");
}
