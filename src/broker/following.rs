//! What goes on without being asked: following the list and the keys, and keeping users' grants alive.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::info;

use super::{Broker, TokenKey};
use crate::integration::registry::IntegrationRegistry;

impl Broker {
    /// Follows the list and the keys: drops what came through integrations that changed, and finds out which secrets open.
    pub async fn follow_list(&self) {
        let (mut updates, mut rotations) = (self.sync.subscribe(), self.secrets.rotations());
        let mut acted_on: Option<(Arc<IntegrationRegistry>, u64)> = None;
        let mut reconciled: Option<Arc<IntegrationRegistry>> = None;
        loop {
            let (current, is_confirmed) = {
                let published = updates.borrow_and_update();
                (Arc::clone(&published.registry), published.state.last_success.is_some() && !published.state.from_snapshot)
            };
            let rotation = *rotations.borrow_and_update();
            // What a kept list does not have may be there all the same: only the source's word takes grants away.
            if is_confirmed && !reconciled.as_ref().is_some_and(|list| Arc::ptr_eq(list, &current)) {
                let before = acted_on.as_ref().map(|(list, _)| list).or(reconciled.as_ref()).map(Arc::clone);
                self.grants.reconcile(before.as_deref(), &current, |integration| self.latest().user_plan(integration)).await;
                reconciled = Some(Arc::clone(&current));
            }
            // The same list again costs nothing.
            if !acted_on.as_ref().is_some_and(|(list, keys)| Arc::ptr_eq(list, &current) && *keys == rotation) {
                let apps = || current.integrations().iter().filter(|integration| integration.oauth.is_some());
                let kept: HashSet<TokenKey> = apps().map(TokenKey::of).collect();
                let dropped = self.cache.purge(|key| !kept.contains(key));
                if !dropped.is_empty() {
                    info!(tokens = dropped.len(), "dropped the tokens of integrations that changed or are gone");
                }
                self.revocations.take(dropped);
                let ciphertexts =
                    apps().filter_map(|integration| integration.oauth.as_ref()).map(|app| app.encrypted_client_secret.clone()).collect();
                tokio::select! {
                    () = self.secrets.check_all(ciphertexts) => {}
                    // Begins anew, with the keys that count now.
                    _ = rotations.changed() => continue,
                    // New secrets may have to wait for their turn; what a newer list takes away does not wait with them.
                    changed = updates.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
                // Once more: a token that failed with the keys of before may have done so only now.
                if acted_on.is_some_and(|(_, keys)| keys != rotation) {
                    self.forget_undecryptable();
                }
                acted_on = Some((current, rotation));
            }
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { return },
                _ = rotations.changed() => {}
            }
        }
    }

    /// Renews users' grants in time, and looks whether the operator's tokens can be read, for as long as it is polled.
    pub async fn keep_grants_alive(&self) {
        let renewing = self.grants.keep_alive(|id| {
            let integration = Arc::clone(self.sync.registry().get(id)?);
            let plan = self.latest().user_plan(&integration)?;
            Some((integration, plan))
        });
        tokio::join!(renewing, self.operators_pats.follow());
    }
}
