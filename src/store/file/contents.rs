//! What a database holds, opened and held against its manifest.
//!
//! The manifest is a sealed row that names every grant's row and the commit that wrote it. Each transaction writes it anew. A row that
//! it does not name so was put there by somebody else: damaged, swapped with another, or taken from an older copy of the file.

use std::collections::BTreeMap;

use super::database::Rows;
use super::seal::{DataKey, Purpose, RowId};
use crate::state::Written;
use crate::store::{GrantKey, GrantSummary, MAX_GRANTS, record};

/// Why a database is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The manifest is not one: then nothing says what should be there.
    Damaged,
    /// The manifest is of a format that this code does not know.
    Newer(Written),
}

/// The manifest's id: it is the only row of its kind.
const MANIFEST_ID: RowId = [0; 32];
const ENTRY_BYTES: usize = size_of::<RowId>() + size_of::<u64>();

/// A grant as it rests: sealed, with what may be shown of it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: RowId,
    pub(super) generation: u64,
    pub(super) sealed: Vec<u8>,
    pub(super) summary: GrantSummary,
}

/// What a database holds as of its last commit.
#[derive(Debug)]
pub(super) struct Contents {
    /// How many commits there have been, this one included.
    pub(super) generation: u64,
    pub(super) rows: BTreeMap<GrantKey, Row>,
    /// Rows that are not what was saved, to be removed.
    pub(super) refused: Vec<RowId>,
    /// How many grants the manifest names that are in no row.
    pub(super) missing: usize,
    /// What the manifest says of itself.
    pub(super) written: Written,
}

impl Contents {
    /// No grants, as of a commit.
    pub(super) fn empty(generation: u64) -> Self {
        Self { generation, rows: BTreeMap::new(), refused: Vec::new(), missing: 0, written: Written::now() }
    }

    /// Opens everything.
    ///
    /// # Errors
    /// [`Refusal`]
    pub(super) fn read(key: &DataKey, rows: Rows) -> Result<Self, Refusal> {
        let format = rows.manifest.first().copied().ok_or(Refusal::Damaged)?;
        if format > Purpose::Manifest.version() {
            return Err(Refusal::Newer(Written { format, by: None }));
        }
        let (generation, manifest) = key.open(Purpose::Manifest, &MANIFEST_ID, &rows.manifest).ok_or(Refusal::Damaged)?;
        let (by, entries) = if format == 1 { (None, manifest.as_slice()) } else { writer(&manifest).ok_or(Refusal::Damaged)? };
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() || entries.len() > MAX_GRANTS {
            return Err(Refusal::Damaged);
        }
        let mut named: BTreeMap<RowId, u64> = entries.iter().map(entry).collect();
        let mut contents = Self { written: Written { format, by }, ..Self::empty(generation) };
        for (id, sealed) in rows.grants {
            let named = named.remove(&id);
            match open_row(key, id, sealed) {
                Some(row) if Some(row.generation) == named => {
                    contents.rows.insert(row.summary.key.clone(), row);
                }
                _ => contents.refused.push(id),
            }
        }
        contents.missing = named.len();
        Ok(contents)
    }

    /// The sealed manifest of a commit that puts one row or takes some away.
    pub(super) fn manifest(key: &DataKey, generation: u64, rows: impl Iterator<Item = (RowId, u64)>) -> Option<Vec<u8>> {
        let by = env!("CARGO_PKG_VERSION");
        let mut plain = vec![u8::try_from(by.len()).ok()?];
        plain.extend_from_slice(by.as_bytes());
        plain.extend(rows.flat_map(|(id, generation)| id.into_iter().chain(generation.to_le_bytes())));
        key.seal(Purpose::Manifest, &MANIFEST_ID, generation, &plain)
    }

    /// How large the manifest is, about.
    pub(super) fn manifest_bytes(&self) -> usize {
        (self.rows.len() + 1) * ENTRY_BYTES
    }

    /// Whether everything is there that was saved, and nothing else.
    pub(super) fn is_whole(&self) -> bool {
        self.refused.is_empty() && self.missing == 0
    }
}

/// Who wrote a manifest, and what stands behind it.
fn writer(manifest: &[u8]) -> Option<(Option<String>, &[u8])> {
    let (&length, rest) = manifest.split_first()?;
    let (by, rest) = rest.split_at_checked(usize::from(length))?;
    Some((Some(std::str::from_utf8(by).ok()?.to_owned()), rest))
}

fn entry(entry: &[u8; ENTRY_BYTES]) -> (RowId, u64) {
    let (mut id, mut generation) = (RowId::default(), [0; size_of::<u64>()]);
    let (first, last) = entry.split_at(size_of::<RowId>());
    id.copy_from_slice(first);
    generation.copy_from_slice(last);
    (id, u64::from_le_bytes(generation))
}

fn open_row(key: &DataKey, id: RowId, sealed: Vec<u8>) -> Option<Row> {
    let (generation, content) = key.open(Purpose::Grant, &id, &sealed)?;
    let summary = record::decode(&content)?.summary();
    (key.row_id(&summary.key) == id).then_some(Row { id, generation, sealed, summary })
}
