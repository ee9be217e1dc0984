//! The format of a sealed file: a header in clear, the ciphertext, its tag.
//!
//! ```text
//! 15 bytes  "scm-agent-state"
//!  1 byte   format: 2
//!  1 byte   how long the next field is, 1 to 32
//!  n bytes  which version of scm-agent wrote it, in printable ASCII
//!  8 bytes  which key: the first of HMAC-SHA-256(key, "scm-agent state key id")
//! 12 bytes  nonce
//!  n bytes  ciphertext: AES-256-GCM-SIV (RFC 8452)
//! 16 bytes  tag, over the ciphertext and the associated data: all before the nonce, and the file's name
//! ```
//!
//! Format 1 does not say who wrote it, and its associated data are its first 16 bytes and the file's name. It is read, and written no
//! more. A later format keeps all before the key, so that this code can say whose a file is that it must leave alone.
//!
//! With a nonce that occurs twice, AES-GCM gives its authentication key away. A virtual machine that is copied, or set back to an
//! earlier moment, may draw the same random bytes twice; GCM-SIV then gives away no more than whether two contents are equal.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::{FORMAT, StateKeys, Written};
use crate::secret::StateKey;

const MAGIC: &[u8; 15] = b"scm-agent-state";
/// The format that names no writer.
const FORMAT_WITHOUT_WRITER: u8 = 1;
/// What writes.
const WRITER: &str = env!("CARGO_PKG_VERSION");
const MAX_WRITER_BYTES: usize = 32;
const _: () = assert!(!WRITER.is_empty() && WRITER.len() <= MAX_WRITER_BYTES);
const KEY_ID_BYTES: usize = 8;
/// What stands before the key's id at most.
pub(super) const MAX_PREFIX_BYTES: usize = MAGIC.len() + 2 + MAX_WRITER_BYTES;
const HEADER_BYTES: usize = MAGIC.len() + 2 + WRITER.len() + KEY_ID_BYTES + NONCE_LEN;
const TAG_BYTES: usize = MAX_TAG_LEN;

/// What a file that is sealed now is longer than its content.
const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// What any sealed file is longer than its content at most.
pub(super) const MAX_OVERHEAD_BYTES: usize = MAX_PREFIX_BYTES + KEY_ID_BYTES + NONCE_LEN + TAG_BYTES;

/// Why a file is not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not what was sealed under this name.
    Damaged,
    /// In a format that this code does not know.
    Newer(Written),
    /// Sealed with a key that is not among these.
    UnknownKey,
}

/// What a file says of itself before its key's id, and how long that is. `None` if it is no sealed file.
///
/// Of a format that is not known the second number counts for nothing.
pub(super) fn prefix(file: &[u8]) -> Option<(Written, usize)> {
    let (magic, rest) = file.split_first_chunk::<{ MAGIC.len() }>()?;
    let (&format, rest) = rest.split_first()?;
    let length = MAGIC.len() + 1;
    match format {
        _ if magic != MAGIC => None,
        0 => None,
        FORMAT_WITHOUT_WRITER => Some((Written { format, by: None }, length)),
        _ => {
            let by = rest.split_first().and_then(|(&length, rest)| writer(rest.get(..usize::from(length))?));
            // A later format may have thought better of it.
            (by.is_some() || format > FORMAT).then(|| {
                let written = by.as_ref().map_or(0, String::len);
                (Written { format, by }, length + 1 + written)
            })
        }
    }
}

fn writer(bytes: &[u8]) -> Option<String> {
    let is_fine = (1..=MAX_WRITER_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    is_fine.then(|| String::from_utf8(bytes.to_vec()).ok())?
}

/// Seals a content under a file's name: the whole file, unless the library refuses.
pub(super) fn seal(key: &StateKey, name: &str, plaintext: Zeroizing<Vec<u8>>) -> Option<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.push(FORMAT);
    header.push(u8::try_from(WRITER.len()).expect("at most MAX_WRITER_BYTES"));
    header.extend_from_slice(WRITER.as_bytes());
    header.extend_from_slice(&id_of(key));
    let associated = Aad::from([header.as_slice(), name.as_bytes()].concat());
    header.extend_from_slice(&[0; NONCE_LEN]);
    // Sealed where it is: contents can be megabytes. One that has no room for it is copied, and the old place wiped.
    let mut file = plaintext;
    if file.capacity() - file.len() < OVERHEAD_BYTES {
        let mut larger = Zeroizing::new(Vec::with_capacity(file.len() + OVERHEAD_BYTES));
        larger.extend_from_slice(&file);
        file = larger;
    }
    file.splice(..0, header);
    let (nonce, tag) = cipher(key)?.seal_in_place_separate_tag(associated, &mut file[HEADER_BYTES..]).ok()?;
    file[HEADER_BYTES - NONCE_LEN..HEADER_BYTES].copy_from_slice(nonce.as_ref());
    file.extend_from_slice(tag.as_ref());
    Some(std::mem::take(&mut *file))
}

/// Opens a whole file in place, if one of the keys sealed it under this name.
pub(super) fn open(keys: &StateKeys, name: &str, mut file: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let (written, prefix_bytes) = prefix(&file).ok_or(Refusal::Damaged)?;
    if written.format > FORMAT {
        return Err(Refusal::Newer(written));
    }
    let (id, rest) = file[prefix_bytes..].split_first_chunk::<KEY_ID_BYTES>().ok_or(Refusal::Damaged)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Refusal::Damaged)?;
    if rest.len() < TAG_BYTES {
        return Err(Refusal::Damaged);
    }
    let (id, nonce) = (*id, *nonce);
    let key = keys.iter().find(|key| id_of(key) == id).ok_or(Refusal::UnknownKey)?;
    let named = if written.format == FORMAT_WITHOUT_WRITER { prefix_bytes } else { prefix_bytes + KEY_ID_BYTES };
    let associated = Aad::from([&file[..named], name.as_bytes()].concat());
    let start = prefix_bytes + KEY_ID_BYTES + NONCE_LEN;
    let length = cipher(key)
        .and_then(|cipher| Some(cipher.open_in_place(Nonce::from(&nonce), associated, &mut file[start..]).ok()?.len()))
        .ok_or(Refusal::Damaged)?;
    // To the front of the same buffer, all of which is wiped when it is dropped.
    file.copy_within(start..start + length, 0);
    file.truncate(length);
    Ok(file)
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

    /// Where the key's id is.
    const KEY_ID: std::ops::Range<usize> = HEADER_BYTES - NONCE_LEN - KEY_ID_BYTES..HEADER_BYTES - NONCE_LEN;

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
        renamed[KEY_ID].copy_from_slice(&id_of(&StateKey::new(&[2; StateKey::BYTES])));
        assert_eq!(opened(&keys(&[1, 2]), "list", &renamed), Err(Refusal::Damaged));
    }

    #[test]
    fn a_file_with_any_bit_changed_or_any_end_cut_off_is_refused() {
        let (keys, file) = (keys(&[1]), sealed(1, "list"));
        for index in 0..file.len() {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[index] ^= 1 << bit;
                let refused = opened(&keys, "list", &changed).unwrap_err();
                let is_expected = match index {
                    // The format: 0, or one that nobody has written yet.
                    15 if changed[15] == 0 => refused == Refusal::Damaged,
                    15 => refused == Refusal::Newer(Written { format: changed[15], by: Some(WRITER.to_owned()) }),
                    // Where the writer ends, so that something else is taken for the key's id.
                    16 => matches!(refused, Refusal::Damaged | Refusal::UnknownKey),
                    _ if KEY_ID.contains(&index) => refused == Refusal::UnknownKey,
                    _ => refused == Refusal::Damaged,
                };
                assert!(is_expected, "bit {bit} of byte {index}: {refused:?}");
            }
        }
        for length in 0..file.len() {
            assert_eq!(opened(&keys, "list", &file[..length]), Err(Refusal::Damaged), "cut to {length}");
        }
        assert_eq!(opened(&keys, "list", &[&file[..], &[0]].concat()), Err(Refusal::Damaged));
    }

    /// As format 1 was written.
    fn sealed_before(byte: u8, name: &str) -> Vec<u8> {
        let key = StateKey::new(&[byte; StateKey::BYTES]);
        let mut content = CONTENT.to_vec();
        let associated = Aad::from([MAGIC.as_slice(), &[1], name.as_bytes()].concat());
        let (nonce, tag) = cipher(&key).unwrap().seal_in_place_separate_tag(associated, &mut content).unwrap();
        [MAGIC.as_slice(), &[1], &id_of(&key), nonce.as_ref(), &content, tag.as_ref()].concat()
    }

    #[test]
    fn a_file_of_format_1_opens_under_its_name_and_neither_format_passes_for_the_other() {
        let (keys, old) = (keys(&[1]), sealed_before(1, "list"));
        assert_eq!(prefix(&old), Some((Written { format: 1, by: None }, 16)));
        assert_eq!(opened(&keys, "list", &old).unwrap(), CONTENT);
        assert_eq!(opened(&keys, "pins", &old), Err(Refusal::Damaged));
        let writer = [&[2, u8::try_from(WRITER.len()).unwrap()], WRITER.as_bytes()].concat();
        let raised = [&old[..15], &writer, &old[16..]].concat();
        assert_eq!(opened(&keys, "list", &raised), Err(Refusal::Damaged));
        let new = sealed(1, "list");
        let lowered = [&new[..15], &[1], &new[KEY_ID.start..]].concat();
        assert_eq!(opened(&keys, "list", &lowered), Err(Refusal::Damaged));
    }

    #[test]
    fn who_wrote_a_file_is_read_without_a_key_and_only_if_it_can_be_printed() {
        let written =
            |format: u8, length: u8, by: &[u8]| prefix(&[MAGIC.as_slice(), &[format, length], by].concat()).map(|(written, _)| written);
        let by = |format, by: &str| Some(Written { format, by: Some(by.to_owned()) });
        assert_eq!(written(2, 5, b"1.2.3 and the rest"), by(2, "1.2.3"));
        assert_eq!(written(3, 5, b"1.2.3 and the rest"), by(3, "1.2.3"));
        let longest = [b'9'; MAX_WRITER_BYTES + 1];
        assert_eq!(written(2, 32, &longest), by(2, &"9".repeat(32)));
        for (length, bytes) in [(0, b"1.2.3".as_slice()), (5, b"1.2.\n"), (5, b"1.2.\xff"), (5, b"1.2 3"), (6, b"1.2.3"), (33, &longest)] {
            assert_eq!(written(2, length, bytes), None);
            assert_eq!(written(9, length, bytes), Some(Written { format: 9, by: None }));
        }
        assert_eq!((prefix(b"scm-agent-state"), prefix(b"scm-agent-stale\x02\x011"), written(0, 1, b"1")), (None, None, None));
    }

    #[test]
    fn the_same_content_looks_different_each_time_and_shows_neither_itself_nor_the_key() {
        let (first, second) = (sealed(1, "list"), sealed(1, "list"));
        assert_ne!(first[KEY_ID.end..], second[KEY_ID.end..]);
        assert!(!first.windows(8).any(|window| CONTENT.windows(8).any(|part| part == window)));
        assert!(!first.windows(4).any(|window| window == [1; 4]));
    }
}
