//! Values of rules' expressions while they are evaluated.
//!
//! In: JSON, and values that expressions make. Out: the interpreter's view of JSON (json.rs), comparisons of values of every make
//! (compare.rs), and the steps that reading them takes off the decision's budget (budget.rs).

pub(super) mod budget;
mod compare;
mod json;

pub use budget::MAX_RULE_STEPS;

pub(super) use compare::{equal, is_in};
pub(super) use json::{is_text_map, list_of, of_json, spend_length, unexpected};
