//! Entries of a node: what they say, and when they are worth a write.

use picket_policy::read_documents;

use super::*;

fn set(identities: &[(&str, &str)]) -> PolicySet {
    let text = identities.iter().map(|(name, selector)| {
        format!(
            "---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: {{pod: \
             {{namespace: n, serviceAccount: s, selector: {selector}}}}}}}\n"
        )
    });
    let documents = read_documents("f", &text.collect::<String>()).expect("valid");
    let objects: Vec<_> = documents
        .into_iter()
        .map(|document| picket_policy::ClusterObject {
            file: document.name().into(),
            versions: vec![document],
            known_from: 0,
        })
        .collect();
    PolicySet::compile_each(&[], &objects, "picket").expect("a set").0
}

fn pod(name: &str, app: &str) -> PodFacts {
    PodFacts {
        namespace: "n".to_owned(),
        name: name.to_owned(),
        service_account: "s".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        workload: format!("Pod/{name}"),
    }
}

#[test]
fn pods_are_counted_named_and_bounded_and_conflicts_told() {
    let set = set(&[
        ("a", "{matchLabels: {app: x}}"),
        (
            "b",
            "{matchExpressions: [{key: app, operator: In, values: [x, y]}]}",
        ),
        ("c", "{matchLabels: {app: z}}"),
    ]);
    let mut pods: Vec<_> = (0..15).map(|number| pod(&format!("p{number:02}"), "y")).collect();
    pods.push(pod("both", "x"));
    let facts = facts(&set, &pods);
    let a = PodsOf {
        count: 1,
        names: vec!["n/both".to_owned()],
        conflicts: vec!["b".to_owned()],
    };
    assert_eq!(facts.get("a"), Some(&a));
    let b = &facts["b"];
    assert_eq!(
        (b.count, b.names.len(), &b.conflicts[..]),
        (16, MAX_NODE_NAMES, &["a".to_owned()][..])
    );
    assert!(!facts.contains_key("c"));
}

#[test]
fn only_what_changed_and_moments_an_hour_later_are_written() {
    let at = |second| Some(Timestamp::from_second(second).expect("a moment"));
    let shown = IdentityNode {
        node: "n1".to_owned(),
        pods: 1,
        last_used: at(1000),
        ..IdentityNode::default()
    };
    let with = |change: &dyn Fn(&mut IdentityNode)| {
        let mut entry = shown.clone();
        change(&mut entry);
        differs(&entry, Some(&shown))
    };
    assert!(differs(&shown, None));
    assert!(!with(&|_| {}));
    assert!(!with(&|entry| entry.last_used = at(1000 + 3599)));
    assert!(with(&|entry| entry.last_used = at(1000 + 3600)));
    assert!(with(&|entry| entry.last_denied = at(5)));
    assert!(with(&|entry| entry.pods = 2));
    assert!(with(&|entry| entry.review_due = true));
    assert!(with(&|entry| entry.conflicts = vec!["b".to_owned()]));
    assert!(with(&|entry| entry.workloads = vec!["Job/b".to_owned()]));
}

#[test]
fn each_node_has_a_field_manager_of_its_own_that_an_api_server_takes() {
    assert_eq!(manager("node1"), "picket-node-node1");
    let long = "n".repeat(200);
    let (one, other) = (manager(&format!("{long}1")), manager(&format!("{long}2")));
    assert_eq!(one.len(), MAX_MANAGER);
    assert_ne!(one, other);
    assert_eq!(one, manager(&format!("{long}1")));
}
