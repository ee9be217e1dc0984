//! Headers that somebody once set by hand: git sends them instead of what a helper gives it, or beside it.

use std::collections::BTreeSet;

use super::Hosts;
use crate::cli::doctor::Check;
use crate::cli::git::chain::{listed, unset};
use crate::cli::git::settings::{ByUrl, Entry};

/// Where git is told not to look at certificates: a token then goes to whoever answers in the host's place.
pub(super) fn unverified(hosts: &Hosts, entries: &[Entry]) -> Vec<Check> {
    let consequence = "so a token goes to whoever answers in its place";
    if std::env::var_os("GIT_SSL_NO_VERIFY").is_some() {
        let detail = format!("GIT_SSL_NO_VERIFY is set: git looks at no certificate, {consequence}");
        return vec![Check::warn(
            "git",
            detail,
            "unset GIT_SSL_NO_VERIFY; for an authority of your own: git config --global http.sslCAInfo FILE",
        )];
    }
    let settings = ByUrl::new("http", entries);
    let mut found: Vec<(&Entry, BTreeSet<String>)> = Vec::new();
    for place in &hosts.places {
        let Some(&entry) = settings.matching(place, "sslverify").last() else { continue };
        let is_off =
            entry.value.as_deref().is_some_and(|value| ["", "0", "false", "no", "off"].contains(&value.to_ascii_lowercase().as_str()));
        if !is_off {
            continue;
        }
        match found.iter_mut().find(|(known, _)| std::ptr::eq(*known, entry)) {
            Some((_, places)) => {
                places.insert(place.shown());
            }
            None => found.push((entry, BTreeSet::from([place.shown()]))),
        }
    }
    let check = |(entry, places): (&Entry, BTreeSet<String>)| {
        let detail = format!("http.sslVerify is off for {}, {consequence}; it is in {}", listed(&places), entry.place());
        Check::warn("git", detail, format!("{}; for an authority of your own: git config --global http.sslCAInfo FILE", unset(entry)))
    };
    found.into_iter().map(check).collect()
}

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
