//! What every agent is refused, and how a policy makes an exception.

use super::conditions::{fires, when, with_body};
use super::*;
use crate::request::{BodyInput, RequestObject};

/// `no`, the request, the built-in that refuses it.
const TABLE: &str = "
no | GET /api/v1/nodes/n/proxy/pods                      | builtin/nodes-proxy
no | POST /api/v1/nodes/n/proxy/run/x/y/z                | builtin/nodes-proxy
no | GET /api/v1/Nodes/n/Proxy                           | builtin/nodes-proxy
no | GET /api/v1/namespaces/n/pods/x/proxy               | builtin/pods-proxy
no | GET /api/v1/namespaces/n/pods/https:x:443/proxy/    | builtin/pods-proxy
no | GET /api/v1/namespaces/default/services/https:kubernetes:443/proxy/api          | builtin/services-proxy
no | GET /api/v1/namespaces/kube-system/pods/kube-apiserver-n1/portforward           | builtin/apiserver-portforward
no | PUT /api/v1/namespaces/default/services/kubernetes                              | builtin/apiserver-endpoints
no | PATCH /api/v1/namespaces/Default/Services/kubernetes/status                     | builtin/apiserver-endpoints
no | DELETE /api/v1/namespaces/default/services/kubernetes                           | builtin/apiserver-endpoints
no | DELETE /api/v1/namespaces/default/services                                      | builtin/apiserver-endpoints
no | PATCH /api/v1/namespaces/default/endpoints/kubernetes                           | builtin/apiserver-endpoints
no | DELETE /api/v1/namespaces/default/endpoints/kubernetes                          | builtin/apiserver-endpoints
no | POST /apis/discovery.k8s.io/v1/namespaces/default/endpointslices                | builtin/apiserver-endpoints
no | PUT /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes      | builtin/apiserver-endpoints
no | PATCH /apis/Discovery.K8s.io/v1beta1/namespaces/Default/EndpointSlices/other    | builtin/apiserver-endpoints
no | PATCH /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/x Content-Type:application/apply-patch+yaml | builtin/apiserver-endpoints
no | DELETE /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/other        | builtin/apiserver-endpoints
no | DELETE /apis/discovery.k8s.io/v1/namespaces/default/endpointslices              | builtin/apiserver-endpoints
no | PATCH /api/v1/namespaces/n/services/web/status                                  | builtin/apiserver-endpoints
no | POST /apis/networking.k8s.io/v1/servicecidrs                                    | builtin/apiserver-endpoints
no | DELETE /apis/networking.k8s.io/v1beta1/ServiceCIDRs/kubernetes                  | builtin/apiserver-endpoints
no | PUT /apis/networking.k8s.io/v1/ipaddresses/10.0.0.9                             | builtin/apiserver-endpoints
no | POST /api/v1/namespaces/n/serviceaccounts/default/token                         | builtin/token-request
no | POST /api/v1/namespaces/n/secrets                                               | builtin/token-secrets
no | POST /api/v1/namespaces/n/Secrets                                               | builtin/token-secrets
no | POST /apis/certificates.k8s.io/v1/certificatesigningrequests                    | builtin/certificate-requests
no | PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval          | builtin/certificate-requests
no | GET /apis/picket.dev/v1alpha1/agentpolicies                                     | builtin/picket-objects
no | GET /apis/Picket.Dev/v1alpha1/AgentPolicies                                     | builtin/picket-objects
no | PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/agentgrants.picket.dev | builtin/picket-objects
no | DELETE /apis/apiextensions.k8s.io/v1/customresourcedefinitions                  | builtin/picket-objects
no | DELETE /apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.picket.dev          | builtin/picket-objects
no | DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/picket                    | builtin/picket-objects
no | DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles                           | builtin/picket-objects
no | DELETE /apis/rbac.authorization.k8s.io/v1/clusterrolebindings?labelSelector=app%3Dpicket | builtin/picket-objects
no | DELETE /apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings              | builtin/picket-objects
no | DELETE /apis/flowcontrol.apiserver.k8s.io/v1/flowschemas                         | builtin/picket-objects
no | DELETE /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/picket   | builtin/picket-admission
no | GET /api/v1/namespaces/kube-system/pods/kube-proxy-x/portforward                 | builtin/apiserver-portforward
no | GET /api/v1/namespaces/Kube-flannel/pods/flannel-x/portforward                  | builtin/apiserver-portforward
no | PATCH /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/picket-enrol | builtin/picket-admission
no | DELETE /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings    | builtin/picket-admission
no | DELETE /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/picketfence | builtin/apiserver-configuration
no | PATCH /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/w Content-Type:application/apply-patch+yaml | builtin/apiserver-configuration
no | PATCH /apis/apiregistration.k8s.io/v1/apiservices/v1.                            | builtin/apiserver-configuration
no | PUT /apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io/status    | builtin/apiserver-configuration
no | PUT /apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/mine                       | builtin/apiserver-configuration
no | PATCH /apis/FlowControl.apiserver.k8s.io/v1/prioritylevelconfigurations/catch-all | builtin/apiserver-configuration
no | GET /api/v1/namespaces/picket-system/pods           | builtin/picket-namespace
no | GET /api/v1/namespaces/Picket-System/pods           | builtin/picket-namespace
no | DELETE /api/v1/namespaces/picket-system             | builtin/picket-namespace
no | DELETE /api/v1/namespaces/Picket-System             | builtin/picket-namespace
no | DELETE /api/v1/namespaces                           | builtin/picket-namespace
no | DELETE /api/v1/secrets                              | builtin/picket-namespace
no | GET /api/v1/namespaces/picket-system/pods/x/exec?command=sh | builtin/picket-namespace
no | PATCH /api/v1/namespaces/labelled/pods/p             | builtin/agent-labels
no | PUT /api/v1/namespaces/labelled/pods/p               | builtin/agent-labels
no | PUT /api/v1/namespaces/Labelled/Pods/p/Status        | builtin/agent-labels
no | POST /api/v1/namespaces/labelled/pods/p/binding      | builtin/agent-labels
no | POST /api/v1/namespaces/labelled/bindings           | builtin/agent-labels
no | PATCH /api/v1/namespaces/ns/pods/p                  | builtin/agent-labels
no | POST /api/v1/namespaces/ns/pods                     | builtin/agent-pods
no | POST /api/v1/namespaces/ns/pods?dryRun=All          | builtin/agent-pods
no | POST /api/v1/namespaces/ns/pods/x/exec?command=sh   | builtin/agent-pods
no | GET /api/v1/namespaces/ns/pods/x/exec?command=sh    | builtin/agent-pods
no | GET /api/v1/namespaces/ns/pods/x/attach             | builtin/agent-pods
no | POST /api/v1/namespaces/ns/pods/x/portforward       | builtin/agent-pods
no | GET /api/v1/namespaces/ns/pods/x/portforward?ports=80 | builtin/agent-pods
no | POST /api/v1/namespaces/NS/Pods/x/Attach            | builtin/agent-pods
no | PATCH /api/v1/namespaces/ns/pods/x/ephemeralcontainers | builtin/agent-pods
no | PUT /api/v1/namespaces/labelled/pods/p/ephemeralcontainers | builtin/agent-pods
no | POST /api/v1/namespaces/ns/replicationcontrollers   | builtin/agent-pods
no | POST /apis/apps/v1/namespaces/ns/deployments        | builtin/agent-pods
no | PATCH /apis/apps/v1/namespaces/ns/deployments/d     | builtin/agent-pods
no | PATCH /apis/apps/v1/namespaces/ns/deployments/d?fieldManager=x Content-Type:application/apply-patch+yaml | builtin/agent-pods
no | PUT /apis/apps/v1/namespaces/ns/replicasets/r       | builtin/agent-pods
no | POST /apis/apps/v1/namespaces/ns/statefulsets       | builtin/agent-pods
no | PUT /apis/apps/v1/namespaces/ns/daemonsets/d        | builtin/agent-pods
no | POST /apis/apps/v1/namespaces/ns/controllerrevisions | builtin/agent-pods
no | POST /apis/batch/v1/namespaces/ns/jobs              | builtin/agent-pods
no | PATCH /apis/batch/v1/namespaces/ns/cronjobs/c       | builtin/agent-pods
no | POST /apis/batch/v1/namespaces/by-token/jobs        | builtin/agent-pods
no | POST /api/v1/namespaces/by-certificate/pods/x/exec?command=sh | builtin/agent-pods
no | PATCH /api/v1/namespaces/ns                         | builtin/picket-admission
no | PUT /api/v1/namespaces/ns                           | builtin/picket-admission
no | PUT /api/v1/namespaces/NS/finalize                  | builtin/picket-admission
no | PATCH /api/v1/namespaces/by-token/status            | builtin/picket-admission
no | DELETE /api/v1/namespaces/ns                        | builtin/picket-admission
no | DELETE /api/v1/namespaces/n/configmaps/picket-ca.crt | builtin/picket-admission
no | PUT /api/v1/namespaces/n/ConfigMaps/picket-ca.crt   | builtin/picket-admission
no | PATCH /api/v1/namespaces/n/configmaps/picket-x      | builtin/picket-admission
no | DELETE /api/v1/namespaces/ns/configmaps?labelSelector=a%3Db | builtin/picket-admission
no | GET /debug/pprof/profile                            | builtin/unknown-paths
no | GET /logs/                                          | builtin/unknown-paths
no | GET /API/v1/pods                                    | builtin/unknown-paths
no | GET /apiv1                                          | builtin/unknown-paths
";

/// Identities of three namespaces: by the labels of a pod, by a service account's token, and by the certificate of one.
const LABELLED: &str = "---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: labelled}
spec:
  owner: team-c
  attest: {pod: {namespace: labelled, serviceAccount: s, selector: {matchLabels: {app: a}}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: by-token}
spec:
  owner: team-c
  attest: {jwt: {issuer: 'https://kubernetes', subject: 'system:serviceaccount:by-token:s'}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: by-certificate}
spec:
  owner: team-c
  attest: {spiffe: {id: 'spiffe://example.org/ns/by-certificate/sa/s'}}
";

#[test]
fn builtin_denies_hold_unless_excepted_by_name() {
    let granted = grant(ALL) + LABELLED;
    let plain = compile(&[&granted]);
    for (_, line, builtin) in rows(TABLE) {
        // A whole collection, and an object whose name is not known, are this one's too.
        let beside = match builtin {
            "builtin/picket-objects" | "builtin/picket-admission" => ", builtin/apiserver-configuration",
            _ => "",
        };
        let except = |who: &str| {
            policy(
                "l",
                &format!("subjects: {{{who}}}\n  exceptions: [{builtin}{beside}]"),
            )
        };
        let denial = denied(&plain, line);
        assert_eq!(
            (denial.cause(), denial.rule()),
            (Cause::Builtin, Some(builtin)),
            "{line}"
        );
        assert!(denial.message().contains(builtin), "{}", denial.message());
        assert!(
            passes(&compile(&[&granted, &except("groups: [agents]")]), line),
            "{line}"
        );
        assert!(
            !passes(&compile(&[&granted, &except("identities: [other]")]), line),
            "{line}"
        );
    }
    for builtin in Builtin::ALL {
        assert!(TABLE.contains(builtin.name()), "{builtin:?} is not in the table");
    }
}

#[test]
fn an_exception_for_picket_s_own_objects_opens_no_whole_collection() {
    let objects = policy(
        "l",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/picket-objects, builtin/picket-admission]",
    );
    let set = compile(&[&grant(ALL), &objects]);
    for line in [
        "DELETE /apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
        "DELETE /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "POST /apis/apiregistration.k8s.io/v1/apiservices",
    ] {
        assert_eq!(
            denied(&set, line).rule(),
            Some("builtin/apiserver-configuration"),
            "{line}"
        );
    }
    assert!(passes(
        &set,
        "DELETE /apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/picket"
    ));
}

#[test]
fn an_apply_may_make_a_pod_where_pods_may_be_changed() {
    let labels = policy(
        "l",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/agent-labels]",
    );
    let set = compile(&[&grant(ALL), LABELLED, &labels]);
    let pod = "PATCH /api/v1/namespaces/labelled/pods/p";
    assert!(passes(&set, pod));
    let apply = format!("{pod}?fieldManager=x Content-Type:application/apply-patch+yaml");
    assert_eq!(denied(&set, &apply).rule(), Some("builtin/agent-pods"));
}

#[test]
fn what_harms_nothing_stays_open() {
    let set = compile(&[&grant(ALL), LABELLED]);
    for line in [
        "PATCH /api/v1/namespaces/n/pods/p",
        "DELETE /api/v1/namespaces/labelled/pods/p",
        "POST /api/v1/namespaces/labelled/pods/p/eviction",
        "PATCH /api/v1/namespaces/labelled/configmaps/p",
        "PATCH /api/v1/namespaces/ns/pods/p/resize",
        "GET /api/v1/namespaces/ns/pods/p/ephemeralcontainers",
        "GET /api/v1/namespaces/ns/pods/p/log",
        "DELETE /api/v1/namespaces/ns/pods/p",
        "PATCH /apis/apps/v1/namespaces/ns/deployments/d/scale",
        "DELETE /apis/apps/v1/namespaces/ns/deployments/d",
        "GET /apis/apps/v1/namespaces/ns/deployments/d",
        "POST /apis/apps/v1/namespaces/n/deployments",
        "POST /api/v1/namespaces/n/pods",
        "POST /api/v1/namespaces/n/pods/p/exec?command=sh",
        "PATCH /api/v1/namespaces/n",
        "GET /api/v1/namespaces/ns",
        "GET /api/v1/namespaces/ns/configmaps/picket-ca.crt",
        "PATCH /api/v1/namespaces/ns/configmaps/picketfence",
        "GET /api/v1/pods",
        "GET /api/v1/namespaces/n/secrets",
        "DELETE /api/v1/namespaces/n/configmaps",
        "DELETE /api/v1/nodes",
        "GET /apis/rbac.authorization.k8s.io/v1/clusterroles",
        "DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/other",
        "GET /apis/certificates.k8s.io/v1/certificatesigningrequests",
        "GET /apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/picket",
        "GET /apis/apiregistration.k8s.io/v1/apiservices/v1.",
        "GET /apis/networking.k8s.io/v1/servicecidrs",
        "PATCH /apis/networking.k8s.io/v1/namespaces/n/networkpolicies/x",
        "GET /api/v1/namespaces/n/services/web/status",
        "PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com",
        "GET /api/v1/namespaces/n/pods/x/portforward",
        "GET /api/v1/namespaces/kubeflow/pods/x/portforward",
        "GET /livez/ping",
        "GET /api/v1/namespaces/default/services/kubernetes",
        "GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "PATCH /api/v1/namespaces/default/services/web",
        "PATCH /api/v1/namespaces/default/endpoints/web",
        "PATCH /api/v1/namespaces/n/services/kubernetes",
        "PATCH /api/v1/namespaces/n/endpoints/kubernetes",
        "POST /apis/discovery.k8s.io/v1/namespaces/n/endpointslices",
    ] {
        assert!(passes(&set, line), "{line}");
    }
}

#[test]
fn an_agent_may_run_and_make_what_acts_as_itself() {
    let own = grant(ALL).replace("[fixer]", "[labelled]");
    let alone = compile(&[LABELLED, &own]);
    let neighbour = LABELLED
        .split_inclusive("app: a}}}}\n")
        .next()
        .expect("the first identity")
        .replace("name: labelled", "name: neighbour")
        .replace("app: a", "app: b");
    let shared = compile(&[LABELLED, &own, &neighbour]);
    for line in [
        "POST /api/v1/namespaces/labelled/pods",
        "POST /apis/batch/v1/namespaces/labelled/jobs",
        "PATCH /apis/apps/v1/namespaces/labelled/deployments/d",
        "GET /api/v1/namespaces/labelled/pods/x/exec?command=sh",
        "PATCH /api/v1/namespaces/labelled/pods/x/ephemeralcontainers",
    ] {
        let decided = decide_as(&alone, "labelled", line);
        assert!(matches!(decided, Decision::Permit(_)), "{line}: {decided:?}");
        let Decision::Deny(denial) = decide_as(&shared, "labelled", line) else {
            panic!("{line}: let through beside another agent")
        };
        assert_eq!(denial.rule(), Some("builtin/agent-pods"), "{line}");
    }
    // Its own labels are another matter: they say whether it is enforced at all.
    let relabel = decide_as(&alone, "labelled", "PATCH /api/v1/namespaces/labelled/pods/x");
    assert!(matches!(&relabel, Decision::Deny(denial) if denial.rule() == Some("builtin/agent-labels")));
}

#[test]
fn picket_can_live_in_another_namespace() {
    let documents = read_documents("f.yaml", &format!("{BASE}{}", grant(ALL))).expect("valid");
    let set = PolicySet::compile_in(&documents, "guard").expect("valid");
    assert!(!passes(&set, "GET /api/v1/namespaces/guard/pods"));
    assert!(passes(&set, "GET /api/v1/namespaces/picket-system/pods"));
}

#[test]
fn an_exception_gives_nothing_that_is_not_granted_and_undoes_no_rule() {
    let exception = policy(
        "l",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/pods-proxy]",
    );
    let set = compile(&[
        &grant("[{verbs: [get], apiGroups: [''], resources: [pods]}]"),
        &exception,
    ]);
    assert_eq!(
        denied(&set, "GET /api/v1/namespaces/n/pods/x/proxy").cause(),
        Cause::NoGrant
    );
    let set = compile(&[&grant(ALL), &exception, &deny("resources: [pods/proxy]")]);
    assert_eq!(
        denied(&set, "GET /api/v1/namespaces/n/pods/x/proxy").cause(),
        Cause::Policy
    );
}

/// What deploy/ installs is what the built-ins must know by name.
#[test]
fn everything_that_deploy_installs_is_out_of_agents_reach() {
    let plain = compile(&[&grant(ALL)]);
    let files = [
        include_str!("../../../../../deploy/enrolment.yaml"),
        include_str!("../../../../../deploy/admission-guards.yaml"),
        include_str!("../../../../../deploy/service-guards.yaml"),
        include_str!("../../../../../deploy/rbac.yaml"),
        include_str!("../../../../../deploy/flow-control.yaml"),
        include_str!("../../../../../deploy/token-secrets.yaml"),
    ];
    let mut seen = 0;
    for object in files.iter().flat_map(|file| file.split("\n---\n")) {
        let field = |name: &str| {
            let line = object
                .lines()
                .find_map(|line| line.trim_start().strip_prefix(name));
            line.unwrap_or_default().trim().trim_matches('"').to_owned()
        };
        let (version, kind, name) = (field("apiVersion:"), field("kind:"), field("name:"));
        let resource = match kind.to_lowercase() {
            kind if kind.ends_with('y') => format!("{}ies", kind.trim_end_matches('y')),
            kind => format!("{kind}s"),
        };
        let scope = match field("namespace:") {
            namespace if namespace.is_empty() => String::new(),
            namespace => format!("namespaces/{namespace}/"),
        };
        let line = format!("DELETE /apis/{version}/{scope}{resource}/{name}");
        assert_eq!(denied(&plain, &line).cause(), Cause::Builtin, "{line}");
        seen += 1;
    }
    assert!(seen >= 36, "{seen} objects in deploy/");
}

#[test]
fn a_refused_path_names_the_paths_that_the_agent_may_ask_for() {
    let discovery =
        "get /api, /api/*, /apis, /apis/*, /openapi, /openapi/*, /version, /healthz, /livez, /readyz";
    let pods = "{verbs: [get], apiGroups: [''], resources: [pods]}";
    let allowed = |set: &PolicySet, line: &str| denied(set, line).allowed().to_owned();
    // None is granted: those that come with any grant, and the resources.
    let set = compile(&[&grant(&format!("[{pods}]"))]);
    for line in ["GET /debug/pprof/profile", "GET /metrics", "POST /version"] {
        assert_eq!(
            allowed(&set, line),
            format!("{discovery}; requests for pods"),
            "{line}"
        );
    }
    assert!(
        denied(&set, "GET /logs/").message().ends_with(&format!(
            "Picket does not know this non-resource path. Allowed instead: {discovery}; requests for pods."
        )),
        "{}",
        denied(&set, "GET /logs/").message()
    );
    // Of what a grant names, what a built-in refuses is left out.
    let rules = "{verbs: [get, post], nonResourceURLs: [/metrics, '/logs/*']}";
    let granted = grant(&format!("[{pods}, {rules}]"));
    assert_eq!(
        allowed(&compile(&[&granted]), "GET /logs/kubelet.log"),
        format!("get, post /metrics; {discovery}; requests for pods")
    );
    let exception = policy(
        "l",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/unknown-paths]",
    );
    assert_eq!(
        allowed(&compile(&[&granted, &exception]), "GET /debug/pprof"),
        format!("get, post /metrics, /logs/*; {discovery}; requests for pods")
    );
    assert!(
        allowed(&compile(&[&grant(ALL)]), "GET /debug").contains("/healthz/*, /livez/*, /readyz/*, /metrics"),
        "{}",
        allowed(&compile(&[&grant(ALL)]), "GET /debug")
    );
    // So is what a rule refuses.
    let denying = compile(&[&granted, &deny("verbs: [get], nonResourceURLs: ['**']")]);
    assert_eq!(
        allowed(&denying, "GET /version"),
        "post /metrics; requests for pods"
    );
    let all = compile(&[&granted, &deny("nonResourceURLs: ['**']")]);
    assert_eq!(
        allowed(&all, "GET /version"),
        "no non-resource path; requests for pods"
    );
    // Long ones are cut.
    let many: Vec<_> = (0..200).map(|number| format!("/metrics/{number:04}")).collect();
    let many = format!("[{{verbs: [get], nonResourceURLs: [{}]}}]", many.join(", "));
    let cut = allowed(&compile(&[&grant(&many)]), "GET /debug");
    assert!(cut.len() <= 300 && cut.ends_with("..."), "{cut}");
}

#[test]
fn a_resource_of_several_rules_is_named_once() {
    let rules = grant(
        "[{verbs: [get], apiGroups: [''], resources: [pods, nodes]}, {verbs: [get], apiGroups: [apps], resources: [deployments]}, \
         {verbs: [get], apiGroups: [metrics.k8s.io], resources: [pods, nodes]}]",
    );
    assert_eq!(
        denied(&compile(&[&rules]), "GET /api/v1/namespaces/n/secrets/s").allowed(),
        "requests for pods, nodes, deployments"
    );
}

#[test]
fn a_request_that_a_builtin_refuses_names_what_is_allowed_instead() {
    let rules = |resources: &str| {
        grant(&format!(
            "[{{verbs: [get, list, create, update, delete, deletecollection], apiGroups: ['*'], resources: [{resources}]}}]"
        ))
    };
    for (resources, line, instead) in [
        ("nodes/proxy", "GET /api/v1/nodes/n/proxy/pods", ""),
        (
            "nodes/proxy, nodes",
            "GET /api/v1/nodes/n/proxy/pods",
            "requests for nodes",
        ),
        ("pods/proxy, '*'", "GET /api/v1/namespaces/n/pods/x/proxy", ""),
        (
            "pods/portforward",
            "POST /api/v1/namespaces/kube-system/pods/x/portforward",
            "create pods/portforward outside namespace \"kube-system\"",
        ),
        (
            "certificatesigningrequests",
            "POST /apis/certificates.k8s.io/v1/certificatesigningrequests",
            "get, list certificatesigningrequests",
        ),
        (
            "clusterroles",
            "DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/picket",
            "get, list, create clusterroles",
        ),
        (
            "clusterroles",
            "DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles",
            "get, list, create, update, delete clusterroles",
        ),
        (
            "pods",
            "GET /api/v1/namespaces/picket-system/pods",
            "get, list, create, update, delete, deletecollection pods outside namespace \"picket-system\"",
        ),
        (
            "secrets",
            "DELETE /api/v1/secrets",
            "get, list, create, update, delete secrets; deletecollection secrets within one namespace",
        ),
        (
            "pods",
            "PUT /api/v1/namespaces/labelled/pods/p",
            "get, list, delete, deletecollection pods; create, update pods outside namespace \"labelled\"",
        ),
        (
            "pods/exec",
            "POST /api/v1/namespaces/ns/pods/x/exec?command=sh",
            "create pods/exec outside namespace \"ns\"",
        ),
        (
            "jobs",
            "POST /apis/batch/v1/namespaces/ns/jobs",
            "get, list, delete, deletecollection jobs; create, update jobs outside namespace \"ns\"",
        ),
        (
            "namespaces",
            "PUT /api/v1/namespaces/ns",
            "get, list, create namespaces; update, delete namespaces other than \"ns\"",
        ),
        (
            "configmaps",
            "DELETE /api/v1/namespaces/n/configmaps/picket-ca.crt",
            "get, list, create, deletecollection configmaps",
        ),
        (
            "agentgrants, configmaps",
            "GET /apis/picket.dev/v1alpha1/agentgrants",
            "requests for configmaps",
        ),
    ] {
        let set = compile(&[&rules(resources), LABELLED]);
        assert_eq!(denied(&set, line).allowed(), instead, "{line}");
    }
    // A grant that is bound to the refused namespace is no way out.
    let bound = rules("pods").replace("  rules:", "  namespaces: [picket-system, shop]\n  rules:");
    let only = bound.replace(", shop", "");
    let line = "GET /api/v1/namespaces/picket-system/pods";
    let allowed = |grant: &str| denied(&compile(&[grant]), line).allowed().to_owned();
    assert_eq!(
        allowed(&bound),
        "get, list, create, update, delete, deletecollection pods in namespace shop outside namespace \"picket-system\""
    );
    assert_eq!(allowed(&only), "");
}

/// The name of a new Service is in the body.
#[test]
fn a_new_service_of_the_api_servers_name_is_refused() {
    let set = compile(&[&grant(ALL)]);
    for path in [
        "/api/v1/namespaces/default/services",
        "/api/v1/namespaces/default/endpoints",
    ] {
        let line = format!("POST {path}");
        let needs = set.needs(&principal(&set, "fixer"), &request(&line), NOW);
        assert_eq!(needs.object, Some(ObjectSource::Body), "{line}");
        let named = |name: &str| with_body(&line, &format!("{{\"metadata\": {{\"name\": \"{name}\"}}}}"));
        let Decision::Deny(denial) = set.decide(principal(&set, "fixer"), named("kubernetes"), NOW) else {
            panic!("{line}: let through")
        };
        assert_eq!(denial.rule(), Some("builtin/apiserver-endpoints"));
        assert!(!fires(&set, named("web")), "{line}");
    }
}

#[test]
fn a_secret_that_would_hold_a_token_is_refused_by_its_type() {
    let set = compile(&[&grant(ALL)]);
    let except = policy(
        "e",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/token-secrets]",
    );
    let excepting = compile(&[&grant(ALL), &except]);
    let secrets = "POST /api/v1/namespaces/n/secrets";
    let apply = "PATCH /api/v1/namespaces/n/secrets/s content-type:application/apply-patch+yaml";
    let looking = compile(&[
        &grant(ALL),
        &when("verbs: [update], resources: [secrets]", "has(object.data)"),
    ]);
    let needs = looking.needs(&principal(&looking, "fixer"), &request(apply), NOW);
    assert_eq!(
        needs.object,
        Some(ObjectSource::Probe),
        "a rule looks into what the apply makes"
    );
    let mut applied = canonical(apply);
    let sent = applied
        .read_object(BodyInput::Whole(b"type: Opaque\nmetadata: {name: s}"))
        .expect("read");
    assert_eq!(
        sent.as_deref(),
        Some(&b"{\"metadata\":{\"name\":\"s\"},\"type\":\"Opaque\"}"[..])
    );
    assert_eq!(
        applied.head().headers["content-type"],
        "application/apply-patch+yaml"
    );
    assert!(!fires(&set, applied));
    for (line, source) in [(secrets, ObjectSource::Body), (apply, ObjectSource::Body)] {
        let needs = |set: &PolicySet| set.needs(&principal(set, "fixer"), &request(line), NOW);
        assert_eq!(
            (needs(&set).object, needs(&set).only_to_note),
            (Some(source), false),
            "{line}"
        );
        assert_eq!(needs(&excepting).object, None, "{line}");
        for (of_type, is_denied) in [
            ("kubernetes.io/service-account-token", true),
            ("bootstrap.kubernetes.io/token", true),
            ("Opaque", false),
            ("kubernetes.io/tls", false),
        ] {
            let made = || {
                let mut request = canonical(line);
                let object = serde_json::json!({"metadata": {"name": "s"}, "type": of_type});
                request.set_object(RequestObject::Read(Arc::new(object)));
                request
            };
            assert_eq!(fires(&set, made()), is_denied, "{line} {of_type}");
            assert!(!fires(&excepting, made()), "{line} {of_type}");
        }
        for unknown in [RequestObject::Unread, RequestObject::TooLarge] {
            let mut request = canonical(line);
            request.set_object(unknown);
            assert!(fires(&set, request), "{line}");
        }
    }
    let denied = with_body(
        secrets,
        "{\"metadata\": {\"name\": \"s\"}, \"type\": \"kubernetes.io/service-account-token\"}",
    );
    let Decision::Deny(denial) = set.decide(principal(&set, "fixer"), denied, NOW) else {
        panic!("not refused")
    };
    assert_eq!(denial.rule(), Some("builtin/token-secrets"));
    // A type is never changed, and what has no type is no token.
    for line in [
        "PUT /api/v1/namespaces/n/secrets/s",
        "PATCH /api/v1/namespaces/n/secrets/s content-type:application/merge-patch+json",
        "POST /api/v1/namespaces/n/configmaps",
    ] {
        assert_eq!(
            set.needs(&principal(&set, "fixer"), &request(line), NOW).object,
            None,
            "{line}"
        );
        assert!(!fires(&set, canonical(line)), "{line}");
    }
}
