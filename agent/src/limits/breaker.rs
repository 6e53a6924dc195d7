//! The breaker for loops: the same request, refused again and again.
//!
//! In: each refusal of an identity, as a number that stands for the request. Out: whether it is told, or is a loop by now.
//!
//! The table has a fixed size. Where it is full, what was refused least often is forgotten first, and a loop that is known never is:
//! where there are loops alone, another refused request is only not counted. It is refused with its reason and a record as ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::SECOND;
use crate::audit::AuditId;

/// Different refused requests of one identity that are counted at once: 6 KB at most of an identity.
const REQUESTS: usize = 64;

/// How long refusals are counted for. In nanoseconds, as all moments here.
pub(super) const WINDOW: u64 = 60 * SECOND;

/// What a refusal is.
#[derive(Debug, Clone)]
pub(super) enum Repeated {
    /// To be told: it came less often than the limit.
    Told,
    /// The first one above the limit, until that moment.
    Opens(Arc<OpenBreaker>),
    /// A further one.
    Open(Arc<OpenBreaker>),
}

/// A loop that is answered with 429 for the rest of its minute.
#[derive(Debug)]
pub struct OpenBreaker {
    /// The record of the request that opened it.
    record: AuditId,
    /// When it ends.
    until: u64,
    /// Requests after that one.
    further: AtomicU32,
}

impl OpenBreaker {
    /// The record of the request that opened it, which stands for the further ones.
    #[must_use]
    pub fn record(&self) -> AuditId {
        self.record
    }

    /// When it ends, in the moments of [`RequestLimits::now`](super::RequestLimits::now).
    #[must_use]
    pub fn until(&self) -> u64 {
        self.until
    }

    /// How many further requests it answered so far.
    #[must_use]
    pub fn further(&self) -> u32 {
        self.further.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Entry {
    request: u64,
    /// The moment of the first refusal that counts.
    since: u64,
    count: u32,
    open: Option<Arc<OpenBreaker>>,
}

/// The refused requests of one identity.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Vec<Entry>>);

impl Breaker {
    /// A request is refused at `now`; `most` such refusals are told in a minute. `record` is that of the request.
    pub(super) fn refused(&self, request: u64, most: u32, record: AuditId, now: u64) -> Repeated {
        let mut entries = self.0.lock();
        let place = entries.iter().position(|entry| entry.request == request);
        let place = place.or_else(|| place_for_another(&mut entries, request, now));
        let Some(entry) = place.and_then(|place| entries.get_mut(place)) else {
            return Repeated::Told;
        };
        if now >= entry.since + WINDOW {
            *entry = Entry {
                request,
                since: now,
                count: 0,
                open: None,
            };
        }
        if entry.count < most {
            entry.count += 1;
            return Repeated::Told;
        }
        match &entry.open {
            Some(open) => {
                open.further.fetch_add(1, Ordering::Relaxed);
                Repeated::Open(Arc::clone(open))
            }
            None => {
                let open = Arc::new(OpenBreaker {
                    record,
                    until: entry.since + WINDOW,
                    further: AtomicU32::new(0),
                });
                entry.open = Some(Arc::clone(&open));
                Repeated::Opens(open)
            }
        }
    }
}

/// Makes an entry for a request that has none, in place of one that matters less where there are too many.
fn place_for_another(entries: &mut Vec<Entry>, request: u64, now: u64) -> Option<usize> {
    let entry = Entry {
        request,
        since: now,
        count: 0,
        open: None,
    };
    if entries.len() < REQUESTS {
        entries.push(entry);
        return Some(entries.len() - 1);
    }
    let is_over = |entry: &Entry| now >= entry.since + WINDOW;
    let candidates = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| is_over(entry) || entry.open.is_none());
    let least = candidates.min_by_key(|(_, entry)| (!is_over(entry), entry.count, entry.since));
    let (place, _) = least?;
    entries[place] = entry;
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> AuditId {
        AuditId::of(number)
    }

    #[test]
    fn so_many_are_told_then_one_opens_and_the_rest_is_counted_until_the_minute_is_over() {
        let breaker = Breaker::default();
        for second in 0..3 {
            let told = breaker.refused(1, 3, id(second), second as u64 * SECOND);
            assert!(matches!(told, Repeated::Told), "{second}");
        }
        let Repeated::Opens(open) = breaker.refused(1, 3, id(7), 10 * SECOND) else {
            panic!("it opens");
        };
        assert_eq!((open.until(), open.further(), open.record()), (WINDOW, 0, id(7)));
        for second in 11..60 {
            let further = breaker.refused(1, 3, id(second), second as u64 * SECOND);
            assert!(matches!(further, Repeated::Open(_)), "{second}");
        }
        assert_eq!(open.further(), 49);
        assert!(
            matches!(breaker.refused(2, 3, id(0), 59 * SECOND), Repeated::Told),
            "another request"
        );
        assert!(
            matches!(breaker.refused(1, 3, id(0), 60 * SECOND), Repeated::Told),
            "another minute"
        );
        assert_eq!(open.further(), 49);
    }

    #[test]
    fn a_higher_limit_tells_again_and_the_loop_that_was_known_stays_known() {
        let breaker = Breaker::default();
        assert!(matches!(breaker.refused(1, 1, id(0), 0), Repeated::Told));
        assert!(matches!(breaker.refused(1, 1, id(1), 1), Repeated::Opens(_)));
        assert!(matches!(breaker.refused(1, 2, id(2), 2), Repeated::Told));
        assert!(
            matches!(breaker.refused(1, 2, id(3), 3), Repeated::Open(_)),
            "recorded once"
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_no_loop() {
        let breaker = Breaker::default();
        let opens = |request| {
            breaker.refused(request, 1, id(0), 0);
            matches!(breaker.refused(request, 1, id(0), 0), Repeated::Opens(_))
        };
        assert!((0..63).all(opens));
        for request in 1000..2000 {
            assert!(
                matches!(breaker.refused(request, 1, id(0), 1), Repeated::Told),
                "{request}"
            );
        }
        assert_eq!(breaker.0.lock().len(), REQUESTS);
        assert!((0..63).all(|request| matches!(breaker.refused(request, 1, id(0), 2), Repeated::Open(_))));
        // The last one of the others is still there, and opens.
        assert!(matches!(breaker.refused(1999, 1, id(0), 2), Repeated::Opens(_)));
        assert!(matches!(breaker.refused(3000, 1, id(0), 2), Repeated::Told));
        assert!(
            matches!(breaker.refused(3000, 1, id(0), 2), Repeated::Told),
            "no room to count it"
        );
        // What is over makes room.
        assert!(matches!(breaker.refused(3000, 1, id(0), WINDOW), Repeated::Told));
        assert!(matches!(
            breaker.refused(3000, 1, id(0), WINDOW),
            Repeated::Opens(_)
        ));
        assert_eq!(breaker.0.lock().len(), REQUESTS);
    }
}
