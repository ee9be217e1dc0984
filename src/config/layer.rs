//! Reads the layers: the main file, the drop-ins, the environment. What each key was given, by whom, is kept in order.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ::config::{ConfigError, FileFormat, Map, Source, Value, ValueKind};

use super::environment::PREFIX;
use super::{Cause, Environment, Origin, Problem, keys};

/// A value as somebody wrote it.
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) value: ValueKind,
}

/// A section's keys, each with what it was given, the last of which counts.
pub(super) type Table = BTreeMap<String, Vec<Entry>>;

/// One table of a section of which there can be several: its key as problems name it, where it was begun, what it holds.
pub(super) struct ListedTable {
    pub(super) section: &'static str,
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) table: Table,
}

impl ListedTable {
    /// One of its keys, as problems name it.
    pub(super) fn full(&self, name: &str) -> String {
        if self.key.starts_with(PREFIX) { format!("{}__{}", self.key, name.to_ascii_uppercase()) } else { format!("{}.{name}", self.key) }
    }
}

/// All layers, one over the other. Holds known keys only; everything else has become a problem.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) files: Vec<PathBuf>,
    pub(super) sections: BTreeMap<String, Table>,
    /// The tables of the sections of which there can be several, in the order of the layers.
    pub(super) listed: BTreeMap<&'static str, Vec<ListedTable>>,
    pub(super) problems: Vec<Problem>,
    /// A layer could not be read, so what is missing may have been in it.
    pub(super) incomplete: bool,
    /// The default file, where nobody named another and it does not exist.
    pub(super) missing_default: Option<PathBuf>,
}

/// Reads everything there is to read. What cannot be read becomes a problem, and the rest is read nevertheless.
pub(super) fn read_all(explicit: Option<&Path>, default: &Path, environment: &Environment) -> Layers {
    let mut layers = Layers::default();
    let named = explicit.or_else(|| environment.config_file());
    let main = named.unwrap_or(default);
    match read_file(main) {
        Err(Cause::Unreadable(io::ErrorKind::NotFound)) if named.is_none() => layers.missing_default = Some(main.to_owned()),
        text => layers.add_file(main, text),
    }
    let directory = main.parent().unwrap_or(Path::new("")).join("config.d");
    match drop_ins(&directory) {
        Ok(paths) => paths.iter().for_each(|path| layers.add_file(path, read_file(path))),
        Err(cause) => layers.unreadable(&directory, cause),
    }
    if let Some(url) = environment.base_url() {
        layers.add_entry("control_plane", "url", Origin::Variable("ONA_BASE_URL".to_owned()), url.into());
    }
    layers.add_environment(environment);
    layers
}

impl Layers {
    fn unreadable(&mut self, path: &Path, cause: Cause) {
        self.incomplete = true;
        self.problems.push(Problem::of_file(path, cause));
    }

    fn add_file(&mut self, path: &Path, text: Result<String, Cause>) {
        self.files.push(path.to_owned());
        match text.and_then(|text| parse(&text)) {
            Ok(tree) => self.add_tree(&Origin::File(path.to_owned()), tree),
            Err(cause) => self.unreadable(path, cause),
        }
    }

    /// Takes a file's keys in. The parser gives tables without order, so they are put in the order of the alphabet.
    fn add_tree(&mut self, origin: &Origin, tree: Map<String, Value>) {
        for (name, value) in tree.into_iter().collect::<BTreeMap<_, _>>() {
            if let Some(section) = keys::listed(&name) {
                match value.kind {
                    ValueKind::Array(tables) => self.add_listed(origin, section, tables),
                    _ => self.problems.push(Problem::new(origin, section, Cause::NotListed { section })),
                }
                continue;
            }
            match value.kind {
                ValueKind::Table(table) if keys::is_section(&name) => {
                    for (key, value) in table.into_iter().collect::<BTreeMap<_, _>>() {
                        self.add_entry(&name, &key, origin.clone(), value.kind);
                    }
                }
                _ if keys::is_section(&name) => {
                    self.problems.push(Problem::new(origin, name, Cause::WrongType { expected: "a table, such as [agent]" }));
                }
                ValueKind::Table(_) | ValueKind::Array(_) => {
                    let nearest = keys::nearest_section(&name);
                    self.problems.push(Problem::new(origin, name, Cause::UnknownSection { nearest }));
                }
                _ => {
                    let nearest = keys::nearest(None, &name);
                    self.problems.push(Problem::new(origin, name, Cause::UnknownKey { nearest: nearest.to_string() }));
                }
            }
        }
    }

    fn add_listed(&mut self, origin: &Origin, section: &'static str, tables: Vec<Value>) {
        for (index, value) in tables.into_iter().enumerate() {
            let key = format!("{section}[{index}]");
            let ValueKind::Table(entries) = value.kind else {
                self.problems.push(Problem::new(origin, key, Cause::NotListed { section }));
                continue;
            };
            let mut listed = ListedTable { section, key, origin: origin.clone(), table: Table::new() };
            for (key, value) in entries.into_iter().collect::<BTreeMap<_, _>>() {
                self.add_listed_entry(&mut listed, key, Entry { origin: origin.clone(), value: value.kind });
            }
            self.listed.entry(section).or_default().push(listed);
        }
    }

    fn add_listed_entry(&mut self, listed: &mut ListedTable, key: String, entry: Entry) {
        if keys::is_known(listed.section, &key) {
            listed.table.entry(key).or_default().push(entry);
        } else {
            self.unknown_key(listed.section, &listed.full(&key), &key, &entry.origin);
        }
    }

    fn add_entry(&mut self, section: &str, key: &str, origin: Origin, value: ValueKind) {
        if keys::is_known(section, key) {
            let table = self.sections.entry(section.to_owned()).or_default();
            table.entry(key.to_owned()).or_default().push(Entry { origin, value });
        } else {
            self.unknown_key(section, &format!("{section}.{key}"), key, &origin);
        }
    }

    fn unknown_key(&mut self, section: &str, full: &str, key: &str, origin: &Origin) {
        let nearest = keys::nearest(Some(section), key);
        let nearest = if matches!(origin, Origin::Variable(_)) { nearest.variable() } else { nearest.to_string() };
        self.problems.push(Problem::new(origin, full, Cause::UnknownKey { nearest }));
    }

    /// Takes the variables in. The `config` crate could, but it folds letter case and dots on the way, after which two
    /// different variables may be one key, and which of them counts is left to chance.
    fn add_environment(&mut self, environment: &Environment) {
        for name in environment.not_utf8() {
            self.problems.push(Problem::new(&Origin::Variable(name.clone()), "", Cause::NotUtf8));
            self.incomplete = true;
        }
        let mut listed: BTreeMap<(&str, u16), ListedTable> = BTreeMap::new();
        for (name, value) in environment.keys() {
            let origin = Origin::Variable(name.clone());
            let path = name.strip_prefix(PREFIX).unwrap_or_default();
            // Only capitals count, so that no two variables can mean the same key.
            let lower = if path.bytes().any(|byte| byte.is_ascii_lowercase()) { String::new() } else { path.to_ascii_lowercase() };
            let parts = lower.split("__").collect::<Vec<_>>();
            let section = parts.first().and_then(|name| keys::listed(name));
            match (section, parts.as_slice()) {
                (None, [section, key]) if keys::is_section(section) => self.add_entry(section, key, origin, value.as_str().into()),
                (Some(section), [_, index, key]) if index.parse().is_ok_and(|number: u16| number.to_string() == **index) => {
                    let table = listed.entry((section, index.parse().unwrap_or_default())).or_insert_with(|| ListedTable {
                        section,
                        key: format!("{PREFIX}{}__{index}", section.to_ascii_uppercase()),
                        origin: Origin::Default,
                        table: Table::new(),
                    });
                    self.add_listed_entry(table, (*key).to_owned(), Entry { origin, value: value.as_str().into() });
                }
                _ => {
                    let mut written = path.split("__").filter(|part| part.contains(char::is_alphabetic)).map(str::to_ascii_lowercase);
                    let (first, rest) = (written.next().unwrap_or_default(), written.collect::<Vec<_>>().join("_"));
                    let (section, key) = if rest.is_empty() { (String::new(), first) } else { (first, rest) };
                    self.unknown_key(&section, "", &key, &origin);
                }
            }
        }
        for table in listed.into_values() {
            self.listed.entry(table.section).or_default().push(table);
        }
    }
}

/// A file's text, if it is a regular file of a sensible size that not everybody can write.
fn read_file(path: &Path) -> Result<String, Cause> {
    const MOST_BYTES: u64 = 1024 * 1024;
    let unreadable = |error: io::Error| Cause::Unreadable(error.kind());
    let file = OpenOptions::new().read(true).custom_flags(nonblocking()).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Cause::NotAFile);
    }
    refuse_world_writable(&metadata)?;
    let mut bytes = Vec::new();
    File::take(file, MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Cause::TooLarge { most: MOST_BYTES });
    }
    String::from_utf8(bytes).map_err(|_| Cause::NotUtf8)
}

/// The flag without which opening a pipe would wait for a writer.
pub(super) fn nonblocking() -> i32 {
    // The bits of a flag of open(2) fit its argument.
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default()
}

/// The drop-ins, in the order of their names' bytes. Names that begin with a dot are left over by editors and not read.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, Cause> {
    let unreadable = |error: io::Error| Cause::Unreadable(error.kind());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    refuse_world_writable(&fs::metadata(directory).map_err(unreadable)?)?;
    let mut paths = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        if Path::new(&name).extension() == Some(OsStr::new("toml")) && !name.as_bytes().starts_with(b".") {
            paths.push(directory.join(name));
        }
    }
    paths.sort();
    Ok(paths)
}

fn refuse_world_writable(metadata: &fs::Metadata) -> Result<(), Cause> {
    if metadata.permissions().mode() & 0o002 == 0 { Ok(()) } else { Err(Cause::WorldWritable) }
}

/// A file's tree. The parser's own error quotes the line, which may hold a secret: only the position is kept.
fn parse(text: &str) -> Result<Map<String, Value>, Cause> {
    ::config::File::from_str(text, FileFormat::Toml).collect().map_err(|error| {
        let position = match &error {
            ConfigError::FileParse { cause, .. } => position(&cause.to_string()),
            _ => None,
        };
        position.map_or(Cause::NotTomlNumber, |(line, column)| Cause::NotToml { line, column })
    })
}

/// Line and column out of `TOML parse error at line 1, column 10`.
fn position(message: &str) -> Option<(usize, usize)> {
    let (line, column) = message.lines().next()?.strip_prefix("TOML parse error at line ")?.split_once(", column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}
