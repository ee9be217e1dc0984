//! GitHub: github.com, GHE.com and Enterprise Server.

use super::{ClientAuthentication, Facts, FamilyGrant, Place, RevocationFacts, Rotation, UserFacts, UserInfoFacts};

/// The one host of GitHub itself.
pub(super) const CLOUD_HOST: &str = "github.com";
/// What the hosts of GHE.com end with, each a customer's own.
pub(super) const GHE_COM_SUFFIX: &str = ".ghe.com";

/// github.com. Its metadata is at a place of its own and names what is here.
pub(super) const CLOUD: Facts = Facts {
    any_username: true,
    grant: FamilyGrant::User("GitHub gives no token for a client secret alone; a user signs in"),
    client_authentication: Some(ClientAuthentication::Post),
    form_replies: true,
    username: "x-access-token",
    user: UserFacts {
        revocation: Some(RevocationFacts::GitHub(Place::At("https://api.github.com/applications"))),
        user_info: Some(UserInfoFacts { place: Place::At("https://api.github.com/user"), ..LOGIN }),
        ..USER
    },
    ..Facts::NONE
};

/// GitHub Enterprise Server.
pub(super) const SERVER: Facts = Facts {
    user: UserFacts {
        revocation: Some(RevocationFacts::GitHub(Place::Under("/api/v3/applications"))),
        user_info: Some(UserInfoFacts { place: Place::Under("/api/v3/user"), ..LOGIN }),
        ..USER
    },
    ..CLOUD
};

/// GHE.com. Where its API is has not been confirmed, so nothing is asked there.
pub(super) const GHE_COM: Facts = Facts { user: USER, ..CLOUD };

const LOGIN: UserInfoFacts = UserInfoFacts { place: Place::Under("/user"), fields: &["login"], needs_scope: None };

const USER: UserFacts = UserFacts {
    authorize: Some(Place::Under("/login/oauth/authorize")),
    token: Some(Place::Under("/login/oauth/access_token")),
    device: Some(Place::Under("/login/device/code")),
    // A device's code is enough there; what need not be sent is not.
    device_authenticates: false,
    // Reading and writing private repositories cannot be told apart; `workflow` is for pushing .github/workflows.
    // `offline_access` makes the token one that expires and is refreshed, where the app does not say so; old servers overlook it.
    scopes: &["repo", "workflow", "offline_access"],
    terminal: &["bad_refresh_token"],
    // The previous access token dies with it.
    rotation: Rotation::AtOnce,
    any_loopback_port: true,
    ..UserFacts::NONE
};
