//! Tests of `config`: every way to be wrong, what wins over what, and what is never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use scm_agent::config::{Config, Environment, Error};
use tempfile::TempDir;

mod broken;
mod command;
mod example;
mod layers;
mod random;
mod values;

const RUNNER: &str = "0b4b1f4e-3f1a-4c5d-9e6f-7a8b9c0d1e2f";
const LEAST: &str = "[control_plane]\nrunner_id = \"0b4b1f4e-3f1a-4c5d-9e6f-7a8b9c0d1e2f\"\n";

/// A folder with a configuration, with permissions that do not depend on who runs the tests.
struct Folder(TempDir);

impl Folder {
    fn new(main: &str) -> Self {
        let folder = Self(TempDir::new().unwrap());
        folder.write("config.toml", main);
        folder
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn main(&self) -> PathBuf {
        self.path("config.toml")
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config, Error> {
        load(&self.main(), variables)
    }

    /// The lines of the error, with `{folder}` for this folder.
    fn problems(&self, variables: &[(&str, &str)]) -> Vec<String> {
        let error = self.load(variables).unwrap_err();
        let folder = self.0.path().to_str().unwrap();
        error.problems().iter().map(|problem| problem.to_string().replace(folder, "{folder}")).collect()
    }
}

fn load(path: &Path, variables: &[(&str, &str)]) -> Result<Config, Error> {
    Config::load(Some(path), &environment(variables))
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::from_variables(variables.iter().copied())
}
