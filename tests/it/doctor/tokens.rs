//! `doctor URL` where the token is one that a user or the operator brought, and its host no longer takes it.

use tokio::process::Command;

use super::bench::{Bench, Report, fail, warn};
use crate::pats::Desk;
use crate::support::daemon::run;

/// What doctor finds of the desk's repository, and a command of its user's in the same surroundings.
async fn at(desk: &Desk) -> Report {
    let url = desk.host.url("group/project.git");
    Report::of(run(command(desk, &["doctor", &url, "--json"]), "").await)
}

fn command(desk: &Desk, arguments: &[&str]) -> Command {
    let home = desk.world.directory();
    let mut command = Command::from(desk.world.agent(arguments));
    command.arg("--config").arg(desk.world.path("config.toml")).current_dir(home).env("PATH", desk.world.path_with_helper());
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("GIT_CONFIG_SYSTEM", desk.world.path("system"))
        .env("GIT_CEILING_DIRECTORIES", "/");
    command.env("NO_PROXY", "127.0.0.1").env_remove("SCM_AGENT__AGENT__SOCKET").env_remove("GIT_ASKPASS");
    command
}

#[tokio::test]
async fn a_personal_access_token_that_is_refused_is_told_with_whose_it_is_and_how_it_goes() {
    let desk = Desk::new().await;
    std::fs::write(desk.world.path(".gitconfig"), "[credential]\n\thelper = scm-agent\n").unwrap();
    let daemon = desk.start().await;
    at(&desk).await.expect(&warn("explain", &["git asks for one"], &["scm-agent explain"]));
    desk.accept("mona", "canary-t", true);
    desk.tell(&daemon, "store", "mona", "canary-t").await;
    at(&desk).await.expect_ok("probe");

    desk.accept("mona", "canary-t", false);
    let next = at(&desk).await.expect(&fail("probe", &["refuses your personal access token", "HTTP 401"], &["scm-agent logout"]));
    // What is told: sign out, then git asks for another.
    let line = Bench::command_in(&next, "scm-agent logout", ";");
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    assert!(run(command(&desk, &words), "").await.status.success(), "{line}");
    desk.accept("mona", "canary-u", true);
    desk.tell(&daemon, "store", "mona", "canary-u").await;
    at(&desk).await.expect_ok("probe");
}

#[tokio::test]
async fn the_operator_s_token_that_is_refused_is_the_operator_s_to_replace() {
    let desk = Desk::new().await;
    std::fs::write(desk.world.path(".gitconfig"), "[credential]\n\thelper = scm-agent\n").unwrap();
    let put = |token: &str| {
        std::fs::write(desk.world.path("pat.new"), token).unwrap();
        std::fs::set_permissions(desk.world.path("pat.new"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(desk.world.path("pat.new"), desk.world.path("pat")).unwrap();
    };
    put("canary-old\n");
    desk.accept("oauth2", "canary-new", true);
    let _daemon = desk.start_with(&format!("[[provider]]\nhost = \"{}\"\npat_file = \"pat\"\n", desk.host.host())).await;
    at(&desk).await.expect(&fail("probe", &["refuses the operator's personal access token"], &["ask the operator"]));
    put("canary-new\n");
    at(&desk).await.expect_ok("probe");
}
