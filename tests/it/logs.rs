//! The log: its documentation, and what comes out of a daemon in each format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use scm_agent::git::frame::is_hidden;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use crate::support::daemon::{Daemon, PATIENCE, run};
use crate::support::scene::{BEARER, CLIENT_SECRET, Scene};

/// Every source file of the daemon.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The arguments of a macro call whose text begins here, up to its end: split at commas that are not within brackets or quotes.
fn arguments(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut is_quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for c in text.chars() {
        if is_quoted {
            is_quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                '"' => is_quoted = true,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(String::new());
                    continue;
                }
                _ => {}
            }
        }
        parts.last_mut().unwrap().push(c);
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The events of the audit log with their fields, as the source has them.
fn events_in_the_source() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, marker) in text.match_indices("target: \"audit\",") {
            let arguments = arguments(&text[at + marker.len()..]);
            let line = text[..at].lines().count();
            let event = arguments[0].strip_prefix("event = \"").and_then(|rest| rest.strip_suffix('"'));
            let event = event.unwrap_or_else(|| panic!("{}:{line}: an audit line begins with its event", file.display()));
            let fields = arguments[1..].iter().filter(|argument| !argument.starts_with('"'));
            let fields = fields.map(|field| field.split(" = ").next().unwrap().trim_start_matches(['%', '?']).to_owned());
            events.entry(event.to_owned()).or_default().extend(fields);
        }
    }
    events
}

/// The first cells of the rows under a heading whose first cell is this one, with their second.
fn table<'t>(page: &'t str, heading: &str) -> Vec<(&'t str, &'t str)> {
    let rows = page.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1], cells[2])).collect()
}

#[test]
fn each_event_of_the_audit_log_is_documented_with_its_fields_and_no_other() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md")).unwrap();
    let rows = table(&page, "event");
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted(), "{names:?}");
    let documented: BTreeMap<String, BTreeSet<String>> = rows
        .into_iter()
        .map(|(event, fields)| {
            let fields = fields.split(", ").filter(|field| !field.is_empty()).map(str::to_owned).collect();
            (event.trim_matches('`').to_owned(), fields)
        })
        .collect();
    let events = events_in_the_source();
    assert!(events.len() > 20, "{events:?}");
    for (event, fields) in &events {
        let known = documented.get(event).unwrap_or_else(|| panic!("docs/logs.md does not know the event {event} with {fields:?}"));
        assert_eq!(fields, known, "the fields of {event} in the source and in docs/logs.md");
    }
    for event in documented.keys() {
        assert!(events.contains_key(event), "docs/logs.md has the event {event}, which nothing logs");
    }
}

/// A daemon with these lines in `[log]`, an integration and the secrets that no log may hold.
async fn scene(log: &str) -> (Scene, Daemon, PathBuf) {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, HOST)]);
    let config = scene.config("1s");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[log]\n", &format!("[log]\n{log}\n"))).unwrap();
    let daemon = scene.world.start(&config).await;
    daemon.until_synced().await;
    (scene, daemon, config)
}

const HOST: &str = "scm.example.com";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["event"].as_str()).collect()
}

#[tokio::test]
async fn a_file_has_the_audit_log_and_nothing_else_and_follows_its_name_when_the_settings_are_read_again() {
    let (scene, daemon, config) = scene("format = \"json\"\naudit_file = \"audit.jsonl\"").await;
    let (file, moved) = (scene.world.path("audit.jsonl"), scene.world.path("audit.jsonl.1"));
    let token = scene.token(&daemon, HOST).await.unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    let audit = lines(&written);
    assert_eq!(events(&audit).len(), audit.len(), "{written}");
    for event in ["key_loaded", "started", "token_fetched", "token_given"] {
        assert!(events(&audit).contains(&event), "{event}\n{written}");
    }
    let given = audit.iter().find(|line| line["event"] == "token_given").unwrap();
    assert_eq!(
        (&given["host"], &given["uid"]),
        (&Value::from(format!("https://{HOST}")), &Value::from(rustix::process::getuid().as_raw())),
        "{given}"
    );
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);

    // As logrotate does it, with settings that are taken over and with some that are not.
    for (round, lines) in ["", "[agent]\n"].into_iter().enumerate() {
        std::fs::rename(&file, &moved).unwrap();
        let before = std::fs::read_to_string(&moved).unwrap();
        std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + lines).unwrap();
        daemon.signal(Signal::HUP);
        let news = ["reloaded", "not_reloaded"][round];
        daemon.until_logged(&format!("\"event\":\"{news}\"")).await;
        scene.token(&daemon, HOST).await.unwrap();
        let now = std::fs::read_to_string(&file).unwrap();
        assert!(now.contains("\"event\":\"token_given\""), "{round}: {now}");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), before, "{round}");
    }
    let text = std::fs::read_to_string(&file).unwrap() + &written;
    let log = daemon.final_log().await;
    let logged = self::lines(&log);
    // Each line of the file is one of the log, which has others too.
    for line in self::lines(&written) {
        assert!(logged.contains(&line), "{line}");
    }
    assert!(logged.iter().any(|line| line["target"] != "audit"), "{log}");
    for secret in [CLIENT_SECRET, BEARER, &token] {
        assert!(!log.contains(secret) && !text.contains(secret));
    }
}

#[tokio::test]
async fn a_place_where_no_audit_log_can_be_is_an_error_at_the_start_and_none_for_a_daemon_that_runs() {
    let (scene, daemon, config) = scene("format = \"json\"").await;
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[log]\n", "[log]\naudit_file = \"none/audit.jsonl\"\n")).unwrap();
    daemon.signal(Signal::HUP);
    let status = daemon.until(|status| status["degraded"] != serde_json::json!([])).await;
    assert!(status["degraded"][0].as_str().unwrap().contains("log.audit_file: "), "{status}");
    scene.token(&daemon, HOST).await.unwrap();
    // Another form and an audit log begin with a reload.
    std::fs::write(&config, text.replace("format = \"json\"", "audit_file = \"audit.jsonl\"")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.until_logged(" INFO audit: the settings were read again and are in force event=\"reloaded\"\n").await;
    assert!(std::fs::read_to_string(scene.world.path("audit.jsonl")).unwrap().contains("\"event\":\"reloaded\""));
    drop(daemon.final_log().await);

    std::os::unix::fs::symlink("/dev/null", scene.world.path("link")).unwrap();
    std::fs::write(&config, text.replace("[log]\n", "[log]\naudit_file = \"link\"\n")).unwrap();
    let mut command = scene.world.daemon_command();
    command.args(["run", "--config"]).arg(&config);
    let output = run(command, "").await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("log.audit_file: ") && said.contains("it is a link"), "{said}");
}

#[tokio::test]
async fn nothing_that_somebody_sends_makes_a_line_of_its_own_or_reaches_a_terminal() {
    for (form, log) in [("text", ""), ("json", "format = \"json\"")] {
        let (_scene, daemon, _) = scene(log).await;
        let evil = "x\u{1b}[2J\r\u{9b}1m event=\"signed_in\" uid=0 \u{202e}\u{2028}\"y";
        daemon.ask(&format!("scm-agent/1 trust\nid={evil}\nchange=z\n\n")).await;
        let log = daemon.final_log().await;
        let line = log.lines().find(|line| line.contains("trust_asked")).unwrap_or_else(|| panic!("{form}: {log}"));
        assert!(!line.contains(is_hidden), "{form}: {line:?}");
        match form {
            "json" => assert_eq!(serde_json::from_str::<Value>(line).unwrap()["integration"], evil),
            _ => assert!(line.contains(" integration=\"x\\u{1b}[2J\\r\\u{9b}1m event=\\\"signed_in\\\" uid=0 "), "{line}"),
        }
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_no_request_and_no_end_up() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![scene.integration(1, HOST)]);
    let mut command = scene.world.daemon_command();
    command.args(["run", "--config"]).arg(scene.config("1h"));
    let mut child = command.env("NO_PROXY", "127.0.0.1").stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let ask = async || {
        let mut stream = tokio::net::UnixStream::connect(scene.world.socket()).await?;
        stream.write_all(b"scm-agent/1 trust\nid=an-integration-of-that-name\nchange=a-change-of-that-name\n\n").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let served = tokio::time::timeout(PATIENCE, async {
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Each is a line, and together they are much more than a pipe holds.
        for _ in 0..1_500 {
            assert!(ask().await.unwrap().contains("accepted"));
        }
    });
    served.await.expect("the daemon waits for who reads its log");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the daemon's end waits for who reads its log").unwrap();
    assert!(status.success(), "{status}");
}

/// A terminal of a given size, with what was written to it.
struct Terminal {
    master: std::fs::File,
    slave: std::fs::File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(columns: u16, rows: u16) -> Self {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc_noctty()).open(name).unwrap();
        let master = std::fs::File::from(master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, sink) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let terminal = Self { master, slave, shown };
        terminal.resize(columns, rows);
        terminal
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.slave, size).unwrap();
    }

    /// Starts a command with this as all of its streams.
    fn start(&self, scene: &Scene, config: &Path, arguments: &[&str]) -> tokio::process::Child {
        let mut command = scene.world.daemon_command();
        let stream = || Stdio::from(self.slave.try_clone().unwrap());
        command.args(arguments).arg("--config").arg(config).env("TERM", "xterm").env_remove("NO_COLOR").kill_on_drop(true);
        command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap()
    }

    /// Waits for words, and forgets all that was shown up to their end.
    async fn until(&self, words: &str) -> String {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let found = self.shown.lock().unwrap().find(words);
                if let Some(at) = found {
                    return self.shown.lock().unwrap().drain(..at + words.len()).collect();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("never shown {words:?}: {:?}", self.shown.lock().unwrap()))
    }

    fn modes(&self) -> rustix::termios::LocalModes {
        rustix::termios::tcgetattr(&self.slave).unwrap().local_modes
    }
}

fn libc_noctty() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap()
}

#[tokio::test]
async fn a_terminal_shows_colours_that_fit_it_and_a_pipe_plain_text() {
    let (scene, _daemon, config) = scene("").await;
    let terminal = Terminal::new(60, 30);
    assert!(terminal.start(&scene, &config, &["status"]).wait().await.unwrap().success());
    let shown = terminal.until("\u{1b}[2m-\u{1b}[0m\r\n").await;
    assert!(shown.contains("\u{1b}[32mok\u{1b}[0m") && shown.contains(HOST) && !shown.contains("INTEGRATION"), "{shown:?}");
    terminal.start(&scene, &config, &["status", "--color=never"]).wait().await.unwrap();
    let shown = terminal.until("TOKEN").await;
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let mut command = scene.world.daemon_command();
    command.args(["status", "--config"]).arg(&config);
    let text = String::from_utf8(run(command, "").await.stdout).unwrap();
    assert!(text.starts_with("health       ok\ndaemon ") && text.contains("INTEGRATION") && !text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn a_watched_status_outlives_the_daemon_follows_the_size_and_leaves_the_terminal_as_it_was() {
    const LEFT: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
    let (scene, daemon, config) = scene("").await;
    for end in [None, Some(Signal::INT), Some(Signal::TERM)] {
        let mut terminal = Terminal::new(100, 30);
        let before = terminal.modes();
        let mut child = terminal.start(&scene, &config, &["status", "--watch", "1"]);
        terminal.until("\u{1b}[?1049h").await;
        let shown = terminal.until("INTEGRATION").await;
        assert!(shown.contains("every 1s; q ends"), "{shown:?}");
        assert_ne!(terminal.modes(), before);
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        // The terminal tells those that it controls, and this one controls nobody.
        terminal.resize(50, 4);
        rustix::process::kill_process(pid, Signal::WINCH).unwrap();
        terminal.until("\u{2026}\u{1b}[K\u{1b}[J").await;
        match end {
            None => terminal.master.write_all(b"xq").unwrap(),
            Some(signal) => rustix::process::kill_process(pid, signal).unwrap(),
        }
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        terminal.until(LEFT).await;
        assert!(status.success() && terminal.modes() == before, "{end:?}: {status}");
    }

    // Wide enough for the sentence to be one line.
    let terminal = Terminal::new(250, 30);
    let _child = terminal.start(&scene, &config, &["status", "--watch", "1"]);
    terminal.until("INTEGRATION").await;
    drop(daemon.final_log().await);
    terminal.until("no scm-agent answers on").await;
    terminal.until("what follows is").await;
    let _daemon = scene.world.start(&config).await;
    let (mut shown, mut rounds) = (terminal.until("\u{1b}[J\u{1b}[?2026l").await, 0);
    while shown.contains("answers on") {
        rounds += 1;
        assert!(rounds < 60, "{shown:?}");
        shown = terminal.until("\u{1b}[J\u{1b}[?2026l").await;
    }
}

#[tokio::test]
async fn a_status_that_is_watched_through_a_pipe_is_a_page_or_a_document_each_time() {
    let (scene, _daemon, config) = scene("").await;
    for (json, begins) in [(false, "health       ok"), (true, "{\"version\":\"")] {
        let mut command = scene.world.daemon_command();
        command.args(["status", "--watch=1", "--config"]).arg(&config).args(json.then_some("--json"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut output = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let read = tokio::time::timeout(PATIENCE, async {
            while seen < 2 {
                let line = output.next_line().await.unwrap().unwrap();
                assert!(!line.contains('\u{1b}'), "{line:?}");
                seen += usize::from(line.starts_with(begins));
            }
        });
        read.await.unwrap();
        // Who reads no more ends it.
        drop(output);
        assert!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
    }
}
