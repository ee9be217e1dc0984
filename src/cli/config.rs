//! `scm-agent config check` and `config show`: what the configuration says, without starting anything.

use std::path::Path;

use clap::Subcommand;

use super::run::{group_id, http_setup, metrics_address};
use super::{Io, agent_user, doctor};
use crate::agent::access::{Access, SystemAccounts};
use crate::api::TokenSource;
use crate::config::{Config, Environment, Finding, TokenOrigin};
use crate::error::Error;
use crate::http;
use crate::key::{self, KeyRing, Problem};

/// Checks the configuration or shows its effective values, offline.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Says whether the configuration is valid, or everything that is wrong with it
    Check,
    /// Prints the effective values as TOML, each with where it came from, and no secret
    Show,
}

/// Runs `config check` or `config show`.
///
/// # Errors
/// [`crate::error::Kind::Config`] with every problem; [`crate::error::Kind::Internal`] when the output cannot be written.
pub fn run(args: Args, explicit: Option<&Path>, environment: &Environment, io: &mut Io<'_>) -> Result<(), Error> {
    let config = Config::load(explicit, environment)?;
    match args.action {
        Action::Check => check(&config, io),
        Action::Show => {
            let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            Ok(write!(io.stdout, "{}", config.to_toml_beside(is_set))?)
        }
    }
}

fn check(config: &Config, io: &mut Io<'_>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut warnings = config.missing_secrets();
    for finding in config.check_named_files() {
        match finding {
            Finding::Error(problem) => errors.push(problem),
            Finding::Warning(problem) => warnings.push(problem),
        }
    }
    if let Some(error) = crate::config::Error::from_problems(errors) {
        return Err(error.into());
    }
    for error in try_out(config) {
        match error {
            Trial::Fails(error) => return Err(error),
            Trial::NotForUs(what) => writeln!(io.stderr, "warning: {what}")?,
        }
    }
    writeln!(io.stdout, "configuration is valid")?;
    for file in &config.files {
        writeln!(io.stdout, "  read {}", file.display())?;
    }
    if config.files.is_empty() {
        writeln!(io.stdout, "  read no file, only the environment")?;
    }
    for warning in &warnings {
        writeln!(io.stderr, "warning: {warning}")?;
    }
    Ok(())
}

/// What came of using a part of the configuration as the daemon would.
enum Trial {
    Fails(Error),
    /// The calling user may not; the daemon's may.
    NotForUs(String),
}

/// Loads the keys. Those of another user are fine where that is the agent's: the owner of its state, or the user of its unit.
fn load_keys(config: &Config) -> Result<KeyRing, key::Error> {
    let load = |owner| KeyRing::load(&key::Config { owner, ..config.key_config(true) });
    let is_foreign = |result: &Result<KeyRing, key::Error>| {
        matches!(
            result,
            Err(key::Error::KeyFile { problem: Problem::ForeignOwner { .. }, .. }
                | key::Error::PassphraseFile { problem: Problem::ForeignOwner { .. }, .. })
        )
    };
    let loaded = load(agent_user::of_state(&config.agent.state_dir));
    match is_foreign(&loaded).then(|| doctor::unit_user(config)).flatten() {
        Some(user) => load(Some(user)),
        None => loaded,
    }
}

/// Loads the keys, the token and the certificates, and looks users and groups up, as the daemon does at its start.
fn try_out(config: &Config) -> Vec<Trial> {
    let mut trials = Vec::new();
    match load_keys(config) {
        Err(key::Error::KeyFile { path, problem: Problem::PermissionDenied }) => {
            trials.push(Trial::NotForUs(format!("{} cannot be read by this user, so it was not looked into", path.display())));
        }
        Err(error) => trials.push(Trial::Fails(error.into())),
        Ok(_) => {}
    }
    for trusted_urls in [true, false] {
        if let Err(error) = http::Client::new(&config.http_config(trusted_urls)) {
            trials.push(Trial::Fails(http_setup(error)));
            break;
        }
    }
    if let Some(group) = &config.agent.socket_group
        && let Err(error) = group_id("agent.socket_group", group)
    {
        trials.push(Trial::Fails(error));
    }
    if let Err(error) = metrics_address(config) {
        trials.push(Trial::Fails(error));
    }
    if let Err(error) = Access::new(config.access_rules(), SystemAccounts) {
        trials.push(Trial::Fails(error.into()));
    }
    if let TokenOrigin::File(path) = &config.control_plane.token {
        // Who may not open it has been told so above.
        if std::fs::File::open(path).is_ok()
            && let Err(error) = TokenSource::file(path.clone()).load()
        {
            trials.push(Trial::Fails(error.into()));
        }
    }
    trials
}
