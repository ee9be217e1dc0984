//! `explain`: what it predicts is what `get` then does, for whoever asks for whatever; and what it says of git.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::grants::host::Host;
use crate::grants::{ask, until_over};
use crate::support::daemon::{Daemon, run, succeed};
use crate::support::git_host::git;
use crate::support::scene::{BEARER, Scene};
use crate::support::world::RUNNER_ID;

/// A runner host with an integration of every kind, and an issuer for apps and one for users.
struct Stage {
    scene: Scene,
    host: Host,
    integrations: Vec<Value>,
}

impl Stage {
    async fn new() -> Self {
        let (scene, host) = (Scene::new(crate::binaries()).await, Host::start().await);
        let with = |number: u16, host: &str, fields: Value| {
            let mut integration = scene.integration(number, host);
            integration.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            integration
        };
        let users = |mut integration: Value| {
            integration["oauth"]["issuerUrl"] = json!(host.issuer_url());
            integration
        };
        let sealed_for_nobody = |secret: &str, mut integration: Value| {
            integration["oauth"]["encryptedClientSecret"] = json!(secret);
            integration
        };
        let integrations = vec![
            with(1, "svc.example.com", json!({})),
            with(2, "svc.example.com:8443", json!({})),
            with(3, "multi.example.com/a", json!({})),
            with(4, "multi.example.com/b", json!({ "pat": true })),
            with(5, "multi.example.com/a/deep", json!({})),
            // The issuer's metadata says that apps get nothing there.
            users(with(6, "own.example.com", json!({}))),
            // The operator says that users sign in there.
            users(with(7, "several.example.com", json!({}))),
            users(with(8, "nobody.example.com", json!({ "pat": true }))),
            with(9, "pat.example.com", json!({ "oauth": null, "pat": true })),
            with(10, "empty.example.com", json!({ "oauth": null })),
            sealed_for_nobody("AAAA", with(11, "dead.example.com", json!({}))),
            sealed_for_nobody("BBBB", with(12, "deadpat.example.com", json!({ "pat": true }))),
            // Its facts are Bitbucket's, whatever its id.
            with(13, "bb.example.com", json!({})),
            with(14, "gh.example.com", json!({ "scmId": "github" })),
            with(15, "dev.azure.com/acme", json!({ "scmId": "azuredevops_entra" })),
            with(16, "dev.azure.com/beta", json!({ "scmId": "azuredevops_entra" })),
            with(17, "ado.example.com", json!({ "scmId": "azuredevops_server", "virtualDirectory": "/tfs", "oauth": null, "pat": true })),
            with(18, "noway.example.com", json!({ "scmId": "azuredevops_server" })),
            with(19, "twice.example.com", json!({})),
            with(20, "twice.example.com/", json!({})),
            with(21, "bad host", json!({})),
            with(22, "held.example.com", json!({})),
        ];
        scene.control_plane.set_integrations(integrations.clone());
        Self { scene, host, integrations }
    }

    /// The configuration, with the rules of one round.
    fn config(&self, rules: &str) -> std::path::PathBuf {
        let url = self.scene.control_plane.base_url();
        let lines = format!("url = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"24h\"");
        self.scene.use_token(BEARER);
        let (issuer, token_url) = (self.host.issuer_url(), self.scene.issuer.token_url());
        let mut providers = String::new();
        for host in ["several.example.com", "nobody.example.com"] {
            providers.push_str(&format!("[[provider]]\nhost = \"{host}\"\nissuer = \"{issuer}\"\ngrant = \"user\"\n"));
        }
        for (host, more) in [
            ("bb.example.com", "kind = \"bitbucket\"\nbearer = false"),
            ("gh.example.com", "username = \"x-access-token\""),
            ("dev.azure.com/acme", ""),
            ("dev.azure.com/beta", ""),
        ] {
            providers.push_str(&format!(
                "[[provider]]\nhost = \"{host}\"\ntoken_url = \"{token_url}\"\ntoken_endpoint_auth = \"client_secret_basic\"\n{more}\n"
            ));
        }
        self.scene.world.config_with(&lines, &format!("{providers}\n{rules}"))
    }

    async fn start(&self, rules: &str) -> Daemon {
        let daemon = self.scene.world.start(&self.config(rules)).await;
        daemon.ask("scm-agent/1 sync\n\n").await;
        daemon.until_synced().await;
        // Which secrets open is looked at when the list comes.
        daemon
            .until(|status| {
                let of =
                    |host: &str| status["integrations"].as_array().unwrap().iter().find(|it| it["host"] == host).unwrap()["secret"].clone();
                of("dead.example.com") == "undecryptable" && of("deadpat.example.com") == "undecryptable"
            })
            .await;
        daemon
    }

    async fn sign_in(&self, daemon: &Daemon, url: &str, account: &str) {
        self.host.confirm(true);
        let account = if account.is_empty() { String::new() } else { format!("account={account}\n") };
        let begun = ask(daemon, "login", &format!("url={url}\nmode=device\n{account}")).await;
        let session = begun["session"].as_str().unwrap_or_else(|| panic!("{begun}"));
        assert_eq!(until_over(daemon, session).await["state"], "done");
    }
}

/// Every place that is asked for: `host` and `path`.
fn places() -> Vec<(&'static str, Option<&'static str>)> {
    let mut places = Vec::new();
    for host in [
        "svc.example.com",
        "SVC.example.com:443",
        "svc.example.com:8443",
        "svc.example.com:9",
        "own.example.com",
        "several.example.com",
        "nobody.example.com",
        "pat.example.com",
        "empty.example.com",
        "dead.example.com",
        "deadpat.example.com",
        "bb.example.com",
        "gh.example.com",
        "gist.gh.example.com",
        "noway.example.com",
        "twice.example.com",
        "held.example.com",
        "stranger.example.net",
        "svc.exmaple.com",
        "svc.example.com.evil.tld",
        "svc.example.com.",
    ] {
        places.extend([(host, None), (host, Some("owner/repo.git"))]);
    }
    for path in [None, Some("a/repo"), Some("a/deep/repo"), Some("b/repo"), Some("c/repo"), Some("a-evil/repo"), Some("a/../b/repo")] {
        places.push(("multi.example.com", path));
    }
    for path in [None, Some("acme/p/_git/r"), Some("BETA/p/_git/r"), Some("other/p/_git/r")] {
        places.push(("dev.azure.com", path));
    }
    places.extend([("acme.visualstudio.com", None), ("other.visualstudio.com", None)]);
    places.extend([("ado.example.com", None), ("ado.example.com", Some("tfs/c/_git/r")), ("ado.example.com", Some("c/_git/r"))]);
    places
}

/// Every request, as git's text.
fn requests() -> Vec<String> {
    let mut requests = Vec::new();
    for (host, path) in places() {
        for username in ["", "username=oauth2\n", "username=alice\n", "username=nobody\n", "username=acme\n"] {
            for capability in ["", "capability[]=authtype\ncapability[]=state\n"] {
                let path = path.map(|path| format!("path={path}\n")).unwrap_or_default();
                requests.push(format!("{capability}protocol=https\nhost={host}\n{path}{username}"));
            }
        }
    }
    requests.push("protocol=http\nhost=svc.example.com\n".to_owned());
    requests
}

/// What a `get` was answered with: the kind, what goes with it, and the line for the user.
fn outcome(request: &str, answer: &str) -> (&'static str, String, String) {
    let value_in = |text: &str, key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    let value = |key: &str| value_in(answer, key);
    assert_eq!(value("error"), None, "{answer}");
    let message = value("message").unwrap_or_default();
    if value("password").is_some() {
        return ("credential", format!("basic {}", value("username").or_else(|| value_in(request, "username")).unwrap()), message);
    }
    if value("credential").is_some() {
        return ("credential", "bearer ".to_owned(), message);
    }
    match (value("quit"), message.is_empty()) {
        (Some(_), false) => ("quit", String::new(), message),
        (None, false) => ("message", String::new(), message),
        (None, true) => ("silence", String::new(), message),
        (Some(_), true) => panic!("git is told to stop without a word: {answer}"),
    }
}

/// The same as it was predicted.
fn predicted(explanation: &Value) -> (String, String, String) {
    let answer = &explanation["answer"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let identity = &explanation["identity"];
    let presented = match text(&answer["kind"]).as_str() {
        "credential" => format!("{} {}", text(&identity["presented"]), text(&identity["username"])),
        _ => String::new(),
    };
    (text(&answer["kind"]), presented, text(&answer["message"]))
}

/// Rules of a round, and how many answers of each kind it has at least.
fn rounds() -> Vec<(String, &'static [(&'static str, usize)])> {
    let uid = rustix::process::geteuid().as_raw();
    vec![
        (String::new(), &[("credential", 100), ("quit", 60), ("silence", 200), ("message", 4)]),
        ("[[access]]\nallow = [\"own\"]\n".to_owned(), &[("credential", 4), ("quit", 60), ("silence", 200)]),
        ("[[access]]\nallow = [\"service\"]\n".to_owned(), &[("credential", 80), ("quit", 60), ("silence", 200)]),
        (
            format!(
                "[[access]]\nusers = [\"{}\"]\nallow = []\n[[access]]\nhosts = [\"multi.example.com/a/deep\"]\nallow = []\n\
                 [[access]]\nhosts = [\"multi.example.com\", \"dev.azure.com/acme\"]\nallow = [\"service\", \"own\"]\n",
                uid + 1
            ),
            &[("credential", 20), ("quit", 60), ("silence", 200)],
        ),
        (format!("[[access]]\nusers = [\"{}\"]\nallow = [\"service\", \"own\"]\n", uid + 1), &[("quit", 60), ("silence", 200)]),
    ]
}

/// The key test: whatever is asked, by whatever rules, with tokens at hand and without, `explain` says what `get` does, and asks nobody.
#[tokio::test]
async fn what_is_explained_is_what_git_is_answered() {
    let stage = Stage::new().await;
    let requests = requests();
    assert!(requests.len() >= 550, "{}", requests.len());
    let daemon = stage.start("").await;
    // What the issuer offers is not known before it was asked.
    let unsure = "if its issuer offers apps one";
    let own = ask(&daemon, "explain", "protocol=https\nhost=own.example.com\n").await;
    assert!(own["answer"]["reason"].as_str().unwrap().contains(unsure), "{own}");
    stage.sign_in(&daemon, "https://several.example.com", "alice").await;
    stage.sign_in(&daemon, "https://several.example.com", "bob").await;
    for (host, username) in [("pat.example.com", "alice"), ("pat.example.com", "nobody"), ("deadpat.example.com", "oauth2")] {
        daemon.ask(&format!("scm-agent/1 store\nprotocol=https\nhost={host}\nusername={username}\npassword=pat-of-{username}\n\n")).await;
    }
    // The definition is another one now, with the old secret: it waits for somebody to trust it, at a place of its own.
    let mut integrations = stage.integrations.clone();
    integrations.last_mut().unwrap()["host"] = json!("moved.example.com");
    stage.scene.control_plane.set_integrations(integrations);
    assert!(daemon.terminate().await.success());

    for (rules, least) in rounds() {
        let daemon = stage.start(&rules).await;
        let asked_before = (stage.scene.issuer.received().len(), stage.host.refreshes_asked());
        let mut first = Vec::new();
        for request in &requests {
            first.push(ask(&daemon, "explain", request).await);
        }
        assert_eq!(asked_before, (stage.scene.issuer.received().len(), stage.host.refreshes_asked()), "explaining asked somebody");
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (request, explanation) in requests.iter().zip(first) {
            let answer = daemon.ask(&format!("scm-agent/1 get\n{request}\n")).await;
            let (kind, presented, message) = outcome(request, &answer);
            *counts.entry(kind).or_default() += 1;
            let expected = (kind.to_owned(), presented, message);
            if !explanation["answer"]["reason"].as_str().unwrap().contains(unsure) {
                assert_eq!(predicted(&explanation), expected, "before: {rules}{request}{explanation:#}\n{}", daemon.log());
            }
            let explanation = ask(&daemon, "explain", request).await;
            assert_eq!(predicted(&explanation), expected, "after: {rules}{request}{explanation:#}");
            assert!(!explanation["answer"]["reason"].as_str().unwrap().contains(unsure), "{explanation}");
            assert_eq!(explanation["token"]["state"] == "held", kind == "credential", "{explanation}");
            let shown = explanation.to_string();
            let secret = answer.lines().find_map(|line| line.strip_prefix("password=").or_else(|| line.strip_prefix("credential=")));
            assert!(secret.is_none_or(|secret| !shown.contains(secret)), "a token is explained: {shown}");
        }
        for (kind, least) in least {
            assert!(counts.get(kind).is_some_and(|count| count >= least), "{kind}: {counts:?} with {rules}");
        }
        let log = daemon.final_log().await;
        assert!(!log.lines().any(|line| line.contains(" audit: ") && line.contains("explain")), "{log}");
    }
}

async fn explain(daemon: &Daemon, request: &str) -> Value {
    ask(daemon, "explain", request).await
}

#[tokio::test]
async fn what_is_near_and_by_what_an_integration_was_found_is_said() {
    let stage = Stage::new().await;
    let daemon = stage.start("[[access]]\nallow = [\"own\"]\nhosts = [\"svc.example.com\"]\n[[access]]\nallow = [\"service\"]\n").await;
    let matched = |explanation: &Value| explanation["integration"]["matched"].as_str().unwrap_or("-").to_owned();
    for (request, expected) in [
        ("host=svc.example.com\n", "host"),
        ("host=gist.gh.example.com\n", "gist_host"),
        ("host=multi.example.com\npath=a/deep/x\n", "path_prefix"),
        ("host=dev.azure.com\nusername=acme\n", "user_name"),
        ("host=beta.visualstudio.com\n", "visual_studio_host"),
        ("host=ado.example.com\n", "only_candidate"),
        ("host=multi.example.com\n", "-"),
        ("host=stranger.example.net\n", "-"),
    ] {
        let explanation = explain(&daemon, &format!("protocol=https\n{request}")).await;
        assert_eq!(matched(&explanation), expected, "{request}{explanation:#}");
    }
    let near = async |request: &str| -> Vec<String> {
        let explanation = explain(&daemon, &format!("protocol=https\n{request}")).await;
        let line = |near: &Value| format!("{} {}", near["host"].as_str().unwrap_or("-"), near["reason"].as_str().unwrap());
        explanation["near"].as_array().unwrap().iter().map(line).collect()
    };
    let unusable = "- entry 21 of the list cannot be used, whatever host it is for: host contains a character that is not allowed in it";
    assert_eq!(
        near("host=multi.example.com\npath=a/deep/x\n").await,
        ["multi.example.com/a covers it too, but names less of the path", "multi.example.com/b covers another path of that host",]
    );
    assert_eq!(
        near("host=multi.example.com\npath=c/x\n").await,
        [
            "multi.example.com/a covers another path of that host",
            "multi.example.com/b covers another path of that host",
            "multi.example.com/a/deep covers another path of that host",
            unusable,
        ]
    );
    assert_eq!(
        near("host=svc.example.com:9\n").await,
        ["svc.example.com is on port 443 of that host", "svc.example.com:8443 is on port 8443 of that host", unusable,]
    );
    assert_eq!(
        near("host=svc.exampel.com\n").await,
        ["svc.example.com has a host that differs by one letter; is that the one that is meant?", unusable,]
    );
    assert_eq!(near("host=svc.example.com\n").await, ["svc.example.com:8443 is on port 8443 of that host"]);
    let twice = near("host=twice.example.com\n").await;
    assert_eq!(twice[..2], ["twice.example.com would do, and so would others", "twice.example.com/ would do, and so would others"]);
    for (request, access) in [
        (
            "host=svc.example.com\n",
            json!({ "rules": true, "rule": 1, "allow": ["own"], "grant": null, "unit": null, "unit_problem": null }),
        ),
        (
            "host=bb.example.com\n",
            json!({ "rules": true, "rule": 2, "allow": ["service"], "grant": null, "unit": null, "unit_problem": null }),
        ),
    ] {
        assert_eq!(explain(&daemon, &format!("protocol=https\n{request}")).await["access"], access);
    }
    // Not a request that git could make.
    for bad in ["", "protocol=https\n", "host=a\n", "protocol=https\nhost=a\nhost=b\n", "protocol=https\nhost=a\rb\n", "nonsense\n"] {
        let answer = daemon.ask(&format!("scm-agent/1 explain\n{bad}\n")).await;
        assert!(answer.starts_with("error=") && !answer.contains("nonsense"), "{bad:?}: {answer}");
    }
}

/// The command, with git configured by `home`; its exit code and what it prints.
async fn command(stage: &Stage, home: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::from(stage.scene.world.agent(&["explain"]));
    command.args(arguments).arg("--config").arg(stage.scene.world.path("config.toml")).current_dir(home);
    command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").env_remove("SCM_AGENT__AGENT__SOCKET");
    command.env("PATH", stage.scene.world.path_with_helper());
    let output = run(command, "").await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_says_what_the_users_own_git_would_send_and_whom_it_would_ask() {
    let stage = Stage::new().await;
    let daemon = stage.start("").await;
    let home = stage.scene.world.path("home");
    std::fs::create_dir(&home).unwrap();
    let config = async |arguments: &[&str]| {
        let mut command = git(&home);
        command.args(["config", "--global"]).args(arguments);
        succeed(command).await;
    };
    let json = async |arguments: &[&str]| -> (Option<i32>, Value) {
        let (code, stdout, stderr) = command(&stage, &home, &[arguments, &["--json"]].concat()).await;
        (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}")))
    };

    // git does not ask us yet.
    let (code, document) = json(&["https://svc.example.com/a/b.git"]).await;
    assert_eq!((code, &document["answer"]["kind"], &document["git"]["asks_agent"]), (Some(1), &json!("credential"), &json!(false)));
    config(&["credential.helper", "store"]).await;
    config(&["credential.https://svc.example.com.helper", ""]).await;
    config(&["--add", "credential.https://svc.example.com.helper", "scm-agent --socket /x"]).await;
    config(&["--add", "credential.https://other.example.com.helper", "cache"]).await;
    let (code, document) = json(&["https://svc.example.com/a/b.git"]).await;
    assert_eq!(code, Some(0), "{document:#}");
    assert_eq!(document["git"]["helpers"], json!(["scm-agent --socket /x"]));
    assert_eq!(document["request"]["path"], Value::Null);
    assert_eq!(document["request"]["bearer"], true);

    // What git's configuration adds.
    config(&["credential.useHttpPath", "true"]).await;
    config(&["credential.https://svc.example.com.username", "mona"]).await;
    config(&["url.https://svc.example.com/.insteadOf", "short:"]).await;
    let (code, document) = json(&["short:My%20Proj/b.git"]).await;
    assert_eq!((code, &document["git"]["username_from"]), (Some(1), &json!("config")));
    assert_eq!(document["git"]["rewritten_to"], "https://svc.example.com/My%20Proj/b.git");
    assert_eq!((&document["request"]["path"], &document["request"]["username"]), (&json!("My Proj/b.git"), &json!("mona")));
    assert!(document["answer"]["reason"].as_str().unwrap().contains("another user"), "{document:#}");
    let (code, document) = json(&["short:a", "--username", "oauth2"]).await;
    assert_eq!((code, &document["git"]["username_from"]), (Some(0), &json!("option")), "{document:#}");
    let (_, document) = json(&["https://zoe:canary@svc.example.com/a"]).await;
    assert_eq!((&document["git"]["username_from"], &document["git"]["has_password"]), (&json!("url"), &json!(true)));
    assert_eq!(document["request"]["username"], "zoe");
    let (_, document) = json(&["https://ghp_canary@svc.example.com/a"]).await;
    assert!(!document.to_string().contains("canary"), "{document:#}");

    // What keeps git from what we have.
    config(&["http.https://svc.example.com/.extraHeader", "Authorization: bearer canary"]).await;
    let (code, document) = json(&["short:a", "--username", "oauth2"]).await;
    assert_eq!((code, &document["answer"]["kind"]), (Some(1), &json!("credential")));
    let (obstacle, next) = (document["git"]["obstacle"].as_str().unwrap(), document["git"]["obstacle_next"].as_str().unwrap());
    assert!(
        obstacle.contains("http.extraHeader") && next.contains("--unset-all http.https://svc.example.com/.extraheader"),
        "{document:#}"
    );
    assert!(!document.to_string().contains("canary"), "{document:#}");
    config(&["--unset-all", "http.https://svc.example.com/.extraHeader"]).await;
    let (_, document) = json(&["https://stranger.example.net/a"]).await;
    assert_eq!((&document["git"]["obstacle"], &document["answer"]["next"]), (&Value::Null, &Value::Null));

    // A repository's configuration is anybody's: neither another request nor another line comes of it, and nothing is repeated from it.
    let repository = home.join("clone");
    let mut init = git(&home);
    init.args(["init", "--quiet"]).arg(&repository);
    succeed(init).await;
    let local = async |arguments: &[&str]| {
        let mut command = git(&repository);
        command.args(["config", "--local"]).args(arguments);
        succeed(command).await;
    };
    local(&["credential.helper", "\u{1b}]0;title\u{7}store --password=canary"]).await;
    local(&["--add", "credential.helper", "!f() { echo password=canary; }; f"]).await;
    let (_, text, _) = command(&stage, &repository, &["https://svc.example.com/a", "--username", "oauth2"]).await;
    assert!(!text.contains("canary") && !text.contains('\u{1b}') && text.contains("store …; then ! …"), "{text}");
    local(&["credential.username", "a\n\nscm-agent/1 erase\nprotocol=https\nhost=svc.example.com"]).await;
    for url in ["https://svc.example.com/a", "https://nobody.example.com/a"] {
        let (code, stdout, stderr) = command(&stage, &repository, &[url]).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.starts_with("error: credential.username has a control character"), "{stderr}");
    }
    assert!(!daemon.log().contains("erase"), "{}", daemon.log());
    let (code, _, stderr) = command(&stage, &home, &["https://u:canary@canary@svc.example.com/x"]).await;
    assert!(code == Some(2) && stderr.contains("more than one @") && !stderr.contains("canary"), "{stderr}");

    // Where no helper is asked, and where nothing is ever answered.
    let (code, document) = json(&["git@svc.example.com:a/b.git"]).await;
    assert_eq!((code, &document["answer"]["kind"]), (Some(1), &json!("not_asked")));
    assert!(document["answer"]["next"].as_str().unwrap().ends_with("scm-agent explain https://svc.example.com/a/b.git"));
    let (code, document) = json(&["http://svc.example.com/a"]).await;
    assert_eq!((code, &document["answer"]["kind"]), (Some(1), &json!("silence")));
    assert!(document["answer"]["reason"].as_str().unwrap().contains("not https"), "{document:#}");

    // For a person; and what is no question at all.
    let (code, text, _) = command(&stage, &home, &["https://nobody.example.com"]).await;
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("result       git would get no credential of ours")
            && text.contains("-> scm-agent login https://nobody.example.com"),
        "{text}"
    );
    for bad in ["", "https://", "gopher://canary/", "https://a\u{7}canary/"] {
        let (code, stdout, stderr) = command(&stage, &home, &[bad]).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{bad:?}");
        assert!(stderr.starts_with("error: URL ") || stderr.starts_with("error: git could not"), "{stderr}");
        assert!(!stderr.contains("canary"), "{stderr}");
    }
    let (_, text, _) = command(&stage, &home, &["https://stranger.example.net/a"]).await;
    assert!(!text.contains("git setup"), "{text}");
    std::fs::write(home.join(".gitconfig"), "[user\n").unwrap();
    let (_, document) = json(&["https://svc.example.com/a"]).await;
    assert_eq!(document["git"]["obstacle"], "git does not understand its own configuration", "{document:#}");
    assert!(daemon.terminate().await.success());
    let (code, stdout, stderr) = command(&stage, &home, &["https://svc.example.com"]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("no scm-agent answers") && stderr.contains("hint: start it: "), "{stderr}");
}
