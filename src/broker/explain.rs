//! Who would answer a request of git's, and why, without answering it: the decision is the one that [`Broker::answer`] makes, and no
//! token is asked for.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use super::answer::{NO_TOKEN, own_failure, service_failure};
use super::decision::{Decision, Nobody, Own, Reason};
use super::healing::Subject;
use super::pats::{Pat, PatProspect, PatSource, pat_failure};
use super::{Broker, Caller, Error, Presentation, Right, Rights, TokenKey, Verdict, unix_seconds};
use crate::clock::seconds_begun;
use crate::explain::{Access, Answer, AnswerKind, Explanation, Identity, Integration, Matched, Near, Request, Token, TokenState};
use crate::git::CredentialRequest;
use crate::integration::ScmIntegration;
use crate::integration::location::{HostPattern, Location};
use crate::integration::near::Distance;
use crate::integration::registry::{IntegrationRegistry, Lookup};
use crate::login;
use crate::oauth::{self, Expected, MintError, Prospect, ServicePlan};
use crate::status::Secret;

/// How many unusable entries of the list are named.
const MAX_REJECTED: usize = 5;

/// What is added where the issuer has not been asked yet what it offers.
const UNLESS_NOT_OFFERED: &str = ", if its issuer offers apps one; else users sign in there";

impl Broker {
    /// Says what a `get` would be answered with now, and why.
    pub async fn explain(&self, request: &CredentialRequest, caller: &Caller) -> Explanation {
        let mut explanation = self.explain_answer(request, caller).await;
        explanation.request = Some(Request {
            protocol: request.protocol.clone(),
            host: request.host.clone(),
            path: request.path.clone(),
            username: request.username.clone(),
            bearer: request.takes_bearer(),
        });
        debug!(uid = caller.uid, pid = caller.pid, kind = ?explanation.answer.kind, "explained");
        explanation
    }

    async fn explain_answer(&self, request: &CredentialRequest, caller: &Caller) -> Explanation {
        let location = match self.location(request, request.username.as_deref()) {
            Ok(location) => location,
            Err(error) => return Explanation::of(silence(format!("no integration can ever answer for it: {error}"))),
        };
        let Some(registry) = self.first_registry().await else {
            let message = self.no_list_message();
            let reason = "the daemon has no list of integrations yet".to_owned();
            return Explanation::of(Answer { kind: AnswerKind::Message, message: Some(message), reason, next: None });
        };
        let asked = Asked { request, caller, location: &location };
        let decision = self.decide(request, caller, &location, &registry);
        let integration = match &decision {
            Decision::Nobody(nobody) => nobody.integration.clone(),
            Decision::Own(own) => Some(Arc::clone(&own.integration)),
            Decision::Pat(pat) => Some(Arc::clone(&pat.integration)),
            Decision::Service { integration, .. } => Some(Arc::clone(integration)),
        };
        let explanation = match decision {
            Decision::Nobody(nobody) => Explanation::of(asked.nobody(&nobody)),
            Decision::Own(own) => self.explain_own(asked, &own).await,
            Decision::Pat(pat) => self.explain_pat(asked, &pat).await,
            Decision::Service { integration, plan } => self.explain_service(asked, &integration, &plan).await,
        };
        let integration = integration.as_ref();
        Explanation {
            integration: integration.map(|integration| self.describe_match(integration, &location)),
            near: self.near(&location, &registry, integration),
            access: integration.map(|integration| access(caller, integration)),
            ..explanation
        }
    }

    /// What the app's own token would come to.
    async fn explain_service(&self, asked: Asked<'_>, integration: &Arc<ScmIntegration>, plan: &ServicePlan) -> Explanation {
        let mut prospect = self.cache.prospect(&TokenKey::of(integration));
        let secret = integration.oauth.as_ref().map(|app| self.secrets.state(&app.encrypted_client_secret));
        let mut is_sure = true;
        if matches!(prospect.expected, Expected::Fetch) {
            // As far as it is known without asking anybody, and in the order of the mint.
            let refused = match (secret, self.tokens.known_endpoint(plan)) {
                (Some(Secret::Ok), Some(Ok(_))) => None,
                (Some(Secret::Ok), Some(Err(error))) => Some(Error::OAuth(error)),
                (Some(Secret::Ok), None) => {
                    is_sure = !plan.must_be_offered;
                    None
                }
                _ => Some(Error::Undecryptable { integration_id: integration.id.clone() }),
            };
            if let Some(error) = refused {
                prospect.expected = Expected::Withheld(Arc::new(MintError::Failed(error)));
            }
        }
        if let (Expected::Withheld(error), Some(user)) = (&prospect.expected, &plan.user)
            && matches!(**error, MintError::Failed(Error::OAuth(oauth::Error::GrantNotOffered { .. })))
        {
            return match self.own_grant(asked.request, asked.caller, integration, user.clone()) {
                Ok(own) => self.explain_own(asked, &own).await,
                Err(nobody) => match self.pat_or_nobody(asked.request, asked.caller, nobody) {
                    Ok(pat) => self.explain_pat(asked, &pat).await,
                    Err(nobody) => Explanation::of(asked.nobody(&nobody)),
                },
            };
        }
        if let Some(instead) = self.explain_pat_instead(asked, integration, &prospect).await {
            return instead;
        }
        let presentation = Presentation::of(asked.request, plan.bearer, &plan.username, plan.any_username);
        let failure = |error: &MintError<Error>| service_failure(NO_TOKEN, asked.location, error);
        let mut explanation = expect(prospect, integration, failure);
        self.add_storm(&mut explanation, &Subject::Service(TokenKey::of(integration)), asked.caller, integration);
        if !is_sure {
            explanation.answer.reason.push_str(UNLESS_NOT_OFFERED);
        }
        explanation.identity = Some(identity("service", None, asked.request, presentation));
        explanation
    }

    /// What the caller's own grant would come to.
    async fn explain_own(&self, asked: Asked<'_>, own: &Own) -> Explanation {
        let Own { integration, plan, key } = own;
        let prospect = self.grants.prospect(key, integration).await;
        if let Some(instead) = self.explain_pat_instead(asked, integration, &prospect).await {
            return instead;
        }
        let presentation = Presentation::of(asked.request, plan.bearer, &plan.username, plan.any_username);
        let account = Some(key.account.clone()).filter(|account| !account.is_empty());
        let mut explanation = expect(prospect, integration, |error| own_failure(NO_TOKEN, asked.location, key, error));
        self.add_storm(&mut explanation, &Subject::Own(key.clone()), asked.caller, integration);
        explanation.identity = Some(identity("own", account, asked.request, presentation));
        explanation
    }

    /// What a personal access token would come to where the app's or the user's own token is not to be had; `None` where it is, and
    /// where there is none.
    async fn explain_pat_instead<E: std::error::Error>(
        &self,
        asked: Asked<'_>,
        integration: &Arc<ScmIntegration>,
        prospect: &Prospect<E>,
    ) -> Option<Explanation> {
        if !matches!(prospect.expected, Expected::Withheld(_)) {
            return None;
        }
        match self.choose_pat(asked.request, asked.caller, integration) {
            Ok(Some(pat)) => Some(self.explain_pat(asked, &pat).await),
            Ok(None) => None,
            Err(nobody) => Some(Explanation::of(asked.nobody(&nobody))),
        }
    }

    /// What a personal access token would come to.
    async fn explain_pat(&self, asked: Asked<'_>, pat: &Pat) -> Explanation {
        let (kind, account) = match &pat.source {
            PatSource::Kept(key) => ("pat", Some(key.account.clone()).filter(|account| !account.is_empty())),
            PatSource::Operators => ("operators_pat", None),
        };
        let (answer, state, username) = match self.pat_prospect(asked.caller, pat).await {
            PatProspect::Given { username, token: _ } => {
                let reason = "a personal access token is kept".to_owned();
                (Answer { kind: AnswerKind::Credential, message: None, reason, next: None }, TokenState::Held, Some(username))
            }
            PatProspect::Gone => (silence("the personal access token was just forgotten".to_owned()), TokenState::Failing, None),
            PatProspect::Refused { problem, next } => {
                let message = Some(pat_failure(asked.location, &problem, next));
                (Answer { kind: AnswerKind::Message, message, reason: problem, next: Some(next.to_owned()) }, TokenState::Failing, None)
            }
        };
        Explanation {
            identity: Some(Identity { kind: kind.to_owned(), account, presented: "basic".to_owned(), username }),
            token: Some(Token { state, expires_at: None, last_error: None, retry_in_seconds: None }),
            ..Explanation::of(answer)
        }
    }

    /// Adds that the host refuses new tokens, which git would be told once it has the one at hand refused.
    fn add_storm(&self, explanation: &mut Explanation, subject: &Subject, caller: &Caller, integration: &ScmIntegration) {
        let storm = self.healing.breakers().storm(subject, caller.uid, Instant::now());
        if let (Some(token), Some(storm)) = (&mut explanation.token, storm) {
            token.last_error.get_or_insert_with(|| storm.describe(&integration.host));
        }
    }

    fn describe_match(&self, integration: &ScmIntegration, location: &Location) -> Integration {
        Integration {
            id: integration.id.clone(),
            scm_id: integration.scm_id.to_string(),
            host: integration.host.clone(),
            virtual_directory: integration.virtual_directory.clone(),
            grant: self.plan(integration).kind().to_owned(),
            pat: integration.pat,
            matched: matched(integration, location),
            held_back: self.sync.quarantine().get(&integration.id).is_some(),
        }
    }

    /// What does not answer, though it is near: all that would do where several would; else by the places that they cover. Where
    /// nobody answers it may be because of an entry of the list that cannot be used.
    fn near(&self, location: &Location, registry: &IntegrationRegistry, chosen: Option<&Arc<ScmIntegration>>) -> Vec<Near> {
        let entry = |integration: &ScmIntegration, reason: String| Near {
            id: Some(integration.id.clone()),
            host: Some(format!("{}{}", integration.host, integration.virtual_directory)),
            reason,
        };
        let mut near = Vec::new();
        if let (None, Lookup::Ambiguous(several)) = (chosen, registry.for_host(location)) {
            near.extend(several.iter().map(|integration| entry(integration, "would do, and so would others".to_owned())));
        }
        for found in registry.near(location, chosen.map(|integration| integration.id.as_str())) {
            if near.iter().any(|named| named.id.as_deref() == Some(found.integration.id.as_str())) {
                continue;
            }
            let reason = match found.distance {
                Distance::LessOfThePath => "covers it too, but names less of the path".to_owned(),
                Distance::OtherPath if location.has_path() => "covers another path of that host".to_owned(),
                Distance::OtherPath => "covers only a part of that host, and git tells no path".to_owned(),
                Distance::OtherPort { port } => format!("is on port {port} of that host"),
                // Only where nobody answers may it be a slip.
                Distance::OtherSpelling if chosen.is_some() => continue,
                Distance::OtherSpelling => "has a host that differs by one letter; is that the one that is meant?".to_owned(),
            };
            near.push(entry(&found.integration, reason));
        }
        if chosen.is_none() {
            near.extend(registry.rejected().iter().take(MAX_REJECTED).map(|rejected| Near {
                id: rejected.id.clone(),
                host: None,
                reason: format!("entry {} of the list cannot be used, whatever host it is for: {}", rejected.position + 1, rejected.reason),
            }));
        }
        near
    }
}

/// A `get` that nobody answers.
#[derive(Clone, Copy)]
struct Asked<'a> {
    request: &'a CredentialRequest,
    caller: &'a Caller,
    location: &'a Location,
}

impl Asked<'_> {
    /// What to run to sign in, and what would do as well.
    fn sign_in(self, named: bool, integration: Option<&ScmIntegration>) -> String {
        let account = self.request.username.as_deref().filter(|_| named).unwrap_or_default();
        let command = login::command(&self.location.to_string(), account);
        match integration.is_some_and(|integration| integration.pat) {
            true => format!("{command}; or give git a personal access token when it asks"),
            false => command,
        }
    }

    /// What is said where nobody answers. A new reason has to be put into words here.
    fn nobody(self, nobody: &Nobody) -> Answer {
        let Self { location, .. } = self;
        let (reason, next) = match &nobody.reason {
            Reason::Ambiguous { alike: Some(ids) } => (
                format!("the integrations {} cover the same place, and a wrong one's token is worse than none", ids.join(" and ")),
                Some("ask the operator of this machine to remove all but one of them".to_owned()),
            ),
            Reason::Ambiguous { alike: None } => (
                "several integrations would do, and a wrong one's token is worse than none".to_owned(),
                Some("scm-agent git setup".to_owned()),
            ),
            Reason::Denied { right, rule } => (
                {
                    let denied = match rule {
                        Some(rule) => format!("access rule {rule} withholds {} from you", name(*right)),
                        None => format!("no access rule gives you {}", name(*right)),
                    };
                    match &self.caller.unit_problem {
                        Some(problem) => format!("{denied}, and what units have does not count for you: {problem}"),
                        None => denied,
                    }
                },
                Some("ask the operator of this machine for a rule; to see those there are: scm-agent config show".to_owned()),
            ),
            Reason::HeldBack => (
                "the integration is held back until somebody trusts it".to_owned(),
                Some("ask the operator of this machine: scm-agent trust".to_owned()),
            ),
            Reason::NoWay { reason } => (reason.clone(), Some("scm-agent doctor".to_owned())),
            Reason::NothingSetUp => ("the integration has no OAuth app and allows no personal access token".to_owned(), None),
            Reason::NotOurs => ("no integration serves that place".to_owned(), None),
            Reason::NotSignedIn { named } => (
                match named {
                    true => "you are not signed in there under the user name that git asks for".to_owned(),
                    false => "you are not signed in there".to_owned(),
                },
                Some(self.sign_in(*named, nobody.integration.as_deref())),
            ),
            Reason::SeveralAccounts(accounts) => (
                format!("you are signed in there as several: {}", accounts.join(", ")),
                Some(format!("git config --global credential.{location}.username NAME")),
            ),
            Reason::SeveralPats(names) => (
                format!("several personal access tokens of yours are kept for it: {}", names.join(", ")),
                Some(format!("git config --global credential.{location}.username NAME")),
            ),
            Reason::TakesPats => ("personal access tokens are taken there, and git asks for one".to_owned(), None),
            Reason::OtherUser => (
                "git asks for another user than the one that the app is".to_owned(),
                Some("leave the user name out of the URL and out of git's configuration".to_owned()),
            ),
        };
        match nobody.message(location) {
            Some(message) if nobody.quits() => Answer { kind: AnswerKind::Quit, message: Some(message), reason, next },
            Some(message) => Answer { kind: AnswerKind::Message, message: Some(message), reason, next },
            None => Answer { next, ..silence(reason) },
        }
    }
}

/// What a prospect comes to. `failure` gives the line for git's user and what to run.
fn expect<E: std::error::Error>(
    prospect: Prospect<E>,
    integration: &ScmIntegration,
    failure: impl FnOnce(&MintError<E>) -> (String, String),
) -> Explanation {
    let Prospect { expected, last_error, retry_in } = prospect;
    let error = match &expected {
        Expected::Withheld(error) => Some(error.to_string()),
        Expected::Fetch | Expected::Held { .. } | Expected::Wait => last_error.map(|error| error.to_string()),
    };
    let credential = |reason: &str| Answer { kind: AnswerKind::Credential, message: None, reason: reason.to_owned(), next: None };
    let (state, expires_at, answer) = match expected {
        Expected::Fetch => (TokenState::ToFetch, None, credential("a token would be fetched")),
        Expected::Held { expires_at } => (TokenState::Held, expires_at, credential("a token is held")),
        Expected::Wait => (TokenState::Fetching, None, credential("a token is being fetched")),
        Expected::Withheld(error) => {
            let (message, next) = failure(&error);
            // Where personal access tokens are allowed git may ask for one.
            let kind = if integration.pat { AnswerKind::Message } else { AnswerKind::Quit };
            (
                TokenState::Failing,
                None,
                Answer { kind, message: Some(message), reason: "no token is to be had".to_owned(), next: Some(next) },
            )
        }
    };
    let token = Token { state, expires_at: expires_at.map(unix_seconds), last_error: error, retry_in_seconds: retry_in.map(seconds_begun) };
    Explanation { token: Some(token), ..Explanation::of(answer) }
}

fn silence(reason: String) -> Answer {
    Answer { kind: AnswerKind::Silence, message: None, reason, next: None }
}

fn identity(kind: &str, account: Option<String>, request: &CredentialRequest, presentation: Presentation) -> Identity {
    let (presented, username) = match presentation {
        Presentation::Bearer => ("bearer", None),
        Presentation::Password { username } => ("basic", username.or_else(|| request.username.clone())),
    };
    Identity { kind: kind.to_owned(), account, presented: presented.to_owned(), username }
}

fn access(caller: &Caller, integration: &ScmIntegration) -> Access {
    let Verdict { grant, rights, rule } = caller.rules.verdict(integration);
    let Rights { app_secret, own, service } = rights;
    let allow = [(service, Right::Service), (own, Right::Own), (app_secret, Right::AppSecret)];
    let allow = allow.into_iter().filter(|(has, _)| *has).map(|(_, right)| word(right).to_owned()).collect();
    Access {
        rules: caller.rules.are_there(),
        rule,
        allow,
        grant: grant.as_deref().map(str::to_owned),
        unit: caller.unit.as_deref().map(str::to_owned),
        unit_problem: caller.unit_problem.as_deref().map(str::to_owned),
    }
}

/// A right as `allow` in the configuration spells it.
fn word(right: Right) -> &'static str {
    match right {
        Right::AppSecret => "app-secret",
        Right::Own => "own",
        Right::Service => "service",
    }
}

fn name(right: Right) -> &'static str {
    match right {
        Right::AppSecret => "the app's credentials",
        Right::Own => "what you signed in for",
        Right::Service => "the app's tokens",
    }
}

/// By what an integration was found.
fn matched(integration: &ScmIntegration, location: &Location) -> Matched {
    let Ok(pattern) = HostPattern::parse(integration) else { return Matched::Host };
    if pattern.host() != location.host() {
        return if location.host().ends_with(".visualstudio.com") { Matched::VisualStudioHost } else { Matched::GistHost };
    }
    match (pattern.depth(), location.has_path(), location.names_organisation()) {
        (0, _, _) => Matched::Host,
        (_, true, _) => Matched::PathPrefix,
        (_, false, true) => Matched::UserName,
        (_, false, false) => Matched::OnlyCandidate,
    }
}
