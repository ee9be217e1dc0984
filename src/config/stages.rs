//! The configuration as each stage takes it: no stage reads this module's types.

use std::collections::BTreeSet;
use std::sync::Arc;

use url::Url;

use super::{AccountList, Config, Grant, Network, OaepHash, PatOrigin, Permission, TokenEndpointAuth};
use crate::agent::access;
use crate::broker::{OperatorsPat, Rights};
use crate::oauth::{ClientAuthentication, GrantKind, ProviderOverride};
use crate::{http, key};

impl Config {
    /// For the daemon: who may have what.
    #[must_use]
    pub fn access_rules(&self) -> Vec<access::Rule> {
        let names = |list: &AccountList| access::Names { key: list.key.clone(), names: list.names.clone() };
        let rule = |rule: &super::Access| access::Rule {
            users: names(&rule.users),
            groups: names(&rule.groups),
            units: rule.units.clone(),
            cgroups: rule.cgroups.clone(),
            hosts: rule.hosts.clone(),
            rights: Rights {
                app_secret: rule.allow.contains(&Permission::AppSecret),
                own: rule.allow.contains(&Permission::Own),
                service: rule.allow.contains(&Permission::Service),
            },
        };
        self.access.iter().map(rule).collect()
    }

    /// For stage 3.
    #[must_use]
    pub fn key_config(&self, allow_development_key: bool) -> key::Config {
        key::Config {
            allow_development_key,
            files: self.key.files.clone(),
            owner: None,
            passphrase_file: self.key.passphrase_file.clone(),
            oaep_hash: match self.key.oaep_hash {
                OaepHash::Sha1 => key::OaepHash::Sha1,
                OaepHash::Sha256 => key::OaepHash::Sha256,
                OaepHash::Sha384 => key::OaepHash::Sha384,
                OaepHash::Sha512 => key::OaepHash::Sha512,
            },
        }
    }

    /// For the HTTP clients of stages 1 and 4: `trusted_urls` is for the control plane, whose URL the operator wrote, and without it
    /// for SCM hosts and issuers, whose URLs come from the control plane and from each other.
    #[must_use]
    pub fn http_config(&self, trusted_urls: bool) -> http::Config {
        let Network { ca_file, connect_timeout, no_proxy, proxy, timeout } =
            if trusted_urls { &self.control_plane.network } else { &self.scm };
        http::Config {
            allow_insecure_loopback: self.agent.allow_insecure_loopback,
            ca_file: ca_file.clone(),
            connect_timeout: *connect_timeout,
            lookup: Arc::new(http::SystemLookup),
            named_hosts: self.named_hosts(),
            no_proxy: no_proxy.clone(),
            proxy: proxy.as_ref().map(|proxy| proxy.expose_secret().clone()),
            timeout: *timeout,
            trusted_urls,
        }
    }

    /// The hosts that the operator wrote into `[[provider]]` tables, without ports: these may be in private networks.
    fn named_hosts(&self) -> BTreeSet<String> {
        let mut hosts = BTreeSet::new();
        for provider in &self.providers {
            let host = Url::parse(&format!("https://{}", provider.host)).ok();
            let issuer = provider.issuer.as_deref().and_then(|issuer| Url::parse(issuer).ok());
            // Only the user's browser goes to `authorize_url`.
            let endpoints = [&provider.token_url, &provider.device_url].map(Option::as_ref);
            for url in [host.as_ref(), issuer.as_ref()].into_iter().chain(endpoints).flatten() {
                hosts.extend(url.host_str().map(str::to_owned));
            }
        }
        hosts
    }

    /// For the flow: the operator's own personal access tokens.
    #[must_use]
    pub fn operators_pats(&self) -> Vec<OperatorsPat> {
        let file = |origin: &PatOrigin| match origin {
            PatOrigin::Credential { file: Some(file), .. } | PatOrigin::File(file) => Ok(file.clone()),
            PatOrigin::Credential { name, file: None } => Err(format!("the service has no systemd credential {name}")),
        };
        let pat = |provider: &super::Provider| Some(OperatorsPat { host: provider.host.clone(), file: file(provider.pat.as_ref()?) });
        self.providers.iter().filter_map(pat).collect()
    }

    /// For stage 4.
    #[must_use]
    pub fn provider_overrides(&self) -> Vec<ProviderOverride> {
        self.providers
            .iter()
            .map(|provider| ProviderOverride {
                host: provider.host.clone(),
                kind: provider.kind.map(str::to_owned),
                authorize_url: provider.authorize_url.clone(),
                device_url: provider.device_url.clone(),
                redirect_uri: provider.redirect_uri.clone(),
                bearer: provider.bearer,
                issuer: provider.issuer.clone(),
                token_url: provider.token_url.clone(),
                scopes: provider.scopes.clone(),
                username: provider.username.clone(),
                token_endpoint_auth: provider.token_endpoint_auth.map(|method| match method {
                    TokenEndpointAuth::ClientSecretBasic => ClientAuthentication::Basic,
                    TokenEndpointAuth::ClientSecretPost => ClientAuthentication::Post,
                }),
                grant: provider.grant.map(|grant| match grant {
                    Grant::Service => GrantKind::Service,
                    Grant::User => GrantKind::User,
                }),
            })
            .collect()
    }
}
