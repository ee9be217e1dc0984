//! Passwords of our hosts in files of the user's: what `credential-store` keeps, and what curl takes on its own.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Hosts;
use crate::cli::doctor::Check;
use crate::cli::git::chain::shell_word;
use crate::git::frame::printable;

/// The longest file looked into.
const MAX_BYTES: u64 = 1024 * 1024;

/// Looks into the user's files. Of what it finds it names file, host and line.
pub(super) fn examine(hosts: &Hosts, home: &Path) -> Vec<Check> {
    let xdg = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map_or_else(|| home.join(".config"), PathBuf::from);
    let mut checks = Vec::new();
    for path in [home.join(".git-credentials"), xdg.join("git/credentials")] {
        for (line, host) in read(&path).iter().flat_map(|text| stored(text)) {
            if hosts.has(&host) {
                let file = printable(&path.display().to_string());
                let detail = format!("line {line} of {file} has a password for {host} in clear");
                let next = format!("printf 'protocol=https\\nhost={host}\\n' | git credential-store --file {} erase", shell_word(&file));
                checks.push(Check::warn("git", detail, next));
            }
        }
    }
    for path in [home.join(".netrc"), home.join("_netrc")] {
        for (line, host) in read(&path).iter().flat_map(|text| machines(text)) {
            if host.as_deref().is_none_or(|host| hosts.has_name(host)) {
                let file = printable(&path.display().to_string());
                let whom = host.unwrap_or_else(|| "every host".to_owned());
                let detail = format!("line {line} of {file} has a password for {whom}, which git sends before it asks a helper");
                checks.push(Check::warn("git", detail, format!("take the entry out: ${{EDITOR:-vi}} +{line} {}", shell_word(&file))));
            }
        }
    }
    checks
}

/// A file's text; nothing where there is no file that this user can read.
fn read(path: &Path) -> Option<String> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).ok()?;
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Line and `host[:port]` of each entry that `git credential-store` would read.
fn stored(text: &str) -> Vec<(usize, String)> {
    let entry = |(index, line): (usize, &str)| {
        let (_, rest) = line.trim_end().split_once("://")?;
        let (_, host) = rest.split('/').next()?.rsplit_once('@')?;
        let host = host.replace("%3a", ":").replace("%3A", ":").replace("%5B", "[").replace("%5D", "]").to_ascii_lowercase();
        crate::integration::host::parse(host.as_bytes()).is_ok().then_some((index + 1, host))
    };
    text.lines().enumerate().filter_map(entry).collect()
}

/// Line and host of each entry in a `.netrc`; no host for `default`.
fn machines(text: &str) -> Vec<(usize, Option<String>)> {
    let mut machines = Vec::new();
    let mut wants_host = false;
    let mut in_macro = false;
    for (index, line) in text.lines().enumerate() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut after_key = false;
        for word in line.split_whitespace() {
            if word.starts_with('#') && !after_key {
                break;
            }
            match word {
                _ if wants_host => {
                    machines.push((index + 1, Some(printable(word))));
                    wants_host = false;
                }
                // The value of a key may look like a key.
                _ if after_key => after_key = false,
                "machine" => wants_host = true,
                "default" => machines.push((index + 1, None)),
                "macdef" => in_macro = true,
                "login" | "password" | "account" => after_key = true,
                _ => {}
            }
        }
    }
    machines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_line_and_host() {
        let text = "https://u:p@a.test\n\nhttps://u:p@B.test%3a8443/x@y\nnonsense\nhttps://a.test/u@p\n";
        assert_eq!(stored(text), [(1, "a.test".to_owned()), (3, "b.test:8443".to_owned())]);
        let text = "# machine no.test\nmachine a.test login machine password default\nmachine\n  b.test login x\nmacdef init\nmachine no.test\n\ndefault login x\n";
        let host = |host: &str| Some(host.to_owned());
        assert_eq!(machines(text), [(2, host("a.test")), (4, host("b.test")), (8, None)]);
    }
}
