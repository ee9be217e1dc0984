//! How git shows a token to a host.

use crate::git::CredentialRequest;

/// The two ways in which git can send a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presentation {
    /// In the `Authorization` header, as Bearer (RFC 6750 section 2.1).
    Bearer,
    /// As a password.
    Password {
        /// The user name that the host wants with the token.
        username: String,
    },
}

impl Presentation {
    /// Bearer where the plan wants it and the git that asks can send it, else the password, which every git can.
    pub(super) fn of(request: &CredentialRequest, bearer: bool, username: String) -> Self {
        if bearer && request.takes_bearer() { Self::Bearer } else { Self::Password { username } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_as_bearer_where_plan_and_git_agree() {
        let password = || Presentation::Password { username: "oauth2".to_owned() };
        for (bearer, lines, expected) in [
            (true, "capability[]=authtype\n", Presentation::Bearer),
            (true, "capability[]=authtype\ncapability[]=authtype\ncapability[]=state\n", Presentation::Bearer),
            (true, "capability[]=authtype\nauthtype=bearer\n", Presentation::Bearer),
            (false, "capability[]=authtype\n", password()),
            (false, "capability[]=authtype\nauthtype=Bearer\n", password()),
            // Before 2.46.
            (true, "", password()),
            (true, "authtype=Bearer\n", password()),
            (true, "capability[]=state\n", password()),
            (true, "capability[]=authtypes\n", password()),
            (true, "capability[]=authtype\ncapability[]=\n", password()),
            // Somebody wants another scheme.
            (true, "capability[]=authtype\nauthtype=Basic\n", password()),
            (true, "capability[]=authtype\nauthtype=Carrier-Pigeon\n", password()),
            (true, "capability[]=authtype\nauthtype=\n", password()),
        ] {
            let request = CredentialRequest::parse(format!("{lines}protocol=https\nhost=a\n").as_bytes()).unwrap();
            assert_eq!(Presentation::of(&request, bearer, "oauth2".to_owned()), expected, "{bearer} {lines:?}");
        }
    }
}
