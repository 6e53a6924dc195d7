//! The values: what an operator may set, that each is described, and that Helm refuses all else.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Test;
use crate::helm::{CHART, NAMESPACE, REQUIRED, Render as _, documents, said};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_chart_is_without_a_fault,
    a_value_that_is_wrong_or_unknown_is_refused,
    each_value_is_described_and_has_a_default,
    what_must_be_said_is_asked_for,
    a_namespace_that_no_builtin_guards_is_refused,
    the_versions_are_the_binarys,
};

fn the_chart_is_without_a_fault(world: &mut World) -> Result<()> {
    let mut command = world
        .helm
        .command(&["lint", "--strict", "--namespace", NAMESPACE, CHART]);
    let text = said(command.args(REQUIRED).output()?)?;
    ensure!(text.contains("1 chart(s) linted, 0 chart(s) failed"), "{text}");
    ensure!(!text.contains("[WARNING]") && !text.contains("[ERROR]"), "{text}");
    Ok(())
}

fn a_value_that_is_wrong_or_unknown_is_refused(world: &mut World) -> Result<()> {
    let cases = [
        ("colour=red", "additional properties 'colour' not allowed"),
        ("audit.maxSize=1Gi", "additional properties 'maxSize' not allowed"),
        (
            "agent.hostNetwork=false",
            "additional properties 'hostNetwork' not allowed",
        ),
        ("enforce.staticPods=open", "'/enforce/staticPods'"),
        ("enrol.admission=true", "'/enrol/admission'"),
        ("impersonate.mode=all", "'/impersonate/mode'"),
        (
            "enrol.namespaces={agents}",
            "additional properties 'namespaces' not allowed",
        ),
        ("enrol.serviceAccounts={builder}", "'/enrol/serviceAccounts/0'"),
        ("enrol.allowHostNetwork={ci/*}", "'/enrol/allowHostNetwork/0'"),
        ("enrol.allowHostPaths={data}", "'/enrol/allowHostPaths/0'"),
        ("enrol.allowHostPaths={/}", "'/enrol/allowHostPaths/0'"),
        (
            "enrol.refuseRuntimeClasses={ka*ta}",
            "'/enrol/refuseRuntimeClasses/0'",
        ),
        ("enrol.apiServerAudiences={}", "'/enrol/apiServerAudiences/0'"),
        ("apiServer.address=http://10.0.0.1:6443", "'/apiServer/address'"),
        (
            "apiServer.address=https://10.0.0.1:6443/x",
            "'/apiServer/address'",
        ),
        (
            "apiServer.address=https://kubernetes.default.svc:443",
            "'/apiServer/address'",
        ),
        ("shutdown.drainSeconds=3601", "'/shutdown/drainSeconds'"),
        ("audit.maxSegmentAge=1d", "'/audit/maxSegmentAge'"),
        ("audit.sinks[0].stdout.x=1", "'/audit/sinks/0/stdout'"),
        ("audit.sinks[0].name=x", "'/audit/sinks/0'"),
        ("impersonate.groups={system:masters}", "'/impersonate/groups/0'"),
        (
            "impersonate.groups={picket:agents,system:serviceaccounts}",
            "'/impersonate/groups/1'",
        ),
        ("impersonate.users={system:admin}", "'/impersonate/users/0'"),
        (
            "impersonate.users={system:serviceaccount:ci}",
            "'/impersonate/users/0'",
        ),
        ("impersonate.users={system:node:node-1}", "'/impersonate/users/0'"),
        ("tokenSecrets.accounts={deployer}", "'/tokenSecrets/accounts/0'"),
        ("host.run=run", "'/host/run'"),
        // `helm uninstall` removes these.
        ("host.run=/run", "'/host/run'"),
        ("host.run=/run/../picket", "'/host/run'"),
        ("host.state=/var/lib", "'/host/state'"),
        ("host.log=/var/log/picket/", "'/host/log'"),
        (
            "metrics.prometheusRule.enabled=true",
            "metrics.prometheusRule.enabled: without metrics",
        ),
        ("image.repository=a b", "'/image/repository'"),
        ("image.tag=a b", "'/image/tag'"),
        ("image.pullSecrets={A}", "'/image/pullSecrets/0'"),
        ("uninstall=true", "'/uninstall'"),
        ("uninstall.timeoutSeconds=5", "'/uninstall/timeoutSeconds'"),
        ("agent.priorityClassName=a b", "'/agent/priorityClassName'"),
        (
            "trust.existingSecret=picket-root-ca",
            "is the Secret that the controller keeps",
        ),
        (
            "trust.existingSecret=mine,trust.volume.csi.driver=kms",
            "give one of them",
        ),
        ("trust.permittedNames={a b}", "'/trust/permittedNames/0'"),
        ("controller.replicas=0", "'/controller/replicas'"),
    ];
    for (value, reason) in cases {
        let arguments: Vec<&str> = REQUIRED.into_iter().chain(["--set", value]).collect();
        let said = world.helm.refuses(&arguments)?;
        ensure!(said.contains(reason), "{value}: {said}");
    }
    Ok(())
}

fn what_must_be_said_is_asked_for(world: &mut World) -> Result<()> {
    // Without a cluster nobody knows the API server.
    let said = world.helm.refuses(&[])?;
    ensure!(
        said.contains("apiServer.address: no API server is known; give https://HOST:PORT"),
        "{said}"
    );
    Ok(())
}

/// The engine's built-in denies know Picket's namespace by its name.
fn a_namespace_that_no_builtin_guards_is_refused(world: &mut World) -> Result<()> {
    let arguments: Vec<&str> = REQUIRED.into_iter().chain(["--namespace", "elsewhere"]).collect();
    let said = world.helm.refuses(&arguments)?;
    ensure!(said.contains("the release's namespace is elsewhere"), "{said}");
    Ok(())
}

fn each_value_is_described_and_has_a_default(_: &mut World) -> Result<()> {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{CHART}/values.schema.json"))?)?;
    let text = std::fs::read_to_string(format!("{CHART}/values.yaml"))?;
    let values = documents(&text)?.pop().context("values")?;
    let mut faults = Vec::new();
    let count = describe("", &schema, Some(&values), &mut faults);
    ensure!(faults.is_empty(), "{faults:#?}");
    ensure!(count > 40, "only {count} values were looked at");
    Ok(())
}

/// Looks at a value and those below it; gives how many that were. `values` is what values.yaml has there.
fn describe(path: &str, schema: &Value, values: Option<&Value>, faults: &mut Vec<String>) -> usize {
    if schema["description"].as_str().is_none_or(|text| text.len() < 8) {
        faults.push(format!("{path}: no description"));
    }
    let mut count = 1;
    let properties = schema["properties"].as_object();
    if properties.is_some() && schema["additionalProperties"] != Value::Bool(false) {
        faults.push(format!("{path}: takes unknown values"));
    }
    for (name, below) in properties.into_iter().flatten() {
        let default = values.and_then(|values| values.get(name));
        // `global` is Helm's own.
        if values.is_some() && default.is_none() && name != "global" {
            faults.push(format!("{path}/{name}: no default in values.yaml"));
        }
        count += describe(&format!("{path}/{name}"), below, default, faults);
    }
    for (name, below) in schema["items"]["properties"].as_object().into_iter().flatten() {
        count += describe(&format!("{path}[]/{name}"), below, None, faults);
    }
    count
}

fn the_versions_are_the_binarys(_: &mut World) -> Result<()> {
    let chart = documents(&std::fs::read_to_string(format!("{CHART}/Chart.yaml"))?)?;
    for key in ["version", "appVersion"] {
        ensure!(
            chart[0][key] == env!("CARGO_PKG_VERSION"),
            "{key}: {}",
            chart[0][key]
        );
    }
    Ok(())
}
