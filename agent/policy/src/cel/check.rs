//! What an expression may be: its length, its depth, the names that it uses.
//!
//! In: its text, then its tree. Out: the fields that it selects, or a [`CelError`].

use std::collections::BTreeSet;

use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::CelError;

/// The longest text of an expression, in bytes. One a person reads has a few hundred.
pub const MAX_EXPRESSION: usize = 4096;

/// How deep an expression may be nested. The parser and the interpreter go down once for each level, on a thread's stack.
pub const MAX_DEPTH: usize = 64;

/// How many of `all`, `exists`, `exists_one`, `map` and `filter` may stand in each other: each multiplies the work.
pub const MAX_LOOPS: usize = 2;

/// Functions and methods by name, operators apart. The interpreter would only miss one when it runs.
const FUNCTIONS: [&str; 33] = [
    "bool",
    "bytes",
    "charAt",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "format",
    "hasValue",
    "indexOf",
    "int",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "matches",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "replace",
    "reverse",
    "size",
    "split",
    "startsWith",
    "string",
    "strings.quote",
    "substring",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "value",
];

/// Names of types, which stand for themselves.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// Checks what can be checked of the text, before the parser sees it.
pub(super) fn text(text: &str) -> Result<(), CelError> {
    if text.trim().is_empty() {
        return Err(CelError::Empty);
    }
    if text.len() > MAX_EXPRESSION {
        return Err(CelError::TooLong);
    }
    // Brackets, also those in texts: one who needs more than this in a text can shorten it. The parser goes down for each `?`.
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' | b'?' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    // Signs and negations in a row are one level each, whatever white space is between them.
    let rows = text.split(|letter: char| !matches!(letter, '!' | '-') && !letter.is_whitespace());
    let signs = |row: &str| row.bytes().filter(|byte| matches!(byte, b'!' | b'-')).count();
    if deepest > MAX_DEPTH || rows.map(signs).max() > Some(MAX_DEPTH) {
        return Err(CelError::TooDeep);
    }
    Ok(())
}

/// Checks the tree, and collects which fields of which variables it selects.
pub(super) fn tree(root: &IdedExpr, variables: &[&str]) -> Result<BTreeSet<(String, String)>, CelError> {
    let mut walk = Walk {
        variables,
        scope: Vec::new(),
        loops: 0,
        selected: BTreeSet::new(),
    };
    walk.visit(root, 0)?;
    Ok(walk.selected)
}

struct Walk<'t> {
    variables: &'t [&'t str],
    scope: Vec<&'t str>,
    loops: usize,
    selected: BTreeSet<(String, String)>,
}

impl<'t> Walk<'t> {
    fn visit(&mut self, node: &'t IdedExpr, depth: usize) -> Result<(), CelError> {
        if depth > MAX_DEPTH {
            return Err(CelError::TooDeep);
        }
        let below = depth + 1;
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => {
                self.select(&select.operand, &select.field);
                self.visit(&select.operand, below)
            }
            Expr::Call(call) => self.call(call, below),
            Expr::List(list) => list
                .elements
                .iter()
                .try_for_each(|element| self.visit(element, below)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key, below)?;
                    self.visit(&entry.value, below)
                }
                EntryExpr::StructField(_) => Err(CelError::Struct),
            }),
            Expr::Struct(_) => Err(CelError::Struct),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, below),
        }
    }

    fn ident(&self, name: &str) -> Result<(), CelError> {
        let known = self.variables.contains(&name) || self.scope.contains(&name) || TYPES.contains(&name);
        if known {
            return Ok(());
        }
        Err(CelError::Variable {
            name: name.to_owned(),
            known: self.variables.join(", "),
        })
    }

    fn select(&mut self, operand: &IdedExpr, field: &str) {
        if let Expr::Ident(name) = &operand.expr {
            self.selected.insert((name.clone(), field.to_owned()));
        }
    }

    fn call(&mut self, call: &'t CallExpr, below: usize) -> Result<(), CelError> {
        let name = call.func_name.as_str();
        let namespace = call.target.as_ref().and_then(|target| match &target.expr {
            Expr::Ident(namespace) => Some(format!("{namespace}.{name}")),
            _ => None,
        });
        let in_namespace = namespace.is_some_and(|name| FUNCTIONS.contains(&name.as_str()));
        // No name that people can write has such a letter.
        let is_operator = name
            .bytes()
            .any(|byte| !byte.is_ascii_alphanumeric() && byte != b'_');
        if !in_namespace && !is_operator && !FUNCTIONS.contains(&name) {
            return Err(CelError::Function(name.to_owned()));
        }
        if let (operators::OPT_SELECT, [operand, field]) = (name, call.args.as_slice())
            && let Expr::Literal(LiteralValue::String(field)) = &field.expr
        {
            self.select(operand, field.inner());
        }
        if let Some(target) = call.target.as_ref().filter(|_| !in_namespace) {
            self.visit(target, below)?;
        }
        call.args.iter().try_for_each(|arg| self.visit(arg, below))
    }

    fn comprehension(&mut self, of: &'t ComprehensionExpr, below: usize) -> Result<(), CelError> {
        self.visit(&of.iter_range, below)?;
        self.visit(&of.accu_init, below)?;
        self.loops += 1;
        if self.loops > MAX_LOOPS {
            return Err(CelError::TooManyLoops);
        }
        let outside = self.scope.len();
        self.scope.extend([of.iter_var.as_str(), of.accu_var.as_str()]);
        self.scope.extend(of.iter_var2.as_deref());
        let inside = [&of.loop_cond, &of.loop_step, &of.result];
        inside.into_iter().try_for_each(|part| self.visit(part, below))?;
        self.scope.truncate(outside);
        self.loops -= 1;
        Ok(())
    }
}
