//! CEL expressions that people write, compiled with limits, and what they come to.
//!
//! In: an expression's text and the variables that it may use; later their values as JSON. Out: an [`Expression`], or why the
//! text is refused; later an [`CelOutcome`], or that the expression erred. Whoever asks takes an error for the answer that refuses.
//!
//! The interpreter is the crate `cel`. It has neither limits nor a check of names before it runs, so check.rs brings both:
//! what is not known is refused where the file is read, and nothing here runs long or deep. Timestamps and durations are not
//! part of it.

mod check;
mod cost;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;
use thiserror::Error;

pub use check::{MAX_DEPTH, MAX_EXPRESSION, MAX_LOOPS};
pub use cost::{MAX_PATTERN, MAX_REPETITION, MAX_SIZE, MAX_STEPS};
pub use value::{CelOutcome, MAX_OUTCOME, MAX_TEXT, MAX_VALUES};

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CelError {
    /// There is none.
    #[error("the expression is empty")]
    Empty,
    /// Its text is longer than [`MAX_EXPRESSION`].
    #[error("the expression is longer than {MAX_EXPRESSION} bytes")]
    TooLong,
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("the expression is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More than [`MAX_LOOPS`] macros such as `all` stand in each other.
    #[error("more than {MAX_LOOPS} of all, exists, exists_one, map and filter are nested in each other")]
    TooManyLoops,
    /// It is no CEL.
    #[error("it is not valid CEL: {0}")]
    Syntax(String),
    /// It uses a variable that nobody sets.
    #[error("variable `{name}` is not known; known here: {known}")]
    Variable {
        /// Its name.
        name: String,
        /// Those that are.
        known: String,
    },
    /// It calls a function that there is not.
    #[error("function `{0}` is not known or not supported")]
    Function(String),
    /// It makes an object of a type.
    #[error("objects of a type, such as T{{field: 1}}, are not supported")]
    Struct,
    /// It could make a value larger than [`MAX_SIZE`].
    #[error(
        "the expression could make a value of more than {MAX_SIZE} bytes, such as by `replace` with a text that is not written \
         down, or by doubling a text again and again"
    )]
    TooLargeValue,
    /// It could take more than [`MAX_STEPS`].
    #[error(
        "the expression could take more than {MAX_STEPS} steps: loops in each other over long lists or texts"
    )]
    TooManySteps,
    /// Its `format` is computed.
    #[error("the text before .format() must be written down")]
    Format,
    /// Its pattern is computed, or too long, or repeats too much.
    #[error(
        "the pattern of matches must be written down, with at most {MAX_PATTERN} bytes, and its numbers of repetitions, multiplied, \
         must not exceed {MAX_REPETITION}"
    )]
    Pattern,
}

/// Why an expression has no outcome for some values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EvaluationError {
    /// A field is missing, a type does not fit, or the like. Values are not repeated: they may be secret.
    #[error("the expression failed")]
    Failed,
    /// The values are more than [`MAX_VALUES`], or their texts longer than [`MAX_TEXT`].
    #[error("the values are more than {MAX_VALUES}, or their texts have more than {MAX_TEXT} bytes")]
    TooManyValues,
    /// What it came to is larger than [`MAX_OUTCOME`].
    #[error("the expression came to more than {MAX_OUTCOME} bytes")]
    LargeOutcome,
}

/// An expression that was compiled.
pub struct Expression {
    text: String,
    program: ::cel::Program,
    selected: BTreeSet<(String, String)>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

/// The functions that every expression has.
static ENVIRONMENT: LazyLock<Arc<::cel::Env>> = LazyLock::new(|| {
    let mut environment = ::cel::Env::stdlib();
    // Declared once, so that nothing is declared twice; were it, the functions would be missing and each use refused.
    let _ = environment.add_extension(::cel::extensions::strings);
    Arc::new(environment)
});

impl Expression {
    /// Compiles a text in which these variables may be used.
    ///
    /// # Errors
    /// A [`CelError`].
    pub fn compile(text: &str, variables: &[&str]) -> Result<Self, CelError> {
        check::text(text)?;
        // The parser is made for the texts of people; a fault of its own refuses the text and does not end the agent.
        let compiled = catch_unwind(AssertUnwindSafe(|| ENVIRONMENT.compile(text)));
        let program = match compiled {
            Ok(Ok(program)) => program,
            Ok(Err(errors)) => {
                let first = errors.errors.first();
                let reason = first.map_or_else(|| "unreadable".to_owned(), |error| error.msg.clone());
                return Err(CelError::Syntax(reason));
            }
            Err(_) => return Err(CelError::Syntax("unreadable".to_owned())),
        };
        let selected = check::tree(program.expression(), variables)?;
        cost::check(program.expression())?;
        Ok(Self {
            text: text.to_owned(),
            program,
            selected,
        })
    }

    /// The text that it was compiled from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it looks at this field of this variable by its name, as in `claims.email`.
    #[must_use]
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        self.selected
            .iter()
            .any(|(of, name)| of == variable && name == field)
    }

    /// What it comes to for these values.
    ///
    /// # Errors
    /// An [`EvaluationError`].
    pub fn evaluate(&self, variables: &[(&str, &Json)]) -> Result<CelOutcome, EvaluationError> {
        let mut context = ::cel::Context::with_env(Arc::clone(&ENVIRONMENT));
        let mut left = value::Room::default();
        for (name, json) in variables {
            let value = value::of_json(json, &mut left).ok_or(EvaluationError::TooManyValues)?;
            context.add_variable_from_value(*name, value);
        }
        // As with the parser: a fault of the interpreter refuses what is judged, and no more.
        let evaluated = catch_unwind(AssertUnwindSafe(|| self.program.execute(&context)));
        match evaluated {
            Ok(Ok(value)) => {
                let outcome = Some(CelOutcome::from(value));
                outcome
                    .filter(CelOutcome::is_small)
                    .ok_or(EvaluationError::LargeOutcome)
            }
            Ok(Err(_)) | Err(_) => Err(EvaluationError::Failed),
        }
    }
}

#[cfg(test)]
mod tests;
