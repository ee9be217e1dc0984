//! Bitbucket: Cloud, and Data Center at every other host.

use std::time::Duration;

use super::{ClientAuthentication, Facts, FamilyGrant, Place, Rotation, UserFacts, UserInfoFacts};

/// The one host of Bitbucket Cloud.
pub(super) const CLOUD_HOST: &str = "bitbucket.org";

/// Bitbucket Cloud. It has no metadata; the scopes are the consumer's, a `scope` parameter is not honoured.
pub(super) const CLOUD: Facts = Facts {
    grant: FamilyGrant::Service,
    // The visitor who copied the URL.
    username_names_nobody: true,
    client_authentication: Some(ClientAuthentication::Basic),
    token_url: Some("https://bitbucket.org/site/oauth2/access_token"),
    username: "x-token-auth",
    user: UserFacts {
        authorize: Some(Place::At("https://bitbucket.org/site/oauth2/authorize")),
        token: Some(Place::At("https://bitbucket.org/site/oauth2/access_token")),
        user_info: Some(UserInfoFacts {
            place: Place::At("https://api.bitbucket.org/2.0/user"),
            fields: &["username", "nickname"],
            needs_scope: None,
        }),
        // The old pair lives about ten minutes more.
        rotation: Rotation::Later,
        lifetime: Some(Duration::from_secs(2 * 60 * 60)),
        ..UserFacts::NONE
    },
    ..Facts::NONE
};

/// Bitbucket Data Center from 7.20 on, also below a context path.
pub(super) const DATA_CENTER: Facts = Facts {
    grant: FamilyGrant::User("Bitbucket Data Center gives no token for a client secret alone; a user signs in"),
    username_names_nobody: true,
    client_authentication: Some(ClientAuthentication::Post),
    // An administrator can turn the token as a password off, but not this.
    bearer: true,
    username: "x-token-auth",
    user: UserFacts {
        authorize: Some(Place::Under("/rest/oauth2/latest/authorize")),
        token: Some(Place::Under("/rest/oauth2/latest/token")),
        scopes: &["REPO_READ", "REPO_WRITE"],
        rotation: Rotation::AtOnce,
        lifetime: Some(Duration::from_secs(60 * 60)),
        ..UserFacts::NONE
    },
    ..Facts::NONE
};
