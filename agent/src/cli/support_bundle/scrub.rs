//! Takes secrets out of what goes into a bundle.
//!
//! In: objects and texts of the cluster. Out: the same without secrets, and without what nobody needs of an object.
//!
//! The audit log's redactor finds secrets by name and by shape. It leaves what a shell could run in sight, so that a command cannot
//! hide. A bundle hides rather too much: whole keys in PEM, also in base64, and whole quoted values behind the name of a secret.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::audit::Redactor;

/// What stands for a secret that this module takes itself.
const MARK: &str = "***redacted***";

/// How every PEM block of a private key begins and ends.
const BEGIN: &str = "-----BEGIN ";
const PRIVATE: &str = "PRIVATE KEY-----";

/// `-----BEGIN` in base64, at each of the three places that a byte can have in a group.
const BEGIN_BASE64: [&str; 3] = ["LS0tLS1CRUdJTi", "0tLS0tQkVHSU4", "tLS0tLUJFR0lO"];

/// Fields of an object's metadata that say nothing of it, or repeat it whole.
const LEFT_OUT: [&str; 2] = ["managedFields", "selfLink"];

/// The annotation in which kubectl repeats the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes secrets out, with marks of its own key.
pub(super) struct Scrubber(Redactor);

impl Scrubber {
    /// A scrubber whose marks nobody can try out: its key is by chance and kept nowhere.
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        for half in key.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Self(Redactor::new(&key))
    }

    /// An object without secrets.
    pub(super) fn object(&self, mut value: Value) -> Value {
        self.walk(&mut value);
        value
    }

    /// A text without secrets.
    pub(super) fn text(&self, text: &str) -> String {
        let without_keys = keys(text);
        let mut clean = String::with_capacity(without_keys.len());
        for line in without_keys.split_inclusive('\n') {
            let line = base64_keys(line);
            let line = quoted(&line);
            clean.push_str(&self.0.text(&line));
        }
        clean
    }

    fn walk(&self, value: &mut Value) {
        match value {
            Value::Object(map) => self.map(map),
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::String(text) => *text = self.text(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn map(&self, map: &mut Map<String, Value>) {
        for field in LEFT_OUT {
            map.remove(field);
        }
        map.remove(LAST_APPLIED);
        // A variable of a container: its name says what its value is.
        let is_secret = map
            .get("name")
            .and_then(Value::as_str)
            .is_some_and(Redactor::names_secret);
        if is_secret && let Some(value @ Value::String(_)) = map.get_mut("value") {
            *value = MARK.into();
        }
        for (name, value) in map.iter_mut() {
            match value {
                Value::String(text) if Redactor::names_secret(name) && !text.is_empty() => {
                    *value = MARK.into();
                }
                value => self.walk(value),
            }
        }
    }
}

/// The text without private keys in PEM, whether its lines end with a newline or with `\n` as JSON has it.
fn keys(text: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let label = &rest[at + BEGIN.len()..];
        let is_private = label
            .split("-----")
            .next()
            .is_some_and(|label| label.ends_with(PRIVATE.trim_end_matches('-')));
        let end = match is_private {
            // A key that is cut off at its end is one all the same.
            true => rest[at..].find("-----END ").map_or(rest.len(), |end| {
                let tail = &rest[at + end..];
                at + end
                    + tail
                        .find(PRIVATE)
                        .map_or(tail.len(), |close| close + PRIVATE.len())
            }),
            false => at + BEGIN.len(),
        };
        match is_private {
            true => {
                clean.push_str(&rest[..at]);
                clean.push_str(MARK);
            }
            false => clean.push_str(&rest[..end]),
        }
        rest = &rest[end..];
    }
    match clean.is_empty() {
        true => Cow::Borrowed(rest),
        false => {
            clean.push_str(rest);
            Cow::Owned(clean)
        }
    }
}

/// A line without PEM in base64. Nobody can tell a key from a certificate there.
fn base64_keys(line: &str) -> Cow<'_, str> {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
    let Some(at) = BEGIN_BASE64.iter().filter_map(|begin| line.find(begin)).min() else {
        return Cow::Borrowed(line);
    };
    let begin = line[..at].rfind(|c| !is_base64(c)).map_or(0, |gap| {
        gap + line[gap..].chars().next().map_or(1, char::len_utf8)
    });
    let end = line[at..]
        .find(|c| !is_base64(c))
        .map_or(line.len(), |end| at + end);
    let rest = base64_keys(&line[end..]);
    Cow::Owned(format!("{}{MARK}{rest}", &line[..begin]))
}

/// A line without the quoted values behind names of secrets, blanks within them included: `password: "a b"`, `{"token":"x"}`,
/// `\"token\":\"x\"`.
fn quoted(line: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut from = 0;
    let mut at = 0;
    while let Some(found) = line[at..].find([':', '=']) {
        let delimiter = at + found;
        at = delimiter + 1;
        let before = line[..delimiter].trim_end_matches([' ', '"', '\'', '\\']);
        let name = before
            .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
            .next();
        if !name.is_some_and(Redactor::names_secret) {
            continue;
        }
        let value = line[at..].trim_start_matches([' ', '\\']);
        let open = line.len() - value.len();
        let Some(quote @ ('"' | '\'')) = value.chars().next() else {
            continue;
        };
        // An escaped quote opens, so an escaped one closes.
        let close = match line[..open].ends_with('\\') {
            true => format!("\\{quote}"),
            false => quote.to_string(),
        };
        let inside = &line[open + 1..];
        let end = open + 1 + inside.find(&close).unwrap_or(inside.trim_end().len());
        if end > open + 1 {
            clean.push_str(&line[from..=open]);
            clean.push_str(MARK);
            from = end;
        }
        at = end.max(at);
    }
    match from {
        0 => Cow::Borrowed(line),
        _ => {
            clean.push_str(&line[from..]);
            Cow::Owned(clean)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlanted0Key1Line2That3Is4Long5Enough6To7Be8One9AAAA\nshort==\n\
                       -----END EC PRIVATE KEY-----";

    fn text(text: &str) -> String {
        Scrubber::new().text(text)
    }

    #[test]
    fn a_private_key_goes_whole_and_a_certificate_stays() {
        for key in [
            KEY.to_owned(),
            KEY.replace('\n', "\\n"),
            KEY[..60].to_owned(),
            KEY.replace("EC PRIVATE", "PRIVATE"),
        ] {
            let clean = text(&format!("before {key}"));
            assert!(
                clean.starts_with("before ***redacted***") && !clean.contains("Planted"),
                "{clean}"
            );
            assert!(!clean.contains("short=="), "{clean}");
        }
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\nafter";
        assert_eq!(text(certificate), certificate);
    }

    #[test]
    fn pem_in_base64_goes() {
        use base64::Engine as _;
        for before in ["", "a", "ab"] {
            let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{before}{KEY}"));
            let clean = text(&format!("client-key-data: {encoded} # a key\n"));
            assert_eq!(clean, "client-key-data: ***redacted*** # a key\n", "{before}");
        }
    }

    #[test]
    fn quoted_values_behind_names_of_secrets_go_with_their_blanks() {
        for (line, clean) in [
            (
                "password: \"correct horse battery\"\n",
                "password: \"***redacted***\"\n",
            ),
            (
                "{\"token\":\"a b\",\"x\":\"y z\"}",
                "{\"token\":\"***redacted***\",\"x\":\"y z\"}",
            ),
            (r#"{\"apiKey\": \"a b\"}"#, r#"{\"apiKey\": \"***redacted***\"}"#),
            ("PGPASSWORD='a b' psql", "PGPASSWORD='***redacted***' psql"),
            ("name: \"a b\"", "name: \"a b\""),
            ("password: \"open", "password: \"***redacted***"),
        ] {
            assert_eq!(text(line), clean);
        }
    }

    #[test]
    fn fields_and_variables_with_names_of_secrets_have_no_value() {
        let clean = Scrubber::new().object(json!({
            "metadata": {
                "managedFields": [{"a": 1}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "all", "example.com/api-token": "t0p"},
            },
            "env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "NODE", "value": "n"}],
            "secretName": "kept",
        }));
        assert_eq!(
            clean,
            json!({
                "metadata": {"annotations": {"example.com/api-token": MARK}},
                "env": [{"name": "DB_PASSWORD", "value": MARK}, {"name": "NODE", "value": "n"}],
                "secretName": "kept",
            })
        );
    }
}
