//! The places that the configuration names, for the daemon to shut itself in with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Config, MetricsAddress, PatOrigin, Source, TokenOrigin};
use crate::sandbox::{Named, Places};

/// The key of where scrapes are answered.
const METRICS_KEY: &str = "metrics.listen";

/// The key of the socket, whose folder is the daemon's only where it makes the socket itself.
pub const SOCKET_KEY: &str = "agent.socket";

/// The key of the state directory.
pub const STATE_DIR_KEY: &str = "agent.state_dir";

/// The environment variables that name places. They are those of the start for as long as a process lives.
pub const VARIABLES: [&str; 4] = ["LOGS_DIRECTORY", "RUNTIME_DIRECTORY", "SSL_CERT_DIR", "SSL_CERT_FILE"];

impl Config {
    /// Every file and folder that the daemon uses for this configuration; `variable` gives an environment variable's value, for those
    /// that name certificate authorities, and what the service manager made.
    #[must_use]
    pub fn places(&self, variable: impl Fn(&str) -> Option<OsString>) -> Places {
        let named = |key: &str, path: &Path| Named { key: key.to_owned(), path: path.to_owned() };
        let mut files: Vec<Named> = self.files.iter().map(|file| named("--config", file)).collect();
        let mut add = |key: &str, file: Option<&PathBuf>| files.extend(file.map(|file| named(key, file)));
        match &self.control_plane.source {
            Source::File(file) => add("control_plane.file", Some(file)),
            Source::Url(_) => {}
        }
        match &self.control_plane.token {
            TokenOrigin::File(file) => add("control_plane.token_file", Some(file)),
            TokenOrigin::Environment(_) | TokenOrigin::None => {}
        }
        add("control_plane.ca_file", self.control_plane.network.ca_file.as_ref());
        add("scm.ca_file", self.scm.ca_file.as_ref());
        self.key.files.iter().for_each(|file| add("key.files", Some(file)));
        add("key.passphrase_file", self.key.passphrase_file.as_ref());
        for (index, provider) in self.providers.iter().enumerate() {
            match &provider.pat {
                Some(PatOrigin::File(file)) => add(&format!("provider[{index}].pat_file"), Some(file)),
                Some(PatOrigin::Credential { file, .. }) => add(&format!("provider[{index}].pat_credential"), file.as_ref()),
                None => {}
            }
        }
        add("SSL_CERT_FILE", variable("SSL_CERT_FILE").map(PathBuf::from).as_ref());
        let folders = variable("SSL_CERT_DIR").map(|folders| std::env::split_paths(&folders).collect::<Vec<_>>()).unwrap_or_default();
        let socket = self.agent.socket.parent().unwrap_or(Path::new("/"));
        let mut written = vec![named(STATE_DIR_KEY, &self.agent.state_dir), named(SOCKET_KEY, socket)];
        let mut write_beside = |key: &str, file: &Path| written.push(named(key, file.parent().unwrap_or(Path::new("/"))));
        if let Some(file) = &self.log.audit_file {
            write_beside("log.audit_file", file);
        }
        let mut ports = Vec::new();
        match &self.metrics.listen {
            Some(MetricsAddress::Tcp(address)) => ports.push((METRICS_KEY.to_owned(), address.port())),
            Some(MetricsAddress::Unix(path)) => write_beside(METRICS_KEY, path),
            None => {}
        }
        // What the service manager made for the daemon, so that a reload may begin to use it.
        for key in ["LOGS_DIRECTORY", "RUNTIME_DIRECTORY"] {
            let made = variable(key).map(|folders| std::env::split_paths(&folders).collect::<Vec<_>>()).unwrap_or_default();
            written.extend(made.iter().map(|folder| named(key, folder)));
        }
        let folders = folders.iter().map(|folder| named("SSL_CERT_DIR", folder)).collect();
        Places { files, folders, ports, written }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment, KEYS};

    /// Every key with a file or folder for its value: none is forgotten that is added later.
    #[test]
    fn whatever_names_a_file_is_among_the_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let plane = "runner_id = \"0b4b1f4e-3f1a-4c5d-9e6f-7a8b9c0d1e2f\"\n";
        let is_place = |name: &str| ["file", "files", "dir"].iter().any(|end| name.ends_with(end)) || name.contains("socket");
        let mut seen = 0;
        for (section, names) in KEYS {
            for name in names.iter().filter(|name| is_place(name) && !["socket_mode", "socket_group"].contains(name)) {
                let value = if *name == "files" { "[\"/some/where/file\"]" } else { "\"/some/where/file\"" };
                let lines = match section {
                    "control_plane" => format!("[control_plane]\n{plane}{name} = {value}\n"),
                    "provider" => format!("[control_plane]\n{plane}[[provider]]\nhost = \"h.example\"\n{name} = {value}\n"),
                    _ => format!("[control_plane]\n{plane}[{section}]\n{name} = {value}\n"),
                };
                std::fs::write(&path, lines).unwrap();
                let places = Config::load(Some(&path), &Environment::default()).unwrap().places(|_| None);
                let found = places
                    .files
                    .iter()
                    .chain(&places.folders)
                    .chain(&places.written)
                    .any(|place| place.path.starts_with("/some/where") && place.key.ends_with(&format!(".{name}")));
                assert!(found, "{section}.{name} is not among {places:?}");
                seen += 1;
            }
        }
        assert!(seen >= 8, "only {seen} keys were tried");
    }

    #[test]
    fn the_variables_of_certificate_authorities_are_places_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "[control_plane]\nfile = \"/list\"\n").unwrap();
        let config = Config::load(Some(&path), &Environment::default()).unwrap();
        let places = config.places(|name| match name {
            "SSL_CERT_FILE" => Some("/a/ca.pem".into()),
            "SSL_CERT_DIR" => Some("/b:/c".into()),
            _ => None,
        });
        assert!(places.files.iter().any(|file| file.path.ends_with("a/ca.pem")));
        assert_eq!(places.folders.iter().map(|folder| folder.path.to_str().unwrap()).collect::<Vec<_>>(), ["/b", "/c"]);
        assert!(places.files.iter().any(|file| file.path == path), "its own file");
    }
}
