//! What becomes of a store that somebody or something else has written to.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use redb::ReadableTable as _;
use scm_agent::store::GrantStore;

use super::{Place, assert_same, key, open, record};

const GRANTS: redb::TableDefinition<'_, [u8; 32], &[u8]> = redb::TableDefinition::new("grants");
const LOST: &str = "the users whose grants were in it have to sign in again";

/// The rows of a closed store.
fn rows(place: &Place) -> Vec<([u8; 32], Vec<u8>)> {
    let database = redb::Database::open(place.file("grants.redb")).unwrap();
    let table = database.begin_read().unwrap().open_table(GRANTS).unwrap();
    table.iter().unwrap().map(|row| row.map(|(id, row)| (id.value(), row.value().to_vec())).unwrap()).collect()
}

/// Writes rows into a closed store as somebody could who knows redb.
fn write(place: &Place, rows: &[([u8; 32], Option<&[u8]>)]) {
    let database = redb::Database::open(place.file("grants.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    for (id, row) in rows {
        let mut table = transaction.open_table(GRANTS).unwrap();
        match row {
            Some(row) => drop(table.insert(id, *row).unwrap()),
            None => drop(table.remove(id).unwrap()),
        }
    }
    transaction.commit().unwrap();
}

/// A closed store with grants of the users 1 to 3.
fn three() -> Place {
    let place = Place::new();
    let store = place.open();
    for uid in 1..=3 {
        store.save(&record(uid, &format!("token-{uid}"))).unwrap();
    }
    place
}

fn dropped(number: usize) -> [String; 1] {
    [format!(
        "{number} of the grants in grants.redb were damaged, missing or put there from elsewhere, and are dropped: \
         their users have to sign in again"
    )]
}

#[test]
fn a_flipped_bit_anywhere_gives_the_grants_or_sets_them_aside_and_never_a_wrong_one() {
    let original = Place::new();
    let store = original.open();
    let expected = [record(1, "first"), record(2, "second")];
    store.save(&record(1, "old")).unwrap();
    for record in &expected {
        store.save(record).unwrap();
    }
    drop(store);
    let content = fs::read(original.file("grants.redb")).unwrap();
    // Every byte of the header, as many of those that say something as time allows, and some others, which are 0 or 255.
    let says_something = |index: &usize| !matches!(content[*index], 0 | 0xff);
    let step = (0..content.len()).filter(says_something).count().div_ceil(600);
    let mut places: Vec<usize> = (0..320).chain((320..content.len()).filter(says_something).step_by(step)).collect();
    places.extend((320..content.len()).step_by(8009));
    let (whole, aside) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for part in places.chunks(places.len().div_ceil(2)) {
            let (original, content, expected, whole, aside) = (&original, &content, &expected, &whole, &aside);
            scope.spawn(move || {
                let place = Place::new();
                drop(place.open());
                for index in part {
                    for name in ["grants-key", "grants-head"] {
                        fs::copy(original.file(name), place.file(name)).unwrap();
                    }
                    let mut changed = content.clone();
                    changed[*index] ^= 1 << (index % 8);
                    fs::write(place.file("grants.redb"), changed).unwrap();
                    let store = open(&place.state()).unwrap_or_else(|error| panic!("byte {index}: {error}"));
                    let there = |expected: &&scm_agent::store::GrantRecord| {
                        let found = store.load(&expected.key).unwrap();
                        found.inspect(|found| assert_same(Some(found), expected)).is_some()
                    };
                    let found = expected.iter().filter(there).count();
                    assert_eq!(store.list().unwrap().len(), found);
                    let told = store.problems();
                    assert_eq!(found == 2, told.is_empty(), "byte {index}: {found} grants, {told:?}");
                    if found == 2 { whole } else { aside }.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (whole, aside) = (whole.into_inner(), aside.into_inner());
    assert!(whole + aside == places.len() && whole > 100 && aside > 100, "{whole} whole, {aside} set aside");
}

#[test]
fn a_database_that_ends_early_or_is_something_else_is_set_aside() {
    let place = three();
    let content = fs::read(place.file("grants.redb")).unwrap();
    let head = fs::read(place.file("grants-head")).unwrap();
    for length in [1, 9, 64, 320, 4095, 4096, 8192, content.len() / 2, content.len() - 4096, content.len() - 1] {
        fs::write(place.file("grants.redb"), &content[..length]).unwrap();
        fs::write(place.file("grants-head"), &head).unwrap();
        let (store, problems) = place.open_damaged();
        let found = (1..=3).filter(|uid| store.load(&key(*uid)).unwrap().is_some()).count();
        assert!(found == 3 && problems.is_empty() || found == 0 && problems.len() == 1, "{length}: {found} {problems:?}");
    }
    for other in [b"SQLite format 3\0".repeat(1000), vec![0; 1 << 20], vec![0xff; 1 << 16]] {
        fs::write(place.file("grants.redb"), other).unwrap();
        let (store, problems) = place.open_damaged();
        assert!(store.list().unwrap().is_empty());
        assert!(problems[0].starts_with("grants.redb is damaged: ") && problems.len() == 1, "{problems:?}");
    }
}

#[test]
fn swapped_grants_are_dropped_and_the_others_stay() {
    let place = three();
    let rows = rows(&place);
    write(&place, &[(rows[0].0, Some(&rows[1].1)), (rows[1].0, Some(&rows[0].1))]);
    let (store, problems) = place.open_damaged();
    assert_eq!(problems, dropped(2));
    let left = store.list().unwrap();
    assert_eq!(left.len(), 1);
    let uid = left[0].key.uid;
    assert_same(store.load(&key(uid)).unwrap().as_ref(), &record(uid, &format!("token-{uid}")));
    store.save(&record(9, "next")).unwrap();
    drop(store);
    assert_eq!(place.open().list().unwrap().len(), 2);
}

#[test]
fn an_older_record_in_its_own_place_is_dropped() {
    let place = three();
    let before = rows(&place);
    place.open().save(&record(2, "token-2-refreshed")).unwrap();
    let after = rows(&place);
    let changed: Vec<_> = before.iter().filter(|row| !after.contains(row)).collect();
    assert_eq!(changed.len(), 1);
    write(&place, &[(changed[0].0, Some(&changed[0].1))]);
    let (store, problems) = place.open_damaged();
    assert_eq!(problems, dropped(1));
    assert!(store.load(&key(2)).unwrap().is_none());
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn records_that_were_taken_away_added_or_made_too_large_are_told_of() {
    let place = three();
    let rows = rows(&place);
    write(&place, &[(rows[0].0, None)]);
    let (store, problems) = place.open_damaged();
    assert_eq!((problems.as_slice(), store.list().unwrap().len()), (dropped(1).as_slice(), 2));
    drop(store);
    write(&place, &[([7; 32], Some(&rows[0].1)), (rows[1].0, Some(&vec![1; 100_000]))]);
    let (store, problems) = place.open_damaged();
    assert_eq!((problems.as_slice(), store.list().unwrap().len()), (dropped(2).as_slice(), 1));
    drop(store);
    place.open();
}

#[test]
fn a_database_that_was_put_back_alone_is_set_aside_even_by_one_save() {
    let place = three();
    for saves in [1, 2, 10] {
        let old = fs::read(place.file("grants.redb")).unwrap();
        let store = place.open();
        for number in 0..saves {
            store.save(&record(2, &format!("newer-{number}"))).unwrap();
        }
        drop(store);
        fs::write(place.file("grants.redb"), old).unwrap();
        let (store, problems) = place.open_damaged();
        let expected = format!("grants.redb is older than what was last saved to it; it was set aside as grants.redb.damaged-1: {LOST}");
        assert_eq!(problems, [expected]);
        assert!(store.list().unwrap().is_empty());
        store.save(&record(2, "signed-in-again")).unwrap();
        drop(store);
        // What was set aside is older than the new one too.
        fs::copy(place.file("grants.redb.damaged-1"), place.file("grants.redb")).unwrap();
        assert_eq!(place.open_damaged().1.len(), 1);
        place.open().save(&record(2, "once-more")).unwrap();
    }
}

#[test]
fn a_head_that_was_put_back_or_lost_or_damaged_is_told_of_and_no_grant_is_lost() {
    let place = three();
    let old = fs::read(place.file("grants-head")).unwrap();
    let store = place.open();
    store.save(&record(2, "newer")).unwrap();
    store.save(&record(2, "newest")).unwrap();
    drop(store);
    let newest = || assert_same(place.open().load(&key(2)).unwrap().as_ref(), &record(2, "newest"));
    fs::write(place.file("grants-head"), &old).unwrap();
    let cannot_tell = "whether grants.redb is the newest cannot be told";
    assert_eq!(place.open_damaged().1, [format!("grants-head is older than the grants: {cannot_tell}")]);
    newest();
    fs::remove_file(place.file("grants-head")).unwrap();
    assert_eq!(place.open_damaged().1, [format!("grants-head is missing: {cannot_tell}")]);
    newest();
    fs::write(place.file("grants-head"), "nonsense").unwrap();
    let damaged = "grants-head is damaged: it is not what an agent sealed under this name; it was set aside as grants-head.damaged-1";
    assert_eq!(place.open_damaged().1, [format!("{damaged}: {cannot_tell}")]);
    newest();
}

#[test]
fn a_database_that_is_gone_is_told_of() {
    let place = three();
    fs::remove_file(place.file("grants.redb")).unwrap();
    assert_eq!(place.open_damaged().1, [format!("grants.redb is gone: {LOST}")]);
    place.open().save(&record(1, "again")).unwrap();
    assert_same(place.open().load(&key(1)).unwrap().as_ref(), &record(1, "again"));
}

#[test]
fn both_put_back_together_pass_for_the_newest_and_give_only_what_was_saved_then() {
    let place = three();
    let old = ["grants.redb", "grants-head"].map(|name| (name, fs::read(place.file(name)).unwrap()));
    place.open().save(&record(2, "newer")).unwrap();
    for (name, content) in &old {
        fs::write(place.file(name), content).unwrap();
    }
    // The limit that the documentation of the store names.
    assert_same(place.open().load(&key(2)).unwrap().as_ref(), &record(2, "token-2"));
}

#[test]
fn a_key_that_is_lost_or_damaged_or_another_ones_costs_the_grants_and_says_so() {
    let damages: [&dyn Fn(&Place); 3] = [
        &|place| fs::remove_file(place.file("grants-key")).unwrap(),
        &|place| fs::write(place.file("grants-key"), "nonsense").unwrap(),
        &|place| {
            let other = three();
            fs::copy(other.file("grants-key"), place.file("grants-key")).unwrap();
        },
    ];
    for damage in damages {
        let place = three();
        damage(&place);
        let (store, problems) = place.open_damaged();
        assert!(store.list().unwrap().is_empty());
        assert!(problems.iter().any(|problem| problem.contains("it was set aside as grants.redb.damaged-1")), "{problems:?}");
        store.save(&record(1, "again")).unwrap();
        drop(store);
        assert_same(place.open().load(&key(1)).unwrap().as_ref(), &record(1, "again"));
    }
}
