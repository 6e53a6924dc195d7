//! An error in one line, with what caused it.
//!
//! In: an error. Out: its text, and after a colon the text of each cause that it does not tell itself.

pub use picket_controller::faults::with_causes;
