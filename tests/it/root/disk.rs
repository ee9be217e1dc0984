//! Users' grants on a file system that is really full, and on one that is really read-only.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::grants::Stage;
use crate::grants::disk::{renew, trouble};
use crate::support::daemon::PATIENCE;

/// A small file system as a stage's state directory.
struct Mount(PathBuf);

impl Mount {
    fn new(stage: &Stage) -> Self {
        let path = stage.scene.world.path("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"]).arg(&path).status().unwrap();
        assert!(mounted.success());
        Self(path)
    }

    fn remount(&self, how: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap().success(), "{how}");
    }

    /// Takes all room that there is.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_full_file_system_costs_no_grant_and_what_it_did_not_take_it_gets_by_itself_later() {
    let stage = Stage::new().await;
    let mount = Mount::new(&stage);
    let daemon = stage.start().await;
    stage.sign_in_with_browser(&daemon).await;
    mount.fill();
    let mut last = renew(&stage, &daemon).await;
    // What was kept free for this is used first.
    while trouble(&daemon).await.is_none() {
        mount.fill();
        last = renew(&stage, &daemon).await;
        assert!(stage.host.refreshes_asked() < 20, "never full");
    }
    let told = trouble(&daemon).await.unwrap();
    assert!(told.starts_with("sign-ins cannot be kept: ") && told.contains("No space left on device"), "{told}");
    let asked = stage.host.refreshes_asked();
    fs::remove_file(mount.0.join("filler")).unwrap();
    let waited = tokio::time::timeout(PATIENCE, async {
        while trouble(&daemon).await.is_some() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    waited.await.unwrap();
    let log = daemon.ended_log().await;
    assert!(!log.contains("panicked") && log.contains("sign-ins can be kept again"));
    let daemon = stage.start().await;
    assert_eq!(stage.get(&daemon).await, Ok(last));
    assert_eq!((stage.host.refreshes_asked(), stage.host.replays()), (asked, 0));
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_read_only_file_system_serves_what_is_there_and_keeps_what_came_once_it_may_be_written() {
    let stage = Stage::new().await;
    let mount = Mount::new(&stage);
    let daemon = stage.start().await;
    stage.sign_in_with_browser(&daemon).await;
    assert!(daemon.terminate().await.success());
    mount.remount("ro");
    let daemon = stage.start().await;
    assert_eq!(stage.get(&daemon).await.as_deref(), Ok("access_1"));
    let told = trouble(&daemon).await.unwrap();
    assert!(told.starts_with("sign-ins are read, ") && told.contains("Read-only file system"), "{told}");
    assert_eq!(renew(&stage, &daemon).await, "access_2");
    mount.remount("rw");
    assert_eq!(renew(&stage, &daemon).await, "access_3");
    assert_eq!(trouble(&daemon).await, None);
    assert!(!daemon.final_log().await.contains("panicked"));
    let daemon = stage.start().await;
    assert_eq!(stage.get(&daemon).await.as_deref(), Ok("access_3"));
    assert_eq!((stage.host.refreshes_asked(), stage.host.replays()), (2, 0));
}
