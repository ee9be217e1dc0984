//! Tests of `integration`.

mod day;
mod end_to_end;
mod kept;
mod lookalikes;
mod matching;
mod registry;
mod requests;
mod sync;
mod watch;

use std::sync::Arc;

use scm_agent::integration::location::Location;
use scm_agent::integration::registry::{IntegrationRegistry, Lookup};
use scm_agent::integration::source::IntegrationList;
use scm_agent::integration::{EncryptedClientSecret, OAuthApp, ScmId, ScmIntegration};

/// An integration with an OAuth app and a ciphertext of its own.
fn integration(id: &str, scm_id: &str, host: &str) -> ScmIntegration {
    ScmIntegration {
        id: id.to_owned(),
        scm_id: ScmId::from(scm_id),
        host: host.to_owned(),
        oauth: Some(OAuthApp {
            client_id: "client".to_owned(),
            encrypted_client_secret: EncryptedClientSecret::new(format!("{id} {scm_id} {host}").into_bytes()),
            issuer_url: None,
        }),
        pat: false,
        runner_id: "runner".to_owned(),
        virtual_directory: String::new(),
    }
}

/// Azure DevOps Server: personal access tokens below a virtual directory.
fn azure_server(id: &str, host: &str, virtual_directory: &str) -> ScmIntegration {
    ScmIntegration {
        oauth: None,
        pat: true,
        virtual_directory: virtual_directory.to_owned(),
        ..integration(id, "azuredevops_server", host)
    }
}

fn list(integrations: Vec<ScmIntegration>) -> IntegrationList {
    IntegrationList { integrations: integrations.into_iter().map(Arc::new).collect(), rejected: Vec::new() }
}

fn registry(integrations: Vec<ScmIntegration>) -> IntegrationRegistry {
    IntegrationRegistry::new(list(integrations))
}

/// What git sends for a URL: userinfo and path split off, the path decoded and without its slashes. `path` false is git without
/// `credential.useHttpPath`.
fn asked(url: &str, path: bool) -> Option<Location> {
    let (protocol, rest) = url.split_once("://").unwrap();
    let (authority, url_path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let (username, host) = authority.split_once('@').map_or((None, authority), |(username, host)| (Some(username), host));
    let url_path = url_path.map(|path| path.trim_matches('/').replace("%20", " "));
    Location::from_git(
        protocol.as_bytes(),
        host.as_bytes(),
        url_path.as_deref().filter(|_| path).map(str::as_bytes),
        username.map(str::as_bytes),
        false,
    )
    .ok()
}

/// Who answers for a URL: an id, `-` for nobody, `?a,b` when several could.
fn answers(registry: &IntegrationRegistry, url: &str, path: bool) -> String {
    let Some(location) = asked(url, path) else { return "-".to_owned() };
    match registry.for_host(&location) {
        Lookup::Match(integration) => integration.id.clone(),
        Lookup::None => "-".to_owned(),
        Lookup::Ambiguous(several) => {
            let ids: Vec<&str> = several.iter().map(|integration| integration.id.as_str()).collect();
            format!("?{}", ids.join(","))
        }
    }
}

/// Checks a table of URLs with their paths told.
fn check(registry: &IntegrationRegistry, table: &[(&str, &str)]) {
    for (url, expected) in table {
        assert_eq!(&answers(registry, url, true), expected, "{url}");
    }
}
