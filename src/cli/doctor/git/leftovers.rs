//! Headers that somebody once set by hand: git sends them instead of what a helper gives it, or beside it.

use std::collections::BTreeSet;

use super::Hosts;
use crate::cli::doctor::Check;
use crate::cli::git::chain::{listed, unset};
use crate::cli::git::settings::{ByUrl, Entry};

/// Finds `http.extraHeader` with an `Authorization` header for a host of ours. Its value is never shown.
pub(super) fn headers(hosts: &Hosts, entries: &[Entry]) -> Vec<Check> {
    let settings = ByUrl::new("http", entries);
    let mut found: Vec<(&Entry, BTreeSet<String>)> = Vec::new();
    for place in &hosts.places {
        for entry in settings.authorization_headers_below(place) {
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
