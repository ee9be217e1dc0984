//! Looks at the files that the configuration names, without reading them.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::layer::nonblocking;
use super::{Cause, Config, Origin, PatOrigin, Problem, Source, TokenOrigin};

/// What is wrong with a file that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nobody could use it.
    Error(Problem),
    /// The service may be able to use it all the same.
    Warning(Problem),
}

impl Config {
    /// Looks at every file that the configuration names, but not at `agent.state_dir`, which the daemon makes. The paths stay out of the findings: a token that was written where
    /// the path of its file belongs must not be printed.
    #[must_use]
    pub fn check_named_files(&self) -> Vec<Finding> {
        let mut named: Vec<(&'static str, &'static str, String, &Path)> = Vec::new();
        let plane = &self.control_plane;
        if let Source::File(path) = &plane.source {
            named.push(("control_plane", "file", "control_plane.file".to_owned(), path));
        }
        if let TokenOrigin::File(path) = &plane.token {
            named.push(("control_plane", "token_file", "control_plane.token_file".to_owned(), path));
        }
        if let Some(path) = &plane.network.ca_file {
            named.push(("control_plane", "ca_file", "control_plane.ca_file".to_owned(), path));
        }
        if let Some(path) = self.scm.ca_file.as_ref().filter(|_| !matches!(self.origin_of("scm", "ca_file"), Origin::Section(_))) {
            named.push(("scm", "ca_file", "scm.ca_file".to_owned(), path));
        }
        for (index, path) in self.key.files.iter().enumerate() {
            named.push(("key", "files", format!("key.files[{index}]"), path));
        }
        if let Some(path) = &self.key.passphrase_file {
            named.push(("key", "passphrase_file", "key.passphrase_file".to_owned(), path));
        }
        for (index, provider) in self.providers.iter().enumerate() {
            if let Some(PatOrigin::File(path)) = &provider.pat {
                named.push(("provider", "pat_file", format!("provider[{index}].pat_file"), path));
            }
        }
        named
            .into_iter()
            .filter_map(|(section, name, key, path)| Some(finding(self.origin_of(section, name), key, look(path).err()?)))
            .collect()
    }

    fn origin_of(&self, section: &str, name: &str) -> &Origin {
        let setting = self.settings.iter().find(|setting| setting.section == section && setting.name == name);
        setting.map_or(&Origin::Default, |setting| &setting.origin)
    }
}

fn finding(origin: &Origin, key: String, cause: Cause) -> Finding {
    // The check often runs as somebody else than the service does.
    let service_may = cause == Cause::NamedUnreadable(io::ErrorKind::PermissionDenied);
    let problem = Problem::new(origin, key, cause);
    if service_may { Finding::Warning(problem) } else { Finding::Error(problem) }
}

fn look(path: &Path) -> Result<(), Cause> {
    let unreadable = |error: io::Error| Cause::NamedUnreadable(error.kind());
    let file = OpenOptions::new().read(true).custom_flags(nonblocking()).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        Err(Cause::NamedNotAFile)
    } else if metadata.len() == 0 {
        Err(Cause::NamedEmpty)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_this_user_may_not_open_is_a_mere_warning() {
        let found = |cause| finding(&Origin::Default, "key.files[0]".to_owned(), cause);
        let denied = found(Cause::NamedUnreadable(io::ErrorKind::PermissionDenied));
        let Finding::Warning(problem) = denied else { panic!("{denied:?}") };
        assert_eq!(problem.to_string(), "key.files[0]: names a file that cannot be read: permission denied");
        for cause in [Cause::NamedUnreadable(io::ErrorKind::NotFound), Cause::NamedEmpty, Cause::NamedNotAFile] {
            assert!(matches!(found(cause), Finding::Error(_)));
        }
    }
}
