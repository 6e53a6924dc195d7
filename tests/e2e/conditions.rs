//! Rules with `when`: the object of a request is judged alike in every encoding and by every kind of patch.
//!
//! In: real clients in a pod, and a policy that looks into ConfigMaps. Out: the same verdict, rule and message for each; what is let
//! through is stored as the client meant it.

use anyhow::{Context, Result, ensure};
use picket_tests::audit::about;
use picket_tests::tests;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_object_is_judged_alike_by_every_client_and_patch,
    a_body_that_two_readers_take_differently_is_refused,
};

const FILE: &str = "conditions.yaml";

/// The file's policy: nobody stores a ConfigMap with `mode: wild`.
const POLICY: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: conditions}
spec:
  subjects: {identities: [worker]}
  params: {data: {refused: wild}}
  variables:
  - {name: mode, expression: "object.?data.?mode.orValue('')"}
  rules:
  - name: not-wild
    match: {verbs: [create, update], resources: [configmaps], namespaces: [lab]}
    when: variables.mode == params.data.refused
    action: Deny
    message: Mode wild is for people.
"#;

/// What each refusal says.
const TOLD: [&str; 2] = ["policy conditions, rule not-wild", "Mode wild is for people."];

/// Sends a request with a body: method, path, Content-Type, body.
const SEND: &str = r#"
import http.client, os, ssl, sys
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
method, path, media, body = sys.argv[1:5]
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]),
    context=ssl.create_default_context(cafile=ACCOUNT + "/ca.crt"))
headers = {"Authorization": "Bearer " + open(ACCOUNT + "/token").read(), "Content-Type": media}
connection.request(method, path, body.encode(), headers)
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"#;

/// Runs the work while the policy is in force.
fn with_policy(world: &mut World, work: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.agent.write_objects(FILE, POLICY)?;
    let done = (|| {
        until(|| {
            let said = world
                .worker("kubectl create configmap probe -n lab --from-literal=mode=wild --dry-run=server")?;
            Ok(said.err.contains(TOLD[0]).then_some(()))
        })
        .context("the policy is not in force")?;
        work(world)
    })();
    world.agent.remove_objects(FILE)?;
    world.admin(&["delete", "configmap", "-n", "lab", "--ignore-not-found", "judged"])?;
    done
}

fn mode(world: &World) -> Result<String> {
    world.admin(&[
        "get",
        "configmap",
        "judged",
        "-n",
        "lab",
        "-o",
        "jsonpath={.data.mode}",
    ])
}

fn an_object_is_judged_alike_by_every_client_and_patch(world: &mut World) -> Result<()> {
    with_policy(world, |world| {
        let object = |mode: &str| {
            format!(
                r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "judged", "namespace": "lab"}}, "data": {{"mode": "{mode}"}}}}"#
            )
        };
        let line = |command: &str, mode: &str| format!("echo '{}' | {command}", object(mode));
        // Creation, by each client and encoding.
        let create = "kubectl create -f -";
        let apply = "kubectl apply -f -";
        let server_side = "kubectl apply --server-side --force-conflicts -f -";
        for command in [create, apply, server_side] {
            world.worker(&line(command, "wild"))?.refused(&TOLD)?;
        }
        let maps = "/api/v1/namespaces/lab/configmaps";
        let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: judged}\ndata: {mode: wild}\n";
        for (media, body) in [
            ("application/json", object("wild")),
            ("application/yaml", yaml.to_owned()),
        ] {
            let said = world
                .python("worker", SEND, &["POST", maps, media, &body])?
                .good()?;
            ensure!(
                said.starts_with("403 ") && TOLD.iter().all(|word| said.contains(word)),
                "{media}: {said}"
            );
        }
        world.worker(&line(create, "mild"))?.good()?;
        ensure!(mode(world)? == "mild");

        // Changes, by each kind of patch.
        for command in [apply, server_side, "kubectl replace -f -"] {
            world
                .worker(&line(command, "wild"))?
                .refused(&TOLD)
                .with_context(|| command.to_owned())?;
            world
                .worker(&line(command, "calm"))?
                .good()
                .with_context(|| command.to_owned())?;
        }
        ensure!(mode(world)? == "calm");
        for (kind, patch) in [
            ("merge", r#"{"data": {"mode": "MODE"}}"#),
            ("strategic", r#"{"data": {"mode": "MODE"}}"#),
            (
                "json",
                r#"[{"op": "replace", "path": "/data/mode", "value": "MODE"}]"#,
            ),
        ] {
            let patch = |mode: &str| {
                let patch = patch.replace("MODE", mode);
                format!("kubectl patch configmap judged -n lab --type={kind} -p '{patch}'")
            };
            let picket = world.picket_log();
            world
                .worker(&patch("wild"))?
                .refused(&TOLD)
                .with_context(|| kind.to_owned())?;
            let record = picket.wait("the denial", |record| {
                about(record, "patch", "configmaps", "judged")
            })?;
            ensure!(
                record["decision"]["rule"] == "not-wild" && record["decision"]["outcome"] == "deny",
                "{record:#}"
            );
            world
                .worker(&patch(kind))?
                .good()
                .with_context(|| kind.to_owned())?;
            ensure!(mode(world)? == kind);
        }
        // A patch that leaves the field as it is makes an object that is judged all the same.
        world.admin(&[
            "patch",
            "configmap",
            "judged",
            "-n",
            "lab",
            "--type=merge",
            "-p",
            r#"{"data": {"mode": "wild"}}"#,
        ])?;
        world
            .worker("kubectl label configmap judged -n lab by=worker")?
            .refused(&TOLD)?;
        // What the API server refuses is refused in its words.
        world
            .worker("kubectl patch configmap nowhere -n lab --type=merge -p '{}'")?
            .refused(&["NotFound", "configmaps \"nowhere\" not found"])?;
        Ok(())
    })
}

fn a_body_that_two_readers_take_differently_is_refused(world: &mut World) -> Result<()> {
    with_policy(world, |world| {
        let maps = "/api/v1/namespaces/lab/configmaps";
        let server = world.server_log();
        let twice = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "judged"}, "data": {"mode": "mild"}, "data": {"mode": "wild"}}"#;
        for (media, body, code) in [
            ("application/json", twice, "400 "),
            ("application/json", "{", "400 "),
            ("application/cbor", "\u{1}\u{1}", "400 "),
            ("text/plain", "{}", "415 "),
        ] {
            let said = world
                .python("worker", SEND, &["POST", maps, media, body])?
                .good()?;
            ensure!(said.starts_with(code), "{media}: {said}");
        }
        world.admin(&["get", "namespace", "lab"])?;
        let reached = server
            .all(|record| record["verb"] == "create" && record["objectRef"]["resource"] == "configmaps")?;
        ensure!(reached.is_empty(), "the API server saw {reached:?}");
        Ok(())
    })
}
