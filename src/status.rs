//! What `scm-agent status --json` says: the daemon fills it, the command line prints it. Never a secret, and it only grows.

use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Whole seconds since the daemon started.
    pub uptime_seconds: u64,
    /// The runner's private keys.
    pub key: Vec<Key>,
    /// Where the integrations come from and how fresh they are.
    pub sync: Sync,
    /// The runner's integrations.
    pub integrations: Vec<Integration>,
    /// Where grants rest.
    pub store: Store,
    /// How the process's memory is guarded.
    pub memory: Memory,
    /// What the daemon let itself have; `null` where it is too old to say.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// Connections open now, this one included.
    pub connections: usize,
    /// What single units were given beyond the access rules; for root and the agent's own user only, else empty.
    #[serde(default)]
    pub unit_grants: Vec<UnitGrant>,
    /// What does not work as it should, a sentence each; empty when all is well.
    pub degraded: Vec<String>,
}

/// What a unit was given for as long as it runs. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitGrant {
    /// By what it is taken back.
    pub id: String,
    /// The systemd unit.
    pub unit: String,
    /// Its cgroup.
    pub cgroup: String,
    /// The host, with port and path if the grant has them.
    pub host: String,
    /// What of it: `service`, `own`, `app-secret`.
    pub allow: Vec<String>,
    /// When it was given.
    pub granted_at: u64,
    /// The user id of who gave it.
    pub granted_by: u32,
    /// When it ends, if the unit does not end before.
    pub expires_at: u64,
}

/// The daemon's answer to `grant`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitGrantAnswer {
    /// What was given; `null` where it was not.
    pub grant: Option<UnitGrant>,
    /// Why it was not given.
    pub error: Option<String>,
    /// What is to be known of it, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The daemon's answer to `grants`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitGrantList {
    /// Those that count.
    pub grants: Vec<UnitGrant>,
}

/// The daemon's answer to `grant-revoke`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitGrantRevoked {
    /// Whether there was one of that id.
    pub revoked: bool,
    /// Why it may come back with the next start of the daemon, where that is so.
    #[serde(default)]
    pub problem: Option<String>,
}

impl Status {
    /// What the daemon holds and what is wrong with it, in a line of bounded length; `now` in Unix seconds.
    #[must_use]
    pub fn line(&self, now: u64) -> String {
        const LONGEST_REASON: usize = 200;
        let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let lives = |token: &&Token| matches!(token.state, TokenState::Refreshing | TokenState::Valid);
        let tokens = self.integrations.iter().flat_map(|integration| &integration.tokens).filter(lives).count();
        let list = match self.sync.last_success {
            None => "no list yet".to_owned(),
            Some(confirmed) => {
                let age = now.saturating_sub(confirmed);
                let age = if age < 120 { format!("{age} s") } else { format!("{} min", age / 60) };
                format!("list {age} old{}", if self.sync.stale { " and stale" } else { "" })
            }
        };
        let held = format!("{}, {}, {list}", count(self.integrations.len(), "integration"), count(tokens, "token"));
        match self.degraded.as_slice() {
            [] => held,
            [first, more @ ..] => {
                let cut: String = first.chars().take(LONGEST_REASON).collect();
                let dots = if cut.len() < first.len() { "…" } else { "" };
                let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
                format!("{held}; degraded: {cut}{dots}{more}")
            }
        }
    }
}

/// A loaded runner key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Algorithm and size, as `key show` prints them.
    pub algorithm: String,
    /// Fingerprint of the public half.
    pub fingerprint: String,
    /// Whether it is the one registered with the control plane; `null` where that is not known.
    pub registered: Option<bool>,
}

/// The state of the list of integrations. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// The control plane's host, or the file.
    pub source: String,
    /// When a whole list last arrived.
    pub last_success: Option<u64>,
    /// When one was last asked for.
    pub last_attempt: Option<u64>,
    /// Why the last attempt failed; `null` when it did not.
    pub last_error: Option<String>,
    /// What to do about it, where there is something to do.
    #[serde(default)]
    pub next: Option<String>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Whether changes are pushed rather than polled for.
    pub watching: bool,
    /// Whether the list in use is older than it should be: kept from before the start and not confirmed since, or not confirmed for
    /// three poll intervals.
    #[serde(default)]
    pub stale: bool,
    /// In an answer to the verb `sync`: in how many seconds the source is asked, where it was not asked for this because it was
    /// asked so often, or wants to be left alone. `null` where it was asked.
    #[serde(default)]
    pub next_attempt_in_seconds: Option<u64>,
}

/// An integration and what it can answer with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// UUID.
    pub id: String,
    /// Which SCM.
    pub scm_id: String,
    /// As registered.
    pub host: String,
    /// As registered; empty except for Azure DevOps Server.
    pub virtual_directory: String,
    /// The OAuth app's client id; `null` without an OAuth app.
    pub client_id: Option<String>,
    /// The OAuth issuer where it is not the SCM host.
    pub issuer: Option<String>,
    /// Whether an OAuth app is configured.
    pub oauth: bool,
    /// Whether users may bring a personal access token.
    pub pat: bool,
    /// State of the app's sealed secret.
    pub secret: Secret,
    /// How a token comes about: `service`, `user`, `pat` or `none`.
    pub grant: String,
    /// Why there is no token to be had, where there is none.
    pub note: Option<String>,
    /// The tokens held now.
    pub tokens: Vec<Token>,
    /// What the control plane says of it now and nobody has trusted yet; `null` where nothing is held back.
    #[serde(default)]
    pub quarantine: Option<Quarantine>,
}

/// A change that is held back because no new secret came with it. What was trusted before stays in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Names this very change; what came in between is not accepted with it.
    pub change: String,
    /// Whether a definition that was trusted before goes on serving.
    pub serving: bool,
    /// What differs.
    pub fields: Vec<QuarantinedField>,
}

/// A field that differs from what was trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedField {
    /// As the control plane's API spells it.
    pub field: String,
    /// What it was when the secret was trusted.
    pub trusted: String,
    /// What it would become.
    pub proposed: String,
}

/// State of a sealed client secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Secret {
    /// There is none.
    Missing,
    /// A loaded key opens it.
    Ok,
    /// Held back until an operator trusts it.
    Quarantined,
    /// No loaded key opens it.
    Undecryptable,
}

/// A token held in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Whose it is: `service`, `operator`, or a user.
    pub subject: String,
    /// How it was had: `service`, `user` or `pat`.
    #[serde(default)]
    pub grant: String,
    /// Unix seconds; `null` where the host named no lifetime.
    pub expires_at: Option<u64>,
    /// Whether it can be served.
    pub state: TokenState,
    /// Why it could not be had or renewed.
    pub last_error: Option<String>,
}

/// Whether a token can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// The last attempt to get one failed.
    Failing,
    /// A user has to sign in.
    NeedsLogin,
    /// A new one is on its way.
    Refreshing,
    /// It can be served.
    Valid,
}

/// Where grants rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// `file` or `memory`.
    pub kind: String,
    /// Whether it works.
    pub healthy: bool,
}

/// How the process's memory is guarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Whether it is kept out of swap.
    pub locked: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// What the daemon's process let itself have, beside what a service manager or a container lets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Whether files, ports and other processes are restricted: `abi` and the version of the kernel's interface that is used, `partial`
    /// where threads were there before, `unsupported` or `off`.
    pub landlock: String,
    /// Whether system calls are filtered: `on`, `unsupported` or `off`.
    pub seccomp: String,
    /// Whether no program that it could start gains rights by its file.
    pub no_new_privs: bool,
    /// What is missing, and why.
    pub reason: Option<String>,
}

impl Sandbox {
    /// In a line for people.
    #[must_use]
    pub fn words(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!("; {reason}")).unwrap_or_default();
        let privileges = if self.no_new_privs { "" } else { ", new privileges possible" };
        format!("landlock {}, seccomp {}{privileges}{reason}", self.landlock, self.seccomp)
    }
}

/// What came of reading the settings again: the answer to the verb `reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Why the settings of before stay in use; `null` where the new ones are in force.
    pub error: Option<String>,
    /// The keys that changed in the configuration and count from the next start on.
    pub next_start: Vec<String>,
}

/// What became of a request to trust what was held back: the answer to the verb `trust`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Whether it is in use now.
    pub accepted: bool,
    /// Why not; or, beside an acceptance, why it lasts only until the next start.
    pub error: Option<String>,
}

/// What tests have in common.
#[cfg(test)]
pub(crate) mod samples {
    use super::{Integration, Memory, Secret, Status, Store, Sync};

    /// An integration with an app whose secret opens.
    pub(crate) fn integration(host: &str, grant: &str) -> Integration {
        Integration {
            id: format!("id-of-{host}"),
            scm_id: "custom".to_owned(),
            host: host.to_owned(),
            virtual_directory: String::new(),
            client_id: None,
            issuer: None,
            oauth: true,
            pat: false,
            secret: Secret::Ok,
            grant: grant.to_owned(),
            note: None,
            tokens: Vec::new(),
            quarantine: None,
        }
    }

    /// A daemon that has had no list yet and lacks nothing.
    pub(crate) fn status() -> Status {
        Status {
            version: String::new(),
            pid: 1,
            uptime_seconds: 0,
            key: Vec::new(),
            sync: Sync {
                source: String::new(),
                last_success: None,
                last_attempt: None,
                last_error: None,
                next: None,
                consecutive_failures: 0,
                watching: false,
                stale: false,
                next_attempt_in_seconds: None,
            },
            integrations: Vec::new(),
            store: Store { kind: "memory".to_owned(), healthy: true },
            memory: Memory { locked: true, reason: None },
            sandbox: None,
            connections: 0,
            unit_grants: Vec::new(),
            degraded: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_held_and_the_first_thing_that_is_wrong() {
        let token = |state| Token { subject: "service".to_owned(), grant: "service".to_owned(), expires_at: None, state, last_error: None };
        let integration = |tokens| Integration { tokens, ..samples::integration("a.example", "service") };
        let mut status = samples::status();
        assert_eq!(status.line(1_000), "0 integrations, 0 tokens, no list yet");
        status.sync.last_success = Some(980);
        status.integrations = vec![integration(vec![token(TokenState::Valid), token(TokenState::Failing)])];
        assert_eq!(status.line(1_000), "1 integration, 1 token, list 20 s old");
        status.sync.stale = true;
        status.degraded = vec!["one".to_owned(), "two".to_owned(), "three".to_owned()];
        assert_eq!(status.line(1_580), "1 integration, 1 token, list 10 min old and stale; degraded: one (and 2 more)");
        status.degraded = vec!["ü".repeat(1_000)];
        assert!(status.line(0).ends_with(&format!("old and stale; degraded: {}…", "ü".repeat(200))));
    }
}
