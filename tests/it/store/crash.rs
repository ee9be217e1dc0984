//! What is left after a process is killed while it saves, when there is no space, and where nothing can be written.

use std::fs::{self, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use scm_agent::store::{GrantRecord, GrantState, GrantStore};

use super::{Place, assert_same, generation, key, record};

/// How often a process is killed.
const KILLS: usize = 60;
/// A user who is nobody else.
const STRANGER: u32 = 65_534;

/// A test of `child` as a process of its own on a state directory.
fn child(name: &str, place: &Place, before: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before}exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("STATE", place.state())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// What a process printed after this word, line by line.
fn answers(child: &mut Child, word: &str) -> impl Iterator<Item = String> + use<> {
    let word = word.to_owned();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(move |line| line.split_once(&word).map(|(_, answer)| answer.trim().to_owned()))
}

#[test]
fn a_process_that_is_killed_while_saving_leaves_the_last_grant_or_the_next_one() {
    let place = Place::new();
    let mut in_between = 0;
    for kill in 0..KILLS {
        let mut child = child("child::saves_grants_without_end", &place, "").spawn().unwrap();
        let mut saved = answers(&mut child, "SAVED ");
        let first: u64 = saved.next().unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(kill) % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had told before it died is all in the pipe.
        let told = saved.last().map_or(first, |last| last.parse().unwrap());
        // Nothing is wrong with what it left.
        let found = generation(&place.open());
        assert!(found == told || found == told + 1, "told of {told}, found {found}");
        in_between += u64::from(found != told);
        assert_eq!(place.names(), ["daemon.lock", "grants-head", "grants-key", "grants.redb", "lock"]);
    }
    assert!(generation(&place.open()) >= KILLS as u64, "{in_between} between two saves");
}

#[test]
fn a_process_that_is_killed_while_it_makes_the_store_leaves_one_that_opens() {
    for kill in 0..20 {
        let place = Place::new();
        fs::create_dir(place.state()).unwrap();
        fs::set_permissions(place.state(), Permissions::from_mode(0o700)).unwrap();
        let mut child = child("child::saves_grants_without_end", &place, "").spawn().unwrap();
        // From the lock on, which is the first thing it makes.
        while !place.file("daemon.lock").exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(kill) % 8_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = place.open();
        store.save(&record(5, "after")).unwrap();
        drop(store);
        assert_same(place.open().load(&key(5)).unwrap().as_ref(), &record(5, "after"));
    }
}

#[test]
fn where_the_disk_is_full_the_old_grants_stay_and_a_refresh_can_know_beforehand() {
    let place = Place::new();
    // A file may have 5 MiB at most, and the signal that says so is ignored, so that writing fails as on a full disk.
    let mut child = child("child::saves_more_grants_than_there_is_room_for", &place, "trap '' XFSZ; ulimit -f 10240; ").spawn().unwrap();
    let printed: Vec<String> = answers(&mut child, "ANSWER ").collect();
    assert!(child.wait().unwrap().success(), "{printed:?}");
    let (each, last) = printed.split_last_chunk::<3>().unwrap();
    // Whatever a look at the room said yes to was saved.
    assert!(each.iter().all(|answer| answer == "Ok Ok" || answer == "Full Ok"), "{printed:?}");
    assert!(each.iter().filter(|answer| *answer == "Ok Ok").count() > 3, "{printed:?}");
    let message = format!("cannot write {}: File too large (os error 27)", place.file("grants.redb").display());
    assert_eq!(*last, ["Full Full".to_owned(), message, format!("Full access-{}", "first".repeat(10))]);
    // With room again all that was saved is there.
    let store = place.open();
    assert_eq!(store.list().unwrap().len(), each.len() + 1);
    let refreshing = GrantState::Refreshing { since: SystemTime::UNIX_EPOCH };
    assert_same(store.load(&key(0)).unwrap().as_ref(), &GrantRecord { state: refreshing, ..record(0, &"first".repeat(10)) });
    store.check_room().unwrap();
    store.save(&record(0, &"y".repeat(30_000))).unwrap();
}

#[test]
fn where_nothing_can_be_written_the_grants_are_read_and_a_refresh_can_know_beforehand() {
    let place = Place::new();
    place.open().save(&record(0, "token")).unwrap();
    let mut command = child("child::opens_grants_where_nothing_can_be_written", &place, "");
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere.
        for name in place.names() {
            std::os::unix::fs::chown(place.file(&name), Some(STRANGER), None).unwrap();
        }
        std::os::unix::fs::chown(place.state(), Some(STRANGER), None).unwrap();
        fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
        command.uid(STRANGER);
    }
    fs::set_permissions(place.state(), Permissions::from_mode(0o500)).unwrap();
    let mut child = command.spawn().unwrap();
    let printed: Vec<String> = answers(&mut child, "ANSWER ").collect();
    assert!(child.wait().unwrap().success(), "{printed:?}");
    fs::set_permissions(place.state(), Permissions::from_mode(0o700)).unwrap();
    let message = format!("cannot save {}: Permission denied (os error 13)", place.file("grants-head").display());
    assert_eq!(printed, ["ReadOnly", "access-token", &message, "ReadOnly"]);
}

#[test]
fn a_store_whose_file_may_only_be_read_is_read_and_takes_grants_again_when_it_may_be_written() {
    let place = Place::new();
    place.open().save(&record(0, "token")).unwrap();
    let mut command = child("child::opens_grants_that_may_only_be_read", &place, "");
    for name in place.names() {
        fs::set_permissions(place.file(&name), Permissions::from_mode(0o400)).unwrap();
    }
    fs::set_permissions(place.state(), Permissions::from_mode(0o500)).unwrap();
    if rustix::process::geteuid().is_root() {
        for path in place.names().iter().map(|name| place.file(name)).chain([place.state()]) {
            std::os::unix::fs::chown(path, Some(STRANGER), None).unwrap();
        }
        fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
        command.uid(STRANGER);
    }
    let mut child = command.spawn().unwrap();
    let printed: Vec<String> = answers(&mut child, "ANSWER ").collect();
    assert!(child.wait().unwrap().success(), "{printed:?}");
    let why = format!("cannot open {}: Permission denied (os error 13)", place.file("grants.redb").display());
    let problem = format!("sign-ins are read, and new ones are not kept: {why}");
    assert_eq!(printed, [problem.as_str(), "ReadOnly", "access-token", &why, "Ok", "0 problems"]);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(place.state(), Some(0), None).unwrap();
    }
    assert_same(place.open().load(&key(0)).unwrap().as_ref(), &record(0, "another"));
}
