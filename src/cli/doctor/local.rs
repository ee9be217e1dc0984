//! What the configuration names on this machine: files, keys, the token, groups, and the directory for what outlives the daemon.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::service::{self, Units};
use super::{Check, State};
use crate::agent::access::{Access, SystemAccounts};
use crate::api::{self, FileError, TokenSource};
use crate::cli::advice::{self, as_root};
use crate::cli::agent_user;
use crate::cli::git::chain::shell_word;
use crate::cli::run::group_id;
use crate::cli::unreachable;
use crate::config::{Config, DEFAULT_FILE, Finding, Source, TokenOrigin};
use crate::git::frame::printable;
use crate::key::{self, KeyDescription, KeyRing, Problem};
use crate::status::{Integration, Status};

/// The least room on the disk of the state directory.
const LEAST_BYTES: u64 = 1024 * 1024;

/// Whether the configuration has all that a daemon needs.
pub(super) fn configuration(config: &Config, units: Option<&Units>) -> Check {
    let handed = |name: &str| units.is_some_and(|units| units.credential(name).is_some());
    let has_key = !config.key.files.is_empty() || handed(service::KEY);
    let has_token =
        !matches!(config.control_plane.source, Source::Url(_)) || config.control_plane.token != TokenOrigin::None || handed(service::TOKEN);
    match config.require_secrets() {
        Err(error) if !(has_key && has_token) => {
            // The service may have them as systemd credentials, which only it can see.
            Check::warn("config", error.to_string(), "run doctor where the service's credentials are, or name the files")
        }
        _ => Check::ok("config", format!("nothing unknown, nothing missing; files read: {}", config.files.len())),
    }
}

/// Why there is no configuration to look at, where none was named.
pub(super) fn no_configuration(daemon_runs: bool) -> Check {
    let is_missing = std::fs::File::open(DEFAULT_FILE).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    match (is_missing, daemon_runs) {
        (false, _) => Check::skip("config", "this user cannot read it; root, or the agent's user, can"),
        (true, true) => Check::skip("config", format!("{DEFAULT_FILE} is not there; --config names the one that the daemon has")),
        (true, false) => {
            let next = "start from config.example.toml, or name a file with --config or SCM_AGENT_CONFIG";
            Check::warn("config", format!("{DEFAULT_FILE} is not there"), next)
        }
    }
}

/// Looks at the files that the configuration names.
pub(super) fn named_files(config: &Config, agent: Agent) -> Vec<Check> {
    let euid = rustix::process::geteuid();
    // What is only the agent's to read is closed to this user, as it should be.
    let is_for_us = euid.is_root() || agent.user.is_none_or(|user| user == euid.as_raw());
    let check = |finding| match finding {
        Finding::Error(problem) => {
            Check::fail("files", problem.to_string(), "put the file there or correct the path, then run: scm-agent config check")
        }
        Finding::Warning(problem) => Check::warn("files", problem.to_string(), "run doctor as root, or as the agent's user"),
    };
    let findings = config.check_named_files().into_iter();
    findings.filter(|finding| is_for_us || matches!(finding, Finding::Error(_))).map(check).collect()
}

/// Loads the keys as the daemon does, or the file that systemd hands over to it; those that were loaded, for [`held_keys`].
pub(super) fn keys(config: &Config, units: Option<&Units>, agent: Agent) -> (Check, Vec<KeyDescription>) {
    // Where nobody says who the agent is, it is whoever has its state.
    let user = agent.user.or_else(|| agent_user::of_state(&config.agent.state_dir));
    let mut wanted = key::Config { owner: user, ..config.key_config(false) };
    if wanted.files.is_empty() {
        wanted.files.extend(units.and_then(|units| units.credential(service::KEY)).map(|key| key.path.clone()));
        // Another credential, which only the service has.
        let passphrase = units.and_then(|units| units.credential(service::PASSPHRASE)).map(|passphrase| passphrase.path.clone());
        wanted.passphrase_file = wanted.passphrase_file.or(passphrase);
    }
    if wanted.files.is_empty() {
        return (Check::skip("key", "no key file is configured here"), Vec::new());
    }
    match KeyRing::load(&wanted) {
        Ok(keys) => {
            let keys = keys.descriptions();
            let names: Vec<String> = keys.iter().map(|key| format!("{} {}", key.algorithm, key.fingerprint)).collect();
            (Check::ok("key", names.join(", ")), keys)
        }
        Err(key::Error::KeyFile { problem: Problem::PermissionDenied, path }) => {
            (Check::skip("key", format!("{} is not for this user to read, as it should be", path.display())), Vec::new())
        }
        Err(
            error @ (key::Error::KeyFile { problem: Problem::ForeignOwner { .. }, .. }
            | key::Error::PassphraseFile { problem: Problem::ForeignOwner { .. }, .. }),
        ) => (foreign_key(&error, user), Vec::new()),
        Err(error) => (Check::of("key", &error.into()), Vec::new()),
    }
}

/// A key file that is neither root's nor the agent's. Where the agent's user is not known, it may be that one's after all.
fn foreign_key(error: &key::Error, user: Option<u32>) -> Check {
    let (key::Error::KeyFile { path, problem: Problem::ForeignOwner { owner } }
    | key::Error::PassphraseFile { path, problem: Problem::ForeignOwner { owner } }) = error
    else {
        return Check::fail("key", error.to_string(), "see key.files");
    };
    let shown = printable(&path.display().to_string());
    match user {
        Some(user) => {
            let detail = format!("{shown} belongs to uid {owner}, and the agent runs as uid {user}, so it does not take it");
            let next = as_root(&format!("chown {} {}", shell_word(&agent_user::named(user)), shell_word(&shown)));
            Check::fail("key", detail, next)
        }
        None => {
            let detail = format!("{shown} belongs to uid {owner}, and it is not known as whom the agent runs");
            let next = format!(
                "if it runs as that user, all is well; if not, give the file to the user that it runs as: {}",
                as_root(&format!("chown USER {}", shell_word(&shown)))
            );
            Check::warn("key", detail, next)
        }
    }
}

/// Whether the daemon has the keys that are in the files now.
pub(super) fn held_keys(files: &[KeyDescription], status: &Status) -> Option<Check> {
    let held = |key: &KeyDescription| status.key.iter().any(|held| held.fingerprint == key.fingerprint);
    let missing = files.iter().find(|key| !held(key))?;
    let detail = format!("the daemon does not have the key {} {}, which is in the files now", missing.algorithm, missing.fingerprint);
    Some(Check::warn(
        "key",
        detail,
        format!("{}, if that says nothing: {}", as_root("scm-agent reload"), advice::restart(Some(status.pid))),
    ))
}

/// Reads the control plane's token as the daemon does. It is wiped right after. What is to be done leaves the file to the agent's user.
pub(super) fn token(config: &Config, agent: Agent) -> Option<Check> {
    let (Source::Url(_), TokenOrigin::File(path)) = (&config.control_plane.source, &config.control_plane.token) else { return None };
    Some(match TokenSource::file(path.clone()).load() {
        Ok(_) => Check::ok("token", "the control plane's token can be read"),
        Err(api::Error::Token { source: FileError::Unreadable(error), .. }) if error.kind() == ErrorKind::PermissionDenied => {
            Check::skip("token", format!("{} is not for this user to read, as it should be", path.display()))
        }
        Err(api::Error::Token { source, .. }) => {
            let shown = shell_word(&printable(&path.display().to_string()));
            let owner = agent.user.filter(|uid| *uid != 0).map(|uid| shell_word(&agent_user::named(uid)));
            let of_owner = owner.as_ref().map_or_else(String::new, |owner| format!("-o {owner} "));
            let install = as_root(&format!("install -m 600 {of_owner}/dev/stdin {shown}"));
            let next = match &source {
                FileError::Permissions { .. } => {
                    let close = as_root(&format!("chmod g-wx,o= {shown}"));
                    let close = match &owner {
                        Some(owner) => format!("{} && {close}", as_root(&format!("chown {owner} {shown}"))),
                        None => close,
                    };
                    format!("{close}; and think about replacing the token if others could read it")
                }
                FileError::Empty | FileError::NotAToken | FileError::TooLarge { .. } => {
                    format!("write the runner's token to it, alone and on one line: {install}")
                }
                FileError::NotRegular => "name the file with the token in control_plane.token_file".to_owned(),
                FileError::Unreadable(_) => {
                    format!("put the runner's token there ({install}), or correct control_plane.token_file")
                }
            };
            let cause = std::error::Error::source(&source).map(|cause| format!(": {cause}")).unwrap_or_default();
            Check::fail("token", format!("{}: {source}{cause}", path.display()), next)
        }
        Err(error) => Check::of("token", &error.into()),
    })
}

/// Looks up the users and groups that the configuration names.
pub(super) fn accounts(config: &Config) -> Vec<Check> {
    let rules = Access::new(config.access_rules(), SystemAccounts).err().map(|error| Check::of("access", &error.into()));
    let group = config
        .agent
        .socket_group
        .as_deref()
        .and_then(|group| group_id("agent.socket_group", group).err())
        .map(|error| Check::of("access", &error));
    rules.into_iter().chain(group).collect()
}

/// Tables for hosts that nobody has. One for an issuer is for an issuer.
pub(super) fn providers(config: &Config, status: &Status) -> Vec<Check> {
    if status.integrations.is_empty() {
        return Vec::new();
    }
    let known = |name: &str| {
        let is = |integration: &Integration| {
            let issuer = integration.issuer.as_deref().and_then(|issuer| issuer.split_once("://")).map(|(_, rest)| rest);
            [Some(integration.host.as_str()), issuer].into_iter().flatten().any(|other| host_of(other).eq_ignore_ascii_case(host_of(name)))
        };
        status.integrations.iter().any(is)
    };
    let check = |host: &str| {
        let detail = format!("the [[provider]] table of {} is for a host that no integration has", printable(host));
        Check::warn("config", detail, "compare its host with the hosts in scm-agent status, or take the table out")
    };
    config.providers.iter().map(|provider| provider.host.as_str()).filter(|host| !known(host)).map(check).collect()
}

fn host_of(text: &str) -> &str {
    text.split('/').next().unwrap_or_default()
}

/// What is known of the agent whose files are looked at.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Agent {
    /// Whether it answers.
    pub(super) runs: bool,
    /// The user it runs as, or would by its unit.
    pub(super) user: Option<u32>,
    /// Whether systemd has a unit of it.
    pub(super) has_unit: bool,
}

/// Looks at the directory for what outlives the daemon. One that a running daemon made may have been opened to others since.
pub(super) fn state_directory(path: &Path, socket: &Path, agent: Agent) -> Option<Check> {
    let mut seen = look(path);
    // The daemon of this very socket is to hold the lock; why it does not answer is told of the socket.
    seen.holder = seen.holder.filter(|pid| !agent.runs && unreachable::listener(socket) != Some(*pid));
    let found = judge(path, &seen, rustix::process::geteuid().as_raw(), agent);
    match found {
        Some(found) if found.state == State::Fail => Some(found),
        found => room(path).or(found),
    }
}

/// What is seen of the state directory.
#[derive(Debug, Default, Clone)]
struct Seen {
    parent_is_there: bool,
    /// Why it cannot be looked at.
    error: Option<ErrorKind>,
    is_link: bool,
    is_directory: bool,
    mode: u32,
    owner: u32,
    read_only: bool,
    /// The process that has its lock.
    holder: Option<i32>,
}

fn look(path: &Path) -> Seen {
    let parent_is_there = path.parent().is_none_or(Path::is_dir);
    match std::fs::symlink_metadata(path) {
        Err(error) => Seen { parent_is_there, error: Some(error.kind()), ..Seen::default() },
        Ok(metadata) => Seen {
            parent_is_there,
            error: None,
            is_link: metadata.is_symlink(),
            is_directory: metadata.is_dir(),
            mode: metadata.mode() & 0o7777,
            owner: metadata.uid(),
            read_only: rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)),
            holder: unreachable::holder(&path.join("lock")),
        },
    }
}

fn judge(path: &Path, seen: &Seen, euid: u32, agent: Agent) -> Option<Check> {
    const NAME: &str = "state";
    let shown = printable(&path.display().to_string());
    let word = shell_word(&shown);
    let fail = |detail: String, next: String| Some(Check::fail(NAME, detail, next));
    let make = || match agent.has_unit {
        true => format!("{}; in the unit: StateDirectory=scm-agent", as_root(&format!("install -d -o scm-agent -m 700 {word}"))),
        false => format!("make it: install -d -m 700 {word}; or change agent.state_dir"),
    };
    match seen.error {
        Some(ErrorKind::NotFound) if seen.parent_is_there => return None,
        Some(ErrorKind::NotFound) => {
            return fail(format!("the state directory {shown} cannot be made: the directory above it is not there"), make());
        }
        Some(ErrorKind::NotADirectory) => {
            return fail(format!("the state directory {shown} is below a file"), "change agent.state_dir".to_owned());
        }
        Some(_) => return Some(Check::skip(NAME, format!("{shown} is not for this user to look at"))),
        None => {}
    }
    if seen.is_link {
        return fail(
            format!("the state directory {shown} is a link, which is not followed"),
            "name what it leads to in agent.state_dir".to_owned(),
        );
    }
    if !seen.is_directory {
        return fail(format!("the state directory {shown} is a file"), "move it away, or change agent.state_dir".to_owned());
    }
    if seen.mode & 0o022 != 0 {
        let next = format!("after a look at who may have written to it: {}", as_root(&format!("chmod go-w {word}")));
        return fail(format!("others may write to the state directory {shown} (mode {:04o}), so it is not written to", seen.mode), next);
    }
    if seen.read_only {
        let next = as_root(&format!("mount -o remount,rw \"$(findmnt -no TARGET -T {word})\""));
        return fail(format!("the file system of the state directory {shown} is mounted read-only"), next);
    }
    if let Some(pid) = seen.holder {
        let next = format!("see what it is: ps -p {pid}; end it, or give this agent another agent.state_dir");
        return fail(format!("another process (pid {pid}) has the state directory {shown}, so no agent starts with it"), next);
    }
    owner(&shown, seen.owner, euid, agent)
}

/// Whether the directory belongs to whom the agent runs as. Only where that is known is anybody told to give it away: the caller may
/// be any user, and the daemon that has it would lose it.
fn owner(shown: &str, owner: u32, euid: u32, agent: Agent) -> Option<Check> {
    const NAME: &str = "state";
    // Root's will do for every agent that gets into it.
    if owner == 0 {
        return None;
    }
    if euid != 0 && euid != owner {
        let detail = format!("the state directory {shown} belongs to uid {owner}; doctor as that user, or as root, looks at it");
        return Some(Check::skip(NAME, detail));
    }
    match agent.user {
        Some(user) if user == owner => None,
        Some(user) => {
            let detail =
                format!("the state directory {shown} belongs to uid {owner}, and the agent runs as uid {user}, so it does not write to it");
            let next = as_root(&format!("chown -R {} {}", shell_word(&agent_user::named(user)), shell_word(shown)));
            Some(Check::fail(NAME, detail, next))
        }
        None if owner == euid => None,
        None => {
            let detail = format!("the state directory {shown} belongs to uid {owner}: only an agent that runs as that user writes to it");
            Some(Check::skip(NAME, detail))
        }
    }
}

/// Whether there is room for what is to be kept.
fn room(path: &Path) -> Option<Check> {
    let there: PathBuf = path.ancestors().find(|path| path.exists())?.to_path_buf();
    let found = rustix::fs::statvfs(&there).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // Some file systems count no inodes.
    let full = free < LEAST_BYTES || (found.f_files > 0 && found.f_favail == 0);
    full.then(|| {
        let shown = printable(&there.display().to_string());
        let next = format!("make room: df -h {0}; df -i {0}", shell_word(&shown));
        Check::fail("state", format!("the file system of {shown} is full, so nothing can be kept there"), next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_judged_by_what_a_daemon_would_refuse() {
        let sound = Seen { parent_is_there: true, is_directory: true, mode: 0o700, owner: 1000, ..Seen::default() };
        let judged = |seen: &Seen| judge(Path::new("/var/lib/x"), seen, 1000, Agent::default());
        assert_eq!(judged(&sound), None);
        assert_eq!(judged(&Seen { owner: 0, ..sound.clone() }), None);
        assert_eq!(judged(&Seen { error: Some(ErrorKind::NotFound), ..sound.clone() }), None);
        for (seen, detail, next) in [
            (Seen { error: Some(ErrorKind::NotFound), parent_is_there: false, ..sound.clone() }, "cannot be made", "install -d"),
            (Seen { error: Some(ErrorKind::NotADirectory), ..sound.clone() }, "below a file", "agent.state_dir"),
            (Seen { is_link: true, ..sound.clone() }, "is a link", "agent.state_dir"),
            (Seen { is_directory: false, ..sound.clone() }, "is a file", "move it away"),
            (Seen { mode: 0o770, ..sound.clone() }, "(mode 0770)", "chmod go-w /var/lib/x"),
            (Seen { read_only: true, ..sound.clone() }, "read-only", "remount,rw"),
            (Seen { holder: Some(9), ..sound.clone() }, "pid 9", "ps -p 9"),
        ] {
            let check = judged(&seen).unwrap();
            assert!(check.state == State::Fail && check.detail.contains(detail), "{check:?}");
            assert!(check.next.as_deref().unwrap().contains(next), "{check:?}");
        }
        assert_eq!(judged(&Seen { error: Some(ErrorKind::PermissionDenied), ..sound }).unwrap().state, State::Skip);
    }

    #[test]
    fn a_state_directory_is_given_to_nobody_but_the_user_that_the_agent_is_known_to_run_as() {
        let judged = |uid, euid, user| owner("/x", uid, euid, Agent { user, ..Agent::default() });
        for (uid, euid, user) in [(0, 7, None), (7, 7, None), (7, 7, Some(7)), (7, 0, Some(7)), (0, 0, Some(7))] {
            assert_eq!(judged(uid, euid, user), None, "{uid} {euid} {user:?}");
        }
        for user in [None, Some(7), Some(8)] {
            let check = judged(7, 1000, user).unwrap();
            assert!(check.state == State::Skip && check.detail.contains("belongs to uid 7; doctor as that user, or as root"), "{check:?}");
        }
        assert_eq!(judged(7, 0, None).unwrap().state, State::Skip);
        let check = judged(7, 0, Some(4_199_999)).unwrap();
        assert!(check.state == State::Fail && check.next.as_deref().unwrap().contains("chown -R 4199999 /x"), "{check:?}");
    }
}
