//! One request and its answer over the agent's socket, within one time limit for all of it.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::git::Wiped;
use crate::git::frame::MAX_ANSWER_BYTES;
use crate::git::relay::complete_answer;

/// How long the agent has to answer, in milliseconds: less than [`HARD_SECONDS`], to leave time for saying so.
pub(crate) const ANSWER_MILLISECONDS: u64 = 9_500;

/// How long a helper may live after git's request was read, in seconds.
pub(crate) const HARD_SECONDS: u32 = 10;

/// The instant at which to give up, whatever arrived by then.
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// That long from now.
    pub(crate) fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    /// Waits that long; says no, at once, where the deadline would pass meanwhile.
    pub(crate) fn pause(&self, duration: Duration) -> bool {
        let enough = self.0.saturating_duration_since(Instant::now()) > duration;
        if enough {
            std::thread::sleep(duration);
        }
        enough
    }

    /// What is left of it; never zero, which the socket calls would take for no limit.
    fn remaining(&self) -> Result<Duration, ExchangeError> {
        let remaining = self.0.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(ExchangeError::Timeout) } else { Ok(remaining) }
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExchangeError {
    /// The agent closed the connection before its answer was complete.
    Closed,
    /// Nobody listens, or not for this caller.
    Connect(io::ErrorKind),
    /// The connection broke.
    Io(io::ErrorKind),
    /// The deadline passed.
    Timeout,
    /// The answer exceeds [`MAX_ANSWER_BYTES`].
    TooLong,
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("it closed the connection without an answer"),
            Self::Connect(io::ErrorKind::ConnectionRefused) => f.write_str("nobody listens there"),
            Self::Connect(io::ErrorKind::NotFound) => f.write_str("there is no such socket"),
            Self::Connect(kind) | Self::Io(kind) => write!(f, "{kind}"),
            Self::Timeout => f.write_str("it took too long"),
            Self::TooLong => write!(f, "its answer is longer than {MAX_ANSWER_BYTES} bytes"),
        }
    }
}

/// Connects to the agent. Bounded by the process's alarm only: the standard library has no limit for this.
///
/// # Errors
/// [`ExchangeError::Connect`].
pub(crate) fn connect(path: &Path) -> Result<UnixStream, ExchangeError> {
    UnixStream::connect(path).map_err(|error| ExchangeError::Connect(error.kind()))
}

/// Sends the request and returns the answer without its final blank line.
///
/// # Errors
/// [`ExchangeError`] for anything but a whole answer before the deadline.
pub(crate) fn exchange(connection: &mut UnixStream, request: &Wiped, deadline: &Deadline) -> Result<Wiped, ExchangeError> {
    match send(connection, request.expose_secret(), deadline) {
        // An agent that is too busy answers and closes without reading: what it said is still to be read.
        Ok(()) | Err(ExchangeError::Io(io::ErrorKind::BrokenPipe)) => receive(connection, deadline),
        Err(error) => Err(error),
    }
}

fn send(connection: &mut UnixStream, mut rest: &[u8], deadline: &Deadline) -> Result<(), ExchangeError> {
    while !rest.is_empty() {
        // Set anew each time, so that the deadline is one for all of it.
        connection.set_write_timeout(Some(deadline.remaining()?)).map_err(|error| ExchangeError::Io(error.kind()))?;
        match connection.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) => retry(&error)?,
        }
    }
    Ok(())
}

fn receive(connection: &mut UnixStream, deadline: &Deadline) -> Result<Wiped, ExchangeError> {
    let mut answer = Wiped::with_capacity(READ_BYTES);
    let mut chunk = Wiped::zeroed(READ_BYTES);
    loop {
        connection.set_read_timeout(Some(deadline.remaining()?)).map_err(|error| ExchangeError::Io(error.kind()))?;
        match connection.read(chunk.expose_secret_mut()) {
            Ok(0) => return Err(ExchangeError::Closed),
            Ok(count) => {
                let before = answer.len();
                answer.extend(&chunk.expose_secret()[..count]);
                let end = complete_answer(answer.expose_secret(), before);
                if end.unwrap_or(answer.len()) > MAX_ANSWER_BYTES {
                    return Err(ExchangeError::TooLong);
                }
                if let Some(end) = end {
                    answer.truncate(end);
                    return Ok(answer);
                }
            }
            Err(error) => retry(&error)?,
        }
    }
}

const READ_BYTES: usize = 1_024;

/// Whether to try again after `error`.
fn retry(error: &io::Error) -> Result<(), ExchangeError> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(ExchangeError::Timeout),
        io::ErrorKind::ConnectionReset => Err(ExchangeError::Closed),
        kind => Err(ExchangeError::Io(kind)),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    /// What [`exchange`] makes of an agent that does `agent` with its end of the connection.
    fn against(limit: Duration, agent: impl FnOnce(UnixStream) + Send + 'static) -> Result<Vec<u8>, ExchangeError> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || agent(theirs));
        let answer = exchange(&mut ours, &Wiped::from(&b"scm-agent/1 get\n\n"[..]), &Deadline::after(limit));
        drop(ours);
        agent.join().unwrap();
        answer.map(|answer| answer.expose_secret().to_vec())
    }

    #[test]
    fn an_answer_ends_with_its_blank_line_and_not_with_the_connection() {
        let answer = against(LONG, |mut stream| {
            stream.write_all(b"username=u\npassword=p\n\n").unwrap();
            // Held open until the other side has closed.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(answer.unwrap(), b"username=u\npassword=p\n");
        assert_eq!(against(LONG, |mut stream| stream.write_all(b"\n").unwrap()).unwrap(), b"");
    }

    #[test]
    fn an_answer_may_come_in_single_bytes() {
        let answer = against(LONG, |mut stream| {
            for byte in b"username=u\npassword=p\n\n" {
                stream.write_all(&[*byte]).unwrap();
                thread::yield_now();
            }
        });
        assert_eq!(answer.unwrap(), b"username=u\npassword=p\n");
    }

    #[test]
    fn an_answer_without_blank_line_is_none() {
        for half in [&b""[..], b"username=u", b"username=u\npassword=p\n"] {
            let answer = against(LONG, move |mut stream| {
                let mut request = [0; 17];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(half).unwrap();
            });
            assert_eq!(answer, Err(ExchangeError::Closed), "{}", half.escape_ascii());
        }
    }

    #[test]
    fn an_agent_that_answers_without_reading_is_heard() {
        let answer = against(LONG, |mut stream| stream.write_all(b"error=too many connections\n\n").unwrap());
        assert_eq!(answer.unwrap(), b"error=too many connections\n");
    }

    #[test]
    fn a_silent_agent_is_given_up_at_the_deadline() {
        let answer = against(Duration::from_millis(20), |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(answer, Err(ExchangeError::Timeout));
    }

    #[test]
    fn a_dripping_agent_does_not_extend_the_deadline() {
        let answer = against(Duration::from_millis(60), |mut stream| {
            // Each byte comes well within the limit; all of them do not.
            for byte in [b'a'; 400].iter().chain(b"=\n\n") {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(answer, Err(ExchangeError::Timeout));
    }

    #[test]
    fn a_deadline_that_has_passed_sends_nothing() {
        let answer = against(Duration::ZERO, |mut stream| {
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).unwrap();
            assert!(seen.is_empty());
        });
        assert_eq!(answer, Err(ExchangeError::Timeout));
    }

    #[test]
    fn an_answer_may_be_as_long_as_promised_and_no_longer() {
        let of = |length: usize| {
            against(LONG, move |mut stream| {
                let _ = stream.write_all(&[vec![b'a'; length - 1], b"\n\n".to_vec()].concat());
            })
        };
        assert_eq!(of(MAX_ANSWER_BYTES).unwrap().len(), MAX_ANSWER_BYTES);
        assert_eq!(of(MAX_ANSWER_BYTES + 1), Err(ExchangeError::TooLong));
    }

    #[test]
    fn an_endless_answer_is_given_up() {
        let answer = against(LONG, |mut stream| while stream.write_all(&[b'a'; 4_096]).is_ok() {});
        assert_eq!(answer, Err(ExchangeError::TooLong));
    }
}
