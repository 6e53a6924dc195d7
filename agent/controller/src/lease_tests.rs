//! Tests of the election, by a clock that the tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::core::Status;
use parking_lot::Mutex;
use picket_metrics::MetricsRegistry;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::*;

/// A Lease in memory, as the API server keeps it.
#[derive(Debug, Clone, Default)]
struct Shared {
    lease: Arc<Mutex<Option<Lease>>>,
    /// Whose requests fail.
    away: Arc<Mutex<Vec<String>>>,
    /// Whose requests have no answer.
    silent: Arc<Mutex<Vec<String>>>,
}

/// One replica's way to it.
#[derive(Debug, Clone)]
struct Way {
    shared: Shared,
    identity: String,
}

fn failure(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status::failure("no", "No").with_code(code)))
}

impl Way {
    async fn check(&self) -> Result<(), kube::Error> {
        if self.shared.silent.lock().contains(&self.identity) {
            std::future::pending::<()>().await;
        }
        match self.shared.away.lock().contains(&self.identity) {
            true => Err(failure(503)),
            false => Ok(()),
        }
    }

    async fn write(&self, lease: &Lease, before: Option<&str>) -> Result<Lease, kube::Error> {
        self.check().await?;
        let mut kept = self.shared.lease.lock();
        let version = kept
            .as_ref()
            .and_then(|lease| lease.metadata.resource_version.clone());
        if version.as_deref() != before {
            return Err(failure(409));
        }
        let next = version.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(next.to_string());
        *kept = Some(lease.clone());
        Ok(lease)
    }
}

impl LeaseStore for Way {
    async fn get(&self) -> Result<Option<Lease>, kube::Error> {
        self.check().await?;
        Ok(self.shared.lease.lock().clone())
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.write(lease, None).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.write(lease, lease.metadata.resource_version.as_deref())
            .await
    }
}

/// A replica that runs, and how many of all work now.
struct Replica {
    task: tokio::task::JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Default)]
struct Working {
    now: Arc<AtomicUsize>,
    /// How often work began.
    begun: Arc<AtomicUsize>,
}

struct AtWork(Working);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Working {
    fn begin(&self) -> AtWork {
        self.begun.fetch_add(1, Ordering::SeqCst);
        assert_eq!(
            self.now.fetch_add(1, Ordering::SeqCst),
            0,
            "two replicas work at once"
        );
        AtWork(self.clone())
    }

    fn count(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

fn replica(shared: &Shared, identity: &str, working: &Working) -> Replica {
    let (_, faults) = watch::channel(None);
    let way = Way {
        shared: shared.clone(),
        identity: identity.to_owned(),
    };
    let metrics = ControllerMetrics::register(&MetricsRegistry::default());
    let candidate = Candidate::new(way, identity.to_owned(), Health::new(faults), metrics);
    let (stop, stopped) = oneshot::channel::<()>();
    let working = working.clone();
    let task = tokio::spawn(candidate.run(async move { drop(stopped.await) }, move || {
        let working = working.clone();
        async move {
            let _at_work = working.begin();
            std::future::pending::<()>().await;
        }
    }));
    Replica {
        task,
        stop: Some(stop),
    }
}

fn leader(shared: &Shared) -> String {
    shared
        .lease
        .lock()
        .as_ref()
        .map(|lease| holder(lease).to_owned())
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn one_of_two_works_and_the_other_takes_over_when_it_dies() {
    let (shared, working) = (Shared::default(), Working::default());
    let first = replica(&shared, "one", &working);
    sleep(RETRY / 2).await;
    let _second = replica(&shared, "two", &working);
    sleep(DURATION * 4).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("one", 1));
    first.task.abort();
    sleep(DURATION - 2 * RETRY).await;
    assert_eq!(
        (leader(&shared).as_str(), working.count()),
        ("one", 0),
        "the Lease still counts"
    );
    sleep(4 * RETRY).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("two", 1));
    let transitions = shared
        .lease
        .lock()
        .as_ref()
        .unwrap()
        .spec
        .as_ref()
        .unwrap()
        .lease_transitions;
    assert_eq!(transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_renew_stops_before_another_may_lead() {
    let (shared, working) = (Shared::default(), Working::default());
    let _first = replica(&shared, "one", &working);
    sleep(DURATION).await;
    let _second = replica(&shared, "two", &working);
    sleep(DURATION).await;
    shared.away.lock().push("one".to_owned());
    // `begin` fails the test if the second one begins while the first one works.
    sleep(RENEW_DEADLINE + RETRY).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("one", 0));
    sleep(DURATION).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("two", 1));
    shared.away.lock().clear();
    sleep(4 * DURATION).await;
    assert_eq!(
        (leader(&shared).as_str(), working.count()),
        ("two", 1),
        "it stays where it is"
    );
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_requests_have_no_answer_stops_before_another_may_lead() {
    let (shared, working) = (Shared::default(), Working::default());
    let _first = replica(&shared, "one", &working);
    sleep(DURATION).await;
    let _second = replica(&shared, "two", &working);
    sleep(DURATION).await;
    shared.silent.lock().push("one".to_owned());
    sleep(RENEW_DEADLINE + RETRY).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("one", 0));
    sleep(DURATION).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("two", 1));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_stopped_waits_a_moment_for_the_lease_to_be_given_back() {
    let (shared, working) = (Shared::default(), Working::default());
    let mut first = replica(&shared, "one", &working);
    sleep(DURATION).await;
    shared.silent.lock().push("one".to_owned());
    drop(first.stop.take());
    let ended = timeout(2 * RETRY, first.task).await;
    ended.expect("it waits for the API server").unwrap();
    assert_eq!((leader(&shared).as_str(), working.count()), ("one", 0));
}

#[tokio::test(start_paused = true)]
async fn a_short_silence_of_the_api_server_changes_nothing() {
    let (shared, working) = (Shared::default(), Working::default());
    let _first = replica(&shared, "one", &working);
    sleep(DURATION).await;
    shared.away.lock().push("one".to_owned());
    sleep(RENEW_DEADLINE - 2 * RETRY).await;
    shared.away.lock().clear();
    sleep(DURATION).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("one", 1));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_stopped_gives_the_lease_back() {
    let (shared, working) = (Shared::default(), Working::default());
    let mut first = replica(&shared, "one", &working);
    sleep(DURATION).await;
    drop(first.stop.take());
    first.task.await.unwrap();
    assert_eq!((leader(&shared).as_str(), working.count()), ("", 0));
    let _second = replica(&shared, "two", &working);
    sleep(RETRY).await;
    assert_eq!((leader(&shared).as_str(), working.count()), ("two", 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_took_or_deleted_ends_the_work() {
    let (shared, working) = (Shared::default(), Working::default());
    let _first = replica(&shared, "one", &working);
    sleep(DURATION).await;
    let mut lease = shared.lease.lock().clone().unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("a person".to_owned());
    lease.metadata.resource_version = Some("1000".to_owned());
    *shared.lease.lock() = Some(lease);
    sleep(2 * RETRY).await;
    assert_eq!(working.count(), 0);
    sleep(DURATION + RETRY).await;
    assert_eq!(
        (leader(&shared).as_str(), working.count()),
        ("one", 1),
        "the person renews nothing"
    );
    assert_eq!(working.begun(), 2);
    *shared.lease.lock() = None;
    sleep(RETRY + RETRY / 2).await;
    assert_eq!(
        (leader(&shared).as_str(), working.count()),
        ("one", 1),
        "it is made again, by a new election"
    );
    assert_eq!(
        working.begun(),
        3,
        "whoever led by the Lease that is gone stopped"
    );
}

/// What the work knows of the cluster, and its watches, are of a time that is gone.
#[tokio::test(start_paused = true)]
async fn an_older_lease_has_the_work_begin_anew_and_one_replica_do_it() {
    let (shared, working) = (Shared::default(), Working::default());
    let _first = replica(&shared, "one", &working);
    sleep(RETRY / 2).await;
    let _second = replica(&shared, "two", &working);
    let backup = shared.lease.lock().clone();
    sleep(10 * DURATION).await;
    assert_eq!(working.begun(), 1);
    *shared.lease.lock() = backup.clone();
    sleep(2 * RETRY).await;
    assert_eq!(
        (leader(&shared).as_str(), working.count(), working.begun()),
        ("one", 1, 2)
    );
    sleep(10 * DURATION).await;
    assert_eq!(working.begun(), 2, "it goes on");
    // One that another replica held, which is gone.
    let mut other = backup.unwrap();
    other.spec.as_mut().unwrap().holder_identity = Some("three".to_owned());
    *shared.lease.lock() = Some(other);
    sleep(2 * RETRY).await;
    assert_eq!(working.count(), 0, "the Lease of another counts");
    sleep(DURATION).await;
    assert_eq!((working.count(), working.begun()), (1, 3));
}

#[test]
fn a_lease_counts_from_when_it_was_seen_to_change() {
    let now = Instant::now();
    let lease = |holder: &str, seconds: Option<i32>| Lease {
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            // A clock of another time says nothing.
            renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }),
        ..Lease::default()
    };
    let free = |lease: &Lease, after: Duration| is_free(lease, "me", now, now + after);
    let second = Duration::from_secs(1);
    assert!(!free(&lease("other", Some(15)), 14 * second));
    assert!(free(&lease("other", Some(15)), 15 * second));
    assert!(!free(&lease("other", None), 14 * second));
    assert!(free(&lease("", Some(15)), Duration::ZERO));
    assert!(free(&lease("me", Some(15)), Duration::ZERO));
    assert!(
        free(&Lease::default(), Duration::ZERO),
        "a Lease that the chart made"
    );
}
