//! Which sections with a URL in their name git applies to a URL: `urlmatch.c` and the fallback in `credential.c`, in our words.
//!
//! A section's URL matches with the same scheme and port, the same host (`*` stands for one label), the user if it names one, and a path
//! that is a prefix of whole segments. What is no URL by these rules (`example.com`, `https://`) is compared part by part instead, and
//! then a path must be the same. git 2.39 and 2.47 do the same here; `tests/it/git_setup` asks the installed git.

use crate::git::frame::printable;

/// What git looks up settings for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    scheme: String,
    user: Option<Vec<u8>>,
    /// Host and port as git was given them.
    host_port: String,
    /// The path without slashes around it, decoded.
    path: Option<Vec<u8>>,
    /// The same as a URL; `None` for a host that git cannot write in one.
    url: Option<Url>,
}

/// The URL in a section's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// A URL.
    Url(Url),
    /// Parts of one, each of which has to be the same where it is given.
    Parts { scheme: Option<String>, user: Option<Vec<u8>>, host_port: Option<String>, path: Option<Vec<u8>> },
}

/// A URL as git normalises it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    scheme: String,
    user: Option<Vec<u8>>,
    pub(crate) host: String,
    port: String,
    /// With a slash at the beginning and none at the end.
    path: Vec<u8>,
}

impl Query {
    /// Reads `scheme://[user@]host[:port][/path]`, as git is given it.
    pub(crate) fn new(url: &str) -> Option<Self> {
        let Pattern::Parts { scheme, user, host_port, path } = parts(url)? else { return None };
        let (scheme, host_port) = (scheme?, host_port?);
        // As `credential_format` puts it together again before it is normalised.
        let plain = host_port.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte));
        let mut text = format!("{scheme}://");
        if let Some(user) = user.as_deref().filter(|user| !user.is_empty()) {
            text.push_str(&escaped(user, true));
            text.push('@');
        }
        text.push_str(&host_port);
        if let Some(path) = &path {
            text.push('/');
            text.push_str(&escaped(path, false));
        }
        let url = if plain { normalise(&text, false) } else { None };
        Some(Self { scheme, user, host_port, path, url })
    }

    /// Whether this is a place on the same host with a longer path.
    pub(crate) fn is_below(&self, other: &Self) -> bool {
        let path = |query: &Self| query.path.clone().unwrap_or_default();
        let (own, above) = (path(self), path(other));
        let longer =
            own.len() > above.len() && (above.is_empty() || own.strip_prefix(above.as_slice()).is_some_and(|rest| rest[0] == b'/'));
        longer && (&self.scheme, &self.host_port) == (&other.scheme, &other.host_port)
    }

    /// The host without its port, as it was given.
    pub(crate) fn host_name(&self) -> &str {
        let end = self.host_port.rfind(']').map_or(0, |end| end + 1);
        self.host_port[end..].find(':').map_or(self.host_port.as_str(), |colon| &self.host_port[..end + colon])
    }

    /// Host and port, as they were given.
    pub(crate) fn host_port(&self) -> &str {
        &self.host_port
    }

    /// `scheme://host[:port]`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.host_port)
    }

    /// `host[:port][/path]`, for a person.
    pub(crate) fn shown(&self) -> String {
        let path = self.path.as_deref().map(|path| format!("/{}", escaped(path, false))).unwrap_or_default();
        printable(&format!("{}{path}", self.host_port))
    }

    /// The same as a URL; nothing for a host that git cannot write in one.
    pub(crate) fn url(&self) -> Option<&Url> {
        self.url.as_ref()
    }
}

impl Pattern {
    /// Reads what stands in a section's name.
    pub(crate) fn new(name: &str) -> Option<Self> {
        normalise(name, true).map(Self::Url).or_else(|| parts(name))
    }

    /// The place that the section is for, if it is a single one and anybody's.
    pub(crate) fn place(&self) -> Option<Query> {
        match self {
            Self::Url(url) if url.user.is_none() && !url.host.contains('*') => url.place(),
            _ => None,
        }
    }

    /// Whether the section applies.
    pub(crate) fn matches(&self, query: &Query) -> bool {
        match self {
            Self::Url(pattern) => query.url.as_ref().is_some_and(|url| pattern.covers(url)),
            Self::Parts { scheme, user, host_port, path } => {
                scheme.as_ref().is_none_or(|scheme| *scheme == query.scheme)
                    && host_port.as_ref().is_none_or(|host| *host == query.host_port)
                    && path.as_ref().is_none_or(|path| query.path.as_ref() == Some(path))
                    && user.as_ref().is_none_or(|user| query.user.as_ref() == Some(user))
            }
        }
    }
}

impl Url {
    /// The first segment of the path; empty where there is no path.
    pub(crate) fn first_segment(&self) -> &[u8] {
        self.path.get(1..).unwrap_or_default().split(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// The same as something that git looks settings up for.
    fn place(&self) -> Option<Query> {
        let port = if self.port.is_empty() { String::new() } else { format!(":{}", self.port) };
        Query::new(&format!("{}://{}{port}{}", self.scheme, self.host, String::from_utf8_lossy(&self.path)))
    }

    fn covers(&self, url: &Self) -> bool {
        self.scheme == url.scheme
            && self.user.as_ref().is_none_or(|user| url.user.as_ref() == Some(user))
            && covers_host(&self.host, &url.host)
            && self.port == url.port
            && url.path.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

fn covers_host(pattern: &str, host: &str) -> bool {
    let (mut wanted, mut labels) = (pattern.split('.'), host.split('.'));
    loop {
        match (wanted.next(), labels.next()) {
            (None, None) => return true,
            (Some(wanted), Some(label)) if wanted == "*" || wanted == label => {}
            _ => return false,
        }
    }
}

/// Takes a URL apart without judging it: `credential_from_url_gently` with partial URLs allowed.
fn parts(url: &str) -> Option<Pattern> {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.split_once('@') {
        Some((user, host)) => (Some(user.split(':').next().unwrap_or_default()), host),
        None => (None, authority),
    };
    let path = path.trim_start_matches('/').trim_end_matches('/');
    Some(Pattern::Parts {
        scheme: scheme.filter(|scheme| !scheme.is_empty()).map(str::to_owned),
        user: match user {
            None => None,
            Some(user) => Some(decoded(user)?),
        },
        host_port: match host {
            "" => None,
            host => Some(String::from_utf8(decoded(host)?).ok()?),
        },
        path: match path {
            "" => None,
            path => Some(decoded(path)?),
        },
    })
}

/// Normalises a URL as `url_normalize_1` does; `None` for what it refuses.
fn normalise(url: &str, globs: bool) -> Option<Url> {
    let (scheme, rest) = url.split_once("://")?;
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte);
    if !scheme.as_bytes().first()?.is_ascii_alphabetic() || !scheme.bytes().all(in_scheme) {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host_port) = match authority.split_once('@') {
        Some((user, host)) => (Some(renormalised(user.split(':').next().unwrap_or_default())?), host),
        None => (None, authority),
    };
    if host_port.is_empty() || host_port.starts_with(':') {
        return None;
    }
    let after_address = host_port.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match host_port[after_address..].rfind(':') {
        Some(colon) => (&host_port[..after_address + colon], &host_port[after_address + colon + 1..]),
        None => (host_port, ""),
    };
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[:]".contains(&byte) || (globs && byte == b'*');
    if !host.bytes().all(in_host) {
        return None;
    }
    Some(Url { port: port_of(&scheme, port)?, scheme, user, host: host.to_ascii_lowercase(), path: path_of(path)? })
}

/// The port's digits; nothing for the scheme's own.
fn port_of(scheme: &str, port: &str) -> Option<String> {
    if port.is_empty() {
        return Some(String::new());
    }
    let digits = port.trim_start_matches('0');
    let number: u16 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let own = matches!((scheme, number), ("http", 80) | ("https", 443));
    Some(if own || number == 0 { String::new() } else { number.to_string() })
}

/// The path without `.` and `..`, its escapes in one spelling.
fn path_of(path: &str) -> Option<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        match segment {
            "." => {}
            ".." => {
                segments.pop()?;
            }
            segment => segments.push(renormalised(segment)?),
        }
    }
    let mut text = Vec::new();
    for segment in segments {
        text.push(b'/');
        text.extend(segment);
    }
    if text.ends_with(b"/") {
        text.pop();
    }
    Some(text)
}

/// Escapes in one spelling: what need not be escaped is not, but what is reserved stays as it came.
fn renormalised(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut normal = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let (byte, escaped, length) = match bytes[index] {
            b'%' => (hex(bytes.get(index + 1..index + 3)?)?, true, 3),
            byte => (byte, false, 1),
        };
        index += length;
        let unsafe_ = byte <= 0x1f || byte >= 0x7f || b" <>\"%{}|\\^`".contains(&byte);
        if unsafe_ || (escaped && RESERVED.contains(&byte)) {
            normal.extend(format!("%{byte:02X}").bytes());
        } else {
            normal.push(byte);
        }
    }
    Some(normal)
}

/// How git escapes a part of the credential that it is asked for.
fn escaped(bytes: &[u8], slash: bool) -> String {
    let mut text = String::new();
    for &byte in bytes {
        let escape = byte <= 0x1f
            || byte >= 0x7f
            || b" <>\"%{}|\\^`".contains(&byte)
            || (byte != b'/' && RESERVED.contains(&byte))
            || (slash && byte == b'/');
        if escape { text.push_str(&format!("%{byte:02X}")) } else { text.push(char::from(byte)) }
    }
    text
}

/// RFC 3986 section 2.2.
const RESERVED: &[u8] = b":/?#[]@!$&'()*+,;=";

/// Percent-decodes; what is no escape stays, as in git's `url_decode`.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        match bytes.get(index + 1..index + 3).filter(|_| bytes[index] == b'%').and_then(hex) {
            Some(byte) if byte > 0 => {
                plain.push(byte);
                index += 3;
            }
            _ => {
                plain.push(bytes[index]);
                index += 1;
            }
        }
    }
    (!plain.contains(&b'\n')).then_some(plain)
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*digits.first()?)? * 16 + digit(*digits.get(1)?)?).ok()
}
