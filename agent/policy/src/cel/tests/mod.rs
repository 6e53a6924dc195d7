//! Expressions of token claims, and of rules.

mod claims;
mod library;
mod params;
mod rules;
mod samples;

use serde_json::Value as Json;

use super::{Activation, Composition, EvaluationError, Expression, Root};

/// Whether a rule's expression holds of an object, which some requests do not have.
fn holds(text: &str, object: &Json) -> Result<bool, EvaluationError> {
    let none = Composition::default();
    let expression = Expression::compile_rule(text, &["object", "oldObject"], &none);
    let expression = expression.unwrap_or_else(|error| panic!("{text}: {error}"));
    let (object, old) = (|| object, || &Json::Null);
    let roots: [Root<'_>; 2] = [("object", &object), ("oldObject", &old)];
    expression.holds(&mut Activation::new(&roots), &none)
}
