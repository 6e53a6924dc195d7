//! Throughput of the filter on lists of 10 MB of which nothing is hidden, in pieces of 16 KB as they come from the network.
//!
//! In: a list of pods that is made here, in JSON and in protobuf. Out: criterion's measurements.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use picket_masking::Filter;
use picket_masking::media::Encoding;

const SIZE: usize = 10 * 1024 * 1024;
const PIECE: usize = 16 * 1024;

/// A pod as the API server writes it: of its 3 KB, half are managedFields.
fn pod(number: usize) -> String {
    let managed: Vec<String> = (0..24)
        .map(|field| format!(r#""f:field{field}":{{".":{{}},"f:name":{{}},"k:{{\"type\":\"a\"}}":{{}}}}"#))
        .collect();
    let managed = managed.join(",");
    format!(
        r#"{{"metadata":{{"name":"web-{number}","generateName":"web-","namespace":"team-{}","uid":"3f5a9c1e-8f0e-4d2a-9a52-{number:012}","resourceVersion":"{number}","labels":{{"app":"web","pod-template-hash":"5d9c7b8f6"}},"managedFields":[{{"manager":"kubelet","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{{managed}}}}}]}},"spec":{{"volumes":[{{"name":"kube-api-access","projected":{{"sources":[{{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}}],"defaultMode":420}}}}],"containers":[{{"name":"web","image":"registry.example/web:1.27.3","args":["--listen=:8080","--log=\"json\""],"resources":{{"limits":{{"cpu":"500m","memory":"128Mi"}}}},"terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","serviceAccountName":"default","nodeName":"node-7"}},"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z"}}],"hostIP":"10.0.0.7","podIP":"10.244.3.{}"}}}}"#,
        number % 50,
        number % 250
    )
}

fn json() -> Vec<u8> {
    let mut body =
        String::from(r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":["#);
    let mut number = 0;
    while body.len() < SIZE {
        if number > 0 {
            body.push(',');
        }
        body.push_str(&pod(number));
        number += 1;
    }
    body.push_str("]}\n");
    body.into_bytes()
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn protobuf() -> Vec<u8> {
    let mut list = Vec::new();
    let mut number = 0;
    while list.len() < SIZE {
        let metadata = [field(1, format!("web-{number}").as_bytes()), field(3, b"team-1")].concat();
        list.extend(field(2, &[field(1, &metadata), field(2, &[b'a'; 900])].concat()));
        number += 1;
    }
    let types = [field(1, b"v1"), field(2, b"PodList")].concat();
    [b"k8s\0".to_vec(), field(1, &types), field(2, &list)].concat()
}

fn filter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter");
    group.sample_size(10);
    for (name, encoding, body) in [
        ("json-list-10MB", Encoding::Json, json()),
        ("protobuf-list-10MB", Encoding::Protobuf, protobuf()),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            let mut out = Vec::with_capacity(2 * PIECE);
            bencher.iter(|| {
                let mut filter = Filter::list(encoding);
                for piece in body.chunks(PIECE) {
                    out.clear();
                    let hides = &mut |head: &picket_masking::ItemHead<'_>| head.namespace == "kube-system";
                    filter.push(piece, hides, &mut out).expect("a list");
                    black_box(&out);
                }
                black_box(filter.finish().expect("a whole list"))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, filter);
criterion_main!(benches);
