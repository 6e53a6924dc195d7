//! Tests of the registry, and what other tests of the module begin with.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use picket_policy::Impersonate;

use super::*;
use crate::audit::PodRef;
use crate::metrics::MetricsRegistry;

/// Permits while the test wants it to, and until a moment.
#[derive(Default)]
struct Fake {
    refuses: AtomicBool,
    until: Option<Timestamp>,
    judged: AtomicU64,
}

impl Judge for Fake {
    fn judge(&self, _facts: &Facts, now: Timestamp) -> Result<Option<Timestamp>, Rejection> {
        self.judged.fetch_add(1, Ordering::SeqCst);
        if self.refuses.load(Ordering::SeqCst) || self.until.is_some_and(|until| now >= until) {
            return Err(refusal());
        }
        Ok(self.until)
    }
}

#[derive(Default)]
struct Stops(Mutex<Vec<&'static str>>);

impl Stop for Stops {
    fn stop(&self, ending: &Arc<Ending>) {
        self.0.lock().push(ending.cause);
    }
}

fn refusal() -> Rejection {
    Rejection::Identity(crate::identity::IdentityError::Suspended {
        identity: "fixer".to_owned(),
        owner: "team-a".to_owned(),
    })
}

fn request() -> KubeRequest {
    let uri = Uri::from_static("/api/v1/namespaces/n/pods?watch=true");
    KubeRequest::read(&Method::GET, &uri, &HeaderMap::new()).expect("reads")
}

pub(crate) fn facts(kind: SessionKind, identity: &str) -> Facts {
    Facts {
        id: AuditId::random(),
        kind,
        protocol: "http",
        identity: identity.into(),
        caller: Arc::new(Caller {
            pod: Some(PodRef {
                namespace: "agents".to_owned(),
                name: "fixer-1".to_owned(),
                uid: "u".to_owned(),
            }),
            ..Caller::default()
        }),
        request: Arc::new(request()),
        user: Arc::new(UpstreamUser::Impersonated(Impersonate {
            user: "agent:fixer".to_owned(),
            groups: Vec::new(),
        })),
        approved: false,
        filter: None,
        credential: None,
        started: Timestamp::now(),
    }
}

/// For the tests of bodies and tunnels.
pub(in crate::session) fn ending(since: Instant) -> Ending {
    Ending::new(
        &Rejection::Killed("why".to_owned()),
        SessionKind::Exec,
        &request(),
        since,
    )
}

/// Likewise, for tests of other modules: of this agent, with bytes that went both ways.
pub(crate) fn running(registry: &Registry, kind: SessionKind, identity: &str) -> Registered {
    running_as(registry, facts(kind, identity))
}

/// Likewise, under a known id.
pub(crate) fn running_with_id(registry: &Registry, id: AuditId) -> Registered {
    running_as(
        registry,
        Facts {
            id,
            ..facts(SessionKind::Watch, "triage")
        },
    )
}

fn running_as(registry: &Registry, facts: Facts) -> Registered {
    let judge = Arc::new(Fake::default());
    let stop = Arc::new(Stops::default());
    let traffic = Arc::new(Traffic::default());
    traffic.sent(2048);
    registry
        .register(registry.ticket(), facts, None, judge, stop, traffic)
        .expect("permitted")
}

/// A session that nothing but a kill ends.
pub(in crate::session) fn register(
    registry: &Registry,
    kind: SessionKind,
    stop: Arc<dyn Stop>,
    traffic: &Arc<Traffic>,
) -> Registered {
    let judge = Arc::new(Fake::default());
    registry
        .register(
            registry.ticket(),
            facts(kind, "fixer"),
            None,
            judge,
            stop,
            Arc::clone(traffic),
        )
        .expect("permitted")
}

fn enter(
    registry: &Registry,
    ticket: Ticket,
    judge: &Arc<Fake>,
    stop: &Arc<Stops>,
) -> Result<Registered, Rejection> {
    enter_as(registry, ticket, facts(SessionKind::Watch, "fixer"), judge, stop)
}

fn enter_as(
    registry: &Registry,
    ticket: Ticket,
    facts: Facts,
    judge: &Arc<Fake>,
    stop: &Arc<Stops>,
) -> Result<Registered, Rejection> {
    let (judge, stop) = (Arc::clone(judge), Arc::clone(stop));
    let until = judge.until;
    registry.register(ticket, facts, until, judge, stop, Arc::default())
}

#[test]
fn an_entry_goes_with_its_holder() {
    let registry = Registry::default();
    let (judge, stop) = (Arc::new(Fake::default()), Arc::new(Stops::default()));
    let first = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    let second = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    assert_eq!(registry.count(), 2);
    drop(first);
    assert_eq!(registry.count(), 1);
    drop(second);
    assert_eq!(registry.count(), 0);
    assert!(stop.0.lock().is_empty());
}

#[test]
fn a_sweep_ends_what_would_be_refused_and_nothing_else() {
    let registry = Registry::default();
    let (good, bad) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let (stays, goes) = (Arc::new(Stops::default()), Arc::new(Stops::default()));
    let _first = enter(&registry, registry.ticket(), &good, &stays).expect("permitted");
    let _second = enter(&registry, registry.ticket(), &bad, &goes).expect("permitted");
    assert_eq!(registry.sweep(Instant::now()), 0);
    bad.refuses.store(true, Ordering::SeqCst);
    assert_eq!(registry.sweep(Instant::now()), 1);
    assert_eq!(
        (stays.0.lock().len(), goes.0.lock().as_slice()),
        (0, &["identity_suspended"][..])
    );
    assert_eq!(registry.count(), 1);
    // Once is enough.
    assert_eq!(registry.sweep(Instant::now()), 0);
    assert_eq!(goes.0.lock().len(), 1);
}

/// Has the session killed while it is judged, and refuses it.
struct Killing(Registry);

impl Judge for Killing {
    fn judge(&self, _facts: &Facts, _now: Timestamp) -> Result<Option<Timestamp>, Rejection> {
        assert_eq!(self.0.kill(&SessionSelector::default(), "enough").len(), 1);
        Err(refusal())
    }
}

#[test]
fn a_session_that_is_killed_while_it_is_judged_ends_once() {
    let registry = Registry::default();
    let (judge, stop) = (Arc::new(Killing(registry.clone())), Arc::new(Stops::default()));
    let facts = facts(SessionKind::Watch, "fixer");
    let stopped = Arc::clone(&stop);
    let _registered = registry
        .register(registry.ticket(), facts, None, judge, stopped, Arc::default())
        .expect("permitted");
    assert_eq!(registry.sweep(Instant::now()), 0, "the kill was first");
    assert_eq!(*stop.0.lock(), ["session_killed"]);
}

#[tokio::test]
async fn a_sweep_finds_the_next_expiry_anew() {
    let registry = Registry::default();
    let soon = Timestamp::now() + Duration::from_millis(300);
    let judge = Arc::new(Fake {
        until: Some(soon),
        ..Fake::default()
    });
    let stop = Arc::new(Stops::default());
    let registered = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    let expires = async |limit| {
        let limit = Duration::from_millis(limit);
        tokio::time::timeout(limit, registry.expired()).await.is_ok()
    };
    // The session's own moment stands after a sweep too.
    assert_eq!(registry.sweep(Instant::now()), 0);
    assert!(expires(5_000).await && Timestamp::now() >= soon);
    assert_eq!(registry.sweep(Instant::now()), 1);
    drop(registered);
    assert!(!expires(50).await, "nothing is left that time ends");
}

#[test]
fn who_registers_after_the_sweep_of_a_change_is_judged_by_it() {
    let registry = Registry::default();
    let (judge, stop) = (Arc::new(Fake::default()), Arc::new(Stops::default()));
    // The request was judged before the change, and the sweep does not find it.
    let ticket = registry.ticket();
    judge.refuses.store(true, Ordering::SeqCst);
    registry.sweep(Instant::now());
    let refused = enter(&registry, ticket, &judge, &stop).expect_err("refused");
    assert_eq!(refused.code(), "identity_suspended");
    assert_eq!(registry.count(), 0);
    // Who was judged after it is not judged twice.
    judge.refuses.store(false, Ordering::SeqCst);
    let before = judge.judged.load(Ordering::SeqCst);
    let _entered = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    assert_eq!(judge.judged.load(Ordering::SeqCst), before);
}

#[test]
fn no_session_outlives_a_change_however_the_two_meet() {
    let registry = Registry::default();
    for _ in 0..200 {
        let (judge, stop) = (Arc::new(Fake::default()), Arc::new(Stops::default()));
        let start = std::sync::Barrier::new(2);
        let held = std::thread::scope(|scope| {
            let entering = scope.spawn(|| {
                start.wait();
                let ticket = registry.ticket();
                // What the pipeline does before: the request is judged by what holds now.
                if judge.refuses.load(Ordering::SeqCst) {
                    return None;
                }
                enter(&registry, ticket, &judge, &stop).ok()
            });
            start.wait();
            judge.refuses.store(true, Ordering::SeqCst);
            registry.sweep(Instant::now());
            entering.join().expect("no panic")
        });
        let ended = stop.0.lock().len();
        assert!(held.is_none() || ended == 1, "it runs on");
        assert_eq!(registry.count(), 0);
    }
}

#[test]
fn kills_are_by_id_identity_and_kind() {
    let registry = Registry::default();
    let (judge, stop) = (Arc::new(Fake::default()), Arc::new(Stops::default()));
    let enter = |kind, identity| {
        let facts = facts(kind, identity);
        let id = facts.id;
        (
            id,
            enter_as(&registry, registry.ticket(), facts, &judge, &stop).expect("permitted"),
        )
    };
    let (id, _one) = enter(SessionKind::Watch, "fixer");
    let (_, _two) = enter(SessionKind::Exec, "fixer");
    let (other, _three) = enter(SessionKind::Exec, "other");
    let of = |identity: &str, kind| SessionSelector {
        identity: Some(identity.to_owned()),
        kind,
        ..SessionSelector::default()
    };
    assert_eq!(registry.list(&of("fixer", None)).len(), 2);
    assert_eq!(
        registry.list(&of("fix", None)).len(),
        0,
        "a name is compared whole"
    );
    assert_eq!(
        registry.list(&SessionSelector::default())[0].facts.id,
        id,
        "the oldest first"
    );
    let by_id = |id: &str| SessionSelector {
        id: Some(id.to_owned()),
        ..SessionSelector::default()
    };
    assert_eq!(registry.kill(&by_id(&id.to_string()[..8]), "why"), [id]);
    assert_eq!(registry.kill(&by_id(&id.to_string()[..8]), "why"), []);
    assert_eq!(
        registry.kill(&of("other", Some(SessionKind::Exec)), "why"),
        [other]
    );
    assert_eq!(registry.count(), 1);
    assert_eq!(*stop.0.lock(), ["session_killed"; 2]);
}

#[tokio::test]
async fn the_next_expiry_wakes_whoever_waits_also_when_it_comes_closer() {
    let registry = Registry::default();
    let stop = Arc::new(Stops::default());
    let in_a = |milliseconds| {
        Arc::new(Fake {
            until: Some(Timestamp::now() + Duration::from_millis(milliseconds)),
            ..Fake::default()
        })
    };
    let _late = enter(&registry, registry.ticket(), &in_a(3_600_000), &stop).expect("permitted");
    let waiting = registry.clone();
    let expired = tokio::spawn(async move { waiting.expired().await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!expired.is_finished());
    let began = Instant::now();
    let soon = in_a(100);
    let _soon = enter(&registry, registry.ticket(), &soon, &stop).expect("permitted");
    expired.await.expect("no panic");
    assert!(
        began.elapsed() >= Duration::from_millis(90),
        "{:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(registry.sweep(Instant::now()), 1);
    assert_eq!(registry.count(), 1);
}

#[tokio::test]
async fn changes_of_policy_and_pods_and_time_each_sweep() {
    let registry = Registry::default();
    let (policy, changes) = tokio::sync::watch::channel(0);
    let pods = crate::workload::PodChanges::default();
    let running = tokio::spawn(super::super::rejudge(registry.clone(), changes, pods.clone()));
    let stop = Arc::new(Stops::default());
    for change in [0, 1, 2] {
        let judge = Arc::new(Fake {
            until: (change == 2).then(|| Timestamp::now() + Duration::from_millis(50)),
            ..Fake::default()
        });
        let _held = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
        match change {
            0 => {
                judge.refuses.store(true, Ordering::SeqCst);
                policy.send_modify(|generation| *generation += 1);
            }
            1 => {
                judge.refuses.store(true, Ordering::SeqCst);
                pods.changed();
            }
            _ => {}
        }
        let began = Instant::now();
        while registry.count() > 0 {
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "change {change} ended nothing"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    running.abort();
}

/// Panics when it is asked.
struct Broken;

impl Judge for Broken {
    fn judge(&self, _: &Facts, _: Timestamp) -> Result<Option<Timestamp>, Rejection> {
        panic!("a fault in the judge");
    }
}

#[tokio::test]
async fn where_sessions_cannot_be_judged_again_they_end() {
    let registry = Registry::default();
    let stop = Arc::new(Stops::default());
    let (policy, changes) = tokio::sync::watch::channel(0);
    let running = tokio::spawn(super::super::rejudge(
        registry.clone(),
        changes,
        Default::default(),
    ));
    let _held = registry
        .register(
            registry.ticket(),
            facts(SessionKind::Watch, "fixer"),
            None,
            Arc::new(Broken),
            Arc::clone(&stop) as Arc<dyn Stop>,
            Arc::default(),
        )
        .expect("permitted");
    policy.send_modify(|generation| *generation += 1);
    let began = Instant::now();
    while registry.count() > 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "it runs on unjudged");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*stop.0.lock(), ["internal"]);
    running.abort();
}

#[test]
fn thousands_are_judged_and_ended_well_within_the_goal() {
    const SESSIONS: usize = 5000;
    let registry = Registry::default();
    let (judge, stop) = (Arc::new(Fake::default()), Arc::new(Stops::default()));
    let held: Vec<_> = (0..SESSIONS)
        .map(|_| enter(&registry, registry.ticket(), &judge, &stop).expect("permitted"))
        .collect();
    let began = Instant::now();
    assert_eq!(registry.sweep(began), 0);
    let judged = began.elapsed();
    judge.refuses.store(true, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(registry.sweep(began), SESSIONS);
    let ended = began.elapsed();
    println!("{SESSIONS} sessions: judged in {judged:?}, ended in {ended:?}");
    assert_eq!(stop.0.lock().len(), SESSIONS);
    // The goal is 100 ms with the policy engine and in a release build; this is debug, on a machine that may be busy.
    assert!(
        judged + ended < Duration::from_secs(2),
        "{judged:?} and {ended:?}"
    );
    drop(held);
}

#[test]
fn what_is_open_and_how_sessions_ended_is_counted() {
    let all = MetricsRegistry::default();
    let registry = Registry::new(SessionMetrics::register(&all), Epoch::default());
    let (judge, stop) = (Arc::new(Fake::default()), Arc::new(Stops::default()));
    let first = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    let second = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    let _third = enter(&registry, registry.ticket(), &judge, &stop).expect("permitted");
    drop(first);
    let id = Some(second.entry.facts.id.to_string());
    registry.kill(
        &SessionSelector {
            id,
            ..SessionSelector::default()
        },
        "why",
    );
    drop(second);
    let text = all.encode().expect("text");
    for line in [
        "picket_sessions{kind=\"watch\"} 1",
        "picket_sessions{kind=\"exec\"} 0",
        "picket_sessions_ended_total{kind=\"watch\",cause=\"closed\"} 1",
        "picket_sessions_ended_total{kind=\"watch\",cause=\"session_killed\"} 1",
        "picket_session_end_duration_seconds_count 1",
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "{line} is missing in\n{text}"
        );
    }
}
