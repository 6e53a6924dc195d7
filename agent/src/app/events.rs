//! Posts notices as Kubernetes Events, so that `kubectl describe` and `kubectl get events` show them where people look.
//!
//! In: notices. Out: Events in the pods' namespaces, and in `default` for the node; counts of what became of them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::runtime::metrics::Metrics;
use crate::runtime::notices::{About, Notice};
use crate::workload::api::{ApiError, Connector};

/// Who posts, as Events name it.
const CONTROLLER: &str = "picket.dev/agent";

/// How long one may take.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// How long nothing is posted after a failure that the next one would meet too: the API server is away, or does not know the
/// node, or has enough to do.
const PAUSE: Duration = Duration::from_secs(60);

/// What the API server takes (k8s.io/kubernetes pkg/apis/core/validation/events.go): the note's bytes and the others'.
const NOTE_BYTES: usize = 1024;
const FIELD_BYTES: usize = 128;

/// Why one was not posted.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error(transparent)]
    Connect(#[from] ApiError),
    #[error(transparent)]
    Post(#[from] kube::Error),
    #[error("the API server does not answer")]
    Timeout,
}

impl PostError {
    /// Whether it is about this Event alone: its namespace ends, or has no room, or too many come there. Pods can bring that
    /// about, and what is about others must be posted all the same.
    fn is_of_one(&self) -> bool {
        match self {
            Self::Post(kube::Error::Api(status)) => (400..500).contains(&status.code) && status.code != 401,
            _ => false,
        }
    }

    /// Whether somebody removed the Event that this one would have been counted on.
    fn is_of_removed(&self) -> bool {
        matches!(self, Self::Post(kube::Error::Api(status)) if status.code == 404)
    }
}

/// Posts for as long as it is polled.
pub(super) async fn post(
    connector: Connector,
    node: String,
    mut notices: mpsc::Receiver<Notice>,
    metrics: Arc<Metrics>,
) {
    let mut poster = Poster {
        connector,
        node,
        client: None,
        recorder: None,
    };
    let (mut quiet_until, mut failing) = (None, false);
    while let Some(notice) = notices.recv().await {
        if quiet_until.is_some_and(|until| Instant::now() < until) {
            metrics.notice("left_out");
            continue;
        }
        let posted = async {
            match poster.post(&notice).await {
                Err(error) if error.is_of_removed() => {
                    poster.recorder = None;
                    poster.post(&notice).await
                }
                posted => posted,
            }
        };
        let posted = timeout(POST_LIMIT, posted).await;
        let Err(error) = posted.unwrap_or(Err(PostError::Timeout)) else {
            metrics.notice("posted");
            (quiet_until, failing) = (None, false);
            continue;
        };
        metrics.notice("failed");
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(%error, about = ?notice.about, "a Kubernetes Event was not posted; the right to is in deploy/rbac.yaml");
        }
        if !error.is_of_one() {
            // The next one begins with what the files say then.
            (poster.client, poster.recorder) = (None, None);
            quiet_until = Some(Instant::now() + PAUSE);
        }
    }
    std::future::pending::<()>().await;
}

struct Poster {
    connector: Connector,
    node: String,
    client: Option<Client>,
    /// Counts on Events that it posted some minutes ago at most; a new one begins with new Events.
    recorder: Option<Recorder>,
}

impl Poster {
    async fn post(&mut self, notice: &Notice) -> Result<(), PostError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(self.connector.connect().await?).clone(),
        };
        let recorder = self.recorder.get_or_insert_with(|| {
            let reporter = Reporter {
                controller: CONTROLLER.to_owned(),
                instance: Some(cut(&self.node, FIELD_BYTES)),
            };
            Recorder::new(client, reporter)
        });
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason.as_str().to_owned(),
            note: Some(cut(&notice.note, NOTE_BYTES)),
            // Events alike in everything but the note are counted as one with the first one's note.
            action: cut(&format!("Enforce {}", notice.which), FIELD_BYTES),
            secondary: None,
        };
        Ok(recorder
            .publish(&event, &regarding(&notice.about, &self.node))
            .await?)
    }
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

/// The text as it may be written, on one line.
fn cut(text: &str, bytes: usize) -> String {
    let mut kept = String::new();
    for character in text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + character.len_utf8() > bytes {
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_text_is_one_line_and_no_longer_than_the_api_server_takes() {
        assert_eq!(cut("a\u{1b}[31mb\nc", NOTE_BYTES), "a [31mb c");
        assert_eq!(cut(&"é".repeat(NOTE_BYTES), NOTE_BYTES).len(), NOTE_BYTES);
        assert_eq!(cut("Enforce ", FIELD_BYTES), "Enforce");
    }

    #[test]
    fn what_pods_can_bring_about_does_not_silence_the_node() {
        let told = |code| {
            let status = Status::failure("no", "No").with_code(code);
            PostError::Post(kube::Error::Api(Box::new(status))).is_of_one()
        };
        assert!([400, 403, 404, 409, 422, 429].into_iter().all(told));
        assert!(![401, 500, 503].into_iter().any(told));
        assert!(!PostError::Timeout.is_of_one());
    }
}
