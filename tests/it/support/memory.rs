//! Reads another process's memory and looks for secrets in it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

/// Bytes to look for, with a name that may be printed.
#[derive(Clone)]
pub struct Needle {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Needle {
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), bytes: bytes.into() }
    }

    /// Both halves of bytes, since half a secret is a find too, and with it the whole one.
    pub fn halves(name: &str, bytes: &[u8]) -> [Self; 2] {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        [Self::new(&format!("{name}, first half"), first), Self::new(&format!("{name}, second half"), second)]
    }
}

/// The forms in which a secret could lie around, each in two halves: as it is and form-encoded, and both of them in Base64 at each
/// of the three alignments, which is what Basic authentication carries, whatever stands before the secret.
pub fn needles_of(secret: &str) -> Vec<Needle> {
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut needles = Vec::new();
    for (name, text) in [("the secret", secret), ("the secret in a form", &form)] {
        needles.extend(Needle::halves(name, text.as_bytes()));
        for shift in 0..3 {
            needles.extend(Needle::halves(&format!("{name} in Base64, shifted by {shift}"), &base64_of(text.as_bytes(), shift)));
        }
    }
    needles
}

/// Bytes in Base64 with `shift` bytes before them, without the characters that their neighbours decide.
pub fn base64_of(bytes: &[u8], shift: usize) -> Vec<u8> {
    let mut padded = vec![b' '; shift];
    padded.extend_from_slice(bytes);
    let encoded = BASE64_STANDARD_NO_PAD.encode(padded);
    encoded[4..encoded.len() - 4].into()
}

/// The names of the needles that a process's memory holds, with how often: heap, stacks, and whatever else it may write to or has
/// no file.
///
/// Left out are the programs' own read-only files, what cannot be read (`[vvar]`), and what goes while this reads.
pub fn find(pid: u32, needles: &[Needle]) -> std::io::Result<Vec<(String, usize)>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let finders: Vec<_> = needles.iter().map(|needle| memchr::memmem::Finder::new(&needle.bytes)).collect();
    let mut counts = vec![0; needles.len()];
    let mut mappings = 0;
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        let is_program_file = !mode.contains('w') && line.contains('/');
        if !mode.starts_with('r') || is_program_file {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        mappings += 1;
        for (finder, count) in finders.iter().zip(&mut counts) {
            *count += finder.find_iter(&bytes).count();
        }
    }
    assert!(mappings > 5, "only {mappings} mappings could be read");
    Ok(needles.iter().zip(counts).filter(|(_, count)| *count > 0).map(|(needle, count)| (needle.name.clone(), count)).collect())
}
