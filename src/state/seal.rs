//! The format of a sealed file: a header in clear, the ciphertext, its tag.
//!
//! ```text
//! 15 bytes  "scm-agent-state"
//!  1 byte   version: 1
//!  8 bytes  which key: the first of HMAC-SHA-256(key, "scm-agent state key id")
//! 12 bytes  nonce
//!  n bytes  ciphertext: AES-256-GCM-SIV (RFC 8452)
//! 16 bytes  tag, over the ciphertext and the associated data: the first 16 bytes and the file's name
//! ```
//!
//! With a nonce that occurs twice, AES-GCM gives its authentication key away. A virtual machine that is copied, or set back to an
//! earlier moment, may draw the same random bytes twice; GCM-SIV then gives away no more than whether two contents are equal.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::StateKeys;
use crate::secret::StateKey;

const MAGIC: &[u8; 15] = b"scm-agent-state";
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC.len() + 1 + KEY_ID_BYTES + NONCE_LEN;
const TAG_BYTES: usize = MAX_TAG_LEN;

/// What a sealed file is longer than its content.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Why a file is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not what was sealed under this name.
    Damaged,
    /// Sealed with a key that is not among these.
    UnknownKey,
    /// A version that this code does not know.
    Version(u8),
}

/// Seals a content under a file's name: the whole file, unless the library refuses.
pub(super) fn seal(key: &StateKey, name: &str, plaintext: Zeroizing<Vec<u8>>) -> Option<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.push(VERSION);
    header.extend_from_slice(&id_of(key));
    header.extend_from_slice(&[0; NONCE_LEN]);
    // Sealed where it is: contents can be megabytes. One that has no room for it is copied, and the old place wiped.
    let mut file = plaintext;
    if file.capacity() - file.len() < OVERHEAD_BYTES {
        let mut larger = Zeroizing::new(Vec::with_capacity(file.len() + OVERHEAD_BYTES));
        larger.extend_from_slice(&file);
        file = larger;
    }
    file.splice(..0, header);
    let (nonce, tag) =
        cipher(key)?.seal_in_place_separate_tag(Aad::from(associated_data(VERSION, name)), &mut file[HEADER_BYTES..]).ok()?;
    file[HEADER_BYTES - NONCE_LEN..HEADER_BYTES].copy_from_slice(nonce.as_ref());
    file.extend_from_slice(tag.as_ref());
    Some(std::mem::take(&mut *file))
}

/// Opens a whole file in place, if one of the keys sealed it under this name.
pub(super) fn open(keys: &StateKeys, name: &str, mut file: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let (magic, rest) = file.split_first_chunk::<{ MAGIC.len() }>().ok_or(Refusal::Damaged)?;
    let (version, rest) = rest.split_first().ok_or(Refusal::Damaged)?;
    if magic != MAGIC {
        return Err(Refusal::Damaged);
    }
    if *version != VERSION {
        return Err(Refusal::Version(*version));
    }
    let (id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>().ok_or(Refusal::Damaged)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Refusal::Damaged)?;
    if rest.len() < TAG_BYTES {
        return Err(Refusal::Damaged);
    }
    let (id, nonce) = (*id, *nonce);
    let key = keys.iter().find(|key| id_of(key) == id).ok_or(Refusal::UnknownKey)?;
    let length = cipher(key)
        .and_then(|cipher| {
            let associated = Aad::from(associated_data(VERSION, name));
            Some(cipher.open_in_place(Nonce::from(&nonce), associated, &mut file[HEADER_BYTES..]).ok()?.len())
        })
        .ok_or(Refusal::Damaged)?;
    // To the front of the same buffer, all of which is wiped when it is dropped.
    file.copy_within(HEADER_BYTES..HEADER_BYTES + length, 0);
    file.truncate(length);
    Ok(file)
}

fn associated_data(version: u8, name: &str) -> Vec<u8> {
    [MAGIC.as_slice(), &[version], name.as_bytes()].concat()
}

fn cipher(key: &StateKey) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM_SIV, key.expose_secret()).ok()
}

/// Tells keys apart without telling anything of them.
fn id_of(key: &StateKey) -> [u8; KEY_ID_BYTES] {
    const LABEL: &[u8] = b"scm-agent state key id";
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret()), LABEL);
    let mut id = [0; KEY_ID_BYTES];
    id.copy_from_slice(&tag.as_ref()[..KEY_ID_BYTES]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"a content that must not be read";

    fn keys(bytes: &[u8]) -> StateKeys {
        StateKeys::new(bytes.iter().map(|byte| StateKey::new(&[*byte; StateKey::BYTES])).collect())
    }

    fn sealed(byte: u8, name: &str) -> Vec<u8> {
        seal(&StateKey::new(&[byte; StateKey::BYTES]), name, Zeroizing::new(CONTENT.to_vec())).unwrap()
    }

    fn opened(keys: &StateKeys, name: &str, file: &[u8]) -> Result<Vec<u8>, Refusal> {
        open(keys, name, Zeroizing::new(file.to_vec())).map(|content| content.to_vec())
    }

    #[test]
    fn what_was_sealed_opens_under_its_name_only() {
        let file = sealed(1, "list");
        assert_eq!(file.len(), CONTENT.len() + OVERHEAD_BYTES);
        assert_eq!(opened(&keys(&[1]), "list", &file).unwrap(), CONTENT);
        for name in ["pins", "lis", "list ", ""] {
            assert_eq!(opened(&keys(&[1]), name, &file), Err(Refusal::Damaged), "{name}");
        }
        let empty = seal(&StateKey::new(&[1; StateKey::BYTES]), "list", Zeroizing::default()).unwrap();
        assert_eq!(opened(&keys(&[1]), "list", &empty).unwrap(), b"");
    }

    #[test]
    fn each_key_of_several_opens_what_it_sealed_in_any_order_and_no_other_does() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 1, 3]] {
            for byte in order {
                assert_eq!(opened(&keys(&order), "list", &sealed(byte, "list")).unwrap(), CONTENT);
            }
        }
        assert_eq!(opened(&keys(&[2, 3]), "list", &sealed(1, "list")), Err(Refusal::UnknownKey));
        assert_eq!(opened(&keys(&[]), "list", &sealed(1, "list")), Err(Refusal::UnknownKey));
        // A name that is another key's does not make it that key's.
        let mut renamed = sealed(1, "list");
        renamed[16..24].copy_from_slice(&id_of(&StateKey::new(&[2; StateKey::BYTES])));
        assert_eq!(opened(&keys(&[1, 2]), "list", &renamed), Err(Refusal::Damaged));
    }

    #[test]
    fn a_file_with_any_bit_changed_or_any_end_cut_off_is_refused() {
        let (keys, file) = (keys(&[1]), sealed(1, "list"));
        for index in 0..file.len() {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[index] ^= 1 << bit;
                let expected = match index {
                    15 => Refusal::Version(1 ^ (1 << bit)),
                    16..24 => Refusal::UnknownKey,
                    _ => Refusal::Damaged,
                };
                assert_eq!(opened(&keys, "list", &changed), Err(expected), "bit {bit} of byte {index}");
            }
        }
        for length in 0..file.len() {
            assert_eq!(opened(&keys, "list", &file[..length]), Err(Refusal::Damaged), "cut to {length}");
        }
        assert_eq!(opened(&keys, "list", &[&file[..], &[0]].concat()), Err(Refusal::Damaged));
    }

    #[test]
    fn the_same_content_looks_different_each_time_and_shows_neither_itself_nor_the_key() {
        let (first, second) = (sealed(1, "list"), sealed(1, "list"));
        assert_ne!(first[24..], second[24..]);
        assert!(!first.windows(8).any(|window| CONTENT.windows(8).any(|part| part == window)));
        assert!(!first.windows(4).any(|window| window == [1; 4]));
    }
}
