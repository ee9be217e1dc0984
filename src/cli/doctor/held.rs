//! What the daemon says of itself: how it fares with the list, the integrations, the tokens and its memory.

use super::{Check, NOTHING_TO_SET};
use crate::cli::advice::{self, as_root};
use crate::cli::git::chain::listed;
use crate::status::{Integration, Sandbox, Secret, Status, Token, TokenState};

/// Whether the daemon and this program are of one version.
pub(super) fn daemon(status: &Status) -> Check {
    const HERE: &str = env!("CARGO_PKG_VERSION");
    if status.version == HERE {
        return Check::ok("daemon", format!("version {HERE}, pid {}", status.pid));
    }
    let detail = format!("the daemon is version {}, this is {HERE}", status.version);
    let next = match numbers(&status.version) > numbers(HERE) {
        true => "this program is the older one: see which others there are (type -a scm-agent), and install one version".to_owned(),
        false => advice::restart(Some(status.pid)),
    };
    Check::warn("daemon", detail, next)
}

/// The numbers of a version, to tell which is the newer.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

/// How the list comes.
pub(super) fn control_plane(status: &Status) -> Check {
    let sync = &status.sync;
    match (&sync.last_error, sync.last_success) {
        (None, None) => Check::warn("control-plane", format!("{} was not asked yet", sync.source), "scm-agent sync"),
        (None, Some(_)) if sync.stale => {
            let detail = format!("the list of {} in use was not confirmed for a while", sync.source);
            Check::warn("control-plane", detail, "scm-agent sync")
        }
        (None, Some(_)) => {
            let how = if sync.watching { ", told of changes" } else { "" };
            Check::ok("control-plane", format!("{}, {} integrations{how}", sync.source, status.integrations.len()))
        }
        (Some(error), _) => Check::fail(
            "control-plane",
            format!("{} fails ({} in a row): {error}", sync.source, sync.consecutive_failures),
            format!("{}, then run: scm-agent sync", sync.next.as_deref().unwrap_or(NOTHING_TO_SET)),
        ),
    }
}

/// What the daemon finds wrong beyond its list and the integrations in it.
pub(super) fn other_faults(status: &Status) -> Vec<Check> {
    let told_elsewhere = |reason: &str| {
        let of_the_list = status.sync.last_error.as_deref().is_some_and(|error| reason.contains(error));
        // Of those that cover the same place, each for itself looks well.
        let of_an_integration = !reason.contains(CONTESTED) && status.integrations.iter().any(|one| reason.contains(&one.id));
        of_the_list || of_an_integration
    };
    let check = |reason: &String| {
        if reason.starts_with("the audit log ") {
            let next = format!(
                "see to its folder: it belongs to the agent's user, with room on its disk (df -h); then: {}",
                advice::restart(Some(status.pid))
            );
            Check::fail("audit-log", reason.clone(), next)
        } else if reason.starts_with("cannot serve metrics") {
            Check::fail("config", reason.clone(), "see metrics.listen; the daemon tries on by itself")
        } else if reason.starts_with("the access rules ") {
            let next = "such rules need Linux 6.5 and cgroups of version 2; name users, groups or hosts in them instead";
            Check::fail("access", reason.clone(), next)
        } else if reason.contains("public key") || reason.contains("registered for this runner") {
            let next = "scm-agent key show FILE prints what to register; or put the registered key's file in key.files";
            Check::fail("registered-key", reason.clone(), next)
        } else if reason.contains("knows up to format") {
            let next =
                "install the version of scm-agent that wrote it again; docs/upgrade.md says how to go on without it, and what is lost";
            Check::fail("state", reason.clone(), next)
        } else if reason.starts_with("the kept list") || reason.contains("not kept for the next start") {
            let next =
                "see agent.state_dir: it belongs to the agent's user, mode 0700, with room on its disk; what was set aside can be deleted";
            Check::fail("state", reason.clone(), next)
        } else if reason.starts_with("sign-ins") || (!status.store.healthy && reason.contains("grants")) {
            let next = if reason.contains("sign in again") {
                "their users run scm-agent login; what was set aside can be deleted; a runner key that was taken away can be loaded again"
            } else {
                "see agent.state_dir: it belongs to the agent's user, mode 0700, with room on its disk; then restart the daemon, or wait"
            };
            Check::fail("store", reason.clone(), next)
        } else if reason.starts_with("the operator's personal access token") {
            let next = "let the integration allow personal access tokens, or take pat_file or pat_credential out of its [[provider]]";
            Check::warn("tokens", reason.clone(), next)
        } else if reason.starts_with("the settings were not taken over") {
            let next = format!("scm-agent config check; once it is mended: {}", as_root("scm-agent reload"));
            Check::fail("config", reason.clone(), next)
        } else if reason.contains("from the next start on") {
            // How it is started anew depends on where it runs.
            let detail = reason.split("; run: ").next().unwrap_or(reason);
            Check::warn("config", detail, advice::restart(Some(status.pid)))
        } else if reason.contains("of the socket") || reason.contains(" socket ") {
            let next = match advice::has_unit() {
                true => as_root("systemctl restart scm-agent.socket scm-agent.service"),
                false => advice::restart(Some(status.pid)),
            };
            Check::fail("socket", reason.clone(), next)
        } else if reason.contains(CONTESTED) {
            Check::fail("integrations", reason.clone(), "remove all but one of them with the control plane, then run: scm-agent sync")
        } else if reason.contains("key files") {
            Check::fail("key", reason.clone(), "mend the file; the daemon looks again by itself")
        } else {
            Check::fail("integrations", reason.clone(), "enter it anew with the control plane, then run: scm-agent sync")
        }
    };
    status.degraded.iter().filter(|reason| !told_elsewhere(reason)).map(check).collect()
}

/// Each integration that gives no token, or not to everyone.
pub(super) fn integrations(status: &Status) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut unsigned = Vec::new();
    for integration in &status.integrations {
        let name = format!("{} ({})", integration.host, integration.id);
        if integration.secret == Secret::Undecryptable {
            checks.push(Check::fail(
                "integrations",
                format!("no runner key opens the client secret of {name}"),
                "put the file of the key that it was sealed for into key.files, or enter the secret anew with the control plane",
            ));
        }
        if integration.secret == Secret::Missing && integration.oauth && matches!(integration.grant.as_str(), "service" | "user") {
            let next = "enter it with the control plane, then run: scm-agent sync";
            checks.push(Check::fail("integrations", format!("the app of {name} has no client secret"), next));
        }
        if let Some(held) = &integration.quarantine {
            let fields: Vec<&str> = held.fields.iter().map(|field| field.field.as_str()).collect();
            let serving = if held.serving { "what was trusted before stays in use" } else { "it gives no tokens" };
            checks.push(Check::fail(
                "quarantine",
                format!("{name} is held back: {} changed without a new secret; {serving}", fields.join(" and ")),
                format!("scm-agent trust shows what changed; if you changed it: scm-agent trust {}", integration.id),
            ));
            if !held.serving {
                continue;
            }
        }
        for token in integration.tokens.iter().filter(|token| token.grant == PAT) {
            if let Some(error) = &token.last_error {
                let next =
                    if token.subject == OPERATOR { "mend the file, or put a new token into it" } else { "that user gives git another one" };
                checks.push(Check::warn("tokens", format!("{name}, {}: {error}", token.subject), next));
            }
        }
        let own = |token: &&Token| token.grant != PAT && matches!(integration.secret, Secret::Ok | Secret::Quarantined);
        for token in integration.tokens.iter().filter(own) {
            if token.subject != SERVICE {
                checks.extend(sign_in(&name, integration, token));
            } else if let Some(error) = &token.last_error {
                checks.push(Check::fail("integrations", format!("{name}: {error}"), about_token(error)));
            }
        }
        if integration.grant == "user" && !integration.pat && integration.tokens.is_empty() {
            unsigned.push((name, integration));
            continue;
        }
        if integration.grant == "none" {
            let reason = integration.note.as_deref().unwrap_or("nothing is set up for it");
            checks.push(Check::warn("integrations", format!("{name} gives no token: {reason}"), "set it up with the control plane"));
        }
    }
    match unsigned.as_slice() {
        [] => {}
        [(name, integration)] => {
            checks.push(Check::warn("sign-ins", format!("{name}: nobody is signed in"), advice::login(integration, "")));
        }
        several => {
            let hosts = several.iter().map(|(_, integration)| integration.host.clone()).collect();
            let detail = format!("nobody is signed in to {}", listed(&hosts));
            checks.push(Check::warn("sign-ins", detail, "who needs one of them runs: scm-agent login https://HOST"));
        }
    }
    if checks.is_empty() && !status.integrations.is_empty() {
        checks.push(Check::ok("integrations", format!("all {} usable", status.integrations.len())));
    }
    checks
}

/// What to do about a token that the app does not get.
fn about_token(error: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if says(&["invalid_client"]) {
        "the issuer does not know the app's id or its secret: enter both anew with the control plane, then run: scm-agent sync"
    } else if says(&["invalid_scope"]) {
        "see scopes in the host's [[provider]] table, and those of the app with its issuer"
    } else if says(&["unauthorized_client", "unsupported_grant_type", "client_credentials"]) {
        "allow the app client_credentials with its issuer; or have users sign in: grant = \"user\" in a [[provider]] table"
    } else if says(&["certificate"]) {
        "see ca_file in [scm], and whether this machine's clock is right: date"
    } else if says(&["private address"]) {
        "if that is right, add a [[provider]] table with that host, then: scm-agent reload"
    } else if says(&["cannot connect", "in time", "proxy"]) {
        "see whether this machine gets there, and proxy and no_proxy in [scm]"
    } else {
        "see the app's id, secret and scopes with its issuer"
    }
}

/// How it is told that several integrations are in each other's way.
const CONTESTED: &str = "cover the same place";

/// The grant of personal access tokens, and the subject of the operator's.
const PAT: &str = "pat";
const OPERATOR: &str = "operator";

/// The subject of the app's own tokens.
const SERVICE: &str = "service";

/// A user's grant that is in trouble.
fn sign_in(name: &str, integration: &Integration, token: &Token) -> Option<Check> {
    let reason = token.last_error.as_deref().unwrap_or("it is over");
    let detail = format!("{name}, {}: {reason}", token.subject);
    match token.state {
        TokenState::NeedsLogin => {
            let account = token.subject.split_once(" as ").map_or("", |(_, account)| account);
            Some(Check::warn("sign-ins", detail, format!("that user runs: {}", advice::login(integration, account))))
        }
        TokenState::Failing => Some(Check::warn("sign-ins", detail, "it is tried again by itself; see the issuer and the network")),
        TokenState::Refreshing | TokenState::Valid => None,
    }
}

/// Whether secrets stay out of swap.
pub(super) fn memory(status: &Status) -> Check {
    match &status.memory.reason {
        None => Check::ok("memory", "kept out of swap"),
        Some(reason) => {
            Check::warn("memory", format!("may be swapped: {reason}"), "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited")
        }
    }
}

/// What the daemon took away from itself.
pub(super) fn sandbox(sandbox: &Sandbox) -> Check {
    let words = sandbox.words();
    match &sandbox.reason {
        None => Check::ok("sandbox", words),
        Some(_) => Check::warn(
            "sandbox",
            words,
            "a kernel with Landlock (5.13 or later, in lsm=) and seccomp; in a container, its profile must let them through",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;
    use crate::status::samples;

    #[test]
    fn a_newer_daemon_and_an_older_one_are_told_apart() {
        let check = |version: &str| daemon(&Status { version: version.to_owned(), ..samples::status() });
        assert_eq!(check(env!("CARGO_PKG_VERSION")).state, State::Ok);
        assert!(check("999.0.0").next.unwrap().contains("this program is the older one"));
        assert!(!check("0.0.1").next.unwrap().contains("the older one"));
        assert!(numbers("0.10.0") > numbers("0.9.9"));
    }

    #[test]
    fn what_is_degraded_is_said_once_and_by_the_right_name() {
        let mut status = samples::status();
        status.integrations = vec![samples::integration("a.example", "service"), samples::integration("b.example", "service")];
        let id = status.integrations[0].id.clone();
        status.degraded = vec![
            format!("integration {id} (a.example): no"),
            format!("the integrations {id} and other {CONTESTED}, so none of them answers there"),
            "the settings were not taken over, those of before stay in use: x".to_owned(),
            "store.kind changed in the configuration and counts from the next start on; run: systemctl restart scm-agent".to_owned(),
            "the file of the socket /x is gone, so that nobody can connect".to_owned(),
            "the audit log /x/public key files cannot be written: no".to_owned(),
            "cannot serve metrics at the socket /x: of the socket".to_owned(),
            "the access rules 1 are about units or cgroups, and give nobody anything here: this kernel".to_owned(),
        ];
        let found: Vec<_> = other_faults(&status).into_iter().map(|check| (check.name, check.state)).collect();
        let expected = [
            ("integrations", State::Fail),
            ("config", State::Fail),
            ("config", State::Warn),
            ("socket", State::Fail),
            ("audit-log", State::Fail),
            ("config", State::Fail),
            ("access", State::Fail),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_app_without_a_secret_is_no_usable_one() {
        let of = |secret| {
            let integration = Integration { secret, ..samples::integration("a.example", "service") };
            integrations(&Status { integrations: vec![integration], ..samples::status() }).remove(0)
        };
        assert_eq!(of(Secret::Ok).state, State::Ok);
        let missing = of(Secret::Missing);
        assert!(missing.state == State::Fail && missing.detail.contains("has no client secret"), "{missing:?}");
    }

    #[test]
    fn hosts_that_nobody_signed_in_to_are_one_line() {
        let of = |hosts: &[&str]| {
            let integrations =
                hosts.iter().map(|host| samples::integration(host, "user")).map(|one| Integration { tokens: Vec::new(), ..one });
            super::integrations(&Status { integrations: integrations.collect(), ..samples::status() })
        };
        let one = of(&["a.example"]).remove(0);
        assert_eq!(one.next.unwrap(), "scm-agent login https://a.example");
        let several = of(&["a.example", "b.example", "c.example"]);
        assert_eq!(several.len(), 1, "{several:?}");
        assert_eq!(several[0].detail, "nobody is signed in to a.example, b.example, c.example");
    }
}
