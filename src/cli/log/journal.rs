//! The journal's own protocol: a datagram of fields for each line.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>. Values have no line ends when they come here, so the form `NAME=value` will do.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use tracing::Level;

use super::line::{Line, escape};

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The longest name of a field that the journal takes.
const MAX_NAME_BYTES: usize = 64;

/// The priority of syslog(3).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Whether a stream is the one that the manager has connected to the journal, as `JOURNAL_STREAM` says: device and inode. A shell
/// below a service inherits the variable, but may have the stream elsewhere.
pub(super) fn is_journal(variable: Option<&str>, stream: &Metadata) -> bool {
    let named = variable.and_then(|variable| variable.split_once(':'));
    named.is_some_and(|(device, inode)| device.parse() == Ok(stream.dev()) && inode.parse() == Ok(stream.ino()))
}

/// The line as the journal takes it. `MESSAGE` says all of it, for people; the fields are there to be asked for.
pub(super) fn datagram(line: &Line) -> Vec<u8> {
    let mut text = format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER=scm-agent\nSCM_AGENT_LEVEL={}\nSCM_AGENT_TARGET={}\nMESSAGE={}\n",
        priority(line.level),
        line.level,
        line.target,
        line.words(),
    );
    for (name, value) in &line.fields {
        text.push_str(&field_name(name));
        text.push('=');
        escape(value.bare(), &mut text);
        text.push('\n');
    }
    text.into_bytes()
}

/// A field's name, in the letters that the journal takes.
fn field_name(name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "SCM_AGENT_".chars().chain(letters).take(MAX_NAME_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::line::Value;
    use super::*;

    #[test]
    fn each_field_is_a_line_of_the_datagram_and_no_value_is_two() {
        let mut line = Line::new(Level::WARN, "audit", "refused\nPRIORITY=0".to_owned(), SystemTime::UNIX_EPOCH);
        line.fields = vec![
            ("event", Value::Text("denied".to_owned())),
            ("uid", Value::Plain("7".to_owned())),
            ("log.line-number", Value::Formatted("a\nMESSAGE=b".to_owned())),
        ];
        let expected = "PRIORITY=4\nSYSLOG_IDENTIFIER=scm-agent\nSCM_AGENT_LEVEL=WARN\nSCM_AGENT_TARGET=audit\n\
            MESSAGE=audit: refused\\nPRIORITY=0 event=\"denied\" uid=7 log.line-number=\"a\\nMESSAGE=b\"\n\
            SCM_AGENT_EVENT=denied\nSCM_AGENT_UID=7\nSCM_AGENT_LOG_LINE_NUMBER=a\\nMESSAGE=b\n";
        assert_eq!(String::from_utf8(datagram(&line)).unwrap(), expected);
        assert_eq!(field_name(&"x".repeat(100)).len(), MAX_NAME_BYTES);
    }

    #[test]
    fn only_the_stream_that_the_variable_names_is_the_journal() {
        let (one, other) = (tempfile::tempfile().unwrap().metadata().unwrap(), tempfile::tempfile().unwrap().metadata().unwrap());
        let variable = format!("{}:{}", one.dev(), one.ino());
        assert!(is_journal(Some(&variable), &one) && !is_journal(Some(&variable), &other));
        for variable in [None, Some(""), Some(":"), Some("1"), Some("a:b")] {
            assert!(!is_journal(variable, &one), "{variable:?}");
        }
    }
}
