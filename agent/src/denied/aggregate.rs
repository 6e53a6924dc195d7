//! Aggregates what happens over and over into few records: a pod that dials a denied address in a loop must not fill the disk.
//!
//! In: connection events with a key. Out: the first few of each key and second as they are, and for the rest one that says
//! how many there were. Metrics count every one.

use std::collections::HashMap;
use std::hash::Hash;

/// How many of one key are written as they are between two ticks; a client's own retries stay below it.
const AS_THEY_ARE: u32 = 10;

/// How many keys are told apart between two ticks. More keys are aggregated under one that stands for all of them.
const KEYS: usize = 1024;

/// What was seen since the last tick.
#[derive(Debug)]
pub(crate) struct EventAggregator<K, V> {
    seen: HashMap<Option<K>, (u32, Option<V>)>,
}

impl<K: Eq + Hash, V> Default for EventAggregator<K, V> {
    fn default() -> Self {
        Self { seen: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> EventAggregator<K, V> {
    /// Takes in one event; gives it back where it is to be written as it is.
    pub(crate) fn take(&mut self, key: K, event: V) -> Option<V> {
        let mut key = Some(key);
        if self.seen.len() >= KEYS && !self.seen.contains_key(&key) {
            key = None;
        }
        let (count, last) = self.seen.entry(key).or_insert((0, None));
        *count = count.saturating_add(1);
        if *count <= AS_THEY_ARE {
            return Some(event);
        }
        *last = Some(event);
        None
    }

    /// Ends the interval: the last event of each key that went beyond, with how many it stands for.
    pub(crate) fn tick(&mut self) -> Vec<(V, u32)> {
        let seen = std::mem::take(&mut self.seen);
        seen.into_values()
            .filter_map(|(count, last)| Some((last?, count - AS_THEY_ARE)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_records_and_a_count() {
        let mut aggregator = EventAggregator::default();
        let written = (0..1000)
            .filter_map(|event| aggregator.take("pod", event))
            .count();
        assert_eq!(written, 10);
        assert_eq!(aggregator.take("other", 7), Some(7));
        assert_eq!(aggregator.tick(), [(999, 990)]);
        assert_eq!(aggregator.tick(), []);
        assert_eq!(aggregator.take("pod", 1), Some(1));
    }

    #[test]
    fn many_keys_share_one_record() {
        let mut aggregator = EventAggregator::default();
        let written = (0..100_000).filter_map(|key| aggregator.take(key, key)).count();
        assert_eq!(written, KEYS + 10);
        assert_eq!(aggregator.tick().len(), 1);
    }
}
