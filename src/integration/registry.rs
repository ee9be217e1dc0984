//! Which integration answers for what git asks: one immutable table, swapped whole when a new list comes.
//!
//! The host and port must be equal, then the longest prefix of whole path segments wins. Where two integrations would do, none
//! does: a failed clone is better than another organisation's token.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::location::{HostPattern, Location, Place, is_azure_devops};
use super::path;
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

/// The integrations on one host and port. Kept small, since each of thousands of integrations may have a host of its own.
#[derive(Debug, Default)]
struct Host {
    /// Those that cover it whole.
    whole: Vec<Arc<ScmIntegration>>,
    /// Those that cover paths on it.
    paths: Option<Box<Paths>>,
}

/// The integrations on a host by the prefix that they cover: at least one segment, with a slash between two, which no segment has.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Vec<Arc<ScmIntegration>>>,
    /// Those whose prefix ignores case, under its lower case.
    folded: HashMap<Box<[u8]>, Vec<Arc<ScmIntegration>>>,
    deepest: usize,
}

impl IntegrationRegistry {
    /// Builds the table. Integrations that cover no place, or share an id without being the same, join the rejected ones.
    #[must_use]
    pub fn new(list: IntegrationList) -> Self {
        let IntegrationList { integrations, rejected } = list;
        let positions = positions(&rejected);
        let mut registry = Self { rejected, ..Self::default() };
        let contested = contested_ids(&integrations);
        for (position, integration) in positions.zip(integrations) {
            if contested.contains(&integration.id) {
                registry.reject(integration.id.clone(), position, "another integration has the same id".to_owned());
                continue;
            }
            if registry.by_id.contains_key(&integration.id) {
                // The same entry again: the list moved between two pages.
                continue;
            }
            let pattern = match HostPattern::parse(&integration) {
                Ok(pattern) => pattern,
                Err(error) => {
                    registry.reject(integration.id.clone(), position, error.to_string());
                    continue;
                }
            };
            registry.by_id.insert(integration.id.clone(), registry.integrations.len());
            registry.integrations.push(Arc::clone(&integration));
            registry.hosts.entry(pattern.key().clone()).or_default().insert(&pattern, integration);
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
        // A host that is registered itself is never taken for another one's gists.
        let Some(host) = self.hosts.get(&place.key) else { return self.for_gists(place) };
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

    /// The integrations that nobody can tell apart, since they cover the very same place: none of them answers.
    #[must_use]
    pub fn contested(&self) -> Vec<&[Arc<ScmIntegration>]> {
        let mut contested: Vec<&[Arc<ScmIntegration>]> = Vec::new();
        for host in self.hosts.values() {
            let paths = host.paths.iter().flat_map(|paths| paths.exact.values().chain(paths.folded.values()));
            contested.extend(std::iter::once(&host.whole).chain(paths).filter(|sharing| sharing.len() > 1).map(Vec::as_slice));
        }
        contested.sort_by(|a, b| a[0].id.cmp(&b[0].id));
        contested
    }

    /// GitHub serves gists from a host of their own, with the same credential: where it is covered whole, and goes by a name.
    fn for_gists(&self, place: &Place) -> Lookup {
        let (host, port) = &place.key;
        let named = |host: &&str| !host.starts_with("gist.") && host.parse::<Ipv4Addr>().is_err();
        let Some(github) = host.strip_prefix("gist.").filter(named) else { return Lookup::None };
        let whole = self.hosts.get(&(github.to_owned(), *port)).map(|host| host.whole.as_slice()).unwrap_or_default();
        verdict(whole.iter().filter(|integration| integration.scm_id == ScmId::GitHub).cloned().collect())
    }

    fn reject(&mut self, id: String, position: usize, reason: String) {
        self.rejected.push(RejectedIntegration { id: Some(id), position, reason });
    }
}

impl Host {
    fn insert(&mut self, pattern: &HostPattern, integration: Arc<ScmIntegration>) {
        let sharing = if pattern.depth() == 0 { &mut self.whole } else { self.paths.get_or_insert_default().sharing(pattern) };
        // Hardly ever do two share a place.
        sharing.reserve_exact(1);
        sharing.push(integration);
    }

    /// The integrations with the longest prefix of the place's segments; several when they share it.
    fn covering(&self, place: &Place) -> Vec<Arc<ScmIntegration>> {
        self.paths.as_ref().and_then(|paths| paths.covering(place)).unwrap_or_else(|| self.whole.clone())
    }

    /// The integrations that could be meant when more segments follow than git told.
    fn below(&self, place: &Place) -> Vec<Arc<ScmIntegration>> {
        self.paths.as_ref().map(|paths| paths.below(place)).unwrap_or_default()
    }
}

impl Paths {
    /// Those with the prefix of a pattern.
    fn sharing(&mut self, pattern: &HostPattern) -> &mut Vec<Arc<ScmIntegration>> {
        self.deepest = self.deepest.max(pattern.depth());
        let table = if pattern.ignores_case() { &mut self.folded } else { &mut self.exact };
        table.entry(pattern.prefix()).or_default()
    }

    fn covering(&self, place: &Place) -> Option<Vec<Arc<ScmIntegration>>> {
        let longest = place.segments.len().min(self.deepest);
        (1..=longest).rev().find_map(|depth| {
            let exact = self.exact.get(path::join(&place.segments[..depth]).as_slice()).into_iter().flatten();
            let folded = self.folded.get(path::join(&place.folded[..depth]).as_slice()).into_iter().flatten();
            let found: Vec<_> = exact.chain(folded).cloned().collect();
            (!found.is_empty()).then_some(found)
        })
    }

    fn below(&self, place: &Place) -> Vec<Arc<ScmIntegration>> {
        let known = place.segments.len();
        // Spares the walk through thousands of organisations when git told which one.
        if self.deepest <= known {
            return Vec::new();
        }
        let is_below = |prefix: &[u8], told: &[u8]| known == 0 || prefix.strip_prefix(told).is_some_and(|rest| rest.starts_with(b"/"));
        let (told, told_folded) = (path::join(&place.segments), path::join(&place.folded));
        let exact = self.exact.iter().filter(|(prefix, _)| is_below(prefix, &told));
        let folded = self.folded.iter().filter(|(prefix, _)| is_below(prefix, &told_folded));
        exact.chain(folded).flat_map(|(_, integrations)| integrations).cloned().collect()
    }
}

fn verdict(mut candidates: Vec<Arc<ScmIntegration>>) -> Lookup {
    if candidates.len() > 1 {
        candidates.sort_by(|a, b| a.id.cmp(&b.id));
        return Lookup::Ambiguous(candidates);
    }
    candidates.pop().map_or(Lookup::None, Lookup::Match)
}

/// The ids that entries share which are not the same.
fn contested_ids(integrations: &[Arc<ScmIntegration>]) -> HashSet<String> {
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
