//! Integrations, issuers and tokens that are not as they should be, behind a daemon that runs.

use serde_json::{Value, json};

use super::bench::{AGENT, Bench, KEY, Report, SOURCE, fail, warn};
use crate::support::daemon::{Daemon, git_with_helper, run};
use crate::support::issuer::{FakeIssuer, Manner};

const APP: (&str, &str) = ("app", "canary-app-secret");
const HOST: &str = "one.example.com";

/// A host with one integration, of an app that an issuer of its own knows.
struct Set {
    bench: Bench,
    issuer: FakeIssuer,
    daemon: Daemon,
}

impl Set {
    async fn new() -> Self {
        let bench = Bench::new();
        let issuer = FakeIssuer::start(&[APP]).await;
        bench.world.write_list(&[integration(&bench, 1, HOST, &issuer.issuer_url())]);
        let daemon = bench.start().await;
        daemon.until_synced().await;
        let set = Self { bench, issuer, daemon };
        let report = set.bench.doctor().await;
        report.expect_ok("integrations");
        report.expect_ok("issuers");
        set
    }

    fn integration(&self) -> Value {
        integration(&self.bench, 1, HOST, &self.issuer.issuer_url())
    }

    /// Has the daemon take this list, and asks doctor.
    async fn list(&self, list: &[Value]) -> Report {
        self.bench.world.write_list(list);
        self.bench.run("scm-agent sync", "").await;
        self.bench.doctor().await
    }

    /// Has git ask for a token, whatever comes of it.
    async fn ask(&self) {
        let mut command = git_with_helper(&self.bench.home(), &self.bench.world.binaries.helper, self.daemon.socket());
        command.args(["credential", "fill"]).env("GIT_ASKPASS", "/bin/false");
        run(command, &format!("protocol=https\nhost={HOST}\n\n")).await;
    }
}

fn integration(bench: &Bench, number: u16, host: &str, issuer: &str) -> Value {
    let mut integration = bench.world.integration(number, host, APP.0, &bench.world.seal(APP.1));
    integration["oauth"]["issuerUrl"] = json!(issuer);
    integration
}

#[tokio::test]
async fn an_issuer_that_does_not_say_where_tokens_are_is_told_by_why() {
    let set = Set::new().await;
    let url = set.issuer.issuer_url();
    let origin = url.trim_end_matches('/').to_owned();
    let mut elsewhere = set.integration();
    elsewhere["oauth"]["issuerUrl"] = json!(format!("{origin}/not/here"));
    set.list(&[elsewhere]).await.expect(&fail("issuers", &["127.0.0.1:", "no metadata"], &["issuer URL", "token_url"]));
    let mut closed = set.integration();
    closed["oauth"]["issuerUrl"] = json!("http://127.0.0.1:1");
    set.list(&[closed]).await.expect(&fail("issuers", &["127.0.0.1:1", "connection refused"], &["curl -sSI https://127.0.0.1:1"]));
    set.list(&[set.integration()]).await.expect_ok("issuers");

    for (field, value, words, next) in [
        ("issuer", json!("https://canary.example"), "names another issuer", "to the letter"),
        ("grant_types_supported", json!(["authorization_code"]), "does not offer client_credentials", "grant = \"user\""),
        ("token_endpoint_auth_methods_supported", json!(["private_key_jwt"]), "no client authentication by secret", "token_endpoint_auth"),
        ("token_endpoint", json!(7), "not readable", "token_url"),
        ("token_endpoint", json!("not a URL"), "no usable token_endpoint", "token_url"),
    ] {
        let set = Set::new().await;
        set.issuer.set_metadata(field, value);
        set.bench.doctor().await.expect(&fail("issuers", &["127.0.0.1:", words], &[next]));
    }
}

#[tokio::test]
async fn an_app_that_its_issuer_turns_away_is_told_by_the_issuer_s_word() {
    for (body, words, next) in [
        ("{\"error\":\"invalid_client\"}", "invalid_client", "enter both anew with the control plane"),
        ("{\"error\":\"invalid_scope\"}", "invalid_scope", "scopes"),
        ("{\"error\":\"unauthorized_client\"}", "unauthorized_client", "grant = \"user\""),
    ] {
        let set = Set::new().await;
        set.issuer.set_manner(Manner::Fixed(400, "application/json", body.as_bytes().to_vec()));
        set.ask().await;
        set.bench.doctor().await.expect(&fail("integrations", &[HOST, words], &[next]));
        // A reload forgets what failed.
        set.issuer.set_manner(Manner::Plain);
        set.bench.run("scm-agent reload", "").await;
        set.ask().await;
        set.bench.doctor().await.expect_ok("integrations");
    }
}

#[tokio::test]
async fn secrets_and_definitions_that_are_in_the_way_are_named() {
    let set = Set::new().await;
    set.bench.world.make_key("other.pem", "x25519");
    let mut sealed_for_another = set.integration();
    sealed_for_another["oauth"]["encryptedClientSecret"] = json!(set.bench.world.seal_for("other.pem", APP.1));
    set.bench.world.write_list(&[sealed_for_another]);
    set.bench.run("scm-agent sync", "").await;
    // Whether a secret opens is found out after the list is there.
    set.daemon.until(|status| status["integrations"][0]["secret"] == "undecryptable").await;
    let report = set.bench.doctor().await;
    report.expect(&fail("integrations", &["no runner key opens", HOST], &["key.files", "enter the secret anew"]));
    // What is told: the file of the key that it was sealed for.
    set.bench.configure(&[SOURCE, "[key]\nfiles = [\"runner.pem\", \"other.pem\"]\n", AGENT]);
    set.bench.run("scm-agent reload", "").await;
    set.daemon.until(|status| status["integrations"][0]["secret"] == "ok").await;
    set.bench.doctor().await.expect_ok("integrations");

    // Two for one place: each for itself looks well.
    let mut twin = integration(&set.bench, 2, HOST, &set.issuer.issuer_url());
    twin["oauth"]["clientId"] = json!("twin");
    let report = set.list(&[set.integration(), twin]).await;
    report.expect(&fail("integrations", &["cover the same place", "none of them answers"], &["remove all but one"]));
    set.list(&[set.integration()]).await.expect_quiet("integrations");

    let mut unusable = set.integration();
    unusable["host"] = json!("not a host");
    set.list(&[unusable]).await.expect(&fail("integrations", &["is not usable"], &["with the control plane"]));
    let mut unsupported = set.integration();
    unsupported["oauth"] = Value::Null;
    set.list(&[unsupported]).await.expect(&warn("integrations", &[HOST, "gives no token"], &["control plane"]));
    let mut users = set.integration();
    users["scmId"] = json!("gitlab");
    set.list(&[users]).await.expect(&warn("sign-ins", &[HOST, "nobody is signed in"], &["scm-agent login https://one.example.com"]));
}

#[tokio::test]
async fn tables_and_tokens_of_the_operator_s_that_serve_nobody_are_named() {
    let set = Set::new().await;
    let provider = |host: &str, more: &str| format!("[[provider]]\nhost = \"{host}\"\n{more}");
    set.bench.configure(&[SOURCE, KEY, AGENT, &provider("one.exampel.com", "username = \"x\"\n")]);
    set.bench.run("scm-agent reload", "").await;
    set.bench.doctor().await.expect(&warn("config", &["one.exampel.com", "no integration has"], &["scm-agent status"]));
    set.bench.configure(&[SOURCE, KEY, AGENT, &provider(HOST, "username = \"x\"\n")]);
    set.bench.run("scm-agent reload", "").await;
    set.bench.doctor().await.expect_ok("config");

    set.bench.write("pat", "canary-pat\n");
    set.bench.configure(&[SOURCE, KEY, AGENT, &provider(HOST, "pat_file = \"pat\"\n")]);
    set.bench.run("scm-agent reload", "").await;
    set.bench.doctor().await.expect(&warn("tokens", &[HOST, "does not allow any"], &["let the integration allow", "pat_file"]));
    let mut allowed = set.integration();
    allowed["pat"] = json!(true);
    set.list(&[allowed]).await.expect_quiet("tokens");
    set.bench.mode("pat", 0o644);
    set.daemon.until(|status| status["degraded"].to_string().contains("personal access token cannot be used")).await;
    set.bench.doctor().await.expect(&warn("tokens", &[HOST, "operator", "0644"], &["mend the file"]));
    set.bench.mode("pat", 0o600);
    set.daemon.until(|status| status["degraded"] == json!([])).await;
    set.bench.doctor().await.expect_quiet("tokens");
}
