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
    if let Some(error) = failure(&sync) {
        return Err(error);
    }
    match sync.next_attempt_in_seconds {
        Some(seconds) => writeln!(io.stdout, "{} was asked just before, and is asked again in {seconds} s", sync.source)?,
        None => writeln!(io.stdout, "the list is current, from {}", sync.source)?,
    }
    Ok(())
}

/// Why there is no new list: first what to do about it, then what happens by itself.
fn failure(sync: &Sync) -> Option<Error> {
    let reason = sync.last_error.as_ref()?;
    let kept = if sync.last_success.is_some() { "the last list stays in use" } else { "there is no list yet" };
    let error = Error::new(Kind::Upstream, format!("the list could not be fetched from {}: {reason}", sync.source));
    let error = match &sync.next {
        Some(next) => error.hint(next.clone()),
        None => error,
    };
    let goes_on = match sync.next_attempt_in_seconds {
        Some(seconds) => format!("the daemon has not asked again now, and does so in {seconds} s"),
        None => "the daemon goes on trying".to_owned(),
    };
    Some(error.hint(format!("{kept}; {goes_on}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_can_do_comes_before_what_the_daemon_does() {
        let mut sync = Sync {
            source: "plane.example".to_owned(),
            last_success: Some(1),
            last_attempt: Some(2),
            last_error: Some("the token is not valid".to_owned()),
            next: Some("renew it".to_owned()),
            consecutive_failures: 1,
            watching: false,
            stale: false,
            next_attempt_in_seconds: None,
        };
        let expected = "error: the list could not be fetched from plane.example: the token is not valid\nhint: renew it\n\
            hint: the last list stays in use; the daemon goes on trying\n";
        assert_eq!(failure(&sync).unwrap().report(), expected);
        sync.last_error = None;
        assert!(failure(&sync).is_none());
    }
}
