//! What the calling user's git does with a URL before it asks a helper: which URL it goes to, what it tells helpers, and which it asks.
//!
//! git itself is asked, where the user stands, so that its own files, conditions and precedence count. Nothing that it is asked here
//! runs a program that its configuration names.

use std::path::Path;

use crate::cli::bounded;
use crate::cli::git::matching::Query;
use crate::cli::git::settings::{self, ByUrl};
use crate::cli::git::{chain, program};
use crate::error::{Error, Kind};
use crate::explain::Git;
use crate::git::CredentialRequest;

/// Longest URL taken, in bytes.
const MAX_URL_BYTES: usize = 4_096;

/// The first version that can send a token as Bearer.
const BEARER_SINCE: (u32, u32) = (2, 46);

/// What git makes of a URL.
pub(in crate::cli) struct View {
    pub(in crate::cli) git: Git,
    pub(in crate::cli) transport: Transport,
    /// The URL that git goes to, without user name and password.
    pub(in crate::cli) url: String,
}

/// How git gets there.
pub(in crate::cli) enum Transport {
    /// Over HTTP, where helpers are asked this.
    Http(Box<CredentialRequest>),
    /// By other means, without a helper: what it is called, and the https form of the URL where there is a plain one.
    Other { name: &'static str, https: Option<String> },
}

/// Asks git about a URL, with a user name to be asked for instead of git's own.
///
/// # Errors
/// [`Kind::Usage`]. The text never repeats the URL, which may hold a password.
pub(in crate::cli) fn view(typed: &str, username: Option<&str>) -> Result<View, Error> {
    let example = "write it as git does: https://HOST/PATH";
    let refused = |what: &str| Err(Error::new(Kind::Usage, format!("URL {what}")).hint(example));
    if typed.is_empty() || typed.len() > MAX_URL_BYTES {
        return refused(&format!("is empty or longer than {MAX_URL_BYTES} bytes"));
    }
    if typed.chars().any(char::is_control) {
        return refused("has a control character in it");
    }
    if username.is_some_and(|name| name.len() > MAX_URL_BYTES || name.chars().any(char::is_control)) {
        return Err(Error::new(Kind::Usage, format!("--username is longer than {MAX_URL_BYTES} bytes or has a control character in it")));
    }
    // git takes the first @ for the end of the user name, and others the last.
    let is_ambiguous =
        |url: &str| userinfo(url).is_some_and(|(_, _, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@'));
    if is_ambiguous(typed) {
        return refused("has more than one @ before its path; in a user name or a password it is written %40");
    }
    // A password is nobody's business, git's command line included.
    let (typed, mut has_password) = without_password(typed);
    let version = program::version();
    let found = output(&["ls-remote", "--get-url", "--", &typed]).map(|url| url.trim_end_matches('\n').to_owned());
    let (url, more) =
        without_password(found.as_deref().filter(|url| !url.chars().any(char::is_control) && !is_ambiguous(url)).unwrap_or(&typed));
    has_password |= more;
    let rewritten_to = (url != typed).then(|| without_userinfo(&url));
    let mut git = Git { version, rewritten_to, has_password, ..Git::default() };
    let other = |name, https, git| View { git, transport: Transport::Other { name, https }, url: without_userinfo(&url) };
    let Some((scheme, _)) = url.split_once("://") else {
        return Ok(View { git, transport: scp_like(&url), url });
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {}
        "ssh" | "git+ssh" | "ssh+git" => return Ok(other("ssh", https_of_ssh(&url), git)),
        "git" => return Ok(other("git's own protocol", None, git)),
        "file" => return Ok(other("the file system", None, git)),
        _ => return refused("has a scheme that git's own transports do not have"),
    }
    let mut request = match CredentialRequest::parse(format!("url={url}\n").as_bytes()) {
        Ok(request) => request,
        Err(error) => return Err(Error::new(Kind::Usage, format!("git could not ask for the URL: {error}")).hint(example)),
    };
    request.password = None;
    let read = settings::read(Path::new("."));
    let is_understood = read.is_some();
    let entries = read.unwrap_or_default();
    let (settings, query) = (ByUrl::new("credential", &entries), Query::new(&url));
    git.use_http_path = query.as_ref().is_some_and(|query| settings.uses_path(query));
    if !git.use_http_path {
        request.path = None;
    }
    let configured = query.as_ref().and_then(|query| settings.matching(query, "username").pop()?.value.clone());
    // A repository's configuration is anybody's. git refuses to ask with a line end in a name, and so is nobody asked here.
    if configured.as_deref().is_some_and(|name| name.chars().any(char::is_control)) {
        return Err(Error::new(Kind::Usage, "credential.username has a control character in it, so git asks nobody")
            .hint("see where it is set: git config --show-origin --get-all credential.username"));
    }
    git.username_from = if let Some(username) = username {
        request.username = Some(username.to_owned());
        Some("option".to_owned())
    } else if request.username.is_some() {
        Some("url".to_owned())
    } else if let Some(name) = configured {
        request.username = Some(name);
        Some("config".to_owned())
    } else {
        None
    };
    if git.version.as_deref().and_then(program::numbers).is_some_and(|version| version >= BEARER_SINCE) {
        request.capabilities = vec![b"authtype".to_vec(), b"state".to_vec()];
    }
    if git.version.is_some() && !is_understood {
        git.obstacle = Some("git does not understand its own configuration".to_owned());
        git.obstacle_next = Some("git config --list --show-origin says where it stops".to_owned());
    } else if git.version.is_some() {
        let helpers = query.as_ref().map(|query| settings.helpers(query)).unwrap_or_default();
        let header = query.and_then(|query| ByUrl::new("http", &entries).authorization_headers(&query).pop());
        if let Some(entry) = header {
            let what = "git sends the Authorization header of http.extraHeader instead of a credential; it is in";
            git.obstacle = Some(format!("{what} {}", entry.place()));
            git.obstacle_next = Some(chain::unset(entry));
        } else if helpers.iter().any(|entry| entry.value.as_deref().is_some_and(chain::is_by_name)) && program::find_helper().is_none() {
            git.obstacle = Some(format!("{} is not in PATH, so git cannot start it", program::HELPER));
            git.obstacle_next = Some("install it beside scm-agent".to_owned());
        }
        git.helpers = helpers.iter().map(|entry| chain::shown(entry)).collect();
        let is_shell = helpers.iter().any(|entry| entry.value.as_deref().is_some_and(|helper| helper.starts_with('!')));
        git.asks_agent = match helpers.into_iter().any(chain::is_ours) {
            true => Some(true),
            // A line of shell may call us.
            false if is_shell => None,
            false => Some(false),
        };
    }
    Ok(View { git, transport: Transport::Http(Box::new(request)), url: without_userinfo(&url) })
}

/// A URL without the password in it, and whether there was one.
fn without_password(url: &str) -> (String, bool) {
    let Some((start, userinfo, rest)) = userinfo(url) else { return (url.to_owned(), false) };
    match userinfo.split_once(':') {
        Some((name, _)) => (format!("{start}{name}@{rest}"), true),
        None => (url.to_owned(), false),
    }
}

fn without_userinfo(url: &str) -> String {
    userinfo(url).map_or_else(|| url.to_owned(), |(start, _, rest)| format!("{start}{rest}"))
}

/// A URL up to its user name, that with the password, and what follows the `@`.
fn userinfo(url: &str) -> Option<(&str, &str, &str)> {
    let host = url.find("://")? + 3;
    let (start, rest) = url.split_at(host);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // git takes the first one for the end.
    let at = rest[..end].find('@')?;
    Some((start, &rest[..at], &rest[at + 1..]))
}

/// What git takes text without a scheme for: `[user@]host:path`, or a path.
fn scp_like(text: &str) -> Transport {
    let place = text.split_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    match place {
        Some((authority, path)) => {
            let host = authority.rsplit('@').next().unwrap_or(authority);
            Transport::Other { name: "ssh", https: https_form(host, path.trim_start_matches('/')) }
        }
        None => Transport::Other { name: "the file system", https: None },
    }
}

fn https_of_ssh(url: &str) -> Option<String> {
    let parsed = url::Url::parse(url).ok()?;
    https_form(parsed.host_str()?, parsed.path().trim_start_matches('/'))
}

/// Where a place that ssh leads to is over https, by the rules of the hosts that have another name for ssh.
fn https_form(host: &str, path: &str) -> Option<String> {
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return None;
    }
    let host = host.to_ascii_lowercase();
    let (host, path) = match host.as_str() {
        "ssh.github.com" => ("github.com".to_owned(), path.to_owned()),
        "altssh.gitlab.com" => ("gitlab.com".to_owned(), path.to_owned()),
        "altssh.bitbucket.org" => ("bitbucket.org".to_owned(), path.to_owned()),
        "ssh.dev.azure.com" => {
            let mut parts = path.split('/').filter(|part| !part.is_empty());
            let (_version, organisation, project, repository) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            ("dev.azure.com".to_owned(), format!("{organisation}/{project}/_git/{repository}"))
        }
        _ => (host, path.to_owned()),
    };
    Some(format!("https://{host}/{path}"))
}

/// What git prints, if it succeeds.
fn output(arguments: &[&str]) -> Option<String> {
    bounded::text(&mut settings::git(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_no_further_than_here() {
        for (url, without, had_one) in [
            ("https://a:canary@h/p", "https://a@h/p", true),
            ("https://:canary@h/p", "https://@h/p", true),
            ("https://a@h/p", "https://a@h/p", false),
            ("https://h/p:q@r", "https://h/p:q@r", false),
            ("https://h?a:b@c", "https://h?a:b@c", false),
            ("git@h:p", "git@h:p", false),
        ] {
            assert_eq!(without_password(url), (without.to_owned(), had_one), "{url}");
        }
        assert_eq!(without_userinfo("https://a:b@h/p"), "https://h/p");
        for url in ["https://u:canary@h/\u{1}", "ftp://u:canary@h/", "https://u:canary@/", &format!("https://canary/{}", "a".repeat(5_000))]
        {
            let Err(error) = view(url, None) else { panic!("{url}") };
            assert_eq!(error.kind(), Kind::Usage);
            assert!(!error.report().contains("canary"), "{}", error.report());
        }
    }

    #[test]
    fn where_ssh_leads_has_an_https_form() {
        let https = |text: &str| match view(text, None).unwrap().transport {
            Transport::Other { name: "ssh", https } => https,
            Transport::Other { name, .. } => Some(name.to_owned()),
            Transport::Http(_) => panic!("{text}"),
        };
        for (text, expected) in [
            ("git@github.com:owner/repo.git", "https://github.com/owner/repo.git"),
            ("GitHub.com:/owner/repo", "https://github.com/owner/repo"),
            ("ssh://git@ssh.github.com:443/owner/repo.git", "https://github.com/owner/repo.git"),
            ("git@ssh.dev.azure.com:v3/acme/My%20Proj/repo", "https://dev.azure.com/acme/My%20Proj/_git/repo"),
            ("ssh://git@scm.example.com:2222/a/b/c.git", "https://scm.example.com/a/b/c.git"),
            ("./a:b", "the file system"),
            ("/srv/git/repo.git", "the file system"),
            ("file:///srv/git/repo.git", "the file system"),
            ("git://scm.example.com/repo", "git's own protocol"),
        ] {
            assert_eq!(https(text).as_deref(), Some(expected), "{text}");
        }
        for none in ["git@ssh.dev.azure.com:v3/acme", "$(id):x", "ho st:x"] {
            assert_eq!(https(none), None, "{none}");
        }
    }
}
