//! How users sign in at a host: the family's facts and the operator's word, as one plan.

use std::time::Duration;

use url::Url;

use super::{Asked, ClientAuthentication, integrations_issuer, operators_issuer};
use crate::http;
use crate::oauth::endpoints::{IssuerCheck, Revocation, UserEndpoints, UserInfo};
use crate::oauth::{Issuer, RevocationEndpoint};

/// How to get a token with a user's sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPlan {
    /// Whether the host takes the token with whatever user name.
    pub any_username: bool,
    /// Whether git, where it can, is to send the token as Bearer.
    pub bearer: bool,
    /// `None` takes what the metadata offers.
    pub client_authentication: Option<ClientAuthentication>,
    /// Whether the app shows its secret in the device flow too.
    pub device_authenticates: bool,
    /// Where the endpoints are, or how to find them.
    pub endpoints: UserEndpointSource,
    /// Whether the endpoints may answer with a form instead of JSON; GitHub's do.
    pub form_replies: bool,
    /// What a token is taken to live whose reply does not say; `None` for one that may live until it is revoked.
    pub lifetime: Option<Duration>,
    /// Why the secret alone is not enough.
    pub reason: &'static str,
    /// Where a browser may come back to.
    pub redirect: Redirect,
    /// What a refresh does to the pair that it replaces.
    pub rotation: Rotation,
    /// The scopes to ask for; `None` takes what the metadata offers for staying signed in.
    pub scopes: Option<Vec<String>>,
    /// Whether the host takes the app's secret in the form too, for tools that put it nowhere else; `None` leaves it to the metadata.
    pub takes_form_secret: Option<bool>,
    /// Error codes of this host that end a sign-in, beside those that do so everywhere.
    pub terminal: &'static [&'static str],
    /// The user name that git sends with the token.
    pub username: String,
    /// Whether clone URLs carry user names that say nothing of whose token is meant.
    pub username_names_nobody: bool,
}

/// Where the endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserEndpointSource {
    /// They are known.
    Fixed(Box<UserEndpoints>),
    /// The issuer's metadata names them, except for those that the operator did.
    Issuer(Box<UserIssuer>),
}

/// An issuer whose metadata names the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIssuer {
    /// The operator's authorization endpoint.
    pub authorize: Option<Url>,
    /// The operator's device authorization endpoint.
    pub device: Option<Url>,
    /// Whose metadata.
    pub issuer: Issuer,
}

/// Where a browser may come back to after a sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// To any port of the loopback interface (RFC 8252 section 7.3).
    AnyPort,
    /// To this URI, which the app registered, and to no other.
    Registered(Url),
    /// To one that the app registered, to the letter; which one that is nobody has said.
    Unknown,
}

/// What a refresh does to the pair of tokens that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The old pair dies at once: a reply that is lost takes the grant with it.
    AtOnce,
    /// The old refresh token works for some minutes more.
    Later,
    /// The old refresh token goes on working.
    Never,
    /// It depends on the server; to be taken as [`Rotation::AtOnce`].
    Unknown,
}

impl UserPlan {
    /// Makes the plan, or says why there is none.
    pub(super) fn new(asked: &Asked<'_>, reason: &'static str) -> Result<Self, String> {
        let facts = &asked.facts.user;
        let own_scopes = asked.operator.and_then(|operator| operator.scopes.clone());
        let known_scopes = || (!facts.scopes.is_empty()).then(|| facts.scopes.iter().map(|scope| (*scope).to_owned()).collect());
        let scopes: Option<Vec<String>> = own_scopes.or_else(known_scopes);
        let endpoints = endpoints(asked, scopes.as_deref().unwrap_or_default())?;
        Ok(Self {
            any_username: asked.any_username(),
            bearer: asked.bearer(),
            client_authentication: asked.client_authentication(),
            device_authenticates: facts.device_authenticates,
            endpoints,
            form_replies: asked.facts.form_replies,
            lifetime: facts.lifetime,
            reason,
            redirect: match asked.operator.and_then(|operator| operator.redirect_uri.clone()) {
                Some(registered) => Redirect::Registered(registered),
                None if facts.any_loopback_port => Redirect::AnyPort,
                None => Redirect::Unknown,
            },
            rotation: facts.rotation,
            scopes,
            takes_form_secret: takes_form_secret(asked),
            terminal: facts.terminal,
            username: asked.username(),
            username_names_nobody: asked.facts.username_names_nobody,
        })
    }

    /// Whether users may be able to sign in with a code on another device; only metadata can say no later.
    #[must_use]
    pub fn may_take_device_codes(&self) -> bool {
        match &self.endpoints {
            UserEndpointSource::Fixed(endpoints) => endpoints.device.is_some(),
            UserEndpointSource::Issuer(_) => true,
        }
    }

    /// Host and port that the secret is for, for display.
    #[must_use]
    pub fn issuer_host(&self) -> String {
        match &self.endpoints {
            UserEndpointSource::Fixed(endpoints) => http::host_and_port(&endpoints.token),
            UserEndpointSource::Issuer(found) => found.issuer.host(),
        }
    }
}

/// The operator's token endpoint, the operator's issuer, the integration's issuer at another host, the family's endpoints: the first
/// of these there is. Each endpoint that the operator names stands instead of the one found.
fn endpoints(asked: &Asked<'_>, scopes: &[String]) -> Result<UserEndpointSource, String> {
    let own = |url: fn(&super::ProviderOverride) -> &Option<Url>| asked.operator.and_then(|operator| url(operator).clone());
    let (token, authorize, device) = (own(|own| &own.token_url), own(|own| &own.authorize_url), own(|own| &own.device_url));
    if token.is_none() {
        let elsewhere = |issuer: &Issuer| asked.facts.user.token.is_none() || issuer.host() != authority(asked.host);
        let issuer = match operators_issuer(asked.operator)? {
            Some(issuer) => Some(issuer),
            None => integrations_issuer(asked.issuer_url)?.filter(elsewhere),
        };
        if let Some(issuer) = issuer {
            if let Some(tenant) = asked.facts.shared_tenant(&issuer) {
                return Err(format!("the issuer URL names the shared tenant {tenant:?}, whose metadata names no issuer of its own"));
            }
            return Ok(UserEndpointSource::Issuer(Box::new(UserIssuer { authorize, device, issuer })));
        }
    }
    let known = asked.facts.user.at(asked.host).ok_or_else(|| "the integration's host is no host name".to_owned())?;
    let Some(found) = token.clone().or_else(|| known.token.clone()) else { return Err(asked.no_issuer()) };
    let (authorize, device) = (authorize.or(known.authorize), device.or(known.device));
    if authorize.is_none() && device.is_none() {
        return Err("neither authorize_url nor device_url says where users sign in".to_owned());
    }
    let client_authentication = asked.client_authentication().unwrap_or(ClientAuthentication::Basic);
    // A token from elsewhere is not revoked here.
    let same_issuer = known.token.is_some_and(|known| known.origin() == found.origin());
    let revocation = known.revocation.filter(|_| same_issuer).map(|revocation| match revocation {
        (url, false) => Revocation::Standard(RevocationEndpoint { client_authentication, url }),
        (url, true) => Revocation::GitHub { applications: url },
    });
    Ok(UserEndpointSource::Fixed(Box::new(UserEndpoints {
        authorize,
        client_authentication,
        device,
        issuer: IssuerCheck::SameOrigin,
        revocation,
        scopes: scopes.to_vec(),
        takes_form_secret: takes_form_secret(asked).unwrap_or(client_authentication == ClientAuthentication::Post),
        token: found,
        user_info: known.user_info.filter(|_| same_issuer),
    })))
}

/// What the operator says, else what is known: whichever way a family documents, it takes the form as well.
fn takes_form_secret(asked: &Asked<'_>) -> Option<bool> {
    let said = asked.operator.and_then(|operator| operator.token_endpoint_auth);
    said.map(|way| way == ClientAuthentication::Post).or(asked.facts.client_authentication.map(|_| true))
}

/// A registered host without its path.
fn authority(host: &str) -> &str {
    host.split('/').next().unwrap_or(host)
}

/// Where something is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// At this URL.
    At(&'static str),
    /// At this path below the host, its port and its path.
    Under(&'static str),
}

/// Where and how tokens are revoked.
#[derive(Clone, Copy)]
pub(super) enum RevocationFacts {
    /// RFC 7009.
    Standard(Place),
    /// GitHub's own form, below the place of its `applications`.
    GitHub(Place),
}

/// Where a user's name is.
#[derive(Clone, Copy)]
pub(super) struct UserInfoFacts {
    pub(super) place: Place,
    /// The fields of the reply that hold it, the best first.
    pub(super) fields: &'static [&'static str],
    /// Without this scope there is nothing to be had.
    pub(super) needs_scope: Option<&'static str>,
}

/// What is known about signing in at a family of hosts. Without a token endpoint the issuer's metadata is to say.
pub(super) struct UserFacts {
    pub(super) authorize: Option<Place>,
    pub(super) token: Option<Place>,
    pub(super) device: Option<Place>,
    pub(super) revocation: Option<RevocationFacts>,
    pub(super) user_info: Option<UserInfoFacts>,
    /// Whether the port of a loopback redirect URI is free, also for an app with a secret.
    pub(super) any_loopback_port: bool,
    pub(super) device_authenticates: bool,
    pub(super) lifetime: Option<Duration>,
    pub(super) rotation: Rotation,
    pub(super) scopes: &'static [&'static str],
    pub(super) terminal: &'static [&'static str],
}

/// The endpoints of a family at one host. Of the revocation it says whether it is GitHub's.
struct Known {
    authorize: Option<Url>,
    token: Option<Url>,
    device: Option<Url>,
    revocation: Option<(Url, bool)>,
    user_info: Option<UserInfo>,
}

impl UserFacts {
    /// Nothing known; each family says what is.
    pub(super) const NONE: Self = Self {
        authorize: None,
        token: None,
        device: None,
        revocation: None,
        user_info: None,
        any_loopback_port: false,
        device_authenticates: true,
        lifetime: None,
        rotation: Rotation::Unknown,
        scopes: &[],
        terminal: &[],
    };

    /// The endpoints at a host; `None` when the host is none.
    fn at(&self, host: &str) -> Option<Known> {
        let base = Url::parse(&format!("https://{host}/")).ok()?;
        let below = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
            url
        };
        let at = |place: Place| match place {
            Place::At(url) => Url::parse(url).ok(),
            Place::Under(path) => Some(below(path)),
        };
        let revocation = self.revocation.and_then(|facts| match facts {
            RevocationFacts::Standard(place) => Some((at(place)?, false)),
            RevocationFacts::GitHub(place) => Some((at(place)?, true)),
        });
        let user_info = self.user_info.and_then(|UserInfoFacts { place, fields, needs_scope }| {
            let url = at(place)?;
            Some(UserInfo { fields, needs_scope, url })
        });
        Some(Known {
            authorize: self.authorize.and_then(at),
            token: self.token.and_then(at),
            device: self.device.and_then(at),
            revocation,
            user_info,
        })
    }
}
