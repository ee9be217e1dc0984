//! What one list changed against another, so that tokens of what is gone are dropped with it.

use std::collections::{BTreeMap, BTreeSet};

use super::ScmIntegration;
use super::registry::IntegrationRegistry;

/// The ids of the integrations that differ between two lists, each field in the order of the ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListDiff {
    /// Usable now, not before.
    pub added: Vec<String>,
    /// Usable before and now, with another host, app, secret or switch.
    pub changed: Vec<String>,
    /// Still there without an OAuth app: what came through the app must go.
    pub oauth_removed: Vec<String>,
    /// Still there, but personal access tokens are no longer allowed.
    pub pat_disabled: Vec<String>,
    /// No longer in the list at all: everything that came through them must go.
    pub removed: Vec<String>,
    /// Still in the list, no longer readable or unambiguous: they answer nothing, yet nobody deleted them.
    pub unusable: Vec<String>,
}

impl ListDiff {
    /// Whether the lists are the same to every reader.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { added, changed, oauth_removed, pat_disabled, removed, unusable } = self;
        [added, changed, oauth_removed, pat_disabled, removed, unusable].into_iter().all(Vec::is_empty)
    }
}

/// Compares two lists. A reader that missed some in between compares with the last one it acted on.
#[must_use]
pub fn diff(old: &IntegrationRegistry, new: &IntegrationRegistry) -> ListDiff {
    let (was, is) = (by_id(old), by_id(new));
    let (was_rejected, is_rejected) = (rejected_ids(old), rejected_ids(new));
    let mut diff = ListDiff::default();
    for (&id, now) in &is {
        let before = was.get(id);
        match before {
            None => diff.added.push(id.to_owned()),
            Some(before) if before != now => diff.changed.push(id.to_owned()),
            Some(_) => continue,
        }
        // While it was rejected nobody saw what it lost, so it may have lost anything.
        let unknown = before.is_none() && was_rejected.contains(id);
        if now.oauth.is_none() && (unknown || before.is_some_and(|before| before.oauth.is_some())) {
            diff.oauth_removed.push(id.to_owned());
        }
        if !now.pat && (unknown || before.is_some_and(|before| before.pat)) {
            diff.pat_disabled.push(id.to_owned());
        }
    }
    let gone: BTreeSet<&str> = was.keys().copied().chain(was_rejected).filter(|id| !is.contains_key(id)).collect();
    for id in gone {
        if !is_rejected.contains(id) {
            diff.removed.push(id.to_owned());
        } else if was.contains_key(id) {
            diff.unusable.push(id.to_owned());
        }
    }
    diff
}

fn by_id(registry: &IntegrationRegistry) -> BTreeMap<&str, &ScmIntegration> {
    registry.integrations().iter().map(|integration| (integration.id.as_str(), integration.as_ref())).collect()
}

fn rejected_ids(registry: &IntegrationRegistry) -> BTreeSet<&str> {
    registry.rejected().iter().filter_map(|entry| entry.id.as_deref()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::source::{IntegrationList, RejectedIntegration};
    use crate::integration::{EncryptedClientSecret, OAuthApp, ScmId};

    fn integration(id: &str) -> ScmIntegration {
        ScmIntegration {
            id: id.to_owned(),
            scm_id: ScmId::GitHub,
            host: format!("{id}.example.com"),
            oauth: Some(OAuthApp {
                client_id: "client".to_owned(),
                encrypted_client_secret: EncryptedClientSecret::new(vec![1]),
                issuer_url: None,
            }),
            pat: true,
            runner_id: "runner".to_owned(),
            virtual_directory: String::new(),
        }
    }

    fn registry(integrations: &[ScmIntegration], rejected: &[&str]) -> IntegrationRegistry {
        let rejected = rejected.iter().enumerate().map(|(position, id)| RejectedIntegration {
            id: Some((*id).to_owned()),
            position,
            reason: "host is missing".to_owned(),
        });
        IntegrationRegistry::new(IntegrationList {
            integrations: integrations.iter().cloned().map(std::sync::Arc::new).collect(),
            rejected: rejected.collect(),
        })
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn the_same_list_in_another_order_changes_nothing() {
        let (a, b) = (integration("a"), integration("b"));
        let found = diff(&registry(&[a.clone(), b.clone()], &["x"]), &registry(&[b, a], &["x"]));
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn added_changed_and_removed_are_told_apart() {
        let old = registry(&[integration("d"), integration("c"), integration("b"), integration("a")], &[]);
        let moved = ScmIntegration { host: "moved.example.com".to_owned(), ..integration("c") };
        let mut rotated = integration("d");
        if let Some(app) = &mut rotated.oauth {
            app.encrypted_client_secret = EncryptedClientSecret::new(vec![2]);
        }
        let new = registry(&[integration("e"), moved, rotated, integration("a")], &[]);
        let expected = ListDiff { added: ids(&["e"]), changed: ids(&["c", "d"]), removed: ids(&["b"]), ..ListDiff::default() };
        assert_eq!(diff(&old, &new), expected);
        assert!(!expected.is_empty());
    }

    #[test]
    fn a_lost_app_and_a_switched_off_pat_are_named() {
        let old = registry(&[integration("a"), integration("b")], &[]);
        let without_app = ScmIntegration { oauth: None, ..integration("a") };
        let without_pat = ScmIntegration { pat: false, ..integration("b") };
        let new = registry(&[without_app, without_pat], &[]);
        let expected = ListDiff { changed: ids(&["a", "b"]), oauth_removed: ids(&["a"]), pat_disabled: ids(&["b"]), ..ListDiff::default() };
        assert_eq!(diff(&old, &new), expected);
        let gained = ListDiff { changed: ids(&["a", "b"]), ..ListDiff::default() };
        assert_eq!(diff(&new, &old), gained);
        let never_had = ScmIntegration { oauth: None, pat: false, ..integration("a") };
        let moved = ScmIntegration { host: "moved.example.com".to_owned(), ..never_had.clone() };
        let only_moved = ListDiff { changed: ids(&["a"]), ..ListDiff::default() };
        assert_eq!(diff(&registry(&[never_had], &[]), &registry(&[moved], &[])), only_moved);
    }

    #[test]
    fn an_entry_that_became_unreadable_is_not_taken_for_deleted() {
        let usable = registry(&[integration("a")], &[]);
        let rejected = registry(&[], &["a"]);
        assert_eq!(diff(&usable, &rejected), ListDiff { unusable: ids(&["a"]), ..ListDiff::default() });
        assert_eq!(diff(&rejected, &rejected), ListDiff::default());
        assert_eq!(diff(&rejected, &registry(&[], &[])), ListDiff { removed: ids(&["a"]), ..ListDiff::default() });
        assert_eq!(diff(&rejected, &usable), ListDiff { added: ids(&["a"]), ..ListDiff::default() });
        let less = ScmIntegration { oauth: None, pat: false, ..integration("a") };
        let back = ListDiff { added: ids(&["a"]), oauth_removed: ids(&["a"]), pat_disabled: ids(&["a"]), ..ListDiff::default() };
        assert_eq!(diff(&rejected, &registry(std::slice::from_ref(&less), &[])), back);
        assert_eq!(diff(&registry(&[], &[]), &registry(&[less], &[])), ListDiff { added: ids(&["a"]), ..ListDiff::default() });
    }
}
