//! Where lists of integrations and news of them come from: the traits that the `api` stage implements, and what it hands over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::ScmIntegration;

/// One complete list, as its source had it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntegrationList {
    /// The integrations that could be read, in the source's order. Whoever keeps some of them shares them.
    pub integrations: Vec<Arc<ScmIntegration>>,
    /// Those that could not be used. They are named so that one bad entry is seen and does not cost the others.
    pub rejected: Vec<RejectedIntegration>,
}

/// An entry of the list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedIntegration {
    /// Its id, where that much could be read.
    pub id: Option<String>,
    /// Its place in the list, counted from 0 over all pages.
    pub position: usize,
    /// What is wrong. Names the field, never its value.
    pub reason: String,
}

/// Who can mend a failed fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceErrorKind {
    /// Someone must act: a bad token, a missing permission, an unknown runner, an invalid file.
    Operator,
    /// Trying again later may help.
    Transient,
}

/// Why there is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// Who can mend it.
    pub kind: SourceErrorKind,
    /// What happened, for the operator: names the host, the file or the field, never a value.
    pub message: String,
    /// What to look at, or to do; `None` where waiting is all there is to do.
    pub next: Option<&'static str>,
    /// How long the source asked not to be asked again.
    pub retry_after: Option<Duration>,
}

/// Something that has the runner's list of integrations.
pub trait IntegrationSource: Send + Sync {
    /// Fetches the whole list: all of it or an error, never a part.
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>>;

    /// Names the source for `status`: its host or its file.
    fn describe(&self) -> String;

    /// Says whose list it is. A list that was kept serves only under the same scope.
    fn scope(&self) -> String {
        self.describe()
    }

    /// Whether the operator of this host wrote the list. What the operator wrote is not questioned.
    fn is_operators(&self) -> bool {
        false
    }

    /// Waits until something on this host that the source depends on has changed since the last fetch, such as its file or its
    /// token's. It never ends where there is no such thing.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Something that knows which public key secrets are sealed with for this runner.
pub trait RegisteredKeySource: Send + Sync {
    /// Asks for the public key that is registered for the runner, in whatever form it has there; `None` when there is none.
    fn registered_key(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, SourceError>>;
}

/// Why a feed of changes ended or did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// Trying again later may help. An ordinary end of the feed is one too.
    #[error(transparent)]
    Ended(SourceError),
    /// There will not be one: the server does not have it, or not for this token.
    #[error("{message}")]
    Unsupported {
        /// What the server answered, for the operator.
        message: String,
    },
}

/// Something that tells when the list may have changed.
pub trait ChangeFeed: Send + Sync {
    /// Opens the feed. Whatever changed before it was open it does not tell.
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ChangeStream>, FeedError>>;
}

/// An open feed.
pub trait ChangeStream: Send {
    /// Waits for the next hint that the list may have changed. After an error there is none.
    fn next(&mut self) -> BoxFuture<'_, Result<(), FeedError>>;
}
