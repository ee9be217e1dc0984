//! Bitbucket: Cloud, and Data Center at every other host.

use super::{ClientAuthentication, Facts, FamilyGrant};

/// The one host of Bitbucket Cloud.
pub(super) const CLOUD_HOST: &str = "bitbucket.org";

/// Bitbucket Cloud. It has no metadata; the scopes are the consumer's, a `scope` parameter is not honoured.
pub(super) const CLOUD: Facts = Facts {
    grant: FamilyGrant::Service,
    client_authentication: Some(ClientAuthentication::Basic),
    form_replies: false,
    scopes: &[],
    shared_tenants: &[],
    token_url: Some("https://bitbucket.org/site/oauth2/access_token"),
    username: "x-token-auth",
};

/// Bitbucket Data Center.
pub(super) const DATA_CENTER: Facts = Facts {
    grant: FamilyGrant::User("Bitbucket Data Center gives no token for a client secret alone; a user signs in"),
    client_authentication: Some(ClientAuthentication::Post),
    form_replies: false,
    scopes: &[],
    shared_tenants: &[],
    token_url: None,
    username: "x-token-auth",
};
