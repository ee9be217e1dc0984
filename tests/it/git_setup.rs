//! `git setup` and `git unset`: what they write, that git reads it as meant, and that nothing else ever changes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Output, Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::daemon::{Daemon, run};
use crate::support::git_host::git;
use crate::support::world::World;

/// A host whose daemon lists some integrations, and a home folder with git's configuration.
struct Place {
    world: World,
    config: PathBuf,
    daemon: Daemon,
}

impl Place {
    /// With integrations given as SCM id, host and virtual directory.
    async fn new(list: &[(&str, &str, &str)]) -> Self {
        let world = World::new(crate::binaries());
        fs::create_dir(world.path("home")).unwrap();
        write_list(&world, list);
        let config = world.config("");
        let daemon = world.start(&config).await;
        daemon.until_synced().await;
        Self { world, config, daemon }
    }

    fn home(&self) -> PathBuf {
        self.world.path("home")
    }

    fn gitconfig(&self) -> PathBuf {
        self.home().join(".gitconfig")
    }

    /// `scm-agent git …` as the user of the home folder.
    fn command(&self, arguments: &[&str]) -> StdCommand {
        let mut command = self.world.agent(&["git"]);
        command.args(arguments).arg("--config").arg(&self.config);
        isolate(&mut command, &self.home());
        let helper = self.world.binaries.helper.parent().unwrap();
        command.env("PATH", format!("{}:{}", helper.display(), std::env::var("PATH").unwrap()));
        command
    }

    fn agent_git(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> (String, String) {
        let output = self.agent_git(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.agent_git(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The credential helpers that git starts for a URL, in order.
    async fn helpers(&self, url: &str) -> Vec<String> {
        let mut command = git(&self.home());
        command.env_remove("XDG_CONFIG_HOME").env("GIT_TRACE", "1").args(["credential", "fill"]);
        let helper = self.world.binaries.helper.parent().unwrap();
        command.env("PATH", format!("{}:{}", helper.display(), std::env::var("PATH").unwrap()));
        let output = run(command, &format!("url={url}\n\n")).await;
        let trace = String::from_utf8_lossy(&output.stderr).into_owned();
        let started = trace.lines().filter_map(|line| line.split_once("run_command: ")).map(|(_, command)| command.trim_matches('\''));
        let helper = |command: &str| Some(command.strip_prefix("git credential-")?.trim_end_matches(" get").replace("'\\''", "'"));
        started.filter_map(helper).collect()
    }
}

fn isolate(command: &mut StdCommand, home: &Path) {
    for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "XDG_CONFIG_HOME", "GIT_CONFIG_COUNT", "SCM_AGENT__AGENT__SOCKET"] {
        command.env_remove(name);
    }
    command.current_dir(home).env("HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").stdin(Stdio::null());
}

fn write_list(world: &World, list: &[(&str, &str, &str)]) {
    let rows: Vec<Value> = list
        .iter()
        .zip(1..)
        .map(|((scm_id, host, directory), number)| {
            let mut row = world.integration(number, host, "app", &world.seal("secret"));
            row["scmId"] = json!(scm_id);
            row["virtualDirectory"] = json!(directory);
            // So that ours is silent, and git goes on to the next helper.
            row["pat"] = json!(true);
            row
        })
        .collect();
    world.write_list(&rows);
}

const GLOBAL: &[&str] = &["setup", "--global"];

#[tokio::test]
async fn setup_and_unset_leave_every_kind_of_file_as_it_was() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", ""), ("github", "github.com", "")]).await;
    let file = place.gitconfig();
    for content in [
        "",
        "[user]\n\tname = x\n",
        "[user]\n\tname = x",
        "[user]\r\n\tname = x\r\n",
        "[user]\r\n\tname = x",
        "\u{feff}[user]\n\tname = x\n",
        "\u{feff}",
        "# only a comment",
        "[credential \"https://github.com\"]\n\tusername = me\n",
        "[alias]\n\tl = log \\\n\t\t--oneline\n\n\n",
        "[alias]\n\tl = log \\",
    ] {
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let (said, _) = place.succeed(&["setup", "--global", "--dry-run"]);
        assert!(said.contains("+[credential \"https://gitlab.example.com\"]\n"), "{said}");
        assert_eq!(fs::read(&file).unwrap(), content.as_bytes(), "a dry run changed {content:?}");
        place.succeed(GLOBAL);
        let once = fs::read(&file).unwrap();
        assert_ne!(once, content.as_bytes());
        let (said, _) = place.succeed(GLOBAL);
        assert!(said.contains("up to date"), "{said}");
        assert_eq!(fs::read(&file).unwrap(), once, "twice is not once for {content:?}");
        assert!(place.succeed(&["setup", "--global", "--dry-run"]).0.starts_with("nothing to do"));
        assert!(place.succeed(&["unset", "--global", "--dry-run"]).0.contains("-\thelper = "));
        assert_eq!(fs::read(&file).unwrap(), once);
        place.succeed(&["unset", "--global"]);
        assert_eq!(fs::read(&file).unwrap(), content.as_bytes(), "{content:?} did not come back");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(place.succeed(&["unset", "--global"]).0.starts_with("nothing to do"));
    }
}

#[tokio::test]
async fn what_was_not_there_is_not_there_again() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let new = place.home().join("a/b/include");
    let path = new.to_str().unwrap();
    let (said, _) = place.succeed(&["setup", "--file", path, "--dry-run"]);
    assert!(said.starts_with("--- /dev/null\n") && !place.home().join("a").exists(), "{said}");
    let (_, warned) = place.succeed(&["setup", "--file", path]);
    assert!(warned.contains(&format!("git config --global --add include.path {path}")), "{warned}");
    assert!(place.helpers("https://gitlab.example.com/x").await.is_empty(), "git reads a file that is not included");
    fs::write(place.gitconfig(), format!("[include]\n\tpath = {path}\n")).unwrap();
    assert_eq!(place.succeed(&["setup", "--file", path]).1, "");
    assert_eq!(place.helpers("https://gitlab.example.com/x").await.len(), 1);
    place.succeed(&["unset", "--file", path]);
    assert!(!place.home().join("a").exists(), "folders are left");

    // What somebody else put there meanwhile stays, and so does what it lies in.
    place.succeed(&["setup", "--file", path]);
    fs::write(place.home().join("a/other"), "").unwrap();
    fs::write(&new, format!("{}[user]\n\tname = x\n", fs::read_to_string(&new).unwrap())).unwrap();
    place.succeed(&["unset", "--file", path]);
    assert_eq!(fs::read_to_string(&new).unwrap(), "[user]\n\tname = x\n");
    assert!(place.home().join("a/other").exists());
}

#[tokio::test]
async fn links_modes_and_the_choice_of_the_file_are_gits() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let home = place.home();
    let dotfiles = place.world.path("dotfiles");
    fs::create_dir(&dotfiles).unwrap();
    fs::write(dotfiles.join("gitconfig"), "[user]\n\tname = x\n").unwrap();
    std::os::unix::fs::symlink("../dotfiles/gitconfig", home.join(".gitconfig")).unwrap();
    place.succeed(GLOBAL);
    assert!(fs::symlink_metadata(home.join(".gitconfig")).unwrap().is_symlink());
    assert!(fs::read_to_string(dotfiles.join("gitconfig")).unwrap().contains("gitlab.example.com"));
    place.succeed(&["unset", "--global"]);
    assert_eq!(fs::read_to_string(dotfiles.join("gitconfig")).unwrap(), "[user]\n\tname = x\n");

    // A link to a file that is yet to be made.
    fs::remove_file(dotfiles.join("gitconfig")).unwrap();
    place.succeed(GLOBAL);
    assert!(dotfiles.join("gitconfig").exists() && fs::symlink_metadata(home.join(".gitconfig")).unwrap().is_symlink());
    place.succeed(&["unset", "--global"]);
    assert!(!dotfiles.join("gitconfig").exists() && fs::symlink_metadata(home.join(".gitconfig")).unwrap().is_symlink());
    fs::remove_file(home.join(".gitconfig")).unwrap();

    // The folder of XDG counts only while there is a file in it and none in the home folder.
    fs::create_dir_all(home.join(".config/git")).unwrap();
    fs::write(home.join(".config/git/config"), "").unwrap();
    let asked =
        StdCommand::new("git").args(["config", "--global", "user.name", "x"]).env("HOME", &home).env_remove("XDG_CONFIG_HOME").status();
    assert!(asked.unwrap().success() && !home.join(".gitconfig").exists(), "git chose another file");
    place.succeed(GLOBAL);
    assert!(!home.join(".gitconfig").exists());
    assert!(fs::read_to_string(home.join(".config/git/config")).unwrap().contains("gitlab.example.com"));
    place.succeed(&["unset", "--global"]);

    // The variables come first.
    for (variable, target) in [("GIT_CONFIG_GLOBAL", "--global"), ("GIT_CONFIG_SYSTEM", "--system")] {
        let named = place.world.path(variable);
        let done = place.command(&["setup", target]).env(variable, &named).env_remove("GIT_CONFIG_NOSYSTEM").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(String::from_utf8_lossy(&done.stderr), "");
        // New files are for whom the user's umask says.
        let made = fs::metadata(&named).unwrap().mode() & 0o7777;
        fs::write(place.world.path("compare"), "").unwrap();
        assert_eq!(made, fs::metadata(place.world.path("compare")).unwrap().mode() & 0o7777);
        assert!(place.command(&["unset", target]).env(variable, &named).status().unwrap().success());
        assert!(!named.exists());
    }
    let ignored = place.command(&["setup", "--system"]).env("GIT_CONFIG_SYSTEM", place.world.path("ignored")).output().unwrap();
    assert!(String::from_utf8_lossy(&ignored.stderr).contains("GIT_CONFIG_NOSYSTEM"));
}

#[tokio::test]
async fn git_asks_us_and_only_us_about_what_is_ours() {
    let place = Place::new(&[
        ("gitlab", "gitlab.example.com", ""),
        ("github", "github.com", ""),
        ("azuredevops_entra", "dev.azure.com/Acme", ""),
        ("azuredevops_server", "tfs.example.com:8443", "/tfs"),
        ("gitlab", "git_lab.example.com", ""),
    ])
    .await;
    let ours = format!("scm-agent --socket {}", place.daemon.socket().display());
    let file = place.gitconfig();
    fs::write(&file, "[credential]\n\thelper = other\n").unwrap();
    place.succeed(GLOBAL);
    // What the user's git writes from now on comes behind.
    for url in [
        "https://gitlab.example.com/group/project.git",
        "https://gitlab.example.com",
        "https://GitHub.com/a/b",
        "https://gist.github.com/1",
        "https://dev.azure.com/Acme/p/_git/r",
        "https://someone@dev.azure.com/Acme/p/_git/r",
        "https://acme.visualstudio.com/p/_git/r",
        "https://tfs.example.com:8443/tfs/c/_git/r",
        "https://git_lab.example.com/x",
    ] {
        assert_eq!(place.helpers(url).await, [ours.as_str()], "{url}");
    }
    // Another owner on a host that is not wholly ours keeps what it has.
    for url in ["https://dev.azure.com/Other/p/_git/r", "https://tfs.example.com:8443/x", "https://dev.azure.com"] {
        assert_eq!(place.helpers(url).await, ["other", ours.as_str()], "{url}");
    }
    for url in
        ["https://example.com", "https://gitlab.example.com:8443", "https://gitlab.example.com.evil.test", "https://tfs.example.com/tfs"]
    {
        assert_eq!(place.helpers(url).await, ["other"], "{url}");
    }
    let urlmatch = |key: &str, url: &str| {
        let mut command = StdCommand::new("git");
        isolate(&mut command, &place.home());
        String::from_utf8(command.args(["config", "--get-urlmatch", key, url]).output().unwrap().stdout).unwrap().trim().to_owned()
    };
    assert_eq!(urlmatch("credential.helper", "https://github.com/a/b"), ours);
    assert_eq!(urlmatch("credential.useHttpPath", "https://dev.azure.com/Acme/x"), "true");
    assert_eq!(urlmatch("credential.useHttpPath", "https://tfs.example.com:8443/tfs/x"), "true");
    assert_eq!(urlmatch("credential.useHttpPath", "https://github.com/a/b"), "");
}

#[tokio::test]
async fn a_helper_that_comes_after_ours_is_told_of_and_overtaken() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let (system, file) = (place.world.path("system"), place.gitconfig());
    let with_system = |arguments: &[&str]| {
        let output = place.command(arguments).env("GIT_CONFIG_SYSTEM", &system).env_remove("GIT_CONFIG_NOSYSTEM").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    fs::write(&file, "[credential]\n\thelper = store --file canary\n").unwrap();
    let warned = with_system(&["setup", "--system"]);
    assert!(warned.contains("the helper \"store …\" is asked beside scm-agent about gitlab.example.com"), "{warned}");
    assert!(warned.contains("in clear") && warned.contains("scm-agent git setup --global") && !warned.contains("canary"), "{warned}");
    assert_eq!(with_system(GLOBAL), "", "the hint does not help");
    // Behind our lines in the same file.
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("[credential]\n\thelper = store\n");
    fs::write(&file, &text).unwrap();
    assert_eq!(place.helpers("https://gitlab.example.com").await.len(), 2);
    place.succeed(GLOBAL);
    assert_eq!(place.helpers("https://gitlab.example.com").await.len(), 1);
    assert_eq!(place.succeed(GLOBAL).0.matches("up to date").count(), 1);
    place.succeed(&["unset", "--global"]);
    let expected = "[credential]\n\thelper = store --file canary\n[credential]\n\thelper = store\n";
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
}

#[tokio::test]
async fn the_lines_follow_the_list() {
    let place = Place::new(&[("gitlab", "one.example.com", ""), ("gitlab", "two.example.com", "")]).await;
    let file = place.gitconfig();
    fs::write(&file, "[user]\n\tname = x\n").unwrap();
    place.succeed(GLOBAL);
    fs::write(&file, format!("{}[alias]\n\ta = b\n", fs::read_to_string(&file).unwrap())).unwrap();
    write_list(&place.world, &[("gitlab", "two.example.com", ""), ("gitlab", "three.example.com", "")]);
    place.daemon.until(|status| status["integrations"][1]["host"] == "three.example.com").await;
    let (diff, _) = place.succeed(&["setup", "--global", "--dry-run"]);
    assert!(
        diff.contains("-[credential \"https://one.example.com\"]") && diff.contains("+[credential \"https://three.example.com\"]"),
        "{diff}"
    );
    assert!(!diff.contains("alias") && !diff.contains("name"), "{diff}");
    place.succeed(GLOBAL);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains("one.example.com") && text.contains("three.example.com") && text.ends_with("# END scm-agent\n[alias]\n\ta = b\n")
    );
    // Nobody is left to ask about.
    place.world.write_list(&[]);
    place.daemon.until(|status| status["integrations"].as_array().unwrap().is_empty()).await;
    assert!(place.succeed(GLOBAL).0.contains("no integration"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "[user]\n\tname = x\n[alias]\n\ta = b\n");
}

#[tokio::test]
async fn what_somebody_wrote_between_the_marks_is_not_lost() {
    let place = Place::new(&[("gitlab", "one.example.com", ""), ("gitlab", "two.example.com", "")]).await;
    let file = place.gitconfig();
    place.succeed(GLOBAL);
    let fresh = fs::read_to_string(&file).unwrap();
    // git itself puts it there.
    for host in ["one", "two"] {
        let mut command = StdCommand::new("git");
        isolate(&mut command, &place.home());
        let key = format!("credential.https://{host}.example.com.username");
        assert!(command.args(["config", "--global", &key, "me"]).status().unwrap().success());
    }
    let name = "[credential \"https://one.example.com\"]\n\tusername = me\n[credential \"https://two.example.com\"]\n\tusername = me\n";
    let edited = fs::read_to_string(&file).unwrap();
    assert!(edited.find("username").unwrap() < edited.find("# END").unwrap(), "git put it elsewhere: {edited}");
    assert!(place.succeed(GLOBAL).1.contains("are kept"));
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{fresh}{name}"));
    assert!(place.succeed(GLOBAL).0.contains("up to date"));
    fs::write(&file, &edited).unwrap();
    place.succeed(&["unset", "--global"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), name);

    // A line of ours is another now.
    let changed = fresh.replacen("\thelper =\n", "", 1);
    fs::write(&file, &changed).unwrap();
    for verb in ["setup", "unset"] {
        let said = place.fail(&[verb, "--global"]);
        assert!(said.contains("changed by hand") && said.contains("--force"), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), changed);
    }
    place.succeed(&["setup", "--global", "--force"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), fresh);
    fs::write(&file, &changed).unwrap();
    place.succeed(&["unset", "--global", "--force"]);
    assert!(!file.exists());
    for broken in [fresh.replace("# END scm-agent\n", ""), format!("{fresh}{fresh}"), fresh.replace("# BEGIN", "#")] {
        fs::write(&file, &broken).unwrap();
        assert!(place.fail(&["setup", "--global", "--force"]).contains("by hand"));
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_changed_stays_as_it_is() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let file = place.gitconfig();
    let lock = place.home().join(".gitconfig.lock");
    let content = "[user]\n\tname = x\n";
    fs::write(&file, content).unwrap();

    fs::write(&lock, "git is at work").unwrap();
    let said = place.fail(GLOBAL);
    assert!(said.contains(".gitconfig.lock exists") && said.contains("rm "), "{said}");
    assert_eq!(fs::read_to_string(&lock).unwrap(), "git is at work");
    fs::remove_file(&lock).unwrap();

    fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    assert!(place.fail(GLOBAL).contains("read-only (mode 0444)"));
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();

    assert!(place.fail(&["setup", "--file", "/proc/scm-agent/config"]).contains("/proc/scm-agent"));
    assert!(place.fail(&["setup", "--file", "/dev/null"]).contains("no regular file"));
    assert!(place.fail(&["setup", "--file", place.home().to_str().unwrap()]).contains("no regular file"));
    let fifo = place.home().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(place.fail(&["setup", "--file", fifo.to_str().unwrap()]).contains("no regular file"));
    std::os::unix::fs::symlink("loop", place.home().join("loop")).unwrap();
    assert!(place.fail(&["setup", "--file", place.home().join("loop").to_str().unwrap()]).contains("too many"));
    let below = file.join("x");
    assert!(place.fail(&["setup", "--file", below.to_str().unwrap()]).contains("no folder"));
    assert_eq!(fs::read_to_string(&file).unwrap(), content);

    // What git cannot read, nobody adds to; and what would swallow our lines neither.
    for broken in ["[user\n", "[a]\n\tb = \"c", "[a]\n\tb = \"c\\"] {
        fs::write(&file, broken).unwrap();
        let said = place.fail(GLOBAL);
        assert!(said.contains("git cannot read") || said.contains("otherwise"), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
    assert!(!lock.exists(), "a lock is left");
}

#[tokio::test]
async fn many_at_once_never_leave_half_a_file() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let file = place.gitconfig();
    let content = "[user]\n\tname = x\n";
    fs::write(&file, content).unwrap();
    let mut children: Vec<Command> = Vec::new();
    for round in 0..12 {
        children.push(Command::from(place.command(&[if round % 2 == 0 { "setup" } else { "unset" }, "--global"])));
        let mut other = git(&place.home());
        other.env_remove("XDG_CONFIG_HOME").args(["config", "--global", &format!("alias.a{round}"), "b"]);
        children.push(other);
    }
    let running: Vec<_> = children.iter_mut().map(|command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()).collect();
    let mut aliases = 0;
    for (index, mut child) in running.into_iter().enumerate() {
        let done = child.wait().await.unwrap();
        aliases += usize::from(index % 2 == 1 && done.success());
    }
    place.succeed(GLOBAL);
    place.succeed(&["unset", "--global"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(content) && !text.contains("scm-agent"), "{text}");
    assert_eq!(text.matches(" = b\n").count(), aliases, "a change of git's was lost: {text}");
    assert!(!place.home().join(".gitconfig.lock").exists());
}

#[tokio::test]
async fn without_a_daemon_or_a_list_nothing_is_written() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let elsewhere = place.world.path("elsewhere.sock");
    let output = place.command(GLOBAL).env("SCM_AGENT__AGENT__SOCKET", &elsewhere).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no scm-agent answers") && said.contains("hint: start it"), "{said}");
    // To take the lines out nobody has to answer.
    place.succeed(GLOBAL);
    let unset = place.command(&["unset", "--global"]).env("SCM_AGENT__AGENT__SOCKET", &elsewhere).status().unwrap();
    assert!(unset.success() && !place.gitconfig().exists());

    let world = World::new(crate::binaries());
    fs::write(world.path("integrations.json"), "{").unwrap();
    let config = world.config("");
    let daemon = world.start(&config).await;
    daemon.until(|status| !status["sync"]["last_error"].is_null()).await;
    let mut command = world.agent(&["git", "setup", "--global", "--config"]);
    isolate(&mut command, world.directory());
    let output = command.arg(&config).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no list"));
    assert!(!world.path(".gitconfig").exists());
}

#[tokio::test]
async fn a_helper_that_git_cannot_find_is_warned_about() {
    let place = Place::new(&[("gitlab", "gitlab.example.com", "")]).await;
    let output = place.command(GLOBAL).env("PATH", std::env::var("PATH").unwrap()).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("git-credential-scm-agent is not in PATH"));
}
