//! `scm-agent reload`: has the daemon read its configuration, keys and token again, and waits for what comes of it.

use std::path::Path;

use super::{Io, advice, client};
use crate::agent::reload::waiting_line;
use crate::config::{Config, Environment};
use crate::error::{Error, Kind};
use crate::status::Reload;

/// Runs `reload`.
///
/// # Errors
/// When no daemon answers, or it kept the settings of before.
pub fn run(explicit: Option<&Path>, environment: &Environment, io: &mut Io<'_>) -> Result<(), Error> {
    // What is wrong with the configuration the daemon is to know too, as long as it is clear without it where the daemon listens.
    let (socket, broken) = match Config::load(explicit, environment) {
        Ok(config) => (client::socket(Some(&config)), None),
        Err(error) if client::is_named(explicit, environment) => return Err(error.into()),
        Err(error) => (client::socket(None), Some(error)),
    };
    let answer = client::ask(&socket, "reload");
    let Reload { error, next_start } = match (answer, broken) {
        (Ok(answer), _) => answer,
        (Err(_), Some(broken)) => return Err(broken.into()),
        (Err(error), None) => return Err(error),
    };
    if let Some(error) = error {
        // What the daemon shut itself out of is right, and cannot be had without another start.
        let hint = match error.contains("a restart takes it") {
            true => advice::restart(None),
            false => "put it right and check it: scm-agent config check".to_owned(),
        };
        return Err(Error::new(Kind::Config, format!("the settings of before stay in use: {error}")).hint(hint));
    }
    writeln!(io.stdout, "the settings, keys and token are those of now")?;
    if !next_start.is_empty() {
        writeln!(io.stdout, "{}", waiting_line(&next_start))?;
    }
    Ok(())
}
