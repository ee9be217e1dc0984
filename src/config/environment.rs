//! The environment variables that count, taken once, so that nothing else reads the process's environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// What every variable that sets a key begins with.
pub(super) const PREFIX: &str = "SCM_AGENT__";

/// A snapshot of the variables that this program looks at. Tokens in it are kept as "is set", never as values.
#[derive(Clone, Default)]
pub struct Environment {
    config_file: Option<PathBuf>,
    credentials_directory: Option<PathBuf>,
    base_url: Option<String>,
    token_variables: Vec<&'static str>,
    keys: BTreeMap<String, String>,
    not_utf8: Vec<String>,
}

impl Environment {
    /// Takes the process's own variables.
    #[must_use]
    pub fn from_process() -> Self {
        Self::from_variables(std::env::vars_os())
    }

    /// Takes the given variables. Empty ones count as not set, except those that set a key.
    #[must_use]
    pub fn from_variables(variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>) -> Self {
        let mut environment = Self::default();
        let mut gitpod_api_key = false;
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) {
                match value.into_string() {
                    Ok(value) => drop(environment.keys.insert(name.into_owned(), value)),
                    Err(_) => environment.not_utf8.push(name.into_owned()),
                }
            } else if !value.is_empty() {
                match &*name {
                    "SCM_AGENT_CONFIG" => environment.config_file = Some(value.into()),
                    "CREDENTIALS_DIRECTORY" => environment.credentials_directory = Some(value.into()),
                    "ONA_BASE_URL" => match value.into_string() {
                        Ok(value) => environment.base_url = Some(value),
                        Err(_) => environment.not_utf8.push(name.into_owned()),
                    },
                    "ONA_API_KEY" => environment.token_variables.push("ONA_API_KEY"),
                    "GITPOD_API_KEY" => gitpod_api_key = true,
                    _ => {}
                }
            }
        }
        if gitpod_api_key {
            environment.token_variables.push("GITPOD_API_KEY");
        }
        environment
    }

    /// `$SCM_AGENT_CONFIG`.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.config_file.as_deref()
    }

    /// `$ONA_BASE_URL`.
    pub(super) fn base_url(&self) -> Option<&str> {
        self.base_url.as_deref()
    }

    /// The variables that set keys, by name.
    pub(super) fn keys(&self) -> &BTreeMap<String, String> {
        &self.keys
    }

    /// The variables whose values are no text.
    pub(super) fn not_utf8(&self) -> &[String] {
        &self.not_utf8
    }

    /// The variable that holds the control plane's token; `ONA_API_KEY` goes before `GITPOD_API_KEY`.
    pub(super) fn token_variable(&self) -> Option<&'static str> {
        self.token_variables.first().copied()
    }

    /// The file of a systemd credential (systemd.exec, `LoadCredential=`), if the service was given it.
    pub(super) fn credential(&self, name: &str) -> Option<PathBuf> {
        let path = self.credentials_directory.as_ref()?.join(name);
        // What exists but cannot be looked at is an error for whoever opens it, not a reason to look elsewhere.
        (path.try_exists().unwrap_or(true)).then_some(path)
    }
}

/// Names only: a proxy's password may be among the values.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config_file, credentials_directory, base_url: _, token_variables, keys, not_utf8 } = self;
        f.debug_struct("Environment")
            .field("config_file", config_file)
            .field("credentials_directory", credentials_directory)
            .field("token_variables", token_variables)
            .field("keys", &keys.keys().collect::<Vec<_>>())
            .field("not_utf8", not_utf8)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let variables = [
            ("ONA_API_KEY", "canary-1"),
            ("GITPOD_API_KEY", "canary-2"),
            ("SCM_AGENT__CONTROL_PLANE__PROXY", "http://canary-3@p"),
            ("ONA_BASE_URL", "https://canary-4@h"),
        ];
        let shown = format!("{:?}", Environment::from_variables(variables));
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("SCM_AGENT__CONTROL_PLANE__PROXY"), "{shown}");
    }

    #[test]
    fn an_empty_token_variable_is_not_set_and_the_newer_name_wins() {
        let both = [("GITPOD_API_KEY", "x"), ("ONA_API_KEY", "y")];
        assert_eq!(Environment::from_variables(both).token_variable(), Some("ONA_API_KEY"));
        let newer_empty = [("GITPOD_API_KEY", "x"), ("ONA_API_KEY", "")];
        assert_eq!(Environment::from_variables(newer_empty).token_variable(), Some("GITPOD_API_KEY"));
        assert_eq!(Environment::from_variables([("ONA_API_KEY", "")]).token_variable(), None);
    }
}
