//! A checked tree, made ready to be run under a budget.
//!
//! In: a tree. Out: the same tree, in which each loop takes the rounds it is about to go off the budget, and each function that reads or
//! copies text what it is about to read. So a loop in a loop counts what is really in its lists. Comparisons become those of compare.rs,
//! and a pattern becomes a variable, since the interpreter would compile it anew for each text.
//!
//! Names that begin with `@` are the tree's own: no text that people write has such a name.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use regex::{Regex, RegexBuilder};
use serde_json::Value as Json;

use super::super::CelError;
use super::super::check::{PARAMS, VARIABLES};
use super::super::cost::{MAX_REPETITION, repetition, written_text};
use super::super::library::signature::SIGNATURES;
use super::super::library::{EQUAL, IS_IN, LOOP, NOT_EQUAL, READ, READ_DEEP};
use super::params;

/// What a pattern's variable begins with; the pattern follows.
const PATTERN: &str = "@pattern:";

/// The longest pattern of a rule, in bytes: one of a cron schedule has 550. It is compiled once, and its length counts when it searches.
pub const MAX_RULE_PATTERN: usize = 1024;

/// What compiled patterns of one expression may take together, in bytes of memory each.
const PATTERN_MEMORY: usize = 1 << 20;

/// Functions that read their operands in one go.
const READING: [&str; 16] = [
    "bytes",
    "contains",
    "double",
    "endsWith",
    "int",
    "lowerAscii",
    "of",
    "ofNonZeroValue",
    "quote",
    "reverse",
    "size",
    "startsWith",
    "string",
    "trim",
    "uint",
    "upperAscii",
];

/// Functions that have one of ours in their place, which counts what it does (library/text.rs, library/operators.rs).
const REPLACED: [&str; 9] = [
    "charAt",
    "indexOf",
    "join",
    "lastIndexOf",
    "or",
    "orValue",
    "replace",
    "split",
    "substring",
];

/// What a tree needs to run.
#[derive(Debug, Default)]
pub(super) struct Instrumented {
    /// The steps of one run, loops apart.
    pub(super) steps: u64,
    /// Its patterns, by the names of their variables.
    pub(super) patterns: BTreeMap<String, Arc<Regex>>,
}

/// Makes a tree ready. A pattern or a format may be a text of `params`, which is as good as one that is written down.
///
/// # Errors
/// A pattern or a format is computed, or is none.
pub(super) fn instrument(tree: &mut IdedExpr, params: Option<&Json>) -> Result<Instrumented, CelError> {
    let mut pass = Pass {
        params,
        ..Pass::default()
    };
    let steps = pass.visit(tree)?;
    Ok(Instrumented {
        steps,
        patterns: pass.patterns,
    })
}

#[derive(Default)]
struct Pass<'p> {
    params: Option<&'p Json>,
    patterns: BTreeMap<String, Arc<Regex>>,
    /// The variables of the loops around a node.
    scope: Vec<String>,
}

impl Pass<'_> {
    /// Rewrites a node, and says how many steps it takes, its loops' rounds apart.
    fn visit(&mut self, node: &mut IdedExpr) -> Result<u64, CelError> {
        Ok(1 + match &mut node.expr {
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => 0,
            Expr::Select(select) => {
                let is_variable = matches!(&select.operand.expr, Expr::Ident(name) if name == VARIABLES);
                if select.test && is_variable && !self.scope.iter().any(|name| name == VARIABLES) {
                    // One that is not known was refused before.
                    node.expr = Expr::Literal(LiteralValue::Boolean(true.into()));
                    0
                } else {
                    self.visit(&mut select.operand)?
                }
            }
            Expr::Call(call) => self.call(call)?,
            Expr::List(list) => {
                let mut steps = 0;
                for element in &mut list.elements {
                    steps += self.visit(element)?;
                    self.copied(element);
                }
                steps
            }
            Expr::Map(map) => {
                let mut steps = 0;
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        steps += self.visit(&mut entry.key)? + self.visit(&mut entry.value)?;
                        self.copied(&mut entry.key);
                        self.copied(&mut entry.value);
                    }
                }
                steps
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
        })
    }

    fn call(&mut self, call: &mut CallExpr) -> Result<u64, CelError> {
        match call.func_name.as_str() {
            "matches" => return self.matches(call),
            "find" | "findAll" => return self.find(call),
            _ => {}
        }
        let mut steps = 0;
        // `optional`, `ip` and the like before a point are no values; a name's node has nothing to rewrite.
        for operand in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
            steps += self.visit(operand)?;
        }
        let is_written = |node: Option<&IdedExpr>| node.is_some_and(is_literal);
        let any_written = call.args.iter().any(is_literal);
        match call.func_name.as_str() {
            operators::EQUALS if !any_written => call.func_name = EQUAL.to_owned(),
            operators::NOT_EQUALS if !any_written => call.func_name = NOT_EQUAL.to_owned(),
            operators::IN => call.func_name = IS_IN.to_owned(),
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS
                if !any_written =>
            {
                call.args.iter_mut().take(1).for_each(read);
            }
            operators::ADD if !is_appending(call) => call.args.iter_mut().for_each(read),
            "startsWith" | "endsWith" if is_written(call.args.first()) => {}
            "format" => {
                let format = call.target.as_deref().and_then(|node| self.text(node));
                if !format.is_some_and(|format| is_plain_format(&format)) {
                    return Err(CelError::Format);
                }
                call.target.as_deref_mut().into_iter().for_each(read);
                call.args.iter_mut().for_each(|arg| wrap(arg, READ_DEEP));
            }
            name if REPLACED.contains(&name) => call.func_name = format!("@{name}"),
            name if READING.contains(&name) => {
                let target = call.target.as_deref_mut();
                target
                    .filter(|target| !is_namespace(target, name))
                    .into_iter()
                    .chain(&mut call.args)
                    .for_each(read);
            }
            _ => {}
        }
        Ok(steps)
    }

    /// `text.find(pattern)`, and `findAll` likewise, which may take a number beside it.
    fn find(&mut self, call: &mut CallExpr) -> Result<u64, CelError> {
        let mut steps = match call.target.as_deref_mut() {
            Some(text) => self.visit(text)?,
            None => 0,
        };
        let (pattern, most) = call
            .args
            .split_first_mut()
            .ok_or(CelError::Pattern(MAX_RULE_PATTERN))?;
        self.pattern(pattern)?;
        for most in most {
            steps += self.visit(most)?;
        }
        call.func_name.insert(0, '@');
        Ok(steps)
    }

    /// `text.matches(pattern)` and `matches(text, pattern)`.
    fn matches(&mut self, call: &mut CallExpr) -> Result<u64, CelError> {
        let mut steps = 0;
        if let Some(target) = call.target.take() {
            call.args.insert(0, *target);
        }
        let [text, pattern] = call.args.as_mut_slice() else {
            return Err(CelError::Pattern(MAX_RULE_PATTERN));
        };
        steps += self.visit(text)?;
        self.pattern(pattern)?;
        call.func_name = "@matches".to_owned();
        Ok(steps)
    }

    /// The text that a node is, where that is known: written down, or a text of `params`.
    fn text(&self, node: &IdedExpr) -> Option<String> {
        if let Some(text) = written_text(node) {
            return Some(text.to_owned());
        }
        let params = self
            .params
            .filter(|_| !self.scope.iter().any(|name| name == PARAMS))?;
        params::value(node, params)?.as_str().map(str::to_owned)
    }

    fn pattern(&mut self, node: &mut IdedExpr) -> Result<(), CelError> {
        let pattern = self.text(node).filter(|text| text.len() <= MAX_RULE_PATTERN);
        let pattern = pattern.ok_or(CelError::Pattern(MAX_RULE_PATTERN))?;
        if repetition(&pattern) > MAX_REPETITION {
            return Err(CelError::Pattern(MAX_RULE_PATTERN));
        }
        let name = format!("{PATTERN}{pattern}");
        if !self.patterns.contains_key(&name) {
            let compiled = RegexBuilder::new(&pattern)
                .size_limit(PATTERN_MEMORY)
                .dfa_size_limit(PATTERN_MEMORY)
                .build();
            let compiled = compiled.map_err(|_| CelError::Pattern(MAX_RULE_PATTERN))?;
            self.patterns.insert(name.clone(), Arc::new(compiled));
        }
        node.expr = Expr::Ident(name);
        Ok(())
    }

    fn comprehension(&mut self, of: &mut ComprehensionExpr) -> Result<u64, CelError> {
        let steps = self.visit(&mut of.iter_range)? + self.visit(&mut of.accu_init)?;
        self.copied(&mut of.accu_init);
        let outside = self.scope.len();
        self.scope.extend([of.iter_var.clone(), of.accu_var.clone()]);
        self.scope.extend(of.iter_var2.clone());
        let round = self.visit(&mut of.loop_cond)? + self.visit(&mut of.loop_step)?;
        let result = self.visit(&mut of.result)?;
        self.scope.truncate(outside);
        // A bound name is a loop of no rounds.
        if !matches!(&of.iter_range.expr, Expr::List(list) if list.elements.is_empty()) {
            let round = i64::try_from(round).unwrap_or(i64::MAX);
            wrap(&mut of.iter_range, LOOP);
            if let Expr::Call(call) = &mut of.iter_range.expr {
                call.args.push(IdedExpr {
                    id: 0,
                    expr: Expr::Literal(LiteralValue::Int(round.into())),
                });
            }
        }
        Ok(steps + result)
    }

    /// A node whose value is copied: one of a loop's or of `variables` may be large, and no JSON.
    fn copied(&self, node: &mut IdedExpr) {
        let mut root = &*node;
        loop {
            root = match &root.expr {
                Expr::Select(select) => &select.operand,
                Expr::Call(call) if call.func_name == operators::INDEX => &call.args[0],
                _ => break,
            };
        }
        let is_copied = match &root.expr {
            Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => false,
            Expr::Ident(name) => name == VARIABLES || self.scope.contains(name),
            _ => true,
        };
        if is_copied {
            read(node);
        }
    }
}

/// `@result + [..]` of `map` and `filter`: the interpreter knows this form, and appends in place.
fn is_appending(call: &CallExpr) -> bool {
    let [accu, items] = call.args.as_slice() else {
        return false;
    };
    matches!(&accu.expr, Expr::Ident(name) if name.starts_with('@')) && matches!(items.expr, Expr::List(_))
}

fn is_literal(node: &IdedExpr) -> bool {
    matches!(node.expr, Expr::Literal(_))
}

/// Whether what a function is called on is no value, but the first part of its name, as in `sets.contains`.
fn is_namespace(node: &IdedExpr, function: &str) -> bool {
    let Expr::Ident(namespace) = &node.expr else {
        return false;
    };
    let is_named = |name: &str| {
        let rest = name
            .strip_prefix(namespace.as_str())
            .and_then(|rest| rest.strip_prefix('.'));
        rest == Some(function)
    };
    SIGNATURES.iter().any(|signature| is_named(signature.name))
}

fn read(node: &mut IdedExpr) {
    if !is_literal(node) {
        wrap(node, READ);
    }
}

fn wrap(node: &mut IdedExpr, function: &str) {
    let inner = std::mem::take(node);
    node.id = inner.id;
    node.expr = Expr::Call(CallExpr {
        func_name: function.to_owned(),
        target: None,
        args: vec![inner],
    });
}

/// Whether a format has no width of more than two digits: it would write as many.
fn is_plain_format(format: &str) -> bool {
    let clauses = format.split('%').skip(1);
    let digits = |clause: &str| {
        let clause = clause.trim_start_matches('.');
        clause.bytes().take_while(u8::is_ascii_digit).count()
    };
    clauses.map(digits).all(|digits| digits <= 2)
}
