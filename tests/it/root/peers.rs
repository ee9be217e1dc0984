//! Who may connect, tried by processes of really different users.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::support::world::World;

/// A user that has no group in common with anybody.
const STRANGER: u32 = 54_321;

/// Runs `child::asks_for_the_status` as another user; what it printed.
fn ask_as(program: &Path, socket: &Path, uid: u32, gid: u32, groups: &[u32]) -> String {
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "--nocapture", "child::asks_for_the_status"]).env("SOCKET", socket).uid(uid).gid(gid);
    if !groups.is_empty() {
        // Without root's word, setpriv is what gives a process supplementary groups.
        let list = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        command = Command::new("setpriv");
        command
            .args([format!("--reuid={uid}"), format!("--regid={gid}"), format!("--groups={list}")])
            .arg(program)
            .args(["--ignored", "--exact", "--nocapture", "child::asks_for_the_status"])
            .env("SOCKET", socket);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "could not become uid {uid}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = printed.lines().find_map(|line| line.split_once("ANSWER ").map(|(_, answer)| answer.to_owned()));
    answer.unwrap_or_else(|| panic!("no answer line in: {printed}"))
}

/// The test program where every user can run it.
fn copy_of_this_program(world: &World) -> std::path::PathBuf {
    std::fs::set_permissions(world.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = world.path("it");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_stranger_gets_no_byte_even_through_a_socket_that_anyone_may_open() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let daemon = world.start(&world.config("")).await;
    daemon.until_synced().await;
    let program = copy_of_this_program(&world);

    // As it is made, the socket cannot even be connected to.
    assert_eq!(ask_as(&program, daemon.socket(), STRANGER, STRANGER, &[]), "connect PermissionDenied");
    // Loosened by accident, it still says nothing.
    std::fs::set_permissions(daemon.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(ask_as(&program, daemon.socket(), STRANGER, STRANGER, &[]), "0 bytes");
    // Root is answered through the same socket.
    assert_ne!(ask_as(&program, daemon.socket(), 0, 0, &[]), "0 bytes");
    let log = daemon.final_log().await;
    let refusals = log.lines().filter(|line| line.contains("refused: not in the socket's group")).collect::<Vec<_>>();
    assert_eq!(refusals.len(), 1, "{log}");
    assert!(refusals[0].contains(&format!("uid={STRANGER}")), "{}", refusals[0]);
}

#[tokio::test]
#[ignore = "needs root"]
async fn members_of_the_sockets_group_are_answered() {
    const GROUP: u32 = 65_432;
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let config = world.config("");
    let text = std::fs::read_to_string(&config).unwrap().replace("[agent]\n", &format!("[agent]\nsocket_group = \"{GROUP}\"\n"));
    std::fs::write(&config, text).unwrap();
    let daemon = world.start(&config).await;
    daemon.until_synced().await;
    let program = copy_of_this_program(&world);

    for (gid, groups) in [(GROUP, &[][..]), (STRANGER, &[STRANGER, GROUP][..])] {
        let answer = ask_as(&program, daemon.socket(), STRANGER, gid, groups);
        assert!(answer.ends_with(" bytes") && answer != "0 bytes", "gid {gid}, groups {groups:?}: {answer}");
    }
    assert_eq!(ask_as(&program, daemon.socket(), STRANGER, STRANGER, &[STRANGER]), "connect PermissionDenied");
}

#[tokio::test]
#[ignore = "needs root"]
async fn neither_the_own_user_nor_another_reads_the_daemons_memory() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let config = world.config("");
    std::fs::set_permissions(world.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Everything the daemon needs belongs to the user that it runs as.
    for name in ["runner.pem", "config.toml", "integrations.json"] {
        std::os::unix::fs::chown(world.path(name), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    std::os::unix::fs::chown(world.directory(), Some(STRANGER), Some(STRANGER)).unwrap();
    let program = world.path("scm-agent");
    std::fs::copy(&world.binaries.agent, &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = tokio::process::Command::new(&program);
    command.uid(STRANGER).gid(STRANGER);
    let daemon = crate::support::daemon::Daemon::start(command, &config, &world.socket()).await;

    let read_by = |uid: u32, pid: u32| {
        let output = Command::new("dd").args([&format!("if=/proc/{pid}/maps"), "of=/dev/null"]).uid(uid).gid(uid).output().unwrap();
        output.status.success()
    };
    assert!(!read_by(STRANGER, daemon.pid()), "the same user reads the daemon's maps");
    assert!(!read_by(STRANGER + 1, daemon.pid()), "another user reads the daemon's maps");
    // The control: a process without the protection is read by its own user.
    let mut plain = Command::new("sleep").arg("60").uid(STRANGER).gid(STRANGER).spawn().unwrap();
    assert!(read_by(STRANGER, plain.id()), "the control cannot be read, so this test shows nothing");
    plain.kill().unwrap();
    plain.wait().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
}
