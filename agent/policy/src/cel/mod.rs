//! CEL expressions that people write, compiled with limits, and what they come to.
//!
//! In: an expression's text and the variables that it may use; later their values as JSON. Out: an [`Expression`], or why the
//! text is refused; later a [`CelOutcome`], or that the expression erred. Whoever asks takes an error for the answer that refuses.
//!
//! There are two kinds. Expressions of token claims are judged at their worst where they are read (cost.rs), since any values may come.
//! Those of rules judge bodies of 1.5 MB on a thread of the data path, so they run on a budget (rules/).
//!
//! rules/ imports library/, the functions that rules have; both import runtime/, the values and the budget of an evaluation, which imports
//! none of them.
//!
//! The interpreter is the crate `cel`. It has neither limits nor a check of names before it runs, so check.rs brings both:
//! what is not known is refused where the file is read, and nothing here runs long or deep. Timestamps and durations are not
//! part of it.

mod check;
mod cost;
mod library;
mod rules;
mod runtime;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;
use thiserror::Error;

pub(crate) use check::is_identifier;
pub use check::{MAX_DEPTH, MAX_EXPRESSION, MAX_LOOPS, MAX_RULE_LOOPS};
pub use cost::{MAX_PATTERN, MAX_REPETITION, MAX_SIZE, MAX_STEPS};
pub use rules::{Activation, Composition, MAX_RULE_PATTERN, MAX_VARIABLES, Root};
pub use runtime::MAX_RULE_STEPS;
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
    /// More macros such as `all` stand in each other than may: [`MAX_LOOPS`], in rules [`MAX_RULE_LOOPS`].
    #[error("more than {0} of all, exists, exists_one, map and filter are nested in each other")]
    TooManyLoops(usize),
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
    /// A function's operands are not of the number or the type that it takes.
    #[error(
        "function `{0}` is not called so: the number of its operands, or what it is called on, does not fit"
    )]
    Operands(String),
    /// A value's type does not fit where it stands.
    #[error("{what} does not take {of}")]
    Type {
        /// Where it stands.
        what: String,
        /// Its type.
        of: &'static str,
    },
    /// A rule's expression comes to no boolean.
    #[error("it comes to {0}, and must come to bool")]
    NotBool(&'static str),
    /// It uses `params` in a policy that has none.
    #[error("the policy has no `params`: write them under spec.params")]
    NoParams,
    /// It selects a field that the policy's `params` do not have.
    #[error("`{of}` has no field `{field}`{known}. Ask for an optional field by `has` or `.?`")]
    NoParam {
        /// What is selected from, as `params.data`.
        of: String,
        /// The field.
        field: String,
        /// The fields that there are.
        known: String,
    },
    /// It reads `variables` other than one by one.
    #[error("`variables` is read as variables.NAME alone")]
    WholeVariables,
    /// A policy has more variables than [`MAX_VARIABLES`].
    #[error("there are more than {MAX_VARIABLES} variables")]
    TooManyVariables,
    /// The name of a variable is none, or another has it.
    #[error(
        "`{0}` is no name for a variable, or another has it: a name has letters, digits and `_`, and begins with no digit"
    )]
    Name(String),
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
    /// Its pattern is computed, is none, or repeats too much, or is longer than [`MAX_PATTERN`], in rules [`MAX_RULE_PATTERN`].
    #[error(
        "the pattern must be one, written down, with at most {0} bytes, and its numbers of repetitions, multiplied, \
         must not exceed {MAX_REPETITION}"
    )]
    Pattern(usize),
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
    /// A rule's expression came to no boolean.
    #[error("the expression came to no boolean")]
    NotBool,
    /// The expressions of one decision would take more than [`MAX_RULE_STEPS`].
    #[error("the expressions of one decision would take more than {MAX_RULE_STEPS} steps on this object")]
    TooCostly,
}

/// An expression that was compiled.
pub struct Expression {
    text: String,
    compiled: Compiled,
    selected: BTreeSet<(String, String)>,
}

enum Compiled {
    /// One of token claims, which [`Expression::evaluate`] runs.
    Claims(::cel::Program),
    /// One of a rule, which [`Expression::holds`] runs.
    Rule(Box<rules::Compiled>),
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
        let program = parse(&ENVIRONMENT, text)?;
        let selected = check::tree(program.expression(), variables)?;
        cost::check(program.expression())?;
        Ok(Self {
            text: text.to_owned(),
            compiled: Compiled::Claims(program),
            selected,
        })
    }

    fn of_rule(text: &str, compiled: rules::Compiled, selected: BTreeSet<(String, String)>) -> Self {
        Self {
            text: text.to_owned(),
            compiled: Compiled::Rule(Box::new(compiled)),
            selected,
        }
    }

    fn rule(&self) -> Option<&rules::Compiled> {
        match &self.compiled {
            Compiled::Rule(rule) => Some(rule),
            Compiled::Claims(_) => None,
        }
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

    /// What an expression of claims comes to for these values. One of a rule fails.
    ///
    /// # Errors
    /// An [`EvaluationError`].
    pub fn evaluate(&self, variables: &[(&str, &Json)]) -> Result<CelOutcome, EvaluationError> {
        let Compiled::Claims(program) = &self.compiled else {
            return Err(EvaluationError::Failed);
        };
        let mut context = ::cel::Context::with_env(Arc::clone(&ENVIRONMENT));
        let mut left = value::Room::default();
        for (name, json) in variables {
            let value = value::of_json(json, &mut left).ok_or(EvaluationError::TooManyValues)?;
            context.add_variable_from_value(*name, value);
        }
        // As with the parser: a fault of the interpreter refuses what is judged, and no more.
        let evaluated = catch_unwind(AssertUnwindSafe(|| program.execute(&context)));
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

/// Parses a text with the functions of an environment.
fn parse(environment: &::cel::Env, text: &str) -> Result<::cel::Program, CelError> {
    // The parser is made for the texts of people; a fault of its own refuses the text and does not end the agent.
    match catch_unwind(AssertUnwindSafe(|| environment.compile(text))) {
        Ok(Ok(program)) => Ok(program),
        Ok(Err(errors)) => {
            let first = errors.errors.first();
            let reason = first.map_or_else(|| "unreadable".to_owned(), |error| error.msg.clone());
            Err(CelError::Syntax(reason))
        }
        Err(_) => Err(CelError::Syntax("unreadable".to_owned())),
    }
}

#[cfg(test)]
mod tests;
