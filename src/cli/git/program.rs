//! The program that git starts for us.

use std::path::PathBuf;

use super::settings::git_itself;

/// Its file name, as git looks for it when `credential.helper` is `scm-agent`.
pub(crate) const HELPER: &str = "git-credential-scm-agent";

/// Where git finds it: beside its own programs, else in PATH.
pub(crate) fn find_helper() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let exec_path = git_itself(&["--exec-path"]).output().ok().map(|output| output.stdout.trim_ascii_end().to_vec());
    let exec_path = exec_path.filter(|path| !path.is_empty()).map(|path| PathBuf::from(std::ffi::OsString::from_vec(path)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    exec_path.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(HELPER)).find(|file| file.is_file())
}
