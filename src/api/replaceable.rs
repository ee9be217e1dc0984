//! A control plane whose client can be replaced while others use it: the same runner at the same place, reached in another way.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::ControlPlane;
use crate::integration::source::{
    ChangeFeed, ChangeStream, FeedError, IntegrationList, IntegrationSource, RegisteredKeySource, SourceError,
};

/// The client in use. What is under way goes on with the one that it began with.
#[derive(Debug)]
pub struct Replaceable(Mutex<Arc<ControlPlane>>);

impl Replaceable {
    /// Begins with a client.
    #[must_use]
    pub fn new(first: ControlPlane) -> Self {
        Self(Mutex::new(Arc::new(first)))
    }

    /// Has everything from now on asked through another client, for the same runner at the same URL: what is kept of the list is
    /// kept under these two.
    pub fn replace(&self, next: ControlPlane) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    fn now(&self) -> Arc<ControlPlane> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl IntegrationSource for Replaceable {
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        let now = self.now();
        Box::pin(async move { now.fetch().await })
    }

    fn describe(&self) -> String {
        self.now().describe()
    }

    fn scope(&self) -> String {
        self.now().scope()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let now = self.now();
        Box::pin(async move { now.changed().await })
    }
}

impl RegisteredKeySource for Replaceable {
    fn registered_key(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, SourceError>> {
        let now = self.now();
        Box::pin(async move { now.registered_key().await })
    }
}

impl ChangeFeed for Replaceable {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ChangeStream>, FeedError>> {
        let now = self.now();
        Box::pin(async move { ChangeFeed::open(&*now).await })
    }
}
