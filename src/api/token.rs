//! Where the control plane's bearer token comes from.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Error;
use super::bounded_file::{self, Access, FileError};
use super::followed_file::FollowedFile;
use crate::secret::{BearerToken, SecretError, trimmed};

/// The longest token file in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Where the bearer token comes from.
#[derive(Debug)]
pub enum TokenSource {
    /// A variable of the process's environment. It cannot change while the process runs, so its value is kept.
    Environment {
        /// The variable's name.
        name: &'static str,
        /// Its value.
        token: BearerToken,
    },
    /// A file, read again for every request, so that a rotated token counts from the next request on.
    File(TokenFile),
}

/// A file with a token.
#[derive(Debug)]
pub struct TokenFile(FollowedFile);

impl TokenSource {
    /// Names the file; it is opened when the token is needed.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(TokenFile(FollowedFile::new(path)))
    }

    /// Notes how the token's file looks, for [`TokenSource::changed`].
    pub(super) fn note(&self) {
        if let Self::File(TokenFile(file)) = self {
            file.note();
        }
    }

    /// Waits until the token's file looks other than noted; for ever where there is no file.
    pub(super) async fn changed(&self) {
        match self {
            Self::Environment { .. } => std::future::pending().await,
            Self::File(TokenFile(file)) => file.changed().await,
        }
    }

    /// The token as it is now. Blanks around it are no part of it.
    ///
    /// # Errors
    /// [`Error::Token`] when the file is missing, empty, not a regular file, over 64 KiB, changeable by others than its owner
    /// or readable by everyone.
    pub fn load(&self) -> Result<BearerToken, Error> {
        match self {
            Self::Environment { name, token } => {
                let copy = Zeroizing::new(token.expose_secret().as_bytes().to_vec());
                // Checked when it was made, so this is no error in practice; it is not worth a panic either.
                BearerToken::parse(copy).map_err(|reason| Error::TokenVariable { name, reason })
            }
            Self::File(TokenFile(file)) => load_file(file.path()).map_err(|source| Error::Token { path: file.path().to_owned(), source }),
        }
    }
}

fn load_file(path: &Path) -> Result<BearerToken, FileError> {
    let content = bounded_file::read(path, MAX_TOKEN_BYTES, Access::Private)?;
    BearerToken::parse(trimmed(content)).map_err(|error| match error {
        SecretError::Empty => FileError::Empty,
        SecretError::Charset => FileError::NotAToken,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, TokenSource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, TokenSource::file(path))
    }

    fn problem(source: &TokenSource) -> FileError {
        match source.load() {
            Err(Error::Token { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn blanks_around_the_token_are_dropped_and_its_group_may_read_it() {
        for mode in [0o400, 0o600, 0o440, 0o640] {
            let (_folder, source) = file(b" \tcanary-token\r\n", mode);
            assert_eq!(source.load().unwrap().expose_secret(), "canary-token", "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        for mode in [0o604, 0o620, 0o602, 0o644, 0o660, 0o666, 0o777] {
            let (_folder, source) = file(b"canary-token", mode);
            assert!(matches!(problem(&source), FileError::Permissions { mode: found } if found == mode), "{mode:o}");
        }
    }

    #[test]
    fn a_missing_an_empty_an_oversized_and_a_many_line_file_are_refused() {
        assert!(matches!(problem(&TokenSource::file("/nonexistent/token")), FileError::Unreadable(_)));
        let (_folder, source) = file(b" \n", 0o600);
        assert!(matches!(problem(&source), FileError::Empty));
        let (_folder, source) = file(b"canary\ntoken", 0o600);
        assert!(matches!(problem(&source), FileError::NotAToken));
        let (_folder, source) = file(&vec![b'a'; MAX_TOKEN_BYTES], 0o600);
        assert!(source.load().is_ok());
        let (_folder, source) = file(&vec![b'a'; MAX_TOKEN_BYTES + 1], 0o600);
        assert!(matches!(problem(&source), FileError::TooLarge { .. }));
    }

    #[test]
    fn a_fifo_a_directory_and_a_device_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        for path in [fifo, folder.path().to_owned(), PathBuf::from("/dev/zero")] {
            assert!(matches!(problem(&TokenSource::file(path)), FileError::NotRegular));
        }
    }

    #[test]
    fn neither_the_error_nor_debug_shows_the_token() {
        let (_folder, source) = file(b"canary-7f3a\nsecond", 0o600);
        let error = source.load().unwrap_err();
        assert!(!format!("{error} {error:?} {source:?}").contains("canary"));
        let token = BearerToken::parse(Zeroizing::new(b"canary-7f3a".to_vec())).unwrap();
        let source = TokenSource::Environment { name: "ONA_API_KEY", token };
        assert!(!format!("{source:?}").contains("canary"));
        assert_eq!(source.load().unwrap().expose_secret(), "canary-7f3a");
    }
}
