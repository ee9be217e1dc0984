//! What the keys become.

use std::time::Duration;

use scm_agent::config::{
    Access, AccountList, Agent, Grant, KEYS, LogFormat, LogLevel, OaepHash, PatOrigin, Permission, Provider, Sandbox, Source,
    TokenEndpointAuth,
};
use scm_agent::integration::location::HostPattern;

use super::{Folder, LEAST, RUNNER};
use scm_agent::agent::cgroup::{CgroupPattern, UnitPattern};

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = Folder::new(LEAST).load(&[]).unwrap();
    let plane = &config.control_plane;
    assert_eq!(plane.source, Source::Url("https://app.gitpod.io/api".parse().unwrap()));
    assert_eq!(plane.runner_id.as_deref(), Some(RUNNER));
    assert_eq!((plane.poll_interval, plane.network.connect_timeout, plane.network.timeout), (secs(60), secs(10), secs(30)));
    assert!(plane.network.ca_file.is_none() && plane.network.proxy.is_none() && plane.network.no_proxy.is_none() && plane.watch);
    assert_eq!(config.key.oaep_hash, OaepHash::Sha256);
    let agent = Agent {
        allow_insecure_loopback: false,
        max_connections: 256,
        max_connections_per_user: 64,
        max_request_burst: 2_000,
        max_requests_per_second: 500,
        read_timeout: secs(2),
        sandbox: Sandbox::Auto,
        request_timeout: secs(8),
        shutdown_grace_period: secs(5),
        socket: "/run/scm-agent/agent.sock".into(),
        socket_group: None,
        socket_mode: 0o660,
        state_dir: "/var/lib/scm-agent".into(),
    };
    assert_eq!(config.agent, agent);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, LogLevel::Info));
    assert!(config.access.is_empty());
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
        max_requests_per_second = 65535
        max_request_burst = 1
        shutdown_grace_period = "0s"
        sandbox = "require"
        [[access]]
        users = ["ci", "1000"]
        groups = ["builders"]
        units = ["job-*.service", "ci.slice"]
        cgroups = ["/system.slice/job-1.service"]
        hosts = ["GitLab.example.com:443", "dev.azure.com/acme"]
        allow = ["app-secret", "service"]
        [[access]]
        allow = []
        [[provider]]
        host = "GitLab.Example.com:8443/Root/"
        kind = "gitlab"
        issuer = "https://login.example"
        authorize_url = "https://login.example/authorize"
        token_url = "https://login.example/token"
        device_url = "https://login.example/device"
        redirect_uri = "http://[::1]:34106/sign-in"
        bearer = true
        scopes = []
        username = "x token"
        token_endpoint_auth = "client_secret_post"
        pat_file = "/etc/scm-agent/gitlab-token"
        grant = "user"
        [log]
        format = "json"
        level = "warn"
        "#,
    );
    let config = folder.load(&[]).unwrap();
    assert_eq!(config.control_plane.runner_id.as_deref(), Some(RUNNER));
    let proxy = config.control_plane.network.proxy.as_ref().unwrap();
    assert_eq!(proxy.expose_secret().password(), Some("canary"));
    assert_eq!(format!("{proxy:?}"), "ProxyUrl(http://***@proxy.example:3128/)");
    assert_eq!(config.control_plane.poll_interval, secs(24 * 3600));
    assert!(!config.control_plane.watch);
    assert_eq!(config.control_plane.network.timeout, Duration::from_millis(1500));
    assert_eq!(config.key.oaep_hash, OaepHash::Sha512);
    assert_eq!((config.agent.socket, config.agent.socket_mode), (folder.path("agent.sock"), 0o600));
    assert_eq!(config.agent.socket_group.as_deref(), Some("1000"));
    assert_eq!(config.agent.state_dir, folder.path("state"));
    assert_eq!((config.agent.max_connections, config.agent.max_connections_per_user), (4096, 1));
    assert_eq!((config.agent.max_requests_per_second, config.agent.max_request_burst), (65_535, 1));
    assert_eq!(config.agent.shutdown_grace_period, Duration::ZERO);
    assert_eq!(config.agent.sandbox, Sandbox::Require);
    let list = |name: &str, names: &[&str]| AccountList {
        key: format!("{}: access[{name}", folder.main().display()),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let pattern = |host: &str| HostPattern::of_host(host).unwrap();
    let first = Access {
        allow: vec![Permission::AppSecret, Permission::Service],
        cgroups: vec![CgroupPattern::parse("/system.slice/job-1.service").unwrap()],
        groups: list("0].groups", &["builders"]),
        hosts: vec![pattern("gitlab.example.com"), pattern("acme.visualstudio.com")],
        units: ["job-*.service", "ci.slice"].map(|unit| UnitPattern::parse(unit).unwrap()).to_vec(),
        users: list("0].users", &["ci", "1000"]),
    };
    let second = Access {
        allow: Vec::new(),
        cgroups: Vec::new(),
        groups: list("1].groups", &[]),
        hosts: Vec::new(),
        units: Vec::new(),
        users: list("1].users", &[]),
    };
    assert_eq!(config.access, [first, second]);
    let provider = Provider {
        authorize_url: Some("https://login.example/authorize".parse().unwrap()),
        bearer: Some(true),
        device_url: Some("https://login.example/device".parse().unwrap()),
        grant: Some(Grant::User),
        host: "gitlab.example.com:8443/Root".into(),
        issuer: Some("https://login.example".into()),
        kind: Some("gitlab"),
        redirect_uri: Some("http://[::1]:34106/sign-in".parse().unwrap()),
        scopes: Some(Vec::new()),
        token_endpoint_auth: Some(TokenEndpointAuth::ClientSecretPost),
        token_url: Some("https://login.example/token".parse().unwrap()),
        username: Some("x token".into()),
        pat: Some(PatOrigin::File("/etc/scm-agent/gitlab-token".into())),
    };
    assert_eq!(config.providers, [provider]);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Warn));
}

#[test]
fn the_settings_are_exactly_the_known_keys_in_their_order() {
    let config = Folder::new(&format!("{LEAST}[[access]]\nallow = []\n[[provider]]\nhost = \"a.example\"\n")).load(&[]).unwrap();
    let settings: Vec<(&str, &str)> = config.settings().iter().map(|setting| (setting.section, setting.name)).collect();
    let known: Vec<(&str, &str)> = KEYS.iter().flat_map(|(section, names)| names.iter().map(|name| (*section, *name))).collect();
    assert_eq!(settings, known);
}

#[test]
fn what_scm_hosts_do_not_have_of_their_own_is_as_for_the_control_plane() {
    let shared =
        "proxy = \"http://u:canary@a.example\"\nno_proxy = [\"*\"]\nca_file = \"a.pem\"\nconnect_timeout = \"1s\"\ntimeout = \"2s\"\n";
    let folder = Folder::new(&format!("{LEAST}{shared}"));
    let config = folder.load(&[]).unwrap();
    assert_eq!(config.scm, config.control_plane.network);
    assert_eq!(config.scm.ca_file, Some(folder.path("a.pem")));
    let shown = config.to_toml();
    let scm = shown.split("[scm]\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let from = "# as in [control_plane]";
    assert!(scm.contains(&format!("proxy = \"http://***@a.example/\" {from}\nno_proxy = [\"*\"] {from}\n")), "{scm}");
    assert!(scm.ends_with(&format!("timeout = \"2s\" {from}")), "{scm}");

    let own = "[scm]\nproxy = \"http://b.example:3128\"\nno_proxy = []\nca_file = \"b.pem\"\ntimeout = \"3s\"\n";
    let folder = Folder::new(&format!("{LEAST}{shared}{own}"));
    let config = folder.load(&[]).unwrap();
    assert_eq!(config.scm.proxy.as_ref().unwrap().expose_secret().as_str(), "http://b.example:3128/");
    assert_eq!((config.scm.no_proxy, config.scm.ca_file), (Some(Vec::new()), Some(folder.path("b.pem"))));
    assert_eq!((config.scm.connect_timeout, config.scm.timeout), (secs(1), secs(3)));
    assert_eq!(config.control_plane.network.timeout, secs(2));
}

#[test]
fn each_http_client_gets_the_keys_of_its_section_and_the_hosts_that_the_operator_named() {
    let folder = Folder::new(&format!(
        "{LEAST}proxy = \"http://a.example\"\n[scm]\nproxy = \"http://b.example\"\nno_proxy = [\"c.example\"]\n\
         [[provider]]\nhost = \"Git.Corp:8443/root\"\nissuer = \"https://id.corp/tenant\"\n\
         [[provider]]\nhost = \"10.0.0.1:8443\"\ntoken_url = \"https://token.corp:1/t\"\n\
         authorize_url = \"https://sign-in.corp/a\"\ndevice_url = \"https://device.corp/d\"\n[[provider]]\nhost = \"[fd00::1]\"\n"
    ));
    let config = folder.load(&[]).unwrap();
    let (plane, scm) = (config.http_config(true), config.http_config(false));
    assert_eq!(plane.proxy.unwrap().as_str(), "http://a.example/");
    assert_eq!(scm.proxy.unwrap().as_str(), "http://b.example/");
    assert_eq!((plane.no_proxy, scm.no_proxy), (None, Some(vec!["c.example".to_owned()])));
    assert_eq!((plane.trusted_urls, scm.trusted_urls), (true, false));
    assert!(
        scm.named_hosts.iter().eq(["10.0.0.1", "[fd00::1]", "device.corp", "git.corp", "id.corp", "token.corp"]),
        "{:?}",
        scm.named_hosts
    );
}

#[test]
fn exceptions_from_the_proxy_are_what_the_http_client_understands() {
    let read = |list: &str| {
        let config = Folder::new(&format!("{LEAST}no_proxy = [{list}]\n")).load(&[])?;
        Ok::<_, scm_agent::config::Error>(config.control_plane.network.no_proxy.unwrap())
    };
    let good = r#""example.com", ".Example.com", "example.com.", "bücher.example", "localhost", "my_host", "10.0.0.1", "::1", "fd00::/8", "10.0.0.0/8", "*""#;
    let expected =
        ["example.com", "example.com", "example.com", "xn--bcher-kva.example", "localhost", "my_host", "10.0.0.1", "::1", "fd00::/8"];
    assert_eq!(read(good).unwrap(), [&expected[..], &["10.0.0.0/8", "*"]].concat());
    for bad in
        ["*.example", "a.*", "a:1", "[::1]", "[::1]:1", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "a/8", "a b", "a..b", ".", "u@a"]
    {
        assert!(read(&format!("\"{bad}\"")).is_err(), "{bad}");
    }
    let folder = Folder::new(LEAST);
    let config = folder.load(&[("SCM_AGENT__SCM__NO_PROXY", "a.example, 10.0.0.0/8"), ("SCM_AGENT__CONTROL_PLANE__NO_PROXY", "")]).unwrap();
    assert_eq!(config.scm.no_proxy, Some(vec!["a.example".to_owned(), "10.0.0.0/8".to_owned()]));
    assert_eq!(config.control_plane.network.no_proxy, Some(Vec::new()));
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
