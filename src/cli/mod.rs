//! The command line: one file per subcommand, none of which prints but through [`Io`].

mod bounded;
mod key;
mod keygen;
mod seal;
mod unseal;

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{Config, Environment};
use crate::error::Error;

pub mod accounts;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod git;
pub mod grant;
pub mod login;
pub mod logout;
pub mod man;
pub mod oauth_app;
pub mod reload;
pub mod run;
pub mod status;
pub mod style;
pub mod sync;
pub mod trust;

mod advice;
mod agent_user;
mod client;
mod log;
mod settings;
mod target;
mod unreachable;
mod upkeep;

/// The streams that a command reads and writes, so that tests can stand in for them.
pub struct Io<'a> {
    /// Standard input.
    pub stdin: &'a mut dyn std::io::Read,
    /// Standard output.
    pub stdout: &'a mut dyn Write,
    /// Standard error.
    pub stderr: &'a mut dyn Write,
    /// Whether a person reads standard output.
    pub stdout_is_terminal: bool,
}

/// Serves git on a runner host with access tokens made from sealed OAuth app secrets.
#[derive(Debug, Parser)]
#[command(name = "scm-agent", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Configuration file [default: $SCM_AGENT_CONFIG, else /etc/scm-agent/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the accounts that you have signed in with, and your personal access tokens
    Accounts(accounts::Args),
    /// Prints a script that has a shell complete commands, options and their values
    Completions(completions::Args),
    Config(config::Args),
    Key(key::Args),
    Keygen(keygen::Args),
    Seal(seal::Args),
    Unseal(unseal::Args),
    /// Checks everything between the configuration and git, and says what to do
    Doctor(doctor::Args),
    /// Says who would answer git for a URL, and why or why not; nothing is sent, and the exit code is 0 if git would get a credential
    Explain(explain::Args),
    Git(git::Args),
    /// Gives a systemd unit a host for as long as it runs, beyond the access rules; for root and the agent's own user
    Grant(grant::Args),
    /// Signs you in to a host, so that git gets tokens of your own there
    Login(login::Args),
    /// Signs you out of a host, and forgets your personal access tokens there
    Logout(logout::Args),
    /// Writes the manual pages into a folder, where no package has installed them
    Man(man::Args),
    /// Gives other OAuth tooling the app of a host, id and secret, where a rule of the operator's lets you have it
    OauthApp(oauth_app::Args),
    /// Has the daemon read its configuration, keys and token again
    Reload,
    /// Runs the daemon in the foreground
    Run(run::Args),
    /// Shows what the daemon holds and how fresh it is
    Status(status::Args),
    /// Has the daemon fetch the list of integrations now
    Sync,
    /// Shows the integrations that are held back until somebody trusts them, or accepts one
    Trust(trust::Args),
}

/// Runs a parsed command line.
///
/// # Errors
/// [`Error`] with the exit code to end with.
pub fn run(cli: Cli, io: &mut Io<'_>) -> Result<(), Error> {
    let explicit = cli.config.as_deref();
    let environment = Environment::from_process();
    let socket = || client::configuration(explicit, &environment).map(|config| client::socket(config.as_ref()));
    match cli.command {
        Command::Accounts(args) => accounts::run(&args, &socket()?, io),
        Command::Completions(args) => completions::run(&args, io),
        Command::Config(args) => config::run(args, explicit, &environment, io),
        Command::Key(args) => key::run(args, io),
        Command::Keygen(args) => keygen::run(args, io),
        Command::Seal(args) => seal::run(args, io),
        Command::Unseal(args) => unseal::run(args, io),
        Command::Doctor(args) => doctor::run(&args, explicit, &environment, io),
        Command::Explain(args) => explain::run(&args, socket, io),
        Command::Git(args) => git::run(&args, socket, io),
        Command::Grant(args) => grant::run(&args, &socket()?, io),
        Command::Login(args) => login::run(&args, socket, io),
        Command::Logout(args) => logout::run(&args, socket, io),
        Command::Man(args) => man::run(&args, io),
        Command::OauthApp(args) => oauth_app::run(&args, socket, io),
        Command::Reload => reload::run(explicit, &environment, io),
        Command::Run(args) => run::run(&args, explicit, Config::load(explicit, &environment)?, io),
        Command::Status(args) => status::run(&args, &socket()?, io),
        Command::Sync => sync::run(&socket()?, io),
        Command::Trust(args) => trust::run(&args, &socket()?, io),
    }
}
