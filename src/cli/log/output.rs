//! Where lines go. Writing never waits: what a journal or a pipe does not take at once is kept, up to a limit, and written by a thread.
//!
//! What comes beyond the limit is lost, and a line says how many were as soon as there is room for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// How much waits for a reader that does not read.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// How often the thread tries again while something waits.
const PAUSE: Duration = Duration::from_millis(10);

/// How much a pipe takes without waiting, once it takes anything: `PIPE_BUF`.
const PIPE_BYTES: usize = 4096;

/// A line in the forms that the output may need.
#[derive(Debug)]
pub(super) struct Entry {
    /// For the journal, where that takes lines; else empty.
    pub(super) datagram: Vec<u8>,
    /// For the stream.
    pub(super) line: Vec<u8>,
}

/// Makes the line that says how many were lost.
type Notice = Box<dyn Fn(u64) -> Entry + Send>;

/// Where lines go, for any number of threads.
pub(super) struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write for the thread, or nothing any more for who waits for the end.
    changed: Condvar,
}

struct State {
    journal: Option<Journal>,
    stream: Stream,
    /// Each with how many lines are lost with it.
    waiting: VecDeque<(Entry, u64)>,
    waiting_bytes: usize,
    /// How much of the first that waits is written already.
    begun: usize,
    lost: u64,
    notice: Notice,
    has_thread: bool,
}

impl Output {
    /// Writes to the journal's socket, where there is one, and to the stream.
    pub(super) fn new(journal: Option<PathBuf>, stream: OwnedFd, notice: impl Fn(u64) -> Entry + Send + 'static) -> Self {
        let state = State {
            journal: journal.map(|path| Journal { path, socket: None }),
            stream: Stream::new(stream),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            begun: 0,
            lost: 0,
            notice: Box::new(notice),
            has_thread: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Writes a line, or has it wait.
    pub(super) fn write(&self, entry: Entry) {
        let mut state = self.0.lock();
        state.take(entry);
        if !state.waiting.is_empty() && !state.has_thread {
            let shared = Arc::clone(&self.0);
            // Without a thread, the next line takes this one along.
            state.has_thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_what_waits()).is_ok();
        }
    }

    /// Waits until all is written, or for so long.
    pub(super) fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.0.lock();
        loop {
            state.flush();
            let left = end.saturating_duration_since(Instant::now());
            if state.waiting.is_empty() || left.is_zero() {
                return;
            }
            state = self.0.changed.wait_timeout(state, left.min(PAUSE)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when nothing waits any more.
    fn write_what_waits(&self) {
        loop {
            std::thread::sleep(PAUSE);
            let mut state = self.lock();
            state.flush();
            if state.waiting.is_empty() {
                state.has_thread = false;
                self.changed.notify_all();
                return;
            }
        }
    }
}

impl State {
    fn take(&mut self, entry: Entry) {
        self.flush();
        let size = entry.datagram.len() + entry.line.len();
        if self.waiting_bytes + size > MAX_WAITING_BYTES {
            self.lost += 1;
            return;
        }
        self.waiting_bytes += size;
        self.waiting.push_back((entry, 1));
        self.flush();
    }

    /// Writes as much of what waits as is taken now.
    fn flush(&mut self) {
        loop {
            if self.waiting.is_empty() && self.lost > 0 {
                let notice = (self.notice)(self.lost);
                self.waiting_bytes += notice.datagram.len() + notice.line.len();
                self.waiting.push_back((notice, std::mem::take(&mut self.lost)));
            }
            let Some((entry, stands_for)) = self.waiting.front() else { return };
            let is_journal_s = self.begun == 0 && !entry.datagram.is_empty();
            let sent = match &mut self.journal {
                Some(journal) if is_journal_s => journal.send(&entry.datagram),
                _ => Sent::Unable,
            };
            let is_done = match sent {
                Sent::Done => true,
                Sent::Later => return,
                Sent::Unable => match self.stream.write(&entry.line[self.begun..]) {
                    Ok(written) => {
                        self.begun += written;
                        self.begun >= entry.line.len()
                    }
                    Err(Errno::AGAIN | Errno::INTR) => return,
                    Err(_) => {
                        self.lost += stands_for;
                        self.drop_first();
                        // Nobody is there to tell.
                        if self.waiting.is_empty() {
                            return;
                        }
                        continue;
                    }
                },
            };
            if is_done {
                self.drop_first();
            }
        }
    }

    fn drop_first(&mut self) {
        self.begun = 0;
        if let Some((entry, _)) = self.waiting.pop_front() {
            self.waiting_bytes -= entry.datagram.len() + entry.line.len();
        }
    }
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Done,
    /// The journal's queue is full.
    Later,
    /// The journal is not there, or does not take this one.
    Unable,
}

/// The journal's socket.
struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journal {
    fn send(&mut self, datagram: &[u8]) -> Sent {
        // One that was started anew has another socket behind the same name.
        for is_known in [true, false] {
            if !is_known || self.socket.is_none() {
                self.socket = connect(&self.path).ok();
            }
            let Some(socket) = &self.socket else { return Sent::Unable };
            match send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Sent::Done,
                Err(Errno::AGAIN | Errno::INTR) => return Sent::Later,
                Err(Errno::MSGSIZE) => return Sent::Unable,
                Err(_) => self.socket = None,
            }
        }
        Sent::Unable
    }
}

fn connect(path: &std::path::Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// Standard error, whatever that is. Its flags are shared with other processes, so they stay as they are.
struct Stream {
    file: OwnedFd,
    is_socket: bool,
}

impl Stream {
    fn new(file: OwnedFd) -> Self {
        let is_socket = fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        Self { file, is_socket }
    }

    /// Writes what can be written now.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if self.is_socket {
            return send(&self.file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        let mut ready = [PollFd::new(&self.file, PollFlags::OUT)];
        if poll(&mut ready, Some(&Timespec::default()))? == 0 {
            return Err(Errno::AGAIN);
        }
        rustix::io::write(&self.file, &bytes[..bytes.len().min(PIPE_BYTES)])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn entry(number: usize) -> Entry {
        Entry { datagram: format!("MESSAGE={number}\n").into_bytes(), line: format!("{number} {}\n", "x".repeat(1000)).into_bytes() }
    }

    fn notice(lost: u64) -> Entry {
        Entry { datagram: format!("MESSAGE=lost {lost}\n").into_bytes(), line: format!("lost {lost}\n").into_bytes() }
    }

    /// The numbers that lines begin with.
    fn first_words(lines: &str) -> Vec<&str> {
        lines.lines().map(|line| if line.starts_with("lost") { line } else { line.split(' ').next().unwrap() }).collect()
    }

    fn pipe() -> (std::io::PipeReader, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, writer.into())
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_then_gets_all_that_was_kept_in_order() {
        let socket = || {
            let (reader, writer) = UnixStream::pair().unwrap();
            (Box::new(reader) as Box<dyn Read + Send>, writer.into())
        };
        let pipe = || {
            let (reader, writer) = pipe();
            (Box::new(reader) as Box<dyn Read + Send>, writer)
        };
        for (mut reader, writer) in [socket(), pipe()] {
            let output = Output::new(None, writer, notice);
            // More than a pipe and less than what is kept.
            for number in 0..700 {
                output.write(entry(number));
            }
            let reading = std::thread::spawn(move || {
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                text
            });
            output.finish(Duration::from_secs(60));
            // The thread may hold it for a moment.
            drop(output);
            let text = reading.join().unwrap();
            assert_eq!(first_words(&text), (0..700).map(|number| number.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_beyond_the_limit_is_lost_and_counted() {
        let (mut reader, writer) = pipe();
        let output = Output::new(None, writer, notice);
        for number in 0..3_000 {
            output.write(entry(number));
        }
        let kept = output.0.lock().waiting.len();
        assert!((900..1100).contains(&kept), "{kept}");
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        output.finish(Duration::from_secs(60));
        drop(output);
        let text = reading.join().unwrap();
        let words = first_words(&text);
        let (last, lines) = words.split_last().unwrap();
        assert_eq!(*last, format!("lost {}", 3_000 - lines.len()));
        assert_eq!(lines, (0..lines.len()).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_is_gone_is_no_reason_to_stop() {
        let (reader, writer) = pipe();
        drop(reader);
        let output = Output::new(None, writer, notice);
        (0..10).for_each(|number| output.write(entry(number)));
        let state = output.0.lock();
        assert_eq!((state.waiting.len(), state.has_thread, state.lost), (0, false, 10));
    }

    #[test]
    fn the_journal_gets_datagrams_and_the_stream_what_the_journal_does_not_take() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (mut reader, writer) = pipe();
        let output = Output::new(Some(path.clone()), writer, notice);
        // Not there yet.
        output.write(entry(0));
        let heard = |socket: &UnixDatagram| {
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let journal = UnixDatagram::bind(&path).unwrap();
        output.write(entry(1));
        assert_eq!(heard(&journal), "MESSAGE=1\n");
        // Started anew.
        drop(journal);
        std::fs::remove_file(&path).unwrap();
        output.write(entry(2));
        let journal = UnixDatagram::bind(&path).unwrap();
        output.write(entry(3));
        assert_eq!(heard(&journal), "MESSAGE=3\n");
        // Too large for a datagram.
        output.write(Entry { datagram: vec![b'x'; 512 << 10], ..entry(4) });
        // Its queue is full, and then it reads again.
        for number in 5..600 {
            output.write(entry(number));
        }
        assert!(!output.0.lock().waiting.is_empty());
        for number in 5..600 {
            assert_eq!(heard(&journal), format!("MESSAGE={number}\n"));
        }
        output.finish(Duration::from_secs(60));
        drop(output);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(first_words(&text), ["0", "2", "4"]);
    }
}
