//! The queue of Kubernetes Events that wait to be posted.
//!
//! In: Kubernetes Events from any part, without waiting. Out: the same, through a bounded channel. A pod can cause events
//! without end: the rate limiter lets the same event pass once a minute, few of one pod, and a bounded number of all. Each
//! omitted event is counted. The audit log and the metrics have them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::metrics::NotifyMetrics;

/// Events that wait to be posted; a full queue omits further ones.
const WAITING: usize = 256;

/// How often the same event of the same object passes.
const SAME_EVERY: Duration = Duration::from_secs(60);

/// How many events of one reason pass for one pod, or for the node, in that time.
const ABOUT_ONE: usize = 8;

/// How many events of pods may pass at once; one more may pass each second. client-go has the same burst for one object, and a
/// node that posts one Event a second is no burden. Events of the node have a bucket of their own, which no pod can empty.
const BURST: u32 = 25;

/// The object that an event is about.
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

/// A Kubernetes Event to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeEvent {
    /// The object.
    pub about: About,
    /// One of few, for filters.
    pub reason: Reason,
    /// Tells events of one reason apart, such as by an address: each passes by itself.
    pub detail: String,
    /// The event in a sentence, with the remedy where one is known.
    pub note: String,
}

/// An Event's `reason`, by which operators filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The kernel denied a connection of the pod.
    AccessDenied,
    /// A client in the pod rejected Picket's certificate.
    CertificateRejected,
    /// A process of the pod is outside the pod's cgroup.
    CgroupEscape,
    /// The pod should be enforced and cannot be. It reaches no protected endpoint, unless its cgroup lies too deep for the
    /// kernel programs, which the note says.
    EnforcementFailed,
    /// Packets of the pod that pass no socket hook are not filtered.
    EgressUnfiltered,
    /// The pod's RuntimeClass gives it a network stack of its own, so that its connections cannot be redirected.
    RuntimeUnsupported,
    /// The pod wants more of the node than its share.
    ShareExceeded,
    /// The pod's agent asks for more than a policy's limits let it.
    LimitExceeded,
    /// Somebody detached a kernel program, and the agent attached it again.
    ProgramReplaced,
    /// A kernel program is missing and cannot be attached again.
    ProgramMissing,
    /// Picket's controller signs no node CA for this node.
    NodeCaDenied,
    /// The node CA ends soon, and no new one came.
    NodeCaExpiring,
}

impl Reason {
    /// The reason as an Event has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::CertificateRejected => "CertificateRejected",
            Self::CgroupEscape => "CgroupEscape",
            Self::EnforcementFailed => "EnforcementFailed",
            Self::EgressUnfiltered => "EgressUnfiltered",
            Self::RuntimeUnsupported => "RuntimeUnsupported",
            Self::ShareExceeded => "ShareExceeded",
            Self::LimitExceeded => "LimitExceeded",
            Self::ProgramReplaced => "ProgramReplaced",
            Self::ProgramMissing => "ProgramMissing",
            Self::NodeCaDenied => "NodeCaDenied",
            Self::NodeCaExpiring => "NodeCaExpiring",
        }
    }
}

/// The queue's entrance; cheap to clone.
#[derive(Clone)]
pub struct EventQueue {
    sender: mpsc::Sender<KubeEvent>,
    limiter: Arc<Mutex<RateLimiter>>,
    metrics: NotifyMetrics,
    rejections: Arc<Notify>,
}

impl EventQueue {
    /// The entrance and the exit.
    #[must_use]
    pub fn channel(metrics: NotifyMetrics) -> (Self, mpsc::Receiver<KubeEvent>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let limiter = Arc::new(Mutex::new(RateLimiter::new(Instant::now())));
        (
            Self {
                sender,
                limiter,
                metrics,
                rejections: Arc::default(),
            },
            receiver,
        )
    }

    /// Waits until a client rejects Picket's certificate, or has since the last call.
    pub(crate) async fn certificate_rejected(&self) {
        self.rejections.notified().await;
    }

    /// Queues an event, or omits it and counts that.
    pub fn report(&self, event: KubeEvent) {
        if event.reason == Reason::CertificateRejected {
            self.rejections.notify_one();
        }
        let mut limiter = self.limiter.lock();
        if !limiter.passes(&event, Instant::now()) || self.sender.try_send(event).is_err() {
            self.metrics.omitted();
        }
    }
}

/// Decides which events may pass now.
struct RateLimiter {
    seen: HashMap<About, Vec<(Reason, String, Instant)>>,
    pods: Bucket,
    node: Bucket,
}

impl RateLimiter {
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

    /// Whether the event may pass; it then counts as passed. The events of [`SAME_EVERY`] bound the table.
    fn passes(&mut self, event: &KubeEvent, now: Instant) -> bool {
        self.seen.retain(|_, told| {
            told.retain(|(.., at)| now.duration_since(*at) < SAME_EVERY);
            !told.is_empty()
        });
        let told = self.seen.get(&event.about).map_or(&[][..], Vec::as_slice);
        let same =
            |(reason, which, _): &(Reason, String, _)| *reason == event.reason && *which == event.detail;
        let alike = told.iter().filter(|(reason, ..)| *reason == event.reason);
        if alike.count() >= ABOUT_ONE || told.iter().any(same) {
            return false;
        }
        let bucket = match event.about {
            About::Node => &mut self.node,
            About::Pod { .. } => &mut self.pods,
        };
        if !bucket.take(now) {
            return false;
        }
        let told = self.seen.entry(event.about.clone()).or_default();
        told.push((event.reason, event.detail.clone(), now));
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
    use crate::metrics::MetricsRegistry;

    fn about(pod: usize, which: usize) -> KubeEvent {
        KubeEvent {
            about: About::Pod {
                namespace: "agents".to_owned(),
                name: format!("p{pod}"),
                uid: format!("u{pod}"),
            },
            reason: Reason::AccessDenied,
            detail: which.to_string(),
            note: String::new(),
        }
    }

    #[test]
    fn the_same_passes_once_a_minute_and_all_together_seldom() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(start);
        let mut passes =
            |event: &KubeEvent, after: u64| limiter.passes(event, start + Duration::from_secs(after));
        assert!(passes(&about(0, 0), 0));
        assert!(!passes(&about(0, 0), 59), "the same");
        assert!(passes(&about(0, 1), 59), "another address");
        assert!(passes(&about(0, 0), 60), "a minute later");
        let passed = (1..100).filter(|pod| passes(&about(*pod, 0), 60)).count();
        assert_eq!(passed, BURST as usize - 1, "at once");
        let passed = (100..200).filter(|pod| passes(&about(*pod, 0), 63)).count();
        assert_eq!(passed, 3, "one more each second");
        let node = KubeEvent {
            about: About::Node,
            ..about(0, 0)
        };
        assert!(passes(&node, 63), "no pod keeps back what is about the node");
    }

    #[test]
    fn one_pod_takes_a_few_and_leaves_others_theirs() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(start);
        let passed = (0..1000)
            .filter(|which| limiter.passes(&about(0, *which), start))
            .count();
        assert_eq!(passed, ABOUT_ONE);
        let moved = KubeEvent {
            reason: Reason::CgroupEscape,
            ..about(0, 0)
        };
        assert!(limiter.passes(&moved, start), "it hides nothing else by that");
        assert!(limiter.passes(&about(1, 0), start));
        assert!(limiter.passes(&about(2, 0), start + SAME_EVERY));
        assert_eq!(limiter.seen.len(), 1, "what was reported long ago is forgotten");
    }

    #[test]
    fn what_is_omitted_is_counted() {
        let registry = MetricsRegistry::default();
        let (events, mut told) = EventQueue::channel(NotifyMetrics::register(&registry));
        events.report(about(0, 0));
        events.report(about(0, 0));
        drop(events);
        assert_eq!(told.try_recv().ok(), Some(about(0, 0)));
        assert!(told.try_recv().is_err());
        let text = registry.encode().unwrap();
        assert!(
            text.contains("picket_kubernetes_events_total{outcome=\"omitted\"} 1"),
            "{text}"
        );
    }
}
