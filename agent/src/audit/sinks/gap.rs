//! Whether records are missing between those that a sink takes: each carries the hash of the one before.
//!
//! In: the last record that was delivered, and the lines that come next. Out: each place where the chain does not go on, as
//! where somebody removed a segment that the sink had not read. Nothing is parsed where the chain is whole.

use std::fmt;

use crate::audit::spool::chain::{ChainPlace, Hash};
use crate::audit::spool::reader::Batch;

/// A place where records are missing, or were changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The record before it.
    before: ChainPlace,
    /// The record behind it.
    behind: ChainPlace,
}

/// Says which numbers are missing, or where they are of two chains, what is on both sides.
impl fmt::Display for Gap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, behind } = self;
        let same = before.boot_id == behind.boot_id;
        match (before.seq.checked_add(1), behind.seq.checked_sub(1)) {
            (Some(first), Some(last)) if same && first <= last => {
                write!(out, "numbers {first} to {last} of chain {}", behind.boot_id)
            }
            _ => write!(
                out,
                "what was between number {} of chain {} and number {} of chain {}",
                before.seq, before.boot_id, behind.seq, behind.boot_id
            ),
        }
    }
}

/// The gaps between `last`, the record that was delivered last, and those of the batch, and in the batch itself.
pub(super) fn gaps(last: Option<&ChainPlace>, batch: &Batch) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut known = last.map(|last| last.hash);
    let mut line_before: Option<&[u8]> = None;
    for line in batch.each() {
        // What is no record of the agent's is for `picket audit verify`.
        let (Some(hash), Some(previous)) = (Hash::stored(line), Hash::previous(line)) else {
            continue;
        };
        if known.is_some_and(|known| known != previous) {
            let before = match line_before {
                Some(line) => ChainPlace::of(line),
                None => last.cloned(),
            };
            gaps.extend(
                before
                    .zip(ChainPlace::of(line))
                    .map(|(before, behind)| Gap { before, behind }),
            );
        }
        known = Some(hash);
        line_before = Some(line);
    }
    gaps
}
