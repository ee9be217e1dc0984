//! A daemon that is killed while it renews a grant at a host that kills the old pair at once.

use crate::support::daemon::{Daemon, PATIENCE};

use super::host::Hold;
use super::{Stage, grant};

/// How often each step is hit.
const TIMES: usize = 20;

/// Begins a refresh that the host holds, and kills the daemon in it.
async fn kill_in_refresh(stage: &Stage, daemon: Daemon, hold: Hold) {
    let token = stage.token(&daemon).await.unwrap();
    stage.host.hold(hold);
    let before = stage.host.refreshes_asked();
    stage.erase(&daemon, &token).await;
    let asked = tokio::time::timeout(PATIENCE, async {
        // Who waits for the answer does not get one.
        tokio::select! {
            _ = stage.token(&daemon) => panic!("served"),
            () = async { while stage.host.refreshes_asked() == before || (hold == Hold::After && stage.host.lives(&token)) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            } } => {}
        }
    });
    asked.await.unwrap();
    daemon.final_log().await;
}

#[tokio::test]
async fn killed_before_the_host_has_renewed_nothing_is_lost() {
    let stage = Stage::new().await;
    let mut daemon = stage.start().await;
    stage.sign_in(&daemon, "").await;
    for round in 0..TIMES {
        kill_in_refresh(&stage, daemon, Hold::Before).await;
        // What the daemon had asked for when it died is never done: its connection is gone.
        stage.host.forget_held();
        daemon = stage.start().await;
        let token = stage.token(&daemon).await.unwrap_or_else(|told| panic!("round {round}: {told}\n{}", daemon.log()));
        assert!(stage.host.lives(&token));
        assert_eq!(stage.host.replays(), 0);
    }
}

#[tokio::test]
async fn killed_after_the_host_has_renewed_there_is_one_replay_and_then_the_user_is_asked() {
    let stage = Stage::new().await;
    let mut daemon = stage.start().await;
    for round in 0..TIMES {
        stage.sign_in(&daemon, "").await;
        kill_in_refresh(&stage, daemon, Hold::After).await;
        stage.host.hold(Hold::Nowhere);
        daemon = stage.start().await;
        for _ in 0..3 {
            let told = stage.token(&daemon).await.unwrap_err();
            assert!(told.contains("interrupted while it renewed it") && told.contains("scm-agent login"), "round {round}: {told}");
        }
        assert_eq!(grant(&daemon.status().await)["state"], "needs_login");
        assert_eq!(stage.host.replays(), round + 1);
    }
}
