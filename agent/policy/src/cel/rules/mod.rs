//! The expressions of rules: `when` of an AgentPolicy, and its `variables`.
//!
//! In: texts, later the JSON of one decision. Out: whether a rule's expression holds.
//!
//! An object's JSON is neither copied nor converted: an expression looks up what it selects. All expressions of one decision run on one
//! budget, which each loop and each function takes from before it does its work (instrument.rs, and ../runtime/budget.rs).

mod activation;
mod instrument;
mod params;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::cel::common::ast::IdedExpr;
use regex::Regex;
use serde_json::Value as Json;

use super::check::{VARIABLES, is_identifier};
use super::library::signature::Type;
use super::{CelError, Expression, check, library, parse};

pub use activation::{Activation, Root};
pub use instrument::MAX_RULE_PATTERN;

/// How many variables a policy may have. Those of Kubernetes' and Kyverno's policies have five at most.
pub const MAX_VARIABLES: usize = 32;

/// What a rule's expression has beside its text.
pub(super) struct Compiled {
    tree: IdedExpr,
    steps: u64,
    patterns: BTreeMap<String, Arc<Regex>>,
    gives: Type,
    /// The roots that it and the variables that it reaches use.
    roots: BTreeSet<String>,
    /// The places of the variables that it reaches, in their order.
    reaches: BTreeSet<usize>,
}

/// What the expressions of one policy share: its `params`, and its `variables` in their order. Each variable may use the roots, and those
/// before it as `variables.NAME`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Composition {
    /// An object that never changes: expressions read it as it is.
    params: Option<Json>,
    variables: Vec<(String, Expression)>,
}

impl Composition {
    /// Compiles names with their expressions, in which these roots may be used, such as `object`.
    ///
    /// # Errors
    /// Which of them is refused, and why.
    pub fn compile(list: &[(String, String)], roots: &[&str]) -> Result<Self, (usize, CelError)> {
        Self::with_params(None, list, roots)
    }

    /// Likewise, for a policy with `params`. The root of that name is no value of a decision: it is these.
    ///
    /// # Errors
    /// As [`Composition::compile`].
    pub fn with_params(
        params: Option<Json>,
        list: &[(String, String)],
        roots: &[&str],
    ) -> Result<Self, (usize, CelError)> {
        let mut composition = Self {
            params,
            variables: Vec::new(),
        };
        for (place, (name, text)) in list.iter().enumerate() {
            let refused = |error| (place, error);
            if place >= MAX_VARIABLES {
                return Err(refused(CelError::TooManyVariables));
            }
            if !is_identifier(name) || composition.place(name).is_some() {
                return Err(refused(CelError::Name(name.clone())));
            }
            let expression = compile(text, roots, &composition).map_err(refused)?;
            composition.variables.push((name.clone(), expression));
        }
        Ok(composition)
    }

    /// The names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.names().position(|known| known == name)
    }

    fn types(&self) -> BTreeMap<String, Type> {
        let of = |(name, expression): &(String, Expression)| {
            let gives = expression.rule().map_or(Type::Any, |rule| rule.gives);
            (name.clone(), gives)
        };
        self.variables.iter().map(of).collect()
    }
}

impl Expression {
    /// Compiles the text of a rule, which must come to a boolean. It may use these roots, such as `object`, and a policy's variables.
    ///
    /// # Errors
    /// A [`CelError`].
    pub fn compile_rule(text: &str, roots: &[&str], composition: &Composition) -> Result<Self, CelError> {
        let expression = compile(text, roots, composition)?;
        match expression.rule().map(|rule| rule.gives) {
            Some(Type::Bool | Type::Any) => Ok(expression),
            other => Err(CelError::NotBool(other.map_or("dyn", Type::name))),
        }
    }

    /// Whether it, or a variable that it reaches, uses this root. A loop's variable of the same name is none.
    #[must_use]
    pub fn uses(&self, root: &str) -> bool {
        match self.rule() {
            Some(rule) => rule.roots.contains(root),
            None => self.selected.iter().any(|(of, _)| of == root),
        }
    }
}

fn compile(text: &str, roots: &[&str], composition: &Composition) -> Result<Expression, CelError> {
    check::text(text)?;
    let program = parse(&library::RULES, text)?;
    let mut tree = program.expression().clone();
    let names: Vec<&str> = composition.names().collect();
    let params = composition.params.as_ref();
    let found = check::rule(&tree, roots, &names, params.is_some())?;
    if let Some(params) = params {
        params::check(&tree, params)?;
    }
    let gives = types::of_tree(&tree, &composition.types(), params)?;
    let ready = instrument::instrument(&mut tree, params)?;

    let (mut roots, mut reaches) = (found.used, BTreeSet::new());
    let read = found.selected.iter().filter(|(of, _)| of == VARIABLES);
    for place in read.filter_map(|(_, name)| composition.place(name)) {
        reaches.insert(place);
        if let Some(other) = composition.variables[place].1.rule() {
            reaches.extend(&other.reaches);
            roots.extend(other.roots.iter().cloned());
        }
    }
    let compiled = Compiled {
        tree,
        steps: ready.steps,
        patterns: ready.patterns,
        gives,
        roots,
        reaches,
    };
    Ok(Expression::of_rule(text, compiled, found.selected))
}
