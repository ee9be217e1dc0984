//! A disk that takes nothing for a while: a token serves from memory, is kept once the disk takes it, and what was forgotten stays so.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::process::Command;

use super::{Desk, pair};
use crate::grants::disk::trouble;
use crate::support::daemon::Daemon;

/// Starts the daemon so that no room is not the end of it.
async fn start(desk: &Desk) -> Daemon {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(&desk.world.binaries.agent).current_dir(desk.world.directory());
    let daemon = Daemon::start(command, &desk.world.config(""), &desk.world.socket()).await;
    daemon.until_synced().await;
    daemon
}

/// Whether files may have any size, or no write works as on a full disk.
fn has_room(daemon: &Daemon, room: bool) {
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: (!room).then_some(0), maximum: None }).unwrap();
}

#[tokio::test]
async fn without_room_a_token_is_in_memory_and_the_status_says_so() {
    let desk = Desk::new().await;
    let daemon = start(&desk).await;
    desk.tell(&daemon, "store", "lisa", "t-lisa").await;
    has_room(&daemon, false);
    desk.tell(&daemon, "store", "mona", "t-mona").await;
    assert_eq!(desk.get(&daemon, "username=mona\n").await, pair("mona", "t-mona"));
    desk.tell(&daemon, "erase", "lisa", "t-lisa").await;
    assert_eq!(desk.get(&daemon, "username=lisa\n").await, None);
    assert!(trouble(&daemon).await.unwrap().starts_with("sign-ins cannot be kept:"));
    // What only memory has goes with the process, and what the disk did not forget is there again.
    drop(daemon.final_log().await);
    let daemon = start(&desk).await;
    assert_eq!(desk.get(&daemon, "").await, pair("lisa", "t-lisa"));

    has_room(&daemon, false);
    desk.tell(&daemon, "erase", "lisa", "t-lisa").await;
    desk.tell(&daemon, "store", "mona", "t-mona").await;
    has_room(&daemon, true);
    // The next thing that is kept finds the room; the others follow by themselves.
    desk.tell(&daemon, "store", "lisa", "t-new").await;
    assert_eq!(trouble(&daemon).await, None);
    drop(daemon.final_log().await);
    let daemon = start(&desk).await;
    assert_eq!(desk.get(&daemon, "username=lisa\n").await, pair("lisa", "t-new"));
}
