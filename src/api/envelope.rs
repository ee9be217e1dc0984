//! The envelopes of Connect's streaming messages: a byte of flags, the payload's length in four bytes (big endian), the payload.
//!
//! Follows the Connect protocol, "Streaming RPCs". What comes in is bounded before it is kept: a length is judged when it is
//! read, not when that much has arrived.

/// The longest payload in bytes: many times what an event or an error takes.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 5;
const COMPRESSED: u8 = 0b01;
const END_OF_STREAM: u8 = 0b10;

/// Why a row of envelopes cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The payload is compressed, though no compression was offered.
    #[error("an envelope is compressed, though that was not asked for")]
    Compressed,
    /// A flag that the protocol does not have.
    #[error("an envelope has unknown flags")]
    Flags,
    /// The payload is longer than any that is expected.
    #[error("an envelope is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

/// What is in an envelope.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    /// The last one: why the stream ended.
    End(Vec<u8>),
    /// A message.
    Message(Vec<u8>),
}

/// Puts one message into an envelope.
pub(super) fn encode(message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    const TOO_LONG: EnvelopeError = EnvelopeError::TooLong { limit: MAX_PAYLOAD_BYTES };
    if message.len() > MAX_PAYLOAD_BYTES {
        return Err(TOO_LONG);
    }
    let length = u32::try_from(message.len()).map_err(|_| TOO_LONG)?;
    let mut envelope = Vec::with_capacity(HEADER_BYTES + message.len());
    envelope.push(0);
    envelope.extend_from_slice(&length.to_be_bytes());
    envelope.extend_from_slice(message);
    Ok(envelope)
}

/// Takes envelopes out of a stream of bytes, however it is cut into pieces.
#[derive(Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds a piece. It is kept whole until its envelopes are taken, so take them before the next one.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next complete envelope; `None` when more bytes are needed. An error stays.
    pub(super) fn next(&mut self) -> Result<Option<Envelope>, EnvelopeError> {
        let Some((&flags, rest)) = self.bytes[self.taken..].split_first() else { return Ok(None) };
        if flags & COMPRESSED != 0 {
            return Err(EnvelopeError::Compressed);
        }
        if flags & !END_OF_STREAM != 0 {
            return Err(EnvelopeError::Flags);
        }
        let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD_BYTES {
            return Err(EnvelopeError::TooLong { limit: MAX_PAYLOAD_BYTES });
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.taken += HEADER_BYTES + length;
        Ok(Some(if flags & END_OF_STREAM == 0 { Envelope::Message(payload) } else { Envelope::End(payload) }))
    }

    /// Whether an envelope has begun and not ended.
    pub(super) fn is_amid(&self) -> bool {
        self.taken < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes of these pieces, up to the first error.
    fn decode<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Envelope>, Option<EnvelopeError>, bool) {
        let mut decoder = Decoder::default();
        let mut envelopes = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.next() {
                    Ok(Some(envelope)) => envelopes.push(envelope),
                    Ok(None) => break,
                    Err(error) => return (envelopes, Some(error), true),
                }
            }
            assert!(decoder.bytes.len() - decoder.taken <= HEADER_BYTES + MAX_PAYLOAD_BYTES);
        }
        (envelopes, None, decoder.is_amid())
    }

    fn end(payload: &[u8]) -> Vec<u8> {
        let mut envelope = encode(payload).unwrap();
        envelope[0] = END_OF_STREAM;
        envelope
    }

    #[test]
    fn a_message_is_its_flags_its_length_and_itself() {
        assert_eq!(encode(b"{}").unwrap(), [0, 0, 0, 0, 2, b'{', b'}']);
        assert_eq!(encode(&[7; 0x0102]).unwrap()[..HEADER_BYTES], [0, 0, 0, 1, 2]);
        assert_eq!(encode(&[7; MAX_PAYLOAD_BYTES]).unwrap().len(), HEADER_BYTES + MAX_PAYLOAD_BYTES);
        assert_eq!(encode(&[7; MAX_PAYLOAD_BYTES + 1]), Err(EnvelopeError::TooLong { limit: MAX_PAYLOAD_BYTES }));
    }

    #[test]
    fn the_same_comes_out_wherever_the_bytes_are_cut() {
        let bytes = [encode(b"").unwrap(), encode(b"{\"operation\":1}").unwrap(), end(b"{}"), encode(&[9; 300]).unwrap()].concat();
        let whole = decode([&bytes[..]]);
        let expected = vec![
            Envelope::Message(vec![]),
            Envelope::Message(b"{\"operation\":1}".to_vec()),
            Envelope::End(b"{}".to_vec()),
            Envelope::Message(vec![9; 300]),
        ];
        assert_eq!(whole, (expected, None, false));
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(decode([first, second]), whole, "cut at {cut}");
        }
        assert_eq!(decode(bytes.chunks(1)), whole);
    }

    #[test]
    fn what_breaks_off_is_known_to_be_incomplete() {
        let bytes = encode(b"{}").unwrap();
        for length in 1..bytes.len() {
            assert_eq!(decode([&bytes[..length]]), (vec![], None, true), "{length} bytes");
        }
        assert!(!decode([&[][..]]).2);
    }

    #[test]
    fn flags_are_judged_by_the_first_byte_and_a_length_by_the_first_five() {
        for flags in 0..=u8::MAX {
            let expected = match flags {
                0 | END_OF_STREAM => None,
                odd if odd & COMPRESSED != 0 => Some(EnvelopeError::Compressed),
                _ => Some(EnvelopeError::Flags),
            };
            assert_eq!(decode([&[flags][..]]).1, expected, "{flags:08b}");
        }
        for length in [MAX_PAYLOAD_BYTES as u32 + 1, i32::MAX as u32, u32::MAX] {
            for flags in [0, END_OF_STREAM] {
                let header = [&[flags][..], &length.to_be_bytes()].concat();
                assert_eq!(decode([&header[..]]).1, Some(EnvelopeError::TooLong { limit: MAX_PAYLOAD_BYTES }));
                assert_eq!(decode([&header[..HEADER_BYTES - 1]]).1, None);
            }
        }
    }

    #[test]
    fn an_error_stays_and_what_came_before_it_counts() {
        let mut decoder = Decoder::default();
        decoder.feed(&[encode(b"{}").unwrap(), vec![COMPRESSED]].concat());
        assert_eq!(decoder.next(), Ok(Some(Envelope::Message(b"{}".to_vec()))));
        assert_eq!(decoder.next(), Err(EnvelopeError::Compressed));
        decoder.feed(&encode(b"{}").unwrap());
        assert_eq!(decoder.next(), Err(EnvelopeError::Compressed));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_come_out_as_they_do_in_one(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                prop::collection::vec((prop::bool::ANY, prop::collection::vec(any::<u8>(), 0..40)), 0..8).prop_map(|row| {
                    row.into_iter().flat_map(|(last, payload)| if last { end(&payload) } else { encode(&payload).unwrap() }).collect()
                }),
            ],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(pieces), decode([&bytes[..]]));
        }
    }
}
