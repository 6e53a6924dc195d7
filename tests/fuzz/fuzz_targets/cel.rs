//! Any expression of a rule, on any JSON: it is refused or compiled, and gives a verdict or says why not, without a panic and within its
//! steps.
//!
//! The first line is the expression, the second one of a variable `v`; what follows is the object, which is the policy's `params` too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::cel::{Activation, Composition, Expression, MAX_RULE_STEPS, Root};
use serde_json::Value;

// A panic inside of an evaluation is caught there, and is a refusal; one outside ends the fuzzer still, without a text.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &str| {
    let mut lines = input.splitn(3, '\n');
    let (text, variable) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let object: Value = serde_json::from_str(lines.next().unwrap_or_default()).unwrap_or_default();
    let params = object.is_object().then(|| object.clone());
    let variables = [("v".to_owned(), variable.to_owned())];
    let composition = Composition::with_params(params, &variables, &["object", "params"]).unwrap_or_default();
    let Ok(expression) = Expression::compile_rule(text, &["object", "params", "request"], &composition) else {
        return;
    };
    let give = || &object;
    let roots: [Root<'_>; 2] = [("object", &give), ("request", &give)];
    let mut activation = Activation::new(&roots);
    let first = expression.holds(&mut activation, &composition);
    // No clock: the processors may be with others meanwhile. libFuzzer ends what takes much too long.
    assert!(activation.steps() <= MAX_RULE_STEPS);
    let mut again = Activation::new(&roots);
    assert_eq!(expression.holds(&mut again, &composition), first, "{text}");
});
