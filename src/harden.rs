//! What a process does about itself before it touches a secret: no core, no tracing by its own user, no swap.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};
use rustix::thread::{CapabilitySet, capabilities};

/// Why a process may not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not take the core limit.
    #[error("cannot forbid core dumps")]
    CoreLimit(#[source] Errno),
    /// The kernel did not make the process undumpable, so any process of the same user could read its memory.
    #[error("cannot make the process undumpable")]
    Dumpable(#[source] Errno),
}

/// Forbids core dumps and reading by other processes of the same user, keeps new files to their owner, and lets panics name
/// their place only.
///
/// Every command does this first: `seal` and `keygen` hold secrets as much as the daemon does.
///
/// # Errors
/// [`Error`]; nothing secret may be loaded then.
pub fn process() -> Result<(), Error> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::Dumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(Error::CoreLimit)?;
    let inherited = umask(rustix::fs::Mode::from_raw_mode(0o077));
    INHERITED_UMASK.store(inherited.as_raw_mode(), Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| {
        // Never the message: what a failed `expect` or index prints can be the value it failed on.
        let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("internal error{place}\n").as_bytes());
    }));
    Ok(())
}

/// The umask that the process was started with, for the one kind of file that is not for its owner alone: git's configuration.
#[must_use]
pub fn inherited_umask() -> u32 {
    INHERITED_UMASK.load(Ordering::Relaxed)
}

static INHERITED_UMASK: AtomicU32 = AtomicU32::new(0o077);

/// Keeps the process's memory out of swap, where the limits allow it.
///
/// With a small `RLIMIT_MEMLOCK`, locking what is allocated later would make allocations fail, so memory is locked only where
/// there is no limit or the process may ignore it.
///
/// # Errors
/// A sentence that says why the memory is not locked, for `status`.
pub fn lock_memory() -> Result<(), String> {
    let limit = getrlimit(Resource::Memlock).current;
    let exempt = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if let Some(bytes) = limit
        && !exempt
    {
        return Err(format!("RLIMIT_MEMLOCK is {} KiB; the unit needs LimitMEMLOCK=infinity", bytes / 1024));
    }
    // ONFAULT: pages count when they are used, not when thread stacks are reserved.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| format!("mlockall was refused: {error}"))
}
