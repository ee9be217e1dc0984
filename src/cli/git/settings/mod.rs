//! git's configuration as git reads it, and what of it counts for a URL: which helpers are asked, in which order.
//!
//! git goes through every entry in the order in which it reads them (system, global, local, worktree, command line) and applies those
//! whose section matches, general or not, one after the other: a later entry adds a helper, an empty one forgets all before it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::matching::{Pattern, Query};
use crate::cli::bounded;
use crate::git::frame::printable;

/// An entry, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `system`, `global`, `local`, `worktree` or `command`.
    pub(crate) scope: String,
    /// The file, that of a repository relative to it; `None` for the command line and the environment.
    pub(crate) file: Option<PathBuf>,
    /// As git spells it: section and name in lower case, the middle as it is.
    pub(crate) key: String,
    /// Nothing where the key stands alone, which means true.
    pub(crate) value: Option<String>,
}

impl Entry {
    /// Where it is, for a person.
    pub(crate) fn place(&self) -> String {
        match &self.file {
            Some(file) => printable(&file.display().to_string()),
            None if self.scope == "command" => "the environment (GIT_CONFIG_COUNT or GIT_CONFIG_PARAMETERS)".to_owned(),
            None => format!("git's {} configuration", self.scope),
        }
    }

    /// The middle and last part of a key whose first is `section`: `credential.helper` has no middle.
    pub(crate) fn below(&self, section: &str) -> Option<(Option<&str>, &str)> {
        let rest = self.key.strip_prefix(section)?.strip_prefix('.')?;
        Some(rest.rsplit_once('.').map_or((None, rest), |(middle, name)| (Some(middle), name)))
    }
}

/// All entries that git reads in a folder, in its order.
///
/// Listing starts none of the programs that a configuration can name, so it may be asked about a folder that is not to be trusted.
/// `None` where git does not run or does not understand a file.
pub(crate) fn read(folder: &Path) -> Option<Vec<Entry>> {
    let mut list = git(&["config", "--list", "--show-scope", "--show-origin", "-z"]);
    bounded::output(list.current_dir(folder)).map(|listed| entries(&listed))
}

/// Scope, origin and setting, each ended by a NUL, as git lists them.
fn entries(listed: &[u8]) -> Vec<Entry> {
    let mut fields = listed.split(|&byte| byte == 0).map(|field| String::from_utf8_lossy(field).into_owned());
    let mut entries = Vec::new();
    while let (Some(scope), Some(origin), Some(setting)) = (fields.next(), fields.next(), fields.next()) {
        let file = origin.strip_prefix("file:").map(PathBuf::from);
        let (key, value) = match setting.split_once('\n') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (setting, None),
        };
        entries.push(Entry { scope, file, key, value });
    }
    entries
}

/// The keys and values in a text that is a file of git's configuration, each pair as git prints it; `None` where git cannot read it.
pub(super) fn parsed(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    use std::io::Write;
    let mut child = git_itself(&["config", "--file", "-", "--no-includes", "--list", "-z"]).stdin(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take()?;
    let content = content.to_owned();
    // It may stop reading at the first fault.
    let writer = std::thread::spawn(move || stdin.write_all(&content).is_ok());
    let output = child.wait_with_output().ok()?;
    let _ = writer.join();
    let entries = output.stdout.split(|&byte| byte == 0).filter(|entry| !entry.is_empty()).map(<[u8]>::to_vec).collect();
    output.status.success().then_some(entries)
}

/// git without any configuration, for what does not depend on it: with a broken one it does not even say its version.
pub(crate) fn git_itself(arguments: &[&str]) -> Command {
    let mut command = git(arguments);
    command.current_dir("/").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("GIT_CONFIG_COUNT");
    command.env_remove("GIT_CONFIG_PARAMETERS").env_remove("GIT_DIR");
    command
}

/// git, saying nothing of its own and reading nothing.
pub(crate) fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The entries of the sections `[SECTION]` and `[SECTION "URL"]`, found by URL: a list can have thousands of hosts, and thousands of paths
/// on one.
pub(crate) struct ByUrl<'a> {
    rules: Vec<Rule<'a>>,
    /// The positions of rules for one host, by it and the first segment of their path, which is empty where they have none.
    by_place: HashMap<String, HashMap<Vec<u8>, Vec<usize>>>,
    /// The positions of all others.
    others: Vec<usize>,
}

struct Rule<'a> {
    pattern: Option<Pattern>,
    /// The one place that it is for, where it is for one.
    place: Option<Query>,
    name: &'a str,
    entry: &'a Entry,
}

impl<'a> ByUrl<'a> {
    /// Takes the entries of a section.
    pub(crate) fn new(section: &str, entries: &'a [Entry]) -> Self {
        let mut settings = Self { rules: Vec::new(), by_place: HashMap::new(), others: Vec::new() };
        for entry in entries {
            let Some((url, name)) = entry.below(section) else { continue };
            let pattern = match url {
                None => None,
                Some(url) => match Pattern::new(url) {
                    Some(pattern) => Some(pattern),
                    // git passes over it with a warning.
                    None => continue,
                },
            };
            let position = settings.rules.len();
            match &pattern {
                Some(Pattern::Url(url)) if !url.host.contains('*') => {
                    let host = settings.by_place.entry(url.host.clone()).or_default();
                    host.entry(url.first_segment().to_vec()).or_default().push(position);
                }
                _ => settings.others.push(position),
            }
            let place = pattern.as_ref().and_then(Pattern::place);
            settings.rules.push(Rule { pattern, place, name, entry });
        }
        settings
    }

    /// The entries of a name that count for a URL, in git's order.
    pub(crate) fn matching(&self, query: &Query, name: &str) -> Vec<&'a Entry> {
        let host = query.url().and_then(|url| Some((self.by_place.get(&url.host)?, url.first_segment())));
        let whole = host.and_then(|(host, _)| host.get(&b""[..]));
        let part = host.filter(|(_, first)| !first.is_empty()).and_then(|(host, first)| host.get(first));
        let mut positions: Vec<usize> = whole.into_iter().chain(part).flatten().chain(&self.others).copied().collect();
        positions.sort_unstable();
        let rules = positions.into_iter().map(|position| &self.rules[position]);
        rules
            .filter(|rule| rule.name == name && rule.pattern.as_ref().is_none_or(|pattern| pattern.matches(query)))
            .map(|rule| rule.entry)
            .collect()
    }

    /// The rules of a name for single places below a URL, in git's order.
    fn below(&self, query: &Query, name: &str) -> Vec<(&Query, &Rule<'a>)> {
        let Some((url, host)) = query.url().and_then(|url| Some((url, self.by_place.get(&url.host)?))) else { return Vec::new() };
        let mut positions: Vec<usize> = match url.first_segment() {
            b"" => host.values().flatten().copied().collect(),
            first => host.get(first).into_iter().flatten().copied().collect(),
        };
        positions.sort_unstable();
        let rules = positions.into_iter().map(|position| &self.rules[position]).filter(|rule| rule.name == name);
        rules.filter_map(|rule| Some((rule.place.as_ref().filter(|place| place.is_below(query))?, rule))).collect()
    }

    /// The entries of a name in sections for single places below a URL.
    pub(crate) fn matching_below(&self, query: &Query, name: &str) -> Vec<&'a Entry> {
        self.below(query, name).into_iter().map(|(_, rule)| rule.entry).collect()
    }

    /// The places below a URL for which there are helpers of their own.
    pub(crate) fn places_below(&self, query: &Query) -> Vec<&Query> {
        let mut places: Vec<&Query> = Vec::new();
        for (place, _) in self.below(query, "helper") {
            // The lines of a section follow each other.
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
        places
    }

    /// The helpers that git asks about a URL, first to last.
    pub(crate) fn helpers(&self, query: &Query) -> Vec<&'a Entry> {
        let mut helpers = Vec::new();
        for entry in self.matching(query, "helper") {
            match entry.value.as_deref() {
                Some("") => helpers.clear(),
                _ => helpers.push(entry),
            }
        }
        helpers
    }

    /// Of the section `http`: the entries by which git sends an `Authorization` header to a URL.
    pub(crate) fn authorization_headers(&self, query: &Query) -> Vec<&'a Entry> {
        sent(self.matching(query, "extraheader"))
    }

    /// The same, with those for places below.
    pub(crate) fn authorization_headers_below(&self, query: &Query) -> Vec<&'a Entry> {
        sent(self.matching(query, "extraheader").into_iter().chain(self.matching_below(query, "extraheader")))
    }

    /// Whether git tells helpers the path of a URL.
    pub(crate) fn uses_path(&self, query: &Query) -> bool {
        self.matching(query, "usehttppath").last().is_some_and(|entry| is_true(entry.value.as_deref()))
    }
}

/// Which of the entries of `extraHeader`, in git's order, have git send an `Authorization` header: an empty one forgets all before it.
fn sent<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<&'a Entry> {
    let mut sent = Vec::new();
    for entry in entries {
        match entry.value.as_deref() {
            Some("") => sent.clear(),
            Some(header) if header.trim_start().to_ascii_lowercase().starts_with("authorization") => sent.push(entry),
            _ => {}
        }
    }
    sent
}

/// A boolean as git reads it.
fn is_true(value: Option<&str>) -> bool {
    let Some(value) = value else { return true };
    let value = value.to_ascii_lowercase();
    matches!(value.as_str(), "true" | "yes" | "on") || value.parse::<i64>().is_ok_and(|number| number != 0)
}

#[cfg(test)]
mod tests;
