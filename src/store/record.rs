//! A grant as bytes: every field in order, lengths before texts, numbers little-endian. Sealed before it is written anywhere.

use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::{GrantKey, GrantRecord, GrantState, MAX_RECORD_BYTES, Origin, StoreError};
use crate::secret::{AccessToken, RefreshToken};

/// What all fields take that are no texts, rounded up.
const FIXED_BYTES: usize = 256;

/// Added to the number of the state of a personal access token. Stores of before have sign-ins only, without it.
const PAT: u8 = 0x10;

/// The bytes of a grant, in one buffer that is allocated once.
///
/// # Errors
/// [`StoreError`] for a grant that is larger than [`MAX_RECORD_BYTES`] or has a time that no number says.
pub(super) fn encode(record: &GrantRecord) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let GrantRecord {
        key: GrantKey { origin, uid, integration_id, account },
        host,
        binding,
        access_token,
        refresh_token,
        expires_at,
        refresh_expires_at,
        obtained_at,
        scopes,
        state,
    } = record;
    let refresh_token = refresh_token.as_ref().map_or("", RefreshToken::expose_secret);
    let reason = match state {
        GrantState::NeedsLogin { reason, .. } => reason.as_str(),
        GrantState::Active | GrantState::Refreshing { .. } => "",
    };
    let texts = [integration_id, account, host, access_token.expose_secret(), refresh_token, reason];
    let length = FIXED_BYTES
        + texts.iter().map(|text| text.len()).sum::<usize>()
        + scopes.iter().map(|scope| size_of::<u32>() + scope.len()).sum::<usize>();
    if length > MAX_RECORD_BYTES {
        return Err(StoreError::other(format!("the grant for {host} is larger than the {MAX_RECORD_BYTES} bytes that one may have")));
    }
    let mut writer = Writer(Zeroizing::new(Vec::with_capacity(length)));
    writer.number(*uid);
    writer.text(integration_id);
    writer.text(account);
    writer.text(host);
    writer.0.extend_from_slice(binding);
    writer.text(access_token.expose_secret());
    writer.text(refresh_token);
    writer.optional_time(*expires_at);
    writer.optional_time(*refresh_expires_at);
    writer.time(*obtained_at);
    writer.count(scopes.len());
    for scope in scopes {
        writer.text(scope);
    }
    let origin = match origin {
        Origin::Pat => PAT,
        Origin::SignIn => 0,
    };
    match state {
        GrantState::Active => writer.0.push(origin),
        GrantState::NeedsLogin { since, reason } => {
            writer.0.push(origin | 1);
            writer.time(*since);
            writer.text(reason);
        }
        GrantState::Refreshing { since } => {
            writer.0.push(origin | 2);
            writer.time(*since);
        }
    }
    Ok(writer.0)
}

/// The grant of these bytes, if they are one and nothing else.
pub(super) fn decode(bytes: &[u8]) -> Option<GrantRecord> {
    let mut reader = Reader(bytes);
    let mut record = GrantRecord {
        key: GrantKey { origin: Origin::SignIn, uid: reader.number()?, integration_id: reader.text()?, account: reader.text()? },
        host: reader.text()?,
        binding: *reader.array()?,
        access_token: AccessToken::parse(Zeroizing::new(reader.bytes()?.to_vec())).ok()?,
        refresh_token: match reader.bytes()? {
            [] => None,
            token => Some(RefreshToken::parse(Zeroizing::new(token.to_vec())).ok()?),
        },
        expires_at: reader.optional_time()?,
        refresh_expires_at: reader.optional_time()?,
        obtained_at: reader.time()?,
        scopes: {
            let count = reader.number()?;
            // Not allocated beforehand: the number is only believed as far as there are texts.
            (0..count).map(|_| reader.text()).collect::<Option<_>>()?
        },
        state: GrantState::Active,
    };
    let byte = reader.byte()?;
    if byte & PAT != 0 {
        record.key.origin = Origin::Pat;
    }
    record.state = match byte & !PAT {
        0 => GrantState::Active,
        1 => GrantState::NeedsLogin { since: reader.time()?, reason: reader.text()? },
        2 => GrantState::Refreshing { since: reader.time()? },
        _ => return None,
    };
    reader.0.is_empty().then_some(record)
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u32::try_from(count).expect("the whole record is shorter than MAX_RECORD_BYTES"));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Seconds from 1970, which may be before it, and the nanoseconds after that second.
    fn time(&mut self, time: SystemTime) {
        // Linux counts both in 64 bits, so that neither way is far enough to be cut off.
        let (seconds, nanoseconds) = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let whole = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
                match before.subsec_nanos() {
                    0 => (whole, 0),
                    nanoseconds => (whole.saturating_sub(1), 1_000_000_000 - nanoseconds),
                }
            }
        };
        self.0.extend_from_slice(&seconds.to_le_bytes());
        self.number(nanoseconds);
    }

    fn optional_time(&mut self, time: Option<SystemTime>) {
        self.0.push(u8::from(time.is_some()));
        if let Some(time) = time {
            self.time(time);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| *byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().copied().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        std::str::from_utf8(self.bytes()?).ok().map(str::to_owned)
    }

    fn time(&mut self) -> Option<SystemTime> {
        let seconds = i64::from_le_bytes(*self.array()?);
        let nanoseconds = self.number().filter(|nanoseconds| *nanoseconds < 1_000_000_000)?;
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let second = match seconds {
            0.. => SystemTime::UNIX_EPOCH.checked_add(whole)?,
            _ => SystemTime::UNIX_EPOCH.checked_sub(whole)?,
        };
        second.checked_add(Duration::from_nanos(nanoseconds.into()))
    }

    fn optional_time(&mut self) -> Option<Option<SystemTime>> {
        match self.byte()? {
            0 => Some(None),
            1 => self.time().map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: GrantState) -> GrantRecord {
        GrantRecord {
            key: GrantKey { origin: Origin::SignIn, uid: 1000, integration_id: "integration".into(), account: "ä account".into() },
            host: "git.example.com".into(),
            binding: [7; 32],
            access_token: AccessToken::parse(Zeroizing::new(b"access".to_vec())).unwrap(),
            refresh_token: Some(RefreshToken::parse(Zeroizing::new(b"refresh me".to_vec())).unwrap()),
            expires_at: Some(SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789)),
            refresh_expires_at: None,
            obtained_at: SystemTime::UNIX_EPOCH - Duration::new(5, 250),
            scopes: vec!["api".into(), String::new(), "read_repository".into()],
            state,
        }
    }

    fn states() -> [GrantState; 3] {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        [GrantState::Active, GrantState::NeedsLogin { since, reason: "revoked".into() }, GrantState::Refreshing { since }]
    }

    #[test]
    fn what_is_read_is_what_was_written_to_the_nanosecond() {
        for state in states() {
            let mut original = record(state);
            for (origin, with_refresh) in [(Origin::SignIn, true), (Origin::SignIn, false), (Origin::Pat, true), (Origin::Pat, false)] {
                original.key.origin = origin;
                original.refresh_token = Some(RefreshToken::parse(Zeroizing::new(b"refresh me".to_vec())).unwrap());
                if !with_refresh {
                    original.refresh_token = None;
                }
                let bytes = encode(&original).unwrap();
                assert!(bytes.len() <= bytes.capacity() && bytes.capacity() <= MAX_RECORD_BYTES);
                let read = decode(&bytes).unwrap();
                assert_eq!(read.summary(), original.summary());
                assert_eq!(read.access_token.expose_secret(), "access");
                assert_eq!(read.refresh_token.as_ref().map(RefreshToken::expose_secret), with_refresh.then_some("refresh me"));
            }
        }
    }

    #[test]
    fn a_personal_access_token_differs_by_one_bit_and_a_sign_in_is_as_it_always_was() {
        for (number, state) in states().into_iter().enumerate() {
            let mut original = record(state);
            let sign_in = encode(&original).unwrap();
            original.key.origin = Origin::Pat;
            let pat = encode(&original).unwrap();
            let different: Vec<(u8, u8)> = sign_in.iter().zip(&pat[..]).filter(|(a, b)| a != b).map(|(a, b)| (*a, *b)).collect();
            let number = u8::try_from(number).unwrap();
            assert_eq!((sign_in.len(), different), (pat.len(), vec![(number, number | 0x10)]));
        }
    }

    #[test]
    fn times_on_both_sides_of_1970_and_far_from_it_survive() {
        for (seconds, nanoseconds) in [(0, 0), (0, 1), (1, 0), (1, 999_999_999), (1 << 40, 5)] {
            let distance = Duration::new(seconds, nanoseconds);
            for time in [SystemTime::UNIX_EPOCH + distance, SystemTime::UNIX_EPOCH - distance] {
                let mut writer = Writer(Zeroizing::new(Vec::new()));
                writer.time(time);
                assert_eq!(Reader(&writer.0).time(), Some(time), "{seconds}.{nanoseconds}");
            }
        }
    }

    #[test]
    fn bytes_that_end_early_or_late_or_say_impossible_things_are_no_grant() {
        for state in states() {
            let bytes = encode(&record(state)).unwrap();
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length]).is_none(), "{length}");
            }
            assert!(decode(&[&bytes[..], &[0]].concat()).is_none());
            // No panic and no endless allocation, whatever a byte says.
            for index in 0..bytes.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut changed = bytes.to_vec();
                    changed[index] = value;
                    let _ = decode(&changed);
                }
            }
        }
        // A token with a line end was never stored.
        let bytes = encode(&record(GrantState::Active)).unwrap();
        let place = bytes.windows(6).position(|window| window == b"access").unwrap();
        let mut changed = bytes.to_vec();
        changed[place] = b'\n';
        assert!(decode(&changed).is_none());
    }

    #[test]
    fn a_grant_that_is_too_large_is_refused_by_its_host() {
        let mut large = record(GrantState::Active);
        large.scopes = vec!["s".repeat(100); 1000];
        let error = encode(&large).unwrap_err();
        assert_eq!(error.message, "the grant for git.example.com is larger than the 65536 bytes that one may have");
        large.scopes = vec!["s".repeat(100); 600];
        assert!(encode(&large).unwrap().len() <= MAX_RECORD_BYTES);
    }

    #[test]
    fn debug_shows_no_token() {
        let shown = format!("{:?}", record(GrantState::Active));
        assert!(!shown.contains("access\"") && !shown.contains("refresh me"), "{shown}");
    }
}
