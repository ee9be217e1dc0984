//! The sign-ins that are under way, each for the user who began it.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::lock;
use super::login::unknown_session;
use crate::integration::ScmIntegration;
use crate::login::{Progress, State};
use crate::oauth::{CodeRequest, UserEndpoints, UserPlan};
use crate::secret::DeviceCode;

/// How many sessions a user may have, and all users together.
const MAX_PER_USER: usize = 4;
const MAX_SESSIONS: usize = 256;

/// The sessions that wait for their users.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Slot>>);

/// A session's place.
struct Slot {
    activity: Activity,
    ends: Instant,
    /// When its user asked for it last.
    looked_at: Instant,
    uid: u32,
}

pub(super) enum Activity {
    /// The host is asked for what the user is to do.
    Beginning,
    /// A task asks the host, and says here what came of it.
    Asking { is_cancelled: Arc<AtomicBool>, outcome: watch::Receiver<Option<Progress>> },
    /// It ended when nobody looked.
    Over(Progress),
    /// It is the user's move.
    Waiting(Box<Session>),
}

/// How far a session got, and the session where it goes on.
pub(super) type Step = (Option<Box<Session>>, Progress);

/// A sign-in that is not over.
pub(super) struct Session {
    pub(super) account: Option<String>,
    pub(super) endpoints: UserEndpoints,
    pub(super) ends: Instant,
    pub(super) integration: Arc<ScmIntegration>,
    pub(super) is_cancelled: Arc<AtomicBool>,
    pub(super) plan: UserPlan,
    pub(super) uid: u32,
    pub(super) way: Way,
}

pub(super) enum Way {
    Code(CodeRequest),
    Device { code: DeviceCode, due: Instant, interval: Duration },
}

impl Sessions {
    pub(super) fn forget_expired(&self) {
        let now = Instant::now();
        // A host that is being asked answers in its time, and what it answers is dealt with.
        lock(&self.0).retain(|_, slot| slot.ends > now || matches!(slot.activity, Activity::Asking { .. }));
    }

    /// How far a session of that user's is. Where it is the user's move and `rest` has no answer, the session is given out, and
    /// whoever comes meanwhile waits for `outcome`.
    pub(super) fn find(
        &self,
        id: &str,
        uid: u32,
        outcome: &watch::Receiver<Option<Progress>>,
        rest: impl FnOnce(&Session) -> Option<Progress>,
    ) -> Found {
        let mut sessions = lock(&self.0);
        let Some(slot) = sessions.get_mut(id).filter(|slot| slot.uid == uid) else { return Found::Answer(unknown_session()) };
        slot.looked_at = Instant::now();
        let asking = match &slot.activity {
            Activity::Asking { outcome, .. } => return Found::Asking(outcome.clone()),
            Activity::Waiting(session) => match rest(session) {
                Some(progress) if progress.state == State::Pending => return Found::Answer(progress),
                Some(progress) => {
                    sessions.remove(id);
                    return Found::Answer(progress);
                }
                None => Activity::Asking { is_cancelled: Arc::clone(&session.is_cancelled), outcome: outcome.clone() },
            },
            Activity::Beginning => return Found::Answer(unknown_session()),
            Activity::Over(progress) => {
                let progress = progress.clone();
                sessions.remove(id);
                return Found::Answer(progress);
            }
        };
        match std::mem::replace(&mut slot.activity, asking) {
            Activity::Waiting(session) => Found::Waiting(session),
            _ => Found::Answer(unknown_session()),
        }
    }

    /// Takes a session of that user's out, however it stands.
    pub(super) fn take(&self, id: &str, uid: u32) -> Option<Activity> {
        let mut sessions = lock(&self.0);
        sessions.get(id).filter(|slot| slot.uid == uid)?;
        sessions.remove(id).map(|slot| slot.activity)
    }

    /// Keeps a place for a session that begins. Of a user who has too many already, the one goes that nobody has looked at for the
    /// longest: a command that was killed never comes back for its own.
    pub(super) fn reserve(&self, id: &str, uid: u32, ends: Instant) -> bool {
        let mut sessions = lock(&self.0);
        if sessions.values().filter(|slot| slot.uid == uid).count() >= MAX_PER_USER {
            let idle =
                sessions.iter().filter(|(_, slot)| slot.uid == uid && matches!(slot.activity, Activity::Waiting(_) | Activity::Over(_)));
            let Some(oldest) = idle.min_by_key(|(_, slot)| slot.looked_at).map(|(id, _)| id.clone()) else { return false };
            sessions.remove(&oldest);
        }
        if sessions.len() >= MAX_SESSIONS {
            return false;
        }
        sessions.insert(id.to_owned(), Slot { activity: Activity::Beginning, ends, looked_at: Instant::now(), uid });
        true
    }

    /// Has a session begin in the place that was kept for it.
    pub(super) fn begin(&self, id: &str, session: Box<Session>) {
        if let Some(slot) = lock(&self.0).get_mut(id) {
            slot.ends = session.ends;
            slot.activity = Activity::Waiting(session);
        }
    }

    /// Says how a session stands by now, unless its user gave it up.
    pub(super) fn go_on(&self, id: &str, activity: Activity) {
        if let Some(slot) = lock(&self.0).get_mut(id) {
            slot.activity = activity;
        }
    }
}

/// What a user finds of a session.
pub(super) enum Found {
    /// What there is to say.
    Answer(Progress),
    /// Somebody asks already.
    Asking(watch::Receiver<Option<Progress>>),
    /// Time to ask.
    Waiting(Box<Session>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(count: usize, uid: u32) -> Sessions {
        let sessions = Sessions::default();
        let ends = Instant::now() + Duration::from_secs(600);
        for number in 0..count {
            assert!(sessions.reserve(&format!("{uid}-{number}"), uid, ends), "{number}");
        }
        sessions
    }

    #[tokio::test]
    async fn places_are_taken_before_the_host_is_asked_and_nobody_takes_those_of_others() {
        let sessions = sessions(MAX_PER_USER, 1);
        let ends = Instant::now() + Duration::from_secs(600);
        assert!(!sessions.reserve("more", 1, ends), "all of them are about to begin");
        assert!(sessions.reserve("other", 2, ends));
        assert!(sessions.take("other", 1).is_none());
        assert!(sessions.take("1-0", 1).is_some());
        assert!(sessions.reserve("more", 1, ends));
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_one_goes_that_nobody_has_looked_at_for_the_longest() {
        let sessions = sessions(MAX_PER_USER, 1);
        let (_sender, outcome) = watch::channel(None);
        for number in 0..MAX_PER_USER {
            tokio::time::advance(Duration::from_secs(1)).await;
            let name = format!("1-{number}");
            sessions.go_on(&name, Activity::Over(unknown_session()));
            lock(&sessions.0).get_mut(&name).unwrap().looked_at = Instant::now();
        }
        // A look at the first one makes the second one the oldest; what is over is gone once it was seen.
        tokio::time::advance(Duration::from_secs(1)).await;
        lock(&sessions.0).get_mut("1-0").unwrap().looked_at = Instant::now();
        assert!(sessions.reserve("new", 1, Instant::now() + Duration::from_secs(600)));
        assert!(sessions.take("1-1", 1).is_none());
        assert!(matches!(sessions.find("1-0", 1, &outcome, |_| None), Found::Answer(progress) if progress.state == State::Failed));
        assert!(sessions.take("1-0", 1).is_none());
    }
}
