//! `[[access]]` in the real daemon: who gets what, who is refused, and what the audit log says of both.

use serde_json::json;

use crate::support::daemon::{Daemon, git_with_helper, run, succeed};
use crate::support::scene::Scene;

/// A daemon with rules, over integrations of three hosts: `one` and `two`, and `pat`, which allows personal access tokens.
async fn start(rules: &str) -> (Scene, Daemon) {
    let scene = Scene::new(crate::binaries()).await;
    let mut pat = scene.integration(3, "pat.example.com");
    pat["pat"] = json!(true);
    scene.control_plane.set_integrations(vec![scene.integration(1, "one.example.com"), scene.integration(2, "two.example.com"), pat]);
    let config = scene.config("24h");
    append(&config, rules);
    let daemon = scene.world.start(&config).await;
    daemon.until_synced().await;
    (scene, daemon)
}

fn append(config: &std::path::Path, rules: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{text}\n{rules}\n")).unwrap();
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The audit lines with these words.
fn audit<'l>(log: &'l str, words: &str) -> Vec<&'l str> {
    log.lines().filter(|line| line.contains(" audit: ") && line.contains(words)).collect()
}

#[tokio::test]
async fn the_rules_decide_for_each_host_and_nothing_is_minted_for_whom_they_refuse() {
    let rules = format!(
        "[[access]]\nusers = [\"{}\"]\nhosts = [\"one.example.com\"]\nallow = [\"service\"]\n\
         [[access]]\nhosts = [\"two.example.com\"]\nallow = [\"app-secret\"]\n",
        own_uid()
    );
    let (scene, daemon) = start(&rules).await;
    let token = scene.token(&daemon, "one.example.com").await.unwrap();
    let refused = scene.token(&daemon, "two.example.com").await.unwrap_err();
    assert!(refused.contains("the access rules of this host do not give you a token for https://two.example.com"), "{refused}");
    assert!(refused.contains("told us to quit"), "{refused}");
    // Where git may ask for a personal access token, it goes on.
    let silent = scene.token(&daemon, "pat.example.com").await.unwrap_err();
    assert!(!silent.contains("access rules") && !silent.contains("told us to quit"), "{silent}");
    assert_eq!(scene.issuer.token_requests(), 1);

    let log = daemon.final_log().await;
    let refusals = audit(&log, "refused: access rules");
    assert_eq!(refusals.len(), 2, "{log}");
    for (refusal, words) in refusals.iter().zip([
        &["host=https://two.example.com", "integration=\"0196f3a4-0000-7000-8000-000000000002\"", "rule=2"][..],
        &["host=https://pat.example.com", "integration=\"0196f3a4-0000-7000-8000-000000000003\""],
    ]) {
        for word in words.iter().copied().chain([&*format!("uid={}", own_uid()), "pid=", "operation=\"get\""]) {
            assert!(refusal.contains(word), "no {word} in {refusal}");
        }
    }
    assert!(!refusals[1].contains("rule="), "no rule is about that host: {}", refusals[1]);
    assert!(!log.contains(&token), "a token is in the log");
}

#[tokio::test]
async fn a_group_of_the_caller_is_enough_and_the_first_rule_that_matches_counts() {
    let gid = rustix::process::getegid().as_raw();
    let rules = format!(
        "[[access]]\nusers = [\"{}\"]\nhosts = [\"two.example.com\"]\nallow = []\n\
         [[access]]\ngroups = [\"{gid}\"]\nallow = [\"service\"]\n\
         [[access]]\nallow = []\n",
        own_uid()
    );
    let (scene, daemon) = start(&rules).await;
    assert!(scene.token(&daemon, "one.example.com").await.is_ok());
    assert!(scene.token(&daemon, "two.example.com").await.is_err());
}

#[tokio::test]
async fn rules_about_others_leave_even_the_agents_own_user_with_nothing_but_the_status() {
    let (scene, daemon) = start(&format!("[[access]]\nusers = [\"{}\"]\nallow = [\"service\"]\n", own_uid() + 1)).await;
    assert!(scene.token(&daemon, "one.example.com").await.is_err());
    assert_eq!(scene.issuer.token_requests(), 0);
    assert_eq!(daemon.status().await["integrations"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_name_that_does_not_exist_keeps_the_daemon_from_starting() {
    let scene = Scene::new(crate::binaries()).await;
    let config = scene.config("24h");
    append(&config, "[[access]]\nallow = []\n[[access]]\nusers = [\"0\", \"canary-nobody\"]\ngroups = [\"canary-nobody\"]\nallow = []\n");
    for arguments in [&["run"][..], &["config", "check"]] {
        let mut command = tokio::process::Command::from(scene.world.agent(arguments));
        command.arg("--config").arg(&config).current_dir(scene.world.directory());
        let output = run(command, "").await;
        let shown = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{shown}");
        for (key, what) in [("groups[0]", "group"), ("users[1]", "user")] {
            let line = format!("{}: access[1].{key}: names a {what} that this machine does not have\n", config.display());
            assert!(shown.contains(&line), "no {line} in {shown}");
        }
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert!(!scene.world.socket().exists());
}

#[tokio::test]
async fn the_log_tells_tokens_apart_without_telling_them() {
    let (scene, daemon) = start("").await;
    let first = scene.token(&daemon, "one.example.com").await.unwrap();
    assert_eq!(scene.token(&daemon, "one.example.com").await.unwrap(), first);
    let mut reject = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
    reject.args(["credential", "reject"]);
    let refused = format!("protocol=https\nhost=one.example.com\nusername=x\npassword={first}\n\n");
    assert!(run(reject, &refused).await.status.success());
    let second = scene.token(&daemon, "one.example.com").await.unwrap();
    assert_ne!(second, first);

    let log = daemon.final_log().await;
    let fingerprint = |line: &&str| {
        let after = line.split("token=\"").nth(1).unwrap();
        after.split('"').next().unwrap().to_owned()
    };
    let fingerprints: Vec<String> = audit(&log, "answered").iter().map(fingerprint).collect();
    assert_eq!(fingerprints.len(), 3, "{log}");
    assert!(fingerprints.iter().all(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())), "{fingerprints:?}");
    assert_eq!(fingerprints[0], fingerprints[1]);
    assert_ne!(fingerprints[1], fingerprints[2]);
    assert!(!log.contains(&first) && !log.contains(&second), "a token is in the log");
}

#[tokio::test]
async fn the_effective_rules_are_shown_in_their_order() {
    let (scene, _daemon) = start("[[access]]\nusers = [\"1\"]\nallow = [\"own\"]\n[[access]]\nallow = []\n").await;
    let mut command = tokio::process::Command::from(scene.world.agent(&["config", "show"]));
    command.arg("--config").arg(scene.world.path("config.toml"));
    let shown = succeed(command).await;
    let tables: Vec<&str> = shown.split("[[access]]\n").skip(1).collect();
    assert_eq!(tables.len(), 2, "{shown}");
    assert!(tables[0].starts_with("users = [\"1\"] #") && tables[0].contains("allow = [\"own\"] #"), "{shown}");
    assert!(tables[1].contains("allow = [] #"), "{shown}");
}
