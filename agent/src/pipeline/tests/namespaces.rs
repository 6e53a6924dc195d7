//! Rules about namespaces by their labels: each request, each session and each object of an answer is judged by the labels of now.

use std::collections::BTreeMap;
use std::time::Instant;

use http::{Request, StatusCode, header};
use picket_policy::{NamespaceFacts, Namespaces, PolicySet, UnknownNamespace};
use serde_json::json;

use super::sessions::{end, follow_as, rejudging};
use super::world::{World, policies, target};

/// The world's objects with a rule of this action about pods in production.
fn rule(action: &str) -> PolicySet {
    policies(
        "  rules:\n  - {name: keep,",
        &format!(
            "  rules:\n  - {{name: prod, action: {action}, match: {{verbs: [get, list, watch], resources: [pods], namespaceSelector: \
             {{matchLabels: {{env: prod}}}}}}}}\n  - {{name: keep,"
        ),
    )
}

/// The cluster's namespaces, each with its label `env`.
fn label(world: &World, namespaces: &[(&str, &str)]) {
    let facts = |(name, env): &(&str, &str)| {
        let labels = BTreeMap::from([("env".to_owned(), (*env).to_owned())]);
        let facts = NamespaceFacts::described(name, &labels, &BTreeMap::new());
        ((*name).to_owned(), facts)
    };
    let listed = Namespaces::listed(namespaces.iter().map(facts));
    world.store.set_namespaces_for_tests(listed);
}

async fn status(world: &World, path: &'static str) -> (StatusCode, String) {
    let answer = world.ask(Request::get(target(path)), "").await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status, text)
}

const POD: &str = "/api/v1/namespaces/shop/pods/a";

#[tokio::test]
async fn a_request_is_judged_by_the_labels_that_its_namespace_has_now() {
    let world = World::new().await;
    world.store.replace_for_tests(rule("Deny"));
    let (code, said) = status(&world, POD).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(
        said.contains("the API server has not listed the namespaces yet"),
        "{said}"
    );
    label(&world, &[("shop", "dev")]);
    assert_eq!(status(&world, POD).await.0, StatusCode::OK);
    label(&world, &[("shop", "prod")]);
    assert_eq!(status(&world, POD).await.0, StatusCode::FORBIDDEN);
    let forbidden = Namespaces::unknown(UnknownNamespace::Forbidden);
    world.store.set_namespaces_for_tests(forbidden);
    let (code, said) = status(&world, POD).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(
        said.contains("the API server does not let Picket list namespaces"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_its_namespace_gets_a_label_that_a_rule_refuses() {
    let world = World::new().await;
    world.store.replace_for_tests(rule("Deny"));
    label(&world, &[("shop", "dev"), ("other", "dev")]);
    let _pods = rejudging(&world);
    let watch = "/api/v1/namespaces/shop/pods?watch=true";
    let request = Request::get(target(watch)).header(header::HOST, "kubernetes.default.svc");
    let running = follow_as(&world, request).await;
    // A label elsewhere ends nothing.
    label(&world, &[("shop", "dev"), ("other", "prod")]);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!running.is_finished());
    let changed = Instant::now();
    label(&world, &[("shop", "prod"), ("other", "prod")]);
    let seen = end(running, changed, "watch").await;
    let text = String::from_utf8_lossy(&seen.rest);
    assert!(text.contains("policy guard, rule prod"), "{text}");
    let record = world.ended(1).await.remove(0);
    assert_eq!(record["session"]["endCause"], "policy", "{record:#}");
}

#[tokio::test]
async fn a_list_comes_without_the_objects_of_labelled_namespaces() {
    let world = World::new().await;
    world.store.replace_for_tests(rule("Filter"));
    let path = "/api/v1/pods?items=list";
    // While no labels are known every list would look empty.
    assert_eq!(status(&world, path).await.0, StatusCode::FORBIDDEN);
    for (namespaces, shown) in [
        (&[("shop", "dev"), ("pay", "prod")][..], &["shop"][..]),
        (&[("shop", "prod"), ("pay", "dev")], &["pay"]),
        (&[("shop", "dev")], &["shop"]),
        (&[("shop", "dev"), ("pay", "dev")], &["shop", "pay"]),
    ] {
        label(&world, namespaces);
        let answer = world.ask(Request::get(target(path)), "").await;
        assert_eq!(answer.status, StatusCode::OK);
        let answer = answer.json();
        let items = answer["items"].as_array().expect("items").iter();
        let mut found: Vec<_> = items.map(|item| item["metadata"]["namespace"].clone()).collect();
        let mut shown: Vec<_> = shown.iter().map(|name| json!(name)).collect();
        for names in [&mut found, &mut shown] {
            names.sort_by_key(ToString::to_string);
        }
        assert_eq!(found, shown, "{namespaces:?}");
    }
}

#[tokio::test]
async fn an_object_of_a_list_is_judged_by_the_labels_that_its_namespace_has_when_it_comes() {
    let world = World::new().await;
    world.store.replace_for_tests(rule("Filter"));
    label(&world, &[("pay", "prod")]);
    let list = world.ask(Request::get(target("/api/v1/pods?items=list&slow=1")), "");
    let while_it_is_under_way = async {
        world.seen_are(1).await;
        label(&world, &[("pay", "prod"), ("shop", "dev")]);
    };
    let (answer, ()) = tokio::join!(list, while_it_is_under_way);
    assert_eq!(answer.status, StatusCode::OK);
    let answer = answer.json();
    let items = answer["items"].as_array().expect("items").iter();
    let found: Vec<_> = items.map(|item| item["metadata"]["namespace"].clone()).collect();
    assert_eq!(found, [json!("shop")]);
}
