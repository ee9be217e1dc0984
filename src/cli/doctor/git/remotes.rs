//! URLs in git's configuration: tokens in them, and ways past us.

use super::Hosts;
use crate::cli::doctor::Check;
use crate::cli::git::chain::{shell_word, unset};
use crate::cli::git::settings::Entry;
use crate::git::frame::printable;
use crate::secret::is_token_like;

/// Looks at remotes, and at `url.*.insteadOf`.
pub(super) fn examine(hosts: &Hosts, entries: &[Entry]) -> Vec<Check> {
    let mut checks = Vec::new();
    let rewrites: Vec<Rewrite<'_>> = entries.iter().filter_map(Rewrite::of).collect();
    for rewrite in rewrites.iter().filter(|rewrite| has_secret(rewrite.base)) {
        let detail = format!("a URL of url.*.insteadOf has a password or token in it; it is in {}", rewrite.entry.place());
        checks.push(Check::warn("git", detail, format!("{}; then end that token at its host", unset(rewrite.entry))));
    }
    for entry in entries {
        let Some((Some(name), "url" | "pushurl")) = entry.below("remote") else { continue };
        let url = entry.value.as_deref().unwrap_or_default();
        let remote = printable(name);
        if has_secret(url) {
            let detail = format!("the URL of remote \"{remote}\" has a password or token in it; it is in {}", entry.place());
            let next = format!("git remote set-url {} {}; then end that token at its host", shell_word(&remote), shell_word(&plain(url)));
            checks.push(Check::warn("git", detail, next));
        }
        let url = rewritten(url, &rewrites);
        if let Some((host, prefix)) = ssh(&url).filter(|(host, _)| hosts.has_name(host)) {
            let detail = format!("remote \"{remote}\" goes over ssh to {host}, where scm-agent gives no token; it is in {}", entry.place());
            checks.push(Check::warn("git", detail, over_https(&remote, &host, &prefix)));
        }
    }
    let mut told: Vec<&Entry> = Vec::new();
    for place in &hosts.places {
        let url = format!("{}/", place.origin());
        let Some(rewrite) = best(&url, &rewrites).filter(|rewrite| !is_http(rewrite.base)) else { continue };
        if !told.iter().any(|known| std::ptr::eq(*known, rewrite.entry)) {
            told.push(rewrite.entry);
            let detail = format!(
                "git does not use https for {}, so it asks no helper: url.*.insteadOf in {} says otherwise",
                place.shown(),
                rewrite.entry.place()
            );
            checks.push(Check::warn("git", detail, unset(rewrite.entry)));
        }
    }
    checks
}

/// `url.BASE.insteadOf = PREFIX`.
struct Rewrite<'a> {
    base: &'a str,
    prefix: &'a str,
    entry: &'a Entry,
}

impl<'a> Rewrite<'a> {
    fn of(entry: &'a Entry) -> Option<Self> {
        let (Some(base), "insteadof" | "pushinsteadof") = entry.below("url")? else { return None };
        Some(Self { base, prefix: entry.value.as_deref().filter(|prefix| !prefix.is_empty())?, entry })
    }

    fn is_for_fetches(&self) -> bool {
        self.entry.key.ends_with(".insteadof")
    }
}

/// The rewrite that git takes for a URL: the one with the longest prefix.
fn best<'a, 'b>(url: &str, rewrites: &'b [Rewrite<'a>]) -> Option<&'b Rewrite<'a>> {
    let matching = rewrites.iter().filter(|rewrite| rewrite.is_for_fetches() && url.starts_with(rewrite.prefix));
    // Of equals git takes the first.
    matching.rev().max_by_key(|rewrite| rewrite.prefix.len())
}

fn rewritten(url: &str, rewrites: &[Rewrite<'_>]) -> String {
    best(url, rewrites).map_or_else(|| url.to_owned(), |rewrite| format!("{}{}", rewrite.base, &url[rewrite.prefix.len()..]))
}

fn is_http(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
}

/// The part of a URL between `//` and the path.
fn authority(url: &str) -> Option<&str> {
    url.split_once("://").map(|(_, rest)| &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

/// Whether an http URL has a password in it, or a user name that is a token.
fn has_secret(url: &str) -> bool {
    let Some((user, _)) = authority(url).filter(|_| is_http(url)).and_then(|authority| authority.rsplit_once('@')) else { return false };
    match user.split_once(':') {
        Some((_, password)) if !password.is_empty() => true,
        _ => {
            let user = user.trim_end_matches(':');
            is_token_like(user)
        }
    }
}

/// A URL without its user and password, its query and its fragment.
fn plain(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "URL".to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    printable(&format!("{scheme}://{host}{}", &rest[end..]))
}

/// Host and prefix of a URL that goes over ssh: `ssh://[user@]host[:port]/` or `[user@]host:`.
fn ssh(url: &str) -> Option<(String, String)> {
    let user_and_host = |text: &str| -> (String, String) {
        match text.rsplit_once('@') {
            // Nobody's password is repeated.
            Some((user, host)) => (format!("{}@", user.split(':').next().unwrap_or_default()), host.to_owned()),
            None => (String::new(), text.to_owned()),
        }
    };
    if let Some((scheme, rest)) = url.split_once("://") {
        if !["ssh", "git+ssh", "ssh+git"].iter().any(|ssh| scheme.eq_ignore_ascii_case(ssh)) {
            return None;
        }
        let (user, host) = user_and_host(rest.split('/').next().unwrap_or_default());
        let name = host.split(':').next().unwrap_or_default().to_owned();
        return Some((of_https(&name), format!("{scheme}://{user}{host}/")));
    }
    let (before, _) = url.split_once(':').filter(|(before, _)| !before.is_empty() && !before.contains('/'))?;
    let (user, host) = user_and_host(before);
    Some((of_https(&host), format!("{user}{host}:")))
}

/// The name of a host for https, where ssh has one of its own.
fn of_https(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "altssh.bitbucket.org" => "bitbucket.org".to_owned(),
        "altssh.gitlab.com" => "gitlab.com".to_owned(),
        "ssh.dev.azure.com" | "vs-ssh.visualstudio.com" => AZURE_DEVOPS.to_owned(),
        "ssh.github.com" => "github.com".to_owned(),
        _ => host,
    }
}

fn over_https(remote: &str, host: &str, prefix: &str) -> String {
    if host == AZURE_DEVOPS {
        // Its paths are others over ssh.
        return format!("git remote set-url {} https://{AZURE_DEVOPS}/ORGANISATION/PROJECT/_git/REPOSITORY", shell_word(remote));
    }
    let key = format!("url.https://{}/.insteadOf", printable(host));
    format!("git config --global --add {} {}", shell_word(&key), shell_word(&printable(prefix)))
}

const AZURE_DEVOPS: &str = "dev.azure.com";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_in_urls_are_seen() {
        for url in [
            "https://u:canary@h.test/p",
            "http://x-access-token:canary@h.test",
            "https://ghp_canary@github.com/a/b",
            "https://glpat-canary:@gitlab.com/a/b",
            "https://0123456789012345678901234567890123456789@h.test/a",
        ] {
            assert!(has_secret(url), "{url}");
            assert!(!plain(url).contains("canary") && plain(url).starts_with("http"), "{url}");
        }
        for url in
            ["https://h.test/a@b:c", "https://acme@dev.azure.com/acme/p", "ssh://git:x@h.test/a", "git@h.test:a/b", "https://h.test:443/"]
        {
            assert!(!has_secret(url), "{url}");
        }
        assert_eq!(plain("https://u:p@h.test:8443/a/b@c?x=canary#canary"), "https://h.test:8443/a/b@c");
    }

    #[test]
    fn ssh_is_known_in_both_spellings() {
        let found = |url| ssh(url).map(|(host, prefix)| format!("{host} {prefix}"));
        assert_eq!(found("git@h.test:a/b").as_deref(), Some("h.test git@h.test:"));
        assert_eq!(found("h.test:a/b").as_deref(), Some("h.test h.test:"));
        assert_eq!(found("ssh://git@H.test:2222/a").as_deref(), Some("h.test ssh://git@H.test:2222/"));
        assert_eq!(found("ssh://git:canary@ssh.github.com:443/a").as_deref(), Some("github.com ssh://git@ssh.github.com:443/"));
        assert_eq!(found("git@vs-ssh.visualstudio.com:v3/a/b/c").as_deref(), Some("dev.azure.com git@vs-ssh.visualstudio.com:"));
        for other in ["https://h.test/a:b", "/local/a:b", "./a:b", "file:///a", "", ":x"] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
