//! A git host in the process: smart HTTP through the real `git http-backend`, open only to tokens that are live now.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::http::{Answer, FakeServer, Received};

/// Serves the bare repositories below a directory.
pub struct GitHost {
    server: FakeServer,
    refused: Arc<AtomicUsize>,
}

impl GitHost {
    /// Serves `root` to requests whose Basic user name and password `accepts` says yes to.
    pub async fn start(root: &Path, accepts: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        let accepts = move |authorization: &str| credentials(authorization).is_some_and(|(user, password)| accepts(&user, &password));
        Self::start_with(root, "Basic realm=\"git\"", accepts).await
    }

    /// Serves `root` to requests whose `Authorization` header `accepts` says yes to, and challenges the others.
    pub async fn start_with(root: &Path, challenge: &'static str, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let root = root.to_owned();
        let accepts = Arc::new(accepts);
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let server = FakeServer::start(move |request| {
            let (root, accepts, count) = (root.clone(), Arc::clone(&accepts), Arc::clone(&count));
            async move {
                if accepts(request.header("authorization")) {
                    return backend(root, request).await;
                }
                count.fetch_add(1, Ordering::Relaxed);
                Answer::new(401, "text/plain", "who are you?").header("www-authenticate", challenge)
            }
        })
        .await;
        Self { server, refused }
    }

    /// `127.0.0.1:PORT`, as an integration names it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The URL of a repository.
    pub fn url(&self, repository: &str) -> String {
        self.server.url(&format!("/{repository}"))
    }

    /// How many requests it has turned away.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Makes an empty bare repository that takes pushes over HTTP.
pub async fn create_repository(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    run_git(root, &["init", "--quiet", "--bare", "--initial-branch=main", name]).await;
    run_git(&path, &["config", "http.receivepack", "true"]).await;
    path
}

async fn run_git(directory: &Path, arguments: &[&str]) {
    let status = git(directory).args(arguments).status().await.unwrap();
    assert!(status.success(), "git {arguments:?} failed");
}

/// A git that sees no configuration but what it is given, and never asks.
pub fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env("HOME", directory)
        .env("XDG_CONFIG_HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env_remove("GIT_ASKPASS")
        .env_remove("SSH_ASKPASS")
        .env("GIT_AUTHOR_NAME", "A Developer")
        .env("GIT_AUTHOR_EMAIL", "developer@example.com")
        .env("GIT_COMMITTER_NAME", "A Developer")
        .env("GIT_COMMITTER_EMAIL", "developer@example.com")
        // A proxy of the machine has no business on loopback.
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn credentials(authorization: &str) -> Option<(String, String)> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Runs `git http-backend` for one request, by the rules of CGI (RFC 3875).
async fn backend(root: PathBuf, request: Received) -> Answer {
    let mut child = git(&root)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", request.header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", request.header("git-protocol"))
        .env("GIT_PROTOCOL", request.header("git-protocol"))
        .env("REMOTE_USER", "token")
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body;
    let writer = tokio::spawn(async move {
        let _ = stdin.write_all(&body).await;
    });
    let output = child.wait_with_output().await.unwrap();
    let _ = writer.await;
    let split = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.stdout.len());
    let head = String::from_utf8_lossy(&output.stdout[..split]).into_owned();
    let mut answer = Answer { status: 200, headers: Vec::new(), body: output.stdout.get(split + 4..).unwrap_or_default().to_vec() };
    for line in head.lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => answer.status = status.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(500),
            Some((name, value)) => answer.headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => {}
        }
    }
    answer
}
