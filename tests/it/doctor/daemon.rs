//! A daemon that does not run, does not answer, is of another version, or goes by other settings than those in the files.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::json;

use super::bench::{AGENT, Bench, KEY, SOURCE, fail, warn};

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_told_by_why() {
    let bench = Bench::new();
    bench.doctor().await.expect(&fail("daemon", &["no scm-agent answers", "agent.sock"], &["start it: "]));
    let daemon = bench.start().await;
    bench.doctor().await.expect_ok("daemon");

    // It hangs, as far as anybody can tell who asks it.
    daemon.signal(Signal::STOP);
    let next = bench.doctor().await.expect(&fail(
        "daemon",
        &["did not answer"],
        &["its process is stopped", &format!("kill -CONT {}", daemon.pid())],
    ));
    bench.run(&Bench::command_in(&next, "kill", ";"), "").await;
    bench.doctor().await.expect_ok("daemon");

    // It dies, and leaves its socket.
    daemon.final_log().await;
    assert!(bench.path("agent.sock").exists());
    bench.doctor().await.expect(&fail("daemon", &["agent.sock"], &["nobody listens there any more; start it: "]));
    std::fs::remove_file(bench.path("agent.sock")).unwrap();
    bench.write("agent.sock", "");
    bench.doctor().await.expect(&fail("daemon", &["agent.sock"], &["is no socket", "agent.socket"]));
    std::fs::remove_file(bench.path("agent.sock")).unwrap();
    let _daemon = bench.start().await;
    bench.doctor().await.expect_ok("daemon");
}

/// Plays a daemon that answers whatever it is asked with this.
fn play(bench: &Bench, answer: String) -> std::thread::JoinHandle<()> {
    let _ = std::fs::remove_file(bench.path("agent.sock"));
    let listener = UnixListener::bind(bench.path("agent.sock")).unwrap();
    std::thread::spawn(move || {
        // Its last guest asks for nothing.
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = String::new();
            let _ = stream.read_to_string(&mut asked);
            if asked.is_empty() {
                return;
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

fn end(bench: &Bench, played: std::thread::JoinHandle<()>) {
    drop(std::os::unix::net::UnixStream::connect(bench.path("agent.sock")).unwrap());
    played.join().unwrap();
}

#[tokio::test]
async fn a_daemon_of_another_version_is_told_from_one_that_is_none() {
    let bench = Bench::new();
    let daemon = bench.start().await;
    let status = daemon.status().await;
    assert!(daemon.terminate().await.success());
    for (version, next) in [("0.0.1", "scm-agent"), ("999.1.0", "type -a scm-agent")] {
        let mut status = status.clone();
        status["version"] = json!(version);
        let played = play(&bench, format!("{status}\n\n"));
        bench.doctor().await.expect(&warn("daemon", &[version, env!("CARGO_PKG_VERSION")], &[next]));
        end(&bench, played);
    }
    let played = play(&bench, "HTTP/1.1 400 Bad Request\n\n".to_owned());
    bench.doctor().await.expect(&fail("daemon", &["answered something else"], &[]));
    end(&bench, played);
}

#[tokio::test]
async fn settings_that_the_daemon_does_not_go_by_are_named() {
    let bench = Bench::new();
    let daemon = bench.start().await;
    // A bad file: it goes on with the good one.
    bench.configure(&[SOURCE, KEY, AGENT, "[log]\nlevel = \"canary\"\n"]);
    daemon.signal(Signal::HUP);
    daemon.until(|status| status["degraded"].to_string().contains("were not taken over")).await;
    bench.doctor().await.expect(&fail("config", &["log.level"], &["config check"]));
    // Mended, and not told of it yet.
    bench.configure(&[SOURCE, KEY, AGENT]);
    let next = bench.doctor().await.expect(&fail(
        "config",
        &["were not taken over", "log.level"],
        &["scm-agent config check", "scm-agent reload"],
    ));
    bench.run(&Bench::command_in(&next, "scm-agent config check", ";"), "").await;
    bench.run(&Bench::command_in(&next, "scm-agent reload", ";"), "").await;
    bench.doctor().await.expect_ok("config");

    // Another key in the file that names keys.
    bench.world.make_key("next.pem", "x25519");
    bench.configure(&[SOURCE, "[key]\nfiles = [\"next.pem\", \"runner.pem\"]\n", AGENT]);
    let next = bench.doctor().await.expect(&warn("key", &["does not have the key", "in the files now"], &["scm-agent reload"]));
    bench.run(&Bench::command_in(&next, "scm-agent reload", ","), "").await;
    bench.doctor().await.expect_ok("key");

    // What only a start takes over.
    bench.configure(&[SOURCE, "[key]\nfiles = [\"next.pem\", \"runner.pem\"]\n", AGENT, "[store]\nkind = \"memory\"\n"]);
    bench.run("scm-agent reload", "").await;
    bench.doctor().await.expect(&warn("config", &["store.kind", "next start"], &["scm-agent"]));
    assert!(daemon.terminate().await.success());
    let _daemon = bench.start().await;
    bench.doctor().await.expect_ok("config");
}

/// Has the machine look as if systemd had the two units, in these states.
fn systemd(bench: &Bench, service: &str, socket: &str, unit: &str) {
    bench.write("service.txt", &format!("Id=scm-agent.service\nNRestarts=0\nNeedDaemonReload=no\n{service}\n"));
    let listens = format!("Listen={} (Stream)", bench.path("agent.sock").display());
    bench.write("socket.txt", &format!("Id=scm-agent.socket\nResult=success\nNeedDaemonReload=no\n{listens}\n{socket}\n"));
    bench.write("unit.txt", unit);
    let folder = bench.path("");
    let folder = folder.display();
    bench.program(
        "systemctl",
        &format!("case $1 in show) cat {folder}/service.txt; echo; cat {folder}/socket.txt;; cat) cat {folder}/unit.txt;; esac"),
    );
}

#[tokio::test]
async fn units_that_do_not_run_are_named_with_the_command_that_starts_them() {
    let bench = Bench::new();
    let state = |load: &str, active: &str, enabled: &str| format!("LoadState={load}\nActiveState={active}\nUnitFileState={enabled}");
    let sound = state("loaded", "active", "enabled");
    let unit = format!("[Service]\nLoadCredential=runner-key:{}\n", bench.path("runner.pem").display());
    let refused = state("loaded", "failed", "enabled") + "\nResult=exit-code\nExecMainStatus=2";
    let idle = state("loaded", "inactive", "enabled");
    for (service, socket, words, next) in [
        (&idle, &idle, "neither", "systemctl enable --now scm-agent.socket scm-agent.service"),
        (&state("masked", "inactive", "masked"), &sound, "is masked", "systemctl unmask scm-agent.service"),
        (&sound, &idle, "scm-agent.socket is not running", "restart scm-agent.socket"),
        (&refused, &sound, "configuration has to change", "scm-agent config check"),
    ] {
        systemd(&bench, service, socket, &unit);
        bench.doctor().await.expect(&fail("service", &[words], &[next]));
    }
    systemd(&bench, &state("loaded", "active", "disabled"), &sound, &unit);
    bench.doctor().await.expect(&warn("service", &["start with the machine"], &["systemctl enable scm-agent.socket scm-agent.service"]));

    // The key that the unit hands over stands for one in the configuration.
    systemd(&bench, &sound, &sound, &unit);
    bench.configure(&[SOURCE, AGENT]);
    let report = bench.doctor().await;
    for name in ["service", "config", "key"] {
        report.expect_ok(name);
    }
    std::fs::rename(bench.path("runner.pem"), bench.path("away.pem")).unwrap();
    let next = bench.doctor().await.expect(&fail("service", &["runner.pem", "runner-key", "is not there"], &["scm-agent keygen"]));
    bench.run(&Bench::command_in(&next, "scm-agent keygen", "("), "").await;
    bench.doctor().await.expect_ok("service");

    // systemd that does not answer keeps nobody waiting, and one without the units says nothing.
    bench.program("systemctl", "exec sleep 600");
    let report = bench.doctor().await;
    report.expect_quiet("service");
    bench.program("systemctl", "echo LoadState=not-found");
    bench.doctor().await.expect_quiet("service");
}
