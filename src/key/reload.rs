//! The files behind the key ring: loads them, and notices when they change.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::{Config, Error, KeyRing, file};

/// The configured key files, and how they looked when they were last read.
///
/// Everything here blocks: key derivation for an encrypted file and the self-tests can take a second.
#[derive(Debug)]
pub struct KeyFiles {
    config: Config,
    /// Of each file that a ring depends on, in the order of [`paths`].
    seen: Vec<Look>,
    /// Whether the last load failed, so that the next look tries again whatever the files look like.
    failed: bool,
}

impl KeyFiles {
    /// Names the files; nothing is read yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, seen: Vec::new(), failed: false }
    }

    /// Loads a ring from the files as they are now: every one of them, or none.
    ///
    /// # Errors
    /// As [`KeyRing::load`].
    pub fn load(&mut self) -> Result<KeyRing, Error> {
        // Looked at before they are read: a change in between is then seen as one the next time.
        self.seen = self.look();
        let loaded = KeyRing::load(&self.config);
        self.failed = loaded.is_err();
        loaded
    }

    /// Whether loading again may lead to something else than the last time: a file changed, or it did not work.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.failed || self.seen != self.look()
    }

    /// Whether the files can be read more than once. A key that came through a pipe is gone from it.
    #[must_use]
    pub fn reloadable(&self) -> bool {
        !self.seen.contains(&Look::Pipe)
    }

    /// Whether these are the files, and read in the way, that a configuration says.
    #[must_use]
    pub fn are_those_of(&self, config: &Config) -> bool {
        self.config == *config
    }

    fn look(&self) -> Vec<Look> {
        paths(&self.config).map(Look::at).collect()
    }
}

/// The files that a ring depends on.
fn paths(config: &Config) -> impl Iterator<Item = &Path> {
    config.files.iter().chain(&config.passphrase_file).map(AsRef::as_ref)
}

/// How a file looks from outside. A file with the same look holds the same bytes, unless it was written twice within a tick of
/// the file system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It cannot be looked at.
    Failed(io::ErrorKind),
    /// What tells one version of a file from another.
    File { device: u64, inode: u64, owner: u32, mode: u32, size: u64, modified: (i64, i64), changed: (i64, i64) },
    /// The reading end of a pipe that this process was started with.
    Pipe,
}

impl Look {
    fn at(path: &Path) -> Self {
        let inherited = file::inherited_descriptor(path).is_some();
        // As the file is opened: a link is none of the files that are read, except the one that stands for a descriptor.
        let looked = if inherited { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
        match looked {
            Err(error) => Self::Failed(error.kind()),
            Ok(metadata) if inherited && metadata.file_type().is_fifo() => Self::Pipe,
            Ok(metadata) => Self::of(&metadata),
        }
    }

    fn of(metadata: &Metadata) -> Self {
        Self::File {
            device: metadata.dev(),
            inode: metadata.ino(),
            owner: metadata.uid(),
            mode: metadata.mode(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::key::Problem;

    /// A folder with one X25519 key, and the files as loaded.
    struct Scene {
        folder: tempfile::TempDir,
        files: KeyFiles,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key");
            write(&path, &key(1));
            let mut files = KeyFiles::new(Config { files: vec![path], ..Config::default() });
            assert!(files.changed(), "nothing was read yet");
            files.load().unwrap();
            assert!(!files.changed());
            Self { folder, files }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("key")
        }
    }

    /// 32 raw bytes that are a private key.
    fn key(seed: u8) -> Vec<u8> {
        (0..32).map(|index| seed.wrapping_mul(37).wrapping_add(index * 7) | 0x80).collect()
    }

    fn write(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn fingerprints(ring: &KeyRing) -> Vec<String> {
        ring.descriptions().into_iter().map(|key| key.fingerprint).collect()
    }

    #[test]
    fn a_file_that_another_takes_the_place_of_is_a_change() {
        let mut scene = Scene::new();
        let before = fingerprints(&scene.files.load().unwrap());
        write(&scene.folder.path().join("new"), &key(2));
        std::fs::rename(scene.folder.path().join("new"), scene.path()).unwrap();
        assert!(scene.files.changed());
        assert_ne!(fingerprints(&scene.files.load().unwrap()), before);
        assert!(!scene.files.changed());
    }

    #[test]
    fn new_permissions_alone_are_a_change() {
        let scene = Scene::new();
        std::fs::set_permissions(scene.path(), PermissionsExt::from_mode(0o640)).unwrap();
        assert!(scene.files.changed());
    }

    #[test]
    fn what_did_not_load_is_tried_again_even_if_it_looks_the_same() {
        let mut scene = Scene::new();
        std::fs::remove_file(scene.path()).unwrap();
        assert!(scene.files.changed());
        for _ in 0..2 {
            assert!(matches!(scene.files.load(), Err(Error::KeyFile { problem: Problem::Missing, .. })));
            assert!(scene.files.changed());
        }
        write(&scene.path(), &key(1));
        scene.files.load().unwrap();
        assert!(!scene.files.changed());
    }

    #[test]
    fn a_new_passphrase_file_is_a_change() {
        let scene = Scene::new();
        let passphrase = scene.folder.path().join("passphrase");
        write(&passphrase, b"one");
        let config = Config { files: vec![scene.path()], passphrase_file: Some(passphrase.clone()), ..Config::default() };
        let mut files = KeyFiles::new(config);
        files.load().unwrap();
        assert!(!files.changed());
        write(&passphrase, b"another");
        assert!(files.changed());
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_not_followed() {
        let mut scene = Scene::new();
        std::fs::rename(scene.path(), scene.folder.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("moved", scene.path()).unwrap();
        assert!(scene.files.changed());
        assert!(matches!(scene.files.load(), Err(Error::KeyFile { problem: Problem::Symlink, .. })));
    }

    #[test]
    fn a_pipe_is_read_once_and_a_file_behind_a_descriptor_again_and_again() {
        use std::io::Write as _;
        use std::os::fd::AsRawFd as _;
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&key(3)).unwrap();
        drop(writer);
        let mut files = KeyFiles::new(of_descriptor(reader.as_raw_fd()));
        files.load().unwrap();
        assert!(!files.reloadable() && !files.changed());

        let scene = Scene::new();
        let open = std::fs::File::open(scene.path()).unwrap();
        let mut files = KeyFiles::new(of_descriptor(open.as_raw_fd()));
        for _ in 0..2 {
            files.load().unwrap();
            assert!(files.reloadable() && !files.changed());
        }
    }

    fn of_descriptor(number: std::os::fd::RawFd) -> Config {
        Config { files: vec![format!("/dev/fd/{number}").into()], ..Config::default() }
    }
}
