//! How many connections may be open, in all and per user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Places beyond the limit for root and the daemon's own user.
const KEPT_PLACES: usize = 8;

/// The limits of a daemon.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub max_connections: usize,
    /// Connections of one user id.
    pub max_connections_per_user: usize,
}

/// Counts the open connections.
#[derive(Debug, Clone)]
pub struct Connections {
    limits: Limits,
    open: Arc<Mutex<HashMap<u32, usize>>>,
}

/// One open connection; dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    uid: u32,
    open: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Connections {
    /// Starts with none open.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// The same connections under other limits; who has a place keeps it.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        Self { limits, open: Arc::clone(&self.open) }
    }

    /// Takes a place for a user, if there is one. A few are kept for the privileged, so that however many others hold on to
    /// theirs, an operator sees what goes on.
    #[must_use]
    pub fn take(&self, uid: u32, privileged: bool) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.limits.max_connections + if privileged { KEPT_PLACES } else { 0 };
        if open.values().sum::<usize>() >= limit {
            return None;
        }
        let own = open.entry(uid).or_default();
        if *own >= self.limits.max_connections_per_user {
            return None;
        }
        *own += 1;
        Some(Place { uid, open: Arc::clone(&self.open) })
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_every_place() {
        let connections = Connections::new(Limits { max_connections: 5, max_connections_per_user: 3 });
        let greedy: Vec<_> = (0..5).filter_map(|_| connections.take(1, false)).collect();
        assert_eq!(greedy.len(), 3);
        let other: Vec<_> = (0..5).filter_map(|_| connections.take(2, false)).collect();
        assert_eq!(other.len(), 2);
        assert_eq!(connections.count(), 5);
        drop(greedy);
        assert_eq!(connections.count(), 2);
        assert!(connections.take(2, false).is_some());
        drop(other);
        let narrow = connections.with_limits(Limits { max_connections: 1, max_connections_per_user: 1 });
        let (held, more) = (connections.take(3, false), connections.take(3, false));
        assert!(held.is_some() && more.is_some() && narrow.count() == 2 && narrow.take(4, false).is_none());
        drop((held, more));
        assert!(narrow.take(4, false).is_some());
        let _full: Vec<_> = (10..15).filter_map(|uid| connections.take(uid, false)).collect();
        assert!(connections.take(20, false).is_none());
        assert!(connections.take(0, true).is_some());
    }
}
