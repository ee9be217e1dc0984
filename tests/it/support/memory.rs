//! Reads another process's memory and looks for secrets in it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// A text to look for, with a name that may be printed.
pub struct Needle {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// The forms in which a secret could lie around: as it is, its first half, and encoded as requests carry it.
pub fn needles_of(secret: &str, client_id: &str) -> Vec<Needle> {
    use base64::Engine;
    let half = &secret[..secret.len() / 2];
    let basic = base64::prelude::BASE64_STANDARD.encode(format!("{client_id}:{secret}"));
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    // Base64 of the secret at each of the three alignments, without the characters that its neighbours decide.
    let mut needles = vec![
        Needle { name: "the secret", bytes: secret.into() },
        Needle { name: "the first half of the secret", bytes: half.into() },
        Needle { name: "the secret for Basic authentication", bytes: basic[basic.len() / 2..].trim_end_matches('=').into() },
        Needle { name: "the secret in a form", bytes: form.into() },
    ];
    for (shift, name) in
        [(0, "the secret in Base64"), (1, "the secret in Base64, shifted by one"), (2, "the secret in Base64, shifted by two")]
    {
        let mut padded = vec![b' '; shift];
        padded.extend_from_slice(secret.as_bytes());
        let encoded = base64::prelude::BASE64_STANDARD_NO_PAD.encode(padded);
        needles.push(Needle { name, bytes: encoded[4..encoded.len() - 4].into() });
    }
    needles
}

/// The names of the needles that a process's readable memory holds, with how often.
///
/// Mappings that cannot be read (`[vvar]`) are left out; private ones that come and go while this reads as well.
pub fn find(pid: u32, needles: &[Needle]) -> std::io::Result<Vec<(&'static str, usize)>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found: Vec<(&'static str, usize)> = Vec::new();
    let mut mappings = 0;
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        if !mode.starts_with('r') {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        mappings += 1;
        for needle in needles {
            let count = memchr::memmem::find_iter(&bytes, &needle.bytes).count();
            if count > 0 {
                match found.iter_mut().find(|(name, _)| *name == needle.name) {
                    Some((_, sum)) => *sum += count,
                    None => found.push((needle.name, count)),
                }
            }
        }
    }
    assert!(mappings > 10, "only {mappings} mappings could be read");
    Ok(found)
}
