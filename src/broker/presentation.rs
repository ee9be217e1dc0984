//! How git shows a token to a host.

use crate::git::CredentialRequest;

/// The two ways in which git can send a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presentation {
    /// In the `Authorization` header, as Bearer (RFC 6750 section 2.1).
    Bearer,
    /// As a password.
    Password {
        /// The user name that the host wants with the token; `None` where the one that git has will do.
        username: Option<String>,
    },
}

impl Presentation {
    /// Bearer where the plan wants it and the git that asks can send it, else the password, which every git can.
    ///
    /// git takes over whatever name it is answered, so it is answered one only where it has none, or where the host wants that very
    /// one: with another, git would ask for another place next time (`https://ORG@dev.azure.com/…`).
    pub(super) fn of(request: &CredentialRequest, bearer: bool, username: &str, any_username: bool) -> Self {
        if bearer && request.takes_bearer() {
            return Self::Bearer;
        }
        // A colon would end the name and begin the password (RFC 7617 section 2).
        let has_one = request.username.as_deref().is_some_and(|name| !name.is_empty() && !name.contains(':'));
        Self::Password { username: (!any_username || !has_one).then(|| username.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_as_bearer_where_plan_and_git_agree() {
        let password = || Presentation::Password { username: Some("oauth2".to_owned()) };
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
            assert_eq!(Presentation::of(&request, bearer, "oauth2", false), expected, "{bearer} {lines:?}");
        }
    }

    #[test]
    fn git_keeps_the_user_name_that_it_has_unless_the_host_wants_another() {
        for (line, any_username, answered) in [
            ("", true, true),
            ("", false, true),
            ("username=acme\n", true, false),
            ("username=acme\n", false, true),
            // No name, and one that would cut the token in two.
            ("username=\n", true, true),
            ("username=a:b\n", true, true),
        ] {
            let request = CredentialRequest::parse(format!("{line}protocol=https\nhost=a\n").as_bytes()).unwrap();
            let username = answered.then(|| "oauth2".to_owned());
            let expected = Presentation::Password { username };
            assert_eq!(Presentation::of(&request, false, "oauth2", any_username), expected, "{line:?} {any_username}");
        }
    }
}
