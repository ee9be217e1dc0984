//! `keygen`, `key show`, `seal` and `unseal`, through the command line's own parser.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use clap::Parser as _;
use scm_agent::cli::{self, Cli, Io};
use scm_agent::key::{self, GeneratedKey, NewKey};

use super::{Safe, fixtures};

struct Outcome {
    /// The exit code and the report, if it failed.
    failure: Option<(u8, String)>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn ok(self) -> String {
        assert_eq!(self.failure, None);
        self.stdout
    }

    fn failed(self) -> (u8, String) {
        assert_eq!(self.stdout, "");
        self.failure.unwrap()
    }
}

fn run_on(terminal: bool, args: &[&str], stdin: &[u8]) -> Outcome {
    let cli = Cli::try_parse_from([&["scm-agent"], args].concat()).unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut io = Io { stdin: &mut &*stdin, stdout: &mut stdout, stderr: &mut stderr, stdout_is_terminal: terminal };
    let failure = cli::run(cli, &mut io).err().map(|error| (error.kind().exit_code(), error.report()));
    Outcome { failure, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

fn run(args: &[&str], stdin: &[u8]) -> Outcome {
    run_on(false, args, stdin)
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_new_key_of_each_algorithm_seals_and_opens() {
    let safe = Safe::new();
    for algorithm in ["rsa-2048", "rsa-3072", "rsa-4096", "x25519"] {
        let file = safe.path(algorithm);
        let made = run(&["keygen", "--algorithm", algorithm, "--out", str(&file)], b"");
        assert!(made.stderr.contains("wrote ") && made.stderr.contains(algorithm), "{}", made.stderr);
        assert_eq!(made.stderr.contains("making an "), algorithm == "rsa-3072" || algorithm == "rsa-4096");
        let registered = made.ok();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);

        let shown = run(&["key", "show", str(&file), "--json"], b"").ok();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["algorithm"], algorithm);
        assert_eq!(shown["public_key_base64"], registered.trim());
        assert_eq!(shown["half"], "private");
        assert_eq!(shown["development"], false);

        let public = safe.write_with_mode("public", shown["public_key_pem"].as_str().unwrap(), 0o644);
        for sealing in [str(&file), str(&public)] {
            let sealed = run(&["seal", "--key", sealing], b"se cret~\n").ok();
            assert_eq!(run(&["unseal", "--key", str(&file)], sealed.as_bytes()).ok(), "se cret~");
        }
        let of_public = run(&["key", "show", str(&public), "--json"], b"").ok();
        let of_public: serde_json::Value = serde_json::from_str(&of_public).unwrap();
        assert_eq!(of_public["fingerprint"], shown["fingerprint"]);
        assert_eq!(of_public["half"], "public");
    }
}

#[test]
fn a_new_key_can_be_encrypted_and_then_needs_its_passphrase() {
    let safe = Safe::new();
    let passphrase = safe.write("passphrase", "correct horse\n");
    for algorithm in ["rsa-2048", "x25519"] {
        let file = safe.path(algorithm);
        run(&["keygen", "--algorithm", algorithm, "--out", str(&file), "--passphrase-file", str(&passphrase)], b"").ok();
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        let (code, report) = run(&["key", "show", str(&file)], b"").failed();
        assert_eq!(code, 2);
        assert!(report.contains("is encrypted, and no passphrase file was named\nhint: "), "{report}");
        let shown = run(&["key", "show", str(&file), "--passphrase-file", str(&passphrase)], b"").ok();
        assert!(shown.contains(&format!("algorithm    {algorithm}\n")), "{shown}");
    }
}

#[test]
fn keygen_never_overwrites_and_leaves_nothing_when_it_cannot_write() {
    let safe = Safe::new();
    let file = safe.write("file", "precious");
    let dangling = safe.path("dangling");
    symlink(safe.path("nothing"), &dangling).unwrap();
    for taken in [&file, &dangling] {
        let (code, report) = run(&["keygen", "--algorithm", "x25519", "--out", str(taken)], b"").failed();
        assert_eq!(code, 1);
        assert!(report.contains("exists, and a key is never overwritten"), "{report}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(!safe.path("nothing").exists());
    let (_, report) = run(&["keygen", "--algorithm", "x25519", "--out", str(&safe.path("no/such/folder"))], b"").failed();
    assert!(report.contains("cannot write the key file") && report.contains("\ncause: "), "{report}");
    // A passphrase file that cannot be used stops it before anything is made.
    let missing = safe.path("missing");
    let out = safe.path("out");
    run(&["keygen", "--algorithm", "x25519", "--out", str(&out), "--passphrase-file", str(&missing)], b"").failed();
    assert!(!out.exists());
}

/// The command looks before it makes a key; this is what holds when the file appears in between.
#[test]
fn writing_a_key_follows_no_link_and_overwrites_nothing() {
    let safe = Safe::new();
    let key = GeneratedKey::generate(NewKey::X25519).unwrap();
    let file = safe.write("file", "precious");
    let dangling = safe.path("dangling");
    symlink(safe.path("nothing"), &dangling).unwrap();
    for taken in [&file, &dangling] {
        assert!(matches!(key.write(taken, None), Err(key::Error::Exists { path }) if path == *taken));
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(!safe.path("nothing").exists());
}

#[test]
fn seal_takes_one_line_that_can_be_a_client_secret_and_no_longer_than_fits() {
    let safe = Safe::new();
    let rsa = safe.good("rsa-2048.pem");
    let seal = |stdin: &[u8]| run(&["seal", "--key", str(&rsa)], stdin);
    for (stdin, sentence) in [
        (b"".as_slice(), "standard input is empty"),
        (b"\n", "standard input is empty"),
        (b"two\nlines\n", "standard input holds a character that no client secret can hold"),
        (b"line ends\n\n", "standard input holds a character that no client secret can hold"),
        ("sécret".as_bytes(), "standard input holds a character that no client secret can hold"),
        (&[b'x'; 191], "the secret is longer than this key can seal, which is 190 bytes"),
        (&[b'x'; 100_000], "the secret is longer than this key can seal, which is 190 bytes"),
    ] {
        let (code, report) = seal(stdin).failed();
        assert_eq!(code, 1);
        assert!(report.starts_with(&format!("error: {sentence}\nhint: ")), "{report}");
    }
    for (stdin, secret) in [([b'x'; 190].as_slice(), "x".repeat(190)), (b"s\n", "s".into()), (b"s\r\n", "s".into()), (b" s ", " s ".into())]
    {
        let sealed = seal(stdin).ok();
        assert_eq!(run(&["unseal", "--key", str(&rsa)], sealed.as_bytes()).ok(), secret);
    }
    let x25519 = safe.good("x25519.pem");
    assert!(run(&["seal", "--key", str(&x25519)], &[b'x'; 16 * 1024]).failure.is_none());
    assert!(run(&["seal", "--key", str(&x25519)], &[b'x'; 16 * 1024 + 1]).failure.is_some());
}

#[test]
fn seal_takes_32_bare_bytes_for_a_public_key_and_never_for_a_private_one() {
    let safe = Safe::new();
    let private = safe.good("x25519.pem");
    for form in ["x25519.raw", "x25519.b64"] {
        let public = fixtures().join("public").join(form);
        let sealed = run(&["seal", "--key", str(&public)], b"secret").ok();
        assert_eq!(run(&["unseal", "--key", str(&private)], sealed.as_bytes()).ok(), "secret");
    }
}

#[test]
fn unseal_shows_a_secret_on_a_terminal_only_when_told_to() {
    let safe = Safe::new();
    let key = safe.good("x25519.pem");
    let sealed = run(&["seal", "--key", str(&key)], b"secret").ok();
    let (code, report) = run_on(true, &["unseal", "--key", str(&key)], sealed.as_bytes()).failed();
    assert_eq!(code, 1);
    assert!(report.contains("standard output is a terminal") && report.contains("--reveal"), "{report}");
    assert_eq!(run_on(true, &["unseal", "--key", str(&key), "--reveal"], sealed.as_bytes()).ok(), "secret");
}

#[test]
fn unseal_says_what_is_wrong_with_its_input_and_nothing_about_why_it_does_not_open() {
    let safe = Safe::new();
    let key = safe.good("rsa-2048.pem");
    let unseal = |stdin: &[u8]| run(&["unseal", "--key", str(&key)], stdin).failed().1;
    assert!(unseal(b" \n").starts_with("error: standard input is empty"));
    assert!(unseal(b"%%%").starts_with("error: standard input is not the base64 of a ciphertext"));
    assert!(unseal(&[b'A'; 70_000]).starts_with("error: standard input is not the base64 of a ciphertext"));
    let short = unseal(b"AAAA");
    assert!(short.starts_with("error: the ciphertext does not open with the runner's key\nhint: "), "{short}");
    let other_hash = run(&["seal", "--key", str(&key), "--oaep-hash", "sha512"], b"secret").ok();
    assert_eq!(unseal(other_hash.as_bytes()), short);
    assert_eq!(run(&["unseal", "--key", str(&key), "--oaep-hash", "sha512"], other_hash.as_bytes()).ok(), "secret");
    // Broken into lines, and without padding.
    let lines: String =
        other_hash.trim().trim_end_matches('=').as_bytes().chunks(76).map(|line| format!("{}\n", str::from_utf8(line).unwrap())).collect();
    assert_eq!(run(&["unseal", "--key", str(&key), "--oaep-hash", "sha512"], lines.as_bytes()).ok(), "secret");
}

#[test]
fn key_show_names_a_bad_file_and_says_that_a_development_key_is_one() {
    let safe = Safe::new();
    let (code, report) = run(&["key", "show", str(&safe.path("nothing"))], b"").failed();
    assert_eq!((code, report.contains("does not exist\nhint: make a key: ")), (2, true));
    let open = safe.write_with_mode("open", std::fs::read(fixtures().join("good/x25519.pem")).unwrap(), 0o644);
    assert!(run(&["key", "show", str(&open)], b"").failed().1.contains("is open to its group or to others (mode 0644)"));
    let development = safe.copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/development-x25519.pem"));
    assert!(run(&["key", "show", str(&development)], b"").ok().contains("a development key: everyone has its private half"));
}

#[test]
fn names_that_do_not_exist_are_refused_with_the_ones_that_do() {
    let refused = |args: &[&str]| Cli::try_parse_from([&["scm-agent"], args].concat()).unwrap_err().to_string();
    let text = refused(&["keygen", "--algorithm", "rsa-1024", "--out", "x"]);
    assert!(text.contains("rsa-2048, rsa-3072, rsa-4096, x25519"), "{text}");
    let text = refused(&["key", "show", "x", "--oaep-hash", "md5"]);
    assert!(text.contains("sha1, sha256, sha384, sha512"), "{text}");
}

#[test]
fn bare_bytes_are_shown_only_as_the_half_that_they_are_said_to_be() {
    let safe = Safe::new();
    let file = safe.path("bare");
    let bytes: Vec<u8> = (0..32_u8).map(|index| index.wrapping_mul(7) | 0x80).collect();
    std::fs::write(&file, &bytes).unwrap();
    for mode in [0o600, 0o644] {
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let (_, report) = run(&["key", "show", str(&file)], b"").failed();
        assert!(report.contains("may be a private or a public key") && report.contains("--private or --public"), "{report}");
        assert!(run(&["key", "show", str(&file), "--public"], b"").ok().contains("the public half"));
    }
    assert!(run(&["key", "show", str(&file), "--private"], b"").failed().1.contains("is open to its group or to others"));
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let private = run(&["key", "show", str(&file), "--private"], b"").ok();
    assert!(private.contains("the private half"));
    use base64::Engine;
    assert!(!private.contains(&base64::prelude::BASE64_STANDARD.encode(&bytes)), "the private half was printed");
}

#[test]
fn a_key_that_comes_through_a_pipe_is_read_once() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    let key = GeneratedKey::generate(NewKey::X25519).unwrap();
    let private = key.to_pem(None).unwrap();
    let through_a_pipe = |text: &str, args: &[&str]| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        let file = format!("/proc/self/fd/{}", reader.as_raw_fd());
        run(&[args, &[&file]].concat(), b"secret").ok()
    };
    assert!(!through_a_pipe(&key.public_key().to_pem(), &["seal", "--key"]).is_empty());
    assert!(through_a_pipe(&private, &["key", "show"]).contains("the private half"));
    assert!(through_a_pipe(&key.public_key().to_pem(), &["key", "show", "--public"]).contains("the public half"));
}
