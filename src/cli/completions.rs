//! `scm-agent completions`: the script that has a shell complete commands, options and their values.

use clap::{CommandFactory, ValueEnum};

use super::{Cli, Io};
use crate::error::Error;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell that reads it
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// The shells that are tried in tests.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// Runs `completions`.
///
/// # Errors
/// When the output cannot be written.
pub fn run(args: &Args, io: &mut Io<'_>) -> Result<(), Error> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where a write fails, as when the reader has gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Ok(io.stdout.write_all(&script)?)
}
