//! When each agent was served and refused last on this node.
//!
//! In: the end of each request. Out: two moments for an identity, to the second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use parking_lot::RwLock;

/// The moments of one identity, in seconds since 1970; 0 where there was none.
#[derive(Debug, Default)]
struct Moments {
    used: AtomicI64,
    denied: AtomicI64,
}

/// The moments of all identities that had a request since the agent's start.
#[derive(Debug, Default)]
pub struct Usage {
    /// Written to where an identity is new alone: requests share the lock.
    moments: RwLock<HashMap<String, Moments>>,
}

impl Usage {
    /// Notes that a request of an identity was permitted or denied.
    pub fn note(&self, identity: &str, denied: bool, now: Timestamp) {
        let set = |moments: &Moments| {
            let moment = if denied { &moments.denied } else { &moments.used };
            moment.fetch_max(now.as_second(), Ordering::Relaxed);
        };
        if let Some(moments) = self.moments.read().get(identity) {
            return set(moments);
        }
        set(self.moments.write().entry(identity.to_owned()).or_default());
    }

    /// When an identity was served and refused last.
    pub(super) fn of(&self, identity: &str) -> (Option<Timestamp>, Option<Timestamp>) {
        let moments = self.moments.read();
        let Some(moments) = moments.get(identity) else {
            return (None, None);
        };
        let moment = |second: &AtomicI64| {
            let second = Some(second.load(Ordering::Relaxed)).filter(|second| *second > 0)?;
            Timestamp::from_second(second).ok()
        };
        (moment(&moments.used), moment(&moments.denied))
    }

    /// Forgets identities that are no more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.moments.write().retain(|identity, _| is_there(identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_moments_count_each_by_itself() {
        let usage = Usage::default();
        let at = |second| Timestamp::from_second(second).expect("a moment");
        usage.note("a", false, at(10));
        usage.note("a", false, at(5));
        usage.note("b", true, at(7));
        assert_eq!(usage.of("a"), (Some(at(10)), None));
        assert_eq!(usage.of("b"), (None, Some(at(7))));
        assert_eq!(usage.of("c"), (None, None));
        usage.retain(|identity| identity == "b");
        assert_eq!(usage.of("a"), (None, None));
    }
}
