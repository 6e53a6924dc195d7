//! Time of one reading and one decision against 1,000 rules, in the layouts that stress different parts of the index, and time to
//! compile a large set.
//!
//! In: policy sets and requests that are made here. Out: criterion's measurements.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use picket_policy::{Inputs, KubeRequest, PolicySet, Principal, PrincipalOrigin, Recheck, read_documents};

/// How many rules the sets have.
const RULES: [usize; 2] = [1000, 10_000];

/// Agents of a large cluster, each with an identity and a grant of its own.
const AGENTS: usize = 1000;

/// The rules of a large file.
const MANY_RULES: usize = 10_000;

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
    fn new(rules: usize, subjects: &str, rule: impl Fn(usize) -> String) -> Self {
        let mut documents = read_documents("base.yaml", BASE).expect("valid documents");
        for number in 0..rules {
            let text = format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p{number}}}\nspec:\n  \
                 subjects: {{{subjects}}}\n  rules: [{{name: r, action: Deny, match: {{{}}}}}]\n",
                rule(number)
            );
            documents.extend(read_documents("bench.yaml", &text).expect("a valid document"));
        }
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
    let verbs = |number: usize| format!("verbs: [delete], resources: [deployments], namespaces: [n{number}]");
    let same = |number: usize| format!("verbs: [update], resources: [deployments], namespaces: [n{number}]");
    let names =
        |number: usize| format!("verbs: [update], resources: [deployments], names: ['web-{number}-*']");
    let globs = |number: usize| format!("verbs: [update], resources: ['*{number}s']");
    let custom = |number: usize| format!("verbs: [update], resources: ['*thing{number}']");
    for rules in RULES {
        for (name, subjects, rule) in [
            (
                "on other resources",
                "identities: [agent]",
                &spread as &dyn Fn(usize) -> String,
            ),
            ("on the resource, other verbs", "groups: [agents]", &verbs),
            ("on the resource, other namespaces", "groups: [agents]", &same),
            ("on the resource, other names", "groups: [agents]", &names),
            ("with globs for resources", "groups: [agents]", &globs),
            ("with globs for custom resources", "groups: [agents]", &custom),
        ] {
            let setting = Setting::new(rules, subjects, rule);
            assert!(
                matches!(setting.decide(&request), Recheck::Permit { .. }),
                "{name}"
            );
            criterion.bench_function(&format!("{rules} rules {name}"), |bencher| {
                bencher.iter(|| setting.decide(&request));
            });
        }
    }
}

/// Whom a policy of this number is about.
type Subjects = dyn Fn(usize) -> String;

/// The limits of an agent, which are looked up for each request: by its name among those of many others, and by its group.
fn limits(criterion: &mut Criterion) {
    // One of them is about the agent.
    let by_name = |number: usize| match number {
        0 => "identities: [agent]".to_owned(),
        _ => format!("identities: [agent{number}]"),
    };
    let by_group = |_: usize| "groups: [agents]".to_owned();
    let layouts: [(&str, usize, &Subjects); 2] = [
        ("limits among 500 policies by name", 500, &by_name),
        ("limits of 10 policies by group", 10, &by_group),
    ];
    for (name, policies, subjects) in layouts {
        let mut text = BASE.to_owned();
        for number in 0..policies {
            let subjects = subjects(number);
            let _ = write!(
                text,
                "---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: agent{number}}}\nspec: {{owner: team, \
                 attest: {{pod: {{namespace: n, serviceAccount: s{number}}}}}}}\n"
            );
            let _ = write!(
                text,
                "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p{number}}}\nspec:\n  subjects: \
                 {{{subjects}}}\n  limits: {{requestsPerSecond: 50, concurrentRequests: 20, repeatedDenialsPerMinute: 5}}\n"
            );
        }
        let documents = read_documents("bench.yaml", &text).expect("valid documents");
        let set = PolicySet::compile(documents).expect("a policy set");
        let identity = Arc::clone(&set.identities()[0]);
        let principal = Principal::new(identity, PrincipalOrigin::pod("ns", "p"), "pod", NOW);
        let principal = principal.expect("an active identity");
        assert!(!set.limits(&principal).is_empty(), "{name}");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| set.limits(black_box(&principal)).enforced.rate)
        });
    }
}

/// A set of an identity and a grant for each agent, which a node compiles at each change of an object.
fn compile(criterion: &mut Criterion) {
    let mut documents = Vec::new();
    for number in 0..AGENTS {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a{number}}}\nspec:\n  owner: team\n  groups: \
             [g{number}]\n  attest: {{pod: {{namespace: n, serviceAccount: s{number}}}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: \
             AgentGrant\nmetadata: {{name: g{number}}}\nspec:\n  to: {{identities: [a{number}]}}\n  upstream: {{impersonate: {{user: \
             'agent:{number}'}}}}\n  rules: [{{verbs: [get, list, watch], apiGroups: [''], resources: [pods, configmaps]}}]\n"
        );
        documents.extend(read_documents("bench.yaml", &text).expect("valid documents"));
    }
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("1000 identities and 1000 grants", |bencher| {
        let compiled = |documents| PolicySet::compile(documents).expect("a policy set");
        bencher.iter_batched(|| documents.clone(), compiled, BatchSize::LargeInput);
    });
    group.finish();
}

/// Files of many rules, which a node reads and compiles when they change, and the memory that the rules hold then.
fn reload(criterion: &mut Criterion) {
    /// A policy has 512 at most.
    const RULES_PER_FILE: usize = 500;
    const SETS: usize = 30;
    let rule = |number: usize| {
        format!(
            "  - {{name: r{number}, action: Deny, message: Ask the platform team., match: {{verbs: [update], resources: [deployments], \
             namespaces: [n{number}], names: ['web-{number}-*']}}}}\n"
        )
    };
    let file = |first: usize| {
        let rules: String = (first..first + RULES_PER_FILE).map(rule).collect();
        format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p{first}}}\nspec:\n  rules:\n{rules}"
        )
    };
    let files: Vec<_> = (0..MANY_RULES).step_by(RULES_PER_FILE).map(file).collect();
    let read = || {
        let documents = files
            .iter()
            .flat_map(|text| read_documents("bench.yaml", text).expect("valid"));
        PolicySet::compile(documents.collect()).expect("a set")
    };
    // A reading leaves the allocator what the next one needs besides the rules; of many sets that makes no difference.
    drop(read());
    let before = resident();
    let sets: Vec<_> = (0..SETS).map(|_| read()).collect();
    let held = resident().saturating_sub(before) / (sets.len() * MANY_RULES);
    eprintln!("{MANY_RULES} rules hold about {held} bytes each");
    drop(sets);
    let mut group = criterion.benchmark_group("reload");
    group.sample_size(10);
    group.bench_function("10000 rules", |bencher| bencher.iter(read));
    group.finish();
}

/// Memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

criterion_group!(decide, benches, limits, compile, reload);
criterion_main!(decide);
