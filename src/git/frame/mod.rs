//! How requests and answers travel over the agent's socket.
//!
//! A request is one line `scm-agent/1 VERB`, git's own request text and a blank line. The answer to `get`, `store` and `erase`
//! is git's own answer text and a blank line, with two keys of ours that the helper keeps from git: `message` is one line for
//! the user, `error` says why the request was refused, and the daemon closes after it.

use std::fmt;

use super::request::MAX_LINE_BYTES;
use super::{Operation, Wiped};

pub use super::request::MAX_REQUEST_BYTES;

/// The protocol's name and version, as the first line of a request carries them.
pub const PROTOCOL: &str = "scm-agent/1";

/// Longest answer to git that the helper reads, in bytes.
pub const MAX_ANSWER_BYTES: usize = 65_536;

/// Longest `message` or `error` in bytes; longer ones are cut.
pub const MAX_MESSAGE_BYTES: usize = 1_024;

/// Longest name of a verb in bytes.
pub const MAX_VERB_BYTES: usize = 32;

/// The `error` of a connection that found no free place: the same request may be served a moment later.
pub const BUSY: &str = "too many connections";

/// The `error` of a request of a user who makes too many: the same request may be served a moment later.
pub const TOO_FAST: &str = "too many requests";

/// What a request asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// One of git's operations; the body is git's text.
    Git(Operation),
    /// Any other name: `[a-z-]`, at most [`MAX_VERB_BYTES`] long.
    Other(String),
}

/// One request, complete.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub verb: Verb,
    /// The lines up to the blank one, each with its line end; what they say is not looked at yet.
    pub body: Wiped,
}

/// A request after which a connection is of no use: where the next one starts is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A body over [`MAX_REQUEST_BYTES`], or a line of it over git's 65,535 bytes.
    TooLarge,
    /// A verb that is empty, too long, or has a character outside `[a-z-]`.
    Verb,
    /// The first line does not begin with [`PROTOCOL`].
    Version,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the request is longer than {MAX_REQUEST_BYTES} bytes"),
            Self::Verb => f.write_str("the request names no valid verb"),
            Self::Version => write!(f, "the request does not begin with {PROTOCOL}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Writes the request that asks the agent for `operation`.
///
/// `text` is what git sent, up to its blank line or its end.
pub fn write_request(operation: Operation, text: &[u8], out: &mut Wiped) {
    out.extend(PROTOCOL.as_bytes());
    out.extend(b" ");
    out.extend(operation.name().as_bytes());
    out.extend(b"\n");
    out.extend(text);
    // git may end its text without a line end.
    if !text.is_empty() && !text.ends_with(b"\n") {
        out.extend(b"\n");
    }
    out.extend(b"\n");
}

/// Length of git's text at the start of `bytes` without its blank line; `None` while there is none.
///
/// `searched` is how many of the bytes were there when it was asked for last.
#[must_use]
pub fn text_end(bytes: &[u8], searched: usize) -> Option<usize> {
    if bytes.starts_with(b"\n") || bytes.starts_with(b"\r\n") {
        return Some(0);
    }
    let from = searched.saturating_sub(2);
    let rest = bytes.get(from..)?;
    let ends = rest.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at + 1);
    ends.map(|end| (end, &rest[end..])).find(|(_, next)| next.starts_with(b"\n") || next.starts_with(b"\r\n")).map(|(end, _)| from + end)
}

/// Appends a `message` line to an answer: what the user should see, such as the command to run.
pub fn write_message(message: &str, out: &mut Vec<u8>) {
    write_text("message=", message, out);
}

/// Appends a whole answer that refuses a request; the connection is to be closed after it.
pub fn write_error(error: &dyn fmt::Display, out: &mut Vec<u8>) {
    write_text("error=", &error.to_string(), out);
    write_end(out);
}

/// Appends the blank line that ends an answer.
pub fn write_end(out: &mut Vec<u8>) {
    out.push(b'\n');
}

fn write_text(key: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(printable(text).as_bytes());
    out.push(b'\n');
}

/// One line that a terminal shows as it is: control characters, and those that turn the direction of writing or cannot be seen, become
/// blanks, and it is cut to [`MAX_MESSAGE_BYTES`].
#[must_use]
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_MESSAGE_BYTES));
    for character in text.chars().map(|character| if is_hidden(character) { ' ' } else { character }) {
        if line.len() + character.len_utf8() > MAX_MESSAGE_BYTES {
            break;
        }
        line.push(character);
    }
    line
}

/// Whether a character acts upon a terminal or cannot be seen there: controls, and what Unicode calls default-ignorable.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        )
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}')
        || matches!(character, '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(character, '\u{e0000}'..='\u{e0fff}')
}

/// Takes requests out of a stream of bytes, however it is cut into pieces.
///
/// Feed it with [`push`](Self::push) and call [`next_request`](Self::next_request) until it has none; no more than one read
/// plus one request is ever held.
#[derive(Debug, Default)]
pub struct RequestParser {
    buffer: Wiped,
    /// The verb and where its body starts, once the first line is in.
    head: Option<(Verb, usize)>,
    /// Start of the first body line that was not looked at yet.
    line_start: usize,
    /// Where to go on looking for that line's end.
    searched: usize,
    failed: Option<FrameError>,
}

impl RequestParser {
    /// A parser at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend(bytes);
        }
    }

    /// Whether the connection may end here: no request has begun.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next request, or `None` until more is pushed.
    ///
    /// # Errors
    /// [`FrameError`], and the same one from then on.
    pub fn next_request(&mut self) -> Result<Option<Request>, FrameError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.advance().inspect_err(|&error| {
                self.failed = Some(error);
                self.buffer = Wiped::default();
            }),
        }
    }

    fn advance(&mut self) -> Result<Option<Request>, FrameError> {
        let bytes = self.buffer.expose_secret();
        let body_start = match &self.head {
            Some((_, start)) => *start,
            None => {
                let Some((verb, start)) = read_head(bytes)? else { return Ok(None) };
                self.head = Some((verb, start));
                self.line_start = start;
                self.searched = start;
                start
            }
        };
        while let Some(length) = bytes[self.searched..].iter().position(|&byte| byte == b'\n') {
            let line_end = self.searched + length;
            self.searched = line_end + 1;
            let line = &bytes[self.line_start..line_end];
            // As git's reader: CRLF ends a line too.
            if line.is_empty() || line == b"\r" {
                let body = Wiped::from(&bytes[body_start..self.line_start]);
                let Some((verb, _)) = self.head.take() else { return Ok(None) };
                self.buffer.remove_front(line_end + 1);
                (self.line_start, self.searched) = (0, 0);
                return Ok(Some(Request { verb, body }));
            }
            if line.len() >= MAX_LINE_BYTES || line_end + 1 - body_start > MAX_REQUEST_BYTES {
                return Err(FrameError::TooLarge);
            }
            self.line_start = line_end + 1;
        }
        self.searched = bytes.len();
        // Room for a blank line with its CR after the longest body.
        let unfinished = bytes.len() - self.line_start;
        if unfinished >= MAX_LINE_BYTES || (unfinished > 1 && bytes.len() - body_start > MAX_REQUEST_BYTES) {
            return Err(FrameError::TooLarge);
        }
        Ok(None)
    }
}

/// Longest first line in bytes, without its line end.
const MAX_HEAD_BYTES: usize = PROTOCOL.len() + 1 + MAX_VERB_BYTES;

/// The verb of the first line and where the next line starts; `None` while the line is not complete.
fn read_head(bytes: &[u8]) -> Result<Option<(Verb, usize)>, FrameError> {
    let window = &bytes[..bytes.len().min(MAX_HEAD_BYTES + 1)];
    let line = match window.iter().position(|&byte| byte == b'\n') {
        Some(end) => &window[..end],
        None if window.len() <= MAX_HEAD_BYTES => return Ok(None),
        None => window,
    };
    let name = line.strip_prefix(PROTOCOL.as_bytes()).and_then(|rest| rest.strip_prefix(b" ")).ok_or(FrameError::Version)?;
    let name = std::str::from_utf8(name).map_err(|_| FrameError::Verb)?;
    if name.is_empty() || name.len() > MAX_VERB_BYTES || !name.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase()) {
        return Err(FrameError::Verb);
    }
    let verb = Operation::parse(name).map_or_else(|| Verb::Other(name.to_owned()), Verb::Git);
    Ok(Some((verb, line.len() + 1)))
}

#[cfg(test)]
mod tests;
