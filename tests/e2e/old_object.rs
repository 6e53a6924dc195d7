//! Rules with `oldObject`: what is stored decides, and nothing else than what was judged is changed or deleted.
//!
//! In: real clients in a pod, and a policy that keeps what is labelled so. Out: refusals of each way to change or delete it; and writes of
//! two clients at once that go through, though each is held to the version that it was judged on.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    what_is_stored_decides_over_each_way_to_change_or_delete_it,
    what_is_new_is_created_and_a_dry_run_deletes_nothing,
    a_conflict_that_picket_brings_about_is_tried_again,
};

const FILE: &str = "old-object.yaml";

/// ConfigMaps with the label `protected` are not deleted, and keep it; finalizers are only added.
const POLICY: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: old-object}
spec:
  subjects: {identities: [worker]}
  rules:
  - name: protected
    match: {verbs: [update, patch, delete], resources: [configmaps], namespaces: [lab]}
    when: >-
      oldObject != null && oldObject.metadata.?labels.?protected.orValue("") == "true" &&
      (object == null || object.metadata.?labels.?protected.orValue("") != "true")
    action: Deny
    message: It is protected.
  - name: finalizers-may-only-be-added
    match: {verbs: [update, patch], resources: [configmaps], namespaces: [lab]}
    when: >-
      oldObject != null && has(oldObject.metadata.finalizers) &&
      !oldObject.metadata.finalizers.all(f, f in object.metadata.?finalizers.orValue([]))
    action: Deny
    message: Finalizers stay.
"#;

const TOLD: [&str; 2] = ["policy old-object, rule protected", "It is protected."];

const KEPT: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "namespace": "lab", "labels": LABELS}, "data": {"n": "0"}}"#;

/// Patches an object a number of times over one connection: path, key, how often. Prints each status.
const PATCHES: &str = r#"
import http.client, json, os, ssl, sys
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
path, key, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]),
    context=ssl.create_default_context(cafile=ACCOUNT + "/ca.crt"))
headers = {"Authorization": "Bearer " + open(ACCOUNT + "/token").read(), "Content-Type": "application/merge-patch+json"}
for number in range(times):
    connection.request("PATCH", path, json.dumps({"data": {key: str(number)}}), headers)
    answer = connection.getresponse()
    answer.read()
    print(answer.status)
"#;

/// Runs the work while the policy is in force and the ConfigMap is there, with these labels.
fn with_kept(world: &mut World, labels: &str, work: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.agent.write_objects(FILE, POLICY)?;
    let done = (|| {
        world.admin(&["create", "configmap", "kept", "-n", "lab", "--from-literal=n=0"])?;
        world.admin(&["label", "configmap", "kept", "-n", "lab", "protected=true"])?;
        until(|| {
            let said = world.worker("kubectl delete configmap kept -n lab --dry-run=server")?;
            Ok(said.err.contains(TOLD[0]).then_some(()))
        })
        .context("the policy is not in force")?;
        if labels.is_empty() {
            world.admin(&["label", "configmap", "kept", "-n", "lab", "protected-"])?;
        }
        work(world)
    })();
    world.agent.remove_objects(FILE)?;
    world
        .admin(&[
            "patch",
            "configmap",
            "kept",
            "-n",
            "lab",
            "--type=merge",
            "-p",
            r#"{"metadata": {"finalizers": null}}"#,
        ])
        .ok();
    world.admin(&[
        "delete",
        "configmap",
        "-n",
        "lab",
        "--ignore-not-found",
        "kept",
        "fresh",
    ])?;
    done
}

fn what_is_stored_decides_over_each_way_to_change_or_delete_it(world: &mut World) -> Result<()> {
    with_kept(world, "protected", |world| {
        let unlabelled = KEPT.replace("LABELS", "{}");
        let labelled = KEPT.replace("LABELS", r#"{"protected": "true", "by": "worker"}"#);
        for command in [
            "kubectl delete configmap kept -n lab",
            "kubectl delete configmap kept -n lab --now",
            "kubectl delete --raw /api/v1/namespaces/lab/configmaps/kept",
            "kubectl label configmap kept -n lab protected-",
            "kubectl label configmap kept -n lab protected=no --overwrite",
            r#"kubectl patch configmap kept -n lab --type=merge -p '{"metadata": {"labels": null}}'"#,
            r#"kubectl patch configmap kept -n lab --type=json -p '[{"op": "remove", "path": "/metadata/labels"}]'"#,
            // For many at once there is no one stored object.
            "kubectl delete --raw '/api/v1/namespaces/lab/configmaps?labelSelector=protected'",
        ] {
            let said = world.worker(command)?;
            said.refused(&TOLD[..1]).with_context(|| command.to_owned())?;
        }
        for command in ["kubectl replace -f -", "kubectl replace --force -f -"] {
            world
                .worker(&format!("echo '{unlabelled}' | {command}"))?
                .refused(&TOLD)
                .with_context(|| command.to_owned())?;
        }
        let stored = world.admin(&[
            "get",
            "configmap",
            "kept",
            "-n",
            "lab",
            "-o",
            "jsonpath={.metadata.labels.protected}",
        ])?;
        ensure!(stored == "true", "{stored}");
        for command in [
            "kubectl replace -f -",
            "kubectl apply -f -",
            "kubectl apply --server-side --force-conflicts -f -",
        ] {
            world
                .worker(&format!("echo '{labelled}' | {command}"))?
                .good()
                .with_context(|| command.to_owned())?;
        }
        // Finalizers may be added, and not be taken off.
        let finalizers = |list: &str| {
            format!(
                "kubectl patch configmap kept -n lab --type=merge -p '{{\"metadata\": {{\"finalizers\": {list}}}}}'"
            )
        };
        world.worker(&finalizers(r#"["example.test/a"]"#))?.good()?;
        world
            .worker(&finalizers(r#"["example.test/a", "example.test/b"]"#))?
            .good()?;
        for list in [r#"["example.test/b"]"#, "null"] {
            world
                .worker(&finalizers(list))?
                .refused(&["rule finalizers-may-only-be-added"])?;
        }
        Ok(())
    })
}

fn what_is_new_is_created_and_a_dry_run_deletes_nothing(world: &mut World) -> Result<()> {
    with_kept(world, "", |world| {
        let fresh = KEPT.replace("LABELS", "{}").replace("kept", "fresh");
        let apply = "kubectl apply --server-side -f -";
        world
            .worker(&format!("echo '{fresh}' | {apply} --dry-run=server"))?
            .good()?;
        world.worker(&format!("echo '{fresh}' | {apply}"))?.good()?;
        world.worker(&format!("echo '{fresh}' | {apply}"))?.good()?;
        for command in [
            "kubectl delete configmap fresh -n lab --dry-run=server",
            "kubectl delete --raw '/api/v1/namespaces/lab/configmaps/fresh?dryRun=All'",
        ] {
            world
                .worker(command)?
                .good()
                .with_context(|| command.to_owned())?;
            world
                .admin(&["get", "configmap", "fresh", "-n", "lab"])
                .context("it is gone")?;
        }
        world
            .worker("kubectl delete configmap fresh -n lab --cascade=orphan")?
            .good()?;
        world
            .worker("kubectl delete configmap fresh -n lab")?
            .refused(&["NotFound"])?;
        Ok(())
    })
}

fn a_conflict_that_picket_brings_about_is_tried_again(world: &mut World) -> Result<()> {
    const TIMES: usize = 60;
    const ROUNDS: usize = 5;
    /// How often Picket sends a write that meets conflicts.
    const TRIES: usize = 3;
    with_kept(world, "", |world| {
        let server = world.server_log();
        let path = "/api/v1/namespaces/lab/configmaps/kept";
        let patches = |key: &str| -> Result<Vec<String>> {
            let said = world
                .python("worker", PATCHES, &[path, key, &TIMES.to_string()])?
                .good()?;
            Ok(said.lines().map(str::to_owned).collect())
        };
        let round = || -> Result<Vec<String>> {
            let (one, other, third) = std::thread::scope(|scope| {
                let one = scope.spawn(|| patches("one"));
                let other = scope.spawn(|| patches("other"));
                let kubectl =
                    "kubectl patch configmap kept -n lab --type=merge -p '{\"data\": {\"third\": \"1\"}}'";
                let third = world.worker(kubectl);
                let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<String>>>| {
                    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
                };
                let (one, other) = (join(one), join(other));
                third.map(|third| (one, other, third))
            })?;
            // Between two that write all the time, it may meet as many conflicts as are tried again.
            let third = match third.err.contains("(Conflict)") {
                true => "409".to_owned(),
                false => third.good().map(|_| "200".to_owned())?,
            };
            Ok([one?, other?, vec![third]].concat())
        };
        let mut answered = Vec::new();
        let (mut conflicts, mut met) = (0, 0);
        // Whether two writers meet is up to the scheduler.
        for _ in 0..ROUNDS {
            answered.extend(round()?);
            conflicts = answered.iter().filter(|status| *status == "409").count();
            let seen = server.all(|record| {
                record["verb"] == "patch"
                    && record["objectRef"]["name"] == "kept"
                    && record["responseStatus"]["code"] == 409
            })?;
            met = seen.len();
            if met > conflicts * TRIES {
                break;
            }
        }
        ensure!(
            answered.iter().all(|status| status == "200" || status == "409"),
            "{answered:?}"
        );
        ensure!(
            met > conflicts * TRIES,
            "the API server saw {met} conflicts, the clients {conflicts}"
        );
        let last = (TIMES - 1).to_string();
        if conflicts == 0 {
            let data = world.admin(&[
                "get",
                "configmap",
                "kept",
                "-n",
                "lab",
                "-o",
                "jsonpath={.data.one} {.data.other} {.data.third}",
            ])?;
            ensure!(data == format!("{last} {last} 1"), "{data}");
        }
        Ok(())
    })
}
