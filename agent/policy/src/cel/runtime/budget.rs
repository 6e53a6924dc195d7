//! What a decision's expressions may still cost.
//!
//! In: steps, counted before the work is done. Out: an error once there are none left. The interpreter calls functions without
//! a state of their own, so the steps that are left are the thread's while it evaluates.

use std::cell::Cell;

use ::cel::ExecutionError;
use ::cel::common::types::{CelBytes, CelList, CelMap, CelOptional, CelString, Kind};
use ::cel::common::value::Val;

/// How many steps all expressions of one decision may take together. A step is one node of an expression, or reading some bytes
/// of text, and takes about 100 ns: all of them about 10 ms.
pub const MAX_RULE_STEPS: u64 = 100_000;

/// How many bytes of text are read in one step.
pub(in crate::cel) const BYTES_PER_STEP: usize = 64;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static IS_EXHAUSTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs an evaluation with so many steps, of which it leaves the rest. The second of the outcome says whether they were enough.
pub(in crate::cel) fn run<T>(left: &mut u64, evaluation: impl FnOnce() -> T) -> (T, bool) {
    LEFT.set(*left);
    IS_EXHAUSTED.set(false);
    let outcome = evaluation();
    *left = LEFT.replace(0);
    (outcome, !IS_EXHAUSTED.get())
}

/// Takes steps off.
///
/// # Errors
/// There are not so many left.
pub(in crate::cel) fn spend(steps: u64) -> Result<(), ExecutionError> {
    match LEFT.get().checked_sub(steps) {
        Some(left) if !IS_EXHAUSTED.get() => {
            LEFT.set(left);
            Ok(())
        }
        _ => {
            LEFT.set(0);
            IS_EXHAUSTED.set(true);
            Err(ExecutionError::InternalError(String::new()))
        }
    }
}

/// Takes off what reading or copying so much text takes.
pub(in crate::cel) fn spend_text(bytes: usize) -> Result<(), ExecutionError> {
    spend(text(bytes))
}

fn text(bytes: usize) -> u64 {
    1 + (bytes / BYTES_PER_STEP) as u64
}

/// The steps to copy a value. What is JSON is not copied: a list or map of it counts for its length alone.
pub(in crate::cel) fn weight(value: &dyn Val) -> u64 {
    if let Some(string) = value.downcast_ref::<CelString>() {
        return text(string.inner().len());
    }
    match value.get_type().kind() {
        Kind::List => match value.downcast_ref::<CelList>() {
            Some(list) => list
                .inner()
                .iter()
                .fold(1, |all, item| all + weight(item.as_ref())),
            None => 1 + length(value),
        },
        Kind::Map => match value.downcast_ref::<CelMap>() {
            Some(map) => map
                .inner()
                .values()
                .fold(1, |all, item| all + 1 + weight(item.as_ref())),
            None => 1 + length(value),
        },
        Kind::Bytes => text(
            value
                .downcast_ref::<CelBytes>()
                .map_or(0, |bytes| bytes.inner().len()),
        ),
        _ => match value.downcast_ref::<CelOptional>().and_then(CelOptional::option) {
            Some(inner) => 1 + weight(inner),
            None => 1,
        },
    }
}

/// Takes off the steps to read a value whole, JSON too.
pub(in crate::cel) fn spend_deep(value: &dyn Val) -> Result<(), ExecutionError> {
    if let Some(string) = value.downcast_ref::<CelString>() {
        return spend_text(string.inner().len());
    }
    spend(1)?;
    let is_map = value.get_type().kind() == Kind::Map;
    let Some(items) = value.as_iterable() else {
        return Ok(());
    };
    spend(length(value))?;
    let mut items = items.iter();
    while let Some(item) = items.next() {
        spend_deep(item)?;
        if is_map && let Some(map) = value.as_indexer() {
            spend_deep(map.get(item)?.as_ref())?;
        }
    }
    Ok(())
}

/// How many elements a list or map has.
pub(in crate::cel) fn length(value: &dyn Val) -> u64 {
    let size = value.as_sizer().map_or(0, |sizer| *sizer.size().inner());
    u64::try_from(size).unwrap_or(0)
}
