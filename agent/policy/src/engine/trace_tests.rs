//! A trace says what the decision says, for any request and any set.

use super::*;
use crate::api::read_documents;
use crate::decision::Decision;
use crate::engine::PolicySet;
use crate::identity::PrincipalOrigin;
use crate::request::CanonicalRequest;
use jiff::Timestamp;

/// Two agents, an exception, grants with hours, names, dry runs and paths, and rules about most fields of a match.
const SET: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec: {owner: a, groups: [writers], attest: {pod: {namespace: agents, serviceAccount: fixer}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: reader}
spec: {owner: b, groups: [readers], attest: {pod: {namespace: agents, serviceAccount: reader}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: all}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: ['*'], apiGroups: ['', apps], resources: ['*']}, {verbs: [get], nonResourceURLs: ['/metrics*']}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: some}
spec:
  to: {groups: [readers]}
  upstream: {impersonate: {user: v}}
  namespaces: [shop, 'dev-*']
  rules:
  - {verbs: [get, list], apiGroups: [''], resources: [pods, pods/log]}
  - {verbs: [get], apiGroups: [''], resources: [secrets], resourceNames: [web]}
  - {verbs: [patch, create], apiGroups: [apps], resources: [deployments], dryRun: Only}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: paths}
spec:
  to: {identities: [reader]}
  upstream: {impersonate: {user: v}}
  window: {notAfter: 1980-01-01T00:00:00Z}
  rules: [{verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/metrics]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p}
spec:
  rules:
  - {name: no-delete, action: Deny, match: {verbs: [delete], namespaces: [shop]}}
  - {name: no-shell, action: Deny, match: {resources: [pods/exec], commands: ['sh*']}}
  - {name: only-date, action: Deny, match: {resources: [pods/exec], namespaces: [dev-a], exceptCommands: [date]}}
  - {name: named, action: Deny, match: {verbs: [get], resources: [secrets], names: ['web*']}}
  - {name: hidden, action: Filter, match: {resources: [services, secrets, namespaces], namespaces: ['dev-*']}}
  - {name: unnamed, action: Filter, match: {resources: [configmaps], exceptNames: [web]}}
  - {name: scale, action: Warn, match: {resources: ['*/scale']}}
  - {name: metrics, action: Deny, match: {verbs: [get], nonResourceURLs: ['/metrics/*']}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: audit}
spec:
  mode: Audit
  subjects: {groups: [writers]}
  rules: [{name: secrets, action: Deny, match: {resources: [secrets]}}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: lifted}
spec: {subjects: {identities: [fixer]}, exceptions: [builtin/nodes-proxy]}
"#;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const NAMESPACES: [&str; 5] = [
    "",
    "namespaces/shop/",
    "namespaces/dev-a/",
    "namespaces/agents/",
    "namespaces/picket-system/",
];
const RESOURCES: [&str; 8] = [
    "pods",
    "secrets",
    "services",
    "configmaps",
    "nodes",
    "namespaces",
    "deployments",
    "events",
];
const SUBRESOURCES: [&str; 9] = [
    "",
    "/exec?command=sh",
    "/exec?command=date",
    "/attach",
    "/proxy/metrics",
    "/eviction",
    "/status",
    "/scale",
    "/log",
];
const QUERIES: [&str; 4] = [
    "",
    "?dryRun=All",
    "?watch=true",
    "?fieldSelector=metadata.name%3Dweb",
];
const PATHS: [&str; 5] = ["/metrics", "/metrics/slis", "/version", "/healthz", "/odd"];

fn set() -> PolicySet {
    PolicySet::compile(read_documents("f.yaml", SET).expect("documents")).expect("a set")
}

fn principal(set: &PolicySet, name: &str) -> Arc<Principal> {
    let identity = set.identities().iter().find(|identity| identity.name == name);
    let origin = PrincipalOrigin::pod("agents", "p");
    let identity = Arc::clone(identity.expect("an identity"));
    Arc::new(Principal::new(identity, origin, "pod", Timestamp::UNIX_EPOCH).expect("active"))
}

fn canonical(method: &str, target: &str) -> CanonicalRequest {
    let request = http::Request::builder().method(method).uri(target);
    let request = match method {
        "PATCH" => request.header("content-type", "application/apply-patch+yaml"),
        _ => request,
    };
    let (head, ()) = request.body(()).expect("a request").into_parts();
    CanonicalRequest::read(head).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

/// Every combination of the lists above.
fn targets() -> Vec<String> {
    let mut targets: Vec<String> = PATHS.map(str::to_owned).into();
    for namespace in NAMESPACES {
        for resource in RESOURCES {
            let root = if resource == "deployments" {
                "/apis/apps/v1"
            } else {
                "/api/v1"
            };
            let collection = format!("{root}/{namespace}{resource}");
            targets.extend(QUERIES.map(|query| format!("{collection}{query}")));
            for name in ["web", "other"] {
                targets.extend(SUBRESOURCES.map(|sub| format!("{collection}/{name}{sub}")));
            }
        }
    }
    targets
}

/// What a trace's steps come to, in the words of [`said`].
fn of_trace(trace: &DecisionTrace) -> String {
    let fired = |part, effect: &str| {
        let steps = trace.steps.iter().filter(move |step| step.part == part);
        let steps = steps.filter(|step| step.outcome == TraceOutcome::Fired && step.effect == effect);
        let mut names: Vec<_> = steps.map(|step| step.name.clone()).collect();
        if part == TracePart::Rule {
            names.sort();
        }
        names
    };
    let audited = trace
        .steps
        .iter()
        .filter(|step| step.outcome == TraceOutcome::Audited);
    let audited: Vec<_> = audited.map(|step| step.name.clone()).collect();
    match trace.refused {
        Some(Cause::Builtin) => format!("{} {audited:?}", fired(TracePart::Builtin, "Deny")[0]),
        Some(Cause::Policy) => format!("{} {audited:?}", fired(TracePart::Rule, "Deny")[0]),
        Some(Cause::NoGrant) => format!("no_grant {audited:?}"),
        None => format!("permit {:?} {audited:?}", fired(TracePart::Rule, "Warn")),
    }
}

/// What a decision says.
fn said(decision: &Decision) -> String {
    let names = |rules: &[crate::FiredRule]| -> Vec<String> {
        rules
            .iter()
            .map(|fired| format!("{}/{}", fired.policy, fired.rule))
            .collect()
    };
    match decision {
        Decision::Permit(permit) => {
            format!(
                "permit {:?} {:?}",
                names(permit.warnings()),
                names(permit.would_deny())
            )
        }
        Decision::Ask(ask) => format!("ask {:?}", names(ask.rules())),
        Decision::Deny(denial) => {
            let rule = match (denial.cause(), denial.policy(), denial.rule()) {
                (Cause::Policy, Some(policy), Some(rule)) => format!("{policy}/{rule}"),
                (Cause::Builtin, _, Some(rule)) => rule.to_owned(),
                _ => denial.cause().code().to_owned(),
            };
            format!("{rule} {:?}", names(denial.would_deny()))
        }
    }
}

#[test]
fn a_trace_comes_to_what_the_decision_is() {
    let set = set();
    let inputs = Inputs::at(Timestamp::UNIX_EPOCH);
    let mut verdicts = std::collections::BTreeMap::<String, usize>::new();
    for name in ["fixer", "reader"] {
        let principal = principal(&set, name);
        for target in targets() {
            for method in METHODS {
                let canonical = canonical(method, &target);
                let request = Arc::clone(canonical.kube());
                let trace = set.trace(&principal, &request, inputs);
                let decision = set.decide(Arc::clone(&principal), canonical, inputs);
                assert_eq!(of_trace(&trace), said(&decision), "{name} {method} {target}");
                if let Decision::Permit(permit) = &decision {
                    let rule = match permit.rule() {
                        implicit if implicit.starts_with("builtin/") => implicit.to_owned(),
                        rule => format!("{}/{rule}", permit.policy()),
                    };
                    let gives = |step: &&TraceStep| step.part == TracePart::Grant && step.name == rule;
                    let step = trace.steps.iter().find(gives).expect("the grant's rule");
                    assert_eq!(
                        step.outcome,
                        TraceOutcome::Fired,
                        "{name} {method} {target}: {rule}"
                    );
                }
                *verdicts.entry(said(&decision)).or_default() += 1;
            }
        }
    }
    assert!(
        verdicts.len() >= 14,
        "the requests reach most rules: {verdicts:#?}"
    );
}

#[test]
fn a_rule_that_fires_has_no_mismatch_and_another_says_what_does_not_fit() {
    let set = set();
    for target in targets() {
        for method in METHODS {
            let request = Arc::clone(canonical(method, &target).kube());
            let input = MatchInput::new(&request);
            for rule in &set.rules.rules {
                let mismatches = rule.mismatches(&input);
                assert_eq!(
                    rule.fires(&input),
                    mismatches.is_empty(),
                    "{method} {target} {}",
                    rule.name
                );
                let named = mismatches.iter().all(|mismatch| mismatch.field != Field::Match);
                assert!(named, "{method} {target} {}: {mismatches:?}", rule.name);
            }
        }
    }
}

fn step(trace: &DecisionTrace, name: &str) -> TraceStep {
    let found = trace.steps.iter().find(|step| step.name == name);
    found.unwrap_or_else(|| panic!("{name}: {trace:#?}")).clone()
}

fn why(trace: &DecisionTrace, name: &str) -> String {
    let TraceOutcome::Silent(mismatches) = step(trace, name).outcome else {
        panic!("{name} fired");
    };
    let texts: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
    texts.join(" | ")
}

#[test]
fn each_part_says_why_it_did_not_fire() {
    let set = set();
    let trace = |who: &str, method: &str, target: &str| {
        let request = canonical(method, target);
        set.trace(
            &principal(&set, who),
            request.kube(),
            Inputs::at(Timestamp::UNIX_EPOCH),
        )
    };
    let get = trace("reader", "GET", "/api/v1/namespaces/prod/pods/web");
    assert_eq!(
        why(&get, "p/no-delete"),
        "verb: delete, deletecollection; the request has get | namespace: shop; the request has prod"
    );
    assert!(
        why(&get, "p/named").starts_with("resource: secrets; the request has pods"),
        "{}",
        why(&get, "p/named")
    );
    assert_eq!(
        why(&get, "audit/secrets"),
        "subject: the policy's subjects; the request has reader | resource: secrets; the request has pods"
    );
    assert_eq!(
        why(&get, "some/rules[0]"),
        "namespace: shop, dev-*; the request has prod"
    );
    assert!(
        why(&get, "all/rules[0]").starts_with("subject: "),
        "{}",
        why(&get, "all/rules[0]")
    );
    let late = canonical("GET", "/api/v1/nodes/n/proxy/metrics");
    let late = set.trace(
        &principal(&set, "reader"),
        late.kube(),
        Inputs::at("1990-01-01T00:00:00Z".parse().expect("a moment")),
    );
    assert!(
        why(&late, "paths/rules[0]").starts_with("window: "),
        "{}",
        why(&late, "paths/rules[0]")
    );
    let lifted = trace("fixer", "GET", "/api/v1/nodes/n/proxy/pods");
    assert!(matches!(
        step(&lifted, "builtin/nodes-proxy").outcome,
        TraceOutcome::Lifted(_)
    ));
    let exec = trace("fixer", "POST", "/api/v1/namespaces/x/pods/web/exec?command=date");
    assert_eq!(why(&exec, "p/no-shell"), "command: sh*; the request has date");
}

#[test]
fn a_rule_about_another_resource_is_not_concerned() {
    let set = set();
    let request = canonical("GET", "/api/v1/namespaces/shop/secrets/web");
    let trace = set.trace(
        &principal(&set, "fixer"),
        request.kube(),
        Inputs::at(Timestamp::UNIX_EPOCH),
    );
    for (name, concerned) in [
        ("p/named", true),
        ("audit/secrets", true),
        ("p/no-delete", true),
        ("p/scale", false),
        ("p/metrics", false),
        ("builtin/nodes-proxy", false),
        ("all/rules[0]", true),
        ("all/rules[1]", false),
        ("some/rules[1]", false),
    ] {
        assert_eq!(step(&trace, name).concerned, concerned, "{name}");
    }
}
