//! How a user's own token is kept, answered and forgotten.

use serde_json::json;

use super::{Desk, accounts, credential, pair};
use crate::support::daemon::{git_with_helper, run};
use crate::support::issuer::Manner;
use crate::support::scene::Scene;
use crate::support::world::World;

#[tokio::test]
async fn git_asks_once_and_never_again_until_the_host_refuses_the_token() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    desk.accept("mona", "glpat-first", true);
    let prompt = desk.prompt("mona", "glpat-first");
    assert!(desk.ls_remote(&daemon, &prompt).await.status.success());
    assert_eq!(prompt.asked(), 2, "user name and token");
    for _ in 0..3 {
        assert!(desk.ls_remote(&daemon, &prompt).await.status.success());
    }
    assert_eq!(prompt.asked(), 0);
    let shown = accounts(&daemon).await;
    assert_eq!(
        (shown[0]["grant"].as_str(), shown[0]["account"].as_str(), shown[0]["state"].as_str(), shown.as_array().unwrap().len()),
        (Some("pat"), Some("mona"), Some("valid"), 1)
    );
    let token = daemon.status().await["integrations"][0]["tokens"][0].clone();
    assert_eq!((&token["grant"], &token["state"], &token["expires_at"]), (&json!("pat"), &json!("valid"), &json!(null)));
    assert!(token["subject"].as_str().unwrap().ends_with(" as mona"), "{token}");

    // The host takes another one now: the first command fails and has the old one forgotten, the next one asks.
    desk.accept("mona", "glpat-first", false);
    desk.accept("mona", "glpat-second", true);
    let prompt = desk.prompt("mona", "glpat-second");
    assert!(!desk.ls_remote(&daemon, &prompt).await.status.success());
    assert_eq!((prompt.asked(), accounts(&daemon).await), (0, json!([])));
    assert!(desk.ls_remote(&daemon, &prompt).await.status.success());
    assert!(desk.ls_remote(&daemon, &prompt).await.status.success());
    assert_eq!((prompt.asked(), desk.get(&daemon, "").await), (2, pair("mona", "glpat-second")));
    // A token that never worked is not kept.
    let log = daemon.final_log().await;
    assert!(!log.contains("glpat") && log.contains("kept a personal access token") && log.contains("forgot personal access tokens"));
}

#[tokio::test]
async fn a_token_that_the_host_refuses_at_once_is_not_kept() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    let prompt = desk.prompt("mona", "glpat-wrong");
    assert!(!desk.ls_remote(&daemon, &prompt).await.status.success());
    assert_eq!((prompt.asked(), desk.get(&daemon, "").await, accounts(&daemon).await), (2, None, json!([])));
}

#[tokio::test]
async fn a_restart_keeps_tokens_and_a_rotation_of_the_runner_s_key_too() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    desk.tell(&daemon, "store", "mona", "glpat-1").await;
    // Killed right after the answer: it is on disk by then.
    drop(daemon.final_log().await);
    let daemon = desk.start().await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "glpat-1"));
    drop(daemon.final_log().await);
    for file in std::fs::read_dir(desk.world.path("state")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        for clear in [&b"glpat-1"[..], b"mona"] {
            assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{} holds it in clear", file.display());
        }
    }

    // The daemon reads the new key while it runs, and after that the old one is of no use to it.
    let daemon = desk.start().await;
    std::fs::rename(desk.world.path("runner.pem"), desk.world.path("old.pem")).unwrap();
    desk.world.make_key("runner.pem", "x25519");
    // The list is sealed anew after the store.
    let sealed = || std::fs::read(desk.world.path("state/integrations")).unwrap();
    let before = sealed();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.until(|_| sealed() != before).await;
    assert!(daemon.terminate().await.success());
    let daemon = desk.start().await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "glpat-1"));
    assert_eq!(daemon.status().await["degraded"], json!([]));
    drop(daemon.final_log().await);

    // A key that opens nothing: what is there is set aside, and the user is asked anew.
    std::fs::remove_file(desk.world.path("runner.pem")).unwrap();
    desk.world.make_key("runner.pem", "x25519");
    let daemon = desk.start().await;
    assert_eq!(desk.get(&daemon, "").await, None);
    let degraded = daemon.status().await["degraded"].to_string();
    assert!(degraded.contains("set aside") && degraded.contains("sign in again"), "{degraded}");
    desk.tell(&daemon, "store", "mona", "glpat-2").await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "glpat-2"));
}

#[tokio::test]
async fn tokens_go_within_a_poll_when_the_integration_takes_none_any_more() {
    for gone in [false, true] {
        let desk = Desk::new().await;
        let daemon = desk.start().await;
        desk.tell(&daemon, "store", "mona", "glpat-1").await;
        if gone {
            desk.world.write_list(&[])
        } else {
            desk.list(false)
        };
        daemon.until_logged("dropped a personal access token").await;
        assert_eq!((desk.get(&daemon, "").await, accounts(&daemon).await), (None, json!([])));
        // From the disk too: it does not come back with the switch.
        drop(daemon.final_log().await);
        desk.list(true);
        let daemon = desk.start().await;
        assert_eq!((desk.get(&daemon, "").await, accounts(&daemon).await), (None, json!([])));
    }
}

#[tokio::test]
async fn an_integration_that_takes_no_tokens_has_none_kept() {
    let desk = Desk::new().await;
    desk.list(false);
    let daemon = desk.start().await;
    desk.tell(&daemon, "store", "mona", "glpat-1").await;
    assert_eq!(accounts(&daemon).await, json!([]));
    desk.list(true);
    daemon.until(|status| status["integrations"][0]["pat"] == true).await;
    assert_eq!(desk.get(&daemon, "").await, None);
}

#[tokio::test]
async fn only_what_can_be_a_user_s_own_token_is_kept() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    let long = "t".repeat(8 * 1024 + 1);
    let long_name = "n@".repeat(128);
    for lines in [
        "username=mona\npassword=t\nephemeral=1\n",
        "username=mona\npassword=t\npassword_expiry_utc=4000000000\n",
        "username=mona\npassword=t\npassword_expiry_utc=1000\n",
        "username=mona\npassword=t\noauth_refresh_token=r\n",
        "username=mona\npassword=t\nstate[]=scm-agent:0123\n",
        "username=mona\npassword=t\nauthtype=Basic\ncredential=bW9uYTp0\n",
        "authtype=Bearer\ncredential=t\n",
        "username=mona\npassword=\n",
        "username=mona\npassword=two words\n",
        "username=mona\npassword=t\u{f6}ken\n",
        "username=mona\n",
        "password=t\n",
        "username=ghp_0123456789\npassword=x-oauth-basic\n",
        &format!("username=mona\npassword={long}\n"),
        &format!("username={long_name}\npassword=t\n"),
    ] {
        assert_eq!(desk.ask(&daemon, "store", lines).await, "\n", "{lines}");
        assert_eq!((desk.get(&daemon, "").await, accounts(&daemon).await), (None, json!([])), "{lines}");
    }
    for bad in ["username=mona\npassword=a\u{7}b\n", "username=mo\tna\npassword=t\n"] {
        assert!(desk.ask(&daemon, "store", bad).await.starts_with("error="), "{bad}");
    }
    // Another helper's state is no reason, nor an end that git reads as never.
    desk.ask(&daemon, "store", "username=mona\npassword=t\nstate[]=other:1\npassword_expiry_utc=0\nephemeral=0\n").await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "t"));
    // The longest that there may be; and another one under the same name takes its place.
    desk.tell(&daemon, "store", "mona", &long[1..]).await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", &long[1..]));
    desk.tell(&daemon, "store", "mona", "u").await;
    assert_eq!((desk.get(&daemon, "").await, accounts(&daemon).await.as_array().unwrap().len()), (pair("mona", "u"), 1));
}

#[tokio::test]
async fn the_user_name_says_which_of_several_tokens_is_meant() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    desk.tell(&daemon, "store", "mona", "t-mona").await;
    desk.tell(&daemon, "store", "", "t-nobody").await;
    let several = desk.ask(&daemon, "get", "").await;
    assert!(several.contains("several personal access tokens are kept for") && several.contains("(no name), mona"), "{several}");
    assert!(!several.contains("quit") && !several.contains("password"), "git goes on to ask: {several}");
    assert_eq!(desk.get(&daemon, "username=mona\n").await, pair("mona", "t-mona"));
    assert_eq!(desk.get(&daemon, "username=\n").await, pair("", "t-nobody"));
    assert_eq!(desk.ask(&daemon, "get", "username=lisa\n").await, "\n");
    assert_eq!(desk.ask(&daemon, "get", "username=Mona\n").await, "\n");

    // git takes an empty user name for one.
    desk.tell(&daemon, "erase", "mona", "t-mona").await;
    let prompt = desk.prompt("asked", "asked");
    let mut command = desk.git(&daemon, &prompt);
    command.args(["credential", "fill"]);
    let filled = String::from_utf8(run(command, &format!("protocol=http\nhost={}\n\n", desk.host.host())).await.stdout).unwrap();
    assert_eq!((credential(&filled), prompt.asked()), (pair("", "t-nobody"), 0));
}

#[tokio::test]
async fn erase_forgets_the_very_token_and_without_one_all_under_the_name() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    for (user, token) in [("a", "t-a"), ("b", "t-b"), ("c", "t-c")] {
        desk.tell(&daemon, "store", user, token).await;
    }
    for (user, token) in [("a", "t-b"), ("a", "t-"), ("a", "t-aa"), ("b", "t-a"), ("z", "t-a")] {
        desk.tell(&daemon, "erase", user, token).await;
    }
    desk.ask(&daemon, "erase", "username=a\npassword=t-a\nauthtype=Bearer\ncredential=t-a\n").await;
    assert_eq!(accounts(&daemon).await.as_array().unwrap().len(), 3);
    // Without a user name, the token says which.
    desk.ask(&daemon, "erase", "password=t-a\n").await;
    assert_eq!((desk.get(&daemon, "username=a\n").await, desk.get(&daemon, "username=b\n").await), (None, pair("b", "t-b")));
    // `git credential reject` by hand.
    desk.ask(&daemon, "erase", "username=b\n").await;
    assert_eq!((desk.get(&daemon, "username=b\n").await, desk.get(&daemon, "").await), (None, pair("c", "t-c")));
    desk.ask(&daemon, "erase", "").await;
    assert_eq!(accounts(&daemon).await, json!([]));
    drop(daemon.final_log().await);
    assert_eq!(accounts(&desk.start().await).await, json!([]));
}

#[tokio::test]
async fn logout_forgets_tokens_and_says_that_the_host_does_not() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    desk.tell(&daemon, "store", "mona", "t-1").await;
    desk.tell(&daemon, "store", "DOMAIN\\lisa", "t-2").await;
    let config = desk.world.path("config.toml");
    let url = format!("http://{}", desk.host.host());
    let agent = |arguments: &[&str]| {
        let mut command = tokio::process::Command::from(desk.world.agent(&["--config", config.to_str().unwrap()]));
        command.args(arguments);
        run(command, "")
    };
    let shown = String::from_utf8(agent(&["accounts"]).await.stdout).unwrap();
    assert!(shown.contains("mona") && shown.contains("DOMAIN\\lisa") && shown.contains(" token "), "{shown}");
    let gone = String::from_utf8(agent(&["logout", &url, "--account", "DOMAIN\\lisa"]).await.stdout).unwrap();
    let host = desk.host.host();
    assert_eq!(gone, format!("forgot your personal access token for {host} as DOMAIN\\lisa; it is still good at the host\n"));
    assert_eq!(desk.get(&daemon, "").await, pair("mona", "t-1"));
    let gone = String::from_utf8(agent(&["logout", &url, "--json"]).await.stdout).unwrap();
    assert!(gone.contains("\"grant\":\"pat\""), "{gone}");
    assert_eq!(accounts(&daemon).await, json!([]));
    let login = agent(&["login", &url, "--device"]).await;
    let said = String::from_utf8(login.stderr).unwrap();
    assert!(said.contains("personal access token") && said.contains("give it to git when it asks"), "{said}");
}

#[tokio::test]
async fn what_a_user_keeps_is_bounded_in_number_and_a_token_that_is_kept_costs_nothing_again() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    for number in 0..70 {
        desk.tell(&daemon, "store", &format!("user{number}"), "t").await;
    }
    assert_eq!(accounts(&daemon).await.as_array().unwrap().len(), 64);
    assert_eq!(desk.get(&daemon, "username=user0\n").await, pair("user0", "t"), "what works goes on working");
    let head = || std::fs::read(desk.world.path("state/grants-head")).unwrap();
    let before = head();
    for _ in 0..5 {
        desk.tell(&daemon, "store", "user0", "t").await;
    }
    assert_eq!(before, head(), "the same token was written again");
    assert!(daemon.final_log().await.contains("64 tokens are kept already"));
}

/// A git that knows neither an end of a token's life nor states hands the app's own tokens back as if they were a user's.
#[tokio::test]
async fn the_app_s_own_tokens_are_never_kept_and_a_user_s_serves_when_there_are_none() {
    let scene = Scene::in_world(World::with_key(crate::binaries(), "x25519")).await;
    let host = "scm.example.com";
    let mut integration = scene.integration(1, host);
    integration["pat"] = json!(true);
    scene.control_plane.set_integrations(vec![integration]);
    let daemon = scene.start("60s").await;
    let tell = |operation: &str, lines: String| {
        let text = format!("scm-agent/1 {operation}\nprotocol=https\nhost={host}\n{lines}\n");
        let daemon = &daemon;
        async move { daemon.ask(&text).await }
    };
    let (user, first) = credential(&tell("get", String::new()).await).unwrap();
    let own = format!("username={user}\npassword={first}\n");
    tell("store", own.clone()).await;
    assert_eq!(accounts(&daemon).await, json!([]));
    // Replaced in the cache since.
    tell("erase", own.clone()).await;
    let (_, second) = credential(&tell("get", String::new()).await).unwrap();
    assert_ne!(first, second);
    for token in [&first, &second] {
        for user in ["mona", &user] {
            tell("store", format!("username={user}\npassword={token}\n")).await;
        }
    }
    assert_eq!(accounts(&daemon).await, json!([]));

    // The user's own is kept, and comes after the app's.
    tell("store", "username=mona\npassword=pat-1\n".to_owned()).await;
    assert_eq!(credential(&tell("get", String::new()).await).unwrap().1, second);
    assert_eq!(credential(&tell("get", "username=mona\n".to_owned()).await), pair("mona", "pat-1"));
    scene.issuer.set_manner(Manner::Unavailable);
    tell("erase", format!("username={user}\npassword={second}\n")).await;
    assert_eq!(credential(&tell("get", String::new()).await), pair("mona", "pat-1"));
    // And git's own way is still open where there is neither.
    tell("erase", "username=mona\npassword=pat-1\n".to_owned()).await;
    let nothing = tell("get", String::new()).await;
    assert!(nothing.contains("message=no token for") && !nothing.contains("quit"), "{nothing}");
}

#[tokio::test]
async fn a_helper_that_comes_after_ours_hands_its_tokens_on_in_vain() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    desk.accept("other", "gho_of_another_helper", true);
    let other = "!f() { test \"$1\" = get && printf 'username=other\\npassword=gho_of_another_helper\\noauth_refresh_token=r\\n'; }; f";
    let mut git = git_with_helper(desk.world.directory(), &desk.world.binaries.helper, daemon.socket());
    git.arg("-c").arg(format!("credential.helper={other}")).args(["ls-remote", &desk.host.url("group/project.git")]);
    assert!(run(git, "").await.status.success());
    assert_eq!(accounts(&daemon).await, json!([]));
}
