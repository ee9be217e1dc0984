//! No tests: what tests of other modules start as a process of its own, through this program.
#![allow(clippy::print_stdout, reason = "printing is how these processes answer the tests that start them")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Asks for the status as the process's own user and prints what came back. Run by `root::peers` under another uid.
#[test]
#[ignore = "started by root::peers"]
fn asks_for_the_status() {
    let socket = std::env::var_os("SOCKET").unwrap();
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => return println!("ANSWER connect {:?}", error.kind()),
    };
    // A refused peer may find the connection closed already.
    let _ = stream.write_all(b"scm-agent/1 status\n\n");
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    println!("ANSWER {} bytes", answer.len());
}

/// Sends a request as the process's own user and prints what came back, one line for each. Run by `root::grants` under another uid.
#[test]
#[ignore = "started by root::grants"]
fn asks_what_it_is_told_to() {
    let mut stream = UnixStream::connect(std::env::var_os("SOCKET").unwrap()).unwrap();
    stream.write_all(std::env::var("REQUEST").unwrap().as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    for line in answer.lines() {
        println!("ANSWER {line}");
    }
}

/// The daemon's program with an allocator that does not wipe: the negative control runs this instead.
#[test]
#[ignore = "started by root::memory"]
fn a_daemon_that_does_not_wipe() {
    use clap::Parser;
    let config = std::env::var_os("CONFIG").unwrap();
    let arguments = [PathBuf::from("scm-agent"), "run".into(), "--config".into(), config.into()];
    let mut io = scm_agent::cli::Io {
        stdin: &mut std::io::empty(),
        stdout: &mut std::io::sink(),
        stderr: &mut std::io::stderr(),
        stdout_is_terminal: false,
    };
    scm_agent::cli::run(scm_agent::cli::Cli::parse_from(arguments), &mut io).unwrap();
}

/// Saves one generation after the other, each longer or shorter than the one before, and tells of each. Killed by `state::crash`.
#[test]
#[ignore = "started by state::crash"]
fn saves_without_end() {
    let keys = crate::state::keys(&[1]);
    let file = scm_agent::state::StateDir::open(&PathBuf::from(std::env::var_os("STATE").unwrap())).unwrap().file("list");
    let last = file.load(&keys).unwrap().map_or(0, |content| u64::from_le_bytes(*content.first_chunk().unwrap()));
    for generation in last + 1.. {
        let words = 1 + usize::try_from(generation.wrapping_mul(7919) % 20_000).unwrap();
        file.save(&keys, generation.to_le_bytes().repeat(words)).unwrap();
        println!("SAVED {generation}");
    }
}

/// Saves what fits and then what does not, and prints what a person would read and what is there afterwards.
#[test]
#[ignore = "started by state::crash"]
fn saves_too_much() {
    let keys = crate::state::keys(&[1]);
    let file = scm_agent::state::StateDir::open(&PathBuf::from(std::env::var_os("STATE").unwrap())).unwrap().file("list");
    file.save(&keys, b"small").unwrap();
    let report = scm_agent::error::Error::from(file.save(&keys, [7; 100_000]).unwrap_err()).report();
    let content = file.load(&keys).unwrap().unwrap();
    for line in report.lines().chain([std::str::from_utf8(&content).unwrap()]) {
        println!("ANSWER {line}");
    }
}

/// Saves one generation of a grant after the other, each longer or shorter than the one before, and tells of each. Killed by
/// `store::crash`.
#[test]
#[ignore = "started by store::crash"]
fn saves_grants_without_end() {
    let store = crate::store::open(&PathBuf::from(std::env::var_os("STATE").unwrap())).unwrap();
    let last = crate::store::generation(&store);
    for generation in last + 1.. {
        crate::store::save_generation(&store, generation);
        println!("SAVED {generation}");
    }
}

/// Saves grants until there is no room for more, and prints what became of each and of the first one.
#[test]
#[ignore = "started by store::crash"]
fn saves_more_grants_than_there_is_room_for() {
    use scm_agent::store::GrantStore;
    let store = crate::store::open(&PathBuf::from(std::env::var_os("STATE").unwrap())).unwrap();
    let first = crate::store::record(0, &"first".repeat(10));
    store.save(&first).unwrap();
    for uid in 1..1000 {
        let room = store.check_room();
        // As a refresh does: the room, the intent, the new pair.
        let begun = store.mark(&first.key, scm_agent::store::GrantState::Refreshing { since: std::time::SystemTime::UNIX_EPOCH });
        let saved = begun.and_then(|_| store.save(&crate::store::record(uid, &"x".repeat(30_000))));
        println!("ANSWER {} {}", crate::store::told(&room), crate::store::told(&saved));
        if let Err(error) = saved {
            println!("ANSWER {}", error.message);
            break;
        }
    }
    let room = store.check_room();
    println!("ANSWER {} {}", crate::store::told(&room), store.load(&first.key).unwrap().unwrap().access_token.expose_secret());
}

/// Opens a store where nothing can be made or replaced, and prints what it can do.
#[test]
#[ignore = "started by store::crash"]
fn opens_grants_where_nothing_can_be_written() {
    use scm_agent::store::GrantStore;
    let store = crate::store::open(&PathBuf::from(std::env::var_os("STATE").unwrap())).unwrap();
    let grant = crate::store::record(0, "another");
    println!("ANSWER {}", crate::store::told(&store.check_room()));
    println!("ANSWER {}", store.load(&grant.key).unwrap().unwrap().access_token.expose_secret());
    let _ = store.save(&grant);
    println!("ANSWER {}", store.save(&grant).unwrap_err().message);
    println!("ANSWER {}", crate::store::told(&store.save(&grant)));
}

/// Opens a store of which nothing may be written, prints what it can do, and again once it may be.
#[test]
#[ignore = "started by store::crash"]
fn opens_grants_that_may_only_be_read() {
    use std::os::unix::fs::PermissionsExt;

    use scm_agent::store::GrantStore;
    let state = PathBuf::from(std::env::var_os("STATE").unwrap());
    let store = crate::store::open(&state).unwrap();
    let grant = crate::store::record(0, "another");
    println!("ANSWER {}", store.problems().join("; "));
    println!("ANSWER {}", crate::store::told(&store.check_room()));
    println!("ANSWER {}", store.load(&grant.key).unwrap().unwrap().access_token.expose_secret());
    println!("ANSWER {}", store.save(&grant).unwrap_err().message);
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(&state).unwrap() {
        std::fs::set_permissions(entry.unwrap().path(), PermissionsExt::from_mode(0o600)).unwrap();
    }
    println!("ANSWER {}", crate::store::told(&store.save(&grant)));
    println!("ANSWER {} problems", store.problems().len());
}

/// Connects to the agent, hands the connection to whoever is at the other end of standard input, and lives until that closes. Run by
/// `root::units`.
#[test]
#[ignore = "started by root::units"]
fn connects_and_hands_it_over() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let mut word = [0_u8; 1];
    // Only once it is where it belongs.
    std::io::stdin().read_exact(&mut word).unwrap();
    let connection = UnixStream::connect(std::env::var_os("SOCKET").unwrap()).unwrap();
    let stdin = std::io::stdin();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed = [connection.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
    sendmsg(stdin.as_fd(), &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    // Until it is told to end.
    let _ = std::io::stdin().read(&mut word);
}

/// Opens the state that a version of before left, as a daemon does when it starts. Killed by `state::upgrade`.
#[test]
#[ignore = "started by state::upgrade"]
fn opens_the_state_of_before() {
    crate::state::upgrade::open_all(&PathBuf::from(std::env::var_os("STATE").unwrap()));
}
