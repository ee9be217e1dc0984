//! The file store's files: who can read them, which keys open them, what is in the way.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use scm_agent::state::{Error, StateDir};
use scm_agent::store::{FileStore, GrantState, GrantStore, StoreErrorKind};

use super::{Place, assert_same, key, record};
use crate::state::keys;

#[test]
fn the_next_daemon_finds_what_this_one_saved_and_nobody_else_may_look() {
    let place = Place::new();
    let store = place.open();
    for uid in 0..20 {
        store.save(&record(uid, &"t".repeat(100 * uid as usize))).unwrap();
    }
    store.mark(&key(3), GrantState::Refreshing { since: SystemTime::UNIX_EPOCH }).unwrap();
    store.remove(&key(4)).unwrap();
    let listed = store.list().unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(store.list().unwrap(), listed);
    assert_eq!(listed.len(), 19);
    assert_same(store.load(&key(19)).unwrap().as_ref(), &record(19, &"t".repeat(1900)));
    assert_eq!(store.load(&key(3)).unwrap().unwrap().state, GrantState::Refreshing { since: SystemTime::UNIX_EPOCH });
    assert_eq!(place.names(), ["daemon.lock", "grants-head", "grants-key", "grants.redb", "lock"]);
    for name in place.names() {
        let mode = fs::metadata(place.file(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
}

#[test]
fn a_second_store_in_the_same_directory_is_impossible() {
    let place = Place::new();
    let store = place.open();
    assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })));
    drop(store);
    place.open();
}

#[test]
fn no_file_shows_a_token_or_whose_it_is() {
    let place = Place::new();
    let store = place.open();
    for round in 0..3 {
        for uid in 0..5 {
            store.save(&record(uid, &format!("canary-token-{round}"))).unwrap();
        }
        store.mark(&key(0), GrantState::NeedsLogin { since: SystemTime::UNIX_EPOCH, reason: "canary-reason".into() }).unwrap();
        store.check_room().unwrap();
    }
    let files: Vec<Vec<u8>> = place.names().iter().map(|name| fs::read(place.file(name)).unwrap()).collect();
    let held = |needle: &[u8]| files.iter().any(|file| memchr::memmem::find(file, needle).is_some());
    for text in ["canary-token", "access-canary", "refresh canary", "canary-reason", "git.example.com", "8d1f9b1e", "mail.example.org"] {
        let mut needles = vec![text.as_bytes().to_vec()];
        needles.push(text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes());
        // At each of the three places in a group of base64, without the characters that its neighbours share.
        for skipped in 0..3 {
            let whole = &text.as_bytes()[skipped..skipped + (text.len() - skipped) / 3 * 3];
            needles.extend([BASE64_STANDARD.encode(whole), BASE64_URL_SAFE.encode(whole)].map(String::into_bytes));
        }
        for needle in needles {
            assert!(needle.len() >= 8 && !held(&needle), "{}", String::from_utf8_lossy(&needle));
        }
    }
    assert!(held(b"scm-agent-state"), "the search finds what is there");
}

#[test]
fn after_a_rotation_the_new_key_alone_opens_the_store() {
    let place = Place::new();
    let with = |ring: &[u8]| FileStore::open(&StateDir::open(&place.state()).unwrap(), keys(ring)).unwrap();
    let store = with(&[1]);
    store.save(&record(1, "token")).unwrap();
    store.reseal(keys(&[2, 1])).unwrap();
    store.save(&record(2, "later")).unwrap();
    // Without a key nothing is sealed, and nothing is lost.
    assert_eq!(store.reseal(keys(&[])).unwrap_err().kind, StoreErrorKind::Other);
    drop(store);
    let store = with(&[2]);
    assert_eq!(store.problems(), Vec::<String>::new());
    assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "token"));
    assert_same(store.load(&key(2)).unwrap().as_ref(), &record(2, "later"));
    drop(store);
    // The key before it does not.
    let store = with(&[1]);
    assert!(store.load(&key(1)).unwrap().is_none());
    assert_eq!(store.problems().len(), 2, "{:?}", store.problems());
}

#[test]
fn keys_that_are_changed_between_two_starts_are_rotated_whichever_comes_first() {
    for ring in [[2, 1], [1, 2]] {
        let place = Place::new();
        let with = |ring: &[u8]| FileStore::open(&StateDir::open(&place.state()).unwrap(), keys(ring)).unwrap();
        with(&[1]).save(&record(1, "token")).unwrap();
        drop(with(&ring));
        let store = with(&[2]);
        assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "token"));
        assert_eq!(store.problems(), Vec::<String>::new());
        drop(store);
        // The key that was taken away opens no file that is there.
        assert_eq!(place.names(), ["daemon.lock", "grants-head", "grants-key", "grants.redb", "lock"]);
        assert!(with(&[1]).load(&key(1)).unwrap().is_none());
    }
}

#[test]
fn files_that_are_removed_under_the_daemon_or_between_two_starts_are_missed() {
    let place = Place::new();
    let store = place.open();
    store.save(&record(1, "token")).unwrap();
    fs::remove_file(place.file("grants.redb")).unwrap();
    let error = store.save(&record(2, "later")).unwrap_err();
    assert!(error.message.ends_with("was removed under the daemon, which has to be restarted"), "{error}");
    assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "token"));
    drop(store);
    fs::remove_file(place.file("grants-key")).unwrap();
    let problems = FileStore::open(&StateDir::open(&place.state()).unwrap(), keys(&[1])).unwrap().problems();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.contains("grants.redb was written and is gone") && problem.contains("have to sign in again"), "{problem}");
}

#[test]
fn what_a_key_that_is_not_loaded_sealed_is_set_aside_and_can_be_put_back() {
    let place = Place::new();
    let with = |ring: &[u8]| FileStore::open(&StateDir::open(&place.state()).unwrap(), keys(ring));
    with(&[1]).unwrap().save(&record(1, "token")).unwrap();
    let error = with(&[]).unwrap_err();
    assert_eq!(error.message, format!("cannot open {} without a runner key", place.file("grants.redb").display()));
    let store = with(&[2]).unwrap();
    let state = format!("{}/", place.state().display());
    let problems: Vec<String> = store.problems().iter().map(|problem| problem.replace(&state, "")).collect();
    assert_eq!(
        problems,
        [
            "grants-key was sealed with a runner key that is not loaded; it was set aside as grants-key.damaged-1",
            "grants.redb cannot be opened without the key that was in grants-key; it was set aside as grants.redb.damaged-1: \
             the users whose grants were in it have to sign in again",
        ]
    );
    assert!(store.list().unwrap().is_empty());
    store.save(&record(2, "new")).unwrap();
    drop(store);
    // It is said until the next start.
    assert_eq!(with(&[2]).unwrap().problems(), Vec::<String>::new());
    for name in ["grants-key", "grants-head", "grants.redb"] {
        fs::rename(place.file(&format!("{name}.damaged-1")), place.file(name)).unwrap();
    }
    assert_same(place.open().load(&key(1)).unwrap().as_ref(), &record(1, "token"));
}

#[test]
fn what_is_no_regular_file_is_set_aside_without_waiting_for_it() {
    let place = Place::new();
    drop(place.open());
    fs::write(place.0.path().join("elsewhere"), "precious").unwrap();
    let make: [&dyn Fn(&Path); 5] = [
        &|path| symlink("../elsewhere", path).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
        &|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
        &|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        &|path| fs::write(path, "").unwrap(),
    ];
    let lost = "grants.redb is damaged: it is not what an agent wrote; it was set aside as grants.redb.damaged-1: \
                the users whose grants were in it have to sign in again";
    for make in make {
        fs::remove_file(place.file("grants.redb")).unwrap();
        make(&place.file("grants.redb"));
        let (store, problems) = place.open_damaged();
        assert_eq!(problems, [lost]);
        store.save(&record(1, "token")).unwrap();
        drop(store);
        assert_same(place.open().load(&key(1)).unwrap().as_ref(), &record(1, "token"));
        let aside = place.file("grants.redb.damaged-1");
        if fs::remove_file(&aside).is_err() {
            fs::remove_dir(&aside).unwrap();
        }
    }
    assert_eq!(fs::read(place.0.path().join("elsewhere")).unwrap(), b"precious");
}
