//! What a host's reply says, in words: of the reply itself only its status and some headers are repeated.

use std::time::SystemTime;

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use url::Url;
use zeroize::Zeroizing;

use super::super::Check;
use super::{NAME, Service, Target};
use crate::cli::explain::quoted;
use crate::cli::status::span;
use crate::{http, login};

/// Longest text of the host's that is repeated.
const MAX_SHOWN: usize = 512;

/// A reply, as far as it is looked at.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) media_type: String,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Which host's manners count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    AzureDevOps,
    Bitbucket,
    GitHub,
    GitLab,
    Other,
}

/// Where was asked, and as whom.
pub(super) struct Place {
    family: Family,
    pub(super) host: String,
    /// The repository, without a query.
    url: Url,
    service: Service,
    /// Who the host sees.
    who: String,
    /// Whose token it is.
    token: String,
    /// What to run or whom to ask for another token.
    renewal: String,
    /// Whether the daemon fetches tokens of that kind anew.
    is_replaced: bool,
}

impl Place {
    pub(super) fn of(target: &Target<'_>, repository: &Url, service: Service) -> Self {
        let scm_id = target.explanation.integration.as_ref().map(|integration| integration.scm_id.as_str());
        let family = match scm_id {
            Some("azuredevops_entra" | "azuredevops_server") => Family::AzureDevOps,
            Some("bitbucket") => Family::Bitbucket,
            Some("github") => Family::GitHub,
            Some("gitlab") => Family::GitLab,
            _ => Family::Other,
        };
        let origin = repository.origin().ascii_serialization();
        let identity = target.explanation.identity.as_ref().map(|identity| (identity.kind.as_str(), identity.account.as_deref()));
        let (who, token, renewal) = match identity {
            Some(("service", _)) => (
                "the app".to_owned(),
                "the app's token".to_owned(),
                "ask the operator of this machine what the app may do there".to_owned(),
            ),
            Some(("own", account)) => {
                let who =
                    account.map_or_else(|| "the account that you signed in with".to_owned(), |account| format!("the account {account}"));
                (who.clone(), format!("the token of {who}"), login::command(&origin, account.unwrap_or_default()))
            }
            Some(("operators_pat", _)) => (
                "the operator's token".to_owned(),
                "the operator's personal access token".to_owned(),
                "ask the operator of this machine for another token".to_owned(),
            ),
            _ => (
                "the account of your token".to_owned(),
                "your personal access token".to_owned(),
                format!("scm-agent logout {origin}; then git asks for another token"),
            ),
        };
        let is_replaced = matches!(identity, Some(("service" | "own", _)));
        Self { family, host: http::host_and_port(repository), url: repository.clone(), service, who, token, renewal, is_replaced }
    }

    /// What a reply says.
    pub(super) fn judge(&self, reply: &Reply, now: SystemTime) -> Check {
        let Self { host, who, token, .. } = self;
        let verb = self.service.verb();
        let status = reply.status;
        match status {
            200 => self.judge_references(reply),
            203 => Check::fail(
                NAME,
                format!("{host} answers with a page to sign in (HTTP 203): it does not take the token"),
                self.renewal.clone(),
            ),
            300..=399 => self.judge_redirect(reply),
            401 => {
                let realm = if self.says(reply, &["HTTP Basic: Access denied"]) { ": access denied" } else { "" };
                Check::fail(
                    NAME,
                    format!("{host} refuses {token} (HTTP 401{realm}): it is revoked, has expired, or is not for git"),
                    self.after_refusal(),
                )
            }
            403 => self.judge_forbidden(reply),
            404 => Check::fail(
                NAME,
                format!("{host} has no such repository, or {who} may not see it (HTTP 404 says either)"),
                format!(
                    "see whether the path is right, and whether {who} is a member there; the app may have to be allowed by the organisation"
                ),
            ),
            407 => Check::fail(NAME, format!("a proxy before {host} wants to know who asks (HTTP 407)"), "see proxy in [scm]"),
            429 => self.later(reply, "asks to be left alone (HTTP 429)", now),
            500..=599 => self.later(reply, &format!("is in trouble (HTTP {status})"), now),
            _ => Check::fail(NAME, format!("{host} does not let git {verb} (HTTP {status})"), "ask whoever runs the host"),
        }
    }

    /// 200: a git host says so by its media type.
    fn judge_references(&self, reply: &Reply) -> Check {
        let Self { host, who, .. } = self;
        let expected = format!("application/x-{}-advertisement", self.service.name());
        if reply.media_type == expected {
            // Azure DevOps slows down who asks too much, and says so with success.
            let slowed = if reply.headers.contains_key(RETRY_AFTER) { "; the host asks to be asked less often" } else { "" };
            return Check::ok(NAME, format!("{host} lets {who} {} there{slowed}", self.service.verb()));
        }
        let next =
            "see whether the URL is that of a repository, as the host shows it for cloning, and whether a proxy answers in its place";
        match reply.media_type.as_str() {
            "text/html" => Check::fail(
                NAME,
                format!("{host} answers with a page for browsers: that is no repository's URL, or a page to sign in"),
                next,
            ),
            "text/plain" | "application/octet-stream" => Check::fail(
                NAME,
                format!("{host} serves files, and not git's smart protocol: there is nothing that a token would do"),
                next,
            ),
            _ => Check::fail(NAME, format!("{host} answers with something that is not git's protocol"), next),
        }
    }

    /// A redirect is named and not followed: where it leads may be anybody's. git follows the first one, without the token elsewhere.
    fn judge_redirect(&self, reply: &Reply) -> Check {
        let host = &self.host;
        let location = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| self.url.join(text).ok());
        let Some(location) = location else {
            return Check::fail(
                NAME,
                format!("{host} sends git elsewhere (HTTP {}) without saying where", reply.status),
                "ask whoever runs the host",
            );
        };
        if location.origin() != self.url.origin() {
            let detail =
                format!("{host} sends git to another host, {}, which is not given the token", shown(&http::host_and_port(&location)));
            return Check::fail(NAME, detail, "if the repository has moved there, change the remote's URL: git remote set-url");
        }
        let path = location.path().strip_suffix("/info/refs").filter(|path| path.len() > 1);
        match path.map(shown) {
            Some(path) if path != self.url.path() => Check::warn(
                NAME,
                format!("the repository has moved to {path} on {host}"),
                format!("git remote set-url origin {}", quoted(&format!("{}{path}", self.url.origin().ascii_serialization()))),
            ),
            _ => Check::fail(
                NAME,
                format!("{host} sends git to a page for browsers (HTTP {}): a page to sign in, or no repository's URL", reply.status),
                self.renewal.clone(),
            ),
        }
    }

    /// 403: the token is known, and not enough.
    fn judge_forbidden(&self, reply: &Reply) -> Check {
        let Self { host, who, token, renewal, .. } = self;
        let verb = self.service.verb();
        if let Some(sso) = reply.headers.get("x-github-sso").and_then(|value| value.to_str().ok()) {
            let detail = format!("the organisation wants {token} authorised for its single sign-on (HTTP 403)");
            return match self.sso_url(sso) {
                Some(url) => Check::fail(NAME, detail, format!("in a browser, open {url}")),
                None => Check::fail(NAME, detail, format!("in a browser, sign in to the organisation; then: {renewal}")),
            };
        }
        if self.says(reply, &["SAML SSO", "SAML enforcement", "enabled or enforced SAML"]) {
            let next = format!("in a browser, sign in to the organisation; then: {renewal}");
            return Check::fail(NAME, format!("the organisation wants single sign-on (SAML) for {token} (HTTP 403)"), next);
        }
        let scopes = |name: &str| {
            let values = reply.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            let names = values.flat_map(|value| value.split(',')).map(str::trim).filter(|scope| !scope.is_empty());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let (accepted, held) = (scopes("x-accepted-oauth-scopes"), scopes("x-oauth-scopes"));
        if !accepted.is_empty() && !accepted.iter().any(|scope| held.contains(scope)) {
            let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
            return Check::fail(
                NAME,
                format!(
                    "{token} lacks a scope (HTTP 403): {host} wants one of {}, and it has {}",
                    shown(&accepted.join(", ")),
                    shown(&held)
                ),
                self.more_scopes(),
            );
        }
        if self.says(reply, &["insufficient_scope"]) || challenge_says(&reply.headers, "insufficient_scope") {
            return Check::fail(NAME, format!("{token} lacks a scope (HTTP 403, insufficient_scope)"), self.more_scopes());
        }
        if self.says(reply, &["IP allow list", "IP address is not permitted"]) {
            return Check::fail(
                NAME,
                "the organisation does not allow this machine's address (HTTP 403)",
                "ask its owner to add it to the list",
            );
        }
        if self.says(reply, &["OAuth App access restrictions"]) {
            return Check::fail(NAME, "the organisation has not approved the app (HTTP 403)", "ask its owner to approve the app");
        }
        if self.says(reply, &["Write access to repository not granted", "not allowed to push", "You are not allowed to upload code"]) {
            let next = format!("ask for write access for {who}; and see the scopes of {token}");
            return Check::fail(NAME, format!("{who} may read there, and not write (HTTP 403)"), next);
        }
        match self.family {
            Family::GitLab if reply.body.is_empty() || self.says(reply, &["Forbidden\n"]) => Check::fail(
                NAME,
                format!(
                    "{host} turns {who} away, or this machine: after 300 refused sign-ins in a minute GitLab bans an address for a while (HTTP 403)"
                ),
                format!(
                    "wait a quarter of an hour, and see who asks with old tokens here; else see whether {who} is a member of the project"
                ),
            ),
            _ => Check::fail(
                NAME,
                format!(
                    "{host} knows {who} and does not let it {verb} there (HTTP 403): no access, a scope that is missing, or a rule of the organisation"
                ),
                format!("see at the host what {who} may do, whether the organisation allows it, and the scopes of {token}"),
            ),
        }
    }

    /// What gets better by itself.
    fn later(&self, reply: &Reply, what: &str, now: SystemTime) -> Check {
        let wait = reply.headers.get(RETRY_AFTER).and_then(|value| seconds(value.to_str().ok()?, now));
        let next = match wait {
            Some(seconds) => format!("try again in {}", span(seconds)),
            None => "try again later".to_owned(),
        };
        Check::fail(NAME, format!("{} {what}; the token was not looked at", self.host), next)
    }

    /// What to do about a token that the host refuses. git has had the daemon replace one of the app's or of a sign-in by then.
    fn after_refusal(&self) -> String {
        match self.is_replaced {
            true => format!("the next git command gets a new one; if that is refused too: {}", self.renewal),
            false => self.renewal.clone(),
        }
    }

    /// How a token comes to more scopes.
    fn more_scopes(&self) -> String {
        match self.is_replaced {
            true => format!("see the app's scopes at the host, and scopes in its [[provider]] table; then: {}", self.renewal),
            false => format!("make one at the host with the scopes that git needs; {}", self.renewal),
        }
    }

    /// Whether the beginning of the reply has one of these words. It is read for them alone, and never repeated.
    fn says(&self, reply: &Reply, words: &[&str]) -> bool {
        let body = String::from_utf8_lossy(&reply.body);
        let is_there = words.iter().any(|word| body.contains(word));
        is_there && matches!(reply.media_type.as_str(), "text/plain" | "text/html" | "application/json" | "")
    }

    /// The page to authorise a token at, if it is one of that very host.
    fn sso_url(&self, header: &str) -> Option<String> {
        let text = header.split(';').find_map(|part| part.trim().strip_prefix("url="))?;
        let url = Url::parse(text.trim()).ok()?;
        // Gists have the same pages as the rest of GitHub.
        let host = self.url.host_str()?;
        let own = [Some(host), host.strip_prefix("gist.")];
        let is_own = url.scheme() == "https"
            && own.contains(&url.host_str())
            && url.port() == self.url.port()
            && url.username().is_empty()
            && url.password().is_none();
        (is_own && url.as_str().len() <= MAX_SHOWN).then(|| url.to_string())
    }
}

fn challenge_says(headers: &HeaderMap, word: &str) -> bool {
    headers.get_all(WWW_AUTHENTICATE).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(word)))
}

/// `Retry-After` in seconds, at most a day (RFC 9110 section 10.2.3).
fn seconds(value: &str, now: SystemTime) -> Option<u64> {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = match value.trim().parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => httpdate::parse_http_date(value.trim()).ok()?.duration_since(now).unwrap_or_default().as_secs(),
    };
    Some(seconds.min(DAY))
}

/// Text of the host's, cut to fit and with nothing in it that a terminal acts upon.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn place(url: &str) -> Place {
        let url = Url::parse(url).unwrap();
        let (who, token) = ("the app".to_owned(), "the app's token".to_owned());
        let host = http::host_and_port(&url);
        Place { family: Family::GitHub, host, url, service: Service::Fetch, who, token, renewal: String::new(), is_replaced: true }
    }

    #[test]
    fn only_a_page_of_the_very_host_is_repeated() {
        let url = |header: &str| place("https://github.com/acme/repo").sso_url(header);
        let own = "https://github.com/orgs/acme/sso?authorization_request=AAA";
        assert_eq!(url(&format!("required; url={own}")).as_deref(), Some(own));
        let gists = place("https://gist.github.com/0123.git").sso_url(&format!("required; url={own}"));
        assert_eq!(gists.as_deref(), Some(own));
        for other in [
            "required",
            "required; url=",
            "required; url=http://github.com/orgs/acme/sso",
            "required; url=https://github.com.evil.tld/orgs/acme/sso",
            "required; url=https://evil.tld/github.com",
            "required; url=https://github.com:8443/orgs/acme/sso",
            "required; url=https://a:b@github.com/orgs/acme/sso",
            "required; url=javascript:alert(1)",
            "partial-results; organizations=1,2",
            &format!("required; url=https://github.com/{}", "a".repeat(600)),
        ] {
            assert_eq!(url(other), None, "{other}");
        }
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_no_longer_than_a_day() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999999", Some(86_400)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(seconds(value, now), expected, "{value}");
        }
    }
}
