//! GitHub: github.com, GHE.com and Enterprise Server.

use super::{ClientAuthentication, Facts, FamilyGrant};

/// GitHub.
pub(super) const GITHUB: Facts = Facts {
    grant: FamilyGrant::User("GitHub gives no token for a client secret alone; a user signs in"),
    client_authentication: Some(ClientAuthentication::Post),
    form_replies: true,
    scopes: &[],
    shared_tenants: &[],
    token_url: None,
    username: "x-access-token",
};
