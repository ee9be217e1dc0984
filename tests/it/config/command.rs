//! `scm-agent config check` and `config show`, as processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use super::{Folder, LEAST};

fn scm_agent(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scm-agent"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A configuration that names files which are there.
fn whole() -> Folder {
    let folder = Folder::new(&format!("{LEAST}token_file = \"token\"\n[key]\nfiles = [\"a.pem\", \"b.pem\"]\n"));
    folder.write("token", "canary");
    for (name, seed) in [("a.pem", 11_u8), ("b.pem", 12)] {
        // Bare X25519 keys: any 32 bytes that are no text.
        folder.write(name, (0..32_u8).map(|index| seed.wrapping_mul(17).wrapping_add(index * 5) | 0x80).collect::<Vec<u8>>());
    }
    for name in ["token", "a.pem", "b.pem"] {
        fs::set_permissions(folder.path(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    folder
}

#[test]
fn check_uses_what_the_configuration_names_as_the_daemon_would() {
    type Spoil<'a> = &'a dyn Fn(&Folder);
    let check = |spoil: Spoil<'_>| {
        let folder = whole();
        spoil(&folder);
        let output = scm_agent(&["config", "check", "--config", folder.main().to_str().unwrap()], &[]);
        let report = text(&output.stderr).to_owned();
        assert!(!report.contains("canary"), "{report}");
        (output.status.code(), report)
    };
    let append = |folder: &Folder, lines: &str| {
        let text = fs::read_to_string(folder.main()).unwrap();
        fs::write(folder.main(), format!("{lines}{text}")).unwrap();
    };
    let cases: [(&str, Spoil<'_>); 5] = [
        ("is open to its group or to others", &|folder| {
            fs::set_permissions(folder.path("a.pem"), PermissionsExt::from_mode(0o644)).unwrap();
        }),
        ("key file", &|folder| fs::write(folder.path("b.pem"), "canary").unwrap()),
        ("token file", &|folder| fs::write(folder.path("token"), "two words").unwrap()),
        ("CA file", &|folder| {
            folder.write("ca.pem", "canary");
            let text = fs::read_to_string(folder.main()).unwrap().replace("[key]", "ca_file = \"ca.pem\"\n[key]");
            fs::write(folder.main(), text).unwrap();
        }),
        ("no-such-group", &|folder| append(folder, "[agent]\nsocket_group = \"no-such-group\"\n")),
    ];
    assert_eq!(check(&|_| {}), (Some(0), String::new()));
    for (expected, spoil) in cases {
        let (code, report) = check(spoil);
        assert!(report.contains(expected), "{expected}: {report}");
        assert_eq!(code, Some(2), "{report}");
    }
}

#[test]
fn check_says_valid_and_which_files_it_read() {
    let folder = whole();
    folder.write("config.d/a.toml", "[log]\nlevel = \"debug\"\n");
    let main = folder.main();
    let output = scm_agent(&["config", "check", "--config", main.to_str().unwrap()], &[]);
    assert_eq!(text(&output.stderr), "");
    let expected = format!("configuration is valid\n  read {}\n  read {}\n", main.display(), folder.path("config.d/a.toml").display());
    assert_eq!((text(&output.stdout), output.status.code()), (&*expected, Some(0)));
}

#[test]
fn check_takes_the_file_before_the_subcommand_and_from_the_variable_too() {
    let folder = whole();
    let main = folder.main();
    let main = main.to_str().unwrap();
    assert_eq!(scm_agent(&["--config", main, "config", "check"], &[]).status.code(), Some(0));
    assert_eq!(scm_agent(&["config", "--config", main, "check"], &[]).status.code(), Some(0));
    assert_eq!(scm_agent(&["config", "check"], &[("SCM_AGENT_CONFIG", main)]).status.code(), Some(0));
}

#[test]
fn check_prints_all_problems_and_exits_with_2() {
    let folder = Folder::new("[control_plane]\nrunner_id = \"canary\"\n[log]\nlevle = \"canary\"\n");
    let main = folder.main();
    let output = scm_agent(&["config", "check", "--config", main.to_str().unwrap()], &[("ONA_API_KEY", "canary")]);
    let expected = format!(
        "error: the configuration has 2 problems\n  {0}: log.levle: unknown key; the nearest known key is log.level\n  \
         {0}: control_plane.runner_id: must be a UUID such as 01234567-89ab-cdef-0123-456789abcdef\n\
         hint: change the configuration, then run `scm-agent config check`\n",
        main.display()
    );
    assert_eq!((text(&output.stderr), text(&output.stdout), output.status.code()), (&*expected, "", Some(2)));
}

#[test]
fn check_looks_for_every_file_that_the_configuration_names() {
    let folder = Folder::new(
        "[control_plane]\nfile = \"list.json\"\ntoken_file = \"canary-token\"\nca_file = \"ca.pem\"\n\
         [key]\nfiles = [\"a.pem\", \"b.pem\"]\npassphrase_file = \"passphrase\"\n",
    );
    folder.write("ca.pem", "");
    folder.write("a.pem", "x");
    fs::create_dir(folder.path("b.pem")).unwrap();
    let main = folder.main();
    let output = scm_agent(&["config", "check", "--config", main.to_str().unwrap()], &[]);
    let expected = format!(
        "error: the configuration has 5 problems\n  \
         {0}: control_plane.file: names a file that cannot be read: it does not exist\n  \
         {0}: control_plane.token_file: names a file that cannot be read: it does not exist\n  \
         {0}: control_plane.ca_file: names an empty file\n  \
         {0}: key.files[1]: names something that is not a regular file\n  \
         {0}: key.passphrase_file: names a file that cannot be read: it does not exist\n\
         hint: change the configuration, then run `scm-agent config check`\n",
        main.display()
    );
    assert_eq!((text(&output.stderr), text(&output.stdout), output.status.code()), (&*expected, "", Some(2)));
}

#[test]
fn check_warns_where_only_the_service_can_have_key_and_token() {
    let folder = Folder::new(LEAST);
    let main = folder.main();
    let output = scm_agent(&["config", "check", "--config", main.to_str().unwrap()], &[]);
    let warnings: Vec<&str> = text(&output.stderr).lines().collect();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("warning: control_plane.token_file: is required for a control plane"), "{warnings:?}");
    assert!(warnings[1].starts_with("warning: key.files: is required to open secrets"), "{warnings:?}");
}

#[test]
fn show_prints_each_value_with_its_origin_and_loads_again() {
    let folder = Folder::new(&format!(
        "{LEAST}token_file = \"tok\\\"en\\\\\"\nproxy = \"http://canary:canary@proxy.example\"\n\
         [[provider]]\nhost = \"a.example\"\nscopes = [\"one\", \"two\"]\n[[provider]]\nhost = \"b.example\"\ngrant = \"service\"\n"
    ));
    let main = folder.main();
    let variables = [("SCM_AGENT__LOG__LEVEL", "debug"), ("ONA_API_KEY", "canary"), ("ONA_BASE_URL", "https://base.example/api")];
    let output = scm_agent(&["config", "show", "--config", main.to_str().unwrap()], &variables);
    assert_eq!((text(&output.stderr), output.status.code()), ("", Some(0)));
    let shown = text(&output.stdout);
    assert!(!shown.contains("canary"), "{shown}");
    for line in [
        "[control_plane]",
        "url = \"https://base.example/api\" # ONA_BASE_URL",
        "# file is not set",
        "poll_interval = \"60s\" # default",
        &format!("proxy = \"http://***@proxy.example/\" # {}", main.display()),
        &format!("scopes = [\"one\", \"two\"] # {}", main.display()),
        "level = \"debug\" # SCM_AGENT__LOG__LEVEL",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "no line {line:?} in\n{shown}");
    }
    let again = Folder::new(shown);
    let output = scm_agent(&["config", "show", "--config", again.main().to_str().unwrap()], &[]);
    let values = |shown: &str| shown.lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(text(&output.stdout)), values(shown));
}

#[test]
fn show_says_which_variable_holds_the_token() {
    let folder = Folder::new(LEAST);
    let output = scm_agent(&["config", "show", "--config", folder.main().to_str().unwrap()], &[("GITPOD_API_KEY", "canary")]);
    let shown = text(&output.stdout);
    assert!(shown.contains("# token_file is not set: the token is in GITPOD_API_KEY\n"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn show_says_which_variables_name_the_proxy_and_not_what_they_hold() {
    let variables = [("ALL_PROXY", "http://canary"), ("HTTPS_PROXY", "http://canary:canary@canary"), ("no_proxy", "canary")];
    let shown = |config: &str| {
        let output = scm_agent(&["config", "show", "--config", Folder::new(config).main().to_str().unwrap()], &variables);
        let shown = text(&output.stdout).to_owned();
        assert!(!shown.contains("canary"), "{shown}");
        shown.lines().filter(|line| line.contains("proxy ")).map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (proxy, own) = ("# proxy is not set; the environment's HTTPS_PROXY counts", "no_proxy = [\"x.example\"]");
    let no_proxy = "# no_proxy is not set; the environment's no_proxy counts";
    assert_eq!(shown(LEAST), [proxy, no_proxy, proxy, no_proxy]);
    assert_eq!(shown(&format!("{LEAST}{own}\n")), [proxy, own, proxy, own]);
}

#[test]
fn show_refuses_a_broken_configuration_as_check_does() {
    let folder = Folder::new("canary");
    let output = scm_agent(&["config", "show", "--config", folder.main().to_str().unwrap()], &[]);
    assert_eq!((text(&output.stdout), output.status.code()), ("", Some(2)));
    assert!(text(&output.stderr).contains("is not valid TOML at line 1, column 7"), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("canary"));
}
