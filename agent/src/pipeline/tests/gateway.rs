//! What a client of the gateway gets that is nobody, or a pod's.

use http::header::WWW_AUTHENTICATE;
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::world::{Answer, World, ask_over, target};

const PATH: &str = "/api/v1/namespaces/ns/pods";

/// The answer to one request at the gateway, which shows no bearer token.
async fn asked(world: &World, of_enforced_pod: bool) -> Answer {
    let request = Request::get(target(PATH)).header("authorization", world.token());
    ask(world, request, of_enforced_pod).await
}

/// The answer to a request at the gateway.
pub(super) async fn ask(world: &World, request: http::request::Builder, of_enforced_pod: bool) -> Answer {
    let (client, mut accepted) = world.accepted().await;
    accepted.workload = None;
    accepted.process = None;
    accepted.of_enforced_pod = of_enforced_pod;
    world.serve(accepted);
    let stream = world.handshake(client, b"http/1.1").await;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    ask_over(&mut sender, request, "").await
}

#[tokio::test]
async fn a_client_of_the_gateway_without_a_credential_is_told_to_show_one() {
    let world = World::new().await;
    let answer = asked(&world, false).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
    let records = world.records().await;
    let [record] = &records[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(record["decision"]["reason"], "no_credential");
    let message = record["decision"]["message"].as_str().expect("text");
    assert!(
        message.contains("neither a bearer token nor a client certificate, so") && !message.contains("***"),
        "{message}"
    );
    assert_eq!(record["sourceIPs"][0], "10.1.0.7");
    let agent = record["agent"].as_object().expect("an agent");
    for absent in ["pod", "process", "serviceAccount", "identity"] {
        assert!(!agent.contains_key(absent), "{record:#}");
    }
    assert!(world.seen().is_empty());
}

#[tokio::test]
async fn an_enforced_pod_is_refused_at_the_gateway_whatever_it_shows() {
    let world = World::new().await;
    let answer = asked(&world, true).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let records = world.records().await;
    assert_eq!(records[0]["decision"]["reason"], "enforced_pod");
    let message = records[0]["responseStatus"]["message"].as_str().expect("text");
    assert!(message.contains("the gateway serves no such pod"), "{message}");
    assert!(world.seen().is_empty());
}
