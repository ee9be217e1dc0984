//! What every kind of store does.

use std::time::{Duration, SystemTime};

use scm_agent::secret::AccessToken;
use scm_agent::store::{GrantKey, GrantRecord, GrantState, GrantStore, MAX_GRANTS, MemoryStore, Origin, StoreErrorKind};

use super::{Place, assert_same, key, record};
use crate::state::keys;

/// Runs the test with a store of each kind.
fn each(test: impl Fn(&dyn GrantStore)) {
    test(&MemoryStore::new());
    let place = Place::new();
    test(&place.open());
}

#[test]
fn a_new_store_is_empty_and_says_what_it_is() {
    assert_eq!(MemoryStore::new().kind(), "memory");
    assert_eq!(Place::new().open().kind(), "file");
    each(|store| {
        assert!(store.list().unwrap().is_empty() && store.problems().is_empty());
        assert!(store.load(&key(1)).unwrap().is_none());
        assert!(!store.remove(&key(1)).unwrap());
        assert!(!store.mark(&key(1), GrantState::Active).unwrap());
        store.check_room().unwrap();
        assert!(store.list().unwrap().is_empty());
    });
}

#[test]
fn what_is_saved_is_loaded_whole_and_replaced_whole() {
    each(|store| {
        let first = record(1, "first");
        store.save(&first).unwrap();
        assert_same(store.load(&key(1)).unwrap().as_ref(), &first);
        let second = GrantRecord {
            refresh_token: None,
            expires_at: None,
            refresh_expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5)),
            scopes: Vec::new(),
            host: "other.example.com".into(),
            binding: [3; 32],
            ..record(1, "second_and_longer")
        };
        store.save(&second).unwrap();
        assert_same(store.load(&key(1)).unwrap().as_ref(), &second);
        assert_eq!(store.list().unwrap(), [second.summary()]);
    });
}

#[test]
fn grants_differ_by_user_integration_and_account() {
    each(|store| {
        let others = [
            GrantKey { origin: Origin::Pat, ..key(1) },
            GrantKey { uid: 2, ..key(1) },
            GrantKey { integration_id: "another".into(), ..key(1) },
            GrantKey { account: String::new(), ..key(1) },
            // Not the same as another, although their texts run together the same way.
            GrantKey { integration_id: "8d1f9b1ez".into(), account: "oë@mail.example.org".into(), ..key(1) },
        ];
        store.save(&record(1, "mine")).unwrap();
        for (number, key) in others.iter().enumerate() {
            assert!(store.load(key).unwrap().is_none());
            store.save(&GrantRecord { key: key.clone(), ..record(1, &number.to_string()) }).unwrap();
        }
        assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "mine"));
        for (number, key) in others.iter().enumerate() {
            let found = store.load(key).unwrap().unwrap();
            assert_eq!((&found.key, found.access_token.expose_secret()), (key, format!("access-{number}").as_str()));
        }
        let listed: Vec<GrantKey> = store.list().unwrap().into_iter().map(|summary| summary.key).collect();
        let mut sorted = listed.clone();
        sorted.sort();
        assert_eq!((listed.len(), &listed), (6, &sorted));
        assert!(store.remove(&others[0]).unwrap() && !store.remove(&others[0]).unwrap());
        assert!(store.load(&others[0]).unwrap().is_none());
        assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "mine"));
        assert_eq!(store.list().unwrap().len(), 5);
    });
}

#[test]
fn marking_changes_the_state_and_nothing_else() {
    each(|store| {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        store.save(&record(1, "token")).unwrap();
        store.save(&record(2, "other")).unwrap();
        for state in [GrantState::Refreshing { since }, GrantState::NeedsLogin { since, reason: "revoked".into() }, GrantState::Active] {
            assert!(store.mark(&key(1), state.clone()).unwrap());
            let expected = GrantRecord { state: state.clone(), ..record(1, "token") };
            assert_same(store.load(&key(1)).unwrap().as_ref(), &expected);
            assert_eq!(store.list().unwrap()[0].state, state);
            assert_same(store.load(&key(2)).unwrap().as_ref(), &record(2, "other"));
        }
    });
}

#[test]
fn a_grant_that_is_too_large_is_refused_and_the_old_one_stays() {
    each(|store| {
        store.save(&record(1, "old")).unwrap();
        let error = store.save(&record(1, &"x".repeat(33_000))).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other);
        assert_eq!(error.to_string(), "the grant for git.example.com is larger than the 65536 bytes that one may have");
        let state = GrantState::NeedsLogin { since: SystemTime::UNIX_EPOCH, reason: "r".repeat(70_000) };
        assert!(store.mark(&key(1), state).is_err());
        assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "old"));
        store.save(&record(1, &"x".repeat(32_000))).unwrap();
    });
}

#[test]
fn a_store_with_as_many_grants_as_it_takes_changes_them_and_takes_no_other() {
    let store = MemoryStore::new();
    for uid in 0..u32::try_from(MAX_GRANTS).unwrap() {
        store.save(&record(uid, "token")).unwrap();
    }
    let error = store.save(&record(u32::MAX, "one-more")).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (StoreErrorKind::Full, "the store holds 10000 grants, the most that it takes"));
    store.save(&record(5, "changed")).unwrap();
    assert_same(store.load(&key(5)).unwrap().as_ref(), &record(5, "changed"));
    assert!(store.remove(&key(6)).unwrap());
    store.save(&record(u32::MAX, "one-more")).unwrap();
}

#[test]
fn the_largest_grants_fill_a_store_before_that() {
    let store = MemoryStore::new();
    let largest = |uid| record(uid, &"x".repeat(32_500));
    let taken = (0..2000).take_while(|uid| store.save(&largest(*uid)).is_ok()).count();
    assert!((1024..1100).contains(&taken), "{taken}");
    assert_eq!(store.save(&largest(u32::MAX)).unwrap_err().kind, StoreErrorKind::Full);
    store.save(&largest(5)).unwrap();
}

#[test]
fn saves_from_several_threads_leave_one_whole_grant_for_each_key() {
    each(|store| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for number in 0..5 {
                        store.save(&record(7, &format!("{thread}-{number}"))).unwrap();
                        store.save(&record(thread, &number.to_string())).unwrap();
                        let found = store.load(&key(7)).unwrap().unwrap();
                        let refresh = found.refresh_token.unwrap();
                        let (access, refresh) = (found.access_token.expose_secret(), refresh.expose_secret());
                        assert_eq!(access.strip_prefix("access-"), refresh.strip_prefix("refresh "));
                    }
                });
            }
        });
        for thread in 0..4 {
            assert_same(store.load(&key(thread)).unwrap().as_ref(), &record(thread, "4"));
        }
        assert_eq!(store.list().unwrap().len(), 5);
    });
}

#[test]
fn resealing_changes_nothing_that_is_held() {
    each(|store| {
        store.save(&record(1, "token")).unwrap();
        store.reseal(keys(&[2, 1])).unwrap();
        assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "token"));
        store.save(&record(1, "next")).unwrap();
        assert_same(store.load(&key(1)).unwrap().as_ref(), &record(1, "next"));
    });
}

#[test]
fn no_debug_output_shows_a_token() {
    each(|store| {
        let canary = GrantRecord { access_token: AccessToken::parse(b"canary".to_vec().into()).unwrap(), ..record(1, "canary") };
        store.save(&canary).unwrap();
        for shown in [format!("{store:?}"), format!("{canary:?}"), format!("{:?}", store.list())] {
            assert!(!shown.contains("canary"), "{shown}");
        }
    });
}
