//! Which helpers git asks about our hosts beside ours, and what that means for a token.
//!
//! git asks one helper after the other until one answers, and then tells all of them what served: a helper that keeps what it is
//! told keeps our tokens, wherever it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::matching::Query;
use super::sections::Section;
use super::settings::{ByUrl, Entry};
use super::setup_command;
use crate::git::frame::printable;

/// What a helper does with a token that it is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Writes it to a file that anybody who reads it can use.
    InClear,
    /// Hands it to a keyring or a store of its own.
    InStore,
    /// Nothing that outlives a while in memory.
    Nothing,
    /// Nobody knows: a command, or a program that is not known here.
    Unknown,
}

/// A helper of others that is asked about hosts of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Other<'a> {
    pub(crate) entry: &'a Entry,
    /// Whether it is asked before ours, so that its answer counts.
    pub(crate) first: bool,
    pub(crate) keeping: Keeping,
    /// The hosts, each with the path that it is about.
    pub(crate) places: BTreeSet<String>,
}

/// What git would do about our hosts.
#[derive(Debug, Default)]
pub(crate) struct Chains<'a> {
    /// Where ours is not asked.
    pub(crate) missing: BTreeSet<String>,
    /// Where git does not tell the path and should.
    pub(crate) without_path: BTreeSet<String>,
    /// Whom else it asks.
    pub(crate) others: Vec<Other<'a>>,
    /// Our own entries that are asked, by what they say.
    pub(crate) ours: BTreeMap<&'a str, &'a Entry>,
}

/// Looks at every place that is ours alone.
pub(crate) fn examine<'a>(sections: &[Section], entries: &'a [Entry]) -> Chains<'a> {
    let settings = ByUrl::new("credential", entries);
    let mut chains = Chains::default();
    for section in sections.iter().filter(|section| section.only) {
        let Some(place) = place(section) else { continue };
        let helpers = settings.helpers(&place);
        if helpers.iter().any(|entry| is_ours(entry)) {
            if section.use_http_path && !settings.uses_path(&place) {
                chains.without_path.insert(place.shown());
            }
        } else {
            chains.missing.insert(place.shown());
        }
        chains.add(&place, helpers);
        for below in settings.places_below(&place) {
            let helpers = settings.helpers(below);
            if !helpers.iter().any(|entry| is_ours(entry)) {
                chains.missing.insert(below.shown());
            }
            chains.add(below, helpers);
        }
    }
    chains
}

/// The place that a section is for, as git asks for it: nothing for many places at once, or for a second spelling.
pub(crate) fn place(section: &Section) -> Option<Query> {
    Some(section.url.as_str()).filter(|url| url.contains("://") && !url.contains('*')).and_then(Query::new)
}

impl<'a> Chains<'a> {
    fn add(&mut self, place: &Query, helpers: Vec<&'a Entry>) {
        let first_of_ours = helpers.iter().position(|entry| is_ours(entry));
        for (position, entry) in helpers.into_iter().enumerate() {
            if is_ours(entry) {
                // One of each is enough to say where it looks.
                self.ours.entry(entry.value.as_deref().unwrap_or_default()).or_insert(entry);
                continue;
            }
            // Where ours is not asked, there is no token of ours to keep.
            let Some(ours) = first_of_ours else { continue };
            let first = position < ours;
            match self.others.iter_mut().find(|other| std::ptr::eq(other.entry, entry) && other.first == first) {
                Some(other) => {
                    other.places.insert(place.shown());
                }
                None => {
                    let keeping = keeping(entry.value.as_deref().unwrap_or_default());
                    self.others.push(Other { entry, first, keeping, places: BTreeSet::from([place.shown()]) });
                }
            }
        }
    }
}

impl Other<'_> {
    /// What is the matter with it; nothing for a helper that comes after ours and keeps nothing.
    pub(crate) fn problem(&self) -> Option<String> {
        let name = shown(self.entry);
        let keeps = match self.keeping {
            Keeping::InClear => "writes its tokens to a file in clear",
            Keeping::InStore => "keeps its tokens beyond their use",
            Keeping::Unknown => "may keep its tokens",
            Keeping::Nothing if self.first => "answers instead",
            Keeping::Nothing => return None,
        };
        let asked = if self.first { "asked before scm-agent" } else { "asked beside scm-agent" };
        let (places, file) = (listed(&self.places), self.entry.place());
        Some(format!("the helper \"{name}\" is {asked} about {places} and {keeps}; it is in {file}"))
    }

    /// What to run about it.
    pub(crate) fn next(&self) -> String {
        remedy(self.entry)
    }
}

/// What to run so that an entry of the section `credential` no longer counts for our hosts.
pub(crate) fn remedy(entry: &Entry) -> String {
    match entry.scope.as_str() {
        "system" => setup_command(false),
        "global" => setup_command(true),
        scope @ ("local" | "worktree") => format!("git config --{scope} --unset-all {}", shell_word(&redacted_key(&entry.key))),
        _ => "take it out of the environment: GIT_CONFIG_COUNT, GIT_CONFIG_PARAMETERS".to_owned(),
    }
}

/// A key without what stands before the `@` of a URL in it, which may be a password.
pub(crate) fn redacted_key(key: &str) -> String {
    let key = printable(key);
    match key.split_once("://") {
        Some((before, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            match rest[..end].rfind('@') {
                Some(at) => format!("{before}://…{}", &rest[at..]),
                None => key,
            }
        }
        None => key,
    }
}

/// What to run so that an entry is gone.
pub(crate) fn unset(entry: &Entry) -> String {
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

/// A word that can be pasted into a shell.
pub(crate) fn shell_word(word: &str) -> String {
    super::text::quoted_for_shell(word)
}

/// Some of many names.
pub(crate) fn listed(names: &BTreeSet<String>) -> String {
    let shown = names.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Whether an entry names our helper.
pub(crate) fn is_ours(entry: &Entry) -> bool {
    program(entry.value.as_deref().unwrap_or_default()) == Some("scm-agent")
}

/// Whether a helper is ours by its short name, which git looks for in PATH.
pub(crate) fn is_by_name(helper: &str) -> bool {
    helper.split_whitespace().next() == Some("scm-agent")
}

/// The socket that a helper of ours is told to use.
pub(crate) fn socket_of(helper: &str) -> Option<String> {
    let after = helper.split_once("--socket")?.1;
    let word = after.strip_prefix('=').unwrap_or(after).trim_start();
    // As `quoted_for_shell` writes it, and as people do.
    let mut path = String::new();
    let mut characters = word.chars();
    let mut quote = None;
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '\\') => path.extend(characters.next()),
            (None, blank) if blank.is_whitespace() => break,
            (_, other) => path.push(other),
        }
    }
    (!path.is_empty()).then_some(path)
}

/// The short name of the program that a helper is; nothing for a command of the shell.
fn program(helper: &str) -> Option<&str> {
    let word = helper.split_whitespace().next().filter(|word| !word.starts_with('!'))?;
    let name = Path::new(word.trim_matches(['"', '\''])).file_name()?.to_str()?;
    let name = name.strip_suffix(".exe").unwrap_or(name);
    match name.strip_prefix("git-credential-") {
        Some(short) => Some(short),
        // A path is started as it is, a bare word with git's prefix.
        None if word.contains('/') => None,
        None => Some(name),
    }
}

fn keeping(helper: &str) -> Keeping {
    // The hosts' own programs take no notice of what they are told to store.
    if ["gh auth git-credential", "glab auth git-credential"].iter().any(|command| helper.contains(command)) {
        return Keeping::Nothing;
    }
    match program(helper) {
        Some("store") => Keeping::InClear,
        Some("gnome-keyring" | "libsecret" | "manager" | "manager-core" | "osxkeychain" | "wincred") => Keeping::InStore,
        Some("cache" | "netrc" | "oauth") => Keeping::Nothing,
        _ => Keeping::Unknown,
    }
}

/// A helper for a person: ours as it is, and of any other, which may have a secret in it, the program alone.
pub(crate) fn shown(entry: &Entry) -> String {
    let helper = entry.value.as_deref().unwrap_or_default();
    if is_ours(entry) { printable(helper) } else { program_of(helper) }
}

fn program_of(helper: &str) -> String {
    let word = helper.split_whitespace().next().unwrap_or_default();
    let more = if helper.trim().len() > word.len() { " …" } else { "" };
    if word.starts_with('!') && word.contains(['=', '(']) {
        return "! …".to_owned();
    }
    printable(&format!("{word}{more}"))
}

const MAX_NAMES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_helper_is_known_by_its_name_alone() {
        for ours in
            ["scm-agent", "scm-agent --socket /x", "/usr/local/bin/git-credential-scm-agent", "/opt/git-credential-scm-agent --socket /x"]
        {
            assert_eq!(program(ours), Some("scm-agent"), "{ours}");
        }
        for other in ["", "store", "cache --timeout 1", "not-scm-agent", "/bin/scm-agent", "/bin/scm-agent-not", "!scm-agent"] {
            assert_ne!(program(other), Some("scm-agent"), "{other}");
        }
    }

    #[test]
    fn what_a_helper_keeps_is_known_by_its_program() {
        for (helper, expected) in [
            ("store --file /x", Keeping::InClear),
            ("/usr/lib/git-core/git-credential-libsecret", Keeping::InStore),
            ("/mnt/c/git-credential-manager.exe", Keeping::InStore),
            ("cache --timeout=9", Keeping::Nothing),
            ("!/usr/bin/gh auth git-credential", Keeping::Nothing),
            ("!f() { cat; }; f", Keeping::Unknown),
            ("another", Keeping::Unknown),
            ("/opt/store", Keeping::Unknown),
        ] {
            assert_eq!(keeping(helper), expected, "{helper}");
        }
    }

    #[test]
    fn nothing_secret_of_a_helper_or_a_key_is_shown() {
        for helper in ["!f(){ echo password=canary; }; f", "x canary", "!p=canary sh", "store --file canary"] {
            assert!(!program_of(helper).contains("canary"), "{helper}");
        }
        assert_eq!(redacted_key("http.https://u:canary@h.test/p.extraheader"), "http.https://…@h.test/p.extraheader");
        assert_eq!(redacted_key("http.https://h.test/@p.extraheader"), "http.https://h.test/@p.extraheader");
    }

    #[test]
    fn the_socket_is_read_as_the_shell_reads_it() {
        for (helper, socket) in [
            ("scm-agent", None),
            ("scm-agent --socket /a", Some("/a")),
            ("scm-agent --socket=/a get", Some("/a")),
            ("scm-agent --socket '/a b/it'\\''s'", Some("/a b/it's")),
            ("scm-agent --socket \"/a b\"", Some("/a b")),
        ] {
            assert_eq!(socket_of(helper).as_deref(), socket, "{helper}");
        }
    }
}
