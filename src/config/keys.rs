//! The keys that exist, and which of them somebody meant who wrote another.

use std::fmt;

use super::environment::PREFIX;

/// The sections of which there can be several, each written as a table of its own.
const LISTED: [&str; 2] = [ACCESS, PROVIDER];

/// Who may have what, one table for each rule.
pub(super) const ACCESS: &str = "access";

/// Overrides, one table for each host.
pub(super) const PROVIDER: &str = "provider";

/// Every section with its keys, in the order of the documentation.
pub const KEYS: [(&str, &[&str]); 9] = [
    (
        "control_plane",
        &["url", "file", "runner_id", "token_file", "poll_interval", "watch", "ca_file", "proxy", "no_proxy", "connect_timeout", "timeout"],
    ),
    ("scm", &["ca_file", "proxy", "no_proxy", "connect_timeout", "timeout"]),
    ("key", &["files", "passphrase_file", "oaep_hash"]),
    (
        "agent",
        &[
            "socket",
            "socket_group",
            "socket_mode",
            "state_dir",
            "max_connections",
            "max_connections_per_user",
            "max_requests_per_second",
            "max_request_burst",
            "read_timeout",
            "request_timeout",
            "shutdown_grace_period",
            "allow_insecure_loopback",
            "sandbox",
        ],
    ),
    ("store", &["kind"]),
    (ACCESS, &["users", "groups", "units", "cgroups", "hosts", "allow"]),
    (
        PROVIDER,
        &[
            "host",
            "kind",
            "issuer",
            "authorize_url",
            "token_url",
            "device_url",
            "redirect_uri",
            "scopes",
            "username",
            "pat_file",
            "pat_credential",
            "bearer",
            "token_endpoint_auth",
            "grant",
        ],
    ),
    ("log", &["audit_file", "format", "level"]),
    ("metrics", &["listen", "socket_group"]),
];

/// A key that exists.
#[derive(Clone, Copy)]
pub(super) struct Known {
    section: &'static str,
    name: &'static str,
}

impl Known {
    /// The variable that sets it.
    pub(super) fn variable(self) -> String {
        let index = if listed(self.section).is_some() { "0__" } else { "" };
        format!("{PREFIX}{}__{index}{}", self.section, self.name).to_ascii_uppercase()
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section, self.name)
    }
}

pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|(section, _)| *section == name)
}

/// The section of that name, if there can be several of it.
pub(super) fn listed(name: &str) -> Option<&'static str> {
    LISTED.into_iter().find(|section| *section == name)
}

pub(super) fn is_known(section: &str, name: &str) -> bool {
    KEYS.iter().any(|(known, names)| *known == section && names.contains(&name))
}

/// The known key that is most like a name; among equals one of the same section, so that a key in the wrong section is found too.
pub(super) fn nearest(section: Option<&str>, name: &str) -> Known {
    const SAME_SECTION: f64 = 0.1;
    let mut best = (Known { section: KEYS[0].0, name: KEYS[0].1[0] }, f64::MIN);
    for (known_section, names) in KEYS {
        for known in names {
            let likeness = strsim::jaro_winkler(name, known)
                + section.map_or(0.0, |section| SAME_SECTION * strsim::jaro_winkler(section, known_section));
            if likeness > best.1 {
                best = (Known { section: known_section, name: known }, likeness);
            }
        }
    }
    best.0
}

/// The known section that is most like a name.
pub(super) fn nearest_section(name: &str) -> String {
    let mut best = (KEYS[0].0, f64::MIN);
    for (section, _) in KEYS {
        let likeness = strsim::jaro_winkler(name, section);
        if likeness > best.1 {
            best = (section, likeness);
        }
    }
    if listed(best.0).is_some() { format!("[[{}]]", best.0) } else { format!("[{}]", best.0) }
}
