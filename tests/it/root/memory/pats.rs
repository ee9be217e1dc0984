//! Personal access tokens: in memory only while they are answered or saved, and nowhere once they are forgotten.

use super::{assert_gone, new_secret};
use crate::pats::{Desk, pair};
use crate::support::memory::{find, needles_of};

#[tokio::test]
#[ignore = "needs root"]
async fn a_token_that_was_erased_replaced_or_signed_out_is_nowhere_in_the_daemon() {
    let desk = Desk::new().await;
    let daemon = desk.start().await;
    let token = |mark: &str| new_secret(mark).replace(['%', '+', '/', '~'], "-");
    let (first, second) = (token("first"), token("second"));
    desk.tell(&daemon, "store", "mona", &first).await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", &first));
    assert_gone(&daemon, "a token that rests", &needles_of(&first)).await;
    // A control: the user name is in clear, so the scan finds what is there.
    desk.tell(&daemon, "store", "mona-of-the-scan", "t").await;
    assert!(!find(daemon.pid(), &needles_of("mona-of-the-scan")).unwrap().is_empty());
    desk.tell(&daemon, "erase", "mona-of-the-scan", "t").await;
    desk.tell(&daemon, "store", "mona", &second).await;
    assert_eq!(desk.get(&daemon, "").await, pair("mona", &second));
    assert_gone(&daemon, "a token that was replaced", &needles_of(&first)).await;
    desk.tell(&daemon, "erase", "mona", &second).await;
    assert_eq!(desk.get(&daemon, "").await, None);
    assert_gone(&daemon, "a token that was erased", &needles_of(&second)).await;

    // The operator's is not held either.
    let third = token("third");
    let file = desk.world.path("pat");
    std::fs::write(&file, &third).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    drop(daemon.final_log().await);
    let more = format!("[[provider]]\nhost = \"{}\"\npat_file = \"pat\"\n", desk.host.host());
    let daemon = desk.start_with(&more).await;
    assert_eq!(desk.get(&daemon, "").await, pair("oauth2", &third));
    std::fs::remove_file(&file).unwrap();
    assert_gone(&daemon, "the operator's token that rests", &needles_of(&third)).await;
}
