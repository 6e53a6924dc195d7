//! An error in one line, with what caused it.
//!
//! In: an error. Out: its text, and after a colon the text of each cause that it does not tell itself.

use std::error::Error;

/// The error with its causes: `client error (Connect)` alone helps nobody. Most of the agent's own messages tell their cause, so
/// each cause is named once.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
