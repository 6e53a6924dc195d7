//! Rules that hide objects of lists and watches, with real clients and a real API server.
//!
//! In: clients in a pod, and a policy that hides a namespace. Out: lists, pages, watches and protobuf without what is in that
//! namespace, refusals of what names it, and records that count.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::json;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    lists_come_without_what_a_rule_hides,
    a_watch_goes_on_without_what_a_rule_hides_and_ends_when_the_rule_changes,
};

const FILE: &str = "filter.yaml";

const POLICY: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: system}
spec:
  subjects: {identities: [worker]}
  rules:
  - name: not-system
    match: {resources: [configmaps, namespaces], namespaces: [kube-system]}
    action: Filter
    message: System objects are left out.
"#;

/// A ConfigMap that the API server keeps in `kube-system`.
const SYSTEM: &str = "extension-apiserver-authentication";

const TOLD: [&str; 2] = ["policy system, rule not-system", "System objects are left out."];

/// Gets a path as a media type: the code, the answer's own media type, its length, and which of the words are in it.
const GET: &str = r#"
import http.client, json, os, ssl, sys
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
path, accept, words = sys.argv[1], sys.argv[2], sys.argv[3:]
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]),
    context=ssl.create_default_context(cafile=ACCOUNT + "/ca.crt"))
headers = {"Authorization": "Bearer " + open(ACCOUNT + "/token").read(), "Accept": accept, "Accept-Encoding": "gzip"}
connection.request("GET", path, headers=headers)
answer = connection.getresponse()
body = answer.read()
print(json.dumps([answer.status, answer.getheader("Content-Type"), [word for word in words if word.encode() in body]]))
"#;

/// Runs the work while the policy is in force.
fn with_policy(world: &mut World, work: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.agent.write_objects(FILE, POLICY)?;
    let done = (|| {
        until(|| {
            let said = world.worker(&format!("kubectl get configmap {SYSTEM} -n kube-system"))?;
            Ok(said.err.contains(TOLD[0]).then_some(()))
        })
        .context("the policy is not in force")?;
        work(world)
    })();
    world.agent.remove_objects(FILE)?;
    done
}

fn lists_come_without_what_a_rule_hides(world: &mut World) -> Result<()> {
    let whole = world.worker("kubectl get configmaps -A")?.good()?;
    ensure!(whole.contains(SYSTEM) && whole.contains("seed"), "{whole}");
    with_policy(world, |world| {
        let log = world.picket_log();
        let counted = world.agent.metric("picket_hidden_objects_total", &[])?;
        for line in [
            "kubectl get configmaps -A",
            "kubectl get configmaps -A -o json",
            "kubectl get configmaps -A -o name",
            "kubectl get configmaps -A --chunk-size=2",
            "kubectl get configmaps -A -l no-such-label!=x",
            "kubectl get --raw '/api/v1/configmaps'",
        ] {
            let said = world.worker(line)?;
            ensure!(
                said.err.contains(TOLD[1]) || line.contains("--raw"),
                "{line}: {}",
                said.err
            );
            let shown = said.good().with_context(|| line.to_owned())?;
            ensure!(
                shown.contains("seed") && !shown.contains(SYSTEM),
                "{line}: {shown}"
            );
            ensure!(!shown.contains("\"kube-system\""), "{line}: {shown}");
        }
        let record = log.wait("a filtered list", |record| {
            record["verb"] == "list" && record["decision"]["outcome"] == "masked"
        })?;
        ensure!(
            record["masking"]["rules"] == json!(["system/not-system"]),
            "{record:#}"
        );
        let counts = &record["masking"]["counts"];
        ensure!(
            counts["hidden"].as_u64() >= Some(1) && counts["items"].as_u64() > counts["hidden"].as_u64(),
            "{record:#}"
        );
        ensure!(world.agent.metric("picket_hidden_objects_total", &[])? >= counted + 6.0);

        let namespaces = world.worker("kubectl get namespaces -o name")?.good()?;
        ensure!(
            namespaces.contains("namespace/lab") && !namespaces.contains("kube-system"),
            "{namespaces}"
        );

        for (accept, expected) in [
            (
                "application/vnd.kubernetes.protobuf",
                r#"[200, "application/vnd.kubernetes.protobuf", ["seed"]]"#,
            ),
            (
                "application/cbor, application/json",
                r#"[200, "application/json", ["seed"]]"#,
            ),
            (
                "application/yaml",
                r#"[406, "application/json", ["Accept: application/json"]]"#,
            ),
        ] {
            let words = ["seed", SYSTEM, "Accept: application/json"];
            let arguments: Vec<_> = ["/api/v1/configmaps", accept].into_iter().chain(words).collect();
            let said = world.python("worker", GET, &arguments)?.good()?;
            ensure!(said.trim() == expected, "{accept}: {said}");
        }

        for line in [
            "kubectl get configmaps -n kube-system".to_owned(),
            format!("kubectl get configmap {SYSTEM} -n kube-system -o yaml"),
            format!("kubectl label configmap {SYSTEM} -n kube-system seen=yes"),
            format!("kubectl delete configmap {SYSTEM} -n kube-system --dry-run=server"),
            "kubectl get namespace kube-system".to_owned(),
        ] {
            world.worker(&line)?.refused(&TOLD).with_context(|| line)?;
        }
        Ok(())
    })
}

fn a_watch_goes_on_without_what_a_rule_hides_and_ends_when_the_rule_changes(world: &mut World) -> Result<()> {
    let make = |world: &World, name: &str, namespace: &str| {
        world
            .admin(&["create", "configmap", name, "-n", namespace])
            .map(drop)
    };
    let done = with_policy(world, |world| {
        let log = world.picket_log();
        let watching = world.start_worker("kubectl get configmaps -A --watch-only -o name; echo over")?;
        let tried = (|| {
            // It watches once it has shown something.
            until(|| {
                world.admin(&[
                    "label",
                    "configmap",
                    "seed",
                    "-n",
                    "lab",
                    "--overwrite",
                    "seen=yes",
                ])?;
                let began =
                    log.all(|record| record["verb"] == "watch" && record["stage"] == "ResponseStarted")?;
                Ok((!began.is_empty()).then_some(()))
            })?;
            make(world, "unseen", "kube-system")?;
            make(world, "seen", "lab")?;
            let mut shown = String::new();
            while !shown.ends_with("configmap/seen") {
                shown.push_str(&watching.line()?);
            }
            ensure!(!shown.contains("unseen") && !shown.contains(SYSTEM), "{shown}");
            Ok(())
        })();
        tried?;
        world.agent.write_objects(
            FILE,
            &POLICY.replace("[kube-system]", "[kube-system, kube-public]"),
        )?;
        watching.line_with("over")?;
        let record = log.wait("the end of the watch", |record| {
            record["verb"] == "watch" && record["stage"] == "ResponseComplete"
        })?;
        ensure!(record["session"]["endCause"] == "filter_changed", "{record:#}");
        ensure!(
            record["masking"]["counts"]["hidden"].as_u64() >= Some(1),
            "{record:#}"
        );
        Ok(())
    });
    for (name, namespace) in [("unseen", "kube-system"), ("seen", "lab")] {
        world.admin(&["delete", "configmap", name, "-n", namespace, "--ignore-not-found"])?;
    }
    done
}
