//! `doctor` as another user, and on file systems and limits that only root can break.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use tokio::process::Command;

use super::peers::copy_program;
use crate::doctor::bench::{AGENT, Bench, Expected, KEY, Report, SOURCE, fail, warn};
use crate::support::daemon::{Daemon, run};

/// The group of the socket.
const GROUP: u32 = 65_432;
/// A user like any other.
const USER: u32 = 54_321;

/// A host that other users can ask on, with copies of the programs that they can start.
fn open_bench() -> Bench {
    let bench = Bench::new();
    std::fs::set_permissions(bench.world.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(bench.path("programs")).unwrap();
    bench.mode("programs", 0o755);
    bench.mode("home", 0o755);
    for (from, name) in [(&bench.world.binaries.agent, "scm-agent"), (&bench.world.binaries.helper, "git-credential-scm-agent")] {
        let to = bench.path(&format!("programs/{name}"));
        copy_program(from, &to);
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    bench.configure(&[SOURCE, KEY, &format!("{AGENT}socket_group = \"{GROUP}\"\n")]);
    bench.mode("config.toml", 0o644);
    bench
}

/// What a user's doctor finds, with those groups, in a user database of its own. It is told where the socket is, and nothing else.
async fn as_user(bench: &Bench, groups: &[u32], config: bool) -> Report {
    bench.write("passwd", &format!("root:x:0:0::/root:/bin/sh\nmona:x:{USER}:{USER}::/:/bin/sh\n"));
    bench.mode("passwd", 0o644);
    bench.mode("group", 0o644);
    let list = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={list}") };
    let script = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec setpriv \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(bench.path("passwd")).arg(bench.path("group"));
    command.args([format!("--reuid={USER}"), format!("--regid={USER}"), groups, "--".to_owned()]);
    command.arg(bench.path("programs/scm-agent")).args(["doctor", "--json"]);
    if config {
        command.arg("--config").arg(bench.config());
    }
    bench.surround(&mut command);
    command.env("SCM_AGENT__AGENT__SOCKET", bench.path("agent.sock"));
    Report::of(run(command, "").await)
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_user_who_may_not_ask_is_told_why_and_what_to_type() {
    let bench = open_bench();
    let _daemon = bench.start().await;
    let group = |members: &str| bench.write("group", &format!("root:x:0:\nmona:x:{USER}:\nbuilders:x:{GROUP}:{members}\n"));

    group("");
    let report = as_user(&bench, &[], false).await;
    report.expect(&warn("config", &["config.toml is not there"], &["config.example.toml", "--config"]));
    report.expect(&fail("daemon", &["no scm-agent answers", "Permission denied"], &["sudo usermod -aG builders mona", "log out and in"]));

    // The database has the user in the group by now; the process is older.
    group("mona");
    let report = as_user(&bench, &[], false).await;
    report.expect(&fail("daemon", &["Permission denied"], &["mona is in the group builders", "newgrp builders"]));
    let report = as_user(&bench, &[GROUP], false).await;
    report.expect_ok("daemon");

    // What the user cannot look at is nobody's fault.
    let report = as_user(&bench, &[GROUP], true).await;
    report.expect_ok("daemon");
    report.expect(&Expected { check: "key", state: "skip", words: &["not for this user to read"], next: &[] });
    report.expect_quiet("files");

    // A directory on the way is closed.
    std::fs::create_dir(bench.path("run")).unwrap();
    std::os::unix::fs::symlink("../agent.sock", bench.path("run/agent.sock")).unwrap();
    bench.mode("run", 0o700);
    let socket = bench.path("run/agent.sock");
    let shown = bench.path("run").display().to_string();
    let next = ask_at(&bench, &socket).await.expect(&fail(
        "daemon",
        &["Permission denied"],
        &["users may not pass through", &format!("sudo chmod a+x {shown}")],
    ));
    bench.run(&Bench::command_in(&next, "chmod", ";"), "").await;
    ask_at(&bench, &socket).await.expect_ok("daemon");
}

/// The same with another path to the socket.
async fn ask_at(bench: &Bench, socket: &Path) -> Report {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}"), format!("--groups={GROUP}"), "--".to_owned()]);
    command.arg(bench.path("programs/scm-agent")).args(["doctor", "--json"]);
    bench.surround(&mut command);
    command.env("SCM_AGENT__AGENT__SOCKET", socket);
    Report::of(run(command, "").await)
}

#[tokio::test]
#[ignore = "needs root"]
async fn files_of_another_user_are_named_and_given_back_by_the_command_that_is_told() {
    let bench = Bench::new();
    chown(bench.path("runner.pem"), Some(USER), None).unwrap();
    let belongs = format!("belongs to uid {USER}");
    bench.doctor().await.expect(&warn("key", &["runner.pem", &belongs, "not known"], &["if it runs as that user", "chown USER"]));
    // Whoever has the state is the agent.
    std::fs::create_dir(bench.path("state")).unwrap();
    bench.mode("state", 0o700);
    chown(bench.path("state"), Some(USER), None).unwrap();
    bench.doctor().await.expect_ok("key");
    std::fs::remove_dir(bench.path("state")).unwrap();
    chown(bench.path("runner.pem"), Some(0), None).unwrap();
    bench.doctor().await.expect_ok("key");

    std::fs::create_dir(bench.path("state")).unwrap();
    bench.mode("state", 0o700);
    chown(bench.path("state"), Some(USER), None).unwrap();
    // Whose agent it is to be, nobody knows here: it is told as it is, and nobody is told to give it away.
    bench.doctor().await.expect(&Expected { check: "state", state: "skip", words: &[&belongs], next: &[] });
    bench.mode("state", 0o777);
    bench.doctor().await.expect(&fail("state", &["others may write"], &["chmod go-w"]));
    bench.mode("state", 0o700);
    // A daemon knows: this one has it from before.
    chown(bench.path("state"), Some(0), None).unwrap();
    let daemon = bench.start().await;
    bench.doctor().await.expect_quiet("state");
    bench.mode("state", 0o777);
    let next = bench.doctor().await.expect(&fail("state", &["others may write", "0777"], &["chmod go-w"]));
    bench.run(&Bench::command_in(&next, "chmod", ";"), "").await;
    bench.mode("state", 0o700);
    bench.doctor().await.expect_quiet("state");
    chown(bench.path("state"), Some(USER), None).unwrap();
    let next = bench.doctor().await.expect(&fail("state", &[&belongs, "the agent runs as uid 0"], &["chown -R root"]));
    bench.run(&Bench::command_in(&next, "chown", ";"), "").await;
    bench.doctor().await.expect_quiet("state");
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_user_of_the_socket_is_not_told_to_take_the_state_from_the_agent() {
    let bench = open_bench();
    std::fs::create_dir(bench.path("state")).unwrap();
    bench.mode("state", 0o700);
    chown(bench.path("state"), Some(USER + 1), None).unwrap();
    bench.write("group", &format!("root:x:0:\nmona:x:{USER}:\n"));
    let belongs = format!("belongs to uid {}", USER + 1);
    let expected = Expected { check: "state", state: "skip", words: &[&belongs, "doctor as that user, or as root"], next: &[] };
    as_user(&bench, &[GROUP], true).await.expect(&expected);
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_state_directory_without_room_or_that_is_read_only_is_named() {
    let bench = Bench::new();
    let state = bench.path("state");
    std::fs::create_dir(&state).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"]).arg(&state).status().unwrap();
    assert!(mounted.success());
    let unmount = Unmount(state.clone());
    bench.doctor().await.expect_quiet("state");
    std::fs::write(state.join("filler"), vec![1; 3 * 1024 * 1024 + 512 * 1024]).unwrap();
    bench.doctor().await.expect(&fail("state", &["is full"], &["make room", "df -h"]));
    // With a daemon too, which may not have noticed.
    let daemon = bench.start().await;
    bench.doctor().await.expect(&fail("state", &["is full"], &["make room"]));
    std::fs::remove_file(state.join("filler")).unwrap();
    bench.doctor().await.expect_quiet("state");
    assert!(daemon.terminate().await.success());

    let remount = |how: &str| std::process::Command::new("mount").args(["-o", how]).arg(&state).status().unwrap().success();
    assert!(remount("remount,ro"));
    let next = bench.doctor().await.expect(&fail("state", &["mounted read-only"], &["mount -o remount,rw"]));
    bench.run(&next, "").await;
    bench.doctor().await.expect_quiet("state");
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn memory_that_may_be_swapped_is_named() {
    let bench = open_bench();
    // The agent's folders, in one that is root's: git and root trust the socket in there.
    bench.configure(&[SOURCE, KEY, &AGENT.replace("agent.sock", "run/agent.sock")]);
    for folder in ["run", "state"] {
        std::fs::create_dir(bench.path(folder)).unwrap();
    }
    bench.mode("state", 0o700);
    for name in ["run", "state", "runner.pem", "integrations.json"] {
        chown(bench.path(name), Some(USER), Some(USER)).unwrap();
    }
    bench.mode("config.toml", 0o644);
    let script = "ulimit -l 64 && exec setpriv --reuid=54321 --regid=54321 --clear-groups -- \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(bench.path("programs/scm-agent")).args(["run", "--config"]).arg(bench.config());
    command.current_dir(bench.world.directory());
    let daemon = Daemon::start_as(command, &bench.path("run/agent.sock")).await;
    let report = bench.doctor().await;
    report.expect(&warn("memory", &["may be swapped", "64 KiB"], &["LimitMEMLOCK=infinity"]));
    // What is the daemon's own is as it should be, whoever asks.
    report.expect_ok("key");
    report.expect_quiet("state");
    assert!(daemon.terminate().await.success());
    // Root's own may lock what it likes, or this machine lets nobody.
    let bench = Bench::new();
    let daemon = bench.start().await;
    let locked = daemon.status().await["memory"]["locked"] == true;
    let report = bench.doctor().await;
    if locked {
        report.expect_ok("memory");
    }
}
