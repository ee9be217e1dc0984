//! Personal access tokens in the flow: which of them answers where no app's token does, and what git's `store` and `erase` do to them.
//!
//! Where an integration allows them, git asks the user, the host takes what the user types, and git has every helper told. So a token is
//! kept because it works, and only what nobody else is known to have made: see [`Broker::keep_pat`].

use std::sync::Arc;

use tracing::{info, warn};
use zeroize::Zeroizing;

use super::answer::{Asked, turned_away};
use super::decision::{Nobody, Reason};
use super::fingerprint;
use super::grants::{KeptPat, NotKept, ignores_names, is_same_place};
use super::{Broker, Caller, Outcome, Right, healing};
use crate::git::CredentialRequest;
use crate::integration::ScmIntegration;
use crate::integration::location::Location;
use crate::integration::registry::Lookup;
use crate::oauth;
use crate::secret::{AccessToken, is_token_like};
use crate::store::GrantKey;

/// A personal access token that answers.
#[derive(Debug)]
pub(super) struct Pat {
    /// The integration that it is for.
    pub(super) integration: Arc<ScmIntegration>,
    /// Whose it is.
    pub(super) source: PatSource,
}

/// Whose a personal access token is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PatSource {
    /// The caller's own, which git gave the daemon to keep.
    Kept(GrantKey),
    /// The operator's.
    Operators,
}

/// What a personal access token comes to.
pub(super) enum PatProspect {
    /// A credential.
    Given {
        /// The user name that goes with it.
        username: String,
        /// The token.
        token: AccessToken,
    },
    /// It was forgotten while it was looked for.
    Gone,
    /// Nothing, for a reason that the user is to know.
    Refused {
        /// What is wrong.
        problem: String,
        /// What to run or whom to ask.
        next: &'static str,
    },
}

impl Broker {
    /// Has a personal access token answer where nobody else does, if there is one that the caller may have.
    pub(super) fn pat_or_nobody(&self, request: &CredentialRequest, caller: &Caller, nobody: Nobody) -> Result<Pat, Nobody> {
        // Neither to a place that nobody has trusted nor to one that could be another, nor where the user has yet to choose.
        let is_elsewhere =
            matches!(nobody.reason, Reason::Ambiguous { .. } | Reason::HeldBack | Reason::NotOurs | Reason::SeveralAccounts(_));
        let Some(integration) = nobody.integration.clone().filter(|_| !is_elsewhere) else { return Err(nobody) };
        self.choose_pat(request, caller, &integration)?.ok_or(nobody)
    }

    /// The personal access token that answers the caller at an integration: the caller's own before the operator's.
    pub(super) fn choose_pat(
        &self,
        request: &CredentialRequest,
        caller: &Caller,
        integration: &Arc<ScmIntegration>,
    ) -> Result<Option<Pat>, Nobody> {
        if !integration.pat {
            return Ok(None);
        }
        let pat = |source| Ok(Some(Pat { integration: Arc::clone(integration), source }));
        let rights = caller.rules.verdict(integration).rights;
        if rights.has(Right::Own) {
            match self.grants.choose_pat(caller.uid, integration, request.username.as_deref()) {
                KeptPat::One(key) => return pat(PatSource::Kept(key)),
                KeptPat::Several(names) => {
                    return Err(Nobody { integration: Some(Arc::clone(integration)), reason: Reason::SeveralPats(names) });
                }
                KeptPat::None => {}
            }
        }
        let is_meant = || match &request.username {
            Some(name) => ignores_names(integration) || *name == self.pat_username(integration),
            None => true,
        };
        if rights.has(Right::Service) && self.operators_pats.of(integration).is_some() && is_meant() {
            return pat(PatSource::Operators);
        }
        Ok(None)
    }

    /// Answers with a personal access token after all, where the app's or the user's own token is not to be had.
    pub(super) async fn pat_instead(&self, asked: Asked<'_>, integration: &Arc<ScmIntegration>) -> Option<Outcome> {
        match self.choose_pat(asked.request, asked.caller, integration) {
            Ok(Some(pat)) => Some(self.get_pat(asked, &pat).await),
            Ok(None) => None,
            Err(nobody) => Some(asked.nobody(&nobody)),
        }
    }

    /// Answers `get` with a personal access token.
    pub(super) async fn get_pat(&self, asked: Asked<'_>, pat: &Pat) -> Outcome {
        let Asked { request, caller, location, .. } = asked;
        let Pat { integration, source } = pat;
        let (username, token) = match self.pat_prospect(caller, pat).await {
            PatProspect::Given { username, token } => (username, token),
            PatProspect::Gone => return Outcome::Silence,
            // The user may have one, so git goes on to ask.
            PatProspect::Refused { problem, next } => {
                return turned_away(caller, location, Some(integration), pat_failure(location, &problem, next), false);
            }
        };
        // The list may have changed meanwhile; the new one counts.
        if !self.sync.registry().get(&integration.id).is_some_and(|now| now.pat && is_same_place(now, integration)) {
            return Box::pin(self.get(request, caller)).await;
        }
        let tag = self.fingerprints.tag(&token);
        if *source == PatSource::Operators {
            self.handed_out.note(tag);
        }
        info!(
            target: "audit", event = "token_given", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, grant = "pat",
            token = tag.map(fingerprint::shown), "answered"
        );
        Outcome::Pat { username, token }
    }

    /// What a personal access token comes to now, which is what `get` is answered with.
    pub(super) async fn pat_prospect(&self, caller: &Caller, pat: &Pat) -> PatProspect {
        let Pat { integration, source } = pat;
        match source {
            PatSource::Kept(key) => match self.grants.pat(key, integration).await {
                Ok(Some(token)) => {
                    // git sends no password without a user name.
                    let is_nameless = key.account.is_empty() && ignores_names(integration);
                    let username = if is_nameless { self.pat_username(integration) } else { key.account.clone() };
                    PatProspect::Given { username, token }
                }
                Ok(None) => PatProspect::Gone,
                Err(error) => PatProspect::Refused {
                    problem: format!("the kept personal access token cannot be read: {error}"),
                    next: "run: scm-agent accounts",
                },
            },
            PatSource::Operators => {
                let refused = |problem: &str| PatProspect::Refused {
                    problem: problem.to_owned(),
                    next: "ask the operator of this machine: scm-agent doctor",
                };
                let Some(place) = self.operators_pats.of(integration) else { return PatProspect::Gone };
                let Some(token) = self.operators_pats.read(&place).await else {
                    return refused("the operator's personal access token cannot be used");
                };
                if place.was_refused(caller.uid) {
                    return refused("the host refused the operator's personal access token");
                }
                PatProspect::Given { username: self.pat_username(integration), token }
            }
        }
    }

    /// Keeps what `store` says worked, where that can only be a personal access token of the caller's.
    ///
    /// Every helper is told of every password, whoever gave it. So what somebody made for a while is left alone: what has an end, is
    /// `ephemeral`, goes as anything but a password, or came with a refresh token or with a state of ours; and whatever the daemon itself gave.
    pub(super) async fn keep_pat(&self, request: &CredentialRequest, caller: &Caller) {
        let (Some(username), Some(password)) = (&request.username, &request.password) else { return };
        let is_other_s = request.authtype.is_some()
            || request.credential.is_some()
            || request.password_expiry_utc.is_some()
            || request.is_ephemeral
            || request.has_refresh_token
            || healing::has_state(request);
        if is_other_s || is_token_in_name(username, password.expose_secret()) {
            return;
        }
        let Ok(location) = self.location(request, Some(username)) else { return };
        let Some(registry) = self.first_registry().await else { return };
        let integration = match registry.for_host(&location) {
            Lookup::Match(integration) if integration.pat => integration,
            Lookup::Match(_) | Lookup::None => return,
            Lookup::Ambiguous(_) => {
                info!(target: "audit", event = "pat_not_kept", uid = caller.uid, pid = caller.pid, host = %location, reason = "several integrations serve the place", "a personal access token is not kept");
                return;
            }
        };
        let not_kept = |reason: &str| {
            warn!(
                target: "audit", event = "pat_not_kept", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, reason,
                "a personal access token is not kept"
            );
        };
        let Ok(token) = AccessToken::parse(Zeroizing::new(password.expose_secret().to_vec())) else {
            return not_kept("it is empty or has other characters than a token has");
        };
        if self.handed_out.has(&token) || !caller.may(Right::Own, &integration, &location, "store") {
            return;
        }
        // After a restart nobody remembers that it was given away.
        if let Some(place) = self.operators_pats.of(&integration)
            && self.operators_pats.read(&place).await.is_some_and(|operators| operators.matches(token.expose_secret().as_bytes()))
        {
            return;
        }
        let fingerprint = self.fingerprints.of(&token);
        let kept = self.grants.keep_pat(caller.uid, &integration, username, token).await;
        match kept {
            Ok(false) | Err(NotKept::OfSignIn) => {}
            Ok(true) => info!(
                target: "audit", event = "pat_kept", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, token = fingerprint,
                "kept a personal access token"
            ),
            Err(reason) => not_kept(&reason.to_string()),
        }
    }

    /// Forgets the caller's tokens that `erase` is about: the one whose password it has, or all under its name where it has none. The
    /// operator's is only kept from the caller for a while.
    pub(super) async fn forget_pats(&self, request: &CredentialRequest, caller: &Caller) {
        if request.authtype.is_some() || request.credential.is_some() {
            return;
        }
        let Ok(location) = self.location(request, None) else { return };
        let candidates = match (self.sync.registry().for_host(&location), &request.password) {
            (Lookup::Match(integration), _) => vec![integration],
            (Lookup::Ambiguous(candidates), Some(_)) => candidates,
            // Which of the places is meant, only the token could say.
            (Lookup::Ambiguous(_), None) | (Lookup::None, _) => return,
        };
        let password = request.password.as_ref().map(|password| password.expose_secret());
        for integration in candidates {
            let forgotten = self.grants.forget_pats(caller.uid, &integration, request.username.as_deref(), password).await;
            if forgotten > 0 {
                info!(
                    target: "audit", event = "pat_forgotten", uid = caller.uid, pid = caller.pid, host = %location, integration = %integration.id, tokens = forgotten,
                    "forgot personal access tokens"
                );
            }
            let may = caller.rules.verdict(&integration).rights.has(Right::Service);
            if let (Some(password), Some(place)) = (password, self.operators_pats.of(&integration).filter(|_| may)) {
                self.operators_pats.erase(&place, caller.uid, password).await;
            }
        }
    }

    /// The user name that goes with the operator's token.
    fn pat_username(&self, integration: &ScmIntegration) -> String {
        oauth::username(integration.scm_id.as_str(), &integration.host, &self.settings.providers)
    }
}

/// The line for the user where a personal access token comes to nothing.
pub(super) fn pat_failure(location: &Location, problem: &str, next: &str) -> String {
    format!("no token for {location}: {problem}; {next}")
}

/// Whether the user name is the secret and the password only stands beside it, as in `https://TOKEN@HOST`. User names are shown.
fn is_token_in_name(username: &str, password: &[u8]) -> bool {
    matches!(password, b"x-oauth-basic" | b"x") || is_token_like(username)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_token_is_none_to_be_shown() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        for (username, password) in [("a1b2", "x-oauth-basic"), ("a1b2", "x"), ("ghp_abc", "y"), ("github_pat_11A_b", "y"), (hex, "y")] {
            assert!(is_token_in_name(username, password.as_bytes()), "{username}");
        }
        let address = "somebody.with.a.long.name@a.department.example.com";
        for (username, password) in [("", "glpat-1"), ("mona", "ghp_1"), ("DOMAIN\\mona", "t"), (address, "t"), (&hex[1..], "t")] {
            assert!(!is_token_in_name(username, password.as_bytes()), "{username}");
        }
    }
}
