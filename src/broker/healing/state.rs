//! The `state[]` values that go along with tokens: which token a host refused, told by a git that cannot be trusted with more.
//!
//! A state is shown to every helper in git's chain and printed by `git credential fill`, and anybody can send one. So it is no
//! secret and proves little: that this process made it for this uid and grant. It holds nothing that leads to the token.

use std::time::SystemTime;

use aws_lc_rs::{hmac, rand};
use subtle::ConstantTimeEq;
use zeroize::{Zeroizing, zeroize_stack};

use super::Subject;
use crate::git::{CredentialRequest, STATE_PREFIX};

/// Bytes of a code: too many to guess one.
const CODE_BYTES: usize = 16;

/// How much of the stack is wiped after a token was hashed.
const STACK_BYTES: usize = 16 * 1024;

/// What a code is about; never the first byte of a token.
const TOKEN: u8 = 0;
const STATE: u8 = 1;
const PROOF: u8 = 2;

type Code = [u8; CODE_BYTES];

/// Names one token that was had at one time, within this process. The same token had again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct TokenId(Code);

/// A state that git brought back, as it reads: not known to be genuine.
pub(super) struct State {
    token: Code,
    proof: Code,
}

/// Makes and reads the states of one process. Its key is gone with it, so none of them outlives it.
pub(super) struct States(Option<hmac::Key>);

impl States {
    /// Starts with a random key. Without randomness there are no states, and tokens are replaced after an `erase` only.
    pub(super) fn new() -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        Self(rand::fill(key.as_mut_slice()).is_ok().then(|| hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }

    /// The name of a token that was had at that time.
    pub(super) fn id_of(&self, token: &[u8], minted_at: SystemTime) -> Option<TokenId> {
        let hashed = self.hash_on_stack(token);
        // Clear intermediates
        zeroize_stack::<STACK_BYTES>();
        let since = minted_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(TokenId(self.code(TOKEN, &[&hashed?, &since.as_nanos().to_le_bytes()])?))
    }

    /// The state for one of a user's gits.
    pub(super) fn write(&self, uid: u32, subject: &Subject, token: TokenId) -> Option<String> {
        let token = self.token_code(uid, subject, token)?;
        let proof = self.proof(uid, subject, &token)?;
        let mut text = STATE_PREFIX.to_owned();
        for byte in token.iter().chain(&proof) {
            text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()));
        }
        Some(text)
    }

    /// Whether a state was made here for that user and that grant.
    pub(super) fn is_genuine(&self, state: &State, uid: u32, subject: &Subject) -> bool {
        self.proof(uid, subject, &state.token).is_some_and(|proof| proof.ct_eq(&state.proof).into())
    }

    /// Whether a genuine state is about that token.
    pub(super) fn is_about(&self, state: &State, uid: u32, subject: &Subject, token: TokenId) -> bool {
        self.token_code(uid, subject, token).is_some_and(|code| code.ct_eq(&state.token).into())
    }

    fn token_code(&self, uid: u32, subject: &Subject, TokenId(token): TokenId) -> Option<Code> {
        self.code(STATE, &[&uid.to_le_bytes(), &subject.name(), &token])
    }

    fn proof(&self, uid: u32, subject: &Subject, token: &Code) -> Option<Code> {
        self.code(PROOF, &[&uid.to_le_bytes(), &subject.name(), token])
    }

    fn code(&self, purpose: u8, parts: &[&[u8]]) -> Option<Code> {
        let mut context = hmac::Context::with_key(self.0.as_ref()?);
        context.update(&[purpose]);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().first_chunk().copied()
    }

    /// Leaves parts of the token on the stack.
    #[inline(never)]
    fn hash_on_stack(&self, token: &[u8]) -> Option<Code> {
        hmac::sign(self.0.as_ref()?, token).as_ref().first_chunk().copied()
    }
}

impl State {
    /// The state of ours in a request. None where there are several: git keeps one for each helper, so somebody made them up.
    pub(super) fn read(request: &CredentialRequest) -> Option<Self> {
        let mut own = request.state.iter().filter_map(|state| state.strip_prefix(STATE_PREFIX.as_bytes()));
        let (Some(digits), None) = (own.next(), own.next()) else { return None };
        let mut bytes = [0_u8; 2 * CODE_BYTES];
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        let (token, proof) = bytes.split_at(CODE_BYTES);
        Some(Self { token: *token.first_chunk()?, proof: *proof.first_chunk()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{GrantKey, Origin};

    fn own(account: &str) -> Subject {
        Subject::Own(GrantKey { origin: Origin::SignIn, uid: 7, integration_id: "i".to_owned(), account: account.to_owned() })
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn read(states: &[&str]) -> Option<State> {
        let lines: String = states.iter().map(|state| format!("state[]={state}\n")).collect();
        State::read(&CredentialRequest::parse(format!("protocol=https\nhost=a\n{lines}").as_bytes()).unwrap())
    }

    #[test]
    fn a_state_is_about_one_token_of_one_grant_for_one_user() {
        let (states, subject) = (States::new(), own("work"));
        let token = states.id_of(b"ghs_canary", at(1)).unwrap();
        let text = states.write(7, &subject, token).unwrap();
        assert!(text.len() <= crate::git::MAX_STATE_BYTES && !text.contains("canary"));
        let state = read(&[&text]).unwrap();
        assert!(states.is_genuine(&state, 7, &subject) && states.is_about(&state, 7, &subject, token));
        // Not about another, nor about the same had again, which keeps it genuine.
        for other in [states.id_of(b"ghs_canarx", at(1)).unwrap(), states.id_of(b"ghs_canary", at(2)).unwrap()] {
            assert!(!states.is_about(&state, 7, &subject, other));
        }
        for (uid, other) in [(8, own("work")), (7, own("home")), (7, own(""))] {
            assert!(!states.is_genuine(&state, uid, &other) && !states.is_about(&state, uid, &other, token));
            assert_ne!(states.write(uid, &other, token).unwrap(), text);
        }
        assert!(!States::new().is_genuine(&state, 7, &subject), "another process takes it for its own");
        // No half of it is common to two users.
        let other = states.write(8, &subject, token).unwrap();
        let halves = |text: &str| text.strip_prefix(STATE_PREFIX).map(|digits| (digits[..32].to_owned(), digits[32..].to_owned())).unwrap();
        assert!(halves(&text).0 != halves(&other).0 && halves(&text).1 != halves(&other).1);
    }

    #[test]
    fn a_changed_state_is_not_genuine() {
        let (states, subject) = (States::new(), own("work"));
        let text = states.write(7, &subject, states.id_of(b"t", at(1)).unwrap()).unwrap();
        for at in STATE_PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let state = read(&[std::str::from_utf8(&changed).unwrap()]).unwrap();
            assert!(!states.is_genuine(&state, 7, &subject), "{at}");
        }
    }

    #[test]
    fn what_is_no_single_state_of_ours_is_none() {
        let good = format!("{STATE_PREFIX}{}", "0f".repeat(2 * CODE_BYTES));
        assert!(read(&[&good]).is_some() && read(&["other:1", &good, "scm-agentx:1"]).is_some());
        let long = format!("{good}0");
        for bad in [
            &[][..],
            &["other:1"],
            &[&good, &good],
            &[STATE_PREFIX],
            &[&good[..good.len() - 1]],
            &[&long],
            &[&good.replace('f', "F")],
            &[&good.replace('f', "g")],
            &[&good[1..]],
        ] {
            assert!(read(bad).is_none(), "{bad:?}");
        }
    }
}
