//! How much an expression may cost at worst: the size of each value that it makes, and its steps.
//!
//! In: its tree, whose names are known. Out: nothing, or a [`CelError`]. The interpreter has no limits of its own: `replace`, `format`,
//! `+` and loops over what loops made can turn a short text into gigabytes. So the worst case is worked out once, where the
//! expression is read, for variables as large as they may be.
//!
//! A loop's variable has the size of the whole list at worst, and on average the list's size by its length. Values that grow in
//! step with their inputs add up to the average times the length; all others count at their worst.

use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::CelError;
use super::check::MAX_LOOPS;
use super::value::{MAX_TEXT, MAX_VALUES, PER_NUMBER};

/// The largest value that an expression may make at worst, in bytes; each value counts for [`PER_VALUE`] beside its text. A prefix of a
/// claim for each group comes to 84 MB, since either may take all the room of the variables; real tokens come to a few KB.
pub const MAX_SIZE: u64 = 100 * 1024 * 1024;

/// The most steps that an expression may take: one for each node, and for each 16 bytes that a function reads. Two loops over the
/// longest lists come to 14 million, which take about a second.
pub const MAX_STEPS: u64 = 20_000_000;

/// The longest pattern of `matches`, in bytes.
pub const MAX_PATTERN: usize = 256;

/// How often a pattern may repeat a part of itself by numbers, all of them multiplied: each repetition is compiled.
pub const MAX_REPETITION: u64 = 100;

/// What a value takes beside its text.
const PER_VALUE: u64 = 16;

/// A list or a map without what is in it.
const LIST: Bound = Bound::of(PER_VALUE, 0);

/// What compiling a pattern takes, and what each repetition adds: with a backslash it may be of a class of Unicode.
const PATTERN_STEPS: u64 = 1000;
const REPETITION_STEPS: u64 = 20;
const CLASS_REPETITION_STEPS: u64 = 500;

/// What one clause of `format` may write for a number: 309 digits, and 100 after the point.
const PER_CLAUSE: u64 = 420;

/// How many nested loops a bound tells apart: none, and each that may be.
const DEPTHS: usize = MAX_LOOPS + 1;

/// A value at its worst. The place in an array says from which loop on, counted from outside, the average counts; in the last place
/// everything is at its worst.
#[derive(Debug, Clone, Copy, Default)]
struct Bound {
    /// Its bytes.
    sizes: [u64; DEPTHS],
    /// How many values are in it; at least as many as it has elements.
    counts: [u64; DEPTHS],
}

impl Bound {
    const SCALAR: Self = Self::of(PER_VALUE + PER_NUMBER as u64, 1);

    const fn of(size: u64, count: u64) -> Self {
        Self {
            sizes: [size; DEPTHS],
            counts: [count; DEPTHS],
        }
    }

    /// A variable as large as [`super::value`] lets it be.
    const fn variable() -> Self {
        let (text, values) = (MAX_TEXT as u64, MAX_VALUES as u64);
        Self::of(text + values * PER_VALUE, values)
    }

    fn text(length: usize) -> Self {
        Self::of(PER_VALUE + length as u64, 1)
    }

    fn worst_size(&self) -> u64 {
        self.sizes[MAX_LOOPS]
    }

    fn worst_count(&self) -> u64 {
        self.counts[MAX_LOOPS]
    }

    fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        let each = |one: [u64; DEPTHS], two: [u64; DEPTHS]| std::array::from_fn(|at| join(one[at], two[at]));
        Self {
            sizes: each(self.sizes, other.sizes),
            counts: each(self.counts, other.counts),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn or(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    /// A text that grows in step with this.
    fn grown(self, factor: u64) -> Self {
        Self {
            sizes: self.sizes.map(|size| size.saturating_mul(factor)),
            ..Self::of(0, 1)
        }
    }

    /// What the loop of this number has for its variable.
    fn element(self, number: usize) -> Self {
        let length = self.worst_count().max(1);
        let each = |all: [u64; DEPTHS], least: u64| {
            std::array::from_fn(|at| match at <= number {
                true => (all[at] / length).max(least),
                false => all[MAX_LOOPS],
            })
        };
        Self {
            sizes: each(self.sizes, PER_VALUE),
            counts: each(self.counts, 1),
        }
    }

    /// What so many rounds of the loop of this number come to, each of which adds this.
    fn rounds(self, length: u64, number: usize) -> Self {
        let each = |of: [u64; DEPTHS]| std::array::from_fn(|at| of[at.min(number)].saturating_mul(length));
        Self {
            sizes: each(self.sizes),
            counts: each(self.counts),
        }
    }

    /// Steps to read it.
    fn reading(self) -> u64 {
        self.sizes[0] / 16
    }
}

/// Works out the worst case.
pub(super) fn check(root: &IdedExpr) -> Result<(), CelError> {
    let mut worst = Worst::default();
    worst.visit(root)?;
    if worst.steps > MAX_STEPS {
        return Err(CelError::TooManySteps);
    }
    Ok(())
}

#[derive(Default)]
struct Worst<'t> {
    /// The variables of the loops around a node.
    loops: Vec<(&'t str, Bound)>,
    depth: usize,
    steps: u64,
}

impl<'t> Worst<'t> {
    fn step(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    fn visit(&mut self, node: &'t IdedExpr) -> Result<Bound, CelError> {
        self.step(1);
        let bound = match &node.expr {
            Expr::Unspecified | Expr::Struct(_) => Bound::SCALAR,
            Expr::Literal(LiteralValue::String(text)) => Bound::text(text.inner().len()),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Bound::text(bytes.inner().len()),
            Expr::Literal(_) => Bound::SCALAR,
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) if select.test => self.visit(&select.operand).map(|_| Bound::SCALAR)?,
            Expr::Select(select) => self.visit(&select.operand)?,
            Expr::List(list) => list.elements.iter().try_fold(LIST, |all, element| {
                Ok(all.plus(self.visit(element)?.or(Bound::of(0, 1))))
            })?,
            Expr::Map(map) => map.entries.iter().try_fold(LIST, |all, entry| {
                Ok(match &entry.expr {
                    EntryExpr::MapEntry(entry) => {
                        let key = self.visit(&entry.key)?;
                        all.plus(key).plus(self.visit(&entry.value)?)
                    }
                    EntryExpr::StructField(_) => all,
                })
            })?,
            Expr::Call(call) => self.call(call)?,
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
        };
        if bound.worst_size() > MAX_SIZE {
            return Err(CelError::TooLargeValue);
        }
        Ok(bound)
    }

    /// The innermost loop's first; the name of a type is a value too.
    fn ident(&self, name: &str) -> Bound {
        let found = self.loops.iter().rev().find(|(known, _)| *known == name);
        found.map_or_else(Bound::variable, |(_, bound)| *bound)
    }

    fn call(&mut self, call: &'t CallExpr) -> Result<Bound, CelError> {
        let mut operands = Vec::with_capacity(call.args.len() + 1);
        // `optional` and `strings` are no values, but take no more room than one.
        for operand in call.target.as_deref().into_iter().chain(&call.args) {
            operands.push(self.visit(operand)?);
        }
        let all = operands.iter().copied().fold(Bound::default(), Bound::plus);
        let (first, second) = (
            operands.first().copied().unwrap_or_default(),
            operands.get(1).copied().unwrap_or_default(),
        );
        let name = call.func_name.as_str();
        self.step(match name {
            // They end with the shorter one.
            operators::EQUALS | operators::NOT_EQUALS | "startsWith" | "endsWith" => {
                first.reading().min(second.reading())
            }
            // No text is read.
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::CONDITIONAL
            | operators::NOT_STRICTLY_FALSE
            | operators::INDEX
            | operators::OPT_INDEX
            | operators::OPT_SELECT => 0,
            operators::IN => second.worst_count(),
            "matches" => pattern(call)?.saturating_add(all.reading()),
            _ => all.reading(),
        });
        Ok(match name {
            operators::ADD => all,
            operators::CONDITIONAL => second.or(operands.get(2).copied().unwrap_or_default()),
            operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT | "value" | "dyn" => first,
            "or" | "orValue" => first.or(second),
            "replace" => replaced(first, operands.get(2).copied().unwrap_or_default(), call),
            "split" => Bound {
                counts: first.sizes,
                ..first.grown(1 + PER_VALUE)
            },
            "join" => {
                let separators = second.worst_size().saturating_mul(first.worst_count());
                first.grown(1).plus(Bound::of(separators, 0))
            }
            "format" => formatted(call, all)?,
            // An escape takes two letters, and a byte that is no UTF-8 three bytes.
            "quote" | "string" => all.grown(3),
            "bytes" | "upperAscii" | "lowerAscii" | "reverse" | "charAt" | "substring" | "trim" => {
                all.grown(1)
            }
            "of" | "ofNonZeroValue" => all,
            _ => Bound::SCALAR,
        })
    }

    fn comprehension(&mut self, of: &'t ComprehensionExpr) -> Result<Bound, CelError> {
        let range = self.visit(&of.iter_range)?;
        let start = self.visit(&of.accu_init)?;
        // More loops than there may be are refused before.
        let number = self.depth.min(MAX_LOOPS - 1);
        let element = range.element(number);
        let outside = self.loops.len();
        self.depth += 1;
        self.loops.push((&of.iter_var, element));
        self.loops
            .extend(of.iter_var2.as_deref().map(|name| (name, element)));
        // What a round adds: nothing but the loop itself can name what it adds to.
        self.loops.push((&of.accu_var, Bound::default()));
        let before = std::mem::take(&mut self.steps);
        // Each round copies its element.
        self.step(element.reading());
        self.visit(&of.loop_cond)?;
        let added = self.visit(&of.loop_step)?;
        self.depth -= 1;
        self.steps = before.saturating_add(self.steps.saturating_mul(range.worst_count()));
        if let Some((_, accu)) = self.loops.last_mut() {
            *accu = start.plus(added.rounds(range.worst_count(), number));
        }
        let result = self.visit(&of.result)?;
        self.loops.truncate(outside);
        Ok(result)
    }
}

/// A text in which something is replaced, at worst before and after each of its bytes. It grows in step with the text only where
/// what comes in its place is written down.
fn replaced(text: Bound, by: Bound, call: &CallExpr) -> Bound {
    let is_written = call.args.get(1).and_then(written_text).is_some();
    let places = if is_written {
        text.sizes
    } else {
        [text.worst_size(); DEPTHS]
    };
    let by = by.worst_size().saturating_sub(PER_VALUE);
    Bound {
        sizes: places.map(|size| size.saturating_add((size + 1).saturating_mul(by))),
        ..Bound::of(0, 1)
    }
}

/// What `format` writes: it must be written down how often.
fn formatted(call: &CallExpr, all: Bound) -> Result<Bound, CelError> {
    let format = call.target.as_deref().and_then(written_text);
    let format = format.ok_or(CelError::Format)?;
    let clauses = format.matches('%').count() as u64;
    // In hexadecimal a byte has two digits, and in a list a text has quotes.
    Ok(all.grown(2).plus(Bound::of(clauses * PER_CLAUSE, 0)))
}

/// The steps to compile a pattern, where it is one that may be used.
fn pattern(call: &CallExpr) -> Result<u64, CelError> {
    let text = call.args.last().and_then(written_text);
    let text = text
        .filter(|text| text.len() <= MAX_PATTERN)
        .ok_or(CelError::Pattern(MAX_PATTERN))?;
    let repetition = repetition(text);
    if repetition > MAX_REPETITION {
        return Err(CelError::Pattern(MAX_PATTERN));
    }
    let each = if text.contains('\\') {
        CLASS_REPETITION_STEPS
    } else {
        REPETITION_STEPS
    };
    Ok(PATTERN_STEPS + repetition * each)
}

/// How often a pattern repeats a part of itself by numbers between braces, wherever they stand: `{2,5}` counts for ten.
pub(super) fn repetition(pattern: &str) -> u64 {
    let numbers = pattern.split('{').skip(1).flat_map(|part| {
        let counts = part.split('}').next().unwrap_or_default();
        counts
            .split(',')
            .filter_map(|count| count.trim().parse::<u64>().ok())
    });
    numbers.fold(1_u64, |all, count| all.saturating_mul(count.max(1)))
}

/// The text that a node is, where it is written down.
pub(super) fn written_text(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
