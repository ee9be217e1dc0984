//! Every other SCM: what its issuer's metadata says, and nothing assumed.

use super::{Facts, FamilyGrant, UserFacts};

/// An SCM id that is not in the table.
pub(super) const ANY: Facts = Facts {
    grant: FamilyGrant::ServiceIfOffered,
    username: "oauth2",
    user: UserFacts { any_loopback_port: true, ..UserFacts::NONE },
    ..Facts::NONE
};
