//! Time of one reading and one decision against 1,000 rules, in the layouts that stress different parts of the index.
//!
//! In: policy sets and requests that are made here. Out: criterion's measurements.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use picket_policy::{Inputs, KubeRequest, PolicySet, Principal, PrincipalOrigin, Recheck, read_documents};

const RULES: usize = 1000;

/// A moment in the middle of the day.
const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

const BASE: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: agent}
spec: {owner: team, groups: [agents], attest: {pod: {namespace: ns, serviceAccount: sa}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: g}
spec:
  to: {identities: [agent]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*']}]
";

struct Setting {
    set: PolicySet,
    principal: Principal,
}

impl Setting {
    /// `rule` gives the match of each rule; each is in a policy of its own about `subjects`.
    fn new(subjects: &str, rule: impl Fn(usize) -> String) -> Self {
        let mut text = BASE.to_owned();
        for number in 0..RULES {
            let _ = write!(
                text,
                "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p{number}}}\nspec:\n  \
                 subjects: {{{subjects}}}\n  rules: [{{name: r, action: Deny, match: {{{}}}}}]\n",
                rule(number)
            );
        }
        let documents = read_documents("bench.yaml", &text).expect("valid documents");
        let set = PolicySet::compile(documents).expect("a policy set");
        let identity = Arc::clone(&set.identities()[0]);
        let principal = Principal::new(identity, PrincipalOrigin::pod("ns", "p"), "pod", NOW);
        Self {
            principal: principal.expect("an active identity"),
            set,
        }
    }

    /// What a decision costs but for making the permit, which takes the request and leaves none for the next round.
    fn decide(&self, request: &KubeRequest) -> Recheck {
        self.set
            .recheck(&self.principal, black_box(request), Inputs::at(NOW))
    }
}

fn benches(criterion: &mut Criterion) {
    let uri: Uri = "/apis/apps/v1/namespaces/team-a/deployments/web?fieldManager=kubectl"
        .parse()
        .expect("a target");
    let headers = HeaderMap::new();
    criterion.bench_function("read", |bencher| {
        bencher.iter(|| KubeRequest::read(&Method::PATCH, black_box(&uri), &headers));
    });
    let request = KubeRequest::read(&Method::PATCH, &uri, &headers).expect("a request");
    let spread = |number: usize| format!("verbs: [update], resources: [things{number}]");
    let same = |number: usize| format!("verbs: [delete], resources: [deployments], namespaces: [n{number}]");
    let names =
        |number: usize| format!("verbs: [update], resources: [deployments], names: ['web-{number}-*']");
    let globs = |number: usize| format!("verbs: [update], resources: ['*{number}s']");
    for (name, setting) in [
        (
            "1000 rules on other resources",
            Setting::new("identities: [agent]", spread),
        ),
        (
            "1000 rules on the resource, other verbs",
            Setting::new("groups: [agents]", same),
        ),
        (
            "1000 rules on the resource, other names",
            Setting::new("groups: [agents]", names),
        ),
        (
            "1000 rules with globs for resources",
            Setting::new("groups: [agents]", globs),
        ),
    ] {
        assert!(
            matches!(setting.decide(&request), Recheck::Permit { .. }),
            "{name}"
        );
        criterion.bench_function(name, |bencher| bencher.iter(|| setting.decide(&request)));
    }
}

criterion_group!(decide, benches);
criterion_main!(decide);
