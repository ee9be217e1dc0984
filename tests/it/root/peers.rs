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

/// Copies a program with a process of its own: were it open for writing here, a child that another test starts at the same
/// moment would hold it open too, and nobody could run it.
pub(super) fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// The test program where every user can run it.
pub(super) fn copy_of_this_program(world: &World) -> std::path::PathBuf {
    std::fs::set_permissions(world.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = world.path("it");
    copy_program(&std::env::current_exe().unwrap(), &copy);
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
async fn neither_the_own_user_nor_another_reads_the_daemons_memory_or_takes_a_core() {
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
    copy_program(&world.binaries.agent, &program);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Root lifts the limit, so that it is the daemon's own doing that there is no core.
    let with_cores = || {
        let mut command = Command::new("sh");
        let become_user = format!("exec setpriv --reuid={STRANGER} --regid={STRANGER} --clear-groups \"$@\"");
        command.args(["-c", &format!("ulimit -c unlimited; {become_user}"), "sh"]).current_dir(world.directory());
        command
    };
    let mut command = tokio::process::Command::from(with_cores());
    command.arg(&program);
    let daemon = crate::support::daemon::Daemon::start(command, &config, &world.socket()).await;
    let mut plain = with_cores().args(["sleep", "60"]).spawn().unwrap();
    let owner = |pid: u32| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/stat")).unwrap());
    while !std::fs::read(format!("/proc/{}/cmdline", plain.id())).unwrap().starts_with(b"sleep") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(owner(plain.id()), STRANGER);
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(status.contains(&format!("\nUid:\t{STRANGER}\t{STRANGER}\t{STRANGER}\t{STRANGER}\n")), "{status}");

    // Opening `mem` needs the same right as attaching a debugger (ptrace(2), PTRACE_MODE_ATTACH).
    let opens = |uid: u32, pid: u32, name: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 3</proc/{pid}/{name}")]).uid(uid).gid(uid).stderr(std::process::Stdio::null());
        shell.status().unwrap().success()
    };
    for name in ["mem", "maps", "environ", "auxv", "pagemap"] {
        assert!(!opens(STRANGER, daemon.pid(), name), "the same user opens the daemon's {name}");
        assert!(!opens(STRANGER + 1, daemon.pid(), name), "another user opens the daemon's {name}");
        // The control: a process without the protection is read by its own user, and by no other.
        assert!(opens(STRANGER, plain.id(), name), "the control's {name} cannot be opened, so this test shows nothing");
        assert!(name == "maps" || name == "auxv" || !opens(STRANGER + 1, plain.id(), name), "{name}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");

    // Not SIGSEGV: Rust's handler lets the first one pass when no instruction caused it.
    let crash = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    };
    let cores = || {
        let names = std::fs::read_dir(world.directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("core")).count()
    };
    crash(daemon.pid());
    // To its end, which a core would come before.
    while !std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap().contains("State:\tZ") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let log = daemon.final_log().await;
    assert_eq!(cores(), 0, "the daemon left a core:\n{log}");
    crash(plain.id());
    let ended = plain.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(6));
    // Where cores go elsewhere, their absence here shows nothing, and the limit has to do.
    if std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().starts_with("core") {
        assert!(std::os::unix::process::ExitStatusExt::core_dumped(&ended) && cores() == 1, "the control left no core");
    }
}
