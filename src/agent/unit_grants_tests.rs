use super::*;
use crate::key::{self, GeneratedKey, KeyRing, NewKey};
use crate::state::StateDir;

/// A time of day that is put forward and back by hand, and the time since the machine's start.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<u64>>, Arc<Mutex<u64>>);

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + *self.0.lock().unwrap())
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(*self.1.lock().unwrap())
    }
}

/// A hierarchy with two running units, and what systemd says of them.
struct Machine {
    clock: Hand,
    folder: tempfile::TempDir,
}

fn ring(keys: &[&std::path::PathBuf]) -> KeyRing {
    KeyRing::load(&key::Config { files: keys.iter().copied().cloned().collect(), ..key::Config::default() }).unwrap()
}

const FIRST: &str = "0123456789abcdef0123456789abcdef";
const SECOND: &str = "fedcba9876543210fedcba9876543210";

impl Machine {
    fn new() -> Self {
        let machine = Self { clock: Hand::default(), folder: tempfile::tempdir().unwrap() };
        for unit in ["job-1.service", "job-2.service"] {
            fs::create_dir_all(machine.path(&format!("cgroup/system.slice/{unit}/below"))).unwrap();
            fs::create_dir_all(machine.path("units")).unwrap();
            machine.run_anew(unit, FIRST);
        }
        machine
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run_anew(&self, unit: &str, invocation: &str) {
        let link = self.path(&format!("units/invocation:{unit}"));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(invocation, link).unwrap();
    }

    fn cgroups(&self) -> Arc<Cgroups> {
        Arc::new(Cgroups::below(&self.path("cgroup")))
    }

    fn grants(&self, kept: Option<KeptList>) -> UnitGrants {
        UnitGrants::looking_at(self.cgroups(), Arc::new(self.clock.clone()), kept, &self.path("units"))
    }

    fn wait(&self, seconds: u64) {
        *self.clock.0.lock().unwrap() += seconds;
        *self.clock.1.lock().unwrap() += seconds;
    }

    fn state(&self) -> std::path::PathBuf {
        self.path("state")
    }

    /// A runner key, made for the test.
    fn key(&self, name: &str) -> std::path::PathBuf {
        let file = self.path(name);
        GeneratedKey::generate(NewKey::X25519).unwrap().write(&file, None).unwrap();
        file
    }

    /// The list in the state directory, sealed for these keys.
    fn kept(&self, keys: &[&std::path::PathBuf]) -> (KeptList, KeptList) {
        let directory = StateDir::open(&self.state()).unwrap();
        let list = KeptList::new(&directory, &ring(keys));
        let beside = list.beside(&directory, FILE);
        (list, beside)
    }

    fn cgroup(&self, path: &str) -> Cgroup {
        self.cgroups().at(path).unwrap()
    }
}

fn wanted(unit: &str) -> Wanted {
    Wanted { allow: vec!["service".to_owned()], host: "a.example/team".to_owned(), ttl: Duration::from_secs(60), unit: unit.to_owned() }
}

#[test]
fn a_grant_is_for_the_unit_and_all_below_it_until_its_time_is_over() {
    let machine = Machine::new();
    let grants = machine.grants(None);
    assert!(!grants.are_there());
    let (grant, problem) = grants.grant(&wanted("job-1.service"), 7).unwrap();
    assert_eq!((grant.cgroup.as_str(), grant.granted_by, grant.expires_at), ("/system.slice/job-1.service", 7, 1_000_060));
    assert_eq!(problem.as_deref(), Some("there is no state directory to keep it in"));
    let given = |path: &str| grants.of(&machine.cgroup(path));
    for path in ["/system.slice/job-1.service", "/system.slice/job-1.service/below"] {
        let rights = Rights { service: true, ..Rights::NONE };
        assert_eq!(given(path), [Granted { host: place("a.example/team").unwrap(), id: grant.id.as_str().into(), rights }], "{path}");
    }
    assert_eq!(given("/system.slice/job-2.service"), []);
    assert_eq!(given("/system.slice"), []);
    machine.wait(59);
    assert_eq!((given("/system.slice/job-1.service").len(), grants.list().len()), (1, 1));
    machine.wait(1);
    assert_eq!((given("/system.slice/job-1.service").len(), grants.list().len()), (0, 0));
    assert!(!grants.are_there());
}

#[test]
fn another_run_of_the_unit_has_nothing_of_it() {
    let machine = Machine::new();
    let grants = machine.grants(None);
    for unit in ["job-1.service", "job-2.service"] {
        grants.grant(&wanted(unit), 0).unwrap();
    }
    // Started anew in the cgroup of before.
    machine.run_anew("job-1.service", SECOND);
    assert_eq!(grants.of(&machine.cgroup("/system.slice/job-1.service")), []);
    // A new cgroup at the place of the old one.
    let (path, aside) = (machine.path("cgroup/system.slice/job-2.service"), machine.path("aside"));
    assert_eq!(grants.of(&machine.cgroup("/system.slice/job-2.service")).len(), 1);
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(grants.of(&machine.cgroup("/system.slice/job-2.service")), []);
    grants.prune();
    assert!(!grants.are_there());
}

#[test]
fn a_grant_that_is_taken_back_is_gone_and_no_other() {
    let machine = Machine::new();
    let grants = machine.grants(None);
    let (first, _) = grants.grant(&wanted("job-1.service"), 0).unwrap();
    let (second, _) = grants.grant(&Wanted { host: "b.example".to_owned(), ..wanted("job-1.service") }, 0).unwrap();
    assert!(!grants.revoke("canary", 0).0);
    assert!(grants.revoke(&first.id, 0).0 && !grants.revoke(&first.id, 0).0);
    assert_eq!(grants.list(), [second]);
}

#[test]
fn what_cannot_be_given_is_refused_with_the_reason() {
    let machine = Machine::new();
    let grants = machine.grants(None);
    let refused = |change: &dyn Fn(&mut Wanted)| {
        let mut wanted = wanted("job-1.service");
        change(&mut wanted);
        grants.grant(&wanted, 0).unwrap_err()
    };
    for unit in ["", "job-1", "job-*.service", "../job-1.service", "a/job-1.service", "system.slice", "job 1.service", ".service"] {
        assert_eq!(refused(&|wanted| wanted.unit = unit.to_owned()), Error::Unit, "{unit}");
    }
    assert_eq!(refused(&|wanted| wanted.unit = "job-3.service".to_owned()), Error::NoUnit { unit: "job-3.service".to_owned() });
    for host in ["", "https://a.example", "*.example", "a.example/../b"] {
        assert_eq!(refused(&|wanted| wanted.host = host.to_owned()), Error::Host, "{host}");
    }
    for allow in [&[][..], &["all"], &["service", ""]] {
        assert_eq!(refused(&|wanted| wanted.allow = allow.iter().map(|word| (*word).to_owned()).collect()), Error::Allow, "{allow:?}");
    }
    for ttl in [Duration::ZERO, Duration::from_millis(999), LONGEST + Duration::from_secs(1)] {
        assert_eq!(refused(&|wanted| wanted.ttl = ttl), Error::Ttl);
    }
    assert!(!grants.are_there());
    grants.grant(&wanted("job-1.service"), 0).unwrap();
    let one = grants.lock()[0].clone();
    grants.lock().resize(MAX_GRANTS, one);
    assert_eq!(refused(&|_| {}), Error::TooMany);
}

#[test]
fn grants_outlive_the_daemon_where_the_same_run_goes_on_and_nobody_took_them_back() {
    let machine = Machine::new();
    let key = machine.key("runner.pem");
    let kept = || machine.kept(&[&key]).1;
    let ids = |grants: &UnitGrants| grants.list().into_iter().map(|grant| grant.unit).collect::<Vec<_>>();
    let grants = machine.grants(Some(kept()));
    let (first, problem) = grants.grant(&wanted("job-1.service"), 0).unwrap();
    assert_eq!(problem, None);
    grants.grant(&wanted("job-2.service"), 0).unwrap();
    drop(grants);
    let on_disk = fs::read(machine.state().join(FILE)).unwrap();
    assert!(!on_disk.windows(9).any(|part| part == b"a.example"), "it is not sealed");

    let grants = machine.grants(Some(kept()));
    assert_eq!(ids(&grants), ["job-1.service", "job-2.service"]);
    assert_eq!(grants.revoke(&first.id, 0), (true, None));
    drop(grants);
    assert_eq!(ids(&machine.grants(Some(kept()))), ["job-2.service"]);
    // After a start of the machine another cgroup may have the inode.
    machine.run_anew("job-2.service", SECOND);
    assert_eq!(ids(&machine.grants(Some(kept()))), Vec::<String>::new());
    // Where systemd says nothing, nothing outlives the daemon.
    let grants = machine.grants(Some(kept()));
    fs::remove_file(machine.path("units/invocation:job-1.service")).unwrap();
    let (_, problem) = grants.grant(&wanted("job-1.service"), 0).unwrap();
    assert!(problem.is_some() && ids(&grants) == ["job-1.service"]);
    drop(grants);
    assert_eq!(ids(&machine.grants(Some(kept()))), Vec::<String>::new());
    // What was damaged counts for nobody.
    machine.run_anew("job-1.service", FIRST);
    machine.grants(Some(kept())).grant(&wanted("job-1.service"), 0).unwrap();
    let mut bytes = fs::read(machine.state().join(FILE)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(machine.state().join(FILE), bytes).unwrap();
    assert_eq!(ids(&machine.grants(Some(kept()))), Vec::<String>::new());
}

#[test]
fn what_many_take_back_at_once_does_not_come_back_with_the_next_daemon() {
    let machine = Machine::new();
    let key = machine.key("runner.pem");
    let kept = || machine.kept(&[&key]).1;
    for _ in 0..10 {
        let grants = machine.grants(Some(kept()));
        let given: Vec<_> = (0..8).map(|_| grants.grant(&wanted("job-1.service"), 0).unwrap().0.id).collect();
        std::thread::scope(|scope| {
            for id in &given {
                scope.spawn(|| assert_eq!(grants.revoke(id, 0), (true, None)));
            }
        });
        drop(grants);
        assert_eq!(machine.grants(Some(kept())).list(), []);
    }
}

#[test]
fn what_was_given_outlives_a_rotation_of_the_keys_and_its_end_is_kept_too() {
    let machine = Machine::new();
    let (old, new) = (machine.key("old.pem"), machine.key("new.pem"));
    let (list, kept) = machine.kept(&[&old]);
    let grants = machine.grants(Some(kept));
    grants.grant(&wanted("job-1.service"), 0).unwrap();
    assert!(!grants.is_for_other_keys());
    list.seal_with(&ring(&[&new]));
    assert!(grants.wants_tidying() && grants.is_for_other_keys());
    grants.tidy();
    assert!(!grants.is_for_other_keys());
    drop((grants, list));

    // Keys that are changed between two starts, the old one taken away after that.
    let old = new;
    let new = machine.key("newest.pem");
    let grants = machine.grants(Some(machine.kept(&[&new, &old]).1));
    assert_eq!(grants.list().len(), 1);
    grants.tidy();
    drop(grants);
    let grants = machine.grants(Some(machine.kept(&[&new]).1));
    assert_eq!(grants.list().len(), 1);

    // What has ended is not found again.
    machine.wait(3_600);
    grants.tidy();
    assert!(!grants.wants_tidying());
    drop(grants);
    assert_eq!(machine.grants(Some(machine.kept(&[&new]).1)).load().len(), 0);
}

#[test]
fn a_clock_that_is_put_back_prolongs_no_grant() {
    let machine = Machine::new();
    let grants = machine.grants(None);
    machine.wait(10_000);
    grants.grant(&wanted("job-1.service"), 0).unwrap();
    machine.wait(50);
    *machine.clock.0.lock().unwrap() -= 1_000;
    machine.wait(9);
    assert_eq!(grants.list().len(), 1);
    machine.wait(1);
    assert_eq!(grants.list(), []);
}
