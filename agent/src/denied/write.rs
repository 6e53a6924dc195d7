//! Writes the records of connections that never became requests, aggregated where a pod makes many.
//!
//! In: denied connections, of the kernel and of listeners. Out: audit records, and events at the pods. Nothing here holds up
//! connections that are served: while the audit log takes nothing, such records are lost, which is counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::aggregate::{Aggregated, EventAggregator};
use super::cause::{DenialCause, DeniedConnection};
use super::metrics::DeniedMetrics;
use crate::audit::{AuditLog, Caller, Connection, KernelFacts, PodRef};
use crate::kernel::DenyReason;
use crate::listener::UnattributedCause;
use crate::notify::{About, EventQueue, KubeEvent, Reason};
use crate::workload::Pod;

/// Records between those who see denied connections and the one who writes them; each is below 1 KB.
const QUEUE_LENGTH: usize = 1024;

/// How long connections that are alike are aggregated.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a pod that has its share of connections is told, which counts on the node's network only: elsewhere they wait.
const TOO_MANY_CONNECTIONS: &str = "Picket closed a connection of this pod: the pod has as many open connections as one pod may have. \
     Close connections that nothing uses, or have one HTTP/2 connection carry many watches";

/// Whose connection was denied: the pod's UID, where it is known.
type Source = Option<String>;

/// What makes two denied connections of a pod alike: the cause and the address.
type Kind = (DenialCause, Option<SocketAddr>);

/// Denied connections as they are aggregated.
type Gathered = EventAggregator<Source, Kind, DeniedConnection>;

/// The name of the AgentIdentity that a pod is, where it is exactly one.
type Identify = dyn Fn(&Pod) -> Option<Arc<str>> + Send + Sync;

/// Takes denied connections to be written down; cheap to clone.
#[derive(Clone)]
pub(crate) struct Denials {
    queue: mpsc::Sender<DeniedConnection>,
    identify: Arc<Identify>,
    pub(crate) metrics: DeniedMetrics,
}

impl Denials {
    /// The entrance, and the exit for [`write`].
    pub(crate) fn channel(
        metrics: DeniedMetrics,
        identify: impl Fn(&Pod) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> (Self, mpsc::Receiver<DeniedConnection>) {
        let (queue, denied) = mpsc::channel(QUEUE_LENGTH);
        let denials = Self {
            queue,
            identify: Arc::new(identify),
            metrics,
        };
        (denials, denied)
    }

    /// Hands a denied connection of a pod on without waiting.
    pub(crate) fn submit(&self, denied: DeniedConnection, pod: Option<&Pod>) {
        let identity = pod.and_then(|pod| (self.identify)(pod));
        if self.queue.try_send(denied.of(identity)).is_err() {
            self.metrics.unrecorded();
        }
    }
}

/// Writes the records, a few of each kind and second as they are and the others as a count. Once `last` has fired, what waits
/// is written, and then `done` fires.
pub(crate) async fn write(
    mut denied: mpsc::Receiver<DeniedConnection>,
    audit: AuditLog,
    events: EventQueue,
    last: CancellationToken,
    done: CancellationToken,
) {
    let mut aggregator = Gathered::default();
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = last.cancelled(), if !denied.is_closed() => denied.close(),
            received = denied.recv() => {
                let Some(received) = received else { break };
                let (source, kind) = key(&received);
                if let Some(one) = aggregator.take(source, kind, received) {
                    notify(&events, &one);
                    write_one(&audit, one).await;
                }
            }
            _ = tick.tick() => write_aggregated(&mut aggregator, &audit).await,
        }
    }
    write_aggregated(&mut aggregator, &audit).await;
    done.cancel();
    std::future::pending::<()>().await;
}

/// Reports the connection at its pod. A pod that is not classified yet retries by itself, and is most often no agent's.
fn notify(events: &EventQueue, denied: &DeniedConnection) {
    let reason = match denied.cause() {
        DenialCause::Unattributed(UnattributedCause::Full) => Reason::ShareExceeded,
        DenialCause::Kernel(Some(DenyReason::Pending)) | DenialCause::Unattributed(_) => return,
        DenialCause::CgroupEscape => Reason::CgroupEscape,
        DenialCause::Kernel(_) | DenialCause::Several => Reason::AccessDenied,
    };
    let connection = denied.connection();
    let Some(caller) = &connection.caller else { return };
    let Some(PodRef { namespace, name, uid }) = caller.pod.clone() else {
        return;
    };
    // What programs are called is the pod's to choose: quoted, so that it cannot pass for Picket's words.
    let by = caller.process.as_ref().map_or(String::new(), |process| {
        let program = process.exe.as_deref().unwrap_or(&process.comm);
        format!(" (process {}, {program:?})", process.pid)
    });
    let said = match reason {
        Reason::ShareExceeded => TOO_MANY_CONNECTIONS,
        // The cgroup's path stays in the audit log.
        Reason::CgroupEscape => "A process of this pod is outside the pod's cgroup",
        _ => &connection.message,
    };
    let detail = match reason {
        Reason::ShareExceeded => denied.cause().code().to_owned(),
        _ => connection
            .kernel
            .address
            .map_or(String::new(), |address| address.to_string()),
    };
    events.report(KubeEvent {
        about: About::Pod { namespace, name, uid },
        reason,
        detail,
        note: format!("{said}{by}"),
    });
}

async fn write_aggregated(aggregator: &mut Gathered, audit: &AuditLog) {
    for aggregated in aggregator.tick() {
        write_one(audit, summary(aggregated)).await;
    }
}

/// The record of what was aggregated. It says of nobody what others did: an address or a process stands in it only where all that
/// were aggregated have it.
fn summary(aggregated: Aggregated<DeniedConnection>) -> DeniedConnection {
    let (cause, connection) = match aggregated {
        Aggregated::Alike(denied, more) => {
            let cause = denied.cause();
            let connection = denied.into_connection();
            let message = format!(
                "{} (this record stands for {more} more within a second)",
                connection.message
            );
            (
                cause,
                Connection {
                    message,
                    ..connection
                },
            )
        }
        Aggregated::Others(denied, count) => (DenialCause::Several, others(denied.connection(), count)),
        Aggregated::Everybodys(denied, count) => {
            let message =
                format!("{count} denied connections within a second, of more pods than are told apart");
            (DenialCause::Several, several(denied.connection(), message))
        }
    };
    DeniedConnection::new(cause, connection)
}

/// The record of connections of one pod.
fn others(one: &Connection, count: u32) -> Connection {
    let caller = one.caller.as_deref().map(|caller| {
        Arc::new(Caller {
            pod: caller.pod.clone(),
            service_account: caller.service_account.clone(),
            ..Caller::default()
        })
    });
    let message = format!(
        "{count} other denied connections of this pod within a second, to more addresses than are told apart"
    );
    Connection {
        caller,
        ..several(one, message)
    }
}

/// The record of connections that have nothing in common but what was done with them.
fn several(one: &Connection, message: String) -> Connection {
    Connection {
        caller: None,
        source: None,
        kernel: KernelFacts {
            hook: one.kernel.hook.clone(),
            verdict: one.kernel.verdict.clone(),
            ..KernelFacts::default()
        },
        outcome: one.outcome,
        message,
        ..Connection::default()
    }
}

async fn write_one(audit: &AuditLog, denied: DeniedConnection) {
    if let Err(error) = audit.connection(denied.into_connection()).await {
        tracing::error!(%error, "a denied connection is not in the audit log");
    }
}

fn key(denied: &DeniedConnection) -> (Source, Kind) {
    let connection = denied.connection();
    let pod = connection.caller.as_ref().and_then(|caller| caller.pod.as_ref());
    (
        pod.map(|pod| pod.uid.clone()),
        (denied.cause(), connection.kernel.address),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::spool::segment::stored_text;
    use crate::audit::{AuditConfig, ProcessRef};
    use crate::metrics::MetricsRegistry;
    use crate::notify::NotifyMetrics;

    #[tokio::test]
    async fn what_waits_when_the_agent_ends_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        let config = AuditConfig {
            directory: spool.clone(),
            ..AuditConfig::default()
        };
        let audit = AuditLog::open(&config, None).unwrap();
        let (sender, denied) =
            Denials::channel(DeniedMetrics::register(&MetricsRegistry::default()), |pod| {
                (pod.namespace == "agents").then(|| "fixer".into())
            });
        let denied_of = |pod: Option<&Pod>| {
            let connection = DeniedConnection::new(DenialCause::Kernel(None), Connection::default());
            sender.submit(connection, pod);
        };
        denied_of(Some(&Pod::for_tests("agents", "one")));
        denied_of(Some(&Pod::for_tests("shop", "web")));
        for _ in 2..15 {
            denied_of(None);
        }
        let (last, done) = (CancellationToken::new(), CancellationToken::new());
        let (events, _none) = EventQueue::channel(NotifyMetrics::register(&MetricsRegistry::default()));
        last.cancel();
        let writing = tokio::spawn(write(denied, audit.clone(), events, last, done.clone()));
        done.cancelled().await;
        audit.flush().await.unwrap();
        let text = stored_text(&spool);
        writing.abort();
        let aggregated = text.lines().last().unwrap();
        assert!(
            text.lines().count() == 11 && aggregated.contains("stands for 5 more"),
            "{text}"
        );
        let records: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records[0]["agent"]["identity"], "fixer", "{text}");
        assert!(
            records[1..]
                .iter()
                .all(|record| record["agent"]["identity"].is_null()),
            "{text}"
        );
    }

    /// One pod dials thousands of addresses; another dials one.
    #[test]
    fn what_one_pod_does_is_neither_said_of_another_nor_hides_it() {
        let denied = DenialCause::Kernel(Some(DenyReason::DeniedEndpoint));
        let connection = |pod: &str, number: u16| Connection {
            caller: Some(Arc::new(Caller {
                pod: Some(PodRef {
                    namespace: "agents".to_owned(),
                    name: pod.to_owned(),
                    uid: format!("uid-{pod}"),
                }),
                process: Some(ProcessRef {
                    pid: u32::from(number),
                    ..ProcessRef::default()
                }),
                ..Caller::default()
            })),
            kernel: KernelFacts {
                hook: "connect4".into(),
                address: Some(SocketAddr::from(([10, 0, 0, 7], number))),
                ..KernelFacts::default()
            },
            message: "the kernel denied a connect".to_owned(),
            ..Connection::default()
        };
        let dial = |pod: &str, number: u16| DeniedConnection::new(denied, connection(pod, number));
        let mut aggregator = Gathered::default();
        for number in 1..5000 {
            let connection = dial("loud", number);
            let (source, kind) = key(&connection);
            aggregator.take(source, kind, connection);
        }
        let connection = dial("quiet", 10250);
        let (source, kind) = key(&connection);
        let written = aggregator.take(source, kind, connection).expect("as it is");
        assert_eq!(written.connection().kernel.address, "10.0.0.7:10250".parse().ok());
        let aggregated: Vec<_> = aggregator.tick().into_iter().map(summary).collect();
        let [others] = &aggregated[..] else {
            panic!("{aggregated:#?}")
        };
        let others = others.connection();
        let caller = others.caller.as_ref().expect("the pod");
        assert_eq!(caller.pod.as_ref().map(|pod| pod.name.as_str()), Some("loud"));
        assert_eq!((&caller.process, others.kernel.address), (&None, None));
        assert_eq!(others.reason, "several");
        assert!(
            others
                .message
                .starts_with("4935 other denied connections of this pod"),
            "{}",
            others.message
        );
    }

    #[test]
    fn a_pod_gets_events_of_its_own_doing_with_its_words_in_quotes() {
        let (events, mut reported) =
            EventQueue::channel(NotifyMetrics::register(&MetricsRegistry::default()));
        let connection = || Connection {
            caller: Some(Arc::new(Caller {
                pod: Some(PodRef {
                    namespace: "agents".to_owned(),
                    name: "one".to_owned(),
                    uid: "u1".to_owned(),
                }),
                process: Some(ProcessRef {
                    pid: 7,
                    exe: None,
                    comm: "sh) is fine\u{202e}".to_owned(),
                    uid: 0,
                    escaped_to: None,
                }),
                ..Caller::default()
            })),
            kernel: KernelFacts {
                address: "10.0.0.7:10250".parse().ok(),
                ..KernelFacts::default()
            },
            message: "the kernel denied a connect".to_owned(),
            ..Connection::default()
        };
        for cause in [
            DenialCause::Kernel(Some(DenyReason::Pending)),
            DenialCause::Unattributed(UnattributedCause::Unknown),
            DenialCause::Kernel(Some(DenyReason::DeniedEndpoint)),
            DenialCause::CgroupEscape,
        ] {
            notify(&events, &DeniedConnection::new(cause, connection()));
        }
        let full = DenialCause::Unattributed(UnattributedCause::Full);
        for _ in 0..20 {
            notify(&events, &DeniedConnection::new(full, connection()));
        }
        let mut next = || {
            reported
                .try_recv()
                .ok()
                .map(|event| (event.reason, event.detail, event.note))
        };
        let words = r#"(process 7, "sh) is fine\u{202e}")"#;
        let which = "10.0.0.7:10250".to_owned();
        let denied = format!("the kernel denied a connect {words}");
        assert_eq!(next(), Some((Reason::AccessDenied, which.clone(), denied)));
        let escaped = format!("A process of this pod is outside the pod's cgroup {words}");
        assert_eq!(next(), Some((Reason::CgroupEscape, which, escaped)));
        let share = format!("{TOO_MANY_CONNECTIONS} {words}");
        let which = "too_many_connections".to_owned();
        assert_eq!(
            next(),
            Some((Reason::ShareExceeded, which, share)),
            "and once a minute"
        );
        assert_eq!(next(), None);
    }
}
