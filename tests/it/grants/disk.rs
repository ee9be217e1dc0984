//! A disk that takes nothing for a while: grants serve on, no renewal is begun that could not be kept unless there is nothing to lose,
//! and what came meanwhile is kept once the disk takes it.

use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use scm_agent::store::StoreErrorKind;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::bench::{Bench, look};
use super::{GET, Stage};
use crate::support::daemon::Daemon;

#[tokio::test]
async fn while_nothing_can_be_kept_only_a_token_that_is_over_is_renewed_and_what_came_is_kept_later() {
    for kind in [StoreErrorKind::Full, StoreErrorKind::ReadOnly, StoreErrorKind::Other] {
        let bench = Bench::new().await;
        let running = bench.start().await;
        bench.sign_in(&running).await;
        let begun = SystemTime::now();
        assert_eq!((bench.serve(&running).await.as_str(), running.degraded().len()), ("access_1", 0));
        *bench.store.refuses.lock().unwrap() = Some(kind);

        // Due, and nothing is asked for: the old pair is the one on disk.
        bench.clock.set(begun + Duration::from_secs(6_000));
        assert_eq!(bench.serve(&running).await, "access_1");
        assert_eq!(bench.host.refreshes_asked(), 0);
        let degraded = running.degraded();
        assert!(degraded.iter().any(|line| line == &format!("sign-ins cannot be kept: the test's disk is {kind:?}")), "{degraded:?}");

        // Over: there is nothing to lose. Once, and again only when that one is over too.
        for (renewals, hours) in [(1, 3), (2, 6)] {
            bench.clock.set(begun + Duration::from_secs(hours * 3_600));
            assert_eq!(bench.serve(&running).await, format!("access_{}", renewals + 1));
            assert_eq!((bench.host.refreshes_asked(), bench.host.replays()), (renewals, 0));
        }
        assert_ne!(bench.store.only().0, bench.host.newest_refresh());
        assert!(!running.degraded().is_empty());

        *bench.store.refuses.lock().unwrap() = None;
        look().await;
        assert_eq!(bench.store.only(), (bench.host.newest_refresh(), false));
        assert_eq!(running.degraded(), Vec::<String>::new());
        drop(running);
        assert_eq!(bench.serve(&bench.start().await).await, "access_3");
        assert_eq!((bench.host.refreshes_asked(), bench.host.replays()), (2, 0));
    }
}

/// The daemon's program, for which no room is not the end.
fn command(stage: &Stage, before: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' XFSZ; {before}exec \"$@\""), "sh"]).arg(&stage.scene.world.binaries.agent);
    command.current_dir(stage.scene.world.directory());
    command
}

/// Whether files may have any size, or no write works as on a full disk.
fn has_room(daemon: &Daemon, room: bool) {
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: (!room).then_some(0), maximum: None }).unwrap();
}

/// What the status says of the store.
pub async fn trouble(daemon: &Daemon) -> Option<String> {
    let status = daemon.status().await;
    let lines: Vec<&str> = status["degraded"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
    lines.into_iter().find(|line| line.contains("sign-ins")).map(str::to_owned)
}

/// Has the token taken for dead, and asks many times at once for another one.
pub async fn renew(stage: &Stage, daemon: &Daemon) -> String {
    let dead = stage.get(daemon).await.unwrap();
    let asked = stage.host.refreshes_asked();
    stage.erase(daemon, &dead).await;
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let socket = daemon.socket().to_owned();
        asking.spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            stream.write_all(GET.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("password="), "{answer}");
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    assert_eq!(stage.host.refreshes_asked(), asked + 1);
    stage.get(daemon).await.unwrap()
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_costs_no_grant() {
    let stage = Stage::new().await;
    let daemon = stage.start_by(command(&stage, "")).await;
    stage.sign_in_with_browser(&daemon).await;
    assert_eq!(renew(&stage, &daemon).await, "access_2");
    has_room(&daemon, false);
    assert_eq!(renew(&stage, &daemon).await, "access_3");
    let told = trouble(&daemon).await.unwrap();
    assert!(told.starts_with("sign-ins cannot be kept: cannot ") && told.contains("File too large"), "{told}");
    assert_eq!(renew(&stage, &daemon).await, "access_4");
    has_room(&daemon, true);
    assert_eq!(renew(&stage, &daemon).await, "access_5");
    assert_eq!(trouble(&daemon).await, None);
    assert!(!daemon.final_log().await.contains("panicked"));

    // A start on a full disk serves what is there.
    let daemon = stage.start_by(command(&stage, "ulimit -S -f 0; ")).await;
    assert_eq!(stage.get(&daemon).await.as_deref(), Ok("access_5"));
    let told = trouble(&daemon).await.unwrap();
    assert!(told.starts_with("sign-ins are read, and new ones are not kept: cannot "), "{told}");
    assert_eq!(renew(&stage, &daemon).await, "access_6");
    has_room(&daemon, true);
    assert_eq!(renew(&stage, &daemon).await, "access_7");
    assert_eq!(trouble(&daemon).await, None);
    assert!(!daemon.final_log().await.contains("panicked"));
    let daemon = stage.start().await;
    assert_eq!(stage.get(&daemon).await.as_deref(), Ok("access_7"));
    assert_eq!((stage.host.refreshes_asked(), stage.host.replays()), (6, 0));
}
