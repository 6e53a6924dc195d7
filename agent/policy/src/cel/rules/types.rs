//! Types, as far as they can be told before an expression runs.
//!
//! In: a tree whose names are known, the types of `variables`, and `params`. Out: the type that it comes to, or a [`CelError`] where the
//! API server's own check would refuse it too. What is read of an object has no known type, and fits everywhere.

use std::collections::BTreeMap;

use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use serde_json::Value as Json;

use super::super::CelError;
use super::super::check::{PARAMS, TYPES, VARIABLES};
use super::super::library::signature::{Call, SIGNATURES, Type};
use super::params;

/// The type that a tree comes to.
pub(super) fn of_tree(
    tree: &IdedExpr,
    variables: &BTreeMap<String, Type>,
    params: Option<&Json>,
) -> Result<Type, CelError> {
    let mut walk = Walk {
        variables,
        params,
        scope: Vec::new(),
    };
    walk.visit(tree)
}

struct Walk<'t> {
    variables: &'t BTreeMap<String, Type>,
    params: Option<&'t Json>,
    scope: Vec<(&'t str, Type)>,
}

impl<'t> Walk<'t> {
    fn visit(&mut self, node: &'t IdedExpr) -> Result<Type, CelError> {
        Ok(match &node.expr {
            Expr::Unspecified | Expr::Struct(_) => Type::Any,
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Null => Type::Null,
                LiteralValue::String(_) => Type::Text,
                LiteralValue::UInt(_) => Type::Uint,
            },
            Expr::Ident(_) | Expr::Select(_) if self.param(node).is_some() => {
                self.param(node).map_or(Type::Any, type_of)
            }
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr
                    && name == VARIABLES
                    && self.in_scope(name).is_none()
                {
                    let known = self.variables.get(&select.field).copied();
                    return Ok(if select.test {
                        Type::Bool
                    } else {
                        known.unwrap_or(Type::Any)
                    });
                }
                let of = self.visit(&select.operand)?;
                if !matches!(of, Type::Any | Type::Map | Type::Optional) {
                    return Err(mismatch(&format!("field `{}`", select.field), of));
                }
                match (select.test, of) {
                    (true, _) => Type::Bool,
                    (false, Type::Optional) => Type::Optional,
                    (false, _) => Type::Any,
                }
            }
            Expr::Call(call) => self.call(call)?,
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element)?;
                }
                Type::List
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.visit(&entry.key)?;
                        self.visit(&entry.value)?;
                    }
                }
                Type::Map
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
        })
    }

    /// The value of `params` that a node is, which has a known type as a literal has.
    fn param(&self, node: &IdedExpr) -> Option<&'t Json> {
        let params = self.params.filter(|_| self.in_scope(PARAMS).is_none())?;
        params::value(node, params)
    }

    fn in_scope(&self, name: &str) -> Option<Type> {
        let mut innermost = self.scope.iter().rev();
        innermost.find(|(known, _)| *known == name).map(|(_, of)| *of)
    }

    fn name(&self, name: &str) -> Type {
        let is_type = TYPES.contains(&name);
        let other = if is_type { Type::Kind } else { Type::Any };
        self.in_scope(name).unwrap_or(other)
    }

    fn comprehension(&mut self, of: &'t ComprehensionExpr) -> Result<Type, CelError> {
        let range = self.visit(&of.iter_range)?;
        if !matches!(range, Type::Any | Type::List | Type::Map) {
            return Err(mismatch("a loop", range));
        }
        let start = self.visit(&of.accu_init)?;
        let outside = self.scope.len();
        self.scope.push((&of.iter_var, Type::Any));
        self.scope.push((&of.accu_var, start));
        let second = of.iter_var2.as_deref();
        self.scope.extend(second.map(|name| (name, Type::Any)));
        self.visit(&of.loop_cond)?;
        self.visit(&of.loop_step)?;
        let result = self.visit(&of.result)?;
        self.scope.truncate(outside);
        Ok(result)
    }

    fn call(&mut self, call: &'t CallExpr) -> Result<Type, CelError> {
        if call
            .func_name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return self.function(call);
        }
        let mut operands = Vec::with_capacity(call.args.len());
        for operand in &call.args {
            operands.push(self.visit(operand)?);
        }
        operator(&call.func_name, &operands)
    }

    fn function(&mut self, call: &'t CallExpr) -> Result<Type, CelError> {
        let name = call.func_name.as_str();
        for operand in &call.args {
            self.visit(operand)?;
        }
        let qualified = match call.target.as_deref().map(|target| &target.expr) {
            Some(Expr::Ident(namespace)) => format!("{namespace}.{name}"),
            _ => String::new(),
        };
        let is_qualified = SIGNATURES.iter().any(|signature| signature.name == qualified);
        let on = match &call.target {
            Some(target) if !is_qualified => Some(self.visit(target)?),
            _ => None,
        };
        let name = if is_qualified { qualified.as_str() } else { name };
        let mut fitting = SIGNATURES.iter().filter(|signature| {
            let is_called_so = match (signature.call, on) {
                (Call::Global, None) => true,
                (Call::Of(wanted), Some(on)) => on.fits(wanted),
                _ => false,
            };
            signature.name == name && is_called_so && signature.operands.contains(&call.args.len())
        });
        let first = fitting
            .next()
            .ok_or_else(|| CelError::Operands(name.to_owned()))?;
        let is_sure = fitting.all(|other| other.gives == first.gives);
        Ok(if is_sure { first.gives } else { Type::Any })
    }
}

/// What an operator gives. The interpreter's own, such as that of `has`, give what is not known.
fn operator(name: &str, operands: &[Type]) -> Result<Type, CelError> {
    let first = operands.first().copied().unwrap_or(Type::Any);
    let second = operands.get(1).copied().unwrap_or(Type::Any);
    let shown = name.trim_matches('_').trim_start_matches('@');
    let wanted = |of: Type, wanted: Type| match of.fits(wanted) {
        true => Ok(()),
        false => Err(mismatch(&format!("`{shown}`"), of)),
    };
    let alike = || {
        let both_numbers = first.is_number() && second.is_number();
        let is_null = first == Type::Null || second == Type::Null;
        match first.fits(second) || both_numbers || is_null {
            true => Ok(()),
            false => Err(mismatch(&format!("`{shown}` beside {}", first.name()), second)),
        }
    };
    Ok(match name {
        operators::LOGICAL_AND | operators::LOGICAL_OR => {
            wanted(first, Type::Bool)?;
            wanted(second, Type::Bool)?;
            Type::Bool
        }
        operators::LOGICAL_NOT => {
            wanted(first, Type::Bool)?;
            Type::Bool
        }
        operators::NOT_STRICTLY_FALSE => Type::Bool,
        operators::CONDITIONAL => {
            wanted(first, Type::Bool)?;
            let third = operands.get(2).copied().unwrap_or(Type::Any);
            if second == third { second } else { Type::Any }
        }
        operators::EQUALS | operators::NOT_EQUALS => {
            alike()?;
            Type::Bool
        }
        operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
            alike()?;
            Type::Bool
        }
        operators::IN => {
            if !matches!(second, Type::Any | Type::List | Type::Map) {
                return Err(mismatch("`in`", second));
            }
            Type::Bool
        }
        operators::ADD => {
            let adds =
                |of: Type| of.is_number() || matches!(of, Type::Any | Type::Text | Type::Bytes | Type::List);
            if !adds(first) || !adds(second) || !first.fits(second) {
                return Err(mismatch(&format!("`+` beside {}", first.name()), second));
            }
            if first == Type::Any { second } else { first }
        }
        operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
            let computes = |of: Type| of.is_number() || of == Type::Any;
            if !computes(first) || !computes(second) || !first.fits(second) {
                return Err(mismatch(&format!("`{shown}` beside {}", first.name()), second));
            }
            if first == Type::Any { second } else { first }
        }
        operators::NEGATE => match first {
            Type::Any | Type::Int | Type::Double => first,
            _ => return Err(mismatch("`-`", first)),
        },
        operators::OPT_INDEX | operators::OPT_SELECT => Type::Optional,
        operators::INDEX if first == Type::Optional => Type::Optional,
        operators::INDEX if !matches!(first, Type::Any | Type::List | Type::Map) => {
            return Err(mismatch("`[]`", first));
        }
        _ => Type::Any,
    })
}

/// The type of a value of JSON, as runtime/json.rs makes values of it.
fn type_of(json: &Json) -> Type {
    match json {
        Json::Null => Type::Any,
        Json::Bool(_) => Type::Bool,
        Json::Number(number) if number.is_i64() => Type::Int,
        Json::Number(_) => Type::Double,
        Json::String(_) => Type::Text,
        Json::Array(_) => Type::List,
        Json::Object(_) => Type::Map,
    }
}

fn mismatch(what: &str, of: Type) -> CelError {
    CelError::Type {
        what: what.to_owned(),
        of: of.name(),
    }
}
