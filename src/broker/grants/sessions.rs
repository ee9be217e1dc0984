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
use crate::login::Progress;
use crate::oauth::{CodeRequest, UserEndpoints, UserPlan};
use crate::secret::DeviceCode;

/// How many sessions a user may have, and all users together.
const MAX_PER_USER: usize = 4;
const MAX_SESSIONS: usize = 256;

/// The sessions that wait for their users.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Slot>>);

/// A session's place.
pub(super) struct Slot {
    pub(super) activity: Activity,
    pub(super) ends: Instant,
    pub(super) uid: u32,
}

pub(super) enum Activity {
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

    /// A session of that user's: taken out where it is the user's move, else what to wait for.
    pub(super) fn find(&self, id: &str, uid: u32) -> Found {
        let mut sessions = lock(&self.0);
        let Some(slot) = sessions.get(id).filter(|slot| slot.uid == uid) else { return Found::Over(unknown_session()) };
        if let Activity::Asking { outcome, .. } = &slot.activity {
            return Found::Asking(outcome.clone());
        }
        match sessions.remove(id).map(|slot| slot.activity) {
            Some(Activity::Waiting(session)) => Found::Waiting(session),
            Some(Activity::Over(progress)) => Found::Over(progress),
            _ => Found::Over(unknown_session()),
        }
    }

    /// Takes a session of that user's out, however it stands.
    pub(super) fn take(&self, id: &str, uid: u32) -> Option<Slot> {
        let mut sessions = lock(&self.0);
        sessions.get(id).filter(|slot| slot.uid == uid)?;
        sessions.remove(id)
    }

    pub(super) fn put(&self, id: &str, slot: Slot) {
        lock(&self.0).insert(id.to_owned(), slot);
    }

    /// Says how a session stands by now, unless its user gave it up.
    pub(super) fn go_on(&self, id: &str, activity: Activity) {
        if let Some(slot) = lock(&self.0).get_mut(id) {
            slot.activity = activity;
        }
    }

    /// Whether that user may begin another.
    pub(super) fn has_room(&self, uid: u32) -> bool {
        let sessions = lock(&self.0);
        sessions.values().filter(|slot| slot.uid == uid).count() < MAX_PER_USER && sessions.len() < MAX_SESSIONS
    }
}

/// What a user finds of a session.
pub(super) enum Found {
    Asking(watch::Receiver<Option<Progress>>),
    Over(Progress),
    Waiting(Box<Session>),
}

impl Slot {
    pub(super) fn waiting(session: Box<Session>) -> Self {
        Self { ends: session.ends, uid: session.uid, activity: Activity::Waiting(session) }
    }
}
