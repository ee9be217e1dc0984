//! Whose grant answers whom, tried by processes of really different users.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::peers::copy_of_this_program;
use crate::grants::{SCM, Stage, URL};

const GROUP: u32 = 65_432;
const OTHER: u32 = 54_322;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_one_user_signed_in_to_no_other_sees_uses_or_ends() {
    let stage = Stage::new().await;
    let config = stage.scene.config("60s");
    let text = std::fs::read_to_string(&config).unwrap().replace("[agent]\n", &format!("[agent]\nsocket_group = \"{GROUP}\"\n"));
    std::fs::write(&config, text).unwrap();
    let daemon = stage.scene.world.start(&config).await;
    daemon.until_synced().await;
    let program = copy_of_this_program(&stage.scene.world);
    let as_other = |request: String| {
        let mut command = Command::new(&program);
        command.args(["--ignored", "--exact", "--nocapture", "child::asks_what_it_is_told_to"]);
        let output = command.env("SOCKET", daemon.socket()).env("REQUEST", request).uid(OTHER).gid(GROUP).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && printed.contains("ANSWER "), "{printed}");
        printed
    };
    stage.sign_in(&daemon, "").await;
    let token = stage.token(&daemon).await.unwrap();

    let get = format!("scm-agent/1 get\nprotocol=https\nhost={SCM}\n\n");
    let told = as_other(get);
    assert!(told.contains("nobody is signed in") && !told.contains(&token), "{told}");
    assert!(as_other("scm-agent/1 accounts\n\n".to_owned()).contains("\"accounts\":[]"));
    assert!(!as_other("scm-agent/1 status\n\n".to_owned()).contains("mona"));
    assert!(as_other(format!("scm-agent/1 logout\nurl={URL}\n\n")).contains("\"removed\":[]"));
    as_other(format!("scm-agent/1 erase\nprotocol=https\nhost={SCM}\nusername=x\npassword={token}\n\n"));
    assert_eq!(stage.token(&daemon).await, Ok(token));
    assert_eq!((stage.host.refreshes_asked(), stage.host.revoked()), (0, 0));
    assert!(daemon.status().await.to_string().contains("mona"), "the control: root sees it");
}
