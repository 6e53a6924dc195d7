//! Rules with `oldObject`: what they see of the stored object, what is asked for it, and that a write is held to what was judged.

use std::sync::Arc;

use serde_json::{Value, json};

use super::conditions::{fires, when, with_body};
use super::*;
use crate::engine::OldObjectUse;
use crate::request::{BindError, BodyInput, OldObject, RequestObject, Verb};

/// Objects that say so are neither deleted nor lose the label that says so.
const PROTECTED: &str = "oldObject != null && oldObject.?metadata.?labels.?protected.orValue('') == 'true' && (object == null || \
                         object.?metadata.?labels.?protected.orValue('') != 'true')";

const MAP: &str = "/api/v1/namespaces/n/configmaps/x";

fn guarded(expression: &str) -> PolicySet {
    compile(&[
        &grant(ALL),
        &when(
            "verbs: [create, update, patch, delete], resources: [configmaps, services, pods]",
            expression,
        ),
    ])
}

fn stored(version: &str, protected: &str) -> OldObject {
    OldObject::Read(Arc::new(json!({
        "metadata": {"name": "x", "uid": "u1", "resourceVersion": version, "labels": {"protected": protected}},
    })))
}

/// A write with what the API server has, and what it would store.
fn write(line: &str, old: OldObject, object: RequestObject) -> CanonicalRequest {
    let mut request = canonical(line);
    request.set_old_object(old);
    request.set_object(object);
    request
}

fn labelled(protected: &str) -> RequestObject {
    RequestObject::Read(Arc::new(
        json!({"metadata": {"labels": {"protected": protected}, "resourceVersion": "7"}}),
    ))
}

#[test]
fn each_operation_sees_the_stored_object() {
    let set = guarded(PROTECTED);
    let merge = "content-type:application/merge-patch+json";
    for (line, old, object, is_denied) in [
        (format!("PUT {MAP}"), stored("7", "true"), labelled("false"), true),
        (format!("PUT {MAP}"), stored("7", "true"), labelled("true"), false),
        (format!("PUT {MAP}"), stored("7", "no"), labelled("false"), false),
        (
            format!("PATCH {MAP} {merge}"),
            stored("7", "true"),
            labelled(""),
            true,
        ),
        (
            format!("PATCH {MAP} {merge}"),
            stored("7", ""),
            labelled(""),
            false,
        ),
        (
            format!("DELETE {MAP}"),
            stored("7", "true"),
            RequestObject::Unread,
            true,
        ),
        (
            format!("DELETE {MAP}"),
            stored("7", ""),
            RequestObject::Unread,
            false,
        ),
        (
            format!("DELETE {MAP}"),
            OldObject::Absent,
            RequestObject::Unread,
            false,
        ),
    ] {
        let told = format!("{line} {old:?}");
        assert_eq!(fires(&set, write(&line, old, object)), is_denied, "{told}");
    }
    // What is new has none, and neither has what connects.
    let absent = guarded("oldObject == null");
    let body = r#"{"metadata": {"name": "x"}}"#;
    assert!(fires(
        &absent,
        with_body("POST /api/v1/namespaces/n/configmaps", body)
    ));
    let connects = compile(&[
        &grant(ALL),
        &when("verbs: [create], resources: [pods/exec]", "oldObject == null"),
    ]);
    assert!(fires(
        &connects,
        canonical("GET /api/v1/namespaces/n/pods/x/exec?command=ls")
    ));
}

#[test]
fn a_stored_object_that_cannot_be_seen_makes_the_rule_fire() {
    let ignore = "failurePolicy: Ignore\n  rules: [{name: r, action: Deny, match: {verbs: [update, delete], resources: [pods]}, when: \
                  'oldObject.x == 1 && false'}]";
    let set = compile(&[&grant(ALL), &policy("p", ignore)]);
    let pod = "/api/v1/namespaces/n/pods/x";
    for (old, why) in [
        (OldObject::Unread, "the stored object is not known"),
        (OldObject::TooLarge, "larger than 1.5 MiB"),
        (OldObject::Forbidden, "the agent's user needs `get` on it"),
    ] {
        for line in [
            format!("PUT {pod}"),
            format!("DELETE {pod}"),
            format!("PATCH {pod} content-type:application/merge-patch+json"),
        ] {
            let request = write(&line, old.clone(), RequestObject::Absent);
            let Decision::Deny(denial) = set.decide(principal(&set, "fixer"), request, NOW) else {
                panic!("{line} {old:?} was let through")
            };
            assert!(denial.message().contains(why), "{}", denial.message());
            assert!(denial.message().contains("(policy p, rule r)"));
        }
    }
    for (line, why) in [
        ("DELETE /api/v1/namespaces/n/pods", "for many objects at once"),
        (
            "POST /api/v1/namespaces/n/pods/x/eviction",
            "the stored object is not known",
        ),
        (
            "POST /api/v1/namespaces/n/pods/x/binding",
            "the stored object is not known",
        ),
    ] {
        assert!(denied(&set, line).message().contains(why), "{line}");
    }
    // What is known is judged.
    let known = write(&format!("DELETE {pod}"), stored("7", ""), RequestObject::Unread);
    assert!(!fires(&set, known));
}

#[test]
fn a_rule_about_evictions_themselves_is_about_a_creation() {
    let set = compile(&[
        &grant(ALL),
        &when(
            "verbs: [create], resources: [pods/eviction]",
            "oldObject == null && object.metadata.name == 'x'",
        ),
    ]);
    let line = "POST /api/v1/namespaces/n/pods/x/eviction";
    assert!(fires(&set, with_body(line, r#"{"metadata": {"name": "x"}}"#)));
    assert!(!fires(&set, with_body(line, r#"{"metadata": {"name": "y"}}"#)));
    // One that is about deletions too cannot know the pod.
    let both = compile(&[
        &grant(ALL),
        &when(
            "verbs: [create, delete], resources: [pods, pods/eviction]",
            "oldObject != null && oldObject.x == 1",
        ),
    ]);
    assert!(fires(&both, with_body(line, r#"{"metadata": {"name": "y"}}"#)));
}

#[test]
fn what_creates_by_an_update_is_judged_as_both() {
    let set = guarded("oldObject == null && request.operation == 'CREATE'");
    let apply = format!("PATCH {MAP}?fieldManager=m content-type:application/apply-patch+yaml");
    let service = "PUT /api/v1/namespaces/n/services/x";
    let map = format!("PUT {MAP}");
    let made = || RequestObject::Read(Arc::new(json!({"metadata": {}})));
    for (line, old, is_denied) in [
        (apply.as_str(), OldObject::Absent, true),
        (&apply, stored("7", ""), false),
        (service, OldObject::Absent, true),
        (service, stored("7", ""), false),
        (&map, OldObject::Absent, false),
    ] {
        let told = format!("{line} {old:?}");
        assert_eq!(fires(&set, write(line, old, made())), is_denied, "{told}");
    }
    let update = guarded("oldObject == null && request.operation == 'UPDATE'");
    assert!(fires(&update, write(&apply, OldObject::Absent, made())));
}

#[test]
fn the_stored_object_is_needed_only_where_a_rule_that_could_fire_looks_at_it() {
    let needs = |set: &PolicySet, line: &str| {
        let needs = set.needs(&principal(set, "fixer"), &request(line), NOW);
        let needed = needs.old_object.is_some() || needs.object.is_some();
        (needs.old_object, needs.object, needed && needs.only_to_note)
    };
    let set = guarded("oldObject.x == 1");
    let decide = Some(OldObjectUse::ToDecide);
    for (line, needed) in [
        (format!("PUT {MAP}"), (decide, Some(ObjectSource::Body), false)),
        (format!("PATCH {MAP}"), (decide, Some(ObjectSource::Probe), false)),
        (
            format!("PATCH {MAP} content-type:application/apply-patch+yaml"),
            (decide, Some(ObjectSource::Probe), false),
        ),
        (format!("DELETE {MAP}"), (decide, Some(ObjectSource::Body), false)),
        (
            "DELETE /api/v1/namespaces/n/configmaps".to_owned(),
            (None, None, false),
        ),
        (
            "POST /api/v1/namespaces/n/configmaps".to_owned(),
            (None, None, false),
        ),
        (
            "DELETE /api/v1/namespaces/n/secrets/x".to_owned(),
            (None, None, false),
        ),
        (
            "GET /api/v1/namespaces/n/configmaps/x".to_owned(),
            (None, None, false),
        ),
    ] {
        assert_eq!(needs(&set, &line), needed, "{line}");
    }
    let notes = |spec: &str| compile(&[&grant(ALL), &policy("p", spec)]);
    let rule = |action: &str| {
        format!(
            "rules: [{{name: r, action: {action}, match: {{verbs: [delete, update], resources: [configmaps]}}, when: oldObject.x}}]"
        )
    };
    let note = Some(OldObjectUse::ToNote);
    for set in [
        notes(&rule("Warn")),
        notes(&format!("mode: Audit\n  {}", rule("Deny"))),
    ] {
        for verb in ["DELETE", "PUT", "PATCH"] {
            assert_eq!(
                needs(&set, &format!("{verb} {MAP}")),
                (note, None, true),
                "{verb}"
            );
        }
    }
    let ungranted = compile(&[
        &grant("[{verbs: [get], apiGroups: [''], resources: [configmaps]}]"),
        &when("verbs: [delete], resources: [configmaps]", "oldObject.x"),
    ]);
    assert_eq!(needs(&ungranted, &format!("DELETE {MAP}")).0, None);
    assert_eq!(
        denied(&ungranted, &format!("DELETE {MAP}")).cause(),
        Cause::NoGrant
    );
}

#[test]
fn a_look_is_a_get_of_the_same_path_and_needs_no_grant_of_its_own() {
    let writes =
        "[{verbs: [update, patch, delete], apiGroups: [''], resources: [configmaps, configmaps/scale]}]";
    let set = compile(&[
        &grant(writes),
        &when("verbs: [update, delete], resources: [configmaps]", "oldObject.x"),
    ]);
    let look = |line: &str| set.decide_get(principal(&set, "fixer"), &canonical(line), NOW);
    for line in [
        format!("PUT {MAP}?fieldManager=m&dryRun=All content-type:application/json content-length:7"),
        format!("PATCH {MAP} content-type:application/merge-patch+json accept:text/plain"),
        format!("DELETE {MAP}?gracePeriodSeconds=0"),
    ] {
        let permit = look(&line).expect("a permit");
        assert_eq!(permit.request().verb, Verb::Get, "{line}");
        let head = permit.into_head();
        assert_eq!(
            (head.method.as_str(), head.uri.to_string()),
            ("GET", MAP.to_owned())
        );
        assert_eq!(head.headers["accept"], "application/json");
        assert!(!head.headers.contains_key("content-length") && !head.headers.contains_key("content-type"));
    }
    let of_subresource = look(&format!("PUT {MAP}/scale")).expect("a permit");
    assert_eq!(of_subresource.into_head().uri.to_string(), format!("{MAP}/scale"));
    for line in [
        "POST /api/v1/namespaces/n/configmaps",
        "DELETE /api/v1/namespaces/n/configmaps",
        "GET /api/v1/namespaces/n/configmaps/x",
        "PUT /api/v1/namespaces/n/services/s/proxy/x",
        "DELETE /version",
    ] {
        assert!(matches!(look(line), Err(None)), "{line}");
    }
    // What is refused whatever is stored is not looked for.
    let refuses = compile(&[&grant(writes), &deny("verbs: [delete], resources: [configmaps]")]);
    let refused = refuses.decide_get(
        principal(&refuses, "fixer"),
        &canonical(&format!("DELETE {MAP}")),
        NOW,
    );
    assert!(matches!(refused, Err(Some(denial)) if denial.rule() == Some("r")));
}

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
    assert_eq!(request.head().headers["content-type"], "application/json");
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
    let mut request = canonical(&put);
    request.set_old_object(OldObject::Absent);
    let input = BodyInput::Whole(b"{\"metadata\": {}}");
    request.bind_update(input).expect("bound");
    let RequestObject::Read(seen) = &request.kube().object else {
        panic!("{request:?}")
    };
    assert_eq!(seen.pointer("/metadata/resourceVersion"), None, "no rule sees it");
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
        let versionless = || OldObject::Read(Arc::new(json!({"metadata": {}})));
        assert_eq!(
            after(versionless(), BodyInput::Whole(b"{}")),
            OldObject::Unread,
            "{verb}"
        );
        assert_eq!(
            after(stored("7", ""), BodyInput::TooLarge),
            OldObject::TooLarge,
            "{verb}"
        );
        assert_eq!(
            after(OldObject::Absent, BodyInput::TooLarge),
            OldObject::TooLarge,
            "{verb}"
        );
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
    assert!(request.is_made_of_old(&made(""), true) && !request.is_made_of_old(&made("8"), false));

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

#[test]
fn finalizers_may_be_kept_from_being_taken_off() {
    let set = guarded(
        "oldObject != null && has(oldObject.metadata.finalizers) && \
         !oldObject.metadata.finalizers.all(f, f in object.metadata.?finalizers.orValue([]))",
    );
    let with = |finalizers: &[&str]| json!({"metadata": {"resourceVersion": "7", "finalizers": finalizers}});
    for (before, after, is_denied) in [
        (&["a"][..], &["a"][..], false),
        (&["a"], &["a", "b"], false),
        (&[], &["a"], false),
        (&["a", "b"], &["b"], true),
        (&["a"], &[], true),
    ] {
        let request = write(
            &format!("PUT {MAP}"),
            OldObject::Read(Arc::new(with(before))),
            RequestObject::Read(Arc::new(with(after))),
        );
        assert_eq!(fires(&set, request), is_denied, "{before:?} {after:?}");
    }
    let gone = write(
        &format!("PUT {MAP}"),
        OldObject::Read(Arc::new(with(&["a"]))),
        RequestObject::Read(Arc::new(json!({"metadata": {}}))),
    );
    assert!(fires(&set, gone));
}

#[test]
fn owners_may_be_kept_from_being_changed() {
    let set = guarded(
        "oldObject != null && object.metadata.?ownerReferences.orValue([]) != oldObject.metadata.?ownerReferences.orValue([])",
    );
    let with = |owners: &[&str]| {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"kind": "Pod", "uid": uid}))
            .collect();
        json!({"metadata": {"resourceVersion": "7", "ownerReferences": owners}})
    };
    for (before, after, is_denied) in [
        (with(&["a"]), with(&["a"]), false),
        (with(&["a"]), with(&["b"]), true),
        (with(&["a"]), with(&[]), true),
        (json!({"metadata": {"resourceVersion": "7"}}), with(&["a"]), true),
        (
            json!({"metadata": {"resourceVersion": "7"}}),
            json!({"metadata": {}}),
            false,
        ),
    ] {
        let told = format!("{before} {after}");
        let request = write(
            &format!("PUT {MAP}"),
            OldObject::Read(Arc::new(before)),
            RequestObject::Read(Arc::new(after)),
        );
        assert_eq!(fires(&set, request), is_denied, "{told}");
    }
}

#[test]
fn what_is_only_looked_at_may_be_gone_when_the_write_comes() {
    let set = guarded("request.operation == 'CREATE'");
    let service = "PUT /api/v1/namespaces/n/services/x";
    let decide = |request: CanonicalRequest| {
        matches!(
            set.decide(principal(&set, "fixer"), request, NOW),
            Decision::Deny(_)
        )
    };
    let held = write(service, stored("7", "no"), labelled("no"));
    assert!(!decide(held), "a write that is held to a version creates nothing");
    let mut looked_at = write(service, OldObject::Unread, labelled("no"));
    looked_at.look_at_old_object(stored("7", "no"));
    assert!(decide(looked_at));
}

#[test]
fn what_was_only_looked_at_lets_nothing_pass_once_a_rule_can_stop_it() {
    let enforced = guarded(PROTECTED);
    let audited = compile(&[
        &grant(ALL),
        &policy(
            "p",
            "mode: Audit\n  rules: [{name: r, action: Deny, match: {verbs: [update, delete], resources: [configmaps]}, when: \
             oldObject == null}]",
        ),
    ]);
    for old in [stored("7", "no"), OldObject::Absent] {
        for line in [format!("PUT {MAP}"), format!("DELETE {MAP}")] {
            let looked_at = || {
                let mut request = write(&line, OldObject::Unread, labelled("no"));
                request.look_at_old_object(old.clone());
                request
            };
            assert!(fires(&enforced, looked_at()), "{line} {old:?}");
            assert!(
                !fires(&enforced, write(&line, old.clone(), labelled("no"))),
                "{line} {old:?}"
            );
            let Decision::Permit(permit) = audited.decide(principal(&audited, "fixer"), looked_at(), NOW)
            else {
                panic!("{line}")
            };
            assert_eq!(
                permit.would_deny().len(),
                usize::from(old == OldObject::Absent),
                "{line}"
            );
        }
    }
}

#[test]
fn an_apply_that_creates_is_a_creation_whatever_version_it_names() {
    let apply = format!("PATCH {MAP}?fieldManager=m content-type:application/apply-patch+yaml");
    let patch = br#"{"metadata": {"resourceVersion": "5"}}"#;
    // The API server's answer to the dry run has the client's version where there is no object.
    let made = || json!({"metadata": {"name": "x", "resourceVersion": "5"}});
    let set = guarded("request.operation == 'CREATE'");
    for old in [OldObject::Unread, OldObject::Absent] {
        let mut request = canonical(&apply);
        request.set_old_object(old.clone());
        request.bind_patch(patch, made(), true).expect("bound");
        assert!(fires(&set, request), "{old:?}");
    }
    let notes = compile(&[
        &grant(ALL),
        &policy(
            "p",
            "rules: [{name: r, action: Warn, match: {verbs: [create], resources: [configmaps]}, when: \"has(object.metadata) \
             && request.operation == 'CREATE'\"}]",
        ),
    ]);
    let mut request = canonical(&apply);
    request.look_at_made(made(), true);
    let Decision::Permit(permit) = notes.decide(principal(&notes, "fixer"), request, NOW) else {
        panic!("refused")
    };
    assert_eq!(permit.warnings().len(), 1);
}
