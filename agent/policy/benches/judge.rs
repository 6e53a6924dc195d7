//! Time of judging all objects of a large cluster anew, which each change of one of them costs.
//!
//! In: 10,000 identities and 10,000 grants that are made here. Out: criterion's measurements.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use picket_policy::{ClusterObject, PolicySet, builtin, read_documents};

const OBJECTS: usize = 10_000;

/// An object that came into force before.
fn object(kind: &str, name: &str, spec: &str) -> ClusterObject {
    let file = format!("cluster/{kind}/{name}");
    let text =
        format!("apiVersion: picket.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    ClusterObject {
        versions: read_documents(&file, &text).expect("a valid document"),
        file: file.into(),
        known_from: 0,
    }
}

/// Each agent has a grant of its own, and they share `groups` groups and `accounts` service accounts.
fn cluster(groups: usize, accounts: usize) -> Vec<ClusterObject> {
    let mut objects = Vec::with_capacity(2 * OBJECTS);
    for number in 0..OBJECTS {
        let (group, account) = (number % groups, number % accounts);
        let pod = format!(
            "{{namespace: n, serviceAccount: s{account}, selector: {{matchLabels: {{agent: a{number}, team: t}}}}}}"
        );
        let spec = format!("{{owner: o, groups: [g{group}], attest: {{pod: {pod}}}}}");
        objects.push(object("AgentIdentity", &format!("a{number}"), &spec));
        let spec = format!(
            "{{to: {{groups: [g{group}]}}, upstream: {{impersonate: {{user: u{group}}}}}, rules: [{{verbs: [get, list], \
             apiGroups: [''], resources: [pods, pods/log]}}]}}"
        );
        objects.push(object("AgentGrant", &format!("grant{number}"), &spec));
    }
    objects
}

fn benches(criterion: &mut Criterion) {
    for (name, objects) in [
        (
            "judge 10000 identities and 10000 grants of 1000 teams",
            cluster(1000, 1000),
        ),
        (
            "judge 10000 identities and 10000 grants of one team and service account",
            cluster(1, 1),
        ),
    ] {
        let judge = || PolicySet::compile_each(&[], black_box(&objects), builtin::OWN_NAMESPACE);
        let (set, _) = judge().expect("a set");
        assert_eq!((set.identities().len(), set.grants().len()), (OBJECTS, OBJECTS));
        // What goes away is freed outside of the time.
        criterion.bench_function(name, |bencher| {
            bencher.iter_batched(|| (), |()| judge(), BatchSize::PerIteration);
        });
    }
}

criterion_group! {
    name = judge;
    // The fewest that criterion takes: each is tens of milliseconds long.
    config = Criterion::default().sample_size(10);
    targets = benches
}
criterion_main!(judge);
