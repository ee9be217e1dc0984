//! In which cgroup, and so in which systemd unit, a process is: by what the kernel says of the very process that connected.
//!
//! Its number is no proof, since another process can have it by now. `SO_PEERPIDFD` holds on to the process itself, `PIDFD_GET_INFO`
//! says the id of its cgroup, which is the inode of a directory below `/sys/fs/cgroup`, and it counts only if the process still
//! lives afterwards. An older kernel tells the number only: then the cgroup that has it is looked for, and again the process must
//! have lived through that. What is not certain is not known, and [`Unknown`] says why.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::peer;
use crate::sys;

/// Where the hierarchy of version 2 is mounted: alone, or beside those of version 1.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// `CGROUP2_SUPER_MAGIC`, statfs(2).
const CGROUP2: u64 = 0x6367_7270;

/// How many cgroups are looked at for one process. A host has some hundred.
const MAX_CGROUPS: usize = 50_000;

/// How many places are remembered.
const MAX_KNOWN: usize = 1_024;

/// The longest unit name: `UNIT_NAME_MAX` of systemd.
const MAX_UNIT_BYTES: usize = 255;

/// What the names of units end with that processes can be in, without slices.
const UNIT_KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// Why it is not known in which cgroup a process is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The process that connected is no more.
    #[error("the process that connected has ended")]
    Ended,
    /// It is in none that can be seen.
    #[error("the cgroup of the process that connected is not below the agent's own view of them")]
    Hidden,
    /// There is no hierarchy to look at.
    #[error("no cgroup hierarchy of version 2 is mounted at /sys/fs/cgroup")]
    NoHierarchy,
    /// The kernel is too old.
    #[error("this kernel does not say which process connected: that needs SO_PEERPIDFD, of Linux 6.5")]
    NotOffered,
    /// What was asked did not come from who connected.
    #[error("another process than the one that connected wrote the request")]
    OtherWriter,
    /// The system refused a step.
    #[error("the system does not say: {0}")]
    System(io::ErrorKind),
}

impl From<io::Error> for Unknown {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ESRCH) => Self::Ended,
            _ => Self::System(error.kind()),
        }
    }
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The inode of its directory. As long as the machine runs, no other cgroup has it.
    pub id: u64,
    /// Its path below the root of the hierarchy, with a slash in front; the root's own is `/`.
    pub path: String,
}

impl Cgroup {
    /// The system's unit that it belongs to. What a unit makes below itself says nothing, whatever its name.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        let (_, unit) = units(&self.path);
        unit
    }

    /// Whether it is this cgroup or one below it.
    #[must_use]
    pub fn is_within(&self, path: &str) -> bool {
        path == "/" || self.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The slices that a path leads through, and the unit in the last of them. Below the first segment that is no slice, names are whoever's
/// it was delegated to.
fn units(path: &str) -> (Vec<&str>, Option<&str>) {
    // systemd puts an underscore before names that the kernel could take for its own files.
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut slices = Vec::new();
    for segment in segments.map(|segment| segment.strip_prefix('_').unwrap_or(segment)) {
        if segment.ends_with(".slice") {
            slices.push(segment);
            continue;
        }
        return (slices, UNIT_KINDS.iter().any(|kind| segment.ends_with(kind)).then_some(segment));
    }
    (slices, None)
}

/// Which units a rule is about: a unit's name, in which `*` stands for any characters. A slice stands for all that is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct UnitPattern(String);

/// Which cgroups a rule is about: a path from the root of the hierarchy, in which `*` stands for any characters but the slash. It
/// stands for all that is below.
#[derive(Clone, PartialEq, Eq)]
pub struct CgroupPattern(String);

impl UnitPattern {
    /// Reads one; `None` for what can be no unit's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@*".contains(&byte);
        let kind = UNIT_KINDS[..2].iter().chain(&[".slice"]).find_map(|kind| text.strip_suffix(kind))?;
        (!kind.is_empty() && text.len() <= MAX_UNIT_BYTES && text.bytes().all(is_letter)).then(|| Self(text.to_owned()))
    }

    /// Whether a cgroup is in such a unit.
    #[must_use]
    pub fn matches(&self, cgroup: &Cgroup) -> bool {
        let (slices, unit) = units(&cgroup.path);
        slices.into_iter().chain(unit).any(|name| is_like(name, &self.0))
    }
}

impl CgroupPattern {
    /// Reads one; `None` for what is no path of a cgroup.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let segments = text.strip_prefix('/')?.split('/');
        let is_plain = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control);
        (text.len() <= 4_096 && segments.clone().all(is_plain)).then(|| Self(text.to_owned()))
    }

    /// Whether a cgroup is such a one or below it.
    #[must_use]
    pub fn matches(&self, cgroup: &Cgroup) -> bool {
        let mut segments = cgroup.path.split('/');
        self.0.split('/').all(|pattern| segments.next().is_some_and(|segment| is_like(segment, pattern)))
    }
}

impl fmt::Debug for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitPattern({})", self.0)
    }
}

impl fmt::Debug for CgroupPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CgroupPattern({})", self.0)
    }
}

/// Whether a name is as a pattern says.
fn is_like(name: &str, pattern: &str) -> bool {
    let (name, pattern) = (name.as_bytes(), pattern.as_bytes());
    let (mut at, mut of) = (0, 0);
    // Where the last star was, and up to where it stands for the name.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(byte) if *byte == name[at] => (at, of) = (at + 1, of + 1),
            _ => match star {
                Some((back, taken)) => {
                    (at, of) = (taken + 1, back + 1);
                    star = Some((back, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|byte| *byte == b'*')
}

/// The machine's cgroups, as far as they can be seen from here.
#[derive(Debug)]
pub struct Cgroups {
    /// Where they were found, by their ids.
    known: Mutex<HashMap<u64, Arc<Cgroup>>>,
    /// Whether the kernel says which process connected.
    offers_peers: bool,
    root: Option<PathBuf>,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self::new()
    }
}

impl Cgroups {
    /// Looks for where they are.
    #[must_use]
    pub fn new() -> Self {
        let is_cgroup2 = |root: &&Path| rustix::fs::statfs(*root).is_ok_and(|found| u64::try_from(found.f_type) == Ok(CGROUP2));
        let asked = std::os::unix::net::UnixStream::pair().map(|(ours, _theirs)| sys::peer_process(&ours));
        Self {
            known: Mutex::default(),
            offers_peers: !matches!(asked, Ok(Err(error)) if sys::is_unknown_question(&error)),
            root: ROOTS.map(Path::new).into_iter().find(is_cgroup2).map(Path::to_owned),
        }
    }

    /// A directory that stands for a hierarchy.
    #[cfg(test)]
    pub(super) fn below(root: &Path) -> Self {
        Self { known: Mutex::default(), offers_peers: true, root: Some(root.to_owned()) }
    }

    /// Why nothing will ever be known here; `None` where it may be.
    #[must_use]
    pub fn problem(&self) -> Option<Unknown> {
        match (self.offers_peers, &self.root) {
            (false, _) => Some(Unknown::NotOffered),
            (true, None) => Some(Unknown::NoHierarchy),
            (true, Some(_)) => None,
        }
    }

    /// In which cgroup the process is that connected, where that was found before: this does not block.
    ///
    /// # Errors
    /// [`Looked`]: why it is not known, or with what to look for it.
    pub(super) fn of_peer(&self, socket: impl AsFd) -> Result<Arc<Cgroup>, Looked> {
        if let Some(problem) = self.problem() {
            return Err(Looked::Unknown(problem));
        }
        let process = sys::peer_process(socket).map_err(|error| match error.raw_os_error() {
            // Some versions say this of a process that was waited for.
            Some(libc::ESRCH | libc::EINVAL | libc::ENODATA) => Looked::Unknown(Unknown::Ended),
            _ => Looked::Unknown(error.into()),
        })?;
        match sys::process_info(&process) {
            Ok(sys::ProcessInfo { cgroup_id: Some(id), .. }) => match self.still(id) {
                Some(cgroup) => if_alive(process.as_fd(), cgroup).map_err(Looked::Unknown),
                None => Err(Looked::Elsewhere(process)),
            },
            Err(error) if error.raw_os_error() == Some(libc::EREMOTE) => Err(Looked::Unknown(Unknown::Hidden)),
            // Kernels before said this also of one that lives where it cannot be seen from here.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                Err(Looked::Unknown(if peer::lives(&process).unwrap_or(false) { Unknown::Hidden } else { Unknown::Ended }))
            }
            _ => Err(Looked::Elsewhere(process)),
        }
    }

    /// The same, wherever it is; this may take milliseconds.
    ///
    /// # Errors
    /// [`Unknown`]
    pub(super) fn search(&self, process: &OwnedFd) -> Result<Arc<Cgroup>, Unknown> {
        let number = peer::number(process)?.ok_or(Unknown::Hidden)?;
        let id = sys::process_info(process).ok().and_then(|info| info.cgroup_id);
        let said = said_of(number).and_then(|path| self.at(&path)).filter(|cgroup| id.is_none_or(|id| cgroup.id == id));
        let found = said.or_else(|| self.look_at_all(number, id)).ok_or(Unknown::Hidden)?;
        let cgroup = if_alive(process.as_fd(), Arc::new(found))?;
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(cgroup.id, Arc::clone(&cgroup));
        Ok(cgroup)
    }

    /// The cgroup with an id, or where the kernel tells none, the one that has the process of a number in it.
    fn look_at_all(&self, number: i32, id: Option<u64>) -> Option<Cgroup> {
        let root = self.root.as_deref()?;
        if id.is_none() {
            // Who asked before asks again, mostly from where it was.
            let known: Vec<Arc<Cgroup>> = self.lock().values().cloned().collect();
            let has_it = |cgroup: &&Arc<Cgroup>| self.directory(&cgroup.path).is_some_and(|path| has_process(&path, number));
            let found = known.iter().find(has_it).and_then(|cgroup| self.at(&cgroup.path));
            if found.is_some() {
                return found;
            }
        }
        let is_it = |path: &Path, inode: u64| id.map_or_else(|| has_process(path, number), |id| inode == id);
        let whole = self.at("/").filter(|whole| is_it(root, whole.id));
        whole.or_else(|| find_in(root, |_| true, |entry, path| is_it(path, entry.ino())))
    }

    /// The cgroup at a path as it is now.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<Cgroup> {
        let found = fs::symlink_metadata(self.directory(path)?).ok()?;
        (found.is_dir()).then(|| Cgroup { id: found.ino(), path: path.to_owned() })
    }

    /// The cgroup of a unit of the system's, if it has one now.
    #[must_use]
    pub fn of_unit(&self, unit: &str) -> Option<Cgroup> {
        let root = self.root.as_deref()?;
        // A unit is in a slice, and slices are in slices.
        let is_it = |_: &fs::DirEntry, path: &Path| {
            let below = path.strip_prefix(root).ok().and_then(Path::to_str);
            below.is_some_and(|below| units(below).1 == Some(unit))
        };
        find_in(root, |name| name.ends_with(".slice"), is_it)
    }

    /// A cgroup that was found before and is still there.
    fn still(&self, id: u64) -> Option<Arc<Cgroup>> {
        let known = self.lock().get(&id).map(Arc::clone)?;
        if self.at(&known.path).is_some_and(|now| now.id == id) {
            return Some(known);
        }
        self.lock().remove(&id);
        None
    }

    fn directory(&self, path: &str) -> Option<PathBuf> {
        let is_plain = path.starts_with('/') && !path.split('/').any(|segment| matches!(segment, "." | ".."));
        Some(self.root.as_deref()?.join(path.trim_start_matches('/'))).filter(|_| is_plain)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Cgroup>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a look without blocking came out, where the cgroup was not found.
pub(super) enum Looked {
    /// It has to be searched for.
    Elsewhere(OwnedFd),
    /// It cannot be known.
    Unknown(Unknown),
}

/// What was found of a process, if that lived through the finding: else its number may have been another's.
fn if_alive(process: BorrowedFd<'_>, cgroup: Arc<Cgroup>) -> Result<Arc<Cgroup>, Unknown> {
    if peer::lives(process)? { Ok(cgroup) } else { Err(Unknown::Ended) }
}

/// What `/proc` says of the cgroup of the process that has this number; `None` where it does not show it, and where it is not below what
/// can be seen from here.
fn said_of(number: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{number}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (!path.split('/').any(|segment| segment == "..")).then(|| path.to_owned())
}

/// Whether a cgroup has the process of this number in it: `cgroup.procs`, which everybody may read.
fn has_process(directory: &Path, number: i32) -> bool {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().any(|line| line.parse() == Ok(number))
}

/// The first cgroup that is meant, below those whose names may lead there. `is_it` is given the path with the root in front.
fn find_in(root: &Path, leads_on: impl Fn(&str) -> bool, mut is_it: impl FnMut(&fs::DirEntry, &Path) -> bool) -> Option<Cgroup> {
    let mut directories = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            seen += 1;
            if seen > MAX_CGROUPS {
                return None;
            }
            let path = entry.path();
            let below = path.strip_prefix(root).ok().and_then(Path::to_str);
            if let Some(below) = below.filter(|_| is_it(&entry, &path)) {
                return Some(Cgroup { id: entry.ino(), path: format!("/{below}") });
            }
            if entry.file_name().to_str().is_some_and(&leads_on) {
                directories.push(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(path: &str) -> Cgroup {
        Cgroup { id: 1, path: path.to_owned() }
    }

    #[test]
    fn a_unit_is_the_systems_and_what_is_below_it_is_of_no_account() {
        for (path, unit) in [
            ("/system.slice/job-1.service", Some("job-1.service")),
            ("/system.slice/system-job.slice/job@1.service/sub/job-2.service", Some("job@1.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/job-1.service", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/job/job-1.service", None),
            ("/system.slice", None),
            ("/", None),
        ] {
            assert_eq!(cgroup(path).unit(), unit, "{path}");
        }
    }

    #[test]
    fn a_units_pattern_is_for_whole_names_and_for_slices_with_all_that_is_in_them() {
        let matches = |pattern: &str, path: &str| UnitPattern::parse(pattern).unwrap().matches(&cgroup(path));
        for (pattern, path, expected) in [
            ("job-*.service", "/system.slice/job-123.service", true),
            ("job-*.service", "/system.slice/job-123.service/payload", true),
            ("job-*.service", "/system.slice/job-.service", true),
            ("job-*.service", "/system.slice/my-job-1.service", false),
            ("job-*.service", "/system.slice/job-1.service.scope", false),
            ("job-*.service", "/system.slice/other.service/job-1.service", false),
            ("job-*.service", "/user.slice/user-1000.slice/user@1000.service/app.slice/job-1.service", false),
            ("*-a-*-b.scope", "/x-a-y-a-z-b.scope", true),
            ("*-a-*-b.scope", "/x-a-y-a-z-c.scope", false),
            ("ci.slice", "/ci.slice/ci-fast.slice/x.service", true),
            ("ci.slice", "/system.slice/x.service/ci.slice", false),
            ("*.service", "/init.scope", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        for wrong in ["", "job", ".service", "job-1.timer", "/job.service", "job 1.service", "job?.service", "jöb.service"] {
            assert_eq!(UnitPattern::parse(wrong), None, "{wrong}");
        }
        assert_eq!(UnitPattern::parse(&format!("{}.service", "x".repeat(248))), None);
    }

    #[test]
    fn a_cgroups_pattern_is_a_path_of_whole_segments_with_all_below() {
        let matches = |pattern: &str, path: &str| CgroupPattern::parse(pattern).unwrap().matches(&cgroup(path));
        for (pattern, path, expected) in [
            ("/system.slice/job-123.service", "/system.slice/job-123.service", true),
            ("/system.slice/job-123.service", "/system.slice/job-123.service/a/b", true),
            ("/system.slice/job-1", "/system.slice/job-123.service", false),
            ("/system.slice/job-123.service", "/system.slice", false),
            ("/machine/*/jobs", "/machine/7/jobs/1", true),
            ("/machine/*/jobs", "/machine/7/8/jobs", false),
            ("/a", "/b/a", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        for wrong in ["", "/", "a", "/a/", "/a//b", "/a/../b", "/./a", "/a\nb"] {
            assert_eq!(CgroupPattern::parse(wrong), None, "{wrong:?}");
        }
        let within = cgroup("/system.slice/job-1.service");
        assert!(within.is_within("/system.slice") && within.is_within("/") && !within.is_within("/system.slice/job-1"));
    }

    #[test]
    fn the_own_cgroup_is_found_by_what_is_said_and_by_looking_at_all() {
        let cgroups = Cgroups::new();
        if let Some(problem) = cgroups.problem() {
            assert!(matches!(problem, Unknown::NotOffered | Unknown::NoHierarchy));
            return;
        }
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let expected = said_of(i32::try_from(std::process::id()).unwrap()).and_then(|path| cgroups.at(&path));
        let process = match cgroups.of_peer(&ours) {
            Err(Looked::Elsewhere(process)) => process,
            Err(Looked::Unknown(problem)) => panic!("{problem}"),
            Ok(_) => panic!("nothing is known yet"),
        };
        let found = cgroups.search(&process).map(|found| (*found).clone());
        assert_eq!(found.clone().ok(), expected);
        if let Ok(found) = found {
            // The second time without a search, where the kernel tells the id.
            if sys::process_info(&process).is_ok_and(|info| info.cgroup_id.is_some()) {
                assert!(cgroups.of_peer(&ours).is_ok_and(|again| *again == found));
            }
            // As on kernels that tell no id, and where /proc shows nothing.
            let number = i32::try_from(std::process::id()).unwrap();
            assert_eq!(cgroups.look_at_all(number, None).as_ref(), Some(&found));
            assert_eq!(cgroups.look_at_all(number, Some(found.id)).as_ref(), Some(&found));
            assert_eq!((cgroups.look_at_all(i32::MAX, None), cgroups.look_at_all(number, Some(u64::MAX))), (None, None));
        }
    }

    #[test]
    fn a_units_cgroup_is_looked_for_in_slices_only() {
        let root = tempfile::tempdir().unwrap();
        for path in ["other.service/job-1.service", "a.slice/a-b.slice/job-1.service/job-2.service", "a.slice/_cpu.service"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let cgroups = Cgroups::below(root.path());
        let path = |unit: &str| cgroups.of_unit(unit).map(|cgroup| cgroup.path);
        assert_eq!(path("job-1.service").as_deref(), Some("/a.slice/a-b.slice/job-1.service"));
        assert_eq!(path("job-2.service"), None);
        assert_eq!(path("cpu.service").as_deref(), Some("/a.slice/_cpu.service"));
        assert_eq!(path("other.service").as_deref(), Some("/other.service"));
        let found = cgroups.of_unit("job-1.service").unwrap();
        assert_eq!(cgroups.at(&found.path), Some(found));
    }

    #[test]
    fn paths_lead_nowhere_else() {
        let cgroups = Cgroups::below(Path::new("/sys"));
        assert_eq!(cgroups.directory("/../etc"), None);
        assert_eq!(cgroups.directory("etc"), None);
        assert_eq!(cgroups.directory("/fs"), Some(PathBuf::from("/sys/fs")));
    }
}
