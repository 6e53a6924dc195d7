//! Test files as people write them, and the command lines of kubectl in them.

use jiff::Timestamp;
use serde_json::json;

use super::kubectl::{CommandContext, requests};
use super::*;
use crate::api::read_documents;
use crate::engine::PolicySet;

pub(super) const OBJECTS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec: {owner: a, groups: [writers], attest: {pod: {namespace: agents, serviceAccount: fixer}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: gone}
spec: {owner: a, state: Suspended, attest: {pod: {namespace: agents, serviceAccount: gone}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: all}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: ['*'], apiGroups: ['', apps], resources: ['*']}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: people}
spec:
  to: {identities: [fixer]}
  upstream: {onBehalfOf: {issuers: ['https://login.test'], users: ['*']}}
  rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p}
spec:
  rules:
  - {name: no-delete, action: Deny, message: Ask the owner., match: {verbs: [delete], namespaces: [shop]}}
  - {name: scale, action: Warn, message: Autoscaling may undo this., match: {resources: ['*/scale']}}
  - {name: unused, action: Deny, match: {resources: [leases], apiGroups: [coordination.k8s.io]}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: trial}
spec:
  mode: Audit
  rules: [{name: secrets, action: Deny, match: {resources: [secrets]}}]
"#;

pub(super) const HEAD: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicyTest\nmetadata: {name: t}\nspec:\n  agent: {identity: fixer}\n";

fn set() -> PolicySet {
    PolicySet::compile(read_documents("o.yaml", OBJECTS).expect("documents")).expect("a set")
}

fn test(cases: &str) -> PolicyTest {
    let text = format!("{HEAD}  cases:\n{cases}");
    let tests = read_tests("t.yaml", &text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    tests.into_iter().next().expect("a test")
}

fn results(cases: &str) -> Vec<CaseResult> {
    let read = |name: &str| match name {
        "two.jsonl" => Ok(concat!(
            r#"{"verb":"get","requestURI":"/api/v1/namespaces/x/pods/a"}"#,
            "\n",
            r#"{"verb":"delete","requestURI":"/api/v1/namespaces/shop/pods/a"}"#,
            "\n"
        )
        .to_owned()),
        other => Err(format!("cannot read {other}")),
    };
    run(&set(), &test(cases), Timestamp::UNIX_EPOCH, &read).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn cases_get_what_the_engine_decides() {
    let passed = results(
        r#"
  - {kubectl: delete pod web -n shop, expect: {decision: deny, rule: p/no-delete, message: Ask the owner}}
  - {kubectl: delete pod web, expect: {decision: allow, grant: all}}
  - {kubectl: kubectl scale deploy/web --replicas=2, expect: {decision: warn, rule: p/scale, message: Autoscaling}}
  - {kubectl: get secrets, expect: {decision: allow, wouldDeny: trial/secrets}}
  - {kubectl: get nodes.metrics.k8s.io, expect: {decision: deny, rule: no_grant}}
  - {request: {path: /api/v1/nodes/n/proxy/pods}, expect: {decision: deny, rule: builtin/nodes-proxy}}
  - {request: {path: /api/v1/namespaces/x/pods/%2e%2e}, expect: {decision: deny, rule: p/no-delete}}
  - {audit: {verb: deletecollection, requestURI: /api/v1/namespaces/shop/pods}, expect: {decision: deny, rule: p/no-delete}}
  - {auditFile: two.jsonl, expect: {decision: partial, rule: p/no-delete}}
  - {kubectl: get pods, agent: {identity: gone}, expect: {decision: deny, message: Suspended}}
  - {kubectl: get pod web, agent: {identity: fixer, onBehalfOf: {issuer: 'https://login.test', user: ann}}, expect: {decision: allow, grant: people}}
  - {kubectl: get secret web, agent: {identity: fixer, onBehalfOf: {issuer: 'https://login.test', user: ann}}, expect: {decision: deny, message: on behalf of ann}}
  - {name: two objects, kubectl: delete pod/a service/b -n shop, expect: {decision: deny}}
"#,
    );
    for (number, case) in passed.iter().enumerate() {
        let unreadable = number == 6;
        assert_eq!(
            case.failures.is_empty(),
            !unreadable,
            "{}: {:#?}",
            case.name,
            case
        );
    }
    assert_eq!(passed[6].got.rule, "unreadable");
    assert_eq!(passed[0].name, "kubectl delete pod web -n shop");
    assert_eq!(passed[12].name, "two objects");
    assert_eq!((passed[1].location.line, passed[1].location.column), (9, 5));
}

#[test]
fn a_case_that_fails_says_what_it_got() {
    let [case] = &results(
        "  - {kubectl: delete pod web -n shop, expect: {decision: allow, rule: p/x, message: none, wouldDeny: trial/secrets}}\n",
    )[..] else {
        panic!("one case")
    };
    assert_eq!(
        case.failures,
        [
            "decision is deny, expected allow",
            "rule is p/no-delete, expected p/x",
            &format!("message is {:?}, expected to contain \"none\"", case.got.message),
            "wouldDeny is none, expected trial/secrets",
        ]
    );
    assert_eq!((case.location.line, case.location.column), (7, 5));
}

/// A refusal that kubectl runs into before or after what it does is no refusal of what it does, and no success.
#[test]
fn a_command_that_does_a_part_of_its_work_is_neither_allowed_nor_denied() {
    let cases = results(
        r#"
  - {kubectl: delete pod/a -n shop pod/b, expect: {decision: deny}}
  - {kubectl: replace --force -f - -n shop, stdin: "{apiVersion: v1, kind: Pod, metadata: {name: a}}", expect: {decision: partial}}
  - {kubectl: top node, expect: {decision: deny, rule: no_grant}}
"#,
    );
    for case in &cases {
        assert!(case.failures.is_empty(), "{case:#?}");
    }
}

#[test]
fn a_faulty_file_says_where_and_what_to_write() {
    for (cases, expected) in [
        (
            "  - {kubectl: get pods}\n",
            "t.yaml:7:5: field `spec.cases[0].expect` is required",
        ),
        (
            "  - {expect: {decision: deny}}\n",
            "t.yaml:7:5: `spec.cases[0]` has no input: write kubectl: \"get pods\"",
        ),
        (
            "  - {kubectl: get pods, request: {path: /api}, expect: {decision: deny}}\n",
            "t.yaml:7:34: `spec.cases[0]` has more than one of kubectl, request, audit and auditFile",
        ),
        (
            "  - {kubectl: get pods, expect: {decision: refused}}\n",
            "t.yaml:7:44: field `spec.cases[0].expect.decision` is \"refused\"; it can be allow, deny, warn, pending or partial",
        ),
        (
            "  - {kubectl: get pods, expect: {decision: deny, rule: no-delete}}\n",
            "t.yaml:7:56: field `spec.cases[0].expect.rule` must name policy and rule as `policy/rule`",
        ),
        (
            "  - {kubectl: get pods, expect: {decision: deny, grant: g}}\n",
            "t.yaml:7:57: field `spec.cases[0].expect.grant`: no grant allows what is denied",
        ),
        (
            "  - {request: {path: /api}, stdin: x, expect: {decision: deny}}\n",
            "t.yaml:7:36: field `spec.cases[0].stdin` is for `kubectl` only",
        ),
        (
            "  - {kubctl: get pods, expect: {decision: deny}}\n",
            "t.yaml:7:6: unknown field `spec.cases[0].kubctl`",
        ),
    ] {
        let errors = read_tests("t.yaml", &format!("{HEAD}  cases:\n{cases}")).expect_err(cases);
        let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(
            all.iter().any(|error| error.starts_with(expected)),
            "{expected}\n{all:#?}"
        );
    }
    let other = read_tests(
        "t.yaml",
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\n",
    );
    assert_eq!(
        other.expect_err("another kind")[0].to_string(),
        "t.yaml:2:7: kind is \"AgentPolicy\"; it must be AgentPolicyTest here"
    );
    assert!(
        read_tests("t.yaml", "# nothing\n").expect_err("empty")[0]
            .reason
            .contains("no AgentPolicyTest")
    );
    let as_object =
        read_documents("t.yaml", &format!("{HEAD}  cases: []\n")).expect_err("a test is no object");
    assert!(
        as_object[0].reason.contains("picket policy test"),
        "{as_object:?}"
    );
}

#[test]
fn a_faulty_input_is_an_error_of_its_field_and_no_refusal() {
    for (case, expected) in [
        (
            "{kubectl: get widgets, expect: {decision: deny}}",
            "t.yaml:7:15: no resource of Kubernetes is called \"widgets\"",
        ),
        (
            "{kubectl: frobnicate, expect: {decision: deny}}",
            "t.yaml:7:15: `kubectl frobnicate` is no command",
        ),
        (
            "{kubectl: get pods --frob, expect: {decision: deny}}",
            "t.yaml:7:15: kubectl has no flag --frob",
        ),
        (
            "{kubectl: get pods --as=root, expect: {decision: deny}}",
            "t.yaml:7:15: with --as the agent speaks for somebody else",
        ),
        (
            "{kubectl: apply -f pod.yaml, expect: {decision: deny}}",
            "t.yaml:7:15: a test reads no file of -f",
        ),
        (
            "{kubectl: apply -f -, expect: {decision: deny}}",
            "t.yaml:7:15: the case has no objects for -f -",
        ),
        (
            "{request: {method: get, path: /api}, expect: {decision: deny}}",
            "t.yaml:7:15: \"get\" is no HTTP method",
        ),
        (
            "{request: {path: api}, expect: {decision: deny}}",
            "t.yaml:7:15: path \"api\" must begin with /",
        ),
        (
            "{audit: {verb: get}, expect: {decision: deny}}",
            "t.yaml:7:13: the record has no requestURI",
        ),
        (
            "{auditFile: none, expect: {decision: deny}}",
            "t.yaml:7:17: cannot read none",
        ),
        (
            "{kubectl: get pods, agent: {identity: nobody}, expect: {decision: deny}}",
            "t.yaml:7:32: no AgentIdentity is named \"nobody\"; the files have: fixer, gone",
        ),
    ] {
        let read = |name: &str| Err(format!("cannot read {name}"));
        let errors = run(
            &set(),
            &test(&format!("  - {case}\n")),
            Timestamp::UNIX_EPOCH,
            &read,
        );
        let errors = errors.expect_err(case);
        assert!(errors[0].to_string().starts_with(expected), "{case}: {errors:#?}");
    }
}

#[test]
fn rules_that_no_case_made_fire_are_named() {
    let mut coverage = Coverage::default();
    coverage.add_set(&set());
    assert_eq!((coverage.rules(), coverage.percent()), (4, 0));
    // The built-in decides, and the rule fired too.
    let cases = results(
        "  - {kubectl: delete namespace shop, expect: {decision: deny}}\n  - {kubectl: get secrets, expect: {decision: allow}}\n",
    );
    for request in cases.iter().flat_map(|case| &case.requests) {
        coverage.add_fired(&request.fired);
    }
    let never: Vec<_> = coverage.never_fired().into_iter().collect();
    assert_eq!(never, ["p/scale", "p/unused"]);
    assert_eq!((coverage.fired(), coverage.percent()), (2, 50));
    assert_eq!(Coverage::default().percent(), 100);
}

fn lines(command: &str, stdin: Option<&str>, exists: bool) -> Vec<String> {
    let around = CommandContext {
        namespace: "agents",
        stdin,
        exists,
    };
    let requests = requests(command, around).unwrap_or_else(|error| panic!("{command}: {error}"));
    let mark = |role| match role {
        RequestRole::Acting => "",
        RequestRole::Needed => "(needed) ",
        RequestRole::Optional => "(optional) ",
    };
    requests
        .iter()
        .map(|request| format!("{}{}", mark(request.role), request.line()))
        .collect()
}

#[test]
fn kubectl_asks_for_what_it_asks_for() {
    for (command, expected) in [
        ("get pods", &["GET /api/v1/namespaces/agents/pods?limit=500"][..]),
        (
            "get po -A -l app=web",
            &["GET /api/v1/pods?labelSelector=app%3Dweb&limit=500"],
        ),
        (
            "get deploy,svc -n shop",
            &[
                "GET /apis/apps/v1/namespaces/shop/deployments?limit=500",
                "GET /api/v1/namespaces/shop/services?limit=500",
            ],
        ),
        (
            "get pod/web svc/web",
            &[
                "GET /api/v1/namespaces/agents/pods/web",
                "GET /api/v1/namespaces/agents/services/web",
            ],
        ),
        ("get --raw /metrics", &["GET /metrics"]),
        ("get node n --subresource=status", &["GET /api/v1/nodes/n/status"]),
        (
            "get pods -w",
            &[
                "GET /api/v1/namespaces/agents/pods?limit=500",
                "GET /api/v1/namespaces/agents/pods?watch=true&limit=500",
            ],
        ),
        (
            "logs -f web -c main",
            &[
                "(needed) GET /api/v1/namespaces/agents/pods/web",
                "GET /api/v1/namespaces/agents/pods/web/log?container=main&follow=true",
            ],
        ),
        (
            "exec -it web -- sh -c 'rm -rf /'",
            &[
                "(needed) GET /api/v1/namespaces/agents/pods/web",
                "GET /api/v1/namespaces/agents/pods/web/exec?command=sh&command=-c&command=rm%20-rf%20%2F&stdin=true&tty=true&stdout=true",
            ],
        ),
        (
            "port-forward svc/web 80:8080 -n shop",
            &[
                "(needed) GET /api/v1/namespaces/shop/services/web",
                "(needed) GET /api/v1/namespaces/shop/pods?labelSelector=app%3Dweb",
                "GET /api/v1/namespaces/shop/pods/web-example/portforward",
            ],
        ),
        (
            "cp shop/web:/etc/passwd p",
            &[
                "(needed) GET /api/v1/namespaces/shop/pods/web",
                "GET /api/v1/namespaces/shop/pods/web/exec?command=tar&command=cf&command=-&command=%2Fetc%2Fpasswd&stdout=true&stderr=true",
            ],
        ),
        (
            "delete pod web --wait=false",
            &["DELETE /api/v1/namespaces/agents/pods/web"],
        ),
        (
            "delete pods --all --wait=false",
            &[
                "(needed) GET /api/v1/namespaces/agents/pods?limit=500",
                "DELETE /api/v1/namespaces/agents/pods/example",
            ],
        ),
        (
            "delete ns shop",
            &[
                "DELETE /api/v1/namespaces/shop",
                "(optional) GET /api/v1/namespaces?fieldSelector=metadata.name%3Dshop",
                "(optional) GET /api/v1/namespaces?fieldSelector=metadata.name%3Dshop&watch=true",
            ],
        ),
        (
            "create token builder",
            &["POST /api/v1/namespaces/agents/serviceaccounts/builder/token"],
        ),
        (
            "create secret generic s --from-literal=a=b",
            &["POST /api/v1/namespaces/agents/secrets?fieldManager=kubectl-create"],
        ),
        (
            "scale deploy web --replicas 3",
            &[
                "(needed) GET /apis/apps/v1/namespaces/agents/deployments/web",
                "PATCH /apis/apps/v1/namespaces/agents/deployments/web/scale",
            ],
        ),
        (
            "rollout restart deploy/web",
            &[
                "(needed) GET /apis/apps/v1/namespaces/agents/deployments/web",
                "PATCH /apis/apps/v1/namespaces/agents/deployments/web?fieldManager=kubectl-rollout",
            ],
        ),
        (
            "label pod web team=a --dry-run=server",
            &[
                "(needed) GET /api/v1/namespaces/agents/pods/web",
                "PATCH /api/v1/namespaces/agents/pods/web?dryRun=All&fieldManager=kubectl-label",
            ],
        ),
        (
            "cordon n1",
            &[
                "(needed) GET /api/v1/nodes/n1",
                "PATCH /api/v1/nodes/n1?fieldManager=kubectl-cordon",
            ],
        ),
        (
            "taint nodes n1 a=b:NoSchedule",
            &[
                "(needed) GET /api/v1/nodes/n1",
                "PATCH /api/v1/nodes/n1?fieldManager=kubectl-taint",
            ],
        ),
        (
            "drain n1 --ignore-daemonsets",
            &[
                "(needed) GET /api/v1/nodes/n1",
                "PATCH /api/v1/nodes/n1?fieldManager=kubectl-drain",
                "(needed) GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
                "POST /api/v1/namespaces/agents/pods/example/eviction",
                "(optional) GET /api/v1/namespaces/agents/pods/example",
            ],
        ),
        (
            "top pod",
            &["GET /apis/metrics.k8s.io/v1beta1/namespaces/agents/pods?limit=500"],
        ),
        (
            "auth can-i delete pods",
            &["POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"],
        ),
        ("api-resources", &["GET /api", "GET /apis"]),
        (
            "certificate approve c",
            &[
                "(needed) GET /apis/certificates.k8s.io/v1/certificatesigningrequests/c",
                "PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval",
            ],
        ),
        (
            "debug web --image=busybox -it",
            &[
                "(needed) GET /api/v1/namespaces/agents/pods/web",
                "PATCH /api/v1/namespaces/agents/pods/web/ephemeralcontainers",
                "(needed) GET /api/v1/namespaces/agents/pods?fieldSelector=metadata.name%3Dweb",
                "(needed) GET /api/v1/namespaces/agents/pods?fieldSelector=metadata.name%3Dweb&watch=true",
                "GET /api/v1/namespaces/agents/pods/web/attach?stdin=true&tty=true&stdout=true",
            ],
        ),
    ] {
        assert_eq!(lines(command, None, true), expected, "{command}");
    }
}

#[test]
fn what_is_applied_is_created_or_changed() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n";
    let path = "/api/v1/namespaces/shop/pods";
    let manager = "fieldManager=kubectl-client-side-apply";
    assert_eq!(
        lines("apply -f -", Some(pod), true),
        [
            format!("(needed) GET {path}/web"),
            format!("PATCH {path}/web?{manager}")
        ]
    );
    assert_eq!(
        lines("apply -f -", Some(pod), false),
        [
            format!("(needed) GET {path}/web"),
            format!("POST {path}?{manager}")
        ]
    );
    assert_eq!(
        lines("apply --server-side -f -", Some(pod), false),
        [format!("PATCH {path}/web?fieldManager=kubectl&force=false")]
    );
    assert_eq!(
        lines("diff -f -", Some(pod), true),
        [
            format!("(needed) GET {path}/web"),
            format!("PATCH {path}/web?dryRun=All&{manager}")
        ]
    );
    let widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}";
    let around = CommandContext {
        namespace: "agents",
        stdin: Some(widget),
        exists: false,
    };
    let created = requests("create -f -", around).expect("requests");
    assert_eq!(
        created[0].target,
        "/apis/example.com/v1/namespaces/agents/widgets?fieldManager=kubectl-create"
    );
    let body: serde_json::Value = serde_json::from_slice(&created[0].body).expect("JSON");
    assert_eq!(body["metadata"], json!({"name": "w", "namespace": "agents"}));
    assert!(
        requests(
            "apply -f - -n other",
            CommandContext {
                stdin: Some(pod),
                ..around
            }
        )
        .is_err()
    );
}

#[test]
fn the_kind_of_a_patch_is_kubectls() {
    let widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}";
    let snapshot = "{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: w}}";
    let crd = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: w}}";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: w}}";
    for (line, stdin, kind) in [
        ("apply -f -", pod, "strategic-merge-patch+json"),
        ("apply -f -", crd, "strategic-merge-patch+json"),
        ("apply -f -", widget, "merge-patch+json"),
        ("apply -f -", snapshot, "merge-patch+json"),
        ("diff -f -", pod, "strategic-merge-patch+json"),
        ("diff -f -", widget, "merge-patch+json"),
        ("diff -f -", snapshot, "merge-patch+json"),
        ("diff --server-side -f -", widget, "apply-patch+yaml"),
        ("edit pod w", "", "strategic-merge-patch+json"),
        ("edit crd w", "", "merge-patch+json"),
        ("edit widgets.example.com w", "", "merge-patch+json"),
        // kubectl sends what it is told to, and the API server refuses it for a custom resource.
        (
            "patch widgets.example.com w -p {}",
            "",
            "strategic-merge-patch+json",
        ),
        (
            "patch widgets.example.com w -p {} --type merge",
            "",
            "merge-patch+json",
        ),
        ("rollout undo deploy/w", "", "json-patch+json"),
        ("rollout undo sts/w", "", "strategic-merge-patch+json"),
    ] {
        let around = CommandContext {
            namespace: "agents",
            stdin: Some(stdin),
            exists: true,
        };
        let requests = requests(line, around).expect(line);
        let patch = requests
            .iter()
            .find(|request| request.method == "PATCH")
            .expect(line);
        let (_, media) = &patch.headers[0];
        assert_eq!(
            media.strip_prefix("application/"),
            Some(kind),
            "{line} of {stdin}"
        );
    }
    let around = CommandContext {
        namespace: "agents",
        stdin: Some(pod),
        exists: true,
    };
    let line = "diff --server-side --force-conflicts --field-manager me -f -";
    let target = &requests(line, around).expect(line)[1].target;
    assert_eq!(
        target,
        "/api/v1/namespaces/agents/pods/w?dryRun=All&fieldManager=me&force=true"
    );
}

#[test]
fn a_raw_path_is_sent_as_it_is_with_what_is_read() {
    for (line, method, body) in [
        ("create --raw /api/v1/namespaces/shop/pods -f -", "POST", "{}"),
        ("replace --raw /api/v1/namespaces/shop/pods -f -", "PUT", "{}"),
        ("delete --raw /api/v1/namespaces/shop/pods -f -", "DELETE", "{}"),
        ("delete --raw /api/v1/namespaces/shop/pods", "DELETE", ""),
        ("get --raw /api/v1/namespaces/shop/pods", "GET", ""),
    ] {
        let around = CommandContext {
            namespace: "agents",
            stdin: Some("{}"),
            exists: true,
        };
        let sent = requests(line, around).expect(line);
        assert_eq!(sent.len(), 1, "{line}");
        assert_eq!(
            sent[0].line(),
            format!("{method} /api/v1/namespaces/shop/pods"),
            "{line}"
        );
        assert_eq!(sent[0].body, body.as_bytes(), "{line}");
        assert!(sent[0].headers.is_empty(), "{line}");
    }
}

#[test]
fn a_pod_that_kubectl_makes_has_its_image_and_command() {
    let around = CommandContext {
        namespace: "agents",
        stdin: None,
        exists: true,
    };
    let run = requests("run x --image=nginx --privileged --command -- sleep 1", around).expect("requests");
    let body: serde_json::Value = serde_json::from_slice(&run[0].body).expect("JSON");
    assert_eq!(
        body["spec"]["containers"],
        json!([{"name": "x", "image": "nginx", "command": ["sleep", "1"], "securityContext": {"privileged": true}}])
    );
    let run = requests("run x --image=nginx -- sleep 1", around).expect("requests");
    let body: serde_json::Value = serde_json::from_slice(&run[0].body).expect("JSON");
    assert_eq!(body["spec"]["containers"][0]["args"], json!(["sleep", "1"]));
    let debug = requests("debug x -it --image=nginx -- sleep 1", around).expect("requests");
    let body: serde_json::Value = serde_json::from_slice(&debug[1].body).expect("JSON");
    assert_eq!(
        body["spec"]["ephemeralContainers"],
        json!([{"name": "debugger", "image": "nginx", "command": ["sleep", "1"], "stdin": true, "tty": true}])
    );
    assert!(requests("run x --image=nginx --help", around).is_err());
    let node = requests("debug node/n1 --image=busybox", around).expect("requests");
    let body: serde_json::Value = serde_json::from_slice(&node[1].body).expect("JSON");
    assert_eq!(body["spec"]["volumes"][0]["hostPath"]["path"], "/");
}

#[test]
fn a_session_is_read_as_one() {
    let around = CommandContext {
        namespace: "agents",
        stdin: None,
        exists: true,
    };
    let exec = requests("exec web -- date", around).expect("requests");
    let read = exec[1].canonical().expect("a request").expect("readable");
    assert!(read.kube().is_session() && read.kube().upgrade);
}

/// Nothing that a test file or a command line holds stops the reader.
#[test]
fn odd_lines_are_errors_and_never_panics() {
    let around = CommandContext {
        namespace: "agents",
        stdin: Some("a: [1"),
        exists: true,
    };
    let words = [
        "get", "delete", "apply", "exec", "cp", "set", "taint", "rollout", "create", "label", "drain", "top",
        "auth", "debug", "patch", "-f", "-", "--", "-n", "a:b", "/", "a/", "/a", "a=b", "a-", "image", "-l",
        "--all", "-p", "pods", "node", "é", "", "-it", ",",
    ];
    let mut count = 0;
    for a in words {
        for b in words {
            for c in words {
                let line = format!("{a} {b} '{c}'");
                if let Ok(requests) = requests(&line, around) {
                    assert!(
                        !requests.is_empty(),
                        "{line}: a command that asks for nothing would pass any test"
                    );
                    for request in requests {
                        let _may_be_none = request.canonical();
                    }
                }
                count += 1;
            }
        }
    }
    assert!(count > 40_000);
}

/// The ready policies under deploy/examples do what their tests say.
#[test]
fn the_library_passes_its_tests() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/policies/tests");
    let text = |path: &std::path::Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let (mut cases, mut failed) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder).expect("the tests") {
        let path = entry.expect("an entry").path();
        let written = text(&path);
        if !written.contains("AgentPolicyTest") {
            continue;
        }
        let name = path.display().to_string();
        for test in read_tests(&name, &written).unwrap_or_else(|errors| panic!("{errors:#?}")) {
            let files = test.spec().files.iter();
            let documents = files.flat_map(|file| {
                let path = folder.join(file);
                read_documents(file, &text(&path)).unwrap_or_else(|errors| panic!("{errors:#?}"))
            });
            let set = PolicySet::compile(documents.collect()).unwrap_or_else(|errors| panic!("{errors:#?}"));
            let none = |name: &str| Err(format!("no file {name}"));
            let results = run(&set, &test, Timestamp::UNIX_EPOCH, &none);
            let results = results.unwrap_or_else(|errors| panic!("{errors:#?}"));
            cases += results.len();
            let bad = results.iter().filter(|case| !case.failures.is_empty());
            failed.extend(bad.map(|case| {
                format!(
                    "{}: {}: {:?}\n  {}",
                    test.name(),
                    case.name,
                    case.failures,
                    case.got.message
                )
            }));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(cases >= 400, "{cases}");
}
