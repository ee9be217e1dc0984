//! The lines that are ours in a file of git's configuration, between a first and a last mark, and the file with and without them.
//!
//! Pure text, bytes in and bytes out. The first mark carries what is needed to put things back as they were: whether the file lacked a
//! line end before ours, and whether there was a file at all. It also carries a digest of the lines, so that what somebody changed
//! between the marks is noticed. `git config` itself adds to the last section of a name, which may be one of ours; such lines are
//! not ours to drop, and move to sections of their own behind the mark.

use sha2::{Digest, Sha256};

/// How the first line of ours begins.
const BEGIN: &str = "# BEGIN scm-agent";

/// The last line of ours.
const END: &str = "# END scm-agent";

/// The second line of ours, for whoever reads the file.
const NOTE: &str = "# Written by `scm-agent git setup`, which also brings it up to date; `scm-agent git unset` takes it out.";

/// Why the marks in a file cannot be made sense of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockError {
    /// The last mark without a first one before it.
    #[error("line {line} has the last mark of scm-agent's part, and there is no first one")]
    NotBegun {
        /// Counted from 1.
        line: usize,
    },
    /// Two parts, as when files were put together.
    #[error("line {line} begins a second part of scm-agent's")]
    Several {
        /// Counted from 1.
        line: usize,
    },
    /// The first mark without a last one.
    #[error("line {line} begins scm-agent's part, and its end is missing")]
    Unclosed {
        /// Counted from 1.
        line: usize,
    },
}

/// What has to be known to put a file back as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Before {
    /// The bytes of the line end that was added before the first mark: 0, or 1 for LF, or 2 for CR and LF.
    pub(super) line_end_added: usize,
    /// Whether there was no file, and how many of the folders above it there were not.
    pub(super) made: Option<usize>,
}

/// What somebody did between the marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edits {
    /// Lines of ours are changed or gone.
    Changed,
    /// Lines were added; here as text that can stand on its own.
    Added(Vec<u8>),
    /// Nothing.
    None,
}

/// A file taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// Up to the first mark.
    pub(super) head: Vec<u8>,
    /// Our lines between the marks, without additions, with LF for line ends.
    pub(super) body: Vec<u8>,
    /// Behind the last mark.
    pub(super) tail: Vec<u8>,
    pub(super) edits: Edits,
    pub(super) before: Before,
}

/// Takes a file apart; `None` where nothing in it is ours.
///
/// # Errors
/// When the marks do not come in a pair.
pub(super) fn take_apart(content: &[u8]) -> Result<Option<Parts>, BlockError> {
    let lines: Vec<&[u8]> = content.split_inclusive(|&byte| byte == b'\n').collect();
    let mut begin = None;
    let mut end = None;
    for (index, line) in lines.iter().enumerate() {
        let text = without_line_end(line);
        let line = index + 1;
        if is_begin(text) {
            if begin.is_some() {
                return Err(if end.is_some() {
                    BlockError::Several { line }
                } else {
                    BlockError::Unclosed { line: begin.map_or(line, |index: usize| index + 1) }
                });
            }
            begin = Some(index);
        } else if text == END.as_bytes() {
            if begin.is_none() || end.is_some() {
                return Err(BlockError::NotBegun { line });
            }
            end = Some(index);
        }
    }
    let (begin, end) = match (begin, end) {
        (None, _) => return Ok(None),
        (Some(begin), None) => return Err(BlockError::Unclosed { line: begin + 1 }),
        (Some(begin), Some(end)) => (begin, end),
    };
    let (before, digest) = read_begin(without_line_end(lines[begin]));
    let (body, mut edits) = read_body(&lines[begin + 1..end], &digest);
    // A setting right behind the last mark stands in the last section of ours.
    let behind = lines[end + 1..].iter().map(|line| without_line_end(line)).find(|line| is_header(line) || is_setting(line));
    if behind.is_some_and(is_setting) {
        edits = Edits::Changed;
    }
    Ok(Some(Parts { head: lines[..begin].concat(), body, tail: lines[end + 1..].concat(), edits, before }))
}

/// The file without our lines, as it was before they came: what was added to it since stays.
pub(super) fn without(parts: &Parts) -> Vec<u8> {
    let added: &[u8] = match &parts.edits {
        Edits::Added(added) => added,
        Edits::Changed | Edits::None => &[],
    };
    let head = if added.is_empty() && parts.tail.is_empty() { original_head(parts) } else { &parts.head };
    let mut content = head.to_vec();
    content.extend_from_slice(added);
    content.extend_from_slice(&parts.tail);
    content
}

/// The file with our lines at its end.
pub(super) fn with_at_end(content: &[u8], body: &str, made: Option<usize>) -> Vec<u8> {
    let crlf = uses_crlf(content);
    let whole = content.is_empty() || content.ends_with(b"\n");
    let line_end: &[u8] = match (whole, crlf) {
        (true, _) => b"",
        (false, false) => b"\n",
        (false, true) => b"\r\n",
    };
    let line_end_added = line_end.len();
    let mut new = content.to_vec();
    new.extend_from_slice(line_end);
    new.extend(ours(body, Before { line_end_added, made }, crlf));
    new
}

/// The file with our lines where they are, brought up to date.
pub(super) fn in_place(parts: &Parts, body: &str) -> Vec<u8> {
    let mut new = parts.head.clone();
    new.extend(ours(body, parts.before, uses_crlf(original_head(parts))));
    if let Edits::Added(added) = &parts.edits {
        new.extend_from_slice(added);
    }
    new.extend_from_slice(&parts.tail);
    new
}

/// What was before the first mark without the line end that was added to it.
fn original_head(parts: &Parts) -> &[u8] {
    let head = parts.head.as_slice();
    let added: &[u8] = match parts.before.line_end_added {
        0 => b"",
        1 => b"\n",
        _ => b"\r\n",
    };
    head.strip_suffix(added).or_else(|| head.strip_suffix(b"\n")).unwrap_or(head)
}

/// Our lines, marks included.
fn ours(body: &str, before: Before, crlf: bool) -> Vec<u8> {
    let line_end_added = match before.line_end_added {
        0 => String::new(),
        bytes => format!(" line-end-added={bytes}"),
    };
    let made = before.made.map_or_else(String::new, |folders| format!(" made={folders}"));
    let text = format!("{BEGIN} digest={}{line_end_added}{made}\n{NOTE}\n{body}{END}\n", digest(body.as_bytes()));
    if crlf { text.replace('\n', "\r\n").into_bytes() } else { text.into_bytes() }
}

fn is_begin(line: &[u8]) -> bool {
    line.strip_prefix(BEGIN.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b" "))
}

/// Reads the first mark. Words that are not known are passed over.
fn read_begin(line: &[u8]) -> (Before, String) {
    let text = String::from_utf8_lossy(line);
    let mut before = Before::default();
    let mut digest = String::new();
    for word in text.split(' ') {
        if let Some(bytes) = word.strip_prefix("line-end-added=") {
            before.line_end_added = bytes.parse().unwrap_or_default();
        } else if let Some(folders) = word.strip_prefix("made=") {
            before.made = folders.parse().ok();
        } else if let Some(hex) = word.strip_prefix("digest=") {
            digest = hex.to_owned();
        }
    }
    (before, digest)
}

/// Our lines between the marks, and what was done to them.
fn read_body(lines: &[&[u8]], expected: &str) -> (Vec<u8>, Edits) {
    let mut own = Vec::new();
    let mut added = Vec::new();
    // The header above a line, and whether it is written in `added` already.
    let mut header: Option<(&[u8], bool)> = None;
    let mut homeless = false;
    for &line in lines {
        let text = without_line_end(line);
        if is_header(text) {
            header = Some((line, false));
        }
        if text == NOTE.as_bytes() {
            continue;
        }
        if is_own(text) {
            own.extend_from_slice(text);
            own.push(b'\n');
            continue;
        }
        match &mut header {
            Some((header, written)) if !*written => {
                added.extend_from_slice(header);
                *written = true;
                if *header != line {
                    added.extend_from_slice(line);
                }
            }
            Some(_) => added.extend_from_slice(line),
            None if is_setting(text) => homeless = true,
            None => added.extend_from_slice(line),
        }
    }
    let edits = match digest(&own) == expected && !homeless {
        false => Edits::Changed,
        true if added.is_empty() => Edits::None,
        true => Edits::Added(added),
    };
    (own, edits)
}

/// Whether a line is neither a header, nor blank, nor a comment.
fn is_setting(line: &[u8]) -> bool {
    !matches!(line.trim_ascii_start().first(), None | Some(b'#' | b';' | b'['))
}

fn is_header(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"[")
}

/// Whether a line is a mark or may stand between the marks: nothing of it is a secret.
pub(super) fn is_ours(line: &[u8]) -> bool {
    let line = without_line_end(line);
    is_begin(line) || line == END.as_bytes() || line == NOTE.as_bytes() || is_own(line)
}

/// Whether a line is one that we write.
fn is_own(line: &[u8]) -> bool {
    let header = line.strip_prefix(b"[credential \"").and_then(|rest| rest.strip_suffix(b"\"]"));
    let helper = line.strip_prefix(b"\thelper = ").map(|value| value.strip_prefix(b"\"").unwrap_or(value));
    header.is_some_and(|url| !url.contains(&b'"'))
        || line == b"\thelper ="
        || helper.is_some_and(|value| value == b"scm-agent" || value.starts_with(b"scm-agent --socket "))
        || line == b"\tuseHttpPath = true"
}

/// Enough of a digest to notice an edit; nobody is kept out by it.
fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether a file ends its lines with CR and LF: as its last line that has an end.
fn uses_crlf(content: &[u8]) -> bool {
    content.iter().rposition(|&byte| byte == b'\n').is_some_and(|last| last > 0 && content[last - 1] == b'\r')
}

#[cfg(test)]
mod tests;
