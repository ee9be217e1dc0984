//! Tokens as Bearer: real git (2.46 or later) against hosts that take nothing else, and gits that cannot send one.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::grants::{SCM, Stage};
use crate::support::daemon::{Daemon, git_with_helper, run, succeed};
use crate::support::git_host::{GitHost, create_repository};
use crate::support::scene::Scene;

/// Where a project's repository is at Azure DevOps.
const REPOSITORY: &str = "acme/project/_git/repo";

/// What a git from 2.46 on says before everything else.
const NEW: &str = "capability[]=authtype\ncapability[]=state\n";

/// A git host that takes the issuer's live tokens as Bearer only, with Azure DevOps' challenge.
async fn bearer_host(scene: &Scene) -> GitHost {
    let root = scene.world.path("repositories");
    std::fs::create_dir(&root).unwrap();
    create_repository(&root, REPOSITORY).await;
    let tokens = scene.issuer.tokens();
    let challenge = "Bearer authorization_uri=https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";
    GitHost::start_with(&root, challenge, move |authorization| {
        authorization.strip_prefix("Bearer ").is_some_and(|token| tokens.is_live(token))
    })
    .await
}

/// An integration of Azure DevOps Services, where Bearer is the documented form.
fn azure_devops(scene: &Scene, host: &str) -> Value {
    let mut integration = scene.integration(1, host);
    integration["scmId"] = json!("azuredevops_entra");
    integration
}

/// The scene's configuration with a `[[provider]]` table that says whether a host's tokens go as Bearer.
fn config(scene: &Scene, host: &str, bearer: bool) -> PathBuf {
    let path = scene.config("60s");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    write!(file, "\n[[provider]]\nhost = \"{host}\"\nbearer = {bearer}\n").unwrap();
    path
}

fn ls_remote(scene: &Scene, daemon: &Daemon, host: &GitHost) -> Command {
    let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
    command.args(["ls-remote", &host.url(REPOSITORY)]);
    command
}

/// What the daemon answers to `get`, after `lines` of git's.
async fn get(daemon: &Daemon, lines: &str) -> String {
    daemon.ask(&format!("scm-agent/1 get\n{lines}protocol=https\nhost={SCM}\n\n")).await
}

async fn erase(daemon: &Daemon, lines: &str) {
    assert_eq!(daemon.ask(&format!("scm-agent/1 erase\n{lines}protocol=https\nhost={SCM}\n\n")).await, "\n");
}

fn value<'a>(answer: &'a str, key: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// The keys of an answer, in order.
fn keys(answer: &str) -> Vec<&str> {
    answer.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect()
}

/// What a git that says [`NEW`] gets of a token that was there already.
const CACHED_BEARER_KEYS: [&str; 8] =
    ["capability[]", "capability[]", "authtype", "credential", "ephemeral", "password_expiry_utc", "state[]", "continue"];
const BEARER_KEYS: [&str; 5] = ["capability[]", "authtype", "credential", "ephemeral", "password_expiry_utc"];
const PASSWORD_KEYS: [&str; 3] = ["username", "password", "password_expiry_utc"];
const EPHEMERAL_PASSWORD_KEYS: [&str; 5] = ["capability[]", "ephemeral", "username", "password", "password_expiry_utc"];

#[tokio::test]
async fn git_clones_and_pushes_at_azure_devops_with_a_bearer_token() {
    let scene = Scene::new(crate::binaries()).await;
    let host = bearer_host(&scene).await;
    scene.control_plane.set_integrations(vec![azure_devops(&scene, &host.host())]);
    let daemon = scene.world.start(&scene.config("60s")).await;
    daemon.until_synced().await;
    let store = scene.world.path("stored");
    // As the clone URLs there: with the organisation for a user name. And with a helper that keeps what it is told.
    let url = host.url(REPOSITORY).replace("://", "://acme@");
    let git_in = |directory: &std::path::Path, arguments: &[&str]| {
        let mut command = git_with_helper(directory, &scene.world.binaries.helper, daemon.socket());
        command.arg("-c").arg(format!("credential.helper=store --file={}", store.display())).args(arguments);
        command
    };
    succeed(git_in(scene.world.directory(), &["clone", "--quiet", &url, "work"])).await;
    let work = scene.world.path("work");
    std::fs::write(work.join("file"), "content\n").unwrap();
    succeed(git_in(&work, &["add", "file"])).await;
    succeed(git_in(&work, &["commit", "--quiet", "--message", "Add a file"])).await;
    succeed(git_in(&work, &["push", "--quiet", "origin", "HEAD:main"])).await;
    let pushed = succeed(git_in(&work, &["ls-remote", "origin", "main"])).await;
    let head = succeed(git_in(&work, &["rev-parse", "HEAD"])).await;
    assert!(pushed.starts_with(head.trim()), "{pushed}");
    assert_eq!(scene.issuer.token_requests(), 1, "one token serves them all");
    assert_eq!(std::fs::read_to_string(&store).unwrap_or_default(), "", "another helper has kept the token");
}

#[tokio::test]
async fn a_host_that_takes_bearer_only_gets_none_where_the_operator_says_no() {
    let scene = Scene::new(crate::binaries()).await;
    let host = bearer_host(&scene).await;
    scene.control_plane.set_integrations(vec![azure_devops(&scene, &host.host())]);
    let daemon = scene.world.start(&config(&scene, &host.host(), false)).await;
    daemon.until_synced().await;
    let output = run(ls_remote(&scene, &daemon, &host), "").await;
    assert!(!output.status.success() && scene.issuer.token_requests() == 1);
}

#[tokio::test]
async fn a_bearer_token_that_the_host_revoked_is_replaced_within_the_command() {
    let scene = Scene::new(crate::binaries()).await;
    let host = bearer_host(&scene).await;
    // Any host may be said to take it.
    scene.control_plane.set_integrations(vec![scene.integration(1, &host.host())]);
    let daemon = scene.world.start(&config(&scene, &host.host(), true)).await;
    daemon.until_synced().await;
    succeed(ls_remote(&scene, &daemon, &host)).await;
    scene.issuer.revoke_all();
    succeed(ls_remote(&scene, &daemon, &host)).await;
    assert_eq!(scene.issuer.token_requests(), 2);
}

#[tokio::test]
async fn a_git_that_does_not_say_it_can_send_bearer_gets_a_password() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![azure_devops(&scene, SCM)]);
    let daemon = scene.world.start(&scene.config("60s")).await;
    daemon.until_synced().await;
    for lines in ["", "capability[]=states\n", "capability[]=authtypes\n", "capability[]=authtype\ncapability[]=\n"] {
        let answer = get(&daemon, lines).await;
        assert_eq!((keys(&answer), value(&answer, "username")), (PASSWORD_KEYS.to_vec(), Some("oauth2")), "{lines:?}");
    }
    // So does one that was told to use another scheme.
    for scheme in ["Basic", "Digest", "Carrier-Pigeon", ""] {
        let answer = get(&daemon, &format!("capability[]=authtype\nauthtype={scheme}\n")).await;
        assert_eq!(keys(&answer), EPHEMERAL_PASSWORD_KEYS, "{scheme:?}");
    }
    assert_eq!(keys(&get(&daemon, NEW).await), CACHED_BEARER_KEYS);
    for lines in ["capability[]=authtype\ncapability[]=authtype\n", "capability[]=new\ncapability[]=authtype\nauthtype=bearer\n"] {
        let answer = get(&daemon, lines).await;
        assert_eq!(keys(&answer), BEARER_KEYS, "{lines:?}");
        assert!(
            answer.starts_with("capability[]=authtype\nauthtype=Bearer\ncredential=") && answer.contains("\nephemeral=1\n"),
            "{answer}"
        );
    }
    assert_eq!(scene.issuer.token_requests(), 1, "it is the same token either way");

    // Through real git, which passes on what its caller can handle.
    let fill = async |lines: &str| {
        let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
        command.args(["credential", "fill"]);
        let output = run(command, &format!("{lines}protocol=https\nhost={SCM}\n\n")).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (new, old) = (fill(NEW).await, fill("").await);
    assert_eq!((value(&new, "authtype"), value(&new, "ephemeral"), value(&new, "password")), (Some("Bearer"), Some("1"), None), "{new}");
    assert_eq!((value(&old, "authtype"), value(&old, "credential"), value(&old, "username")), (None, None, Some("oauth2")), "{old}");
    assert_eq!(value(&new, "credential"), value(&old, "password"));
    let token = value(&old, "password").unwrap().to_owned();
    assert!(!daemon.final_log().await.contains(&token));
}

#[tokio::test]
async fn only_the_very_token_that_was_sent_is_erased() {
    let scene = Scene::new(crate::binaries()).await;
    scene.control_plane.set_integrations(vec![azure_devops(&scene, SCM)]);
    let daemon = scene.world.start(&scene.config("60s")).await;
    daemon.until_synced().await;
    let first = value(&get(&daemon, NEW).await, "credential").unwrap().to_owned();
    for other in [
        format!("authtype=Bearer\ncredential={first}x\n"),
        format!("authtype=Basic\ncredential={first}\n"),
        format!("credential={first}\n"),
        format!("authtype=Basic\ncredential=dTpw\nusername=u\npassword={first}\n"),
    ] {
        erase(&daemon, &format!("{NEW}{other}")).await;
        assert_eq!(value(&get(&daemon, NEW).await, "credential"), Some(first.as_str()), "{other:?}");
    }
    let twice = daemon.ask(&format!("scm-agent/1 erase\ncredential={first}\ncredential=x\nprotocol=https\nhost={SCM}\n\n")).await;
    assert_eq!(twice, "error=the request names credential twice\n\n");
    assert_eq!(scene.issuer.token_requests(), 1);

    erase(&daemon, &format!("{NEW}authtype=Bearer\ncredential={first}\nephemeral=1\n")).await;
    let second = value(&get(&daemon, NEW).await, "credential").unwrap().to_owned();
    assert_ne!(second, first);
    // However git got it: an older one sends it back as a password.
    erase(&daemon, &format!("username=oauth2\npassword={second}\n")).await;
    assert_ne!(value(&get(&daemon, "").await, "password"), Some(second.as_str()));
    assert_eq!(scene.issuer.token_requests(), 3);
}

#[tokio::test]
async fn a_user_s_token_goes_as_bearer_too_and_is_renewed_once_it_was_refused() {
    let stage = Stage::new().await;
    let daemon = stage.scene.world.start(&config(&stage.scene, SCM, true)).await;
    daemon.until_synced().await;
    stage.sign_in(&daemon, "").await;
    let first = get(&daemon, NEW).await;
    assert_eq!(keys(&first), CACHED_BEARER_KEYS, "it came with the sign-in");
    let old = get(&daemon, "").await;
    assert_eq!((keys(&old), value(&old, "password")), (PASSWORD_KEYS.to_vec(), value(&first, "credential")));
    let token = value(&first, "credential").unwrap();
    erase(&daemon, &format!("{NEW}authtype=Bearer\ncredential={token}\nephemeral=1\n")).await;
    let second = get(&daemon, NEW).await;
    assert_ne!(value(&second, "credential"), Some(token));
    assert_eq!((keys(&second), stage.host.refreshes_asked()), (BEARER_KEYS.to_vec(), 1), "it came just now");
}
