//! The format of a sealed row: a header in clear, the ciphertext, its tag.
//!
//! ```text
//!  1 byte   version: 1 of a grant's, 2 of a manifest
//!  8 bytes  generation: which commit of the database wrote it, little-endian
//! 12 bytes  nonce
//!  n bytes  ciphertext: AES-256-GCM-SIV (RFC 8452) under the data key
//! 16 bytes  tag, over the ciphertext and the associated data: what the row is for, the version, the row's id, the generation
//! ```
//!
//! A manifest of version 1 does not say who wrote it; it is read, and written no more. A later format of any row is a later version of the
//! manifest: nobody but who can seal one says what the grants are to look like.
//!
//! So a row opens in its own place and as of its own commit only. Its id is a keyed digest of what it is about, and tells nobody else
//! who has grants where.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::secret::StateKey;
use crate::state::{FORMAT, StateKeys};
use crate::store::{GrantKey, Origin};

const GENERATION_BYTES: usize = size_of::<u64>();
const HEADER_BYTES: usize = 1 + GENERATION_BYTES + NONCE_LEN;

/// What a sealed row is longer than its content.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + MAX_TAG_LEN;

/// Which row: a keyed digest.
pub(super) type RowId = [u8; 32];

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Grant,
    Manifest,
}

impl Purpose {
    /// The version that is written. Those before it are read.
    pub(super) fn version(self) -> u8 {
        match self {
            Self::Grant => 1,
            Self::Manifest => FORMAT,
        }
    }

    fn label(self) -> &'static [u8] {
        match self {
            Self::Grant => b"scm-agent-store grant",
            Self::Manifest => b"scm-agent-store manifest",
        }
    }
}

/// The key that all rows are sealed with. It rests in a file of its own, sealed for the runner's keys.
#[derive(Debug)]
pub(super) struct DataKey(StateKey);

impl DataKey {
    /// A new one. `None` if the system has no random numbers.
    pub(super) fn generate() -> Option<Self> {
        StateKey::filled_by(|bytes| rand::fill(bytes)).ok().map(Self)
    }

    /// The key that rested as these bytes.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(StateKey::new(bytes)))
    }

    /// The bytes that it rests as.
    pub(super) fn expose_secret(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// The same key, for a sealed file.
    pub(super) fn for_file(&self) -> StateKeys {
        StateKeys::new(vec![StateKey::new(self.0.expose_secret())])
    }

    /// The id of a grant's row.
    pub(super) fn row_id(&self, key: &GrantKey) -> RowId {
        let GrantKey { origin, uid, integration_id, account } = key;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret()));
        context.update(match origin {
            Origin::Pat => b"scm-agent-store pat row id",
            Origin::SignIn => b"scm-agent-store row id",
        });
        context.update(&uid.to_le_bytes());
        // With its length, so that no part of one text can pass for a part of the other.
        context.update(&(integration_id.len() as u64).to_le_bytes());
        context.update(integration_id.as_bytes());
        context.update(account.as_bytes());
        let mut id = RowId::default();
        id.copy_from_slice(context.sign().as_ref());
        id
    }

    /// Seals a row's content as of a commit. `None` if the library refuses.
    pub(super) fn seal(&self, purpose: Purpose, id: &RowId, generation: u64, content: &[u8]) -> Option<Vec<u8>> {
        let mut row = Zeroizing::new(Vec::with_capacity(content.len() + OVERHEAD_BYTES));
        row.push(purpose.version());
        row.extend_from_slice(&generation.to_le_bytes());
        row.extend_from_slice(&[0; NONCE_LEN]);
        row.extend_from_slice(content);
        let associated = Aad::from(associated_data(purpose, purpose.version(), id, generation));
        let (nonce, tag) = self.cipher()?.seal_in_place_separate_tag(associated, &mut row[HEADER_BYTES..]).ok()?;
        row[HEADER_BYTES - NONCE_LEN..HEADER_BYTES].copy_from_slice(nonce.as_ref());
        row.extend_from_slice(tag.as_ref());
        Some(std::mem::take(&mut *row))
    }

    /// Opens a row: the commit that wrote it, and its content. `None` if it is not what was sealed for this place.
    pub(super) fn open(&self, purpose: Purpose, id: &RowId, row: &[u8]) -> Option<(u64, Zeroizing<Vec<u8>>)> {
        let (&[version], rest) = row.split_first_chunk::<1>()?;
        let (generation, rest) = rest.split_first_chunk::<GENERATION_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if version == 0 || version > purpose.version() || sealed.len() < MAX_TAG_LEN {
            return None;
        }
        let generation = u64::from_le_bytes(*generation);
        let mut content = Zeroizing::new(sealed.to_vec());
        let associated = Aad::from(associated_data(purpose, version, id, generation));
        let length = self.cipher()?.open_in_place(Nonce::from(nonce), associated, &mut content).ok()?.len();
        content.truncate(length);
        Some((generation, content))
    }

    fn cipher(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM_SIV, self.0.expose_secret()).ok()
    }
}

fn associated_data(purpose: Purpose, version: u8, id: &RowId, generation: u64) -> Vec<u8> {
    [purpose.label(), &[version], id, &generation.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::parse(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_row_opens_in_its_place_for_its_purpose_with_its_key_only() {
        let row = key(1).seal(Purpose::Grant, &[5; 32], 9, b"content").unwrap();
        assert_eq!(row.len(), 7 + OVERHEAD_BYTES);
        let (generation, content) = key(1).open(Purpose::Grant, &[5; 32], &row).unwrap();
        assert_eq!((generation, content.as_slice()), (9, b"content".as_slice()));
        assert!(key(1).open(Purpose::Grant, &[6; 32], &row).is_none());
        assert!(key(1).open(Purpose::Manifest, &[5; 32], &row).is_none());
        assert!(key(2).open(Purpose::Grant, &[5; 32], &row).is_none());
    }

    #[test]
    fn a_row_with_any_bit_changed_or_any_end_cut_off_is_refused() {
        let row = key(1).seal(Purpose::Grant, &[5; 32], 9, b"content").unwrap();
        for index in 0..row.len() {
            for bit in 0..8 {
                let mut changed = row.clone();
                changed[index] ^= 1 << bit;
                assert!(key(1).open(Purpose::Grant, &[5; 32], &changed).is_none(), "bit {bit} of byte {index}");
            }
            assert!(key(1).open(Purpose::Grant, &[5; 32], &row[..index]).is_none(), "cut to {index}");
        }
        assert!(key(1).open(Purpose::Grant, &[5; 32], &[&row[..], &[0]].concat()).is_none());
    }

    #[test]
    fn no_two_grants_share_a_row() {
        let row = |origin, uid, integration: &str, account: &str| {
            key(1).row_id(&GrantKey { origin, uid, integration_id: integration.into(), account: account.into() })
        };
        let grant = |uid, integration: &str, account: &str| row(Origin::SignIn, uid, integration, account);
        let ids = [
            grant(1, "ab", "c"),
            grant(1, "a", "bc"),
            grant(2, "ab", "c"),
            grant(1, "abc", ""),
            grant(1, "", "abc"),
            row(Origin::Pat, 1, "ab", "c"),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id), "{index}");
        }
        assert_eq!(grant(1, "ab", "c"), ids[0]);
    }

    #[test]
    fn keys_are_random_and_of_one_length() {
        assert_ne!(DataKey::generate().unwrap().expose_secret(), DataKey::generate().unwrap().expose_secret());
        assert!(DataKey::parse(&[1; 31]).is_none() && DataKey::parse(&[1; 33]).is_none());
    }
}
