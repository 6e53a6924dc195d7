//! Time of a rule's expression on a request's body: a pod, a Deployment, and a ConfigMap of 100 KB.
//!
//! In: objects that are made here. Out: criterion's measurements. The body's JSON is there already; what is measured is what a rule adds.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use picket_policy::cel::{Activation, Composition, Expression, Root};
use serde_json::{Value, json};

/// A pod as a controller writes it, of about 4 KB.
fn pod() -> Value {
    let container = |number: usize| {
        let variable = |at: usize| json!({"name": format!("VARIABLE_{at}"), "value": format!("a value of some letters {at}")});
        json!({
            "name": format!("container-{number}"), "image": format!("registry.example.com/team/app-{number}:1.2.3"),
            "env": (0..8).map(variable).collect::<Vec<_>>(),
            "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}, {"containerPort": 9090, "name": "metrics"}],
            "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "app", "namespace": "team", "labels": {"app": "app", "team": "team"}},
        "spec": {
            "containers": (0..3).map(container).collect::<Vec<_>>(),
            "volumes": [{"name": "config", "configMap": {"name": "app"}}],
            "serviceAccountName": "app", "restartPolicy": "Always",
        },
    })
}

fn config_map(bytes: usize) -> Value {
    let data: serde_json::Map<_, _> = (0..bytes / 1000)
        .map(|number| (format!("key-{number}"), Value::from("x".repeat(980))))
        .collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"app": "app"}}, "data": data})
}

/// One decision with one rule, as the engine asks.
fn judge(expression: &Expression, composition: &Composition, object: &Value) -> bool {
    let give = || object;
    let roots: [Root<'_>; 1] = [("object", &give)];
    let mut activation = Activation::new(&roots);
    expression.holds(&mut activation, composition).expect("a verdict")
}

fn benches(criterion: &mut Criterion) {
    let none = Composition::default();
    let variables = [(
        "images".to_owned(),
        "object.spec.containers.map(c, c.image)".to_owned(),
    )];
    let images = Composition::compile(&variables, &["object"]).expect("variables");
    let registries: Vec<_> = (0..100)
        .map(|number| format!("registry-{number}.example.com/"))
        .chain(["registry.example.com/".to_owned()])
        .collect();
    let params = json!({"data": {"registries": registries, "pattern": "^registry[.]example[.]com/"}});
    let params = Composition::with_params(Some(params), &[], &["object", "params"]).expect("params");
    let (pod, map) = (pod(), config_map(100_000));
    for (name, object, text, composition) in [
        (
            "privileged containers of a pod of 4 KB",
            &pod,
            "object.spec.containers.exists(c, c.?securityContext.?privileged.orValue(false))",
            &none,
        ),
        (
            "registries of a pod of 4 KB",
            &pod,
            "!variables.images.all(i, i.startsWith('registry.example.com/'))",
            &images,
        ),
        (
            "host network of a pod of 4 KB",
            &pod,
            "object.spec.?hostNetwork.orValue(false)",
            &none,
        ),
        (
            "patterns of a pod of 4 KB",
            &pod,
            "object.spec.containers.exists(c, c.image.matches(':latest$'))",
            &none,
        ),
        (
            "a hundred registries of params beside a pod of 4 KB",
            &pod,
            "!object.spec.containers.all(c, params.data.registries.exists(r, c.image.startsWith(r)))",
            &params,
        ),
        (
            "a pattern of params beside a pod of 4 KB",
            &pod,
            "!object.spec.containers.all(c, c.image.matches(params.data.pattern))",
            &params,
        ),
        (
            "a label of a map of 100 KB",
            &map,
            "object.metadata.labels.app != 'app'",
            &none,
        ),
        (
            "every value of a map of 100 KB",
            &map,
            "object.data.exists(key, object.data[key].contains('BEGIN PRIVATE KEY'))",
            &none,
        ),
        (
            "a map of 100 KB beside itself",
            &map,
            "object.data != object.data",
            &none,
        ),
    ] {
        let expression = Expression::compile_rule(text, &["object", "params"], composition).expect(text);
        assert!(!judge(&expression, composition, object), "{name}");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| judge(&expression, composition, black_box(object)));
        });
    }
    let slow = json!({"list": (0..75).collect::<Vec<_>>()});
    let text = "object.list.exists(a, object.list.exists(b, a + b < 0))";
    let expression = Expression::compile_rule(text, &["object"], &none).expect(text);
    criterion.bench_function("nearly as many steps as one decision has", |bencher| {
        bencher.iter(|| judge(&expression, &none, black_box(&slow)));
    });
}

criterion_group!(rules, benches);
criterion_main!(rules);
