//! What would change in a file, as a unified diff without context.
//!
//! The lines around ours may hold tokens, and a terminal may be a log, so no line of the user's is shown, with one exception: of a
//! last line without a line end, which gets one, the part up to its value.

use std::path::Path;

/// The difference between two contents, `None` standing for no file; empty where there is none.
pub(super) fn unified(path: &Path, old: Option<&[u8]>, new: Option<&[u8]>, ours: impl Fn(&[u8]) -> bool) -> String {
    if old == new {
        return String::new();
    }
    let name = |content: Option<&[u8]>| content.map_or_else(|| "/dev/null".to_owned(), |_| path.display().to_string());
    let lines = |content: Option<&'_ [u8]>| -> Vec<Vec<u8>> {
        content.unwrap_or_default().split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let mut text = format!("--- {}\n+++ {}\n", name(old), name(new));
    let (old, new) = (lines(old), lines(new));
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let same = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(old, new)| old == new).count();
    let (gone, come) = (&old[start..old.len() - same], &new[start..new.len() - same]);
    text.push_str(&format!("@@ -{} +{} @@\n", range(start, gone.len()), range(start, come.len())));
    for (sign, lines) in [('-', gone), ('+', come)] {
        for line in lines {
            text.push(sign);
            let (line, ended) = line.strip_suffix(b"\n").map_or((line.as_slice(), false), |line| (line, true));
            text.push_str(&shown(line, &ours));
            text.push('\n');
            if !ended {
                text.push_str("\\ No newline at end of file\n");
            }
        }
    }
    text
}

/// A range of lines: a single one goes without its length, and none begins at the line before.
fn range(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

fn shown(line: &[u8], ours: impl Fn(&[u8]) -> bool) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
    let text = text.replace(|character: char| character.is_control() && character != '\t', " ");
    if ours(line) {
        return text;
    }
    // A header may have a URL in it, and that a password.
    match text.find(['=', '"']) {
        Some(end) => format!("{}…", &text[..=end]),
        None if text.trim_start().starts_with('[') || text.trim().is_empty() => text,
        None => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_change_are_shown_and_of_others_no_value() {
        let diff = |old: Option<&str>, new: Option<&str>| {
            unified(Path::new("/f"), old.map(str::as_bytes), new.map(str::as_bytes), |line| line.starts_with(b"#"))
        };
        assert_eq!(diff(Some("a\n"), Some("a\n")), "");
        assert!(!diff(Some("a\nb"), Some("[url \"https://u:canary@h\"]\ncanary\n")).contains("canary"));
        assert_eq!(diff(None, Some("#1\n#2\n")), "--- /dev/null\n+++ /f\n@@ -0,0 +1,2 @@\n+#1\n+#2\n");
        assert_eq!(diff(Some("#1\n"), None), "--- /f\n+++ /dev/null\n@@ -1 +0,0 @@\n-#1\n");
        assert_eq!(diff(Some("x\n#1\ny\n"), Some("x\n#2\n#3\ny\n")), "--- /f\n+++ /f\n@@ -2 +2,2 @@\n-#1\n+#2\n+#3\n");
        assert_eq!(
            diff(Some("k = canary"), Some("k = canary\n#1\n")),
            "--- /f\n+++ /f\n@@ -1 +1,2 @@\n-k =…\n\\ No newline at end of file\n+k =…\n+#1\n"
        );
    }
}
