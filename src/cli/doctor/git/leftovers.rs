//! Headers that somebody once set by hand: git sends them instead of what a helper gives it, or beside it.

use std::collections::BTreeSet;

use super::Hosts;
use crate::cli::doctor::Check;
use crate::cli::git::chain::{listed, redacted_key, shell_word};
use crate::cli::git::settings::{ByUrl, Entry};
use crate::git::frame::printable;

/// Finds `http.extraHeader` with an `Authorization` header for a host of ours. Its value is never shown.
pub(super) fn headers(hosts: &Hosts, entries: &[Entry]) -> Vec<Check> {
    let settings = ByUrl::new("http", entries);
    let mut found: Vec<(&Entry, BTreeSet<String>)> = Vec::new();
    for place in &hosts.places {
        let mut sent: Vec<&Entry> = Vec::new();
        for entry in settings.matching(place, "extraheader").into_iter().chain(settings.matching_below(place, "extraheader")) {
            match entry.value.as_deref() {
                Some("") => sent.clear(),
                Some(header) if header.trim_start().to_ascii_lowercase().starts_with("authorization") => sent.push(entry),
                _ => {}
            }
        }
        for entry in sent {
            match found.iter_mut().find(|(known, _)| std::ptr::eq(*known, entry)) {
                Some((_, places)) => {
                    places.insert(place.shown());
                }
                None => found.push((entry, BTreeSet::from([place.shown()]))),
            }
        }
    }
    let check = |(entry, places): (&Entry, BTreeSet<String>)| {
        let detail = format!(
            "http.extraHeader sets an Authorization header for {}, which git sends instead of a credential; it is in {}",
            listed(&places),
            entry.place()
        );
        Check::warn("git", detail, unset(entry))
    };
    found.into_iter().map(check).collect()
}

/// What to run so that an entry is gone.
pub(super) fn unset(entry: &Entry) -> String {
    let key = redacted_key(&entry.key);
    let edit = key != printable(&entry.key);
    let option = match (&entry.file, entry.scope.as_str()) {
        (None, _) => return "take it out of the environment: GIT_CONFIG_COUNT, GIT_CONFIG_PARAMETERS".to_owned(),
        (Some(file), _) if file.is_absolute() => format!("--file {}", shell_word(&printable(&file.display().to_string()))),
        (Some(_), scope) => format!("--{scope}"),
    };
    // A key with a password in it is not repeated.
    if edit { format!("git config {option} --edit") } else { format!("git config {option} --unset-all {}", shell_word(&key)) }
}
