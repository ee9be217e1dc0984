//! What the helper lets through from the agent to git.
//!
//! git believes whatever a helper prints, host included, and repeats a malformed line on the terminal. So the helper checks the
//! agent's answer as a whole and prints either all of it or nothing.

use std::fmt;

use super::answer::BEARER;
use super::frame::printable;
use super::{MAX_STATE_BYTES, STATE_PREFIX, Wiped};

/// An agent's answer, sorted by who is to see it.
#[derive(Debug, Default)]
pub struct Relay {
    /// The lines for git, ready to be printed.
    pub git: Wiped,
    /// The line for the user.
    pub message: Option<String>,
    /// Why the agent refused the request.
    pub error: Option<String>,
}

/// An answer of which nothing may reach git. Names the line, never its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayError {
    /// A CR or NUL byte.
    Byte {
        /// Counted from 1.
        line: usize,
    },
    /// A key came twice: which one counts would depend on the reader.
    Duplicate {
        /// Counted from 1.
        line: usize,
    },
    /// A line without `=`.
    NotKeyValue {
        /// Counted from 1.
        line: usize,
    },
    /// A key comes before the one that it needs, so that git would drop it without a word or ask again for nothing.
    Order {
        /// Counted from 1.
        line: usize,
    },
    /// An expiry that is no number, a scheme other than Bearer, a state that is not the agent's, or `continue`, `ephemeral` or
    /// `quit` with anything but 1.
    Value {
        /// Counted from 1.
        line: usize,
    },
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte { line } => write!(f, "line {line} of the answer has a carriage return or a NUL byte in it"),
            Self::Duplicate { line } => write!(f, "line {line} of the answer repeats a key"),
            Self::NotKeyValue { line } => write!(f, "line {line} of the answer is not of the form key=value"),
            Self::Order { line } => write!(f, "line {line} of the answer comes before another that it needs"),
            Self::Value { line } => write!(f, "line {line} of the answer has a value that its key cannot have"),
        }
    }
}

impl std::error::Error for RelayError {}

/// The keys that git may see, and the two that the user may see.
const KEYS: [&[u8]; 11] = [
    b"authtype",
    b"continue",
    b"credential",
    b"ephemeral",
    b"error",
    b"message",
    b"password",
    b"password_expiry_utc",
    b"quit",
    b"state[]",
    b"username",
];

/// The values of `capability[]` that git may see.
const CAPABILITIES: [&[u8]; 2] = [b"authtype", b"state"];

impl Relay {
    /// Sorts an answer, given without its final blank line. Other keys (`host`, `oauth_refresh_token`) are dropped.
    ///
    /// # Errors
    /// [`RelayError`] when any line is malformed, also one that would be dropped.
    pub fn read(answer: &[u8]) -> Result<Self, RelayError> {
        let mut relay = Self { git: Wiped::with_capacity(answer.len()), ..Self::default() };
        let mut seen = [false; KEYS.len()];
        let mut announced = [false; CAPABILITIES.len()];
        let mut has_state = false;
        for (index, line) in answer.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let content = line.strip_suffix(b"\n").unwrap_or(line);
            if content.iter().any(|byte| b"\r\0".contains(byte)) {
                return Err(RelayError::Byte { line: number });
            }
            let equals = content.iter().position(|&byte| byte == b'=').ok_or(RelayError::NotKeyValue { line: number })?;
            let (key, value) = (&content[..equals], &content[equals + 1..]);
            // A list, of which two entries are known.
            if key == b"capability[]" {
                let Some(known) = CAPABILITIES.iter().position(|&known| known == value) else { continue };
                if std::mem::replace(&mut announced[known], true) {
                    return Err(RelayError::Duplicate { line: number });
                }
                relay.pass(content);
                continue;
            }
            let Some(known) = KEYS.iter().position(|&known| known == key) else { continue };
            if std::mem::replace(&mut seen[known], true) {
                return Err(RelayError::Duplicate { line: number });
            }
            let [has_authtype_capability, has_state_capability] = announced;
            match key {
                b"authtype" | b"credential" | b"ephemeral" if !has_authtype_capability => return Err(RelayError::Order { line: number }),
                b"state[]" if !has_state_capability => return Err(RelayError::Order { line: number }),
                // Without a state the agent would take the next `get` for a first one.
                b"continue" if !has_state => return Err(RelayError::Order { line: number }),
                b"authtype" if value != BEARER.as_bytes() => return Err(RelayError::Value { line: number }),
                b"error" => relay.error = Some(printable(&String::from_utf8_lossy(value))),
                b"message" => relay.message = Some(printable(&String::from_utf8_lossy(value))),
                b"password_expiry_utc" if value.is_empty() || !value.iter().all(u8::is_ascii_digit) => {
                    return Err(RelayError::Value { line: number });
                }
                b"continue" | b"ephemeral" | b"quit" if value != b"1" => return Err(RelayError::Value { line: number }),
                b"state[]" if !is_own_state(value) => return Err(RelayError::Value { line: number }),
                _ => {
                    has_state |= key == b"state[]";
                    relay.pass(content);
                }
            }
        }
        Ok(relay)
    }

    /// The value that git would see under a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let mut lines = self.git.expose_secret().split(|&byte| byte == b'\n');
        lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    fn pass(&mut self, line: &[u8]) {
        self.git.extend(line);
        self.git.extend(b"\n");
    }
}

/// Whether a state is one that the agent can have made: git shows it to every other helper.
fn is_own_state(state: &[u8]) -> bool {
    state.len() <= MAX_STATE_BYTES
        && state.strip_prefix(STATE_PREFIX.as_bytes()).is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_graphic))
}

/// Length of the answer at the start of `bytes` without its final blank line; `None` while it is not complete.
///
/// `searched` is how many of the bytes were there when it was asked for last, so that slow answers are not searched again.
#[must_use]
pub fn complete_answer(bytes: &[u8], searched: usize) -> Option<usize> {
    if bytes.starts_with(b"\n") {
        return Some(0);
    }
    let from = searched.saturating_sub(1);
    bytes.get(from..)?.windows(2).position(|pair| pair == b"\n\n").map(|at| from + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_let_through_line_by_line() {
        let relay = Relay::read(b"username=u\npassword=p=q\npassword_expiry_utc=1900000000\nquit=1\n").unwrap();
        assert_eq!(relay.git.expose_secret(), b"username=u\npassword=p=q\npassword_expiry_utc=1900000000\nquit=1\n");
        assert_eq!((relay.message, relay.error), (None, None));
    }

    #[test]
    fn a_bearer_token_is_let_through_with_the_capability_that_it_needs() {
        let answer = b"capability[]=authtype\nauthtype=Bearer\ncredential=t=\nephemeral=1\npassword_expiry_utc=1900000000\n";
        assert_eq!(Relay::read(answer).unwrap().git.expose_secret(), answer);
        let others = b"capability[]=new\ncapability[]=authtype\ncapability[]=\nauthtype=Bearer\ncredential=t\n";
        assert_eq!(Relay::read(others).unwrap().git.expose_secret(), b"capability[]=authtype\nauthtype=Bearer\ncredential=t\n");
    }

    #[test]
    fn a_state_of_the_agent_s_is_let_through_with_what_belongs_to_it() {
        for answer in [
            &b"capability[]=state\nusername=u\npassword=p\nstate[]=scm-agent:0f\ncontinue=1\n"[..],
            b"capability[]=authtype\ncapability[]=state\nephemeral=1\nusername=u\npassword=p\nstate[]=scm-agent:0f\ncontinue=1\n",
            b"capability[]=state\ncapability[]=authtype\nauthtype=Bearer\ncredential=t\nephemeral=1\nstate[]=scm-agent:0f\ncontinue=1\n",
        ] {
            assert_eq!(Relay::read(answer).unwrap().git.expose_secret(), answer);
        }
    }

    #[test]
    fn what_git_must_not_believe_is_dropped() {
        let answer = b"protocol=http\nhost=evil.example\npath=x\noauth_refresh_token=r\nusername=u\nurl=http://evil.example\nwwwauth[]=x\n";
        assert_eq!(Relay::read(answer).unwrap().git.expose_secret(), b"username=u\n");
    }

    #[test]
    fn message_and_error_are_kept_from_git_and_made_printable() {
        let relay = Relay::read(b"message=run \x1b[31mthis\nerror=\xffno\x07\nquit=1\n").unwrap();
        assert_eq!(relay.git.expose_secret(), b"quit=1\n");
        assert_eq!(relay.message.as_deref(), Some("run  [31mthis"));
        assert_eq!(relay.error.as_deref(), Some("\u{fffd}no "));
    }

    #[test]
    fn one_bad_line_spoils_the_whole_answer() {
        let table: &[(&[u8], RelayError)] = &[
            (b"username=u\npass\rword=p\n", RelayError::Byte { line: 2 }),
            (b"username=u\r\npassword=p\n", RelayError::Byte { line: 1 }),
            (b"password=p\0q\n", RelayError::Byte { line: 1 }),
            (b"other=\0\n", RelayError::Byte { line: 1 }),
            (b"gho_canary\n", RelayError::NotKeyValue { line: 1 }),
            (b"username=u\n\npassword=p\n", RelayError::NotKeyValue { line: 2 }),
            (b"password=p\npassword=q\n", RelayError::Duplicate { line: 2 }),
            (b"password_expiry_utc=soon\n", RelayError::Value { line: 1 }),
            (b"password_expiry_utc=\n", RelayError::Value { line: 1 }),
            (b"password_expiry_utc=-1\n", RelayError::Value { line: 1 }),
            (b"quit=0\n", RelayError::Value { line: 1 }),
            (b"capability[]=authtype\ncapability[]=authtype\n", RelayError::Duplicate { line: 2 }),
            (b"capability[]=authtype\ncredential=t\ncredential=u\n", RelayError::Duplicate { line: 3 }),
            (b"capability[]=authtype\nauthtype=Basic\n", RelayError::Value { line: 2 }),
            (b"capability[]=authtype\nauthtype=Bearer x\n", RelayError::Value { line: 2 }),
            (b"capability[]=authtype\nephemeral=0\n", RelayError::Value { line: 2 }),
            (b"capability[]=state\nauthtype=Bearer\n", RelayError::Order { line: 2 }),
            (b"credential=t\ncapability[]=authtype\n", RelayError::Order { line: 1 }),
            (b"ephemeral=1\n", RelayError::Order { line: 1 }),
            (b"capability[]=state\ncapability[]=state\n", RelayError::Duplicate { line: 2 }),
            (b"capability[]=state\nstate[]=scm-agent:1\nstate[]=scm-agent:2\n", RelayError::Duplicate { line: 3 }),
            (b"capability[]=state\nstate[]=scm-agent:1\ncontinue=1\ncontinue=1\n", RelayError::Duplicate { line: 4 }),
            (b"capability[]=state\nstate[]=scm-agent:1\ncontinue=0\n", RelayError::Value { line: 3 }),
            (b"capability[]=state\nstate[]=other:1\n", RelayError::Value { line: 2 }),
            (b"capability[]=state\nstate[]=scm-agent:\n", RelayError::Value { line: 2 }),
            (b"capability[]=state\nstate[]=\n", RelayError::Value { line: 2 }),
            (b"capability[]=state\nstate[]=scm-agent:1 2\n", RelayError::Value { line: 2 }),
            (b"capability[]=state\nstate[]=scm-agent:\xff\n", RelayError::Value { line: 2 }),
            (b"capability[]=authtype\nstate[]=scm-agent:1\n", RelayError::Order { line: 2 }),
            (b"state[]=scm-agent:1\ncapability[]=state\n", RelayError::Order { line: 1 }),
            (b"capability[]=state\ncontinue=1\nstate[]=scm-agent:1\n", RelayError::Order { line: 2 }),
            (b"capability[]=state\nephemeral=1\n", RelayError::Order { line: 2 }),
        ];
        for (answer, error) in table {
            assert_eq!(Relay::read(answer).unwrap_err(), *error, "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn an_answer_ends_with_its_first_blank_line() {
        assert_eq!(complete_answer(b"", 0), None);
        assert_eq!(complete_answer(b"\n", 0), Some(0));
        assert_eq!(complete_answer(b"a=b\n", 0), None);
        assert_eq!(complete_answer(b"a=b\n\nc=d\n\n", 0), Some(4));
        assert_eq!(complete_answer(b"a=b\n\n", 4), Some(4));
    }
}
