//! The whole flow: the real daemon, the real helper and real git, against fakes of what is not ours.

use std::sync::Arc;

use serde_json::json;

use crate::support::daemon::{PATIENCE, git_with_helper, run, succeed};
use crate::support::git_host::{GitHost, create_repository, git};
use crate::support::scene::{CLIENT_ID, Scene};
use crate::support::world::{RUNNER_ID, World};

/// A git host that accepts the issuer's live tokens.
async fn git_host(scene: &Scene) -> GitHost {
    let root = scene.world.path("repositories");
    std::fs::create_dir(&root).unwrap();
    create_repository(&root, "project.git").await;
    let tokens = scene.issuer.tokens();
    GitHost::start(&root, move |_, password| tokens.is_live(password)).await
}

#[tokio::test]
async fn git_clones_and_pushes_with_nothing_but_the_helper() {
    let scene = Scene::new(crate::binaries()).await;
    let host = git_host(&scene).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, &host.host())]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    let git_in = |directory: &std::path::Path, arguments: &[&str]| {
        let mut command = git_with_helper(directory, &scene.world.binaries.helper, daemon.socket());
        command.args(arguments);
        command
    };

    // The control: without the helper the host lets nobody in.
    let mut alone = git(scene.world.directory());
    alone.args(["clone", "--quiet", &host.url("project.git"), "alone"]);
    assert!(!run(alone, "").await.status.success());
    assert!(host.refused() > 0);

    succeed(git_in(scene.world.directory(), &["clone", "--quiet", &host.url("project.git"), "work"])).await;
    let work = scene.world.path("work");
    std::fs::write(work.join("file"), "content\n").unwrap();
    succeed(git_in(&work, &["add", "file"])).await;
    succeed(git_in(&work, &["commit", "--quiet", "--message", "Add a file"])).await;
    succeed(git_in(&work, &["push", "--quiet", "origin", "HEAD:main"])).await;
    let pushed = succeed(git_in(&work, &["ls-remote", "origin", "main"])).await;
    let head = succeed(git_in(&work, &["rev-parse", "HEAD"])).await;
    assert!(pushed.starts_with(head.trim()), "{pushed}");
    assert_eq!(scene.issuer.token_requests(), 1, "one token serves them all");

    let status = daemon.status().await;
    assert_eq!(status["degraded"], json!([]));
    assert_eq!(status["integrations"][0]["grant"], "service");
    assert_eq!(status["integrations"][0]["secret"], "ok");
    assert_eq!(status["integrations"][0]["tokens"][0]["state"], "valid");
    assert!(daemon.terminate().await.success());
    assert!(!scene.world.socket().exists());
}

#[tokio::test]
async fn a_hundred_requests_on_a_cold_cache_cause_one_token_request() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com")]);
    scene.issuer.set_delay(std::time::Duration::from_millis(300));
    let daemon = Arc::new(scene.world.start(&scene.config("1s")).await);
    daemon.until_synced().await;
    let mut fills = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
        command.args(["credential", "fill"]);
        fills.spawn(run(command, "protocol=https\nhost=scm.example.com\n\n"));
    }
    let mut answers = std::collections::HashSet::new();
    while let Some(output) = fills.join_next().await {
        let output = output.unwrap();
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), daemon.log());
        answers.insert(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    assert_eq!(answers.len(), 1, "everyone gets the same token");
    assert_eq!(scene.issuer.token_requests(), 1);
}

#[tokio::test]
async fn one_bad_secret_among_250_leaves_the_others_served_and_is_named() {
    let scene = Scene::new(crate::binaries()).await;
    let mut integrations: Vec<_> = (0..250).map(|number| scene.integration(number, &format!("host-{number}.example.com"))).collect();
    integrations[137]["oauth"]["encryptedClientSecret"] = json!("AAAA");
    scene.control_plane.set_integrations(integrations);
    let daemon = scene.world.start(&scene.config("1s")).await;
    let status = daemon
        .until(|status| {
            status["integrations"].as_array().is_some_and(|list| list.iter().any(|integration| integration["secret"] == "undecryptable"))
        })
        .await;
    assert_eq!(scene.control_plane.list_calls(), 3, "three pages");
    let secrets = |state: &str| status["integrations"].as_array().unwrap().iter().filter(|it| it["secret"] == state).count();
    assert_eq!((secrets("ok"), secrets("undecryptable")), (249, 1));
    let bad = "0196f3a4-0000-7000-8000-000000000137";
    assert!(status["degraded"].as_array().unwrap().iter().any(|reason| reason.as_str().unwrap().contains(bad)), "{}", status["degraded"]);
    let (ok, answer, _) = scene.world.fill(&daemon, "https", "host-249.example.com").await;
    assert!(ok && answer.contains("\npassword="), "{answer}");
    let (ok, answer, error) = scene.world.fill(&daemon, "https", "host-137.example.com").await;
    assert!(!ok && !answer.contains("password="), "{answer}");
    assert!(error.contains(bad) && error.contains("scm-agent doctor"), "{error}");
}

#[tokio::test]
async fn a_control_plane_that_comes_up_later_is_found_without_a_restart() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com")]);
    scene.control_plane.fail_next(10_000, crate::support::control_plane::connect_error("unavailable", "not yet"));
    let daemon = scene.world.start(&scene.config("1s")).await;
    let status = daemon.until(|status| status["sync"]["consecutive_failures"].as_u64() >= Some(2)).await;
    assert_eq!(status["sync"]["last_success"], json!(null));
    assert!(status["degraded"][0].as_str().unwrap().contains("unavailable"), "{status}");
    scene.control_plane.recover();
    daemon.until_synced().await;
    let (ok, answer, error) = scene.world.fill(&daemon, "https", "scm.example.com").await;
    assert!(ok && answer.contains("\npassword="), "{error}");
    // And when it goes away again, the last list goes on serving.
    scene.control_plane.fail_next(10_000, crate::support::control_plane::connect_error("unavailable", "again"));
    daemon.until(|status| status["sync"]["consecutive_failures"].as_u64() >= Some(1)).await;
    assert!(scene.world.fill(&daemon, "https", "scm.example.com").await.0);
}

#[tokio::test]
async fn an_integration_that_is_removed_stops_answering_and_its_token_goes() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com")]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    assert!(scene.world.fill(&daemon, "https", "scm.example.com").await.0);
    scene.control_plane.set_integrations(vec![]);
    daemon.until(|status| status["integrations"] == json!([])).await;
    let (_, answer, _) = scene.world.fill(&daemon, "https", "scm.example.com").await;
    assert!(!answer.contains("password="), "{answer}");
    // Back again, it gets a token of its own.
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com")]);
    let status = daemon.until(|status| status["integrations"] != json!([])).await;
    assert_eq!(status["integrations"][0]["tokens"], json!([]));
}

#[tokio::test]
async fn hosts_that_are_not_ours_get_silence() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com")]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    for (protocol, host) in
        [("https", "other.example.com"), ("http", "scm.example.com"), ("https", "scm.example.com:8443"), ("ssh", "scm.example.com")]
    {
        assert_eq!(daemon.ask(&format!("scm-agent/1 get\nprotocol={protocol}\nhost={host}\n\n")).await, "\n", "{protocol}://{host}");
    }
    assert_eq!(scene.issuer.token_requests(), 0);
}

#[tokio::test]
async fn an_issuer_that_refuses_the_app_is_named_and_git_is_told_not_to_ask() {
    let scene = Scene::new(crate::binaries()).await;
    let mut integration = scene.world.integration(1, "scm.example.com", CLIENT_ID, &scene.world.seal("not the secret"));
    integration["oauth"]["issuerUrl"] = json!(scene.issuer.issuer_url());
    scene.control_plane.set_integrations(vec![integration]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    let answer = daemon.ask("scm-agent/1 get\nprotocol=https\nhost=scm.example.com\n\n").await;
    assert!(answer.contains("message=") && answer.contains("invalid_client") && answer.contains("quit=1"), "{answer}");
    // Asking again soon does not reach the issuer.
    let requests = scene.issuer.token_requests();
    let again = daemon.ask("scm-agent/1 get\nprotocol=https\nhost=scm.example.com\n\n").await;
    assert_eq!((again.as_str(), scene.issuer.token_requests()), (answer.as_str(), requests));
}

#[tokio::test]
async fn a_broken_request_is_refused_without_its_text_and_harms_nobody() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    let huge = format!("scm-agent/1 get\nhost={}\n\n", "h".repeat(70_000));
    for broken in [
        "GET / HTTP/1.1\r\n\r\n",
        "scm-agent/2 get\n\n",
        "scm-agent/1 DROP\n\n",
        "scm-agent/1 get\nno equals sign canary\n\n",
        "scm-agent/1 get\nprotocol=https\nhost=canary\0\n\n",
        "scm-agent/1 get\nprotocol=https\nprotocol=https\nhost=canary\n\n",
        "scm-agent/1 get\nhost=canary\n\n",
        "scm-agent/1 nonsense\n\n",
        &huge,
    ] {
        let answer = daemon.ask(broken).await;
        assert!(answer.starts_with("error=") && answer.ends_with("\n\n") && !answer.contains("canary"), "{answer:?}");
    }
    assert!(!daemon.log().contains("canary"));
    // The refused ones are all gone; the one that asks is left.
    daemon.until(|status| status["connections"] == 1).await;
}

#[tokio::test]
async fn a_client_that_dribbles_is_cut_off_and_nobody_waits_for_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    let mut slow = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
    slow.write_all(b"scm-agent/1 ge").await.unwrap();
    daemon.status().await;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, slow.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("error=the request did not arrive in time"), "{answer}");
}

#[tokio::test]
async fn requests_can_follow_each_other_on_a_connection() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![]);
    let daemon = scene.world.start(&scene.config("1s")).await;
    daemon.until_synced().await;
    let one = "scm-agent/1 get\nprotocol=https\nhost=other.example.com\n\n";
    assert_eq!(daemon.ask(&one.repeat(3)).await, "\n\n\n");
}

#[tokio::test]
async fn a_daemon_that_cannot_start_says_why_and_ends_with_2() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let run = |config: &str, name: &str| {
        let path = world.path(name);
        std::fs::write(&path, config).unwrap();
        let output = world.agent(&["run", "--config"]).arg(&path).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let source = "[control_plane]\nfile = \"integrations.json\"\n";
    let key = "[key]\nfiles = [\"runner.pem\"]\n";
    // Not the running daemon's, which is in use.
    let agent = "[agent]\nstate_dir = \"other-state\"\n";
    std::fs::write(world.path("occupied"), "precious").unwrap();
    let daemon = world.start(&world.config("")).await;
    for (name, config, expected) in [
        ("no-key", format!("{source}{agent}"), "key.files"),
        ("missing-key", format!("{source}[key]\nfiles = [\"nowhere.pem\"]\n{agent}"), "nowhere.pem"),
        ("no-token", format!("[control_plane]\nrunner_id = \"{RUNNER_ID}\"\n{key}{agent}"), "control_plane.token_file"),
        ("misspelt", format!("{source}{key}{agent}soket = \"a.sock\"\n"), "socket"),
        ("no-group", format!("{source}{key}{agent}socket = \"b.sock\"\nsocket_group = \"no-such-group\"\n"), "no-such-group"),
        ("occupied-socket", format!("{source}{key}{agent}socket = \"occupied\"\n"), "not a socket"),
        ("live-socket", format!("{source}{key}{agent}socket = \"agent.sock\"\n"), "another scm-agent is running"),
        ("bad-ca", format!("[control_plane]\nfile = \"integrations.json\"\nca_file = \"occupied\"\n{key}{agent}"), "CA file"),
    ] {
        let (code, error) = run(&config, name);
        assert_eq!(code, Some(2), "{name}: {error}");
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.contains("hint: ") || error.contains("key.files"), "{name} names no way out: {error}");
    }
    assert_eq!(std::fs::read(world.path("occupied")).unwrap(), b"precious");
    daemon.status().await;
}

#[tokio::test]
async fn a_socket_whose_file_was_removed_is_there_again_soon() {
    let world = World::new(crate::binaries());
    world.write_list(&[]);
    let daemon = world.start(&world.config("")).await;
    std::fs::remove_file(daemon.socket()).unwrap();
    let back = tokio::time::timeout(PATIENCE, async {
        while tokio::net::UnixStream::connect(daemon.socket()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    assert!(back.await.is_ok(), "{}", daemon.log());
    daemon.status().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_told_so_and_helpers_wait_for_a_place() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, "scm.example.com")]);
    let config = scene.config("1s");
    let text = std::fs::read_to_string(&config).unwrap().replace("[agent]\n", "[agent]\nmax_connections = 2\nread_timeout = \"60s\"\n");
    std::fs::write(&config, text).unwrap();
    let daemon = scene.world.start(&config).await;
    daemon.until_synced().await;
    // Connections that rest between two requests take every place, also the eight that are kept for the daemon's own user.
    let mut resting = Vec::new();
    for _ in 0..10 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
        stream.write_all(b"scm-agent/1 erase\nprotocol=https\nhost=other.example.com\n\n").await.unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).await.unwrap();
        resting.push(stream);
    }
    assert_eq!(daemon.ask_busy().await, "error=too many connections\n\n");
    let fill = scene.world.fill(&daemon, "https", "scm.example.com");
    let free = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        resting.clear();
    };
    let ((ok, answer, error), ()) = tokio::join!(fill, free);
    assert!(ok && answer.contains("\npassword="), "{error}");
}
