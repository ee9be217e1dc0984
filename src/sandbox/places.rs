//! Which places the configuration names, and what has to be open for each to be used, and replaced, later.

use std::io;
use std::path::{Path, PathBuf};

/// A place with the key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// As in the configuration: `control_plane.token_file`.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What the daemon uses beside the system's own places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Files that are read, and read again when somebody has put others in their place.
    pub files: Vec<Named>,
    /// Folders of which everything may be read.
    pub folders: Vec<Named>,
    /// TCP ports to listen on.
    pub ports: Vec<(String, u16)>,
    /// Folders in which files and sockets are made, written and removed.
    pub written: Vec<Named>,
}

impl Places {
    /// Without those that these keys name.
    #[must_use]
    pub fn without(mut self, keys: &[String]) -> Self {
        let is_other = |key: &String| !keys.contains(key);
        for places in [&mut self.files, &mut self.folders, &mut self.written] {
            places.retain(|place| is_other(&place.key));
        }
        self.ports.retain(|(key, _)| is_other(key));
        self
    }
}

/// What has to be open for a file to be read, now and when another one has taken its place: the folders of the name and of what it
/// leads to. A file in the root folder stands for itself, or everything would be open.
pub(super) fn around(file: &Path) -> Vec<PathBuf> {
    let mut open = Vec::new();
    let mut add = |path: PathBuf| {
        if !open.contains(&path) {
            open.push(path);
        }
    };
    let target = file.canonicalize().ok();
    // Whoever replaces a link replaces it where it stands.
    for name in [Some(file), target.as_deref()].into_iter().flatten() {
        match folder_of(name) {
            Some(folder) if folder != Path::new("/") => add(folder),
            _ => target.iter().for_each(|target| add(target.clone())),
        }
    }
    open
}

/// The folder that a name is in, without links; where that is not there yet, the nearest one that is.
fn folder_of(name: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(name).ok()?;
    for folder in absolute.ancestors().skip(1) {
        match folder.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.ok(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_read_in_its_folder_and_where_its_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        for name in ["a", "b"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("b/real"), "").unwrap();
        symlink(at("b/real"), at("a/link")).unwrap();
        assert_eq!(around(&at("b/real")), [at("b")]);
        assert_eq!(around(&at("a/link")), [at("a"), at("b")]);
        // What comes later comes there, or as near as there is a folder now.
        assert_eq!(around(&at("a/later")), [at("a")]);
        assert_eq!(around(&at("a/x/y/later")), [at("a")]);
    }

    #[test]
    fn a_file_in_the_root_folder_opens_itself_only() {
        let root = |entry: std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path());
        // Any entry of the root will do for one that exists.
        let existing = std::fs::read_dir("/").unwrap().flatten().find_map(root).unwrap();
        assert_eq!(around(&existing), [existing]);
        assert_eq!(around(Path::new("/no-such-file-of-scm-agent")), Vec::<PathBuf>::new());
        assert_eq!(around(Path::new("/no-such-folder-of-scm-agent/file")), Vec::<PathBuf>::new());
    }
}
