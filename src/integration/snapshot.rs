//! What outlives the process: the last good list and the pins, as bytes for a [`SnapshotStore`] to seal and keep.
//!
//! Secrets are in it as the control plane sent them, as ciphertexts. The store proves that nobody else wrote the bytes, so
//! reading them back is strict: anything that does not fit is damage.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::pins::{Pins, Seal, Use};
use super::source::{IntegrationList, RejectedIntegration};
use super::{EncryptedClientSecret, OAuthApp, ScmId, ScmIntegration};

/// Where a snapshot rests. Calls block, so they are made on a blocking thread.
pub trait SnapshotStore: Send + Sync + 'static {
    /// What was saved last; `None` when nothing ever was.
    ///
    /// # Errors
    /// [`StoreError`] when it is there and cannot be used.
    fn load(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError>;

    /// Keeps this instead of what was saved before: all of it, or the old one stays.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be made durable.
    fn save(&self, snapshot: &[u8]) -> Result<(), StoreError>;

    /// Moves what cannot be used out of the way without deleting it; where to.
    ///
    /// # Errors
    /// [`StoreError`] when that fails.
    fn set_aside(&self) -> Result<String, StoreError>;
}

/// Why the store did not do what was asked, in a sentence that names the file and no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// Whether the file itself is bad, so that it is to be set aside; otherwise it could not be reached.
    pub damaged: bool,
    /// What happened.
    pub message: String,
}

/// A list and the pins, and how old they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When the source last said that the list is the current one. Whole seconds.
    pub confirmed_at: SystemTime,
    /// The list as it came, before the pins were held against it.
    pub list: IntegrationList,
    /// What is trusted.
    pub pins: Pins,
    /// Whose list it is: the list of another control plane or another runner is not used.
    pub scope: String,
}

/// The bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content is no list of integrations of this version (line {line}, column {column})")]
pub struct SnapshotError {
    /// Where reading stopped, from 1; 0 where the parts are readable and do not fit together.
    pub line: usize,
    /// Where reading stopped.
    pub column: usize,
}

impl Snapshot {
    /// The bytes to keep.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { confirmed_at, list, pins, scope } = self;
        let mut seals: Vec<(&[u8; 32], &Seal)> = pins.seals.iter().collect();
        seals.sort_by_key(|(_, seal)| seal.since);
        let document = Document {
            confirmed_at: confirmed_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            scope: scope.clone(),
            integrations: list.integrations.iter().map(Entry::of).collect(),
            rejected: list.rejected.iter().map(Rejected::of).collect(),
            seals: seals.into_iter().map(|(digest, seal)| SealEntry::of(digest, seal)).collect(),
            // Most definitions in force are the listed ones, which are trusted again when the list is read.
            trusted: {
                let listed: HashMap<&str, &ScmIntegration> = list.integrations.iter().map(|entry| (entry.id.as_str(), entry)).collect();
                let other = pins.trusted.values().filter(|trusted| listed.get(trusted.id.as_str()) != Some(&&***trusted));
                let mut other: Vec<Entry> = other.map(|trusted| Entry::of(trusted)).collect();
                other.sort_by(|a, b| a.id.cmp(&b.id));
                other
            },
        };
        // Cannot fail: the keys are text, and nothing in it refuses to be written.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Reads what [`Snapshot::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`], which tells where and never what.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| SnapshotError { line: error.line(), column: error.column() })?;
        let Document { confirmed_at, scope, integrations, rejected, seals, trusted } = document;
        let misfit = SnapshotError { line: 0, column: 0 };
        let list = IntegrationList {
            integrations: integrations.into_iter().map(Entry::into_integration).collect::<Option<_>>().ok_or(misfit)?,
            rejected: rejected.into_iter().map(Rejected::into_rejected).collect(),
        };
        let mut pins = Pins { seen: seals.iter().map(|seal| seal.since).max().unwrap_or_default(), ..Pins::default() };
        for seal in seals {
            let (digest, seal) = seal.into_seal().ok_or(misfit)?;
            pins.seals.insert(digest, seal);
        }
        for entry in trusted {
            let integration = entry.into_integration().ok_or(misfit)?;
            pins.trusted.insert(integration.id.clone(), Arc::new(integration));
        }
        let confirmed_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(confirmed_at)).ok_or(misfit)?;
        Ok(Self { confirmed_at, list, pins, scope })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    confirmed_at: u64,
    scope: String,
    integrations: Vec<Entry>,
    rejected: Vec<Rejected>,
    seals: Vec<SealEntry>,
    trusted: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    scm_id: String,
    host: String,
    oauth: Option<App>,
    pat: bool,
    runner_id: String,
    virtual_directory: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct App {
    client_id: String,
    encrypted_client_secret: String,
    issuer_url: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejected {
    id: Option<String>,
    position: usize,
    reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealEntry {
    digest: String,
    since: u64,
    uses: Vec<UseEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UseEntry {
    integration_id: String,
    scm_id: String,
    host: String,
    virtual_directory: String,
    client_id: String,
    issuer_url: String,
}

impl Entry {
    fn of(integration: &ScmIntegration) -> Self {
        let ScmIntegration { id, scm_id, host, oauth, pat, runner_id, virtual_directory } = integration;
        Self {
            id: id.clone(),
            scm_id: scm_id.as_str().to_owned(),
            host: host.clone(),
            oauth: oauth.as_ref().map(|OAuthApp { client_id, encrypted_client_secret, issuer_url }| App {
                client_id: client_id.clone(),
                encrypted_client_secret: STANDARD.encode(encrypted_client_secret.as_bytes()),
                issuer_url: issuer_url.clone(),
            }),
            pat: *pat,
            runner_id: runner_id.clone(),
            virtual_directory: virtual_directory.clone(),
        }
    }

    fn into_integration(self) -> Option<ScmIntegration> {
        let Self { id, scm_id, host, oauth, pat, runner_id, virtual_directory } = self;
        let oauth = match oauth {
            None => None,
            Some(App { client_id, encrypted_client_secret, issuer_url }) => {
                let ciphertext = STANDARD.decode(encrypted_client_secret).ok()?;
                Some(OAuthApp { client_id, encrypted_client_secret: EncryptedClientSecret::new(ciphertext), issuer_url })
            }
        };
        Some(ScmIntegration { id, scm_id: ScmId::from(scm_id.as_str()), host, oauth, pat, runner_id, virtual_directory })
    }
}

impl Rejected {
    fn of(rejected: &RejectedIntegration) -> Self {
        let RejectedIntegration { id, position, reason } = rejected;
        Self { id: id.clone(), position: *position, reason: reason.clone() }
    }

    fn into_rejected(self) -> RejectedIntegration {
        let Self { id, position, reason } = self;
        RejectedIntegration { id, position, reason }
    }
}

impl SealEntry {
    fn of(digest: &[u8; 32], seal: &Seal) -> Self {
        let uses = seal.uses.iter().map(|known| {
            let Use { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = known.clone();
            UseEntry { integration_id, scm_id, host, virtual_directory, client_id, issuer_url }
        });
        Self { digest: STANDARD.encode(digest), since: seal.since, uses: uses.collect() }
    }

    fn into_seal(self) -> Option<([u8; 32], Seal)> {
        let Self { digest, since, uses } = self;
        let uses = uses.into_iter().map(|known| {
            let UseEntry { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = known;
            Use { integration_id, scm_id, host, virtual_directory, client_id, issuer_url }
        });
        Some((STANDARD.decode(digest).ok()?.try_into().ok()?, Seal { since, uses: uses.collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integration(id: &str, oauth: Option<(&str, Option<&str>)>) -> ScmIntegration {
        ScmIntegration {
            id: id.to_owned(),
            scm_id: ScmId::from("azuredevops_server"),
            host: "scm.example.com:8443/tfs".to_owned(),
            oauth: oauth.map(|(client_id, issuer)| OAuthApp {
                client_id: client_id.to_owned(),
                encrypted_client_secret: EncryptedClientSecret::new(format!("{client_id}{id}").into_bytes()),
                issuer_url: issuer.map(str::to_owned),
            }),
            pat: oauth.is_none(),
            runner_id: "runner".to_owned(),
            virtual_directory: "/tfs".to_owned(),
        }
    }

    fn snapshot() -> Snapshot {
        let mut pins = Pins::default();
        let first = [integration("a", Some(("client", Some("https://login.example.com")))), integration("b", Some(("\u{e9}", None)))];
        pins.admit(IntegrationList { integrations: first.to_vec(), rejected: Vec::new() });
        let mut moved = first[1].clone();
        moved.host = "moved.example.com".to_owned();
        let list = IntegrationList {
            integrations: vec![moved, integration("c", None)],
            rejected: vec![RejectedIntegration { id: None, position: 7, reason: "host is missing".to_owned() }],
        };
        assert_eq!(pins.admit(list.clone()).quarantined.len(), 1);
        Snapshot { confirmed_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), list, pins, scope: "cp/runner".to_owned() }
    }

    #[test]
    fn what_is_read_back_admits_and_holds_back_the_same() {
        let written = snapshot();
        let mut read = Snapshot::from_bytes(&written.to_bytes()).unwrap();
        assert_eq!((read.confirmed_at, &read.list, &read.scope), (written.confirmed_at, &written.list, &written.scope));
        assert_eq!(read.pins.seals, written.pins.seals);
        let admitted = |pins: &mut Pins| {
            let admission = pins.admit(written.list.clone());
            (admission.list, admission.quarantined)
        };
        assert_eq!(admitted(&mut read.pins), admitted(&mut written.pins.clone()));
        assert_eq!(read.pins, written.pins, "the definitions in force are those of before");
    }

    #[test]
    fn what_is_no_snapshot_is_said_to_be_none_without_its_content() {
        let good = snapshot().to_bytes();
        for cut in 0..good.len() {
            let error = Snapshot::from_bytes(&good[..cut]).unwrap_err();
            assert!(!error.to_string().contains("example"), "{error}");
        }
        let text = String::from_utf8(good).unwrap();
        let canary = text.replace("\"scope\"", "\"canary\"");
        assert!(!Snapshot::from_bytes(canary.as_bytes()).unwrap_err().to_string().contains("canary"));
        let not_base64 = text.replace("\"encrypted_client_secret\":\"", "\"encrypted_client_secret\":\"!");
        assert_eq!(Snapshot::from_bytes(not_base64.as_bytes()), Err(SnapshotError { line: 0, column: 0 }));
        let late = text.replace("1700000000", "18446744073709551615");
        assert_eq!(Snapshot::from_bytes(late.as_bytes()), Err(SnapshotError { line: 0, column: 0 }));
    }
}
