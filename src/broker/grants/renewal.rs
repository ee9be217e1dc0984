//! Keeping a grant alive: when its pair of tokens is renewed, and in which order what is written down.
//!
//! Many hosts take the old refresh token back the moment they give a new one. So that it is used is on disk before the request
//! goes, and the new pair is on disk before anybody is served with it. What a crash in between costs is the one window that
//! nobody can close: the host has renewed and its reply is lost. Then the old refresh token is tried once more, and if the host
//! refuses it the user is asked to sign in again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::super::counted::TokenRequest;
use super::records::Saved;
use super::{CHANGED, GrantError, Grants, binding};
use crate::integration::ScmIntegration;
use crate::metrics::labels::{Refresh, TokenGrant};
use crate::oauth::{self, Classified, ErrorClass, GrantedTokens, IssuedToken, Moment, UserPlan};
use crate::secret::{ClientSecret, RefreshToken};
use crate::store::{GrantKey, GrantRecord, GrantState};

/// How far a pair may come from the future: clocks differ a little. Beyond that the clock was set back, and when it expires is unknown.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// What is said of an expired token that came without a refresh token.
pub(super) const NOTHING_TO_RENEW_WITH: &str = "the token has expired, and the host gave nothing to renew it with";

/// What is to be renewed.
struct Due {
    /// Whether the access token at hand still lives.
    has_token: bool,
    /// Whether a renewal was begun before, and nobody knows how it ended.
    is_orphan: bool,
    obtained_at: SystemTime,
    refresh_token: RefreshToken,
    scopes: Vec<String>,
}

impl Grants {
    /// The grant's token: the kept one while it is fresh, else a new one. A kept one that still lives is lent to the cache, which serves
    /// it where no new one can be had.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        key: &GrantKey,
        integration: &Arc<ScmIntegration>,
        plan: &UserPlan,
    ) -> Result<IssuedToken, GrantError> {
        let record = self.load(key).await?.ok_or(GrantError::Gone)?;
        if record.binding != binding(integration) {
            return Err(needs_login(CHANGED));
        }
        let now = Moment::now(&*self.clock);
        let left = time_left(&record, now.wall);
        let kept = || kept_token(&record, now);
        let is_fresh = left.is_none_or(|left| left > oauth::longest_refresh_life(lifetime(&record).unwrap_or_default()));
        let is_orphan = matches!(record.state, GrantState::Refreshing { .. });
        if left != Some(Duration::ZERO) {
            let is_over = matches!(record.state, GrantState::NeedsLogin { .. });
            // What was refused once is not asked for again, but the token may serve its time.
            if is_over || record.refresh_token.is_none() || (is_fresh && !is_orphan) {
                return Ok(kept());
            }
            self.cache.lend(key, kept());
        }
        if let GrantState::NeedsLogin { reason, .. } = &record.state {
            return Err(needs_login(reason));
        }
        let GrantRecord { refresh_token, scopes, obtained_at, .. } = record;
        // Nothing of this is written down: it may be the clock that is wrong.
        let refresh_token = refresh_token.ok_or_else(|| needs_login(NOTHING_TO_RENEW_WITH))?;
        let due = Due { has_token: left != Some(Duration::ZERO), is_orphan, obtained_at, refresh_token, scopes };
        let renewed = self.renew(key, integration, plan, due).await;
        self.metrics.refreshed(match &renewed {
            Ok(_) => Refresh::Renewed,
            Err(GrantError::Gone) => Refresh::Gone,
            Err(GrantError::NeedsLogin { .. }) => Refresh::LoginNeeded,
            Err(_) => Refresh::Failed,
        });
        match &renewed {
            Ok(_) | Err(GrantError::Gone) => {}
            Err(GrantError::NeedsLogin { reason }) => self.give_up(key, obtained_at, reason).await?,
            Err(error) => {
                warn!(target: "audit", event = "not_renewed", uid = key.uid, host = integration.host, integration = integration.id, account = key.account, reason = %error, "cannot renew a sign-in");
            }
        }
        renewed
    }

    /// Renews a pair: the intent on disk, the request, the new pair on disk, and only then the token.
    async fn renew(
        self: &Arc<Self>,
        key: &GrantKey,
        integration: &Arc<ScmIntegration>,
        plan: &UserPlan,
        due: Due,
    ) -> Result<IssuedToken, GrantError> {
        let host = plan.issuer_host();
        let mut pass = match self.pace.enter(&host).await {
            Ok(pass) => pass,
            Err(wait) => return Err(GrantError::Resting { host, wait }),
        };
        // What can fail without a trace at the host comes first.
        let endpoints = self.tokens.user_endpoints(plan).await.inspect_err(|error| pass.failed(error.retry_after()))?;
        let (client_id, secret) = self.app(integration).await?;
        // A host that takes the old pair back must not be asked where the new one cannot be kept, unless there is nothing to lose.
        let prepared = async {
            self.check_room().await?;
            self.mark(key, due.obtained_at, GrantState::Refreshing { since: self.clock.now() }).await
        };
        match prepared.await {
            // Somebody signed out, or in anew, while this one waited.
            Ok(false) => return Err(GrantError::Gone),
            Err(error) if due.has_token => return Err(error.into()),
            Ok(true) | Err(_) => {}
        }
        let asked = TokenRequest::begin(&self.metrics, TokenGrant::RefreshToken, integration);
        let renewed = asked.end(self.tokens.refresh(&endpoints, client_id, secret, plan, &due.refresh_token).await);
        let granted = match renewed.inspect_err(|error| pass.failed(error.retry_after())) {
            Ok(granted) => granted,
            Err(error) => return Err(self.refused(key, &due, error).await),
        };
        drop(pass);
        let issued = IssuedToken {
            access_token: granted.access_token.duplicate(),
            expires_in: granted.expires_in,
            requested_at: granted.requested_at,
            was_kept: false,
            scopes: granted.scopes.clone(),
        };
        let record = record_of(key.clone(), integration, granted, (Some(due.refresh_token), due.scopes));
        // A pair that the store does not take is kept in memory and saved later; `degraded` says so.
        match self.save_renewed(record, due.obtained_at).await {
            Saved::Kept(kept) => {
                let token = self.fingerprints.of(&issued.access_token);
                info!(target: "audit", event = "renewed", uid = key.uid, host = integration.host, integration = integration.id, account = key.account, token, kept, "renewed a sign-in");
                Ok(issued)
            }
            // The user signed out, or in anew, while the request was under way: nobody is to use what came of it.
            Saved::Gone(record) => {
                let heir = self.load(key).await.ok().flatten();
                drop(self.revoke_superseded(*record, heir.as_ref(), (Arc::clone(integration), plan.clone())));
                Err(GrantError::Gone)
            }
        }
    }

    /// The app's name and its secret, opened for one use.
    pub(super) async fn app<'i>(&self, integration: &'i ScmIntegration) -> Result<(&'i str, ClientSecret), GrantError> {
        let undecryptable = || GrantError::Undecryptable { integration_id: integration.id.clone() };
        let app = integration.oauth.as_ref().ok_or_else(undecryptable)?;
        let secret = self.secrets.open(&app.encrypted_client_secret).await.ok_or_else(undecryptable)?;
        Ok((&app.client_id, secret))
    }

    /// What to make of a renewal that brought no tokens.
    async fn refused(&self, key: &GrantKey, due: &Due, error: oauth::Error) -> GrantError {
        // A page that a proxy put there says nothing of the grant, and neither does a server in trouble.
        if error.class() != ErrorClass::Terminal {
            // Where it is not known whether the host has renewed, the intent stays for the next try to see.
            if !error.outcome_unknown() && !due.is_orphan {
                let _ = self.mark(key, due.obtained_at, GrantState::Active).await;
            }
            return error.into();
        }
        if !self.is_still(key, due.obtained_at).await {
            return GrantError::Gone;
        }
        let reason = match due.is_orphan {
            true => format!("the answer to its last renewal was lost, and now {error}"),
            false => error.to_string(),
        };
        GrantError::NeedsLogin { reason }
    }

    /// Notes that only the user can mend it.
    ///
    /// # Errors
    /// [`GrantError::Gone`] where the user has done so already.
    async fn give_up(&self, key: &GrantKey, obtained_at: SystemTime, reason: &str) -> Result<(), GrantError> {
        let state = GrantState::NeedsLogin { since: self.clock.now(), reason: reason.to_owned() };
        // What the store does not take is known to memory.
        if let Ok(false) = self.mark(key, obtained_at, state).await {
            return Err(GrantError::Gone);
        }
        warn!(target: "audit", event = "grant_ended", uid = key.uid, integration = key.integration_id, account = key.account, reason, "a sign-in is over");
        Ok(())
    }
}

/// The kept token as it was issued, so that the cache knows its whole lifetime.
fn kept_token(record: &GrantRecord, now: Moment) -> IssuedToken {
    let expires_in = lifetime(record);
    let age = expires_in.and_then(|_| now.wall.duration_since(record.obtained_at).ok()).unwrap_or_default();
    let requested_at = match now.monotonic.checked_sub(age) {
        Some(monotonic) if expires_in.is_some() => Moment { monotonic, wall: record.obtained_at },
        _ => now,
    };
    let scopes = Some(record.scopes.clone());
    IssuedToken { access_token: record.access_token.duplicate(), expires_in, requested_at, was_kept: true, scopes }
}

/// The access token's whole lifetime, where it is known.
fn lifetime(record: &GrantRecord) -> Option<Duration> {
    record.expires_at.map(|end| end.duration_since(record.obtained_at).unwrap_or_default())
}

/// A record of what was granted. A renewal may leave the refresh token and the scopes as they were.
pub(super) fn record_of(
    key: GrantKey,
    integration: &ScmIntegration,
    granted: GrantedTokens,
    before: (Option<RefreshToken>, Vec<String>),
) -> GrantRecord {
    let (expires_at, refresh_expires_at, obtained_at) = (granted.expires_at(), granted.refresh_expires_at(), granted.requested_at.wall);
    let GrantedTokens { access_token, refresh_token, scopes, .. } = granted;
    let (old_token, old_scopes) = before;
    GrantRecord {
        key,
        host: integration.host.clone(),
        binding: binding(integration),
        access_token,
        refresh_token: refresh_token.or(old_token),
        expires_at,
        refresh_expires_at,
        obtained_at,
        scopes: scopes.unwrap_or(old_scopes),
        state: GrantState::Active,
    }
}

pub(super) fn needs_login(reason: &str) -> GrantError {
    GrantError::NeedsLogin { reason: reason.to_owned() }
}

/// How long the access token lives on; `None` where that is not known, zero when it is over. A pair from the future says that the
/// clock was set back, and its end is as wrong.
pub(super) fn time_left(record: &GrantRecord, now: SystemTime) -> Option<Duration> {
    let end = record.expires_at?;
    let from_the_future = record.obtained_at.duration_since(now).is_ok_and(|ahead| ahead > CLOCK_TOLERANCE);
    Some(if from_the_future { Duration::ZERO } else { end.duration_since(now).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::secret::AccessToken;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn left(obtained_ago: i64, lifetime: Option<Duration>) -> Option<Duration> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ago = Duration::from_secs(obtained_ago.unsigned_abs());
        let obtained_at = if obtained_ago < 0 { now + ago } else { now - ago };
        let record = GrantRecord {
            key: GrantKey { origin: crate::store::Origin::SignIn, uid: 1, integration_id: "i".into(), account: String::new() },
            host: "h".into(),
            binding: [0; 32],
            access_token: AccessToken::parse(Zeroizing::new(b"a".to_vec())).unwrap(),
            refresh_token: None,
            expires_at: lifetime.map(|lifetime| obtained_at + lifetime),
            refresh_expires_at: None,
            obtained_at,
            scopes: Vec::new(),
            state: GrantState::Active,
        };
        time_left(&record, now)
    }

    #[test]
    fn a_clock_that_was_set_ahead_or_back_makes_a_token_expired_and_never_longer_lived() {
        const TEN_YEARS: i64 = 10 * 365 * 24 * 3_600;
        assert_eq!(left(1_000, Some(HOUR)), Some(HOUR - Duration::from_secs(1_000)));
        assert_eq!(left(TEN_YEARS, Some(HOUR)), Some(Duration::ZERO));
        assert_eq!(left(-TEN_YEARS, Some(HOUR)), Some(Duration::ZERO));
        // Clocks differ a little.
        assert_eq!(left(-60, Some(HOUR)), Some(HOUR + Duration::from_secs(60)));
        for ago in [0, TEN_YEARS, -TEN_YEARS] {
            assert_eq!(left(ago, None), None, "a token without an end has none");
        }
    }
}
