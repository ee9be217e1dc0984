//! Which directories are taken, and by how many.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use scm_agent::error::{Error as Report, Kind};
use scm_agent::state::{Error, StateDir};

use super::{Place, keys, mode};

/// The report of the error that opening gives, checked for a way out.
fn refusal(place: &Place, path: &std::path::Path) -> (Error, String) {
    let report = Report::from(StateDir::open(path).unwrap_err());
    assert_eq!(report.kind(), Kind::Config, "{}", report.report());
    assert!(report.report().contains("\nhint: "), "{}", report.report());
    let text = report.report().replace(place.0.path().to_str().unwrap(), "FOLDER");
    (StateDir::open(path).unwrap_err(), text)
}

#[test]
fn a_missing_directory_is_made_for_the_owner_alone_and_one_that_is_there_is_used() {
    let place = Place::new();
    drop(place.open());
    assert_eq!(mode(&place.state()), 0o700);
    assert_eq!((place.names(), mode(&place.state().join("daemon.lock"))), (vec!["daemon.lock".to_owned()], 0o600));
    fs::set_permissions(place.state(), Permissions::from_mode(0o750)).unwrap();
    place.open().file("list").save(&keys(&[1]), b"content").unwrap();
    assert_eq!((mode(&place.state()), mode(&place.state().join("list"))), (0o750, 0o600));
    let absent = place.0.path().join("absent/state");
    let (error, report) = refusal(&place, &absent);
    assert!(matches!(error, Error::NoParent { path } if path == absent), "{report}");
    assert!(!place.0.path().join("absent").exists());
}

#[test]
fn a_directory_that_others_can_write_to_is_read_and_not_written_to_until_it_is_closed() {
    let place = Place::new();
    place.open().file("list").save(&keys(&[1]), b"kept").unwrap();
    for (mode, taken) in [(0o700, true), (0o755, true), (0o711, true), (0o1700, true), (0o720, false), (0o702, false), (0o1777, false)] {
        fs::set_permissions(place.state(), Permissions::from_mode(mode)).unwrap();
        let file = place.open().file("list");
        assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"kept", "{mode:o}");
        match file.save(&keys(&[1]), b"kept") {
            Ok(()) => assert!(taken, "{mode:o}"),
            Err(Error::WritableByOthers { path, mode: named }) => assert_eq!((path, named, taken), (place.state(), mode, false)),
            Err(other) => panic!("{mode:o}: {other}"),
        }
        assert_eq!(file.set_aside().is_ok(), taken, "{mode:o}");
        fs::set_permissions(place.state(), Permissions::from_mode(0o700)).unwrap();
        file.save(&keys(&[1]), b"kept").unwrap();
        assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })), "what is mended is locked too");
        fs::set_permissions(place.state(), Permissions::from_mode(mode)).unwrap();
        assert_eq!(file.save(&keys(&[1]), b"kept").is_ok(), taken, "what is opened to others later is no longer written to: {mode:o}");
    }
    let file = place.open().file("list");
    let report = Report::from(file.save(&keys(&[1]), b"new").unwrap_err()).report().replace(place.0.path().to_str().unwrap(), "FOLDER");
    let expected = "error: state directory FOLDER/state can be written to by its group or by others (mode 1777)\n\
        hint: close it, after a look at who may have written to it: chmod go-w FOLDER/state\n";
    assert_eq!(report, expected);
}

#[test]
fn a_directory_that_cannot_be_written_to_is_read_and_says_why_it_is_not_saved_to() {
    let place = Place::new();
    place.open().file("list").save(&keys(&[1]), b"kept").unwrap();
    fs::remove_file(place.state().join("daemon.lock")).unwrap();
    // Neither made nor opened, as on a full disk or a read-only one.
    symlink("nowhere", place.state().join("daemon.lock")).unwrap();
    fs::write(place.state().join(".list.partial"), "half").unwrap();
    let file = place.open().file("list");
    assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"kept");
    let lock = place.state().join("daemon.lock");
    assert!(matches!(file.save(&keys(&[1]), b"new"), Err(Error::System { action: "open", path, .. }) if path == lock));
    assert!(file.set_aside().is_err());
    assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"kept");
    fs::remove_file(&lock).unwrap();
    file.save(&keys(&[1]), b"new").unwrap();
    assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })), "the lock is taken with the first save that can");
    assert_eq!(place.names(), ["daemon.lock", "list", "lock"]);
}

#[test]
fn a_directory_without_write_permission_is_read() {
    if rustix::process::geteuid().is_root() {
        // Root may write all the same.
        return;
    }
    let place = Place::new();
    place.open().file("list").save(&keys(&[1]), b"kept").unwrap();
    fs::remove_file(place.state().join("daemon.lock")).unwrap();
    fs::set_permissions(place.state(), Permissions::from_mode(0o500)).unwrap();
    let file = place.open().file("list");
    assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"kept");
    assert!(matches!(file.save(&keys(&[1]), b"new"), Err(Error::System { .. })));
    fs::set_permissions(place.state(), Permissions::from_mode(0o700)).unwrap();
    file.save(&keys(&[1]), b"new").unwrap();
}

#[test]
fn a_directory_in_the_locks_place_locks_as_well() {
    let place = Place::new();
    fs::create_dir_all(place.state().join("daemon.lock/inside")).unwrap();
    let directory = place.open();
    directory.file("list").save(&keys(&[1]), b"content").unwrap();
    assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })));
}

#[test]
fn a_directory_that_was_deleted_is_made_or_opened_again_for_the_next_save_with_the_same_checks() {
    let place = Place::new();
    let file = place.open().file("list");
    file.save(&keys(&[1]), b"first").unwrap();
    fs::remove_dir_all(place.state()).unwrap();
    file.save(&keys(&[1]), b"second").unwrap();
    assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"second");
    assert_eq!((place.names(), mode(&place.state())), (["daemon.lock", "list", "lock"].map(str::to_owned).to_vec(), 0o700));
    assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })));
    fs::remove_dir_all(place.state()).unwrap();
    fs::create_dir(place.state()).unwrap();
    fs::set_permissions(place.state(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(file.save(&keys(&[1]), b"third"), Err(Error::WritableByOthers { .. })));
    fs::set_permissions(place.state(), Permissions::from_mode(0o700)).unwrap();
    file.save(&keys(&[1]), b"third").unwrap();
    fs::remove_dir_all(place.state()).unwrap();
    fs::write(place.state(), "precious").unwrap();
    assert!(matches!(file.save(&keys(&[1]), b"fourth"), Err(Error::NotADirectory { .. })));
    assert_eq!(fs::read(place.state()).unwrap(), b"precious");
    fs::remove_file(place.state()).unwrap();
    // Another daemon was there first.
    let other = place.open();
    assert!(matches!(file.save(&keys(&[1]), b"fourth"), Err(Error::InUse { .. })));
    drop(other);
    file.save(&keys(&[1]), b"fourth").unwrap();
}

#[test]
fn what_is_no_directory_is_refused_and_left_alone() {
    let place = Place::new();
    fs::write(place.state(), "precious").unwrap();
    assert!(matches!(refusal(&place, &place.state()).0, Error::NotADirectory { .. }));
    assert_eq!(fs::read(place.state()).unwrap(), b"precious");
}

#[test]
fn what_a_link_leads_to_is_read_and_not_written_to() {
    let place = Place::new();
    place.open().file("list").save(&keys(&[1]), b"kept").unwrap();
    let link = place.0.path().join("link");
    symlink(place.state(), &link).unwrap();
    for spelled in ["link", "link/", "link/.", "link//"] {
        let file = StateDir::open(&place.0.path().join(spelled)).unwrap().file("list");
        assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"kept");
        assert!(matches!(file.save(&keys(&[1]), b"new"), Err(Error::Symlink { path }) if path == link), "{spelled}");
        assert!(file.set_aside().is_err());
        assert_eq!(place.open().file("list").load(&keys(&[1])).unwrap().unwrap().as_slice(), b"kept");
    }
    let file = StateDir::open(&link).unwrap().file("list");
    fs::remove_file(&link).unwrap();
    fs::rename(place.state(), &link).unwrap();
    file.save(&keys(&[1]), b"new").unwrap();
    assert_eq!(fs::read_dir(&link).unwrap().count(), 3, "the list, the lock and the link for older daemons");
    let dangling = place.0.path().join("dangling");
    symlink(place.0.path().join("nowhere"), &dangling).unwrap();
    assert!(matches!(refusal(&place, &dangling).0, Error::Symlink { .. }));
    assert!(!place.0.path().join("nowhere").exists());
}

#[test]
fn a_directory_is_one_daemons_until_the_last_of_its_files_is_dropped() {
    let place = Place::new();
    let directory = place.open();
    let (error, report) = refusal(&place, &place.state());
    assert!(matches!(error, Error::InUse { .. }), "{report}");
    assert!(report.starts_with("error: another scm-agent uses the state directory FOLDER/state\nhint: "), "{report}");
    let file = directory.file("list");
    drop(directory);
    assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })));
    drop(file);
    place.open();
}

#[test]
fn what_a_crashed_daemon_left_half_written_is_removed_and_nothing_else() {
    let place = Place::new();
    place.open().file("list").save(&keys(&[1]), b"content").unwrap();
    for name in [".list.partial", ".pins.partial", ".partial", "list.partial", ".list", "list.damaged-1", "other"] {
        fs::write(place.state().join(name), "half").unwrap();
    }
    fs::create_dir(place.state().join(".folder.partial")).unwrap();
    symlink("other", place.state().join(".link.partial")).unwrap();
    let directory = place.open();
    let left = [".folder.partial", ".list", "daemon.lock", "list", "list.damaged-1", "list.partial", "lock", "other"];
    assert_eq!(place.names(), left);
    assert_eq!(directory.file("list").load(&keys(&[1])).unwrap().unwrap().as_slice(), b"content");
}

#[test]
fn a_directory_that_is_swapped_while_it_is_open_is_not_written_to() {
    let place = Place::new();
    let directory = place.open();
    let moved = place.0.path().join("moved");
    fs::rename(place.state(), &moved).unwrap();
    fs::create_dir(place.state()).unwrap();
    let file = directory.file("list");
    file.save(&keys(&[1]), b"content").unwrap();
    assert_eq!(file.load(&keys(&[1])).unwrap().unwrap().as_slice(), b"content");
    file.set_aside().unwrap();
    assert!(place.names().is_empty());
    assert!(moved.join("list.damaged-1").exists());
}
