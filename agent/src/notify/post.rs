//! Posts Kubernetes Events, so that `kubectl describe` and `kubectl get events` show them.
//!
//! In: a [`KubeEvent`] at a time, out of the queue. Out: Events in the pods' namespaces, and in `default` for the node; a count
//! for each outcome.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::metrics::NotifyMetrics;
use super::queue::{About, KubeEvent};
use crate::cluster::{ClusterError, Connector, printable};

/// Who posts, as Events name it.
const CONTROLLER: &str = "picket.dev/agent";

/// How long an Event is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How long one may take.
    post: Duration,
    /// How long nothing is posted after a failure that the next one would meet too: the API server is away, or does not know
    /// the node, or has enough to do.
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            post: Duration::from_secs(10),
            pause: Duration::from_secs(60),
        }
    }
}

/// What the API server takes (k8s.io/kubernetes pkg/apis/core/validation/events.go): the note's bytes and the others'.
const NOTE_BYTES: usize = 1024;
const FIELD_BYTES: usize = 128;

/// Why one was not posted.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error(transparent)]
    Connect(#[from] ClusterError),
    #[error("{}", printable(.0))]
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
pub(crate) async fn post(
    connector: Connector,
    node: String,
    mut events: mpsc::Receiver<KubeEvent>,
    metrics: NotifyMetrics,
    patience: Patience,
) {
    let mut poster = Poster {
        connector,
        node,
        client: None,
        recorder: None,
    };
    let (mut quiet_until, mut failing) = (None, false);
    while let Some(event) = events.recv().await {
        if quiet_until.is_some_and(|until| Instant::now() < until) {
            metrics.omitted();
            continue;
        }
        let posted = async {
            match poster.post(&event).await {
                Err(error) if error.is_of_removed() => {
                    poster.recorder = None;
                    poster.post(&event).await
                }
                posted => posted,
            }
        };
        let posted = timeout(patience.post, posted).await;
        let Err(error) = posted.unwrap_or(Err(PostError::Timeout)) else {
            metrics.posted();
            (quiet_until, failing) = (None, false);
            continue;
        };
        metrics.failed();
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(%error, about = ?event.about, "the API server did not accept a Kubernetes Event; deploy/rbac.yaml has the rights for it");
        }
        if !error.is_of_one() {
            // The next one begins with what the files say then.
            (poster.client, poster.recorder) = (None, None);
            quiet_until = Some(Instant::now() + patience.pause);
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
    async fn post(&mut self, kube_event: &KubeEvent) -> Result<(), PostError> {
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
            reason: kube_event.reason.as_str().to_owned(),
            note: Some(cut(&kube_event.note, NOTE_BYTES)),
            // Events alike in everything but the note are counted as one with the first one's note.
            action: cut(&format!("Enforce {}", kube_event.detail), FIELD_BYTES),
            secondary: None,
        };
        Ok(recorder
            .publish(&event, &regarding(&kube_event.about, &self.node))
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
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt as _, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper::{Method, Request, Response};
    use hyper_util::rt::TokioIo;
    use kube::core::Status;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc::error::TryRecvError;

    use super::super::queue::Reason;
    use super::*;
    use crate::metrics::MetricsRegistry;

    const LONG: Duration = Duration::from_secs(3600);
    /// No answer at all.
    const NONE: u16 = 0;

    /// An API server that answers so one time after the other, and then takes everything; and a poster for it.
    struct Posting {
        asked: mpsc::UnboundedReceiver<(Method, String)>,
        events: mpsc::Sender<KubeEvent>,
        registry: Arc<MetricsRegistry>,
    }

    impl Posting {
        async fn begin(answers: &[u16], patience: Patience) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = format!("http://{}", listener.local_addr().unwrap());
            let answers = Arc::new(Mutex::new(VecDeque::from(answers.to_vec())));
            let (ask, asked) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (answers, ask) = (Arc::clone(&answers), ask.clone());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let code = answers.lock().unwrap().pop_front().unwrap_or(201);
                        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                        ask.send((method, path)).unwrap();
                        async move {
                            let body = match code {
                                NONE => std::future::pending().await,
                                201 => request.into_body().collect().await.unwrap().to_bytes(),
                                _ => {
                                    let status = Status::failure("no", "No").with_code(code);
                                    Bytes::from(serde_json::to_vec(&status).unwrap())
                                }
                            };
                            let response = Response::builder()
                                .status(code)
                                .header("content-type", "application/json");
                            Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
                        }
                    });
                    let stream = TokioIo::new(stream);
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new().serve_connection(stream, service),
                    );
                }
            });
            let (events, to_post) = mpsc::channel(16);
            let registry = Arc::new(MetricsRegistry::default());
            let posting = NotifyMetrics::register(&registry);
            tokio::spawn(async move {
                let (_folder, connector) = Connector::for_tests(&server);
                post(connector, "node".to_owned(), to_post, posting, patience).await;
            });
            Self {
                asked,
                events,
                registry,
            }
        }

        async fn tell(&self) {
            let event = KubeEvent {
                about: About::Node,
                reason: Reason::ProgramReplaced,
                detail: "connect4".to_owned(),
                note: "It is back.".to_owned(),
            };
            self.events.send(event).await.unwrap();
        }

        async fn asked(&mut self) -> Method {
            let asked = timeout(Duration::from_secs(20), self.asked.recv()).await;
            let (method, path) = asked.expect("nobody asks").unwrap();
            assert!(
                path.starts_with("/apis/events.k8s.io/v1/namespaces/default/events"),
                "{path}"
            );
            method
        }

        /// Waits until so many Events had this outcome.
        async fn counted(&self, outcome: &str, count: u64) {
            let line = format!("picket_kubernetes_events_total{{outcome=\"{outcome}\"}} {count}\n");
            let counted = async {
                while !self.registry.encode().unwrap().contains(&line) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), counted).await.expect(&line);
        }
    }

    #[tokio::test]
    async fn an_event_that_somebody_removed_is_posted_anew() {
        let mut posting = Posting::begin(&[201, 404], Patience::default()).await;
        posting.tell().await;
        assert_eq!(posting.asked().await, Method::POST);
        posting.tell().await;
        assert_eq!(posting.asked().await, Method::PATCH, "counted on the first");
        assert_eq!(posting.asked().await, Method::POST);
        posting.counted("posted", 2).await;
        posting.tell().await;
        assert_eq!(posting.asked().await, Method::PATCH, "counted on the new one");
    }

    #[tokio::test]
    async fn after_a_failure_that_others_would_meet_too_nothing_is_posted_for_a_while() {
        let brief = Duration::from_secs(1);
        for (answer, post) in [(NONE, brief), (500, LONG), (401, LONG)] {
            let mut posting = Posting::begin(&[answer], Patience { post, pause: LONG }).await;
            posting.tell().await;
            posting.asked().await;
            posting.counted("failed", 1).await;
            posting.tell().await;
            posting.counted("omitted", 1).await;
            assert_eq!(posting.asked.try_recv(), Err(TryRecvError::Empty), "{answer}");
        }
        let pause = Duration::ZERO;
        let mut posting = Posting::begin(&[500], Patience { post: LONG, pause }).await;
        posting.tell().await;
        posting.counted("failed", 1).await;
        posting.tell().await;
        posting.counted("posted", 1).await;
        // And one that is about that Event alone holds up none.
        let patience = Patience {
            post: LONG,
            pause: LONG,
        };
        posting = Posting::begin(&[403], patience).await;
        posting.tell().await;
        posting.counted("failed", 1).await;
        posting.tell().await;
        posting.counted("posted", 1).await;
    }

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
