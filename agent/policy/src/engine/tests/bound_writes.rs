//! Writes whose rules look at the stored object: what is sent names the version that was judged, so that nothing else is changed.

use std::sync::Arc;

use serde_json::{Value, json};

use super::canonical;
use super::old_object::{MAP, stored};
use crate::request::{BindError, BodyInput, OldObject, RequestObject, Verb};

/// What is sent for a write that finds this, and whether the client named the version; else why nothing is.
fn bound(line: &str, old: OldObject, body: &str) -> Result<(Value, bool), BindError> {
    let mut request = canonical(line);
    request.set_old_object(old);
    let input = BodyInput::Whole(body.as_bytes());
    let bound = match request.kube().verb {
        Verb::Delete => request.bind_delete(input),
        _ => request.bind_update(input),
    }?;
    let bound = bound.expect("a body");
    let headers = &request.head().headers;
    assert_eq!(headers["content-type"], "application/json");
    // Whoever sends a body in chunks says no length beside them.
    let length = headers.get("content-length");
    let length = length.map(|length| length.to_str().expect("text"));
    let expected = line
        .contains("content-length:")
        .then(|| bound.bytes.len().to_string());
    assert_eq!(length, expected.as_deref(), "{line}");
    let sent = serde_json::from_slice(&bound.bytes).expect("JSON");
    Ok((sent, bound.named_by_client))
}

fn is_conflict<T>(bound: &Result<T, BindError>) -> bool {
    matches!(bound, Err(BindError::Conflict(text)) if text.starts_with("Operation cannot be fulfilled on configmaps \"x\": "))
}

#[test]
fn an_update_is_held_to_the_version_that_was_judged() {
    let put = format!("PUT {MAP}");
    for (metadata, named) in [
        ("{}", false),
        (r#"{"resourceVersion": ""}"#, false),
        // The API server takes 0 for none, and would put the object over whatever is stored.
        (r#"{"resourceVersion": "0"}"#, false),
        (r#"{"resourceVersion": null}"#, false),
        (r#"{"resourceVersion": "7"}"#, true),
    ] {
        let sent = bound(&put, stored("7", ""), &format!("{{\"metadata\": {metadata}}}"));
        let expected = json!({"metadata": {"resourceVersion": "7", "uid": "u1", "namespace": "n"}});
        assert_eq!(sent, Ok((expected, named)), "{metadata}");
    }
    let sized = format!("{put} content-length:16");
    assert!(bound(&sized, stored("7", ""), r#"{"metadata": {}}"#).is_ok());
    let none = bound(&put, stored("7", ""), "{\"data\": {}}").expect("bound");
    assert_eq!(none.0["metadata"]["resourceVersion"], "7");
    assert!(is_conflict(&bound(
        &put,
        stored("7", ""),
        r#"{"metadata": {"resourceVersion": "6"}}"#
    )));
    let own = |uid: &str| {
        bound(
            &put,
            stored("7", ""),
            &format!("{{\"metadata\": {{\"uid\": \"{uid}\"}}}}"),
        )
    };
    assert!(own("u1").is_ok() && is_conflict(&own("u2")));
    for body in ["[]", r#"{"metadata": []}"#] {
        assert!(matches!(
            bound(&put, stored("7", ""), body),
            Err(BindError::Read(_))
        ));
    }
}

#[test]
fn an_update_that_found_nothing_can_only_create() {
    let put = format!("PUT {MAP}");
    for metadata in ["{}", r#"{"resourceVersion": "12"}"#] {
        let body = format!("{{\"metadata\": {metadata}}}");
        let (sent, _) = bound(&put, OldObject::Absent, &body).expect("bound");
        assert_eq!(sent["metadata"]["resourceVersion"], "1", "{metadata}");
    }
    // No rule sees it.
    for (metadata, sees) in [("{}", None), (r#"{"resourceVersion": "12"}"#, Some("12"))] {
        let mut request = canonical(&put);
        request.set_old_object(OldObject::Absent);
        let body = format!("{{\"metadata\": {metadata}}}");
        request
            .bind_update(BodyInput::Whole(body.as_bytes()))
            .expect("bound");
        let RequestObject::Read(seen) = &request.kube().object else {
            panic!("{request:?}")
        };
        let seen = seen.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        assert_eq!(seen, sees, "{metadata}");
    }
    // A dry run stores nothing, and its answer shows what is sent.
    let (sent, _) = bound(
        &format!("{put}?dryRun=All"),
        OldObject::Absent,
        "{\"metadata\": {}}",
    )
    .expect("read");
    assert_eq!(sent["metadata"].get("resourceVersion"), None);
}

#[test]
fn what_cannot_be_held_to_a_version_counts_as_not_known() {
    for verb in ["PUT", "DELETE"] {
        let line = format!("{verb} {MAP}");
        let after = |old: OldObject, input: BodyInput<'_>| {
            let mut request = canonical(&line);
            request.set_old_object(old);
            let bound = match verb {
                "PUT" => request.bind_update(input),
                _ => request.bind_delete(input),
            };
            bound.expect("read");
            request.kube().old_object.clone()
        };
        // The API server takes 0 for none.
        for metadata in [
            json!({}),
            json!({"resourceVersion": ""}),
            json!({"resourceVersion": "0"}),
        ] {
            let versionless = OldObject::Read(Arc::new(json!({"metadata": metadata})));
            assert_eq!(
                after(versionless, BodyInput::Whole(b"{}")),
                OldObject::Unread,
                "{verb} {metadata}"
            );
        }
        for input in [BodyInput::TooLarge, BodyInput::Unread] {
            for old in [stored("7", ""), OldObject::Absent] {
                assert_eq!(after(old, input), OldObject::TooLarge, "{verb} {input:?}");
            }
        }
    }
}

#[test]
fn a_patch_is_held_to_the_stored_object_and_one_that_found_nothing_can_only_create() {
    let merge = format!("PATCH {MAP} content-type:application/merge-patch+json");
    let made = |version: &str| json!({"metadata": {"resourceVersion": version}});
    let mut request = canonical(&merge);
    request.set_old_object(stored("7", ""));
    assert!(request.is_made_of_old(&made("7"), false));
    for (version, is_new) in [("8", false), ("", false), ("7", true)] {
        assert!(
            !request.is_made_of_old(&made(version), is_new),
            "{version} {is_new}"
        );
    }
    request.set_old_object(OldObject::Absent);
    for (version, is_new, is_of_old) in [
        ("", true, true),
        ("8", true, true),
        ("", false, true),
        ("8", false, false),
    ] {
        assert_eq!(
            request.is_made_of_old(&made(version), is_new),
            is_of_old,
            "{version} {is_new}"
        );
    }

    let apply = format!("PATCH {MAP}?fieldManager=m content-type:application/apply-patch+yaml");
    for (line, given, version) in [
        (&apply, "{}", Some("1")),
        (&apply, r#"{"metadata": {"resourceVersion": "12"}}"#, Some("1")),
        (
            &format!("PATCH {MAP}?fieldManager=m&dryRun=All content-type:application/apply-patch+yaml"),
            "{}",
            None,
        ),
    ] {
        let mut request = canonical(line);
        request.set_old_object(OldObject::Absent);
        let sent = request
            .bind_patch(given.as_bytes(), made(""), true)
            .expect("bound");
        let sent: Value = serde_json::from_slice(&sent.bytes).expect("JSON");
        let found = sent.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        assert_eq!(found, version, "{line} {given}");
    }
    // An apply that found an object could create another in its place; no other patch can.
    for (line, given, uid) in [
        (&apply, "{}", Some("u1")),
        (&apply, r#"{"metadata": {"uid": ""}}"#, Some("u1")),
        (&apply, r#"{"metadata": {"uid": "u1"}}"#, Some("u1")),
        (&merge, "{}", None),
    ] {
        let mut request = canonical(line);
        let made = json!({"metadata": {"resourceVersion": "7", "uid": "u1"}});
        let sent = request.bind_patch(given.as_bytes(), made, false).expect("bound");
        let sent: Value = serde_json::from_slice(&sent.bytes).expect("JSON");
        let found = sent.pointer("/metadata/uid").and_then(Value::as_str);
        assert_eq!(found, uid, "{line} {given}");
    }
    // The UID of a dry run that creates is none that the object will have.
    let mut request = canonical(&apply);
    let made_new = json!({"metadata": {"resourceVersion": "5", "uid": "u1"}});
    let sent = request.bind_patch(b"{}", made_new, true).expect("bound");
    assert_eq!(sent.bytes, b"{}");
    // Whose conflict it is.
    for (media, patch, named) in [
        ("merge-patch+json", "{}", false),
        (
            "merge-patch+json",
            r#"{"metadata": {"resourceVersion": "0"}}"#,
            false,
        ),
        (
            "merge-patch+json",
            r#"{"metadata": {"resourceVersion": "7"}}"#,
            true,
        ),
        ("json-patch+json", r#"[{"op": "remove", "path": "/data"}]"#, false),
        (
            "json-patch+json",
            r#"[{"op": "test", "path": "/metadata/resourceVersion", "value": "7"}]"#,
            true,
        ),
        (
            "json-patch+json",
            r#"[{"op": "replace", "path": "/metadata", "value": {}}]"#,
            true,
        ),
        (
            "json-patch+json",
            r#"[{"op": "replace", "path": "", "value": {"metadata": {}}}]"#,
            true,
        ),
    ] {
        let mut request = canonical(&format!("PATCH {MAP} content-type:application/{media}"));
        let sent = request
            .bind_patch(patch.as_bytes(), made("7"), false)
            .expect("bound");
        assert_eq!(sent.named_by_client, named, "{patch}");
        let sent: Value = serde_json::from_slice(&sent.bytes).expect("JSON");
        if sent.is_object() {
            assert_eq!(sent["metadata"]["resourceVersion"], "7", "{patch}");
        }
    }
    // An object that is not new and has no version cannot be named.
    for version in ["", "0"] {
        let refused = canonical(&merge).bind_patch(b"{}", made(version), false);
        assert!(refused.is_err(), "{version:?}");
    }
}

#[test]
fn a_delete_without_a_body_keeps_the_options_of_its_query() {
    let preconditions = json!({"resourceVersion": "7", "uid": "u1"});
    let options = |rest: Value| {
        let mut options = json!({"preconditions": preconditions});
        let fields = options.as_object_mut().expect("a mapping");
        fields.extend(rest.as_object().cloned().unwrap_or_default());
        options
    };
    for (query, expected) in [
        ("", json!({})),
        ("?dryRun=All", json!({"dryRun": ["All"]})),
        // As the API server reads them: it refuses the second.
        ("?dryRun=", json!({"dryRun": [""]})),
        ("?dryRun=All&dryRun=None", json!({"dryRun": ["All", "None"]})),
        ("?gracePeriodSeconds=0", json!({"gracePeriodSeconds": 0})),
        ("?gracePeriodSeconds=-1", json!({"gracePeriodSeconds": -1})),
        (
            "?propagationPolicy=Orphan",
            json!({"propagationPolicy": "Orphan"}),
        ),
        ("?propagationPolicy=", json!({"propagationPolicy": ""})),
        ("?orphanDependents=true", json!({"orphanDependents": true})),
        ("?orphanDependents=False", json!({"orphanDependents": false})),
        ("?orphanDependents=0", json!({"orphanDependents": false})),
        ("?orphanDependents", json!({"orphanDependents": true})),
        ("?pretty=true&timeout=5s&fieldManager=m", json!({})),
        ("?uid=u1&resourceVersion=", json!({})),
        (
            "?uid=&gracePeriodSeconds=30&dryRun=All",
            json!({"gracePeriodSeconds": 30, "dryRun": ["All"]}),
        ),
    ] {
        let sent = bound(&format!("DELETE {MAP}{query}"), stored("7", ""), "");
        assert_eq!(sent, Ok((options(expected), false)), "{query}");
    }
    let named = bound(&format!("DELETE {MAP}?resourceVersion=7"), stored("7", ""), "");
    assert_eq!(named, Ok((options(json!({})), true)));
    for query in ["resourceVersion=6", "uid=u2"] {
        let line = format!("DELETE {MAP}?{query}");
        assert!(is_conflict(&bound(&line, stored("7", ""), "")), "{query}");
    }
    for query in [
        "gracePeriodSeconds=",
        "gracePeriodSeconds=1.5",
        "ignoreStoreReadErrorWithClusterBreakingPotential=true",
        "laterOption=1",
        "DryRun=All",
    ] {
        let refused = bound(&format!("DELETE {MAP}?{query}"), stored("7", ""), "");
        assert!(matches!(refused, Err(BindError::Read(_))), "{query}");
    }
    // What is made by now was not judged.
    let (sent, _) = bound(&format!("DELETE {MAP}"), OldObject::Absent, "").expect("bound");
    assert_eq!(sent["preconditions"], json!({"resourceVersion": "1"}));
    // Nor is there a version to compare the client's own with.
    let named = bound(&format!("DELETE {MAP}?resourceVersion=6"), OldObject::Absent, "");
    assert_eq!(
        named,
        Ok((json!({"preconditions": {"resourceVersion": "1"}}), true))
    );
}

#[test]
fn a_delete_with_a_body_keeps_its_options() {
    let delete = format!("DELETE {MAP}?dryRun=All&gracePeriodSeconds=5");
    let kept = r#"{"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "later": {"a": 1}, "preconditions": GIVEN}"#;
    for (given, named) in [
        ("null", false),
        ("{}", false),
        (r#"{"uid": "u1"}"#, false),
        (r#"{"uid": null, "resourceVersion": null}"#, false),
        (r#"{"resourceVersion": "7"}"#, true),
    ] {
        let sent = bound(&delete, stored("7", ""), &kept.replace("GIVEN", given));
        let expected = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "later": {"a": 1},
            "preconditions": {"uid": "u1", "resourceVersion": "7"},
        });
        assert_eq!(sent, Ok((expected, named)), "{given}");
    }
    for given in [
        r#"{"resourceVersion": "6"}"#,
        r#"{"resourceVersion": ""}"#,
        r#"{"uid": "u2"}"#,
    ] {
        let sent = bound(&delete, stored("7", ""), &kept.replace("GIVEN", given));
        assert!(is_conflict(&sent), "{given}");
    }
    let yaml = bound(
        &format!("DELETE {MAP} content-type:application/yaml content-length:9"),
        stored("7", ""),
        "dryRun: [All]\n",
    );
    assert_eq!(yaml.expect("bound").0["dryRun"], json!(["All"]));
    for body in [
        "[]",
        r#"{"preconditions": []}"#,
        r#"{"dryRun": ["All"], "dryRun": []}"#,
        r#"{"ignoreStoreReadErrorWithClusterBreakingPotential": true}"#,
        // Another reader may take these for true.
        r#"{"ignoreStoreReadErrorWithClusterBreakingPotential": "true"}"#,
        r#"{"ignoreStoreReadErrorWithClusterBreakingPotential": 1}"#,
    ] {
        let refused = bound(&delete, stored("7", ""), body);
        assert!(matches!(refused, Err(BindError::Read(_))), "{body}");
    }
    let patch = format!("DELETE {MAP} content-type:application/merge-patch+json");
    assert!(matches!(
        bound(&patch, stored("7", ""), "{}"),
        Err(BindError::Read(_))
    ));
}
