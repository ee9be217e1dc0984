//! Where a user's sign-in happens: the endpoints of a plan, known beforehand or by the issuer's metadata.

use url::Url;

use super::metadata::Metadata;
use super::{ClientAuthentication, Error, Issuer, RevocationEndpoint, TokenClient, UserEndpointSource, UserIssuer, UserPlan};

/// The scopes that make an OpenID provider give a refresh token (OpenID Connect Core section 11).
const STAY_SIGNED_IN: [&str; 2] = ["openid", "offline_access"];

/// The endpoints of a host where users sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEndpoints {
    /// Where the user's browser is sent; `None` where there is no code flow with PKCE.
    pub authorize: Option<Url>,
    /// How the app shows its secret.
    pub client_authentication: ClientAuthentication,
    /// Where a device asks for a code; `None` where there is no device flow.
    pub device: Option<Url>,
    /// What a callback's `iss` is held against.
    pub issuer: IssuerCheck,
    /// How a grant is revoked; `None` where the host offers nothing of the kind.
    pub revocation: Option<Revocation>,
    /// The scopes to ask for; none sends no `scope`.
    pub scopes: Vec<String>,
    /// Whether the app may show its secret in the form, whichever way is used here.
    pub takes_form_secret: bool,
    /// Where codes and refresh tokens become tokens.
    pub token: Url,
    /// Where the user's name is, if anywhere.
    pub user_info: Option<UserInfo>,
}

/// What the `iss` of a callback has to be (RFC 9207).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerCheck {
    /// This, byte for byte.
    Exactly {
        /// The issuer identifier.
        issuer: Issuer,
        /// Whether the metadata promises that it is always there.
        required: bool,
    },
    /// If it is there, an URL with the scheme, host and port of the authorization endpoint: the host names no issuer beforehand.
    SameOrigin,
}

/// How a grant is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// GitHub's own form: `DELETE {applications}/{client_id}/token`.
    GitHub {
        /// The API's `applications`.
        applications: Url,
    },
    /// RFC 7009.
    Standard(RevocationEndpoint),
}

/// Where a user's name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// The fields of the reply that hold it, the best first.
    pub fields: &'static [&'static str],
    /// Without this scope there is nothing to be had.
    pub needs_scope: Option<&'static str>,
    /// Where to GET.
    pub url: Url,
}

impl TokenClient {
    /// Finds the endpoints of a plan: the known ones, else by the issuer's metadata, which is remembered for an hour.
    ///
    /// # Errors
    /// [`Error`] when the metadata cannot be had or used, or offers no way for users to sign in.
    pub async fn user_endpoints(&self, plan: &UserPlan) -> Result<UserEndpoints, Error> {
        match &plan.endpoints {
            UserEndpointSource::Fixed(endpoints) => Ok((**endpoints).clone()),
            UserEndpointSource::Issuer(found) => {
                let UserIssuer { authorize, device, issuer } = &**found;
                let metadata = self.metadata(issuer).await?;
                let mut endpoints = announced(issuer, metadata, plan)?;
                endpoints.authorize = authorize.clone().or(endpoints.authorize);
                endpoints.device = device.clone().or(endpoints.device);
                if endpoints.authorize.is_none() && endpoints.device.is_none() {
                    return Err(Error::FlowNotOffered { host: issuer.host(), flow: "sign-in" });
                }
                Ok(endpoints)
            }
        }
    }
}

/// The endpoints that the metadata announces.
fn announced(issuer: &Issuer, metadata: Metadata, plan: &UserPlan) -> Result<UserEndpoints, Error> {
    let client_authentication = plan.client_authentication.or(metadata.client_authentication);
    let client_authentication = client_authentication.ok_or_else(|| Error::AuthenticationNotOffered { host: issuer.host() })?;
    let revocation_authentication = plan.client_authentication.or(metadata.revocation_authentication);
    let revocation = metadata
        .revocation_endpoint
        .zip(revocation_authentication)
        .map(|(url, client_authentication)| Revocation::Standard(RevocationEndpoint { client_authentication, url }));
    let stay_signed_in = || match metadata.offers_offline_access {
        true => STAY_SIGNED_IN.map(str::to_owned).to_vec(),
        false => Vec::new(),
    };
    Ok(UserEndpoints {
        authorize: metadata.authorization_endpoint.filter(|_| metadata.may_challenge),
        client_authentication,
        device: metadata.device_authorization_endpoint,
        issuer: IssuerCheck::Exactly { issuer: issuer.clone(), required: metadata.promises_iss },
        revocation,
        scopes: plan.scopes.clone().unwrap_or_else(stay_signed_in),
        takes_form_secret: plan.takes_form_secret.unwrap_or(metadata.takes_form_secret),
        token: metadata.token_endpoint,
        user_info: metadata.userinfo_endpoint.map(|url| UserInfo {
            fields: &["preferred_username", "nickname", "sub"],
            needs_scope: Some("openid"),
            url,
        }),
    })
}
