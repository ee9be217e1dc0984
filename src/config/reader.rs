//! The typed walk: takes each key once, turns what was written into a type, and notes where the effective value came from.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::config::{Value, ValueKind};

use super::layer::{Entry, ListedTable, Table};
use super::{Cause, Problem};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A systemd credential of this name.
    Credential(&'static str),
    /// Nobody set it.
    Default,
    /// The main file or a drop-in.
    File(PathBuf),
    /// Nobody set it, and the key of the same name in this section was.
    Section(&'static str),
    /// An environment variable of this name.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(f, "systemd credential {name}"),
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Section(section) => write!(f, "as in [{section}]"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// A key with its effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The section, as in [`super::KEYS`].
    pub section: &'static str,
    /// Which table of the section, counted from 0; always 0 where there is but one.
    pub table: usize,
    /// The key.
    pub name: &'static str,
    /// The value in TOML, without secrets; `None` where the key is not set and has no default.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Origin,
}

/// What a walk has found so far.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    pub(super) settings: Vec<Setting>,
}

/// One table while it is read.
pub(super) struct Section<'r> {
    reader: &'r mut Reader,
    section: &'static str,
    index: usize,
    key: String,
    table: Table,
}

impl Reader {
    /// Begins a section of which there is one.
    pub(super) fn section(&mut self, section: &'static str, table: Table) -> Section<'_> {
        Section { reader: self, section, index: 0, key: section.to_owned(), table }
    }

    /// Begins the `index`th table of a section of which there can be several.
    pub(super) fn listed(&mut self, index: usize, table: ListedTable) -> Section<'_> {
        let ListedTable { section, key, origin: _, table } = table;
        Section { reader: self, section, index, key, table }
    }

    /// Shows the keys of a section that nobody set as the keys of the same name in the section that they follow.
    pub(super) fn show_inherited(&mut self, section: &str, followed: &str) {
        for index in 0..self.settings.len() {
            let Setting { section: own, name, origin: Origin::Default, .. } = self.settings[index] else { continue };
            let set = |other: &&Setting| other.section == followed && other.name == name && other.origin != Origin::Default;
            if own == section
                && let Some(other) = self.settings.iter().find(set)
            {
                let (value, origin) = (other.value.clone(), Origin::Section(other.section));
                self.settings[index] = Setting { value, origin, ..self.settings[index].clone() };
            }
        }
    }

    /// Takes over what another walk has found.
    pub(super) fn append(&mut self, other: Self) {
        self.problems.extend(other.problems);
        self.settings.extend(other.settings);
    }
}

impl Section<'_> {
    /// Takes what a key was given last.
    pub(super) fn take(&mut self, name: &str) -> Option<Entry> {
        self.table.remove(name)?.pop()
    }

    /// Notes the effective value of a key.
    pub(super) fn note(&mut self, name: &'static str, value: Option<String>, origin: Origin) {
        self.reader.settings.push(Setting { section: self.section, table: self.index, name, value, origin });
    }

    /// Notes a problem with what somebody wrote.
    pub(super) fn problem(&mut self, name: &str, origin: &Origin, cause: Cause) {
        let key = format!("{}.{name}", self.key);
        self.reader.problems.push(Problem::new(origin, key, cause));
    }

    /// Reads a key through `convert`, which gives the value and how it is shown. `None` when nobody set it or it is wrong.
    pub(super) fn read<T>(&mut self, name: &'static str, convert: impl FnOnce(&Entry) -> Result<(T, String), Cause>) -> Option<T> {
        let Some(entry) = self.take(name) else {
            self.note(name, None, Origin::Default);
            return None;
        };
        self.convert(name, &entry, convert)
    }

    /// As [`Section::read`], for an entry that was taken already.
    pub(super) fn convert<T>(
        &mut self,
        name: &'static str,
        entry: &Entry,
        convert: impl FnOnce(&Entry) -> Result<(T, String), Cause>,
    ) -> Option<T> {
        match convert(entry) {
            Ok((value, shown)) => {
                self.note(name, Some(shown), entry.origin.clone());
                Some(value)
            }
            Err(cause) => {
                self.problem(name, &entry.origin, cause);
                None
            }
        }
    }

    /// Reads a key that has a default.
    pub(super) fn read_or<T>(
        &mut self,
        name: &'static str,
        default: T,
        show: impl FnOnce(&T) -> String,
        convert: impl FnOnce(&Entry) -> Result<(T, String), Cause>,
    ) -> T {
        match self.take(name) {
            None => {
                self.note(name, Some(show(&default)), Origin::Default);
                default
            }
            Some(entry) => self.convert(name, &entry, convert).unwrap_or(default),
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        self.read_or(name, default, bool::to_string, |entry| {
            let flag = flag(entry)?;
            Ok((flag, flag.to_string()))
        })
    }

    /// Reads a whole number within a range.
    pub(super) fn number(&mut self, name: &'static str, default: u16, range: RangeInclusive<u16>) -> usize {
        let number = self.read_or(name, default, u16::to_string, |entry| {
            let wrong_type = Cause::WrongType { expected: "a whole number, without quotes" };
            let number = match (&entry.value, &entry.origin) {
                (ValueKind::I64(number), _) => *number,
                (ValueKind::String(text), Origin::Variable(_)) => text.parse().map_err(|_| wrong_type)?,
                _ => return Err(wrong_type),
            };
            match u16::try_from(number) {
                Ok(number) if range.contains(&number) => Ok((number, number.to_string())),
                _ => Err(Cause::OutOfRange { least: range.start().to_string(), most: range.end().to_string() }),
            }
        });
        number.into()
    }

    /// Reads a duration within a range.
    pub(super) fn duration(&mut self, name: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.read_or(
            name,
            default,
            |default| quoted(&duration_text(*default)),
            |entry| {
                if matches!(entry.value, ValueKind::I64(_) | ValueKind::Float(_)) {
                    return Err(Cause::BareNumber);
                }
                let text = text(entry)?;
                if text.trim().parse::<f64>().is_ok() {
                    return Err(Cause::BareNumber);
                }
                // The parser's error quotes the text.
                let duration = humantime::parse_duration(&text).map_err(|_| Cause::NotADuration)?;
                if range.contains(&duration) {
                    Ok((duration, quoted(&text)))
                } else {
                    Err(Cause::OutOfRange { least: duration_text(*range.start()), most: duration_text(*range.end()) })
                }
            },
        )
    }

    /// Reads one of some words, or nothing.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        self.read(name, |entry| chosen(entry, words))
    }

    /// Reads one of some words, of which the one at `default` is meant when nobody set the key.
    pub(super) fn choice_or<T: Copy>(&mut self, name: &'static str, words: &[(&'static str, T)], default: usize) -> T {
        let (word, value) = words[default];
        self.read_or(name, value, |_| quoted(word), |entry| chosen(entry, words))
    }

    /// Reads a text.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.read(name, |entry| text(entry).map(|text| (text.clone(), quoted(&text))))
    }

    /// Reads a path.
    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.read(name, path)
    }
}

/// An entry's truth value; a variable spells it out.
pub(super) fn flag(entry: &Entry) -> Result<bool, Cause> {
    match (&entry.value, &entry.origin) {
        (ValueKind::Boolean(flag), _) => Ok(*flag),
        (ValueKind::String(text), Origin::Variable(_)) if text == "true" => Ok(true),
        (ValueKind::String(text), Origin::Variable(_)) if text == "false" => Ok(false),
        _ => Err(Cause::WrongType { expected: "true or false" }),
    }
}

/// An entry's text: one line of at least one character.
pub(super) fn text(entry: &Entry) -> Result<String, Cause> {
    match &entry.value {
        ValueKind::String(text) => checked(text),
        _ => Err(Cause::WrongType { expected: "a text in quotes" }),
    }
}

/// An entry's texts: an array, or in a variable a row with commas between.
pub(super) fn texts(entry: &Entry) -> Result<Vec<String>, Cause> {
    match (&entry.value, &entry.origin) {
        (ValueKind::Array(values), _) => values
            .iter()
            .map(|Value { kind, .. }| match kind {
                ValueKind::String(text) => checked(text),
                _ => Err(Cause::WrongType { expected: "a list of texts in quotes" }),
            })
            .collect(),
        (ValueKind::String(text), Origin::Variable(_)) if text.is_empty() => Ok(Vec::new()),
        (ValueKind::String(text), Origin::Variable(_)) => text.split(',').map(|part| checked(part.trim())).collect(),
        _ => Err(Cause::WrongType { expected: "a list, such as [\"one\", \"two\"]" }),
    }
}

fn checked(text: &str) -> Result<String, Cause> {
    if text.trim().is_empty() {
        Err(Cause::Empty)
    } else if text.chars().any(char::is_control) {
        Err(Cause::ControlCharacter)
    } else {
        Ok(text.to_owned())
    }
}

/// An entry's path, absolute.
pub(super) fn path(entry: &Entry) -> Result<(PathBuf, String), Cause> {
    let path = resolve(&text(entry)?, &entry.origin)?;
    let shown = quoted(&path.to_string_lossy());
    Ok((path, shown))
}

/// Resolves a path against the folder of the file that names it; against the current directory when a variable does.
pub(super) fn resolve(text: &str, origin: &Origin) -> Result<PathBuf, Cause> {
    if text.starts_with('~') {
        return Err(Cause::Home);
    }
    let path = match origin {
        Origin::File(file) => file.parent().unwrap_or(Path::new("")).join(text),
        Origin::Credential(_) | Origin::Default | Origin::Section(_) | Origin::Variable(_) => PathBuf::from(text),
    };
    // Fails only when the current directory is gone; such a path stays as it was written.
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn chosen<T: Copy>(entry: &Entry, words: &[(&'static str, T)]) -> Result<(T, String), Cause> {
    let written = text(entry)?;
    match words.iter().find(|(word, _)| *word == written) {
        Some((word, value)) => Ok((*value, quoted(word))),
        None => Err(Cause::Choice(words.iter().map(|(word, _)| *word).collect())),
    }
}

/// A TOML basic string. JSON's escapes are a subset of TOML's, which alone forbids a bare DEL.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A TOML array of strings.
pub(super) fn quoted_list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

/// A duration in the largest unit that keeps it whole; a minute stays `60s`.
fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_millis() != 0 {
        format!("{}ms", duration.as_millis())
    } else if seconds > 0 && seconds.is_multiple_of(3600) {
        format!("{}h", seconds / 3600)
    } else if seconds > 60 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_quoted_as_toml_reads_it() {
        // Folder names end up in shown values, so characters that keys refuse occur too.
        let text = "a\"b\\c\n\t\u{0}\u{1b}\u{7f}\u{9f}é\u{2028}𝄞";
        let toml = format!("text = {}", quoted(text));
        let parsed = ::config::Source::collect(&::config::File::from_str(&toml, ::config::FileFormat::Toml)).unwrap();
        assert_eq!(parsed["text"].kind, ValueKind::String(text.to_owned()));
    }

    #[test]
    fn durations_are_written_in_the_largest_whole_unit() {
        let cases = [(0, "0s"), (100, "100ms"), (1500, "1500ms"), (60_000, "60s"), (600_000, "10m"), (90_000, "90s"), (86_400_000, "24h")];
        for (milliseconds, text) in cases {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(duration_text(duration), text);
            assert_eq!(humantime::parse_duration(text).unwrap(), duration);
        }
    }
}
