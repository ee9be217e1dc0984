//! GitLab: gitlab.com and self-managed, also below a relative root.

use std::time::Duration;

use super::{ClientAuthentication, Facts, FamilyGrant, Place, RevocationFacts, Rotation, UserFacts, UserInfoFacts};

/// GitLab. Its metadata offers client_credentials, but the token has no user and git needs one.
pub(super) const GITLAB: Facts = Facts {
    grant: FamilyGrant::User("GitLab's token for a client secret alone has no user and git refuses it; a user signs in"),
    client_authentication: Some(ClientAuthentication::Basic),
    username: "oauth2",
    user: UserFacts {
        authorize: Some(Place::Under("/oauth/authorize")),
        token: Some(Place::Under("/oauth/token")),
        device: Some(Place::Under("/oauth/authorize_device")),
        revocation: Some(RevocationFacts::Standard(Place::Under("/oauth/revoke"))),
        // The git scopes do not open it.
        user_info: Some(UserInfoFacts {
            place: Place::Under("/oauth/userinfo"),
            fields: &["nickname", "preferred_username"],
            needs_scope: Some("openid"),
        }),
        scopes: &["read_repository", "write_repository"],
        rotation: Rotation::AtOnce,
        lifetime: Some(Duration::from_secs(2 * 60 * 60)),
        any_loopback_port: true,
        ..UserFacts::NONE
    },
    ..Facts::NONE
};
