//! What `scm-agent explain URL` says: the daemon fills in who would answer and why, the command line adds what git does, and prints
//! it. Never a secret, and a document only grows.
//!
//! The verb `explain` takes git's own request text, as `get` does, and answers one [`Explanation`].

use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What the calling user's git does with the URL; `null` in the daemon's own answer, which cannot know.
    #[serde(default)]
    pub git: Option<Git>,
    /// What git would ask for; `null` where it asks no credential helper.
    #[serde(default)]
    pub request: Option<Request>,
    /// The integration that the request is for; `null` where none is, or several are.
    #[serde(default)]
    pub integration: Option<Integration>,
    /// What would have answered for a place like this one, and why it does not.
    #[serde(default)]
    pub near: Vec<Near>,
    /// What the operator's rules give the caller of that integration.
    #[serde(default)]
    pub access: Option<Access>,
    /// Whose token it would be, and how git would show it to the host.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// How that token fares.
    #[serde(default)]
    pub token: Option<Token>,
    /// What git would be told.
    pub answer: Answer,
}

impl Explanation {
    /// One that only says what git would be told.
    #[must_use]
    pub fn of(answer: Answer) -> Self {
        Self { git: None, request: None, integration: None, near: Vec::new(), access: None, identity: None, token: None, answer }
    }

    /// Whether git would get a credential of ours.
    #[must_use]
    pub fn gives_a_credential(&self) -> bool {
        let can_have_it = |git: &Git| git.asks_agent != Some(false) && git.obstacle.is_none();
        self.answer.kind == AnswerKind::Credential && self.git.as_ref().is_none_or(can_have_it)
    }
}

/// What git does with the URL, by the calling user's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Git {
    /// git's version; `null` where there is no git.
    pub version: Option<String>,
    /// The URL that git goes to, without user name and password, where `url.*.insteadOf` or a remote's name stands for another one.
    pub rewritten_to: Option<String>,
    /// `credential.useHttpPath` for the URL: whether git tells helpers the path.
    pub use_http_path: bool,
    /// Where the user name comes from: `option`, `url` or `config`.
    pub username_from: Option<String>,
    /// Whether the URL has a password in it, which git sends before it asks anybody.
    pub has_password: bool,
    /// The credential helpers in the order in which git asks them.
    pub helpers: Vec<String>,
    /// Whether one of them is ours; `null` where that cannot be told.
    pub asks_agent: Option<bool>,
    /// What keeps git from getting a credential of ours though it asks us, in a sentence.
    #[serde(default)]
    pub obstacle: Option<String>,
    /// What to do about that.
    #[serde(default)]
    pub obstacle_next: Option<String>,
}

/// What git asks for, as it was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `https`, usually.
    pub protocol: String,
    /// The host, with a port if the URL names one.
    pub host: String,
    /// The path, where git tells it.
    pub path: Option<String>,
    /// The user name that git asks for.
    pub username: Option<String>,
    /// Whether this git can send a token as Bearer.
    pub bearer: bool,
}

/// An integration, and how it came to be the one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// UUID.
    pub id: String,
    /// Which SCM.
    pub scm_id: String,
    /// As registered.
    pub host: String,
    /// As registered; empty except for Azure DevOps Server.
    pub virtual_directory: String,
    /// How a token comes about: `service`, `user`, `pat` or `none`.
    pub grant: String,
    /// Whether users may bring a personal access token.
    pub pat: bool,
    /// By what it was found.
    pub matched: Matched,
    /// Whether the control plane says something else of it now that nobody has trusted yet.
    pub held_back: bool,
}

/// By what an integration was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matched {
    /// It is for GitHub, whose gists have a host of their own.
    GistHost,
    /// It has the host and port, all of it.
    Host,
    /// It has a part of the host, git told no path, and nothing else there could be meant.
    OnlyCandidate,
    /// Of those on the host it names the most of the path.
    PathPrefix,
    /// It has the organisation on Azure DevOps that git's user name names.
    UserName,
    /// It has the organisation whose old host `*.visualstudio.com` is.
    VisualStudioHost,
}

/// Something near that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// UUID of the integration, where that much is known.
    pub id: Option<String>,
    /// Its host as registered, where that is known.
    pub host: Option<String>,
    /// Why it does not answer, in a sentence.
    pub reason: String,
}

/// What the access rules give.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Whether the operator has written rules.
    pub rules: bool,
    /// The number of the rule that counts, from 1; `null` where none is about caller and integration.
    pub rule: Option<usize>,
    /// What it allows: `service`, `own`, `app-secret`, with what a grant adds.
    pub allow: Vec<String>,
    /// The id of the grant to the caller's unit that gives what the rules do not.
    #[serde(default)]
    pub grant: Option<String>,
    /// The caller's systemd unit, where a rule or a grant made it worth knowing.
    #[serde(default)]
    pub unit: Option<String>,
    /// Why that is not known, where it was asked.
    #[serde(default)]
    pub unit_problem: Option<String>,
}

/// Whose token it would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `service` for the app's own, `own` for the caller's sign-in, `pat` for a personal access token of the caller's and
    /// `operators_pat` for one of the operator's.
    pub kind: String,
    /// The account of a sign-in, where the host told one; the user name of a personal access token of the caller's.
    pub account: Option<String>,
    /// `bearer` or `basic`.
    pub presented: String,
    /// The user name that goes with a token as password.
    pub username: Option<String>,
}

/// How a token fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What would be done for it.
    pub state: TokenState,
    /// When it expires, in Unix seconds; `null` where there is none or the host named no lifetime.
    pub expires_at: Option<u64>,
    /// What the last attempt to get one failed with.
    pub last_error: Option<String>,
    /// In how many seconds the next attempt may be made, where that is not at once.
    pub retry_in_seconds: Option<u64>,
}

/// What would be done for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It cannot be had at present.
    Failing,
    /// One is being fetched, and git would wait for it.
    Fetching,
    /// One is held.
    Held,
    /// One would be fetched first.
    ToFetch,
}

/// What git would be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// In short.
    pub kind: AnswerKind,
    /// The line that git's user would see.
    pub message: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do about it, where there is something to do.
    pub next: Option<String>,
}

/// What git would be told, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// A credential.
    Credential,
    /// A line for the user and nothing else: git goes on to its next helper, or asks.
    Message,
    /// git asks no credential helper for such a URL.
    NotAsked,
    /// To stop, with a line for the user.
    Quit,
    /// Nothing: git goes on to its next helper, or asks.
    Silence,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn an_answer_may_lack_what_it_need_not_say_and_hold_what_is_not_known_yet() {
        let document = json!({ "answer": { "kind": "quit", "message": "m", "reason": "r", "next": null, "more": 1 }, "more": 2 });
        let answer = Answer { kind: AnswerKind::Quit, message: Some("m".to_owned()), reason: "r".to_owned(), next: None };
        assert_eq!(from_value::<Explanation>(document).unwrap(), Explanation::of(answer));
    }

    #[test]
    fn git_gets_a_credential_of_ours_only_if_it_asks_us() {
        let mut explanation = Explanation::of(Answer { kind: AnswerKind::Credential, message: None, reason: String::new(), next: None });
        assert!(explanation.gives_a_credential());
        for (asks_agent, expected) in [(None, true), (Some(true), true), (Some(false), false)] {
            explanation.git = Some(Git { asks_agent, ..Git::default() });
            assert_eq!(explanation.gives_a_credential(), expected);
        }
        explanation.git = Some(Git { asks_agent: Some(true), obstacle: Some("o".to_owned()), ..Git::default() });
        assert!(!explanation.gives_a_credential());
        for kind in [AnswerKind::Message, AnswerKind::NotAsked, AnswerKind::Quit, AnswerKind::Silence] {
            explanation.answer.kind = kind;
            assert!(!explanation.gives_a_credential());
        }
    }
}
