//! What outlives the process: the last good list and the pins, as bytes for a [`SnapshotStore`] to seal and keep.
//!
//! Secrets are in it as the control plane sent them, as ciphertexts. The store proves that nobody else wrote the bytes, so
//! reading them back is strict: anything that does not fit is damage.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::pins::{Pins, Seal, Trusted, Use};
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
    fn save(&self, snapshot: Vec<u8>) -> Result<(), StoreError>;

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

/// Room that is left at the end of the bytes, for a store that seals them in place.
const SPARE_BYTES: usize = 256;

impl Snapshot {
    /// The bytes to keep.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { confirmed_at, list, pins, scope } = self;
        Self::write(*confirmed_at, list, pins, scope)
    }

    /// The bytes of a snapshot that is made of these parts.
    #[must_use]
    pub fn write(confirmed_at: SystemTime, list: &IntegrationList, pins: &Pins, scope: &str) -> Vec<u8> {
        let mut seals: Vec<SealEntry<'_>> = pins.seals.iter().map(|(digest, seal)| SealEntry::of(digest, seal)).collect();
        seals.sort_unstable_by(|a, b| (a.gone_at, &a.digest.0).cmp(&(b.gone_at, &b.digest.0)));
        let document = Document {
            confirmed_at: unix_seconds(confirmed_at),
            scope: Cow::Borrowed(scope),
            integrations: list.integrations.iter().map(|integration| Entry::of(integration)).collect(),
            rejected: list.rejected.iter().map(Rejected::of).collect(),
            seals,
            // Most definitions in force are the listed ones, which are trusted again when the list is read.
            trusted: {
                let listed: HashMap<&str, &ScmIntegration> = list.integrations.iter().map(|entry| (entry.id.as_str(), &**entry)).collect();
                let other = pins.trusted.values().filter(|trusted| listed.get(trusted.id.as_str()) != Some(&&***trusted));
                let mut other: Vec<Entry<'_>> = other.map(|trusted| Entry::of(trusted)).collect();
                other.sort_by(|a, b| a.id.cmp(&b.id));
                other
            },
        };
        // Counted first and allocated once: the bytes can be megabytes, and growing doubles them.
        let mut size = Counter(SPARE_BYTES);
        // Neither call can fail: the keys are text, nothing refuses to be written, and neither writer does.
        let _ = serde_json::to_writer(&mut size, &document);
        let mut bytes = Vec::with_capacity(size.0);
        let _ = serde_json::to_writer(&mut bytes, &document);
        bytes
    }

    /// Reads what [`Snapshot::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`], which tells where and never what.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let document: Document<'_> =
            serde_json::from_slice(bytes).map_err(|error| SnapshotError { line: error.line(), column: error.column() })?;
        let Document { confirmed_at, scope, integrations, rejected, seals, trusted } = document;
        let misfit = SnapshotError { line: 0, column: 0 };
        let list = IntegrationList {
            integrations: integrations.into_iter().map(|entry| Arc::new(entry.into_integration())).collect(),
            rejected: rejected.into_iter().map(Rejected::into_rejected).collect(),
        };
        let mut pins = Pins::default();
        for seal in seals {
            let (digest, seal) = seal.into_seal().ok_or(misfit)?;
            pins.seals.insert(digest, seal);
        }
        for entry in trusted {
            let integration = entry.into_integration();
            pins.trusted.insert(integration.id.clone(), Arc::new(integration));
        }
        let confirmed_at = system_time(confirmed_at).ok_or(misfit)?;
        Ok(Self { confirmed_at, list, pins, scope: scope.into_owned() })
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn system_time(unix_seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_seconds))
}

/// Counts what is written to it.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    confirmed_at: u64,
    scope: Cow<'a, str>,
    #[serde(borrow)]
    integrations: Vec<Entry<'a>>,
    #[serde(borrow)]
    rejected: Vec<Rejected<'a>>,
    #[serde(borrow)]
    seals: Vec<SealEntry<'a>>,
    #[serde(borrow)]
    trusted: Vec<Entry<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    id: Cow<'a, str>,
    scm_id: Cow<'a, str>,
    host: Cow<'a, str>,
    #[serde(borrow)]
    oauth: Option<App<'a>>,
    pat: bool,
    runner_id: Cow<'a, str>,
    virtual_directory: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct App<'a> {
    client_id: Cow<'a, str>,
    encrypted_client_secret: Bytes<'a>,
    issuer_url: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejected<'a> {
    id: Option<Cow<'a, str>>,
    position: usize,
    reason: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealEntry<'a> {
    digest: Bytes<'a>,
    gone_at: Option<u64>,
    #[serde(borrow)]
    uses: Vec<TrustedEntry<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustedEntry<'a> {
    mark: Bytes<'a>,
    #[serde(borrow)]
    text: Option<UseEntry<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UseEntry<'a> {
    integration_id: Cow<'a, str>,
    scm_id: Cow<'a, str>,
    host: Cow<'a, str>,
    virtual_directory: Cow<'a, str>,
    client_id: Cow<'a, str>,
    issuer_url: Cow<'a, str>,
}

/// Bytes, as base64 in the document.
struct Bytes<'a>(Cow<'a, [u8]>);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Bytes<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self(Cow::Owned(bytes)))
    }
}

impl<'a> Entry<'a> {
    fn of(integration: &'a ScmIntegration) -> Self {
        let ScmIntegration { id, scm_id, host, oauth, pat, runner_id, virtual_directory } = integration;
        Self {
            id: Cow::Borrowed(id),
            scm_id: Cow::Borrowed(scm_id.as_str()),
            host: Cow::Borrowed(host),
            oauth: oauth.as_ref().map(|OAuthApp { client_id, encrypted_client_secret, issuer_url }| App {
                client_id: Cow::Borrowed(client_id),
                encrypted_client_secret: Bytes(Cow::Borrowed(encrypted_client_secret.as_bytes())),
                issuer_url: issuer_url.as_deref().map(Cow::Borrowed),
            }),
            pat: *pat,
            runner_id: Cow::Borrowed(runner_id),
            virtual_directory: Cow::Borrowed(virtual_directory),
        }
    }

    fn into_integration(self) -> ScmIntegration {
        let Self { id, scm_id, host, oauth, pat, runner_id, virtual_directory } = self;
        let oauth = oauth.map(|App { client_id, encrypted_client_secret: Bytes(ciphertext), issuer_url }| OAuthApp {
            client_id: client_id.into_owned(),
            encrypted_client_secret: EncryptedClientSecret::new(ciphertext.into_owned()),
            issuer_url: issuer_url.map(Cow::into_owned),
        });
        ScmIntegration {
            id: id.into_owned(),
            scm_id: ScmId::from(&*scm_id),
            host: host.into_owned(),
            oauth,
            pat,
            runner_id: runner_id.into_owned(),
            virtual_directory: virtual_directory.into_owned(),
        }
    }
}

impl<'a> Rejected<'a> {
    fn of(rejected: &'a RejectedIntegration) -> Self {
        let RejectedIntegration { id, position, reason } = rejected;
        Self { id: id.as_deref().map(Cow::Borrowed), position: *position, reason: Cow::Borrowed(reason) }
    }

    fn into_rejected(self) -> RejectedIntegration {
        let Self { id, position, reason } = self;
        RejectedIntegration { id: id.map(Cow::into_owned), position, reason: reason.into_owned() }
    }
}

impl<'a> SealEntry<'a> {
    fn of(digest: &'a [u8; 32], seal: &'a Seal) -> Self {
        let uses = seal
            .uses
            .iter()
            .map(|Trusted { mark, text }| TrustedEntry { mark: Bytes(Cow::Borrowed(mark)), text: text.as_ref().map(UseEntry::of) });
        Self { digest: Bytes(Cow::Borrowed(digest)), gone_at: seal.gone_at.map(unix_seconds), uses: uses.collect() }
    }

    fn into_seal(self) -> Option<([u8; 32], Seal)> {
        let Self { digest: Bytes(digest), gone_at, uses } = self;
        let trusted = |TrustedEntry { mark: Bytes(mark), text }: TrustedEntry<'_>| {
            Some(Trusted { mark: (*mark).try_into().ok()?, text: text.map(UseEntry::into_use) })
        };
        let gone_at = match gone_at {
            None => None,
            Some(seconds) => Some(system_time(seconds)?),
        };
        Some(((*digest).try_into().ok()?, Seal { gone_at, uses: uses.into_iter().map(trusted).collect::<Option<_>>()? }))
    }
}

impl<'a> UseEntry<'a> {
    fn of(known: &'a Use) -> Self {
        let Use { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = known;
        Self {
            integration_id: Cow::Borrowed(integration_id),
            scm_id: Cow::Borrowed(scm_id),
            host: Cow::Borrowed(host),
            virtual_directory: Cow::Borrowed(virtual_directory),
            client_id: Cow::Borrowed(client_id),
            issuer_url: Cow::Borrowed(issuer_url),
        }
    }

    fn into_use(self) -> Use {
        let Self { integration_id, scm_id, host, virtual_directory, client_id, issuer_url } = self;
        Use {
            integration_id: integration_id.into_owned(),
            scm_id: scm_id.into_owned(),
            host: host.into_owned(),
            virtual_directory: virtual_directory.into_owned(),
            client_id: client_id.into_owned(),
            issuer_url: issuer_url.into_owned(),
        }
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

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_500)
    }

    fn snapshot() -> Snapshot {
        let mut pins = Pins::default();
        let first = [integration("a", Some(("client", Some("https://login.example.com")))), integration("b", Some(("\u{e9}", None)))];
        pins.admit(IntegrationList { integrations: first.iter().cloned().map(Arc::new).collect(), rejected: Vec::new() }, now());
        let mut moved = first[1].clone();
        moved.host = "moved.example.com".to_owned();
        let list = IntegrationList {
            integrations: vec![Arc::new(moved), Arc::new(integration("c", None))],
            rejected: vec![RejectedIntegration { id: None, position: 7, reason: "host is missing".to_owned() }],
        };
        assert_eq!(pins.admit(list.clone(), now()).quarantined.len(), 1);
        Snapshot { confirmed_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), list, pins, scope: "cp/runner".to_owned() }
    }

    #[test]
    fn what_is_read_back_admits_and_holds_back_the_same() {
        let written = snapshot();
        let mut read = Snapshot::from_bytes(&written.to_bytes()).unwrap();
        assert_eq!((read.confirmed_at, &read.list, &read.scope), (written.confirmed_at, &written.list, &written.scope));
        assert_eq!(read.pins.seals, written.pins.seals);
        let admitted = |pins: &mut Pins| {
            let admission = pins.admit(written.list.clone(), now());
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
        assert!(!Snapshot::from_bytes(not_base64.as_bytes()).unwrap_err().to_string().contains('!'));
        let short = text.replacen("\"digest\":\"", "\"digest\":\"AAAA", 1);
        assert_eq!(Snapshot::from_bytes(short.as_bytes()), Err(SnapshotError { line: 0, column: 0 }));
        let late = text.replace("1700000000", "18446744073709551615");
        assert_eq!(Snapshot::from_bytes(late.as_bytes()), Err(SnapshotError { line: 0, column: 0 }));
    }
}
