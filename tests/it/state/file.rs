//! Sealed files: what opens them, what is refused, what is set aside.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use scm_agent::error::Error as Report;
use scm_agent::key::{Config, KeyRing, OaepHash, RunnerPrivateKey};
use scm_agent::state::{Error, FORMAT, LoadError, MAX_PLAINTEXT_BYTES, SealedFile, StateKeys};

use super::{Place, keys, mode};

fn content(file: &SealedFile, keys: &StateKeys) -> Option<Vec<u8>> {
    file.load(keys).unwrap().map(|content| content.to_vec())
}

/// The bytes of a runner key in the fixtures.
fn runner_key(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/key/good").join(name)).unwrap()
}

#[test]
fn what_is_saved_is_loaded_again_by_the_next_daemon() {
    let place = Place::new();
    let directory = place.open();
    assert_eq!(content(&directory.file("list"), &keys(&[1])), None);
    directory.file("list").save(&keys(&[1]), b"the list").unwrap();
    directory.file("pins").save(&keys(&[1]), b"").unwrap();
    drop(directory);
    let directory = place.open();
    assert_eq!(content(&directory.file("list"), &keys(&[1])).unwrap(), b"the list");
    assert_eq!(content(&directory.file("pins"), &keys(&[1])).unwrap(), b"");
    directory.file("list").save(&keys(&[1]), b"a newer one").unwrap();
    assert_eq!(content(&directory.file("list"), &keys(&[1])).unwrap(), b"a newer one");
    assert_eq!(place.names(), ["daemon.lock", "list", "lock", "pins"]);
    assert_eq!(mode(&place.state().join("list")), 0o600);
    assert_eq!(directory.file("list").path(), place.state().join("list"));
}

#[test]
fn damage_is_told_whatever_byte_it_is_in_and_wherever_the_file_ends() {
    let place = Place::new();
    let file = place.open().file("list");
    file.save(&keys(&[1]), b"canary in a file").unwrap();
    let sealed = fs::read(file.path()).unwrap();
    let writer = usize::from(sealed[16]);
    let key_id = 17 + writer..25 + writer;
    let refused = |bytes: &[u8]| {
        fs::write(file.path(), bytes).unwrap();
        let error = file.load(&keys(&[1])).unwrap_err();
        let report = Report::from(error).report();
        assert!(report.contains(file.path().to_str().unwrap()) && report.contains("\nhint: ") && !report.contains("canary"), "{report}");
        file.load(&keys(&[1])).unwrap_err()
    };
    for index in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[index] ^= 0x55;
        match refused(&changed) {
            LoadError::Newer { written, .. } => assert_eq!((index, written.format), (15, FORMAT ^ 0x55)),
            LoadError::UnknownKey { .. } => assert!(key_id.contains(&index), "{index}"),
            LoadError::Damaged { .. } => assert!(index != 15 && !key_id.contains(&index), "{index}"),
            other => panic!("{index}: {other}"),
        }
        assert!(matches!(refused(&sealed[..index]), LoadError::Damaged { .. }), "cut to {index}");
    }
    assert!(matches!(refused(&[&sealed[..], b"\n"].concat()), LoadError::Damaged { .. }));
    fs::write(file.path(), &sealed).unwrap();
    assert_eq!(content(&file, &keys(&[1])).unwrap(), b"canary in a file");
}

#[test]
fn a_file_in_another_ones_place_is_refused() {
    let place = Place::new();
    let directory = place.open();
    let (list, pins) = (directory.file("list"), directory.file("pins"));
    list.save(&keys(&[1]), b"list").unwrap();
    pins.save(&keys(&[1]), b"pins").unwrap();
    fs::rename(list.path(), place.state().join("between")).unwrap();
    fs::rename(pins.path(), list.path()).unwrap();
    fs::rename(place.state().join("between"), pins.path()).unwrap();
    for file in [list, pins] {
        assert!(matches!(file.load(&keys(&[1])), Err(LoadError::Damaged { .. })));
    }
}

#[test]
fn the_newest_key_seals_and_each_one_opens() {
    let place = Place::new();
    let file = place.open().file("list");
    file.save(&keys(&[1]), b"content").unwrap();
    for ring in [&[1_u8][..], &[2, 1], &[1, 2]] {
        assert_eq!(content(&file, &keys(ring)).unwrap(), b"content");
    }
    assert!(matches!(file.load(&keys(&[2])), Err(LoadError::UnknownKey { path }) if path == file.path()));
    // A rotation: opened with the old key, sealed anew with the new one, and then the old one may go.
    let kept = content(&file, &keys(&[2, 1])).unwrap();
    file.save(&keys(&[2, 1]), kept.as_slice()).unwrap();
    assert_eq!(content(&file, &keys(&[2])).unwrap(), b"content");
    assert!(matches!(file.load(&keys(&[1])), Err(LoadError::UnknownKey { .. })));
    // Without a key nothing is written, and nothing that is there is lost.
    assert!(matches!(file.save(&keys(&[]), b"clear"), Err(Error::NoKey { .. })));
    assert!(matches!(file.load(&keys(&[])), Err(LoadError::UnknownKey { .. })));
    assert_eq!(content(&file, &keys(&[2])).unwrap(), b"content");
}

#[test]
fn every_form_of_a_runner_key_opens_what_another_program_sealed_for_it() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let place = Place::new();
    let file = place.open().file("list");
    let mut forms = 0;
    for (name, suffix) in ["rsa-2048", "rsa-3072", "x25519"].into_iter().flat_map(|name| [(name, "sealed"), (name, "v2.sealed")]) {
        let sealed = fs::read(fixtures.join(format!("state/{name}.{suffix}"))).unwrap();
        fs::write(file.path(), sealed).unwrap();
        let named = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with(name);
        for path in fs::read_dir(fixtures.join("key/good")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| named(path)) {
            if path.extension().unwrap() == "fingerprint" {
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let key = RunnerPrivateKey::parse(&bytes, Some(b"correct horse"), OaepHash::default()).unwrap();
            let keys = StateKeys::new(vec![key.state_key()]);
            assert_eq!(content(&file, &keys).unwrap(), b"sealed by pyca/cryptography", "{}", path.display());
            forms += 1;
        }
    }
    assert!(forms >= 40, "{forms}");
}

#[test]
fn a_ring_of_runner_keys_gives_a_state_key_for_each_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["x25519.pem", "rsa-2048.pem", "rsa-2048.der"].map(|name| {
        let path = folder.path().join(name);
        fs::write(&path, runner_key(name)).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    });
    let ring = KeyRing::load(&Config { files: files.into(), allow_development_key: true, ..Config::default() }).unwrap();
    let keys = ring.state_keys();
    let of = |name: &str| RunnerPrivateKey::parse(&runner_key(name), None, OaepHash::default()).unwrap().state_key();
    // The same key in a second file counts once.
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0].expose_secret(), of("x25519.pem").expose_secret());
    assert_eq!(keys[1].expose_secret(), of("rsa-2048.pem").expose_secret());
    assert_ne!(keys[0].expose_secret(), keys[1].expose_secret());
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_it_and_can_be_set_aside() {
    let place = Place::new();
    let file = place.open().file("list");
    fs::write(place.0.path().join("elsewhere"), "precious").unwrap();
    let make: [&dyn Fn(&Path); 4] = [
        &|path| symlink("../elsewhere", path).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
        &|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
        &|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
    ];
    for make in make {
        make(&file.path());
        assert!(matches!(file.load(&keys(&[1])), Err(LoadError::Damaged { .. })));
        file.set_aside().unwrap();
        assert_eq!(content(&file, &keys(&[1])), None);
        file.save(&keys(&[1]), b"content").unwrap();
        assert_eq!(content(&file, &keys(&[1])).unwrap(), b"content");
        fs::remove_file(file.path()).unwrap();
        let aside = place.state().join("list.damaged-1");
        if fs::remove_file(&aside).is_err() {
            fs::remove_dir(&aside).unwrap();
        }
    }
    // Saving takes a link's place instead of following it.
    symlink("../elsewhere", file.path()).unwrap();
    file.save(&keys(&[1]), b"content").unwrap();
    assert_eq!(fs::read(place.0.path().join("elsewhere")).unwrap(), b"precious");
}

#[test]
fn the_last_three_that_were_set_aside_are_kept_the_newest_as_number_one() {
    let place = Place::new();
    let file = place.open().file("list");
    assert!(matches!(file.set_aside(), Err(Error::System { action: "set aside", .. })));
    for number in 1..=5 {
        fs::write(file.path(), format!("damage {number}")).unwrap();
        assert_eq!(file.set_aside().unwrap(), place.state().join("list.damaged-1"));
        assert!(!file.path().exists());
        for (place_of, damage) in [(1, number), (2, number - 1), (3, number - 2)] {
            let kept = fs::read_to_string(place.state().join(format!("list.damaged-{place_of}"))).ok();
            assert_eq!(kept, (damage > 0).then(|| format!("damage {damage}")));
        }
    }
    assert_eq!(place.names(), ["daemon.lock", "list.damaged-1", "list.damaged-2", "list.damaged-3", "lock"]);
    // With a gap, only what is before it moves.
    fs::remove_file(place.state().join("list.damaged-2")).unwrap();
    fs::write(file.path(), "damage 6").unwrap();
    file.set_aside().unwrap();
    let kept = |number| fs::read_to_string(place.state().join(format!("list.damaged-{number}"))).unwrap();
    assert_eq!([kept(1), kept(2), kept(3)], ["damage 6", "damage 5", "damage 3"]);
    // Nothing to set aside moves nothing.
    assert!(file.set_aside().is_err());
    assert_eq!([kept(1), kept(2), kept(3)], ["damage 6", "damage 5", "damage 3"]);
}

#[test]
fn files_that_are_too_large_are_neither_saved_nor_read() {
    let place = Place::new();
    let file = place.open().file("list");
    file.save(&keys(&[1]), b"content").unwrap();
    let too_large = vec![0; MAX_PLAINTEXT_BYTES + 1];
    assert!(matches!(file.save(&keys(&[1]), too_large.as_slice()), Err(Error::TooLarge { limit: MAX_PLAINTEXT_BYTES, .. })));
    assert_eq!(content(&file, &keys(&[1])).unwrap(), b"content");
    // A file of holes takes no space, and would take all memory.
    fs::File::create(file.path()).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(file.load(&keys(&[1])), Err(LoadError::TooLarge { .. })));
}

#[test]
fn saves_from_several_threads_leave_one_of_their_contents() {
    let place = Place::new();
    let file = place.open().file("list");
    let contents: Vec<Vec<u8>> = (0..8_u8).map(|number| vec![number; 10_000 * (1 + usize::from(number))]).collect();
    std::thread::scope(|scope| {
        for content in &contents {
            let file = &file;
            scope.spawn(move || (0..10).for_each(|_| file.save(&keys(&[1]), content.as_slice()).unwrap()));
        }
        for _ in 0..50 {
            if let Some(found) = content(&file, &keys(&[1])) {
                assert!(contents.contains(&found));
            }
        }
    });
    assert!(contents.contains(&content(&file, &keys(&[1])).unwrap()));
    assert_eq!(place.names(), ["daemon.lock", "list", "lock"]);
}

#[test]
fn a_directory_in_the_way_of_what_is_half_written_is_removed_or_set_aside() {
    let place = Place::new();
    let file = place.open().file("list");
    let partial = place.state().join(".list.partial");
    fs::create_dir(&partial).unwrap();
    file.save(&keys(&[1]), b"first").unwrap();
    assert_eq!(place.names(), ["daemon.lock", "list", "lock"]);
    for number in 1..=3 {
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("precious"), b"").unwrap();
        file.save(&keys(&[1]), b"next").unwrap();
        assert!(place.state().join(format!("list.partial-{number}/precious")).exists());
    }
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("precious"), b"").unwrap();
    assert!(matches!(file.save(&keys(&[1]), b"last"), Err(Error::System { action: "save", .. })), "somebody goes on making them");
    assert_eq!(content(&file, &keys(&[1])).unwrap(), b"next");
}
