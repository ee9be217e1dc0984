//! Files that are missing, empty, open to others, of another kind, or say what they should not.

use super::bench::{AGENT, Bench, KEY, Report, SOURCE, fail, warn};

const PLANE: &str =
    "[control_plane]\nurl = \"http://127.0.0.1:1/api\"\nrunner_id = \"0196f3a4-7d5c-7b51-9d2f-3f6f8a1c0e11\"\ntoken_file = \"token\"\n";

/// What doctor says of a configuration.
async fn with(bench: &Bench, parts: &[&str]) -> Report {
    bench.configure(parts);
    bench.doctor().await
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_named_by_file_key_and_cause() {
    let bench = Bench::new();
    let config = bench.config();
    std::fs::remove_file(&config).unwrap();
    bench.doctor().await.expect(&fail("config", &["config.toml"], &["scm-agent config check"]));
    for (text, words) in [
        ("[control_plane\n", &["config.toml", "line 1"][..]),
        ("[agent]\nsoket = \"canary\"\n", &["agent.soket", "nearest known key is agent.socket"]),
        ("[control_plan]\nwatch = true\n", &["unknown section", "control_plane"]),
        ("[agent]\nread_timeout = \"canary\"\n", &["agent.read_timeout", "duration"]),
        ("[agent]\nrequest_timeout = 5\n", &["agent.request_timeout", "30s"]),
        ("[log]\nlevel = \"canary\"\n", &["log.level", "must be one of"]),
    ] {
        bench.configure(&[text]);
        bench.doctor().await.expect(&fail("config", words, &["scm-agent config check"]));
    }
    with(&bench, &[SOURCE, KEY, AGENT]).await.expect_ok("config");
    // Anybody could have written it.
    bench.mode("config.toml", 0o666);
    let report = bench.doctor().await;
    report.expect(&fail("config", &["config.toml", "every user", "chmod o-w"], &["scm-agent config check"]));
    bench.run(&format!("chmod o-w {}", config.display()), "").await;
    bench.doctor().await.expect_ok("config");
    std::fs::create_dir(bench.path("config.d")).unwrap();
    bench.write("config.d/10-more.toml", "[log]\nlevel = \"info\"\n");
    bench.mode("config.d/10-more.toml", 0o606);
    bench.doctor().await.expect(&fail("config", &["10-more.toml", "every user", "chmod o-w"], &[]));
    bench.run(&format!("chmod o-w {}", bench.path("config.d/10-more.toml").display()), "").await;
    bench.doctor().await.expect_ok("config");
    // Nothing that opens a secret.
    with(&bench, &[SOURCE, AGENT]).await.expect(&warn("config", &["key.files"], &["credentials"]));
    with(&bench, &[SOURCE, KEY, AGENT]).await.expect_ok("config");
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_named_by_its_fault() {
    let bench = Bench::new();
    let key = bench.path("runner.pem");
    let pem = std::fs::read_to_string(&key).unwrap();
    bench.doctor().await.expect_ok("key");

    std::fs::remove_file(&key).unwrap();
    let report = bench.doctor().await;
    report.expect(&fail("files", &["key.files[0]", "does not exist"], &["config check"]));
    let next = report.expect(&fail("key", &["runner.pem"], &["scm-agent keygen --algorithm rsa-3072 --out"]));
    bench.run(&Bench::command_in(&next, "scm-agent keygen", ";"), "").await;
    let report = bench.doctor().await;
    report.expect_ok("key");
    report.expect_quiet("files");

    bench.mode("runner.pem", 0o644);
    let next = bench.doctor().await.expect(&fail("key", &["runner.pem"], &["chmod 600"]));
    bench.run(&Bench::command_in(&next, "chmod", ";"), "").await;
    bench.doctor().await.expect_ok("key");

    let shown = bench.world.show_key("runner.pem");
    let public = shown["public_key_pem"].as_str().unwrap();
    for (content, words) in [
        ("", &["empty"][..]),
        (public, &["public"]),
        ("canary", &["runner.pem"]),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &["certificate"]),
        (&pem[..pem.len() / 2], &["runner.pem"]),
    ] {
        bench.write("runner.pem", content);
        bench.doctor().await.expect(&fail("key", words, &[]));
    }
    bench.write("runner.pem", &pem);
    bench.doctor().await.expect_ok("key");

    // A link could be turned by whoever may write to its folder.
    std::fs::rename(&key, bench.path("real.pem")).unwrap();
    std::os::unix::fs::symlink("real.pem", &key).unwrap();
    bench.doctor().await.expect(&fail("key", &["runner.pem"], &["name the file that the link points to"]));
    with(&bench, &[SOURCE, "[key]\nfiles = [\"real.pem\"]\n", AGENT]).await.expect_ok("key");

    // One that everybody has.
    let development = concat!(env!("CARGO_MANIFEST_DIR"), "/keys/development-x25519.pem");
    bench.write("public.pem", &std::fs::read_to_string(development).unwrap());
    let report = with(&bench, &[SOURCE, "[key]\nfiles = [\"public.pem\"]\n", AGENT]).await;
    report.expect(&fail("key", &["public.pem"], &["scm-agent keygen"]));
}

#[tokio::test]
async fn a_passphrase_that_is_missing_or_wrong_is_named() {
    let bench = Bench::new();
    bench.write("right", "correct horse\n");
    bench.write("wrong", "canary\n");
    let made = bench
        .world
        .agent(&["keygen", "--algorithm", "x25519", "--passphrase-file"])
        .arg(bench.path("right"))
        .arg("--out")
        .arg(bench.path("sealed.pem"))
        .output()
        .unwrap();
    assert!(made.status.success());
    let key = |more: &str| format!("[key]\nfiles = [\"sealed.pem\"]\n{more}");
    let report = with(&bench, &[SOURCE, &key(""), AGENT]).await;
    report.expect(&fail("key", &["sealed.pem"], &["key.passphrase_file"]));
    let report = with(&bench, &[SOURCE, &key("passphrase_file = \"wrong\"\n"), AGENT]).await;
    report.expect(&fail("key", &["sealed.pem"], &["passphrase file belongs to this key"]));
    let report = with(&bench, &[SOURCE, &key("passphrase_file = \"nowhere\"\n"), AGENT]).await;
    report.expect(&fail("key", &["nowhere"], &["mode 0600"]));
    report.expect(&fail("files", &["key.passphrase_file"], &[]));
    with(&bench, &[SOURCE, &key("passphrase_file = \"right\"\n"), AGENT]).await.expect_ok("key");
}

#[tokio::test]
async fn a_token_file_that_cannot_be_used_is_named_and_mended_by_the_command_that_is_told() {
    let bench = Bench::new();
    bench.configure(&[PLANE, KEY, AGENT]);
    let next = bench.doctor().await.expect(&fail("token", &["token", "cannot be read"], &["install -m 600 /dev/stdin"]));
    bench.run(&Bench::command_in(&next, "install", ")"), "canary-token\n").await;
    bench.doctor().await.expect_ok("token");

    bench.mode("token", 0o644);
    let next = bench.doctor().await.expect(&fail("token", &["0644", "others read"], &["chmod g-wx,o= ", "replacing the token"]));
    bench.run(&Bench::command_in(&next, "chmod", ";"), "").await;
    bench.doctor().await.expect_ok("token");

    for (content, words) in [("", "empty"), (" \n", "empty"), ("canary one\ncanary two\n", "not allowed")] {
        bench.write("token", content);
        let next = bench.doctor().await.expect(&fail("token", &[words], &["alone and on one line"]));
        bench.run(&Bench::command_in(&next, "install", ";"), "canary-token\n").await;
        bench.doctor().await.expect_ok("token");
    }
    std::fs::remove_file(bench.path("token")).unwrap();
    std::fs::create_dir(bench.path("token")).unwrap();
    bench.doctor().await.expect(&fail("token", &["not a regular file"], &["control_plane.token_file"]));
}

#[tokio::test]
async fn what_else_the_configuration_names_is_looked_for() {
    let bench = Bench::new();
    let ca = |section: &str| format!("{SOURCE}[scm]\n{section}");
    bench.write("ca.pem", "canary");
    let report = with(&bench, &[&ca("ca_file = \"ca.pem\"\n"), KEY, AGENT]).await;
    report.expect(&fail("proxy", &["ca.pem", "no PEM certificate"], &["ca_file"]));
    let report = with(&bench, &[&ca("ca_file = \"gone.pem\"\n"), KEY, AGENT]).await;
    report.expect(&fail("files", &["scm.ca_file", "does not exist"], &["config check"]));

    let provider = "[[provider]]\nhost = \"a.example.com\"\npat_file = \"pat\"\n";
    let report = with(&bench, &[SOURCE, KEY, AGENT, provider]).await;
    report.expect(&fail("files", &["provider[0].pat_file", "does not exist"], &["put the file there"]));
    bench.write("pat", "canary-pat\n");
    bench.doctor().await.expect_quiet("files");

    let group = AGENT.to_owned() + "socket_group = \"no-such-group-here\"\n";
    let report = with(&bench, &[SOURCE, KEY, &group]).await;
    report.expect(&fail("access", &["no-such-group-here"], &["groupadd --system no-such-group-here"]));
    let rule = "[[access]]\nusers = [\"no-such-user-here\"]\nallow = [\"service\"]\n";
    let report = with(&bench, &[SOURCE, KEY, AGENT, rule]).await;
    report.expect(&fail("access", &["access[0].users[0]"], &["create the users and groups"]));
    with(&bench, &[SOURCE, KEY, AGENT]).await.expect_quiet("access");
}

#[tokio::test]
async fn a_state_directory_that_no_daemon_would_use_is_named() {
    let bench = Bench::new();
    let agent = |directory: &str| format!("[agent]\nsocket = \"agent.sock\"\nstate_dir = \"{directory}\"\n");
    let report = with(&bench, &[SOURCE, KEY, &agent("not/there")]).await;
    report.expect(&fail("state", &["not/there", "directory above it"], &["install -d"]));
    bench.write("file", "");
    with(&bench, &[SOURCE, KEY, &agent("file")]).await.expect(&fail("state", &["is a file"], &["move it away"]));
    std::fs::create_dir(bench.path("state")).unwrap();
    std::os::unix::fs::symlink("state", bench.path("link")).unwrap();
    with(&bench, &[SOURCE, KEY, &agent("link")]).await.expect(&fail("state", &["is a link"], &["agent.state_dir"]));

    bench.mode("state", 0o777);
    let next = with(&bench, &[SOURCE, KEY, AGENT]).await.expect(&fail("state", &["others may write", "0777"], &["chmod go-w"]));
    bench.run(&Bench::command_in(&next, "chmod", ";"), "").await;
    bench.doctor().await.expect_quiet("state");

    // Another daemon has it, on a socket of its own.
    let other = bench.write("other.toml", &[SOURCE, KEY, &AGENT.replace("agent.sock", "other.sock")].concat());
    let daemon = crate::support::daemon::Daemon::start(bench.world.daemon_command(), &other, &bench.path("other.sock")).await;
    let pid = format!("pid {}", daemon.pid());
    bench.doctor().await.expect(&fail("state", &["another process", &pid], &["ps -p", "agent.state_dir"]));
    assert!(daemon.terminate().await.success());
    bench.doctor().await.expect_quiet("state");

    // Its own daemon has it, whose socket somebody deleted.
    bench.configure(&[SOURCE, KEY, AGENT]);
    let daemon = bench.start().await;
    std::fs::remove_file(bench.path("agent.sock")).unwrap();
    let pid = format!("pid {}", daemon.pid());
    let report = bench.doctor().await;
    report.expect(&fail("daemon", &["no scm-agent answers"], &["the file of its socket is gone", &pid]));
    report.expect_quiet("state");
}
