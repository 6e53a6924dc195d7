//! Refusals: what the agent sees, what stays as it was, and what the two audit logs say.

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;
use picket_tests::audit::about;

pub(crate) const TESTS: &[Test] = tests! {
    namespace_deletion,
    read_outside_the_grant,
    exec_by_rule,
    warning,
    audit_mode_only_notes,
    rbac_decides_last,
    what_makes_no_sense_is_400,
};

fn namespace_deletion(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let said = world.worker("kubectl delete namespace doomed")?;
    said.refused(&[
        "Forbidden",
        "worker",
        "guardrails",
        "keep-namespaces",
        "Namespaces are removed by the platform team.",
    ])?;

    let phase = world.admin(&[
        "get",
        "namespace",
        "doomed",
        "-o",
        "jsonpath={.status.phase}{.metadata.deletionTimestamp}",
    ])?;
    ensure!(phase == "Active", "the namespace is {phase}");

    let record = picket.wait("the denial", |record| {
        about(record, "delete", "namespaces", "doomed")
    })?;
    let agent = &record["agent"];
    ensure!(record["decision"]["outcome"] == "deny", "{record:#}");
    ensure!(
        record["decision"]["policy"] == "guardrails" && record["decision"]["rule"] == "keep-namespaces",
        "{record:#}"
    );
    ensure!(
        agent["identity"] == "worker" && agent["serviceAccount"] == "worker",
        "{record:#}"
    );
    ensure!(
        agent["pod"]["namespace"] == "agents" && agent["pod"]["name"] == "worker",
        "{record:#}"
    );
    ensure!(agent["node"] == world.cluster.node().name.as_str(), "{record:#}");
    ensure!(
        agent["process"]["pid"].as_u64().is_some_and(|pid| pid > 1),
        "{record:#}"
    );
    ensure!(
        agent["process"]["exe"]
            .as_str()
            .is_some_and(|exe| exe.ends_with("/kubectl")),
        "{record:#}"
    );
    ensure!(record["responseStatus"]["code"] == 403, "{record:#}");
    ensure!(
        picket
            .all(|record| about(record, "delete", "namespaces", "doomed"))?
            .len()
            == 1,
        "more than one record"
    );

    // The API server's log blocks its answers, so a request that came before this one is in it.
    world.admin(&["get", "namespace", "doomed"])?;
    let reached = server.all(|record| about(record, "delete", "namespaces", "doomed"))?;
    ensure!(reached.is_empty(), "the API server saw {reached:?}");
    ensure!(
        !server.records()?.is_empty(),
        "the API server's log is empty, which proves nothing"
    );
    Ok(())
}

fn read_outside_the_grant(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let said = world.worker("kubectl get secret crown -n vault -o yaml")?;
    ensure!(!said.out.contains("jewel"), "the secret came out");
    said.refused(&["Forbidden", "worker", "secrets"])?;
    let record = picket.wait("the denial", |record| about(record, "get", "secrets", "crown"))?;
    ensure!(
        record["decision"]["outcome"] == "deny" && record["decision"]["reason"] == "no_grant",
        "{record:#}"
    );
    world.admin(&["get", "namespace", "vault"])?;
    let by_agent = |record: &Value| about(record, "get", "secrets", "crown");
    ensure!(server.all(by_agent)?.is_empty(), "the API server was asked");
    Ok(())
}

fn exec_by_rule(world: &mut World) -> Result<()> {
    for transport in ["true", "false"] {
        let (picket, server) = (world.picket_log(), world.server_log());
        let line = |command: &str| {
            format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={transport} kubectl exec target -n lab -- {command}")
        };
        let said = world.worker(&line("cat /etc/shadow"))?;
        said.refused(&[
            "guardrails",
            "no-shadow",
            "Password files are none of an agent's business.",
        ])?;
        // The test itself uses exec too, into another pod.
        let is_exec = |record: &Value| {
            record["objectRef"]["subresource"] == "exec" && record["objectRef"]["name"] == "target"
        };
        // An earlier session's end may still come in.
        let refused = |record: &Value| {
            record["requestURI"]
                .as_str()
                .is_some_and(|uri| uri.contains("shadow"))
        };
        picket.wait("the denial", |record| {
            is_exec(record) && record["decision"]["outcome"] == "deny"
        })?;
        world.admin(&["get", "namespace", "lab"])?;
        ensure!(
            server
                .all(|record| is_exec(record) && refused(record))?
                .is_empty(),
            "the API server was asked for the refused exec"
        );
        let out = world.worker(&line("echo hello"))?.good()?;
        ensure!(out == "hello\n", "an exec that no rule refuses says {out:?}");
    }
    Ok(())
}

fn warning(world: &mut World) -> Result<()> {
    world.admin(&["create", "configmap", "loved", "-n", "lab"])?;
    let picket = world.picket_log();
    let said = world.worker("kubectl delete configmap loved -n lab")?;
    ensure!(
        said.err.contains("Warning: ") && said.err.contains("Others use this ConfigMap too."),
        "no warning in {:?}",
        said.err
    );
    said.good()?;
    let record = picket.wait("the delete", |record| {
        about(record, "delete", "configmaps", "loved")
    })?;
    ensure!(
        record["decision"]["warnings"][0]["rule"] == "seed-is-shared",
        "{record:#}"
    );
    Ok(())
}

fn audit_mode_only_notes(world: &mut World) -> Result<()> {
    world.admin(&["create", "configmap", "tried", "-n", "lab"])?;
    let picket = world.picket_log();
    world.worker("kubectl delete configmap tried -n lab")?.good()?;
    let record = picket.wait("the delete", |record| {
        about(record, "delete", "configmaps", "tried") && record["stage"] == "ResponseComplete"
    })?;
    ensure!(record["decision"]["outcome"] == "allow", "{record:#}");
    let would = &record["decision"]["wouldDeny"][0];
    ensure!(
        would["policy"] == "trial" && would["rule"] == "no-deletes",
        "{record:#}"
    );
    Ok(())
}

/// A grant opens Picket's protected endpoint, not the API server's: what RBAC does not give the impersonated user is refused there.
fn rbac_decides_last(world: &mut World) -> Result<()> {
    let grant = "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: more}\nspec:\n  to: {identities: [worker]}\n  \
                 upstream: {impersonate: {user: \"agent:worker\", groups: [\"agents:lab\", \"picket:agents\"]}}\n  rules:\n  \
                 - {apiGroups: [\"\"], resources: [services], verbs: [list]}\n";
    world.agent.write_objects("more.yaml", grant)?;
    let seen = crate::life::until(|| {
        let said = world.worker("kubectl get services -n lab")?;
        Ok(said
            .err
            .contains("User \"agent:worker\" cannot list resource \"services\"")
            .then_some(()))
    });
    world.agent.remove_objects("more.yaml")?;
    seen
}

fn what_makes_no_sense_is_400(world: &mut World) -> Result<()> {
    for path in [
        "/api/v1/namespaces/lab/configmaps/..%2fsecrets",
        "/api/v1//namespaces",
        "/api/v1/namespaces/lab/../vault",
    ] {
        let said = world
            .python("worker", crate::identity::REQUEST, &["GET", path])?
            .good()?;
        let answer: Value = serde_json::from_str(&said)?;
        ensure!(answer["code"] == 400, "{path} is answered with {answer}");
        ensure!(
            answer["body"]["kind"] == "Status" && answer["body"]["code"] == 400,
            "{path}: no Status in {answer}"
        );
    }
    Ok(())
}
