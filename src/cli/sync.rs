//! `scm-agent sync`: has the daemon fetch the list of integrations now.

use super::{Io, client};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::status::Sync;

/// Runs `sync`.
///
/// # Errors
/// When no daemon answers, or the list could not be fetched.
pub fn run(config: &Config, io: &mut Io<'_>) -> Result<(), Error> {
    let sync: Sync = client::ask(&config.agent.socket, "sync")?;
    if let Some(error) = sync.last_error {
        return Err(Error::new(Kind::Upstream, format!("the list could not be fetched from {}: {error}", sync.source))
            .hint("the last list stays in use; the daemon goes on trying"));
    }
    writeln!(io.stdout, "the list is current, from {}", sync.source)?;
    Ok(())
}
