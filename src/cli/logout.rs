//! `scm-agent logout`: forgets the calling user's grants at a host, and has the host withdraw them where it can.

use std::path::PathBuf;
use std::time::Duration;

use super::{Io, client, target};
use crate::error::{Error, Kind};
use crate::login::LoggedOut;

/// How long the daemon may take: it asks the host to withdraw each grant.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `logout`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The host, or a repository on it: https://HOST[/PATH]
    #[arg(value_name = "URL")]
    url: String,
    /// Sign out of this account only, as `scm-agent accounts` names it
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Print the daemon's answer as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs `logout`. The URL is checked before anything else is looked for.
///
/// # Errors
/// When the URL is none, no daemon answers, or not everything could be removed.
pub fn run(args: &Args, socket: impl FnOnce() -> Result<PathBuf, Error>, io: &mut Io<'_>) -> Result<(), Error> {
    let url = target::url(&args.url)?;
    let mut fields = vec![("url", url.as_str())];
    fields.extend(target::account(args.account.as_deref())?.map(|name| ("account", name)));
    let mut answer: LoggedOut = client::ask_within(TIMEOUT, &socket()?, "logout", &fields)?;
    if answer.removed.is_empty() && answer.error.is_none() {
        let name = args.account.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        answer.error = Some(format!("you are not signed in there{name}"));
        answer.next = Some("see where you are: scm-agent accounts".to_owned());
    }
    if args.json {
        serde_json::to_writer(&mut *io.stdout, &answer).map_err(std::io::Error::from)?;
        writeln!(io.stdout)?;
    } else {
        io.stdout.write_all(told(&answer).as_bytes())?;
    }
    let Some(error) = answer.error else { return Ok(()) };
    let error = Error::new(Kind::User, error);
    Err(match answer.next {
        Some(next) => error.hint(next),
        None => error,
    })
}

/// What is gone, one line for each grant.
fn told(answer: &LoggedOut) -> String {
    let mut text = String::new();
    for removed in &answer.removed {
        let withdrawn = if removed.revoked {
            "the host has withdrawn the grant"
        } else {
            "the host was not told or did not say: see its settings to withdraw the grant there"
        };
        if removed.grant == "pat" {
            let name = if removed.account.is_empty() { "-" } else { &removed.account };
            text.push_str(&format!("forgot your personal access token for {} as {name}; it is still good at the host\n", removed.host));
            continue;
        }
        let account = if removed.account.is_empty() { String::new() } else { format!(" as {}", removed.account) };
        text.push_str(&format!("signed out of {}{account}; {withdrawn}\n", removed.host));
    }
    text
}
