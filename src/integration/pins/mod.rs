//! First-use pins: a ciphertext stays with the integration, the host, the issuer and the client id that it first came with.
//!
//! A ciphertext says nothing of where its secret may be sent. Whoever controls the control plane could keep a real one and name an
//! issuer of their own beside it, and the agent would open the secret and send it there. So what is said about a ciphertext
//! when it is first seen is remembered, and anything else that is said about it later is held back until an operator accepts it.
//! What was trusted before goes on meanwhile. A new ciphertext brings no risk of that kind: only who knows the secret can make one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::location::Location;
use super::registry::{IntegrationRegistry, Lookup};
use super::source::IntegrationList;
use super::{EncryptedClientSecret, ScmIntegration};

/// How many ciphertexts are remembered beyond those of the current list, and how many bytes may be known of them. The oldest go first.
const MAX_PAST_SEALS: usize = 5_000;
const MAX_PAST_BYTES: usize = 2 * 1024 * 1024;

/// How many things may be trusted of one ciphertext.
const MAX_USES: usize = 16;

/// SHA-256 of a ciphertext.
pub(super) type CiphertextDigest = [u8; 32];

/// What has been trusted so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pins {
    pub(super) seals: HashMap<CiphertextDigest, Seal>,
    /// The definitions in force, by the integration's id.
    pub(super) trusted: HashMap<String, Arc<ScmIntegration>>,
    pub(super) seen: u64,
}

/// A ciphertext that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    /// Its number in the order of first sight.
    pub(super) since: u64,
    /// What it is trusted for: what it first came with, and what an operator accepted since.
    pub(super) uses: Vec<Use>,
}

/// What a ciphertext is for: every part of an integration that decides where its secret or its tokens go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) integration_id: String,
    pub(super) scm_id: String,
    pub(super) host: String,
    pub(super) virtual_directory: String,
    pub(super) client_id: String,
    pub(super) issuer_url: String,
}

/// A list after the pins have been held against it.
#[derive(Debug)]
pub struct Admission {
    /// What may be used: trusted definitions in the place of those held back.
    pub list: IntegrationList,
    /// What is held back.
    pub quarantined: Vec<Quarantined>,
}

/// An integration whose definition is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// What differs from what its ciphertext was trusted for.
    pub changes: Vec<FieldChange>,
    /// Names this very proposal: whoever accepts it accepts no other one that came in between. 16 hexadecimal digits.
    pub change: String,
    /// What the control plane says now.
    pub proposed: Arc<ScmIntegration>,
    /// What stays in use; `None` where nothing was trusted under this id.
    pub trusted: Option<Arc<ScmIntegration>>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field as the API spells it.
    pub field: &'static str,
    /// What it is now, as the control plane says; empty where it says nothing.
    pub proposed: String,
    /// What it was when the ciphertext was trusted.
    pub trusted: String,
}

/// Everything that is held back, and the hosts that it would serve.
#[derive(Debug, Default)]
pub struct Quarantine {
    entries: Vec<Quarantined>,
    waiting: IntegrationRegistry,
}

impl Pins {
    /// Holds a new list against what was trusted, and trusts what is seen for the first time.
    pub fn admit(&mut self, list: IntegrationList) -> Admission {
        let IntegrationList { integrations, rejected } = list;
        let listed: HashSet<&str> = integrations.iter().map(|integration| integration.id.as_str()).collect();
        let unreadable: HashSet<&str> = rejected.iter().filter_map(|entry| entry.id.as_deref()).collect();
        self.trusted.retain(|id, _| listed.contains(id.as_str()) || unreadable.contains(id.as_str()));
        let current: HashSet<CiphertextDigest> =
            integrations.iter().filter_map(|integration| ciphertext(integration)).map(digest).collect();
        let (mut admitted, mut quarantined) = (Vec::with_capacity(integrations.len()), Vec::new());
        for integration in integrations {
            let changes = self.changes(&integration);
            if changes.is_empty() {
                self.trust_definition(&integration);
                admitted.push(integration);
                continue;
            }
            let trusted = self.trusted.get(&integration.id).map(|trusted| match trusted.pat && !integration.pat {
                // A switch that is off now is off at once: taking something away needs nobody's trust.
                true => Arc::new(ScmIntegration { pat: false, ..ScmIntegration::clone(trusted) }),
                false => Arc::clone(trusted),
            });
            admitted.extend(trusted.clone());
            quarantined.push(Quarantined { changes, change: fingerprint(&integration), proposed: integration, trusted });
        }
        self.forget_oldest(&current);
        Admission { list: IntegrationList { integrations: admitted, rejected }, quarantined }
    }

    /// Accepts what was held back; the next [`Pins::admit`] lets it through.
    pub fn accept(&mut self, quarantined: &Quarantined) {
        let Some(secret) = ciphertext(&quarantined.proposed) else { return };
        let wanted = Use::of(&quarantined.proposed);
        let seal = self.seal(digest(secret));
        if !seal.uses.contains(&wanted) {
            if seal.uses.len() == MAX_USES {
                seal.uses.remove(0);
            }
            seal.uses.push(wanted);
        }
    }

    /// What differs from what the integration's ciphertext is trusted for; nothing for one that is new, or without a ciphertext.
    fn changes(&self, integration: &ScmIntegration) -> Vec<FieldChange> {
        let Some(seal) = ciphertext(integration).and_then(|secret| self.seals.get(&digest(secret))) else { return Vec::new() };
        let found = Use::of(integration);
        if seal.uses.contains(&found) {
            return Vec::new();
        }
        // The latest of what was trusted under the same id says the most about what has changed.
        let same_id = seal.uses.iter().rev().find(|known| known.integration_id == found.integration_id);
        same_id.or(seal.uses.last()).map(|known| known.differences(&found)).unwrap_or_default()
    }

    fn trust_definition(&mut self, integration: &Arc<ScmIntegration>) {
        if let Some(secret) = ciphertext(integration) {
            let seal = self.seal(digest(secret));
            if seal.uses.is_empty() {
                seal.uses.push(Use::of(integration));
            }
        }
        self.trusted.insert(integration.id.clone(), Arc::clone(integration));
    }

    fn seal(&mut self, digest: CiphertextDigest) -> &mut Seal {
        let seen = &mut self.seen;
        self.seals.entry(digest).or_insert_with(|| {
            *seen += 1;
            Seal { since: *seen, uses: Vec::new() }
        })
    }

    fn forget_oldest(&mut self, current: &HashSet<CiphertextDigest>) {
        let in_force: HashSet<CiphertextDigest> = self.trusted.values().filter_map(|trusted| ciphertext(trusted)).map(digest).collect();
        let is_past = |digest: &CiphertextDigest| !current.contains(digest) && !in_force.contains(digest);
        let past = self.seals.iter().filter(|(digest, _)| is_past(digest));
        let mut past: Vec<(u64, CiphertextDigest, usize)> = past.map(|(digest, seal)| (seal.since, *digest, seal.bytes())).collect();
        past.sort_unstable_by_key(|(since, ..)| std::cmp::Reverse(*since));
        let mut bytes = 0;
        for (index, (_, digest, size)) in past.iter().enumerate() {
            bytes += size;
            if index >= MAX_PAST_SEALS || bytes > MAX_PAST_BYTES {
                self.seals.remove(digest);
            }
        }
    }
}

impl Seal {
    fn bytes(&self) -> usize {
        let size = |known: &Use| {
            let Use { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = known;
            [integration_id, scm_id, host, virtual_directory, client_id, issuer_url].iter().map(|text| text.len()).sum::<usize>()
        };
        self.uses.iter().map(size).sum()
    }
}

impl Use {
    fn of(integration: &ScmIntegration) -> Self {
        let oauth = integration.oauth.as_ref();
        Self {
            integration_id: integration.id.clone(),
            scm_id: integration.scm_id.as_str().to_owned(),
            host: integration.host.clone(),
            virtual_directory: integration.virtual_directory.clone(),
            client_id: oauth.map(|app| app.client_id.clone()).unwrap_or_default(),
            issuer_url: oauth.and_then(|app| app.issuer_url.clone()).unwrap_or_default(),
        }
    }

    fn differences(&self, found: &Self) -> Vec<FieldChange> {
        // Named one by one, so that a new field cannot be left out.
        let Self { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = self;
        let fields = [
            ("id", integration_id, &found.integration_id),
            ("scmId", scm_id, &found.scm_id),
            ("host", host, &found.host),
            ("virtualDirectory", virtual_directory, &found.virtual_directory),
            ("oauth.clientId", client_id, &found.client_id),
            ("oauth.issuerUrl", issuer_url, &found.issuer_url),
        ];
        let differing = fields.into_iter().filter(|(_, trusted, proposed)| trusted != proposed);
        differing.map(|(field, trusted, proposed)| FieldChange { field, proposed: proposed.clone(), trusted: trusted.clone() }).collect()
    }
}

impl Quarantine {
    /// Arranges what is held back.
    #[must_use]
    pub fn new(entries: Vec<Quarantined>) -> Self {
        let waiting = entries.iter().filter(|entry| entry.trusted.is_none()).map(|entry| Arc::clone(&entry.proposed));
        let waiting = IntegrationRegistry::new(IntegrationList { integrations: waiting.collect(), rejected: Vec::new() });
        Self { entries, waiting }
    }

    /// What is held back, in the order of the list.
    #[must_use]
    pub fn entries(&self) -> &[Quarantined] {
        &self.entries
    }

    /// What is held back under an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Quarantined> {
        self.entries.iter().find(|entry| entry.proposed.id == id)
    }

    /// An integration that would serve a place if it were trusted.
    #[must_use]
    pub fn for_host(&self, location: &Location) -> Option<Arc<ScmIntegration>> {
        match self.waiting.for_host(location) {
            Lookup::Ambiguous(several) => several.into_iter().next(),
            Lookup::Match(integration) => Some(integration),
            Lookup::None => None,
        }
    }
}

fn ciphertext(integration: &ScmIntegration) -> Option<&EncryptedClientSecret> {
    integration.oauth.as_ref().map(|app| &app.encrypted_client_secret).filter(|secret| !secret.is_empty())
}

fn digest(secret: &EncryptedClientSecret) -> CiphertextDigest {
    Sha256::digest(secret.as_bytes()).into()
}

/// A short name for exactly this definition.
fn fingerprint(integration: &ScmIntegration) -> String {
    let Use { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = Use::of(integration);
    let mut hash = Sha256::new();
    for part in [integration_id, scm_id, host, virtual_directory, client_id, issuer_url] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(ciphertext(integration).map(EncryptedClientSecret::as_bytes).unwrap_or_default());
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
