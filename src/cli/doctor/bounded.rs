//! Programs that doctor starts, none of which may keep it waiting.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a program may take, also on a machine that has too much to do.
pub(super) const LIMIT: Duration = Duration::from_secs(8);

/// As much as any of them has to say.
const MAX_BYTES: u64 = 1024 * 1024;

/// How often is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended by itself: whether well, and what it printed.
    Ended(bool, String),
    /// It could not be started.
    NotStarted,
    /// It took too long and was ended.
    TooSlow,
}

/// Runs a program without standard input to its end or the limit.
pub(super) fn run(mut command: Command, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
        return Outcome::NotStarted;
    };
    let (tell, told) = mpsc::channel();
    let printed = child.stdout.take();
    // What it started may hold the pipe open after it: the thread is not waited for.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = printed.map(|printed| printed.take(MAX_BYTES).read_to_end(&mut bytes));
        let _ = tell.send(bytes);
    });
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Outcome::TooSlow;
            }
        }
    };
    match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(bytes) => Outcome::Ended(status.success(), String::from_utf8_lossy(&bytes).into_owned()),
        Err(_) => Outcome::TooSlow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit)
    }

    #[test]
    fn a_program_is_heard_out_and_not_waited_for_for_ever() {
        let patient = Duration::from_secs(60);
        assert_eq!(shell("echo x", patient), Outcome::Ended(true, "x\n".to_owned()));
        assert_eq!(shell("echo y; exit 3", patient), Outcome::Ended(false, "y\n".to_owned()));
        assert_eq!(shell("exec sleep 600", Duration::from_millis(20)), Outcome::TooSlow);
        assert_eq!(run(Command::new("/nonexistent/program"), patient), Outcome::NotStarted);
    }
}
