//! Requests of an agent under limits, at moments that the tests choose.

use super::*;
use crate::metrics::MetricsRegistry;

/// Two identities, and policies of these names with these fields.
fn policies(of_policies: &[(&str, &str)]) -> PolicySet {
    let mut text = String::new();
    for name in ["fixer", "other"] {
        text += &format!(
            "---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: team-a, attest: {{pod: \
             {{namespace: n, serviceAccount: {name}}}}}}}\n"
        );
    }
    for (name, spec) in of_policies {
        text += &format!(
            "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        );
    }
    let documents = picket_policy::read_documents("f.yaml", &text).expect("valid");
    PolicySet::compile(documents).expect("a policy set")
}

/// The limits of a node, and an agent of it.
struct Node {
    limits: RequestLimits,
    registry: MetricsRegistry,
    principal: Principal,
    name: Arc<str>,
}

impl Node {
    fn new() -> Node {
        let registry = MetricsRegistry::default();
        Node {
            limits: RequestLimits::new(LimitMetrics::register(&registry)),
            registry,
            principal: crate::identity::testing::principal("fixer", "n", "p"),
            name: "fixer".into(),
        }
    }

    /// Another agent of the same node.
    fn other(&mut self) {
        self.principal = crate::identity::testing::principal("other", "n", "q");
        self.name = "other".into();
    }

    fn asker<'a>(&'a self, policies: &'a PolicySet) -> Asker<'a> {
        Asker {
            policies,
            principal: &self.principal,
            name: &self.name,
        }
    }

    fn admit(&self, policies: &PolicySet, now: u64) -> Result<Admitted, LimitExceeded> {
        self.limits.admit(self.asker(policies), now)
    }

    fn refused(
        &self,
        policies: &PolicySet,
        line: &str,
        by: &str,
        now: u64,
    ) -> Result<Option<FiredRule>, LimitExceeded> {
        let refusal = || "not so".to_owned();
        let id = AuditId::of(u128::from(now));
        self.limits
            .refused(self.asker(policies), &request(line), (by, &refusal), id, now)
    }

    fn shows(&self, line: &str) {
        let text = self.registry.encode().expect("text");
        assert!(
            text.lines().any(|have| have == line),
            "{line} is missing in\n{text}"
        );
    }
}

fn request(line: &str) -> KubeRequest {
    let (method, target) = line.split_once(' ').expect("a line");
    let method = method.parse().expect("a method");
    let target = target.parse().expect("a target");
    KubeRequest::read(&method, &target, &http::HeaderMap::new()).expect("a request")
}

fn ends(admitted: Admitted) {
    admitted.counts.expect("counted").ended();
}

#[test]
fn a_burst_passes_and_the_next_is_told_which_limit_when_and_whom() {
    let (mut node, set) = (
        Node::new(),
        policies(&[("p", "limits: {requestsPerSecond: 2, burst: 3}")]),
    );
    for _ in 0..3 {
        assert!(node.admit(&set, 0).is_ok());
    }
    let exceeded = node.admit(&set, 0).expect_err("the burst is over");
    assert_eq!(
        exceeded.to_string(),
        "agent fixer sends more than 2 requests a second, 3 at once (policy p, limits.requestsPerSecond). Try again after 1 second; \
         ask o if the agent needs more"
    );
    assert_eq!(
        (exceeded.kind().code(), exceeded.policy(), exceeded.retry_after()),
        ("rate_limited", "p", 1)
    );
    assert!(exceeded.is_news());
    assert!(!node.admit(&set, 1).expect_err("still").is_news(), "told once");
    assert!(node.admit(&set, SECOND / 2).is_ok());
    node.shows("picket_limited_requests_total{limit=\"requestsPerSecond\",mode=\"Enforce\"} 2");
    node.other();
    assert!(node.admit(&set, 0).is_ok(), "an identity has its own bucket");
}

#[test]
fn a_limit_that_stays_keeps_its_counts_over_a_reload() {
    let (node, field) = (
        Node::new(),
        "limits: {requestsPerSecond: 1, burst: 2, concurrentRequests: 5}",
    );
    let (before, after) = (
        policies(&[("p", field)]),
        policies(&[("p", field), ("q", "limits: {requestsPerSecond: 9}")]),
    );
    let running = [
        node.admit(&before, 0).expect("one"),
        node.admit(&before, 0).expect("two"),
    ];
    assert!(node.admit(&after, 0).is_err(), "a reload fills no bucket");
    let fewer = policies(&[("p", "limits: {concurrentRequests: 2}")]);
    assert_eq!(
        node.admit(&fewer, SECOND).expect_err("two are under way").kind(),
        LimitKind::Concurrent
    );
    running.into_iter().for_each(ends);
    assert!(node.admit(&fewer, SECOND).is_ok());
    assert!(
        node.admit(&policies(&[]), SECOND)
            .expect("no limit")
            .counts
            .is_none()
    );
}

#[test]
fn as_many_requests_as_the_limit_says_are_under_way() {
    let (node, set) = (Node::new(), policies(&[("p", "limits: {concurrentRequests: 2}")]));
    let first = node.admit(&set, 0).expect("one");
    let second = node.admit(&set, 0).expect("two");
    let exceeded = node.admit(&set, 0).expect_err("three");
    assert!(
        exceeded.to_string().contains("more than 2 requests under way"),
        "{exceeded}"
    );
    assert_eq!(
        (exceeded.kind().code(), exceeded.retry_after()),
        ("too_many_requests_at_once", 1)
    );
    ends(first);
    let third = node.admit(&set, 0).expect("a place");
    assert!(node.admit(&set, 0).is_err());
    ends(second);
    ends(third);
}

#[test]
fn what_the_rate_refuses_takes_no_place() {
    let set = policies(&[(
        "p",
        "limits: {requestsPerSecond: 1, burst: 1, concurrentRequests: 2}",
    )]);
    let node = Node::new();
    let first = node.admit(&set, 0).expect("one");
    for _ in 0..5 {
        assert_eq!(node.admit(&set, 0).expect_err("the rate").kind(), LimitKind::Rate);
    }
    let second = node.admit(&set, SECOND).expect("one place was left");
    // Nor does what has no place take a token.
    assert_eq!(
        node.admit(&set, 2 * SECOND).expect_err("no place").kind(),
        LimitKind::Concurrent
    );
    ends(first);
    assert!(node.admit(&set, 2 * SECOND).is_ok());
    ends(second);
}

#[test]
fn threads_get_no_more_places_than_there_are() {
    let (node, set) = (
        Node::new(),
        policies(&[("p", "limits: {concurrentRequests: 10}")]),
    );
    let take = || (0..100).filter(|_| node.admit(&set, 0).is_ok()).count();
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_default())
            .sum()
    });
    assert_eq!(taken, 10);
}

#[test]
fn a_policy_in_mode_audit_notes_and_refuses_nothing() {
    let fields = "mode: Audit, limits: {requestsPerSecond: 1, burst: 1, concurrentRequests: 1, repeatedDenialsPerMinute: 1}";
    let (node, set) = (Node::new(), policies(&[("trial", fields)]));
    let first = node.admit(&set, 0).expect("one");
    assert_eq!(first.would_deny, []);
    let second = node.admit(&set, 0).expect("nothing is refused");
    let noted: Vec<_> = second
        .would_deny
        .iter()
        .map(|found| (&*found.policy, &*found.rule))
        .collect();
    assert_eq!(
        noted,
        [
            ("trial", "limits.concurrentRequests"),
            ("trial", "limits.requestsPerSecond")
        ]
    );
    let delete = "DELETE /api/v1/namespaces/n/pods/x";
    assert_eq!(node.refused(&set, delete, "r", 0).expect("told"), None);
    let noted = node
        .refused(&set, delete, "r", 0)
        .expect("told all the same")
        .expect("noted");
    assert_eq!(noted.rule, "limits.repeatedDenialsPerMinute");
    node.shows("picket_limited_requests_total{limit=\"repeatedDenialsPerMinute\",mode=\"Audit\"} 1");
    node.shows("picket_limited_requests_total{limit=\"requestsPerSecond\",mode=\"Enforce\"} 0");
}

#[test]
fn a_loop_is_told_so_often_and_then_answered_until_its_minute_is_over() {
    let (node, set) = (
        Node::new(),
        policies(&[("p", "limits: {repeatedDenialsPerMinute: 2}")]),
    );
    let delete = "DELETE /api/v1/namespaces/n/pods/x";
    assert!(node.refused(&set, delete, "r", 0).is_ok());
    assert!(node.refused(&set, delete, "r", SECOND).is_ok());
    let first = node.refused(&set, delete, "r", 20 * SECOND).expect_err("a loop");
    assert!(matches!(first.repeat(), Some(Repeat::First(_))) && first.is_news());
    assert_eq!((first.kind().code(), first.retry_after()), ("loop", 40));
    assert_eq!(
        first.to_string(),
        "agent fixer sends the same refused request more than 2 times a minute (policy p, limits.repeatedDenialsPerMinute). Do not \
         repeat it: Picket answers it again after 40 seconds, and its refusal is: not so"
    );
    let further = node.refused(&set, delete, "r", 59 * SECOND).expect_err("still");
    assert!(matches!(further.repeat(), Some(Repeat::Further(_))) && !further.is_news());
    assert_eq!(further.retry_after(), 1);
    assert!(node.refused(&set, delete, "r", 60 * SECOND).is_ok());
    node.shows("picket_limited_requests_total{limit=\"repeatedDenialsPerMinute\",mode=\"Enforce\"} 2");
}

#[test]
fn a_loop_is_of_one_request_and_one_agent() {
    let (mut node, set) = (
        Node::new(),
        policies(&[("p", "limits: {repeatedDenialsPerMinute: 1}")]),
    );
    let base = "DELETE /api/v1/namespaces/n/pods/x";
    assert!(node.refused(&set, base, "r", 0).is_ok());
    for (other, by) in [
        ("DELETE /api/v1/namespaces/n/pods/y", "r"),
        ("DELETE /api/v1/namespaces/m/pods/x", "r"),
        ("GET /api/v1/namespaces/n/pods/x", "r"),
        ("DELETE /api/v1/namespaces/n/secrets/x", "r"),
        ("DELETE /apis/apps/v1/namespaces/n/pods/x", "r"),
        ("GET /api/v1/namespaces/n/pods/x/log", "r"),
        ("POST /api/v1/namespaces/n/pods/x/exec?command=ls", "r"),
        ("POST /api/v1/namespaces/n/pods/x/exec?command=id", "r"),
        ("GET /metrics", "r"),
        (base, "another rule"),
    ] {
        assert!(node.refused(&set, other, by, 0).is_ok(), "{other} {by}");
    }
    assert!(node.refused(&set, base, "r", 0).is_err());
    // However it is spelt.
    assert!(
        node.refused(
            &set,
            "DELETE /api/v1/namespaces/n/pods/%78?gracePeriodSeconds=0",
            "r",
            0
        )
        .is_err()
    );
    // A session is one, by WebSocket or SPDY.
    let websocket = "GET /api/v1/namespaces/n/pods/x/exec?command=ls";
    assert!(node.refused(&set, websocket, "r", 0).is_err());
    node.other();
    assert!(node.refused(&set, base, "r", 0).is_ok());
}

#[test]
fn the_table_keeps_no_identity_that_no_object_names() {
    let (node, set) = (
        Node::new(),
        policies(&[("p", "limits: {requestsPerSecond: 1, burst: 1}")]),
    );
    assert!(node.admit(&set, 0).is_ok());
    for number in 0..100 {
        let name: Arc<str> = format!("gone-{number}").into();
        let asker = Asker {
            name: &name,
            ..node.asker(&set)
        };
        assert!(node.limits.admit(asker, 0).is_ok());
    }
    let held = node.limits.identities.load().len();
    assert!(held <= set.identities().len() + 1, "{held}");
    assert!(node.admit(&set, 0).is_err(), "one that is named is kept");
}
