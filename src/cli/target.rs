//! The URL that a user names to say which host is meant.

use crate::error::{Error, Kind};
use crate::login::{LONGEST_ACCOUNT, is_account};

/// Longest URL taken, in bytes: what the daemon reads of one line is longer.
const MAX_URL_BYTES: usize = 4_096;

/// Longest name of an account taken, in bytes.
const MAX_ACCOUNT_BYTES: usize = 255;

/// A checked URL as the daemon is asked about it: scheme, host and path as they were typed. Query and fragment are left out: they say
/// nothing about who answers git, and may hold what is nobody's business.
///
/// `http` passes on loopback only; whether that is permitted, the daemon's configuration says.
///
/// # Errors
/// [`Kind::Usage`]. The text never repeats the URL, which may hold a password.
pub(super) fn url(typed: &str) -> Result<String, Error> {
    let refused = |what: &str, next: &str| Err(Error::new(Kind::Usage, format!("URL {what}")).hint(next));
    let example = "write it as git does: https://HOST, or https://HOST/PATH";
    if typed.len() > MAX_URL_BYTES {
        return refused(&format!("is longer than {MAX_URL_BYTES} bytes"), example);
    }
    if typed.chars().any(|character| character.is_control() || character.is_whitespace() || character == '\\') {
        return refused("has a blank, a backslash or a control character in it", example);
    }
    let Some((scheme, rest)) = typed.split_once("://") else {
        return refused("has no scheme", example);
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return refused("has a user name or a password in it", "leave that out; to say which account is meant: --account NAME");
    }
    let plain = format!("{}://{rest}", scheme.to_ascii_lowercase());
    let Some(parsed) = url::Url::parse(&plain).ok().filter(|_| !authority.is_empty()).filter(url::Url::has_host) else {
        return refused("names no valid host", example);
    };
    match parsed.scheme() {
        "https" => Ok(plain),
        "http" if is_loopback(&parsed) => Ok(plain),
        _ => refused("is not https", "ssh and http need no token, or must not get one; write https://HOST"),
    }
}

/// The name of an account as the user typed it.
///
/// # Errors
/// [`Kind::Usage`] when no account can be called that.
pub(super) fn account(typed: Option<&str>) -> Result<Option<&str>, Error> {
    match typed {
        Some(name) if name.is_empty() || name.len() > MAX_ACCOUNT_BYTES || name.chars().any(char::is_control) => {
            let text = format!("--account is empty, longer than {MAX_ACCOUNT_BYTES} bytes, or has a control character in it");
            Err(Error::new(Kind::Usage, text).hint("see which accounts there are: scm-agent accounts"))
        }
        name => Ok(name),
    }
}

/// The name that a new sign-in shall have; the daemon takes no other.
///
/// # Errors
/// [`Kind::Usage`] when no account can be given that name.
pub(super) fn new_account(typed: Option<&str>) -> Result<Option<&str>, Error> {
    match typed {
        Some(name) if !is_account(name) => {
            let text =
                format!("--account is empty, longer than {LONGEST_ACCOUNT} bytes, or has more in it than letters, digits and -._@+~");
            Err(Error::new(Kind::Usage, text).hint("give it a short name: --account work"))
        }
        name => Ok(name),
    }
}

/// Whether a URL leads to this machine by its name or address alone.
pub(super) fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_path_are_kept_as_typed() {
        for (typed, asked) in [
            ("https://scm.example.com", "https://scm.example.com"),
            ("HTTPS://scm.example.com:8443/Group/app.git", "https://scm.example.com:8443/Group/app.git"),
            ("https://scm.example.com/a%20b/?token=canary#x", "https://scm.example.com/a%20b/"),
            ("https://scm.example.com/~user/@scope", "https://scm.example.com/~user/@scope"),
            ("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/a"),
            ("http://localhost/", "http://localhost/"),
            ("http://[::1]:1/", "http://[::1]:1/"),
        ] {
            assert_eq!(url(typed).unwrap(), asked);
        }
    }

    #[test]
    fn anything_else_is_a_usage_error_that_does_not_repeat_it() {
        for (typed, what) in [
            ("", "no scheme"),
            ("canary.example.com", "no scheme"),
            ("git@canary.example.com:a/b", "no scheme"),
            ("https://", "no valid host"),
            ("https:///canary", "no valid host"),
            ("https://:443/canary", "no valid host"),
            ("https://scm.example.com:canary/", "no valid host"),
            ("https://user:canary@scm.example.com/", "a user name or a password"),
            ("https://canary@scm.example.com/", "a user name or a password"),
            ("https://scm.example.com\\@canary.example/", "backslash"),
            ("https://scm.example.com/a\nhost=canary", "control character"),
            ("http://canary.example.com/", "is not https"),
            ("ssh://canary.example.com/", "is not https"),
            ("file:///canary", "no valid host"),
            ("http://localhost.canary.example/", "is not https"),
        ] {
            let error = url(typed).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{typed}");
            assert!(error.to_string().contains(what), "{typed}: {error}");
            assert!(!error.report().contains("canary"), "{}", error.report());
        }
        assert!(url(&format!("https://scm.example.com/{}", "a".repeat(MAX_URL_BYTES))).is_err());
    }

    #[test]
    fn an_account_has_a_name_of_one_line() {
        assert_eq!(account(None).unwrap(), None);
        assert_eq!(account(Some("Zoë=a b")).unwrap(), Some("Zoë=a b"));
        for name in ["", "a\nsession=b", &"a".repeat(256)] {
            assert_eq!(account(Some(name)).unwrap_err().kind(), Kind::Usage);
        }
        assert_eq!(new_account(None).unwrap(), None);
        assert_eq!(new_account(Some("zoe+work@example.com")).unwrap(), Some("zoe+work@example.com"));
        for name in ["", "a b", "a/b", "Zo\u{eb}", "a\nsession=b", &"a".repeat(129)] {
            assert_eq!(new_account(Some(name)).unwrap_err().kind(), Kind::Usage, "{name}");
        }
    }
}
