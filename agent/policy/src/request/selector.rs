//! The name that a list or watch is about, as `RequestInfo` of k8s.io/apiserver takes it from a field selector.
//!
//! In: the query of a list or watch. Out: the name, if there is one, or a [`ReadError`] where the API server might take none.

use super::error::ReadError;
use super::query::Query;
use crate::kubernetes::resources::is_subdomain;

/// Longest name of a label, without its prefix, and longest value of one.
const MAX_LABEL: usize = 63;

/// The name that a list or watch asks for alone.
///
/// The API server takes no name from a query that it cannot read as a whole: it authorizes the request for every object then, and
/// refuses it only afterwards. So such a query is refused here.
///
/// # Errors
/// A name is selected, and something else in the query is not surely read.
pub(super) fn listed_name(query: &Query) -> Result<Option<String>, ReadError> {
    let Some(name) = query.get("fieldSelector").and_then(selected_name) else {
        return Ok(None);
    };
    let is_number = |key| query.get(key).is_none_or(|value| value.parse::<i64>().is_ok());
    if !(is_number("limit") && is_number("timeoutSeconds")) {
        let reason = "selects a name, and its limit or timeoutSeconds is no number";
        return Err(ReadError::Query(reason));
    }
    if !query.get("labelSelector").is_none_or(is_plain_label_selector) {
        let reason = "selects a name, and its labelSelector is not of a plain form";
        return Err(ReadError::Query(reason));
    }
    Ok(Some(name))
}

/// The name that a field selector asks for exactly, as `fields.ParseSelector` and `RequiresExactMatch("metadata.name")`
/// of k8s.io/apimachinery find it; `None` where there is none or the selector does not parse.
fn selected_name(selector: &str) -> Option<String> {
    let mut terms = split_terms(selector);
    // The API server sorts the terms and takes the first exact match.
    terms.sort_unstable();
    let mut found = None;
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        // A term without an operator makes the whole selector invalid, and then no name is taken from it.
        let at = term.char_indices().map(|(at, _)| at).find(|at| {
            let rest = &term[*at..];
            rest.starts_with("!=") || rest.starts_with('=')
        })?;
        let (field, rest) = term.split_at(at);
        let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
            (false, value)
        } else {
            (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?)
        };
        let value = unescape_value(value)?;
        if equal && field == "metadata.name" && found.is_none() {
            found = Some(value);
        }
    }
    found.filter(|name| !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']))
}

/// Splits at commas that no backslash protects.
fn split_terms(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, char) in selector.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

/// Undoes `\\`, `\,` and `\=`; anything else after a backslash, or a bare `,` or `=`, is invalid.
fn unescape_value(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

/// Whether `labels.Parse` of k8s.io/apimachinery surely takes a selector: it is empty, or terms `key`, `!key`, `key=value`,
/// `key==value`, `key!=value`, `key in (values)` and `key notin (values)`. `labels.Parse` takes some more.
fn is_plain_label_selector(selector: &str) -> bool {
    let mut depth = 0_usize;
    let mut terms = selector.split(|char| {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        char == ',' && depth == 0
    });
    selector.is_empty() || terms.all(|term| is_plain_term(term.trim_matches(' ')))
}

fn is_plain_term(term: &str) -> bool {
    if let Some(key) = term.strip_prefix('!') {
        return is_label_key(key);
    }
    if let Some((key, value)) = term.split_once('=') {
        let key = key.strip_suffix('!').unwrap_or(key).trim_end_matches(' ');
        let value = value.strip_prefix('=').unwrap_or(value).trim_start_matches(' ');
        return is_label_key(key) && is_label_value(value);
    }
    let Some((key, rest)) = term.split_once(' ') else {
        return is_label_key(term);
    };
    let rest = rest.trim_start_matches(' ');
    let values = ["in", "notin"]
        .iter()
        .find_map(|word| rest.strip_prefix(word)?.trim_start_matches(' ').strip_prefix('('))
        .and_then(|values| values.strip_suffix(')'));
    is_label_key(key)
        && values.is_some_and(|values| {
            values
                .split(',')
                .all(|value| is_label_value(value.trim_matches(' ')))
        })
}

fn is_label_key(key: &str) -> bool {
    let (prefixed, name) = match key.split_once('/') {
        Some((prefix, name)) => (is_subdomain(prefix), name),
        None => (true, key),
    };
    prefixed && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let outer = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= MAX_LABEL
        && outer(bytes.first())
        && outer(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::super::query::Pairs;
    use super::*;

    #[test]
    fn field_selectors_name_what_the_api_server_says_they_name() {
        for (selector, name) in [
            ("metadata.name=web", Some("web")),
            ("metadata.name==web", Some("web")),
            ("status.phase=Running,metadata.name=web", Some("web")),
            ("metadata.name=b,metadata.name=a", Some("a")),
            ("metadata.name!=web", None),
            ("metadata.name!=web,metadata.name=db", Some("db")),
            ("metadata.name=a\\,b", Some("a,b")),
            ("metadata.name=a\\x", None),
            ("metadata.name=a=b", None),
            ("metadata.name=web,nonsense", None),
            ("metadata.name=", None),
            ("metadata.name=..", None),
            ("metadata.name=a/b", None),
            ("", None),
            ("spec!x=y,metadata.name=web", Some("web")),
            ("Metadata.name=web", None),
        ] {
            assert_eq!(selected_name(selector).as_deref(), name, "{selector}");
        }
    }

    fn listed(rest: &str) -> Result<Option<String>, ReadError> {
        let query = format!("fieldSelector=metadata.name%3Dweb&{rest}");
        listed_name(&Query::read(&query, Pairs::Any).expect("a query"))
    }

    #[test]
    fn no_name_is_taken_where_the_api_server_takes_none() {
        for rest in [
            "limit=x",
            "limit=",
            "limit=1.5",
            "limit=0x1",
            "limit=1_0",
            "limit=99999999999999999999",
            "timeoutSeconds=30s",
            "labelSelector=%29%28",
            "labelSelector=a,",
            "labelSelector=,",
            "labelSelector=a+b",
            "labelSelector=a%3D%3D%3Db",
            "labelSelector=a+in+b",
            "labelSelector=a+in+(b",
            "labelSelector=a+in+(b),c)",
            "labelSelector=-a",
            "labelSelector=A/b",
            "labelSelector=a%3D%C3%A9",
            "labelSelector=a%3Db%20c",
        ] {
            assert!(listed(rest).is_err(), "{rest}");
            // Where no name is selected, both read the same.
            assert_eq!(
                listed_name(&Query::read(rest, Pairs::Any).expect("a query")),
                Ok(None),
                "{rest}"
            );
        }
    }

    #[test]
    fn a_name_is_taken_beside_what_clients_send() {
        for rest in [
            "",
            "limit=500",
            "limit=-1",
            "limit=%2B5",
            "timeoutSeconds=432",
            "labelSelector=",
            "labelSelector=app%3Dweb,tier!%3Ddb,x%3D%3D",
            "labelSelector=app.kubernetes.io/name%3Dweb",
            "labelSelector=a,!b,!example.com/c",
            "labelSelector=a+in+(b,c),d+notin+(e),f",
            "labelSelector=a+%3D+b",
            "watch=1&allowWatchBookmarks=true&resourceVersion=7",
        ] {
            assert_eq!(listed(rest), Ok(Some("web".to_owned())), "{rest}");
        }
    }
}
