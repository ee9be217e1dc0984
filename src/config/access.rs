//! `[[access]]`: the rules that say who may have what of which host.

use super::keys::ACCESS;
use super::layer::{Entry, ListedTable};
use super::reader::{Reader, quoted_list, texts};
use super::{Cause, Origin, Problem};
use crate::agent::cgroup::{CgroupPattern, UnitPattern};
use crate::integration::location::HostPattern;

/// One rule. It matches when users, groups, units, cgroups and hosts each do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// What those whom it matches may have; nothing where it is empty.
    pub allow: Vec<Permission>,
    /// The cgroups, of which the caller must be in one; any where it is empty.
    pub cgroups: Vec<CgroupPattern>,
    /// The groups, of which one must be the caller's; any where it is empty.
    pub groups: AccountList,
    /// What an integration must lie within; anything where it is empty.
    pub hosts: Vec<HostPattern>,
    /// The systemd units, of which the caller must be in one; any where it is empty.
    pub units: Vec<UnitPattern>,
    /// The users; any where it is empty.
    pub users: AccountList,
}

/// Users or groups by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountList {
    /// The key with the file that it is in, as problems name it.
    pub key: String,
    /// The names or numbers. Whether they exist is for the machine to say that the daemon starts on.
    pub names: Vec<String>,
}

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// `app-secret`: the app's credentials.
    AppSecret,
    /// `own`: access that the caller brought along, by signing in.
    Own,
    /// `service`: the app's own access tokens.
    Service,
}

const PERMISSIONS: [(&str, Permission); 3] =
    [("service", Permission::Service), ("own", Permission::Own), ("app-secret", Permission::AppSecret)];

/// Reads the rules of all layers, in their order.
pub(super) fn rules(reader: &mut Reader, tables: Vec<ListedTable>) -> Vec<Access> {
    let mut rules = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let (allow_key, table_origin) = (table.full("allow"), table.origin.clone());
        let has_allow = table.table.contains_key("allow");
        let key = |name: &str| match &table.origin {
            Origin::File(path) => format!("{}: {}", path.display(), table.full(name)),
            _ => table.full(name),
        };
        let (users_key, groups_key) = (key("users"), key("groups"));
        let mut section = reader.listed(index, table);
        let users = AccountList { key: users_key, names: section.read("users", accounts).unwrap_or_default() };
        let groups = AccountList { key: groups_key, names: section.read("groups", accounts).unwrap_or_default() };
        let units = section.read("units", |entry| patterns(entry, UnitPattern::parse, Cause::Units)).unwrap_or_default();
        let cgroups = section.read("cgroups", |entry| patterns(entry, CgroupPattern::parse, Cause::Cgroups)).unwrap_or_default();
        let hosts = section.read("hosts", hosts).unwrap_or_default();
        let allow = section.read("allow", permissions).unwrap_or_default();
        if !has_allow {
            reader.problems.push(Problem::new(&table_origin, allow_key, Cause::MissingInTable { section: ACCESS }));
        }
        rules.push(Access { allow, cgroups, groups, hosts, units, users });
    }
    rules
}

/// Names or numbers. A number that chown(2) takes for "leave it as it is" is nobody's.
fn accounts(entry: &Entry) -> Result<(Vec<String>, String), Cause> {
    let names = texts(entry)?;
    let is_nobodys = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit()) && name.parse().unwrap_or(u32::MAX) == u32::MAX;
    if names.iter().any(is_nobodys) {
        return Err(Cause::NotAnAccount);
    }
    once(&names)?;
    let shown = quoted_list(&names);
    Ok((names, shown))
}

/// Hosts as integrations have them, without a scheme: a rule is about a place, however it is reached.
fn hosts(entry: &Entry) -> Result<(Vec<HostPattern>, String), Cause> {
    let written = texts(entry)?;
    let pattern = |host: &String| HostPattern::of_host(host).ok().filter(|_| !host.contains("://"));
    let hosts = written.iter().map(pattern).collect::<Option<Vec<_>>>().ok_or(Cause::Hosts)?;
    once(&hosts)?;
    Ok((hosts, quoted_list(&written)))
}

/// Units or cgroups.
fn patterns<T: PartialEq>(entry: &Entry, parse: impl Fn(&str) -> Option<T>, cause: Cause) -> Result<(Vec<T>, String), Cause> {
    let written = texts(entry)?;
    let patterns = written.iter().map(|text| parse(text)).collect::<Option<Vec<_>>>().ok_or(cause)?;
    once(&patterns)?;
    Ok((patterns, quoted_list(&written)))
}

fn permissions(entry: &Entry) -> Result<(Vec<Permission>, String), Cause> {
    let words = texts(entry)?;
    let permission = |word: &String| PERMISSIONS.iter().find(|(name, _)| name == word).map(|(_, permission)| *permission);
    let choice = || Cause::Choice(PERMISSIONS.iter().map(|(name, _)| *name).collect());
    let permissions = words.iter().map(permission).collect::<Option<Vec<_>>>().ok_or_else(choice)?;
    once(&permissions)?;
    Ok((permissions, quoted_list(&words)))
}

fn once<T: PartialEq>(entries: &[T]) -> Result<(), Cause> {
    let twice = (1..entries.len()).any(|index| entries[..index].contains(&entries[index]));
    if twice { Err(Cause::DuplicateEntry) } else { Ok(()) }
}
