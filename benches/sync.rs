//! What a list of 1,000 integrations costs, and what a lookup costs when there are many.
//!
//! The list: from its ten JSON pages, through the control plane's client, to every secret opened, beside the same pages fetched
//! over a bare socket, parsed with `serde_json::Value` and opened by OpenSSL (RSA) or `crypto_box` (X25519). Also one change
//! among them, and the memory that it takes, each in a process of its own. The lookup: `IntegrationRegistry::for_host` beside a
//! bare `HashMap`, from 10 to 10,000 integrations.
//!
//! `cargo bench --bench sync` prints medians and ratios; it exits 1 if a ratio is over its limit.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::exit, reason = "a measurement that cannot go on should stop, and it prints")]

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use scm_agent::api::{Config, ControlPlane, TokenSource};
use scm_agent::clock::SystemClock;
use scm_agent::http;
use scm_agent::integration::location::Location;
use scm_agent::integration::registry::{IntegrationRegistry, Lookup};
use scm_agent::integration::source::IntegrationList;
use scm_agent::integration::sync::{self, RandomJitter, SyncHandle};
use scm_agent::integration::{EncryptedClientSecret, OAuthApp, ScmId, ScmIntegration};
use scm_agent::key::{self, GeneratedKey, KeyRing, LoadOptions, NewKey, RunnerPrivateKey};
use scm_agent::secret::BearerToken;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// As the daemon has it: wiping what is freed is a part of the cost, for the peers too.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

const INTEGRATIONS: usize = 1_000;
const PAGE: usize = 100;
const ROUNDS: usize = 15;
/// The daemon leaves a second between two fetches, which is no cost of theirs.
const APART: Duration = Duration::from_millis(1_100);
const CHANGE_ROUNDS: usize = 5;
const LOOKUPS: usize = 100_000;
/// Few enough to stay in the processor's nearest cache.
const BATCH: usize = 32;
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const RUNNER: &str = "0f2cbd5e-9f0c-4d8e-8d5d-6c1f2a3b4c5d";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef01234567";
/// Ours to the peer's time, for a list sealed for RSA-2048, where opening is nearly all of it.
const LIST_LIMIT: f64 = 1.2;
/// A lookup among 10,000 to one among 10, asked for the few hosts that a runner uses. Asked for all in turn, either table is out of
/// the processor's caches, which is printed and not limited.
const GROWTH_LIMIT: f64 = 1.5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--memory") {
        return memory_child(&arguments[at + 1], Path::new(&arguments[at + 2]));
    }
    // `cargo test --benches` only wants to know that it builds.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let mut over = lookups();
    for algorithm in ["x25519", "rsa-2048"] {
        let work = tempfile::tempdir().unwrap();
        over |= lists(work.path(), algorithm) > LIST_LIMIT && algorithm == "rsa-2048";
    }
    std::process::exit(i32::from(over));
}

/// Measures a list sealed for one algorithm; the ratio of our time to the peer's.
fn lists(work: &Path, algorithm: &str) -> f64 {
    let list = List::prepare(work, algorithm);
    let served = Served::start(work);
    let mut opener = Opener::start(work, algorithm);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let control_plane = Arc::new(control_plane(served.address));
    let ours = || {
        let begun = Instant::now();
        let registry = IntegrationRegistry::new(runtime.block_on(control_plane.list_scm_integrations()).unwrap());
        let listed = begun.elapsed();
        open_all(&list.ring, &registry);
        (begun.elapsed(), listed)
    };
    let mut theirs = || {
        let begun = Instant::now();
        let (_rows, sealed) = fetch_plainly(served.address);
        let listed = begun.elapsed();
        (listed + opener.open(&sealed), listed)
    };
    // The first use of each lays out what later ones find.
    theirs();
    ours();
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (run, (whole, listed)) in [theirs(), ours()].into_iter().enumerate() {
            times[2 * run].push(whole.as_secs_f64());
            times[2 * run + 1].push(listed.as_secs_f64());
        }
    }
    let [their_whole, their_list, our_whole, our_list] = times.map(|times| median(times) * 1e3);
    let ratio = our_whole / their_whole;
    println!(
        "{INTEGRATIONS} integrations for {algorithm}, from the pages to all opened: {their_whole:.1} ms, ours {our_whole:.1} ms, ratio {ratio:.3}"
    );
    println!("  of that the list: {their_list:.1} ms, ours {our_list:.1} ms, ratio {:.3}", our_list / their_list);
    println!("  one changed: {:.1} ms from asking to in place and opened", runtime.block_on(one_change(list, &served, control_plane)));
    for who in ["theirs", "ours"] {
        let child = Command::new(std::env::current_exe().unwrap()).args(["--memory", who]).arg(work).output().unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        println!("  memory, {who}: {}", String::from_utf8_lossy(&child.stdout).trim());
    }
    ratio
}

/// The median milliseconds that it takes one integration's new secret to be in the registry and opened, from when it is asked for.
async fn one_change(mut list: List, served: &Served, source: Arc<ControlPlane>) -> f64 {
    let config = sync::Config { poll_interval: Duration::from_secs(3_600), ..sync::Config::default() };
    let handle = SyncHandle::start(source, config, Arc::new(SystemClock), Arc::new(RandomJitter));
    handle.first_list().await.unwrap();
    let mut times = Vec::new();
    for round in 0..CHANGE_ROUNDS {
        let changed = round * (INTEGRATIONS / CHANGE_ROUNDS) + 7;
        list.sealed[changed] = list.key.public_key().seal(SECRET).unwrap();
        *served.pages.lock().unwrap() = list.pages();
        tokio::time::sleep(APART).await;
        let begun = Instant::now();
        let registry = handle.sync_now().await.registry;
        let ciphertext = registry.get(&id(changed)).unwrap().oauth.as_ref().unwrap().encrypted_client_secret.as_bytes();
        drop(black_box(list.ring.decrypt(ciphertext).unwrap()));
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(ciphertext, list.sealed[changed]);
    }
    median(times)
}

/// Fetches and opens once, and prints what that took of memory, in a process that did nothing else.
fn memory_child(who: &str, work: &Path) {
    let served = Served::start(work);
    let ring = List::ring(work);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let control_plane = control_plane(served.address);
    // Asks the kernel to forget the highest it has seen.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let (ours, theirs);
    if who == "ours" {
        ours = IntegrationRegistry::new(runtime.block_on(control_plane.list_scm_integrations()).unwrap());
        open_all(&ring, &ours);
        black_box(&ours);
    } else {
        theirs = fetch_plainly(served.address);
        for sealed in &theirs.1 {
            drop(black_box(ring.decrypt(sealed).unwrap()));
        }
        black_box(&theirs);
    }
    println!("{:.1} MiB at the most, {:.1} MiB held", memory("VmHWM:") - before, memory("VmRSS:") - before);
}

/// A line of this process's status, in MiB.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Measures lookups among more and more integrations; whether they grow slower by too much.
fn lookups() -> bool {
    let tables: Vec<_> = SIZES.iter().map(|&size| (size, registry(size), bare_map(size))).collect();
    let mut over = false;
    for (asked, busy) in [("ten of the hosts", true), ("all hosts in turn", false)] {
        let mut times = vec![(Vec::new(), Vec::new()); SIZES.len()];
        for _ in 0..ROUNDS {
            for ((size, registry, map), (ours, theirs)) in tables.iter().zip(&mut times) {
                let among = if busy { SIZES[0] } else { *size };
                // 7,919 is a prime: all of them, in an order that no cache foresees.
                let nth = |n: usize| host(n * 7_919 % among * (size / among));
                theirs.push(per_lookup(nth, |host| {
                    black_box(map.get(black_box(host.as_str())).unwrap());
                }));
                let location = |n| Location::from_git(b"https", nth(n).as_bytes(), None, None, false).unwrap();
                ours.push(per_lookup(location, |location| {
                    assert!(matches!(black_box(registry.for_host(black_box(location))), Lookup::Match(_)));
                }));
            }
        }
        let medians: Vec<_> = times.into_iter().map(|(ours, theirs)| (median(ours), median(theirs))).collect();
        let (first_ours, first_theirs) = medians[0];
        for (size, (ours, theirs)) in SIZES.iter().zip(medians) {
            over |= busy && ours / first_ours > GROWTH_LIMIT;
            println!(
                "lookup among {size}, asked for {asked}: HashMap {theirs:.0} ns, ours {ours:.0} ns; to that among {}: HashMap {:.2}, ours {:.2}",
                SIZES[0],
                theirs / first_theirs,
                ours / first_ours
            );
        }
    }
    over
}

/// Nanoseconds per `find`, of what `make` made just before, as git's request is when its host is looked up.
fn per_lookup<K>(make: impl Fn(usize) -> K, find: impl Fn(&K)) -> f64 {
    let mut spent = Duration::ZERO;
    for batch in 0..LOOKUPS / BATCH {
        let made: Vec<K> = (0..BATCH).map(|number| make(batch * BATCH + number)).collect();
        let begun = Instant::now();
        made.iter().for_each(&find);
        spent += begun.elapsed();
    }
    spent.as_secs_f64() * 1e9 / (LOOKUPS / BATCH * BATCH) as f64
}

fn host(number: usize) -> String {
    format!("git-{number}.example.com")
}

fn bare_map(size: usize) -> HashMap<String, usize> {
    (0..size).map(|number| (host(number), number)).collect()
}

fn registry(size: usize) -> IntegrationRegistry {
    let integration = |number| ScmIntegration {
        id: id(number),
        scm_id: ScmId::Other("custom-git".to_owned()),
        host: host(number),
        oauth: Some(OAuthApp {
            client_id: format!("client-{number}"),
            encrypted_client_secret: EncryptedClientSecret::new(vec![0; 256]),
            issuer_url: None,
        }),
        pat: false,
        runner_id: RUNNER.to_owned(),
        virtual_directory: String::new(),
    };
    let registry = IntegrationRegistry::new(IntegrationList {
        integrations: (0..size).map(|number| std::sync::Arc::new(integration(number))).collect(),
        rejected: Vec::new(),
    });
    assert_eq!(registry.integrations().len(), size);
    registry
}

fn id(number: usize) -> String {
    format!("{number:08x}-1111-4222-8333-444444444444")
}

/// A list and the key that it is sealed for.
struct List {
    key: RunnerPrivateKey,
    ring: KeyRing,
    sealed: Vec<Vec<u8>>,
}

impl List {
    /// Makes a key, and a list as files in `work`, where children find it too.
    fn prepare(work: &Path, algorithm: &str) -> Self {
        let file = work.join("key.pem");
        GeneratedKey::generate(algorithm.parse::<NewKey>().unwrap()).unwrap().write(&file, None).unwrap();
        let key = RunnerPrivateKey::load(&file, &LoadOptions::default()).unwrap();
        let sealed: Vec<_> = (0..INTEGRATIONS).map(|_| key.public_key().seal(SECRET).unwrap()).collect();
        std::fs::write(work.join("sealed"), &sealed[0]).unwrap();
        let list = Self { ring: Self::ring(work), key, sealed };
        for (number, page) in list.pages().iter().enumerate() {
            std::fs::write(work.join(format!("page-{number}.json")), page).unwrap();
        }
        list
    }

    fn ring(work: &Path) -> KeyRing {
        KeyRing::load(&key::Config { files: vec![work.join("key.pem")], ..key::Config::default() }).unwrap()
    }

    /// The list as the control plane sends it.
    fn pages(&self) -> Vec<Vec<u8>> {
        let page = |(number, sealed): (usize, &[Vec<u8>])| {
            let row = |(place, sealed): (usize, &Vec<u8>)| {
                let place = number * PAGE + place;
                let secret = BASE64_STANDARD.encode(sealed);
                let oauth = json!({ "clientId": format!("client-{place}"), "encryptedClientSecret": secret, "issuerUrl": "https://id.example.com" });
                json!({ "id": id(place), "runnerId": RUNNER, "scmId": "custom-git", "host": host(place), "oauth": oauth })
            };
            let rows: Vec<Value> = sealed.iter().enumerate().map(row).collect();
            let next = if (number + 1) * PAGE < INTEGRATIONS { (number + 1).to_string() } else { String::new() };
            json!({ "pagination": { "nextToken": next }, "integrations": rows }).to_string().into_bytes()
        };
        self.sealed.chunks(PAGE).enumerate().map(page).collect()
    }
}

/// Opens every secret of a list, one after the other, as the daemon does.
fn open_all(ring: &KeyRing, registry: &IntegrationRegistry) {
    assert_eq!(registry.integrations().len(), INTEGRATIONS);
    for integration in registry.integrations() {
        let app = integration.oauth.as_ref().unwrap();
        drop(black_box(ring.decrypt(app.encrypted_client_secret.as_bytes()).unwrap()));
    }
}

/// The peer's way: each page over a bare socket, into a `Value`, and the ciphertexts out of that.
fn fetch_plainly(address: SocketAddr) -> (Vec<Value>, Vec<Vec<u8>>) {
    let (mut rows, mut sealed, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let body = json!({ "pagination": { "pageSize": PAGE, "token": token } }).to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "POST / HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        let begun = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let mut page: Value = serde_json::from_slice(&reply[begun..]).unwrap();
        for row in page["integrations"].as_array_mut().unwrap().drain(..) {
            sealed.push(BASE64_STANDARD.decode(row["oauth"]["encryptedClientSecret"].as_str().unwrap()).unwrap());
            rows.push(row);
        }
        token = page["pagination"]["nextToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return (rows, sealed);
        }
    }
}

/// The peer that opens: `crypto_box` in this process, or OpenSSL in its own, which says how long it took.
enum Opener {
    CryptoBox(crypto_box::SecretKey),
    OpenSsl { child: Child, asked: ChildStdin, told: BufReader<ChildStdout> },
}

impl Opener {
    fn start(work: &Path, algorithm: &str) -> Self {
        let file = work.join("key.pem");
        if algorithm == "x25519" {
            let document = pkcs8::SecretDocument::from_pem(&std::fs::read_to_string(file).unwrap()).unwrap().1;
            let info = pkcs8::PrivateKeyInfo::try_from(document.as_bytes()).unwrap();
            // RFC 8410 section 7: an octet string in the octet string.
            let scalar: [u8; 32] = info.private_key[2..].try_into().unwrap();
            return Self::CryptoBox(scalar.into());
        }
        let program = work.join("open");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/open.c");
        let built = Command::new("cc").args(["-O2", "-Wall", "-Werror", "-o"]).arg(&program).arg(source).arg("-lcrypto").status();
        if !built.is_ok_and(|status| status.success()) {
            println!("needs a C compiler and OpenSSL's headers (Debian: apt-get install gcc libssl-dev)");
            std::process::exit(2);
        }
        let sealed = work.join("sealed");
        let mut child = Command::new(program).arg(file).arg(sealed).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (asked, told) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self::OpenSsl { child, asked, told }
    }

    /// Opens all of them; OpenSSL does its one as many times.
    fn open(&mut self, sealed: &[Vec<u8>]) -> Duration {
        match self {
            Self::CryptoBox(key) => {
                let begun = Instant::now();
                for one in sealed {
                    drop(black_box(Zeroizing::new(key.unseal(one).unwrap())));
                }
                begun.elapsed()
            }
            Self::OpenSsl { asked, told, .. } => {
                writeln!(asked, "{}", sealed.len()).unwrap();
                let mut line = String::new();
                told.read_line(&mut line).unwrap();
                Duration::from_nanos(line.trim().parse().unwrap())
            }
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        if let Self::OpenSsl { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The pages over HTTP, one connection after the other, for as long as the process lives.
struct Served {
    address: SocketAddr,
    pages: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Served {
    /// Serves the pages that are in `work`.
    fn start(work: &Path) -> Self {
        let read = |number| std::fs::read(work.join(format!("page-{number}.json"))).unwrap();
        let pages = Arc::new(Mutex::new((0..INTEGRATIONS / PAGE).map(read).collect::<Vec<_>>()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, served) = (listener.local_addr().unwrap(), Arc::clone(&pages));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &served);
            }
        });
        Self { address, pages }
    }
}

/// Answers one request with the page that its `token` names.
fn answer(stream: TcpStream, pages: &Mutex<Vec<Vec<u8>>>) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let page: usize = request["pagination"]["token"].as_str().unwrap().parse().unwrap_or(0);
    let pages = pages.lock().unwrap();
    let mut stream = reader.into_inner();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", pages[page].len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&pages[page]).unwrap();
}

fn control_plane(address: SocketAddr) -> ControlPlane {
    let token = BearerToken::parse(Zeroizing::new(b"bench".to_vec())).unwrap();
    ControlPlane::new(Config {
        base_url: format!("http://{address}/api").parse().unwrap(),
        runner_id: RUNNER.to_owned(),
        token: TokenSource::Environment { name: "BENCH", token },
        http: http::Config { allow_insecure_loopback: true, ..http::Config::default() },
    })
    .unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
