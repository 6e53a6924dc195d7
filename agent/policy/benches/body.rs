//! Time of reading a request's body and writing it anew, which each request costs whose body a rule looks into.
//!
//! In: objects of about 100 KB that are made here. Out: criterion's measurements.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use picket_policy::body::{MediaType, read, write};
use serde_json::{Value, json};

/// A pod with this many containers, each about 500 bytes.
fn pod(containers: usize) -> Value {
    let container = |number: usize| {
        json!({
            "name": format!("container-{number}"),
            "image": "registry.example.com/team/service:1.27.3",
            "command": ["/usr/bin/service", "--listen", "0.0.0.0:8080", "--log-level=info"],
            "env": [{"name": "A", "value": "some \"quoted\" text"}, {"name": "B", "value": "ü"}],
            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": 0.5}},
            "securityContext": {"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "privileged": false},
        })
    };
    let containers: Vec<_> = (0..containers).map(container).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": containers}})
}

/// The same as people write it.
fn block_yaml(value: &Value) -> String {
    fn lines(value: &Value, indent: usize, text: &mut String) {
        let space = " ".repeat(indent);
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    *text += &format!("{space}{key}:");
                    below(value, indent + 2, text);
                }
            }
            Value::Array(items) => {
                for item in items {
                    *text += &format!("{space}-");
                    below(item, indent + 2, text);
                }
            }
            _ => unreachable!("a pod has no other"),
        }
    }
    fn below(value: &Value, indent: usize, text: &mut String) {
        if value.is_object() || value.is_array() {
            text.push('\n');
            lines(value, indent, text);
        } else {
            *text += &format!(" {value}\n");
        }
    }
    let mut text = String::new();
    lines(value, 0, &mut text);
    text
}

fn benches(criterion: &mut Criterion) {
    let value = pod(225);
    let body = write(&value);
    let block = block_yaml(&value);
    assert!((90_000..120_000).contains(&body.len()), "{}", body.len());
    let mut group = criterion.benchmark_group("a pod of 100 KB");
    group.throughput(Throughput::Bytes(body.len() as u64));
    for (name, media, body) in [
        ("read JSON", MediaType::Json, &body[..]),
        ("read JSON as YAML", MediaType::ApplyYaml, &body[..]),
        ("read YAML in blocks", MediaType::Yaml, block.as_bytes()),
    ] {
        assert_eq!(read(media, body).as_ref(), Ok(&value));
        group.bench_function(name, |bencher| bencher.iter(|| read(media, black_box(body))));
    }
    group.bench_function("write", |bencher| bencher.iter(|| write(black_box(&value))));
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
