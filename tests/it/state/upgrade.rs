//! The state that versions of before left: read, kept as it was, and written anew. What a later version left is not touched.
//!
//! `tests/fixtures/state/v1` was written by the last version of format 1. To make one of another version's, with its programs in a folder:
//!
//! ```console
//! $ PROGRAMS=FOLDER STATE=tests/fixtures/state/vN cargo test --test it -- --ignored --exact state::upgrade::makes_a_state
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use scm_agent::broker::KeptList;
use scm_agent::integration::snapshot::{Snapshot, SnapshotStore};
use scm_agent::key::{Config, KeyRing};
use scm_agent::state::{Error, LoadError, StateDir, StateKeys, Written};
use scm_agent::store::{FileStore, GrantRecord, GrantStore, Origin, StoreErrorKind};
use serde_json::json;

use super::Place;
use crate::grants::host::Host;
use crate::grants::{SCM, Stage};
use crate::support::daemon::Daemon;
use crate::support::scene::Scene;
use crate::support::world::{Binaries, World};

const KEY: &str = "tests/fixtures/key/good/x25519.pem";
const COPY: &str = "before-format-2";
const STATE: [&str; 4] = ["grants-head", "grants-key", "grants.redb", "integrations"];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A state directory: a sign-in and a personal access token, a list, and what is trusted of it.
#[tokio::test]
#[ignore = "makes fixtures with another version's programs"]
async fn makes_a_state() {
    let folder = PathBuf::from(std::env::var_os("PROGRAMS").unwrap());
    let out = PathBuf::from(std::env::var_os("STATE").unwrap());
    let binaries = Binaries { agent: folder.join("scm-agent"), helper: folder.join("git-credential-scm-agent") };
    let world = World::with_key(binaries, "x25519");
    copy_key(&world.path("runner.pem"));
    let stage = Stage { scene: Scene::in_world(world).await, host: Host::start().await };
    let mut first = stage.scene.integration(1, SCM);
    first["oauth"]["issuerUrl"] = json!(stage.host.issuer_url());
    first["pat"] = json!(true);
    let (mut moved, gone) = (stage.scene.integration(2, "moved.example.com"), stage.scene.integration(3, "gone.example.com"));
    stage.scene.control_plane.set_integrations(vec![first.clone(), moved.clone(), gone]);
    let daemon = stage.start().await;
    stage.sign_in(&daemon, "work").await;
    daemon.ask(&format!("scm-agent/1 store\nprotocol=https\nhost={SCM}\nusername=robin\npassword=pat-of-robin\n\n")).await;
    moved["oauth"]["issuerUrl"] = json!("https://elsewhere.example.com");
    stage.scene.control_plane.set_integrations(vec![first, moved]);
    daemon.ask("scm-agent/1 sync\n\n").await;
    daemon.until(|status| status["integrations"].as_array().unwrap().iter().any(|entry| entry["quarantine"].is_object())).await;
    assert!(daemon.terminate().await.success());
    fs::create_dir_all(&out).unwrap();
    for name in STATE {
        fs::copy(stage.scene.world.path("state").join(name), out.join(name)).unwrap();
    }
}

fn ring() -> KeyRing {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runner.pem");
    copy_key(&file);
    KeyRing::load(&Config { files: vec![file], ..Config::default() }).unwrap()
}

fn copy_key(to: &Path) {
    fs::copy(fixture(KEY), to).unwrap();
    fs::set_permissions(to, PermissionsExt::from_mode(0o600)).unwrap();
}

fn state_keys() -> StateKeys {
    StateKeys::new(ring().state_keys())
}

/// A copy of the state that a version left.
fn left_by(format: u8) -> Place {
    let place = Place::new();
    fill(&place.state(), format);
    place
}

fn fill(state: &Path, format: u8) {
    fs::DirBuilder::new().mode(0o700).create(state).unwrap();
    for name in STATE {
        fs::copy(fixture(&format!("tests/fixtures/state/v{format}")).join(name), state.join(name)).unwrap();
        fs::set_permissions(state.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    fs::write(state.join("lock"), "").unwrap();
}

/// What is in each file of a folder, but for links and other folders.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// The fixture's files.
fn original(format: u8) -> BTreeMap<String, Vec<u8>> {
    contents(&fixture(&format!("tests/fixtures/state/v{format}")))
}

/// Opens all that there is and checks that it is what the fixtures hold.
#[track_caller]
fn check_all_there(place: &Place) {
    let directory = place.open();
    let store = FileStore::open(&directory, state_keys()).unwrap();
    assert_eq!(store.problems(), Vec::<String>::new());
    check_grants(&store);
    let kept = KeptList::new(&directory, &ring());
    check_list(&kept.load().unwrap().unwrap());
}

#[track_caller]
fn check_grants(store: &FileStore) {
    let grants: Vec<GrantRecord> = store.list().unwrap().iter().map(|grant| store.load(&grant.key).unwrap().unwrap()).collect();
    let [pat, sign_in] = grants.as_slice() else { panic!("{grants:?}") };
    assert_eq!((pat.key.origin, pat.key.account.as_str(), pat.host.as_str()), (Origin::Pat, "robin", SCM));
    assert_eq!((pat.access_token.expose_secret(), pat.refresh_token.is_some()), ("pat-of-robin", false));
    assert_eq!((sign_in.key.origin, sign_in.key.account.as_str()), (Origin::SignIn, "work"));
    assert_eq!(sign_in.access_token.expose_secret(), "access_1");
    assert_eq!(sign_in.refresh_token.as_ref().unwrap().expose_secret(), "refresh_1");
}

#[track_caller]
fn check_list(bytes: &[u8]) {
    let Snapshot { list, mut pins, .. } = Snapshot::from_bytes(bytes).unwrap();
    let hosts: Vec<&str> = list.integrations.iter().map(|integration| integration.host.as_str()).collect();
    assert_eq!(hosts, [SCM, "moved.example.com"]);
    // What was trusted still is, and what was held back too.
    let admission = pins.admit(list, SystemTime::now());
    assert_eq!(admission.quarantined.iter().map(|entry| entry.proposed.host.as_str()).collect::<Vec<_>>(), ["moved.example.com"]);
}

/// Checks that nothing of format 1 is left but the copy, which is as it was.
#[track_caller]
fn check_upgraded(place: &Place) {
    let state = place.state();
    assert_eq!(place.names(), [COPY, "daemon.lock", "grants-head", "grants-key", "grants.redb", "integrations", "lock"]);
    assert_eq!(fs::read_link(state.join("lock")).unwrap(), Path::new("daemon.lock"));
    let directory = place.open();
    for name in ["grants-head", "grants-key", "integrations"] {
        assert_eq!(directory.file(name).written(), Some(Written::now()), "{name}");
    }
    drop(directory);
    assert_eq!(manifest(&state)[0], Written::now().format);
    assert_eq!(contents(&state.join(COPY)), original(1));
    assert_eq!(fs::metadata(state.join(COPY)).unwrap().mode() & 0o7777, 0o700);
    for name in STATE {
        assert_eq!(fs::metadata(state.join(COPY).join(name)).unwrap().mode() & 0o7777, 0o600, "{name}");
    }
}

const MANIFEST: redb::TableDefinition<'_, (), &[u8]> = redb::TableDefinition::new("manifest");

fn manifest(state: &Path) -> Vec<u8> {
    let database = redb::Database::open(state.join("grants.redb")).unwrap();
    let table = database.begin_read().unwrap().open_table(MANIFEST).unwrap();
    let row = table.get(()).unwrap().unwrap();
    row.value().to_vec()
}

fn put_manifest(state: &Path, row: &[u8]) {
    let database = redb::Database::open(state.join("grants.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(MANIFEST).unwrap().insert((), row).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn what_format_1_left_is_there_and_written_anew_and_kept_as_it_was() {
    let place = left_by(1);
    check_all_there(&place);
    check_upgraded(&place);
    // From then on it is like any other.
    let sealed = || {
        let mut files = contents(&place.state());
        // redb notes in it that it was opened.
        files.remove("grants.redb");
        files
    };
    let written = sealed();
    check_all_there(&place);
    assert_eq!(sealed(), written, "nothing is written anew a second time");
    // And the copy is a state directory in its own right.
    let back = place.0.path().join("back");
    fs::rename(place.state().join(COPY), &back).unwrap();
    fs::rename(place.state(), place.0.path().join("away")).unwrap();
    fs::rename(&back, place.state()).unwrap();
    check_all_there(&place);
    check_upgraded(&place);
}

#[test]
fn a_store_of_format_1_that_is_only_read_stays_as_it_is() {
    let place = left_by(1);
    let directory = place.open();
    check_list(&directory.file("integrations").load(&state_keys()).unwrap().unwrap());
    assert_eq!(directory.file("integrations").written(), Some(Written { format: 1, by: None }));
    let mut expected = original(1);
    expected.extend([("daemon.lock".to_owned(), Vec::new()), ("lock".to_owned(), Vec::new())]);
    assert_eq!(contents(&place.state()), expected);
}

#[test]
fn a_daemon_of_format_1_that_still_runs_keeps_the_next_one_out() {
    let place = left_by(1);
    let old = fs::File::open(place.state().join("lock")).unwrap();
    rustix::fs::flock(&old, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(matches!(StateDir::open(&place.state()), Err(Error::InUse { .. })));
    // A process that another test begins meanwhile may have the descriptor too, for a moment: closing it would not be enough.
    rustix::fs::flock(&old, rustix::fs::FlockOperation::Unlock).unwrap();
    check_all_there(&place);
}

/// Whether a start that writes the state anew has got this far.
fn has_reached(step: u64, state: &Path) -> bool {
    let is_new = |name: &str| fs::read(state.join(name)).is_ok_and(|file| file.get(15) == Some(&2));
    match step {
        0 => state.join("daemon.lock").exists(),
        1 => state.join(".before-format-2.partial").exists() || state.join(COPY).exists(),
        2 => state.join(COPY).exists(),
        3 => fs::read_link(state.join("lock")).is_ok(),
        4 => is_new("grants-key"),
        5 => is_new("grants-head"),
        _ => is_new("integrations"),
    }
}

#[test]
fn a_process_that_is_killed_at_any_step_of_it_loses_nothing() {
    for kill in 0..21_u64 {
        let place = left_by(1);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "child::opens_the_state_of_before"])
            .env("STATE", place.state())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let step = kill % 7;
        while !has_reached(step, &place.state()) && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(kill) % 3_000));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_reached(step, &place.state()) || step == 1, "step {step}");
        check_all_there(&place);
        check_upgraded(&place);
    }
}

/// Run by the test above: what a start does with the state.
pub fn open_all(state: &Path) {
    let directory = StateDir::open(state).unwrap();
    drop(FileStore::open(&directory, state_keys()).unwrap());
    KeptList::new(&directory, &ring()).load().unwrap();
}

#[test]
fn whatever_is_written_anew_already_goes_with_what_is_not() {
    let new = left_by(1);
    check_all_there(&new);
    // In the order in which they are written.
    for done in 0..=STATE.len() {
        let place = left_by(1);
        for name in ["grants-key", "grants-head", "grants.redb", "integrations"].into_iter().take(done) {
            if name == "grants-head" {
                // Written anew with the number of before: the one of the fixture, as an upgrade leaves it for a moment.
                continue;
            }
            fs::copy(new.state().join(name), place.state().join(name)).unwrap();
        }
        check_all_there(&place);
    }
}

#[test]
fn a_copy_that_was_cut_short_is_made_again_and_one_of_an_earlier_upgrade_replaced() {
    let place = left_by(1);
    fs::create_dir(place.state().join("notes")).unwrap();
    fs::write(place.state().join("notes.txt"), "an operator's").unwrap();
    for folder in [".before-format-2.partial", COPY] {
        fs::create_dir(place.state().join(folder)).unwrap();
        fs::write(place.state().join(folder).join("grants-key"), "half").unwrap();
    }
    check_all_there(&place);
    fs::remove_dir(place.state().join("notes")).unwrap();
    fs::remove_file(place.state().join("notes.txt")).unwrap();
    check_upgraded(&place);
}

#[test]
fn the_copy_goes_after_a_week_and_with_the_first_key_that_is_taken_away() {
    let place = left_by(1);
    check_all_there(&place);
    let age = |days: u64| {
        let folder = fs::File::open(place.state().join(COPY)).unwrap();
        folder.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
    };
    age(6);
    check_all_there(&place);
    assert!(place.state().join(COPY).exists());
    age(8);
    check_all_there(&place);
    assert!(!place.state().join(COPY).exists());

    let place = left_by(1);
    check_all_there(&place);
    let store = FileStore::open(&place.open(), state_keys()).unwrap();
    assert!(place.state().join(COPY).exists());
    store.reseal(super::keys(&[1])).unwrap();
    assert!(!place.state().join(COPY).exists());
}

#[test]
fn what_a_newer_version_wrote_is_refused_by_name_and_left_as_it_is() {
    for name in STATE {
        let place = left_by(1);
        check_all_there(&place);
        let path = place.state().join(name);
        let stated = if name == "grants.redb" {
            let mut row = manifest(&place.state());
            row[0] = 3;
            put_manifest(&place.state(), &row);
            "format 3"
        } else {
            let mut file = fs::read(&path).unwrap();
            file[15] = 3;
            fs::write(&path, file).unwrap();
            concat!("format 3, written by scm-agent ", env!("CARGO_PKG_VERSION"))
        };
        let before = contents(&place.state());
        let expected = format!("{} is in {stated}, and this scm-agent knows up to format 2", path.display());
        let directory = place.open();
        if name == "integrations" {
            let file = directory.file("integrations");
            assert!(matches!(file.load(&state_keys()), Err(LoadError::Newer { written, .. }) if written.format == 3));
            for error in [file.save(&state_keys(), b"new").unwrap_err(), file.set_aside().unwrap_err(), file.remove().unwrap_err()] {
                assert_eq!(error.to_string(), expected);
            }
            let refused = KeptList::new(&directory, &ring()).load().unwrap_err();
            assert!(!refused.damaged && refused.message.starts_with(&expected), "{refused}");
        } else {
            let refused = FileStore::open(&directory, state_keys()).unwrap_err();
            assert_eq!(refused.kind, StoreErrorKind::Newer, "{name}: {refused}");
            assert!(refused.message.starts_with(&expected), "{refused}");
        }
        // redb counts how often it was opened.
        let without_database = |mut files: BTreeMap<String, Vec<u8>>| files.remove("grants.redb").map(|_| files);
        assert_eq!(without_database(contents(&place.state())), without_database(before), "{name}");
    }
}

/// A world with the state that format 1 left.
async fn world() -> (Scene, PathBuf) {
    let world = World::with_key(crate::binaries(), "x25519");
    copy_key(&world.path("runner.pem"));
    let state = world.path("state");
    fill(&state, 1);
    (Scene::in_world(world).await, state)
}

/// Starts a daemon that full disks do not end, with the control plane of the fixture, which is gone.
async fn start(scene: &Scene, before: &str) -> Daemon {
    let list = Place::new();
    fill(&list.state(), 1);
    let kept = list.open().file("integrations").load(&state_keys()).unwrap().unwrap();
    let scope = Snapshot::from_bytes(&kept).unwrap().scope;
    let url = scope.split_whitespace().next().unwrap();
    let config = scene.config("60s");
    let text = fs::read_to_string(&config).unwrap().replace(&scene.control_plane.base_url().to_string(), url);
    fs::write(&config, text).unwrap();
    // Should another test's happen to be at that address by now, it does not know this one.
    scene.use_token("a-token-of-nobodys");
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &format!("trap '' XFSZ; {before}exec \"$@\""), "sh"]).arg(&scene.world.binaries.agent);
    command.current_dir(scene.world.directory());
    let daemon = Daemon::start(command, &config, &scene.world.socket()).await;
    daemon.until(|status| status["sync"]["last_attempt"].is_u64()).await;
    daemon
}

/// What is wrong with the state, as the daemon says it.
async fn said(daemon: &Daemon, folder: &Path) -> Vec<String> {
    let status = daemon.until(|status| status["sync"]["last_error"].is_string()).await;
    let lines = status["degraded"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
    let about_state = |line: &String| line.contains("sign-ins") || line.contains("format") || line.contains("kept list");
    lines.filter(about_state).map(|line| line.replace(&format!("{}/", folder.display()), "")).collect()
}

/// Whose tokens there are, sign-ins and personal access tokens.
async fn subjects(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status().await;
    let tokens = status["integrations"].as_array().unwrap().iter().flat_map(|entry| entry["tokens"].as_array().unwrap().clone());
    tokens.filter_map(|token| token["subject"].as_str()?.split_once(" as ").map(|(_, account)| account.to_owned())).collect()
}

#[tokio::test]
async fn the_daemon_serves_what_format_1_left_while_nobody_else_answers() {
    let (scene, state) = world().await;
    let daemon = start(&scene, "").await;
    let status = daemon.status().await;
    assert_eq!(status["integrations"].as_array().unwrap().len(), 2, "{status}");
    assert!(status["integrations"].as_array().unwrap().iter().any(|entry| entry["quarantine"].is_object()), "{status}");
    assert_eq!(said(&daemon, &state).await, Vec::<String>::new());
    assert!(subjects(&daemon).await.contains(&"robin".to_owned()), "{:?}", subjects(&daemon).await);
    assert!(daemon.terminate().await.success());
    assert_eq!(contents(&state.join(COPY)), original(1));
}

#[tokio::test]
async fn without_room_the_old_state_serves_as_it_is_and_the_daemon_says_so_until_there_is_room() {
    let (scene, state) = world().await;
    let daemon = start(&scene, "ulimit -S -f 0; ").await;
    assert!(subjects(&daemon).await.contains(&"robin".to_owned()), "{:?}", subjects(&daemon).await);
    let said_then = said(&daemon, scene.world.directory()).await;
    let reason = "cannot copy, before it is changed to format 2, what is in state: File too large (os error 27)";
    assert_eq!(said_then, [format!("sign-ins are read, and new ones are not kept: {reason}")]);
    let mut expected = original(1);
    expected.extend([("daemon.lock".to_owned(), Vec::new()), ("lock".to_owned(), Vec::new())]);
    assert_eq!(contents(&state), expected, "nothing is touched");
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    daemon.ask(&format!("scm-agent/1 store\nprotocol=https\nhost={SCM}\nusername=robin\npassword=another-of-robin\n\n")).await;
    assert_eq!(said(&daemon, scene.world.directory()).await, Vec::<String>::new());
    assert_eq!(contents(&state.join(COPY)), original(1));
}

#[tokio::test]
async fn the_daemon_serves_beside_a_newer_state_and_does_not_touch_it() {
    let (scene, state) = world().await;
    assert!(start(&scene, "").await.terminate().await.success());
    for name in ["grants-key", "integrations"] {
        let mut file = fs::read(state.join(name)).unwrap();
        file[15] = 3;
        fs::write(state.join(name), file).unwrap();
    }
    let before = contents(&state);
    let daemon = start(&scene, "").await;
    let stated = concat!("is in format 3, written by scm-agent ", env!("CARGO_PKG_VERSION"), ", and this scm-agent knows up to format 2");
    let said = said(&daemon, &state).await;
    assert_eq!(
        said,
        [
            format!(
                "the kept list cannot be read: integrations {stated}: install that version again, or move the file away; \
                 until it can be, what the control plane says is trusted anew"
            ),
            format!(
                "sign-ins are kept in memory only, until the daemon ends: grants-key {stated}: install that version again, \
                 or move grants* away, and all users sign in again"
            ),
        ]
    );
    // It goes on with what the control plane says, and keeps none of it.
    daemon.ask("scm-agent/1 sync\n\n").await;
    assert!(daemon.terminate().await.success());
    assert_eq!(contents(&state), before);
}
