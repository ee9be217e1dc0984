//! `host[:port]` as git and the control plane write it, brought to one spelling.
//!
//! Whoever chooses a URL wants a look-alike to pass for a known host, so nothing is guessed: what is not plainly a host name or
//! an address is refused, and no international name is folded (a punycode name equals only itself, byte for byte).

use std::net::Ipv6Addr;

/// Why something is not taken for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Brackets around something else than an IPv6 address.
    #[error("has brackets around something that is no IPv6 address")]
    Address,
    /// A byte that no host name has.
    #[error("has a character that no host name has")]
    Character,
    /// A control character.
    #[error("has a control character")]
    Control,
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// An empty label, or one of more than 63 characters (RFC 1035 section 2.3.4).
    #[error("has an empty label or one of more than 63 characters")]
    Label,
    /// A byte above 127.
    #[error("is not ASCII: an international name is written in its punycode form")]
    NotAscii,
    /// A percent sign.
    #[error("has a percent sign")]
    Percent,
    /// A port that is no number from 1 to 65535 without leading zeros.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    /// More than 253 characters (RFC 1035 section 2.3.4).
    #[error("has more than 253 characters")]
    TooLong,
    /// A dot at the end.
    #[error("ends with a dot")]
    TrailingDot,
    /// An `@`.
    #[error("has a user name before it")]
    Userinfo,
    /// White space.
    #[error("has white space in it")]
    Whitespace,
}

const HOST_MAX_CHARACTERS: usize = 253;
const LABEL_MAX_CHARACTERS: usize = 63;

/// Splits `host[:port]` and normalises the host: ASCII lower case, an IPv6 address in RFC 5952's form and its brackets.
///
/// # Errors
/// When it is not plainly a host name or an address.
pub fn parse(raw: &[u8]) -> Result<(String, Option<u16>), HostError> {
    for &byte in raw {
        match byte {
            b' ' | b'\t' => return Err(HostError::Whitespace),
            b'@' => return Err(HostError::Userinfo),
            b'%' => return Err(HostError::Percent),
            _ if byte.is_ascii_control() => return Err(HostError::Control),
            _ if !byte.is_ascii() => return Err(HostError::NotAscii),
            _ => {}
        }
    }
    let text = std::str::from_utf8(raw).map_err(|_| HostError::NotAscii)?;
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(HostError::Address)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::Address)?;
        return Ok((format!("[{address}]"), port(after)?));
    }
    let (name, after) = text.find(':').map_or((text, ""), |colon| text.split_at(colon));
    Ok((name_of(name)?, port(after)?))
}

/// Whether a normalised host is this machine, as literally as `http` may be spoken to it.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "[::1]" | "localhost")
}

fn name_of(name: &str) -> Result<String, HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > HOST_MAX_CHARACTERS {
        return Err(HostError::TooLong);
    }
    if name.ends_with('.') {
        return Err(HostError::TrailingDot);
    }
    // The underscore is no host name character of RFC 952, but inside networks it is in use, and it fools nobody.
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
        return Err(HostError::Character);
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > LABEL_MAX_CHARACTERS) {
        return Err(HostError::Label);
    }
    Ok(name.to_ascii_lowercase())
}

/// Reads what follows the host: nothing, or a colon and digits.
fn port(after: &str) -> Result<Option<u16>, HostError> {
    if after.is_empty() {
        return Ok(None);
    }
    let digits = after.strip_prefix(':').ok_or(HostError::Address)?;
    // `parse` alone would take a sign; a leading zero means octal to some readers.
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    digits.parse().map(Some).map_err(|_| HostError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_brought_to_one_spelling() {
        for (raw, host, port) in [
            ("github.com", "github.com", None),
            ("GitHub.COM:443", "github.com", Some(443)),
            ("git_lab.internal:65535", "git_lab.internal", Some(65535)),
            ("localhost:1", "localhost", Some(1)),
            ("192.0.2.7", "192.0.2.7", None),
            ("[2001:DB8:0:0::1]:8443", "[2001:db8::1]", Some(8443)),
            ("[::1]", "[::1]", None),
            ("xn--gthub-n4a.com", "xn--gthub-n4a.com", None),
        ] {
            assert_eq!(parse(raw.as_bytes()), Ok((host.to_owned(), port)), "{raw}");
        }
    }

    #[test]
    fn what_is_not_plainly_a_host_is_refused() {
        use HostError as E;
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for (raw, error) in [
            (&b""[..], E::Empty),
            (b":443", E::Empty),
            (b"github.com:", E::Port),
            (b"github.com:0", E::Port),
            (b"github.com:0443", E::Port),
            (b"github.com:+443", E::Port),
            (b"github.com:65536", E::Port),
            (b"github.com:443:443", E::Port),
            (b"::1", E::Empty),
            (b"github.com.", E::TrailingDot),
            (b".github.com", E::Label),
            (b"github..com", E::Label),
            (b"github.com/x", E::Character),
            (b"*.github.com", E::Character),
            (b"github.com\\x", E::Character),
            (b"github.com?", E::Character),
            (b"a@github.com", E::Userinfo),
            (b"github.com ", E::Whitespace),
            (b"git\thub.com", E::Whitespace),
            (b"github.com\r", E::Control),
            (b"github.com\0", E::Control),
            (b"github%2ecom", E::Percent),
            (b"[::1", E::Address),
            (b"[127.0.0.1]", E::Address),
            (b"[fe80::1%25eth0]", E::Percent),
            (b"[::1]x", E::Address),
            (b"[::1]:", E::Port),
            ("gіthub.com".as_bytes(), E::NotAscii),
            (b"\xff\xfe", E::NotAscii),
            (long_label.as_bytes(), E::Label),
            (long_name.as_bytes(), E::TooLong),
        ] {
            assert_eq!(parse(raw), Err(error), "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn only_the_literal_loopback_names_are_loopback() {
        assert!(["127.0.0.1", "[::1]", "localhost"].into_iter().all(is_loopback));
        assert!(!["127.0.0.2", "localhost.evil.tld", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"].into_iter().any(is_loopback));
    }
}
