//! `[[access]]`, tried by processes of really different users.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use tokio::process::Command;

use super::peers::copy_program;
use crate::support::daemon::{Daemon, run};
use crate::support::scene::{CLIENT_SECRET, Scene};

/// The group of the socket, which all users here are in.
pub(super) const GROUP: u32 = 65_432;
/// Another group, for a rule.
const BUILDERS: u32 = 65_433;
/// Three users.
pub(super) const CI: u32 = 54_321;
pub(super) const DEV: u32 = 54_322;
const BUILDER: u32 = 54_323;

/// A host that other users can ask on.
pub(super) async fn scene() -> Scene {
    let scene = Scene::new(crate::binaries()).await;
    std::fs::set_permissions(scene.world.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let helper = scene.world.path("helper");
    copy_program(&scene.world.binaries.helper, &helper);
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    scene.control_plane.set_integrations(vec![scene.integration(1, "one.example.com"), scene.integration(2, "two.example.com")]);
    scene
}

/// The configuration of a scene with rules.
pub(super) fn config(scene: &Scene, rules: &str) -> std::path::PathBuf {
    let config = scene.config("24h");
    let text = std::fs::read_to_string(&config).unwrap();
    // Programs are started between a connection and what is said on it.
    let text = text.replace("[agent]\n", &format!("[agent]\nsocket_group = \"{GROUP}\"\nread_timeout = \"6s\"\n"));
    std::fs::write(&config, format!("{text}\n{rules}\n")).unwrap();
    config
}

/// What the helper prints for a user with these supplementary groups.
pub(super) async fn ask_as(scene: &Scene, daemon: &Daemon, uid: u32, groups: &[u32], operation: &str, request: &str) -> String {
    let list = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={GROUP}")]);
    command.arg(if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={list}") });
    command.arg(scene.world.path("helper")).arg("--socket").arg(daemon.socket()).arg(operation).current_dir("/");
    let output = run(command, request).await;
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

async fn get_as(scene: &Scene, daemon: &Daemon, uid: u32, groups: &[u32], host: &str) -> Option<String> {
    let printed = ask_as(scene, daemon, uid, groups, "get", &format!("protocol=https\nhost={host}\n\n")).await;
    let password = printed.lines().find_map(|line| line.strip_prefix("password=")).map(str::to_owned);
    assert!(password.is_some() || printed.contains("the access rules of this host do not give you a token"), "{printed}");
    password
}

#[tokio::test]
#[ignore = "needs root"]
async fn each_user_gets_what_the_rules_give_it_and_cannot_take_from_others() {
    let scene = scene().await;
    let rules = format!(
        "[[access]]\nusers = [\"{CI}\"]\nhosts = [\"one.example.com\"]\nallow = [\"service\"]\n\
         [[access]]\ngroups = [\"{BUILDERS}\"]\nallow = [\"service\"]\n"
    );
    let daemon = scene.world.start(&config(&scene, &rules)).await;
    daemon.until_synced().await;

    // The refused come first, so that whatever they caused would be seen.
    assert_eq!(get_as(&scene, &daemon, DEV, &[], "one.example.com").await, None);
    assert_eq!(get_as(&scene, &daemon, CI, &[], "two.example.com").await, None);
    assert_eq!(get_as(&scene, &daemon, 0, &[], "one.example.com").await, None);
    assert_eq!(scene.issuer.token_requests(), 0);
    let token = get_as(&scene, &daemon, CI, &[], "one.example.com").await.unwrap();
    assert_eq!(get_as(&scene, &daemon, BUILDER, &[BUILDERS], "one.example.com").await.as_ref(), Some(&token));
    assert!(get_as(&scene, &daemon, BUILDER, &[BUILDERS, 7], "two.example.com").await.is_some());

    // Even who knows the token cannot have it dropped without a right to it; who has the right can.
    let requests = scene.issuer.token_requests();
    let erase = format!("protocol=https\nhost=one.example.com\nusername=x\npassword={token}\n\n");
    ask_as(&scene, &daemon, DEV, &[], "erase", &erase).await;
    assert_eq!(get_as(&scene, &daemon, CI, &[], "one.example.com").await.as_ref(), Some(&token));
    assert_eq!(scene.issuer.token_requests(), requests);
    ask_as(&scene, &daemon, CI, &[], "erase", &erase).await;
    assert_ne!(get_as(&scene, &daemon, CI, &[], "one.example.com").await.unwrap(), token);

    let log = daemon.final_log().await;
    let refusals: Vec<&str> = log.lines().filter(|line| line.contains("refused: access rules")).collect();
    assert_eq!(refusals.len(), 4, "{log}");
    for (refusal, (uid, operation)) in refusals.iter().zip([(DEV, "get"), (CI, "get"), (0, "get"), (DEV, "erase")]) {
        assert!(refusal.contains(&format!(" uid={uid} ")) && refusal.contains(&format!("operation=\"{operation}\"")), "{refusal}");
    }
    assert!(!log.contains(&token), "a token is in the log");
}

/// `scm-agent oauth-app` as another user: its exit code and what it printed and said.
async fn oauth_app_as(scene: &Scene, daemon: &Daemon, uid: u32, groups: &[u32], host: &str) -> (Option<i32>, String, String) {
    let list = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={GROUP}")]);
    command.arg(if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={list}") });
    command.arg(scene.world.path("agent")).args(["oauth-app", &format!("https://{host}"), "--format", "json"]).current_dir("/");
    command.env("SCM_AGENT__AGENT__SOCKET", daemon.socket()).env_remove("SCM_AGENT_CONFIG");
    let output = run(command, "").await;
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_app_s_secret_is_for_whom_a_rule_names_and_not_for_root_either() {
    let scene = scene().await;
    let agent = scene.world.path("agent");
    copy_program(&scene.world.binaries.agent, &agent);
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let rules = format!(
        "[[access]]\nusers = [\"{CI}\"]\nhosts = [\"one.example.com\"]\nallow = [\"app-secret\"]\n\
         [[access]]\ngroups = [\"{BUILDERS}\"]\nallow = [\"service\", \"own\"]\n"
    );
    let daemon = scene.world.start(&config(&scene, &rules)).await;
    daemon.until_synced().await;
    let refused = [(DEV, &[][..], "one"), (BUILDER, &[BUILDERS], "one"), (0, &[], "one"), (CI, &[], "two"), (CI, &[BUILDERS], "two")];
    for (uid, groups, name) in refused {
        let (code, printed, said) = oauth_app_as(&scene, &daemon, uid, groups, &format!("{name}.example.com")).await;
        assert_eq!((code, &*printed), (Some(1), ""), "{uid} {groups:?} {name}: {said}");
        assert!(
            said.contains("no access rule of this host gives you the app of") && said.contains(&format!("users = [\"{uid}\"]")),
            "{said}"
        );
    }
    let (code, printed, said) = oauth_app_as(&scene, &daemon, CI, &[], "one.example.com").await;
    // Its issuer has no pages to sign in at.
    assert!(code == Some(0) && said.starts_with("warning: nobody can sign in with it as it is: "), "{said}");
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(document["client_secret"], CLIENT_SECRET);
    // A token is another thing.
    assert_eq!(get_as(&scene, &daemon, CI, &[], "one.example.com").await, None);

    let log = daemon.final_log().await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" audit: app secret ")).collect();
    assert_eq!(lines.len(), refused.len() + 1, "{log}");
    for (line, (uid, _, name)) in lines.iter().zip(refused) {
        let words = ["app secret refused", &format!(" uid={uid} "), &format!(" host=https://{name}.example.com ")];
        assert!(words.into_iter().all(|word| line.contains(word)) && line.contains(" pid="), "{line}");
    }
    assert!(lines[refused.len()].contains("app secret given") && lines[refused.len()].contains(&format!(" uid={CI} ")), "{log}");
    assert!(!log.contains(CLIENT_SECRET), "a secret is in the log");
}

/// A user database with one user of ours.
fn write_passwd(path: &Path, uid: u32, name: &str) {
    std::fs::write(path, format!("root:x:0:0::/root:/bin/sh\n{name}:x:{uid}:{GROUP}::/:/bin/sh\n")).unwrap();
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_name_with_another_number_counts_from_the_next_sighup_on() {
    let scene = scene().await;
    let config = config(&scene, "[[access]]\nusers = [\"ci\"]\nallow = [\"service\"]\n");
    let passwd = scene.world.path("passwd");
    write_passwd(&passwd, CI, "ci");
    // A user database that only this daemon sees.
    let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&passwd).arg(&scene.world.binaries.agent);
    command.current_dir(scene.world.directory()).stdin(Stdio::null());
    let daemon = Daemon::start(command, &config, &scene.world.socket()).await;
    daemon.until_synced().await;
    let may = async |uid: u32| get_as(&scene, &daemon, uid, &[], "one.example.com").await.is_some();

    assert!(may(CI).await && !may(DEV).await);
    write_passwd(&passwd, DEV, "ci");
    assert!(may(CI).await && !may(DEV).await, "names are looked up when somebody says so");
    daemon.signal(Signal::HUP);
    daemon.until_logged("event=\"reloaded\"").await;
    assert!(daemon.log().contains("names in the access rules have new numbers"));
    assert!(!may(CI).await && may(DEV).await);

    // Gone altogether: the rules stay as they are, and the status says it.
    write_passwd(&passwd, DEV, "other");
    daemon.signal(Signal::HUP);
    let status = daemon.until(|status| status["degraded"].to_string().contains("this machine does not have")).await;
    let expected = format!(
        "the settings were not taken over, those of before stay in use: {}: access[0].users[0]: names a user that this machine does not have",
        config.display()
    );
    assert_eq!(status["degraded"], serde_json::json!([expected]));
    assert!(!may(CI).await && may(DEV).await);
    write_passwd(&passwd, CI, "ci");
    daemon.signal(Signal::HUP);
    daemon.until(|status| status["degraded"] == serde_json::json!([])).await;
    assert!(may(CI).await && !may(DEV).await);
}

/// What a git from 2.46 on asks with.
const NEW_GET: &str = "capability[]=authtype\ncapability[]=state\nprotocol=https\nhost=one.example.com\n";

fn field(printed: &str, key: &str) -> Option<String> {
    printed.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_user_who_has_every_token_replaced_stops_alone_and_another_s_state_is_nobody_s() {
    let scene = scene().await;
    let daemon = scene.world.start(&config(&scene, "")).await;
    daemon.until_synced().await;
    let ask = async |uid: u32, operation: &str, request: &str| ask_as(&scene, &daemon, uid, &[], operation, request).await;
    let get = async |uid: u32, lines: &str| ask(uid, "get", &format!("{NEW_GET}{lines}\n")).await;

    let token = field(&get(CI, "").await, "password").unwrap();
    let (of_ci, of_dev) = (field(&get(CI, "").await, "state[]").unwrap(), field(&get(DEV, "").await, "state[]").unwrap());
    assert_ne!(of_ci, of_dev);
    for (uid, state) in [(DEV, &of_ci), (CI, &of_dev), (BUILDER, &of_dev)] {
        assert_eq!(field(&get(uid, &format!("state[]={state}\n")).await, "password").as_ref(), Some(&token));
    }
    assert_eq!(scene.issuer.token_requests(), 1);

    // One user says of each token that it was refused.
    let erase = async |uid: u32| {
        let held = field(&get(uid, "").await, "password").unwrap();
        ask(uid, "erase", &format!("protocol=https\nhost=one.example.com\nusername=oauth2\npassword={held}\n\n")).await
    };
    let mut told = String::new();
    for _ in 0..50 {
        told = erase(DEV).await;
    }
    assert!(told.contains("one.example.com refused 3 new tokens in a row; no other is fetched for "), "{told}");
    assert_eq!(scene.issuer.token_requests(), 3);

    // The others have the token that is held, and theirs are replaced.
    let held = get(CI, "").await;
    let (token, state) = (field(&held, "password").unwrap(), field(&held, "state[]").unwrap());
    let healed = field(&get(CI, &format!("state[]={state}\nusername=oauth2\n")).await, "password").unwrap();
    assert_ne!(healed, token);
    assert_eq!(erase(CI).await, "");
    assert_eq!(scene.issuer.token_requests(), 4);
    assert_eq!(field(&get(DEV, "").await, "password"), field(&get(CI, "").await, "password"), "who caused it is served on too");
}
