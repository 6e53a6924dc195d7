//! How much of a client's text a record keeps: a pod must not be able to fill disk and memory with a few thousand requests.
//!
//! In: texts that a client chose, in whole or in part, of any length. Out: as much of them as a record keeps, marked where it
//! is not all.

use std::borrow::Cow;

use super::event::ObjectRef;
use super::redact::Redactor;

/// What a record keeps of a message. Picket's own sentences are shorter; what makes one long is a client's text in it. Two of
/// them are in a denial's record, and JSON may double them.
const MESSAGE_BYTES: usize = 2 * 1024;

/// What a record keeps of a name. Kubernetes names have 253 bytes at most, proxied ones a scheme and a port besides.
const NAME_BYTES: usize = 512;

/// The text, or as many bytes of it as `limit` allows, marked as kube-apiserver marks it.
pub(crate) fn truncate(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("{}...TRUNCATED", &text[..text.floor_char_boundary(limit)])
}

/// What is kept of a message. Secrets go first, so that none is cut into a piece that nobody knows for one.
pub(super) fn message(redactor: &Redactor, text: impl Into<String>) -> String {
    let text = text.into();
    let clean = redactor.text(&text);
    match clean {
        Cow::Borrowed(_) if text.len() <= MESSAGE_BYTES => text,
        clean => truncate(&clean, MESSAGE_BYTES),
    }
}

/// What is kept of a name. One that is made of a token is the token's place in a path.
pub(super) fn name(redactor: &Redactor, name: String) -> String {
    let clean = redactor.name(&name);
    match clean {
        Cow::Borrowed(_) if name.len() <= NAME_BYTES => name,
        clean => truncate(&clean, NAME_BYTES),
    }
}

/// What is kept of an object's parts, all of which are pieces of a path.
pub(super) fn object(redactor: &Redactor, object: ObjectRef) -> ObjectRef {
    let kept = |part: String| name(redactor, part);
    ObjectRef {
        resource: kept(object.resource),
        namespace: object.namespace.map(kept),
        name: object.name.map(kept),
        api_group: kept(object.api_group),
        api_version: kept(object.api_version),
        subresource: object.subresource.map(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_truncated_between_characters_and_marked() {
        assert_eq!(truncate("/api", 8), "/api");
        assert_eq!(truncate("/api/v1/pods", 4), "/api...TRUNCATED");
        assert_eq!(truncate("aé", 2), "a...TRUNCATED");
    }

    #[test]
    fn a_token_is_taken_out_before_a_text_is_truncated() {
        let redactor = Redactor::new(&[0; 32]);
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl", "x".repeat(MESSAGE_BYTES));
        for kept in [
            message(
                &redactor,
                format!("may not get pods \"{token}\" in namespace \"n\": no"),
            ),
            name(&redactor, token),
        ] {
            assert!(!kept.contains("eyJ") && kept.contains("***"), "{kept}");
        }
        let plain = "web-0".to_owned();
        assert_eq!(name(&redactor, plain.clone()), plain);
    }
}
