//! Rules with `oldObject`: what they see of the stored object, and what is asked for it.

use std::sync::Arc;

use serde_json::json;

use super::conditions::{fires, when, with_body};
use super::*;
use crate::engine::OldObjectUse;
use crate::request::{OldObject, RequestObject, Verb};

/// Objects that say so are neither deleted nor lose the label that says so.
const PROTECTED: &str = "oldObject != null && oldObject.?metadata.?labels.?protected.orValue('') == 'true' && (object == null || \
                         object.?metadata.?labels.?protected.orValue('') != 'true')";

pub(super) const MAP: &str = "/api/v1/namespaces/n/configmaps/x";

fn guarded(expression: &str) -> PolicySet {
    compile(&[
        &grant(ALL),
        &when(
            "verbs: [create, update, patch, delete], resources: [configmaps, services, pods]",
            expression,
        ),
    ])
}

pub(super) fn stored(version: &str, protected: &str) -> OldObject {
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

/// Which requests change or delete what is stored, and which of them one object that a GET of the same path shows.
#[test]
fn a_stored_object_is_what_a_write_of_one_object_finds() {
    for (line, acts, has_one) in [
        (format!("PUT {MAP}"), true, true),
        (format!("PATCH {MAP}"), true, true),
        (format!("DELETE {MAP}"), true, true),
        (format!("PUT {MAP}/scale"), true, true),
        (format!("GET {MAP}"), false, false),
        ("POST /api/v1/namespaces/n/configmaps".to_owned(), false, false),
        ("DELETE /api/v1/namespaces/n/configmaps".to_owned(), true, false),
        // A name in the selector makes no other request of it.
        (
            "DELETE /api/v1/namespaces/n/configmaps?fieldSelector=metadata.name%3Dx".to_owned(),
            true,
            false,
        ),
        ("PUT /api/v1/namespaces/n/configmaps".to_owned(), true, false),
        // What is behind a session or a proxy is no object.
        ("PUT /api/v1/namespaces/n/pods/x/exec".to_owned(), false, false),
        (
            "DELETE /api/v1/namespaces/n/pods/x/portforward".to_owned(),
            false,
            false,
        ),
        (
            "DELETE /api/v1/namespaces/n/services/s/proxy/x".to_owned(),
            false,
            false,
        ),
        ("PATCH /api/v1/nodes/n/proxy/pods".to_owned(), false, false),
        ("DELETE /version".to_owned(), false, false),
    ] {
        let request = request(&line);
        let found = (request.acts_on_stored(), request.has_old_object());
        assert_eq!(found, (acts, has_one), "{line}");
    }
}

#[test]
fn each_operation_sees_the_stored_object() {
    let set = guarded(PROTECTED);
    let merge = "content-type:application/merge-patch+json";
    for (line, old, object, is_denied) in [
        (format!("PUT {MAP}"), stored("7", "true"), labelled("false"), true),
        (format!("PUT {MAP}"), stored("7", "true"), labelled("true"), false),
        (format!("PUT {MAP}"), stored("7", "no"), labelled("false"), false),
        // A status brings labels to the pod.
        (
            "PUT /api/v1/namespaces/n/pods/x/status".to_owned(),
            stored("7", "true"),
            labelled("false"),
            true,
        ),
        (
            "PUT /api/v1/namespaces/n/pods/x/status".to_owned(),
            stored("7", "no"),
            labelled("false"),
            false,
        ),
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
    // A binding of a pod creates one of the older kind too, which finds nothing.
    let bindings = compile(&[
        &grant(ALL),
        &when("verbs: [create], resources: [bindings]", "oldObject != null"),
    ]);
    let binding = "POST /api/v1/namespaces/n/pods/x/binding";
    assert!(!fires(
        &bindings,
        with_body(binding, r#"{"metadata": {"name": "x"}}"#)
    ));
}

#[test]
fn what_no_grant_allows_is_refused_for_that_unless_its_object_was_read() {
    let set = compile(&[
        &grant("[{verbs: [get], apiGroups: [''], resources: [pods]}]"),
        &when("verbs: [update, delete], resources: [pods]", "oldObject != null"),
    ]);
    let pod = "/api/v1/namespaces/n/pods/x";
    for line in [
        format!("DELETE {pod}"),
        format!("PUT {pod}"),
        format!("POST {pod}/eviction"),
        format!("POST {pod}/binding"),
    ] {
        assert_eq!(denied(&set, &line).cause(), Cause::NoGrant, "{line}");
    }
    for (old, object) in [
        (stored("7", ""), RequestObject::Unread),
        (stored("7", ""), labelled("")),
        (OldObject::Forbidden, RequestObject::Unread),
        (OldObject::Unread, labelled("")),
    ] {
        let told = format!("{old:?} {object:?}");
        let request = write(&format!("PUT {pod}"), old, object);
        let Decision::Deny(denial) = set.decide(principal(&set, "fixer"), request, NOW) else {
            panic!("{told} was let through")
        };
        assert_eq!(denial.cause(), Cause::Policy, "{told}");
    }
}

#[test]
fn a_trace_comes_to_what_the_decision_is() {
    let both = "verbs: [create, update, delete], resources: [pods, pods/eviction, services]";
    let pods = "/api/v1/namespaces/n/pods";
    for (expression, line) in [
        (
            "oldObject != null && oldObject.x == 1",
            format!("POST {pods}/x/eviction"),
        ),
        (
            "request.operation == 'CREATE'",
            "PUT /api/v1/namespaces/n/services/s".to_owned(),
        ),
        ("request.operation == 'CREATE'", format!("DELETE {pods}/x")),
        (
            "oldObject == null && request.verb == 'create'",
            format!("POST {pods}"),
        ),
        (
            "oldObject != null && request.verb == 'create'",
            format!("POST {pods}"),
        ),
    ] {
        let set = compile(&[&grant(ALL), &when(both, expression)]);
        let is_denied = fires(&set, canonical(&line));
        let traced = set.trace(&principal(&set, "fixer"), &request(&line), NOW);
        assert_eq!(traced.refused.is_some(), is_denied, "{line} by {expression}");
    }
}

#[test]
fn a_probe_is_not_judged_by_the_stored_object() {
    let set = guarded("oldObject != null");
    let probe = canonical(&format!("PATCH {MAP} content-type:application/merge-patch+json"));
    let probe = probe.as_probe().expect("a probe");
    assert!(set.decide_probe(principal(&set, "fixer"), probe, NOW).is_ok());
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
    // The new object of a delete is none, for which no body is read.
    let new = guarded("object == null");
    assert_eq!(needs(&new, &format!("DELETE {MAP}")), (None, None, false));
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
fn a_look_is_a_get_of_what_is_written_and_needs_no_grant_of_its_own() {
    let writes = "[{verbs: [update, patch, delete], apiGroups: [''], resources: [configmaps, '*/scale', '*/status', namespaces/finalize]}]";
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
        assert_eq!(head.headers["accept-encoding"], "identity");
        assert!(!head.headers.contains_key("content-length") && !head.headers.contains_key("content-type"));
    }
    // What is the whole object is read as that.
    for (line, path) in [
        (format!("PUT {MAP}/scale"), format!("{MAP}/scale")),
        (format!("PUT {MAP}/status?fieldManager=m"), MAP.to_owned()),
        (
            format!("PATCH {MAP}/%73tatus/ content-type:application/json-patch+json"),
            MAP.to_owned(),
        ),
        (
            "PUT /api/v1/namespaces/n/finalize".to_owned(),
            "/api/v1/namespaces/n".to_owned(),
        ),
    ] {
        let permit = look(&line).expect("a permit");
        let read = permit.request();
        assert!(read.verb == Verb::Get && read.name().is_some(), "{line}");
        assert_eq!(permit.into_head().uri.to_string(), path, "{line}");
    }
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
    let absent = write(service, OldObject::Absent, labelled("no"));
    assert!(absent.kube().held && decide(absent), "what finds nothing creates");
    // A look that is taken again is judged as the first one.
    let mut again = canonical(service);
    for _ in 0..2 {
        let look = set.decide_get(principal(&set, "fixer"), &again, NOW);
        assert!(matches!(look, Err(Some(_))), "{look:?}");
        again.set_old_object(stored("7", "no"));
    }
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
