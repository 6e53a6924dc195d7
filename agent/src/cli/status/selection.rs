//! Whether a DaemonSet's pods are meant for a node, as its controller decides it.
//!
//! In: the DaemonSet and the Node. Out: yes or no, by node selector, required node affinity and taints.
//!
//! A node that is not ready, or whose Node is cordoned, is selected all the same: an agent is missed there.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use kube::ResourceExt as _;

/// Taints that the controller has all its pods tolerate, or that go by themselves.
const PASSING: [&str; 6] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
];

/// Likewise of pods in the node's network.
const NO_NETWORK: &str = "node.kubernetes.io/network-unavailable";

/// Whether the pods of a DaemonSet are meant for a node.
pub(super) fn is_selected(agents: &DaemonSet, node: &Node) -> bool {
    agents
        .spec
        .template
        .spec
        .as_ref()
        .is_none_or(|pod| selects(pod, node) && has_affinity(pod, node) && tolerates_all(pod, node))
}

fn selects(pod: &PodSpec, node: &Node) -> bool {
    let mut wanted = pod.node_selector.iter().flatten();
    wanted.all(|(key, value)| node.labels().get(key) == Some(value))
}

/// One term of the required affinity suffices; an empty term takes no node.
fn has_affinity(pod: &PodSpec, node: &Node) -> bool {
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| takes(term, node)))
}

fn takes(term: &NodeSelectorTerm, node: &Node) -> bool {
    let by_label = term.match_expressions.as_deref().unwrap_or_default();
    let by_field = term.match_fields.as_deref().unwrap_or_default();
    // The name is the one field that there is.
    let fields = BTreeMap::from([("metadata.name".to_owned(), node.name_any())]);
    !(by_label.is_empty() && by_field.is_empty())
        && by_label.iter().all(|wanted| holds(wanted, node.labels()))
        && by_field.iter().all(|wanted| holds(wanted, &fields))
}

fn holds(wanted: &NodeSelectorRequirement, values: &BTreeMap<String, String>) -> bool {
    let named = wanted.values.as_deref().unwrap_or_default();
    let value = values.get(&wanted.key);
    let is_named = value.is_some_and(|value| named.contains(value));
    // Both numbers, or it does not hold.
    let numbers = || {
        let bound: i64 = named.first()?.parse().ok()?;
        Some((value?.parse::<i64>().ok()?, bound))
    };
    match wanted.operator.as_str() {
        "In" => is_named,
        "NotIn" => !is_named,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        // Of another Kubernetes: the node counts as one that is meant.
        _ => true,
    }
}

fn tolerates_all(pod: &PodSpec, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut keeping_away = taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let in_node_network = pod.host_network == Some(true);
    keeping_away.all(|taint| {
        PASSING.contains(&taint.key.as_str())
            || (in_node_network && taint.key == NO_NETWORK)
            || tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let of_key = key.is_empty() || key == taint.key;
    let of_effect = effect.is_empty() || effect == taint.effect;
    let of_value = match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        // Of another Kubernetes.
        _ => true,
    };
    of_key && of_effect && of_value
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn is(pod: &Value, node: &Value) -> bool {
        let mut pod = pod.clone();
        pod["containers"] = json!([]);
        let agents =
            json!({"metadata": {"name": "picket"}, "spec": {"selector": {}, "template": {"spec": pod}}});
        let agents = serde_json::from_value(agents).expect("a DaemonSet");
        let node = serde_json::from_value(node.clone()).expect("a Node");
        is_selected(&agents, &node)
    }

    fn labelled(labels: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": labels}})
    }

    fn required(terms: Value) -> Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    #[test]
    fn a_node_selector_takes_nodes_with_all_its_labels() {
        let node = labelled(json!({"pool": "agents", "zone": "a"}));
        assert!(is(&json!({}), &node));
        assert!(is(
            &json!({"nodeSelector": {"pool": "agents", "zone": "a"}}),
            &node
        ));
        assert!(!is(
            &json!({"nodeSelector": {"pool": "agents", "zone": "b"}}),
            &node
        ));
        assert!(!is(&json!({"nodeSelector": {"disk": ""}}), &node));
    }

    #[test]
    fn each_operator_of_an_affinity_is_read_as_the_scheduler_reads_it() {
        let node = labelled(json!({"pool": "agents", "cpus": "8", "odd": "x"}));
        for (key, operator, values, taken) in [
            ("pool", "In", json!(["other", "agents"]), true),
            ("pool", "In", json!(["other"]), false),
            ("none", "In", json!(["agents"]), false),
            ("pool", "NotIn", json!(["agents"]), false),
            ("pool", "NotIn", json!(["other"]), true),
            ("none", "NotIn", json!(["agents"]), true),
            ("pool", "Exists", json!(null), true),
            ("none", "Exists", json!(null), false),
            ("pool", "DoesNotExist", json!(null), false),
            ("none", "DoesNotExist", json!(null), true),
            ("cpus", "Gt", json!(["7"]), true),
            ("cpus", "Gt", json!(["8"]), false),
            ("cpus", "Lt", json!(["10"]), true),
            ("cpus", "Lt", json!(["8"]), false),
            ("odd", "Gt", json!(["1"]), false),
            ("none", "Lt", json!(["1"]), false),
        ] {
            let expression = json!({"key": key, "operator": operator, "values": values});
            let pod = required(json!([{"matchExpressions": [expression]}]));
            assert_eq!(is(&pod, &node), taken, "{expression}");
        }
    }

    #[test]
    fn one_term_suffices_and_within_it_all_must_hold() {
        let node = labelled(json!({"pool": "agents"}));
        let pool = |value: &str| json!({"key": "pool", "operator": "In", "values": [value]});
        let name = |operator: &str, name: &str| json!({"key": "metadata.name", "operator": operator, "values": [name]});
        for (terms, taken) in [
            (
                json!([{"matchExpressions": [pool("other")]}, {"matchExpressions": [pool("agents")]}]),
                true,
            ),
            (
                json!([{"matchExpressions": [pool("other"), pool("agents")]}]),
                false,
            ),
            (json!([{"matchFields": [name("In", "a")]}]), true),
            (json!([{"matchFields": [name("In", "b")]}]), false),
            (json!([{"matchFields": [name("NotIn", "a")]}]), false),
            (
                json!([{"matchExpressions": [pool("agents")], "matchFields": [name("In", "b")]}]),
                false,
            ),
            (json!([{}]), false),
            (json!([]), false),
        ] {
            assert_eq!(is(&required(terms.clone()), &node), taken, "{terms}");
        }
        let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [pool("other")]}}]}}});
        assert!(is(&preferred, &node));
    }

    fn tainted(key: &str, effect: &str) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": key, "value": "v", "effect": effect}]}})
    }

    #[test]
    fn a_taint_keeps_away_what_does_not_tolerate_it() {
        for (tolerations, effect, taken) in [
            (json!([]), "NoSchedule", false),
            (json!([]), "NoExecute", false),
            (json!([]), "PreferNoSchedule", true),
            (json!([{"operator": "Exists"}]), "NoSchedule", true),
            (json!([{"key": "k", "operator": "Exists"}]), "NoExecute", true),
            (json!([{"key": "k", "value": "v"}]), "NoSchedule", true),
            (
                json!([{"key": "k", "operator": "Equal", "value": "w"}]),
                "NoSchedule",
                false,
            ),
            (
                json!([{"key": "other", "operator": "Exists"}]),
                "NoSchedule",
                false,
            ),
            (
                json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]),
                "NoExecute",
                false,
            ),
            (
                json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]),
                "NoExecute",
                true,
            ),
        ] {
            let pod = json!({"tolerations": tolerations});
            assert_eq!(is(&pod, &tainted("k", effect)), taken, "{tolerations} {effect}");
        }
        // Tolerations that the controller adds.
        for key in PASSING {
            assert!(is(&json!({}), &tainted(key, "NoSchedule")), "{key}");
        }
        let offline = tainted(NO_NETWORK, "NoSchedule");
        assert!(!is(&json!({}), &offline));
        assert!(is(&json!({"hostNetwork": true}), &offline));
    }
}
