//! Writes to `status`: what the API server stores of the metadata in one, and what rules about updates take it for.
//!
//! In: an administrator's client, and an object of each kind with a `status`. Out: the kinds whose `status` brings metadata, which are those
//! that a rule about updates covers.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    rules_about_updates_cover_a_status_that_brings_metadata,
};

/// Objects of Kubernetes' own kinds: resource, group and version, kind, and what else they have. The namespaced ones are in `lab`.
const OBJECTS: [(&str, &str, &str, &str); 24] = [
    ("namespaces", "v1", "Namespace", ""),
    ("nodes", "v1", "Node", ""),
    (
        "persistentvolumes",
        "v1",
        "PersistentVolume",
        "spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], hostPath: {path: /none}}",
    ),
    (
        "persistentvolumeclaims",
        "v1",
        "PersistentVolumeClaim",
        "spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Mi}}}",
    ),
    (
        "pods",
        "v1",
        "Pod",
        "spec: {schedulerName: none, containers: [{name: c, image: none}]}",
    ),
    (
        "replicationcontrollers",
        "v1",
        "ReplicationController",
        "spec: {replicas: 0, selector: {a: b}, template: TEMPLATE}",
    ),
    (
        "resourcequotas",
        "v1",
        "ResourceQuota",
        "spec: {hard: {pods: 1000}}",
    ),
    ("services", "v1", "Service", "spec: {ports: [{port: 80}]}"),
    (
        "daemonsets",
        "apps/v1",
        "DaemonSet",
        "spec: {selector: SELECTOR, template: NOWHERE}",
    ),
    (
        "deployments",
        "apps/v1",
        "Deployment",
        "spec: {replicas: 0, selector: SELECTOR, template: TEMPLATE}",
    ),
    (
        "replicasets",
        "apps/v1",
        "ReplicaSet",
        "spec: {replicas: 0, selector: SELECTOR, template: TEMPLATE}",
    ),
    (
        "statefulsets",
        "apps/v1",
        "StatefulSet",
        "spec: {replicas: 0, serviceName: none, selector: SELECTOR, template: TEMPLATE}",
    ),
    (
        "horizontalpodautoscalers",
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "spec: {maxReplicas: 1, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: none}}",
    ),
    (
        "cronjobs",
        "batch/v1",
        "CronJob",
        "spec: {suspend: true, schedule: '0 0 1 1 *', jobTemplate: {spec: {template: ONCE}}}",
    ),
    ("jobs", "batch/v1", "Job", "spec: {suspend: true, template: ONCE}"),
    (
        "ingresses",
        "networking.k8s.io/v1",
        "Ingress",
        "spec: {defaultBackend: {service: {name: none, port: {number: 80}}}}",
    ),
    (
        "poddisruptionbudgets",
        "policy/v1",
        "PodDisruptionBudget",
        "spec: {minAvailable: 0, selector: SELECTOR}",
    ),
    (
        "customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "spec: {group: statuses.test, scope: Namespaced, names: {plural: marks, kind: Mark}, versions: [{name: v1, served: true, \
         storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, \
         x-kubernetes-preserve-unknown-fields: true}}}]}",
    ),
    (
        "flowschemas",
        "flowcontrol.apiserver.k8s.io/v1",
        "FlowSchema",
        "spec: {matchingPrecedence: 9000, priorityLevelConfiguration: {name: catch-all}}",
    ),
    (
        "prioritylevelconfigurations",
        "flowcontrol.apiserver.k8s.io/v1",
        "PriorityLevelConfiguration",
        "spec: {type: Limited, limited: {limitResponse: {type: Reject}}}",
    ),
    (
        "resourceclaims",
        "resource.k8s.io/v1",
        "ResourceClaim",
        "spec: {}",
    ),
    (
        "servicecidrs",
        "networking.k8s.io/v1",
        "ServiceCIDR",
        "spec: {cidrs: [10.222.0.0/28]}",
    ),
    (
        "validatingadmissionpolicies",
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        "spec: {matchConstraints: {resourceRules: [{apiGroups: [none.test], apiVersions: [v1], operations: [CREATE], resources: \
         [none]}]}, validations: [{expression: 'true'}]}",
    ),
    (
        "volumeattachments",
        "storage.k8s.io/v1",
        "VolumeAttachment",
        "spec: {attacher: none.test, nodeName: none, source: {persistentVolumeName: none}}",
    ),
];

/// Kinds of no namespace.
const CLUSTER_SCOPED: [&str; 9] = [
    "namespaces",
    "nodes",
    "persistentvolumes",
    "customresourcedefinitions",
    "flowschemas",
    "prioritylevelconfigurations",
    "servicecidrs",
    "validatingadmissionpolicies",
    "volumeattachments",
];

/// The label and the annotation that a write to a status tries to bring.
const MARK: &str = "by-status";

/// The agent, what it may do, and a rule about updates of objects, which names no subresources.
const POLICY: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: writer}
spec:
  owner: team-a
  attest: {pod: {namespace: agents, serviceAccount: writer}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: all}
spec:
  to: {identities: [writer]}
  upstream: {impersonate: {user: "agent:writer"}}
  rules:
  - {apiGroups: ["*"], resources: ["*"], verbs: ["*"]}
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: no-updates}
spec:
  subjects: {identities: [writer]}
  exceptions: [builtin/apiserver-endpoints, builtin/apiserver-configuration]
  rules:
  - name: objects
    match: {verbs: [update], apiGroups: ["*"], resources: [RESOURCES]}
    action: Deny
"#;

fn name_of(resource: &str) -> &'static str {
    match resource {
        "customresourcedefinitions" => "marks.statuses.test",
        _ => "by-status",
    }
}

fn manifest(resource: &str, version: &str, kind: &str, more: &str) -> String {
    const LABELS: &str = "{matchLabels: {a: b}}";
    const CONTAINERS: &str = "containers: [{name: c, image: none}]";
    let template = |spec: &str| format!("{{metadata: {{labels: {{a: b}}}}, spec: {{{spec}{CONTAINERS}}}}}");
    let more = more
        .replace("SELECTOR", LABELS)
        .replace("TEMPLATE", &template(""))
        .replace("NOWHERE", &template("nodeSelector: {none: none}, "))
        .replace("ONCE", &template("restartPolicy: Never, "));
    let namespace = match CLUSTER_SCOPED.contains(&resource) {
        true => "",
        false => ", namespace: lab",
    };
    let name = name_of(resource);
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\n{more}\n---\n")
}

fn rules_about_updates_cover_a_status_that_brings_metadata(world: &mut World) -> Result<()> {
    let mut manifests = String::new();
    for (resource, version, kind, more) in OBJECTS {
        manifests += &manifest(resource, version, kind, more);
    }
    let kubectl = world.cluster.kubectl_client();
    kubectl.run(&["apply", "-f", "-"], Some(&manifests))?;
    let done = compare(world);
    kubectl.run(
        &["delete", "--wait=false", "--ignore-not-found", "-f", "-"],
        Some(&manifests),
    )?;
    done
}

fn compare(world: &World) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("statuses.yaml").display().to_string();
    let resources: Vec<_> = OBJECTS.iter().map(|(resource, ..)| *resource).collect();
    std::fs::write(&file, POLICY.replace("RESOURCES", &resources.join(", ")))?;
    let mut differ = String::new();
    let mut bring = 0;
    for (resource, version, ..) in OBJECTS {
        let name = name_of(resource);
        let metadata = format!("{{\"labels\":{{\"{MARK}\":\"l\"}},\"annotations\":{{\"{MARK}\":\"a\"}}}}");
        let patch = format!("{{\"metadata\":{metadata}}}");
        let namespace = match CLUSTER_SCOPED.contains(&resource) {
            true => "",
            false => "/namespaces/lab",
        };
        let api = match version {
            "v1" => "/api/v1".to_owned(),
            version => format!("/apis/{version}"),
        };
        let path = format!("{api}{namespace}/{resource}/{name}");
        let mut arguments = vec![
            "patch",
            resource,
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
            "-o",
        ];
        let jsonpath = format!("jsonpath={{.metadata.labels.{MARK}}}{{.metadata.annotations.{MARK}}}");
        arguments.push(&jsonpath);
        if !namespace.is_empty() {
            arguments.extend(["-n", "lab"]);
        }
        let stored = world.admin(&arguments).with_context(|| resource.to_owned())?;
        // A Deployment's status takes annotations alone.
        let brings = !stored.is_empty();
        let request = format!("PATCH {path}/status");
        let explain = [
            "policy",
            "explain",
            &file,
            "--identity",
            "writer",
            "--header",
            "Content-Type: application/merge-patch+json",
            "--request",
            &request,
        ];
        let said = Done::from(world.agent.picket(&explain)?);
        let covered = said.code == 1 && said.out.contains("no-updates/objects");
        ensure!(
            covered || said.code == 0,
            "{request} ended with {}: {}{}",
            said.code,
            said.out,
            said.err
        );
        bring += usize::from(brings);
        if brings != covered {
            writeln!(differ, "{resource}: stored {brings}, covered {covered}")?;
        }
    }
    println!("the status of {bring} kinds of {} brings metadata", OBJECTS.len());
    ensure!(differ.is_empty(), "{differ}");
    ensure!(bring > 15, "the API server kept metadata of {bring} kinds only");
    Ok(())
}
