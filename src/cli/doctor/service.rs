//! The service as systemd has it: whether its two units run, start with the machine, and find what they are to hand over.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Check;
use crate::cli::advice::{SERVICE, SOCKET, as_root};
use crate::cli::agent_user;
use crate::cli::bounded;
use crate::cli::git::chain::shell_word;
use crate::git::frame::printable;

/// The name of the checks.
const NAME: &str = "service";

/// systemd's exit status for credentials that it could not set up (systemd.exec(5), "Process Exit Codes").
const NO_CREDENTIALS: &str = "243";
/// The same for a user that does not exist.
const NO_USER: &str = "217";
/// The program's own for a configuration that has to change.
const CONFIGURATION: &str = "2";

/// The most starts by itself that are nothing to speak of.
const MANY_RESTARTS: u32 = 5;

/// What systemd says of the two units.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Units {
    service: Unit,
    socket: Unit,
    /// The user of the service, as `User=` has it.
    user: Option<String>,
    credentials: Vec<Credential>,
}

/// What systemd says of a unit.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Unit {
    active: String,
    enabled: String,
    exit_status: String,
    listens: Vec<String>,
    load: String,
    needs_reload: bool,
    restarts: u32,
    result: String,
}

impl Unit {
    fn is_there(&self) -> bool {
        !self.load.is_empty() && self.load != "not-found"
    }
}

/// A file that the service is handed as a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

impl Units {
    /// Asks systemd. Nothing where it does not run, has neither unit, or has them for another socket.
    pub(super) fn of(socket: &Path) -> Option<Self> {
        let mut show = Command::new("systemctl");
        show.args(["show", "--no-pager", SERVICE, SOCKET, "--property"]);
        show.arg("Id,LoadState,ActiveState,UnitFileState,Result,ExecMainStatus,NRestarts,NeedDaemonReload,Listen,User");
        let mut units = Self::read(&bounded::text(&mut show)?);
        if !units.service.is_there() && !units.socket.is_there() {
            return None;
        }
        // Another configuration may be meant, whose daemon somebody starts by hand.
        if !units.socket.listens.is_empty() && !units.socket.listens.iter().any(|path| Path::new(path) == socket) {
            return None;
        }
        let mut cat = Command::new("systemctl");
        cat.args(["cat", "--no-pager", SERVICE]);
        if let Some(text) = bounded::text(&mut cat) {
            units.credentials = credentials(&text);
        }
        Some(units)
    }

    /// Reads what `systemctl show` prints: a block of lines for each unit.
    fn read(text: &str) -> Self {
        let mut units = Self::default();
        for block in text.split("\n\n") {
            let value = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
            let unit = Unit {
                active: value("ActiveState").to_owned(),
                enabled: value("UnitFileState").to_owned(),
                exit_status: value("ExecMainStatus").to_owned(),
                listens: block
                    .lines()
                    .filter_map(|line| line.strip_prefix("Listen=")?.strip_suffix(" (Stream)"))
                    .map(str::to_owned)
                    .collect(),
                load: value("LoadState").to_owned(),
                needs_reload: value("NeedDaemonReload") == "yes",
                restarts: value("NRestarts").parse().unwrap_or_default(),
                result: value("Result").to_owned(),
            };
            match value("Id") {
                SERVICE => {
                    units.user = block.lines().find_map(|line| line.strip_prefix("User=")).map(str::to_owned);
                    units.service = unit;
                }
                SOCKET => units.socket = unit,
                _ => {}
            }
        }
        units
    }

    /// The user that the service runs as. Nothing where this machine does not know that user, as before the first start of one that
    /// systemd makes up.
    pub(super) fn user(&self) -> Option<u32> {
        agent_user::of_name(self.user.as_deref()?)
    }

    /// Whether the service is handed a credential of that name.
    pub(super) fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.iter().find(|credential| credential.name == name)
    }

    /// What is wrong with the units, or that nothing is.
    pub(super) fn examine(&self) -> Vec<Check> {
        self.judge(|path| std::fs::metadata(path).map(|metadata| metadata.is_file() && metadata.len() > 0).map_err(|error| error.kind()))
    }

    fn judge(&self, look: impl Fn(&Path) -> Result<bool, std::io::ErrorKind>) -> Vec<Check> {
        let mut checks = Vec::new();
        for (name, unit) in [(SERVICE, &self.service), (SOCKET, &self.socket)] {
            if unit.load == "masked" {
                let next = format!("{} && {}", as_root(&format!("systemctl unmask {name}")), as_root(&format!("systemctl start {name}")));
                checks.push(Check::fail(NAME, format!("{name} is masked, so that nothing can start it"), next));
            }
            if matches!(unit.load.as_str(), "bad-setting" | "error") {
                let next = format!("systemd-analyze verify {name}; drop-ins: systemctl cat {name}");
                checks.push(Check::fail(NAME, format!("systemd cannot read {name} or a drop-in of it"), next));
            }
            if unit.needs_reload {
                let next = format!("{} && {}", as_root("systemctl daemon-reload"), as_root("systemctl restart scm-agent"));
                checks.push(Check::warn(NAME, format!("the files of {name} changed after systemd read them"), next));
            }
        }
        let missing = self.missing(look);
        checks.extend(missing.iter().map(|(credential, problem)| {
            let path = printable(&credential.path.display().to_string());
            let typed = shell_word(&path);
            let next = match credential.name.as_str() {
                KEY => {
                    format!("{} (or put the runner's key there)", as_root(&format!("scm-agent keygen --algorithm rsa-3072 --out {typed}")))
                }
                _ => format!("{}, with the token in it; then: {}", as_root(&format!("install -m 600 /dev/stdin {typed}")), self.again()),
            };
            Check::fail(NAME, format!("{path}, the credential {} of {SERVICE}, {problem}", printable(&credential.name)), next)
        }));
        if checks.iter().all(|check| check.state != super::State::Fail) {
            checks.extend(self.activity());
        }
        if checks.is_empty() {
            let starts = if self.service.enabled == "enabled" { ", and starts with the machine" } else { "" };
            checks.push(Check::ok(NAME, format!("{SERVICE} is {}{starts}", printable(&self.service.active))));
        }
        checks
    }

    /// Credentials whose file the service could not be given. What this user cannot look at may be there.
    fn missing(&self, look: impl Fn(&Path) -> Result<bool, std::io::ErrorKind>) -> Vec<(&Credential, &'static str)> {
        let problem = |credential: &Credential| match look(&credential.path) {
            Ok(true) => None,
            Ok(false) => Some("is empty, or no file"),
            Err(std::io::ErrorKind::NotFound) => Some("is not there"),
            Err(_) => None,
        };
        self.credentials.iter().filter_map(|credential| Some((credential, problem(credential)?))).collect()
    }

    /// What does not run, and what will not with the next start of the machine.
    fn activity(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let Self { service, socket, .. } = self;
        let names = self.names();
        match (service.active.as_str(), socket.active.as_str()) {
            ("failed", _) => checks.push(self.failed()),
            (_, "failed") => {
                let detail = format!("{SOCKET} has failed ({}), so nobody can ask", printable(&socket.result));
                checks.push(Check::fail(NAME, detail, self.again()));
            }
            ("inactive", "inactive") => {
                let next = as_root(&format!("systemctl enable --now {names}"));
                let detail = if socket.is_there() {
                    format!("neither {SERVICE} nor {SOCKET} is running")
                } else {
                    format!("{SERVICE} is not running")
                };
                checks.push(Check::fail(NAME, detail, next));
                return checks;
            }
            ("active", "inactive") if socket.is_there() => {
                checks.push(Check::fail(NAME, format!("{SOCKET} is not running, so nobody can ask"), self.again()));
            }
            ("activating", _) if service.restarts > 0 => checks.push(self.failed()),
            _ => {}
        }
        if service.active == "active" && service.restarts >= MANY_RESTARTS {
            let detail = format!("systemd has restarted {SERVICE} {} times", service.restarts);
            checks.push(Check::warn(NAME, detail, format!("{} says why", journal())));
        }
        if service.enabled == "disabled" || socket.enabled == "disabled" {
            let next = as_root(&format!("systemctl enable {names}"));
            checks.push(Check::warn(NAME, "it does not start with the machine", next));
        }
        checks
    }

    /// The units that there are: a daemon can do without the socket's.
    fn names(&self) -> String {
        if self.socket.is_there() { format!("{SOCKET} {SERVICE}") } else { SERVICE.to_owned() }
    }

    /// A start after many that failed: systemd counts them.
    fn again(&self) -> String {
        format!("{}; {}", as_root("systemctl reset-failed scm-agent"), as_root(&format!("systemctl restart {}", self.names())))
    }

    fn failed(&self) -> Check {
        let Unit { exit_status, result, .. } = &self.service;
        let fail = |detail: String, next: String| Check::fail(NAME, format!("{SERVICE} does not start: {detail}"), next);
        match (result.as_str(), exit_status.as_str()) {
            (_, NO_CREDENTIALS) => {
                fail("a credential could not be handed over".to_owned(), format!("see LoadCredential= in: systemctl cat {SERVICE}"))
            }
            (_, NO_USER) => fail("its user does not exist".to_owned(), format!("{}; then: {}", as_root("systemd-sysusers"), self.again())),
            (_, CONFIGURATION) => fail(
                "its configuration has to change".to_owned(),
                format!("{}; what it says of the start: {}; then: {}", as_root("scm-agent config check"), journal(), self.again()),
            ),
            (result, status) => fail(
                format!("{} (status {})", printable(result), printable(status)),
                format!("{} says why; then: {}", journal(), self.again()),
            ),
        }
    }
}

/// The credential with the runner's key.
pub(super) const KEY: &str = "runner-key";
/// The credential with the passphrase of that key.
pub(super) const PASSPHRASE: &str = "runner-key-passphrase";
/// The credential with the control plane's token.
pub(super) const TOKEN: &str = "control-plane-token";

fn journal() -> String {
    as_root("journalctl -u scm-agent -n 20")
}

/// The files of `LoadCredential=` in a unit and its drop-ins, as `systemctl cat` prints them. An empty line forgets those before it.
fn credentials(text: &str) -> Vec<Credential> {
    let mut found: Vec<Credential> = Vec::new();
    for value in text.lines().filter_map(|line| line.trim().strip_prefix("LoadCredential=")) {
        let Some((name, path)) = value.split_once(':') else {
            if value.is_empty() {
                found.clear();
            }
            continue;
        };
        // Without a folder it is one of systemd's own, which is not for us to look up.
        if path.starts_with('/') {
            found.retain(|credential| credential.name != name);
            found.push(Credential { name: name.to_owned(), path: PathBuf::from(path) });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::State;
    use super::*;

    const SOUND: &str = "\
Id=scm-agent.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\nExecMainStatus=0\nNRestarts=0\nNeedDaemonReload=no\n
Id=scm-agent.socket\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\nNeedDaemonReload=no\nListen=/run/scm-agent/agent.sock (Stream)\n";

    fn judged(text: &str) -> Vec<Check> {
        Units::read(text).judge(|_| Ok(true))
    }

    #[track_caller]
    fn one(text: &str, state: State, detail: &str, next: &str) {
        let checks = judged(text);
        let found = checks.iter().find(|check| check.state == state && check.detail.contains(detail));
        let found = found.unwrap_or_else(|| panic!("no {detail:?} in {checks:?}"));
        assert!(found.next.as_deref().unwrap_or_default().contains(next), "{found:?}");
    }

    #[test]
    fn units_that_run_are_fine() {
        let checks = judged(SOUND);
        assert_eq!((checks.len(), checks[0].state), (1, State::Ok));
        assert!(checks[0].detail.contains("starts with the machine"));
        assert_eq!(Units::read(SOUND).socket.listens, ["/run/scm-agent/agent.sock"]);
        assert_eq!(Units::read(SOUND).user(), None);
        assert_eq!(Units::read(&SOUND.replacen("Result=success", "Result=success\nUser=4200", 1)).user(), Some(4200));
    }

    #[test]
    fn each_state_of_the_units_has_its_sentence_and_command() {
        let inactive = SOUND.replace("ActiveState=active", "ActiveState=inactive");
        one(&inactive, State::Fail, "neither", "systemctl enable --now scm-agent.socket scm-agent.service");
        one(&SOUND.replacen("LoadState=loaded", "LoadState=masked", 1), State::Fail, "service is masked", "unmask scm-agent.service");
        one(&SOUND.replace("UnitFileState=enabled", "UnitFileState=disabled"), State::Warn, "with the machine", "systemctl enable");
        one(&SOUND.replacen("Reload=no", "Reload=yes", 1), State::Warn, "changed after systemd read", "daemon-reload");
        one(&SOUND.replace("NRestarts=0", "NRestarts=9"), State::Warn, "9 times", "journalctl");
        let failed = SOUND.replacen("ActiveState=active", "ActiveState=failed", 1).replacen("Result=success", "Result=exit-code", 1);
        let with = |status: &str| failed.replace("ExecMainStatus=0", &format!("ExecMainStatus={status}"));
        one(&with("2"), State::Fail, "configuration has to change", "scm-agent config check");
        one(&with("217"), State::Fail, "user does not exist", "systemd-sysusers");
        one(&with("243"), State::Fail, "credential could not", "LoadCredential=");
        one(&with("1"), State::Fail, "exit-code (status 1)", "journalctl");
        let (head, tail) = SOUND.split_once("\n\n").unwrap();
        one(&format!("{head}\n\n{}", tail.replace("=active", "=inactive")), State::Fail, "socket is not running", "restart");
        let alone = "Id=scm-agent.socket\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\nResult=success\nNeedDaemonReload=no\n";
        assert_eq!(judged(&format!("{head}\n\n{alone}"))[0].state, State::Ok, "the daemon makes its socket itself");
        let stopped = format!("{}\n\n{alone}", head.replace("=active", "=inactive"));
        one(&stopped, State::Fail, "scm-agent.service is not running", "enable --now scm-agent.service");
        one(&format!("{head}\n\n{}", tail.replace("=active", "=failed")), State::Fail, "socket has failed", "reset-failed");
    }

    #[test]
    fn credentials_are_those_of_the_last_word_and_their_files_are_looked_for() {
        let unit = "[Service]\nLoadCredential=runner-key:/old\nLoadCredential=\nLoadCredential=runner-key:/a.pem\n\
                    LoadCredential=control-plane-token:/t\nLoadCredential=x:y\n";
        let units = Units { credentials: credentials(unit), ..Units::read(SOUND) };
        assert_eq!(units.credentials.len(), 2);
        assert_eq!(units.credential(KEY).unwrap().path, Path::new("/a.pem"));
        let checks = units.judge(|path| if path == Path::new("/a.pem") { Err(ErrorKind::NotFound) } else { Ok(false) });
        assert_eq!(checks.len(), 2, "{checks:?}");
        assert!(checks[0].detail.contains("/a.pem") && checks[0].next.as_deref().unwrap().contains("keygen"));
        assert!(checks[1].detail.contains("is empty") && checks[1].next.as_deref().unwrap().contains("/t"));
        assert_eq!(units.judge(|_| Err(ErrorKind::PermissionDenied))[0].state, State::Ok);
    }
}
