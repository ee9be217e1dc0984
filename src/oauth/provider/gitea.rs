//! Gitea and Forgejo, Codeberg among them.

use super::{ClientAuthentication, Facts, FamilyGrant};

/// Gitea and Forgejo.
pub(super) const GITEA: Facts = Facts {
    grant: FamilyGrant::User("Gitea and Forgejo give no token for a client secret alone; a user signs in"),
    // Values in Basic seem to be taken without form-decoding there; the body leaves no doubt.
    client_authentication: Some(ClientAuthentication::Post),
    form_replies: false,
    scopes: &[],
    shared_tenants: &[],
    token_url: None,
    username: "oauth2",
};
