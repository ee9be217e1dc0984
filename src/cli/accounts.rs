//! `scm-agent accounts`: the grants of the calling user, as a table or as JSON.

use std::path::Path;
use std::time::SystemTime;

use super::status::{columns, span};
use super::{Io, client};
use crate::error::Error;
use crate::login::{self, Account, Accounts};
use crate::status::TokenState;

/// Arguments of `accounts`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `accounts`.
///
/// # Errors
/// When no daemon answers.
pub fn run(args: &Args, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let accounts: Accounts = client::ask(socket, "accounts")?;
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(&accounts).map_err(std::io::Error::from)?;
        json.push('\n');
        json
    } else {
        table(&accounts.accounts, SystemTime::now())
    };
    io.stdout.write_all(text.as_bytes())?;
    Ok(())
}

/// The grant of a personal access token.
const PAT: &str = "pat";

/// The accounts for a person: one line for each, and what is wrong with it below.
fn table(accounts: &[Account], now: SystemTime) -> String {
    if accounts.is_empty() {
        return "you have not signed in anywhere; to do so: scm-agent login https://HOST\n".to_owned();
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut rows = vec![["HOST", "ACCOUNT", "GRANT", "STATE", "SCOPES", "INTEGRATION"].map(str::to_owned)];
    let mut wrong = String::new();
    for account in accounts {
        let state = match (account.state, account.expires_at) {
            (TokenState::Valid, Some(end)) if end > now => format!("valid, renewed within {}", span(end - now)),
            (TokenState::Valid, _) => "valid".to_owned(),
            (TokenState::Failing, _) => "failing".to_owned(),
            (TokenState::NeedsLogin, _) if account.grant == PAT => "not used".to_owned(),
            (TokenState::NeedsLogin, _) => "needs login".to_owned(),
            (TokenState::Refreshing, _) => "refreshing".to_owned(),
        };
        let scopes = if account.scopes.is_empty() { "-".to_owned() } else { account.scopes.join(" ") };
        // Some hosts do not say whose a token is.
        let name = if account.account.is_empty() { "-" } else { &account.account };
        let grant = if account.grant == PAT { "token" } else { "sign-in" };
        rows.push([account.host.clone(), name.to_owned(), grant.to_owned(), state, scopes, account.integration_id.clone()]);
        if let Some(error) = &account.last_error {
            wrong.push_str(&format!("! {} as {name}: {error}\n", account.host));
        }
        if account.state == TokenState::NeedsLogin && account.grant == PAT {
            wrong.push_str(&format!("! git asks for another token; to forget this one: scm-agent logout https://{}\n", account.host));
        } else if account.state == TokenState::NeedsLogin {
            // Under another name it would be another account. A name that cannot be given is the host's own, which comes by itself.
            let again = login::command(&format!("https://{}", account.host), &account.account);
            wrong.push_str(&format!("! sign in again: {again}\n"));
        }
    }
    let mut text = String::new();
    columns(&rows, &mut text);
    if !wrong.is_empty() {
        text.push('\n');
        text.push_str(&wrong);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_account_has_a_line_and_what_is_wrong_stands_below() {
        let account = |name: &str, state, expires_at| Account {
            host: "scm.example.com".to_owned(),
            integration_id: "an-id".to_owned(),
            account: name.to_owned(),
            grant: "user".to_owned(),
            state,
            expires_at,
            scopes: Vec::new(),
            last_error: None,
        };
        let dead = account("bob", TokenState::NeedsLogin, None);
        let accounts = [
            Account { scopes: vec!["read".to_owned(), "write".to_owned()], ..account("alice", TokenState::Valid, Some(4_600)) },
            Account { last_error: Some("invalid_grant".to_owned()), ..dead },
            account("carol", TokenState::Valid, Some(10)),
            account("", TokenState::NeedsLogin, None),
            Account { grant: PAT.to_owned(), ..account("dave", TokenState::Valid, None) },
            Account { grant: PAT.to_owned(), ..account("erin", TokenState::NeedsLogin, None) },
        ];
        let expected = "\
HOST             ACCOUNT  GRANT    STATE                     SCOPES      INTEGRATION
scm.example.com  alice    sign-in  valid, renewed within 1h  read write  an-id
scm.example.com  bob      sign-in  needs login               -           an-id
scm.example.com  carol    sign-in  valid                     -           an-id
scm.example.com  -        sign-in  needs login               -           an-id
scm.example.com  dave     token    valid                     -           an-id
scm.example.com  erin     token    not used                  -           an-id

! scm.example.com as bob: invalid_grant
! sign in again: scm-agent login https://scm.example.com --account bob
! sign in again: scm-agent login https://scm.example.com
! git asks for another token; to forget this one: scm-agent logout https://scm.example.com
";
        assert_eq!(table(&accounts, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)), expected);
        assert!(table(&[], SystemTime::UNIX_EPOCH).contains("scm-agent login"));
    }
}
