//! Putting a changed configuration to use in a running daemon: all of it, or nothing.
//!
//! Everything that can fail is done first: reading, checking, looking names up, loading keys, building clients. What follows cannot
//! fail. Rules, limits and the word on hosts are one `Agent`, which takes the other's place in one step; a request goes by the one
//! that it began with.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::info;

use super::log::{Logs, OpenedAudit};
use super::run::{agent_config, control_plane, http_setup, metrics_address};
use crate::agent::InForce;
use crate::agent::access::{Access, SystemAccounts};
use crate::api::{self, Replaceable};
use crate::broker::Settings;
use crate::config::{Config, Environment, SOCKET_KEY, STATE_DIR_KEY, Source, VARIABLES};
use crate::error::{Error, Kind};
use crate::http;
use crate::metrics::listen::{Address, Bound};
use crate::metrics::serve::Handle;
use crate::sandbox::{self, Named, Places, Sandbox};

/// What is replaced, and where from.
pub(super) struct Reloader {
    pub(super) agents: Arc<InForce>,
    pub(super) allow_development_key: bool,
    /// The configuration's file, where one was named.
    pub(super) explicit: Option<PathBuf>,
    pub(super) logs: Arc<Logs>,
    /// Where scrapes are answered now.
    pub(super) metrics_address: Mutex<Option<Address>>,
    pub(super) sandbox: Sandbox,
    pub(super) scrapes: Handle,
    /// `None` where the list comes from a file.
    pub(super) source: Option<Arc<Replaceable>>,
    pub(super) started_with: Arc<Config>,
}

/// All that is made of a configuration before any of it counts.
struct Prepared {
    access: Access,
    audit: OpenedAudit,
    config: Config,
    control_plane: Option<api::ControlPlane>,
    issuers: http::Client,
    metrics_address: Option<Address>,
}

impl Reloader {
    /// Reads everything again and puts it to use; the keys of the configuration that count from the next start on only.
    ///
    /// # Errors
    /// Whatever a start would fail with. Nothing is changed then.
    pub(super) async fn reload(&self) -> Result<Vec<String>, Error> {
        let outcome = self.reload_all().await;
        if outcome.is_err() {
            let logs = Arc::clone(&self.logs);
            let _ = tokio::task::spawn_blocking(move || logs.reopen_audit()).await;
        }
        outcome
    }

    async fn reload_all(&self) -> Result<Vec<String>, Error> {
        let (explicit, started_with, sandbox) = (self.explicit.clone(), Arc::clone(&self.started_with), self.sandbox.clone());
        // Files, and users and groups, which may come from a server.
        let prepared = tokio::task::spawn_blocking(move || prepare(explicit.as_deref(), &started_with, &sandbox)).await;
        let Prepared { access, audit, config, control_plane, issuers, metrics_address } =
            prepared.map_err(|_| Error::new(Kind::Internal, "reading the settings failed for a defect of scm-agent"))??;
        let before = self.agents.get();
        let Scrapes { next: scrapes, keeps_group } = self.other_scrapes(metrics_address)?;
        let keys = before.broker().load_keys(config.key_config(self.allow_development_key)).await?;

        // From here on nothing fails.
        self.logs.set(&config.log, audit);
        access.log_changes(before.access());
        let broker = before.broker().renewed(settings(&config));
        // First, so that no request goes by new settings with a client that knows nothing of them.
        broker.use_client(issuers);
        if let (Some(source), Some(control_plane)) = (&self.source, control_plane) {
            source.replace(control_plane);
        }
        let changed = broker.use_keys(keys);
        let broker = Arc::new(broker);
        self.agents.replace(before.renewed(Arc::clone(&broker), Arc::new(access), agent_config(&config)));
        broker.come_into_force();
        if let Some(next) = scrapes {
            *self.metrics_address.lock().unwrap_or_else(PoisonError::into_inner) = next.as_ref().map(|(address, _)| address.clone());
            self.scrapes.replace(next).await;
        }
        // What was just put to use is sealed anew at the latest with the next change, so a full disk is no failure here.
        if changed {
            broker.reseal().await;
        }
        info!(target: "audit", event = "reloaded", "the settings were read again and are in force");
        let mut next_start = config.needs_restart(&self.started_with);
        next_start.extend(keeps_group.then(|| "metrics.socket_group".to_owned()));
        Ok(next_start)
    }

    /// What scrapes are to be answered by from now on.
    fn other_scrapes(&self, wanted: Option<Address>) -> Result<Scrapes, Error> {
        let (is_same, keeps_group) = {
            let now = self.metrics_address.lock().unwrap_or_else(PoisonError::into_inner);
            match (&*now, &wanted) {
                (Some(Address::Unix { gid, path }), Some(Address::Unix { gid: other, path: wanted })) if path == wanted => {
                    (true, gid != other)
                }
                (now, wanted) => (now == wanted, false),
            }
        };
        if is_same {
            return Ok(Scrapes { next: None, keeps_group });
        }
        let bound = wanted.map(|address| Bound::bind(&address).map(|bound| (address, bound))).transpose();
        let next = bound.map_err(|error| Error::new(Kind::Config, "metrics.listen").because(error))?;
        Ok(Scrapes { next: Some(next), keeps_group })
    }
}

/// What a reload does about scrapes.
struct Scrapes {
    /// By what they are to be answered from now on, if that is anything else than before.
    next: Option<Option<(Address, Bound)>>,
    /// A socket that stays where it is stays whose it is, though the configuration names another group.
    keeps_group: bool,
}

fn prepare(explicit: Option<&std::path::Path>, started_with: &Config, sandbox: &Sandbox) -> Result<Prepared, Error> {
    let refused = |error: sandbox::Error| Error::new(Kind::Config, error.to_string());
    let config = match Config::load(explicit, &Environment::from_process()) {
        Ok(config) => config,
        Err(error) => {
            // That the system denies a file is not the whole truth where it was the daemon that asked it to.
            let named = |file: &std::path::Path| Named { key: "--config".to_owned(), path: file.to_owned() };
            let denied = Places { files: error.denied_files().map(named).collect(), ..Places::default() };
            return Err(sandbox.check(&denied).map_or_else(refused, |()| error.into()));
        }
    };
    // What is used from the next start on may be anywhere.
    let mut waiting = config.needs_restart(started_with);
    waiting.extend([SOCKET_KEY, STATE_DIR_KEY].map(str::to_owned));
    // The environment is that of the start.
    waiting.extend(VARIABLES.map(str::to_owned));
    if !config.has_source_of(started_with) {
        waiting.extend(["control_plane.ca_file", "control_plane.token_file"].map(str::to_owned));
    }
    let places = config.places(|name| std::env::var_os(name)).without(&waiting);
    sandbox.check(&places).map_err(refused)?;
    config.require_secrets()?;
    let issuers = http::Client::new(&config.http_config(false)).map_err(http_setup)?;
    let access = Access::new(config.access_rules(), SystemAccounts)?;
    let control_plane = match &config.control_plane.source {
        // Another control plane, or another runner, gets nothing of what is meant for this one, and the other way round.
        Source::Url(url) if config.has_source_of(started_with) => {
            let control_plane = control_plane(&config, url)?;
            control_plane.check_token()?;
            Some(control_plane)
        }
        Source::Url(_) | Source::File(_) => None,
    };
    let metrics_address = metrics_address(&config)?;
    // Last, since it makes the file.
    let audit = Logs::open_audit(&config.log)?;
    Ok(Prepared { access, audit, config, control_plane, issuers, metrics_address })
}

/// For the broker.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        allow_insecure_loopback: config.agent.allow_insecure_loopback,
        operators_pats: config.operators_pats(),
        providers: config.provider_overrides(),
    }
}
