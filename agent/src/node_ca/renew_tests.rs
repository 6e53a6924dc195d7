//! Unit tests of exchange and renewal, against an API server with a controller that decides as it is told.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::testing::{Decision, Meeting, read};
use super::*;
use crate::metrics::MetricsRegistry;
use crate::notify::NotifyMetrics;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);
const BRIEF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(20));

/// A renewal that runs.
struct Running {
    meeting: Meeting,
    readiness: Readiness,
    events: mpsc::Receiver<KubeEvent>,
    /// Where what clients do is reported.
    queue: EventQueue,
    registry: MetricsRegistry,
    changes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn begin(meeting: Meeting) -> Self {
        Self::begin_with(meeting, HOUR)
    }

    /// With this pause between Events that say that the CA ends.
    fn begin_with(meeting: Meeting, event: Duration) -> Self {
        let (readiness, changes) = (Readiness::default(), Arc::new(AtomicUsize::default()));
        let registry = MetricsRegistry::default();
        let (queue, events) = EventQueue::channel(NotifyMetrics::register(&registry));
        let counted = Arc::clone(&changes);
        let events_of_clients = queue.clone();
        let mut renewal = NodeCaRenewal::new(meeting.exchange.clone(), readiness.clone(), queue, move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        renewal.pauses = Pauses {
            look: BRIEF.0,
            failure: BRIEF,
            refusal: BRIEF,
            event,
            distrust: HOUR,
        };
        Self {
            task: tokio::spawn(renewal.run()),
            queue: events_of_clients,
            meeting,
            readiness,
            events,
            registry,
            changes,
        }
    }

    fn said(&self) -> String {
        let failing = self.readiness.failing();
        failing
            .into_iter()
            .filter(|(part, _)| *part == PART)
            .map(|(_, reason)| reason)
            .collect()
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let waited = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(SOON, waited).await;
        assert!(waited.is_ok(), "{what}: {}", self.said());
    }

    /// How many Events the queue did not take: it lets the same pass once a minute.
    fn omitted(&self) -> u64 {
        let text = self.registry.encode().expect("text");
        let begin = "picket_kubernetes_events_total{outcome=\"omitted\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(begin));
        line.and_then(|count| count.parse().ok()).expect("a count")
    }

    async fn event(&mut self) -> KubeEvent {
        let event = timeout(SOON, self.events.recv()).await;
        event.expect("no Event").expect("the queue ended")
    }
}

#[tokio::test]
async fn a_node_without_a_ca_waits_for_the_controller_and_says_so() {
    let mut running = Running::begin(Meeting::begin(Decision::None).await);
    let waits = "CertificateSigningRequest picket-node-ca-0 waits for Picket's controller";
    running.until("it waits", |of| of.said().contains(waits)).await;
    assert!(
        running.said().contains("no client gets a TLS session"),
        "{}",
        running.said()
    );
    assert!(running.meeting.exchange.look().expect("no fault").is_none());
    running.meeting.decide(Decision::Sign);
    running.until("a CA", |of| of.said().is_empty()).await;
    let file = running.meeting.file();
    let mode = std::fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "root's alone");
    let folder = std::fs::metadata(file.parent().expect("a folder")).expect("there");
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    assert_eq!(
        (running.meeting.asked(), running.meeting.counted("success")),
        (1, 1)
    );
    assert_eq!(running.changes.load(Ordering::Relaxed), 1);
    // None is due for a day.
    let before = read(&file);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((running.meeting.asked(), read(&file)), (1, before));
    assert!(running.events.try_recv().is_err());
}

#[tokio::test]
async fn a_ca_of_a_day_is_replaced_by_one_with_a_new_key() {
    let meeting = Meeting::begin(Decision::Sign).await;
    let first = meeting.keep_since(28 * HOUR);
    let running = Running::begin(meeting);
    running
        .until("another", |of| read(&of.meeting.file()) != first)
        .await;
    let second = read(&running.meeting.file());
    let key = |pem: &[u8]| {
        String::from_utf8_lossy(pem)
            .split("-----END")
            .next()
            .map(str::to_owned)
    };
    assert!(key(&first).is_some_and(|key| key.contains("PRIVATE KEY")));
    assert_ne!(key(&first), key(&second));
    running
        .until("known", |of| of.changes.load(Ordering::Relaxed) == 1)
        .await;
    assert_eq!(running.said(), "");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason_and_the_last_ca_stays() {
    let meeting = Meeting::begin(Decision::Deny).await;
    let first = meeting.keep_since(28 * HOUR);
    let mut running = Running::begin(meeting);
    let event = running.event().await;
    assert_eq!((event.about, event.reason), (About::Node, Reason::NodeCaDenied));
    let words = "was refused: Node: the token is of node-2";
    assert!(event.note.contains(words), "{}", event.note);
    running
        .until("it tries again", |of| {
            assert_eq!(of.said(), "", "the CA in use has two days left");
            of.meeting.asked() > 2
        })
        .await;
    assert!(running.meeting.counted("denied") > 1);
    assert_eq!(read(&running.meeting.file()), first);
    running.meeting.decide(Decision::Sign);
    running
        .until("a new one", |of| read(&of.meeting.file()) != first)
        .await;
    assert_eq!(running.said(), "");
}

#[tokio::test]
async fn a_refusal_fails_the_agent_once_its_ca_nears_its_end() {
    let meeting = Meeting::begin(Decision::Deny).await;
    meeting.keep_since(50 * HOUR);
    let running = Running::begin(meeting);
    let words = "was refused: Node: the token is of node-2";
    running.until("it fails", |of| of.said().contains(words)).await;
    assert!(
        running.said().starts_with("the node CA ends at "),
        "{}",
        running.said()
    );
    running.meeting.decide(Decision::Sign);
    running.until("a new one", |of| of.said().is_empty()).await;
}

#[tokio::test]
async fn the_end_of_a_ca_is_told_again_and_again() {
    let meeting = Meeting::begin(Decision::None).await;
    meeting.keep_since(50 * HOUR);
    let mut running = Running::begin_with(meeting, BRIEF.0);
    assert_eq!(running.event().await.reason, Reason::NodeCaExpiring);
    running.until("it is told again", |of| of.omitted() > 1).await;
}

#[tokio::test]
async fn a_certificate_of_another_key_is_not_used() {
    let meeting = Meeting::begin(Decision::SignAnother).await;
    let first = meeting.keep_since(28 * HOUR);
    let mut running = Running::begin(meeting);
    let words = "is not used: the issued certificate:1: this is not the key of the certificate";
    assert!(running.event().await.note.contains(words));
    running
        .until("it is counted", |of| of.meeting.counted("refused") > 0)
        .await;
    assert_eq!(running.said(), "", "the CA in use has two days left");
    assert_eq!(read(&running.meeting.file()), first);
    assert_eq!(running.changes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn while_the_controller_is_away_the_last_ca_is_used_and_its_end_is_told_in_time() {
    let meeting = Meeting::begin(Decision::None).await;
    meeting.keep_since(28 * HOUR);
    let running = Running::begin(meeting);
    running
        .until("it asks", |of| of.meeting.exchange.waiting().is_some())
        .await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(running.said(), "", "it has two days left");
    drop(running);

    let meeting = Meeting::begin(Decision::None).await;
    let first = meeting.keep_since(50 * HOUR);
    let mut running = Running::begin(meeting);
    let event = running.event().await;
    assert_eq!(event.reason, Reason::NodeCaExpiring);
    let waits = "CertificateSigningRequest picket-node-ca-0 waits for Picket's controller";
    running.until("it is told", |of| of.said().contains(waits)).await;
    assert!(
        running.said().contains("the node CA ends at "),
        "{}",
        running.said()
    );
    assert_eq!(
        (running.meeting.asked(), read(&running.meeting.file())),
        (1, first)
    );
    // It looks several times meanwhile.
    tokio::time::sleep(10 * BRIEF.0).await;
    assert!(running.events.try_recv().is_err());
    assert_eq!(running.omitted(), 0, "once an hour");
}

#[tokio::test]
async fn a_request_that_is_gone_is_made_anew_and_a_missing_right_is_named() {
    let running = Running::begin(Meeting::begin(Decision::Remove).await);
    running.until("it asks again", |of| of.meeting.asked() > 1).await;
    running
        .until("it says so", |of| {
            of.said().contains("is gone, and nobody decided on it")
        })
        .await;
    running.meeting.decide(Decision::Code(403));
    running
        .until("it says so", |of| of.said().contains("no, and here is why"))
        .await;
    assert!(running.meeting.counted("failure") > 1);
    running.meeting.decide(Decision::Code(500));
    running.meeting.decide(Decision::Sign);
    running.until("a CA", |of| of.said().is_empty()).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_replaced() {
    let meeting = Meeting::begin(Decision::None).await;
    meeting.keep_since(28 * HOUR);
    std::fs::write(meeting.file(), "broken").expect("written");
    let running = Running::begin(meeting);
    running
        .until("it is named", |of| {
            of.said().contains("node-ca.pem:1: no certificate in it")
        })
        .await;
    running.meeting.decide(Decision::Sign);
    running.until("a CA", |of| of.said().is_empty()).await;
}

#[tokio::test]
async fn of_two_agents_of_a_node_one_asks() {
    let meeting = Meeting::begin(Decision::None).await;
    let (one, other) = (meeting.exchange.clone(), meeting.exchange.clone());
    let asking = tokio::spawn(async move { one.exchange(None).await.map_err(|error| error.to_string()) });
    let asked = async {
        while meeting.asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, asked).await.expect("nobody asks");
    let exchanged = other.exchange(None).await.expect("no fault");
    assert_eq!(exchanged, Exchanged::Elsewhere);
    // A successor waits for what its predecessor gets.
    let waiting = tokio::spawn(async move {
        other.first(SOON).await;
        other.exchange(None).await.map_err(|error| error.to_string())
    });
    meeting.decide(Decision::Sign);
    assert_eq!(asking.await.expect("no panic"), Ok(Exchanged::New));
    assert_eq!(waiting.await.expect("no panic"), Ok(Exchanged::Current));
    assert_eq!(meeting.asked(), 1);
}

#[tokio::test]
async fn who_must_not_begin_without_a_ca_gets_one_or_waits_no_longer_than_it_may() {
    let meeting = Meeting::begin(Decision::None).await;
    meeting.exchange.first(Duration::from_millis(100)).await;
    assert_eq!(read(&meeting.file()), b"");
    meeting.decide(Decision::Sign);
    meeting.exchange.first(SOON).await;
    assert!(meeting.exchange.look().is_ok_and(|kept| kept.is_some()));
    let asked = meeting.asked();
    meeting.exchange.first(SOON).await;
    assert_eq!(meeting.asked(), asked, "there is one");
}

#[test]
fn distrust_brings_a_new_ca_ever_more_seldom_and_once_an_hour_at_least() {
    let (mut distrust, mut now) = (Distrust::new(MINUTE), Instant::now());
    assert!(distrust.may_ask(now));
    // A pod that starts again every five minutes.
    let mut pauses = Vec::new();
    let mut last = now;
    distrust.brought_one(now);
    while pauses.len() < 8 {
        now += 5 * MINUTE;
        if distrust.may_ask(now) {
            pauses.push(now.duration_since(last).as_secs() / 60);
            last = now;
            distrust.brought_one(now);
        }
    }
    assert_eq!(pauses, [5, 5, 5, 10, 20, 35, 60, 60]);
    // After a quiet time it is news again.
    now += 2 * HOUR;
    distrust.brought_one(now);
    assert!(!distrust.may_ask(now + MINUTE / 2) && distrust.may_ask(now + MINUTE));
}

#[tokio::test]
async fn a_client_that_rejects_the_certificate_brings_one_new_ca_in_a_while() {
    let running = Running::begin(Meeting::begin(Decision::Sign).await);
    running
        .until("a CA", |of| of.changes.load(Ordering::Relaxed) == 1)
        .await;
    let reject = || {
        running.queue.report(KubeEvent {
            about: About::Node,
            reason: Reason::CertificateRejected,
            detail: String::new(),
            note: String::new(),
        });
    };
    reject();
    running
        .until("another CA", |of| of.changes.load(Ordering::Relaxed) == 2)
        .await;
    for _ in 0..5 {
        reject();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(running.meeting.asked(), 2, "any pod can reject a certificate");
    assert!(running.said().is_empty(), "{}", running.said());
}
