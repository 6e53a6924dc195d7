//! Metrics over TLS and what is made of them: rights, the ServiceMonitor, alerts and the dashboard, which name only what exists.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Test;
use crate::helm::{CHART, NAMESPACE, REQUIRED, Render as _, deployed, documents, object};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    without_the_switch_nobody_gets_a_right,
    the_rights_for_metrics_are_those_of_deploy,
    the_scraper_checks_the_agents_certificate,
    the_controllers_metrics_are_for_the_readers_namespaces,
    the_rules_are_the_file_of_the_chart,
    each_alert_says_what_to_do,
    each_metric_of_an_alert_exists,
    each_metric_of_a_panel_exists,
    a_wrong_metric_or_label_is_found,
    the_namespace_takes_no_traffic_where_that_is_wanted,
};

/// Values that switch all of it on.
const ON: &str = r#"
metrics:
  enabled: true
  readers: [{namespace: monitoring, name: prometheus}]
  serviceMonitor: {enabled: true, labels: {release: prom}}
  prometheusRule: {enabled: true, labels: {release: prom}, runbooks: "https://example.test/runbooks"}
  dashboard: {enabled: true, annotations: {grafana_folder: Security}}
networkPolicy: {create: true}
"#;

/// The page with the table of alerts.
const OPERATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/operations.md");

/// The page with every metric that an agent or the controller registers.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/reference/metrics.md");

fn with(world: &World, values: &str) -> Result<Vec<Value>> {
    let file = world.helm.file("monitoring.yaml", values)?.display().to_string();
    let arguments: Vec<&str> = REQUIRED.into_iter().chain(["--values", &file]).collect();
    world.helm.template(&arguments)
}

fn without_the_switch_nobody_gets_a_right(world: &mut World) -> Result<()> {
    let objects = with(world, "")?;
    for object in &objects {
        let text = object.to_string();
        ensure!(
            !text.contains("tokenreviews") && !text.contains("picket-metrics"),
            "{text}"
        );
    }
    let config = object(&objects, "ConfigMap", "picket")?["data"]["agent.yaml"].to_string();
    ensure!(!config.contains("metrics:"), "{config}");
    let said = world
        .helm
        .refuses(&[&REQUIRED[..], &["--set", "metrics.serviceMonitor.enabled=true"]].concat())?;
    ensure!(said.contains("set metrics.enabled too"), "{said}");
    Ok(())
}

fn the_rights_for_metrics_are_those_of_deploy(world: &mut World) -> Result<()> {
    let (ours, theirs) = (with(world, ON)?, deployed("metrics.yaml")?);
    for name in ["picket-node-metrics", "picket-metrics-reader"] {
        let rules =
            |all: &[Value]| -> Result<Value> { Ok(object(all, "ClusterRole", name)?["rules"].clone()) };
        let (ours, theirs) = (rules(&ours)?, rules(&theirs)?);
        ensure!(ours == theirs && ours.is_array(), "{name}: {ours} and {theirs}");
    }
    let subjects =
        |name: &str| -> Result<Value> { Ok(object(&ours, "ClusterRoleBinding", name)?["subjects"].clone()) };
    let account = |namespace: &str, name: &str| json!([{"kind": "ServiceAccount", "namespace": namespace, "name": name}]);
    ensure!(subjects("picket-node-metrics")? == account(NAMESPACE, "picket"));
    ensure!(subjects("picket-metrics-reader")? == account("monitoring", "prometheus"));
    let rules = object(&ours, "ClusterRole", "picket-metrics-reader")?["rules"].clone();
    ensure!(
        rules == json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]),
        "{rules}"
    );
    Ok(())
}

fn the_scraper_checks_the_agents_certificate(world: &mut World) -> Result<()> {
    let objects = with(world, ON)?;
    let monitor = object(&objects, "ServiceMonitor", "picket")?;
    let endpoint = &monitor["spec"]["endpoints"][0];
    ensure!(
        endpoint["scheme"] == "https" && endpoint["path"] == "/metrics",
        "{endpoint:#}"
    );
    let tls = &endpoint["tlsConfig"];
    ensure!(tls["insecureSkipVerify"].is_null(), "{tls:#}");
    ensure!(
        tls["ca"] == json!({"configMap": {"name": "picket-ca.crt", "key": "ca.crt"}}),
        "{tls:#}"
    );
    // The operator looks for the bundle in the monitor's namespace, where the controller keeps one.
    ensure!(monitor["metadata"]["namespace"] == NAMESPACE, "{monitor:#}");
    // The agents' certificates have the name that is asked for.
    let config = object(&objects, "ConfigMap", "picket")?["data"]["agent.yaml"].clone();
    let config = documents(config.as_str().context("agent.yaml")?)?.remove(0);
    ensure!(
        config["metrics"]["names"] == json!([tls["serverName"]]),
        "{config:#}"
    );
    ensure!(config["metrics"]["listen"] == "0.0.0.0:9444", "{config:#}");
    // The Service has the labels that the monitor selects, and leads to the agents' port.
    let service = object(&objects, "Service", "picket-metrics")?;
    let labels = service["metadata"]["labels"].as_object().context("labels")?;
    let selected = monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .context("a selector")?;
    ensure!(
        selected
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value)),
        "{service:#}"
    );
    ensure!(service["spec"]["ports"][0]["targetPort"] == 9444 && service["spec"]["clusterIP"] == "None");
    let agents = object(&objects, "DaemonSet", "picket")?;
    let pods = &agents["spec"]["template"];
    let selected = service["spec"]["selector"].as_object().context("a selector")?;
    let of_pods = pods["metadata"]["labels"].as_object().context("labels")?;
    ensure!(
        selected
            .iter()
            .all(|(name, value)| of_pods.get(name) == Some(value)),
        "{selected:?}"
    );
    ensure!(
        pods["spec"]["containers"][0]["ports"].is_null(),
        "a host port would hold up an upgrade"
    );
    ensure!(monitor["metadata"]["labels"]["release"] == "prom");

    // A certificate of the operator's own, and a token in a Secret.
    let own = format!("{ON}\n").replace(
        "  enabled: true\n  readers",
        "  enabled: true\n  address: '::'\n  existingSecret: metrics-tls\n  clientCA: \"-----BEGIN CERTIFICATE-----\\n\"\n  readers",
    );
    let own = own.replace(
        "serviceMonitor: {",
        "serviceMonitor: {tokenSecret: {name: scraper, key: token}, ",
    );
    let objects = with(world, &own)?;
    let endpoint = &object(&objects, "ServiceMonitor", "picket")?["spec"]["endpoints"][0];
    ensure!(endpoint["tlsConfig"]["ca"] == json!({"secret": {"name": "metrics-tls", "key": "ca.crt"}}));
    ensure!(endpoint["authorization"]["credentials"] == json!({"name": "scraper", "key": "token"}));
    ensure!(endpoint["bearerTokenFile"].is_null(), "{endpoint:#}");
    let map = object(&objects, "ConfigMap", "picket")?;
    let config = documents(map["data"]["agent.yaml"].as_str().context("agent.yaml")?)?.remove(0);
    let metrics = json!({
        "listen": "[::]:9444", "names": ["picket-metrics.picket-system.svc"],
        "tls": {"certificateFile": "/etc/picket/metrics.crt", "keyFile": "/etc/picket/metrics.key"},
        "clientCAFile": "/etc/picket/metrics-client-ca.crt",
    });
    ensure!(config["metrics"] == metrics, "{config:#}");
    ensure!(
        map["data"]["metrics-client-ca.crt"] == "-----BEGIN CERTIFICATE-----\n",
        "{map:#}"
    );
    let mounted = object(&objects, "DaemonSet", "picket")?.to_string();
    ensure!(
        mounted.contains("\"path\":\"metrics.crt\"") && mounted.contains("metrics-tls"),
        "{mounted}"
    );
    Ok(())
}

fn the_controllers_metrics_are_for_the_readers_namespaces(world: &mut World) -> Result<()> {
    const NAME: &str = "picket-controller-metrics";
    let objects = with(world, ON)?;
    let pods = &object(&objects, "Deployment", "picket-controller")?["spec"]["template"];
    let container = &pods["spec"]["containers"][0];
    let has = |key: &str, wanted: Value| container[key].as_array().is_some_and(|all| all.contains(&wanted));
    ensure!(has("args", json!("--metrics=[::]:8082")), "{container:#}");
    ensure!(
        has("ports", json!({"name": "metrics", "containerPort": 8082})),
        "{container:#}"
    );
    // The Service and the policy are about those pods, and the monitor about that Service alone.
    let service = object(&objects, "Service", NAME)?;
    let policy = &object(&objects, "NetworkPolicy", NAME)?["spec"];
    let of_pods = pods["metadata"]["labels"].as_object().context("labels")?;
    for selected in [
        &service["spec"]["selector"],
        &policy["podSelector"]["matchLabels"],
    ] {
        let selected = selected.as_object().context("a selector")?;
        let is_of = |(name, value): (&String, &Value)| of_pods.get(name) == Some(value);
        ensure!(!selected.is_empty() && selected.iter().all(is_of), "{selected:?}");
    }
    let monitor = object(&objects, "ServiceMonitor", "picket-controller")?;
    let of_monitor = |name: &str| -> Result<bool> {
        let labels = &object(&objects, "Service", name)?["metadata"]["labels"];
        let selected = monitor["spec"]["selector"]["matchLabels"]
            .as_object()
            .context("a selector")?;
        Ok(selected.iter().all(|(name, value)| labels[name] == *value))
    };
    ensure!(of_monitor(NAME)? && !of_monitor("picket-metrics")?, "{monitor:#}");
    let endpoint = &monitor["spec"]["endpoints"][0];
    ensure!(
        endpoint["port"] == service["spec"]["ports"][0]["name"] && endpoint["path"] == "/metrics",
        "{endpoint:#}"
    );
    // Nobody but the readers' namespaces reaches the port.
    let readers = json!({
        "ports": [{"protocol": "TCP", "port": 8082}],
        "from": [{"namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring"]},
        ]}}],
    });
    let others = json!({"ports": [
        {"protocol": "TCP", "port": 1, "endPort": 8081}, {"protocol": "TCP", "port": 8083, "endPort": 65535},
    ]});
    let cases = [
        ("networkPolicy:", "networkPolicy:", json!([readers])),
        ("create: true", "create: false", json!([readers, others])),
        ("[{namespace: monitoring, name: prometheus}]", "[]", json!([])),
    ];
    for (from, to, wanted) in cases {
        let policy = object(&with(world, &ON.replace(from, to))?, "NetworkPolicy", NAME)?["spec"].clone();
        ensure!(policy["policyTypes"] == json!(["Ingress"]), "{policy:#}");
        ensure!(policy["ingress"] == wanted, "{to}: {policy:#}");
    }
    let off = with(world, "")?;
    ensure!(object(&off, "Service", NAME).is_err() && object(&off, "NetworkPolicy", NAME).is_err());
    Ok(())
}

/// The alerts of the chart's file.
fn alerts() -> Result<Vec<Value>> {
    let file = documents(&std::fs::read_to_string(format!("{CHART}/alerts/picket.yaml"))?)?.remove(0);
    let groups = file["groups"].as_array().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    let rules: Vec<Value> = rules.flatten().cloned().collect();
    ensure!(rules.len() > 40, "{} alerts", rules.len());
    Ok(rules)
}

fn the_rules_are_the_file_of_the_chart(world: &mut World) -> Result<()> {
    let objects = with(world, ON)?;
    let rule = object(&objects, "PrometheusRule", "picket")?;
    ensure!(rule["metadata"]["labels"]["release"] == "prom");
    let rules = rule["spec"]["groups"][0]["rules"].as_array().context("rules")?;
    let mut wanted = alerts()?;
    for alert in &mut wanted {
        let url = alert["annotations"]["runbook_url"]
            .as_str()
            .context("a runbook")?;
        let url = url.replace(
            "https://picket.dev/docs/operations",
            "https://example.test/runbooks",
        );
        ensure!(url.starts_with("https://example.test/runbooks#"), "{url}");
        alert["annotations"]["runbook_url"] = json!(url);
    }
    ensure!(
        *rules == wanted,
        "the PrometheusRule has other rules than alerts/picket.yaml"
    );
    // Prometheus fills these in: Helm must have left them as they are.
    ensure!(rule.to_string().contains("{{ $labels.node }}"));
    let dashboard = object(&objects, "ConfigMap", "picket-dashboard")?;
    ensure!(
        dashboard["metadata"]["labels"]["grafana_dashboard"] == "1",
        "{dashboard:#}"
    );
    ensure!(dashboard["metadata"]["annotations"]["grafana_folder"] == "Security");
    let text = std::fs::read_to_string(format!("{CHART}/dashboards/picket.json"))?;
    ensure!(
        dashboard["data"]["picket.json"] == text,
        "the dashboard is not the file"
    );
    Ok(())
}

/// The rows of the table of alerts, by the anchor.
fn table() -> Result<BTreeMap<String, String>> {
    let page = std::fs::read_to_string(OPERATIONS)?;
    let rows = page.lines().filter_map(|line| {
        let (anchor, row) = line.strip_prefix("| <a id=\"")?.split_once("\"></a>")?;
        Some((anchor.to_owned(), row.to_owned()))
    });
    Ok(rows.collect())
}

fn each_alert_says_what_to_do(_: &mut World) -> Result<()> {
    let (mut rows, mut names) = (table()?, BTreeSet::new());
    for alert in alerts()? {
        let name = alert["alert"].as_str().context("a name")?;
        ensure!(names.insert(name.to_owned()), "{name} is there twice");
        let severity = &alert["labels"]["severity"];
        ensure!(
            ["critical", "warning", "info"].iter().any(|one| severity == one),
            "{name}: {severity}"
        );
        let text = |key: &str| -> Result<&str> {
            let text = alert["annotations"][key].as_str();
            text.filter(|text| text.len() > 8)
                .with_context(|| format!("{name} has no {key}"))
        };
        text("summary")?;
        text("description")?;
        let (_, anchor) = text("runbook_url")?.split_once('#').context("an anchor")?;
        let row = rows
            .remove(anchor)
            .with_context(|| format!("{name}: no row has the anchor {anchor}"))?;
        ensure!(row.contains(&format!("`{name}`")), "{name}: {row}");
        let cells: Vec<&str> = row.split(" | ").collect();
        ensure!(
            cells.len() >= 5 && cells.iter().all(|cell| !cell.is_empty()),
            "{row}"
        );
        // The row is about the metrics that fire the alert.
        for metric in names_in(alert["expr"].as_str().context("an expression")?) {
            ensure!(cells[1].contains(&metric), "{name}: {metric} is not in: {row}");
        }
    }
    ensure!(rows.is_empty(), "no alert for {:?}", rows.keys());
    Ok(())
}

/// The series of each metric, with the labels that it has.
fn known() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let page = std::fs::read_to_string(REFERENCE)?;
    let mut known = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `picket_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else {
            anyhow::bail!("{line}")
        };
        let name = name.trim_matches('`');
        let labels: BTreeSet<String> = labels
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned())
            .collect();
        match kind {
            "histogram" => {
                let with_bound = labels.iter().cloned().chain(["le".to_owned()]).collect();
                known.insert(format!("{name}_bucket"), with_bound);
                known.insert(format!("{name}_sum"), labels.clone());
                known.insert(format!("{name}_count"), labels);
            }
            "counter" => {
                ensure!(name.ends_with("_total"), "{name}");
                known.insert(name.to_owned(), labels);
            }
            "gauge" | "info" => _ = known.insert(name.to_owned(), labels),
            other => anyhow::bail!("{name} is a {other}"),
        }
    }
    ensure!(known.len() > 60, "{} series", known.len());
    Ok(known)
}

/// The names of Picket's metrics in an expression.
fn names_in(expression: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c: char| !is_of_name(c));
    words
        .filter(|word| word.starts_with("picket_"))
        .map(str::to_owned)
        .collect()
}

/// What a scrape adds.
const TARGET_LABELS: [&str; 6] = ["job", "instance", "node", "namespace", "pod", "service"];

/// What is wrong with an expression: names that are no series, and labels that the series has not.
fn faults(expression: &str, known: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut faults = Vec::new();
    for name in names_in(expression) {
        let Some(labels) = known.get(&name) else {
            faults.push(format!("{name} is no series of Picket"));
            continue;
        };
        for (at, _) in expression.match_indices(&format!("{name}{{")) {
            let rest = &expression[at + name.len() + 1..];
            let Some((selector, _)) = rest.split_once('}') else {
                faults.push(format!("{name}: the selector does not end"));
                continue;
            };
            for matcher in selector.split(',').filter(|matcher| !matcher.is_empty()) {
                let label = matcher.split(['=', '!', '~']).next().unwrap_or_default().trim();
                if !labels.contains(label) && !TARGET_LABELS.contains(&label) {
                    faults.push(format!("{name} has no label {label}"));
                }
            }
        }
    }
    // What a sum keeps must be there too: else it keeps nothing.
    for (at, _) in expression.match_indices("by (") {
        let Some((kept, _)) = expression[at + 4..].split_once(')') else {
            continue;
        };
        for label in kept.split(',').map(str::trim) {
            let has = |name: &String| known.get(name).is_some_and(|labels| labels.contains(label));
            if !TARGET_LABELS.contains(&label) && !names_in(expression).iter().any(has) {
                faults.push(format!("`by ({label})`: no series of the expression has it"));
            }
        }
    }
    faults
}

fn each_metric_of_an_alert_exists(_: &mut World) -> Result<()> {
    let known = known()?;
    for alert in alerts()? {
        let expression = alert["expr"].as_str().context("an expression")?;
        let faults = faults(expression, &known);
        ensure!(faults.is_empty(), "{}: {faults:?}", alert["alert"]);
        // A label that is named in a text is one of the series, or it would be empty there.
        let texts = alert["annotations"].to_string();
        let used = texts.match_indices("$labels.").map(|(at, word)| {
            let rest = &texts[at + word.len()..];
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default()
        });
        for label in used {
            let has = |name: &String| known.get(name).is_some_and(|labels| labels.contains(label));
            ensure!(
                TARGET_LABELS.contains(&label) || names_in(expression).iter().any(has),
                "{}: no label {label}",
                alert["alert"]
            );
        }
        let is_counter = |name: &String| name.ends_with("_total");
        for name in names_in(expression).iter().filter(|name| is_counter(name)) {
            let grows = ["increase(", "rate("]
                .iter()
                .any(|word| expression.contains(&format!("{word}{name}")));
            ensure!(grows, "{}: {name} only ever grows", alert["alert"]);
        }
    }
    Ok(())
}

fn each_metric_of_a_panel_exists(_: &mut World) -> Result<()> {
    let known = known()?;
    let text = std::fs::read_to_string(format!("{CHART}/dashboards/picket.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let (mut ids, mut count) = (BTreeSet::new(), 0);
    for panel in panels {
        let title = panel["title"].as_str().context("a title")?;
        ensure!(
            ids.insert(panel["id"].as_u64()),
            "{title}: its id is another panel's"
        );
        if panel["type"] == "row" {
            continue;
        }
        ensure!(
            panel["description"].as_str().is_some_and(|text| text.len() > 8),
            "{title}"
        );
        for target in panel["targets"].as_array().context("targets")? {
            let expression = target["expr"].as_str().context("an expression")?;
            let plain = expression.replace("$__rate_interval", "5m");
            let faults = faults(&plain, &known);
            ensure!(faults.is_empty(), "{title}: {faults:?}");
            ensure!(
                plain.matches('(').count() == plain.matches(')').count(),
                "{title}: {plain}"
            );
            count += 1;
        }
    }
    ensure!(count > 20, "{count} expressions");
    let variable = dashboard["templating"]["list"][1]["definition"]
        .as_str()
        .context("a variable")?;
    ensure!(faults(variable, &known).is_empty(), "{variable}");
    Ok(())
}

/// The checks above find what they are for.
fn a_wrong_metric_or_label_is_found(_: &mut World) -> Result<()> {
    let known = known()?;
    for (expression, fault) in [
        ("picket_requests > 0", "picket_requests is no series"),
        (
            "rate(picket_request_duration_seconds[5m])",
            "picket_request_duration_seconds is no series",
        ),
        ("picket_pods_total", "picket_pods_total is no series"),
        ("picket_pods{colour=\"red\"}", "picket_pods has no label colour"),
        (
            "sum by (verbs) (picket_requests_total)",
            "no series of the expression has it",
        ),
    ] {
        let found = faults(expression, &known).join("\n");
        ensure!(found.contains(fault), "{expression}: {found}");
    }
    let good =
        "sum by (le, node) (rate(picket_request_duration_seconds_bucket{le!=\"+Inf\",node=~\"a\"}[5m]))";
    ensure!(faults(good, &known).is_empty());
    Ok(())
}

fn the_namespace_takes_no_traffic_where_that_is_wanted(world: &mut World) -> Result<()> {
    let objects = with(world, ON)?;
    let policy = object(&objects, "NetworkPolicy", "picket")?;
    ensure!(policy["metadata"]["namespace"] == NAMESPACE, "{policy:#}");
    let wanted = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []});
    ensure!(policy["spec"] == wanted, "{policy:#}");
    ensure!(
        with(world, "")?
            .iter()
            .all(|object| object["kind"] != "NetworkPolicy")
    );
    Ok(())
}
