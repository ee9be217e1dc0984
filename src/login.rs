//! What the daemon answers to the commands `login`, `logout` and `accounts`: the daemon fills it, the command line prints it.
//!
//! Never a secret: the codes in here are for the user's eyes, and a session is of use to the user who began it only. A document only
//! grows.
//!
//! | verb | fields | answer |
//! |---|---|---|
//! | `login` | `url`, `mode` (`device` or `browser`), `redirect_uri` (browser), `account` (optional) | [`Login`]; [`Elsewhere`] wants it asked again |
//! | `login-wait` | `session` | [`Progress`], after one look |
//! | `login-finish` | `session`, `query` (what came back from the browser, as it came) | [`Progress`] |
//! | `login-cancel` | `session` | [`Cancelled`] |
//! | `logout` | `url`, `account` (optional; without it, every account of the caller's there) | [`LoggedOut`] |
//! | `accounts` | none | [`Accounts`] of the caller |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::status::TokenState;

/// Whether an account can have this name: 1 to 128 letters, digits and `-._@+~`, and no dash before them.
#[must_use]
pub fn is_account(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@+~".contains(&byte);
    // With a dash before it, it would be an option.
    (1..=LONGEST_ACCOUNT).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(allowed)
}

/// What a user types to sign in at a URL, as the account of that name if it has one.
#[must_use]
pub fn command(url: &str, account: &str) -> String {
    match is_account(account) {
        true => format!("scm-agent login {url} --account {account}"),
        false => format!("scm-agent login {url}"),
    }
}

/// Longest name of an account, in bytes.
pub const LONGEST_ACCOUNT: usize = 128;

/// The answer to `login`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Login {
    /// The user's move.
    Begun(Begun),
    /// No login has begun: the browser has to come back to another URI.
    Elsewhere(Elsewhere),
    /// No login has begun.
    Refused(Refused),
}

/// A login that waits for the user. Shown with `{:?}` it says neither how it is called nor what the user has to do.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Names the login in what follows.
    pub session: String,
    /// The host that will answer git, as registered.
    pub host: String,
    /// What the user has to do.
    #[serde(flatten)]
    pub mode: Mode,
    /// How long the user has, in seconds.
    pub expires_in_seconds: u64,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session: _, host, mode, expires_in_seconds } = self;
        f.debug_struct("Begun")
            .field("host", host)
            .field("mode", mode)
            .field("expires_in_seconds", expires_in_seconds)
            .finish_non_exhaustive()
    }
}

/// Where the browser has to come back to. The host compares that to the letter, so whoever asks listens there, and asks again with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// `http` on loopback with a port, as the app registered it.
    pub redirect_uri: String,
}

/// How the user signs in, with what that takes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Mode {
    /// With a browser on this machine, which comes back to the redirect URI (RFC 8252).
    Browser {
        /// Where to send the browser.
        authorize_url: String,
    },
    /// With any browser anywhere (RFC 8628).
    Device {
        /// What the user types there.
        user_code: String,
        /// Where the user types it.
        verification_uri: String,
        /// The same with the code in it, where the host offers that.
        #[serde(default)]
        verification_uri_complete: Option<String>,
        /// How long to wait between two questions, in seconds.
        interval_seconds: u64,
    },
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Browser { .. } => "Browser",
            Self::Device { .. } => "Device",
        })
    }
}

/// Why no login has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What is wrong, in one sentence.
    pub error: String,
    /// What to do about it.
    #[serde(default)]
    pub next: Option<String>,
}

/// How far a login is: the answer to `login-wait` and `login-finish`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How far.
    pub state: State,
    /// When to ask again, in seconds, while it is pending.
    #[serde(default)]
    pub retry_in_seconds: Option<u64>,
    /// Whose grant it is, once it is done and where the host says.
    #[serde(default)]
    pub account: Option<String>,
    /// The host that will answer git, as registered.
    #[serde(default)]
    pub host: String,
    /// Why it failed, in one sentence.
    #[serde(default)]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(default)]
    pub next: Option<String>,
}

/// How far a login is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The user, or the host, said no.
    Denied,
    /// The grant is kept, and serves git from now on.
    Done,
    /// The user took too long.
    Expired,
    /// It cannot go on, for the reason beside.
    Failed,
    /// The user has not decided yet.
    Pending,
}

/// The answer to `login-cancel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// Whether there was such a login, and it is gone now. `false` when it had ended before.
    pub cancelled: bool,
}

/// The answer to `logout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedOut {
    /// The grants that are gone from this machine.
    #[serde(default)]
    pub removed: Vec<Removed>,
    /// Why nothing, or not everything, was removed.
    #[serde(default)]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(default)]
    pub next: Option<String>,
}

/// A grant that is gone from this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The host that it answered for, as registered.
    pub host: String,
    /// Whose it was.
    pub account: String,
    /// `user` for a sign-in, `pat` for a personal access token.
    #[serde(default)]
    pub grant: String,
    /// Whether the host has withdrawn it too. Where not, it may live there until it expires.
    #[serde(default)]
    pub revoked: bool,
}

/// The answer to `accounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// The caller's grants.
    #[serde(default)]
    pub accounts: Vec<Account>,
}

/// A grant of the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The host that it answers for, as registered.
    pub host: String,
    /// UUID of the integration that it was made with.
    pub integration_id: String,
    /// Whose it is.
    pub account: String,
    /// `user` for a sign-in, `pat` for a personal access token that git was given.
    #[serde(default)]
    pub grant: String,
    /// Whether it serves git.
    pub state: TokenState,
    /// When the access token expires, in Unix seconds; `null` where there is none or the host named no lifetime.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// What it may do, as the host named it.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Why it could not be renewed.
    #[serde(default)]
    pub last_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    /// Asserts that a document is read as `typed` and written as it was.
    fn assert_both_ways<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(document: Value, typed: T) {
        assert_eq!(to_value(&typed).unwrap(), document);
        assert_eq!(from_value::<T>(document).unwrap(), typed);
    }

    #[test]
    fn a_login_says_what_the_user_has_to_do() {
        let device = json!({
            "session": "s", "host": "scm.example", "mode": "device", "user_code": "AB-CD", "verification_uri": "https://scm.example/device",
            "verification_uri_complete": null, "interval_seconds": 5, "expires_in_seconds": 900,
        });
        let mode = Mode::Device {
            user_code: "AB-CD".to_owned(),
            verification_uri: "https://scm.example/device".to_owned(),
            verification_uri_complete: None,
            interval_seconds: 5,
        };
        let begun = |mode| Login::Begun(Begun { session: "s".to_owned(), host: "scm.example".to_owned(), mode, expires_in_seconds: 900 });
        assert_both_ways(device, begun(mode));
        let browser = json!({
            "session": "s", "host": "scm.example", "mode": "browser", "authorize_url": "https://scm.example/a", "expires_in_seconds": 900,
        });
        assert_both_ways(browser, begun(Mode::Browser { authorize_url: "https://scm.example/a".to_owned() }));
        let elsewhere = Elsewhere { redirect_uri: "http://127.0.0.1:34106/".to_owned() };
        assert_both_ways(json!({ "redirect_uri": "http://127.0.0.1:34106/" }), Login::Elsewhere(elsewhere));
        let refused = Refused { error: "not offered".to_owned(), next: None };
        assert_both_ways(json!({ "error": "not offered", "next": null }), Login::Refused(refused));
    }

    #[test]
    fn what_is_of_use_to_the_user_alone_is_not_shown() {
        for mode in [
            json!({ "mode": "browser", "authorize_url": "https://scm.example/canary" }),
            json!({
                "mode": "device", "user_code": "canary", "verification_uri": "https://scm.example/canary",
                "verification_uri_complete": "https://scm.example/canary", "interval_seconds": 5,
            }),
        ] {
            let mut document = json!({ "session": "canary", "host": "scm.example", "expires_in_seconds": 900 });
            document.as_object_mut().unwrap().extend(mode.as_object().unwrap().clone());
            let shown = format!("{:?}", from_value::<Login>(document).unwrap());
            assert!(shown.contains("scm.example") && !shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn an_account_s_name_is_short_and_plain_and_only_such_a_one_is_repeated() {
        for name in ["a", "work", "a.b+c@d-e_f~1", &"a".repeat(128)] {
            assert!(is_account(name), "{name}");
        }
        for name in ["", "a b", "--json", "Zoë", "a\nb", "$(id)", &"a".repeat(129)] {
            assert!(!is_account(name), "{name}");
            assert_eq!(command("https://scm.example", name), "scm-agent login https://scm.example");
        }
        assert_eq!(command("https://scm.example", "work"), "scm-agent login https://scm.example --account work");
    }

    #[test]
    fn documents_may_lack_what_they_need_not_say_and_hold_what_is_not_known_yet() {
        let progress: Progress = from_value(json!({ "state": "done", "more": 1 })).unwrap();
        assert_eq!((progress.state, progress.account, progress.retry_in_seconds), (State::Done, None, None));
        let gone: LoggedOut = from_value(json!({ "removed": [{ "host": "h", "account": "a" }] })).unwrap();
        assert_eq!(gone.removed, [Removed { host: "h".to_owned(), account: "a".to_owned(), grant: String::new(), revoked: false }]);
        let accounts: Accounts =
            from_value(json!({ "accounts": [{ "host": "h", "integration_id": "i", "account": "a", "state": "needs_login" }] })).unwrap();
        assert_eq!(accounts.accounts[0].state, TokenState::NeedsLogin);
        assert!(from_value::<Login>(json!({ "session": "s", "host": "h", "mode": "post", "expires_in_seconds": 1 })).is_err());
    }
}
