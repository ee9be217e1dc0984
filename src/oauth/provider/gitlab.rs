//! GitLab: gitlab.com and self-managed.

use super::{ClientAuthentication, Facts, FamilyGrant};

/// GitLab. Its metadata offers client_credentials, but the token has no user and git needs one.
pub(super) const GITLAB: Facts = Facts {
    grant: FamilyGrant::User("GitLab's token for a client secret alone has no user and git refuses it; a user signs in"),
    client_authentication: Some(ClientAuthentication::Basic),
    form_replies: false,
    scopes: &[],
    shared_tenants: &[],
    token_url: None,
    username: "oauth2",
};
