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
    Ok(io.stdout.write_all(script(args.shell).as_bytes())?)
}

fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where a write fails, as when the reader has gone.
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        // clap_complete 4.6 goes to one name and has its branch under another where the program's name has a hyphen in it.
        Shell::Bash => script.replace("scm__subcmd__agent__subcmd__", "scm__agent__subcmd__"),
        Shell::Fish | Shell::Zsh => script,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_bash_every_command_leads_to_a_branch_of_its_own() {
        let script = script(Shell::Bash);
        let mut commands = 0;
        for line in script.lines() {
            let Some(name) = line.trim().strip_prefix("cmd=\"").and_then(|rest| rest.strip_suffix('"')).filter(|name| !name.is_empty())
            else {
                continue;
            };
            let branches = script.lines().filter(|line| line.trim().strip_suffix(')') == Some(name)).count();
            assert_eq!(branches, 1, "{name}");
            commands += 1;
        }
        fn count(command: &clap::Command) -> usize {
            command.get_subcommands().map(|below| 1 + count(below)).sum()
        }
        assert_eq!(commands, 1 + count(&Cli::command()));
    }

    #[test]
    fn the_scripts_of_all_shells_know_commands_and_values() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["scm-agent", "status", "oauth-app", "rsa-3072", "git-config"] {
                assert!(script.contains(word), "{shell:?} does not know {word}");
            }
        }
    }
}
