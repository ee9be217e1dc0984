//! Programs that commands start to look at something, none of which may keep a command waiting or fill its memory.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a program may take, also on a machine that has too much to do.
pub(super) const LIMIT: Duration = Duration::from_secs(8);

/// As much as any of them has to say: git lists its whole configuration.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// How often is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended by itself: whether well, and what it printed.
    Ended(bool, Vec<u8>),
    /// It could not be started.
    NotStarted,
    /// It took too long, or had too much to say, and was ended.
    TooSlow,
}

/// What a program prints that ends well, within [`LIMIT`].
pub(super) fn output(command: &mut Command) -> Option<Vec<u8>> {
    match run(command, LIMIT) {
        Outcome::Ended(true, printed) => Some(printed),
        _ => None,
    }
}

/// The same as text.
pub(super) fn text(command: &mut Command) -> Option<String> {
    output(command).map(|printed| String::from_utf8_lossy(&printed).into_owned())
}

/// Runs a program without standard input to its end or the limit.
pub(super) fn run(command: &mut Command, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    // A group of its own, so that what it starts can be ended with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let Ok(mut child) = command.spawn() else { return Outcome::NotStarted };
    let (tell, told) = mpsc::channel();
    let printed = child.stdout.take();
    // What it started may hold the pipe open after it: the thread is not waited for.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = printed.map(|printed| printed.take(MAX_BYTES as u64).read_to_end(&mut bytes));
        let _ = tell.send(bytes);
    });
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            _ => {
                end(&mut child);
                return Outcome::TooSlow;
            }
        }
    };
    match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(bytes) if bytes.len() < MAX_BYTES => Outcome::Ended(status.success(), bytes),
        _ => Outcome::TooSlow,
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(&mut command, limit)
    }

    #[test]
    fn a_program_is_heard_out_and_not_waited_for_for_ever() {
        let patient = Duration::from_secs(60);
        assert_eq!(shell("echo x", patient), Outcome::Ended(true, b"x\n".to_vec()));
        assert_eq!(shell("echo y; exit 3", patient), Outcome::Ended(false, b"y\n".to_vec()));
        assert_eq!(shell("exec sleep 600", Duration::from_millis(20)), Outcome::TooSlow);
        assert!(matches!(shell("exec cat /dev/zero", patient), Outcome::TooSlow));
        assert_eq!(run(&mut Command::new("/nonexistent/program"), patient), Outcome::NotStarted);
    }

    #[test]
    fn what_a_program_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", note.display());
        let child = std::thread::spawn(move || shell(&script, Duration::from_secs(5)));
        let started = loop {
            match std::fs::read_to_string(&note) {
                Ok(pid) => break pid.trim().to_owned(),
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        assert_eq!(child.join().unwrap(), Outcome::TooSlow);
        // Whoever inherits it may not have waited for it yet.
        let is_gone = || {
            std::fs::read_to_string(format!("/proc/{started}/stat"))
                .map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_gone() {
            assert!(Instant::now() < deadline, "{started} goes on");
            std::thread::sleep(PAUSE);
        }
    }
}
