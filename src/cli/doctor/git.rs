//! git's side of `doctor`: its version, its helpers, and what it would find of ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Check;
use crate::cli::client::DEFAULT_SOCKET;
use crate::status::Status;

/// The helper's file name, as git looks for it when `credential.helper` is `scm-agent`.
const HELPER: &str = "git-credential-scm-agent";

/// Helpers that write what they are given to a disk or a keyring, tokens included.
const STORING_HELPERS: [&str; 4] = ["store", "libsecret", "osxkeychain", "wincred"];

/// The least version that takes the end of a token's life from a helper.
const EXPIRY_SINCE: (u32, u32) = (2, 40);

/// What is said where there is no git.
const NO_GIT: &str = "there is no git in PATH";

/// Looks at the two programs that a credential needs: git and the helper.
pub(super) fn programs() -> Vec<Check> {
    match output(&["version"]) {
        None => vec![Check::fail("git", NO_GIT, "install git")],
        Some(version) => vec![version_check(version.trim()), helper_program()],
    }
}

/// Looks at git as the calling user has it.
pub(super) fn examine(socket: &Path, status: &Status) -> Vec<Check> {
    let mut checks = programs();
    if checks.iter().any(|check| check.detail == NO_GIT) {
        return checks;
    }
    let ours =
        if socket == Path::new(DEFAULT_SOCKET) { "scm-agent".to_owned() } else { format!("scm-agent --socket {}", socket.display()) };
    let hosts = status.integrations.iter().filter(|integration| integration.grant != "none");
    let mut missing = Vec::new();
    let mut storing = Vec::new();
    let mut elsewhere = false;
    for integration in hosts {
        let host = integration.host.split('/').next().unwrap_or_default();
        let helpers = helpers_for(host);
        match helpers.iter().find(|helper| is_ours(helper)) {
            None => missing.push(host.to_owned()),
            Some(ours) => elsewhere |= socket != Path::new(DEFAULT_SOCKET) && !ours.contains("--socket") && !names_socket(),
        }
        storing.extend(helpers.into_iter().filter(|helper| STORING_HELPERS.iter().any(|name| helper.trim() == *name)));
    }
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        checks.push(Check::warn(
            "git",
            format!("for this user, git does not ask scm-agent about {}", missing.join(", ")),
            format!("git config --global --add credential.helper '{ours}'"),
        ));
    } else if !status.integrations.is_empty() {
        checks.push(Check::ok("git", "asks scm-agent about every integration's host"));
    }
    if let Some(helper) = storing.first() {
        checks.push(Check::warn(
            "git",
            format!("the helper \"{helper}\" is configured beside ours and keeps the tokens that git hands it"),
            "take it out of credential.helper for these hosts",
        ));
    }
    if elsewhere {
        checks.push(Check::fail(
            "git",
            format!("the daemon's socket is {}, the helper looks at {DEFAULT_SOCKET}", socket.display()),
            format!("git config --global --replace-all credential.helper '{ours}' scm-agent"),
        ));
    }
    if output(&["config", "--get-regexp", "^http\\..*extraheader$"])
        .is_some_and(|found| found.to_ascii_lowercase().contains("authorization"))
    {
        checks.push(Check::warn(
            "git",
            "http.extraHeader sets an Authorization header, which git sends instead of a credential",
            "git config --show-origin --get-regexp 'http.*extraheader' shows where; unset it",
        ));
    }
    checks
}

fn version_check(text: &str) -> Check {
    let numbers = text.trim_start_matches("git version ");
    let mut parts = numbers.split('.').map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) < EXPIRY_SINCE => Check::warn(
            "git",
            format!("git {numbers} does not know when a token ends"),
            "git 2.40 or later asks again in time; older ones may need to run a command twice",
        ),
        _ => Check::ok("git", format!("git {numbers}")),
    }
}

/// Whether git would find the helper, and whether it is this version's.
fn helper_program() -> Check {
    let exec_path = output(&["--exec-path"]).map(|path| PathBuf::from(path.trim()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = exec_path.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(HELPER)).find(|file| file.is_file());
    let Some(found) = found else {
        return Check::fail("helper", format!("{HELPER} is not in PATH, so git cannot start it"), "install it beside scm-agent");
    };
    let version = Command::new(&found).arg("--version").stdin(Stdio::null()).output();
    let version =
        version.ok().filter(|output| output.status.success()).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let expected = concat!("git-credential-scm-agent ", env!("CARGO_PKG_VERSION"));
    match version {
        Some(version) if version == expected => Check::ok("helper", found.display().to_string()),
        Some(_) => Check::warn("helper", format!("{} is of another version", found.display()), "install both programs from one build"),
        None => Check::fail("helper", format!("{} does not run", found.display()), "install it anew beside scm-agent"),
    }
}

/// The helpers that git would ask about a host, in order.
fn helpers_for(host: &str) -> Vec<String> {
    let url = format!("https://{host}");
    let mut helpers: Vec<String> = Vec::new();
    let general = output(&["config", "--get-all", "credential.helper"]).unwrap_or_default();
    let specific = output(&["config", "--get-urlmatch", "credential.helper", &url]).unwrap_or_default();
    for line in general.lines().chain(specific.lines()) {
        // An empty value forgets the ones before it.
        if line.is_empty() {
            helpers.clear();
        } else if !helpers.iter().any(|known| known == line) {
            helpers.push(line.to_owned());
        }
    }
    helpers
}

fn is_ours(helper: &str) -> bool {
    let program = helper.split_whitespace().next().unwrap_or_default();
    program == "scm-agent" || program.ends_with("/git-credential-scm-agent")
}

fn names_socket() -> bool {
    std::env::var_os("SCM_AGENT__AGENT__SOCKET").is_some_and(|path| !path.is_empty())
}

/// What git prints, if it succeeds. Outside of any repository: a repository's own configuration is its own affair.
fn output(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    #[test]
    fn an_old_git_is_warned_about() {
        assert_eq!(version_check("git version 2.39.5").state, State::Warn);
        assert_eq!(version_check("git version 2.40.0").state, State::Ok);
        assert_eq!(version_check("git version 2.47.3 (Apple Git-1)").state, State::Ok);
        assert_eq!(version_check("git version 3.0").state, State::Ok);
    }

    #[test]
    fn our_helper_is_known_by_its_name_alone() {
        for ours in
            ["scm-agent", "scm-agent --socket /x", "/usr/local/bin/git-credential-scm-agent", "/opt/git-credential-scm-agent --socket /x"]
        {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["", "store", "cache --timeout 1", "not-scm-agent", "/bin/scm-agent-not", "!scm-agent"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
