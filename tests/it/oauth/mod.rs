//! Tests of `oauth`.

mod cache;
mod client;
mod metadata;
mod reply;
mod revocation;
mod user;

use std::sync::Arc;

use scm_agent::clock::SystemClock;
use scm_agent::http;
use scm_agent::oauth::{Error, IssuedToken, Plan, ProviderOverride, ServicePlan, TokenClient, plan};
use scm_agent::secret::ClientSecret;
use url::Url;
use zeroize::Zeroizing;

use crate::support::issuer::FakeIssuer;

/// The client id and the secret that the tests use.
const APP: (&str, &str) = ("app", "canary-secret");

/// A client that may ask servers on loopback. Making one reads the system's certificates, so a test makes one.
fn client() -> TokenClient {
    client_with(true)
}

fn client_with(allow_insecure_loopback: bool) -> TokenClient {
    let http = http::Client::new(&http::Config { allow_insecure_loopback, ..http::Config::default() }).unwrap();
    TokenClient::new(http, Arc::new(SystemClock))
}

fn secret(text: &str) -> ClientSecret {
    ClientSecret::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

fn service(plan: Plan) -> ServicePlan {
    let Plan::Service(plan) = plan else { panic!("not a service plan: {plan:?}") };
    plan
}

/// The plan of an unknown SCM with this issuer.
fn plan_for_issuer(issuer: &str) -> ServicePlan {
    service(plan("other", "git.example.com", Some(issuer), false, true, &[]))
}

/// The plan of an SCM whose token endpoint the operator named.
fn plan_for_token_url(scm_id: &str, token_url: &str) -> ServicePlan {
    let provider =
        ProviderOverride { host: "git.example.com".into(), token_url: Some(Url::parse(token_url).unwrap()), ..ProviderOverride::default() };
    service(plan(scm_id, "git.example.com", None, false, true, &[provider]))
}

/// Asks the issuer's token endpoint as the app.
async fn ask(client: &TokenClient, issuer: &FakeIssuer, scm_id: &str) -> Result<IssuedToken, Error> {
    let plan = plan_for_token_url(scm_id, &issuer.token_url());
    let endpoint = client.endpoint(&plan).await?;
    client.client_credentials(&endpoint, APP.0, secret(APP.1), &plan).await
}

/// Checks that nothing which the issuer or the app said shows in an error.
#[track_caller]
fn assert_keeps_quiet(error: &Error) {
    for text in [format!("{error}"), format!("{error:?}"), format!("{error:#?}")] {
        assert!(!text.contains("canary"), "{text}");
    }
}
