//! The app itself for other OAuth tooling: the flow of `get` with the secret at its end instead of a token.
//!
//! Only what the current list has is opened, and only for whom a rule of the operator's gives it to. Every answer and every refusal is a
//! line of the audit log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::info;
use url::Url;

use super::{Broker, Caller, Right, TokenKey};
use crate::denial::{Denial, Event};
use crate::integration::ScmIntegration;
use crate::integration::location::Location;
use crate::login::Refused;
use crate::oauth::{self, ClientAuthentication, EndpointSource, IssuerCheck, Plan, Redirect};
use crate::oauth_app::{Answer, OAuthApp};
use crate::status;

/// How often one user may have a secret opened without a pause.
const BURST: u32 = 60;

/// How long one further time takes to be allowed.
const REFILL: Duration = Duration::from_secs(1);

/// What is asked for here, in the audit log.
const OPERATION: &str = "oauth-app";

/// Where a browser may come back to, at hosts that compare no ports.
const ANY_LOOPBACK_PORT: &str = "http://127.0.0.1/";

impl Broker {
    /// Gives the caller the app for a URL with its secret, or says why not, in about `within`.
    pub async fn oauth_app(&self, caller: &Caller, url: &str, within: Duration) -> Answer {
        let (integration, location) = match self.integration_of(url).await {
            Ok(found) => found,
            Err(refused) => {
                let denial = caller.denial(Event::App, "app secret refused");
                caller.denials.note(&Denial { operation: Some(OPERATION), reason: Some(&refused.error), ..denial });
                return Answer::Refused(refused);
            }
        };
        match self.open_app(caller, &integration, &location, within).await {
            Ok(app) => {
                info!(
                    target: "audit", event = "app_secret_given", uid = caller.uid, pid = caller.pid, host = %location, integration = integration.id,
                    client_id = app.client_id, "app secret given"
                );
                Answer::Given(Box::new(app))
            }
            Err(Turned { is_denied, rule, refused }) => {
                let event = if is_denied { Event::AppSecret } else { Event::App };
                caller.denials.note(&Denial {
                    host: Some(&location),
                    integration: Some(&integration.id),
                    operation: Some(OPERATION),
                    reason: Some(&refused.error),
                    rule,
                    ..caller.denial(event, "app secret refused")
                });
                Answer::Refused(refused)
            }
        }
    }

    async fn open_app(
        &self,
        caller: &Caller,
        integration: &Arc<ScmIntegration>,
        location: &Location,
        within: Duration,
    ) -> Result<OAuthApp, Turned> {
        // What the app is, everybody may see in the status. So this is said before anybody is sent to ask for a rule.
        let Some(app) = &integration.oauth else {
            return Err(turned(format!("integration {} has no OAuth app", integration.id), Some("see what it has: scm-agent status")));
        };
        let verdict = caller.rules.verdict(integration);
        if !verdict.rights.has(Right::AppSecret) {
            let error = format!("no access rule of this host gives you the app of {location}");
            // A table that gave this alone would take the rest from the caller.
            let next = format!(
                "ask the operator of this machine for a table [[access]] with users = [\"{}\"], hosts = [\"{}\"] and \
                 allow = [\"service\", \"own\", \"app-secret\"], before others that match you",
                caller.uid, integration.host
            );
            return Err(Turned { is_denied: true, rule: verdict.rule, refused: Refused { error, next: Some(next) } });
        }
        if app.encrypted_client_secret.is_empty() {
            return Err(turned(format!("the app of integration {} has no client secret", integration.id), Some("scm-agent doctor")));
        }
        if let Err(pause) = self.app_secrets.take(caller.uid) {
            let error = format!("asked too often; the next time is in {} s", pause.as_secs() + 1);
            return Err(turned(error, None));
        }
        let undecryptable = || {
            let error = format!("no runner key opens the client secret of integration {}", integration.id);
            turned(error, Some("ask the operator of this machine: scm-agent doctor"))
        };
        // Nobody waits for an issuer where there is nothing to give in the end.
        if self.secrets.state(&app.encrypted_client_secret) == status::Secret::Undecryptable {
            return Err(undecryptable());
        }
        let found = match timeout(within, self.find_endpoints(integration)).await {
            Ok(found) => found,
            Err(_) => Found { problem: Some("the issuer did not answer in time".to_owned()), ..Found::default() },
        };
        // The secret is open from here until the answer is written.
        let client_secret = self.secrets.open(&app.encrypted_client_secret).await.ok_or_else(undecryptable)?;
        if !self.is_current(&TokenKey::of(integration)) {
            return Err(turned(format!("integration {} has just changed", integration.id), Some("try again")));
        }
        Ok(OAuthApp {
            url: place(integration, location),
            integration_id: integration.id.clone(),
            host: integration.host.clone(),
            client_id: app.client_id.clone(),
            client_secret,
            issuer: found.issuer,
            authorization_endpoint: found.authorize.map(String::from),
            token_endpoint: found.token.map(String::from),
            device_authorization_endpoint: found.device.map(String::from),
            device_flow_needs_secret: found.device_needs_secret,
            token_endpoint_auth_methods: found.authentication.into_iter().map(|way| way.name().to_owned()).collect(),
            scopes: found.scopes,
            redirect_uris: found.redirect.into_iter().collect(),
            username: found.username,
            problem: found.problem,
        })
    }

    /// How users sign in with the app, whichever grant serves git here; where nobody can, what is known of the token endpoint.
    async fn find_endpoints(&self, integration: &ScmIntegration) -> Found {
        let plan = self.sign_in_plan(integration);
        let problem = match plan {
            Ok(plan) => match self.tokens.user_endpoints(&plan).await {
                Ok(endpoints) => return Found::of(plan, endpoints),
                Err(error) => error.to_string(),
            },
            Err(reason) => reason,
        };
        let found = Found { problem: Some(problem), ..Found::default() };
        let Plan::Service(plan) = self.plan(integration) else { return found };
        let Ok(endpoint) = self.tokens.endpoint(&plan).await else { return found };
        let issuer = match plan.endpoint {
            EndpointSource::Issuer(issuer) => Some(issuer.as_str().to_owned()),
            EndpointSource::Fixed(_) => None,
        };
        let authentication = vec![endpoint.client_authentication];
        Found { authentication, issuer, scopes: plan.scopes, token: Some(endpoint.url), username: plan.username, ..found }
    }
}

/// A refusal, and whether and by which rule the operator's tables say so.
struct Turned {
    is_denied: bool,
    rule: Option<usize>,
    refused: Refused,
}

fn turned(error: String, next: Option<&str>) -> Turned {
    Turned { is_denied: false, rule: None, refused: Refused { error, next: next.map(str::to_owned) } }
}

/// What a sign-in takes, beside the app.
#[derive(Default)]
struct Found {
    authentication: Vec<ClientAuthentication>,
    authorize: Option<Url>,
    device: Option<Url>,
    device_needs_secret: bool,
    issuer: Option<String>,
    problem: Option<String>,
    redirect: Option<String>,
    scopes: Vec<String>,
    token: Option<Url>,
    username: String,
}

impl Found {
    fn of(plan: oauth::UserPlan, endpoints: oauth::UserEndpoints) -> Self {
        let mut authentication = vec![endpoints.client_authentication];
        if endpoints.takes_form_secret && endpoints.client_authentication != ClientAuthentication::Post {
            authentication.push(ClientAuthentication::Post);
        }
        Self {
            authentication,
            device_needs_secret: endpoints.device.is_some() && plan.device_authenticates,
            authorize: endpoints.authorize,
            device: endpoints.device,
            issuer: match endpoints.issuer {
                IssuerCheck::Exactly { issuer, .. } => Some(issuer.as_str().to_owned()),
                IssuerCheck::SameOrigin => None,
            },
            problem: None,
            redirect: match plan.redirect {
                Redirect::AnyPort => Some(ANY_LOOPBACK_PORT.to_owned()),
                Redirect::Registered(registered) => Some(registered.into()),
                Redirect::Unknown => None,
            },
            scopes: endpoints.scopes,
            token: Some(endpoints.token),
            username: plan.username,
        }
    }
}

/// The place that an integration covers, on the host as it was asked for: scheme, host and port, and the path before which nothing is its
/// own.
fn place(integration: &ScmIntegration, location: &Location) -> String {
    let bare = integration.host.split_once("://").map_or(&*integration.host, |(_, rest)| rest);
    let (authority, path) = bare.split_once('/').unwrap_or((bare, ""));
    let authority = authority.to_ascii_lowercase();
    let root = location.to_string();
    // A host by another name, as for gists: it is the app's as a whole.
    let is_registered = root.ends_with(&format!("://{}", authority.strip_suffix(":443").unwrap_or(&authority)));
    let path = path.trim_matches('/');
    let directory = integration.virtual_directory.trim_matches('/');
    let whole = match (path, directory) {
        (path, "") => path.to_owned(),
        ("", directory) => directory.to_owned(),
        // The host may have been registered with the directory in it.
        (path, directory) if path == directory || path.ends_with(&format!("/{directory}")) => path.to_owned(),
        (path, directory) => format!("{path}/{directory}"),
    };
    match Url::parse(&root) {
        Ok(mut url) if is_registered && !whole.is_empty() => {
            url.set_path(&whole);
            url.into()
        }
        _ => root,
    }
}

/// How often each user had a secret opened: [`BURST`] times at once, then one every [`REFILL`].
#[derive(Default)]
pub(super) struct Allowances(Mutex<HashMap<u32, Allowance>>);

#[derive(Clone, Copy)]
struct Allowance {
    left: u32,
    counted_at: Instant,
}

impl Allowance {
    /// What is left by now.
    fn earned(self, now: Instant) -> Self {
        let times = now.duration_since(self.counted_at).as_secs() / REFILL.as_secs();
        let left = self.left.saturating_add(u32::try_from(times).unwrap_or(BURST)).min(BURST);
        Self { left, counted_at: self.counted_at + REFILL * u32::try_from(times).unwrap_or(BURST) }
    }
}

impl Allowances {
    /// Takes one of a user's; else says how long until there is one.
    fn take(&self, uid: u32) -> Result<(), Duration> {
        let now = Instant::now();
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has all of it need not be remembered.
        users.retain(|_, allowance| {
            *allowance = allowance.earned(now);
            allowance.left < BURST
        });
        let allowance = users.entry(uid).or_insert(Allowance { left: BURST, counted_at: now });
        match allowance.left.checked_sub(1) {
            Some(left) => {
                allowance.left = left;
                Ok(())
            }
            None => Err((allowance.counted_at + REFILL).saturating_duration_since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::ScmId;

    #[test]
    fn the_place_is_the_integration_s_and_no_more() {
        let place = |host: &str, directory: &str, asked: &str| {
            let integration = ScmIntegration {
                id: String::new(),
                scm_id: ScmId::from("custom"),
                host: host.to_owned(),
                runner_id: String::new(),
                virtual_directory: directory.to_owned(),
                pat: false,
                oauth: None,
            };
            let location = Location::from_git(b"https", asked.as_bytes(), None, None, false).unwrap();
            super::place(&integration, &location)
        };
        for (host, directory, asked, expected) in [
            ("scm.example", "", "SCM.example:443", "https://scm.example"),
            ("https://SCM.example:443/", "", "scm.example", "https://scm.example"),
            ("scm.example:8443", "", "scm.example:8443", "https://scm.example:8443"),
            ("scm.example/git lab/", "", "scm.example", "https://scm.example/git%20lab"),
            ("dev.azure.com/Acme", "", "dev.azure.com", "https://dev.azure.com/Acme"),
            ("ado.example", "/tfs/", "ado.example", "https://ado.example/tfs"),
            ("ado.example/tfs", "tfs", "ado.example", "https://ado.example/tfs"),
            ("ado.example/x", "tfs", "ado.example", "https://ado.example/x/tfs"),
            // By another name.
            ("dev.azure.com/acme", "", "acme.visualstudio.com", "https://acme.visualstudio.com"),
            ("github.com", "", "gist.github.com", "https://gist.github.com"),
        ] {
            assert_eq!(place(host, directory, asked), expected, "{host} {directory} {asked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_user_has_so_many_at_once_and_then_one_a_second() {
        let allowances = Allowances::default();
        assert!((0..BURST).all(|_| allowances.take(1).is_ok()));
        assert_eq!(allowances.take(1), Err(REFILL));
        assert_eq!(allowances.take(2), Ok(()));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(allowances.take(1), Err(Duration::from_millis(400)));
        tokio::time::advance(Duration::from_millis(400)).await;
        assert_eq!(allowances.take(1), Ok(()));
        assert!(allowances.take(1).is_err());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(allowances.take(1), Ok(()));
        // Nobody is remembered for ever.
        assert_eq!(allowances.0.lock().unwrap().len(), 1);
        assert!((1..BURST).all(|_| allowances.take(1).is_ok()));
        assert!(allowances.take(1).is_err());
    }
}
