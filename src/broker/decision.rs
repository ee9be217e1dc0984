//! Who answers a request of git's, and why nobody does: everything that can be said before a token is asked for.

use std::sync::Arc;

use super::grants::Choice;
use super::pats::Pat;
use super::{Broker, Caller, Right};
use crate::git::CredentialRequest;
use crate::integration::ScmIntegration;
use crate::integration::location::{HostPattern, Location};
use crate::integration::registry::{IntegrationRegistry, Lookup};
use crate::oauth::{Plan, ServicePlan, UserPlan};
use crate::store::GrantKey;

/// Who answers.
#[derive(Debug)]
pub(super) enum Decision {
    /// Nobody.
    Nobody(Nobody),
    /// The caller's own grant.
    Own(Own),
    /// A personal access token.
    Pat(Pat),
    /// The app itself.
    Service {
        /// The integration whose app it is.
        integration: Arc<ScmIntegration>,
        /// How its token is had.
        plan: ServicePlan,
    },
}

/// A grant that answers.
#[derive(Debug)]
pub(super) struct Own {
    /// The integration that the grant is for.
    pub(super) integration: Arc<ScmIntegration>,
    /// How users sign in there.
    pub(super) plan: Box<UserPlan>,
    /// The grant.
    pub(super) key: GrantKey,
}

/// Why nobody answers.
#[derive(Debug)]
pub(super) struct Nobody {
    /// The integration that the request is for, where that is one.
    pub(super) integration: Option<Arc<ScmIntegration>>,
    /// Why it has nothing.
    pub(super) reason: Reason,
}

/// What is missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Several integrations would do.
    Ambiguous {
        /// Their ids where they cover the very same place, so that no path would tell them apart.
        alike: Option<Vec<String>>,
    },
    /// The operator's access rules.
    Denied {
        /// What the caller may not have.
        right: Right,
        /// The number of the rule that says so; `None` where no rule is about the two.
        rule: Option<usize>,
    },
    /// The integration is quarantined.
    HeldBack,
    /// The integration has an app that no token can be had of.
    NoWay {
        /// Why, for the operator.
        reason: String,
    },
    /// The integration has neither an app nor anything else to take a token from.
    NothingSetUp,
    /// No integration serves the place.
    NotOurs,
    /// The user has signed in nowhere that would do.
    NotSignedIn {
        /// Whether git asks for an account by its name.
        named: bool,
    },
    /// Several accounts of the user's would do.
    SeveralAccounts(Vec<String>),
    /// Several personal access tokens of the user's would do; their user names.
    SeveralPats(Vec<String>),
    /// Users bring personal access tokens.
    TakesPats,
    /// git asks for another user than the one that the app is.
    OtherUser,
}

impl Decision {
    fn nobody(integration: &Arc<ScmIntegration>, reason: Reason) -> Self {
        Self::Nobody(Nobody::at(integration, reason))
    }
}

impl From<Result<Own, Nobody>> for Decision {
    fn from(own: Result<Own, Nobody>) -> Self {
        own.map_or_else(Self::Nobody, Self::Own)
    }
}

impl Nobody {
    fn at(integration: &Arc<ScmIntegration>, reason: Reason) -> Self {
        Self { integration: Some(Arc::clone(integration)), reason }
    }

    /// Whether git is told to stop, where there is a line for the user: not where it could still be given another token.
    pub(super) fn quits(&self) -> bool {
        !matches!(self.reason, Reason::SeveralPats(_))
    }

    /// The line for the user. `None` where nothing is to be said, so that git goes on as if nobody had been asked.
    pub(super) fn message(&self, location: &Location) -> Option<String> {
        let integration = self.integration.as_deref();
        let host = integration.map(|integration| integration.host.as_str()).unwrap_or_default();
        let takes_pats = integration.is_some_and(|integration| integration.pat);
        Some(match &self.reason {
            Reason::Ambiguous { alike: Some(ids) } => format!(
                "the integrations {} cover the same place, so none answers for {location}; ask the operator of this machine to remove all but one",
                ids.join(" and ")
            ),
            Reason::Ambiguous { alike: None } => {
                format!("several integrations serve {location}, and git does not say which repository it wants; run: scm-agent git setup")
            }
            Reason::SeveralAccounts(accounts) => {
                let names = names(accounts);
                format!("several accounts are signed in to {host}: {names}; say which: git config credential.{location}.username NAME")
            }
            Reason::SeveralPats(accounts) => {
                let names = names(accounts);
                format!(
                    "several personal access tokens are kept for {host}: {names}; say which: git config credential.{location}.username NAME"
                )
            }
            Reason::NothingSetUp | Reason::NotOurs | Reason::OtherUser | Reason::TakesPats => return None,
            // git asks for a personal access token, where one would do.
            Reason::Denied { .. } | Reason::HeldBack | Reason::NoWay { .. } | Reason::NotSignedIn { .. } if takes_pats => return None,
            Reason::Denied { .. } => {
                format!("the access rules of this host do not give you a token for {location}; to see them, run: scm-agent config show")
            }
            Reason::HeldBack => {
                let id = integration.map(|integration| integration.id.as_str()).unwrap_or_default();
                format!("no token for {host}: integration {id} is held back until somebody trusts it; run: scm-agent trust")
            }
            Reason::NoWay { reason } => format!("no token for {host}: {reason}"),
            Reason::NotSignedIn { named } => {
                let who = if *named { "nobody is signed in under the user name that git asks for" } else { "nobody is signed in" };
                format!("no token for {host}: {who}; run: scm-agent login {location}")
            }
        })
    }
}

impl Broker {
    /// Says who answers a request, by the list that is in force: the app, or the caller who signed in, before personal access tokens.
    pub(super) fn decide(
        &self,
        request: &CredentialRequest,
        caller: &Caller,
        location: &Location,
        registry: &IntegrationRegistry,
    ) -> Decision {
        match self.decide_by_app(request, caller, location, registry) {
            Decision::Nobody(nobody) => self.pat_or_nobody(request, caller, nobody).map_or_else(Decision::Nobody, Decision::Pat),
            decision => decision,
        }
    }

    /// Says who answers through an integration's app, or why nobody does.
    fn decide_by_app(&self, request: &CredentialRequest, caller: &Caller, location: &Location, registry: &IntegrationRegistry) -> Decision {
        let integration = match registry.for_host(location) {
            Lookup::Match(integration) => integration,
            Lookup::Ambiguous(several) => {
                return Decision::Nobody(Nobody { integration: None, reason: Reason::Ambiguous { alike: alike(&several) } });
            }
            Lookup::None => {
                // Perhaps one would that nobody has trusted yet.
                let waiting = self.sync.quarantine().for_host(location);
                let reason = if waiting.is_some() { Reason::HeldBack } else { Reason::NotOurs };
                return Decision::Nobody(Nobody { integration: waiting, reason });
            }
        };
        let plan = match self.plan(&integration) {
            Plan::Service(plan) => plan,
            Plan::User(plan) => return self.own_grant(request, caller, &integration, plan).into(),
            Plan::None { .. } | Plan::Pat if integration.pat => return Decision::nobody(&integration, Reason::TakesPats),
            // Nothing is set up to come from here, so whatever else git knows goes on working.
            Plan::None { .. } | Plan::Pat if integration.oauth.is_none() => {
                return Decision::nobody(&integration, Reason::NothingSetUp);
            }
            Plan::Pat => return Decision::nobody(&integration, Reason::TakesPats),
            Plan::None { reason } => return Decision::nobody(&integration, Reason::NoWay { reason }),
        };
        if !username_fits(request, &plan) {
            // The name may be that of an account, where users sign in because the issuer gives the app no token.
            return match &plan.user {
                Some(user) if self.has_own(request, caller, &integration, user) => {
                    self.own_grant(request, caller, &integration, user.clone()).into()
                }
                _ => Decision::nobody(&integration, Reason::OtherUser),
            };
        }
        // Who may have nothing of the app's may have signed in.
        if let Some(user) = plan.user.as_ref().filter(|_| caller.has_only(Right::Own, &integration)) {
            return self.own_grant(request, caller, &integration, user.clone()).into();
        }
        match caller.denied(Right::Service, &integration) {
            Some(reason) => Decision::nobody(&integration, reason),
            None => Decision::Service { integration, plan },
        }
    }

    /// Says which of the caller's own grants answers.
    pub(super) fn own_grant(
        &self,
        request: &CredentialRequest,
        caller: &Caller,
        integration: &Arc<ScmIntegration>,
        plan: Box<UserPlan>,
    ) -> Result<Own, Nobody> {
        if let Some(reason) = caller.denied(Right::Own, integration) {
            return Err(Nobody::at(integration, reason));
        }
        let named = !plan.username_names_nobody && request.username.as_deref().is_some_and(|name| name != plan.username);
        match self.grants.choose(caller.uid, integration, &plan, request.username.as_deref()) {
            Choice::Grant(key) => Ok(Own { integration: Arc::clone(integration), plan, key }),
            Choice::None => Err(Nobody::at(integration, Reason::NotSignedIn { named })),
            Choice::Several(accounts) => Err(Nobody::at(integration, Reason::SeveralAccounts(accounts))),
        }
    }

    /// Whether the caller has a grant that the request can mean.
    fn has_own(&self, request: &CredentialRequest, caller: &Caller, integration: &ScmIntegration, plan: &UserPlan) -> bool {
        matches!(self.grants.choose(caller.uid, integration, plan, request.username.as_deref()), Choice::Grant(_))
    }
}

impl Caller {
    /// Why the caller may not have something of an integration; `None` for who may.
    fn denied(&self, right: Right, integration: &ScmIntegration) -> Option<Reason> {
        let verdict = self.rules.verdict(integration);
        (!verdict.rights.has(right)).then_some(Reason::Denied { right, rule: verdict.rule })
    }
}

/// The ids of integrations that cover the very same place.
pub(super) fn alike(several: &[Arc<ScmIntegration>]) -> Option<Vec<String>> {
    let mut patterns = several.iter().map(|integration| HostPattern::parse(integration).ok());
    let first = patterns.next()?;
    patterns.all(|pattern| pattern == first).then(|| several.iter().map(|integration| integration.id.clone()).collect())
}

/// Names of accounts, for a line.
fn names(accounts: &[String]) -> String {
    accounts.iter().map(|name| if name.is_empty() { "(no name)" } else { name }).collect::<Vec<_>>().join(", ")
}

/// Whether the user name in the URL leaves the service identity possible.
///
/// Where clone URLs do not carry names without meaning for the token, a name asks for that account, and nobody is to be someone else
/// by accident.
fn username_fits(request: &CredentialRequest, plan: &ServicePlan) -> bool {
    plan.username_names_nobody || request.username.as_ref().is_none_or(|name| *name == plan.username)
}
