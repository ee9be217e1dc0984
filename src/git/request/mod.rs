//! What git asks: the text that a credential helper reads (git-credential(1), "INPUT/OUTPUT FORMAT").

use std::fmt;

use super::answer::{AnswerError, BEARER, write_line};
use super::url;
use super::wiped::Wiped;

/// Longest request in bytes, line ends included.
pub const MAX_REQUEST_BYTES: usize = 65_536;

/// Longest line in bytes, its line end included (git-credential(1)).
pub const MAX_LINE_BYTES: usize = 65_535;

/// A question by git: the credential it has so far, with what is missing left out.
///
/// The values are git's own, not normalised: `host` keeps its case and its default port, `path` its empty segments.
#[derive(Default)]
pub struct CredentialRequest {
    /// `https`, usually. Never empty.
    pub protocol: String,
    /// Host, with a port if the URL named one. Empty only where the protocol is not HTTP (`cert:///…`).
    pub host: String,
    /// Path without leading slash; git sends it over HTTP only with `credential.useHttpPath`.
    pub path: Option<String>,
    /// The user that the URL or the configuration names.
    pub username: Option<String>,
    /// The password that `store` and `erase` speak of.
    pub password: Option<Password>,
    /// The scheme of [`credential`](Self::credential); in a `get`, the one that is wanted. Case does not matter (RFC 9110
    /// section 11.1).
    pub authtype: Option<String>,
    /// What git sent after the scheme in the `Authorization` header, instead of user name and password.
    pub credential: Option<Password>,
    /// When the password expires, in seconds since 1970; `None` where git would read it as never.
    pub password_expiry_utc: Option<u64>,
    /// `capability[]`, in order: what git can handle of the answer.
    pub capabilities: Vec<Vec<u8>>,
    /// Whether `ephemeral` says that nobody is to keep the credential.
    pub is_ephemeral: bool,
    /// Whether an `oauth_refresh_token` came with the password, which makes that an access token of some helper's. The token is not kept.
    pub has_refresh_token: bool,
    /// `wwwauth[]`, in order: the challenges of the server's 401. A hint only: the server that asks for the secret wrote it.
    pub wwwauth: Vec<Vec<u8>>,
    /// `state[]`, in order: what helpers told git to bring back. Not to be trusted: any caller can send one.
    pub state: Vec<Vec<u8>>,
}

/// A password or token as git sent it: redacted in `Debug`, overwritten on drop.
#[derive(Debug)]
pub struct Password(Wiped);

impl Password {
    /// The password itself. Copy it nowhere that is not wiped.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl From<&[u8]> for Password {
    fn from(bytes: &[u8]) -> Self {
        Self(Wiped::from(bytes))
    }
}

/// A request that is refused as a whole. Names the key or the line, never a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// A CR that does not end a line: a reader that takes it for a line end sees another host (CVE-2024-52006).
    CarriageReturn {
        /// Counted from 1.
        line: usize,
    },
    /// A control byte in a value that names something (CVE-2024-50349).
    Control {
        /// The key.
        key: &'static str,
    },
    /// A key of which there can be only one came twice.
    Duplicate {
        /// The key.
        key: &'static str,
    },
    /// A line over [`MAX_LINE_BYTES`].
    LineTooLong {
        /// Counted from 1.
        line: usize,
    },
    /// Protocol or host are absent or empty (CVE-2020-11008).
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A line without `=`.
    NotKeyValue {
        /// Counted from 1.
        line: usize,
    },
    /// A value that names something and is not UTF-8.
    NotUtf8 {
        /// The key.
        key: &'static str,
    },
    /// A NUL byte.
    Nul {
        /// Counted from 1.
        line: usize,
    },
    /// More than [`MAX_REQUEST_BYTES`].
    TooLarge,
    /// `url` without `scheme://`.
    UrlWithoutScheme,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CarriageReturn { line } => write!(f, "line {line} of the request has a carriage return inside"),
            Self::Control { key } => write!(f, "the request's {key} has a control character in it"),
            Self::Duplicate { key } => write!(f, "the request names {key} twice"),
            Self::LineTooLong { line } => write!(f, "line {line} of the request is longer than {MAX_LINE_BYTES} bytes"),
            Self::Missing { key } => write!(f, "the request names no {key}"),
            Self::NotKeyValue { line } => write!(f, "line {line} of the request is not of the form key=value"),
            Self::NotUtf8 { key } => write!(f, "the request's {key} is not valid UTF-8"),
            Self::Nul { line } => write!(f, "line {line} of the request has a NUL byte in it"),
            Self::TooLarge => write!(f, "the request is longer than {MAX_REQUEST_BYTES} bytes"),
            Self::UrlWithoutScheme => f.write_str("the request's url has no scheme"),
        }
    }
}

impl std::error::Error for RequestError {}

impl CredentialRequest {
    /// Reads a request up to a blank line or the end. Unknown keys are ignored, and so is `oauth_refresh_token`.
    ///
    /// # Errors
    /// [`RequestError`] when any of it is malformed; a request is never half accepted.
    pub fn parse(text: &[u8]) -> Result<Self, RequestError> {
        if text.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge);
        }
        let mut parser = Parser::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            if line.len() >= MAX_LINE_BYTES {
                return Err(RequestError::LineTooLong { line: number });
            }
            // git's reader takes CRLF for a line end too, and only the one CR right before the LF.
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                break;
            }
            if line.contains(&b'\r') {
                return Err(RequestError::CarriageReturn { line: number });
            }
            if line.contains(&0) {
                return Err(RequestError::Nul { line: number });
            }
            // Only the first `=` splits: values hold others.
            let equals = line.iter().position(|&byte| byte == b'=').ok_or(RequestError::NotKeyValue { line: number })?;
            parser.take(&line[..equals], &line[equals + 1..])?;
        }
        parser.finish()
    }

    /// Writes the request as git would; reading it back gives an equal one.
    ///
    /// # Errors
    /// [`AnswerError`] when a value holds LF, CR or NUL; nothing useful is in `out` then.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), AnswerError> {
        let Self {
            protocol,
            host,
            path,
            username,
            password,
            authtype,
            credential,
            password_expiry_utc,
            capabilities,
            is_ephemeral,
            // There is nothing to write: the token was not kept.
            has_refresh_token: _,
            wwwauth,
            state,
        } = self;
        for (key, values) in [("capability[]", capabilities), ("wwwauth[]", wwwauth), ("state[]", state)] {
            for value in values {
                write_line(out, key, value)?;
            }
        }
        if let Some(authtype) = authtype {
            write_line(out, "authtype", authtype.as_bytes())?;
        }
        if let Some(credential) = credential {
            write_line(out, "credential", credential.expose_secret())?;
        }
        if *is_ephemeral {
            write_line(out, "ephemeral", b"1")?;
        }
        write_line(out, "protocol", protocol.as_bytes())?;
        write_line(out, "host", host.as_bytes())?;
        if let Some(path) = path {
            write_line(out, "path", path.as_bytes())?;
        }
        if let Some(username) = username {
            write_line(out, "username", username.as_bytes())?;
        }
        if let Some(password) = password {
            write_line(out, "password", password.expose_secret())?;
        }
        if let Some(expiry) = password_expiry_utc {
            write_line(out, "password_expiry_utc", expiry.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// Whether a token may be answered as Bearer: git can send one (2.46 and later), and no other scheme is asked for.
    #[must_use]
    pub fn takes_bearer(&self) -> bool {
        self.has_capability("authtype") && self.authtype.as_deref().is_none_or(is_bearer)
    }

    /// The token that `store` and `erase` speak of, whichever way git sent it; `None` where it sent something that is no token.
    #[must_use]
    pub fn token(&self) -> Option<&Password> {
        match &self.credential {
            // Where git has both, this is the one that it sent.
            Some(credential) => Some(credential).filter(|_| self.authtype.as_deref().is_some_and(is_bearer)),
            None => self.password.as_ref(),
        }
    }

    /// Whether git announced a capability, such as `state`.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.iter().any(|capability| capability == name.as_bytes())
    }
}

impl fmt::Debug for CredentialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            host,
            path,
            username,
            password,
            authtype,
            credential,
            password_expiry_utc,
            capabilities: _,
            is_ephemeral,
            has_refresh_token,
            wwwauth: _,
            state: _,
        } = self;
        f.debug_struct("CredentialRequest")
            .field("protocol", protocol)
            .field("host", host)
            .field("path", path)
            // People put tokens where the user name goes (`https://TOKEN@github.com`).
            .field("username", &username.as_ref().map(|_| "[redacted]"))
            .field("password", password)
            .field("authtype", authtype)
            .field("credential", credential)
            .field("password_expiry_utc", password_expiry_utc)
            .field("is_ephemeral", is_ephemeral)
            .field("has_refresh_token", has_refresh_token)
            .finish_non_exhaustive()
    }
}

/// The single-valued keys that are understood.
const SINGLE: [&str; 9] = ["authtype", "credential", "host", "password", "password_expiry_utc", "path", "protocol", "url", "username"];

/// A request while its lines come in.
#[derive(Default)]
struct Parser {
    request: CredentialRequest,
    seen: [bool; SINGLE.len()],
}

impl Parser {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), RequestError> {
        let list = match key {
            b"capability[]" => &mut self.request.capabilities,
            b"state[]" => &mut self.request.state,
            b"wwwauth[]" => &mut self.request.wwwauth,
            // Whichever says so first: nobody loses by one that is kept too little.
            b"ephemeral" => {
                self.request.is_ephemeral |= !matches!(value.to_ascii_lowercase().as_slice(), b"" | b"0" | b"false" | b"no" | b"off");
                return Ok(());
            }
            b"oauth_refresh_token" => {
                self.request.has_refresh_token |= !value.is_empty();
                return Ok(());
            }
            _ => return self.take_single(key, value),
        };
        if value.is_empty() {
            list.clear();
        } else {
            list.push(value.to_vec());
        }
        Ok(())
    }

    fn take_single(&mut self, key: &[u8], value: &[u8]) -> Result<(), RequestError> {
        let Some(index) = SINGLE.iter().position(|single| single.as_bytes() == key) else { return Ok(()) };
        let key = SINGLE[index];
        if std::mem::replace(&mut self.seen[index], true) {
            return Err(RequestError::Duplicate { key });
        }
        let request = &mut self.request;
        match key {
            "authtype" => request.authtype = Some(text("authtype", value)?),
            "credential" => request.credential = Some(password("credential", value)?),
            "host" => request.host = text("host", value)?,
            "password" => request.password = Some(password("password", value)?),
            "password_expiry_utc" => request.password_expiry_utc = expiry(value),
            "path" => request.path = Some(text("path", value)?),
            "protocol" => request.protocol = text("protocol", value)?,
            "username" => request.username = Some(text("username", value)?),
            _ => self.take_url(value)?,
        }
        Ok(())
    }

    /// `url` forgets all that came before it, as in git, and is overruled by what comes after it; a second one is refused.
    fn take_url(&mut self, value: &[u8]) -> Result<(), RequestError> {
        let url::Parts { protocol, host, path, username, password: word } = url::split(value).ok_or(RequestError::UrlWithoutScheme)?;
        let word = word.map(|mut bytes| {
            let wiped = Wiped::from(bytes.as_slice());
            // Clear intermediates
            bytes.fill(0);
            std::hint::black_box(bytes.as_mut_slice());
            wiped
        });
        self.request = CredentialRequest {
            protocol: text("protocol", &protocol)?,
            host: text("host", &host)?,
            path: path.map(|path| text("path", &path)).transpose()?,
            username: username.map(|username| text("username", &username)).transpose()?,
            password: word.map(|word| password("password", word.expose_secret())).transpose()?,
            ..CredentialRequest::default()
        };
        self.seen = SINGLE.map(|key| key == "url");
        Ok(())
    }

    fn finish(self) -> Result<CredentialRequest, RequestError> {
        let named = |key| SINGLE.iter().zip(self.seen).any(|(single, seen)| seen && *single == key);
        let host_named = named("host") || named("url");
        let request = self.request;
        if request.protocol.is_empty() {
            return Err(RequestError::Missing { key: "protocol" });
        }
        // git itself asks with an empty host for the passphrase of a client certificate (`cert:///…`): not our business, but
        // no fault either.
        let http = request.protocol.eq_ignore_ascii_case("https") || request.protocol.eq_ignore_ascii_case("http");
        if request.host.is_empty() && (http || !host_named) {
            return Err(RequestError::Missing { key: "host" });
        }
        Ok(request)
    }
}

/// A value that names something: no control bytes, valid UTF-8.
fn text(key: &'static str, value: &[u8]) -> Result<String, RequestError> {
    if value.iter().any(u8::is_ascii_control) {
        return Err(RequestError::Control { key });
    }
    String::from_utf8(value.to_vec()).map_err(|_| RequestError::NotUtf8 { key })
}

fn password(key: &'static str, value: &[u8]) -> Result<Password, RequestError> {
    if value.iter().any(u8::is_ascii_control) {
        return Err(RequestError::Control { key });
    }
    Ok(Password::from(value))
}

fn is_bearer(authtype: &str) -> bool {
    authtype.eq_ignore_ascii_case(BEARER)
}

/// Zero and what is no number mean never, as in git.
fn expiry(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok().filter(|&seconds| seconds != 0)
}

#[cfg(test)]
mod tests;
