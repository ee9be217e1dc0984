//! Every form of a key that loads, and every file that is refused, with what the person reads.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use scm_agent::error::{Error, Kind};
use scm_agent::key::{self, LoadOptions, Problem, RunnerPrivateKey, RunnerPublicKey};

use super::{Safe, fixtures, fixtures_in, name_of};

fn problem(path: &Path, options: &LoadOptions) -> Problem {
    match RunnerPrivateKey::load(path, options).map(|key| key.algorithm()) {
        Err(key::Error::KeyFile { path: named, problem }) if named == path => problem,
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn every_good_file_loads_with_the_fingerprint_that_openssl_says() {
    let safe = Safe::new();
    let options = safe.options();
    let files = fixtures_in("good");
    assert!(files.len() >= 25, "{}", files.len());
    for file in files {
        let path = safe.copy(&file);
        let loaded = RunnerPrivateKey::load(&path, &options).unwrap_or_else(|error| panic!("{error}"));
        let expected = std::fs::read_to_string(format!("{}.fingerprint", file.display())).unwrap();
        assert_eq!(loaded.fingerprint().to_string(), expected.trim(), "{}", name_of(&file));
        let algorithm = loaded.algorithm().to_string();
        assert!(name_of(&file).starts_with(&algorithm), "{} is {algorithm}", name_of(&file));
    }
}

#[test]
fn every_public_form_is_the_same_key_as_its_private_half() {
    let safe = Safe::new();
    for file in fixtures_in("public") {
        let public = RunnerPublicKey::load(&file, &LoadOptions::default()).unwrap();
        let private = if name_of(&file).starts_with("rsa") { "rsa-2048.pem" } else { "x25519.pem" };
        let private = RunnerPrivateKey::load(&safe.good(private), &LoadOptions::default()).unwrap();
        assert_eq!(public.fingerprint(), private.fingerprint(), "{}", name_of(&file));
        assert_eq!(public.to_pem(), private.public_key().to_pem());
        let registered = RunnerPublicKey::from_registered(public.registered_bytes(), Default::default()).unwrap();
        assert_eq!(registered.fingerprint(), private.fingerprint());
        let pem = std::fs::read_to_string(fixtures().join("public").join(format!("{}.pem", &name_of(&file)[..6]))).ok();
        if let Some(pem) = pem {
            assert_eq!(public.to_pem(), pem, "as OpenSSL writes it");
        }
    }
}

/// Each file beside which there is a `.report`: what a person reads, with the path left out. `BLESS=1` writes them anew.
#[test]
fn every_bad_file_is_refused_with_its_own_sentence_and_hint() {
    let safe = Safe::new();
    let options = safe.options();
    let wrong = LoadOptions { passphrase_file: Some(safe.write("wrong", "wrong")), ..LoadOptions::default() };
    let files = fixtures_in("bad");
    assert!(files.len() >= 50, "{}", files.len());
    let mut sentences = BTreeSet::new();
    for file in files {
        let path = safe.copy(&file);
        let options = match name_of(&file) {
            name if name.starts_with("encrypted-no-passphrase") => &LoadOptions::default(),
            name if name.starts_with("encrypted-wrong-passphrase") => &wrong,
            _ => &options,
        };
        let refused = RunnerPrivateKey::load(&path, options).expect_err(name_of(&file));
        assert!(matches!(refused, key::Error::KeyFile { .. }));
        let refused = Error::from(refused);
        assert_eq!(refused.kind(), Kind::Config);
        let report = refused.report().replace(path.to_str().unwrap(), "FILE");
        assert!(report.starts_with("error: key file FILE: ") && report.contains("\nhint: "), "{report}");
        let report_file = format!("{}.report", file.display());
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&report_file, &report).unwrap();
        }
        assert_eq!(report, std::fs::read_to_string(report_file).unwrap(), "{}", name_of(&file));
        sentences.insert(report.lines().next().unwrap().to_owned());
    }
    assert!(sentences.len() >= 25, "{sentences:#?}");
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
    let safe = Safe::new();
    let none = LoadOptions::default();
    let good = safe.good("rsa-2048.pem");

    assert_eq!(problem(&safe.path("nothing"), &none), Problem::Missing);
    assert_eq!(problem(safe.0.path(), &none), Problem::Directory);

    let fifo = safe.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(problem(&fifo, &none), Problem::Fifo);

    let socket = safe.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(problem(&socket, &none), Problem::Socket);

    for device in ["/dev/null", "/dev/zero"] {
        assert_eq!(problem(Path::new(device), &none), Problem::Device);
    }

    let link = safe.path("link");
    symlink(&good, &link).unwrap();
    assert_eq!(problem(&link, &none), Problem::Symlink);
    let dangling = safe.path("dangling");
    symlink(safe.path("nothing"), &dangling).unwrap();
    assert_eq!(problem(&dangling, &none), Problem::Symlink);
}

#[test]
fn an_inherited_descriptor_is_read_whether_it_is_a_file_without_a_name_or_a_pipe() {
    let none = LoadOptions::default();
    let key = std::fs::read(fixtures().join("good/x25519.pem")).unwrap();
    let load = |folder: &str, descriptor: &dyn AsRawFd| {
        RunnerPrivateKey::load(Path::new(&format!("{folder}/{}", descriptor.as_raw_fd())), &none).map(|key| key.algorithm().to_string())
    };

    let mut memory = std::fs::File::from(rustix::fs::memfd_create("key", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    memory.write_all(&key).unwrap();
    for folder in ["/dev/fd", "/proc/self/fd", "/dev/fd"] {
        assert_eq!(load(folder, &memory).unwrap(), "x25519", "each time from its start");
    }

    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&key).unwrap();
    drop(writer);
    assert_eq!(load("/dev/fd", &reader).unwrap(), "x25519");
    assert!(load("/dev/fd", &reader).unwrap_err().to_string().ends_with("is empty"), "a pipe gives it once");

    let safe = Safe::new();
    let open = std::fs::File::open(safe.write_with_mode("open", &key, 0o644)).unwrap();
    assert!(load("/dev/fd", &open).unwrap_err().to_string().ends_with("is open to its group or to others (mode 0644)"));
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(load("/dev/fd", &socket).unwrap_err().to_string().ends_with("is a socket"));
    assert_eq!(problem(Path::new("/dev/fd/987654"), &none), Problem::Missing);
    assert_eq!(problem(Path::new("/dev/fd/99999999999999999999"), &none), Problem::Missing);
}

#[test]
fn a_file_over_the_limit_is_refused_whatever_its_size() {
    let safe = Safe::new();
    for size in [64 * 1024 + 1, 1 << 30, 1 << 40] {
        let path = safe.write("large", "");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        assert_eq!(problem(&path, &LoadOptions::default()), Problem::TooLarge { limit: 64 * 1024 }, "{size}");
    }
    let full = safe.write("full", vec![b'x'; 64 * 1024]);
    assert_eq!(problem(&full, &LoadOptions::default()), Problem::Unrecognised);
}

#[test]
fn a_private_key_that_others_can_reach_is_refused_and_a_public_one_is_not() {
    let safe = Safe::new();
    let bytes = std::fs::read(fixtures().join("good/x25519.pem")).unwrap();
    for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777] {
        let path = safe.write_with_mode("key", &bytes, mode);
        assert_eq!(problem(&path, &LoadOptions::default()), Problem::OpenToOthers { mode }, "{mode:o}");
        // Nor through its public half.
        let refused = RunnerPublicKey::load(&path, &LoadOptions::default()).unwrap_err();
        assert!(matches!(refused, key::Error::KeyFile { problem: Problem::OpenToOthers { .. }, .. }), "{mode:o}");
        std::fs::remove_file(path).unwrap();
    }
    for mode in [0o600, 0o400, 0o700] {
        let path = safe.write_with_mode("key", &bytes, mode);
        assert!(RunnerPrivateKey::load(&path, &LoadOptions::default()).is_ok(), "{mode:o}");
        std::fs::remove_file(path).unwrap();
    }
    let public = safe.write_with_mode("public", std::fs::read(fixtures().join("public/x25519.pem")).unwrap(), 0o644);
    assert!(RunnerPublicKey::load(&public, &LoadOptions::default()).is_ok());
}

/// Only root can give a file away; for others the rule's own unit test stands.
#[test]
fn a_key_that_belongs_to_someone_else_is_refused() {
    let safe = Safe::new();
    let path = safe.good("x25519.pem");
    if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
        assert_eq!(problem(&path, &LoadOptions::default()), Problem::ForeignOwner { owner: 65534 });
    }
}

#[test]
fn a_passphrase_file_is_held_to_the_same_rules_as_a_key() {
    let safe = Safe::new();
    let key = safe.good("x25519-scrypt.encrypted.pem");
    let load = |passphrase_file| {
        let options = LoadOptions { passphrase_file: Some(passphrase_file), ..LoadOptions::default() };
        match RunnerPrivateKey::load(&key, &options) {
            Ok(_) => None,
            Err(key::Error::PassphraseFile { problem, .. } | key::Error::KeyFile { problem, .. }) => Some(problem),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(load(safe.path("nothing")), Some(Problem::Missing));
    assert_eq!(load(safe.0.path().to_owned()), Some(Problem::Directory));
    assert_eq!(load(safe.write("p", "")), Some(Problem::Empty));
    assert_eq!(load(safe.write("p", "\r\n")), Some(Problem::Empty));
    assert_eq!(load(safe.write("p", "correct horse\nbattery\n")), Some(Problem::SeveralLines));
    assert_eq!(load(safe.write_with_mode("open", "correct horse\n", 0o644)), Some(Problem::OpenToOthers { mode: 0o644 }));
    assert_eq!(load(safe.write("p", " correct horse\n")), Some(Problem::PassphraseWrong), "blanks belong to it");
    for same in ["correct horse", "correct horse\n", "correct horse\r\n"] {
        assert_eq!(load(safe.write("p", same)), None, "{same:?}");
    }
}

#[test]
fn no_cut_and_no_changed_byte_makes_a_key_file_panic_or_a_different_key() {
    for name in ["x25519.der", "x25519-v2.der", "rsa-2048-pkcs1.der", "x25519.pem", "rsa-2048-pbkdf2.encrypted.der"] {
        let bytes = std::fs::read(fixtures().join("good").join(name)).unwrap();
        let original = RunnerPrivateKey::parse(&bytes, Some(b"correct horse"), Default::default()).unwrap().fingerprint();
        let encrypted = name.contains("encrypted");
        // Deriving a key takes time, so encrypted files are cut and changed without a passphrase.
        let passphrase = (!encrypted).then_some(b"correct horse".as_slice());
        // A PEM file may lose the line end at its end.
        let shortest = if name.ends_with(".pem") { bytes.len() - 1 } else { bytes.len() };
        for length in 0..shortest {
            assert!(RunnerPrivateKey::parse(&bytes[..length], passphrase, Default::default()).is_err(), "{name} cut at {length}");
        }
        let step = if bytes.len() > 500 { 7 } else { 1 };
        for index in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[index] ^= 0x15;
            if let Ok(key) = RunnerPrivateKey::parse(&changed, passphrase, Default::default()) {
                // In a bare X25519 scalar every byte counts, so another key it is; an RSA key's numbers must fit together.
                assert!(!name.starts_with("rsa") || key.fingerprint() == original, "{name} changed at {index}");
            }
        }
    }
}
