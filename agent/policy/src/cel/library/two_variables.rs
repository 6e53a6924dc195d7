//! Loops of two variables: `all`, `exists`, `existsOne`, `transformList` and `transformMap`, with the place and the element of a list, or
//! the key and the value of a map.
//!
//! In: the tree of such a loop. Out: the tree of a loop of one variable.
//!
//! The interpreter's loops have one variable. So such a loop goes over pairs, and its body reads `x[0]` and `x[1]` for its two names. A
//! loop in it that has a variable of the same name keeps its own.

use std::collections::HashMap;

use ::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, operators,
};
use ::cel::common::types::{CelInt, CelList, CelMap, CelMapKey, DYN_TYPE, Kind, LIST_TYPE};
use ::cel::common::value::{CowVal, Val};
use ::cel::parser::{Macro, MacroExprHelper, ParseError};
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::budget::{spend, weight};
use super::super::runtime::unexpected;
use super::{Operands, Outcome};

const ACCUMULATOR: &str = "@result";

type Expanded = Result<Option<IdedExpr>, ParseError>;

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload("@pairs", "@pairs", vec![DYN_TYPE], pairs)?;
    env.add_overload("@toMap", "@toMap", vec![LIST_TYPE], to_map)?;
    for name in [
        "all",
        "exists",
        "existsOne",
        "exists_one",
        "transformList",
        "transformMap",
    ] {
        env.add_macro(Macro::receiver(name, 3, move |helper, target, args| {
            expand(name, helper, target, args)
        }))?;
    }
    for name in ["transformList", "transformMap"] {
        env.add_macro(Macro::receiver(name, 4, move |helper, target, args| {
            expand(name, helper, target, args)
        }))?;
    }
    Ok(())
}

/// A list's places with its elements, or a map's keys with its values.
fn pairs<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let range = operands.first().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    // Each pair is a list of two, and copies its element.
    spend(weight(range.as_ref()).saturating_mul(4))?;
    let indexer = match range.get_type().kind() {
        Kind::Map => range.as_indexer(),
        Kind::List => None,
        _ => return Err(unexpected(range.as_ref(), "list or map")),
    };
    let items = range
        .as_iterable()
        .ok_or_else(|| unexpected(range.as_ref(), "list or map"))?;
    let mut items = items.iter();
    let mut list: Vec<Box<dyn Val + 'v>> = Vec::new();
    while let Some(item) = items.next() {
        let (key, value): (Box<dyn Val + 'v>, Box<dyn Val + 'v>) = match indexer {
            Some(map) => (item.clone_as_boxed(), map.get(item)?.into_owned()),
            None => (Box::new(CelInt::from(list.len() as i64)), item.clone_as_boxed()),
        };
        list.push(Box::new(CelList::from(vec![key, value])));
    }
    Ok(CowVal::owned(CelList::from(list)))
}

/// A map of pairs.
fn to_map<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let list = operands.first().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    let list = list
        .downcast_ref::<CelList<'_>>()
        .ok_or(ExecutionError::MissingArgumentOrTarget)?;
    spend(weight(list))?;
    let mut map: HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> = HashMap::with_capacity(list.len());
    for pair in list.inner() {
        let pair = pair.downcast_ref::<CelList<'_>>().map(CelList::inner);
        let Some([key, value]) = pair else {
            return Err(ExecutionError::MissingArgumentOrTarget);
        };
        map.insert(key.clone().try_into()?, value.clone());
    }
    Ok(CowVal::owned(CelMap::from(map)))
}

fn expand(
    name: &str,
    helper: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Expanded {
    let names: Option<Vec<String>> = args.iter().take(2).map(name_of).collect();
    let Some([key, value]) = names.as_deref() else {
        let place = args.first().map_or(0, |arg| arg.id);
        return Err(helper.new_error(
            place,
            format!("the first two operands of {name} are names of variables"),
        ));
    };
    let (Some(range), Some(mut body)) = (target.take(), args.pop()) else {
        return Ok(None);
    };
    let filter = (args.len() > 2).then(|| args.pop()).flatten();
    let range = call(helper, "@pairs", vec![range]);
    // No other loop around or within has this name.
    let pair = format!("@pair{}", range.id);
    let mut filter = filter;
    for part in filter.iter_mut().chain([&mut body]) {
        replace(part, key, &pair, 0);
        replace(part, value, &pair, 1);
    }
    if name == "transformMap" {
        let key = element(&pair, 0);
        body = helper.next_expr(Expr::List(ListExpr::new(vec![key, body])));
    }
    let (start, condition, step, result) = parts(name, helper, body, filter);
    let expanded = helper.next_expr(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: range,
        iter_var: pair,
        iter_var2: None,
        accu_var: ACCUMULATOR.to_owned(),
        accu_init: start,
        loop_cond: condition,
        loop_step: step,
        result,
    })));
    Ok(Some(match name {
        "transformMap" => call(helper, "@toMap", vec![expanded]),
        _ => expanded,
    }))
}

/// What a loop begins with, until when it goes on, what a round does, and what it comes to: as the macros of one variable have it.
fn parts(
    name: &str,
    helper: &mut MacroExprHelper<'_>,
    body: IdedExpr,
    filter: Option<IdedExpr>,
) -> (IdedExpr, IdedExpr, IdedExpr, IdedExpr) {
    let yes = |helper: &mut MacroExprHelper<'_>, value: bool| {
        helper.next_expr(Expr::Literal(LiteralValue::Boolean(value.into())))
    };
    let number = |helper: &mut MacroExprHelper<'_>, value: i64| {
        helper.next_expr(Expr::Literal(LiteralValue::Int(value.into())))
    };
    let accumulator =
        |helper: &mut MacroExprHelper<'_>| helper.next_expr(Expr::Ident(ACCUMULATOR.to_owned()));
    match name {
        "all" | "exists" => {
            let is_all = name == "all";
            let start = yes(helper, is_all);
            let mut so_far = accumulator(helper);
            if !is_all {
                so_far = call(helper, operators::LOGICAL_NOT, vec![so_far]);
            }
            let condition = call(helper, operators::NOT_STRICTLY_FALSE, vec![so_far]);
            let joined = if is_all {
                operators::LOGICAL_AND
            } else {
                operators::LOGICAL_OR
            };
            let before = accumulator(helper);
            let step = call(helper, joined, vec![before, body]);
            (start, condition, step, accumulator(helper))
        }
        "existsOne" | "exists_one" => {
            let (before, one, other) = (accumulator(helper), number(helper, 1), accumulator(helper));
            let sum = call(helper, operators::ADD, vec![before, one]);
            let step = call(helper, operators::CONDITIONAL, vec![body, sum, other]);
            let (found, one) = (accumulator(helper), number(helper, 1));
            let result = call(helper, operators::EQUALS, vec![found, one]);
            (number(helper, 0), yes(helper, true), step, result)
        }
        _ => {
            let start = helper.next_expr(Expr::List(ListExpr::new(Vec::new())));
            let item = helper.next_expr(Expr::List(ListExpr::new(vec![body])));
            let before = accumulator(helper);
            let mut step = call(helper, operators::ADD, vec![before, item]);
            if let Some(filter) = filter {
                let other = accumulator(helper);
                step = call(helper, operators::CONDITIONAL, vec![filter, step, other]);
            }
            (start, yes(helper, true), step, accumulator(helper))
        }
    }
}

fn name_of(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        _ => None,
    }
}

fn call(helper: &mut MacroExprHelper<'_>, function: &str, args: Vec<IdedExpr>) -> IdedExpr {
    helper.next_expr(Expr::Call(CallExpr {
        func_name: function.to_owned(),
        target: None,
        args,
    }))
}

/// `pair[place]`.
fn element(pair: &str, place: i64) -> IdedExpr {
    let node = |expr: Expr| IdedExpr { id: 0, expr };
    node(Expr::Call(CallExpr {
        func_name: operators::INDEX.to_owned(),
        target: None,
        args: vec![
            node(Expr::Ident(pair.to_owned())),
            node(Expr::Literal(LiteralValue::Int(place.into()))),
        ],
    }))
}

/// Reads an element of the pair wherever a body reads this name.
fn replace(node: &mut IdedExpr, name: &str, pair: &str, place: i64) {
    let below = |node: &mut IdedExpr| replace(node, name, pair, place);
    match &mut node.expr {
        Expr::Ident(known) if known == name => *node = element(pair, place),
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => {}
        Expr::Select(select) => below(&mut select.operand),
        Expr::Call(call) => {
            if let Some(target) = &mut call.target {
                below(target);
            }
            call.args.iter_mut().for_each(below);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(below),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    below(&mut entry.key);
                    below(&mut entry.value);
                }
            }
        }
        Expr::Comprehension(of) => {
            below(&mut of.iter_range);
            below(&mut of.accu_init);
            if of.iter_var != name {
                below(&mut of.loop_cond);
                below(&mut of.loop_step);
                below(&mut of.result);
            }
        }
    }
}
