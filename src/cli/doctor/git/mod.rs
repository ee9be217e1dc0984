//! git's side of `doctor`: its version, whom it asks about our hosts, and what of other arrangements is left over.
//!
//! It reads what the calling user's git reads, that of the repository in the current folder included, which may be anybody's. So git is
//! only asked to list it, which starts nothing; and of what it says, no value that could be a secret is repeated.

mod files;
mod helpers;
mod leftovers;
mod remotes;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Check;
use crate::cli::advice::as_root;
use crate::cli::bounded::{self, Outcome};
use crate::cli::git::matching::Query;
use crate::cli::git::program::{self, HELPER, find_helper};
use crate::cli::git::sections::Section;
use crate::cli::git::settings::Entry;
use crate::cli::git::{chain, sections, settings, setup_command};
use crate::config::Config;
use crate::git::frame::printable;
use crate::status::Status;

/// The least version that takes the end of a token's life from a helper.
const EXPIRY_SINCE: (u32, u32) = (2, 40);

/// The least version that asks again when a token turns out to be revoked.
const HEALING_SINCE: (u32, u32) = (2, 46);

/// What is said where there is no git.
const NO_GIT: &str = "there is no git in PATH";

/// Looks at the two programs that a credential needs: git and the helper.
pub(super) fn programs() -> Vec<Check> {
    match program::version() {
        None => vec![Check::fail("git", NO_GIT, "install git")],
        Some(version) => vec![version_check(&version), helper_program()],
    }
}

/// The hosts of the list, as git's configuration is to name them.
struct Hosts {
    sections: Vec<Section>,
    /// The places that are ours alone.
    places: Vec<Query>,
    /// Their hosts, without and with the port.
    names: HashSet<String>,
    with_ports: HashSet<String>,
}

impl Hosts {
    fn new(status: &Status) -> Self {
        let sections = sections::wanted(&status.integrations);
        let places: Vec<Query> = sections.iter().filter(|section| section.only).filter_map(chain::place).collect();
        let names = places.iter().map(|place| place.host_name().to_owned()).collect();
        let with_ports = places.iter().map(|place| place.host_port().to_owned()).collect();
        Self { sections, places, names, with_ports }
    }

    /// Whether a host and its port are ours.
    fn has(&self, host_port: &str) -> bool {
        self.with_ports.contains(host_port)
    }

    /// Whether a host is one of ours, whatever its port.
    fn has_name(&self, name: &str) -> bool {
        self.names.contains(&name.to_ascii_lowercase())
    }
}

/// git's configuration for the calling user, where git understands it.
fn entries() -> Option<Vec<Entry>> {
    settings::read(Path::new(".")).or_else(|| settings::read(Path::new("/")))
}

/// The command that has git ask us, as the calling user has to type it.
pub(super) fn setup() -> String {
    entries().map_or_else(|| setup_command(false), |entries| helpers::setup(&entries))
}

/// Looks at git as the calling user has it.
pub(super) fn examine(socket: &Path, status: &Status, config: Option<&Config>) -> Vec<Check> {
    let mut checks = programs();
    if checks.iter().any(|check| check.detail == NO_GIT) {
        return checks;
    }
    let Some(entries) = entries() else {
        checks.push(Check::fail(
            "git",
            "git does not understand its own configuration",
            "git config --list --show-origin says where it stops",
        ));
        return checks;
    };
    let hosts = Hosts::new(status);
    checks.extend(helpers::examine(socket, status, &hosts, &entries));
    checks.extend(helpers::user_names(socket, status, config, &entries));
    checks.extend(leftovers::headers(&hosts, &entries));
    checks.extend(leftovers::unverified(&hosts, &entries));
    checks.extend(askpass(&entries));
    checks.extend(remotes::examine(&hosts, &entries));
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    checks.extend(home.map(|home| files::examine(&hosts, &home)).unwrap_or_default());
    checks
}

fn version_check(version: &str) -> Check {
    match program::numbers(version) {
        Some(numbers) if numbers < EXPIRY_SINCE => Check::warn(
            "git",
            format!("git {version} does not know when a token ends"),
            "git 2.40 or later asks again in time; older ones may need to run a command twice",
        ),
        Some(numbers) if numbers < HEALING_SINCE => {
            Check::ok("git", format!("git {version}; from 2.46 on it can ask again within a command when a host has revoked a token"))
        }
        _ => Check::ok("git", format!("git {version}")),
    }
}

/// Whether git would find the helper, and whether it is this version's.
fn helper_program() -> Check {
    let Some(found) = find_helper() else {
        if let Some(file) = program::find_unusable_helper() {
            let path = printable(&file.display().to_string());
            let next = as_root(&format!("chmod 755 {}", chain::shell_word(&path)));
            return Check::fail("helper", format!("{path} is not executable for this user, so git cannot start it"), next);
        }
        let next = match installed_helper() {
            Some(folder) => format!("put its folder into PATH: export PATH=\"$PATH:{folder}\""),
            None => "install it beside scm-agent".to_owned(),
        };
        return Check::fail("helper", format!("{HELPER} is not in PATH, so git cannot start it"), next);
    };
    let shown = printable(&found.display().to_string());
    let mut command = Command::new(&found);
    command.arg("--version");
    let expected = concat!("git-credential-scm-agent ", env!("CARGO_PKG_VERSION"));
    match bounded::run(&mut command, bounded::LIMIT) {
        Outcome::Ended(true, version) if version.trim_ascii() == expected.as_bytes() => Check::ok("helper", shown),
        Outcome::Ended(true, _) => {
            let next = "install both programs from one build; which there are: type -a git-credential-scm-agent scm-agent";
            Check::warn("helper", format!("{shown} is of another version"), next)
        }
        Outcome::Ended(false, _) | Outcome::NotStarted => {
            Check::fail("helper", format!("{shown} does not run"), "install it anew beside scm-agent")
        }
        Outcome::TooSlow => Check::fail("helper", format!("{shown} does not end"), "install it anew beside scm-agent"),
    }
}

/// The folder of this program, if the helper is there too: it may merely be missing from PATH.
fn installed_helper() -> Option<String> {
    let folder = std::env::current_exe().ok()?.parent()?.to_path_buf();
    let plain = |path: &Path| path.to_str().filter(|path| !path.contains(['"', '$', '`', '\\', '\n'])).map(str::to_owned);
    folder.join(HELPER).is_file().then(|| plain(&folder)).flatten()
}

/// What git starts when no helper answers: a program that is not there leaves it without a word for the user.
fn askpass(entries: &[settings::Entry]) -> Option<Check> {
    let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let configured = || entries.iter().rev().find(|entry| entry.key == "core.askpass").and_then(|entry| entry.value.clone());
    let (name, program) = match (of("GIT_ASKPASS"), configured(), of("SSH_ASKPASS")) {
        (Some(program), _, _) => ("GIT_ASKPASS", program),
        (_, Some(program), _) => ("core.askPass", program),
        (_, _, Some(program)) => ("SSH_ASKPASS", program),
        _ => return None,
    };
    let is_there = !program.contains('/') || rustix::fs::access(&program, rustix::fs::Access::EXEC_OK).is_ok();
    let next = match name {
        "core.askPass" => "git config --global --unset-all core.askPass".to_owned(),
        variable => format!("unset {variable}"),
    };
    (!is_there).then(|| {
        Check::warn("git", format!("{name} names a program that this user cannot run, which git starts where nobody answers it"), next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    #[test]
    fn an_old_git_is_warned_about() {
        assert_eq!(version_check("2.39.5").state, State::Warn);
        assert_eq!(version_check("2.40.0").state, State::Ok);
        assert_eq!(version_check("2.47.3 (Apple Git-1)").state, State::Ok);
        assert_eq!(version_check("3.0").state, State::Ok);
        let healing = |text| version_check(text).detail.contains("revoked");
        assert!(healing("2.45.9") && !healing("2.46.0"));
    }
}
