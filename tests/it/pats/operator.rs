//! The operator's own token for a host.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Desk, accounts, pair};
use crate::support::daemon::{Daemon, run};

/// Puts a token into a file, as an operator who replaces it would.
fn put(desk: &Desk, name: &str, content: &str, mode: u32) -> PathBuf {
    let (new, path) = (desk.world.path("pat.new"), desk.world.path(name));
    std::fs::write(&new, content).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

fn provider(desk: &Desk, lines: &str) -> String {
    format!("[[provider]]\nhost = \"{}\"\n{lines}\n", desk.host.host())
}

fn token(status: &Value) -> &Value {
    &status["integrations"][0]["tokens"][0]
}

async fn doctor(desk: &Desk) -> String {
    let mut command = Command::from(desk.world.agent(&["doctor", "--config"]));
    command.arg(desk.world.path("config.toml")).current_dir(desk.world.directory()).env("HOME", desk.world.directory());
    String::from_utf8(run(command, "").await.stdout).unwrap()
}

#[tokio::test]
async fn the_operator_s_token_serves_whoever_has_none_and_a_new_one_counts_at_once() {
    let desk = Desk::new().await;
    put(&desk, "pat", "op-1\n", 0o600);
    let daemon = desk.start_with(&provider(&desk, "pat_file = \"pat\"")).await;
    // GitLab's name for a token, as nobody says another.
    desk.accept("oauth2", "op-1", true);
    let prompt = desk.prompt("mona", "t");
    assert!(desk.ls_remote(&daemon, &prompt).await.status.success());
    // git's `store` makes it nobody's own.
    assert_eq!((prompt.asked(), accounts(&daemon).await), (0, json!([])));
    let shown = daemon.status().await;
    assert_eq!(
        (token(&shown)["subject"].as_str(), token(&shown)["grant"].as_str(), token(&shown)["state"].as_str(), &shown["degraded"]),
        (Some("operator"), Some("pat"), Some("valid"), &json!([]))
    );
    put(&desk, "pat", "  op-2\r\n", 0o640);
    assert_eq!(desk.get(&daemon, "").await, pair("oauth2", "op-2"));
    // Somebody else is asked for.
    assert_eq!(desk.ask(&daemon, "get", "username=mona\n").await, "\n");
    // Nor was the one before kept, which git may tell of late.
    desk.tell(&daemon, "store", "oauth2", "op-1").await;
    assert_eq!(accounts(&daemon).await, json!([]));
    // Who has an own token gets that.
    desk.tell(&daemon, "store", "mona", "t-mona").await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "t-mona"));
    let log = daemon.final_log().await;
    assert!(!log.contains("op-1") && !log.contains("op-2"));
}

#[tokio::test]
async fn a_token_that_the_host_refuses_is_kept_from_git_until_the_file_has_another() {
    let desk = Desk::new().await;
    put(&desk, "pat", "op-1", 0o600);
    let daemon = desk.start_with(&provider(&desk, "pat_file = \"pat\"\nusername = \"robot\"")).await;
    let prompt = desk.prompt("", "");
    assert!(!desk.ls_remote(&daemon, &prompt).await.status.success());
    assert_eq!(prompt.asked(), 0);
    let line = desk.ask(&daemon, "get", "").await;
    let host = desk.host.host();
    let told = format!("message=no token for http://{host}: the host refused the operator's personal access token; ask the operator");
    assert!(line.contains(&told) && !line.contains("quit") && !line.contains("op-1"), "{line}");
    let status = daemon.status().await;
    let file = desk.world.path("pat");
    let error = format!(
        "the host refused the operator's personal access token, says git of uid {}; if it did, put another one into {}",
        rustix::process::geteuid().as_raw(),
        file.display()
    );
    assert_eq!((token(&status)["state"].as_str(), token(&status)["last_error"].as_str()), (Some("failing"), Some(error.as_str())));
    assert!(status["degraded"][0].as_str().unwrap().ends_with(&error), "{status}");
    let found = doctor(&desk).await;
    assert!(found.contains(&error), "{found}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "op-1");
    // The same once more is not another one.
    put(&desk, "pat", "op-1\n", 0o600);
    assert_eq!(desk.get(&daemon, "").await, None);
    put(&desk, "pat", "op-2", 0o600);
    // That the one before is refused says nothing of this one.
    desk.tell(&daemon, "erase", "robot", "op-1").await;
    assert_eq!(desk.get(&daemon, "").await, pair("robot", "op-2"));
    assert_eq!(daemon.status().await["degraded"], json!([]));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_costs_nobody_else_anything() {
    let desk = Desk::new().await;
    let daemon = desk.start_with(&provider(&desk, "pat_file = \"pat\"")).await;
    let path = desk.world.path("pat").display().to_string();
    let fifo = || {
        let path = desk.world.path("pat");
        let _ = std::fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    };
    let cases: [(&dyn Fn(), &str); 7] = [
        (&|| {}, "it cannot be read: No such file or directory"),
        (&|| drop(put(&desk, "pat", "op-1", 0o644)), "its mode 0644 lets others read or change it"),
        (&|| drop(put(&desk, "pat", "op-1", 0o620)), "its mode 0620 lets others read or change it"),
        (&|| drop(put(&desk, "pat", " \n", 0o600)), "it is empty"),
        (&|| drop(put(&desk, "pat", "op-1\nop-2\n", 0o600)), "it contains a character that is not allowed in a token"),
        (&|| drop(put(&desk, "pat", &"x".repeat(65_537), 0o600)), "it is longer than 65536 bytes"),
        (&fifo, "it is not a regular file"),
    ];
    for (prepare, problem) in cases {
        prepare();
        let answer = desk.ask(&daemon, "get", "").await;
        assert!(answer.contains("the operator's personal access token cannot be used; ask the operator"), "{problem}: {answer}");
        assert!(!answer.contains("quit") && !answer.contains(&path) && !answer.contains("op-1"), "{answer}");
        let status = daemon.status().await;
        let said = status["degraded"].to_string();
        assert!(said.contains(&format!("cannot be used: {path}: {problem}")) && !said.contains("op-1"), "{problem}: {said}");
        assert_eq!(token(&status)["state"], "failing");
    }
    // Without being asked for, it is looked at too.
    put(&desk, "pat", "op-1", 0o600);
    daemon.until(|status| token(status)["state"] == "valid" && status["degraded"] == json!([])).await;
    assert_eq!(desk.get(&daemon, "").await, pair("oauth2", "op-1"));
    std::fs::remove_file(desk.world.path("pat")).unwrap();
    daemon.until(|status| token(status)["state"] == "failing").await;
    // A user's own serves all the same.
    desk.tell(&daemon, "store", "mona", "t-mona").await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "t-mona"));
}

#[tokio::test]
async fn a_systemd_credential_will_do_and_one_that_is_missing_is_named() {
    let desk = Desk::new().await;
    let folder = desk.world.path("credentials");
    std::fs::create_dir(&folder).unwrap();
    let file = put(&desk, "credentials/robot-token", "op-1", 0o440);
    let config = desk.world.config(&provider(&desk, "pat_credential = \"robot-token\""));
    let check = run(Command::from(desk.world.agent(&["config", "check", "--config", config.to_str().unwrap()])), "").await;
    assert!(check.status.success(), "outside of the service there are no credentials, and that is no fault");
    let start = |with: bool| {
        let mut command = desk.world.daemon_command();
        if with {
            command.env("CREDENTIALS_DIRECTORY", &folder);
        } else {
            command.env_remove("CREDENTIALS_DIRECTORY");
        }
        Daemon::start(command, &config, desk.world.path("agent.sock").leak())
    };
    let daemon = start(true).await;
    daemon.until_synced().await;
    assert_eq!(desk.get(&daemon, "").await, pair("oauth2", "op-1"));
    drop(daemon.final_log().await);
    let daemon = start(false).await;
    daemon.until_synced().await;
    assert_eq!(desk.get(&daemon, "").await, None);
    let said = daemon.status().await["degraded"].to_string();
    assert!(said.contains("cannot be used: the service has no systemd credential robot-token"), "{said}");
    drop(file);
}

#[tokio::test]
async fn the_operator_s_token_goes_nowhere_that_takes_none_and_to_nobody_who_may_not_have_the_app_s() {
    let desk = Desk::new().await;
    put(&desk, "pat", "op-1", 0o600);
    desk.list(false);
    let daemon = desk.start_with(&provider(&desk, "pat_file = \"pat\"")).await;
    assert_eq!(desk.get(&daemon, "").await, None);
    let said = daemon.status().await["degraded"].to_string();
    assert!(said.contains("is not used: the integration does not allow any"), "{said}");
    assert!(doctor(&desk).await.contains("is not used: the integration does not allow any"));
    desk.list(true);
    daemon.until(|status| status["integrations"][0]["pat"] == true).await;
    assert_eq!(desk.get(&daemon, "").await, pair("oauth2", "op-1"));
    drop(daemon.final_log().await);

    let rule = |allow: &str| format!("{}\n[[access]]\nallow = [\"{allow}\"]\n", provider(&desk, "pat_file = \"pat\""));
    let daemon = desk.start_with(&rule("own")).await;
    assert_eq!(desk.get(&daemon, "").await, None);
    desk.tell(&daemon, "store", "mona", "t-mona").await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "t-mona"));
    drop(daemon.final_log().await);
    // Who may have the app's alone has no own kept, and what was kept before is not given.
    let daemon = desk.start_with(&rule("service")).await;
    assert_eq!(desk.get(&daemon, "").await, pair("oauth2", "op-1"));
    desk.tell(&daemon, "store", "lisa", "t-lisa").await;
    assert_eq!(accounts(&daemon).await.as_array().unwrap().len(), 1);
    assert!(daemon.final_log().await.contains("refused: access rules"));
}

#[tokio::test]
async fn a_token_that_the_settings_name_later_serves_after_a_reload_and_one_that_they_drop_no_more() {
    let desk = Desk::new().await;
    put(&desk, "pat", "op-1\n", 0o600);
    let daemon = desk.start_with("").await;
    assert_eq!(desk.ask(&daemon, "get", "").await, "\n");
    for (lines, expected) in [("pat_file = \"pat\"", pair("oauth2", "op-1")), ("", None)] {
        let more = if lines.is_empty() { String::new() } else { provider(&desk, lines) };
        desk.world.config(&more);
        let mut command = Command::from(desk.world.agent(&["reload", "--config"]));
        command.arg(desk.world.path("config.toml")).current_dir(desk.world.directory());
        assert!(run(command, "").await.status.success());
        assert_eq!(desk.get(&daemon, "").await, expected);
    }
}

#[tokio::test]
async fn the_operator_s_token_is_nobody_s_own_after_a_restart_and_other_helpers_are_told_not_to_keep_it() {
    let desk = Desk::new().await;
    put(&desk, "pat", "op-1\n", 0o600);
    let settings = provider(&desk, "pat_file = \"pat\"");
    let daemon = desk.start_with(&settings).await;
    let answer = desk.ask(&daemon, "get", "capability[]=authtype\n").await;
    assert!(answer.contains("password=op-1\n") && answer.contains("ephemeral=1\n"), "{answer}");
    assert!(daemon.terminate().await.success());
    let daemon = desk.start_with(&settings).await;
    desk.tell(&daemon, "store", "oauth2", "op-1").await;
    assert_eq!(accounts(&daemon).await, json!([]));
    desk.tell(&daemon, "store", "oauth2", "op-2").await;
    assert_ne!(accounts(&daemon).await, json!([]), "another one is kept");
}
