//! Signing in: a session from the user's command to the kept grant.
//!
//! The command line shows the user what to do and asks how far it is; everything secret stays here. A session is bound to the
//! uid that began it, and nothing happens in it unless its user asks: a command that was killed leaves a session that ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use url::Url;
use zeroize::Zeroizing;

use super::super::counted::TokenRequest;
use super::leaving::Definition;
use super::renewal::record_of;
use super::sessions::{Activity, Found, Session, Step, Way};
use super::{GrantError, Grants, binding, is_sign_in, lock};
use crate::clock::seconds_begun;
use crate::login::{Begun, Login, Mode, Progress, Refused, State, is_account};
use crate::metrics::labels::TokenGrant;
use crate::oauth::{self, Classified, DevicePoll, ErrorClass, GrantedTokens};
use crate::store::{GrantKey, Origin};

/// How long a user has in the browser.
const CODE_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// What each `slow_down` adds to the interval, for good (RFC 8628 section 3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// The longest that a host in trouble is left alone.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// How a user wants to sign in.
pub(in crate::broker) enum Wanted {
    /// With a browser on this machine, which comes back to this URI.
    Browser(Url),
    /// With any browser.
    Device,
}

impl Grants {
    /// Begins a sign-in at an integration's host, if that answers in `within`.
    pub(in crate::broker) async fn begin_login(
        &self,
        uid: u32,
        definition: Definition,
        wanted: Wanted,
        account: Option<String>,
        within: Duration,
    ) -> Login {
        if account.as_deref().is_some_and(|account| !is_account(account)) {
            return refused("the account's name may have letters, digits and -._@+~ only, and 128 of them at most", None);
        }
        self.sessions.forget_expired();
        let id = match random_name() {
            Ok(id) => id,
            Err(error) => return refused(&error.to_string(), None),
        };
        if !self.sessions.reserve(&id, uid, Instant::now() + within) {
            return refused("too many sign-ins are under way", Some("wait a minute, and try again"));
        }
        let host = definition.0.host.clone();
        let begun = match timeout(within, self.begin(&id, uid, definition, wanted, account)).await {
            Ok(Ok(begun)) => return Login::Begun(begun),
            Ok(Err(error)) => refused(&error.to_string(), what_next(&error)),
            Err(_) => refused(
                &format!("the issuer for {host} did not answer in time"),
                Some("try again; for an issuer that is always that slow, the operator of this machine can raise agent.request_timeout"),
            ),
        };
        drop(self.sessions.take(&id, uid));
        begun
    }

    async fn begin(
        &self,
        id: &str,
        uid: u32,
        definition: Definition,
        wanted: Wanted,
        account: Option<String>,
    ) -> Result<Begun, GrantError> {
        let (integration, plan) = definition;
        let endpoints = self.tokens.user_endpoints(&plan).await?;
        let now = Instant::now();
        let (way, mode, lifetime) = match wanted {
            Wanted::Browser(redirect_uri) => {
                let client_id = integration.oauth.as_ref().map(|app| app.client_id.as_str()).unwrap_or_default();
                let request = self.tokens.begin_code(&endpoints, client_id, &redirect_uri)?;
                let mode = Mode::Browser { authorize_url: request.authorize_url.to_string() };
                (Way::Code(request), mode, CODE_LIFETIME)
            }
            Wanted::Device => {
                let (client_id, secret) = self.app(&integration).await?;
                let begun = self.tokens.begin_device(&endpoints, client_id, secret, &plan).await?;
                let lifetime = begun.expires.remaining(oauth::Moment::now(&*self.clock));
                let mode = Mode::Device {
                    user_code: begun.user_code,
                    verification_uri: begun.verification_uri.to_string(),
                    verification_uri_complete: begun.verification_uri_complete.map(String::from),
                    interval_seconds: begun.interval.as_secs(),
                };
                (Way::Device { code: begun.device_code, due: now + begun.interval, interval: begun.interval }, mode, lifetime)
            }
        };
        let host = integration.host.clone();
        info!(target: "audit", event = "sign_in_begun", uid, host = integration.host, integration = integration.id, "a sign-in begins");
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let session = Session { account, endpoints, ends: now + lifetime, integration, is_cancelled, plan, uid, way };
        self.sessions.begin(id, Box::new(session));
        Ok(Begun { session: id.to_owned(), host, mode, expires_in_seconds: lifetime.as_secs() })
    }

    /// Looks how far a sign-in with a device code is, asking the host if it is time for that.
    pub(in crate::broker) async fn look_at_login(self: &Arc<Self>, uid: u32, id: &str, within: Duration) -> Progress {
        let now = Instant::now();
        let rest = |session: &Session| {
            let host = session.integration.host.clone();
            match &session.way {
                _ if session.ends <= now => Some(expired(host)),
                Way::Code(_) => Some(pending(host, SLOW_DOWN)),
                Way::Device { due, .. } => (*due > now).then(|| pending(host, *due - now)),
            }
        };
        self.ask(id, uid, within, rest, |grants, session| Box::pin(grants.poll(session))).await
    }

    /// Takes what came back from the browser.
    pub(in crate::broker) async fn finish_login(self: &Arc<Self>, uid: u32, id: &str, query: &str, within: Duration) -> Progress {
        let now = Instant::now();
        let rest = |session: &Session| {
            let host = session.integration.host.clone();
            match &session.way {
                _ if session.ends <= now => Some(expired(host)),
                Way::Code(_) => None,
                // It goes on: with its code, in any browser.
                Way::Device { .. } => {
                    let error = Some("this sign-in takes no browser's answer".to_owned());
                    Some(Progress { error, ..pending(host, SLOW_DOWN) })
                }
            }
        };
        let query = Zeroizing::new(query.to_owned());
        self.ask(id, uid, within, rest, |grants, session| Box::pin(grants.exchange(session, query))).await
    }

    /// Ends a session before its time. What its host still answers is given back.
    pub(in crate::broker) fn cancel_login(&self, uid: u32, id: &str) -> bool {
        let Some(activity) = self.sessions.take(id, uid) else { return false };
        if let Activity::Asking { is_cancelled, .. } = &activity {
            is_cancelled.store(true, Ordering::SeqCst);
        }
        true
    }

    /// Has a task ask the host, unless `rest` or somebody else has an answer, so that nothing that it answers is lost, however long it takes and whoever waits.
    async fn ask(
        self: &Arc<Self>,
        id: &str,
        uid: u32,
        within: Duration,
        rest: impl FnOnce(&Session) -> Option<Progress>,
        ask: impl FnOnce(Arc<Self>, Box<Session>) -> BoxFuture<'static, Step> + Send + 'static,
    ) -> Progress {
        let (sender, outcome) = watch::channel(None);
        let session = match self.sessions.find(id, uid, &outcome, rest) {
            Found::Answer(progress) => return progress,
            Found::Asking(outcome) => return self.outcome(id, uid, outcome, within).await,
            Found::Waiting(session) => session,
        };
        let integration = Arc::clone(&session.integration);
        let (grants, name) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let (session, progress) = ask(Arc::clone(&grants), session).await;
            if !matches!(progress.state, State::Done | State::Pending) {
                let reason = progress.error.as_deref();
                warn!(target: "audit", event = "sign_in_failed", uid, host = integration.host, integration = integration.id, reason, "a sign-in came to nothing");
            }
            grants.sessions.go_on(&name, session.map_or_else(|| Activity::Over(progress.clone()), Activity::Waiting));
            sender.send_replace(Some(progress));
        });
        self.outcome(id, uid, outcome, within).await
    }

    /// Waits for what the host answers, for a while.
    async fn outcome(&self, id: &str, uid: u32, mut outcome: watch::Receiver<Option<Progress>>, within: Duration) -> Progress {
        let progress = match timeout(within, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(progress)) => progress.clone(),
            // The task went away without a word.
            Ok(Err(_)) => None,
            Err(_) => return pending(String::new(), Duration::from_secs(1)),
        };
        let progress = progress.unwrap_or_else(|| {
            ended(State::Failed, String::new(), "the sign-in ended for a defect of scm-agent", Some("run scm-agent login again"))
        });
        if progress.state != State::Pending {
            drop(self.sessions.take(id, uid));
        }
        progress
    }

    /// Asks the host whether the user has signed in.
    async fn poll(self: Arc<Self>, mut session: Box<Session>) -> Step {
        let host = session.integration.host.clone();
        let Way::Device { code, due, interval } = &mut session.way else { return (None, unknown_session()) };
        let asked = async {
            let (client_id, secret) = self.app(&session.integration).await?;
            let request = TokenRequest::begin(&self.metrics, TokenGrant::SignIn, &session.integration);
            Ok::<_, GrantError>(
                request.end_poll(self.tokens.poll_device(&session.endpoints, client_id, secret, &session.plan, code).await)?,
            )
        };
        match asked.await {
            Ok(DevicePoll::Granted(granted)) => return (None, self.finish(*session, granted).await),
            Ok(DevicePoll::Denied) => return (None, ended(State::Denied, host, "the sign-in was declined", None)),
            Ok(DevicePoll::Expired) => return (None, expired(host)),
            Ok(DevicePoll::Pending) => {}
            Ok(DevicePoll::SlowDown { interval: wanted }) => *interval = wanted.unwrap_or_default().max(*interval + SLOW_DOWN),
            // The code is spent, and what came for it is of no use.
            Err(error @ GrantError::OAuth(oauth::Error::ReplyField { .. })) => return (None, failed(host, &error)),
            Err(error) if error.class() == ErrorClass::Transient => {
                // RFC 8628 section 3.5: less often after a time-out, and never more often than before.
                *interval = slower(*interval, error.retry_after());
            }
            Err(error) => return (None, failed(host, &error)),
        }
        *due = Instant::now() + *interval;
        let wait = *interval;
        (Some(session), pending(host, wait))
    }

    /// Has the host give tokens for what the browser brought.
    async fn exchange(self: Arc<Self>, session: Box<Session>, query: Zeroizing<String>) -> Step {
        let host = session.integration.host.clone();
        let Way::Code(request) = &session.way else { return (None, unknown_session()) };
        let exchanged = async {
            let (client_id, secret) = self.app(&session.integration).await?;
            let asked = TokenRequest::begin(&self.metrics, TokenGrant::SignIn, &session.integration);
            let exchanged = self.tokens.exchange_code(&session.endpoints, client_id, secret, &session.plan, request, &query).await;
            Ok::<_, GrantError>(asked.end(exchanged)?)
        };
        match exchanged.await {
            Ok(granted) => (None, self.finish(*session, granted).await),
            // Somebody else knocked: the browser may still come.
            Err(GrantError::OAuth(error @ oauth::Error::CallbackState)) => {
                warn!(target: "audit", event = "sign_in_mixed_up", uid = session.uid, host, integration = session.integration.id, "a browser came back with another sign-in's answer");
                (Some(session), Progress { error: Some(error.to_string()), ..pending(host, SLOW_DOWN) })
            }
            Err(GrantError::OAuth(oauth::Error::AuthorizationRefused { code, .. })) if code.as_str() == Some("access_denied") => {
                (None, ended(State::Denied, host, "the sign-in was declined", None))
            }
            Err(error) => (None, failed(host, &error)),
        }
    }

    /// Keeps what was granted, or gives it back where the user gave up meanwhile.
    async fn finish(self: &Arc<Self>, session: Session, granted: GrantedTokens) -> Progress {
        let Session { account, endpoints, integration, is_cancelled, plan, uid, .. } = session;
        let scopes = granted.scopes.clone().unwrap_or_else(|| endpoints.scopes.clone());
        let is_named = account.is_some();
        let account = match account {
            Some(account) => account,
            // The token is good whether or not the host tells whose it is.
            None => self.tokens.account_name(&endpoints, &scopes, &granted.access_token).await.ok().flatten().unwrap_or_default(),
        };
        let own = |key: &&GrantKey| is_sign_in(key, uid, &integration);
        let known: Vec<GrantKey> = lock(&self.index).keys().filter(own).cloned().collect();
        // Hosts do not tell names apart by their case, so neither does the list of accounts.
        let known_as = known.iter().find(|key| key.account.eq_ignore_ascii_case(&account)).map(|key| key.account.clone());
        let account = known_as.unwrap_or(account);
        let key = GrantKey { origin: Origin::SignIn, uid, integration_id: integration.id.clone(), account: account.clone() };
        let token = self.fingerprints.of(&granted.access_token);
        let record = record_of(key.clone(), &integration, granted, (None, scopes));
        if is_cancelled.load(Ordering::SeqCst) {
            info!(target: "audit", event = "sign_in_given_up", uid, host = integration.host, integration = integration.id, "a sign-in that was given up is given back");
            drop(self.revoke_later(record, (integration, plan)));
            return unknown_session();
        }
        let (mut before, saved) = self.save(record).await;
        if is_cancelled.load(Ordering::SeqCst) {
            // What was there before the sign-in that was given up is there again.
            let given_up = match before.take() {
                Some(before) => self.save(before).await.0,
                None => self.remove(&key).await.0,
            };
            self.cache.purge(|other| *other == key);
            let heir = self.load(&key).await.ok().flatten();
            if let Some(record) = given_up {
                drop(self.revoke_superseded(record, heir.as_ref(), (integration, plan)));
            }
            return unknown_session();
        }
        self.cache.purge(|other| *other == key);
        if let Some(before) = before.filter(|before| before.binding == binding(&integration))
            // Where nobody knows what the two share, nothing is revoked.
            && let Ok(heir) = self.load(&key).await
        {
            drop(self.revoke_superseded(before, heir.as_ref(), (Arc::clone(&integration), plan.clone())));
        }
        info!(target: "audit", event = "signed_in", uid, host = integration.host, integration = integration.id, account, token, kept = saved.is_ok(), "signed in");
        // A sign-in whose name the host did not tell then was this user's too, as far as anybody knows. Beside one with a name, git would
        // have to ask which is meant, and nobody could say the one without.
        if let Some(unnamed) = known.into_iter().find(|key| key.account.is_empty() && !account.is_empty() && !is_named)
            && let (Some(before), _) = self.remove(&unnamed).await
            && before.binding == binding(&integration)
            && let Ok(heir) = self.load(&key).await
        {
            info!(target: "audit", event = "signed_out", uid, host = integration.host, integration = integration.id, "a sign-in without a name gave way to it");
            drop(self.revoke_superseded(before, heir.as_ref(), (Arc::clone(&integration), plan.clone())));
        }
        let (error, next) = match saved {
            Ok(()) => (None, None),
            Err(error) => {
                (Some(format!("the sign-in serves, but is not kept for the next start: {error}")), Some("scm-agent doctor".to_owned()))
            }
        };
        let account = (!account.is_empty()).then_some(account);
        Progress { state: State::Done, retry_in_seconds: None, account, host: integration.host.clone(), error, next }
    }
}

/// The interval after a failure that time may mend.
fn slower(interval: Duration, retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().max((interval * 2).min(LONGEST_INTERVAL)).max(interval)
}

/// An answer that says why no sign-in begins.
pub(in crate::broker) fn refused(error: &str, next: Option<&str>) -> Login {
    Login::Refused(Refused { error: error.to_owned(), next: next.map(str::to_owned) })
}

fn what_next(error: &GrantError) -> Option<&'static str> {
    match error {
        GrantError::OAuth(oauth::Error::FlowNotOffered { .. }) => Some("try the other way: scm-agent login URL --device, or --browser"),
        GrantError::OAuth(oauth::Error::Refused { code, .. }) if code.as_str() == Some("device_flow_disabled") => {
            Some("try --browser, or enable the device flow in the app")
        }
        GrantError::OAuth(_) | GrantError::Resting { .. } | GrantError::Undecryptable { .. } => Some("scm-agent doctor"),
        GrantError::Gone | GrantError::NeedsLogin { .. } | GrantError::Store(_) => None,
    }
}

fn pending(host: String, wait: Duration) -> Progress {
    // Rounded up: who comes too early is sent away again.
    let seconds = seconds_begun(wait);
    Progress { state: State::Pending, retry_in_seconds: Some(seconds.max(1)), account: None, host, error: None, next: None }
}

fn expired(host: String) -> Progress {
    ended(State::Expired, host, "it took too long", Some("run scm-agent login again"))
}

fn ended(state: State, host: String, error: &str, next: Option<&str>) -> Progress {
    Progress { state, retry_in_seconds: None, account: None, host, error: Some(error.to_owned()), next: next.map(str::to_owned) }
}

fn failed(host: String, error: &GrantError) -> Progress {
    ended(State::Failed, host, &error.to_string(), what_next(error))
}

pub(super) fn unknown_session() -> Progress {
    ended(State::Failed, String::new(), "there is no such sign-in under way", Some("run scm-agent login again"))
}

/// 128 random bits in hexadecimal.
fn random_name() -> Result<String, oauth::Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| oauth::Error::Randomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_a_host_is_never_asked_more_often_than_before() {
        let seconds = Duration::from_secs;
        assert_eq!(slower(seconds(5), None), seconds(10));
        assert_eq!(slower(seconds(50), None), LONGEST_INTERVAL);
        assert_eq!(slower(seconds(300), None), seconds(300));
        assert_eq!(slower(seconds(5), Some(seconds(600))), seconds(600));
        assert_eq!(slower(seconds(300), Some(seconds(1))), seconds(300));
    }

    #[test]
    fn a_flow_that_is_switched_off_leads_to_the_other_one_or_to_the_switch() {
        let refused = |code: &[u8]| {
            let code = oauth::ErrorCode::parse(code);
            what_next(&GrantError::OAuth(oauth::Error::Refused { host: "github.com".to_owned(), code, retry_after: None, status: 200 }))
        };
        assert_eq!(refused(b"device_flow_disabled"), Some("try --browser, or enable the device flow in the app"));
        assert_eq!(refused(b"invalid_client"), Some("scm-agent doctor"));
    }
}
