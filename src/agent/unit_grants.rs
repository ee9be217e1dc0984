//! What single units were given for as long as they run, beyond the access rules: `scm-agent grant`.
//!
//! A grant is for one incarnation of a unit: the cgroup that it has now, by its inode, and systemd's invocation id of it. So neither a
//! unit of the same name that is started later nor the same unit started anew has anything of it. It is looked at whenever it is
//! used, and ends with the unit, with its time, or when somebody takes it back. It outlives the daemon, sealed as the list of
//! integrations is; what it was for is compared once more at the start.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::cgroup::{Cgroup, Cgroups, UnitPattern};
use crate::broker::{Granted, KeptList, Rights};
use crate::clock::Clock;
use crate::integration::location::HostPattern;
use crate::integration::snapshot::SnapshotStore;
use crate::status;

/// The file in the state directory.
pub const FILE: &str = "unit-grants";

/// The form of that file.
const VERSION: u32 = 1;

/// How many there may be.
const MAX_GRANTS: usize = 1_000;

/// How long one may last.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where systemd says which incarnation of each unit runs: links to invocation ids.
const INVOCATIONS: &str = "/run/systemd/units";

/// What is to be given.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What of it.
    pub allow: Vec<String>,
    /// The place, as the operator wrote it.
    pub host: String,
    /// For how long.
    pub ttl: Duration,
    /// The unit's whole name.
    pub unit: String,
}

/// Why it is not given. Names no value but the unit and the host that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// None of the words that `allow` of a rule takes, or none at all.
    #[error("what is to be allowed must be service, own or app-secret")]
    Allow,
    /// No place.
    #[error("the host must be one such as gitlab.example.com or dev.azure.com/acme, without https:// and without *")]
    Host,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for the grant's name")]
    NoRandomness,
    /// The unit has no cgroup.
    #[error("the unit {unit} does not run: the system's manager has no cgroup of it")]
    NoUnit {
        /// Its name.
        unit: String,
    },
    /// Units cannot be told here.
    #[error("units cannot be told from each other here: {reason}")]
    NotOffered {
        /// Why.
        reason: String,
    },
    /// Too many.
    #[error("there are {MAX_GRANTS} grants already")]
    TooMany,
    /// Too long or no time at all.
    #[error("the time must be from 1 second to {} days", LONGEST.as_secs() / 86_400)]
    Ttl,
    /// No whole name.
    #[error("the unit must be the whole name of a service or a scope, such as job-123.service")]
    Unit,
}

/// One grant.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    allow: Vec<String>,
    /// When it ends by the time since the machine's start, in seconds: a clock that is put back gives nobody more time.
    boot_ends_at: u64,
    cgroup: String,
    cgroup_id: u64,
    expires_at: u64,
    granted_at: u64,
    granted_by: u32,
    host: String,
    id: String,
    /// systemd's id of the incarnation; `None` where systemd does not say.
    invocation: Option<String>,
    unit: String,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    grants: Vec<Held>,
}

/// All grants.
pub struct UnitGrants {
    cgroups: Arc<Cgroups>,
    clock: Arc<dyn Clock>,
    held: Mutex<Vec<Held>>,
    invocations: Box<Path>,
    kept: Option<KeptList>,
    /// Held from looking at the list to its being on the disk, so that no older one is written over a newer one.
    saving: Mutex<Saving>,
    /// What is on the disk has ended since, or may be sealed for other keys.
    unsaved: AtomicBool,
}

/// What is on the disk.
#[derive(Default)]
struct Saving {
    /// There is a file.
    is_there: bool,
    /// How often the keys had changed when it was written.
    rotations: u64,
}

impl fmt::Debug for UnitGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitGrants({})", self.lock().len())
    }
}

impl UnitGrants {
    /// Begins with those that are kept and still mean what they meant. Without a place to keep them they end with this process.
    #[must_use]
    pub fn new(cgroups: Arc<Cgroups>, clock: Arc<dyn Clock>, kept: Option<KeptList>) -> Self {
        Self::looking_at(cgroups, clock, kept, Path::new(INVOCATIONS))
    }

    fn looking_at(cgroups: Arc<Cgroups>, clock: Arc<dyn Clock>, kept: Option<KeptList>, invocations: &Path) -> Self {
        let grants = Self {
            cgroups,
            clock,
            held: Mutex::default(),
            invocations: invocations.into(),
            kept,
            saving: Mutex::default(),
            unsaved: AtomicBool::new(false),
        };
        let loaded = grants.load();
        // Written anew soon, without what has ended and for the keys of now.
        grants.unsaved.store(!loaded.is_empty(), Ordering::Relaxed);
        // The ids of cgroups begin anew with each start of the machine, those of incarnations never come twice.
        let (still, gone): (Vec<_>, Vec<_>) =
            loaded.into_iter().take(MAX_GRANTS).partition(|held| held.invocation.is_some() && grants.ended(held).is_none());
        gone.iter().for_each(|held| log_end(held, "it was for another run of the unit, or its time is over"));
        *grants.lock() = still;
        grants
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_there(&self) -> bool {
        !self.lock().is_empty()
    }

    /// What a cgroup was given: what the unit was that it is in or below.
    #[must_use]
    pub fn of(&self, cgroup: &Cgroup) -> Vec<Granted> {
        let held: Vec<Held> = self.lock().iter().filter(|held| cgroup.is_within(&held.cgroup)).cloned().collect();
        let granted = |held: Held| Some(Granted { host: place(&held.host)?, id: held.id.into(), rights: rights(&held.allow)? });
        held.into_iter().filter(|held| self.ended(held).is_none()).filter_map(granted).collect()
    }

    /// Gives a unit something. This waits for the disk. The second part says why it will not outlive the daemon, where that is so.
    ///
    /// # Errors
    /// [`Error`]
    pub fn grant(&self, wanted: &Wanted, by: u32) -> Result<(status::UnitGrant, Option<String>), Error> {
        let Wanted { allow, host, ttl, unit } = wanted;
        if place(host).is_none() {
            return Err(Error::Host);
        }
        if rights(allow).is_none() {
            return Err(Error::Allow);
        }
        if *ttl < Duration::from_secs(1) || *ttl > LONGEST {
            return Err(Error::Ttl);
        }
        if unit.contains('*') || unit.ends_with(".slice") || UnitPattern::parse(unit).is_none() {
            return Err(Error::Unit);
        }
        if let Some(problem) = self.cgroups.problem() {
            return Err(Error::NotOffered { reason: problem.to_string() });
        }
        self.prune();
        let cgroup = self.cgroups.of_unit(unit).ok_or_else(|| Error::NoUnit { unit: unit.clone() })?;
        let now = seconds(self.clock.now());
        let mut held = Held {
            allow: allow.clone(),
            boot_ends_at: self.clock.since_boot().saturating_add(*ttl).as_secs(),
            cgroup: cgroup.path,
            cgroup_id: cgroup.id,
            expires_at: now.saturating_add(ttl.as_secs()),
            granted_at: now,
            granted_by: by,
            host: host.clone(),
            id: String::new(),
            invocation: self.invocation(unit),
            unit: unit.clone(),
        };
        {
            let mut all = self.lock();
            if all.len() >= MAX_GRANTS {
                return Err(Error::TooMany);
            }
            // Only a name, but by which one of them is taken back.
            while held.id.is_empty() || all.iter().any(|other| other.id == held.id) {
                let mut bytes = [0; 4];
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
                held.id = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            }
            all.push(held.clone());
        }
        info!(
            target: "audit", event = "unit_granted", uid = by, unit, host, allow = allow.join(","), grant = held.id, seconds = ttl.as_secs(),
            "granted to a unit"
        );
        let problem = match (&held.invocation, self.save()) {
            (_, Err(problem)) => Some(problem),
            (None, Ok(())) => Some("systemd does not say which run of the unit this is".to_owned()),
            (Some(_), Ok(())) => None,
        };
        Ok((shown(&held), problem))
    }

    /// Takes one back; whether there was one. This waits for the disk. The second part says why it may come back with the next start of
    /// the daemon, where that is so.
    pub fn revoke(&self, id: &str, by: u32) -> (bool, Option<String>) {
        let mut all = self.lock();
        let Some(held) = all.iter().position(|held| held.id == id).map(|index| all.remove(index)) else { return (false, None) };
        drop(all);
        info!(target: "audit", event = "unit_grant_revoked", uid = by, unit = held.unit, host = held.host, grant = held.id, "took a grant back");
        (true, self.save().err())
    }

    /// Those that still count.
    #[must_use]
    pub fn list(&self) -> Vec<status::UnitGrant> {
        self.prune();
        self.lock().iter().map(shown).collect()
    }

    /// Forgets those that have ended. To be called every now and then.
    pub fn prune(&self) {
        let all = self.lock().clone();
        for held in all {
            let Some(reason) = self.ended(&held) else { continue };
            let is_gone = {
                let mut all = self.lock();
                let before = all.len();
                all.retain(|other| *other != held);
                all.len() < before
            };
            // Whoever looks at the same time finds it gone.
            if is_gone {
                self.unsaved.store(true, Ordering::Relaxed);
                log_end(&held, reason);
            }
        }
    }

    /// Whether there is anything for [`UnitGrants::tidy`] to do.
    #[must_use]
    pub fn wants_tidying(&self) -> bool {
        self.are_there() || self.unsaved.load(Ordering::Relaxed) || self.is_for_other_keys()
    }

    /// Forgets those that have ended, and keeps the rest sealed for the keys in use. To be called every now and then; this waits for the
    /// disk, unless somebody does so already.
    pub fn tidy(&self) {
        self.prune();
        if (self.unsaved.load(Ordering::Relaxed) || self.is_for_other_keys())
            && let Ok(saving) = self.saving.try_lock()
        {
            // Where that fails it is tried again.
            let _ = self.save_in(saving);
        }
    }

    /// Whether what is on the disk is sealed for keys of before, of which some may be gone at the next start.
    fn is_for_other_keys(&self) -> bool {
        let Some(kept) = &self.kept else { return false };
        self.saving.try_lock().is_ok_and(|saving| saving.is_there && saving.rotations != kept.rotations())
    }

    /// Why a grant is over; `None` while it is not.
    fn ended(&self, held: &Held) -> Option<&'static str> {
        let now = seconds(self.clock.now());
        if now >= held.expires_at || self.clock.since_boot().as_secs() >= held.boot_ends_at {
            return Some("its time is over");
        }
        let is_same_cgroup = self.cgroups.at(&held.cgroup).is_some_and(|now| now.id == held.cgroup_id);
        if !is_same_cgroup || (held.invocation.is_some() && self.invocation(&held.unit) != held.invocation) {
            return Some("the unit has ended");
        }
        None
    }

    /// systemd's id of the run that a unit is in.
    fn invocation(&self, unit: &str) -> Option<String> {
        let link = fs::read_link(self.invocations.join(format!("invocation:{unit}"))).ok()?;
        link.to_str().filter(|id| id.len() == 32).map(str::to_owned)
    }

    fn load(&self) -> Vec<Held> {
        let Some(kept) = &self.kept else { return Vec::new() };
        let saved = match kept.load() {
            Ok(None) => return Vec::new(),
            Ok(Some(bytes)) => {
                self.saving.lock().unwrap_or_else(PoisonError::into_inner).is_there = true;
                serde_json::from_slice::<Saved>(&bytes).ok().filter(|saved| saved.version == VERSION)
            }
            Err(error) => {
                warn!(target: "audit", event = "store_problem", reason = error.message, "the kept grants to units cannot be read, and count for nobody");
                return Vec::new();
            }
        };
        if saved.is_none() {
            warn!(target: "audit", event = "store_problem", reason = "another version", "the kept grants to units are of another version, and count for nobody");
        }
        saved.map(|saved| saved.grants).unwrap_or_default()
    }

    fn save(&self) -> Result<(), String> {
        self.save_in(self.saving.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn save_in(&self, mut saving: MutexGuard<'_, Saving>) -> Result<(), String> {
        let Some(kept) = &self.kept else { return Err("there is no state directory to keep it in".to_owned()) };
        let rotations = kept.rotations();
        self.unsaved.store(false, Ordering::Relaxed);
        let saved = Saved { version: VERSION, grants: self.lock().clone() };
        let bytes = serde_json::to_vec(&saved).map_err(|_| "it cannot be written down".to_owned())?;
        let done = kept.save(bytes).map_err(|error| error.message);
        match &done {
            Ok(()) => *saving = Saving { is_there: true, rotations },
            Err(_) => self.unsaved.store(true, Ordering::Relaxed),
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_end(held: &Held, reason: &str) {
    info!(target: "audit", event = "unit_grant_ended", unit = held.unit, host = held.host, grant = held.id, reason, "a grant has ended");
}

fn shown(held: &Held) -> status::UnitGrant {
    let Held { allow, boot_ends_at: _, cgroup, cgroup_id: _, expires_at, granted_at, granted_by, host, id, invocation: _, unit } =
        held.clone();
    status::UnitGrant { id, unit, cgroup, host, allow, granted_at, granted_by, expires_at }
}

/// The place that is meant: as in the access rules, without a scheme.
pub(super) fn place(host: &str) -> Option<HostPattern> {
    HostPattern::of_host(host).ok().filter(|_| !host.contains("://"))
}

fn rights(allow: &[String]) -> Option<Rights> {
    let has = |word: &str| allow.iter().any(|other| other == word);
    let known = allow.iter().all(|word| matches!(word.as_str(), "service" | "own" | "app-secret"));
    (known && !allow.is_empty()).then(|| Rights { app_secret: has("app-secret"), own: has("own"), service: has("service") })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "unit_grants_tests.rs"]
mod tests;
