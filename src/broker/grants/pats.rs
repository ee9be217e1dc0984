//! Personal access tokens that users gave git: kept like sign-ins, and neither renewed nor revoked.
//!
//! Nothing here asks a host. git's `store` says that a token works, its `erase` that it does not any more.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Grants, digest, is_sign_in, lock};
use crate::integration::{ScmId, ScmIntegration};
use crate::secret::AccessToken;
use crate::store::{GrantKey, GrantRecord, GrantState, Origin, StoreError};

/// How many tokens a user may have here, and all users together: a store holds 10,000 grants, and sign-ins need their places.
const MAX_PER_USER: usize = 64;
const MAX_PATS: usize = 2_000;

/// The longest token, in bytes: twice what web servers take of a header. So all of them together fill a fraction of the store.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The longest user name, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// How many times in a row a user can have the disk written to, and how long until there is one time more.
const WRITES_AT_ONCE: u32 = 64;
const WRITE_REFILL: Duration = Duration::from_secs(5);

/// Which kept token answers.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::broker) enum KeptPat {
    /// None.
    None,
    /// This one.
    One(GrantKey),
    /// Several, and nothing says which; their user names.
    Several(Vec<String>),
}

/// Why a token is not kept.
#[derive(Debug, thiserror::Error)]
pub(in crate::broker) enum NotKept {
    /// The store could not take it. It serves from memory until the daemon ends.
    #[error("it is in memory only: {0}")]
    InMemoryOnly(StoreError),
    /// It is the access token of a sign-in here.
    #[error("it is the token of a sign-in")]
    OfSignIn,
    /// The user, or all users together, have as many as there may be.
    #[error("{0} tokens are kept already, the most that there may be")]
    TooMany(usize),
    /// The user has had many kept just now.
    #[error("too many were kept just now")]
    TooOften,
    /// It is longer than a token can be, or its user name is.
    #[error("it is longer than {MAX_TOKEN_BYTES} bytes, or its user name than {MAX_NAME_BYTES}")]
    TooLong,
}

/// How often users had tokens kept: when the allowance of each will be whole again.
#[derive(Default)]
pub(super) struct PatWrites(HashMap<u32, Instant>);

impl PatWrites {
    /// Whether a user may have one more written.
    fn allow(&mut self, uid: u32) -> bool {
        let now = Instant::now();
        self.0.retain(|_, whole| *whole > now);
        let whole = self.0.get(&uid).copied().unwrap_or(now) + WRITE_REFILL;
        let allowed = whole <= now + WRITE_REFILL * WRITES_AT_ONCE;
        if allowed {
            self.0.insert(uid, whole);
        }
        allowed
    }
}

impl Grants {
    /// Which of a user's tokens answers for an integration. `username` is what the URL or git's configuration says, if anything.
    pub(in crate::broker) fn choose_pat(&self, uid: u32, integration: &ScmIntegration, username: Option<&str>) -> KeptPat {
        let binding = pat_binding(integration);
        let index = lock(&self.index);
        let fitting = index.values().filter(|summary| is_pat(&summary.key, uid, integration) && summary.binding == binding);
        let own: Vec<&GrantKey> = fitting.map(|summary| &summary.key).collect();
        if let Some(username) = username {
            let named = own.iter().find(|key| key.account == username);
            if named.is_some() || !ignores_names(integration) {
                return named.map_or(KeptPat::None, |key| KeptPat::One((*key).clone()));
            }
        }
        match own.as_slice() {
            [] => KeptPat::None,
            [only] => KeptPat::One((*only).clone()),
            several => KeptPat::Several(several.iter().map(|key| key.account.clone()).collect()),
        }
    }

    /// A kept token, if it is still there and for that place.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be read.
    pub(in crate::broker) async fn pat(&self, key: &GrantKey, integration: &ScmIntegration) -> Result<Option<AccessToken>, StoreError> {
        let record = self.load(key).await?.filter(|record| record.binding == pat_binding(integration));
        Ok(record.map(|record| record.access_token))
    }

    /// Keeps a user's token in the place of the one under the same name. Whether there was anything to do: the same token again is not
    /// written again.
    ///
    /// # Errors
    /// [`NotKept`]
    pub(in crate::broker) async fn keep_pat(
        &self,
        uid: u32,
        integration: &ScmIntegration,
        username: &str,
        token: AccessToken,
    ) -> Result<bool, NotKept> {
        if token.expose_secret().len() > MAX_TOKEN_BYTES || username.len() > MAX_NAME_BYTES {
            return Err(NotKept::TooLong);
        }
        let key = GrantKey { origin: Origin::Pat, uid, integration_id: integration.id.clone(), account: username.to_owned() };
        // git tells of every success, and nobody is to wait for the disk over a token that is there.
        if self.has_pat(&key, integration, &token).await {
            return Ok(false);
        }
        let _turn = self.writing.lock().await;
        // The daemon may have been started anew since it gave this away.
        let signed_in: Vec<GrantKey> = lock(&self.index).keys().filter(|key| is_sign_in(key, uid, integration)).cloned().collect();
        for key in signed_in {
            if matches!(self.load(&key).await, Ok(Some(record)) if record.access_token.matches(token.expose_secret().as_bytes())) {
                return Err(NotKept::OfSignIn);
            }
        }
        // Two gits may have told of it at once.
        if self.has_pat(&key, integration, &token).await {
            return Ok(false);
        }
        self.check_place(&key)?;
        if !lock(&self.pat_writes).allow(uid) {
            return Err(NotKept::TooOften);
        }
        let record = GrantRecord {
            key,
            host: integration.host.clone(),
            binding: pat_binding(integration),
            access_token: token,
            refresh_token: None,
            expires_at: None,
            refresh_expires_at: None,
            obtained_at: self.clock.now(),
            scopes: Vec::new(),
            state: GrantState::Active,
        };
        self.put(record).await.map(|()| true).map_err(NotKept::InMemoryOnly)
    }

    /// Forgets a user's tokens at an integration: those under that name, if git says one, and of these the one that it says, if it says
    /// any. How many there were.
    pub(in crate::broker) async fn forget_pats(
        &self,
        uid: u32,
        integration: &ScmIntegration,
        username: Option<&str>,
        token: Option<&[u8]>,
    ) -> usize {
        let username = username.filter(|_| token.is_none() || !ignores_names(integration));
        let is_meant = |key: &&GrantKey| is_pat(key, uid, integration) && username.is_none_or(|name| key.account == name);
        // Nobody waits for a turn who has nothing to lose.
        if !lock(&self.index).keys().any(|key| is_meant(&key)) {
            return 0;
        }
        let _turn = self.writing.lock().await;
        let keys: Vec<GrantKey> = lock(&self.index).keys().filter(is_meant).cloned().collect();
        let mut forgotten = 0;
        for key in keys {
            let is_it = match token {
                None => true,
                Some(token) => matches!(self.load(&key).await, Ok(Some(record)) if record.access_token.matches(token)),
            };
            if is_it {
                // Where the disk does not take it now, it is tried again, and gone from here all the same.
                let _ = self.remove_in_turn(&key).await;
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Whether that token is kept under that name, or, where names say nothing, under any: git may have been answered with another one.
    async fn has_pat(&self, key: &GrantKey, integration: &ScmIntegration, token: &AccessToken) -> bool {
        let binding = pat_binding(integration);
        let is_held = |other: &&GrantKey| *other == key || ignores_names(integration) && is_pat(other, key.uid, integration);
        let held: Vec<GrantKey> = lock(&self.index).keys().filter(is_held).cloned().collect();
        let is_same = |record: &GrantRecord| record.binding == binding && record.access_token.matches(token.expose_secret().as_bytes());
        for key in held {
            if matches!(self.load(&key).await, Ok(Some(record)) if is_same(&record)) {
                return true;
            }
        }
        false
    }

    /// Whether there is a place for one more token.
    fn check_place(&self, key: &GrantKey) -> Result<(), NotKept> {
        let index = lock(&self.index);
        if index.contains_key(key) {
            return Ok(());
        }
        let (mut own, mut all) = (0, 0);
        for other in index.keys().filter(|other| other.origin == Origin::Pat) {
            all += 1;
            own += usize::from(other.uid == key.uid);
        }
        match (own < MAX_PER_USER, all < MAX_PATS) {
            (true, true) => Ok(()),
            (false, _) => Err(NotKept::TooMany(own)),
            (true, false) => Err(NotKept::TooMany(all)),
        }
    }
}

fn is_pat(key: &GrantKey, uid: u32, integration: &ScmIntegration) -> bool {
    key.origin == Origin::Pat && key.uid == uid && key.integration_id == integration.id
}

/// Whether the user name beside a token says nothing there: Azure DevOps' clone URLs have the organisation in its place, and any will do.
pub(in crate::broker) fn ignores_names(integration: &ScmIntegration) -> bool {
    matches!(integration.scm_id, ScmId::AzureDevOpsEntra | ScmId::AzureDevOpsServer)
}

/// Whether a token for one integration is for another too.
pub(in crate::broker) fn is_same_place(one: &ScmIntegration, other: &ScmIntegration) -> bool {
    pat_binding(one) == pat_binding(other)
}

/// Where a token belongs: it has nothing to do with an app.
pub(super) fn pat_binding(integration: &ScmIntegration) -> [u8; 32] {
    digest(&["pat", integration.scm_id.as_str(), &integration.host, &integration.virtual_directory])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_user_writes_in_bursts_or_slowly_and_keeps_nobody_else_from_it() {
        let mut writes = PatWrites::default();
        let burst = |writes: &mut PatWrites, uid| (0..200).filter(|_| writes.allow(uid)).count();
        assert_eq!((burst(&mut writes, 1), burst(&mut writes, 2)), (64, 64));
        tokio::time::advance(WRITE_REFILL * 3).await;
        assert_eq!((burst(&mut writes, 1), writes.0.len()), (3, 2));
        // Whose allowance is whole again takes no room.
        tokio::time::advance(WRITE_REFILL * 70).await;
        assert!(writes.allow(3) && writes.0.len() == 1);
    }
}
