//! What can be told of `params` before an expression runs, since they never change.
//!
//! In: a tree, and the `params` of its policy. Out: the value that a node selects, or a [`CelError`] where it selects a field that there is
//! not.

use std::collections::BTreeSet;

use ::cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, operators};
use serde_json::{Map, Value as Json};

use super::super::CelError;
use super::super::check::PARAMS;
use super::super::cost::written_text;
use super::super::runtime::is_text_map;

/// Most fields that an error lists.
const MAX_LISTED: usize = 8;

/// Most letters of a field that an error lists.
const MAX_NAME: usize = 64;

/// The value of `params` that a node selects by names, such as `params.data["a"]`. A field that is `null` counts as not there.
///
/// The caller makes sure that no loop around the node has a variable of that name.
pub(super) fn value<'p>(node: &IdedExpr, params: &'p Json) -> Option<&'p Json> {
    if matches!(&node.expr, Expr::Ident(name) if name == PARAMS) {
        return Some(params);
    }
    let (operand, field) = selected(node)?;
    value(operand, params)?
        .get(field)
        .filter(|value| !value.is_null())
}

/// What a node selects from, and the field.
fn selected(node: &IdedExpr) -> Option<(&IdedExpr, &str)> {
    match &node.expr {
        Expr::Select(select) if !select.test => Some((&select.operand, &select.field)),
        Expr::Call(CallExpr { func_name, args, .. }) if func_name == operators::INDEX => {
            match args.as_slice() {
                [operand, field] => Some((operand, written_text(field)?)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What a node asks about without failing where it is not there: by `has`, `in` or `.?`.
fn asked(node: &IdedExpr) -> Option<(&IdedExpr, &str)> {
    match &node.expr {
        Expr::Select(select) if select.test => Some((&select.operand, &select.field)),
        Expr::Call(CallExpr { func_name, args, .. }) => match (func_name.as_str(), args.as_slice()) {
            (operators::OPT_SELECT | operators::OPT_INDEX, [operand, field]) => {
                Some((operand, written_text(field)?))
            }
            (operators::IN, [field, operand]) => Some((operand, written_text(field)?)),
            _ => None,
        },
        _ => None,
    }
}

/// How a node that selects by names is written.
fn path(node: &IdedExpr) -> Option<String> {
    if matches!(&node.expr, Expr::Ident(name) if name == PARAMS) {
        return Some(PARAMS.to_owned());
    }
    let (operand, field) = selected(node)?;
    Some(format!("{}.{}", path(operand)?, field.escape_debug()))
}

/// Refuses a tree that selects a field which `params` do not have: it would fail for each request that reaches it.
///
/// A field that the same tree asks about, as by `has`, is optional, and the author knows.
pub(super) fn check(tree: &IdedExpr, params: &Json) -> Result<(), CelError> {
    let mut search = Search {
        params,
        scope: Vec::new(),
        optional: BTreeSet::new(),
        missing: Vec::new(),
    };
    search.visit(tree);
    let Search {
        optional, missing, ..
    } = search;
    let found = missing
        .into_iter()
        .find(|(of, field, _)| !optional.contains(&(of.clone(), field.clone())));
    match found {
        Some((of, field, parent)) => Err(CelError::NoParam {
            known: known(parent),
            of,
            field: field.escape_debug().to_string(),
        }),
        None => Ok(()),
    }
}

/// Whether an expression that selects this field finds it. A `null` is a value in maps of texts alone (runtime/json.rs).
fn has_field(operand: &IdedExpr, fields: &Map<String, Json>, field: &str) -> bool {
    let is_text_map = selected(operand).is_some_and(|(_, name)| is_text_map(name));
    fields
        .get(field)
        .is_some_and(|value| is_text_map || !value.is_null())
}

/// The fields of an object, for an error's text.
fn known(fields: &Map<String, Json>) -> String {
    let there = fields.iter().filter(|(_, value)| !value.is_null());
    let shown = |(name, _): (&String, _)| name.escape_debug().take(MAX_NAME).collect::<String>();
    let mut names: Vec<_> = there.map(shown).collect();
    names.sort_unstable();
    match names.len() {
        0 => " and is empty".to_owned(),
        1..=MAX_LISTED => format!("; there are: {}", names.join(", ")),
        more => format!(
            "; there are: {}, and {} more",
            names[..MAX_LISTED].join(", "),
            more - MAX_LISTED
        ),
    }
}

struct Search<'t> {
    params: &'t Json,
    /// The variables of the loops around a node.
    scope: Vec<&'t str>,
    /// Fields that the tree asks about, each with what it is a field of.
    optional: BTreeSet<(String, String)>,
    /// Fields that there are not, likewise, and the object that has no such field.
    missing: Vec<(String, String, &'t Map<String, Json>)>,
}

impl<'t> Search<'t> {
    fn visit(&mut self, node: &'t IdedExpr) {
        if !self.scope.contains(&PARAMS) {
            self.look(node);
        }
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => {}
            Expr::Select(select) => self.visit(&select.operand),
            Expr::Call(call) => {
                let operands = call.target.as_deref().into_iter().chain(&call.args);
                operands.for_each(|operand| self.visit(operand));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.visit(&entry.key);
                        self.visit(&entry.value);
                    }
                }
            }
            Expr::Comprehension(of) => {
                self.visit(&of.iter_range);
                self.visit(&of.accu_init);
                let outside = self.scope.len();
                self.scope.extend([of.iter_var.as_str(), of.accu_var.as_str()]);
                self.scope.extend(of.iter_var2.as_deref());
                for inside in [&of.loop_cond, &of.loop_step, &of.result] {
                    self.visit(inside);
                }
                self.scope.truncate(outside);
            }
        }
    }

    fn look(&mut self, node: &IdedExpr) {
        if let Some((operand, field)) = asked(node)
            && let Some(of) = path(operand)
        {
            self.optional.insert((of, field.to_owned()));
        }
        if let Some((operand, field)) = selected(node)
            && let Some(parent) = value(operand, self.params)
            // A value of another type has no fields at all, and types.rs says so.
            && let Some(fields) = parent.as_object()
            && !has_field(operand, fields, field)
            && let Some(of) = path(operand)
        {
            self.missing.push((of, field.to_owned(), fields));
        }
    }
}
