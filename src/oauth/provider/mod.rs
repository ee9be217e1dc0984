//! Which grant a host allows, and with which endpoint, scopes and user name: a table, one file per family of hosts.

mod azure_devops;
mod bitbucket;
mod gitea;
mod github;
mod gitlab;
mod issuer;
mod user;

use std::str::FromStr;

use url::Url;
use user::{Place, RevocationFacts, UserFacts, UserInfoFacts};
pub use user::{Redirect, Rotation, UserEndpointSource, UserIssuer, UserPlan};

use super::metadata::Issuer;
use crate::http;

/// How a client shows its secret at the token endpoint (RFC 6749 section 2.3.1, OpenID Connect Core section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// `client_secret_basic`: in the `Authorization` header.
    Basic,
    /// `client_secret_post`: in the form body.
    Post,
}

impl ClientAuthentication {
    /// Its registered name (OpenID Connect Core section 9), as [`FromStr`] reads it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
        }
    }
}

/// Whose token a host is served with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantKind {
    /// The app's own: client_credentials.
    Service,
    /// A user's, who signs in once.
    User,
}

/// A name that is none of the allowed ones. The name itself is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither \"{}\" nor \"{}\"", .allowed.0, .allowed.1)]
pub struct UnknownName {
    /// What may stand there.
    pub allowed: (&'static str, &'static str),
}

impl FromStr for ClientAuthentication {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "client_secret_basic" => Ok(Self::Basic),
            "client_secret_post" => Ok(Self::Post),
            _ => Err(UnknownName { allowed: ("client_secret_basic", "client_secret_post") }),
        }
    }
}

impl FromStr for GrantKind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "service" => Ok(Self::Service),
            "user" => Ok(Self::User),
            _ => Err(UnknownName { allowed: ("service", "user") }),
        }
    }
}

/// What the operator says about one host: a `[[provider]]` section. Each value given replaces the built-in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderOverride {
    /// The integration's host as registered: a name, perhaps with a port and a path.
    pub host: String,
    /// Where the metadata is, as it was written: issuers are compared byte for byte. Replaces the integration's `issuerUrl`.
    pub issuer: Option<String>,
    /// The token endpoint; no metadata is fetched then.
    pub token_url: Option<Url>,
    /// The scopes to ask for; an empty list sends no `scope`.
    pub scopes: Option<Vec<String>>,
    /// The user name that git sends with the token.
    pub username: Option<String>,
    /// How the app shows its secret.
    pub token_endpoint_auth: Option<ClientAuthentication>,
    /// Whose token serves the host. Without it `authorize_url` and `device_url` mean [`GrantKind::User`], a `token_url` alone
    /// [`GrantKind::Service`].
    pub grant: Option<GrantKind>,
    /// The SCM id whose facts are meant, instead of the integration's. One that is not known is left to its issuer's metadata.
    pub kind: Option<String>,
    /// Where users are sent to sign in.
    pub authorize_url: Option<Url>,
    /// The device authorization endpoint (RFC 8628 section 3.1).
    pub device_url: Option<Url>,
    /// The redirect URI that the app registered.
    pub redirect_uri: Option<Url>,
    /// Whether git, where it can, is to send the token as Bearer.
    pub bearer: Option<bool>,
}

impl ProviderOverride {
    fn grant(&self) -> Option<GrantKind> {
        let user = self.authorize_url.is_some() || self.device_url.is_some();
        let implied = if user { Some(GrantKind::User) } else { self.token_url.as_ref().map(|_| GrantKind::Service) };
        self.grant.or(implied)
    }
}

/// How an integration gets its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It gets none. An integration that allows personal access tokens still takes one.
    None {
        /// Why, for the operator.
        reason: String,
    },
    /// From a personal access token that a user brings.
    Pat,
    /// From the app's secret alone.
    Service(ServicePlan),
    /// From a user's sign-in.
    User(Box<UserPlan>),
}

impl Plan {
    /// The name of the grant as `status` shows it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None { .. } => "none",
            Self::Pat => "pat",
            Self::Service(_) => "service",
            Self::User(_) => "user",
        }
    }
}

/// How to get a token with the app's secret alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    /// Whether the host takes the token with whatever user name.
    pub any_username: bool,
    /// Whether git, where it can, is to send the token as Bearer.
    pub bearer: bool,
    /// `None` takes what the metadata offers, `client_secret_basic` where there is none (RFC 6749 section 2.3.1).
    pub client_authentication: Option<ClientAuthentication>,
    /// Where the token endpoint is, or how to find it.
    pub endpoint: EndpointSource,
    /// Whether the token endpoint may answer with a form instead of JSON; GitHub's does.
    pub form_replies: bool,
    /// Whether the metadata must list `client_credentials`, because nothing else says that the issuer allows it.
    pub must_be_offered: bool,
    /// The scopes to ask for; none sends no `scope`.
    pub scopes: Vec<String>,
    /// How users sign in where the metadata turns out not to list `client_credentials` ([`Error::GrantNotOffered`]).
    ///
    /// [`Error::GrantNotOffered`]: super::Error::GrantNotOffered
    pub user: Option<Box<UserPlan>>,
    /// The user name that git sends with the token.
    pub username: String,
    /// Whether clone URLs carry user names that say nothing of whose token is meant.
    pub username_names_nobody: bool,
}

impl ServicePlan {
    /// Host and port that the secret is for, for display.
    #[must_use]
    pub fn issuer_host(&self) -> String {
        match &self.endpoint {
            EndpointSource::Fixed(url) => http::host_and_port(url),
            EndpointSource::Issuer(issuer) => issuer.host(),
        }
    }
}

/// Where the token endpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// It is known.
    Fixed(Url),
    /// The issuer's metadata names it.
    Issuer(Issuer),
}

/// What is known about a family of hosts.
struct Facts {
    /// Whether the host takes a token with whatever user name.
    any_username: bool,
    /// What an app's secret alone gives there.
    grant: FamilyGrant,
    /// Whether git, where it can, is to send the token as Bearer: where that is the documented form, or the one that always works.
    bearer: bool,
    client_authentication: Option<ClientAuthentication>,
    form_replies: bool,
    /// The scopes of the app's own token.
    scopes: &'static [&'static str],
    /// Issuers whose first path segment is one of these are for everybody: they give no app a token, and their metadata names no
    /// issuer that could be checked.
    shared_tenants: &'static [&'static str],
    /// Where the app's own token is had.
    token_url: Option<&'static str>,
    username: &'static str,
    /// Whether clone URLs carry user names that say nothing of whose token is meant.
    username_names_nobody: bool,
    /// How users sign in.
    user: UserFacts,
}

impl Facts {
    /// Nothing known; each family says what is.
    const NONE: Self = Self {
        any_username: false,
        grant: FamilyGrant::Pat,
        bearer: false,
        client_authentication: None,
        form_replies: false,
        scopes: &[],
        shared_tenants: &[],
        token_url: None,
        username: "",
        username_names_nobody: false,
        user: UserFacts::NONE,
    };

    fn shared_tenant(&self, issuer: &Issuer) -> Option<&'static str> {
        self.shared_tenants.iter().find(|tenant| issuer.first_segment().eq_ignore_ascii_case(tenant)).copied()
    }
}

/// What an app's secret alone gives at a family of hosts.
enum FamilyGrant {
    /// Nothing, nor does a sign-in: personal access tokens only.
    Pat,
    /// A token that git can use.
    Service,
    /// A token that git can use, if the metadata says so.
    ServiceIfOffered,
    /// Nothing that git can use, for the given reason.
    User(&'static str),
}

/// Chooses the grant for an integration: the operator's word first, then the family's facts.
///
/// `host` and the overrides' hosts are compared whole: without scheme, default port and trailing slash, the name in lower case.
#[must_use]
pub fn plan(scm_id: &str, host: &str, issuer_url: Option<&str>, pat: bool, has_oauth: bool, overrides: &[ProviderOverride]) -> Plan {
    let host = normalised(host);
    let asked = Asked::new(scm_id, &host, issuer_url, overrides);
    let operator = asked.operator;
    let wanted = operator.and_then(ProviderOverride::grant);
    if !has_oauth || matches!((wanted, &asked.facts.grant), (None, FamilyGrant::Pat)) {
        return match pat {
            true => Plan::Pat,
            false if has_oauth => none("this SCM takes personal access tokens only, and the integration does not allow them"),
            false => none("the integration has no OAuth app and allows no personal access token"),
        };
    }
    match (wanted, &asked.facts.grant) {
        (Some(GrantKind::User), _) => asked.user("the configuration says that a user signs in"),
        (None, FamilyGrant::User(reason)) => asked.user(reason),
        (Some(GrantKind::Service), _) | (None, _) => asked.service(wanted.is_some()),
    }
}

/// How users sign in with an integration's app, whichever grant the agent itself uses there, or why nobody can. The host is read as by
/// [`plan`].
///
/// # Errors
/// A sentence for the operator.
pub fn sign_in_plan(scm_id: &str, host: &str, issuer_url: Option<&str>, overrides: &[ProviderOverride]) -> Result<UserPlan, String> {
    UserPlan::new(&Asked::new(scm_id, &normalised(host), issuer_url, overrides), "other tooling asks for the app")
}

/// The user name that git sends with a token: the operator's word first, then the family's.
#[must_use]
pub fn username(scm_id: &str, host: &str, overrides: &[ProviderOverride]) -> String {
    Asked::new(scm_id, &normalised(host), None, overrides).username()
}

/// Whether two registered hosts are the same, as [`plan`] compares them.
#[must_use]
pub fn is_same_host(one: &str, other: &str) -> bool {
    normalised(one) == normalised(other)
}

/// What a plan is made from.
struct Asked<'a> {
    facts: &'static Facts,
    host: &'a str,
    issuer_url: Option<&'a str>,
    operator: Option<&'a ProviderOverride>,
    scm_id: &'a str,
}

impl<'a> Asked<'a> {
    /// The operator's word on a host in its one spelling, and the facts of the family that it belongs to by then.
    fn new(scm_id: &'a str, host: &'a str, issuer_url: Option<&'a str>, overrides: &'a [ProviderOverride]) -> Self {
        let operator = overrides.iter().find(|candidate| normalised(&candidate.host) == host);
        let scm_id = operator.and_then(|operator| operator.kind.as_deref()).unwrap_or(scm_id);
        Self { facts: facts(scm_id, host), host, issuer_url, operator, scm_id }
    }

    fn user(&self, reason: &'static str) -> Plan {
        match UserPlan::new(self, reason) {
            Ok(plan) => Plan::User(Box::new(plan)),
            Err(reason) => Plan::None { reason },
        }
    }

    fn service(&self, operator_promises: bool) -> Plan {
        let Self { facts, host, issuer_url, operator, .. } = *self;
        let endpoint = match endpoint_source(host, facts, operator, issuer_url) {
            Err(reason) => return none(reason),
            Ok(Some(endpoint)) => endpoint,
            Ok(None) => return none(self.no_issuer()),
        };
        if let EndpointSource::Issuer(issuer) = &endpoint
            && let Some(tenant) = facts.shared_tenant(issuer)
        {
            return none(format!("the issuer URL names the shared tenant {tenant:?}; an app gets a token from a tenant of its own only"));
        }
        let must_be_offered = !operator_promises && matches!(facts.grant, FamilyGrant::ServiceIfOffered);
        let scopes = operator.and_then(|operator| operator.scopes.clone());
        let user = || UserPlan::new(self, "the issuer gives no token for a client secret alone; a user signs in").ok().map(Box::new);
        Plan::Service(ServicePlan {
            any_username: self.any_username(),
            bearer: self.bearer(),
            client_authentication: self.client_authentication(),
            endpoint,
            form_replies: facts.form_replies,
            must_be_offered,
            scopes: scopes.unwrap_or_else(|| facts.scopes.iter().map(|scope| (*scope).to_owned()).collect()),
            user: if must_be_offered { user() } else { None },
            username: self.username(),
            username_names_nobody: facts.username_names_nobody,
        })
    }

    fn bearer(&self) -> bool {
        self.operator.and_then(|operator| operator.bearer).unwrap_or(self.facts.bearer)
    }

    fn client_authentication(&self) -> Option<ClientAuthentication> {
        self.operator.and_then(|operator| operator.token_endpoint_auth).or(self.facts.client_authentication)
    }

    /// The operator's word on the user name is not to be guessed about.
    fn any_username(&self) -> bool {
        self.facts.any_username && self.operator.is_none_or(|operator| operator.username.is_none())
    }

    fn username(&self) -> String {
        self.operator.and_then(|operator| operator.username.clone()).unwrap_or_else(|| self.facts.username.to_owned())
    }

    fn no_issuer(&self) -> String {
        match self.facts.grant {
            FamilyGrant::ServiceIfOffered => {
                format!("the SCM id {} is not known and the integration has no issuer URL", self.scm_id.escape_debug())
            }
            _ => "the integration has no issuer URL".to_owned(),
        }
    }
}

/// The operator's endpoint, the operator's issuer, the integration's issuer, the family's endpoint: the first of these there is.
fn endpoint_source(
    host: &str,
    facts: &Facts,
    operator: Option<&ProviderOverride>,
    issuer_url: Option<&str>,
) -> Result<Option<EndpointSource>, String> {
    if let Some(url) = operator.and_then(|operator| operator.token_url.clone()) {
        return Ok(Some(EndpointSource::Fixed(url)));
    }
    if let Some(issuer) = operators_issuer(operator)? {
        return Ok(Some(EndpointSource::Issuer(issuer)));
    }
    let fixed = facts.token_url.and_then(|url| Url::parse(url).ok());
    if let Some(issuer) = integrations_issuer(issuer_url)? {
        // `issuerUrl` is for an issuer that is not the SCM host itself; where the host's endpoint is known there is nothing to find.
        if fixed.is_none() || issuer.host() != host {
            return Ok(Some(EndpointSource::Issuer(issuer)));
        }
    }
    Ok(fixed.map(EndpointSource::Fixed))
}

fn operators_issuer(operator: Option<&ProviderOverride>) -> Result<Option<Issuer>, String> {
    let issuer = operator.and_then(|operator| operator.issuer.as_deref()).map(Issuer::parse).transpose();
    issuer.map_err(|error| format!("the configured issuer {error}"))
}

fn integrations_issuer(issuer_url: Option<&str>) -> Result<Option<Issuer>, String> {
    let issuer = issuer_url.filter(|text| !text.is_empty()).map(Issuer::parse).transpose();
    issuer.map_err(|error| format!("the integration's issuer URL {error}"))
}

fn facts(scm_id: &str, host: &str) -> &'static Facts {
    match scm_id {
        "azuredevops_entra" => &azure_devops::ENTRA,
        "azuredevops_server" => &azure_devops::SERVER,
        "bitbucket" if host == bitbucket::CLOUD_HOST => &bitbucket::CLOUD,
        "bitbucket" => &bitbucket::DATA_CENTER,
        "forgejo" | "gitea" => &gitea::GITEA,
        "github" if host == github::CLOUD_HOST => &github::CLOUD,
        "github" if host.ends_with(github::GHE_COM_SUFFIX) => &github::GHE_COM,
        "github" => &github::SERVER,
        "gitlab" => &gitlab::GITLAB,
        _ => &issuer::ANY,
    }
}

fn none(reason: impl Into<String>) -> Plan {
    Plan::None { reason: reason.into() }
}

/// A registered host in one spelling. How the control plane writes it is not promised.
fn normalised(host: &str) -> String {
    let bare = host.trim().trim_end_matches('/');
    let bare = match bare.get(..8) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https://") => &bare[8..],
        _ => bare,
    };
    let (authority, path) = bare.split_once('/').unwrap_or((bare, ""));
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(":443").unwrap_or(&authority);
    if path.is_empty() { authority.to_owned() } else { format!("{authority}/{path}") }
}

#[cfg(test)]
mod tests;
