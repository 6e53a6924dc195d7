//! What is remembered for a while after nobody names it any more.
//!
//! In: at each look, what is named now. Out: that, and what was named a short time ago. An API server that is taken out of its
//! endpoints still answers. An address that DNS left out of this answer may be in the next.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Keys with values that stay for some time after they were withdrawn.
#[derive(Debug)]
pub(super) struct GracePeriods<K, V = ()> {
    stays: Duration,
    /// With the time of withdrawal, for what is not named now.
    held: BTreeMap<K, (V, Option<Instant>)>,
}

impl<K: Ord, V> GracePeriods<K, V> {
    /// Nothing yet; what is withdrawn will stay so long.
    pub(super) fn new(stays: Duration) -> Self {
        Self {
            stays,
            held: BTreeMap::new(),
        }
    }

    /// Takes in all that is named now: the rest is withdrawn from now on, and what was withdrawn long ago goes.
    pub(super) fn refresh(&mut self, now: Instant, named: impl IntoIterator<Item = (K, V)>) {
        for (_, withdrawn) in self.held.values_mut() {
            withdrawn.get_or_insert(now);
        }
        for (key, value) in named {
            self.held.insert(key, (value, None));
        }
        let stays = self.stays;
        self.held
            .retain(|_, (_, withdrawn)| withdrawn.is_none_or(|since| now.duration_since(since) < stays));
    }

    /// Takes in more that is named now.
    pub(super) fn add(&mut self, named: impl IntoIterator<Item = K>)
    where
        V: Default,
    {
        for key in named {
            self.held.insert(key, (V::default(), None));
        }
    }

    /// Gives up what is withdrawn and not wanted.
    pub(super) fn retain_withdrawn(&mut self, wanted: impl Fn(&K) -> bool) {
        self.held
            .retain(|key, (_, withdrawn)| withdrawn.is_none() || wanted(key));
    }

    /// Takes in what was named before by somebody else: it counts as withdrawn at this time, unless it is held already.
    pub(super) fn inherit(&mut self, now: Instant, before: impl IntoIterator<Item = (K, V)>) {
        for (key, value) in before {
            self.held.entry(key).or_insert((value, Some(now)));
        }
    }

    /// All that is held.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.held.iter().map(|(key, (value, _))| (key, value))
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.held.keys()
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE_PERIOD: Duration = Duration::from_secs(300);

    fn keys(grace: &GracePeriods<char>) -> String {
        grace.keys().collect()
    }

    #[test]
    fn the_withdrawn_stay_for_their_time_and_no_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut grace = GracePeriods::new(GRACE_PERIOD);
        grace.refresh(at(0), [('a', ()), ('b', ())]);
        grace.refresh(at(1000), [('a', ())]);
        assert_eq!(
            keys(&grace),
            "ab",
            "withdrawn just now, however long it was named"
        );
        grace.refresh(at(1299), [('a', ())]);
        assert_eq!(keys(&grace), "ab");
        grace.refresh(at(1300), [('a', ())]);
        assert_eq!(keys(&grace), "a");
        grace.refresh(at(1301), []);
        grace.refresh(at(1400), [('a', ())]);
        grace.refresh(at(1650), []);
        assert_eq!(keys(&grace), "a", "named again, its time begins anew");
    }

    #[test]
    fn the_named_stay_whatever_is_wanted() {
        let start = Instant::now();
        let mut grace = GracePeriods::new(GRACE_PERIOD);
        grace.refresh(start, [('a', ()), ('b', ()), ('c', ())]);
        grace.refresh(start, [('a', ())]);
        grace.retain_withdrawn(|key| *key == 'b');
        assert_eq!(keys(&grace), "ab");
        grace.add(['d']);
        assert_eq!(keys(&grace), "abd");
    }

    #[test]
    fn the_inherited_are_withdrawn_from_the_start_and_do_not_replace() {
        let start = Instant::now();
        let mut grace = GracePeriods::new(GRACE_PERIOD);
        grace.refresh(start, [('a', 1)]);
        grace.inherit(start, [('a', 2), ('b', 2)]);
        grace.refresh(start + GRACE_PERIOD / 2, [('a', 1)]);
        assert_eq!(
            grace
                .iter()
                .map(|(key, value)| (*key, *value))
                .collect::<Vec<_>>(),
            [('a', 1), ('b', 2)]
        );
        grace.refresh(start + GRACE_PERIOD, [('a', 1)]);
        assert_eq!(grace.len(), 1);
    }
}
