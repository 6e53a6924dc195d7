//! Aggregates what happens over and over into few records: a pod that dials a denied address in a loop must not fill the disk, nor
//! take other pods' records away.
//!
//! In: connection events, each with who caused it and what it is alike with. Out: the first few of each kind and second as they
//! are, and for the rest one that says how many there were. Metrics count every one.

use std::collections::HashMap;
use std::hash::Hash;

/// How many of one kind are written as they are between two ticks; a client's own retries stay below it.
const AS_THEY_ARE: u32 = 10;

/// How many of one source are written as they are between two ticks, whatever their kinds: 110 pods that do their worst write
/// some 10,000 records a second then, with the tallies.
const OF_ONE_SOURCE: u32 = 64;

/// How many kinds of one source are told apart between two ticks; a pod that scans a node's endpoints makes about as many.
/// What goes beyond is counted in one tally of the source.
const KINDS: usize = 64;

/// How many sources are told apart: more pods than a node runs (110 by default, 500 where it was raised). What goes beyond
/// shares one tally.
const SOURCES: usize = 1024;

/// What was seen since the last tick.
#[derive(Debug)]
pub(crate) struct EventAggregator<S, K, V> {
    seen: HashMap<Option<S>, Source<K, V>>,
}

/// What one source did.
#[derive(Debug)]
struct Source<K, V> {
    written: u32,
    kinds: HashMap<K, Tally<V>>,
    others: Tally<V>,
}

#[derive(Debug)]
struct Tally<V> {
    written: u32,
    /// How many were not written, and the last of them.
    aggregated: u32,
    last: Option<V>,
}

/// What one record stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Aggregated<V> {
    /// So many of the same kind as this one, which is among them.
    Alike(V, u32),
    /// So many of the same source and of several kinds; this one is among them.
    Others(V, u32),
    /// So many of several sources; this one is among them.
    Everybodys(V, u32),
}

impl<V> Default for Tally<V> {
    fn default() -> Self {
        Self {
            written: 0,
            aggregated: 0,
            last: None,
        }
    }
}

impl<V> Tally<V> {
    /// Gives an event back that is to be written; `of_source` counts those of the source.
    fn take(&mut self, event: V, of_source: &mut u32) -> Option<V> {
        if self.written < AS_THEY_ARE && *of_source < OF_ONE_SOURCE {
            self.written += 1;
            *of_source += 1;
            return Some(event);
        }
        self.aggregated = self.aggregated.saturating_add(1);
        self.last = Some(event);
        None
    }

    /// The last event that was not written, and how many there were.
    fn end(self) -> Option<(V, u32)> {
        Some((self.last?, self.aggregated))
    }
}

impl<S, K, V> Default for EventAggregator<S, K, V> {
    fn default() -> Self {
        Self { seen: HashMap::new() }
    }
}

impl<S: Eq + Hash, K: Eq + Hash, V> EventAggregator<S, K, V> {
    /// Takes in one event; gives it back where it is to be written as it is.
    pub(crate) fn take(&mut self, source: S, kind: K, event: V) -> Option<V> {
        let mut source = Some(source);
        if self.seen.len() >= SOURCES && !self.seen.contains_key(&source) {
            source = None;
        }
        let shared = source.is_none();
        let Source {
            written,
            kinds,
            others,
        } = self.seen.entry(source).or_insert_with(|| Source {
            written: 0,
            kinds: HashMap::new(),
            others: Tally::default(),
        });
        let tally = if shared || (kinds.len() >= KINDS && !kinds.contains_key(&kind)) {
            others
        } else {
            kinds.entry(kind).or_default()
        };
        tally.take(event, written)
    }

    /// Ends the interval: what each tally counted beyond its limit.
    pub(crate) fn tick(&mut self) -> Vec<Aggregated<V>> {
        let mut aggregated = Vec::new();
        for (name, source) in std::mem::take(&mut self.seen) {
            let kinds = source.kinds.into_values().filter_map(Tally::end);
            aggregated.extend(kinds.map(|(event, count)| Aggregated::Alike(event, count)));
            if let Some((event, count)) = source.others.end() {
                aggregated.push(match name {
                    Some(_) => Aggregated::Others(event, count),
                    None => Aggregated::Everybodys(event, count),
                });
            }
        }
        aggregated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_records_and_a_count() {
        let mut aggregator = EventAggregator::default();
        let written = (0..1000)
            .filter_map(|event| aggregator.take("pod", "kubelet", event))
            .count();
        assert_eq!(written, 10);
        assert_eq!(aggregator.take("other", "kubelet", 7), Some(7));
        assert_eq!(aggregator.tick(), [Aggregated::Alike(999, 990)]);
        assert_eq!(aggregator.tick(), []);
        assert_eq!(aggregator.take("pod", "kubelet", 1), Some(1));
    }

    #[test]
    fn many_kinds_share_their_sources_tally_and_take_nothing_from_another() {
        let mut aggregator = EventAggregator::default();
        let written = (0..100_000)
            .filter_map(|kind| aggregator.take("loud", kind, kind))
            .count();
        assert_eq!(written, OF_ONE_SOURCE as usize);
        // Whoever comes second is written as if nobody had come first.
        for kind in 0..20 {
            assert_eq!(aggregator.take("quiet", kind, kind), Some(kind), "of another pod");
        }
        let beyond = u32::try_from(100_000 - written).expect("a count");
        assert_eq!(aggregator.tick(), [Aggregated::Others(99_999, beyond)]);
    }

    #[test]
    fn many_sources_share_one_tally() {
        let mut aggregator = EventAggregator::default();
        let written = (0..100_000)
            .filter_map(|source| aggregator.take(source, "kubelet", source))
            .count();
        assert_eq!(written, SOURCES + 10);
        let [Aggregated::Everybodys(..)] = aggregator.tick()[..] else {
            panic!("one tally")
        };
    }
}
