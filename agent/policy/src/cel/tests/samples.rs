//! Expressions of policies that others use, on the objects of those policies' own tests.
//!
//! samples.jsonl holds the expressions of `github.com/kyverno/policies` (Apache-2.0), one policy a line, with an object that the policy's
//! tests let pass and one that they refuse. What needs Kyverno's own libraries is left out (`resource.Get`, `image.GetMetadata`,
//! `time.now`), and so are `timestamp` and `duration`.

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::super::*;

#[derive(Deserialize)]
struct Sample {
    name: String,
    variables: Vec<(String, String)>,
    validations: Vec<String>,
    conditions: Vec<String>,
    good: Option<Json>,
    bad: Option<Json>,
}

const ROOTS: [&str; 5] = ["object", "oldObject", "request", "namespaceObject", "params"];

/// Whether a policy takes an object, as a ValidatingAdmissionPolicy does that fails closed.
fn takes(sample: &Sample, object: &Json) -> bool {
    let name = &sample.name;
    let composition = Composition::compile(&sample.variables, &ROOTS).expect(name);
    let request = json!({"operation": "CREATE"});
    let (object, request, null) = (|| object, || &request, || &Json::Null);
    let roots: [Root<'_>; 4] = [
        ("object", &object),
        ("oldObject", &null),
        ("request", &request),
        ("namespaceObject", &null),
    ];
    let mut activation = Activation::new(&roots);
    let mut holds = |text: &String| {
        let expression = Expression::compile_rule(text, &ROOTS, &composition);
        let expression = expression.unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        expression.holds(&mut activation, &composition)
    };
    let is_meant = sample.conditions.iter().all(|text| holds(text) != Ok(false));
    !is_meant || sample.validations.iter().all(|text| holds(text) == Ok(true))
}

#[test]
fn policies_of_others_give_the_verdicts_of_their_own_tests() {
    let samples = include_str!("samples.jsonl").lines();
    let samples: Vec<Sample> = samples
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert!(
        samples
            .iter()
            .map(|sample| sample.validations.len())
            .sum::<usize>()
            > 60
    );
    let mut wrong = Vec::new();
    for sample in &samples {
        if sample.good.as_ref().is_some_and(|object| !takes(sample, object)) {
            wrong.push(format!("{} refuses what is good", sample.name));
        }
        if sample.bad.as_ref().is_some_and(|object| takes(sample, object)) {
            wrong.push(format!("{} takes what is bad", sample.name));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
