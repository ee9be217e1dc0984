//! Bytes that may hold a password: never printed, overwritten when dropped.
//!
//! The helper has neither the daemon's wiping allocator nor a crate for this, so the overwriting is best effort: the standard
//! library has no promise stronger than `black_box` that a write before a free is kept.

use std::fmt;
use std::hint::black_box;

/// A growing buffer that leaves no copy behind when it grows, shrinks or goes.
#[derive(Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// That many zeroes, to read into.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        Self(vec![0; length])
    }

    /// The bytes themselves. Copy them nowhere that is not wiped.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    /// The bytes themselves, to be changed.
    pub fn expose_secret_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends `bytes`; the memory that is left behind by growing is overwritten first.
    pub fn extend(&mut self, bytes: &[u8]) {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut grown = Vec::with_capacity(needed.max(self.0.capacity().saturating_mul(2)));
            grown.extend_from_slice(&self.0);
            overwrite(&mut self.0);
            self.0 = grown;
        }
        self.0.extend_from_slice(bytes);
    }

    /// Removes the first `count` bytes, or all if there are fewer, and overwrites what they leave at the end.
    pub fn remove_front(&mut self, count: usize) {
        let count = count.min(self.0.len());
        let kept = self.0.len() - count;
        self.0.copy_within(count.., 0);
        self.truncate(kept);
    }

    /// Removes all but the first `length` bytes and overwrites them.
    pub fn truncate(&mut self, length: usize) {
        let rest = self.0.get_mut(length..).unwrap_or_default();
        rest.fill(0);
        black_box(rest);
        self.0.truncate(length);
    }
}

impl From<&[u8]> for Wiped {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wiped([redacted])")
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        overwrite(&mut self.0);
    }
}

/// Fills all that the vector has allocated, used or not, with zeroes.
fn overwrite(bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.resize(bytes.capacity(), 0);
    black_box(bytes.as_mut_slice());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_bytes() {
        assert_eq!(format!("{:?}", Wiped::from(&b"canary"[..])), "Wiped([redacted])");
    }

    #[test]
    fn growing_keeps_the_bytes_in_order() {
        let mut wiped = Wiped::default();
        for byte in 0..=255_u8 {
            wiped.extend(&[byte, byte]);
        }
        assert_eq!(wiped.len(), 512);
        assert!(wiped.expose_secret().chunks(2).zip(0..=255_u8).all(|(pair, byte)| pair == [byte, byte]));
    }

    #[test]
    fn removing_from_the_front_keeps_the_rest() {
        let mut wiped = Wiped::from(&b"abcdef"[..]);
        wiped.remove_front(2);
        assert_eq!(wiped.expose_secret(), b"cdef");
        wiped.remove_front(9);
        assert!(wiped.is_empty());
    }

    #[test]
    fn overwriting_zeroes_all_that_was_allocated() {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(b"canary");
        overwrite(&mut bytes);
        assert_eq!(bytes, [0; 64]);
    }
}
