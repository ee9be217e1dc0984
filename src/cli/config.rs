//! `scm-agent config check` and `config show`: what the configuration says, without starting anything.

use std::path::Path;

use clap::Subcommand;

use crate::config::{Config, Environment, Finding};
use crate::error::Error;

use super::Io;

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
        Action::Show => Ok(write!(io.stdout, "{}", config.to_toml())?),
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
