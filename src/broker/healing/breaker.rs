//! How often tokens are replaced that hosts refuse: a host, a proxy or a user who refuses whatever comes costs a few requests, and then
//! one every five minutes.
//!
//! What counts is the refusal of a young token: an old one may well have been revoked. It is counted for the user whose git says so, so
//! that nobody can keep the others from having their tokens replaced; and, with more patience, for all users of a token together. Three
//! that no host has taken, or nine whatever somebody says of them, start a pause; after it one is replaced, and the next refusal starts a
//! longer pause. Meanwhile the token at hand goes on being served, because for others it may be good.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Subject;
use super::state::TokenId;
use crate::clock::seconds_begun;

/// How long a token is young, and how long its refusal counts.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// How many young tokens in a row a user may have refused.
const USER_LIMIT: usize = 3;
/// How many all users of a token together: more than one user can bring about.
const COMMON_LIMIT: usize = 20;
/// How many times a limit is passed in a window though hosts are said to have taken some of the tokens.
const CONFIRMED_FACTOR: usize = 3;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How many users and tokens are watched.
const MAX_BREAKERS: usize = 4_096;

/// The breakers of all tokens and users.
#[derive(Default)]
pub(in crate::broker) struct Breakers(Mutex<HashMap<Watched, Breaker>>);

/// A token, and the user whose refusals are counted; `None` for all of them.
type Watched = (Subject, Option<u32>);

/// A token that somebody's git says was refused.
pub(in crate::broker) struct Refusal<'a> {
    /// How long ago it was had.
    pub(in crate::broker) age: Duration,
    /// The host, for the log.
    pub(in crate::broker) host: &'a str,
    /// The token.
    pub(in crate::broker) id: TokenId,
    /// What it is a token of.
    pub(in crate::broker) subject: &'a Subject,
    /// Who says so.
    pub(in crate::broker) uid: u32,
}

/// Why a token that was refused is not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Storm {
    /// For how long none is.
    pub(in crate::broker) pause: Duration,
    /// How many young ones were refused.
    pub(in crate::broker) refused: usize,
}

impl Storm {
    /// What happened, in words.
    pub(in crate::broker) fn describe(&self, host: &str) -> String {
        let Self { pause, refused } = self;
        let seconds = seconds_begun(*pause);
        let rest = if seconds == 0 { String::new() } else { format!("; no other is fetched for {seconds} s") };
        format!("{host} refused {refused} new tokens in a row{rest}")
    }
}

struct Breaker {
    /// The token that a host took last.
    confirmed: Option<TokenId>,
    /// The token that was counted last, so that each counts once.
    counted: Option<TokenId>,
    host: String,
    pause: Option<Pause>,
    /// Young tokens that were refused in the window: when, and whether no host is said to have taken any since.
    refusals: VecDeque<(Instant, bool)>,
    touched: Instant,
}

struct Pause {
    /// Whether a token was replaced since it was over.
    has_retried: bool,
    length: Duration,
    refused: usize,
    /// Until then nothing is replaced. After that there is one chance, and then the next pause.
    until: Instant,
}

impl Breakers {
    /// Counts a refusal; `None` where the token may be replaced.
    pub(in crate::broker) fn refused(&self, refusal: &Refusal<'_>, now: Instant) -> Option<Storm> {
        let Refusal { age, host, id, subject, uid } = *refusal;
        let mut breakers = self.lock();
        let watched = watched(subject, uid);
        if let Some(storm) = watched.iter().filter_map(|(key, _)| breakers.get(key)?.storm(now)).find(|storm| !storm.pause.is_zero()) {
            return Some(storm);
        }
        if age >= WINDOW {
            return None;
        }
        let mut storm = None;
        for (key, limit) in watched {
            let uid = key.1;
            let tripped = entry(&mut breakers, key, host, now).count(id, limit, now);
            if let Some(Storm { pause, refused }) = tripped {
                let (integration, account) = subject.labels();
                warn!(
                    host,
                    integration,
                    account,
                    uid,
                    refused,
                    pause_seconds = pause.as_secs(),
                    "the host refuses new tokens as soon as they come: no others are fetched for a while, and the one at hand is served on"
                );
            }
            storm = storm.or(tripped);
        }
        storm
    }

    /// Notes that a host took a token: what was refused before it is no row any more.
    pub(in crate::broker) fn confirmed(&self, refusal: &Refusal<'_>, now: Instant) {
        let Refusal { age, host, id, subject, uid } = *refusal;
        let mut breakers = self.lock();
        for (key, limit) in watched(subject, uid) {
            if age < WINDOW || breakers.contains_key(&key) {
                let (uid, breaker) = (key.1, entry(&mut breakers, key, host, now));
                breaker.confirmed = Some(id);
                breaker.refusals.iter_mut().for_each(|(_, is_in_row)| *is_in_row = false);
                breaker.forget(now);
                // Who says that everything was taken and refuses it the next moment is not believed for ever.
                if breaker.refusals.len() < limit * CONFIRMED_FACTOR {
                    breaker.close(subject, uid);
                }
            }
        }
    }

    /// Which tokens are refused as soon as they come, and how it stands with them.
    pub(in crate::broker) fn storms(&self, now: Instant) -> HashMap<Subject, Storm> {
        let mut storms = HashMap::new();
        for ((subject, _), breaker) in self.lock().iter() {
            let Some(storm) = breaker.storm(now) else { continue };
            let worst: &mut Storm = storms.entry(subject.clone()).or_insert(storm);
            worst.refused = worst.refused.max(storm.refused);
            worst.pause = worst.pause.max(storm.pause);
        }
        storms
    }

    /// The same of one token.
    pub(in crate::broker) fn storm(&self, subject: &Subject, uid: u32, now: Instant) -> Option<Storm> {
        let breakers = self.lock();
        watched(subject, uid).iter().find_map(|(key, _)| breakers.get(key)?.storm(now))
    }

    /// Ends what has been quiet for a window.
    pub(in crate::broker) fn sweep(&self, now: Instant) {
        sweep(&mut self.lock(), now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Watched, Breaker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breaker {
    /// Counts the refusal of a young token; the pause where that starts one.
    fn count(&mut self, id: TokenId, limit: usize, now: Instant) -> Option<Storm> {
        self.touched = now;
        if self.counted.replace(id) == Some(id) {
            // The one that started a pause which is over now.
            self.pause.iter_mut().for_each(|pause| pause.has_retried = true);
            return None;
        }
        self.forget(now);
        self.refusals.push_back((now, self.confirmed != Some(id)));
        let in_row = self.refusals.iter().filter(|(_, is_in_row)| *is_in_row).count();
        let (length, refused) = match &mut self.pause {
            Some(before) if !before.has_retried => {
                before.has_retried = true;
                before.refused += 1;
                return None;
            }
            Some(before) => ((before.length * 2).min(LONGEST_PAUSE), before.refused + 1),
            None if in_row >= limit || self.refusals.len() >= limit * CONFIRMED_FACTOR => (FIRST_PAUSE, self.refusals.len()),
            None => return None,
        };
        self.pause = Some(Pause { has_retried: false, length, refused, until: now + length });
        self.storm(now)
    }

    /// Forgets what was refused before the window.
    fn forget(&mut self, now: Instant) {
        while self.refusals.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.refusals.pop_front();
        }
    }

    fn storm(&self, now: Instant) -> Option<Storm> {
        self.pause.as_ref().map(|pause| Storm { pause: pause.until.saturating_duration_since(now), refused: pause.refused })
    }

    fn close(&mut self, subject: &Subject, uid: Option<u32>) {
        if self.pause.take().is_some() {
            let (integration, account) = subject.labels();
            info!(host = self.host, integration, account, uid, "tokens that the host refuses are replaced again");
        }
    }
}

/// The breakers that a user's word counts for, with their limits. A user's own grant is nobody else's.
fn watched(subject: &Subject, uid: u32) -> Vec<(Watched, usize)> {
    let own = ((subject.clone(), Some(uid)), USER_LIMIT);
    match subject {
        Subject::Own(_) => vec![own],
        Subject::Service(_) => vec![own, ((subject.clone(), None), COMMON_LIMIT)],
    }
}

/// The breaker of that name, made where there is none; of too many the one that rested longest gives way.
fn entry<'b>(breakers: &'b mut HashMap<Watched, Breaker>, key: Watched, host: &str, now: Instant) -> &'b mut Breaker {
    if breakers.len() >= MAX_BREAKERS && !breakers.contains_key(&key) {
        sweep(breakers, now);
        let oldest = breakers.iter().min_by_key(|(_, breaker)| (breaker.pause.is_some(), breaker.touched));
        if let Some(oldest) = oldest.map(|(key, _)| key.clone()).filter(|_| breakers.len() >= MAX_BREAKERS) {
            breakers.remove(&oldest);
        }
    }
    let breaker = breakers.entry(key).or_insert_with(|| Breaker {
        confirmed: None,
        counted: None,
        host: host.to_owned(),
        pause: None,
        refusals: VecDeque::new(),
        touched: now,
    });
    breaker.touched = now;
    breaker
}

fn sweep(breakers: &mut HashMap<Watched, Breaker>, now: Instant) {
    breakers.retain(|(subject, uid), breaker| {
        breaker.forget(now);
        if breaker.pause.as_ref().is_some_and(|pause| now.saturating_duration_since(pause.until) >= WINDOW) {
            breaker.close(subject, *uid);
        }
        breaker.pause.is_some() || !breaker.refusals.is_empty() || now.saturating_duration_since(breaker.touched) < WINDOW
    });
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::state::States;
    use super::*;
    use crate::broker::TokenKey;
    use crate::integration::{ScmId, ScmIntegration};
    use crate::store::{GrantKey, Origin};

    const YOUNG: Duration = Duration::from_secs(5);

    struct Bench {
        breakers: Breakers,
        now: Instant,
        states: States,
        count: u32,
    }

    impl Bench {
        fn new() -> Self {
            Self { breakers: Breakers::default(), now: Instant::now(), states: States::new(), count: 0 }
        }

        fn token(&mut self) -> TokenId {
            self.count += 1;
            self.states.id_of(&self.count.to_le_bytes(), SystemTime::UNIX_EPOCH).unwrap()
        }

        /// A new token that one user says was refused; for how long there is no other.
        fn refuse(&mut self, subject: &Subject, uid: u32) -> Option<u64> {
            let id = self.token();
            self.refuse_this(subject, uid, id, YOUNG)
        }

        fn refuse_this(&self, subject: &Subject, uid: u32, id: TokenId, age: Duration) -> Option<u64> {
            let storm = self.breakers.refused(&Refusal { age, host: "h", id, subject, uid }, self.now);
            storm.map(|storm| storm.pause.as_secs())
        }

        fn confirm(&self, subject: &Subject, uid: u32, id: TokenId) {
            self.breakers.confirmed(&Refusal { age: YOUNG, host: "h", id, subject, uid }, self.now);
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    fn own(uid: u32) -> Subject {
        Subject::Own(GrantKey { origin: Origin::SignIn, uid, integration_id: "i".to_owned(), account: String::new() })
    }

    fn service() -> Subject {
        Subject::Service(TokenKey::of(&std::sync::Arc::new(ScmIntegration {
            id: "i".to_owned(),
            scm_id: ScmId::GitHub,
            host: "h".to_owned(),
            virtual_directory: String::new(),
            oauth: None,
            pat: false,
            runner_id: String::new(),
        })))
    }

    #[tokio::test]
    async fn the_third_young_token_in_a_row_starts_a_pause_that_doubles_up_to_five_minutes() {
        for subject in [own(1), service()] {
            let mut bench = Bench::new();
            assert_eq!([bench.refuse(&subject, 1), bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None, None, Some(30)]);
            bench.wait(10);
            assert_eq!(bench.refuse(&subject, 1), Some(20), "it is the same pause");
            for pause in [60, 120, 240, 300, 300] {
                let left = bench.breakers.storm(&subject, 1, bench.now).unwrap().pause.as_secs();
                bench.wait(left);
                assert_eq!(bench.breakers.storm(&subject, 1, bench.now).map(|storm| storm.pause), Some(Duration::ZERO));
                assert_eq!([bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None, Some(pause)], "there was one chance");
            }
            assert_eq!(bench.breakers.storms(bench.now).into_values().map(|storm| storm.refused).collect::<Vec<_>>(), [13]);
        }
    }

    #[tokio::test]
    async fn a_token_counts_once_and_an_old_one_never() {
        let (mut bench, subject) = (Bench::new(), service());
        let id = bench.token();
        for _ in 0..100 {
            assert_eq!(bench.refuse_this(&subject, 1, id, YOUNG), None);
        }
        for _ in 0..100 {
            let old = bench.token();
            assert_eq!(bench.refuse_this(&subject, 1, old, WINDOW), None);
        }
        assert_eq!([bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None, Some(30)]);
    }

    #[tokio::test]
    async fn replacing_the_token_that_was_served_in_a_pause_is_the_chance_after_it() {
        let (mut bench, subject) = (Bench::new(), service());
        assert_eq!([bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None, None]);
        let served = bench.token();
        assert_eq!(bench.refuse_this(&subject, 1, served, YOUNG), Some(30));
        bench.wait(30);
        assert_eq!(bench.refuse_this(&subject, 1, served, YOUNG), None);
        assert_eq!(bench.refuse(&subject, 1), Some(60));
    }

    #[tokio::test]
    async fn refusals_long_ago_do_not_count() {
        let (mut bench, subject) = (Bench::new(), service());
        for _ in 0..20 {
            assert_eq!(bench.refuse(&subject, 1), None);
            bench.wait(WINDOW.as_secs() / 2);
        }
    }

    #[tokio::test]
    async fn a_token_that_a_host_took_ends_row_and_pause() {
        let (mut bench, subject) = (Bench::new(), service());
        assert_eq!([bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None, None]);
        let taken = bench.token();
        bench.confirm(&subject, 1, taken);
        // The one that was taken is no row either.
        assert_eq!([bench.refuse_this(&subject, 1, taken, YOUNG), bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None; 3]);
        assert_eq!(bench.refuse(&subject, 1), Some(30));
        bench.confirm(&subject, 1, taken);
        assert_eq!(bench.breakers.storm(&subject, 1, bench.now), None);
        assert_eq!([bench.refuse(&subject, 1), bench.refuse(&subject, 1)], [None, None]);
    }

    #[tokio::test]
    async fn who_calls_every_token_taken_and_then_refused_is_not_believed_for_ever() {
        let (mut bench, subject) = (Bench::new(), service());
        let mut replaced = 0;
        // An hour of it, as fast as it goes.
        for _ in 0..360 {
            for _ in 0..10 {
                let id = bench.token();
                bench.confirm(&subject, 1, id);
                replaced += u32::from(bench.refuse_this(&subject, 1, id, YOUNG).is_none());
            }
            bench.wait(10);
        }
        assert!(replaced <= 6 * 15, "{replaced} in an hour");
    }

    #[tokio::test]
    async fn the_storm_of_one_user_is_nobody_else_s_trouble() {
        let (mut bench, subject) = (Bench::new(), service());
        for _ in 0..100 {
            bench.refuse(&subject, 1);
            bench.wait(5);
        }
        assert!(bench.breakers.storm(&subject, 1, bench.now).is_some());
        assert_eq!([bench.refuse(&subject, 2), bench.refuse(&subject, 2)], [None, None]);
        // Nor that of another of the user's grants.
        assert_eq!(bench.refuse(&own(1), 1), None);
    }

    #[tokio::test]
    async fn a_host_that_refuses_everybody_is_not_asked_for_each_of_them() {
        let (mut bench, subject) = (Bench::new(), service());
        let replaced = (0..100).filter(|uid| bench.refuse(&subject, *uid).is_none()).count();
        assert_eq!(replaced, COMMON_LIMIT - 1);
    }

    #[tokio::test]
    async fn what_has_been_quiet_is_forgotten_and_no_more_than_so_many_are_watched() {
        let mut bench = Bench::new();
        for uid in 0..u32::try_from(MAX_BREAKERS).unwrap() + 100 {
            bench.refuse(&own(uid), uid);
        }
        assert_eq!(bench.breakers.lock().len(), MAX_BREAKERS);
        for _ in 0..3 {
            bench.refuse(&service(), 1);
        }
        assert!(bench.breakers.storm(&service(), 1, bench.now).is_some());
        bench.wait(WINDOW.as_secs());
        bench.breakers.sweep(bench.now);
        assert_eq!(bench.breakers.lock().len(), 1, "the pause is remembered for a while");
        bench.wait(FIRST_PAUSE.as_secs());
        bench.breakers.sweep(bench.now);
        assert!(bench.breakers.lock().is_empty());
    }

    #[test]
    fn a_storm_says_how_many_and_for_how_long() {
        let storm = Storm { pause: Duration::from_millis(29_100), refused: 3 };
        assert_eq!(storm.describe("h"), "h refused 3 new tokens in a row; no other is fetched for 30 s");
        assert_eq!(Storm { pause: Duration::ZERO, ..storm }.describe("h"), "h refused 3 new tokens in a row");
    }
}
