//! What a database holds, opened and held against its manifest.
//!
//! The manifest is a sealed row that names every grant's row and the commit that wrote it. Each transaction writes it anew. A row that
//! it does not name so was put there by somebody else: damaged, swapped with another, or taken from an older copy of the file.

use std::collections::BTreeMap;

use super::database::Rows;
use super::seal::{DataKey, Purpose, RowId};
use crate::store::{GrantKey, GrantSummary, MAX_GRANTS, record};

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
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// How many commits there have been, this one included.
    pub(super) generation: u64,
    pub(super) rows: BTreeMap<GrantKey, Row>,
    /// Rows that are not what was saved, to be removed.
    pub(super) refused: Vec<RowId>,
    /// How many grants the manifest names that are in no row.
    pub(super) missing: usize,
}

impl Contents {
    /// Opens everything. `None` if the manifest is not one: then nothing says what should be there.
    pub(super) fn read(key: &DataKey, rows: Rows) -> Option<Self> {
        let (generation, manifest) = key.open(Purpose::Manifest, &MANIFEST_ID, &rows.manifest)?;
        let (entries, rest) = manifest.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() || entries.len() > MAX_GRANTS {
            return None;
        }
        let mut named: BTreeMap<RowId, u64> = entries.iter().map(entry).collect();
        let mut contents = Self { generation, ..Self::default() };
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
        Some(contents)
    }

    /// The sealed manifest of a commit that puts one row or takes some away.
    pub(super) fn manifest(key: &DataKey, generation: u64, rows: impl Iterator<Item = (RowId, u64)>) -> Option<Vec<u8>> {
        let plain: Vec<u8> = rows.flat_map(|(id, generation)| id.into_iter().chain(generation.to_le_bytes())).collect();
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
