//! Tokens that a host refuses are replaced within the same git command, and what refuses every token costs next to nothing.

use std::collections::HashSet;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::grants::host::Host;
use crate::grants::{ask, until_over};
use crate::support::daemon::{Daemon, git_with_helper, run, succeed};
use crate::support::git_host::{GitHost, create_repository, git};
use crate::support::scene::Scene;
use crate::support::world::World;

/// What a git from 2.46 on says before everything else.
const NEW: &str = "capability[]=authtype\ncapability[]=state\n";

/// Whom the git host lets in.
#[derive(Default)]
struct Door {
    /// The tokens that it has taken, in order.
    accepted: Mutex<Vec<String>>,
    /// The tokens that it refuses.
    denied: Mutex<HashSet<String>>,
    denies_all: Mutex<bool>,
    /// After so many more requests the token of the last one is refused; 0 is never.
    deny_after: AtomicUsize,
    /// Is told of each refusal of a token.
    on_refusal: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Door {
    fn opens(&self, token: &str) -> bool {
        // What libcurl makes of a user name in the URL, before git asks for anything.
        if token.is_empty() {
            return false;
        }
        if *self.denies_all.lock().unwrap() || self.denied.lock().unwrap().contains(token) {
            if let Some(tell) = &*self.on_refusal.lock().unwrap() {
                tell();
            }
            return false;
        }
        self.accepted.lock().unwrap().push(token.to_owned());
        if self.deny_after.load(Ordering::SeqCst) > 0 && self.deny_after.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.denied.lock().unwrap().insert(token.to_owned());
        }
        true
    }

    /// Has the token that was taken last refused from now on.
    fn revoke(&self) -> String {
        let token = self.accepted.lock().unwrap().last().unwrap().clone();
        self.denied.lock().unwrap().insert(token.clone());
        token
    }

    fn deny_all(&self, denies: bool) {
        *self.denies_all.lock().unwrap() = denies;
    }
}

/// A runner host with a git host of which tokens can be revoked.
struct Place {
    scene: Scene,
    git_host: GitHost,
    door: Arc<Door>,
}

impl Place {
    /// Where the app itself has a token.
    async fn new() -> Self {
        let place = Self::bare().await;
        place.scene.control_plane.set_integrations(vec![place.scene.integration(1, &place.git_host.host())]);
        place
    }

    async fn bare() -> Self {
        let scene = Scene::in_world(World::with_key(crate::binaries(), "x25519")).await;
        let root = scene.world.path("repositories");
        std::fs::create_dir(&root).unwrap();
        let repository = create_repository(&root, "project.git").await;
        // Something to fetch.
        let tree = succeed(git_in(&repository, &["mktree"])).await;
        let commit = succeed(git_in(&repository, &["commit-tree", "-m", "Begin", tree.trim()])).await;
        succeed(git_in(&repository, &["update-ref", "refs/heads/main", commit.trim()])).await;
        let door = Arc::new(Door::default());
        let opens = Arc::clone(&door);
        let git_host = GitHost::start_with(&root, "Basic realm=\"git\"", move |authorization| {
            token_of(authorization).is_some_and(|token| opens.opens(&token))
        })
        .await;
        Self { scene, git_host, door }
    }

    /// Where a user has signed in, and the host that it was at.
    async fn with_sign_in() -> (Self, Host, Daemon) {
        let (place, host) = (Self::bare().await, Host::start().await);
        let mut integration = place.scene.integration(1, &place.git_host.host());
        integration["oauth"]["issuerUrl"] = json!(host.issuer_url());
        place.scene.control_plane.set_integrations(vec![integration]);
        let daemon = place.start().await;
        place.sign_in(&host, &daemon, "").await;
        (place, host, daemon)
    }

    async fn sign_in(&self, host: &Host, daemon: &Daemon, account: &str) {
        host.confirm(true);
        let account = if account.is_empty() { String::new() } else { format!("account={account}\n") };
        let begun = ask(daemon, "login", &format!("url={}\nmode=device\n{account}", self.git_host.url(""))).await;
        let session = begun["session"].as_str().unwrap_or_else(|| panic!("{begun}"));
        assert_eq!(until_over(daemon, session).await["state"], "done");
    }

    async fn start(&self) -> Daemon {
        self.start_with("").await
    }

    async fn start_with(&self, more: &str) -> Daemon {
        let config = self.scene.config("60s");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{text}\n{more}\n")).unwrap();
        let daemon = self.scene.world.start(&config).await;
        // With a kept list it would take its time.
        daemon.ask("scm-agent/1 sync\n\n").await;
        daemon.until_synced().await;
        daemon
    }

    fn command(&self, daemon: &Daemon, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = git_with_helper(directory, &self.scene.world.binaries.helper, daemon.socket());
        command.args(arguments);
        command
    }

    async fn git(&self, daemon: &Daemon, arguments: &[&str]) -> Output {
        run(self.command(daemon, self.scene.world.directory(), arguments), "").await
    }

    async fn ls_remote(&self, daemon: &Daemon) -> Output {
        self.git(daemon, &["ls-remote", &self.git_host.url("project.git")]).await
    }

    /// A git of before 2.46, as far as the helper can tell.
    fn old_git(&self, daemon: &Daemon) -> Command {
        let mut command = git(self.scene.world.directory());
        let helper = self.scene.world.binaries.helper.display();
        let socket = daemon.socket().display();
        command.args(["-c", "credential.helper="]).arg("-c");
        command.arg(format!("credential.helper=!f() {{ sed '/^capability/d' | {helper} --socket {socket} \"$@\"; }}; f"));
        command.args(["ls-remote", &self.git_host.url("project.git")]);
        command
    }

    fn request(&self, verb: &str, lines: &str) -> String {
        format!("scm-agent/1 {verb}\n{lines}protocol=http\nhost={}\n\n", self.git_host.host())
    }

    async fn get(&self, daemon: &Daemon, lines: &str) -> String {
        daemon.ask(&self.request("get", lines)).await
    }

    fn token_requests(&self) -> usize {
        self.scene.issuer.token_requests()
    }
}

fn git_in(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = git(directory);
    command.args(arguments);
    command
}

fn token_of(authorization: &str) -> Option<String> {
    if let Some(token) = authorization.strip_prefix("Bearer ") {
        return Some(token.to_owned());
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(authorization.strip_prefix("Basic ")?).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

fn value<'a>(answer: &'a str, key: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The lines of ours in what git printed.
fn own_lines(output: &Output) -> Vec<String> {
    stderr(output).lines().filter_map(|line| line.strip_prefix("git-credential-scm-agent: ")).map(str::to_owned).collect()
}

fn assert_done(output: &Output, daemon: &Daemon) {
    assert!(output.status.success(), "{}\n{}", stderr(output), daemon.log());
    assert_eq!(own_lines(output), [""; 0], "it is nobody's business");
}

#[tokio::test]
async fn a_token_that_the_host_revoked_is_replaced_within_each_command() {
    for bearer in [false, true] {
        let place = Place::new().await;
        let daemon = place.start_with(&format!("[[provider]]\nhost = \"{}\"\nbearer = {bearer}", place.git_host.host())).await;
        let url = place.git_host.url("project.git");
        let mut minted = 1;
        assert_done(&place.ls_remote(&daemon).await, &daemon);
        let check = async |what: &str, output: Output, minted: &mut usize| {
            *minted += 1;
            assert_done(&output, &daemon);
            assert_eq!(place.token_requests(), *minted, "{what}: one more token, and one only");
        };
        place.door.revoke();
        check("ls-remote", place.ls_remote(&daemon).await, &mut minted).await;
        place.door.revoke();
        check("clone", place.git(&daemon, &["clone", "--quiet", &url, "work"]).await, &mut minted).await;
        let work = place.scene.world.path("work");
        place.door.revoke();
        check("fetch", run(place.command(&daemon, &work, &["fetch", "--quiet"]), "").await, &mut minted).await;
        std::fs::write(work.join("file"), "content\n").unwrap();
        succeed(git_in(&work, &["add", "file"])).await;
        succeed(git_in(&work, &["commit", "--quiet", "--message", "Add a file"])).await;
        place.door.revoke();
        check("push", run(place.command(&daemon, &work, &["push", "--quiet", "origin", "HEAD:main"]), "").await, &mut minted).await;
        assert_eq!(place.door.accepted.lock().unwrap().iter().collect::<HashSet<_>>().len(), minted);
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_between_two_requests_of_a_command_is_replaced_too() {
    let place = Place::new().await;
    let daemon = place.start().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    // What is there already is taken for the first request of the clone, and not for the next.
    place.door.deny_after.store(1, Ordering::SeqCst);
    assert_done(&place.git(&daemon, &["clone", "--quiet", &place.git_host.url("project.git"), "work"]).await, &daemon);
    assert_eq!(place.token_requests(), 2);
}

#[tokio::test]
async fn a_git_that_knows_no_state_fails_once_and_the_next_command_works() {
    let place = Place::new().await;
    let daemon = place.start().await;
    assert_done(&run(place.old_git(&daemon), "").await, &daemon);
    place.door.revoke();
    let first = run(place.old_git(&daemon), "").await;
    assert!(!first.status.success() && stderr(&first).contains("Authentication failed"), "{}", stderr(&first));
    assert_done(&run(place.old_git(&daemon), "").await, &daemon);
    assert_eq!(place.token_requests(), 2);
}

#[tokio::test]
async fn a_user_s_token_is_renewed_within_the_command_and_each_refresh_token_is_used_once() {
    let (place, host, daemon) = Place::with_sign_in().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    for round in 1..=3 {
        place.door.revoke();
        assert_done(&place.ls_remote(&daemon).await, &daemon);
        assert_eq!((host.refreshes_asked(), host.replays()), (round, 0));
    }
    // The new pair is the one that is kept.
    assert!(daemon.terminate().await.success());
    let daemon = place.start().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    assert_eq!(host.refreshes_asked(), 3);
    // Of a kept token too.
    place.door.revoke();
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    assert_eq!((host.refreshes_asked(), host.replays(), host.live_pairs()), (4, 0, 1));
}

#[tokio::test]
async fn of_several_accounts_the_one_is_renewed_whose_token_was_refused() {
    let (place, host, daemon) = Place::with_sign_in().await;
    place.sign_in(&host, &daemon, "work").await;
    place.sign_in(&host, &daemon, "home").await;
    let url = place.git_host.url("project.git").replace("://", "://work@");
    assert_done(&place.git(&daemon, &["ls-remote", &url]).await, &daemon);
    let refused = place.door.revoke();
    // The second request has the user name that was answered to the first.
    assert_done(&place.git(&daemon, &["ls-remote", &url]).await, &daemon);
    assert_eq!(host.refreshes_asked(), 1);
    let of = async |name: &str| value(&place.get(&daemon, &format!("username={name}\n")).await, "password").unwrap().to_owned();
    let (work, home) = (of("work").await, of("home").await);
    assert_ne!(work, refused);
    assert_eq!(Some(&work), place.door.accepted.lock().unwrap().last());
    assert_ne!(work, home);
}

#[tokio::test]
async fn where_there_is_no_other_token_git_ends_with_one_line_that_says_what_to_do() {
    let (place, host, daemon) = Place::with_sign_in().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    place.door.revoke();
    host.refuse();
    let before = place.git_host.refused();
    let output = place.ls_remote(&daemon).await;
    assert!(!output.status.success());
    let lines = own_lines(&output);
    assert_eq!(lines.len(), 1, "{}", stderr(&output));
    assert!(
        lines[0].contains("the host refused the token, and there is no other") && lines[0].contains("run: scm-agent login "),
        "{lines:?}"
    );
    assert!(stderr(&output).contains("told us to quit") && place.git_host.refused() - before == 2, "{}", stderr(&output));

    // And so where the app's secret gives none.
    let place = Place::new().await;
    let daemon = place.start().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    place.door.revoke();
    place.scene.issuer.set_manner(crate::support::issuer::Manner::Unavailable);
    let output = place.ls_remote(&daemon).await;
    assert_eq!((output.status.success(), own_lines(&output).len()), (false, 1), "{}", stderr(&output));
    assert!(own_lines(&output)[0].contains("HTTP 503"), "{}", stderr(&output));
}

#[tokio::test]
async fn where_a_personal_access_token_will_do_git_may_ask_for_one() {
    let place = Place::bare().await;
    let mut integration = place.scene.integration(1, &place.git_host.host());
    integration["pat"] = json!(true);
    place.scene.control_plane.set_integrations(vec![integration]);
    let daemon = place.start().await;
    place.get(&daemon, "").await;
    let answer = place.get(&daemon, NEW).await;
    place.scene.issuer.set_manner(crate::support::issuer::Manner::Unavailable);
    let state = format!("{NEW}state[]={}\n", value(&answer, "state[]").unwrap());
    let told = place.get(&daemon, &state).await;
    assert!(told.starts_with("message=the host refused the token, and there is no other") && !told.contains("quit"), "{told}");
}

#[tokio::test]
async fn a_host_that_refuses_whatever_comes_costs_a_few_tokens_and_one_clear_line() {
    let place = Place::new().await;
    let daemon = place.start().await;
    place.door.deny_all(true);
    let mut told = 0;
    for round in 0..100 {
        let before = place.git_host.refused();
        let output = place.ls_remote(&daemon).await;
        assert!(!output.status.success());
        assert!(place.git_host.refused() - before <= 3, "git has three requests");
        let lines = own_lines(&output);
        assert!(lines.len() <= 1, "{lines:?}");
        let expected = format!("{} refused ", place.git_host.host());
        let doctor = format!("run: scm-agent doctor http://{}/REPOSITORY", place.git_host.host());
        if lines.iter().any(|line| line.starts_with(&expected) && line.contains(" new tokens in a row; ") && line.ends_with(&doctor)) {
            told += 1;
        } else {
            assert!(lines.is_empty() && round < 10, "{lines:?}");
        }
    }
    // Three, and one more after each pause of half a minute, a minute, two …
    assert!((3..=6).contains(&place.token_requests()), "{} token requests", place.token_requests());
    assert!(told >= 90, "{told}");
    let status = daemon.status().await;
    let token = &status["integrations"][0]["tokens"][0];
    assert_eq!(token["state"], "failing", "{status}");
    assert!(token["last_error"].as_str().unwrap().contains("new tokens in a row"), "{status}");
    assert!(status["degraded"][0].as_str().unwrap().contains("new tokens in a row"), "{status}");

    // The token at hand was right all along.
    let requests = place.token_requests();
    place.door.deny_all(false);
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    assert_eq!(place.token_requests(), requests);
    assert_eq!(daemon.status().await["degraded"], json!([]));
    let log = daemon.final_log().await;
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!((count("the host refuses new tokens as soon as they come"), count("are replaced again")), (requests - 2, 1), "{log}");
}

#[tokio::test]
async fn a_git_that_knows_no_state_is_told_by_the_helper_s_erase() {
    let place = Place::new().await;
    let daemon = place.start().await;
    place.door.deny_all(true);
    let mut lines = Vec::new();
    for _ in 0..4 {
        lines.push(own_lines(&run(place.old_git(&daemon), "").await));
    }
    assert_eq!((lines[0].len(), lines[1].len(), lines[2].len(), lines[3].len()), (0, 0, 1, 1), "{lines:?}");
    assert_eq!(place.token_requests(), 3);
}

#[tokio::test]
async fn a_user_s_grant_is_not_worn_out_by_a_host_that_refuses_whatever_comes() {
    let (place, host, daemon) = Place::with_sign_in().await;
    place.door.deny_all(true);
    for _ in 0..20 {
        assert!(!place.ls_remote(&daemon).await.status.success());
    }
    assert!((2..=4).contains(&host.refreshes_asked()), "{} refreshes", host.refreshes_asked());
    let accounts = ask(&daemon, "accounts", "").await;
    assert_eq!(accounts["accounts"][0]["state"], "failing", "{accounts}");
    assert!(accounts["accounts"][0]["last_error"].as_str().unwrap().contains("new tokens in a row"), "{accounts}");
    place.door.deny_all(false);
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    assert_eq!(ask(&daemon, "accounts", "").await["accounts"][0]["state"], "valid");
}

/// Runs so many fetches at once; all have to succeed.
async fn fetch_at_once(place: &Place, daemon: &Daemon, count: usize) {
    let mut fetches = JoinSet::new();
    for _ in 0..count {
        let command = place.command(daemon, &place.scene.world.path("work"), &["fetch", "--quiet", "--no-write-fetch-head"]);
        fetches.spawn(run(command, ""));
    }
    while let Some(output) = fetches.join_next().await {
        let output = output.unwrap();
        assert!(output.status.success(), "{}\n{}", stderr(&output), daemon.log());
    }
}

async fn clone(place: &Place, daemon: &Daemon) {
    assert_done(&place.git(daemon, &["clone", "--quiet", &place.git_host.url("project.git"), "work"]).await, daemon);
}

#[tokio::test]
async fn a_hundred_fetches_with_a_revoked_token_all_heal_with_one_mint() {
    let place = Place::new().await;
    let daemon = place.start_with("").await;
    clone(&place, &daemon).await;
    place.door.revoke();
    fetch_at_once(&place, &daemon, 100).await;
    assert_eq!(place.token_requests(), 2);
}

#[tokio::test]
async fn a_hundred_fetches_with_an_expired_token_cause_one_mint_and_none_fails() {
    let place = Place::new().await;
    place.scene.issuer.set_expires_in(2);
    let daemon = place.start().await;
    clone(&place, &daemon).await;
    place.door.revoke();
    place.scene.issuer.set_expires_in(3_600);
    daemon.until(|status| status["integrations"][0]["tokens"] == json!([])).await;
    let before = place.token_requests();
    fetch_at_once(&place, &daemon, 100).await;
    assert_eq!(place.token_requests(), before + 1);
}

#[tokio::test]
async fn a_hundred_fetches_with_a_revoked_token_of_a_user_cause_one_refresh() {
    let (place, host, daemon) = Place::with_sign_in().await;
    clone(&place, &daemon).await;
    place.door.revoke();
    fetch_at_once(&place, &daemon, 100).await;
    assert_eq!((host.refreshes_asked(), host.replays()), (1, 0));
}

#[tokio::test]
async fn only_a_cached_token_has_a_state_and_only_for_a_git_that_takes_one() {
    let place = Place::new().await;
    let daemon = place.start().await;
    let first = place.get(&daemon, NEW).await;
    assert!(first.starts_with("capability[]=authtype\nephemeral=1\nusername=oauth2\npassword="), "{first}");
    assert!(!first.contains("state") && !first.contains("continue"), "it came just now: {first}");
    let second = place.get(&daemon, NEW).await;
    let state = value(&second, "state[]").unwrap();
    assert!(second.starts_with("capability[]=authtype\ncapability[]=state\nephemeral=1\nusername=oauth2\npassword="), "{second}");
    assert!(second.ends_with(&format!("state[]={state}\ncontinue=1\n\n")), "{second}");
    assert_eq!(value(&first, "password"), value(&second, "password"));
    // It says nothing of the token, and the same to the same.
    let token = value(&second, "password").unwrap();
    let digits = state.strip_prefix("scm-agent:").unwrap();
    assert!(digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{state}");
    let encodings = [BASE64_STANDARD.encode(token), token.bytes().map(|byte| format!("{byte:02x}")).collect()];
    assert!(encodings.iter().all(|text| !text.contains(&digits[..16]) && !digits.contains(&text[..16])), "{state}");
    assert_eq!(value(&place.get(&daemon, NEW).await, "state[]"), Some(state));

    let only_state = place.get(&daemon, "capability[]=state\n").await;
    assert!(only_state.starts_with("capability[]=state\nusername=") && !only_state.contains("ephemeral"), "{only_state}");
    for lines in ["", "capability[]=authtype\n", "capability[]=state\ncapability[]=\n", "capability[]=states\n"] {
        let answer = place.get(&daemon, lines).await;
        assert!(!answer.contains("state") && !answer.contains("continue") && answer.contains("password="), "{lines:?}: {answer}");
    }
    // Another process takes it for nothing of its own.
    let asked = format!("{NEW}state[]={state}\n");
    assert!(daemon.terminate().await.success());
    let daemon = place.start().await;
    place.get(&daemon, NEW).await;
    assert_ne!(value(&place.get(&daemon, NEW).await, "state[]"), Some(state));
    let requests = place.token_requests();
    let answer = place.get(&daemon, &asked).await;
    assert!(answer.contains("password=") && !answer.contains("continue="), "git asks no third time: {answer}");
    assert_eq!(place.token_requests(), requests);
}

#[tokio::test]
async fn a_state_causes_one_mint_at_most_and_one_that_is_not_ours_none() {
    let place = Place::new().await;
    let daemon = place.start().await;
    place.get(&daemon, NEW).await;
    let answer = place.get(&daemon, NEW).await;
    let (token, state) = (value(&answer, "password").unwrap().to_owned(), value(&answer, "state[]").unwrap().to_owned());
    let mut forged: Vec<String> = (10..state.len())
        .step_by(7)
        .map(|at| format!("{}{}{}", &state[..at], if &state[at..=at] == "0" { "1" } else { "0" }, &state[at + 1..]))
        .collect();
    forged.extend(["scm-agent:".to_owned(), "scm-agent:1".to_owned(), format!("{state}0"), state.to_uppercase(), state[..40].to_owned()]);
    forged.extend([format!("other:{state}"), format!("{state}\nstate[]={state}"), format!("{state}\nstate[]=")]);
    for state in forged {
        let answer = place.get(&daemon, &format!("{NEW}state[]={state}\n")).await;
        assert_eq!(value(&answer, "password"), Some(token.as_str()), "{state}");
    }
    assert_eq!(place.token_requests(), 1);
    // Of another place it means nothing either.
    assert_eq!(daemon.ask(&format!("scm-agent/1 get\n{NEW}state[]={state}\nprotocol=https\nhost=other.example.com\n\n")).await, "\n");

    let healed = place.get(&daemon, &format!("{NEW}state[]=other:1\nstate[]={state}\nusername=oauth2\n")).await;
    let new = value(&healed, "password").unwrap();
    assert!(new != token && !healed.contains("continue=") && !healed.contains("state[]="), "{healed}");
    for _ in 0..50 {
        let again = place.get(&daemon, &format!("{NEW}state[]={state}\n")).await;
        assert_eq!(value(&again, "password"), Some(new), "it was replaced meanwhile");
        assert!(!again.contains("continue="), "{again}");
    }
    assert_eq!(place.token_requests(), 2);
}

#[tokio::test]
async fn an_issuer_that_gives_the_same_token_again_is_asked_once_for_each_state() {
    let place = Place::new().await;
    let body = br#"{"access_token":"same","token_type":"Bearer","expires_in":3600}"#;
    place.scene.issuer.set_manner(crate::support::issuer::Manner::Fixed(200, "application/json", body.to_vec()));
    let daemon = place.start().await;
    place.get(&daemon, NEW).await;
    let state = format!("{NEW}state[]={}\n", value(&place.get(&daemon, NEW).await, "state[]").unwrap());
    for _ in 0..10 {
        assert_eq!(value(&place.get(&daemon, &state).await, "password"), Some("same"));
    }
    assert_eq!(place.token_requests(), 2);
    // By erase it counts as well, however often it comes.
    for _ in 0..20 {
        daemon.ask(&place.request("erase", "username=oauth2\npassword=same\n")).await;
        place.get(&daemon, "").await;
    }
    assert_eq!(place.token_requests(), 3);
}

#[tokio::test]
async fn an_erase_counts_for_the_very_token_only_and_with_a_state_too() {
    let place = Place::new().await;
    let daemon = place.start().await;
    place.get(&daemon, NEW).await;
    let answer = place.get(&daemon, NEW).await;
    let (token, state) = (value(&answer, "password").unwrap(), value(&answer, "state[]").unwrap());
    for lines in [
        format!("username=oauth2\npassword={token}x\n"),
        format!("{NEW}ephemeral=1\nusername=oauth2\npassword=other\ncontinue=1\nstate[]={state}\n"),
        format!("{NEW}ephemeral=1\nusername=oauth2\ncontinue=1\nstate[]={state}\n"),
    ] {
        assert_eq!(daemon.ask(&place.request("erase", &lines)).await, "\n");
        assert_eq!(value(&place.get(&daemon, "").await, "password"), Some(token), "{lines}");
    }
    let whole = format!("{NEW}ephemeral=1\nusername=oauth2\npassword={token}\ncontinue=1\nstate[]={state}\nwwwauth[]=Basic\n");
    assert_eq!(daemon.ask(&place.request("erase", &whole)).await, "\n");
    assert_ne!(value(&place.get(&daemon, "").await, "password"), Some(token));
    assert_eq!(place.token_requests(), 2);
}

#[tokio::test]
async fn a_token_that_the_host_has_taken_is_replaced_when_it_is_refused_later() {
    let place = Place::new().await;
    let daemon = place.start().await;
    // Each is taken by the host, which git tells with `store`, and revoked a moment later.
    for round in 1..=8 {
        assert_done(&place.ls_remote(&daemon).await, &daemon);
        place.door.revoke();
        assert_eq!(place.token_requests(), round);
    }
    // Somebody who only says so is believed a few times.
    for _ in 0..100 {
        let token = value(&place.get(&daemon, "").await, "password").unwrap().to_owned();
        daemon.ask(&place.request("store", &format!("username=oauth2\npassword={token}\n"))).await;
        daemon.ask(&place.request("erase", &format!("username=oauth2\npassword={token}\n"))).await;
    }
    assert!(place.token_requests() <= 12, "{}", place.token_requests());
}

#[tokio::test]
async fn other_helpers_in_the_chain_keep_their_states_and_get_ours() {
    let place = Place::new().await;
    let daemon = place.start().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    place.door.revoke();
    let log = place.scene.world.path("seen");
    let other = format!(
        "credential.helper=!f() {{ sed \"s/^/$1 /\" >>{}; test $1 != get || printf 'capability[]=state\\nstate[]=other:17\\n'; }}; f",
        log.display()
    );
    let mut command = git(place.scene.world.directory());
    let helper = format!("credential.helper={} --socket {}", place.scene.world.binaries.helper.display(), daemon.socket().display());
    command.args(["-c", "credential.helper=", "-c", &other, "-c", &helper, "ls-remote", &place.git_host.url("project.git")]);
    assert_done(&run(command, "").await, &daemon);
    assert_eq!(place.token_requests(), 2);
    let seen = std::fs::read_to_string(&log).unwrap();
    assert!(seen.contains("get state[]=scm-agent:") && seen.contains("get state[]=other:17"), "{seen}");
}

#[tokio::test]
async fn a_daemon_that_dies_in_the_middle_ends_git_with_a_line_and_leaves_no_trace() {
    let place = Place::new().await;
    let daemon = place.start().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
    place.door.revoke();
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    *place.door.on_refusal.lock().unwrap() = Some(Box::new(move || {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }));
    let output = place.ls_remote(&daemon).await;
    assert!(!output.status.success());
    assert!(own_lines(&output).iter().any(|line| line.starts_with("no answer from the agent at ")), "{}", stderr(&output));
    *place.door.on_refusal.lock().unwrap() = None;
    drop(daemon);
    let daemon = place.start().await;
    assert_done(&place.ls_remote(&daemon).await, &daemon);
}

#[tokio::test]
async fn a_user_s_token_that_is_refused_across_a_restart_of_the_daemon_is_replaced_with_the_next_command() {
    let (place, host, daemon) = Place::with_sign_in().await;
    let answer = place.get(&daemon, NEW).await;
    let (token, state) = (value(&answer, "password").unwrap().to_owned(), value(&answer, "state[]").unwrap().to_owned());
    assert!(daemon.terminate().await.success());
    let daemon = place.start().await;
    // The other process's state says nothing any more; the answer is final, so that git will say `erase`.
    let answer = place.get(&daemon, &format!("{NEW}state[]={state}\nusername=oauth2\n")).await;
    assert_eq!((value(&answer, "password"), value(&answer, "continue")), (Some(token.as_str()), None));
    daemon.ask(&place.request("erase", &format!("{NEW}username=oauth2\npassword={token}\n"))).await;
    assert_ne!(value(&place.get(&daemon, NEW).await, "password"), Some(token.as_str()));
    assert_eq!((host.refreshes_asked(), host.replays()), (1, 0));
}

#[tokio::test]
async fn no_state_gives_what_the_rules_withhold_or_the_list_has_no_more() {
    let place = Place::new().await;
    let daemon = place.start().await;
    place.get(&daemon, NEW).await;
    let state = format!("{NEW}state[]={}\n", value(&place.get(&daemon, NEW).await, "state[]").unwrap());
    place.scene.control_plane.set_integrations(vec![place.scene.integration(2, "elsewhere.example.com")]);
    daemon.ask("scm-agent/1 sync\n\n").await;
    daemon.until(|status: &Value| status["integrations"][0]["host"] == "elsewhere.example.com").await;
    assert_eq!(place.get(&daemon, &state).await, "\n", "the host is not ours any more");
    // Back again with another secret, it is another token's state.
    place.scene.control_plane.set_integrations(vec![place.scene.integration(1, &place.git_host.host())]);
    daemon.ask("scm-agent/1 sync\n\n").await;
    daemon.until(|status: &Value| status["integrations"][0]["host"] == place.git_host.host().as_str()).await;
    let requests = place.token_requests();
    for _ in 0..5 {
        place.get(&daemon, &state).await;
    }
    assert_eq!(place.token_requests(), requests + 1);
}
