//! Quoting for the two who read a helper's command: git's configuration, and the shell that git starts it with.

/// A word of a shell command (POSIX.1-2024, Shell Command Language, section 2.2.2): bare where nothing in it means anything.
pub(super) fn quoted_for_shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b'+' | b',' | b':' | b'@' | b'%');
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A value as git's configuration files spell it (git-config(1), "Syntax"): in quotes where it would be cut or folded.
pub(super) fn quoted_for_git(value: &str) -> String {
    let special = value.contains(['"', '\\', '#', ';', '\n', '\t', '\u{8}']);
    if !special && value.trim() == value {
        return value.to_owned();
    }
    let mut text = String::from("\"");
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_stay_plain_and_others_are_quoted() {
        for (word, shell) in [
            ("/run/scm-agent/agent.sock", "/run/scm-agent/agent.sock"),
            ("", "''"),
            ("/a b", "'/a b'"),
            ("/it's", "'/it'\\''s'"),
            ("/$(x)`y`", "'/$(x)`y`'"),
            ("~/x", "'~/x'"),
        ] {
            assert_eq!(quoted_for_shell(word), shell);
        }
        for (value, config) in [
            ("scm-agent --socket /a", "scm-agent --socket /a"),
            ("", ""),
            (" a", "\" a\""),
            ("a;b", "\"a;b\""),
            ("a#b\"\\", "\"a#b\\\"\\\\\""),
        ] {
            assert_eq!(quoted_for_git(value), config);
        }
    }
}
