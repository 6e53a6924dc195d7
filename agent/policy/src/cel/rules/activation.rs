//! One decision's values, and the run of its expressions on them.
//!
//! In: the roots' JSON, which is asked for once and only if an expression uses it. Out: whether an expression holds. A variable is
//! evaluated once, by the first expression that names it; where it fails, so does what reads it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::cel::Context;
use ::cel::common::types::CelBool;
use ::cel::common::value::Val;
use serde_json::Value as Json;

use super::super::check::{PARAMS, VARIABLES};
use super::super::library::{self, Pattern};
use super::super::runtime::budget::{self, MAX_RULE_STEPS};
use super::super::runtime::of_json;
use super::super::{EvaluationError, Expression};
use super::{Compiled, Composition};

/// A root's name, and where its JSON is: asked for at most once. What is not there, such as the `object` of a delete, is `null`.
pub type Root<'a> = (&'a str, &'a dyn Fn() -> &'a Json);

/// The values of one decision. All expressions on it, of whatever policies, share a budget of [`MAX_RULE_STEPS`].
pub struct Activation<'a> {
    roots: &'a [Root<'a>],
    bound: Vec<bool>,
    /// The policy whose variables are bound; asking for the policies one after the other evaluates each variable once.
    composition: Option<&'a Composition>,
    /// Which of its variables were evaluated.
    evaluated: Vec<bool>,
    /// Whether its `params` are bound.
    has_params: bool,
    context: Context<'a, 'a>,
    left: u64,
}

impl<'a> Activation<'a> {
    /// One in which nothing is evaluated yet.
    #[must_use]
    pub fn new(roots: &'a [Root<'a>]) -> Self {
        Self {
            roots,
            bound: vec![false; roots.len()],
            composition: None,
            evaluated: Vec::new(),
            has_params: false,
            context: Context::with_env(Arc::clone(&library::RULES)),
            left: MAX_RULE_STEPS,
        }
    }

    /// How many steps its expressions took, of [`MAX_RULE_STEPS`].
    #[must_use]
    pub fn steps(&self) -> u64 {
        MAX_RULE_STEPS - self.left
    }

    fn bind(&mut self, rule: &Compiled) {
        for (place, (name, json)) in self.roots.iter().enumerate() {
            if !self.bound[place] && *name != PARAMS && rule.roots.contains(*name) {
                self.bound[place] = true;
                self.context.add_variable_as_val(*name, of_json(json()));
            }
        }
    }

    /// Binds the `params` of the policy that was entered.
    fn bind_params(&mut self, rule: &Compiled, of: &'a Composition) {
        if self.has_params || !rule.roots.contains(PARAMS) {
            return;
        }
        if let Some(params) = &of.params {
            self.has_params = true;
            self.context.add_variable_as_val(PARAMS, of_json(params));
        }
    }

    fn bind_patterns(&mut self, rule: &Compiled) {
        for (name, pattern) in &rule.patterns {
            let pattern = Box::new(Pattern(Arc::clone(pattern)));
            self.context.add_variable_as_val(name.as_str(), pattern);
        }
    }

    /// Forgets the variables and the `params` of another policy.
    fn enter(&mut self, policy: &'a Composition) {
        let before = self.composition.replace(policy);
        if before.is_some_and(|before| std::ptr::eq(before, policy)) {
            return;
        }
        self.evaluated = vec![false; policy.variables.len()];
        self.has_params = false;
        if let Context::Root { variables, .. } = &mut self.context {
            for name in before.into_iter().flat_map(Composition::names) {
                variables.remove(&format!("{VARIABLES}.{name}"));
            }
            variables.remove(PARAMS);
        }
    }

    /// Evaluates the variables that a rule reaches and that none before it reached.
    fn evaluate_variables(&mut self, rule: &Compiled, of: &'a Composition) -> Result<(), EvaluationError> {
        for place in &rule.reaches {
            let Some((name, variable)) = of.variables.get(*place) else {
                return Err(EvaluationError::Failed);
            };
            if std::mem::replace(&mut self.evaluated[*place], true) {
                continue;
            }
            let compiled = variable.rule().ok_or(EvaluationError::Failed)?;
            self.bind_patterns(compiled);
            match self.run(compiled) {
                // The interpreter finds a variable by the whole of a selection.
                Ok(value) => self
                    .context
                    .add_variable_as_val(format!("{VARIABLES}.{name}"), value),
                Err(EvaluationError::TooCostly) => return Err(EvaluationError::TooCostly),
                // What reads it finds nothing, and fails.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, rule: &Compiled) -> Result<Box<dyn Val + 'a>, EvaluationError> {
        let context = &self.context;
        let evaluation = || {
            budget::spend(rule.steps)?;
            ::cel::Value::resolve_val(&rule.tree, context).map(|value| value.into_owned())
        };
        // A fault of the interpreter refuses what is judged, and no more.
        let (outcome, was_enough) =
            budget::run(&mut self.left, || catch_unwind(AssertUnwindSafe(evaluation)));
        match outcome {
            _ if !was_enough => Err(EvaluationError::TooCostly),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(EvaluationError::Failed),
        }
    }
}

impl Expression {
    /// Whether a rule's expression holds, with the variables of its policy.
    ///
    /// # Errors
    /// It or a variable fails, it comes to no boolean, or the decision's budget is spent.
    pub fn holds<'a>(
        &self,
        activation: &mut Activation<'a>,
        composition: &'a Composition,
    ) -> Result<bool, EvaluationError> {
        let rule = self.rule().ok_or(EvaluationError::Failed)?;
        activation.enter(composition);
        activation.bind(rule);
        activation.bind_params(rule, composition);
        activation.evaluate_variables(rule, composition)?;
        activation.bind_patterns(rule);
        let value = activation.run(rule)?;
        let value = value.downcast_ref::<CelBool>();
        value.map(|value| *value.inner()).ok_or(EvaluationError::NotBool)
    }
}
