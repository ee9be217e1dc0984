//! Every other SCM: what its issuer's metadata says, and nothing assumed.

use super::{Facts, FamilyGrant};

/// An SCM id that is not in the table.
pub(super) const ANY: Facts = Facts {
    grant: FamilyGrant::ServiceIfOffered,
    client_authentication: None,
    form_replies: false,
    scopes: &[],
    shared_tenants: &[],
    token_url: None,
    username: "oauth2",
};
