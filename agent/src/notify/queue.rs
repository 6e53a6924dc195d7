//! What a person who looks at a pod or a node with kubectl should find there: handed on without waiting, posted as Kubernetes
//! Events by whoever reads the other end.
//!
//! In: notices from wherever something calls for a person. Out: the same, through a bounded channel. A pod can bring notices
//! about without end, so the same is handed on once a minute, few of one pod, and all of them seldom; what is left out is
//! counted. The audit log and the metrics are the record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Notices that wait to be posted; a full channel leaves further ones out.
const WAITING: usize = 256;

/// How often the same about the same is told.
const SAME_EVERY: Duration = Duration::from_secs(60);

/// How much of one reason about one pod, or about the node, is told in that time.
const ABOUT_ONE: usize = 8;

/// What may be told of pods at once, and how much more each second: client-go's limit for one object is as many at once, and a
/// node that posts a little each second is no burden. What is about the node counts by itself: no pod can keep it back.
const BURST: u32 = 25;

/// What a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum About {
    /// This node.
    Node,
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID in the API.
        uid: String,
    },
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub about: About,
    /// What is told, as one of few.
    pub reason: Reason,
    /// What of several alike is meant, such as an address: each is told by itself.
    pub which: String,
    /// The same in a sentence, with what to do where that is known.
    pub note: String,
}

/// What can be told; each is an Event's `reason`, which operators filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The kernel refused what the pod dialled.
    AccessDenied,
    /// A client in the pod does not accept Picket's certificate.
    CertificateRejected,
    /// A process of the pod's is outside its cgroup.
    CgroupEscape,
    /// The pod should be enforced and cannot be; it is closed.
    EnforcementFailed,
    /// Packets of the pod's that pass no socket's hook are not dropped.
    EgressUnfiltered,
    /// Somebody took a kernel program away, and it was put back.
    ProgramReplaced,
    /// A kernel program is missing and cannot be put back.
    ProgramMissing,
}

impl Reason {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::CertificateRejected => "CertificateRejected",
            Self::CgroupEscape => "CgroupEscape",
            Self::EnforcementFailed => "EnforcementFailed",
            Self::EgressUnfiltered => "EgressUnfiltered",
            Self::ProgramReplaced => "ProgramReplaced",
            Self::ProgramMissing => "ProgramMissing",
        }
    }
}

/// Where notices are left; cheap to clone.
#[derive(Clone)]
pub struct Notices {
    sender: mpsc::Sender<Notice>,
    gate: Arc<Mutex<Gate>>,
    metrics: Arc<Metrics>,
}

impl Notices {
    /// A place to leave notices, and where they come out.
    #[must_use]
    pub fn channel(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let gate = Arc::new(Mutex::new(Gate::new(Instant::now())));
        (
            Self {
                sender,
                gate,
                metrics,
            },
            receiver,
        )
    }

    /// Leaves one, or leaves it out.
    pub fn tell(&self, notice: Notice) {
        // A poisoned gate is a plain table, which no panic could have left half done.
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !gate.passes(&notice, Instant::now()) || self.sender.try_send(notice).is_err() {
            self.metrics.notice("left_out");
        }
    }
}

/// What may be told now.
struct Gate {
    seen: HashMap<About, Vec<(Reason, String, Instant)>>,
    pods: Bucket,
    node: Bucket,
}

impl Gate {
    fn new(now: Instant) -> Self {
        let full = Bucket {
            left: BURST,
            filled: now,
        };
        Self {
            seen: HashMap::new(),
            pods: full,
            node: full,
        }
    }

    /// Whether it may be told; it then counts as told. The table is bounded by what passes in [`SAME_EVERY`].
    fn passes(&mut self, notice: &Notice, now: Instant) -> bool {
        self.seen.retain(|_, told| {
            told.retain(|(.., at)| now.duration_since(*at) < SAME_EVERY);
            !told.is_empty()
        });
        let told = self.seen.get(&notice.about).map_or(&[][..], Vec::as_slice);
        let same =
            |(reason, which, _): &(Reason, String, _)| *reason == notice.reason && *which == notice.which;
        let alike = told.iter().filter(|(reason, ..)| *reason == notice.reason);
        if alike.count() >= ABOUT_ONE || told.iter().any(same) {
            return false;
        }
        let bucket = match notice.about {
            About::Node => &mut self.node,
            About::Pod { .. } => &mut self.pods,
        };
        if !bucket.take(now) {
            return false;
        }
        let told = self.seen.entry(notice.about.clone()).or_default();
        told.push((notice.reason, notice.which.clone(), now));
        true
    }
}

/// So many at once, and one more each second.
#[derive(Clone, Copy)]
struct Bucket {
    left: u32,
    /// When `left` was last added to.
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let more = now.duration_since(self.filled).as_secs();
        if more > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(more).unwrap_or(BURST)));
            self.filled = now;
        }
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(pod: usize, which: usize) -> Notice {
        Notice {
            about: About::Pod {
                namespace: "agents".to_owned(),
                name: format!("p{pod}"),
                uid: format!("u{pod}"),
            },
            reason: Reason::AccessDenied,
            which: which.to_string(),
            note: String::new(),
        }
    }

    #[test]
    fn the_same_passes_once_a_minute_and_all_together_seldom() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let mut passes =
            |notice: &Notice, after: u64| gate.passes(notice, start + Duration::from_secs(after));
        assert!(passes(&about(0, 0), 0));
        assert!(!passes(&about(0, 0), 59), "the same");
        assert!(passes(&about(0, 1), 59), "another address");
        assert!(passes(&about(0, 0), 60), "a minute later");
        let passed = (1..100).filter(|pod| passes(&about(*pod, 0), 60)).count();
        assert_eq!(passed, BURST as usize - 1, "at once");
        let passed = (100..200).filter(|pod| passes(&about(*pod, 0), 63)).count();
        assert_eq!(passed, 3, "one more each second");
        let node = Notice {
            about: About::Node,
            ..about(0, 0)
        };
        assert!(passes(&node, 63), "no pod keeps back what is about the node");
    }

    #[test]
    fn one_pod_takes_a_few_and_leaves_others_theirs() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let passed = (0..1000)
            .filter(|which| gate.passes(&about(0, *which), start))
            .count();
        assert_eq!(passed, ABOUT_ONE);
        let moved = Notice {
            reason: Reason::CgroupEscape,
            ..about(0, 0)
        };
        assert!(gate.passes(&moved, start), "it hides nothing else by that");
        assert!(gate.passes(&about(1, 0), start));
        assert!(gate.passes(&about(2, 0), start + SAME_EVERY));
        assert_eq!(gate.seen.len(), 1, "what was told long ago is forgotten");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let (notices, mut told) = Notices::channel(Arc::clone(&metrics));
        notices.tell(about(0, 0));
        notices.tell(about(0, 0));
        drop(notices);
        assert_eq!(told.try_recv().ok(), Some(about(0, 0)));
        assert!(told.try_recv().is_err());
        let text = metrics.encode().unwrap();
        assert!(
            text.contains("picket_kubernetes_events_total{outcome=\"left_out\"} 1"),
            "{text}"
        );
    }
}
