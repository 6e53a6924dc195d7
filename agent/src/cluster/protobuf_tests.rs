//! Tests of answers in protobuf: as frames come, through kube's client, and beside a server that answers in JSON all the same.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::watcher;
use parking_lot::Mutex;
use picket_controller::lenient::Lenient;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::{Connector, follow_with, testing};
use super::*;

const WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// A number below 16,384 in protobuf.
fn varint(number: usize) -> [u8; 2] {
    [number & 0x7F | 0x80, number >> 7].map(|byte| u8::try_from(byte).unwrap())
}

/// A field of bytes.
fn bytes(number: usize, inner: impl AsRef<[u8]>) -> Vec<u8> {
    let inner = inner.as_ref();
    [&varint(number << 3 | 2), &varint(inner.len()), inner].concat()
}

fn object(kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, "v1"), bytes(2, kind)].concat();
    [b"k8s\0".to_vec(), bytes(1, meta), bytes(2, raw)].concat()
}

/// A Service of this name and version.
fn service(name: &str, version: &str) -> Vec<u8> {
    // What no reader of JSON takes, and bytes that are no text.
    let managed = bytes(
        7,
        bytes(1, ["{\"f:\u{0}".repeat(1_000).as_bytes(), b"\xff"].concat()),
    );
    bytes(
        1,
        [bytes(1, name), bytes(6, version), bytes(17, managed)].concat(),
    )
}

/// A page of Services, behind which another one begins.
fn list(next: &str, names: &[&str]) -> Vec<u8> {
    let meta = bytes(1, [bytes(2, "5"), bytes(3, next)].concat());
    let items = names.iter().flat_map(|name| bytes(2, service(name, "4")));
    object("ServiceList", &[meta, items.collect()].concat())
}

fn status(reason: &str, code: usize) -> Vec<u8> {
    let code = [varint(6 << 3), varint(code)].concat();
    let said = [bytes(2, "Failure"), bytes(3, "no"), bytes(4, reason), code];
    object("Status", &said.concat())
}

/// A frame of a watch.
fn event(of: &str, object: &[u8]) -> Vec<u8> {
    let event = [bytes(1, of), bytes(2, bytes(1, object))].concat();
    [u32::try_from(event.len()).unwrap().to_be_bytes().to_vec(), event].concat()
}

/// The lines of a watch whose body comes in pieces of this size, and why they end.
async fn lines(watch: &[u8], size: usize) -> (String, Option<String>) {
    let pieces: Vec<_> = watch
        .chunks(size)
        .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let response = Response::builder().header(CONTENT_TYPE, WATCH);
    let response = answer(response.body(StreamBody::new(stream::iter(pieces))).unwrap());
    let mut body = response.into_body();
    let mut lines = String::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => lines.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap()),
            Err(error) => {
                assert!(is_unreadable(&*error));
                return (lines, Some(error.to_string()));
            }
        }
    }
    (lines, None)
}

#[tokio::test]
async fn frames_are_read_wherever_they_are_split() {
    let frames = [
        event("ADDED", &object("Service", &service("a", "6"))),
        event("BOOKMARK", &object("Service", &bytes(1, bytes(6, "7")))),
        event("ERROR", &status("Expired", 410)),
    ]
    .concat();
    let (whole, end) = lines(&frames, frames.len()).await;
    assert_eq!(end, None);
    let read: Vec<serde_json::Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        read[0]["object"]["metadata"],
        serde_json::json!({"name": "a", "resourceVersion": "6"})
    );
    assert_eq!(read[1]["object"]["metadata"]["resourceVersion"], "7");
    assert_eq!(read[2]["object"]["code"], 410);
    assert_eq!(read.len(), 3);
    for size in [1, 2, 3, 5, 7, 100, frames.len() - 1] {
        assert_eq!(lines(&frames, size).await, (whole.clone(), None), "{size}");
    }
}

#[tokio::test]
async fn a_frame_that_is_broken_or_cut_ends_the_watch_with_an_error() {
    let good = event("ADDED", &object("Service", &service("a", "6")));
    let long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    for (bad, told) in [
        (good[..good.len() - 1].to_vec(), "middle of an event"),
        (vec![0, 0], "middle of an event"),
        (vec![0, 0, 0, 1, b'{'], "no protobuf"),
        (event("ADDED", b"{}"), "no protobuf"),
        (event("ADDED", &object("Widget", b"")), "of the kind v1 Widget"),
        (long.to_vec(), "an event of 16777217 bytes"),
    ] {
        let (read, end) = lines(&[good.clone(), bad].concat(), 64).await;
        assert_eq!(read.lines().count(), 1);
        assert!(
            end.as_ref().is_some_and(|end| end.contains(told)),
            "{told}: {end:?}"
        );
    }
}

#[test]
fn lists_and_watches_of_built_in_kinds_ask_for_protobuf() {
    let accepted = |method: Method, path: &str, accept: Option<&str>| {
        let request = Request::builder().method(method).uri(path);
        let request = accept
            .into_iter()
            .fold(request, |request, accept| request.header(ACCEPT, accept));
        let request = ask(request.body(()).unwrap());
        request.headers().get(ACCEPT).cloned() == Some(ACCEPTED)
    };
    for path in [
        "/api/v1/services?limit=50",
        "/api/v1/pods?watch=true&resourceVersion=7",
        "/api/v1/namespaces",
        "/api/v1/nodes?",
        "/api/v1/namespaces/lab/services",
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices",
    ] {
        assert!(accepted(Method::GET, path, None), "{path}");
        assert!(accepted(Method::GET, path, Some("application/json")), "{path}");
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert!(!accepted(Method::GET, path, Some(metadata)), "{path}");
        assert!(!accepted(Method::POST, path, None), "{path}");
    }
    for path in [
        "/api/v1/namespaces/lab",
        "/api/v1/namespaces/services",
        "/api/v1/nodes/one",
        "/api/v1/namespaces/lab/services/a",
        "/api/v1/namespaces/lab/pods/a/log",
        "/api/v1/configmaps",
        "/apis/discovery.k8s.io/v1/services",
        "/apis/picket.dev/v1alpha1/pods",
        "/api/v2/pods",
    ] {
        assert!(!accepted(Method::GET, path, None), "{path}");
    }
}

#[tokio::test]
async fn what_is_no_protobuf_is_passed_on() {
    for media in [
        None,
        Some("application/json"),
        Some("application/vnd.kubernetes.protobuffer"),
        Some("text/plain;stream=watch"),
    ] {
        let response = Response::builder().status(500).header(CONTENT_LENGTH, 4);
        let response = media
            .into_iter()
            .fold(response, |response, media| response.header(CONTENT_TYPE, media));
        let response = response.body(Full::new(Bytes::from_static(b"k8s\0"))).unwrap();
        let before = response.headers().clone();
        let response = answer(response);
        assert_eq!((response.status().as_u16(), response.headers()), (500, &before));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&*body, b"k8s\0");
    }
}

/// What an API server answers to a list without and with a place to go on, and to a watch: a code, a media type and bytes.
type Answers = [(u16, &'static str, Vec<u8>); 3];

/// Follows Services of a server with these answers until so many lists were begun or read to their end; gives what came, in a word each.
async fn followed(answers: Answers, until: (&'static str, usize)) -> Vec<String> {
    let url = testing::answering_as(move |request| {
        assert_eq!(request.headers().get(ACCEPT), Some(&ACCEPTED));
        let asks = |what: &str| request.uri().query().is_some_and(|query| query.contains(what));
        answers[match (asks("watch="), asks("continue=next")) {
            (true, _) => 2,
            (_, true) => 1,
            _ => 0,
        }]
        .clone()
    })
    .await;
    let (_folder, connector) = Connector::for_tests(&url);
    let cancel = CancellationToken::new();
    let seen = Mutex::new(Vec::new());
    let add = |word: String| {
        let mut seen = seen.lock();
        seen.push(word);
        if seen.iter().filter(|word| **word == until.0).count() == until.1 {
            cancel.cancel();
        }
    };
    let name = |service: Service| service.metadata.name.unwrap();
    let on = |event| match event {
        watcher::Event::Init => add("init".to_owned()),
        watcher::Event::InitApply(service) => add(name(service)),
        watcher::Event::InitDone => add("done".to_owned()),
        watcher::Event::Apply(service) => add(format!("+{}", name(service))),
        watcher::Event::Delete(service) => add(format!("-{}", name(service))),
    };
    let failed = |error: &watcher::Error| {
        add(if is_unreadable(error) {
            "unreadable"
        } else {
            "failed"
        }
        .to_owned());
    };
    let (all, config) = (Api::<Lenient<Service>>::all, watcher::Config::default());
    let following = follow_with(&connector, "services", all, config, &cancel, on, failed);
    timeout(Duration::from_secs(20), following).await.unwrap();
    seen.into_inner()
}

fn two_pages(watch: Vec<u8>) -> Answers {
    [
        (200, PROTOBUF, list("next", &["a", "b"])),
        (200, PROTOBUF, list("", &["c"])),
        (200, WATCH, watch),
    ]
}

#[tokio::test]
async fn objects_are_followed_in_protobuf() {
    let watch = [
        event("BOOKMARK", &object("Service", &bytes(1, bytes(6, "6")))),
        event("ADDED", &object("Service", &service("d", "7"))),
        event("DELETED", &object("Service", &service("a", "8"))),
    ];
    let seen = followed(two_pages(watch.concat()), ("-a", 1)).await;
    assert_eq!(seen, ["init", "a", "b", "c", "done", "+d", "-a"]);
}

#[tokio::test]
async fn objects_are_followed_where_the_server_has_no_protobuf() {
    const JSON: &str = "application/json";
    let list = r#"{"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}}]}"#;
    let watch =
        "{\"type\": \"ADDED\", \"object\": {\"metadata\": {\"name\": \"b\", \"resourceVersion\": \"6\"}}}\n";
    let answers = [list, "", watch].map(|text| (200, JSON, text.as_bytes().to_vec()));
    let seen = followed(answers, ("+b", 1)).await;
    assert_eq!(seen, ["init", "a", "done", "+b"]);
}

/// An event that could not be read, or that tells of versions that are gone, would not come again.
#[tokio::test]
async fn a_watch_that_cannot_go_on_is_followed_by_a_list() {
    let bookmark = event("BOOKMARK", &object("Service", &bytes(1, bytes(6, "6"))));
    let broken = event("ADDED", &object("Service", b"\xff"));
    for (frame, told) in [
        ([bookmark, broken.clone()].concat(), "unreadable"),
        // As where a watch ends before its first event.
        (broken, "failed"),
        (event("ERROR", &status("Expired", 410)), "failed"),
    ] {
        let seen = followed(two_pages(frame), ("done", 2)).await;
        let expected = ["init", "a", "b", "c", "done", told, "init", "a", "b", "c", "done"];
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_told_and_tried_again() {
    let mut answers = two_pages(Vec::new());
    answers[1].2.truncate(40);
    let seen = followed(answers, ("unreadable", 2)).await;
    assert_eq!(
        seen,
        ["init", "a", "b", "unreadable", "init", "a", "b", "unreadable"]
    );
}

#[tokio::test]
async fn a_refusal_in_protobuf_is_one() {
    let url = testing::answering_as(|_| (403, PROTOBUF, status("Forbidden", 403))).await;
    let (_folder, connector) = Connector::for_tests(&url);
    let services = Api::<Lenient<Service>>::all(connector.connect().await.unwrap());
    match services.list(&ListParams::default()).await.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!(
                (status.code, status.reason.as_str(), status.message.as_str()),
                (403, "Forbidden", "no")
            );
        }
        error => panic!("{error:?}"),
    }
}
