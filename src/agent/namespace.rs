//! Callers from outside of the daemon's user namespace, as when the daemon runs in a container: user_namespaces(7).
//!
//! For an id that has no number here, the kernel gives one that stands for all of them, `nobody`'s as a rule. Whoever came with it could
//! be anybody, so it names nobody: no user, no member of a group, whatever the rules say of `nobody`.

use std::path::Path;

use super::peer::Peer;

/// The number that stands for ids without one, unless the system says otherwise.
const USUAL: u32 = 65_534;

/// No id at all: `(uid_t) -1`.
const NO_ID: u32 = u32::MAX;

/// The numbers that say nothing about who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strangers {
    gid: Option<u32>,
    uid: Option<u32>,
}

impl Strangers {
    /// Of this process's user namespace. Where every id has a number, as on a host, each number is somebody's.
    #[must_use]
    pub fn of_this_namespace() -> Self {
        Self {
            gid: unknown(Path::new("/proc/self/gid_map"), Path::new("/proc/sys/kernel/overflowgid")),
            uid: unknown(Path::new("/proc/self/uid_map"), Path::new("/proc/sys/kernel/overflowuid")),
        }
    }

    /// Whether a group's number says nothing.
    #[must_use]
    pub fn is_group(self, gid: u32) -> bool {
        self.gid == Some(gid)
    }

    /// The peer without the groups that say nothing; `None` where its user is not known here.
    #[must_use]
    pub fn without(self, peer: Peer) -> Option<Peer> {
        let Peer { uid, gid, mut groups, pid } = peer;
        if self.uid == Some(uid) {
            return None;
        }
        groups.retain(|group| !self.is_group(*group));
        Some(Peer { uid, gid: if self.is_group(gid) { NO_ID } else { gid }, groups, pid })
    }
}

/// The number that stands for those without one, where there are such. Without an answer from the system there may be.
fn unknown(map: &Path, number: &Path) -> Option<u32> {
    if std::fs::read_to_string(map).is_ok_and(|map| is_complete(&map)) {
        return None;
    }
    let number = std::fs::read_to_string(number).ok().and_then(|number| number.trim().parse().ok());
    Some(number.unwrap_or(USUAL))
}

/// Whether a map has all ids: each line has the first number here, the first outside, and how many there are. They never overlap.
fn is_complete(map: &str) -> bool {
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
    map.lines().filter_map(count).sum::<u64>() >= u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_complete_where_every_id_has_a_number() {
        for (map, expected) in [
            ("         0          0 4294967295\n", true),
            ("0 0 2147483647\n2147483647 2147483647 2147483648\n", true),
            ("0 100000 65536\n", false),
            ("0 0 1\n", false),
            ("0 0 4294967294\n", false),
            ("", false),
            ("0 0 many\n", false),
        ] {
            assert_eq!(is_complete(map), expected, "{map}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_taken_for_a_namespace_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (map, number) = (folder.path().join("map"), folder.path().join("number"));
        assert_eq!(unknown(&map, &number), Some(65_534));
        std::fs::write(&number, "4711\n").unwrap();
        assert_eq!(unknown(&map, &number), Some(4711));
        std::fs::write(&map, "0 100000 65536\n").unwrap();
        assert_eq!(unknown(&map, &number), Some(4711));
        std::fs::write(&map, "0 0 4294967295\n").unwrap();
        assert_eq!(unknown(&map, &number), None);
    }

    #[test]
    fn a_number_that_stands_for_all_is_nobody_and_no_group() {
        let peer = |uid, gid, groups: &[u32]| Peer { uid, gid, groups: groups.to_vec(), pid: Some(1) };
        let contained = Strangers { gid: Some(65_534), uid: Some(65_533) };
        assert_eq!(contained.without(peer(65_533, 5, &[])), None);
        assert_eq!(contained.without(peer(0, 65_534, &[7, 65_534, 8])), Some(peer(0, NO_ID, &[7, 8])));
        assert_eq!(contained.without(peer(65_534, 5, &[65_533])), Some(peer(65_534, 5, &[65_533])));
        let host = Strangers { gid: None, uid: None };
        assert_eq!(host.without(peer(65_534, 65_534, &[65_534])), Some(peer(65_534, 65_534, &[65_534])));
    }
}
