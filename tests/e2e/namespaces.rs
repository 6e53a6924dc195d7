//! Rules about namespaces by their labels, with real clients and a real API server.
//!
//! In: kubectl in a pod, and namespaces whose labels change. Out: refusals by the labels that a namespace has now, watches that end
//! when the labels say so, lists without what is in labelled namespaces, and the agent's word where it may not list namespaces.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_label_of_a_namespace_decides_from_one_moment_to_the_next,
    a_watch_ends_when_its_namespace_is_labelled,
    a_list_comes_without_what_is_in_labelled_namespaces,
    without_the_right_to_list_namespaces_such_rules_fire_and_say_so,
};

const FILE: &str = "namespaces.yaml";

/// How long a change of labels may take to decide.
const SOON: Duration = Duration::from_secs(10);

/// The file's policy: nothing is deleted in production and in what is frozen, nobody watches production, and Secrets of production
/// are not shown.
const POLICY: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: labels}
spec:
  subjects: {identities: [worker]}
  rules:
  - name: production
    match: {verbs: [delete], resources: [configmaps], namespaceSelector: {matchLabels: {env: prod}}}
    action: Deny
    message: Production is changed by its pipeline.
  - name: frozen
    match: {verbs: [delete], resources: [configmaps]}
    when: "namespaceObject.metadata.?labels.?frozen.orValue('') == 'yes'"
    action: Deny
    message: The namespace is frozen.
  - name: no-watch
    match: {verbs: [watch], resources: [configmaps], namespaceSelector: {matchLabels: {watched: "no"}}}
    action: Deny
    message: Nobody watches this.
  - name: hidden
    match: {verbs: [list], resources: [configmaps, namespaces], namespaceSelector: {matchLabels: {hidden: "yes"}}}
    action: Filter
    message: Hidden namespaces are left out.
"#;

const PRODUCTION: [&str; 2] = [
    "policy labels, rule production",
    "Production is changed by its pipeline.",
];
const FROZEN: [&str; 2] = ["policy labels, rule frozen", "The namespace is frozen."];

/// Deletes nothing: whether it is let through shows all the same.
const DELETE: &str = "kubectl delete configmap seed -n lab --dry-run=server";

fn label(world: &World, labels: &[&str]) -> Result<()> {
    let mut arguments = vec!["label", "namespace", "lab", "--overwrite"];
    arguments.extend(labels);
    world.admin(&arguments).map(drop)
}

/// Takes every label of these tests off.
fn clean(world: &World) -> Result<()> {
    label(world, &["env-", "frozen-", "watched-", "hidden-"])
}

/// Runs the work while the policy is in force and its namespaces are known.
fn with_policy(world: &mut World, work: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    world.agent.write_objects(FILE, POLICY)?;
    let done = (|| {
        label(world, &["env=prod"])?;
        until(|| {
            let said = world.worker(DELETE)?;
            let told = said.err.contains(PRODUCTION[0]) && !said.err.contains("not known");
            Ok(told.then_some(()))
        })
        .context("the policy is not in force")?;
        label(world, &["env-"])?;
        within(|| Ok(world.worker(DELETE)?.code == 0))?;
        work(world)
    })();
    world.agent.remove_objects(FILE)?;
    clean(world)?;
    done
}

/// Waits until something holds, for as long as a change may take.
fn within(holds: impl Fn() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while !holds()? {
        ensure!(since.elapsed() < SOON, "the change does not count after {SOON:?}");
    }
    Ok(())
}

fn a_label_of_a_namespace_decides_from_one_moment_to_the_next(world: &mut World) -> Result<()> {
    with_policy(world, |world| {
        for (labels, off, told) in [
            ("env=prod", "env-", PRODUCTION),
            ("frozen=yes", "frozen-", FROZEN),
        ] {
            world.worker(DELETE)?.good().context("before the label")?;
            label(world, &[labels])?;
            within(|| Ok(world.worker(DELETE)?.code != 0))?;
            world.worker(DELETE)?.refused(&told)?;
            // The rule is about deletion, and about that namespace alone.
            world.worker("kubectl get configmap seed -n lab")?.good()?;
            let elsewhere = world.worker("kubectl delete configmap nothing -n vault --dry-run=server")?;
            ensure!(!elsewhere.err.contains(told[0]), "{}", elsewhere.err);
            label(world, &[off])?;
            within(|| Ok(world.worker(DELETE)?.code == 0))?;
        }
        ensure!(world.agent.metric("picket_namespaces_unlisted", &[])? == 0.0);
        Ok(())
    })
}

fn a_watch_ends_when_its_namespace_is_labelled(world: &mut World) -> Result<()> {
    with_policy(world, |world| {
        let log = world.picket_log();
        let watching = world.start_worker(
            "kubectl get --raw '/api/v1/namespaces/lab/configmaps?watch=true' 2>&1; echo over",
        )?;
        watching.line_with("ADDED")?;
        label(world, &["watched=no"])?;
        let labelled = Instant::now();
        watching.line_with("over")?;
        ensure!(labelled.elapsed() < SOON, "it took {:?}", labelled.elapsed());
        let record = log.wait("the end of the watch", |record| {
            record["verb"] == "watch" && record["stage"] == "ResponseComplete"
        })?;
        ensure!(record["session"]["endCause"] == "policy", "{record:#}");
        world
            .worker("kubectl get --raw '/api/v1/namespaces/lab/configmaps?watch=true&timeoutSeconds=5'")?
            .refused(&["policy labels, rule no-watch"])
            .map(drop)
    })
}

fn a_list_comes_without_what_is_in_labelled_namespaces(world: &mut World) -> Result<()> {
    with_policy(world, |world| {
        let list = || world.worker("kubectl get configmaps -A -o name")?.good();
        ensure!(list()?.contains("configmap/seed"));
        label(world, &["hidden=yes"])?;
        within(|| Ok(!list()?.contains("configmap/seed")))?;
        let namespaces = world.worker("kubectl get namespaces -o name")?.good()?;
        ensure!(
            namespaces.contains("namespace/agents") && !namespaces.contains("namespace/lab"),
            "{namespaces}"
        );
        world
            .worker("kubectl get configmaps -n lab")?
            .refused(&["policy labels, rule hidden"])?;
        label(world, &["hidden-"])?;
        within(|| Ok(list()?.contains("configmap/seed")))
    })
}

fn without_the_right_to_list_namespaces_such_rules_fire_and_say_so(world: &mut World) -> Result<()> {
    let role = world.admin(&["get", "clusterrole", "picket-node", "-o", "json"])?;
    let mut narrowed: serde_json::Value = serde_json::from_str(&role)?;
    let rules = narrowed["rules"].as_array_mut().context("rules")?;
    let count = rules.len();
    rules.retain(|rule| rule["resources"] != serde_json::json!(["namespaces"]));
    ensure!(rules.len() + 1 == count, "no rule about namespaces: {role}");
    let metadata = narrowed["metadata"].as_object_mut().context("metadata")?;
    metadata.remove("resourceVersion");
    let wide: serde_json::Value = serde_json::from_str(&role)?;
    let done = (|| {
        world.cluster.apply(&narrowed.to_string())?;
        // A watch that was let begin would go on.
        until(|| {
            let may = [
                "auth",
                "can-i",
                "list",
                "namespaces",
                "--as=picket:x",
                "--as-group=picket:nodes",
            ];
            Ok(world.admin(&may).is_err().then_some(()))
        })?;
        world.agent.write_objects(FILE, POLICY)?;
        until(|| {
            let said = world.worker(DELETE)?;
            let words =
                "namespace \"lab\" is not known, as the API server does not let Picket list namespaces";
            Ok((said.err.contains(FROZEN[0]) && said.err.contains(words)).then_some(()))
        })
        .context("the refusal does not say why")?;
        world
            .worker("kubectl get --raw '/api/v1/namespaces/lab/configmaps?watch=true&timeoutSeconds=5'")?
            .refused(&[
                "policy labels, rule hidden",
                "the labels of namespace \"lab\" are not known, which counts as a match: the API server does not let Picket list namespaces",
            ])?;
        world.worker("kubectl get configmap seed -n lab")?.good()?;
        ensure!(world.agent.metric("picket_namespaces_unlisted", &[])? == 1.0);
        Ok(())
    })();
    let mut wide = wide;
    if let Some(metadata) = wide["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    world.cluster.apply(&wide.to_string())?;
    let back = until(|| Ok((world.worker(DELETE)?.code == 0).then_some(())))
        .context("the right is back, and counts for nothing");
    world.agent.remove_objects(FILE)?;
    done?;
    back
}
