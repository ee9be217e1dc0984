//! What git is told: the text that a credential helper prints.

use std::fmt;

/// The scheme of a token in the `Authorization` header (RFC 6750 section 2.1).
pub(super) const BEARER: &str = "Bearer";

/// An answer to git's `get`.
///
/// It cannot name a protocol, host or path: git would take them over, and a token meant for one host would go to another.
#[derive(Clone, Copy, Default)]
pub struct CredentialAnswer<'a> {
    /// Left out where git already has one, unless the host demands a literal user name.
    pub username: Option<&'a str>,
    /// The access token.
    pub password: Option<&'a [u8]>,
    /// The access token where git is to send it as Bearer, which it must have announced that it can
    /// ([`takes_bearer`](super::CredentialRequest::takes_bearer)): else it drops the token without a word. User name and password
    /// have no meaning then and are not written.
    pub bearer: Option<&'a [u8]>,
    /// When git should stop using the password or token, in seconds since 1970.
    pub password_expiry_utc: Option<u64>,
    /// Tells helpers that heed it to keep nothing of this: the next `get` brings the token that is good then. Only for a git that
    /// announced `authtype`. A [`bearer`](Self::bearer) token is so marked in any case.
    pub ephemeral: bool,
    /// What git is to bring back should the host refuse this credential: it asks once more then, instead of giving up. Only for a git
    /// that announced `state`; begins with [`STATE_PREFIX`](super::STATE_PREFIX).
    pub state: Option<&'a str>,
    /// Tells git to stop here: neither other helpers nor the user are asked.
    pub quit: bool,
}

/// A value that would break git's line format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerError {
    /// The key whose value holds LF, CR or NUL.
    pub key: &'static str,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has a line end or a NUL byte in it", self.key)
    }
}

impl std::error::Error for AnswerError {}

impl CredentialAnswer<'_> {
    /// Appends the answer's lines to `out`, which is grown once so that no copy of the password stays behind.
    ///
    /// # Errors
    /// [`AnswerError`] when a value holds LF, CR or NUL, whoever it came from; nothing was appended then.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), AnswerError> {
        let Self { username, password, bearer, password_expiry_utc, ephemeral, state, quit } = *self;
        let (username, password) = if bearer.is_some() { (None, None) } else { (username, password) };
        let bearer = bearer.map(|token| checked("credential", token)).transpose()?;
        let by_header = |value: &'static str| bearer.map(|_| value.as_bytes());
        let state = state.map(|state| checked("state[]", state.as_bytes())).transpose()?;
        let by_authtype = |value: &'static str| (ephemeral || bearer.is_some()).then_some(value.as_bytes());
        let username = username.map(|username| checked("username", username.as_bytes())).transpose()?;
        let password = password.map(|password| checked("password", password)).transpose()?;
        let expiry = password_expiry_utc.map(|seconds| seconds.to_string());
        let lines = [
            // First: git heeds what depends on a capability only after it.
            ("capability[]", by_authtype("authtype")),
            ("capability[]", state.map(|_| &b"state"[..])),
            ("authtype", by_header(BEARER)),
            ("credential", bearer),
            ("ephemeral", by_authtype("1")),
            ("username", username),
            ("password", password),
            ("password_expiry_utc", expiry.as_deref().map(str::as_bytes)),
            ("state[]", state),
            ("continue", state.map(|_| &b"1"[..])),
            ("quit", quit.then_some(&b"1"[..])),
        ];
        out.reserve_exact(lines.iter().map(|(key, value)| value.map_or(0, |value| key.len() + value.len() + 2)).sum());
        for (key, value) in lines {
            if let Some(value) = value {
                append(out, key, value);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CredentialAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, password, bearer, password_expiry_utc, ephemeral, state, quit } = self;
        f.debug_struct("CredentialAnswer")
            .field("username", username)
            .field("password", &password.map(|_| "[redacted]"))
            .field("bearer", &bearer.map(|_| "[redacted]"))
            .field("password_expiry_utc", password_expiry_utc)
            .field("ephemeral", ephemeral)
            .field("state", state)
            .field("quit", quit)
            .finish()
    }
}

/// Appends one line.
///
/// # Errors
/// [`AnswerError`] when the value holds LF, CR or NUL; nothing was appended then.
pub(super) fn write_line(out: &mut Vec<u8>, key: &'static str, value: &[u8]) -> Result<(), AnswerError> {
    append(out, key, checked(key, value)?);
    Ok(())
}

fn checked<'v>(key: &'static str, value: &'v [u8]) -> Result<&'v [u8], AnswerError> {
    if value.iter().any(|byte| b"\n\r\0".contains(byte)) { Err(AnswerError { key }) } else { Ok(value) }
}

fn append(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: CredentialAnswer<'_> = CredentialAnswer {
        username: Some("x-token-auth"),
        password: Some(b"canary"),
        bearer: None,
        password_expiry_utc: Some(1_900_000_000),
        ephemeral: false,
        state: None,
        quit: false,
    };

    /// The same token for the header. It has a user name and a password too, which are to have no say.
    const BEARER_TOKEN: CredentialAnswer<'_> = CredentialAnswer { bearer: Some(b"canary"), ..FULL };

    #[test]
    fn an_answer_is_one_line_per_value() {
        let mut out = Vec::new();
        FULL.write(&mut out).unwrap();
        assert_eq!(out, b"username=x-token-auth\npassword=canary\npassword_expiry_utc=1900000000\n");
    }

    #[test]
    fn a_bearer_token_comes_after_its_capability_and_without_user_name_and_password() {
        let mut out = Vec::new();
        BEARER_TOKEN.write(&mut out).unwrap();
        let expected = b"capability[]=authtype\nauthtype=Bearer\ncredential=canary\nephemeral=1\npassword_expiry_utc=1900000000\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn what_needs_a_capability_comes_after_it() {
        let mut out = Vec::new();
        CredentialAnswer { ephemeral: true, state: Some("scm-agent:1"), ..FULL }.write(&mut out).unwrap();
        let expected = "capability[]=authtype\ncapability[]=state\nephemeral=1\nusername=x-token-auth\npassword=canary\n\
                        password_expiry_utc=1900000000\nstate[]=scm-agent:1\ncontinue=1\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        CredentialAnswer { state: Some("scm-agent:1"), ..FULL }.write(&mut out).unwrap();
        assert!(out.starts_with(b"capability[]=state\nusername=") && out.ends_with(b"\nstate[]=scm-agent:1\ncontinue=1\n"));
    }

    #[test]
    fn an_answer_that_tells_git_to_stop_says_nothing_else() {
        let mut out = Vec::new();
        CredentialAnswer { quit: true, ..CredentialAnswer::default() }.write(&mut out).unwrap();
        assert_eq!(out, b"quit=1\n");
    }

    #[test]
    fn a_value_with_a_line_end_or_nul_is_refused_before_anything_is_written() {
        for bad in [&b"a\nhost=evil.example"[..], b"a\rb", b"a\0b", b"a\r\n", b"\n"] {
            let mut out = b"before".to_vec();
            assert_eq!(CredentialAnswer { password: Some(bad), ..FULL }.write(&mut out), Err(AnswerError { key: "password" }));
            let username = std::str::from_utf8(bad).unwrap();
            assert_eq!(CredentialAnswer { username: Some(username), ..FULL }.write(&mut out), Err(AnswerError { key: "username" }));
            let credential = CredentialAnswer { bearer: Some(bad), ..BEARER_TOKEN };
            assert_eq!(credential.write(&mut out), Err(AnswerError { key: "credential" }));
            assert_eq!(CredentialAnswer { state: Some(username), ..FULL }.write(&mut out), Err(AnswerError { key: "state[]" }));
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn the_buffer_is_grown_once_to_the_exact_size() {
        for answer in [FULL, BEARER_TOKEN, CredentialAnswer { ephemeral: true, state: Some("scm-agent:1"), ..FULL }] {
            let mut out = Vec::new();
            answer.write(&mut out).unwrap();
            assert_eq!(out.capacity(), out.len());
        }
    }

    #[test]
    fn debug_never_shows_the_password() {
        for answer in [FULL, BEARER_TOKEN] {
            assert!(!format!("{answer:?}").contains("canary"));
        }
    }
}
