//! What is left after a process is killed while it saves, and when there is no space.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Place, keys};

/// How often a process is killed.
const KILLS: usize = 60;

/// Starts a test of `child` as a process of its own on a state directory.
fn start(name: &str, place: &Place, before: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{before}exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("STATE", place.state())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a process printed after this word, line by line.
fn answers(child: &mut Child, word: &str) -> impl Iterator<Item = String> + use<> {
    let word = word.to_owned();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(move |line| line.split_once(&word).map(|(_, answer)| answer.trim().to_owned()))
}

/// The generation that the file holds: it is written out many times, and every time the same.
fn generation(place: &Place) -> u64 {
    let content = place.open().file("list").load(&keys(&[1])).unwrap().unwrap();
    let (words, rest) = content.as_chunks::<8>();
    assert!(rest.is_empty() && words.iter().all(|word| word == &words[0]));
    u64::from_le_bytes(words[0])
}

#[test]
fn a_process_that_is_killed_while_saving_leaves_the_last_content_or_the_one_before() {
    let place = Place::new();
    let mut in_between = 0;
    for kill in 0..KILLS {
        let mut child = start("child::saves_without_end", &place, "");
        let mut saved = answers(&mut child, "SAVED ");
        // From the first save on, at any moment of a save.
        let first: u64 = saved.next().unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(kill) % 15_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had told before it died is all in the pipe.
        let told = saved.last().map_or(first, |last| last.parse().unwrap());
        let found = generation(&place);
        assert!(found == told || found == told + 1, "told of {told}, found {found}");
        in_between += u64::from(found != told);
        assert_eq!(place.names(), ["daemon.lock", "list", "lock"], "the next daemon removes what was left half-written");
    }
    assert!(generation(&place) >= KILLS as u64, "{in_between} between two saves");
}

#[test]
fn when_there_is_no_space_the_old_content_stays_and_nothing_half_written() {
    let place = Place::new();
    // A file may have a few KiB at most, and the signal that says so is ignored, so that writing fails as on a full disk.
    let mut child = start("child::saves_too_much", &place, "trap '' XFSZ; ulimit -f 16; ");
    let printed: Vec<String> = answers(&mut child, "ANSWER ").collect();
    assert!(child.wait().unwrap().success());
    let path = place.state().join("list");
    assert_eq!(printed[0], format!("error: cannot save {}: File too large (os error 27)", path.display()));
    assert_eq!(printed[1], format!("hint: make room on the file system of {}", path.display()));
    assert_eq!(printed[2], "small");
    assert_eq!(place.names(), ["daemon.lock", "list", "lock"]);
    assert_eq!(place.open().file("list").load(&keys(&[1])).unwrap().unwrap().as_slice(), b"small");
}
