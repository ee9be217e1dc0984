//! Which integration answers for what git asks: one immutable table, swapped whole when a new list comes.
//!
//! The host and port must be equal, then the longest prefix of whole path segments wins. Where two integrations would do, none
//! does: a failed clone is better than another organisation's token.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::location::{HostPattern, Location, Place, is_azure_devops};
use super::path::Segment;
use super::source::{IntegrationList, RejectedIntegration};
use super::{ScmId, ScmIntegration};

/// The integrations of a runner, by the places they cover.
#[derive(Debug, Default)]
pub struct IntegrationRegistry {
    by_id: HashMap<String, usize>,
    hosts: HashMap<(String, u16), Host>,
    integrations: Vec<Arc<ScmIntegration>>,
    rejected: Vec<RejectedIntegration>,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Several would do and git did not say enough to choose, so none may. In the order of their ids.
    Ambiguous(Vec<Arc<ScmIntegration>>),
    /// This one.
    Match(Arc<ScmIntegration>),
    /// Nobody: the place is not ours.
    None,
}

/// The integrations on one host and port.
#[derive(Debug, Default)]
struct Host {
    exact: HashMap<Box<[Segment]>, Vec<Arc<ScmIntegration>>>,
    /// Those whose prefix ignores case, under its lower case.
    folded: HashMap<Box<[Segment]>, Vec<Arc<ScmIntegration>>>,
    all: Vec<(HostPattern, Arc<ScmIntegration>)>,
    deepest: usize,
}

impl IntegrationRegistry {
    /// Builds the table. Integrations that cover no place, or share an id without being the same, join the rejected ones.
    #[must_use]
    pub fn new(list: IntegrationList) -> Self {
        let IntegrationList { integrations, rejected } = list;
        let positions = positions(&rejected);
        let mut registry = Self { rejected, ..Self::default() };
        let mut gists = Vec::new();
        let contested = contested_ids(&integrations);
        for (position, integration) in positions.zip(integrations) {
            if contested.contains(&integration.id) {
                registry.reject(integration.id, position, "another integration has the same id".to_owned());
                continue;
            }
            if registry.by_id.contains_key(&integration.id) {
                // The same entry again: the list moved between two pages.
                continue;
            }
            let pattern = match HostPattern::parse(&integration) {
                Ok(pattern) => pattern,
                Err(error) => {
                    registry.reject(integration.id, position, error.to_string());
                    continue;
                }
            };
            let integration = Arc::new(integration);
            registry.by_id.insert(integration.id.clone(), registry.integrations.len());
            registry.integrations.push(Arc::clone(&integration));
            gists.extend(gist_pattern(&pattern, &integration));
            registry.hosts.entry(pattern.key().clone()).or_default().insert(pattern, integration);
        }
        // A host that is registered itself is never taken for another one's gists.
        gists.retain(|(pattern, _)| !registry.hosts.contains_key(pattern.key()));
        for (pattern, integration) in gists {
            registry.hosts.entry(pattern.key().clone()).or_default().insert(pattern, integration);
        }
        registry
    }

    /// Says which integration answers for a place, in time that does not grow with the number of integrations.
    ///
    /// Without a path the only integration that could be meant answers; on `dev.azure.com` one for the whole host answers even
    /// beside others for single organisations.
    #[must_use]
    pub fn for_host(&self, location: &Location) -> Lookup {
        let place = location.place();
        let Some(host) = self.hosts.get(&place.key) else { return Lookup::None };
        let covering = host.covering(place);
        let below = if place.complete { Vec::new() } else { host.below(place) };
        if below.is_empty() || (covering.len() == 1 && is_azure_devops(&place.key)) {
            return verdict(covering);
        }
        verdict(covering.into_iter().chain(below).collect())
    }

    /// The usable integrations, in the order of the list.
    #[must_use]
    pub fn integrations(&self) -> &[Arc<ScmIntegration>] {
        &self.integrations
    }

    /// A usable integration by its id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<ScmIntegration>> {
        self.by_id.get(id).and_then(|&index| self.integrations.get(index))
    }

    /// The entries of the list that serve nobody, each with the reason.
    #[must_use]
    pub fn rejected(&self) -> &[RejectedIntegration] {
        &self.rejected
    }

    fn reject(&mut self, id: String, position: usize, reason: String) {
        self.rejected.push(RejectedIntegration { id: Some(id), position, reason });
    }
}

impl Host {
    fn insert(&mut self, pattern: HostPattern, integration: Arc<ScmIntegration>) {
        self.deepest = self.deepest.max(pattern.depth());
        let table = if pattern.ignores_case() { &mut self.folded } else { &mut self.exact };
        table.entry(pattern.prefix().into()).or_default().push(Arc::clone(&integration));
        self.all.push((pattern, integration));
    }

    /// The integrations with the longest prefix of the place's segments; several when they share it.
    fn covering(&self, place: &Place) -> Vec<Arc<ScmIntegration>> {
        let longest = place.segments.len().min(self.deepest);
        for depth in (0..=longest).rev() {
            let exact = self.exact.get(&place.segments[..depth]).into_iter().flatten();
            let folded = self.folded.get(&place.folded[..depth]).into_iter().flatten();
            let found: Vec<_> = exact.chain(folded).cloned().collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// The integrations that could be meant when more segments follow than git told.
    fn below(&self, place: &Place) -> Vec<Arc<ScmIntegration>> {
        let known = place.segments.len();
        // Spares the walk through thousands of organisations when git told which one.
        if self.deepest <= known {
            return Vec::new();
        }
        let deeper = self.all.iter().filter(|(pattern, _)| {
            let told = if pattern.ignores_case() { &place.folded } else { &place.segments };
            pattern.depth() > known && pattern.prefix().starts_with(told)
        });
        deeper.map(|(_, integration)| Arc::clone(integration)).collect()
    }
}

fn verdict(mut candidates: Vec<Arc<ScmIntegration>>) -> Lookup {
    if candidates.len() > 1 {
        candidates.sort_by(|a, b| a.id.cmp(&b.id));
        return Lookup::Ambiguous(candidates);
    }
    candidates.pop().map_or(Lookup::None, Lookup::Match)
}

/// GitHub serves gists from a host of their own, with the same credential.
fn gist_pattern(pattern: &HostPattern, integration: &Arc<ScmIntegration>) -> Option<(HostPattern, Arc<ScmIntegration>)> {
    (integration.scm_id == ScmId::GitHub).then(|| pattern.gists()).flatten().map(|gists| (gists, Arc::clone(integration)))
}

/// The ids that entries share which are not the same.
fn contested_ids(integrations: &[ScmIntegration]) -> HashSet<String> {
    let mut first = HashMap::with_capacity(integrations.len());
    integrations
        .iter()
        .filter(|integration| *first.entry(integration.id.as_str()).or_insert(*integration) != *integration)
        .map(|integration| integration.id.clone())
        .collect()
}

/// The places in the list of the entries that were read: all that were not rejected.
fn positions(rejected: &[RejectedIntegration]) -> impl Iterator<Item = usize> + use<> {
    let rejected: HashSet<usize> = rejected.iter().map(|entry| entry.position).collect();
    (0..).filter(move |position| !rejected.contains(position))
}
