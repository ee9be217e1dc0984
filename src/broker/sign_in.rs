//! Users' sign-ins as they ask for them: the URL they name becomes an integration of ours, or a sentence that says why not.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::decision::alike;
use super::grants::{Definition, Wanted, refused};
use super::{Broker, Caller, Right};
use crate::denial::{Denial, Event};
use crate::git::CredentialRequest;
use crate::integration::ScmIntegration;
use crate::integration::location::Location;
use crate::integration::registry::Lookup;
use crate::login::{Accounts, Cancelled, Elsewhere, LoggedOut, Login, Progress, Refused, State};
use crate::oauth::{EndpointSource, Plan, Redirect, UserPlan};
use crate::status;

/// How a user wants to sign in, in the request's own words.
#[derive(Debug, Clone, Copy)]
pub enum LoginMode<'a> {
    /// With a browser on this machine, which comes back to this URI.
    Browser {
        /// `http` on loopback with a port.
        redirect_uri: &'a str,
    },
    /// With a code, in any browser.
    Device,
}

impl Broker {
    /// Begins a sign-in for the caller at the host of a URL, or says why not, in about `within`.
    pub async fn begin_login(&self, caller: &Caller, url: &str, mode: LoginMode<'_>, account: Option<&str>, within: Duration) -> Login {
        let login = self.begin_login_of(caller, url, mode, account, within).await;
        match login {
            Ok(Login::Refused(reason)) | Err(NoSignIn::Otherwise(reason)) => {
                let host = self.host_of(url);
                let host = host.as_ref().map(|host| host as &dyn std::fmt::Display);
                let denial = caller.denial(Event::SignIn, "sign-in refused");
                caller.denials.note(&Denial { host, operation: Some("login"), reason: Some(&reason.error), ..denial });
                Login::Refused(reason)
            }
            Err(NoSignIn::ByRules(reason)) => Login::Refused(reason),
            Ok(login) => login,
        }
    }

    async fn begin_login_of(
        &self,
        caller: &Caller,
        url: &str,
        mode: LoginMode<'_>,
        account: Option<&str>,
        within: Duration,
    ) -> Result<Login, NoSignIn> {
        let definition = self.who_signs_in(caller, url).await?;
        let wanted = match mode {
            LoginMode::Device => Wanted::Device,
            LoginMode::Browser { redirect_uri } => match Url::parse(redirect_uri) {
                Ok(uri) => match elsewhere(&definition.0.host, &definition.1, &uri) {
                    None => Wanted::Browser(uri),
                    Some(answer) => return Ok(answer),
                },
                Err(_) => return Ok(refused("the redirect URI is no URL", None)),
            },
        };
        Ok(self.grants.begin_login(caller.uid, definition, wanted, account.map(str::to_owned), within).await)
    }

    /// The place that a URL names, for the log: without user name, password and path.
    fn host_of(&self, url: &str) -> Option<Location> {
        let request = CredentialRequest::parse(format!("url={url}\n").as_bytes()).ok()?;
        self.location(&request, None).ok()
    }

    /// Looks how far a sign-in of the caller's is.
    pub async fn look_at_login(&self, caller: &Caller, session: &str, within: Duration) -> Progress {
        self.said_of_store(self.grants.look_at_login(caller.uid, session, within).await)
    }

    /// Takes what came back from the browser of a sign-in of the caller's.
    pub async fn finish_login(&self, caller: &Caller, session: &str, query: &str, within: Duration) -> Progress {
        self.said_of_store(self.grants.finish_login(caller.uid, session, query, within).await)
    }

    /// Adds to a sign-in that is done that memory stands in for the store.
    fn said_of_store(&self, progress: Progress) -> Progress {
        match &self.store_problem {
            Some(problem) if progress.state == State::Done && progress.error.is_none() => {
                Progress { error: Some(problem.clone()), next: Some("scm-agent doctor".to_owned()), ..progress }
            }
            _ => progress,
        }
    }

    /// Ends a sign-in of the caller's before its time.
    pub fn cancel_login(&self, caller: &Caller, session: &str) -> Cancelled {
        Cancelled { cancelled: self.grants.cancel_login(caller.uid, session) }
    }

    /// Signs the caller out at the host of a URL: of one account, or of all.
    pub async fn log_out(&self, caller: &Caller, url: &str, account: Option<&str>, within: Duration) -> LoggedOut {
        let integration = match self.integration_of(url).await {
            Ok((integration, _)) => integration,
            Err(Refused { error, next }) => return LoggedOut { removed: Vec::new(), error: Some(error), next },
        };
        let plan = self.user_plan(&integration);
        self.grants.log_out(caller.uid, &integration, plan.as_ref(), account, within).await
    }

    /// The caller's grants.
    #[must_use]
    pub fn accounts(&self, caller: &Caller) -> Accounts {
        let registry = self.sync.registry();
        Accounts { accounts: self.grants.accounts(caller.uid, |id| registry.get(id).map(Arc::clone)) }
    }

    /// The integration for a URL, and how users sign in there.
    async fn who_signs_in(&self, caller: &Caller, url: &str) -> Result<Definition, NoSignIn> {
        let (integration, location) = self.integration_of(url).await?;
        if !caller.may(Right::Own, &integration, &location, "login") {
            let next = Some("see the rules: scm-agent config show");
            return Err(NoSignIn::ByRules(no(format!("the access rules of this host do not let you sign in to {location}"), next)));
        }
        let plan = match self.plan(&integration) {
            Plan::User(plan) => *plan,
            Plan::Service(plan) => match plan.user {
                Some(user) if caller.has_only(Right::Own, &integration) || !self.gives_service_tokens(&plan.endpoint).await => *user,
                _ => return Err(no(format!("{location} needs no sign-in: the agent has a token of its own there"), None).into()),
            },
            Plan::Pat => {
                let next = "create a personal access token there, and give it to git when it asks for a password";
                return Err(no(format!("{location} takes personal access tokens only"), Some(next)).into());
            }
            Plan::None { reason } => return Err(no(format!("nobody can sign in to {location}: {reason}"), Some("scm-agent doctor")).into()),
        };
        let app = integration.oauth.as_ref();
        if app.is_some_and(|app| self.secrets.state(&app.encrypted_client_secret) == status::Secret::Undecryptable) {
            let error = format!("no runner key opens the client secret of integration {}", integration.id);
            return Err(no(error, Some("ask the operator of this machine: scm-agent doctor")).into());
        }
        Ok((integration, plan))
    }

    /// Whether an issuer gives tokens for a client secret alone; in doubt it does not.
    async fn gives_service_tokens(&self, endpoint: &EndpointSource) -> bool {
        match endpoint {
            EndpointSource::Fixed(_) => true,
            EndpointSource::Issuer(issuer) => self.tokens.offers_client_credentials(issuer).await.unwrap_or(false),
        }
    }

    /// The one integration that answers git for a URL.
    pub(super) async fn integration_of(&self, url: &str) -> Result<(Arc<ScmIntegration>, Location), Refused> {
        // Read as git's own `url=` is, so that login and git mean the same place.
        let request = CredentialRequest::parse(format!("url={url}\n").as_bytes()).map_err(|_| {
            no("the URL is not one that git could ask for".to_owned(), Some("write it as git does: https://HOST, or https://HOST/PATH"))
        })?;
        let location =
            self.location(&request, request.username.as_deref()).map_err(|error| no(format!("no sign-in there: {error}"), None))?;
        let Some(registry) = self.first_registry().await else { return Err(no(self.no_list_message(), None)) };
        match registry.for_host(&location) {
            Lookup::Match(integration) => Ok((integration, location)),
            Lookup::Ambiguous(several) => Err(match alike(&several) {
                Some(ids) => no(
                    format!("the integrations {} cover the same place, so none answers for {location}", ids.join(" and ")),
                    Some("ask the operator of this machine to remove all but one"),
                ),
                None => no(format!("several integrations serve {location}"), Some("name the repository too: https://HOST/PATH")),
            }),
            Lookup::None => match self.sync.quarantine().for_host(&location) {
                Some(waiting) => {
                    let error = format!("integration {} is held back until somebody trusts it", waiting.id);
                    Err(no(error, Some("ask the operator of this machine: scm-agent trust")))
                }
                None => Err(no(format!("{location} is no host of this agent's"), Some("see which there are: scm-agent status"))),
            },
        }
    }
}

/// Why a sign-in cannot begin.
enum NoSignIn {
    /// By the access rules, which is in the audit log already.
    ByRules(Refused),
    /// For another reason.
    Otherwise(Refused),
}

impl From<Refused> for NoSignIn {
    fn from(refused: Refused) -> Self {
        Self::Otherwise(refused)
    }
}

/// What to say where the browser may not come back to the URI that was asked for; `None` where it may.
fn elsewhere(host: &str, plan: &UserPlan, asked: &Url) -> Option<Login> {
    match &plan.redirect {
        Redirect::AnyPort => None,
        Redirect::Registered(registered) if registered == asked => None,
        Redirect::Registered(registered) => Some(Login::Elsewhere(Elsewhere { redirect_uri: registered.to_string() })),
        Redirect::Unknown => {
            let error = format!("{host} sends browsers back only to the redirect URI that the app registered, and none is configured");
            let with_a_code = if plan.may_take_device_codes() { "sign in with a code: add --device; or " } else { "" };
            let next = format!("{with_a_code}ask the operator of this machine: redirect_uri in the [[provider]] of {host}");
            Some(Login::Refused(no(error, Some(&next))))
        }
    }
}

fn no(error: String, next: Option<&str>) -> Refused {
    Refused { error, next: next.map(str::to_owned) }
}
