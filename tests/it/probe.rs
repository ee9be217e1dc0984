//! `doctor URL`: what hosts really reply when they do not let git in, said in words; and where the token goes.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, run, succeed};
use crate::support::git_host::git;
use crate::support::http::{Answer, FakeServer};
use crate::support::scene::{BEARER, Scene};
use crate::support::world::RUNNER_ID;

/// The advertisement of an empty repository, protocol version 2.
fn references(service: &str) -> Answer {
    Answer::new(200, &format!("application/x-{service}-advertisement"), format!("001e# service={service}\n0000000eversion 2\n0000"))
}

/// What the host replies to `/FAMILY/CASE`, for real or as it is documented.
fn reply(case: &str, service: &str, here: &str, elsewhere: &str) -> Answer {
    let text = |status: u16, body: &str| Answer::new(status, "text/plain", body);
    let html = |status: u16| Answer::new(status, "text/html; charset=utf-8", "<html>canary</html>");
    match case {
        "fine" => references(service),
        "large" => {
            let mut answer = references(service);
            answer.body.extend(vec![b'x'; 4 * 1024 * 1024]);
            answer
        }
        "slowed" => references(service).header("retry-after", "7"),
        "other-service" => references("git-receive-pack-of-another-kind"),
        "refused" => text(401, "canary").header("www-authenticate", "Basic realm=\"canary\""),
        "denied" => text(401, "HTTP Basic: Access denied. canary").header("www-authenticate", "Basic realm=\"GitLab\""),
        "sso" => {
            let https = here.replace("http://", "https://");
            text(403, "canary").header("x-github-sso", &format!("required; url={https}/orgs/acme/sso?authorization_request=AAA"))
        }
        "sso-elsewhere" => text(403, "canary").header("x-github-sso", "required; url=https://canary.evil.tld/sso"),
        "saml" => text(403, "remote: The `acme` organization has enabled or enforced SAML SSO. canary"),
        "scopes" => text(403, "canary").header("x-accepted-oauth-scopes", "repo").header("x-oauth-scopes", "gist, read:org"),
        "enough-scopes" => text(403, "canary").header("x-accepted-oauth-scopes", "repo").header("x-oauth-scopes", "repo"),
        "insufficient" => text(403, "canary").header("www-authenticate", "Bearer error=\"insufficient_scope\""),
        "unapproved" => text(403, "`acme` has enabled OAuth App access restrictions, canary"),
        "address" => text(403, "although you appear to have the correct authorization, the `acme` org has an IP allow list enabled"),
        "banned" => text(403, "Forbidden\n"),
        "forbidden" => text(403, "canary"),
        "read-only" if service == "git-receive-pack" => text(403, "Write access to repository not granted. canary"),
        "read-only" => references(service),
        "missing" => text(404, "remote: Repository not found. canary"),
        "later" => text(429, "canary").header("retry-after", "120"),
        "trouble" => html(502),
        "moved" => text(301, "").header("location", &format!("/gh/new/name.git/info/refs?service={service}")),
        "moved-elsewhere" => text(301, "").header("location", &format!("{elsewhere}/gh/moved-elsewhere/info/refs?service={service}")),
        "moved-nowhere" => text(302, ""),
        "sign-in" => text(302, "").header("location", "/users/sign_in?canary"),
        "page" => html(200),
        "sign-in-page" => html(203),
        "files" => text(200, "0123 refs/heads/main\n"),
        "json" => Answer::json(200, &json!({ "canary": 1 })),
        _ => panic!("{case}"),
    }
}

/// A host of every family below paths of its own, another host that must hear nothing, and the daemon.
struct Stage {
    scene: Scene,
    host: FakeServer,
    elsewhere: FakeServer,
    daemon: Daemon,
}

impl Stage {
    async fn new() -> Self {
        let scene = Scene::new(crate::binaries()).await;
        let elsewhere = FakeServer::start(|_| async { Answer::new(500, "text/plain", "") }).await;
        let other = elsewhere.url("");
        let host = FakeServer::start(move |request| {
            let other = other.clone();
            async move {
                let service = request.query.strip_prefix("service=").unwrap_or_default().to_owned();
                let here = format!("http://{}", request.header("host"));
                match request.path.strip_suffix("/info/refs").and_then(|path| path.rsplit('/').next()) {
                    Some(case) => reply(case, &service, &here, &other),
                    None => Answer::new(500, "text/plain", "asked for something else"),
                }
            }
        })
        .await;
        let mut integrations = Vec::new();
        let mut providers = String::new();
        for (number, (path, scm_id)) in
            (1..).zip([("gh", "github"), ("gl", "gitlab"), ("bb", "bitbucket"), ("ado", "azuredevops_entra"), ("any", "custom")])
        {
            let place = format!("127.0.0.1:{}/{path}", host.port());
            let mut integration = scene.integration(number, &place);
            integration["scmId"] = json!(scm_id);
            integrations.push(integration);
            let token_url = scene.issuer.token_url();
            providers.push_str(&format!(
                "[[provider]]\nhost = \"{place}\"\ntoken_url = \"{token_url}\"\ntoken_endpoint_auth = \"client_secret_basic\"\n"
            ));
        }
        scene.control_plane.set_integrations(integrations);
        let url = scene.control_plane.base_url();
        let lines = format!("url = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"24h\"");
        scene.use_token(BEARER);
        let daemon = scene.world.start(&scene.world.config_with(&lines, &providers)).await;
        daemon.until_synced().await;
        let stage = Self { scene, host, elsewhere, daemon };
        for setting in [["credential.useHttpPath", "true"], ["credential.helper", "scm-agent"]] {
            let mut command = git(stage.scene.world.directory());
            command.args(["config", "--global"]).args(setting);
            succeed(command).await;
        }
        stage
    }

    /// What doctor finds of a URL: its exit code, the checks, and everything that it printed.
    async fn doctor(&self, url: &str, more: &[&str]) -> (Option<i32>, Vec<Value>, String) {
        let home = self.scene.world.directory();
        let mut command = tokio::process::Command::from(self.scene.world.agent(&["doctor", "--json", url]));
        command.args(more).arg("--config").arg(self.scene.world.path("config.toml")).current_dir(home);
        command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").env_remove("SCM_AGENT__AGENT__SOCKET");
        command.env("NO_PROXY", "127.0.0.1").env("GIT_CEILING_DIRECTORIES", "/").env("PATH", self.scene.world.path_with_helper());
        let output = run(command, "").await;
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let document: Value = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        let checks = document["checks"].as_array().cloned().unwrap_or_default();
        (output.status.code(), checks, stdout + &stderr)
    }

    fn url(&self, path: &str) -> String {
        self.host.url(&format!("/{path}"))
    }
}

fn probes(checks: &[Value]) -> Vec<&Value> {
    checks.iter().filter(|check| check["name"] == "probe").collect()
}

#[tokio::test]
async fn what_a_host_replies_is_said_in_words_with_what_to_do() {
    let stage = Stage::new().await;
    let port = stage.host.port();
    let sso = format!("https://127.0.0.1:{port}/orgs/acme/sso?authorization_request=AAA");
    let moved = format!("git remote set-url origin http://127.0.0.1:{port}/gh/new/name.git");
    for (place, state, detail, next) in [
        ("gh/fine", "ok", "lets the app fetch there", ""),
        ("any/large", "ok", "lets the app fetch there", ""),
        ("ado/slowed", "ok", "asks to be asked less often", ""),
        ("gh/refused", "fail", "refuses the app's token (HTTP 401)", "ask the operator of this machine"),
        ("gl/denied", "fail", "(HTTP 401: access denied)", "the next git command gets a new one"),
        ("gh/sso", "fail", "authorised for its single sign-on", &sso),
        ("gh/sso-elsewhere", "fail", "authorised for its single sign-on", "sign in to the organisation"),
        ("gh/saml", "fail", "(SAML)", "sign in to the organisation"),
        ("gh/scopes", "fail", "wants one of repo, and it has gist, read:org", "[[provider]]"),
        ("gh/enough-scopes", "fail", "does not let it fetch there (HTTP 403)", "what the app may do"),
        ("gl/insufficient", "fail", "lacks a scope (HTTP 403, insufficient_scope)", "scopes"),
        ("gh/unapproved", "fail", "has not approved the app", "ask its owner"),
        ("gh/address", "fail", "does not allow this machine's address", "ask its owner"),
        ("gl/banned", "fail", "after 300 refused sign-ins", "wait a quarter of an hour"),
        ("bb/banned", "fail", "does not let it fetch there (HTTP 403)", "what the app may do"),
        ("bb/forbidden", "fail", "does not let it fetch there (HTTP 403)", "what the app may do"),
        ("gh/missing", "fail", "no such repository, or the app may not see it", "is a member there"),
        ("any/later", "fail", "asks to be left alone (HTTP 429)", "try again in 2m"),
        ("any/trouble", "fail", "is in trouble (HTTP 502)", "try again later"),
        ("gh/moved", "warn", "has moved to /gh/new/name.git", &moved),
        ("gh/moved-elsewhere", "fail", "sends git to another host", "git remote set-url"),
        ("gh/moved-nowhere", "fail", "without saying where", "ask whoever runs the host"),
        ("gl/sign-in", "fail", "to a page for browsers (HTTP 302)", "ask the operator of this machine"),
        ("any/page", "fail", "answers with a page for browsers", "for cloning"),
        ("ado/sign-in-page", "fail", "a page to sign in (HTTP 203)", "ask the operator of this machine"),
        ("any/files", "fail", "serves files, and not git's smart protocol", "for cloning"),
        ("any/json", "fail", "something that is not git's protocol", "for cloning"),
        ("any/other-service", "fail", "something that is not git's protocol", "for cloning"),
    ] {
        let (code, checks, printed) = stage.doctor(&stage.url(place), &[]).await;
        let [probe] = probes(&checks)[..] else { panic!("{place}: {printed}") };
        assert_eq!(probe["state"], state, "{place}: {printed}");
        assert!(probe["detail"].as_str().unwrap().contains(detail), "{place}: {printed}");
        assert!(probe["next"].as_str().unwrap_or_default().contains(next), "{place}: {printed}");
        assert_eq!(code, Some(i32::from(state == "fail")), "{place}: {printed}");
        assert!(!printed.contains("canary") && !printed.contains("evil"), "{place}: {printed}");
        let asked = stage.host.received().pop().unwrap();
        let token = asked.header("authorization").split(' ').nth(1).unwrap();
        assert!(token.len() > 10 && !printed.contains(token), "{place}: {printed}");
    }
    // As git asks, and nobody else.
    for asked in stage.host.received() {
        assert_eq!((asked.method.as_str(), asked.query.as_str()), ("GET", "service=git-upload-pack"));
        assert!(asked.path.ends_with("/info/refs") && asked.header("user-agent").starts_with("git/"), "{}", asked.path);
        assert_eq!(asked.header("git-protocol"), "version=2");
    }
    assert!(stage.elsewhere.received().is_empty());
    assert!(stage.host.received().iter().any(|asked| asked.header("authorization").starts_with("Bearer ")), "Azure DevOps takes Bearer");
}

#[tokio::test]
async fn pushing_is_tried_where_it_is_asked_for_and_fetching_works() {
    let stage = Stage::new().await;
    let (code, checks, printed) = stage.doctor(&stage.url("gh/read-only"), &["--push"]).await;
    let [fetch, push] = probes(&checks)[..] else { panic!("{printed}") };
    assert_eq!((code, &fetch["state"], &push["state"]), (Some(1), &json!("ok"), &json!("fail")));
    assert!(push["detail"].as_str().unwrap().contains("may read there, and not write"), "{printed}");
    let (code, checks, printed) = stage.doctor(&stage.url("gh/fine"), &["--push"]).await;
    assert_eq!((code, probes(&checks).len()), (Some(0), 2), "{printed}");
    let (_, checks, printed) = stage.doctor(&stage.url("gh/missing"), &["--push"]).await;
    assert_eq!(probes(&checks).len(), 1, "{printed}");
}

#[tokio::test]
async fn a_host_is_not_asked_where_git_would_get_no_token_or_there_is_nothing_to_ask_for() {
    let stage = Stage::new().await;
    for (url, code, name, state, words) in [
        (stage.url("other/fine"), 0, "explain", "warn", "no integration serves that place"),
        ("https://stranger.example.net/a/b".to_owned(), 0, "explain", "warn", "no integration serves that place"),
        (format!("git@127.0.0.1:{}", "gh/fine"), 0, "explain", "warn", "git goes there by ssh"),
        (stage.url(""), 1, "explain", "fail", "several integrations"),
        (stage.url("other/../gh/fine"), 0, "explain", "warn", "leads upwards"),
    ] {
        let (found, checks, printed) = stage.doctor(&url, &[]).await;
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{url}: {printed}"));
        assert_eq!((found, check["state"].as_str().unwrap()), (Some(code), state), "{url}: {printed}");
        assert!(check["detail"].as_str().unwrap().contains(words), "{url}: {printed}");
    }
    let (code, _, printed) = stage.doctor("https://a\u{7}b/", &[]).await;
    assert_eq!(code, Some(2), "{printed}");
    assert!(stage.host.received().is_empty());
    // Nobody listens there any more; and then no daemon.
    let (url, Stage { scene, host, elsewhere, daemon }) = (stage.url("gh/fine"), stage);
    drop(host);
    let stage = Stage { scene, host: FakeServer::start(|_| async { Answer::new(500, "text/plain", "") }).await, elsewhere, daemon };
    let (code, checks, printed) = stage.doctor(&url, &[]).await;
    let [probe] = probes(&checks)[..] else { panic!("{printed}") };
    assert_eq!(code, Some(1));
    assert!(probe["detail"].as_str().unwrap().contains("cannot connect"), "{printed}");
    stage.daemon.signal(rustix::process::Signal::KILL);
    let mut checks = Vec::new();
    for _ in 0..200 {
        (_, checks, _) = stage.doctor(&url, &[]).await;
        if checks[0]["name"] == "daemon" {
            break;
        }
    }
    assert_eq!((&checks[0]["name"], &checks[0]["state"]), (&json!("daemon"), &json!("fail")));
}
