//! Commands that are told to whoever is to run them: with `sudo` where only root may, and by systemd only where its units are.

use std::path::Path;

use super::client::DEFAULT_SOCKET;
use crate::login;
use crate::status::Integration;

/// Where the unit of a package or of an operator's own is.
const UNIT_FOLDERS: [&str; 4] = ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// The service's unit.
pub(super) const SERVICE: &str = "scm-agent.service";

/// The socket's unit.
pub(super) const SOCKET: &str = "scm-agent.socket";

/// A command that only root may run, as the caller has to type it.
pub(super) fn as_root(command: &str) -> String {
    as_root_if(rustix::process::geteuid().is_root(), command)
}

fn as_root_if(is_root: bool, command: &str) -> String {
    if is_root { command.to_owned() } else { format!("sudo {command}") }
}

/// Whether systemd runs this machine and has the service's unit.
pub(super) fn has_unit() -> bool {
    is_booted_with_systemd() && UNIT_FOLDERS.iter().any(|folder| Path::new(folder).join(SERVICE).exists())
}

/// sd_booted(3).
pub(super) fn is_booted_with_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// How the daemon of a socket is started.
pub(super) fn start(socket: &Path) -> String {
    match (has_unit(), socket == Path::new(DEFAULT_SOCKET)) {
        (true, true) => as_root(&format!("systemctl start {SOCKET} {SERVICE}")),
        (true, false) => format!("{}, or scm-agent run", as_root("systemctl start scm-agent")),
        (false, _) => "scm-agent run".to_owned(),
    }
}

/// How the daemon is started anew; its process id, where that is known, for one that no unit started.
pub(super) fn restart(pid: Option<u32>) -> String {
    match pid {
        _ if has_unit() => as_root("systemctl restart scm-agent"),
        // What answers at the socket may say any number; these are the machine's own process, and the caller's.
        Some(pid) if pid > 1 => format!("end it (kill {pid}), then: scm-agent run"),
        _ => "end it, then: scm-agent run".to_owned(),
    }
}

/// How a user signs in to an integration's host, with an account or with the only one.
pub(super) fn login(integration: &Integration, account: &str) -> String {
    let host = integration.host.trim_end_matches('/');
    let url = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    login::command(&format!("{url}{}", integration.virtual_directory), account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_not_root_is_told_to_use_sudo() {
        assert_eq!(as_root_if(true, "systemctl start x"), "systemctl start x");
        assert_eq!(as_root_if(false, "systemctl start x"), "sudo systemctl start x");
    }
}
