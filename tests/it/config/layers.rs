//! Which layer wins, and what happens to one that cannot be read.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use scm_agent::config::{Config, Environment, LogLevel, Permission, Source, TokenOrigin};

use super::{Folder, LEAST, environment};

const URL: &str = "SCM_AGENT__CONTROL_PLANE__URL";

fn url(config: &Config) -> &str {
    match &config.control_plane.source {
        Source::Url(url) => url.as_str(),
        Source::File(path) => panic!("a file: {}", path.display()),
    }
}

fn origin(config: &Config, section: &str, name: &str) -> String {
    config.settings().iter().find(|setting| setting.section == section && setting.name == name).unwrap().origin.to_string()
}

#[test]
fn a_drop_in_beats_the_main_file_and_a_later_drop_in_an_earlier_one() {
    let folder = Folder::new(&format!("{LEAST}[log]\nlevel = \"error\"\nformat = \"json\"\n[agent]\nmax_connections = 1\n"));
    folder.write("config.d/20-last.toml", "[log]\nlevel = \"trace\"\n");
    folder.write("config.d/10-first.toml", "[log]\nlevel = \"warn\"\n[agent]\nmax_connections = 2\n");
    let config = folder.load(&[]).unwrap();
    assert_eq!(config.log.level, LogLevel::Trace);
    assert_eq!(config.agent.max_connections, 2);
    assert_eq!(origin(&config, "log", "format"), folder.main().display().to_string());
    assert_eq!(origin(&config, "log", "level"), folder.path("config.d/20-last.toml").display().to_string());
    let files = ["config.toml", "config.d/10-first.toml", "config.d/20-last.toml"];
    assert_eq!(config.files, files.map(|name| folder.path(name)));
}

#[test]
fn a_variable_beats_every_file() {
    let folder = Folder::new(&format!("{LEAST}[log]\nlevel = \"error\"\n"));
    folder.write("config.d/a.toml", "[log]\nlevel = \"warn\"\n");
    let config = folder.load(&[("SCM_AGENT__LOG__LEVEL", "debug")]).unwrap();
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(origin(&config, "log", "level"), "SCM_AGENT__LOG__LEVEL");
}

#[test]
fn only_toml_files_that_are_not_hidden_are_drop_ins() {
    let folder = Folder::new(LEAST);
    for name in ["config.d/a.toml.bak", "config.d/.a.toml", "config.d/a.conf", "config.d/toml"] {
        folder.write(name, "not toml");
    }
    assert_eq!(folder.load(&[]).unwrap().files, [folder.main()]);
}

#[test]
fn providers_of_all_layers_add_up_in_order() {
    let folder = Folder::new(&format!("{LEAST}[[provider]]\nhost = \"a.example\"\n[[provider]]\nhost = \"b.example\"\n"));
    folder.write("config.d/a.toml", "[[provider]]\nhost = \"c.example\"\n");
    let variables = [
        ("SCM_AGENT__PROVIDER__10__HOST", "e.example"),
        ("SCM_AGENT__PROVIDER__2__HOST", "d.example"),
        ("SCM_AGENT__PROVIDER__2__SCOPES", "read, write"),
    ];
    let config = folder.load(&variables).unwrap();
    let hosts: Vec<&str> = config.providers.iter().map(|provider| provider.host.as_str()).collect();
    assert_eq!(hosts, ["a.example", "b.example", "c.example", "d.example", "e.example"]);
    assert_eq!(config.providers[3].scopes, Some(vec!["read".to_owned(), "write".to_owned()]));
}

#[test]
fn access_rules_of_all_layers_are_in_one_order() {
    let folder = Folder::new(&format!("{LEAST}[[access]]\nusers = [\"a\"]\nallow = [\"own\"]\n"));
    folder.write("config.d/a.toml", "[[access]]\nusers = [\"b\"]\nallow = []\n");
    let variables = [("SCM_AGENT__ACCESS__1__USERS", "c, 7"), ("SCM_AGENT__ACCESS__1__ALLOW", "service,own")];
    let config = folder.load(&variables).unwrap();
    let users: Vec<String> = config.access.iter().map(|rule| rule.users.names.join(" ")).collect();
    assert_eq!(users, ["a", "b", "c 7"]);
    assert_eq!(config.access[2].allow, [Permission::Service, Permission::Own]);
    assert_eq!(config.access[2].users.key, "SCM_AGENT__ACCESS__1__USERS");
    let problems = folder.problems(&[("SCM_AGENT__ACCESS__1__USERS", "c")]);
    assert_eq!(problems, ["SCM_AGENT__ACCESS__1__ALLOW: is required in every [[access]]"]);
}

#[test]
fn a_host_in_two_layers_is_a_duplicate() {
    let folder = Folder::new(&format!("{LEAST}[[provider]]\nhost = \"a.example\"\n"));
    folder.write("config.d/a.toml", "[[provider]]\nhost = \"A.example\"\n");
    let problems = folder.problems(&[("SCM_AGENT__PROVIDER__0__HOST", "a.example/")]);
    let expected = [
        "{folder}/config.d/a.toml: provider[0].host: names the same host as provider[0].host in {folder}/config.toml; write one [[provider]] for each host",
        "SCM_AGENT__PROVIDER__0__HOST: names the same host as provider[0].host in {folder}/config.toml; write one [[provider]] for each host",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn ona_base_url_beats_the_file_and_the_default_and_the_key_s_own_variable_beats_it() {
    let folder = Folder::new(LEAST);
    let base = ("ONA_BASE_URL", "https://base.example/api");
    assert_eq!(url(&folder.load(&[]).unwrap()), "https://app.gitpod.io/api");
    assert_eq!(url(&folder.load(&[base]).unwrap()), base.1);
    folder.write("config.toml", format!("{LEAST}url = \"https://file.example/api\"\n"));
    assert_eq!(url(&folder.load(&[]).unwrap()), "https://file.example/api");
    let config = folder.load(&[base]).unwrap();
    assert_eq!((url(&config), &*origin(&config, "control_plane", "url")), (base.1, "ONA_BASE_URL"));
    let config = folder.load(&[base, (URL, "https://own.example/api")]).unwrap();
    assert_eq!((url(&config), &*origin(&config, "control_plane", "url")), ("https://own.example/api", URL));
    assert_eq!(url(&folder.load(&[("ONA_BASE_URL", "")]).unwrap()), "https://file.example/api");
    let problems = folder.problems(&[("ONA_BASE_URL", "http://canary.example")]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("ONA_BASE_URL: must be an https URL"), "{problems:?}");
}

#[test]
fn a_saved_reply_stands_beside_ona_base_url_but_not_beside_a_url() {
    let folder = Folder::new("[control_plane]\nfile = \"saved/list.json\"\n");
    let config = folder.load(&[("ONA_BASE_URL", "https://base.example")]).unwrap();
    assert_eq!(config.control_plane.source, Source::File(folder.path("saved/list.json")));
    assert_eq!(config.control_plane.runner_id, None);
    assert!(config.require_secrets().unwrap_err().to_string().starts_with("key.files: is required"));
    let expected = format!(
        "{{folder}}/config.toml: control_plane.file: cannot stand beside control_plane.url, which is set in {URL}; remove one of them"
    );
    assert_eq!(folder.problems(&[(URL, "https://base.example")]), [expected]);
}

#[test]
fn the_token_is_looked_for_in_the_documented_order() {
    let folder = Folder::new(&format!("{LEAST}token_file = \"token\"\n"));
    let credentials = Folder::new("");
    let credential = credentials.write("control-plane-token", "secret");
    let directory = credentials.0.path().to_str().unwrap().to_owned();
    let all = [("ONA_API_KEY", "canary"), ("GITPOD_API_KEY", "canary"), ("CREDENTIALS_DIRECTORY", directory.as_str())];
    let token = |variables: &[(&str, &str)]| folder.load(variables).unwrap().control_plane.token;
    assert_eq!(token(&all), TokenOrigin::File(folder.path("token")));
    folder.write("config.toml", LEAST);
    assert_eq!(token(&all), TokenOrigin::File(credential.clone()));
    fs::remove_file(credential).unwrap();
    assert_eq!(token(&all), TokenOrigin::Environment("ONA_API_KEY"));
    assert_eq!(token(&all[1..]), TokenOrigin::Environment("GITPOD_API_KEY"));
    assert_eq!(token(&all[2..]), TokenOrigin::None);
    let shown = format!("{:?}", folder.load(&all).unwrap());
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn keys_and_passphrase_come_from_systemd_unless_files_are_named() {
    let folder = Folder::new(LEAST);
    let credentials = Folder::new("");
    let (key, passphrase) = (credentials.write("runner-key", "k"), credentials.write("runner-key-passphrase", "p"));
    let variables = [("CREDENTIALS_DIRECTORY", credentials.0.path().to_str().unwrap()), ("ONA_API_KEY", "x")];
    let config = folder.load(&variables).unwrap();
    assert_eq!((&config.key.files, &config.key.passphrase_file), (&vec![key], &Some(passphrase)));
    assert_eq!(origin(&config, "key", "files"), "systemd credential runner-key");
    config.require_secrets().unwrap();
    folder.write("config.toml", format!("{LEAST}[key]\nfiles = [\"a.pem\", \"/b.pem\"]\npassphrase_file = \"p\"\n"));
    let config = folder.load(&variables).unwrap();
    assert_eq!(config.key.files, [folder.path("a.pem"), "/b.pem".into()]);
    assert_eq!(config.key.passphrase_file, Some(folder.path("p")));
}

#[test]
fn without_key_and_token_the_daemon_is_refused_but_the_rest_loads() {
    let error = Folder::new(LEAST).load(&[]).unwrap().require_secrets().unwrap_err();
    let lines: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
    let expected = [
        "control_plane.token_file: is required for a control plane; name a file, give the service the systemd credential \
         control-plane-token, or set ONA_API_KEY or GITPOD_API_KEY",
        "key.files: is required to open secrets; name a private key file, or give the service the systemd credential runner-key",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_relative_path_starts_at_the_file_that_holds_it_and_a_variable_s_at_the_current_directory() {
    let folder = Folder::new(&format!("{LEAST}ca_file = \"ca.pem\"\n"));
    folder.write("config.d/a.toml", "[control_plane]\ntoken_file = \"token\"\n");
    let config = folder.load(&[("SCM_AGENT__KEY__FILES", "keys/a.pem,/b.pem")]).unwrap();
    assert_eq!(config.control_plane.network.ca_file, Some(folder.path("ca.pem")));
    assert_eq!(config.control_plane.token, TokenOrigin::File(folder.path("config.d/token")));
    assert_eq!(config.key.files, [std::env::current_dir().unwrap().join("keys/a.pem"), "/b.pem".into()]);
}

#[test]
fn scm_agent_config_names_the_file_unless_an_argument_does() {
    let by_variable = Folder::new(&format!("{LEAST}[agent]\nmax_connections = 7\n"));
    let by_argument = Folder::new(&format!("{LEAST}[agent]\nmax_connections = 8\n"));
    let main = by_variable.main();
    let variables = environment(&[("SCM_AGENT_CONFIG", main.to_str().unwrap())]);
    assert_eq!(Config::load(None, &variables).unwrap().agent.max_connections, 7);
    assert_eq!(Config::load(Some(&by_argument.main()), &variables).unwrap().agent.max_connections, 8);
}

#[test]
fn a_named_file_must_exist() {
    let folder = Folder::new("");
    fs::remove_file(folder.main()).unwrap();
    let expected = ["{folder}/config.toml: cannot be read: it does not exist"];
    assert_eq!(folder.problems(&[]), expected, "what it would have held is not reported as missing");
    let error = Config::load(None, &environment(&[("SCM_AGENT_CONFIG", "/nonexistent/config.toml")])).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/config.toml: cannot be read: it does not exist");
}

#[test]
fn what_can_be_written_by_everybody_is_refused() {
    let folder = Folder::new(LEAST);
    let drop_in = folder.write("config.d/a.toml", "[log]\nlevel = \"trace\"\n");
    let expected = |name: &str| vec![format!("{{folder}}/{name}: can be written by every user of this machine; run chmod o-w on it")];
    for (path, name) in [(folder.main(), "config.toml"), (drop_in, "config.d/a.toml"), (folder.path("config.d"), "config.d")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o002)).unwrap();
        assert_eq!(folder.problems(&[]), expected(name));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    folder.load(&[]).unwrap();
}

#[test]
fn a_directory_a_pipe_and_a_huge_file_are_refused_without_waiting() {
    let folder = Folder::new(LEAST);
    fs::create_dir(folder.path("config.d")).unwrap();
    fs::create_dir(folder.path("config.d/a.toml")).unwrap();
    fs::set_permissions(folder.path("config.d"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.path("config.d/a.toml"), fs::Permissions::from_mode(0o755)).unwrap();
    let pipe = folder.path("config.d/b.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    folder.write("config.d/c.toml", "#".repeat(1024 * 1024 + 1));
    folder.write("config.d/d.toml", "#".repeat(1024 * 1024));
    let expected = [
        "{folder}/config.d/a.toml: is not a regular file",
        "{folder}/config.d/b.toml: is not a regular file",
        "{folder}/config.d/c.toml: is larger than 1048576 bytes",
    ];
    assert_eq!(folder.problems(&[]), expected);
}

#[test]
fn all_layers_are_reported_at_once_even_when_one_is_broken() {
    let folder = Folder::new("[control_plane\ncanary");
    folder.write("config.d/a.toml", "[log]\nlevel = \"canary\"\n");
    let expected = [
        "{folder}/config.toml: is not valid TOML at line 1, column 15",
        "SCM_AGENT__AGENT__MAX_CONNECTION: unknown key; the nearest known key is SCM_AGENT__AGENT__MAX_CONNECTIONS",
        "SCM_AGENT__AGENT__SOCKET_MODE: must be 0600 or 0660, written in quotes: others may never use the socket",
        "{folder}/config.d/a.toml: log.level: must be one of error, warn, info, debug, trace",
    ];
    assert_eq!(folder.problems(&[("SCM_AGENT__AGENT__SOCKET_MODE", "0666"), ("SCM_AGENT__AGENT__MAX_CONNECTION", "1")]), expected);
}

#[test]
fn a_variable_that_sets_no_key_is_an_error_that_names_the_nearest() {
    let folder = Folder::new(LEAST);
    let cases = [
        ("SCM_AGENT__LOG__LEVL", "SCM_AGENT__LOG__LEVEL"),
        ("SCM_AGENT__LOG__level", "SCM_AGENT__LOG__LEVEL"),
        ("SCM_AGENT__LOG__LEVEL__X", "SCM_AGENT__LOG__LEVEL"),
        ("SCM_AGENT__LEVEL", "SCM_AGENT__LOG__LEVEL"),
        ("SCM_AGENT__CONTROL_PLANE__TOKEN", "SCM_AGENT__CONTROL_PLANE__TOKEN_FILE"),
        ("SCM_AGENT__PROVIDER__HOST", "SCM_AGENT__PROVIDER__0__HOST"),
        ("SCM_AGENT__PROVIDER__01__HOST", "SCM_AGENT__PROVIDER__0__HOST"),
        ("SCM_AGENT__PROVIDER__-1__HOST", "SCM_AGENT__PROVIDER__0__HOST"),
        ("SCM_AGENT__PROVIDER__0__HOSTS", "SCM_AGENT__PROVIDER__0__HOST"),
    ];
    for (variable, nearest) in cases {
        let problems = folder.problems(&[(variable, "canary")]);
        assert_eq!(problems[0], format!("{variable}: unknown key; the nearest known key is {nearest}"));
        assert!(!format!("{problems:?}").contains("canary"), "{problems:?}");
    }
    for variable in ["SCM_AGENT__", "SCM_AGENT____", "SCM_AGENT__LOG", "SCM_AGENT__LOG__", "SCM_AGENT__É__LEVEL"] {
        let problems = folder.problems(&[(variable, "canary")]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("{variable}: unknown key; the nearest known key is SCM_AGENT__")), "{problems:?}");
    }
}

#[test]
fn variables_are_typed_like_keys_in_files() {
    let folder = Folder::new(LEAST);
    let problem = |variable: &str, value: &str| folder.problems(&[(variable, value)]).join("\n");
    assert_eq!(problem("SCM_AGENT__LOG__LEVEL", ""), "SCM_AGENT__LOG__LEVEL: is empty");
    assert_eq!(
        problem("SCM_AGENT__CONTROL_PLANE__POLL_INTERVAL", "60"),
        "SCM_AGENT__CONTROL_PLANE__POLL_INTERVAL: is a number without a unit; write a duration such as 30s, 5m or 1h30m"
    );
    assert_eq!(
        problem("SCM_AGENT__AGENT__MAX_CONNECTIONS", "canary"),
        "SCM_AGENT__AGENT__MAX_CONNECTIONS: must be a whole number, without quotes"
    );
    assert_eq!(
        problem("SCM_AGENT__AGENT__ALLOW_INSECURE_LOOPBACK", "1"),
        "SCM_AGENT__AGENT__ALLOW_INSECURE_LOOPBACK: must be true or false"
    );
    assert_eq!(problem("SCM_AGENT__KEY__FILES", "a.pem,,b.pem"), "SCM_AGENT__KEY__FILES: is empty");
    assert_eq!(problem("SCM_AGENT__PROVIDER__3__USERNAME", "x"), "SCM_AGENT__PROVIDER__3__HOST: is required in every [[provider]]");
    let variables = [
        ("SCM_AGENT__AGENT__ALLOW_INSECURE_LOOPBACK", "true"),
        ("SCM_AGENT__CONTROL_PLANE__POLL_INTERVAL", "1h30m"),
        (URL, "http://[::1]:8080/api"),
    ];
    let config = folder.load(&variables).unwrap();
    assert!(config.agent.allow_insecure_loopback);
    assert_eq!(config.control_plane.poll_interval, Duration::from_secs(5400));
    assert_eq!(url(&config), "http://[::1]:8080/api");
}

#[test]
fn a_variable_that_is_no_text_is_an_error() {
    let folder = Folder::new(LEAST);
    let variables = [("SCM_AGENT__LOG__LEVEL", OsString::from_vec(vec![b'c', 0xff])), ("ONA_BASE_URL", OsString::from_vec(vec![0xff]))];
    let error = Config::load(Some(&folder.main()), &Environment::from_variables(variables)).unwrap_err();
    let lines: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["SCM_AGENT__LOG__LEVEL: is not UTF-8 text", "ONA_BASE_URL: is not UTF-8 text"]);
}

#[test]
fn unknown_keys_of_every_layer_are_reported_even_when_a_later_layer_sets_the_same() {
    let folder = Folder::new(&format!("{LEAST}[log]\nlvl = 1\n"));
    folder.write("config.d/a.toml", "[log]\nlvl = 2\n");
    assert_eq!(folder.problems(&[]).len(), 2);
}
