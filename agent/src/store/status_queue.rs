//! Which objects' conditions are to be written, and when.
//!
//! In: the conditions that an object should have beside those that the API server shows, and what became of each write. Out: the
//! object whose write is due first. Where many wait, an identity whose agent was just shut out or let in comes first: somebody
//! waits for that answer.
//!
//! The words of a condition depend on the agent too: its version, its files, and whether it knows a good version from before. Agents
//! that each wrote their own words would write without end. So an agent writes for words alone where its own have changed, and
//! corrects the words of another agent only where they have stood for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use picket_policy::api::v1alpha1::ObjectCondition;
use tokio::time::Instant;

use super::cluster::same_condition;

/// How often an agent may write the same about one object, where others write otherwise or a write failed.
const REPEAT: Duration = Duration::from_secs(30);

/// How long words of another agent stand that this one would say otherwise. The other one may have been behind when it wrote, and be
/// gone since. At 10,000 objects and two ways to say it, the cluster writes 17 conditions a second.
const OTHER_WORDS: Duration = Duration::from_secs(600);

/// An object by kind, name and UID.
pub(super) type ObjectId = (usize, String, String);

/// What an agent says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    generation: i64,
    ready: bool,
    /// The messages of its conditions.
    words: Vec<String>,
}

impl Said {
    fn of(conditions: &[ObjectCondition], ready: bool) -> Self {
        let generation = conditions
            .first()
            .map_or(0, |condition| condition.observed_generation);
        let words = conditions.iter().map(|condition| condition.message.clone());
        Self {
            generation,
            ready,
            words: words.collect(),
        }
    }
}

/// A write that waits for its moment.
#[derive(Debug, Clone, Copy)]
struct QueuedWrite {
    due: Instant,
    generation: i64,
    ready: bool,
    /// Whether an identity's state or dates changed, which somebody waits for.
    urgent: bool,
}

/// What is known of the objects' conditions.
#[derive(Debug, Default)]
pub(super) struct StatusQueue {
    queued: BTreeMap<ObjectId, QueuedWrite>,
    /// What this agent wrote or tried last, and when.
    written: BTreeMap<ObjectId, (Said, Instant)>,
    /// What this agent would have said when it last found the words good, its own or another agent's, and when that was.
    settled: BTreeMap<ObjectId, (Said, Instant)>,
    /// How many scans at all objects there were.
    #[cfg(test)]
    pub(super) scans: usize,
}

impl StatusQueue {
    /// Begins a scan of all objects.
    pub(super) fn begin(&mut self) -> QueueScan<'_> {
        #[cfg(test)]
        {
            self.scans += 1;
        }
        self.written.retain(|_, (_, at)| at.elapsed() < REPEAT);
        let (queued, settled) = (
            std::mem::take(&mut self.queued),
            std::mem::take(&mut self.settled),
        );
        QueueScan {
            queue: self,
            queued,
            settled,
        }
    }

    /// Whether conditions must be written. Where they need not, the object is settled.
    pub(super) fn differs(
        &mut self,
        id: &ObjectId,
        wanted: &[ObjectCondition],
        shown: &[ObjectCondition],
        ready: bool,
    ) -> bool {
        if !agree(wanted, shown) {
            return true;
        }
        let said = Said::of(wanted, ready);
        if !same_words(wanted, shown) {
            match self.settled.get(id) {
                Some((before, _)) if *before != said => return true,
                Some((_, at)) if at.elapsed() >= OTHER_WORDS => return true,
                // At the first look, such as after a start, the words of another agent are good.
                Some(_) => return false,
                None => {}
            }
        }
        self.settled.insert(id.clone(), (said, Instant::now()));
        false
    }

    /// The write that is due first; of those that are due, urgent ones go before faults, and faults before good news.
    pub(super) fn next(&self) -> Option<(ObjectId, Instant)> {
        let now = Instant::now();
        let order = |queued: &QueuedWrite| (queued.due.max(now), !queued.urgent, queued.ready);
        let first = self.queued.iter().min_by_key(|(_, queued)| order(queued));
        first.map(|(id, queued)| (id.clone(), queued.due))
    }

    /// Notes that an object's moment has come.
    pub(super) fn take(&mut self, id: &ObjectId) {
        self.queued.remove(id);
    }

    /// Notes a write. One that failed is queued again.
    pub(super) fn wrote(
        &mut self,
        id: ObjectId,
        conditions: &[ObjectCondition],
        ready: bool,
        done: bool,
        wait: Duration,
    ) {
        let now = Instant::now();
        let said = Said::of(conditions, ready);
        if done {
            self.settled.insert(id.clone(), (said.clone(), now));
        } else {
            let queued = QueuedWrite {
                due: now + REPEAT + wait,
                generation: said.generation,
                ready,
                urgent: false,
            };
            self.queued.insert(id.clone(), queued);
        }
        self.written.insert(id, (said, now));
    }
}

/// A scan of all objects: those that it does not come upon are forgotten.
#[derive(Debug)]
pub(super) struct QueueScan<'a> {
    queue: &'a mut StatusQueue,
    queued: BTreeMap<ObjectId, QueuedWrite>,
    settled: BTreeMap<ObjectId, (Said, Instant)>,
}

impl QueueScan<'_> {
    /// Queues a write where the conditions differ, after a wait that `wait` chooses. One that is queued already keeps its moment, and
    /// stays urgent.
    pub(super) fn object(
        &mut self,
        id: ObjectId,
        wanted: &[ObjectCondition],
        shown: &[ObjectCondition],
        (ready, urgent): (bool, bool),
        wait: impl FnOnce() -> Duration,
    ) {
        if let Some(settled) = self.settled.remove(&id) {
            self.queue.settled.insert(id.clone(), settled);
        }
        if !self.queue.differs(&id, wanted, shown, ready) {
            return;
        }
        let said = Said::of(wanted, ready);
        let before = self.queued.get(&id);
        let urgent = urgent || before.is_some_and(|before| before.urgent);
        let before = before.filter(|before| (before.generation, before.ready) == (said.generation, ready));
        let due = match (before, self.queue.written.get(&id)) {
            (Some(before), _) => before.due,
            (None, Some((last, at))) if *last == said => *at + REPEAT + wait(),
            (None, _) => Instant::now() + wait(),
        };
        let queued = QueuedWrite {
            due,
            generation: said.generation,
            ready,
            urgent,
        };
        self.queue.queued.insert(id, queued);
    }
}

/// Whether conditions say the same, their times and words aside.
fn agree(wanted: &[ObjectCondition], shown: &[ObjectCondition]) -> bool {
    let said = |condition: &ObjectCondition| shown.iter().any(|shown| same_condition(condition, shown));
    wanted.len() == shown.len() && wanted.iter().all(said)
}

/// Whether conditions of the same kinds have the same words.
fn same_words(wanted: &[ObjectCondition], shown: &[ObjectCondition]) -> bool {
    let is_said = |condition: &ObjectCondition| {
        shown
            .iter()
            .any(|shown| (&shown.kind, &shown.message) == (&condition.kind, &condition.message))
    };
    wanted.iter().all(is_said)
}

#[cfg(test)]
#[path = "status_queue_tests.rs"]
mod tests;
