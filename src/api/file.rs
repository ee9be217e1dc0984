//! The file source: a saved `ListSCMIntegrations` reply, for runners that cannot reach a control plane.

use std::path::PathBuf;

use futures_util::future::BoxFuture;

use super::bounded_file::{self, Access};
use super::followed_file::FollowedFile;
use super::message::ListReader;
use super::{Error, MAX_FILE_BYTES, MAX_INTEGRATIONS};
use crate::integration::source::{IntegrationList, IntegrationSource, SourceError};

/// A saved reply, read again at each fetch.
#[derive(Debug, Clone)]
pub struct IntegrationFile {
    file: FollowedFile,
}

impl IntegrationFile {
    /// Names the file; it is opened at each [`IntegrationFile::load`].
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { file: FollowedFile::new(path) }
    }

    /// Reads the whole list.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::FileContent`] or [`Error::FileIncomplete`].
    pub fn load(&self) -> Result<IntegrationList, Error> {
        self.file.note();
        let path = || self.file.path().to_owned();
        let content =
            bounded_file::read(self.file.path(), MAX_FILE_BYTES, Access::Any).map_err(|source| Error::File { path: path(), source })?;
        let mut reader = ListReader::new(None, MAX_INTEGRATIONS);
        let next_token = reader.page(&content).map_err(|source| Error::FileContent { path: path(), source })?;
        if next_token.is_empty() { Ok(reader.finish()) } else { Err(Error::FileIncomplete { path: path() }) }
    }
}

impl IntegrationSource for IntegrationFile {
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        Box::pin(async { self.load().map_err(|error| SourceError::from(&error)) })
    }

    fn describe(&self) -> String {
        self.file.path().display().to_string()
    }

    fn is_operators(&self) -> bool {
        true
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.file.changed())
    }
}
