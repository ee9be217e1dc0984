//! `scm-agent explain URL`: who would answer git for a URL and why, without anything being answered.

mod view;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) use self::view::{Transport, View, view};
use super::status::{cut_words, span};
use super::{Io, client};
use crate::error::{Error, Kind};
use crate::explain::{Access, Answer, AnswerKind, Explanation, Git, Identity, Integration, Matched, Request, Token, TokenState};
use crate::git::CredentialRequest;
use crate::git::frame::printable;
use crate::secret::is_token_like;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A URL as git takes it, or the name of a remote of the repository that you are in
    #[arg(value_name = "URL")]
    url: String,
    /// As if the URL named this user
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `explain`.
///
/// # Errors
/// When the URL is none, no daemon answers, or git would get no credential; what was found is printed all the same.
pub fn run(args: &Args, socket: impl FnOnce() -> Result<PathBuf, Error>, io: &mut Io<'_>) -> Result<(), Error> {
    let explanation = explain(&args.url, args.username.as_deref(), socket)?;
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(&explanation).map_err(std::io::Error::from)?;
        json.push('\n');
        json
    } else {
        report(&explanation, SystemTime::now())
    };
    io.stdout.write_all(text.as_bytes())?;
    match explanation.gives_a_credential() {
        true => Ok(()),
        false => Err(Error::new(Kind::User, "git would get no credential of scm-agent's for that URL")),
    }
}

/// Asks git, and then the daemon about what git would ask.
fn explain(url: &str, username: Option<&str>, socket: impl FnOnce() -> Result<PathBuf, Error>) -> Result<Explanation, Error> {
    explain_view(&view(url, username)?, socket)
}

/// Asks the daemon about what git would ask.
pub(super) fn explain_view(view: &View, socket: impl FnOnce() -> Result<PathBuf, Error>) -> Result<Explanation, Error> {
    let View { git, transport, .. } = view;
    let explanation = match transport {
        Transport::Http(request) => {
            let mut explanation = ask(request, &socket()?)?;
            if let Some(name) =
                explanation.request.as_mut().and_then(|request| request.username.as_mut()).filter(|name| is_token_like(name))
            {
                *name = NOT_SHOWN.to_owned();
            }
            explanation
        }
        Transport::Other { name, https } => Explanation::of(Answer {
            kind: AnswerKind::NotAsked,
            message: None,
            reason: format!("git goes there by {name}, where no credential helper is asked"),
            next: https.as_ref().map(|https| format!("to see what a token would be good for: scm-agent explain {}", quoted(https))),
        }),
    };
    Ok(Explanation { git: Some(git.clone()), ..explanation })
}

fn ask(request: &CredentialRequest, socket: &Path) -> Result<Explanation, Error> {
    let capabilities: Vec<String> =
        request.capabilities.iter().map(|capability| String::from_utf8_lossy(capability).into_owned()).collect();
    let mut fields: Vec<(&str, &str)> = capabilities.iter().map(|capability| ("capability[]", capability.as_str())).collect();
    fields.extend([("protocol", request.protocol.as_str()), ("host", request.host.as_str())]);
    fields.extend(request.path.as_deref().map(|path| ("path", path)));
    fields.extend(request.username.as_deref().map(|username| ("username", username)));
    client::ask_about(socket, "explain", &fields)
}

/// Text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/@%+=,".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// The findings for a person: what git gets, and then everything that led there.
fn report(explanation: &Explanation, now: SystemTime) -> String {
    let Explanation { git, request, integration, near, access, identity, token, answer } = explanation;
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        // Much of it is a repository's, which may be anybody's.
        let _ = writeln!(text, "{label:<13}{}", cut_words(&printable(value)));
    };
    line("result", &result(explanation));
    if let Some(message) = &answer.message {
        let reads =
            if git.as_ref().is_some_and(|git| git.asks_agent == Some(false)) { "git's user would read" } else { "git's user reads" };
        line("", &format!("{reads}: {message}"));
    }
    line("why", &answer.reason);
    let git = git.clone().unwrap_or_default();
    for told in about_git(&git, request.as_ref()) {
        line("git", &told);
    }
    if request.is_some() && git.version.is_some() {
        let helpers = if git.helpers.is_empty() { "none".to_owned() } else { git.helpers.join("; then ") };
        line("helpers", &format!("git asks {helpers}"));
    }
    if let Some(integration) = integration {
        line("integration", &about_integration(integration));
    }
    for near in near {
        let name = match (&near.host, &near.id) {
            (Some(host), Some(id)) => format!("{host} ({id})"),
            (Some(name), None) | (None, Some(name)) => name.clone(),
            (None, None) => "-".to_owned(),
        };
        line("not", &format!("{name}: {}", near.reason));
    }
    if let Some(access) = access {
        line("access", &about_access(access));
    }
    if let Some(identity) = identity {
        line("identity", &about_identity(identity));
    }
    if let Some(token) = token {
        line("token", &about_token(token, now));
    }
    for next in next(answer, &git, integration.is_some()) {
        let _ = writeln!(text, "-> {}", printable(&next));
    }
    text
}

fn result(explanation: &Explanation) -> String {
    let asks_agent = explanation.git.as_ref().and_then(|git| git.asks_agent);
    let has_obstacle = explanation.git.as_ref().is_some_and(|git| git.obstacle.is_some());
    match explanation.answer.kind {
        AnswerKind::Credential if has_obstacle => "git would get no credential, though scm-agent has one".to_owned(),
        AnswerKind::Credential if asks_agent == Some(false) => {
            "git would get no credential: scm-agent has one, and git does not ask scm-agent".to_owned()
        }
        AnswerKind::Message | AnswerKind::Quit | AnswerKind::Silence if asks_agent == Some(false) => {
            "git would get no credential of ours: it does not ask scm-agent, which has none for it either".to_owned()
        }
        AnswerKind::Credential => "git would get a credential".to_owned(),
        AnswerKind::Message => "git would get no credential; it goes on to its next helper, or asks you".to_owned(),
        AnswerKind::NotAsked => "git would not ask for a credential".to_owned(),
        AnswerKind::Quit => "git would get no credential, and would be told to stop".to_owned(),
        AnswerKind::Silence => "git would be told nothing; it goes on to its next helper, or asks you".to_owned(),
    }
}

fn about_git(git: &Git, request: Option<&Request>) -> Vec<String> {
    let mut told = Vec::new();
    match &git.version {
        Some(version) => told.push(format!("git {version}")),
        None => told.push("there is no git in PATH; what it would do is taken from the URL alone".to_owned()),
    }
    told.extend(git.rewritten_to.as_ref().map(|url| format!("goes to {url} instead, by its configuration")));
    if let Some(Request { protocol, host, path, username, bearer: _ }) = request {
        let path = match path {
            Some(path) => format!("path {path}"),
            None if git.use_http_path => "no path, as the URL has none".to_owned(),
            None => "no path, as credential.useHttpPath is not set for it".to_owned(),
        };
        let username = username.as_ref().map(|name| {
            let from = match git.username_from.as_deref() {
                Some("config") => " of credential.username",
                Some("url") => " of the URL",
                _ => "",
            };
            format!(", user name {name}{from}")
        });
        told.push(format!("would send protocol {protocol}, host {host}, {path}{}", username.unwrap_or_default()));
    }
    told.extend(git.obstacle.clone());
    if git.has_password {
        told.push("the URL has a password in it: git sends that, and asks nobody before it is refused".to_owned());
    }
    told
}

/// What stands for a user name that is none.
const NOT_SHOWN: &str = "(not shown: it looks like a token)";

fn about_integration(integration: &Integration) -> String {
    let Integration { id, scm_id, host, virtual_directory, grant, pat, matched, held_back } = integration;
    let matched = match matched {
        Matched::GistHost => "has the host whose gists these are",
        Matched::Host => "has the whole host",
        Matched::OnlyCandidate => "is the only one on that host; git tells no path",
        Matched::PathPrefix => "names the most of the path",
        Matched::UserName => "has the organisation that the user name names",
        Matched::VisualStudioHost => "has the organisation of that host",
    };
    let pat = if *pat && grant != "pat" { ", or a personal access token" } else { "" };
    let held_back = if *held_back { "; a change of it is held back" } else { "" };
    format!("{host}{virtual_directory} ({scm_id}, {id}) {matched}; grant: {grant}{pat}{held_back}")
}

fn about_access(access: &Access) -> String {
    let allow = if access.allow.is_empty() { "nothing".to_owned() } else { access.allow.join(", ") };
    let unit = match (&access.unit, &access.unit_problem) {
        (Some(unit), _) => format!(" (you are in {unit})"),
        (None, Some(problem)) => format!(" (your unit is not known: {problem})"),
        (None, None) => String::new(),
    };
    let said = match (access.rules, access.rule, &access.grant) {
        (_, _, Some(grant)) => format!("with grant {grant} to your unit you have {allow}"),
        (false, _, None) => format!("no rules; everyone who may ask has {allow}"),
        (true, Some(rule), None) => format!("rule {rule} gives {allow}"),
        (true, None, None) => "no rule is about you and that integration; that gives nothing".to_owned(),
    };
    format!("{said}{unit}")
}

fn about_identity(identity: &Identity) -> String {
    let who = match (identity.kind.as_str(), &identity.account) {
        ("service", _) => "the app itself".to_owned(),
        ("own", Some(account)) => format!("your own sign-in as {account}"),
        ("own", None) => "your own sign-in".to_owned(),
        ("pat", _) => "your own personal access token".to_owned(),
        ("operators_pat", _) => "the operator's personal access token".to_owned(),
        (other, _) => other.to_owned(),
    };
    match &identity.username {
        Some(username) => format!("{who}; the token goes as password of {username:?} (Basic)"),
        None => format!("{who}; the token goes as {}", if identity.presented == "bearer" { "Bearer" } else { "password" }),
    }
}

fn about_token(token: &Token, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = match (token.state, token.expires_at) {
        (TokenState::Failing, _) => "cannot be had".to_owned(),
        (TokenState::Fetching, _) => "is being fetched, and git would wait for it".to_owned(),
        (TokenState::Held, Some(end)) => format!("held, {} left", span(end.saturating_sub(now))),
        (TokenState::Held, None) => "held".to_owned(),
        (TokenState::ToFetch, _) => "would be fetched first".to_owned(),
    };
    if let Some(error) = &token.last_error {
        let _ = write!(text, "; the last attempt failed: {error}");
    }
    if let Some(wait) = token.retry_in_seconds {
        let _ = write!(text, "; the next attempt is in {} at the earliest", span(wait));
    }
    text
}

/// What to do, one command or sentence each.
fn next(answer: &Answer, git: &Git, is_ours: bool) -> Vec<String> {
    let mut next: Vec<String> = git.obstacle_next.iter().chain(&answer.next).cloned().collect();
    if is_ours && git.asks_agent == Some(false) && answer.kind != AnswerKind::NotAsked {
        next.push("have git ask scm-agent: scm-agent git setup".to_owned());
    }
    next
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::explain::Near;

    fn credential() -> Explanation {
        let answer = Answer { kind: AnswerKind::Credential, message: None, reason: "a token is held".to_owned(), next: None };
        let request = Request {
            protocol: "https".to_owned(),
            host: "h.example".to_owned(),
            path: None,
            username: Some("mona".to_owned()),
            bearer: true,
        };
        Explanation {
            git: Some(Git {
                version: Some("2.47.3".to_owned()),
                username_from: Some("config".to_owned()),
                helpers: vec!["store".to_owned(), "scm-agent".to_owned()],
                asks_agent: Some(true),
                ..Git::default()
            }),
            request: Some(request),
            integration: Some(Integration {
                id: "an-id".to_owned(),
                scm_id: "gitlab".to_owned(),
                host: "h.example".to_owned(),
                virtual_directory: String::new(),
                grant: "user".to_owned(),
                pat: true,
                matched: Matched::Host,
                held_back: false,
            }),
            near: vec![Near {
                id: Some("other".to_owned()),
                host: Some("h.example:8443".to_owned()),
                reason: "is on port 8443".to_owned(),
            }],
            access: Some(Access { rules: true, rule: Some(2), allow: vec!["service".to_owned(), "own".to_owned()], ..Access::default() }),
            identity: Some(Identity {
                kind: "own".to_owned(),
                account: Some("mona".to_owned()),
                presented: "basic".to_owned(),
                username: Some("oauth2".to_owned()),
            }),
            token: Some(Token { state: TokenState::Held, expires_at: Some(4_600), last_error: None, retry_in_seconds: None }),
            ..Explanation::of(answer)
        }
    }

    #[test]
    fn what_the_rules_give_is_said_with_the_grant_and_the_unit_that_count() {
        let access = |rule, grant: Option<&str>, unit: Option<&str>, problem: Option<&str>| Access {
            rules: true,
            rule,
            allow: vec!["service".to_owned()],
            grant: grant.map(str::to_owned),
            unit: unit.map(str::to_owned),
            unit_problem: problem.map(str::to_owned),
        };
        assert_eq!(about_access(&access(Some(2), None, None, None)), "rule 2 gives service");
        let granted = access(Some(2), Some("0a1b"), Some("job-1.service"), None);
        assert_eq!(about_access(&granted), "with grant 0a1b to your unit you have service (you are in job-1.service)");
        let unknown = access(Some(2), None, None, Some("it has ended"));
        assert_eq!(about_access(&unknown), "rule 2 gives service (your unit is not known: it has ended)");
    }

    #[test]
    fn the_report_begins_with_what_git_gets_and_ends_with_what_to_do() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let expected = "\
result       git would get a credential
why          a token is held
git          git 2.47.3
git          would send protocol https, host h.example, no path, as credential.useHttpPath is not set for it, user name mona of credential.username
helpers      git asks store; then scm-agent
integration  h.example (gitlab, an-id) has the whole host; grant: user, or a personal access token
not          h.example:8443 (other): is on port 8443
access       rule 2 gives service, own
identity     your own sign-in as mona; the token goes as password of \"oauth2\" (Basic)
token        held, 1h left
";
        assert_eq!(report(&credential(), now), expected);
        let mut unasked = credential();
        unasked.git.as_mut().unwrap().asks_agent = Some(false);
        let text = report(&unasked, now);
        assert!(text.starts_with("result       git would get no credential: scm-agent has one"), "{text}");
        assert!(text.ends_with("-> have git ask scm-agent: scm-agent git setup\n"), "{text}");
    }

    #[test]
    fn what_is_to_be_typed_is_one_word_of_a_shell() {
        assert_eq!(quoted("https://h/a_b/c.git"), "https://h/a_b/c.git");
        assert_eq!(quoted("https://h/$(id)'x"), "'https://h/$(id)'\\''x'");
    }
}
