//! Edits of a file's text that change one thing and leave everything else as it is written: comments, order, other documents.
//!
//! In: a file's text, the number of a document, and a change. Out: the new text, or an [`EditError`]. Each new text is read
//! again, and given out only where it says what was wanted and nothing else. So a form of YAML that this module does not know
//! is refused, and never damaged.

use serde_json::{Map, Value as Json};
use thiserror::Error;

use super::list::objects;
use super::tree::{Value, YamlNode, parse};

/// Why a text is not edited.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// The text is no YAML that is read, or has no such document.
    #[error("the text cannot be read")]
    Unreadable,
    /// The document is written in a form that no edit here is sure of.
    #[error("line {line}: the document is written in a form that cannot be edited safely; edit it by hand")]
    Unsure {
        /// Where the change was to be made, from 1.
        line: u32,
    },
}

/// Sets a text field of a document, and makes the mappings that lead to it where there are none.
///
/// # Errors
/// Where the text cannot be read, or the change cannot be made for sure.
pub fn set_text(text: &str, document: usize, path: &[&str], value: &str) -> Result<String, EditError> {
    let nodes = read(text)?;
    let node = nodes.get(document).ok_or(EditError::Unreadable)?;
    let mut wanted: Vec<Json> = nodes.iter().map(as_json).collect();
    put(&mut wanted[document], path, value);
    let (at, steps) = follow(node, path);
    let edited = if steps == path.len() {
        replace_scalar(text, at, value)
    } else {
        insert(text, at, &path[steps..], value)
    };
    let line = at.line;
    edited
        .filter(|edited| says(edited, &wanted))
        .ok_or(EditError::Unsure { line })
}

/// Takes a document out; `None` where no other one is left.
///
/// # Errors
/// Where the text cannot be read, or the document cannot be taken out for sure.
pub fn remove_document(text: &str, document: usize) -> Result<Option<String>, EditError> {
    let nodes = read(text)?;
    let node = nodes.get(document).ok_or(EditError::Unreadable)?;
    let mut wanted: Vec<Json> = nodes.iter().map(as_json).collect();
    wanted.remove(document);
    if wanted.is_empty() {
        return Ok(None);
    }
    let line = node.line;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let first = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
    let is_end = |line: &&str| line.trim_end() == "---";
    let before = lines[..first.min(lines.len())].iter().rposition(is_end);
    let after = lines.iter().skip(first).position(is_end);
    let (from, to) = match (before, after) {
        // The separator before goes with it, that after it stays and begins the next document.
        (Some(before), after) => (before, after.map_or(lines.len(), |after| first + after)),
        (None, Some(after)) => (0, first + after + 1),
        (None, None) => return Err(EditError::Unsure { line }),
    };
    let kept: String = lines[..from].iter().chain(&lines[to..]).copied().collect();
    if says(&kept, &wanted) {
        Ok(Some(kept))
    } else {
        Err(EditError::Unsure { line })
    }
}

fn read(text: &str) -> Result<Vec<YamlNode>, EditError> {
    parse("", text).map(objects).map_err(|_| EditError::Unreadable)
}

/// Whether a text says this.
fn says(text: &str, wanted: &[Json]) -> bool {
    read(text).is_ok_and(|nodes| nodes.iter().map(as_json).eq(wanted.iter().cloned()))
}

/// A document without places. Keys that are no text are kept by their form, so that two documents which differ there differ.
fn as_json(node: &YamlNode) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(text) => Json::Array(vec![Json::from("number"), Json::from(text.as_str())]),
        Value::Text(text) => Json::from(text.as_str()),
        Value::List(items) => Json::Array(vec![
            Json::from("list"),
            items.iter().map(as_json).collect::<Json>(),
        ]),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                let key = match &key.value {
                    Value::Text(key) => key.clone(),
                    other => format!("\0{}", other.describe()),
                };
                (key, as_json(value))
            });
            Json::Object(entries.collect::<Map<_, _>>())
        }
    }
}

fn put(json: &mut Json, path: &[&str], value: &str) {
    match path {
        [] => *json = Json::from(value),
        [name, rest @ ..] => {
            if !json.is_object() {
                *json = Json::Object(Map::new());
            }
            if let Json::Object(map) = json {
                put(map.entry(*name).or_insert(Json::Null), rest, value);
            }
        }
    }
}

/// The node that a path leads to, or the last one on the way, and how many steps lead there.
fn follow<'n>(node: &'n YamlNode, path: &[&str]) -> (&'n YamlNode, usize) {
    let mut node = node;
    for (steps, name) in path.iter().enumerate() {
        let Value::Map(entries) = &node.value else {
            return (node, steps);
        };
        let is = |key: &YamlNode| matches!(&key.value, Value::Text(key) if key == name);
        match entries.iter().find(|(key, _)| is(key)) {
            Some((_, next)) => node = next,
            None => return (node, steps),
        }
    }
    (node, path.len())
}

/// Where a node begins in the text, in bytes.
fn offset(text: &str, node: &YamlNode) -> Option<usize> {
    let line = usize::try_from(node.line).ok()?.checked_sub(1)?;
    let begin: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let column = usize::try_from(node.column).ok()?.checked_sub(1)?;
    let rest = text.get(begin..)?;
    let (within, _) = rest.char_indices().nth(column)?;
    Some(begin + within)
}

/// A text as YAML: bare where that is surely the same text, else in double quotes, whose escapes are JSON's.
fn scalar(value: &str) -> String {
    let bare = value.starts_with(|first: char| first.is_ascii_alphabetic())
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let word = matches!(
        value.to_ascii_lowercase().as_str(),
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if bare && !word {
        value.to_owned()
    } else {
        Json::from(value).to_string()
    }
}

/// Replaces a text on one line that is written as it reads, or quoted.
fn replace_scalar(text: &str, node: &YamlNode, value: &str) -> Option<String> {
    let begin = offset(text, node)?;
    let rest = text.get(begin..)?;
    let length = match (rest.chars().next()?, &node.value) {
        ('"', Value::Text(_)) => quoted(rest, |rest| if rest.starts_with('\\') { 2 } else { 0 })?,
        ('\'', Value::Text(_)) => quoted(rest, |rest| if rest.starts_with("''") { 2 } else { 0 })?,
        (_, Value::Text(old)) if rest.starts_with(old.as_str()) => old.len(),
        _ => return None,
    };
    Some(format!(
        "{}{}{}",
        text.get(..begin)?,
        scalar(value),
        rest.get(length..)?
    ))
}

/// The length of a text in quotes on one line. `escape` tells how long an escape is that stands there.
fn quoted(text: &str, escape: impl Fn(&str) -> usize) -> Option<usize> {
    let line = text.lines().next()?;
    let quote = line.chars().next()?;
    let mut at = quote.len_utf8();
    loop {
        let rest = line.get(at..)?;
        let next = rest.chars().next()?;
        match escape(rest) {
            0 if next == quote => return Some(at + quote.len_utf8()),
            0 => at += next.len_utf8(),
            escaped => at += escaped,
        }
    }
}

/// Puts a field first into a mapping.
fn insert(text: &str, map: &YamlNode, path: &[&str], value: &str) -> Option<String> {
    let Value::Map(entries) = &map.value else {
        return None;
    };
    let (first, within) = path.split_first()?;
    let mut written = scalar(value);
    for name in within.iter().rev() {
        written = format!("{{{}: {written}}}", key(name));
    }
    let written = format!("{}: {written}", key(first));
    let begin = offset(text, map)?;
    let (before, after) = text.split_at_checked(begin)?;
    if let Some(after) = after.strip_prefix('{') {
        let comma = if entries.is_empty() { "" } else { ", " };
        return Some(format!("{before}{{{written}{comma}{after}"));
    }
    let indent = " ".repeat(usize::try_from(map.column).ok()?.checked_sub(1)?);
    Some(format!("{before}{written}\n{indent}{after}"))
}

/// A key that no flow mapping takes apart.
fn key(name: &str) -> String {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'/' | b'_'));
    if plain {
        name.to_owned()
    } else {
        Json::from(name).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Whose agents these are.\napiVersion: v1\nmetadata:\n  name: a   # the first\nspec:\n  owner: team\n  \
         state: Active  # may act\n---\nkind: B\nmetadata: {name: b}\nspec: {owner: team}\n---\n# the last\nkind: C\nspec:\n    \
         note: |\n      ---\n      text\n";

    #[test]
    fn a_field_is_replaced_and_all_else_stays() {
        let edited = set_text(FILE, 0, &["spec", "state"], "Revoked").expect("edited");
        assert_eq!(edited, FILE.replace("state: Active", "state: Revoked"));
        for (written, wanted) in [
            ("state: \"Active\"", "state: Revoked"),
            ("state: 'Active'", "state: Revoked"),
        ] {
            let file = FILE.replace("state: Active", written);
            let edited = set_text(&file, 0, &["spec", "state"], "Revoked").expect("edited");
            assert_eq!(edited, FILE.replace("state: Active", wanted));
        }
    }

    #[test]
    fn a_field_is_added_in_the_form_that_the_mapping_has() {
        let edited = set_text(FILE, 1, &["spec", "state"], "Suspended").expect("edited");
        assert_eq!(
            edited,
            FILE.replace("spec: {owner", "spec: {state: Suspended, owner")
        );
        let edited = set_text(FILE, 2, &["spec", "state"], "Suspended").expect("edited");
        assert_eq!(
            edited,
            FILE.replace("    note: |", "    state: Suspended\n    note: |")
        );
    }

    #[test]
    fn an_object_in_a_list_is_edited_where_it_stands() {
        let list = "kind: List\nitems:\n- kind: A\n  spec:\n    owner: x\n- kind: B\n  spec: {owner: y}\n---\nkind: C\nspec: {owner: z}\n";
        for (number, from, to) in [
            (0, "    owner: x", "    state: Suspended\n    owner: x"),
            (1, "{owner: y", "{state: Suspended, owner: y"),
            (2, "{owner: z", "{state: Suspended, owner: z"),
        ] {
            let edited = set_text(list, number, &["spec", "state"], "Suspended").expect("edited");
            assert_eq!(edited, list.replace(from, to));
        }
    }

    #[test]
    fn mappings_on_the_way_are_made() {
        let path = ["metadata", "annotations", "picket.dev/reason"];
        let reason = "said: \"no\" # twice\nö";
        let edited = set_text(FILE, 0, &path, reason).expect("edited");
        let line =
            "  annotations: {picket.dev/reason: \"said: \\\"no\\\" # twice\\nö\"}\n  name: a   # the first";
        assert_eq!(edited, FILE.replace("  name: a   # the first", line));
        let again = set_text(&edited, 0, &path, "other").expect("edited");
        let line = "  annotations: {picket.dev/reason: other}\n  name: a   # the first";
        assert_eq!(again, FILE.replace("  name: a   # the first", line));
        let single = again.replace("reason: other", "reason: 'it''s', x: \"\\\\\"");
        let edited = set_text(&single, 0, &path, "other").expect("edited");
        assert_eq!(edited, single.replace("'it''s'", "other"));
        let plain = set_text(FILE, 0, &path, "x y").expect("edited");
        let other = set_text(&plain, 0, &path, "other").expect("edited");
        assert_eq!(other, plain.replace("\"x y\"", "other"));
    }

    #[test]
    fn what_is_not_surely_edited_is_refused() {
        for file in [
            "spec: &all {state: Active}\nother: *all\n",
            "spec: [a]\n",
            "spec: 7\n",
            "spec: &all\n  owner: x\nother: *all\n",
        ] {
            let edited = set_text(file, 0, &["spec", "state"], "Revoked");
            assert!(
                matches!(edited, Err(EditError::Unsure { .. })),
                "{file}: {edited:?}"
            );
        }
        assert_eq!(
            set_text("a: [", 0, &["a"], "x").unwrap_err(),
            EditError::Unreadable
        );
        assert_eq!(set_text(FILE, 3, &["a"], "x").unwrap_err(), EditError::Unreadable);
    }

    #[test]
    fn a_document_is_taken_out() {
        let documents: Vec<&str> = FILE.splitn(3, "\n---\n").collect();
        let [first, second, third] = documents[..] else {
            panic!("three")
        };
        for (number, wanted) in [
            (0, format!("{second}\n---\n{third}")),
            (1, format!("{first}\n---\n{third}")),
            (2, format!("{first}\n---\n{second}\n")),
        ] {
            let left = remove_document(FILE, number).expect("taken out");
            assert_eq!(left.as_deref(), Some(wanted.as_str()), "{number}");
        }
        assert_eq!(remove_document("a: 1\n", 0), Ok(None));
        let list = "kind: List\nitems:\n- a: 1\n- b: 2\n";
        assert_eq!(remove_document(list, 1), Err(EditError::Unsure { line: 4 }));
        assert_eq!(
            remove_document("--- {a: 1}\n--- {b: 2}\n", 0),
            Err(EditError::Unsure { line: 1 })
        );
    }
}
