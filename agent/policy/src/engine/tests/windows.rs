//! Grants that hold at some times only, by the decisions they lead to.

use super::*;
use crate::decision::Recheck;

/// A grant of that name to the fixer, with these fields and rules.
fn grant_at(name: &str, fields: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: {name}}}\nspec:\n  to: {{identities: \
         [fixer]}}\n  upstream: {{impersonate: {{user: u}}}}\n  rules: {rules}\n  {fields}\n"
    )
}

const NIGHT: &str = "window: {daily: {from: '22:00', to: '06:00', timezone: Europe/Berlin}}";
const GET_PODS: &str = "[{verbs: [get], apiGroups: [''], resources: [pods]}]";
const POD: &str = "GET /api/v1/namespaces/ns/pods/p";

fn at(moment: &str) -> Inputs<'static> {
    Inputs::at(moment.parse().expect("a moment"))
}

/// Until when a request is given, or why it is not.
fn judged(set: &PolicySet, line: &str, moment: &str) -> Result<Option<String>, String> {
    match set.decide(principal(set, "fixer"), canonical(line), at(moment)) {
        Decision::Permit(permit) => Ok(permit.until().map(|until| until.to_string())),
        Decision::Ask(_) => panic!("{line} asks"),
        Decision::Deny(denial) => Err(denial.message().to_owned()),
    }
}

#[test]
fn a_grant_gives_nothing_outside_its_hours_and_says_when_they_are() {
    let set = compile(&[&grant_at("night", NIGHT, GET_PODS)]);
    let open = judged(&set, POD, "2027-01-15T23:00:00Z");
    assert_eq!(open, Ok(Some("2027-01-16T05:00:00Z".to_owned())));
    let refused = |moment| judged(&set, POD, moment).expect_err("a refusal");
    assert_eq!(
        refused("2027-01-15T20:59:59Z"),
        "agent fixer may not get pods \"p\" in namespace \"ns\": grant night gives this from 22:00 to 06:00 \
         Europe/Berlin; next at 2027-01-15T22:00:00+01:00."
    );
    assert!(refused("2027-01-16T05:00:00Z").contains("next at 2027-01-16T22:00:00+01:00"));
    // Nor does what comes with any grant come with one that gives nothing now.
    let version = judged(&set, "GET /version", "2027-01-16T05:00:00Z").expect_err("a refusal");
    assert!(version.contains("grant night gives this from 22:00"), "{version}");
    assert!(judged(&set, "GET /version", "2027-01-16T04:59:59Z").is_ok());
    // What no grant ever gives is not said to come.
    let never = judged(
        &set,
        "GET /api/v1/namespaces/ns/secrets/s",
        "2027-01-16T05:00:00Z",
    )
    .expect_err("a refusal");
    assert!(never.ends_with("no grant allows it."), "{never}");
}

#[test]
fn an_expired_grant_gives_nothing_and_is_named_by_its_end() {
    let set = compile(&[&grant_at("now", "expiresAt: 2027-01-15T12:00:00Z", GET_PODS)]);
    assert_eq!(
        judged(&set, POD, "2027-01-15T11:59:59.999Z"),
        Ok(Some("2027-01-15T12:00:00Z".to_owned()))
    );
    let refused = judged(&set, POD, "2027-01-15T12:00:00Z").expect_err("a refusal");
    assert!(
        refused.ends_with("grant now gave this until 2027-01-15T12:00:00Z; that time is over."),
        "{refused}"
    );
}

#[test]
fn the_sooner_end_of_two_grants_counts_where_each_gives_a_verb() {
    let rules = |verb: &str| format!("[{{verbs: [{verb}], apiGroups: [''], resources: [services]}}]");
    let set = compile(&[
        &grant_at("update", "expiresAt: 2027-01-15T12:00:00Z", &rules("update")),
        &grant_at("create", "expiresAt: 2027-01-15T11:00:00Z", &rules("create")),
    ]);
    let put = "PUT /api/v1/namespaces/ns/services/s";
    assert_eq!(
        judged(&set, put, "2027-01-15T10:00:00Z"),
        Ok(Some("2027-01-15T11:00:00Z".to_owned()))
    );
    let refused = judged(&set, put, "2027-01-15T11:00:00Z").expect_err("a refusal");
    assert!(refused.contains("grant create gave this until"), "{refused}");
    assert!(refused.contains("Allowed instead: update services"), "{refused}");
}

#[test]
fn what_is_allowed_instead_is_allowed_now() {
    let set = compile(&[
        &grant_at("night", NIGHT, GET_PODS),
        &grant_at(
            "always",
            "",
            "[{verbs: [list], apiGroups: [''], resources: [pods]}]",
        ),
    ]);
    let by_day = judged(&set, POD, "2027-01-15T12:00:00Z").expect_err("a refusal");
    assert!(by_day.ends_with("Allowed instead: list pods."), "{by_day}");
    let other = "DELETE /api/v1/namespaces/ns/pods/p";
    let by_night = judged(&set, other, "2027-01-15T23:00:00Z").expect_err("a refusal");
    assert!(
        by_night.ends_with("Allowed instead: get pods; list pods."),
        "{by_night}"
    );
    // One that holds always is taken where it gives the same.
    let set = compile(&[
        &grant_at("night", NIGHT, GET_PODS),
        &grant_at("always", "", GET_PODS),
    ]);
    assert_eq!(judged(&set, POD, "2027-01-15T12:00:00Z"), Ok(None));
}

#[test]
fn a_stream_is_judged_by_the_moment() {
    let set = compile(&[&grant_at("night", NIGHT, GET_PODS)]);
    let recheck = |moment| set.recheck(&principal(&set, "fixer"), &request(POD), at(moment));
    let Recheck::Permit { until, .. } = recheck("2027-01-15T21:00:00Z") else {
        panic!("not permitted")
    };
    let until = until.expect("an end");
    assert!(matches!(recheck(&until.to_string()), Recheck::Deny(_)));
}
