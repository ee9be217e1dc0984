//! Azure DevOps: Services with Entra ID, and Server, which takes personal access tokens only.

use super::{ClientAuthentication, Facts, FamilyGrant};

/// Azure DevOps Services. The endpoint comes from the tenant's metadata, so that sovereign clouds work.
pub(super) const ENTRA: Facts = Facts {
    // The metadata omits grant_types_supported and yet the grant is there.
    grant: FamilyGrant::Service,
    // Secrets hold `~`, which not every decoder of Basic undoes; the body is the documented form.
    client_authentication: Some(ClientAuthentication::Post),
    form_replies: false,
    // The resource id of Azure DevOps with all permissions that the app was given there.
    scopes: &["499b84ac-1321-427f-aa17-267ca6975798/.default"],
    shared_tenants: &["common", "consumers", "organizations"],
    token_url: None,
    username: "oauth2",
};

/// Azure DevOps Server.
pub(super) const SERVER: Facts = Facts {
    grant: FamilyGrant::Pat,
    client_authentication: None,
    form_replies: false,
    scopes: &[],
    shared_tenants: &[],
    token_url: None,
    username: "oauth2",
};
