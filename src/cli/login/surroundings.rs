//! What the command finds around itself: a display, something that opens URLs there, and a terminal.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What decides how a user is asked to sign in.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Whether a person sees a display that programs started here can draw on.
    pub(super) display: bool,
    /// What opens a URL in the user's browser.
    pub(super) opener: Option<PathBuf>,
    /// The terminal on standard output.
    pub(super) terminal: Option<Terminal>,
    /// Whether standard error is a terminal.
    pub(super) stderr_is_terminal: bool,
}

/// A terminal that understands escape sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Characters in a line.
    pub(super) columns: usize,
    /// Whether it shows UTF-8.
    pub(super) utf8: bool,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn from_process(stdout_is_terminal: bool) -> Self {
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        let mut found = Self::from_variables(|name| std::env::var_os(name), stdout_is_terminal.then_some(columns));
        found.stderr_is_terminal &= std::io::stderr().is_terminal();
        found
    }

    /// Those that the environment's variables tell of; `columns` is the width of a terminal on standard output.
    fn from_variables(variable: impl Fn(&str) -> Option<OsString>, columns: Option<usize>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        // setlocale(3): the first of these that is set counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        Self {
            // Over ssh a forwarded display may be there, but the redirect would go to the machine that the browser runs on.
            display: (set("DISPLAY").is_some() || set("WAYLAND_DISPLAY").is_some()) && set("SSH_CONNECTION").is_none(),
            opener: set("PATH").and_then(|path| std::env::split_paths(&path).map(|folder| folder.join(OPENER)).find(|file| runs(file))),
            terminal: columns.filter(|_| !dumb).map(|columns| Terminal { columns, utf8 }),
            stderr_is_terminal: !dumb,
        }
    }

    /// Whether a browser on this machine can be expected to come back to it.
    pub(super) fn has_browser(&self) -> bool {
        self.display && self.opener.is_some()
    }

    /// Opens a URL in the user's browser, as far as one can tell.
    pub(super) fn open(&self, url: &url::Url) -> bool {
        let Some(opener) = self.opener.as_ref().filter(|_| self.display) else {
            return false;
        };
        // Without a shell, and in a process group of its own: the browser outlives our Ctrl-C.
        let mut command = Command::new(opener);
        command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        match command.spawn() {
            Ok(mut child) => {
                // It may run for as long as the browser does.
                std::thread::spawn(move || child.wait());
                true
            }
            Err(_) => false,
        }
    }
}

/// What opens URLs on a desktop, by the freedesktop.org specifications.
const OPENER: &str = "xdg-open";

/// Whether a file can be started by somebody.
fn runs(file: &Path) -> bool {
    file.is_absolute() && file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], columns: Option<usize>) -> Surroundings {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        Surroundings::from_variables(find, columns)
    }

    #[test]
    fn a_browser_is_there_with_a_display_and_an_opener_and_not_over_ssh() {
        let folder = tempfile::tempdir().unwrap();
        let opener = folder.path().join(OPENER);
        std::fs::write(&opener, "").unwrap();
        let path = format!("relative:/nowhere:{}", folder.path().display());
        let path = ("PATH", path.as_str());
        // Not executable yet.
        assert!(!with(&[path, ("DISPLAY", ":0")], None).has_browser());
        std::fs::set_permissions(&opener, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(with(&[path, ("DISPLAY", ":0")], None).has_browser());
        assert!(with(&[path, ("WAYLAND_DISPLAY", "wayland-0")], None).has_browser());
        assert!(!with(&[path, ("DISPLAY", "")], None).has_browser());
        assert!(!with(&[path], None).has_browser());
        assert!(!with(&[("DISPLAY", ":0")], None).has_browser());
        assert!(!with(&[path, ("DISPLAY", "localhost:10.0"), ("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")], None).has_browser());
    }

    #[test]
    fn a_terminal_is_one_that_takes_escapes_and_the_locale_says_whether_utf8() {
        let terminal = |variables: &[(&str, &str)]| with(variables, Some(80)).terminal;
        assert_eq!(terminal(&[("TERM", "xterm"), ("LANG", "de_DE.UTF-8")]), Some(Terminal { columns: 80, utf8: true }));
        assert_eq!(terminal(&[("TERM", "xterm"), ("LANG", "C.utf8"), ("LC_ALL", "C")]), Some(Terminal { columns: 80, utf8: false }));
        assert_eq!(terminal(&[("TERM", "dumb"), ("LANG", "C.utf8")]), None);
        assert_eq!(terminal(&[("LANG", "C.utf8")]), None);
        assert_eq!(with(&[("TERM", "xterm")], None).terminal, None);
    }
}
