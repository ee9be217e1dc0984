//! Files, ports and other processes, by Landlock: landlock(7). What is not named here is refused with EACCES or EPERM; nothing is killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, make_bitflags,
};

use super::places::{Places, around};
use super::{Error, Named};

/// The newest version that is used. What a later one adds is not asked for before it is known what it does.
const NEWEST: ABI = ABI::V6;

/// What the C library, the list of authorities and the runtime read, now and after an update: names, hosts, users, time, libraries.
const SYSTEM: [&str; 24] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/gnu/store",
    "/nix/store",
    "/opt/etc/ssl",
    "/proc",
    "/run/NetworkManager",
    "/run/connman",
    "/run/resolvconf",
    "/run/systemd",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/var/cache/nscd",
    "/var/db/nscd",
    "/var/lib/ca-certificates",
    "/var/lib/extrausers",
    "/var/lib/sss",
    "/var/ssl",
    "/dev/random",
    "/dev/urandom",
];

/// Of the system's files, those that are often links to somewhere else.
const LINKED: [&str; 11] = [
    "/etc/group",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/resolv.conf",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/.",
    "/etc/ssl/certs/ca-certificates.crt",
];

/// Files and folders that are open, without links in their paths, and ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Admitted {
    read: Vec<PathBuf>,
    written: Vec<PathBuf>,
    ports: Vec<u16>,
}

impl Admitted {
    fn of(places: &Places) -> Self {
        let mut admitted = Self::default();
        let system = SYSTEM.iter().filter_map(|path| Path::new(path).canonicalize().ok());
        let linked = LINKED.iter().flat_map(|path| around(Path::new(path)));
        let files = places.files.iter().flat_map(|file| around(&file.path));
        let folders = places.folders.iter().filter_map(|folder| folder.path.canonicalize().ok());
        for path in system.chain(linked).chain(files).chain(folders) {
            if !admitted.read.iter().any(|open| path.starts_with(open)) {
                admitted.read.push(path);
            }
        }
        // With the root folder, everything would be open: a socket there is neither removed nor made again.
        let written = places.written.iter().filter_map(|folder| folder.path.canonicalize().ok());
        admitted.written = written.filter(|folder| folder != Path::new("/")).collect();
        admitted.ports = places.ports.iter().map(|(_, port)| *port).collect();
        admitted
    }

    /// Whether other places are within these.
    pub(super) fn check(&self, places: &Places) -> Result<(), Error> {
        let is_within = |open: &[PathBuf], path: &Path| open.iter().any(|open| path.starts_with(open));
        let outside = |place: &Named| Error::Outside { key: place.key.clone(), path: place.path.clone() };
        for file in &places.files {
            let wanted = around(&file.path);
            if wanted.is_empty() || !wanted.iter().all(|path| is_within(&self.read, path) || is_within(&self.written, path)) {
                return Err(outside(file));
            }
        }
        for (folders, open) in [(&places.folders, &self.read), (&places.written, &self.written)] {
            let is_open = |folder: &&Named| folder.path.canonicalize().is_ok_and(|path| is_within(open, &path));
            if let Some(folder) = folders.iter().find(|folder| !is_open(folder)) {
                return Err(outside(folder));
            }
        }
        match places.ports.iter().find(|(_, port)| !self.ports.contains(port)) {
            Some((key, port)) => Err(Error::Port { key: key.clone(), port: *port }),
            None => Ok(()),
        }
    }
}

/// Restricts this thread and those that it begins. Says which version of the kernel's interface was used, and what is open.
///
/// # Errors
/// Why nothing was restricted.
pub(super) fn restrict(places: &Places) -> Result<(u32, Admitted), String> {
    let admitted = Admitted::of(places);
    let restricted = (|| {
        let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.handle_access(AccessNet::BindTcp)?;
        if !scopes().is_empty() {
            ruleset = ruleset.scope(scopes())?;
        }
        let mut ruleset = ruleset.create()?;
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        // No devices, no pipes, and nothing to execute. A link is what older versions find in the place of the lock.
        let write = make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | MakeSym | MakeDir | RemoveFile | RemoveDir | Refer
        });
        let device = make_bitflags!(AccessFs::{ReadFile | WriteFile});
        let null = [PathBuf::from("/dev/null")];
        for (paths, rights) in [(&*admitted.read, read), (&*admitted.written, write), (&null, device)] {
            for path in paths {
                ruleset = allow(ruleset, path, rights)?;
            }
        }
        for port in &admitted.ports {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
        ruleset.restrict_self()
    })();
    match restricted {
        Ok(status) => match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi.min(NEWEST) as u32, admitted)),
            LandlockStatus::NotEnabled => Err("landlock is not enabled; see the lsm= parameter of the kernel".to_owned()),
            _ => Err("landlock is not there, or a container's filter of system calls is in its way".to_owned()),
        },
        Err(error) => Err(error.to_string()),
    }
}

/// Lets a path be used, if it is there.
fn allow(ruleset: landlock::RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> Result<landlock::RulesetCreated, RulesetError> {
    let Ok(open) = PathFd::new(path) else { return Ok(ruleset) };
    let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(open, rights))
}

/// Signals to others, and their abstract sockets, unless the service manager listens on one.
fn scopes() -> BitFlags<Scope> {
    let manager_is_abstract = std::env::var_os("NOTIFY_SOCKET").is_some_and(|address| address.as_encoded_bytes().starts_with(b"@"));
    if manager_is_abstract { Scope::Signal.into() } else { Scope::from_all(NEWEST) }
}

/// The names of the process's other threads. One that has just ended takes a moment to be gone, and on a busy machine a longer one.
pub(super) fn other_threads() -> Vec<String> {
    const LOOKS: u32 = 500;
    const PAUSE: Duration = Duration::from_millis(2);
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    // Where nobody can say, there is only the one that asks: the daemon calls this before it begins others.
    let others = || {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let others = tasks.filter(|task| *task.file_name() != *own);
        others.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim().to_owned()).collect::<Vec<_>>()
    };
    for _ in 1..LOOKS {
        if others().is_empty() {
            return Vec::new();
        }
        std::thread::sleep(PAUSE);
    }
    others()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &Path) -> Vec<Named> {
        vec![Named { key: "key".to_owned(), path: path.to_owned() }]
    }

    #[test]
    fn what_is_named_later_has_to_be_within_what_was_named_first() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["in", "out", "state", "certs"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("out/real"), "").unwrap();
        std::os::unix::fs::symlink(at("out/real"), at("in/link")).unwrap();
        let first = Places {
            files: named(&at("in/token")),
            folders: named(&at("certs")),
            ports: vec![("port".to_owned(), 9)],
            written: named(&at("state")),
        };
        let admitted = Admitted::of(&first);
        assert_eq!(admitted.check(&first), Ok(()));
        let outside = |path: &str| Err(Error::Outside { key: "key".to_owned(), path: at(path) });
        let files = |path: &str| admitted.check(&Places { files: named(&at(path)), ..Places::default() });
        assert_eq!(files("in/another"), Ok(()));
        assert_eq!(files("in/new-folder/another"), Ok(()));
        assert_eq!(files("state/read"), Ok(()));
        assert_eq!(files("out/real"), outside("out/real"));
        // Its name is within, but not what is read.
        assert_eq!(files("in/link"), outside("in/link"));
        assert_eq!(admitted.check(&Places { files: named(Path::new("/etc/hosts")), ..Places::default() }), Ok(()));
        assert!(admitted.check(&Places { files: named(Path::new("/new-in-the-root")), ..Places::default() }).is_err());
        let folders = |path: &str| admitted.check(&Places { folders: named(&at(path)), ..Places::default() });
        assert_eq!((folders("certs"), folders("out")), (Ok(()), outside("out")));
        let written = |path: &str| admitted.check(&Places { written: named(&at(path)), ..Places::default() });
        assert_eq!((written("state"), written("in")), (Ok(()), outside("in")));
        let ports = |port| admitted.check(&Places { ports: vec![("port".to_owned(), port)], ..Places::default() });
        assert_eq!((ports(9), ports(10)), (Ok(()), Err(Error::Port { key: "port".to_owned(), port: 10 })));
    }
}
