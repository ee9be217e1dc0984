//! Gitea and Forgejo, Codeberg among them.

use std::time::Duration;

use super::{ClientAuthentication, Facts, FamilyGrant, Place, Rotation, UserFacts, UserInfoFacts};

/// Gitea and Forgejo.
pub(super) const GITEA: Facts = Facts {
    any_username: true,
    grant: FamilyGrant::User("Gitea and Forgejo give no token for a client secret alone; a user signs in"),
    // Values in Basic seem to be taken without form-decoding there; the body leaves no doubt.
    client_authentication: Some(ClientAuthentication::Post),
    username: "oauth2",
    user: UserFacts {
        authorize: Some(Place::Under("/login/oauth/authorize")),
        token: Some(Place::Under("/login/oauth/access_token")),
        user_info: Some(UserInfoFacts { place: Place::Under("/login/oauth/userinfo"), fields: &["preferred_username"], needs_scope: None }),
        // Where these are not known the token may do everything, as with any other scopes.
        scopes: &["read:repository", "write:repository"],
        // So it answers a refresh token that was used, has expired or cannot be read.
        terminal: &["unauthorized_client"],
        // INVALIDATE_REFRESH_TOKENS decides.
        rotation: Rotation::Unknown,
        lifetime: Some(Duration::from_secs(60 * 60)),
        ..UserFacts::NONE
    },
    ..Facts::NONE
};
