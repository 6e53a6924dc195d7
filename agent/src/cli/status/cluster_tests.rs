//! Unit tests: what `picket status` tells of the objects and the workloads of the cluster.

use super::*;

const IDENTITIES: &str = "/apis/picket.dev/v1alpha1/agentidentities";
const GRANTS: &str = "/apis/picket.dev/v1alpha1/agentgrants";
const POLICIES: &str = "/apis/picket.dev/v1alpha1/agentpolicies";
const OWN_PODS: &str = "/api/v1/namespaces/picket-system/pods";

/// An object with conditions of its generation.
fn object(name: &str, conditions: &[(&str, &str, &str)]) -> Value {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(kind, status, message)| {
            json!({
                "type": kind, "status": status, "observedGeneration": 1, "reason": "R", "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        })
        .collect();
    json!({"metadata": {"name": name, "generation": 1}, "status": {"conditions": conditions}})
}

#[tokio::test]
async fn a_policy_that_denies_everything_is_told_once_and_not_by_each_node() {
    let report = reported(|path| {
        let mut a = told("a");
        a["status"]["policy"]["invalid"] = json!(2);
        let mut b = told("b");
        b["status"]["policy"]["invalid"] = json!(2);
        let fault = "spec.rules[0]: no expression";
        let everyone = format!("{fault}{}", crate::store::DENIES_EVERYONE);
        let subjects = format!("{fault}{}", crate::store::DENIES_SUBJECTS);
        Ok(match path {
            TOLD => vec![a, b],
            POLICIES => vec![
                object("bad", &[("Ready", "False", &everyone)]),
                object("worse", &[("Ready", "False", &subjects)]),
                object("good", &[("Ready", "True", "")]),
            ],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(
        report.findings,
        [
            "AgentPolicy bad is not valid, and every request of every agent is denied: spec.rules[0]: no expression",
            "AgentPolicy worse is not valid, and every request of its subjects is denied: spec.rules[0]: no expression",
        ]
    );
}

#[tokio::test]
async fn an_object_of_a_file_that_is_not_in_force_is_told_by_its_node_still() {
    let report = reported(|path| {
        let mut a = told("a");
        a["status"]["policy"]["invalid"] = json!(2);
        let refused = [("Ready", "False", "wrong. The last valid version stays in force")];
        Ok(match path {
            TOLD => vec![a],
            GRANTS => vec![object("g", &refused)],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(
        report.findings,
        [
            "a: 2 objects are not in force as written: see `kubectl get picket`",
            "AgentGrant g is not in force as written: wrong. The last valid version stays in force",
        ]
    );
}

#[tokio::test]
async fn conflicts_and_names_that_nothing_has_are_told() {
    let report = reported(|path| {
        let conflict = "\"a\" and \"b\" could match one pod";
        Ok(match path {
            TOLD => vec![told("a")],
            IDENTITIES => vec![object(
                "a",
                &[("Ready", "True", conflict), ("Conflict", "True", conflict)],
            )],
            GRANTS => vec![object(
                "g",
                &[("Ready", "True", "no AgentIdentity is named \"x\"")],
            )],
            POLICIES => vec![
                // Of the version before, and of none.
                {
                    let mut old = object("old", &[("Ready", "False", "wrong")]);
                    old["metadata"]["generation"] = json!(2);
                    old
                },
                json!({"metadata": {"name": "new"}}),
            ],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(
        report.findings,
        [
            "AgentIdentity a conflicts: \"a\" and \"b\" could match one pod",
            "AgentGrant g is in force, and no AgentIdentity is named \"x\"",
        ]
    );
}

fn agents(status: Value) -> Value {
    json!({
        "metadata": {"name": "picket", "namespace": "picket-system", "generation": 2},
        "spec": {"selector": {}, "template": {"spec": {"containers": []}}},
        "status": status,
    })
}

fn counts(updated: u32, unavailable: u32) -> Value {
    json!({
        "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2 - unavailable,
        "observedGeneration": 2, "updatedNumberScheduled": updated, "numberUnavailable": unavailable,
    })
}

/// The report of a cluster with these workloads, of which pods wait.
async fn of_workloads(agents: Value, controller: Value, pods: Result<Vec<Value>, u16>) -> StatusReport {
    reported(move |path| match path {
        TOLD => Ok(vec![told("a")]),
        DAEMONSETS => Ok(vec![agents.clone()]),
        DEPLOYMENTS => Ok(vec![controller.clone()]),
        OWN_PODS => pods.clone(),
        _ => Ok(Vec::new()),
    })
    .await
}

#[tokio::test]
async fn a_controller_that_somebody_deleted_is_told() {
    let all = agents(counts(2, 0));
    let (client, _asked, _folder) = client(Arc::new(move |path| {
        Ok(match path {
            DAEMONSETS => vec![all.clone()],
            _ => Vec::new(),
        })
    }))
    .await;
    let report = report(&client, None, EXPIRING).await.expect("a report");
    let said = "There is no controller (Deployment picket-system/picket-controller). Until one runs, no node gets or renews its CA";
    assert!(report.findings[0].starts_with(said), "{report:?}");
}

#[tokio::test]
async fn a_rollout_that_does_not_end_is_told_with_why_pods_wait() {
    let (runs, all) = (controller(2, 2, json!([])), agents(counts(2, 0)));
    let report = of_workloads(all, runs.clone(), Err(403)).await;
    assert_eq!(
        (report.findings.len(), report.unknown.len()),
        (0, 0),
        "{report:?}"
    );
    let waits = |reason: &str| json!([{"name": "agent", "state": {"waiting": {"reason": reason}}}]);
    let pod = |name: &str, reason: &str| json!({"metadata": {"name": name}, "status": {"containerStatuses": waits(reason)}});
    let pending = json!({"metadata": {"name": "p"}, "status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]}});
    let pods = vec![
        pod("y", "ImagePullBackOff"),
        pod("x", "ImagePullBackOff"),
        pod("z", "ContainerCreating"),
        pending,
    ];
    let report = of_workloads(agents(counts(1, 0)), runs.clone(), Ok(pods)).await;
    assert_eq!(
        report.findings,
        [
            "DaemonSet picket-system/picket: 1 of 2 nodes have a pod of its latest version. Pods wait: x, y (ImagePullBackOff), p \
          (Unschedulable: 0/2 nodes). A rollout is under way, or stopped: kubectl -n picket-system rollout status daemonset/picket"
        ]
    );
    let report = of_workloads(agents(counts(2, 1)), runs, Err(403)).await;
    assert!(
        report.findings[0].contains("1 of 2 nodes have no available pod. See which: kubectl"),
        "{report:?}"
    );
    assert!(
        report.unknown[0].starts_with("why pods in namespace picket-system wait: "),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_controller_that_does_not_run_is_told() {
    let progress = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    for (deployment, said) in [
        (
            controller(0, 0, json!([])),
            "is scaled to 0. Until one runs, no node gets or renews its CA",
        ),
        (
            controller(2, 0, json!([])),
            "has no available replica. Until one runs, no node gets or renews its CA",
        ),
        (
            controller(2, 1, progress),
            "is stuck. See kubectl -n picket-system describe deployment/picket-controller",
        ),
    ] {
        let report = of_workloads(agents(counts(2, 0)), deployment, Ok(Vec::new())).await;
        let [finding] = &report.findings[..] else {
            panic!("{report:?}")
        };
        let of = "the controller (Deployment picket-system/picket-controller)";
        assert!(finding.contains(of) && finding.contains(said), "{finding}");
    }
    let report = of_workloads(agents(counts(2, 0)), controller(2, 1, json!([])), Err(403)).await;
    assert_eq!(report.findings, Vec::<String>::new());
}
