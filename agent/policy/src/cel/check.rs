//! What an expression may be: its length, its depth, the names that it uses.
//!
//! In: its text, then its tree. Out: the fields that it selects, or a [`CelError`].

use std::collections::BTreeSet;

use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::CelError;
use super::library::signature::SIGNATURES;

/// The longest text of an expression, in bytes. One a person reads has a few hundred.
pub const MAX_EXPRESSION: usize = 4096;

/// How deep an expression may be nested. The parser and the interpreter go down once for each level, on a thread's stack.
pub const MAX_DEPTH: usize = 64;

/// How many of `all`, `exists`, `exists_one`, `map` and `filter` may stand in each other: each multiplies the work.
pub const MAX_LOOPS: usize = 2;

/// How many of `all`, `exists`, `exists_one`, `map` and `filter` may stand in each other in a rule. What they really cost is counted
/// when they run: the containers of a pod, their ports and a list of numbers are three.
pub const MAX_RULE_LOOPS: usize = 4;

/// The name under which an expression reads a policy's `variables`.
pub(super) const VARIABLES: &str = "variables";

/// The name under which an expression reads a policy's `params`.
pub(super) const PARAMS: &str = "params";

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
pub(super) const TYPES: [&str; 10] = [
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

/// Whether a text is a name: letters of ASCII, digits and `_`, the first no digit. POSIX has the same names for variables of shells.
pub(crate) fn is_identifier(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What a tree looks at.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The fields that it selects by name, of which variables.
    pub(super) selected: BTreeSet<(String, String)>,
    /// The variables that it uses, those of loops apart.
    pub(super) used: BTreeSet<String>,
}

/// Checks the tree of a claims' expression, and collects which fields of which variables it selects.
pub(super) fn tree(root: &IdedExpr, variables: &[&str]) -> Result<BTreeSet<(String, String)>, CelError> {
    let mut walk = Walk {
        variables,
        composed: None,
        has_params: true,
        is_function: |name| FUNCTIONS.contains(&name),
        most_loops: MAX_LOOPS,
        scope: Vec::new(),
        loops: 0,
        found: Found::default(),
    };
    walk.visit(root, 0)?;
    Ok(walk.found.selected)
}

/// Checks the tree of a rule's expression, which may use these roots, and a policy's variables by these names. Whether the root `params`
/// may be used depends on the policy.
pub(super) fn rule(
    root: &IdedExpr,
    roots: &[&str],
    composed: &[&str],
    has_params: bool,
) -> Result<Found, CelError> {
    let mut walk = Walk {
        variables: roots,
        composed: Some(composed),
        has_params,
        is_function: |name| SIGNATURES.iter().any(|signature| signature.name == name),
        most_loops: MAX_RULE_LOOPS,
        scope: Vec::new(),
        loops: 0,
        found: Found::default(),
    };
    walk.visit(root, 0)?;
    Ok(walk.found)
}

struct Walk<'t> {
    variables: &'t [&'t str],
    /// The names of a policy's variables, where there may be such.
    composed: Option<&'t [&'t str]>,
    has_params: bool,
    is_function: fn(&str) -> bool,
    most_loops: usize,
    scope: Vec<&'t str>,
    loops: usize,
    found: Found,
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
                match self.composed {
                    Some(names) if self.is_composed(&select.operand) => composed(names, &select.field),
                    _ => self.visit(&select.operand, below),
                }
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

    fn ident(&mut self, name: &str) -> Result<(), CelError> {
        if self.scope.contains(&name) {
            return Ok(());
        }
        if self.variables.contains(&name) {
            if name == PARAMS && !self.has_params {
                return Err(CelError::NoParams);
            }
            self.found.used.insert(name.to_owned());
            return Ok(());
        }
        if TYPES.contains(&name) {
            return Ok(());
        }
        if self.composed.is_some() && name == VARIABLES {
            return Err(CelError::WholeVariables);
        }
        Err(CelError::Variable {
            name: name.to_owned(),
            known: self.variables.join(", "),
        })
    }

    /// Whether a node is `variables` itself, and no loop's variable of that name.
    fn is_composed(&self, node: &IdedExpr) -> bool {
        matches!(&node.expr, Expr::Ident(name) if name == VARIABLES && !self.scope.contains(&name.as_str()))
    }

    fn select(&mut self, operand: &IdedExpr, field: &str) {
        if let Expr::Ident(name) = &operand.expr {
            self.found.selected.insert((name.clone(), field.to_owned()));
        }
    }

    fn call(&mut self, call: &'t CallExpr, below: usize) -> Result<(), CelError> {
        let name = call.func_name.as_str();
        let namespace = call.target.as_ref().and_then(|target| match &target.expr {
            Expr::Ident(namespace) => Some(format!("{namespace}.{name}")),
            _ => None,
        });
        let in_namespace = namespace.is_some_and(|name| (self.is_function)(&name));
        // No name that people can write has such a letter.
        let is_operator = name
            .bytes()
            .any(|byte| !byte.is_ascii_alphanumeric() && byte != b'_');
        if !in_namespace && !is_operator && !(self.is_function)(name) {
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
        if self.loops > self.most_loops {
            return Err(CelError::TooManyLoops(self.most_loops));
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

/// A policy's variable by its name.
fn composed(names: &[&str], name: &str) -> Result<(), CelError> {
    if names.contains(&name) {
        return Ok(());
    }
    Err(CelError::Variable {
        name: format!("{VARIABLES}.{name}"),
        known: names
            .iter()
            .map(|name| format!("{VARIABLES}.{name}"))
            .collect::<Vec<_>>()
            .join(", "),
    })
}
