//! What opening an RSA secret costs, beside OpenSSL's own operation on the same key and ciphertext, in turns, so that whatever else
//! the machine does hits both alike. Also what it would cost to make the key anew for each secret, instead of keeping it.
//!
//! `cargo bench --bench open` prints medians and ratios; it exits 1 if RSA-2048 costs more than 1.1 times OpenSSL's operation.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::exit, reason = "a measurement that cannot go on should stop, and it prints")]

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use scm_agent::key::{GeneratedKey, LoadOptions, NewKey, RunnerPrivateKey};

const LIMIT: f64 = 1.1;
const ROUNDS: usize = 60;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef01234567";

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let openssl = work.path().join("open");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/open.c");
    let built = Command::new("cc").args(["-O2", "-Wall", "-Werror", "-o"]).arg(&openssl).arg(source).arg("-lcrypto").status();
    if !built.is_ok_and(|status| status.success()) {
        println!("needs a C compiler and OpenSSL's headers (Debian: apt-get install gcc libssl-dev)");
        std::process::exit(2);
    }
    let mut over = false;
    for (algorithm, batch) in [("rsa-2048", 50), ("rsa-3072", 20), ("rsa-4096", 10)] {
        let ratio = measure(work.path(), &openssl, algorithm, batch);
        over |= algorithm == "rsa-2048" && ratio > LIMIT;
    }
    std::process::exit(i32::from(over));
}

/// Measures one size and prints it; the ratio to OpenSSL.
fn measure(work: &Path, openssl: &Path, algorithm: &str, batch: u32) -> f64 {
    let (key_file, sealed_file) = (work.join(format!("{algorithm}.pem")), work.join(format!("{algorithm}.sealed")));
    GeneratedKey::generate(algorithm.parse::<NewKey>().unwrap()).unwrap().write(&key_file, None).unwrap();
    let key = RunnerPrivateKey::load(&key_file, &LoadOptions::default()).unwrap();
    let sealed = key.public_key().seal(SECRET).unwrap();
    std::fs::write(&sealed_file, &sealed).unwrap();
    let pkcs8 = pkcs8::SecretDocument::from_pem(&std::fs::read_to_string(&key_file).unwrap()).unwrap().1;

    let mut child = Command::new(openssl).arg(&key_file).arg(&sealed_file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut asked, mut told) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut theirs = || {
        writeln!(asked, "{batch}").unwrap();
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        line.trim().parse::<f64>().unwrap() / f64::from(batch)
    };
    let ours = || per_operation(batch, || drop(black_box(key.decrypt(&sealed).unwrap())));
    let rebuilt = || {
        per_operation(batch, || {
            let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(pkcs8.as_bytes()).unwrap()).unwrap();
            let mut opened = vec![0; key.min_output_size()];
            assert_eq!(key.decrypt(&OAEP_SHA256_MGF1SHA256, &sealed, &mut opened, None).unwrap(), SECRET);
        })
    };
    // The first use of each lays out what later ones find.
    theirs();
    ours();
    rebuilt();
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(theirs());
        times[1].push(ours());
        times[2].push(rebuilt());
    }
    drop(asked);
    child.wait().unwrap();
    let [theirs, ours, rebuilt] = times.map(median);
    println!(
        "{algorithm}: OpenSSL {:.3} ms, ours {:.3} ms, ratio {:.3}; with the key made anew each time {:.3} ms, ratio {:.3}",
        theirs / 1e6,
        ours / 1e6,
        ours / theirs,
        rebuilt / 1e6,
        rebuilt / theirs
    );
    ours / theirs
}

/// Nanoseconds per call.
fn per_operation(count: u32, mut operation: impl FnMut()) -> f64 {
    let begun = Instant::now();
    for _ in 0..count {
        operation();
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
