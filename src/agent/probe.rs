//! Asks the daemon through its own socket whether it answers, as git's helper would.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::git::frame;

/// The longest answer that is read: one to `ping` is far shorter.
const MAX_ANSWER_BYTES: u64 = 1_024;

/// Whether a daemon with this process id takes connections on the socket and answers. To be given a deadline.
///
/// # Errors
/// When nobody can connect there.
pub async fn answers(socket: &Path, pid: u32) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    let exchange = async {
        // One that is too busy answers without reading.
        let _ = stream.write_all(format!("{} ping\n\n", frame::PROTOCOL).as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let Ok(answer) = exchange.await else { return Ok(false) };
    let text = String::from_utf8_lossy(&answer);
    let is_ours = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|answer| answer["pid"] == pid);
    Ok(is_ours || text.lines().any(|line| line.strip_prefix("error=") == Some(frame::BUSY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found out about a listener that answers each request with a text.
    async fn found(answer: &'static str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"scm-agent/1 ping\n\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        // It stays until both are done: what comes after its end would be a refusal.
        let ((), found) = tokio::join!(serving, answers(&path, 7));
        found.unwrap()
    }

    #[tokio::test]
    async fn only_the_daemon_itself_or_one_that_is_busy_answers() {
        assert!(found("{\"pid\":7}\n\n").await);
        assert!(found("error=too many connections\n\n").await);
        for other in ["{\"pid\":8}\n\n", "", "error=this scm-agent does not know that verb\n\n"] {
            assert!(!found(other).await, "{other}");
        }
        assert!(answers(Path::new("/nonexistent/agent.sock"), 7).await.is_err());
    }
}
