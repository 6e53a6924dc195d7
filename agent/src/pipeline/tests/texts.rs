//! A client's own texts in records: a pod must not fill the disk with them, nor write a secret down.

use http::{Method, Request, StatusCode, Uri, header};

use super::world::World;

/// What one line may take, whatever a client sends: 1.5 KB of facts, 8 KB of URI, 1 KB of user agent, and its messages.
const LINE: usize = 16 * 1024;

/// The longest line of all requests so far.
async fn longest(world: &World) -> usize {
    let records = world.records().await;
    records
        .iter()
        .map(|record| record.to_string().len())
        .max()
        .unwrap_or_default()
}

#[tokio::test]
async fn no_text_of_a_client_makes_a_record_long() {
    let world = World::new().await;
    let long = |text: &str| text.repeat(60_000 / text.len());
    let uri = |path: String| Uri::try_from(path).expect("a URI");
    let pods = "/api/v1/namespaces/n/pods";
    let upgrade = |protocol: String| {
        Request::get(format!("{pods}/x/exec?command=sh"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol)
    };
    let method = Method::from_bytes(long("M").as_bytes()).expect("a method");
    let requests = [
        upgrade(long("\\")),
        Request::builder().method(method).uri(pods),
        Request::delete(uri(format!("{pods}/{}", long("n")))),
        Request::get(uri(format!("/apis/{}/v1/things", long("g")))),
        Request::get(uri(format!("/{}", long("p")))),
        Request::get(uri(format!("{pods}?fieldSelector=metadata.name%3D{}", long("s")))),
        Request::get(uri(format!("{pods}/x/attach?container={}", long("c")))),
    ];
    let count = requests.len();
    for request in requests {
        let what = format!("{request:?}").chars().take(80).collect::<String>();
        // Whether it is permitted makes no difference.
        world.ask(request, "").await;
        let longest = longest(&world).await;
        assert!(longest < LINE, "{longest} bytes after {what}");
    }
    assert_eq!(world.ended(count).await.len(), count);
}

#[tokio::test]
async fn an_exec_has_its_arguments_and_the_digest_of_its_query_however_it_spells_them() {
    let world = World::new().await;
    let query = "command=sh&%63ommand=-c&comman%64=id&stdout=true";
    let target = format!("/api/v1/namespaces/n/pods/x/exec?{query}");
    let request = Request::get(target.as_str())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "unknown/1");
    world.ask(request, "").await;
    let record = &world.ended(1).await[0];
    let digest = ring::digest::digest(&ring::digest::SHA256, query.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(record["query"]["bytes"], query.len(), "{record:#}");
    assert_eq!(record["query"]["sha256"], hex);
    assert_eq!(record["exec"]["command"], serde_json::json!(["sh", "-c", "id"]));
}

#[tokio::test]
async fn a_token_in_a_path_is_in_no_field_of_a_denials_record() {
    let world = World::new().await;
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJ4In0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";
    for path in [
        format!("/api/v1/namespaces/n/pods/{token}"),
        format!("/api/v1/namespaces/{token}/pods/x"),
        format!("/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3D{token}"),
        format!("/apis/example.com/v1/namespaces/n/{token}/x"),
    ] {
        let answer = world.ask(Request::delete(path.as_str()), "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    let records = world.ended(4).await;
    for record in &records {
        let text = record.to_string();
        assert!(!text.contains("eyJ") && text.contains("***"), "{record:#}");
        // The rest of it is as it was.
        let message = record["decision"]["message"].as_str().expect("a message");
        assert!(message.contains("agent fixer may not delete"), "{message}");
        assert_eq!(record["responseStatus"]["message"], message);
    }
    assert_eq!(records.len(), 4);
}
