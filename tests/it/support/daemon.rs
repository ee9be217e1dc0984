//! The real daemon as a child process, and the real helper and git in front of it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::git_host::git;

/// How long anything here may take before the test gives up. Far more than it needs: it bounds a hang, it measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: Arc<Mutex<String>>,
    logging: JoinHandle<()>,
}

impl Daemon {
    /// Starts `command run --config FILE` and waits until its socket answers.
    pub async fn start(command: Command, config: &Path, socket: &Path) -> Self {
        let mut daemon = Self::spawn(command, config, socket);
        daemon.until_serving().await;
        daemon
    }

    /// Starts a command that is a daemon as it is, and waits until its socket answers.
    pub async fn start_as(command: Command, socket: &Path) -> Self {
        let mut daemon = Self::spawn_as(command, socket);
        daemon.until_serving().await;
        daemon
    }

    /// Starts `command run --config FILE` without waiting.
    pub fn spawn(mut command: Command, config: &Path, socket: &Path) -> Self {
        command.args(["run", "--config"]).arg(config);
        Self::spawn_as(command, socket)
    }

    fn spawn_as(command: Command, socket: &Path) -> Self {
        Self::spawn_with(command, socket, Stdio::null())
    }

    /// Starts a command that is a daemon as it is with something for its standard input, without waiting.
    pub fn spawn_with(mut command: Command, socket: &Path, stdin: Stdio) -> Self {
        command
            .env_remove("SCM_AGENT_CONFIG")
            .env("NO_PROXY", "127.0.0.1,localhost")
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&log);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let logging = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, socket: socket.to_owned(), log, logging }
    }

    /// Waits until the socket answers.
    pub async fn until_serving(&mut self) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while UnixStream::connect(&self.socket).await.is_err() {
                if let Ok(Some(status)) = self.child.try_wait() {
                    panic!("the daemon ended with {status}:\n{}", self.log());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(waited.is_ok(), "the daemon does not serve:\n{}", self.log());
    }

    /// Waits until the status has what is looked for, and returns it.
    pub async fn until(&self, what: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let status = self.status().await;
                if what(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        match waited {
            Ok(status) => status,
            Err(_) => panic!("never came about; status: {}\nlog:\n{}", self.status().await, self.log()),
        }
    }

    /// Waits until a list of integrations has arrived and every secret in it was looked at.
    pub async fn until_synced(&self) -> serde_json::Value {
        self.until(|status| status["sync"]["last_success"].is_u64()).await
    }

    /// Waits until it has logged some words.
    pub async fn until_logged(&self, words: &str) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.log().contains(words) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "never logged {words:?}:\n{}", self.log());
    }

    /// The answer to the verb `status`.
    pub async fn status(&self) -> serde_json::Value {
        let answer = self.ask("scm-agent/1 status\n\n").await;
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no JSON: {answer}"))
    }

    /// Sends text to the socket and returns all that comes back.
    pub async fn ask(&self, text: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    /// What a connection is told before it has said anything.
    pub async fn ask_busy(&self) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Ends it with SIGTERM and returns everything it has logged, to the last line.
    pub async fn ended_log(mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        (&mut self.logging).await.unwrap();
        self.log()
    }

    /// Ends it with SIGKILL and returns what it has logged, unlike [`Daemon::log`] to the end of what it wrote. What it had still to
    /// say of what it did is not there; [`Daemon::ended_log`] has that.
    pub async fn final_log(mut self) -> String {
        self.child.kill().await.unwrap();
        (&mut self.logging).await.unwrap();
        self.log()
    }

    /// Everything it has logged that has arrived here.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }
}

/// A git whose only credential helper is ours, talking to `socket`.
pub fn git_with_helper(directory: &Path, helper: &Path, socket: &Path) -> Command {
    let mut command = git(directory);
    command.args(["-c", "credential.helper="]);
    command.arg("-c").arg(format!("credential.helper={} --socket {}", helper.display(), socket.display()));
    command
}

/// Runs a command to its end, feeding it `input`.
pub async fn run(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap()
}

/// Runs a command that must succeed; what it printed on standard output.
pub async fn succeed(command: Command) -> String {
    let output = run(command, "").await;
    assert!(output.status.success(), "failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
