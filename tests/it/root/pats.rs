//! Personal access tokens of really different users: each has an own, and nobody another's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::process::Command;

use super::peers::copy_program;
use crate::pats::{Desk, credential, pair};
use crate::support::daemon::{Daemon, run};

/// The group of the socket, which all users here are in.
const GROUP: u32 = 65_432;

/// What the helper prints for a user.
async fn ask_as(desk: &Desk, daemon: &Daemon, uid: u32, operation: &str, lines: &str) -> String {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={GROUP}"), "--clear-groups".to_owned()]);
    command.arg(desk.world.path("helper")).arg("--socket").arg(daemon.socket()).arg(operation).current_dir("/");
    let output = run(command, &format!("protocol=http\nhost={}\n{lines}\n", desk.host.host())).await;
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_token_answers_its_user_alone_and_nobody_else_forgets_it() {
    let desk = Desk::new().await;
    std::fs::set_permissions(desk.world.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let helper = desk.world.path("helper");
    copy_program(&desk.world.binaries.helper, &helper);
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = desk.world.config("");
    let text = std::fs::read_to_string(&config).unwrap().replace("[agent]\n", &format!("[agent]\nsocket_group = \"{GROUP}\"\n"));
    std::fs::write(&config, text).unwrap();
    let start = async |config: &Path| {
        let daemon = desk.world.start(config).await;
        daemon.until_synced().await;
        daemon
    };
    let daemon = start(&config).await;
    let (one, other, root) = (54_321, 54_322, 0);
    // Under the same name, so that only the uid tells them apart.
    for (uid, token) in [(one, "t-one"), (other, "t-other")] {
        ask_as(&desk, &daemon, uid, "store", &format!("username=mona\npassword={token}\n")).await;
    }
    let get = async |daemon: &Daemon, uid| credential(&ask_as(&desk, daemon, uid, "get", "").await);
    assert_eq!((get(&daemon, one).await, get(&daemon, other).await), (pair("mona", "t-one"), pair("mona", "t-other")));
    assert_eq!(get(&daemon, root).await, None);
    for lines in ["username=mona\npassword=t-one\n", "username=mona\n", ""] {
        for uid in [root, 54_323] {
            ask_as(&desk, &daemon, uid, "erase", lines).await;
        }
    }
    ask_as(&desk, &daemon, other, "erase", "username=mona\npassword=t-one\n").await;
    assert_eq!((get(&daemon, one).await, get(&daemon, other).await), (pair("mona", "t-one"), pair("mona", "t-other")));
    drop(daemon.final_log().await);
    let daemon = start(&config).await;
    ask_as(&desk, &daemon, one, "erase", "").await;
    assert_eq!((get(&daemon, one).await, get(&daemon, other).await), (None, pair("mona", "t-other")));
}
