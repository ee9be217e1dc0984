//! The development keys in the project's `keys` folder, by fingerprint. Their private halves are public.

/// One for each private key in `keys`; a test compares the two.
pub(super) const FINGERPRINTS: [&str; 2] =
    ["SHA256:CLOxjdRnLRX2H9yZ5IoHkK3W5v2eSbPDDyz3QSQu7RM", "SHA256:RWuzIYuFJPDD+V2k1pKaK4oIP1zgk+gjsc0Cig2WTpc"];
