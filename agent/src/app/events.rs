//! Posts notices as Kubernetes Events, so that `kubectl describe` and `kubectl get events` show them where people look.
//!
//! In: notices. Out: Events in the pods' namespaces, and in `default` for the node. A pod can bring notices about without end,
//! so the same is posted once a minute and all of them seldom; what is not posted is counted, and in metrics and audit log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::runtime::metrics::Metrics;
use crate::runtime::notices::{About, Notice, Reason};
use crate::workload::api::Connector;

/// Who posts, as Events name it.
const CONTROLLER: &str = "picket.dev/agent";

/// How often the same about the same is posted.
const SAME_EVERY: Duration = Duration::from_secs(60);

/// How many of those are told apart. Where there are more, further ones are not posted.
const SAME: usize = 1024;

/// What may be posted at once, and how long until another may: client-go allows the first for one object, and a node that posts
/// a little each second is no burden.
const BURST: u32 = 25;
const ANOTHER_EVERY: Duration = Duration::from_secs(1);

/// How long one may take.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// How long nothing is posted after a failure: the API server is away, or does not let the node, and asking does not help.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest note the API server takes is 1 kB (k8s.io/kubernetes pkg/apis/core/validation/events.go, `NoteLengthLimit`).
const NOTE_BYTES: usize = 1000;

/// Posts for as long as it is polled.
pub(super) async fn post(
    connector: Connector,
    node: String,
    mut notices: mpsc::Receiver<Notice>,
    metrics: Arc<Metrics>,
) {
    let mut gate = Gate::new(Instant::now());
    let mut recorder: Option<Recorder> = None;
    let (mut quiet_until, mut failing) = (None, false);
    while let Some(notice) = notices.recv().await {
        let now = Instant::now();
        if quiet_until.is_some_and(|until| now < until) || !gate.passes(&notice, now) {
            metrics.notice("left_out");
            continue;
        }
        let posted = timeout(POST_LIMIT, publish(&connector, &node, &mut recorder, &notice)).await;
        let failure = match posted {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("the API server does not answer".to_owned()),
        };
        metrics.notice(if failure.is_none() { "posted" } else { "failed" });
        quiet_until = failure.is_some().then(|| Instant::now() + PAUSE);
        if let Some(error) = &failure {
            // The next one begins with what the files say then.
            recorder = None;
            if !failing {
                tracing::warn!(
                    error,
                    "Kubernetes Events are not posted; the right to is in deploy/rbac.yaml"
                );
            }
        }
        failing = failure.is_some();
    }
    std::future::pending::<()>().await;
}

async fn publish(
    connector: &Connector,
    node: &str,
    recorder: &mut Option<Recorder>,
    notice: &Notice,
) -> Result<(), String> {
    let recorder = match recorder {
        Some(recorder) => recorder,
        None => {
            let client = connector.connect().await.map_err(|error| error.to_string())?;
            let reporter = Reporter {
                controller: CONTROLLER.to_owned(),
                instance: Some(node.to_owned()),
            };
            recorder.insert(Recorder::new(client, reporter))
        }
    };
    let event = Event {
        type_: EventType::Warning,
        reason: notice.reason.as_str().to_owned(),
        note: Some(note(&notice.note)),
        action: "Enforce".to_owned(),
        secondary: None,
    };
    let posted = recorder.publish(&event, &regarding(&notice.about, node)).await;
    posted.map_err(|error| error.to_string())
}

/// The object as Events name it.
fn regarding(about: &About, node: &str) -> ObjectReference {
    let (kind, namespace, name, uid) = match about {
        // The kubelet names its node so too, and `kubectl describe node` asks for it (pkg/kubelet/kubelet.go, `nodeRef`).
        About::Node => ("Node", None, node, node),
        About::Pod { namespace, name, uid } => ("Pod", Some(namespace), name.as_str(), uid.as_str()),
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.cloned(),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// The note as it may be written: names of programs are the pods' own, and a terminal must not take them for commands.
fn note(text: &str) -> String {
    let mut note = String::new();
    for character in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if note.len() + character.len_utf8() > NOTE_BYTES {
            break;
        }
        note.push(character);
    }
    note
}

/// What may be posted now.
struct Gate {
    seen: HashMap<(About, Reason), Instant>,
    left: u32,
    /// When `left` was last added to.
    filled: Instant,
}

impl Gate {
    fn new(now: Instant) -> Self {
        Self {
            seen: HashMap::new(),
            left: BURST,
            filled: now,
        }
    }

    fn passes(&mut self, notice: &Notice, now: Instant) -> bool {
        let key = (notice.about.clone(), notice.reason);
        let recent = |at: &Instant| now.duration_since(*at) < SAME_EVERY;
        if self.seen.get(&key).is_some_and(recent) {
            return false;
        }
        if self.seen.len() >= SAME {
            self.seen.retain(|_, at| recent(at));
        }
        let more = now.duration_since(self.filled).as_secs() / ANOTHER_EVERY.as_secs();
        if more > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(more).unwrap_or(BURST)));
            self.filled = now;
        }
        if self.seen.len() >= SAME || self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.seen.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(pod: usize, reason: Reason) -> Notice {
        let about = About::Pod {
            namespace: "agents".to_owned(),
            name: format!("p{pod}"),
            uid: format!("u{pod}"),
        };
        Notice {
            about,
            reason,
            note: String::new(),
        }
    }

    #[test]
    fn the_same_passes_once_a_minute_and_all_together_seldom() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let mut passes =
            |notice: &Notice, after: u64| gate.passes(notice, start + Duration::from_secs(after));
        assert!(passes(&about(0, Reason::AccessRefused), 0));
        assert!(!passes(&about(0, Reason::AccessRefused), 59), "the same");
        assert!(passes(&about(0, Reason::ProcessMoved), 59), "another reason");
        assert!(passes(&about(0, Reason::AccessRefused), 60), "a minute later");
        let passed = (1..100)
            .filter(|pod| passes(&about(*pod, Reason::AccessRefused), 60))
            .count();
        assert_eq!(passed, BURST as usize - 1, "at once");
        let passed = (100..200)
            .filter(|pod| passes(&about(*pod, Reason::AccessRefused), 63))
            .count();
        assert_eq!(passed, 3, "one more each second");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        gate.left = u32::MAX;
        let passed = (0..2 * SAME).filter(|pod| gate.passes(&about(*pod, Reason::AccessRefused), start));
        assert_eq!((passed.count(), gate.seen.len()), (SAME, SAME));
        assert!(gate.passes(&about(0, Reason::AccessRefused), start + SAME_EVERY));
        assert_eq!(gate.seen.len(), 1);
    }

    #[test]
    fn a_note_is_one_line_and_no_longer_than_the_api_server_takes() {
        assert_eq!(note("a\u{1b}[31mb\nc"), "a [31mb c");
        assert_eq!(note(&"é".repeat(NOTE_BYTES)).len(), NOTE_BYTES);
    }
}
