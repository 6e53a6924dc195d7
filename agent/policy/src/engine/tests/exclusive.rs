//! Which workloads claim an exclusive identity.

use super::super::exclusive::{Claims, PodClaim};
use super::*;

const EXCLUSIVE: &str = r"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: one}
spec:
  owner: o
  exclusive: true
  attest:
    pod: {namespace: ns, serviceAccount: s, selector: {matchLabels: {app: one}}}
    spiffe: {id: 'spiffe://d/one'}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: shared}
spec:
  owner: o
  attest: {pod: {namespace: ns, serviceAccount: s, selector: {matchLabels: {app: shared}}}}
";

/// The claims of pods, each with its namespace, service account, value of the label `app`, and workload.
fn claims(pods: &[(&str, &str, &str, &str)]) -> Claims {
    let set = compile(&["---", EXCLUSIVE]);
    let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let labels: Vec<_> = pods.iter().map(|(_, _, app, _)| labels(app)).collect();
    let pods = pods.iter().zip(&labels);
    set.claims(
        pods.map(|((namespace, service_account, _, workload), labels)| PodClaim {
            namespace,
            service_account,
            labels,
            workload,
        }),
    )
}

#[test]
fn the_pods_of_one_workload_are_one_claim_and_those_of_another_are_a_second() {
    let claims = claims(&[
        ("ns", "s", "one", "Deployment/a"),
        ("ns", "s", "one", "Deployment/a"),
        ("ns", "s", "one", "Job/b"),
    ]);
    assert_eq!(
        claims.workloads("one").collect::<Vec<_>>(),
        ["Deployment/a", "Job/b"]
    );
    assert_eq!(
        claims.beside("one", "Deployment/a").collect::<Vec<_>>(),
        ["Job/b"]
    );
    assert_eq!(
        claims.beside("one", "Job/b").collect::<Vec<_>>(),
        ["Deployment/a"]
    );
    assert_eq!(claims.contested().collect::<Vec<_>>(), ["one"]);
}

#[test]
fn whoever_is_another_agent_or_none_claims_nothing() {
    let claims = claims(&[
        ("ns", "s", "one", "Deployment/a"),
        ("other", "s", "one", "Deployment/b"),
        ("ns", "other", "one", "Deployment/c"),
        ("ns", "s", "two", "Deployment/d"),
        ("ns", "s", "shared", "Deployment/e"),
    ]);
    assert_eq!(claims.beside("one", "Deployment/a").count(), 0);
    assert_eq!(claims.contested().count(), 0);
}

#[test]
fn an_identity_that_is_not_exclusive_is_for_any_number_of_workloads() {
    let claims = claims(&[
        ("ns", "s", "shared", "Deployment/a"),
        ("ns", "s", "shared", "Deployment/b"),
    ]);
    assert_eq!(
        (claims.contested().count(), claims.workloads("shared").count()),
        (0, 0)
    );
    assert!(compile(&["---", EXCLUSIVE]).has_exclusive() && !compile(&[]).has_exclusive());
}
