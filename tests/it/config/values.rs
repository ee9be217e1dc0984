//! What the keys become.

use std::time::Duration;

use scm_agent::config::{Agent, Grant, KEYS, LogFormat, LogLevel, OaepHash, Provider, Source, TokenEndpointAuth};

use super::{Folder, LEAST, RUNNER};

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = Folder::new(LEAST).load(&[]).unwrap();
    let plane = &config.control_plane;
    assert_eq!(plane.source, Source::Url("https://app.gitpod.io/api".parse().unwrap()));
    assert_eq!(plane.runner_id.as_deref(), Some(RUNNER));
    assert_eq!((plane.poll_interval, plane.connect_timeout, plane.timeout), (secs(60), secs(10), secs(30)));
    assert!(plane.ca_file.is_none() && plane.proxy.is_none() && plane.watch);
    assert_eq!(config.key.oaep_hash, OaepHash::Sha256);
    let agent = Agent {
        allow_insecure_loopback: false,
        max_connections: 256,
        max_connections_per_user: 64,
        read_timeout: secs(2),
        request_timeout: secs(8),
        shutdown_grace_period: secs(5),
        socket: "/run/scm-agent/agent.sock".into(),
        socket_group: None,
        socket_mode: 0o660,
        state_dir: "/var/lib/scm-agent".into(),
    };
    assert_eq!(config.agent, agent);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, LogLevel::Info));
    assert!(config.providers.is_empty());
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn every_key_becomes_its_type() {
    let folder = Folder::new(
        r#"
        [control_plane]
        url = "https://plane.example/api"
        runner_id = "0B4B1F4E-3F1A-4C5D-9E6F-7A8B9C0D1E2F"
        proxy = "http://user:canary@proxy.example:3128"
        poll_interval = "24h"
        watch = false
        timeout = "1500ms"
        connect_timeout = "100ms"
        [key]
        oaep_hash = "sha512"
        [agent]
        socket = "agent.sock"
        socket_group = "1000"
        socket_mode = "600"
        state_dir = "state"
        max_connections = 4096
        max_connections_per_user = 1
        shutdown_grace_period = "0s"
        [[provider]]
        host = "GitLab.Example.com:8443/Root/"
        issuer = "https://login.example"
        token_url = "https://login.example/token"
        scopes = []
        username = "x token"
        token_endpoint_auth = "client_secret_post"
        grant = "user"
        [log]
        format = "json"
        level = "warn"
        "#,
    );
    let config = folder.load(&[]).unwrap();
    assert_eq!(config.control_plane.runner_id.as_deref(), Some(RUNNER));
    let proxy = config.control_plane.proxy.as_ref().unwrap();
    assert_eq!(proxy.expose_secret().password(), Some("canary"));
    assert_eq!(format!("{proxy:?}"), "ProxyUrl(http://***@proxy.example:3128/)");
    assert_eq!(config.control_plane.poll_interval, secs(24 * 3600));
    assert!(!config.control_plane.watch);
    assert_eq!(config.control_plane.timeout, Duration::from_millis(1500));
    assert_eq!(config.key.oaep_hash, OaepHash::Sha512);
    assert_eq!((config.agent.socket, config.agent.socket_mode), (folder.path("agent.sock"), 0o600));
    assert_eq!(config.agent.socket_group.as_deref(), Some("1000"));
    assert_eq!(config.agent.state_dir, folder.path("state"));
    assert_eq!((config.agent.max_connections, config.agent.max_connections_per_user), (4096, 1));
    assert_eq!(config.agent.shutdown_grace_period, Duration::ZERO);
    let provider = Provider {
        grant: Some(Grant::User),
        host: "gitlab.example.com:8443/Root".into(),
        issuer: Some("https://login.example".into()),
        scopes: Some(Vec::new()),
        token_endpoint_auth: Some(TokenEndpointAuth::ClientSecretPost),
        token_url: Some("https://login.example/token".parse().unwrap()),
        username: Some("x token".into()),
    };
    assert_eq!(config.providers, [provider]);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Warn));
}

#[test]
fn the_settings_are_exactly_the_known_keys_in_their_order() {
    let config = Folder::new(&format!("{LEAST}[[provider]]\nhost = \"a.example\"\n")).load(&[]).unwrap();
    let settings: Vec<(&str, &str)> = config.settings().iter().map(|setting| (setting.section, setting.name)).collect();
    let known: Vec<(&str, &str)> = KEYS.iter().flat_map(|(section, names)| names.iter().map(|name| (*section, *name))).collect();
    assert_eq!(settings, known);
}

#[test]
fn debug_shows_no_password_of_a_proxy() {
    let folder = Folder::new(&format!("{LEAST}proxy = \"https://canary-user:canary-password@proxy.example\"\n"));
    let config = folder.load(&[]).unwrap();
    let shown = format!("{config:?} {:#?} {}", config.settings(), config.to_toml());
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn hosts_are_taken_in_one_spelling() {
    let host = |written: &str| {
        let folder = Folder::new(&format!("{LEAST}[[provider]]\nhost = \"{written}\"\n"));
        folder.load(&[]).map(|config| config.providers[0].host.clone())
    };
    assert_eq!(host("GitHub.com").unwrap(), "github.com");
    assert_eq!(host("github.com:443").unwrap(), "github.com");
    assert_eq!(host("github.com./x").unwrap(), "github.com/x");
    assert_eq!(host("dev.azure.com/Acme/").unwrap(), "dev.azure.com/Acme");
    assert_eq!(host("[2001:DB8::1]:8443").unwrap(), "[2001:db8::1]:8443");
    assert_eq!(host("bücher.example").unwrap(), "xn--bcher-kva.example");
    for bad in [
        "http:/x",
        "a//b",
        "a b",
        ".",
        "..",
        "a..",
        ".a",
        "a..b",
        "a:",
        "a:/x",
        ":443",
        "a:99999",
        "git@github.com:acme/x",
        "github.com#x",
        "\\\\\\\\host",
    ] {
        assert!(host(bad).is_err(), "{bad} is {:?}", host(bad));
    }
}
