//! The query as Go's `net/url.ParseQuery` reads it, with what it would drop or read twice refused instead.

use super::read::ReadError;

/// Keys that the API server reads once, so that a second value would be read by some and ignored by others.
const SINGLE: [&str; 22] = [
    "watch",
    "fieldSelector",
    "labelSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "timeoutSeconds",
    "timeout",
    "limit",
    "continue",
    "container",
    "stdin",
    "stdout",
    "stderr",
    "tty",
    "follow",
    "previous",
    "propagationPolicy",
    "gracePeriodSeconds",
    "orphanDependents",
    "fieldManager",
];

/// Decoded pairs in the order they came.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the raw query. A semicolon, a bad escape or bytes that are not UTF-8 are refused: Go drops such a pair
    /// without a word, and another parser may not.
    pub(super) fn read(raw: &str) -> Result<Self, ReadError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') {
                return Err(ReadError::Query("it has a semicolon outside an escape"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = unescape(key)?;
            if SINGLE.contains(&key.as_str()) && pairs.iter().any(|(seen, _)| *seen == key) {
                return Err(ReadError::RepeatedQuery(key));
            }
            pairs.push((key, unescape(value)?));
        }
        Ok(Self(pairs))
    }

    /// The first value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(seen, _)| seen == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(seen, _)| seen == key)
            .map(|(_, value)| value.as_str())
    }

    /// A flag as `Convert_Slice_string_To_bool` of k8s.io/apimachinery reads it: present and neither `0` nor `false`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

/// Undoes `%XX` and `+`.
fn unescape(text: &str) -> Result<String, ReadError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                out.push(
                    super::path::escape(bytes, at)
                        .ok_or(ReadError::Query("it has a broken percent-escape"))?,
                );
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| ReadError::Query("it is not UTF-8"))
}

/// The name that a field selector asks for exactly, as `fields.ParseSelector` and `RequiresExactMatch("metadata.name")`
/// of k8s.io/apimachinery find it; `None` where there is none or the selector does not parse.
pub(super) fn selected_name(selector: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
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

    #[test]
    fn flags_follow_the_api_servers_conversion() {
        for (query, watch) in [
            ("watch=true", true),
            ("watch=1", true),
            ("watch", true),
            ("watch=", true),
            ("watch=yes", true),
            ("watch=no", true),
            ("watch=0", false),
            ("watch=false", false),
            ("watch=FALSE", false),
            ("Watch=true", false),
            ("%77atch=true", true),
            ("", false),
        ] {
            assert_eq!(Query::read(query).expect(query).flag("watch"), watch, "{query}");
        }
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for query in [
            "a=1;watch=true",
            "watch=0&watch=1",
            "watch=0&%77atch=1",
            "a=%zz",
            "a=%2",
            "%ff=1",
            "tty=1&tty=0",
        ] {
            assert!(Query::read(query).is_err(), "{query}");
        }
        let query = Query::read("command=sh&command=-c&command=a+b%3Bc&&x").expect("valid");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b;c"]);
    }
}
