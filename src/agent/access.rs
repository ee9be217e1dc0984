//! Who may have what: the operator's rules, matched against what the kernel says of a peer.
//!
//! Nobody is above the rules. Root could take what it likes from the machine anyway, so an exception for it would protect nothing
//! and make what a rule says untrue; what root needs to see and mend things (`status`, `sync`, `trust`) asks for no token. And no
//! rule lets anybody in: who may connect is settled before.

use std::fmt;
use std::io;
use std::sync::Arc;

use tracing::info;

use super::cgroup::{Cgroup, CgroupPattern, UnitPattern};
use super::peer::Peer;
use crate::broker::{CallerRules, HostRule, Listed, Rights};
use crate::integration::location::HostPattern;

/// A rule as the operator wrote it. It matches when users, groups, units, cgroups and hosts each do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The cgroups, of which the peer must be in one; any where it is empty.
    pub cgroups: Vec<CgroupPattern>,
    /// The groups, of which one must be the peer's own or one of its supplementary ones; any where it is empty.
    pub groups: Names,
    /// What an integration must lie within; anything where it is empty.
    pub hosts: Vec<HostPattern>,
    /// What those whom it matches may have.
    pub rights: Rights,
    /// The systemd units, of which the peer must be in one; any where it is empty.
    pub units: Vec<UnitPattern>,
    /// The users; any where it is empty.
    pub users: Names,
}

/// Users or groups as the operator named them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The key that they were written in, as errors name it.
    pub key: String,
    /// Names, or numbers in decimal digits.
    pub names: Vec<String>,
}

/// The machine's user and group database.
pub trait Accounts: Send + Sync {
    /// The number of a user, if there is one of that name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    fn uid(&self, name: &str) -> io::Result<Option<u32>>;

    /// The number of a group, if there is one of that name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    fn gid(&self, name: &str) -> io::Result<Option<u32>>;
}

/// The system's own database, with everything that `nsswitch.conf` adds to it. Asking may take as long as a server does.
#[derive(Debug, Clone, Copy)]
pub struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn uid(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(nix::unistd::User::from_name(name)?.map(|user| user.uid.as_raw()))
    }

    fn gid(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
    }
}

/// Names that the machine does not know: a rule about them would silently say something else than it was written for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    unknown: Vec<Unknown>,
}

/// One line each, several below a line that counts them.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unknown.as_slice() {
            [unknown] => unknown.fmt(f),
            several => {
                write!(f, "the access rules have {} problems", several.len())?;
                several.iter().try_for_each(|unknown| write!(f, "\n  {unknown}"))
            }
        }
    }
}

impl std::error::Error for Error {}

/// One name that could not be turned into a number: the key with its place in the list, from 0, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Unknown {
    #[error("{key}[{index}]: names a group that this machine does not have")]
    Group { key: String, index: usize },
    #[error("{key}[{index}]: cannot be looked up: {reason}")]
    Lookup { key: String, index: usize, reason: io::ErrorKind },
    #[error("{key}[{index}]: names a user that this machine does not have")]
    User { key: String, index: usize },
}

/// The rules, with the numbers that their names had when this was made.
pub struct Access {
    resolved: Arc<[Resolved]>,
    rules: Vec<Rule>,
}

/// A rule with numbers for names.
#[derive(PartialEq, Eq)]
struct Resolved {
    cgroups: Vec<CgroupPattern>,
    gids: Vec<u32>,
    hosts: Arc<HostRule>,
    uids: Vec<u32>,
    units: Vec<UnitPattern>,
}

impl Resolved {
    fn is_about(&self, peer: &Peer) -> bool {
        let is_member = |gid: &u32| peer.gid == *gid || peer.groups.contains(gid);
        (self.uids.is_empty() || self.uids.contains(&peer.uid)) && (self.gids.is_empty() || self.gids.iter().any(is_member))
    }

    fn asks_for_cgroup(&self) -> bool {
        !(self.cgroups.is_empty() && self.units.is_empty())
    }

    fn is_about_cgroup(&self, cgroup: &Cgroup) -> bool {
        (self.cgroups.is_empty() || self.cgroups.iter().any(|pattern| pattern.matches(cgroup)))
            && (self.units.is_empty() || self.units.iter().any(|pattern| pattern.matches(cgroup)))
    }

    /// The rule for a peer in a cgroup, or in one that is not known.
    fn listed(&self, cgroup: Option<&Cgroup>) -> Option<Listed> {
        let is_certain = match cgroup {
            _ if !self.asks_for_cgroup() => true,
            Some(cgroup) if self.is_about_cgroup(cgroup) => true,
            Some(_) => return None,
            None => false,
        };
        Some(Listed { is_certain, rule: Arc::clone(&self.hosts) })
    }
}

impl Access {
    /// Looks up every name in the rules; this may block.
    ///
    /// # Errors
    /// [`Error`] with every name that is not known.
    pub fn new(rules: Vec<Rule>, accounts: impl Accounts) -> Result<Self, Error> {
        Ok(Self { resolved: resolve(&rules, &accounts)?, rules })
    }

    /// Writes what is different from the rules that were in force before.
    pub fn log_changes(&self, before: &Self) {
        if self.rules != before.rules {
            info!(target: "audit", event = "access_changed", rules = self.rules.len(), "the access rules changed");
        } else if self.resolved != before.resolved {
            info!(target: "audit", event = "access_changed", rules = self.rules.len(), "names in the access rules have new numbers");
        }
    }

    /// The numbers of the rules about units and cgroups, from 1.
    #[must_use]
    pub fn about_cgroups(&self) -> Vec<usize> {
        self.resolved.iter().filter(|rule| rule.asks_for_cgroup()).map(|rule| rule.hosts.number).collect()
    }

    /// Whether it takes a peer's cgroup to say which rules are about it.
    #[must_use]
    pub fn asks_for_cgroup_of(&self, peer: &Peer) -> bool {
        self.resolved.iter().any(|rule| rule.asks_for_cgroup() && rule.is_about(peer))
    }

    /// The rules about a peer, in their order. Where its cgroup is not known, those about units and cgroups may be about it: they give
    /// nothing then, and withhold what they would.
    #[must_use]
    pub fn about(&self, peer: &Peer, cgroup: Option<&Cgroup>) -> CallerRules {
        if self.rules.is_empty() {
            return CallerRules::default();
        }
        CallerRules::listed(self.resolved.iter().filter(|rule| rule.is_about(peer)).filter_map(|rule| rule.listed(cgroup)).collect())
    }
}

fn resolve(rules: &[Rule], accounts: &dyn Accounts) -> Result<Arc<[Resolved]>, Error> {
    let mut unknown = Vec::new();
    let resolved = rules
        .iter()
        .enumerate()
        .map(|(index, Rule { cgroups, groups, hosts, rights, units, users })| Resolved {
            cgroups: cgroups.clone(),
            gids: numbers(groups, |name| accounts.gid(name), |key, index| Unknown::Group { key, index }, &mut unknown),
            hosts: Arc::new(HostRule { hosts: hosts.clone(), number: index + 1, rights: *rights }),
            uids: numbers(users, |name| accounts.uid(name), |key, index| Unknown::User { key, index }, &mut unknown),
            units: units.clone(),
        })
        .collect();
    if unknown.is_empty() { Ok(resolved) } else { Err(Error { unknown }) }
}

/// The numbers of what a list names. All digits are a number, even if there is a name like it.
fn numbers(
    list: &Names,
    look_up: impl Fn(&str) -> io::Result<Option<u32>>,
    missing: impl Fn(String, usize) -> Unknown,
    unknown: &mut Vec<Unknown>,
) -> Vec<u32> {
    let mut numbers = Vec::with_capacity(list.names.len());
    for (index, name) in list.names.iter().enumerate() {
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let found = if is_number { Ok(name.parse().ok()) } else { look_up(name) };
        match found {
            Ok(Some(number)) => numbers.push(number),
            Ok(None) => unknown.push(missing(list.key.clone(), index)),
            Err(error) => unknown.push(Unknown::Lookup { key: list.key.clone(), index, reason: error.kind() }),
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;
    use crate::broker::Verdict;

    /// A database that changes while it is in use.
    #[derive(Clone, Default)]
    struct FakeAccounts(Arc<Mutex<HashMap<String, u32>>>);

    impl FakeAccounts {
        fn set(&self, entries: &[(&str, u32)]) {
            *self.0.lock().unwrap() = entries.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        }

        fn find(&self, name: &str) -> io::Result<Option<u32>> {
            if name == "broken" { Err(io::ErrorKind::TimedOut.into()) } else { Ok(self.0.lock().unwrap().get(name).copied()) }
        }
    }

    impl Accounts for FakeAccounts {
        fn uid(&self, name: &str) -> io::Result<Option<u32>> {
            self.find(name)
        }

        fn gid(&self, name: &str) -> io::Result<Option<u32>> {
            self.find(name).map(|found| found.map(|uid| uid + 1000))
        }
    }

    fn rule(users: &[&str], groups: &[&str]) -> Rule {
        let names = |key: &str, names: &[&str]| Names { key: key.to_owned(), names: names.iter().map(|name| (*name).to_owned()).collect() };
        Rule {
            cgroups: Vec::new(),
            groups: names("access[0].groups", groups),
            hosts: Vec::new(),
            rights: Rights::NONE,
            units: Vec::new(),
            users: names("access[0].users", users),
        }
    }

    fn accounts(entries: &[(&str, u32)]) -> FakeAccounts {
        let accounts = FakeAccounts::default();
        accounts.set(entries);
        accounts
    }

    /// The number of the rule that decides about a peer.
    fn decides(access: &Access, uid: u32, gid: u32, groups: &[u32]) -> Option<usize> {
        verdict(access, uid, gid, groups, None).rule
    }

    fn verdict(access: &Access, uid: u32, gid: u32, groups: &[u32], path: Option<&str>) -> Verdict {
        let cgroup = path.map(|path| Cgroup { id: 7, path: path.to_owned() });
        let integration = crate::integration::ScmIntegration {
            id: String::new(),
            scm_id: "custom".into(),
            host: "scm.example.com".to_owned(),
            runner_id: String::new(),
            virtual_directory: String::new(),
            pat: false,
            oauth: None,
        };
        access.about(&Peer { uid, gid, groups: groups.to_vec(), pid: None }, cgroup.as_ref()).verdict(&integration)
    }

    #[test]
    fn a_rule_about_units_or_cgroups_gives_only_what_is_certain_and_withholds_what_may_be() {
        let rights = |own, service| Rights { app_secret: false, own, service };
        let about = |units: &[&str], cgroups: &[&str], users: &[&str], rights| Rule {
            cgroups: cgroups.iter().map(|text| CgroupPattern::parse(text).unwrap()).collect(),
            rights,
            units: units.iter().map(|text| UnitPattern::parse(text).unwrap()).collect(),
            ..rule(users, &[])
        };
        let rules = vec![
            about(&["shut-*.service"], &[], &[], rights(false, false)),
            about(&["job-*.service"], &["/ci.slice"], &["1"], rights(false, true)),
            about(&[], &["/system.slice/job-2.service"], &[], rights(true, true)),
            about(&[], &[], &[], rights(true, false)),
        ];
        let access = Access::new(rules, FakeAccounts::default()).unwrap();
        assert_eq!(access.about_cgroups(), [1, 2, 3]);
        let decided = |uid, path| {
            let Verdict { rights, rule, .. } = verdict(&access, uid, 1, &[], path);
            (rights.own, rights.service, rule)
        };
        assert_eq!(decided(1, Some("/ci.slice/job-1.service/sub")), (false, true, Some(2)));
        // Both must match.
        assert_eq!(decided(1, Some("/system.slice/job-1.service")), (true, false, Some(4)));
        assert_eq!(decided(2, Some("/ci.slice/job-1.service")), (true, false, Some(4)));
        assert_eq!(decided(2, Some("/system.slice/job-2.service/x")), (true, true, Some(3)));
        assert_eq!(decided(1, Some("/system.slice/shut-1.service")), (false, false, Some(1)));
        // One that is not known may be the one that is shut out.
        assert_eq!(decided(2, None), (false, false, Some(1)));
        let access = Access::new(vec![about(&["job-*.service"], &[], &["1"], rights(false, true))], FakeAccounts::default()).unwrap();
        assert_eq!(verdict(&access, 1, 1, &[], None).rights, Rights::NONE);
        let peer = |uid| Peer { uid, gid: 1, groups: Vec::new(), pid: None };
        assert!(access.asks_for_cgroup_of(&peer(1)) && !access.asks_for_cgroup_of(&peer(2)));
    }

    #[test]
    fn users_and_groups_must_both_match_and_either_may_be_left_out() {
        let rules = vec![rule(&["ci", "1000"], &["builders"]), rule(&["1000"], &[]), rule(&[], &["77", "builders"])];
        let access = Access::new(rules, accounts(&[("ci", 500), ("builders", 600)])).unwrap();
        let builders = 1600;
        assert_eq!(decides(&access, 500, builders, &[]), Some(1));
        assert_eq!(decides(&access, 1000, 1000, &[4, builders]), Some(1));
        assert_eq!(decides(&access, 1000, 1000, &[4]), Some(2));
        assert_eq!(decides(&access, 2000, 77, &[]), Some(3));
        assert_eq!(decides(&access, 2000, 1, &[builders]), Some(3));
        assert_eq!(decides(&access, 500, 500, &[]), None);
        // Nobody is above the rules.
        assert_eq!(decides(&access, 0, 0, &[]), None);
    }

    #[test]
    fn a_rule_for_anyone_is_for_anyone() {
        let access = Access::new(vec![rule(&[], &[])], FakeAccounts::default()).unwrap();
        assert_eq!(decides(&access, 12345, 54321, &[]), Some(1));
    }

    #[test]
    fn every_name_that_is_not_known_is_told_with_its_key_and_none_is_printed() {
        let rules = vec![rule(&["canary", "1000", "broken"], &["canary"])];
        let error = Access::new(rules, FakeAccounts::default()).err().unwrap();
        let expected = "the access rules have 3 problems\n  \
            access[0].groups[0]: names a group that this machine does not have\n  \
            access[0].users[0]: names a user that this machine does not have\n  \
            access[0].users[2]: cannot be looked up: timed out";
        assert_eq!(error.to_string(), expected);
        let one = Access::new(vec![rule(&["canary"], &[])], FakeAccounts::default()).err().unwrap();
        assert_eq!(one.to_string(), "access[0].users[0]: names a user that this machine does not have");
    }
}
