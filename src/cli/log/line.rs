//! A line of the log: what it says, of bounded length, and its two forms. No value can end a line or reach a terminal as anything but text.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::git::frame::is_hidden;

/// The longest value and the longest message, in bytes; what is cut ends in an ellipsis.
const MAX_VALUE_BYTES: usize = 2048;

/// The most fields of a line. Ours have fewer.
const MAX_FIELDS: usize = 32;

/// What is written for one event.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: String,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Value {
    /// As `Debug` or `Display` wrote it.
    Formatted(String),
    /// A number or a truth value: the same in text and in JSON.
    Plain(String),
    /// A text.
    Text(String),
}

impl Value {
    /// The value by itself, without quotes around it.
    pub(super) fn bare(&self) -> &str {
        match self {
            Self::Formatted(text) | Self::Plain(text) | Self::Text(text) => text,
        }
    }
}

impl Line {
    /// Takes what an event says.
    pub(super) fn of(event: &Event<'_>, time: SystemTime) -> Self {
        let metadata = event.metadata();
        let mut line = Self::new(*metadata.level(), metadata.target(), String::new(), time);
        event.record(&mut line);
        line
    }

    /// A line without fields.
    pub(super) fn new(level: Level, target: &str, message: String, time: SystemTime) -> Self {
        Self { time, level, target: target.to_owned(), message, fields: Vec::new() }
    }

    /// The line for people: time, level, and what the journal shows too.
    pub(super) fn text(&self) -> String {
        let time = humantime::format_rfc3339_micros(self.time);
        format!("{time} {:>5} {}\n", self.level.as_str(), self.words())
    }

    /// The line for people without what the journal knows by itself.
    pub(super) fn words(&self) -> String {
        let mut text = format!("{}: ", self.target);
        escape(&self.message, &mut text);
        for (name, value) in &self.fields {
            let _ = write!(text, " {name}=");
            match value {
                Value::Plain(value) => text.push_str(value),
                Value::Formatted(value) if is_one_word(value) => text.push_str(value),
                Value::Formatted(value) | Value::Text(value) => quote(value, &mut text),
            }
        }
        text
    }

    /// The line for machines: one JSON object.
    pub(super) fn json(&self) -> String {
        let mut json = format!("{{\"timestamp\":\"{}\",\"level\":\"{}\"", humantime::format_rfc3339_micros(self.time), self.level);
        let mut member = |name: &str, value: &Value| {
            json.push(',');
            json_text(name, &mut json);
            json.push(':');
            match value {
                Value::Plain(value) => json.push_str(value),
                Value::Formatted(value) | Value::Text(value) => json_text(value, &mut json),
            }
        };
        member("target", &Value::Text(self.target.clone()));
        member("message", &Value::Text(self.message.clone()));
        for (name, value) in &self.fields {
            // A library's field must not pass for what every line has.
            match *name {
                "level" | "message" | "target" | "timestamp" => member(&format!("{name}_"), value),
                name => member(name, value),
            }
        }
        json.push_str("}\n");
        json
    }

    fn push(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.bare().to_owned();
        } else if self.fields.len() < MAX_FIELDS {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Line {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Clipped::default();
        let _ = text.write_str(value);
        self.push(field, Value::Text(text.done()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Clipped::default();
        let _ = write!(text, "{value:?}");
        self.push(field, Value::Formatted(text.done()));
    }
}

/// A text that grows to a limit and no further.
#[derive(Default)]
struct Clipped {
    text: String,
    is_cut: bool,
}

impl Clipped {
    fn done(mut self) -> String {
        if self.is_cut {
            self.text.push('\u{2026}');
        }
        self.text
    }
}

impl fmt::Write for Clipped {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if !self.is_cut {
            let room = MAX_VALUE_BYTES - self.text.len();
            let fits = (0..=room.min(more.len())).rev().find(|at| more.is_char_boundary(*at)).unwrap_or(0);
            self.text.push_str(&more[..fits]);
            self.is_cut = fits < more.len();
        }
        Ok(())
    }
}

/// Whether a value can stand without quotes: it has no blank, quote or `=`, so it cannot pass for two fields. A text that `Debug` has
/// put in quotes can.
fn is_one_word(value: &str) -> bool {
    let is_plain = |text: &str| !text.contains(|c: char| is_hidden(c) || c == '"');
    let within = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match within {
        Some(within) => is_plain(&within.replace("\\\\", "").replace("\\\"", "")) && !within.replace("\\\\", "").ends_with('\\'),
        None => !value.is_empty() && is_plain(value) && !value.contains([' ', '=', '\\']),
    }
}

/// Writes a text in quotes.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => escape_one(c, out),
        }
    }
    out.push('"');
}

/// Writes a text with what is not to be printed spelled out.
pub(super) fn escape(text: &str, out: &mut String) {
    text.chars().for_each(|c| escape_one(c, out));
}

fn escape_one(c: char, out: &mut String) {
    match c {
        c if is_hidden(c) => out.extend(c.escape_default()),
        c => out.push(c),
    }
}

/// Writes a JSON string. JSON asks for less to be escaped than a terminal does.
fn json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fields: Vec<(&'static str, Value)>, message: &str) -> Line {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_700_000_000_000_001);
        Line { fields, ..Line::new(Level::WARN, "audit", message.to_owned(), time) }
    }

    fn text(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    fn formatted(value: &str) -> Value {
        Value::Formatted(value.to_owned())
    }

    #[test]
    fn a_line_has_its_time_level_target_words_and_fields() {
        let line = line(
            vec![("event", text("denied")), ("uid", Value::Plain("7".to_owned())), ("host", formatted("git.example/a"))],
            "refused: access rules",
        );
        assert_eq!(
            line.text(),
            "2023-11-14T22:13:20.000001Z  WARN audit: refused: access rules event=\"denied\" uid=7 host=git.example/a\n"
        );
        assert_eq!(
            line.json(),
            "{\"timestamp\":\"2023-11-14T22:13:20.000001Z\",\"level\":\"WARN\",\"target\":\"audit\",\"message\":\"refused: access rules\",\
             \"event\":\"denied\",\"uid\":7,\"host\":\"git.example/a\"}\n"
        );
    }

    #[test]
    fn nothing_in_a_value_ends_a_line_starts_a_field_or_speaks_to_a_terminal() {
        let evils = [
            "a\nMAINPID=1",
            "\r\u{1b}[2J\u{9b}0m\u{7}",
            "x event=\"denied\" uid=0",
            "x\" event=\"denied",
            "\"a\" uid=0 \"b\"",
            "\"a\\\" uid=0",
            "\"a\\\\\" uid=0 b=\"c\"",
            "\"\n\"",
            "\u{202e}txt.exe\u{2028}\u{85}\u{feff}",
            "",
            "\\",
        ];
        for evil in evils {
            let line = line(vec![("a", text(evil)), ("b", formatted(evil)), ("level", text("x"))], evil);
            let plain = line.text();
            let json = line.json();
            for shown in [&plain, &json] {
                let body = shown.strip_suffix('\n').unwrap();
                assert!(!body.contains(is_hidden), "{body:?}");
            }
            // The fields are what is left of their quotes.
            let fields = &plain[plain.find(" a=").unwrap()..];
            let mut outside = String::new();
            let (mut is_quoted, mut is_escaped) = (false, false);
            for c in fields.chars() {
                match c {
                    '"' if !is_escaped => is_quoted = !is_quoted,
                    c if !is_quoted => outside.push(c),
                    _ => {}
                }
                is_escaped = is_quoted && !is_escaped && c == '\\';
            }
            assert!(!is_quoted && ["event=", "uid="].iter().all(|forged| !outside.contains(forged)), "{evil:?}: {plain}");
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!((&parsed["a"], &parsed["b"], &parsed["message"]), (&evil.into(), &evil.into(), &evil.into()));
            assert_eq!((parsed["level"].as_str(), parsed["level_"].as_str()), (Some("WARN"), Some("x")));
        }
    }

    #[test]
    fn values_are_bounded_and_cut_between_characters() {
        for value in ["x".repeat(1 << 20), "\u{20ac}".repeat(1 << 20)] {
            let mut clipped = Clipped::default();
            for piece in [&value[..], &value] {
                clipped.write_str(piece).unwrap();
            }
            let text = clipped.done();
            assert!(text.len() > MAX_VALUE_BYTES - 4 && text.len() <= MAX_VALUE_BYTES + 3 && text.ends_with('\u{2026}'), "{}", text.len());
        }
        let mut clipped = Clipped::default();
        clipped.write_str(&"x".repeat(MAX_VALUE_BYTES)).unwrap();
        assert_eq!(clipped.done().len(), MAX_VALUE_BYTES);
    }
}
