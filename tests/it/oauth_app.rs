//! `oauth-app`: who is given an app's id and secret, in which form, and what is written down of it.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Output};

use clap::Parser;
use scm_agent::cli::{self, Cli, Io};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, run, succeed};
use crate::support::scene::Scene;

/// Everything that a shell, git's configuration or JSON could take for something of its own.
const SECRET: &str = r##" ca'na"ry\n $(id) `id` ;#=[x]\\% "##;
/// The same for the id.
const CLIENT_ID: &str = r#"app'"\1"#;
const URL: &str = "https://one.example.com";

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A rule that gives the calling user everything everywhere.
fn everything() -> String {
    format!("[[access]]\nusers = [\"{}\"]\nallow = [\"service\", \"own\", \"app-secret\"]\n", own_uid())
}

/// A daemon over three integrations: `one`, whose issuer has sign-in pages, `two` below a path of its host, and `pat` without an app.
async fn start(rules: &str) -> (Scene, Daemon) {
    start_with(rules, |_, _| ()).await
}

async fn start_with(rules: &str, change: impl FnOnce(&Scene, &mut Vec<Value>)) -> (Scene, Daemon) {
    let scene = Scene::new(crate::binaries()).await;
    scene.issuer.set_metadata("authorization_endpoint", json!(format!("{}/authorize", scene.issuer.issuer_url())));
    scene.issuer.set_metadata("device_authorization_endpoint", json!(format!("{}/device", scene.issuer.issuer_url())));
    let app = |number, host: &str| {
        let mut integration = scene.world.integration(number, host, CLIENT_ID, &scene.world.seal_anything(SECRET.as_bytes()));
        integration["oauth"]["issuerUrl"] = json!(scene.issuer.issuer_url());
        integration
    };
    let mut pat = scene.world.integration(3, "pat.example.com", "", "");
    pat.as_object_mut().unwrap().remove("oauth");
    pat["pat"] = json!(true);
    let mut below = app(2, "two.example.com");
    below["virtualDirectory"] = json!("the team");
    let mut integrations = vec![app(1, "one.example.com"), below, pat];
    change(&scene, &mut integrations);
    scene.control_plane.set_integrations(integrations);
    let config = scene.config("24h");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n{rules}\n")).unwrap();
    let daemon = scene.world.start(&config).await;
    daemon.until_synced().await;
    (scene, daemon)
}

/// `scm-agent oauth-app` with arguments; standard output is a pipe.
fn command(scene: &Scene, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::from(scene.world.agent(&["oauth-app"]));
    command.args(arguments).arg("--config").arg(scene.world.path("config.toml"));
    command.current_dir(scene.world.directory()).env_remove("GIT_CONFIG_COUNT");
    command
}

async fn ask(scene: &Scene, arguments: &[&str]) -> Output {
    run(command(scene, arguments), "").await
}

/// What a command that fails says; it prints nothing.
async fn refused(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String) {
    let output = ask(scene, arguments).await;
    assert!(output.stdout.is_empty(), "{} bytes were printed", output.stdout.len());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The audit lines with these words.
fn audit<'l>(log: &'l str, words: &str) -> Vec<&'l str> {
    log.lines().filter(|line| line.contains(" audit: ") && line.contains(words)).collect()
}

/// The secret as it could stand somewhere: plain, in JSON, in Rust's own quotes.
fn assert_without_secret(text: &str) {
    let plain = "ca'na";
    assert!(SECRET.contains(plain) && !text.contains(plain), "the secret is in {text}");
}

/// git away from the machine's configuration.
fn git(directory: &Path) -> StdCommand {
    let mut git = StdCommand::new("git");
    git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", directory).env("GIT_CONFIG_NOSYSTEM", "1");
    git.current_dir(directory);
    git
}

fn output_of(command: &mut StdCommand) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Settings that `git config --list -z` names, in their order.
fn settings(listed: &str) -> Vec<(String, String)> {
    let entry = |entry: &str| entry.split_once('\n').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    listed.split_terminator('\0').map(entry).collect()
}

/// What the two tools are to read for `one`, in git's own lower case.
fn expected(scene: &Scene) -> Vec<(String, String)> {
    let issuer = scene.issuer.issuer_url();
    let (authorize, device, token) = (format!("{issuer}/authorize"), format!("{issuer}/device"), scene.issuer.token_url());
    [
        ("oauthclientid", CLIENT_ID),
        ("oauthclientsecret", SECRET),
        ("oauthauthurl", &authorize),
        ("oauthtokenurl", &token),
        ("oauthdeviceauthurl", &device),
        // No redirect URI for git-credential-oauth, which takes a free port by itself.
        ("provider", "generic"),
        ("oauthauthorizeendpoint", &authorize),
        ("oauthtokenendpoint", &token),
        // No device endpoint for Git Credential Manager, which would ask there without the secret.
        ("oauthredirecturi", "http://127.0.0.1/"),
        ("oauthuseclientauthheader", "false"),
        ("oauthdefaultusername", "oauth2"),
    ]
    .map(|(name, value)| (format!("credential.{URL}.{name}"), value.to_owned()))
    .to_vec()
}

#[tokio::test]
async fn without_a_rule_nobody_is_given_an_app_and_the_answer_names_the_rule() {
    // Not even who runs the daemon. The second has rules, of which none gives the secret.
    for (rules, number) in [("", None), ("[[access]]\nallow = [\"service\", \"own\"]\n", Some("rule=1"))] {
        let (scene, daemon) = start(rules).await;
        let (code, said) = refused(&scene, &[URL]).await;
        assert_eq!(code, Some(1));
        let rule = format!("users = [\"{}\"], hosts = [\"one.example.com\"] and allow = [\"service\", \"own\", \"app-secret\"]", own_uid());
        assert!(said.starts_with(&format!("error: no access rule of this host gives you the app of {URL}\n")), "{said}");
        assert!(said.contains("[[access]]") && said.contains(&rule), "{said}");
        assert_without_secret(&daemon.ask(&format!("scm-agent/1 oauth-app\nurl={URL}\n\n")).await);
        assert!(scene.issuer.received().is_empty(), "an issuer was asked for whom nothing is given");

        let log = daemon.final_log().await;
        assert_without_secret(&log);
        let refusals = audit(&log, "app secret refused");
        assert_eq!((refusals.len(), audit(&log, "app secret given").len()), (2, 0), "{log}");
        for refusal in refusals {
            for word in [
                "WARN",
                &format!("uid={}", own_uid()),
                "pid=",
                &format!("host={URL}"),
                "integration=\"0196f3a4-0000-7000-8000-000000000001\"",
            ] {
                assert!(refusal.contains(word), "no {word} in {refusal}");
            }
            assert_eq!(refusal.contains("rule="), number.is_some());
            assert!(number.is_none_or(|number| refusal.contains(number)), "{refusal}");
        }
    }
}

#[tokio::test]
async fn with_a_rule_the_document_has_all_that_a_sign_in_takes() {
    let (scene, daemon) = start(&everything()).await;
    let output = ask(&scene, &[URL]).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let issuer = scene.issuer.issuer_url();
    let expected = json!({
        "url": URL,
        "integration_id": "0196f3a4-0000-7000-8000-000000000001",
        "host": "one.example.com",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": scene.issuer.token_url(),
        "device_authorization_endpoint": format!("{issuer}/device"),
        "device_flow_needs_secret": true,
        "token_endpoint_auth_methods": ["client_secret_basic", "client_secret_post"],
        "scopes": [],
        "redirect_uris": ["http://127.0.0.1/"],
        "username": "oauth2",
        "problem": null,
    });
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), expected);
    // The secret was for the caller alone.
    assert_eq!(scene.issuer.token_requests(), 0);
    let log = daemon.final_log().await;
    assert_without_secret(&log);
    let given = audit(&log, "app secret given");
    assert_eq!(given.len(), 1, "{log}");
    for word in
        ["INFO", &format!("uid={}", own_uid()), "pid=", &format!("host={URL}"), "integration=\"0196f3a4-0000-7000-8000-000000000001\""]
    {
        assert!(given[0].contains(word), "no {word} in {}", given[0]);
    }
}

#[tokio::test]
async fn git_reads_the_section_byte_for_byte_and_for_no_other_host() {
    let (scene, _daemon) = start(&everything()).await;
    let file = scene.world.path("app.inc");
    let text = succeed(command(&scene, &[URL, "--format", "git-config"])).await;
    std::fs::write(&file, &text).unwrap();
    let list = |git: &mut StdCommand| settings(&output_of(git.args(["config", "--list", "-z", "-f"]).arg(&file)));
    assert_eq!(list(&mut git(scene.world.directory())), expected(&scene));

    // Appended twice to what somebody has already, without a line end.
    std::fs::write(&file, format!("[user]\n\tname = x\n{text}{text}")).unwrap();
    let of = |url: &str| {
        let mut git = git(scene.world.directory());
        git.args(["config", "-z", "-f"]).arg(&file).args(["--get-urlmatch", "credential.oauthClientSecret", url]).output().unwrap().stdout
    };
    assert_eq!(of("https://one.example.com/any/repository.git"), format!("{SECRET}\0").into_bytes());
    for other in [
        "https://one.example.com.evil.example",
        "https://evil.example/one.example.com",
        "https://one.example.com:8443",
        "http://one.example.com",
    ] {
        assert!(of(other).is_empty(), "{other}");
    }
}

#[tokio::test]
async fn the_environment_is_read_by_git_after_what_is_there_already() {
    let (scene, _daemon) = start(&everything()).await;
    let text = succeed(command(&scene, &[URL, "--format", "env"])).await;
    // As a user has it: evaluated by a shell, which starts git.
    let mut shell = StdCommand::new("sh");
    shell.args(["-c", "eval \"$1\" && exec git config --list -z", "sh", &text]);
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", scene.world.directory()).env("GIT_CONFIG_NOSYSTEM", "1");
    shell.current_dir(scene.world.directory());
    assert_eq!(settings(&output_of(&mut shell)), expected(&scene));
    assert!(text.lines().all(|line| line.starts_with("export GIT_CONFIG_")), "{text}");

    // Somebody has two settings there, one of them of another app.
    let mut second = command(&scene, &[URL, "--format", "env"]);
    second.env("GIT_CONFIG_COUNT", "2");
    let text = succeed(second).await;
    let mut shell = StdCommand::new("sh");
    shell.args(["-c", "eval \"$1\" && exec git config --list -z", "sh", &text]).env_clear();
    shell.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", scene.world.directory()).env("GIT_CONFIG_NOSYSTEM", "1");
    shell.env("GIT_CONFIG_COUNT", "2").env("GIT_CONFIG_KEY_0", "user.name").env("GIT_CONFIG_VALUE_0", "x");
    shell.env("GIT_CONFIG_KEY_1", "credential.https://other.example.oauthClientId").env("GIT_CONFIG_VALUE_1", "other");
    shell.current_dir(scene.world.directory());
    let all = settings(&output_of(&mut shell));
    assert_eq!(all[0], ("user.name".to_owned(), "x".to_owned()));
    assert_eq!(all[2..], expected(&scene));
    // What is no number is none.
    for count in ["x", "-1", "99999999999999999999", "18446744073709551615"] {
        let mut odd = command(&scene, &[URL, "--format", "env"]);
        odd.env("GIT_CONFIG_COUNT", count);
        assert!(succeed(odd).await.starts_with("export GIT_CONFIG_KEY_0="), "{count}");
    }
}

#[tokio::test]
async fn an_integration_below_a_path_is_a_section_below_it_and_git_is_to_tell_the_path() {
    let (scene, _daemon) = start(&everything()).await;
    let text = succeed(command(&scene, &["https://two.example.com/the%20team/app.git", "--format", "git-config"])).await;
    assert!(text.contains("[credential \"https://two.example.com/the%20team\"]\n"), "{text}");
    let file = scene.world.path("app.inc");
    std::fs::write(&file, &text).unwrap();
    let of = |name: &str, url: &str| {
        let mut git = git(scene.world.directory());
        let output = git.args(["config", "-f"]).arg(&file).args(["--get-urlmatch", name, url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(of("credential.useHttpPath", "https://two.example.com/the%20team/app.git"), "true\n");
    assert_eq!(of("credential.oauthClientId", "https://two.example.com/the%20team/app.git"), format!("{CLIENT_ID}\n"));
    for other in ["https://two.example.com/", "https://two.example.com/the%20team-evil/app.git", "https://two.example.com/other/app.git"] {
        assert_eq!(of("credential.oauthClientId", other), "", "{other}");
    }
}

#[tokio::test]
async fn a_redirect_uri_that_the_app_registered_is_told_to_both_and_ways_to_show_the_secret_are_the_host_s() {
    let registered = "http://localhost:34106/";
    let rules =
        format!("{}[[provider]]\nhost = \"one.example.com\"\nredirect_uri = \"{registered}\"\nscopes = [\"a\", \"b:c\"]\n", everything());
    let (scene, _daemon) = start_with(&rules, |scene, _| {
        scene.issuer.set_metadata("token_endpoint_auth_methods_supported", json!(["client_secret_basic"]));
    })
    .await;
    let text = succeed(command(&scene, &[URL, "--format", "git-config"])).await;
    for line in [
        format!("oauthRedirectURL = \"{registered}\""),
        format!("oauthRedirectUri = \"{registered}\""),
        "oauthScopes = \"a b:c\"".to_owned(),
        // There the form is not enough.
        "oauthUseClientAuthHeader = \"true\"".to_owned(),
    ] {
        assert!(text.contains(&format!("\t{line}\n")), "no {line}");
    }
    let document: Value = serde_json::from_str(&succeed(command(&scene, &[URL])).await).unwrap();
    assert_eq!(
        (&document["redirect_uris"], &document["token_endpoint_auth_methods"]),
        (&json!([registered]), &json!(["client_secret_basic"]))
    );
}

#[tokio::test]
async fn each_reason_to_give_nothing_is_one_line_and_one_of_the_audit_log() {
    let (scene, daemon) = start_with(&everything(), |scene, integrations| {
        integrations.push(scene.world.integration(4, "empty.example.com", "app", ""));
        integrations.push(scene.world.integration(5, "torn.example.com", "app", "AAAA"));
        integrations.push(scene.world.integration(6, "many.example.com/a", "app", &scene.world.seal("x")));
        integrations.push(scene.world.integration(7, "many.example.com/b", "app", &scene.world.seal("x")));
    })
    .await;
    daemon.until(|status| status["integrations"][4]["secret"] == "undecryptable").await;
    let cases = [
        ("https://nobody.example.com", "https://nobody.example.com is no host of this agent's"),
        ("https://one.example.com.evil.example", "https://one.example.com.evil.example is no host of this agent's"),
        ("https://pat.example.com", "integration 0196f3a4-0000-7000-8000-000000000003 has no OAuth app"),
        ("https://empty.example.com", "the app of integration 0196f3a4-0000-7000-8000-000000000004 has no client secret"),
        ("https://torn.example.com", "no runner key opens the client secret of integration 0196f3a4-0000-7000-8000-000000000005"),
        ("https://many.example.com", "several integrations serve https://many.example.com"),
    ];
    for (url, reason) in cases {
        let (code, said) = refused(&scene, &[url]).await;
        assert_eq!(code, Some(1), "{url}");
        assert!(said.starts_with(&format!("error: {reason}\n")), "{url}: {said}");
    }
    // What the daemon is not even asked.
    for url in ["one.example.com", "http://one.example.com", "https://user:pw@one.example.com", "https://"] {
        assert_eq!(refused(&scene, &[url]).await.0, Some(2), "{url}");
    }
    assert_eq!(refused(&scene, &[URL, "--format", "yaml"]).await.0, Some(2));
    // What is asked otherwise than by the command.
    for (fields, expected) in
        [("", "error=the request does not say"), ("url=ssh://one.example.com\n", "protocol is not https"), ("url=x\n", "no ")]
    {
        let answer = daemon.ask(&format!("scm-agent/1 oauth-app\n{fields}\n")).await;
        assert!(answer.contains(expected) || answer.contains("the URL is not one"), "{answer}");
    }
    let log = daemon.final_log().await;
    let refusals = audit(&log, "app secret refused");
    assert_eq!(refusals.len(), cases.len() + 2, "{log}");
    for (line, (_, reason)) in refusals.iter().zip(cases) {
        assert!(line.contains(&format!("reason=\"{reason}\"")) && line.contains("uid="), "{line}");
    }
    assert!(audit(&log, "app secret given").is_empty());
}

#[tokio::test]
async fn what_is_held_back_is_not_given_and_what_was_trusted_before_it_is() {
    let mut moved = Vec::new();
    let (scene, daemon) = start_with(&everything(), |_, integrations| moved.clone_from(integrations)).await;
    let sync = || {
        let mut sync = scene.world.agent(&["sync", "--config"]);
        sync.arg(scene.world.path("config.toml"));
        succeed(tokio::process::Command::from(sync))
    };
    moved[0]["host"] = json!("moved.example.com");
    scene.control_plane.set_integrations(moved.clone());
    sync().await;
    let (code, said) = refused(&scene, &["https://moved.example.com"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("https://moved.example.com is no host of this agent's"), "{said}");
    let document: Value = serde_json::from_str(&succeed(command(&scene, &[URL])).await).unwrap();
    assert_eq!((&document["host"], &document["client_secret"]), (&json!("one.example.com"), &json!(SECRET)));
    // The same ciphertext under another id.
    moved[0]["id"] = json!("0196f3a4-0000-7000-8000-000000000009");
    scene.control_plane.set_integrations(moved);
    sync().await;
    let (code, said) = refused(&scene, &["https://moved.example.com"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("is held back until somebody trusts it") && said.contains("scm-agent trust"), "{said}");
    let log = daemon.final_log().await;
    assert_without_secret(&log);
    assert_eq!((audit(&log, "app secret given").len(), audit(&log, "app secret refused").len()), (1, 2));
}

#[tokio::test]
async fn an_app_that_nobody_can_sign_in_with_is_given_as_a_document_only() {
    let (scene, _daemon) = start_with(&everything(), |scene, _| {
        scene.issuer.set_metadata("authorization_endpoint", Value::Null);
        scene.issuer.set_metadata("device_authorization_endpoint", Value::Null);
    })
    .await;
    for format in ["env", "git-config"] {
        let (code, said) = refused(&scene, &[URL, "--format", format]).await;
        assert_eq!(code, Some(1));
        assert!(said.contains("cannot use the app: ") && said.contains("--format json"), "{said}");
        assert_without_secret(&said);
    }
    let output = ask(&scene, &[URL]).await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["problem"].as_str().unwrap().contains("sign-in"), "{document}");
    assert_eq!((&document["client_secret"], &document["authorization_endpoint"]), (&json!(SECRET), &Value::Null));
    // A client credentials request is all the same possible.
    assert_eq!((&document["token_endpoint"], &document["issuer"]), (&json!(scene.issuer.token_url()), &json!(scene.issuer.issuer_url())));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("warning: nobody can sign in with it as it is: "));
}

#[tokio::test]
async fn somebody_who_asks_without_end_is_put_off() {
    let (_scene, daemon) = start(&everything()).await;
    let question = format!("scm-agent/1 oauth-app\nurl={URL}\n\n");
    let answer = daemon.ask(&question.repeat(200)).await;
    let (mut given, mut put_off) = (0, 0);
    for document in answer.lines().filter(|line| !line.is_empty()) {
        let document: Value = serde_json::from_str(document).unwrap();
        given += usize::from(document["client_secret"] == SECRET);
        put_off += usize::from(document["error"].as_str().is_some_and(|error| error.starts_with("asked too often; the next time is in ")));
    }
    // One a second comes back meanwhile.
    assert!((60..150).contains(&given) && given + put_off == 200, "{given} given, {put_off} put off");
    let log = daemon.ended_log().await;
    // Twenty refusals in ten seconds have a line each, and one says how many more there were.
    let more = |line: &&str| line.split(" more=").nth(1).unwrap().trim().parse::<usize>().unwrap();
    let more = audit(&log, "refused more of the same").iter().map(more).sum::<usize>();
    let refused = audit(&log, "app secret refused").len();
    assert_eq!((audit(&log, "app secret given").len(), refused + more), (given, put_off));
    assert!(refused < put_off, "{log}");
}

/// The command in this process, as if somebody read its output.
fn on_a_terminal(config: PathBuf, arguments: &[&str]) -> (Result<(), String>, String) {
    let cli = Cli::try_parse_from([&["scm-agent", "oauth-app", URL, "--config", config.to_str().unwrap()], arguments].concat()).unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut io = Io { stdin: &mut std::io::empty(), stdout: &mut stdout, stderr: &mut stderr, stdout_is_terminal: true };
    let outcome = cli::run(cli, &mut io).map_err(|error| error.report());
    (outcome, String::from_utf8(stdout).unwrap())
}

#[tokio::test]
async fn a_terminal_is_shown_a_secret_only_when_told_to() {
    let (scene, daemon) = start(&everything()).await;
    let config = scene.world.path("config.toml");
    let (hidden, shown) =
        tokio::task::spawn_blocking(move || (on_a_terminal(config.clone(), &[]), on_a_terminal(config, &["--reveal"]))).await.unwrap();
    let report = hidden.0.unwrap_err();
    assert!(report.contains("standard output is a terminal") && report.contains("--reveal"), "{report}");
    assert_eq!(hidden.1, "");
    assert_eq!(shown.0, Ok(()));
    assert_eq!(serde_json::from_str::<Value>(&shown.1).unwrap()["client_secret"], SECRET);
    // What may not be shown is not asked for.
    assert_eq!(audit(&daemon.final_log().await, "app secret").len(), 1);
}
