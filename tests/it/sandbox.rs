//! The daemon shuts itself in: what a process in the same sandbox can still do, what the daemon says of it, and what a reload may name.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Output};

use scm_agent::sandbox::{Mode, Named, Places, Sandbox};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::daemon::{Daemon, run};
use crate::support::world::World;

const SIGSYS: i32 = 31;

/// What a kernel says to a probe: the name of its error, or `ok`.
fn outcome<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES) => "EACCES".to_owned(),
            Some(libc::EADDRINUSE) => "EADDRINUSE".to_owned(),
            Some(libc::EPERM) => "EPERM".to_owned(),
            Some(libc::ENOSYS) => "ENOSYS".to_owned(),
            Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT".to_owned(),
            _ => format!("{error}"),
        },
    }
}

/// A system call that no library of the tree has, with arguments that the kernel would refuse, if only for another reason.
#[allow(unsafe_code, reason = "the calls are refused by the sandbox, or by the kernel for their arguments, which point to nothing")]
fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> std::io::Result<libc::c_long> {
    // SAFETY: every pointer among the arguments is null, and none of the calls takes memory away from this process.
    let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], arguments[3]) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

/// Where the probes look, and what they are told by the test that starts them.
struct Ground {
    folder: PathBuf,
    free_port: u16,
    named_port: u16,
    open_port: u16,
    parent: i32,
}

impl Ground {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn named(&self, name: &str) -> Named {
        Named { key: name.to_owned(), path: self.at(name) }
    }

    fn places(&self) -> Places {
        Places {
            files: vec![self.named("in/token"), self.named("in/link")],
            folders: vec![self.named("certs")],
            ports: vec![("port".to_owned(), self.named_port)],
            written: vec![self.named("state")],
        }
    }
}

/// A probe with its name, and what comes of it in the sandbox, and without.
type Probe = (&'static str, fn(&Ground) -> String, &'static str, &'static str);

const EXECUTABLE: i32 = libc::PROT_READ | libc::PROT_EXEC;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// By Landlock.
const FILES: &[Probe] = &[
    ("a named file", |g| outcome(fs::read(g.at("in/token"))), "ok", "ok"),
    ("the file that a named link leads to", |g| outcome(fs::read(g.at("in/link"))), "ok", "ok"),
    (
        "what took a named file's place",
        |g| {
            // As an administrator does it: from outside of the sandbox.
            for _ in 0..6_000 {
                if g.at("replaced").exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            outcome(fs::read(g.at("in/token")).map(|text| assert_eq!(text, b"second")))
        },
        "ok",
        "ok",
    ),
    ("a file of a named folder", |g| outcome(fs::read(g.at("certs/a.pem"))), "ok", "ok"),
    ("another file", |g| outcome(fs::read(g.at("out/secret"))), "EACCES", "ok"),
    ("a link from a named folder to elsewhere", |g| outcome(fs::read(g.at("in/stray"))), "EACCES", "ok"),
    ("another folder's names", |g| outcome(fs::read_dir(g.at("out"))), "EACCES", "ok"),
    ("the host's names", |_| outcome(fs::read("/etc/hosts")), "ok", "ok"),
    ("looking up a name", |_| outcome(("localhost", 1).to_socket_addrs()), "ok", "ok"),
    ("its own limits", |_| outcome(fs::read("/proc/self/limits")), "ok", "ok"),
    (
        "writing and renaming in the state",
        |g| {
            let written = fs::create_dir(g.at("state/d")).and_then(|()| fs::write(g.at("state/d/new"), "x"));
            let moved = written.and_then(|()| fs::rename(g.at("state/d/new"), g.at("state/file")));
            outcome(moved.and_then(|()| fs::remove_file(g.at("state/file"))).and_then(|()| fs::remove_dir(g.at("state/d"))))
        },
        "ok",
        "ok",
    ),
    ("a socket in the state", |g| outcome(UnixListener::bind(g.at("state/socket"))), "ok", "ok"),
    ("writing beside a named file", |g| outcome(fs::write(g.at("in/new"), "x")), "EACCES", "ok"),
    ("overwriting another file", |g| outcome(fs::OpenOptions::new().append(true).open(g.at("out/other"))), "EACCES", "ok"),
    (
        "shortening another file",
        |g| {
            outcome(
                rustix::fs::open(g.at("out/other"), rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC, rustix::fs::Mode::empty())
                    .map_err(std::io::Error::from),
            )
        },
        "EACCES",
        "ok",
    ),
    ("removing another file", |g| outcome(fs::remove_file(g.at("out/other"))), "EACCES", "ok"),
    ("moving another folder's file in", |g| outcome(fs::rename(g.at("out/third"), g.at("state/third"))), "EACCES", "ok"),
    ("a link in the state", |g| outcome(std::os::unix::fs::symlink("/etc", g.at("state/link"))), "ok", "ok"),
    ("listening on the named port", |g| outcome(TcpListener::bind(("127.0.0.1", g.named_port))), "EADDRINUSE", "EADDRINUSE"),
    ("listening on another port", |g| outcome(TcpListener::bind(("127.0.0.1", g.free_port))), "EACCES", "EADDRINUSE"),
    ("connecting to any port", |g| outcome(TcpStream::connect(("127.0.0.1", g.open_port))), "ok", "ok"),
    ("asking a name server", |_| outcome(UdpSocket::bind("127.0.0.1:0")), "ok", "ok"),
    ("a socket with a path", |g| outcome(UnixStream::connect(g.at("out/socket"))), "ok", "ok"),
    (
        "an abstract socket",
        |g| {
            let address = SocketAddr::from_abstract_name(g.folder.as_os_str().as_encoded_bytes()).unwrap();
            outcome(UnixStream::connect_addr(&address))
        },
        "EPERM",
        "ok",
    ),
    (
        "a signal to another process",
        |g| {
            let parent = rustix::process::Pid::from_raw(g.parent).unwrap();
            outcome(rustix::process::test_kill_process(parent).map_err(Into::into))
        },
        "EPERM",
        "ok",
    ),
];

/// By seccomp. What the calls are told makes them fail for another reason without it, or do nothing.
const CALLS: &[Probe] = &[
    ("a thread", |_| outcome(std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap())), "ok", "ok"),
    ("a program", |_| outcome(StdCommand::new("/bin/true").status()), "EPERM", "ok"),
    ("a key of the kernel's", |_| other(call(libc::SYS_keyctl, [-1, 0, 0, 0])), "EPERM", "other"),
    ("a ring", |_| other(call(libc::SYS_io_uring_setup, [0, 0, 0, 0])), "EPERM", "other"),
    ("a counter", |_| other(call(libc::SYS_perf_event_open, [0, 0, 0, 0])), "EPERM", "other"),
    ("another process's descriptor", |_| other(call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0])), "EPERM", "other"),
    ("a namespace", |_| other(call(libc::SYS_unshare, [0, 0, 0, 0])), "EPERM", "other"),
    ("another user", |_| other(call(libc::SYS_setuid, [-1, 0, 0, 0])), "EPERM", "other"),
    ("other groups", |_| other(call(libc::SYS_setgroups, [-1, 0, 0, 0])), "EPERM", "other"),
    ("another root", |_| other(call(libc::SYS_chroot, [0, 0, 0, 0])), "EPERM", "other"),
    ("another name of the host", |_| other(call(libc::SYS_sethostname, [0, -1, 0, 0])), "EPERM", "other"),
    ("a process by the other call", |_| other(call(libc::SYS_clone3, [0, 0, 0, 0])), "ENOSYS", "other"),
    ("typing into a terminal", |_| other(call(libc::SYS_ioctl, [-1, 0x5412, 0, 0])), "EPERM", "other"),
    ("asking a terminal", |_| other(call(libc::SYS_ioctl, [-1, 0x5401, 0, 0])), "other", "other"),
    ("memory to write and execute", |_| other(call(libc::SYS_mmap, [0, 4096, (WRITABLE | EXECUTABLE).into(), 0])), "EPERM", "other"),
    ("memory to execute from now on", |_| other(call(libc::SYS_mprotect, [1, 4096, EXECUTABLE.into(), 0])), "EPERM", "other"),
    ("memory to write from now on", |_| other(call(libc::SYS_mprotect, [1, 4096, WRITABLE.into(), 0])), "other", "other"),
    ("being read by others of the user", |_| other(call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0])), "EPERM", "other"),
    ("a raw link", |_| other(call(libc::SYS_socket, [libc::AF_PACKET.into(), -1, 0, 0])), "EAFNOSUPPORT", "other"),
    ("a virtual machine's socket", |_| other(call(libc::SYS_socket, [libc::AF_VSOCK.into(), -1, 0, 0])), "EAFNOSUPPORT", "other"),
    ("the kernel's audit", |_| other(call(libc::SYS_socket, [libc::AF_NETLINK.into(), 0, 9, 0])), "EAFNOSUPPORT", "other"),
    ("the machine's addresses", |_| other(call(libc::SYS_socket, [libc::AF_NETLINK.into(), 3, 0, 0])), "other", "other"),
    ("a call that nobody has thought of", |_| outcome(call(9_999, [0, 0, 0, 0])), "ENOSYS", "ENOSYS"),
];

/// Whatever is none of the sandbox's refusals.
fn other(result: std::io::Result<libc::c_long>) -> String {
    match outcome(result) {
        refusal if ["EPERM", "EAFNOSUPPORT", "ENOSYS"].contains(&refusal.as_str()) => refusal,
        _ => "other".to_owned(),
    }
}

/// What ends the process; without a sandbox, the kernel refuses the arguments.
const EVIL: &[(&str, libc::c_long)] = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("bpf", libc::SYS_bpf),
    ("mount", libc::SYS_mount),
    ("move_mount", libc::SYS_move_mount),
    ("finit_module", libc::SYS_finit_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("pivot_root", libc::SYS_pivot_root),
    ("swapon", libc::SYS_swapon),
];

/// Enters a sandbox and tries what it is told to. Run by the tests below.
#[test]
#[ignore = "started by the tests of this module"]
#[allow(clippy::print_stdout, reason = "printing is how this process answers the test that starts it")]
fn tries_what_it_is_told_to() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let number = |name: &str| variable(name).parse::<u16>().unwrap();
    let ground = Ground {
        folder: variable("FOLDER").into(),
        free_port: number("FREE_PORT"),
        named_port: number("NAMED_PORT"),
        open_port: number("OPEN_PORT"),
        parent: variable("PARENT").parse().unwrap(),
    };
    let mode = if variable("MODE") == "off" { Mode::Off } else { Mode::Auto };
    if variable("WHAT") == "an old profile" {
        refuse_landlock();
        println!("ANSWER require = {:?}", Sandbox::enter(Mode::Require, &ground.places()).map(drop));
    }
    let sandbox = Sandbox::enter(mode, &ground.places()).unwrap();
    let report = sandbox.report();
    println!("ANSWER landlock = {}", report.landlock);
    println!("ANSWER seccomp = {}", report.seccomp);
    println!("ANSWER no_new_privs = {}", report.no_new_privs);
    println!("ANSWER reason = {}", report.reason.as_deref().unwrap_or("none"));
    fs::write(ground.at("state/entered"), "").unwrap();
    match variable("WHAT").as_str() {
        "table" => {
            for (name, probe, _, _) in FILES.iter().chain(CALLS) {
                println!("ANSWER {name} = {}", probe(&ground));
            }
        }
        "exec" => println!("ANSWER exec = {}", StdCommand::new("/bin/true").exec()),
        evil => {
            if let Some((name, number)) = EVIL.iter().find(|(name, _)| *name == evil) {
                println!("ANSWER {name} = {}", outcome(call(*number, [-1, 0, 0, 0])));
            }
        }
    }
}

/// As a container's profile does that is older than Landlock.
fn refuse_landlock() {
    let rules = BTreeMap::from([(libc::SYS_landlock_create_ruleset, Vec::new())]);
    let refuse = seccompiler::SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = seccompiler::SeccompFilter::new(rules, seccompiler::SeccompAction::Allow, refuse, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Starts the probe, as a process of its own.
fn probe(mode: &str, what: &str) -> (Output, BTreeMap<String, String>) {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["in", "out", "real", "certs", "state"] {
        fs::create_dir(at(name)).unwrap();
    }
    for name in ["in/token", "real/token", "out/secret", "out/other", "out/third", "certs/a.pem"] {
        fs::write(at(name), "first").unwrap();
    }
    std::os::unix::fs::symlink(at("real/token"), at("in/link")).unwrap();
    std::os::unix::fs::symlink(at("out/secret"), at("in/stray")).unwrap();
    let _path = UnixListener::bind(at("out/socket")).unwrap();
    let name = SocketAddr::from_abstract_name(folder.path().as_os_str().as_encoded_bytes()).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    // They stay open, so that nobody else gets their ports: that one is taken is what the kernel says of a port that may be listened on.
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [free_port, named_port] = taken.each_ref().map(port);
    let child = StdCommand::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "sandbox::tries_what_it_is_told_to"])
        .env("FOLDER", folder.path())
        .env("FREE_PORT", free_port.to_string())
        .env("NAMED_PORT", named_port.to_string())
        .env("OPEN_PORT", port(&open).to_string())
        .env("PARENT", std::process::id().to_string())
        .env("MODE", mode)
        .env("WHAT", what)
        .env_remove("NOTIFY_SOCKET")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let replacing = {
        let at = |name: &str| folder.path().join(name);
        let (entered, new, token, replaced) = (at("state/entered"), at("new"), at("in/token"), at("replaced"));
        std::thread::spawn(move || {
            for _ in 0..2_000 {
                if entered.exists() {
                    fs::write(&new, "second").unwrap();
                    fs::rename(&new, &token).unwrap();
                    return fs::write(&replaced, "").unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        })
    };
    let output = child.wait_with_output().unwrap();
    replacing.join().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers = printed.lines().filter_map(|line| line.split_once("ANSWER ")?.1.split_once(" = "));
    let answers = answers.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect();
    (output, answers)
}

/// Whether this kernel, and what these tests run in, offer Landlock in the version that the daemon uses.
fn is_offered(answers: &BTreeMap<String, String>) -> bool {
    answers["landlock"].ends_with("abi 6")
}

#[test]
fn what_is_not_named_is_out_of_reach_and_what_is_works() {
    let (output, inside) = probe("auto", "table");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let (_, without) = probe("off", "table");
    assert_eq!((&*without["landlock"], &*without["seccomp"]), ("off", "off"));
    assert_eq!((&*inside["seccomp"], &*inside["no_new_privs"]), ("on", "true"));
    let mut wrong = Vec::new();
    for (name, _, expected, control) in if is_offered(&inside) { FILES } else { &[] }.iter().chain(CALLS) {
        // A user without root's rights is refused some of them anyway, which shows nothing.
        if *control == "other" && without[*name] != "other" && !rustix::process::geteuid().is_root() {
            continue;
        }
        for (found, expected, place) in [(&inside[*name], expected, "in the sandbox"), (&without[*name], control, "without it")] {
            if found != expected {
                wrong.push(format!("{name}, {place}: {found} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_only_an_intruder_would_try_ends_the_process() {
    let names: Vec<&str> = EVIL.iter().map(|(name, _)| *name).chain(["exec"]).collect();
    for names in names.chunks(4) {
        let probes = names.iter().map(|name| (*name, std::thread::spawn(|| probe("auto", name)))).collect::<Vec<_>>();
        for (name, started) in probes {
            let (output, answers) = started.join().unwrap();
            assert_eq!(output.status.signal(), Some(SIGSYS), "{name}: {:?} {answers:?}", output.status);
            assert_eq!((&*answers["seccomp"], answers.get(name)), ("on", None), "{name}");
        }
    }
    let (output, answers) = probe("off", "ptrace");
    assert!(output.status.success() && answers.contains_key("ptrace"), "{answers:?}");
}

#[test]
fn where_the_kernel_does_not_offer_it_a_required_sandbox_is_refused_and_another_is_said() {
    let (output, answers) = probe("auto", "an old profile");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&*answers["landlock"], &*answers["seccomp"]), ("unsupported", "on"));
    let required = &answers["require"];
    assert!(required.starts_with("Err(Missing") && required.contains("the kernel does not restrict files and ports"), "{required}");
    assert!(answers["reason"].starts_with("the kernel does not restrict files and ports: landlock is not there"), "{answers:?}");
}

/// The number of filters that each thread of a process has.
fn filters(daemon: &Daemon) -> Vec<(String, String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    // One that has ended meanwhile is none.
    let status = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("status")).ok();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_default();
        line.split_whitespace().last().unwrap_or_default().to_owned()
    };
    tasks.filter_map(status).map(|text| (field(&text, "Seccomp"), field(&text, "Seccomp_filters"), field(&text, "NoNewPrivs"))).collect()
}

fn add_to_agent(config: &Path, lines: &str) {
    let text = fs::read_to_string(config).unwrap();
    fs::write(config, text.replace("[agent]\n", &format!("[agent]\n{lines}\n"))).unwrap();
}

#[tokio::test]
async fn every_thread_of_the_daemon_is_in_it_and_the_status_says_so() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let config = world.config("");
    let without = {
        add_to_agent(&config, "sandbox = \"off\"");
        let daemon = world.start(&config).await;
        let status = daemon.until_synced().await;
        assert_eq!((&status["sandbox"]["landlock"], &status["sandbox"]["seccomp"]), (&json!("off"), &json!("off")));
        let filters = filters(&daemon);
        assert!(daemon.terminate().await.success());
        filters
    };
    let (_, answers) = probe("auto", "");
    let config = world.config("");
    // Where it can be had, it can be required.
    add_to_agent(&config, if is_offered(&answers) { "sandbox = \"require\"" } else { "" });
    let daemon = world.start(&config).await;
    let status = daemon.until_synced().await;
    let expected = if is_offered(&answers) { "abi 6" } else { answers["landlock"].as_str() };
    assert_eq!(status["sandbox"]["landlock"], expected, "{status}");
    assert_eq!((&status["sandbox"]["seccomp"], &status["sandbox"]["no_new_privs"]), (&json!("on"), &json!(true)));
    let with = filters(&daemon);
    assert!(with.len() > 1, "a daemon has threads");
    let count = |filters: &str| filters.parse::<u32>().unwrap();
    for (mode, number, no_new_privs) in with {
        assert_eq!((&*mode, &*no_new_privs), ("2", "1"));
        assert!(count(&number) >= count(&without[0].1) + 4, "{number} filters, and {} without", without[0].1);
    }
    // A person is told, too.
    let mut command = Command::from(world.agent(&["status", "--config"]));
    command.arg(&config).current_dir(world.directory());
    let text = String::from_utf8(run(command, "").await.stdout).unwrap();
    assert!(text.contains(&format!("sandbox      landlock {expected}, seccomp on")), "{text}");
    assert!(daemon.terminate().await.success());
    assert!(!world.socket().exists(), "it removes its socket in there");
}

#[tokio::test]
async fn a_reload_that_names_a_place_outside_is_refused_in_clear_words_and_a_restart_takes_it() {
    let (_, answers) = probe("auto", "");
    if !is_offered(&answers) {
        return;
    }
    let elsewhere = TempDir::new().unwrap();
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    fs::copy(world.path("runner.pem"), elsewhere.path().join("runner.pem")).unwrap();
    let config = world.config("");
    let mut daemon = world.start(&config).await;
    daemon.until_synced().await;
    let reload = async || {
        let mut command = Command::from(world.agent(&["reload", "--config"]));
        command.arg(&config).current_dir(world.directory());
        let output = run(command, "").await;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let with = |from: &str, to: &str| {
        world.config("");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from));
        fs::write(&config, text.replace(from, to)).unwrap();
    };
    let outside = elsewhere.path().join("runner.pem").display().to_string();
    let words =
        |key: &str, path: &str| format!("{key}: {path} is outside of what the daemon let itself have at its start; a restart takes it");

    with("\"runner.pem\"", &format!("\"{outside}\""));
    let (is_taken, said) = reload().await;
    assert!(!is_taken && said.contains(&words("key.files", &outside)), "{said}");
    let status = daemon.status().await;
    assert!(status["degraded"].to_string().contains(&words("key.files", &outside)), "{status}");
    // A link inside to what is outside is no way round.
    std::os::unix::fs::symlink(&outside, world.path("link.pem")).unwrap();
    with("\"runner.pem\"", "\"link.pem\"");
    let (is_taken, said) = reload().await;
    assert!(!is_taken && said.contains("link.pem is outside"), "{said}");
    // A drop-in that leads out cannot be read, and the reason is said.
    fs::create_dir(world.path("config.d")).unwrap();
    fs::write(elsewhere.path().join("a.toml"), "[agent]\nmax_connections = 7\n").unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("a.toml"), world.path("config.d/a.toml")).unwrap();
    world.config("");
    let (is_taken, said) = reload().await;
    assert!(!is_taken && said.contains("a.toml") && said.contains("a restart"), "{said}");
    fs::remove_file(world.path("config.d/a.toml")).unwrap();
    // Within what was named, everything goes on: a new key beside the old one, a drop-in, keys that wait for the restart.
    fs::copy(world.path("runner.pem"), world.path("second.pem")).unwrap();
    with("\"runner.pem\"", "\"second.pem\"");
    add_to_agent(&config, "sandbox = \"off\"");
    let text = fs::read_to_string(&config).unwrap().replace("\"state\"", &format!("\"{}\"", elsewhere.path().join("state").display()));
    fs::write(&config, text).unwrap();
    let (is_taken, said) = reload().await;
    assert!(is_taken && said.contains("agent.state_dir and agent.sandbox changed"), "{said}");
    assert!(!daemon.status().await["degraded"].to_string().contains("outside"), "it is still said");
    // What was refused is taken by a new start.
    assert!(daemon.terminate().await.success());
    with("\"runner.pem\"", &format!("\"{outside}\""));
    daemon = world.start(&config).await;
    assert_eq!(daemon.status().await["degraded"], json!([]));
}
