//! The helper as the program of `GIT_ASKPASS`: with the real git and the real daemon, and with prompts that are none of git's.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::json;
use tokio::process::Command;

use crate::support::daemon::{Daemon, run};
use crate::support::git_host::{GitHost, create_repository, git};
use crate::support::http::{Answer, FakeServer};
use crate::support::world::World;

const TOKEN: &str = "t0ken-canary=";
const SOCKET: &str = "SCM_AGENT__AGENT__SOCKET";

/// A git host that takes the one token under the one user name, its integration, and the daemon.
struct Stage {
    host: GitHost,
    daemon: Daemon,
    world: World,
    _issuer: FakeServer,
}

impl Stage {
    async fn new() -> Self {
        let world = World::new(crate::binaries());
        let repositories = world.path("repositories");
        std::fs::create_dir(&repositories).unwrap();
        let bare = create_repository(&repositories, "team/a.git").await;
        let tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        for arguments in [&["hash-object", "-t", "tree", "-w", "/dev/null"][..], &["commit-tree", "-m", "first", tree]] {
            let output = run(
                {
                    let mut git = git(&bare);
                    git.args(arguments);
                    git
                },
                "",
            )
            .await;
            assert!(output.status.success());
            let id = String::from_utf8(output.stdout).unwrap();
            if arguments[0] == "commit-tree" {
                assert!(git(&bare).args(["update-ref", "refs/heads/main", id.trim()]).status().await.unwrap().success());
            }
        }
        let host = GitHost::start(&repositories, |user, password| user == "robot" && password == TOKEN).await;
        let reply = json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600 });
        let issuer = FakeServer::start(move |_| {
            let answer = Answer::json(200, &reply);
            async move { answer }
        })
        .await;
        world.write_list(&[
            world.integration(1, &host.host(), "app", &world.seal("secret")),
            world.integration(2, "failing.example", "app", &world.seal("secret")),
        ]);
        let provider =
            |host: &str, token_url: &str| format!("[[provider]]\nhost = \"{host}\"\ntoken_url = \"{token_url}\"\nusername = \"robot\"\n");
        let nobody = "http://127.0.0.1:9/token";
        let more = [provider(&host.host(), &issuer.url("/token")), provider("failing.example", nobody)].concat();
        let daemon = world.start(&world.config(&more)).await;
        daemon.until_synced().await;
        Self { host, daemon, world, _issuer: issuer }
    }

    /// git with nothing but `GIT_ASKPASS` to ask.
    fn git(&self) -> Command {
        let mut git = git(self.world.directory());
        git.env("GIT_ASKPASS", &self.world.binaries.helper).env(SOCKET, self.daemon.socket());
        git
    }

    /// The program with one prompt, as git starts it.
    async fn answer(&self, prompt: &str) -> Output {
        let mut askpass = Command::new(&self.world.binaries.helper);
        askpass.arg(prompt).env(SOCKET, self.daemon.socket());
        run(askpass, "").await
    }

    fn prompt(&self, wanted: &str, user: &str) -> String {
        format!("{wanted} for 'http://{user}{}': ", self.host.host())
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Nothing printed, exit code 1, one line of the given words.
fn assert_gave_nothing(output: &Output, words: &str) {
    assert!(output.stdout.is_empty(), "{} bytes were printed", output.stdout.len());
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(output);
    assert!(said.starts_with("git-credential-scm-agent: ") && said.contains(words) && said.lines().count() == 1, "{said}");
}

#[tokio::test]
async fn git_clones_and_pushes_with_no_helper_but_this_program() {
    let stage = Stage::new().await;
    // In any language, and with the name of the user in the URL or not.
    for (number, (user, language)) in [("", "C"), ("robot@", "C.UTF-8"), ("", "de_DE.UTF-8")].into_iter().enumerate() {
        let url = stage.host.url("team/a.git").replace("://", &format!("://{user}"));
        let clone = format!("clone-{number}");
        let mut command = stage.git();
        command.args(["clone", "--quiet", &url, &clone]).env("LANG", language).env("LC_ALL", language).env("LANGUAGE", "de");
        let output = run(command, "").await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!stderr(&output).contains(TOKEN));
        let directory = stage.world.path(&clone);
        for arguments in [&["commit", "--quiet", "--allow-empty", "-m", "next"][..], &["push", "--quiet", "origin", "HEAD:main"]] {
            let mut command = stage.git();
            command.args(arguments).current_dir(&directory);
            let output = run(command, "").await;
            assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        }
        let config = std::fs::read_to_string(directory.join(".git/config")).unwrap();
        assert!(!config.contains(TOKEN), "{config}");
    }
    // core.askPass, which any git has.
    let mut command = stage.git();
    command.env_remove("GIT_ASKPASS").arg("-c").arg(format!("core.askPass={}", stage.world.binaries.helper.display()));
    command.args(["ls-remote", &stage.host.url("team/a.git")]);
    let output = run(command, "").await;
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("refs/heads/main"), "{}", stderr(&output));
}

#[tokio::test]
async fn each_prompt_is_answered_with_its_part_alone() {
    let stage = Stage::new().await;
    for (prompt, expected) in [
        (stage.prompt("Username", ""), "robot\n".to_owned()),
        (stage.prompt("Password", "robot@"), format!("{TOKEN}\n")),
        (stage.prompt("Password", ""), format!("{TOKEN}\n")),
        // git-lfs.
        (format!("Username for \"http://{}/team/a.git\"", stage.host.host()), "robot\n".to_owned()),
        (format!("Password for \"http://robot@{}/team/a.git\"", stage.host.host()), format!("{TOKEN}\n")),
    ] {
        let output = stage.answer(&prompt).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{prompt}: {}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{prompt}");
    }
    let log = stage.daemon.final_log().await;
    assert!(log.matches("answered").count() >= 5 && !log.contains(TOKEN));
}

#[tokio::test]
async fn where_there_is_nothing_to_give_git_goes_on_to_its_own_message() {
    let stage = Stage::new().await;
    // Another's host, another's name, and an issuer that nobody reaches.
    let other = stage.answer("Username for 'https://other.example': ").await;
    assert_gave_nothing(&other, "the agent has no credential for this URL");
    assert_gave_nothing(&stage.answer(&stage.prompt("Password", "somebody@")).await, "the agent has no credential for this URL");
    for wanted in ["Username", "Password"] {
        assert_gave_nothing(
            &stage.answer(&format!("{wanted} for 'https://failing.example': ")).await,
            "no token for https://failing.example",
        );
    }
    let mut command = stage.git();
    let url = stage.host.url("team/a.git").replace("://", "://somebody@");
    command.args(["ls-remote", &url]);
    let output = run(command, "").await;
    assert_eq!(output.status.code(), Some(128));
    let said = stderr(&output);
    assert!(said.contains("unable to read askpass response") && said.contains("could not read Password for"), "{said}");
}

/// A place where the daemon would be, and whether anybody came.
fn deaf(directory: &Path) -> (PathBuf, UnixListener) {
    let socket = directory.join("deaf.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    (socket, listener)
}

#[tokio::test]
async fn no_other_question_is_answered_and_the_daemon_does_not_hear_of_it() {
    let home = tempfile::tempdir().unwrap();
    let (socket, listener) = deaf(home.path());
    for prompt in [
        "Enter passphrase for key '/home/u/.ssh/id_ed25519': ",
        "u@git.example's password: ",
        "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
        "Password: ",
        "Password:",
        "[sudo] password for u: ",
        "Passwort f\u{fc}r 'https://git.example': ",
        "Password for 'cert:///home/u/key.pem': ",
        "Password for 'https://git.example\nhost=evil.example\n': ",
        "Password for 'https://evil.example' for 'https://git.example': ",
        "Password for 'https://evil.example?@git.example': ",
        "Password for 'https://git.example%2f.evil.example': ",
        "Password for 'https://u@evil.example@git.example': ",
    ] {
        let mut askpass = Command::new(crate::binaries().helper);
        askpass.arg(prompt).env(SOCKET, &socket).stdin(Stdio::null());
        assert_gave_nothing(&run(askpass, "").await, "this is no question of git's");
    }
    let error = listener.accept().and_then(|(mut stream, _)| stream.read(&mut [0]).map(|_| ())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the daemon was asked");
}

#[tokio::test]
async fn without_a_daemon_it_says_so_and_standard_input_is_left_to_others() {
    let home = tempfile::tempdir().unwrap();
    let mut askpass = Command::new(crate::binaries().helper);
    askpass.arg("Password for 'https://git.example': ").env(SOCKET, home.path().join("none.sock"));
    // An end of a pipe that nobody closes: who reads it never ends.
    let (reader, _writer) = std::io::pipe().unwrap();
    askpass.stdin(reader).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output =
        tokio::time::timeout(crate::support::daemon::PATIENCE, askpass.spawn().unwrap().wait_with_output()).await.unwrap().unwrap();
    assert_gave_nothing(&output, "there is no such socket");
}
