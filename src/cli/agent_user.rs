//! Whose the agent's files have to be, as far as that shows from outside: they belong to the user that the daemon runs as, not to
//! whoever asks.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The user that a process runs as; nothing where `/proc` does not show it to the caller.
pub(super) fn of_process(pid: u32) -> Option<u32> {
    std::fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| metadata.uid())
}

/// The number of a user who is named as a unit names them: by name, by number, or not at all, which is root.
pub(super) fn of_name(name: &str) -> Option<u32> {
    if name.is_empty() {
        return Some(0);
    }
    let by_name = || nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    name.parse().ok().or_else(by_name)
}

/// Who has a state directory, if that is not root: an agent runs as that user.
pub(super) fn of_state(directory: &Path) -> Option<u32> {
    std::fs::symlink_metadata(directory).ok().filter(std::fs::Metadata::is_dir).map(|metadata| metadata.uid()).filter(|uid| *uid != 0)
}

/// How a user is named in a command: by name, else by number.
pub(super) fn named(uid: u32) -> String {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_process_and_by_the_name_that_a_unit_has() {
        assert_eq!(of_process(std::process::id()), Some(rustix::process::geteuid().as_raw()));
        assert_eq!(of_process(u32::MAX), None);
        assert_eq!((of_name(""), of_name("root"), of_name("4200"), of_name("no-such-user-here")), (Some(0), Some(0), Some(4200), None));
        assert_eq!((named(0), named(4_199_999)), ("root".to_owned(), "4199999".to_owned()));
    }
}
