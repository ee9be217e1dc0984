//! Azure DevOps: Services with Entra ID, and Server, which takes personal access tokens only.

use super::{ClientAuthentication, Facts, FamilyGrant, Rotation, UserFacts};

/// Azure DevOps Services. The endpoints come from the tenant's metadata, so that sovereign clouds work.
pub(super) const ENTRA: Facts = Facts {
    any_username: true,
    // The metadata omits grant_types_supported and yet the grant is there.
    grant: FamilyGrant::Service,
    // The organisation stands where the user name goes.
    username_names_nobody: true,
    bearer: true,
    // Secrets hold `~`, which not every decoder of Basic undoes; the body is the documented form.
    client_authentication: Some(ClientAuthentication::Post),
    // The resource id of Azure DevOps with all permissions that the app was given there.
    scopes: &["499b84ac-1321-427f-aa17-267ca6975798/.default"],
    shared_tenants: &["common", "consumers", "organizations"],
    username: "oauth2",
    user: UserFacts {
        scopes: &["499b84ac-1321-427f-aa17-267ca6975798/.default", "offline_access"],
        rotation: Rotation::Never,
        any_loopback_port: true,
        ..UserFacts::NONE
    },
    ..Facts::NONE
};

/// Azure DevOps Server, below a virtual directory or not.
pub(super) const SERVER: Facts = Facts { any_username: true, grant: FamilyGrant::Pat, username: "oauth2", ..Facts::NONE };
