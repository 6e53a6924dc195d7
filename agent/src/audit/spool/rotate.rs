//! When a segment ends, and which segments can go.
//!
//! In: what the spool holds, and how far each sink has come. Out: whether to begin a new segment, and which ones to remove. Pure,
//! so that every case can be tried.
//!
//! `maxTotalSize` bounds the directory as a whole. Segments that every sink has passed stay until the room is needed: they are
//! what `picket audit` reads. Where room is needed the oldest of them go, and none that a sink still has to read. Where that
//! leaves too little the spool takes no more records, and the error names the sink.

use std::time::Duration;

use jiff::Timestamp;

use super::segment::{Position, Segment, SegmentId};

/// The bounds of a spool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A segment that is at least so long ends.
    pub(super) segment_size: u64,
    /// A segment whose first line may be so old ends.
    pub(super) segment_age: Duration,
    /// All segments together.
    pub(super) total_size: u64,
}

impl Bounds {
    /// Whether the next line begins a new segment. `since` is the earliest moment that the current one's first line can be of.
    pub(super) fn ends(&self, length: u64, since: Timestamp, now: Timestamp) -> bool {
        let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        length > 0 && (length >= self.segment_size || age >= self.segment_age)
    }

    /// What must go before more is written. `segments` are the oldest first, the last is the one that is written to and stays.
    /// `sinks` holds how far each has come: `None` where it has read nothing.
    pub(super) fn expendable(
        &self,
        segments: &[Segment],
        sinks: &[(String, Option<Position>)],
    ) -> Expendable {
        let mut total: u64 = segments.iter().map(|segment| segment.length).sum();
        let mut remove = Vec::new();
        let closed = &segments[..segments.len().saturating_sub(1)];
        for segment in closed {
            if total < self.total_size {
                break;
            }
            let end = Position {
                segment: segment.id,
                offset: segment.length,
            };
            let waits = |position: Option<Position>| position.is_none_or(|at| at < end);
            let waiting: Vec<String> = sinks
                .iter()
                .filter(|(_, position)| waits(*position))
                .map(|(name, _)| name.clone())
                .collect();
            if !waiting.is_empty() {
                return Expendable {
                    remove,
                    held_by: waiting,
                };
            }
            total -= segment.length;
            remove.push(segment.id);
        }
        Expendable {
            remove,
            held_by: Vec::new(),
        }
    }
}

/// What can go, and who keeps the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expendable {
    /// Segments to remove, the oldest first.
    pub(super) remove: Vec<SegmentId>,
    /// Sinks that still have to read a segment whose room is needed; the spool is full while there are any.
    pub(super) held_by: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        segment_size: 100,
        segment_age: Duration::from_secs(60),
        total_size: 250,
    };

    fn id(second: i64) -> SegmentId {
        SegmentId::after(None, Timestamp::from_second(second).expect("a moment"))
    }

    #[test]
    fn a_segment_ends_by_size_or_age_but_never_empty() {
        let at = |second| Timestamp::from_second(second).expect("a moment");
        for (length, since, now, ends) in [
            (99, 0, 59, false),
            (100, 0, 0, true),
            (1, 0, 60, true),
            (0, 0, 1_000_000, false),
            // The clock was set back.
            (1, 1000, 0, false),
        ] {
            assert_eq!(
                BOUNDS.ends(length, at(since), at(now)),
                ends,
                "{length} {since} {now}"
            );
        }
    }

    #[test]
    fn only_what_every_sink_has_passed_goes_and_only_while_room_is_needed() {
        let segments = |lengths: &[u64]| -> Vec<Segment> {
            let segment = |(second, length): (i64, &u64)| Segment {
                id: id(second),
                length: *length,
            };
            (1..).zip(lengths).map(segment).collect()
        };
        let sinks = |positions: &[Option<i64>]| -> Vec<(String, Option<Position>)> {
            let at = |(number, second): (usize, &Option<i64>)| {
                (
                    format!("s{number}"),
                    second.map(|second| Position::start_of(id(second))),
                )
            };
            positions.iter().enumerate().map(at).collect()
        };
        for (lengths, positions, remove, held_by) in [
            (&[100, 100, 40][..], &[][..], &[][..], &[][..]),
            (&[100, 100, 50], &[], &[1], &[]),
            (&[100, 100, 100, 100], &[], &[1, 2], &[]),
            (&[100, 100, 100, 100], &[Some(4), Some(3)], &[1, 2], &[]),
            (&[100, 100, 100, 100], &[Some(4), Some(2)], &[1], &["s1"]),
            (&[100, 100, 100, 100], &[Some(1), Some(1)], &[], &["s0", "s1"]),
            (&[100, 100, 100, 100], &[None], &[], &["s0"]),
            // The end of a segment is as good as the beginning of the next.
            (&[0, 100, 100, 100], &[Some(1)], &[1], &["s0"]),
            // The one that is written to stays, whatever its size.
            (&[1000], &[None], &[], &[]),
            (&[100, 1000], &[], &[1], &[]),
            (&[], &[], &[], &[]),
        ] {
            let found = BOUNDS.expendable(&segments(lengths), &sinks(positions));
            let want = Expendable {
                remove: remove.iter().copied().map(id).collect(),
                held_by: held_by.iter().map(|name| (*name).to_owned()).collect(),
            };
            assert_eq!(found, want, "{lengths:?} {positions:?}");
        }
    }
}
