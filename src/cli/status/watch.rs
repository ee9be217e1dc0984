//! `status --watch`: the page again and again. On a terminal it stays in its place, and the terminal is left as it was found.

use std::fmt::Write as _;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::page::{self, span};
use super::table::{clean, wrap};
use super::{Args, view};
use crate::cli::style::Style;
use crate::cli::{Io, client};
use crate::error::Error;
use crate::status::Status;

/// Another screen than the one with the shell's lines, without a cursor, where lines that are too long are cut.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";

/// Back to the shell's.
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// What is drawn in between is shown at once, by terminals that know this.
const BEGIN: &str = "\u{1b}[?2026h\u{1b}[H";
const END: &str = "\u{1b}[J\u{1b}[?2026l";

/// Shows the status every so often. A daemon that does not answer is waited for.
///
/// # Errors
/// When the terminal cannot be used.
pub(super) fn run(args: &Args, socket: &Path, every: Duration, io: &mut Io<'_>) -> Result<(), Error> {
    if io.stdout_is_terminal && !args.json {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(on_screen(args, socket, every));
        // A question that is under way is not waited for.
        runtime.shutdown_background();
        return outcome;
    }
    loop {
        let mut text = block(args, client::ask(socket, "status"));
        text.push('\n');
        match io.stdout.write_all(text.as_bytes()).and_then(|()| io.stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome?,
        }
        std::thread::sleep(every);
    }
}

/// One answer for who reads line by line: pages with a blank line between them, or a document a line.
fn block(args: &Args, answer: Result<Status, Error>) -> String {
    match (answer, args.json) {
        (Ok(status), true) => serde_json::to_string(&status).unwrap_or_default(),
        (Ok(status), false) => page::lines(&status, &view(args, false)).join("\n") + "\n",
        (Err(error), true) => serde_json::json!({ "error": error.sentence() }).to_string(),
        (Err(error), false) => format!("health       no answer: {}\n", clean(&error.sentence())),
    }
}

async fn on_screen(args: &Args, socket: &Path, every: Duration) -> Result<(), Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut hangup, mut resized) = (signal(SignalKind::hangup())?, signal(SignalKind::window_change())?);
    let mut suspended = signal(SignalKind::from_raw(libc::SIGTSTP))?;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen { answer: None, every, problem: None };
    let mut question: Option<JoinHandle<Result<Status, String>>> = None;
    let mut screen = Screen::enter()?;
    let mut keys = keyboard();
    loop {
        let answered = async {
            match &mut question {
                Some(question) => question.await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match &mut keys {
                Some(keys) => drop(keys.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = answered => {
                question = None;
                match answer.unwrap_or_else(|_| Err("asking failed for a defect of scm-agent".to_owned())) {
                    Ok(status) => (seen.answer, seen.problem) = (Some((status, Instant::now())), None),
                    Err(problem) => seen.problem = Some(problem),
                }
            }
            _ = ticks.tick() => {
                if question.is_none() {
                    question = Some(ask(socket.to_owned()));
                }
                continue;
            }
            _ = resized.recv() => {}
            () = ended => return Ok(()),
            _ = suspended.recv() => {
                drop(screen);
                let _ = kill_process(getpid(), Signal::STOP);
                screen = Screen::enter()?;
            }
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
        screen.draw(&seen.lines(args))?;
    }
}

fn ask(socket: PathBuf) -> JoinHandle<Result<Status, String>> {
    tokio::task::spawn_blocking(move || client::ask(&socket, "status").map_err(|error| error.sentence()))
}

/// What is known so far.
struct Seen {
    answer: Option<(Status, Instant)>,
    every: Duration,
    problem: Option<String>,
}

impl Seen {
    /// The lines that fit the screen.
    fn lines(&self, args: &Args) -> Vec<String> {
        let mut view = view(args, true);
        let height = super::screen().map_or(24, |(_, height)| height);
        let head = format!("scm-agent status, every {}; q ends", span(self.every.as_secs()));
        let mut lines = vec![view.paint.text(Style::Dim, &head)];
        if let Some(problem) = &self.problem {
            let age = self.answer.as_ref().map(|(_, at)| format!("; what follows is {} old", span(at.elapsed().as_secs())));
            let problem = format!("! {problem}{}", age.unwrap_or_default());
            lines.extend(wrap(&problem, 0, view.width).iter().map(|line| view.paint.text(Style::Bad, line)));
        }
        lines.push(String::new());
        view.limit = view.limit.map(|limit| limit.saturating_sub(lines.len()));
        if let Some((status, _)) = &self.answer {
            lines.extend(page::lines(status, &view));
        }
        if lines.len() > height {
            lines.truncate(height.saturating_sub(1));
            lines.push("\u{2026}".to_owned());
        }
        lines
    }
}

/// The terminal while it is ours.
struct Screen {
    /// How the keyboard was found.
    found: Option<Termios>,
}

impl Screen {
    fn enter() -> Result<Self, Error> {
        // First, so that whatever fails is followed by leaving.
        let screen = Self { found: by_single_keys() };
        let mut stdout = std::io::stdout();
        stdout.write_all(ENTER.as_bytes())?;
        stdout.flush()?;
        Ok(screen)
    }

    /// Shows these lines and nothing else, in one piece.
    fn draw(&mut self, lines: &[String]) -> Result<(), Error> {
        let mut text = BEGIN.to_owned();
        for (number, line) in lines.iter().enumerate() {
            let end = if number + 1 < lines.len() { "\r\n" } else { "" };
            let _ = write!(text, "{line}\u{1b}[K{end}");
        }
        text.push_str(END);
        let mut stdout = std::io::stdout();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(LEAVE.as_bytes()).and_then(|()| stdout.flush());
        if let Some(found) = &self.found {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, found);
        }
    }
}

/// Has keys come one by one and unseen, and none of them stop the output; how it was before. `None` where nobody types.
fn by_single_keys() -> Option<Termios> {
    let found = tcgetattr(std::io::stdin()).ok()?;
    let mut single = found.clone();
    single.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    single.input_modes -= InputModes::IXON;
    tcsetattr(std::io::stdin(), OptionalActions::Now, &single).ok()?;
    Some(found)
}

/// Tells when somebody wants it to end, or the terminal is gone: reading it waits, so a thread does that, until the process ends.
fn keyboard() -> Option<mpsc::Receiver<()>> {
    // Where nobody types, nobody wants anything.
    tcgetattr(std::io::stdin()).ok()?;
    let (end, ended) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut keys = [0; 64];
        loop {
            match rustix::io::read(std::io::stdin().as_fd(), &mut keys) {
                // Control characters come as such where the terminal makes no signals of them.
                Ok(count) if count > 0 && !keys[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 0x03 | 0x04)) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        let _ = end.blocking_send(());
    });
    Some(ended)
}
