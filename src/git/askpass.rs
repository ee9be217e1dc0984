//! What `GIT_ASKPASS` is asked: a prompt that says what is wanted, and for which URL.
//!
//! git has no other way to tell a program of that kind anything, and no translation for its two prompts. They are read to the letter: a
//! passphrase, another host's password or a question about a host key must never be answered with a token.

/// What a prompt wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The token.
    Password,
    /// The user name that goes with it.
    Username,
}

/// A prompt of git's or of git-lfs'.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt<'a> {
    /// The URL as it stands in the prompt: `scheme://[user@]host[/path]`, its parts percent-encoded (`credential.sanitizePrompt`).
    pub url: &'a str,
    /// What is wanted.
    pub wanted: Wanted,
}

/// Longest URL in a prompt, in bytes.
const MAX_URL_BYTES: usize = 8_192;

/// Whether an argument can be no operation of a credential helper, whose names are single words, but something to show a user.
#[must_use]
pub fn is_prompt(argument: &[u8]) -> bool {
    argument.contains(&b' ') || argument.ends_with(b":")
}

impl<'a> Prompt<'a> {
    /// Reads a prompt; `None` for any other than git's own, `Username for 'URL': `, and git-lfs' `Username for "URL"`.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (wanted, rest) = match text.split_once(" for ")? {
            ("Password", rest) => (Wanted::Password, rest),
            ("Username", rest) => (Wanted::Username, rest),
            _ => return None,
        };
        let quoted = |start: &str, end: &str| rest.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        let url = quoted("'", "': ").or_else(|| quoted("\"", "\""))?;
        is_plain(url).then_some(Self { url, wanted })
    }
}

/// Whether a URL is one whose parts nobody can read in two ways. git before 2.40.4 put names into the prompt as they were.
fn is_plain(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.split_once('@').unwrap_or(("", authority));
    url.len() <= MAX_URL_BYTES
        && url.bytes().all(|byte| byte.is_ascii_graphic() && !b"'\"\\<>?#`".contains(&byte))
        && !host.is_empty()
        && !host.contains(['@', '%'])
        && !user.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompts_of_git_and_git_lfs_are_read() {
        for (text, wanted, url) in [
            ("Username for 'https://git.example': ", Wanted::Username, "https://git.example"),
            ("Password for 'https://oauth2@git.example': ", Wanted::Password, "https://oauth2@git.example"),
            ("Password for 'https://a%40b%3a@git.example:8443': ", Wanted::Password, "https://a%40b%3a@git.example:8443"),
            ("Username for 'https://[::1]:8443/team/a%20b.git': ", Wanted::Username, "https://[::1]:8443/team/a%20b.git"),
            ("Username for 'http://127.0.0.1:8080': ", Wanted::Username, "http://127.0.0.1:8080"),
            ("Username for \"https://git.example/team/a.git\"", Wanted::Username, "https://git.example/team/a.git"),
            ("Password for \"https://oauth2@git.example\"", Wanted::Password, "https://oauth2@git.example"),
        ] {
            assert!(is_prompt(text.as_bytes()), "{text}");
            assert_eq!(Prompt::parse(text.as_bytes()), Some(Prompt { url, wanted }), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_prompt_for_us() {
        let long = format!("Password for 'https://git.example/{}': ", "a".repeat(MAX_URL_BYTES));
        for text in [
            // ssh, gpg, sudo and what else uses such programs.
            "Enter passphrase for key '/home/u/.ssh/id_ed25519': ",
            "Enter passphrase for 'https://git.example': ",
            "u@git.example's password: ",
            "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
            "Password: ",
            "Username: ",
            "Password:",
            "[sudo] password for u: ",
            "Password for u: ",
            // git for what is no host of ours, and before anybody knows for what.
            "Password for 'cert:///home/u/key.pem': ",
            "Password for 'ftp://git.example': ",
            "Password for 'smtp://u@mail.example:587': ",
            "Password for 'https://': ",
            "Password for 'https:///path': ",
            "Password for 'https://u@': ",
            "Password for 'https://u@/a': ",
            "Password for 'git.example': ",
            "Password for '': ",
            // Not as git writes it.
            "password for 'https://git.example': ",
            "Passwort f\u{fc}r 'https://git.example': ",
            "PIN for 'https://git.example': ",
            "Password for https://git.example: ",
            "Password for 'https://git.example':",
            "Password for 'https://git.example'",
            "Password for 'https://git.example\": ",
            "Password for \"https://git.example\": ",
            " Password for 'https://git.example': ",
            "Password for 'https://git.example': \n",
            "Password  for 'https://git.example': ",
            "Old Password for 'https://git.example': ",
            "Password for 'HTTPS://git.example': ",
            // What could be read in two ways.
            "Password for 'https://evil.example': Password for 'https://git.example': ",
            "Password for 'https://evil.example' for 'https://git.example': ",
            "Password for 'https://git.example\nhost=evil.example': ",
            "Password for 'https://git.example\r': ",
            "Password for 'https://git.example\u{1b}[2K': ",
            "Password for 'https://git.example\0': ",
            "Password for 'https://git.example ': ",
            "Password for 'https://git.example\\@evil.example': ",
            "Password for 'https://evil.example?@git.example': ",
            "Password for 'https://evil.example#@git.example': ",
            "Password for 'https://u@evil.example@git.example': ",
            "Password for 'https://u:p@git.example': ",
            "Password for 'https://git.example%2f.evil.example': ",
            "Password for 'https://git%2eexample': ",
            "Password for 'https://g\u{456}t.example': ",
            "Password for 'https://git.example`id`': ",
            &long,
        ] {
            assert_eq!(Prompt::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Prompt::parse(b"Password for 'https://git.example/\xff': "), None);
    }

    #[test]
    fn an_operation_is_not_taken_for_a_prompt() {
        for operation in ["get", "store", "erase", "capability", "", "list", "approve", "get\n"] {
            assert!(!is_prompt(operation.as_bytes()), "{operation:?}");
        }
        for prompt in ["Password:", "PIN:", "Enter PIN for 'x'", "Password for 'https://git.example': "] {
            assert!(is_prompt(prompt.as_bytes()), "{prompt:?}");
        }
    }
}
