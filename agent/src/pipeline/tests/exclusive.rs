//! An exclusive identity through the whole pipeline: its pods are refused while another workload claims it, and what runs ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use parking_lot::Mutex;

use super::sessions::{WATCH, follow_as, rejudging};
use super::world::{World, policies, target};
use crate::store::PodFacts;

/// A pod of that workload that matches the identity, unless its service account is another's.
fn facts(workload: &str, service_account: &str) -> PodFacts {
    PodFacts {
        namespace: "ns".to_owned(),
        name: workload.replace('/', "-").to_lowercase(),
        service_account: service_account.to_owned(),
        labels: Default::default(),
        workload: workload.to_owned(),
    }
}

fn exclusive(world: &World) -> Arc<Mutex<Vec<PodFacts>>> {
    // The pod of the world is its own workload.
    let there = Arc::new(Mutex::new(vec![facts("Pod/p", "fixer")]));
    let shown = Arc::clone(&there);
    world.store.set_claimants(Arc::new(move || shown.lock().clone()));
    world
        .store
        .replace_for_tests(policies("owner: team-a", "owner: team-a, exclusive: true"));
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_workload_ends_what_runs_and_both_are_refused_until_it_is_gone() {
    let world = World::new().await;
    let (pods, there) = (rejudging(&world), exclusive(&world));
    pods.raise(world.store.epoch());
    let get = || Request::get(target("/api/v1/namespaces/n/pods/x"));
    // Of another agent, and of the same workload.
    there
        .lock()
        .extend([facts("Job/other", "another"), facts("Pod/p", "fixer")]);
    pods.changed();
    assert_eq!(world.ask(get(), "").await.status, StatusCode::OK);
    let watch = Request::get(target(WATCH)).header(header::HOST, "kubernetes.default.svc");
    let watch = follow_as(&world, watch).await;

    there.lock().push(facts("Deployment/second", "fixer"));
    pods.changed();
    let seen = tokio::time::timeout(Duration::from_secs(5), watch).await;
    let seen = seen.expect("the watch ends").expect("ended");
    let end = String::from_utf8_lossy(&seen.rest);
    assert!(
        end.contains("agent fixer is exclusive, and Pod/p and Deployment/second"),
        "{end}"
    );
    let refused = world.ask(get(), "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let message = refused.json()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("Deployment/second"), "{message}");
    // The other's pod is refused likewise.
    world.set_pod(|pod| pod.workload.0 = "Deployment/second".to_owned());
    let refused = world.ask(get(), "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    world.set_pod(|pod| pod.workload.0 = "Pod/p".to_owned());
    let since = Instant::now();
    let denied = loop {
        let records = world.records().await;
        let of_identity = records.into_iter().filter(|record| {
            record["decision"]["outcome"] == "deny" && record["agent"]["identity"] == "fixer"
        });
        let denied: Vec<_> = of_identity.collect();
        if denied.len() >= 2 {
            break denied;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{denied:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(
        denied
            .iter()
            .all(|record| record["decision"]["reason"] == "identity_contested"),
        "{denied:#?}"
    );

    there.lock().pop();
    pods.changed();
    assert_eq!(world.ask(get(), "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_identity_that_becomes_exclusive_or_is_no_more_counts_at_once() {
    let world = World::new().await;
    let there = exclusive(&world);
    there.lock().push(facts("Deployment/second", "fixer"));
    let get = || Request::get(target("/api/v1/namespaces/n/pods/x"));
    world.store.replace_for_tests(policies("", ""));
    assert_eq!(world.ask(get(), "").await.status, StatusCode::OK);
    world
        .store
        .replace_for_tests(policies("owner: team-a", "owner: team-a, exclusive: true"));
    assert_eq!(world.ask(get(), "").await.status, StatusCode::FORBIDDEN);
}
