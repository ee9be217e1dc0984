//! The issuers of the integrations' tokens, asked for what they offer. No client authenticates: nothing secret is sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Check, on_the_network};
use crate::cli::advice::as_root;
use crate::cli::run::http_setup;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::oauth::{Plan, ServicePlan, TokenClient, plan};
use crate::status::{Integration, Status};
use crate::{http, oauth};

/// How many issuers are asked for their metadata.
const MAX_ISSUERS: usize = 20;

/// How long each of them may take; they are asked at once.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks them.
pub(super) fn examine(config: &Config, status: &Status) -> Vec<Check> {
    let overrides = config.provider_overrides();
    let plan_of = |integration: &Integration| {
        plan(&integration.scm_id, &integration.host, integration.issuer.as_deref(), integration.pat, integration.oauth, &overrides)
    };
    // One host may have several issuers, each with its own metadata.
    let mut wanted: BTreeMap<(String, Option<String>), ServicePlan> = BTreeMap::new();
    for integration in &status.integrations {
        if let Plan::Service(plan) = plan_of(integration) {
            wanted.entry((plan.issuer_host(), integration.issuer.clone())).or_insert(plan);
        }
    }
    if wanted.is_empty() {
        return Vec::new();
    }
    let http = match http::Client::new(&config.http_config(false)) {
        Ok(http) => http,
        Err(error) => return vec![Check::of("issuers", &http_setup(error))],
    };
    let tokens = TokenClient::new(http, Arc::new(SystemClock));
    let left_out = wanted.len().saturating_sub(MAX_ISSUERS);
    let asked = wanted.into_iter().take(MAX_ISSUERS).map(|((host, _), plan)| {
        let tokens = &tokens;
        async move {
            let answer = tokio::time::timeout(LIMIT, tokens.endpoint(&plan)).await;
            (host, answer.map(|answer| answer.err()))
        }
    });
    // Together, so that one that says nothing costs no more than all of them.
    let answers = on_the_network(LIMIT + LIMIT, futures_util::future::join_all(asked)).unwrap_or_default();
    let mut reached = 0_usize;
    let mut checks = Vec::new();
    for (host, answer) in answers {
        match answer {
            Ok(None) => reached += 1,
            Ok(Some(error)) => checks.push(Check::fail("issuers", format!("{host}: {error}"), next(&error, &host))),
            Err(_) => checks.push(Check::fail("issuers", format!("{host} did not answer in {} s", LIMIT.as_secs()), network(&host))),
        }
    }
    if reached > 0 {
        checks.push(Check::ok("issuers", format!("{reached} say where tokens are to be had")));
    }
    if left_out > 0 {
        checks.push(Check::skip("issuers", format!("{left_out} more were not asked")));
    }
    checks
}

/// What to do about an issuer that does not say where tokens are to be had.
fn next(error: &oauth::Error, host: &str) -> String {
    use http::Error as Http;
    match error {
        oauth::Error::GrantNotOffered { .. } => {
            "allow client_credentials at the issuer; or have users sign in: grant = \"user\" in the host's [[provider]] table".to_owned()
        }
        oauth::Error::AuthenticationNotOffered { .. } => {
            "let the issuer take the app's secret (client_secret_basic or client_secret_post), or set token_endpoint_auth in the host's [[provider]] table".to_owned()
        }
        oauth::Error::IssuerMismatch { .. } => {
            "the integration's issuer URL has to be, to the letter, the one that its metadata names: correct it with the control plane, or set issuer in the host's [[provider]] table".to_owned()
        }
        oauth::Error::MetadataMissing { .. } | oauth::Error::NoTokenEndpoint { .. } | oauth::Error::MetadataUnreadable { .. } => {
            "see the integration's issuer URL; an issuer without metadata needs token_url in the host's [[provider]] table".to_owned()
        }
        oauth::Error::Http(error) => match error {
            Http::Certificate { .. } => CERTIFICATE.to_owned(),
            Http::Proxy { .. } | Http::ProxyAuthentication { .. } => "see proxy and no_proxy in [scm], or HTTPS_PROXY and NO_PROXY of the service".to_owned(),
            Http::PrivateAddress { .. } => format!("if that is right, add a [[provider]] table with host = \"{host}\", then: {}", as_root("scm-agent reload")),
            Http::Connect { .. } | Http::Interrupted { .. } | Http::Timeout { .. } => network(host),
            _ => "see the integration's issuer URL".to_owned(),
        },
        _ => "see the integration's issuer URL, and proxy and ca_file in [scm]".to_owned(),
    }
}

const CERTIFICATE: &str = "see ca_file in [scm]: whose authority signed it? And whether this machine's clock is right: date";

fn network(host: &str) -> String {
    format!("see whether this machine gets there: curl -sSI https://{host}; and proxy in [scm]")
}
