//! Which file of git's configuration is meant, found as git finds it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Target;
use crate::cli::bounded;
use crate::error::{Error, Kind};

/// The file of a target, not resolved any further.
///
/// # Errors
/// When git names none.
pub(super) fn file(target: &Target) -> Result<PathBuf, Error> {
    match target {
        Target::File(path) => std::path::absolute(path).map_err(|error| Error::new(Kind::Usage, "--file names no file").because(error)),
        Target::Global => global(|name| std::env::var_os(name)),
        Target::System => system(),
    }
}

/// As `git config --global` chooses: the variable, else `~/.gitconfig`, else the file in `$XDG_CONFIG_HOME` where only that one is there.
fn global(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Error> {
    if let Some(path) = variable("GIT_CONFIG_GLOBAL") {
        if path.is_empty() {
            return Err(no_file("GIT_CONFIG_GLOBAL is set and empty, so git reads no file for this user")
                .hint("unset it, or name a file: --file FILE"));
        }
        return absolute(PathBuf::from(path));
    }
    let home = variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home =
        home.ok_or_else(|| no_file("HOME is not set, so git reads no file for this user").hint("set HOME, or name a file: --file FILE"))?;
    let own = home.join(".gitconfig");
    let xdg = variable("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map_or_else(|| home.join(".config"), PathBuf::from);
    let xdg = xdg.join("git/config");
    absolute(if !readable(&own) && readable(&xdg) { xdg } else { own })
}

fn readable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK).is_ok()
}

/// Where git was built to look, which only git knows.
fn system() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("GIT_CONFIG_SYSTEM").filter(|path| !path.is_empty()) {
        return absolute(PathBuf::from(path));
    }
    let from = |command: &mut Command| {
        let output = bounded::output(command.env_remove("GIT_CONFIG_NOSYSTEM").current_dir("/"))?;
        let line = output.split(|&byte| byte == b'\n').next().unwrap_or_default();
        (!line.is_empty()).then(|| PathBuf::from(OsString::from_vec(line.to_vec()))).filter(|path| path.is_absolute())
    };
    // The variable is known from git 2.42 on. Those before name the file to the editor, which here only repeats it.
    from(Command::new("git").args(["var", "GIT_CONFIG_SYSTEM"]))
        .or_else(|| from(Command::new("git").args(["config", "--system", "--edit"]).env("GIT_EDITOR", "printf '%s\\n'")))
        .ok_or_else(|| no_file("git does not say which file its system configuration is").hint("install git, or name a file: --file FILE"))
}

fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|error| no_file("the working directory is gone").because(error))
}

fn no_file(message: &str) -> Error {
    Error::new(Kind::User, message)
}

/// Whether git was told not to read the system's file.
pub(super) fn system_is_ignored() -> bool {
    std::env::var_os("GIT_CONFIG_NOSYSTEM").is_some_and(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        !matches!(value.as_slice(), b"" | b"0" | b"false" | b"no" | b"off")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_file_is_the_one_that_git_writes_to() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let xdg_folder = path("xdg").into_os_string();
        let chosen = |global_variable: Option<&str>, xdg: bool| {
            global(|name| match name {
                "GIT_CONFIG_GLOBAL" => global_variable.map(OsString::from),
                "HOME" => Some(home.path().as_os_str().to_owned()),
                "XDG_CONFIG_HOME" => xdg.then(|| xdg_folder.clone()),
                _ => None,
            })
        };
        assert_eq!(chosen(None, false).unwrap(), path(".gitconfig"));
        std::fs::create_dir_all(path(".config/git")).unwrap();
        std::fs::write(path(".config/git/config"), "").unwrap();
        assert_eq!(chosen(None, false).unwrap(), path(".config/git/config"));
        assert_eq!(chosen(None, true).unwrap(), path(".gitconfig"));
        std::fs::create_dir_all(path("xdg/git")).unwrap();
        std::fs::write(path("xdg/git/config"), "").unwrap();
        assert_eq!(chosen(None, true).unwrap(), path("xdg/git/config"));
        std::fs::write(path(".gitconfig"), "").unwrap();
        assert_eq!(chosen(None, true).unwrap(), path(".gitconfig"));
        assert_eq!(chosen(Some("/some/where"), true).unwrap(), Path::new("/some/where"));
        assert!(chosen(Some(""), true).unwrap_err().report().contains("GIT_CONFIG_GLOBAL"));
        assert!(global(|_| None).unwrap_err().report().contains("HOME"));
    }
}
