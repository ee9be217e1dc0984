//! What is counted, and whoever asks for it: a table of what happens with the numbers that it moves, and clients that want to be a nuisance.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::Command;

use crate::support::daemon::{Daemon, PATIENCE, run};
use crate::support::http::Answer;
use crate::support::issuer::Manner;
use crate::support::scene::{CLIENT_SECRET, Scene};
use crate::support::world::RUNNER_ID;

const HOST: &str = "scm.example.com";
const LISTEN: &str = "[metrics]\nlisten = \"unix:metrics.sock\"\n";

/// The samples of a scrape: `name{labels}` and the number.
type Samples = BTreeMap<String, f64>;

/// A daemon with an integration, whose metrics are at a Unix socket.
async fn scene() -> (Scene, Daemon) {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, HOST)]);
    let daemon = scene.world.start(&configure(&scene, LISTEN)).await;
    daemon.until_synced().await;
    (scene, daemon)
}

/// Writes the configuration with lines at its end.
fn configure(scene: &Scene, more: &str) -> PathBuf {
    let url = scene.control_plane.base_url();
    let lines = format!("url = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"1s\"\nwatch = false");
    scene.world.config_with(&lines, more)
}

/// Runs `scm-agent reload`; whether it succeeded.
async fn reload(scene: &Scene) -> bool {
    let mut command = Command::from(scene.world.agent(&["reload", "--config"]));
    command.arg(scene.world.path("config.toml")).current_dir(scene.world.directory());
    command.env("SCM_AGENT__AGENT__SOCKET", scene.world.socket());
    run(command, "").await.status.success()
}

/// Sends bytes and reads until the end, or until the server has had enough.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    let exchange = async {
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}

/// The answer to a request on the Unix socket, which is there sooner or later.
async fn ask(socket: &Path, request: &str) -> String {
    exchange(connect(socket).await, request.as_bytes()).await
}

async fn connect(socket: &Path) -> UnixStream {
    let connecting = async {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, connecting).await.unwrap()
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn scrape(scene: &Scene) -> Samples {
    samples(&ask(&scene.world.path("metrics.sock"), GET).await)
}

fn samples(answer: &str) -> Samples {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut samples = Samples::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} is there twice");
    }
    samples
}

/// Scrapes until a sample is what it should be.
async fn until(scene: &Scene, name: &str, value: f64) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while scrape(scene).await.get(name).is_none_or(|found| (found - value).abs() > f64::EPSILON) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "{name} never was {value}: {:?}", scrape(scene).await.get(name));
}

/// The counters of a part of the names that are other than before, and by how much.
fn moved(before: &Samples, after: &Samples, parts: &[&str]) -> BTreeSet<String> {
    let counts = |name: &str| {
        let is_count = name.contains("_total") || name.contains("_count");
        is_count && parts.iter().any(|part| name.starts_with(&format!("scm_agent_{part}")))
    };
    let change = |(name, value): (&String, &f64)| (name.clone(), value - before.get(name).copied().unwrap_or_default());
    let changes = after.iter().filter(|(name, _)| counts(name)).map(change).filter(|(_, change)| change.abs() > f64::EPSILON);
    changes.map(|(name, change)| format!("{} +{change}", name.strip_prefix("scm_agent_").unwrap())).collect()
}

/// What happens, as it is sent to the daemon, and all that moves of what is counted with requests and tokens.
#[tokio::test]
async fn each_thing_that_happens_moves_its_numbers_and_no_other() {
    const PARTS: [&str; 7] =
        ["requests", "request_duration", "denied", "connections_accepted", "token_requests", "token_request_duration", "tokens"];
    let (scene, daemon) = scene().await;
    let get = |host: &str| format!("scm-agent/1 get\nprotocol=https\nhost={host}\n\n");
    let request = |operation, outcome, token| {
        vec![
            format!("connections_accepted_total +1"),
            format!("requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}} +1"),
            format!("request_duration_seconds_count{{token=\"{token}\"}} +1"),
        ]
    };
    let and = |mut lines: Vec<String>, more: &[&str]| {
        lines.extend(more.iter().map(|line| (*line).to_owned()));
        lines
    };
    let issued = "token_requests_total{grant=\"client_credentials\",provider=\"other\",outcome=\"issued\"} +1";
    let table = [
        (get(HOST), and(request("get", "credential", "fetched"), &[issued, "token_request_duration_seconds_count +1"])),
        (get(HOST), request("get", "credential", "cached")),
        (get("elsewhere.example"), request("get", "silence", "none")),
        (format!("scm-agent/1 store\nprotocol=https\nhost={HOST}\nusername=x\npassword=y\n\n"), request("store", "silence", "other")),
        (format!("scm-agent/1 erase\nprotocol=https\nhost={HOST}\nusername=x\npassword=y\n\n"), request("erase", "silence", "other")),
        ("scm-agent/1 erase\nprotocol=https\nhost=TOKEN\n\n".to_owned(), {
            and(request("erase", "silence", "other"), &["tokens_rejected_total{outcome=\"replaced\"} +1"])
        }),
        (format!("scm-agent/1 explain\nprotocol=https\nhost={HOST}\n\n"), request("explain", "document", "other")),
        ("scm-agent/1 accounts\n\n".to_owned(), request("accounts", "document", "other")),
        ("scm-agent/1 ping\n\n".to_owned(), request("ping", "document", "other")),
        ("scm-agent/1 trust\nid=canary\n\n".to_owned(), {
            and(request("trust", "error", "other"), &["denied_total{reason=\"malformed\"} +1"])
        }),
        ("scm-agent/1 canary\n\n".to_owned(), { and(request("other", "error", "other"), &["denied_total{reason=\"malformed\"} +1"]) }),
        ("scm-agent/1 get\nprotocol=https\nno-separator\n\n".to_owned(), {
            and(request("get", "error", "none"), &["denied_total{reason=\"malformed\"} +1"])
        }),
        ("GET / HTTP/1.1\n\n".to_owned(), {
            let counted = ["connections_accepted_total +1", "denied_total{reason=\"malformed\"} +1"];
            and(counted.map(str::to_owned).to_vec(), &["requests_total{operation=\"other\",outcome=\"error\"} +1"])
        }),
    ];
    let mut token = String::new();
    for (text, expected) in table {
        let before = scrape(&scene).await;
        let text = text.replace("TOKEN", &format!("{HOST}\nusername=oauth2\npassword={token}"));
        let answer = daemon.ask(&text).await;
        token = answer.lines().find_map(|line| line.strip_prefix("password=")).map_or(token, str::to_owned);
        let after = scrape(&scene).await;
        assert_eq!(moved(&before, &after, &PARTS), expected.into_iter().collect(), "{text}\n{answer}");
    }
    // Each new list has secrets tried, and a newer one has them tried again: how often, hangs on when the lists came.
    assert!(scrape(&scene).await["scm_agent_decrypts_total{algorithm=\"rsa\",outcome=\"success\"}"] >= 1.0);
}

#[tokio::test]
async fn what_goes_wrong_is_counted_by_who_can_mend_it() {
    let (scene, daemon) = scene().await;
    let get = format!("scm-agent/1 get\nprotocol=https\nhost={HOST}\n\n");
    let token = |outcome: &str| format!("token_requests_total{{grant=\"client_credentials\",provider=\"other\",outcome=\"{outcome}\"}} +1");
    for (manner, outcome) in [(Manner::GitLabRefusal, "refused"), (Manner::Unavailable, "failed")] {
        scene.issuer.set_manner(manner);
        // Settings that are in force again let everything be tried again.
        assert!(reload(&scene).await);
        let before = scrape(&scene).await;
        daemon.ask(&get).await;
        let after = scrape(&scene).await;
        let expected = [token(outcome), "requests_total{operation=\"get\",outcome=\"quit\"} +1".to_owned()];
        assert_eq!(moved(&before, &after, &["token_requests", "requests"]), expected.into_iter().collect(), "{outcome}");
    }
    until(&scene, "scm_agent_tokens{grant=\"service\",state=\"failing\"}", 1.0).await;
    assert!(scrape(&scene).await["scm_agent_degraded_reasons"] >= 1.0);
    // A source in trouble passes; one that does not know the token waits for an operator.
    let before = scrape(&scene).await;
    // Not each of these is for the list: the registered key is asked for too.
    scene.control_plane.fail_next(4, Answer::new(503, "text/plain", "canary"));
    let transient = "scm_agent_syncs_total{outcome=\"transient\"}";
    let waited = tokio::time::timeout(PATIENCE, async {
        while scrape(&scene).await[transient] < before[transient] + 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok());
    scene.control_plane.set_token("another-token-0123456789");
    let waited = tokio::time::timeout(PATIENCE, async {
        while scrape(&scene).await["scm_agent_syncs_total{outcome=\"operator\"}"] < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok());
    let after = scrape(&scene).await;
    assert!(after["scm_agent_sync_duration_seconds_count"] >= before["scm_agent_sync_duration_seconds_count"] + 2.0);
    let waited = tokio::time::timeout(PATIENCE, async {
        while scrape(&scene).await["scm_agent_sync_consecutive_failures"] < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok());
}

#[tokio::test]
async fn counters_go_on_over_a_reload_and_rules_that_deny_are_counted() {
    let (scene, daemon) = scene().await;
    let get = format!("scm-agent/1 get\nprotocol=https\nhost={HOST}\n\n");
    daemon.ask(&get).await;
    let before = scrape(&scene).await;
    configure(&scene, &format!("{LISTEN}[[access]]\nhosts = [\"other.example\"]\nallow = [\"service\"]\n"));
    assert!(reload(&scene).await);
    daemon.ask(&get).await;
    configure(&scene, &format!("{LISTEN}[[access]]\n"));
    assert!(!reload(&scene).await);
    let after = scrape(&scene).await;
    let expected = [
        "denied_total{reason=\"access_rules\"} +1",
        "reloads_total{outcome=\"failure\"} +1",
        "reloads_total{outcome=\"success\"} +1",
        "requests_total{operation=\"get\",outcome=\"denied\"} +1",
        "requests_total{operation=\"reload\",outcome=\"document\"} +2",
    ];
    assert_eq!(moved(&before, &after, &["denied", "reloads", "requests"]), expected.map(str::to_owned).into());
    assert!(after["scm_agent_requests_total{operation=\"get\",outcome=\"credential\"}"] >= 1.0, "begun anew");
    assert_eq!(after["scm_agent_reload_last_successful"].to_string(), "0");
    configure(&scene, LISTEN);
    assert!(reload(&scene).await);
    until(&scene, "scm_agent_reload_last_successful", 1.0).await;
}

#[tokio::test]
async fn what_is_held_is_looked_at_and_what_is_lost_is_revoked() {
    let (scene, daemon) = scene().await;
    scene.issuer.set_metadata("revocation_endpoint", json!(scene.issuer.revocation_url()));
    let mut sealed_for_another = scene.integration(2, "sealed.example");
    sealed_for_another["oauth"]["encryptedClientSecret"] = json!("AAAA");
    scene.control_plane.set_integrations(vec![scene.integration(1, HOST), sealed_for_another]);
    until(&scene, "scm_agent_integrations{secret=\"undecryptable\"}", 1.0).await;
    daemon.ask(&format!("scm-agent/1 get\nprotocol=https\nhost={HOST}\n\n")).await;
    until(&scene, "scm_agent_tokens{grant=\"service\",state=\"valid\"}", 1.0).await;
    let seen = scrape(&scene).await;
    for (name, value) in [
        ("integrations{secret=\"ok\"}", 1.0),
        ("connections_limit", 256.0),
        ("connections", 0.0),
        ("store_healthy", 1.0),
        ("sync_watching", 0.0),
        ("sync_poll_interval_seconds", 1.0),
        ("sync_consecutive_failures", 0.0),
        (concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(seen[&format!("scm_agent_{name}")].to_string(), value.to_string(), "{name}");
    }
    assert!(seen["scm_agent_decrypts_total{algorithm=\"none\",outcome=\"failure\"}"] >= 1.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for name in
        ["scm_agent_sync_last_success_timestamp_seconds", "scm_agent_sync_last_attempt_timestamp_seconds", "process_start_time_seconds"]
    {
        assert!((now - 600.0..now + 600.0).contains(&seen[name]), "{name}");
    }
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_cpu_seconds_total"] {
        assert!(seen[name] > 0.0, "{name}");
    }
    scene.control_plane.set_integrations(Vec::new());
    until(&scene, "scm_agent_revocations_total{outcome=\"revoked\"}", 1.0).await;
    until(&scene, "scm_agent_tokens{grant=\"service\",state=\"valid\"}", 0.0).await;
}

#[tokio::test]
async fn a_scrape_is_in_the_format_that_is_asked_for_and_says_nothing_else() {
    let (scene, daemon) = scene().await;
    assert!(scene.token(&daemon, HOST).await.is_ok());
    let socket = scene.world.path("metrics.sock");
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let open = ask(&socket, &GET.replace("\r\n\r\n", &format!("\r\n{accept}\r\n"))).await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{open}");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE scm_agent_requests counter\n"));
    let text = ask(&socket, GET).await;
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    assert!(!text.contains("# EOF") && text.contains("# TYPE scm_agent_requests_total counter\n"));
    assert_eq!(samples(&open).into_keys().collect::<Vec<_>>(), samples(&text).into_keys().collect::<Vec<_>>());
    let head = ask(&socket, &GET.replace("GET", "HEAD")).await;
    let (lines, body) = head.split_once("\r\n\r\n").unwrap();
    assert!(lines.starts_with("HTTP/1.1 200 OK") && body.is_empty(), "{head}");
    for (request, expected) in [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /metrics?canary=1 HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("GET /metrics/../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 Method Not Allowed"),
        ("DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
    ] {
        let answer = ask(&socket, request).await;
        assert!(answer.starts_with(expected), "{request}\n{answer}");
        assert!(!expected.contains("405") || answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    // No name of anybody or anything, and no secret.
    let token = scene.token(&daemon, HOST).await.unwrap();
    let uid = format!("\"{}\"", rustix::process::getuid().as_raw());
    for word in [HOST, "scm.example", "canary", CLIENT_SECRET, RUNNER_ID, &token, "uid", &uid, "/"] {
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert!(!body.contains(word), "{word} is in a scrape");
    }
}

#[tokio::test]
async fn clients_that_want_to_be_a_nuisance_hold_nobody_up() {
    let (scene, daemon) = scene().await;
    let socket = scene.world.path("metrics.sock");
    // Far more than there are places for, which say nothing, half of something, or too much; and all of them stay.
    let mut held = Vec::new();
    for number in 0..100 {
        let mut stream = connect(&socket).await;
        let begun = match number % 4 {
            0 => Vec::new(),
            1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ".to_vec(),
            2 => [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 8 * 1024]].concat(),
            _ => b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
        };
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(&begun)).await;
        held.push(stream);
        if number % 10 == 0 {
            assert!(scrape(&scene).await.contains_key("scm_agent_connections"));
        }
    }
    assert!(scene.token(&daemon, HOST).await.is_ok());
    assert!(scrape(&scene).await.contains_key("scm_agent_connections"));
    // Each of them is shown the door, whatever it waits for.
    for mut stream in held {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a connection stays open");
    }
    // What is no HTTP, or too much of it, is ended or answered with an error.
    let many_headers = (0..500).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    for request in [
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"scm-agent/1 get\n\n".to_vec(),
        b"GET /metrics HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "m".repeat(100_000)).into_bytes(),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000)).into_bytes(),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{many_headers}\r\n").into_bytes(),
    ] {
        let answer = exchange(connect(&socket).await, &request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    // Who asks and does not read.
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&socket).await;
        stream.write_all(GET.as_bytes()).await.unwrap();
        deaf.push(stream);
    }
    assert!(scrape(&scene).await.contains_key("scm_agent_connections"));
    assert!(daemon.status().await["degraded"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn over_tcp_only_names_of_this_machine_are_answered_and_a_port_that_is_taken_is_waited_for() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, HOST)]);
    let daemon = scene.world.start(&configure(&scene, &format!("[metrics]\nlisten = \"{address}\"\n"))).await;
    let says_so = |status: &serde_json::Value| status["degraded"].to_string().contains(&format!("cannot serve metrics at {address}"));
    daemon.until(says_so).await;
    assert!(scene.token(&daemon, HOST).await.is_ok());
    drop(taken);
    daemon.until(|status| !says_so(status)).await;
    let port = address.port();
    for (host, is_answered) in [
        (format!("Host: 127.0.0.1:{port}\r\n"), true),
        (format!("Host: LocalHost:{port}\r\n"), true),
        (format!("Host: [::1]:{port}\r\n"), true),
        ("Host: localhost\r\n".to_owned(), true),
        (format!("Host: canary.example:{port}\r\n"), false),
        ("Host: localhost.canary.example\r\n".to_owned(), false),
        ("Host: 192.0.2.1\r\n".to_owned(), false),
        ("Host: localhost\r\nHost: canary.example\r\n".to_owned(), false),
        ("Host: localhost@canary.example\r\n".to_owned(), false),
        (String::new(), false),
    ] {
        for path in ["/metrics", "/healthz"] {
            let stream = TcpStream::connect(address).await.unwrap();
            let answer = exchange(stream, format!("GET {path} HTTP/1.1\r\n{host}\r\n").as_bytes()).await;
            let expected = if is_answered { "HTTP/1.1 200 " } else { "HTTP/1.1 4" };
            assert!(answer.starts_with(expected), "{host}\n{answer}");
            assert!(is_answered || !answer.contains("scm_agent_"));
        }
    }
    let stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(stream, b"GET http://canary.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

#[tokio::test]
async fn a_reload_moves_the_listener_and_one_that_cannot_listen_changes_nothing() {
    let (scene, daemon) = scene().await;
    let (first, second) = (scene.world.path("metrics.sock"), scene.world.path("other.sock"));
    connect(&first).await;
    let metadata = std::fs::metadata(&first).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    // In the way of the next one.
    std::fs::write(&second, "precious").unwrap();
    configure(&scene, "[metrics]\nlisten = \"unix:other.sock\"\n");
    assert!(!reload(&scene).await);
    assert!(scrape(&scene).await.contains_key("scm_agent_connections"));
    std::fs::remove_file(&second).unwrap();
    assert!(reload(&scene).await);
    assert!(samples(&ask(&second, GET).await).contains_key("scm_agent_connections"));
    let gone = tokio::time::timeout(PATIENCE, async {
        while first.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(gone.await.is_ok(), "the first socket is still there");
    // A cleaner of old files does not end it.
    std::fs::remove_file(&second).unwrap();
    assert!(samples(&ask(&second, GET).await).contains_key("scm_agent_connections"));
    // The same again is nothing new; without the section nobody is answered.
    assert!(reload(&scene).await);
    assert!(samples(&ask(&second, GET).await).contains_key("scm_agent_connections"));
    configure(&scene, "");
    assert!(reload(&scene).await);
    let gone = tokio::time::timeout(PATIENCE, async {
        while UnixStream::connect(&second).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(gone.await.is_ok(), "the second socket still answers");
    configure(&scene, LISTEN);
    assert!(reload(&scene).await);
    assert!(scrape(&scene).await.contains_key("scm_agent_connections"));
    // Its file goes with the daemon.
    daemon.signal(Signal::TERM);
    let gone = tokio::time::timeout(PATIENCE, async {
        while first.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(gone.await.is_ok(), "the socket is still there");
}

/// `name`, `type` and `labels` of the table in docs/metrics.md.
fn documented() -> BTreeSet<(String, String, String)> {
    let rows =
        include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| `scm_agent_") || line.starts_with("| `process_"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(|line| {
        let cells = cells(line);
        (cells[0].trim_matches('`').to_owned(), cells[1].clone(), cells[2].replace(['`', ' '], ""))
    })
    .collect()
}

#[tokio::test]
async fn the_documented_metrics_are_those_of_a_scrape() {
    let (scene, _daemon) = scene().await;
    let text = ask(&scene.world.path("metrics.sock"), GET).await;
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut found = BTreeSet::new();
    let mut current = (String::new(), String::new());
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            current = (name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').map_or(String::new(), |(_, rest)| rest.rsplit_once('}').unwrap().0.to_owned());
            let names = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name);
            let names: Vec<&str> = names.filter(|name| *name != "le").collect();
            found.insert((current.0.clone(), current.1.clone(), names.join(",")));
        }
    }
    assert_eq!(documented(), found);
}
