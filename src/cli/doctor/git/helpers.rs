//! Whom git asks about our hosts, and whether what it says lets the daemon answer.

use std::collections::BTreeSet;
use std::path::Path;

use super::Hosts;
use crate::cli::client::{self, DEFAULT_SOCKET};
use crate::cli::doctor::Check;
use crate::cli::git::chain::{self, is_ours, listed, redacted_key, remedy, shell_word, socket_of};
use crate::cli::git::matching::Pattern;
use crate::cli::git::sections;
use crate::cli::git::settings::{ByUrl, Entry};
use crate::cli::git::setup_command;
use crate::config::Config;
use crate::git::frame::printable;
use crate::login::{Account, Accounts};
use crate::oauth::{Plan, plan};
use crate::status::{Integration, Status};

/// Looks at the helpers.
pub(super) fn examine(socket: &Path, status: &Status, hosts: &Hosts, entries: &[Entry]) -> Vec<Check> {
    let chains = chain::examine(&hosts.sections, entries);
    let mut checks = Vec::new();
    if !chains.missing.is_empty() {
        let detail = format!("for this user, git does not ask scm-agent about {}", listed(&chains.missing));
        checks.push(Check::warn("git", detail, setup(entries)));
    } else if !status.integrations.is_empty() {
        checks.push(Check::ok("git", "asks scm-agent about every integration's host"));
    }
    if !chains.without_path.is_empty() {
        let detail = format!("git does not say which path it wants, so scm-agent cannot choose: {}", listed(&chains.without_path));
        checks.push(Check::warn("git", format!("{detail} (credential.useHttpPath)"), setup_command(false)));
    }
    for other in &chains.others {
        if let Some(problem) = other.problem() {
            checks.push(Check::warn("git", problem, other.next()));
        }
    }
    for entry in chains.ours.values() {
        let told = socket_of(entry.value.as_deref().unwrap_or_default());
        let asks = match &told {
            Some(told) => Path::new(told),
            None if names_socket() => socket,
            None => Path::new(DEFAULT_SOCKET),
        };
        if asks != socket {
            let detail = format!(
                "the daemon's socket is {}, the helper looks at {}; it is in {}",
                socket.display(),
                printable(&asks.display().to_string()),
                entry.place()
            );
            checks.push(Check::fail("git", detail, remedy(entry)));
        }
    }
    let stale = stale(hosts, entries);
    if !stale.is_empty() {
        let detail = format!("git asks scm-agent about {}, for which it has no integration", listed(&stale));
        checks.push(Check::warn("git", detail, setup_command(false)));
    }
    checks
}

/// The command that has git ask us. For root it writes the system's file, before which a user's own goes: where ours is set up
/// already and is not asked all the same, only the user's own file helps, or the repository's.
pub(super) fn setup(entries: &[Entry]) -> String {
    let is_helper = |entry: &&Entry| matches!(entry.below("credential"), Some((_, "helper")));
    let resets = |entry: &&Entry| entry.value.as_deref().is_none_or(str::is_empty);
    let of_repository = |entry: &&Entry| matches!(entry.scope.as_str(), "local" | "worktree");
    let is_set_up = entries.iter().any(is_ours);
    let reset = entries.iter().filter(is_helper).filter(resets).rfind(of_repository);
    match reset {
        Some(entry) if is_set_up => remedy(entry),
        _ => setup_command(is_set_up),
    }
}

fn names_socket() -> bool {
    std::env::var_os("SCM_AGENT__AGENT__SOCKET").is_some_and(|path| !path.is_empty())
}

/// Hosts that have a section with our helper and no place in the list.
fn stale(hosts: &Hosts, entries: &[Entry]) -> BTreeSet<String> {
    let mut stale = BTreeSet::new();
    for entry in entries.iter().filter(|entry| is_ours(entry)) {
        let Some((Some(url), "helper")) = entry.below("credential") else { continue };
        let Some(place) = Pattern::new(url).and_then(|pattern| pattern.place()) else { continue };
        if !hosts.has_name(place.host_name()) {
            stale.insert(place.shown());
        }
    }
    stale
}

/// Looks at the user names that git is told to ask with: one that is nobody's gets nothing.
pub(super) fn user_names(socket: &Path, status: &Status, config: Option<&Config>, entries: &[Entry]) -> Vec<Check> {
    let settings = ByUrl::new("credential", entries);
    let overrides = config.map(Config::provider_overrides).unwrap_or_default();
    let mut accounts: Option<Vec<Account>> = None;
    let mut checks = Vec::new();
    let mut told: Vec<&Entry> = Vec::new();
    for integration in &status.integrations {
        let name = |entry: &Entry| entry.value.clone().unwrap_or_default();
        let places = sections::wanted(std::slice::from_ref(integration)).into_iter().filter(|section| section.only);
        for place in places.filter_map(|section| chain::place(&section)) {
            let Some(&entry) = settings.matching(&place, "username").last() else { continue };
            let user = name(entry);
            if told.iter().any(|known| std::ptr::eq(*known, entry)) {
                continue;
            }
            let accounts = accounts
                .get_or_insert_with(|| client::ask::<Accounts>(socket, "accounts").map(|answer| answer.accounts).unwrap_or_default());
            let own: Vec<&str> =
                accounts.iter().filter(|one| one.integration_id == integration.id).map(|one| one.account.as_str()).collect();
            if own.contains(&user.as_str()) || serves(integration, &user, &overrides) || (integration.grant == "user" && own.is_empty()) {
                continue;
            }
            told.push(entry);
            let detail = format!("git asks about {} with a user name that selects nobody; it is in {}", place.shown(), entry.place());
            checks.push(Check::warn("git", detail, other_name(entry, &own)));
        }
    }
    checks
}

/// Whether the app's own token, or one that the user brings, is given under any name, or under this one.
fn serves(integration: &Integration, user: &str, overrides: &[crate::oauth::ProviderOverride]) -> bool {
    let plan = plan(&integration.scm_id, &integration.host, integration.issuer.as_deref(), integration.pat, integration.oauth, overrides);
    match plan {
        Plan::Service(plan) => matches!(integration.scm_id.as_str(), "azuredevops_entra" | "bitbucket") || plan.username == user,
        Plan::User(plan) => plan.username == user,
        // A personal access token is kept under the name that it was brought with.
        Plan::None { .. } | Plan::Pat => true,
    }
}

fn other_name(entry: &Entry, accounts: &[&str]) -> String {
    let key = shell_word(&redacted_key(&entry.key));
    let option = match (entry.scope.as_str(), &entry.file) {
        ("command", _) => return remedy(entry),
        (scope @ ("local" | "worktree"), _) | (scope, None) => format!("--{scope}"),
        (_, Some(file)) => format!("--file {}", shell_word(&printable(&file.display().to_string()))),
    };
    match accounts.iter().find(|name| !name.is_empty()) {
        Some(name) => format!("git config {option} {key} {}", shell_word(name)),
        None => format!("git config {option} --unset-all {key}"),
    }
}
