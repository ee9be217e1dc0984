//! The two programs: git, and the one that it starts for us.

use std::path::{Path, PathBuf};

use super::settings::git_itself;
use crate::cli::bounded;
use crate::git::frame::printable;

/// Its file name, as git looks for it when `credential.helper` is `scm-agent`.
pub(crate) const HELPER: &str = "git-credential-scm-agent";

/// git's version as it says it, without its name; nothing where there is no git.
pub(crate) fn version() -> Option<String> {
    let version = bounded::text(&mut git_itself(&["version"]))?;
    Some(printable(version.trim().trim_start_matches("git version ")))
}

/// The first two numbers of a version.
pub(crate) fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}

/// Where git finds it: beside its own programs, else in PATH.
pub(crate) fn find_helper() -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(HELPER)).find(|file| file.is_file() && is_executable(file))
}

/// A file of that name which git passes over, as this user cannot start it.
pub(crate) fn find_unusable_helper() -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(HELPER)).find(|file| file.is_file() && !is_executable(file))
}

fn folders() -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let exec_path = bounded::output(&mut git_itself(&["--exec-path"])).map(|printed| printed.trim_ascii_end().to_vec());
    let exec_path = exec_path.filter(|path| !path.is_empty()).map(|path| PathBuf::from(std::ffi::OsString::from_vec(path)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    exec_path.into_iter().chain(std::env::split_paths(&path)).collect()
}

fn is_executable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, expected) in
            [("2.46.0", Some((2, 46))), ("2.47.3 (Apple Git-1)", Some((2, 47))), ("3.0", Some((3, 0))), ("3", None), ("", None)]
        {
            assert_eq!(numbers(version), expected, "{version}");
        }
    }
}
