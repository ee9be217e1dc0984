//! Splits a `url=` line into its parts the way git's own `credential_from_url` does.
//!
//! Not a general URL parser on purpose: the parts must be those that git would have sent, or helper and git would speak of
//! different hosts.

/// The parts of a URL, percent-decoded; absent is `None`, as git distinguishes it from empty.
pub(super) struct Parts {
    pub(super) protocol: Vec<u8>,
    pub(super) host: Vec<u8>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) username: Option<Vec<u8>>,
    pub(super) password: Option<Vec<u8>>,
}

/// Splits `scheme://[user[:password]@]host[/path]`; `None` without a scheme.
pub(super) fn split(url: &[u8]) -> Option<Parts> {
    let scheme_end = url.windows(3).position(|window| window == b"://").filter(|&end| end > 0)?;
    let (protocol, rest) = (&url[..scheme_end], &url[scheme_end + 3..]);
    let find = |wanted: u8| rest.iter().position(|&byte| byte == wanted);
    // A query or a fragment ends the host as a slash does: `https://evil.example?@good.example` asks evil.example.
    let host_end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (user_info, host_start) = match find(b'@') {
        Some(at) if at < host_end => (Some(&rest[..at]), at + 1),
        _ => (None, 0),
    };
    let (username, password) = match user_info {
        None => (None, None),
        Some(info) => match info.iter().position(|&byte| byte == b':') {
            None => (Some(decode(info)), None),
            Some(colon) => (Some(decode(&info[..colon])), Some(decode(&info[colon + 1..]))),
        },
    };
    let path_start = rest[host_end..].iter().position(|&byte| byte != b'/').map(|slashes| host_end + slashes);
    let path = path_start.map(|start| {
        let mut path = decode(&rest[start..]);
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        path
    });
    Some(Parts { protocol: protocol.to_vec(), host: decode(&rest[host_start..host_end]), path, username, password })
}

/// Percent-decodes. Like git's `url_decode_mem`, what stands before the first colon is left as it is and a `%` that is no
/// escape stands for itself; unlike git, `%00` is decoded, so that the caller can refuse it.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = text.iter().position(|&byte| byte == b':').unwrap_or(0);
    decoded.extend_from_slice(&text[..at]);
    while let Some(&byte) = text.get(at) {
        match (byte, text.get(at + 1).copied().and_then(hex), text.get(at + 2).copied().and_then(hex)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The value of one hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_as_git_splits_it() {
        let parts = split(b"https://al%69ce:p%40ss@host.example:8443//a/b.git//").unwrap();
        assert_eq!(parts.protocol, b"https");
        assert_eq!(parts.host, b"host.example:8443");
        assert_eq!(parts.path.as_deref(), Some(&b"a/b.git"[..]));
        assert_eq!(parts.username.as_deref(), Some(&b"alice"[..]));
        assert_eq!(parts.password.as_deref(), Some(&b"p@ss"[..]));
    }

    #[test]
    fn a_url_without_path_or_user_has_none() {
        let parts = split(b"https://host.example/").unwrap();
        assert_eq!((parts.path, parts.username, parts.password), (None, None, None));
    }

    #[test]
    fn a_url_without_scheme_is_none() {
        assert!(split(b"host.example/a").is_none());
        assert!(split(b"://host.example/a").is_none());
        assert!(split(b"https:/host.example").is_none());
    }

    #[test]
    fn an_escape_that_is_none_stands_for_itself() {
        assert_eq!(decode(b"a%2"), b"a%2");
        assert_eq!(decode(b"a%zz%20b%"), b"a%zz b%");
    }
}
