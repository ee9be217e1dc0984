//! The database's file as redb sees it: bounded, with its space taken from the file system beforehand where that can be done.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::{Errno, retry_on_intr};

/// The most bytes that the file may have. Every grant at its largest, twice, with redb's rounding, is less.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 30;
/// What is kept free behind the end of the file for what is written next.
const RESERVE_BYTES: u64 = 1 << 20;

/// The file.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    control: Arc<Control>,
}

/// What is known of a file while redb has it.
#[derive(Debug, Default)]
pub(super) struct Control {
    closed: AtomicBool,
    refused: Mutex<Option<Errno>>,
}

impl Control {
    /// Lets nothing more be written. redb would write down, when it closes, what saves the next one to open the file a look at every
    /// page. It is to look: that is how damage is found before it is believed.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The first error that the system gave. What redb fails with afterwards follows from it.
    pub(super) fn refused(&self) -> Option<io::Error> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).map(io::Error::from)
    }

    fn note(&self, error: io::Error) -> io::Error {
        if let Some(errno) = Errno::from_io_error(&error) {
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(errno);
        }
        error
    }
}

impl Backend {
    pub(super) fn new(file: File) -> (Self, Arc<Control>) {
        let control = Arc::new(Control::default());
        (Self { file, control: Arc::clone(&control) }, control)
    }

    fn writable(&self) -> io::Result<()> {
        if self.control.closed.load(Ordering::Acquire) {
            return Err(io::Error::other("the store is closed"));
        }
        Ok(())
    }

    fn resize(&self, length: u64) -> io::Result<()> {
        if length > MAX_FILE_BYTES {
            return Err(Errno::FBIG.into());
        }
        let old = self.file.metadata()?.len();
        if length > old {
            // A file with holes would run out of space in the middle of a commit.
            match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), old, length - old)) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => ftruncate(&self.file, length)?,
                Err(errno) => {
                    // It may have become longer before it failed.
                    let _ = ftruncate(&self.file, old);
                    return Err(errno.into());
                }
            }
        } else {
            ftruncate(&self.file, length)?;
        }
        // redb gives space back whenever it can, and a minute later the disk may be full. Not every file system can do this.
        let _ = retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, RESERVE_BYTES));
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|error| self.control.note(error))
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        // Before the memory is allocated: damage can ask for any amount.
        let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| end > MAX_FILE_BYTES) || end > Some(StorageBackend::len(self)?) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| self.control.note(error))?;
        Ok(bytes)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        self.resize(length).map_err(|error| self.control.note(error))
    }

    fn sync_data(&self, _eventual: bool) -> io::Result<()> {
        self.writable()?;
        self.file.sync_data().map_err(|error| self.control.note(error))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.file.write_all_at(bytes, offset).map_err(|error| self.control.note(error))
    }
}
