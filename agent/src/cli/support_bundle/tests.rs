//! Unit tests: no secret that stands anywhere in the cluster stands in the archive, and what could not be had is said.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::*;
use crate::cluster::Connector;
use crate::cluster::testing::answering_texts;

/// Secrets of each kind, by what nobody may find of them.
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlLXBsYW50ZWQ";
const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nMIIEplantedKEYplanted0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef\nlast==\n\
                   -----END RSA PRIVATE KEY-----\n";
const BASIC: &str = "Authorization: Basic cGxhbnRlZDpwbGFudGVkLXBhc3N3b3Jk";
const NEEDLES: [&str; 9] = [
    "c2lnbmF0dXJlLXBsYW50ZWQ",
    "plantedKEYplanted",
    "last==",
    "cGxhbnRlZDpwbGFudGVkLXBhc3N3b3Jk",
    "planted-hunter2",
    "planted horse battery",
    "planted-in-url",
    "ghp_plantedplantedplanted0123",
    "planted-variable",
];

fn log() -> String {
    format!(
        "2026-01-01T00:00:00Z the agent is ready\n2026-01-01T00:00:01Z token {JWT}\n{PEM}{BASIC}\npassword=planted-hunter2\n\
         {{\"password\": \"planted horse battery\"}}\nhttps://user:planted-in-url@example.com/\nghp_plantedplantedplanted0123\n"
    )
}

fn annotations() -> Value {
    json!({
        "note": format!("see {JWT}"), "key": PEM, "header": BASIC, "args": "--password=planted-hunter2",
        "example.com/api-token": "planted horse battery",
        "kubectl.kubernetes.io/last-applied-configuration": "{\"a\": \"ghp_plantedplantedplanted0123\"}",
    })
}

fn items(path: &str) -> Vec<Value> {
    let metadata =
        |name: &str| json!({"name": name, "annotations": annotations(), "managedFields": [{"m": 1}]});
    let object = |name: &str| json!({"metadata": metadata(name), "status": {"message": log()}});
    match path.rsplit('/').next().unwrap_or_default() {
        "pods" => vec![json!({
            "metadata": metadata("picket-abcde"),
            "spec": {"containers": [{
                "name": "agent", "env": [{"name": "DB_PASSWORD", "value": "planted-variable"}, {"name": "A", "value": "plain"}],
            }]},
            "status": {"containerStatuses": [{
                "name": "agent", "restartCount": 1, "image": "i", "imageID": "i", "ready": true,
            }]},
        })],
        "configmaps" => vec![json!({"metadata": metadata("picket"), "data": {"agent.yaml": log()}})],
        "events" => vec![json!({"metadata": metadata("e"), "note": log()})],
        "nodes" => vec![json!({
            "metadata": {"name": "node-1", "annotations": annotations(), "labels": {"a": "b"}},
            "status": {"nodeInfo": {"kernelVersion": "6.1.0"}, "addresses": [{"address": "192.0.2.7"}]},
        })],
        "validatingadmissionpolicies" => vec![object("token-secrets.picket.dev"), object("of-somebody-else")],
        "secrets" => panic!("a Secret is asked for"),
        "namespaces" => Vec::new(),
        _ => vec![object("one")],
    }
}

fn answer(path: &str, query: &str) -> (u16, String) {
    if path == "/version" {
        let version = json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "linux/amd64",
        });
        return (200, version.to_string());
    }
    if path.ends_with("/log") {
        assert!(
            query.contains("tailLines=7") && query.contains("limitBytes="),
            "{query}"
        );
        return (200, log());
    }
    (200, json!({"metadata": {}, "items": items(path)}).to_string())
}

/// The texts of the files of a bundle, by their path.
async fn bundle(
    answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
) -> (Vec<(String, String)>, Vec<String>) {
    let url = answering_texts(move |request: &http::Request<Bytes>| {
        answer(request.uri().path(), request.uri().query().unwrap_or_default())
    })
    .await;
    let (_folder, connector) = Connector::for_tests(&url);
    let client = connector.connect().await.expect("a client");
    let collected = Collector::new(client, "picket-system", 7)
        .collect(Timestamp::UNIX_EPOCH)
        .await;
    let mut packed = Vec::new();
    collected.archive.write("b", 0, &mut packed).expect("written");
    let mut tar = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut tar).expect("a gzip");
    (unpacked(&tar), collected.left_out)
}

fn unpacked(mut tar: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.trim_end_matches('\0').to_owned()
    };
    let mut files = Vec::new();
    while tar.first().is_some_and(|byte| *byte != 0) {
        let size = usize::from_str_radix(&text(&tar[124..135]), 8).expect("a size");
        files.push((text(&tar[..100]), text(&tar[512..512 + size])));
        tar = &tar[512 + size.next_multiple_of(512)..];
    }
    files
}

fn file<'f>(files: &'f [(String, String)], path: &str) -> &'f str {
    let found = files.iter().find(|(of, _)| of == path);
    &found
        .unwrap_or_else(|| {
            panic!(
                "{path} is not among {:?}",
                files.iter().map(|(of, _)| of).collect::<Vec<_>>()
            )
        })
        .1
}

#[tokio::test]
async fn no_secret_of_the_cluster_is_in_the_archive() {
    // What is searched for stands in what is asked for.
    let planted = format!("{} {}", log(), items("/api/v1/pods")[0]);
    for needle in NEEDLES {
        assert!(planted.contains(needle), "{needle}");
    }
    let (files, left_out) = bundle(answer).await;
    for (path, text) in &files {
        for needle in NEEDLES {
            assert!(!text.contains(needle), "{needle} stands in {path}:\n{text}");
        }
        assert!(!text.contains("managedFields\":"), "{path}");
    }
    assert!(file(&files, "b/logs/000-picket-abcde/agent.log").contains("the agent is ready"));
    assert!(file(&files, "b/logs/000-picket-abcde/agent.previous.log").contains("the agent is ready"));
    assert!(file(&files, "b/workloads/pods.json").contains("plain"));
    assert!(file(&files, "b/versions.txt").contains("v1.36.3"));
    let nodes = file(&files, "b/nodes.json");
    assert!(
        nodes.contains("6.1.0") && !nodes.contains("192.0.2.7") && !nodes.contains("annotations"),
        "{nodes}"
    );
    let policies = file(&files, "b/admission/validatingadmissionpolicies.json");
    assert!(
        policies.contains("token-secrets.picket.dev") && !policies.contains("of-somebody-else"),
        "{policies}"
    );
    let manifest = file(&files, "b/MANIFEST.md");
    assert!(
        manifest.contains("| workloads/pods.json |") && manifest.contains("Secrets, tokens"),
        "{manifest}"
    );
    assert_eq!(left_out, Vec::<String>::new());
}

#[tokio::test]
async fn what_may_not_be_read_is_left_out_and_said() {
    let (files, left_out) = bundle(|path, query| match path.contains("/pods") {
        true => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "pods are not for you",
            });
            (403, status.to_string())
        }
        false => answer(path, query),
    })
    .await;
    let said = |what: &str| {
        left_out
            .iter()
            .any(|line| line.starts_with(what) && line.contains("not for you"))
    };
    assert!(said("workloads/pods.json") && said("logs"), "{left_out:?}");
    let manifest = file(&files, "b/MANIFEST.md");
    assert!(manifest.contains("- logs: pods are not for you"), "{manifest}");
    file(&files, "b/objects/picketnodes.json");
}

#[test]
fn the_longest_names_have_room_in_an_archive() {
    let long = "n".repeat(253);
    let path = collect::log_path(999, &long, &long, true);
    let mut archive = archive::Archive::default();
    archive.add(&path, "x".to_owned());
    let stem = "picket-support-20260101T000000Z";
    archive.write(stem, 0, io::sink()).expect("room");
}
