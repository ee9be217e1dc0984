//! First-use pins: a ciphertext stays with the integration, the host, the issuer and the client id that it first came with.
//!
//! A ciphertext says nothing of where its secret may be sent. Whoever controls the control plane could keep a real one and name an
//! issuer of their own beside it, and the agent would open the secret and send it there. So what is said about a ciphertext
//! when it is first seen is remembered, and anything else that is said about it later is held back until an operator accepts it.
//! What was trusted before goes on meanwhile. A new ciphertext brings no risk of that kind: only who knows the secret can make one.

use std::collections::{HashMap, HashSet};
use std::ops::Not as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::location::Location;
use super::registry::{IntegrationRegistry, Lookup};
use super::source::IntegrationList;
use super::{EncryptedClientSecret, ScmIntegration};

/// How many ciphertexts are remembered that the list has no more.
const MAX_PAST_SEALS: usize = 20_000;

/// How long each of them is remembered at least. When younger ones fill the memory, new ciphertexts are held back instead: whoever
/// controls the control plane could otherwise have the agent forget a secret by sending thousands of others.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many bytes of text are kept of those, to show what changed. The marks that decide stay without it.
const MAX_PAST_TEXT_BYTES: usize = 512 * 1024;

/// How many things may be trusted of one ciphertext.
const MAX_USES: usize = 16;

/// What stands for a text that was not kept.
const NOT_KNOWN: &str = "(no longer known)";

/// SHA-256 of a ciphertext.
pub(super) type CiphertextDigest = [u8; 32];

/// What has been trusted so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pins {
    pub(super) seals: HashMap<CiphertextDigest, Seal>,
    /// The definitions in force, by the integration's id.
    pub(super) trusted: HashMap<String, Arc<ScmIntegration>>,
}

/// A ciphertext that was seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    /// When the list had it no more; `None` while it does.
    pub(super) gone_at: Option<SystemTime>,
    /// What it is trusted for: what it first came with, and what an operator accepted since.
    pub(super) uses: Vec<Trusted>,
}

/// One thing that a ciphertext is trusted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trusted {
    /// SHA-256 of it: what decides.
    pub(super) mark: [u8; 32],
    /// The same in words, to show what changed; of a ciphertext of the past it may be missing.
    pub(super) text: Option<Use>,
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
    /// How many ciphertexts of the past were forgotten to make room.
    pub forgotten: usize,
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
    /// Names this very proposal: whoever accepts it accepts no other one that came in between. 32 hexadecimal digits.
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
    pub fn admit(&mut self, list: IntegrationList, now: SystemTime) -> Admission {
        let IntegrationList { integrations, rejected } = list;
        let listed: HashSet<&str> = integrations.iter().map(|integration| integration.id.as_str()).collect();
        let unreadable: HashSet<&str> = rejected.iter().filter_map(|entry| entry.id.as_deref()).collect();
        let lives = |id: &str| listed.contains(id) || unreadable.contains(id);
        let in_force = self.trusted.iter().filter(|(id, _)| lives(id)).map(|(_, trusted)| trusted);
        let current = integrations.iter().chain(in_force).filter_map(|integration| ciphertext(integration)).map(digest);
        let current: HashSet<CiphertextDigest> = current.collect();
        let forgotten = self.leave_behind(&current, now);
        self.trusted.retain(|id, _| lives(id));
        // A clock that was set back makes nothing old.
        let is_recent =
            |seal: &&Seal| seal.gone_at.is_some_and(|gone_at| now.duration_since(gone_at).is_ok_and(|age| age > REMEMBERED).not());
        let is_full = self.seals.values().filter(is_recent).count() >= MAX_PAST_SEALS;
        let (mut admitted, mut quarantined) = (Vec::with_capacity(integrations.len()), Vec::new());
        for integration in integrations {
            let changes = self.changes(&integration, is_full);
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
        Admission { forgotten, list: IntegrationList { integrations: admitted, rejected }, quarantined }
    }

    /// Accepts what was held back, instead of whatever was trusted of the same ciphertext under the same id; the next
    /// [`Pins::admit`] lets it through. The way back is another change.
    pub fn accept(&mut self, quarantined: &Quarantined) {
        let Some(secret) = ciphertext(&quarantined.proposed) else { return };
        let wanted = Use::of(&quarantined.proposed);
        let seal = self.seals.entry(digest(secret)).or_default();
        let before = self.trusted.get(&wanted.integration_id).map(|trusted| Use::of(trusted).mark());
        let same_id = |known: &Trusted| known.text.as_ref().is_some_and(|text| text.integration_id == wanted.integration_id);
        seal.uses.retain(|known| Some(known.mark) != before && !same_id(known));
        if seal.uses.len() == MAX_USES {
            seal.uses.remove(0);
        }
        seal.uses.push(wanted.trusted());
    }

    /// What differs from what the integration's ciphertext is trusted for; nothing for one that is new, or without a ciphertext.
    fn changes(&self, integration: &ScmIntegration, is_full: bool) -> Vec<FieldChange> {
        let Some(secret) = ciphertext(integration) else { return Vec::new() };
        let Some(seal) = self.seals.get(&digest(secret)) else {
            let change = FieldChange {
                field: "oauth.encryptedClientSecret",
                proposed: "a new secret, after too many others in too short a time".to_owned(),
                trusted: String::new(),
            };
            return if is_full { vec![change] } else { Vec::new() };
        };
        let found = Use::of(integration);
        if seal.trusts(&found.mark()) {
            return Vec::new();
        }
        // What was trusted under the same id says the most about what has changed.
        let in_force = self.trusted.values().map(|trusted| Use::of(trusted)).filter(|known| seal.trusts(&known.mark()));
        let mut known: Vec<Use> = seal.uses.iter().rev().filter_map(|known| known.text.clone()).chain(in_force).collect();
        known.sort_by_key(|known| known.integration_id != found.integration_id);
        known.first().map_or_else(|| found.all_changed(), |known| known.differences(&found))
    }

    fn trust_definition(&mut self, integration: &Arc<ScmIntegration>) {
        if let Some(secret) = ciphertext(integration) {
            let seal = self.seals.entry(digest(secret)).or_default();
            let mark = Use::of(integration).mark();
            match seal.uses.iter_mut().find(|known| known.mark == mark) {
                // The definition in force has the words.
                Some(known) => known.text = None,
                None => seal.uses.push(Trusted { mark, text: None }),
            }
        }
        if let Some(replaced) = self.trusted.insert(integration.id.clone(), Arc::clone(integration))
            && ciphertext(&replaced) != ciphertext(integration)
        {
            self.keep_words(&replaced);
        }
    }

    /// Keeps the words of a definition that is about to be trusted no more with its ciphertext.
    fn keep_words(&mut self, definition: &ScmIntegration) {
        let Some(seal) = ciphertext(definition).and_then(|secret| self.seals.get_mut(&digest(secret))) else { return };
        let text = Use::of(definition);
        let mark = text.mark();
        if let Some(known) = seal.uses.iter_mut().find(|known| known.mark == mark) {
            known.text = Some(text);
        }
    }

    /// Notes which ciphertexts the list has no more, and forgets the oldest of the past if there are too many; how many.
    fn leave_behind(&mut self, current: &HashSet<CiphertextDigest>, now: SystemTime) -> usize {
        // The words go with the definitions, so those of what leaves now are kept first.
        let leaves = |trusted: &&Arc<ScmIntegration>| ciphertext(trusted).is_some_and(|secret| !current.contains(&digest(secret)));
        let leaving: Vec<Arc<ScmIntegration>> = self.trusted.values().filter(leaves).map(Arc::clone).collect();
        leaving.iter().for_each(|trusted| self.keep_words(trusted));
        let mut past: Vec<(SystemTime, CiphertextDigest)> = Vec::new();
        for (digest, seal) in &mut self.seals {
            if current.contains(digest) {
                seal.gone_at = None;
            } else {
                past.push((*seal.gone_at.get_or_insert(now), *digest));
            }
        }
        past.sort_unstable_by(|a, b| b.cmp(a));
        let mut text_bytes = 0;
        let mut forgotten = 0;
        for (index, (gone_at, digest)) in past.into_iter().enumerate() {
            if index >= MAX_PAST_SEALS && now.duration_since(gone_at).is_ok_and(|age| age > REMEMBERED) {
                self.seals.remove(&digest);
                forgotten += 1;
                continue;
            }
            let Some(seal) = self.seals.get_mut(&digest) else { continue };
            text_bytes += seal.uses.iter().filter_map(|known| known.text.as_ref()).map(Use::bytes).sum::<usize>();
            if text_bytes > MAX_PAST_TEXT_BYTES {
                seal.uses.iter_mut().for_each(|known| known.text = None);
            }
        }
        forgotten
    }
}

impl Seal {
    fn trusts(&self, mark: &[u8; 32]) -> bool {
        self.uses.iter().any(|known| known.mark == *mark)
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

    /// Each part under the API's name. Taken apart one by one, so that a new one cannot be left out.
    fn fields(&self) -> [(&'static str, &str); 6] {
        let Self { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = self;
        [
            ("id", integration_id),
            ("scmId", scm_id),
            ("host", host),
            ("virtualDirectory", virtual_directory),
            ("oauth.clientId", client_id),
            ("oauth.issuerUrl", issuer_url),
        ]
    }

    fn mark(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (_, part) in self.fields() {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn trusted(self) -> Trusted {
        Trusted { mark: self.mark(), text: Some(self) }
    }

    fn bytes(&self) -> usize {
        self.fields().iter().map(|(_, part)| part.len()).sum()
    }

    fn differences(&self, found: &Self) -> Vec<FieldChange> {
        let pairs = self.fields().into_iter().zip(found.fields());
        let differing = pairs.filter(|((_, trusted), (_, proposed))| trusted != proposed);
        differing
            .map(|((field, trusted), (_, proposed))| FieldChange { field, proposed: proposed.to_owned(), trusted: trusted.to_owned() })
            .collect()
    }

    /// For a ciphertext of which only marks are left.
    fn all_changed(&self) -> Vec<FieldChange> {
        let told = self.fields().into_iter().filter(|(_, proposed)| !proposed.is_empty());
        told.map(|(field, proposed)| FieldChange { field, proposed: proposed.to_owned(), trusted: NOT_KNOWN.to_owned() }).collect()
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

/// A name for exactly this definition, long enough that no two can be made to share it.
fn fingerprint(integration: &ScmIntegration) -> String {
    let mut hash = Sha256::new();
    hash.update(Use::of(integration).mark());
    hash.update(ciphertext(integration).map(EncryptedClientSecret::as_bytes).unwrap_or_default());
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
