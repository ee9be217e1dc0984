//! A URL's path as whole segments, so that `acme` never stands for `acme-evil`.
//!
//! git hands the path over percent-decoded and otherwise as typed, dots and double slashes included. What another program might
//! read as a step upwards is refused, not resolved.

/// One segment: bytes, because git promises no encoding.
pub type Segment = Vec<u8>;

/// Why a path is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A backslash, which some servers read as a slash.
    #[error("has a backslash")]
    Backslash,
    /// A control character.
    #[error("has a control character")]
    Control,
    /// A `..` segment, perhaps with parameters after a semicolon.
    #[error("has a segment that leads upwards")]
    Dots,
    /// A percent-encoded dot, slash, backslash, percent sign or control character.
    #[error("has a percent-encoded dot or separator")]
    Encoded,
}

/// Splits a path into segments. Empty ones and `.` vanish, and so do a repository's `.git` and git-lfs' `/info/lfs` after it.
///
/// # Errors
/// When the path could mean something else to the server than it does here.
pub fn parse(raw: &[u8]) -> Result<Vec<Segment>, PathError> {
    if raw.contains(&b'\\') {
        return Err(PathError::Backslash);
    }
    if raw.iter().any(u8::is_ascii_control) {
        return Err(PathError::Control);
    }
    if raw.windows(3).any(hides_a_separator) {
        return Err(PathError::Encoded);
    }
    let mut segments = Vec::new();
    for segment in raw.split(|&byte| byte == b'/') {
        // Servlet containers cut a segment at a semicolon before they look at its dots.
        let before_parameters = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        match segment {
            b"" | b"." => {}
            _ if matches!(before_parameters, b"." | b"..") => return Err(PathError::Dots),
            _ => segments.push(segment.to_vec()),
        }
    }
    strip_repository_suffix(&mut segments);
    Ok(segments)
}

/// Puts segments together with a slash between two. No segment has one, so different segments stay different.
pub(super) fn join(segments: &[Segment]) -> Vec<u8> {
    segments.join(&b'/')
}

/// Whether three bytes are an escape that a caller or server may decode into a dot, a separator or another escape.
fn hides_a_separator(window: &[u8]) -> bool {
    let &[b'%', high, low] = window else { return false };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (Some(high), Some(low)) = (digit(high), digit(low)) else { return false };
    let byte = high * 16 + low;
    byte < 0x20 || byte == 0x7f || [b'.', b'/', b'\\', b'%'].into_iter().any(|separator| byte == u32::from(separator))
}

/// Cuts `.git` and `.git/info/lfs…`. A repository has an owner: a lone `acme.git` stays, or it would pass for the owner `acme`.
fn strip_repository_suffix(segments: &mut Vec<Segment>) {
    let lfs = segments.windows(3).position(|three| three[0].ends_with(b".git") && three[1] == b"info" && three[2] == b"lfs");
    if let Some(repository) = lfs {
        segments.truncate(repository + 1);
    }
    if segments.len() < 2 {
        return;
    }
    if let Some(last) = segments.last_mut()
        && last.len() > 4
        && last.ends_with(b".git")
    {
        last.truncate(last.len() - 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_its_whole_segments() {
        for (raw, segments) in [
            (&b""[..], &[][..]),
            (b"/", &[]),
            (b"owner/repo", &[&b"owner"[..], b"repo"][..]),
            (b"/owner//./repo.git/", &[b"owner", b"repo"]),
            (b"owner/repo.git/info/lfs", &[b"owner", b"repo"]),
            (b"owner/repo.git/info/lfs/objects/batch", &[b"owner", b"repo"]),
            (b"owner/repo.wiki.git", &[b"owner", b"repo.wiki"]),
            (b"acme/My Proj/_git/r\xc3\xa9po", &[b"acme", b"My Proj", b"_git", b"r\xc3\xa9po"]),
            (b"scm/~user/repo.git", &[b"scm", b"~user", b"repo"]),
            (b"acme.git", &[b"acme.git"]),
            (b"acme.git/info/lfs", &[b"acme.git"]),
            (b"owner/.git", &[b"owner", b".git"]),
            (b"owner/info/lfs", &[b"owner", b"info", b"lfs"]),
            (b"a/100%/b...c", &[b"a", b"100%", b"b...c"]),
        ] {
            let expected: Vec<Segment> = segments.iter().map(|segment| segment.to_vec()).collect();
            assert_eq!(parse(raw), Ok(expected), "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn what_could_mean_another_place_is_refused() {
        for (raw, error) in [
            (&b"acme/../evil/repo"[..], PathError::Dots),
            (b"..", PathError::Dots),
            (b"acme/..;x=1/evil", PathError::Dots),
            (b"acme/.;/evil", PathError::Dots),
            (b"acme/%2e%2e/evil", PathError::Encoded),
            (b"acme/.%2E/evil", PathError::Encoded),
            (b"acme%2Fevil", PathError::Encoded),
            (b"acme%5cevil", PathError::Encoded),
            (b"acme/%252e%252e/evil", PathError::Encoded),
            (b"acme%00", PathError::Encoded),
            (b"acme\\..\\evil", PathError::Backslash),
            (b"acme\0", PathError::Control),
            (b"acme\r\nhost=evil.tld", PathError::Control),
            (b"acme\x7f", PathError::Control),
        ] {
            assert_eq!(parse(raw), Err(error), "{}", String::from_utf8_lossy(raw));
        }
    }
}
