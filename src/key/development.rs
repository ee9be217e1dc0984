//! The development keys in the project's `keys` folder, by fingerprint. Their private halves are public.

/// One for each private key in `keys`; a test compares the two.
pub(super) const FINGERPRINTS: [&str; 0] = [];
