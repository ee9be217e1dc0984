//! The list and the pins on disk: joins the store that stage 2 asks for, the sealed file, and the keys of stage 3.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;
use zeroize::Zeroizing;

use crate::integration::snapshot::{SnapshotStore, StoreError};
use crate::key::KeyRing;
use crate::state::{self, FORMAT, LoadError, SealedFile, StateDir, StateKeys};

/// How long the disk may take for one step; a daemon does not stand still with its file system.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The name of the file in the state directory.
const FILE: &str = "integrations";

/// A state directory as a start finds it: what can be read of it, and why it is not to be written to.
pub struct Opened {
    /// `None` when nothing of it can be read.
    pub directory: Option<StateDir>,
    /// Why it cannot be opened or written to, or that it does not answer. No reason not to serve.
    pub problem: Option<String>,
}

impl Opened {
    /// Opens a directory in the time that a disk may take.
    ///
    /// # Errors
    /// [`state::Error::InUse`] alone.
    pub fn open(path: &Path) -> Result<Self, state::Error> {
        let path = path.to_owned();
        let silent = format!("state directory {} does not answer", path.display());
        let open = move || StateDir::open(&path).map(|directory| (directory.check().err(), directory));
        match Disk::new(DISK_TIMEOUT).run(open) {
            Some(Ok((problem, directory))) => Ok(Self { directory: Some(directory), problem: problem.map(|problem| problem.to_string()) }),
            Some(Err(error @ state::Error::InUse { .. })) => Err(error),
            Some(Err(error)) => Ok(Self { directory: None, problem: Some(error.to_string()) }),
            None => Ok(Self { directory: None, problem: Some(silent) }),
        }
    }
}

/// Keeps the list in a file that is sealed with keys derived from the runner's.
pub struct KeptList {
    disk: Disk,
    file: Result<SealedFile, String>,
    /// Keys that are in use by a save stay in use for it while others take their place.
    keys: Arc<Mutex<Arc<StateKeys>>>,
    /// How often they changed.
    rotations: Arc<AtomicU64>,
}

impl KeptList {
    /// Keeps the list in a state directory.
    #[must_use]
    pub fn new(directory: &StateDir, ring: &KeyRing) -> Self {
        Self {
            disk: Disk::new(DISK_TIMEOUT),
            file: Ok(directory.file(FILE)),
            keys: Arc::new(Mutex::new(Arc::new(StateKeys::new(ring.state_keys())))),
            rotations: Arc::default(),
        }
    }

    /// Keeps nothing, because the state directory is not usable. Why, is said whenever something is or should be kept.
    #[must_use]
    pub fn unusable(problem: String) -> Self {
        Self {
            disk: Disk::new(DISK_TIMEOUT),
            file: Err(problem),
            keys: Arc::new(Mutex::new(Arc::new(StateKeys::new(Vec::new())))),
            rotations: Arc::default(),
        }
    }

    /// Keeps something else in another file of the directory, sealed with the keys of this one, also of later ones.
    #[must_use]
    pub fn beside(&self, directory: &StateDir, name: &'static str) -> Self {
        Self {
            disk: Disk::new(DISK_TIMEOUT),
            file: Ok(directory.file(name)),
            keys: Arc::clone(&self.keys),
            rotations: Arc::clone(&self.rotations),
        }
    }

    /// How often the keys changed: what was sealed before the last time may be sealed for a key that goes.
    pub(crate) fn rotations(&self) -> u64 {
        self.rotations.load(Ordering::Acquire)
    }

    /// Seals with these keys from now on.
    pub(crate) fn seal_with(&self, ring: &KeyRing) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(StateKeys::new(ring.state_keys()));
        self.rotations.fetch_add(1, Ordering::Release);
    }

    /// Does something with the file, in the time that the disk may take.
    fn with<T: Send + 'static>(&self, work: impl FnOnce(&SealedFile, &StateKeys) -> T + Send + 'static) -> Result<T, StoreError> {
        let file = self.file.as_ref().map_err(|problem| failure(format!("{problem}; it is not used before the next start")))?.clone();
        let keys = Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        let path = file.path();
        self.disk.run(move || work(&file, &keys)).ok_or_else(|| failure(format!("the file system of {} does not answer", path.display())))
    }
}

impl SnapshotStore for KeptList {
    fn load(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let loaded = self.with(|file, keys| {
            let content = file.load(keys)?;
            // What is of a format of before is written anew at once, or with the next list where there is no room now.
            if let Some(content) = &content
                && file.written().is_some_and(|written| written.format < FORMAT)
                && let Err(error) = file.save(keys, content.to_vec())
            {
                warn!(error = %error, "the kept list stays in the format of before");
            }
            Ok(content)
        })?;
        loaded.map_err(|error: LoadError| match error {
            LoadError::Newer { .. } => failure(format!("{error}: install that version again, or move the file away")),
            LoadError::Io { .. } => failure(error.to_string()),
            other => StoreError { damaged: true, message: other.to_string() },
        })
    }

    fn save(&self, snapshot: Vec<u8>) -> Result<(), StoreError> {
        self.with(|file, keys| file.save(keys, snapshot))?.map_err(|error| failure(error.to_string()))
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        let place = self.with(|file, _| file.set_aside())?.map_err(|error| failure(error.to_string()))?;
        Ok(place.display().to_string())
    }
}

/// An error that is not the file's own.
fn failure(message: String) -> StoreError {
    StoreError { damaged: false, message }
}

/// Runs what blocks on a file system on a thread that can be left behind: no timeout ends a call that the system does not return from.
struct Disk {
    /// Whether a step is under way, perhaps for ever. The next one is not begun beside it, so that there is never more than one thread.
    is_busy: Arc<AtomicBool>,
    timeout: Duration,
}

impl Disk {
    fn new(timeout: Duration) -> Self {
        Self { is_busy: Arc::default(), timeout }
    }

    /// What the work returns; `None` when it does not in time, or an earlier one has not yet.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let busy = Busy(Arc::clone(&self.is_busy));
        let (sender, receiver) = sync_channel(1);
        let work = move || {
            let done = work();
            drop(busy);
            // Nobody may be waiting any more.
            let _ = sender.send(done);
        };
        std::thread::Builder::new().name("state".to_owned()).spawn(work).ok()?;
        receiver.recv_timeout(self.timeout).ok()
    }
}

/// Ends a step, also one that panics or is never begun.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_left_alone_until_it_does() {
        let disk = Disk::new(Duration::from_millis(1));
        let (answer, answers) = channel::<()>();
        assert_eq!(disk.run(move || answers.recv().is_ok()), None);
        assert_eq!(disk.run(|| panic!("a second thread beside one that hangs")), None::<()>);
        answer.send(()).unwrap();
        let disk = Disk { timeout: Duration::from_secs(60), ..disk };
        let answer = std::iter::repeat_with(|| disk.run(|| 7)).inspect(|_| std::thread::yield_now()).find_map(|answer| answer);
        assert_eq!(answer, Some(7));
    }

    #[test]
    fn a_step_that_panics_is_one_that_fails_and_the_next_one_is_done() {
        let disk = Disk::new(Duration::from_secs(60));
        assert_eq!(disk.run(|| panic!("meant")), None::<()>);
        assert_eq!(disk.run(|| 7), Some(7));
    }

    #[test]
    fn a_directory_that_is_not_written_to_is_opened_and_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let ring = KeyRing::load(&crate::key::Config::default()).unwrap();
        let opened = Opened::open(&link).unwrap();
        assert!(opened.problem.unwrap().contains("is a symbolic link"));
        let kept = KeptList::new(&opened.directory.unwrap(), &ring);
        assert!(kept.load().unwrap().is_none());
        assert!(kept.save(Vec::new()).is_err());
        let opened = Opened::open(&target).unwrap();
        assert_eq!(opened.problem, None);
        assert!(matches!(Opened::open(&target), Err(state::Error::InUse { .. })));
        drop(opened);
    }

    #[test]
    fn without_a_directory_loading_says_that_trust_begins_anew_and_saving_that_nothing_is_kept() {
        let kept = KeptList::unusable("the directory is a teapot".to_owned());
        let error = kept.load().unwrap_err();
        assert_eq!((error.damaged, kept.set_aside().is_err()), (false, true));
        assert!(error.message.starts_with("the directory is a teapot"), "{error}");
        let error = kept.save(Vec::new()).unwrap_err();
        assert_eq!(error.message, "the directory is a teapot; it is not used before the next start");
    }
}
