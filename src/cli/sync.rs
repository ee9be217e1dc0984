//! `scm-agent sync`: has the daemon fetch the list of integrations now.

use std::path::Path;

use super::{Io, client};
use crate::error::{Error, Kind};
use crate::status::Sync;

/// Runs `sync`.
///
/// # Errors
/// When no daemon answers, or the list could not be fetched.
pub fn run(socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let sync: Sync = client::ask(socket, "sync")?;
    if let Some(error) = sync.last_error {
        let kept = if sync.last_success.is_some() { "the last list stays in use; " } else { "there is no list yet; " };
        let error = Error::new(Kind::Upstream, format!("the list could not be fetched from {}: {error}", sync.source))
            .hint(format!("{kept}the daemon goes on trying"));
        return Err(match sync.next {
            Some(next) => error.hint(next),
            None => error,
        });
    }
    writeln!(io.stdout, "the list is current, from {}", sync.source)?;
    Ok(())
}
