//! git and its helper: missing, too old, of another build; and a configuration of git's that leads past us.

use super::bench::{Bench, fail, warn};
use crate::support::daemon::Daemon;

const HOST: &str = "one.example.com";

/// A host with one integration, whose user's git is set up.
async fn bench() -> (Bench, Daemon) {
    let bench = Bench::new();
    let mut row = bench.world.integration(1, HOST, "app", &bench.world.seal("secret"));
    row["scmId"] = serde_json::json!("gitlab");
    bench.world.write_list(&[row]);
    let daemon = bench.start().await;
    daemon.until_synced().await;
    bench.run("scm-agent git setup --global", "").await;
    let report = bench.doctor().await;
    report.expect_ok("git");
    report.expect_ok("helper");
    (bench, daemon)
}

#[tokio::test]
async fn a_git_that_is_missing_or_old_is_named() {
    let bench = Bench::new();
    let real = bench.path("bin/git");
    bench.program("git", "echo 'git version 2.30.2'");
    bench.doctor().await.expect(&warn("git", &["2.30.2", "does not know when a token ends"], &["git 2.40 or later"]));
    bench.program("git", "exit 1");
    bench.doctor().await.expect(&fail("git", &["no git in PATH"], &["install git"]));
    std::fs::remove_file(real).unwrap();
    bench.doctor().await.expect_ok("git");
}

#[tokio::test]
async fn a_helper_that_git_cannot_use_is_named() {
    let bench = Bench::new();
    let path = bench.program("git-credential-scm-agent", "echo git-credential-scm-agent 0.0.1");
    bench.doctor().await.expect(&warn("helper", &["another version"], &["type -a git-credential-scm-agent"]));
    bench.program("git-credential-scm-agent", "exit 127");
    bench.doctor().await.expect(&fail("helper", &["does not run"], &["install it anew"]));
    bench.program("git-credential-scm-agent", "exec sleep 600");
    bench.doctor().await.expect(&fail("helper", &["does not end"], &["install it anew"]));
    std::fs::remove_file(&path).unwrap();
    bench.doctor().await.expect_ok("helper");
}

#[tokio::test]
async fn a_helper_that_is_not_in_path_or_not_executable_is_named_with_the_command() {
    let mut bench = Bench::new();
    // Only what is named here is in PATH: git, and whatever else its machine has, but no helper of ours.
    let path = format!("{}:{}", bench.path("bin").display(), std::env::var("PATH").unwrap());
    bench.environment.push(("PATH".to_owned(), path));
    let folder = bench.world.binaries.helper.parent().unwrap().display().to_string();
    bench.doctor().await.expect(&fail("helper", &["is not in PATH"], &[&format!("export PATH=\"$PATH:{folder}\"")]));
    let script = format!("exec {} \"$@\"", bench.world.binaries.helper.display());
    let path = bench.program("git-credential-scm-agent", &script);
    bench.mode("bin/git-credential-scm-agent", 0o644);
    let shown = path.display().to_string();
    let next = bench.doctor().await.expect(&fail("helper", &[&shown, "is not executable"], &["chmod 755"]));
    bench.run(&next, "").await;
    bench.doctor().await.expect_ok("helper");
}

#[tokio::test]
async fn what_leads_git_past_the_agent_is_named_and_mended_by_the_command_that_is_told() {
    let (bench, _daemon) = bench().await;
    let url = format!("https://{HOST}");
    let rows: [(&[&str], &[&str]); 6] = [
        (&["--add", &format!("credential.{url}.helper"), ""], &["does not ask scm-agent about", HOST]),
        (&["--add", &format!("credential.{url}.helper"), "store"], &["\"store\"", "writes its tokens to a file in clear"]),
        (&["--add", &format!("credential.{url}.helper"), "libsecret"], &["\"libsecret\"", "keeps its tokens"]),
        (&[&format!("url.git@{HOST}:.insteadOf"), &format!("{url}/")], &["does not use https for", "insteadOf"]),
        (&["http.sslVerify", "false"], &["http.sslVerify is off for", HOST, "whoever answers"]),
        (&[&format!("http.{url}/.extraHeader"), "Authorization: Basic canary"], &["extraHeader sets an Authorization header"]),
    ];
    for (arguments, words) in rows {
        bench.git_config(arguments).await;
        let next = bench.doctor().await.expect(&warn("git", words, &[]));
        bench.run(next.split("; ").next().unwrap(), "").await;
        bench.doctor().await.expect_ok("git");
    }
}

#[tokio::test]
async fn what_the_environment_does_to_git_is_named() {
    let (mut bench, _daemon) = bench().await;
    for (name, value, words, next) in [
        ("GIT_SSL_NO_VERIFY", "1", "looks at no certificate", "unset GIT_SSL_NO_VERIFY"),
        ("GIT_ASKPASS", "/nowhere/canary-askpass.sh", "GIT_ASKPASS names a program that this user cannot run", "unset GIT_ASKPASS"),
    ] {
        bench.environment = vec![(name.to_owned(), value.to_owned())];
        bench.doctor().await.expect(&warn("git", &[words], &[next]));
    }
    bench.environment = vec![("GIT_ASKPASS".to_owned(), "/bin/false".to_owned())];
    bench.doctor().await.expect_ok("git");
    bench.environment.clear();
    bench.git_config(&["core.askPass", "/nowhere/canary"]).await;
    let next = bench.doctor().await.expect(&warn("git", &["core.askPass"], &["git config --global"]));
    bench.run(&next, "").await;
    bench.doctor().await.expect_ok("git");
}

#[tokio::test]
async fn the_system_s_setup_that_a_user_s_own_file_undoes_is_mended_in_the_user_s_own_file() {
    let (bench, _daemon) = bench().await;
    // What stood in the user's file stands in the system's, and the user's forgets all helpers.
    std::fs::rename(bench.path("home/.gitconfig"), bench.path("system")).unwrap();
    bench.doctor().await.expect_ok("git");
    bench.git_config(&[&format!("credential.https://{HOST}.helper"), ""]).await;
    let next = bench.doctor().await.expect(&warn("git", &["does not ask scm-agent about", HOST], &["scm-agent git setup --global"]));
    bench.run(&next, "").await;
    bench.doctor().await.expect_ok("git");
}
