//! The strictest limits of an agent.

use super::*;
use crate::engine::limits::{EffectiveLimits, Rate};

/// A policy about the fixer's group with these limits.
fn limits(name: &str, spec: &str, limits: &str) -> String {
    policy(name, &format!("subjects: {{{spec}}}\n  limits: {{{limits}}}"))
}

fn of<'s>(set: &'s PolicySet, name: &str) -> EffectiveLimits<'s> {
    set.limits(&principal(set, name))
}

#[test]
fn without_a_policy_about_the_agent_there_is_no_limit() {
    let of_another = limits("p", "identities: [other]", "concurrentRequests: 1");
    let set = compile(&[&of_another]);
    assert!(of(&set, "fixer").is_empty());
    assert!(!of(&set, "other").is_empty());
    assert!(of(&compile(&[&deny("verbs: [get]")]), "fixer").is_empty());
}

#[test]
fn of_several_policies_the_strictest_number_of_each_holds() {
    let named = limits(
        "by-name",
        "identities: [fixer]",
        "requestsPerSecond: 10, burst: 5, concurrentRequests: 9",
    );
    let group = limits(
        "by-group",
        "groups: [agents]",
        "requestsPerSecond: 4, burst: 50, repeatedDenialsPerMinute: 7",
    );
    let place = limits(
        "by-place",
        "namespaces: ['n*']",
        "concurrentRequests: 3, repeatedDenialsPerMinute: 8",
    );
    for parts in [[&named, &group, &place], [&place, &group, &named]] {
        let set = compile(&parts.map(String::as_str));
        let found = of(&set, "fixer");
        let rate = found.enforced.rate.expect("a rate");
        assert_eq!(
            rate.most,
            Rate {
                per_second: 4,
                burst: 5
            }
        );
        assert_eq!(&**rate.policy, "by-group");
        let concurrent = found.enforced.concurrent.expect("a number");
        assert_eq!((concurrent.most, &**concurrent.policy), (3, "by-place"));
        let denials = found.enforced.repeated_denials.expect("a number");
        assert_eq!((denials.most, &**denials.policy), (7, "by-group"));
        assert_eq!(found.audited, Default::default());
        // No group, and no rate then.
        assert_eq!(of(&set, "other").enforced.rate, None);
    }
}

#[test]
fn of_policies_that_set_the_same_the_first_by_name_is_told() {
    let (a, b) = (
        policy("a", "limits: {requestsPerSecond: 5, concurrentRequests: 2}"),
        policy("b", "limits: {requestsPerSecond: 5, concurrentRequests: 2}"),
    );
    for parts in [[&a, &b], [&b, &a]] {
        let set = compile(&parts.map(String::as_str));
        let found = of(&set, "fixer").enforced;
        assert_eq!(found.rate.map(|limit| &**limit.policy), Some("a"));
        assert_eq!(found.concurrent.map(|limit| &**limit.policy), Some("a"));
    }
}

#[test]
fn a_burst_that_is_not_given_is_two_seconds_worth() {
    let set = compile(&[&policy("p", "limits: {requestsPerSecond: 5}")]);
    let rate = of(&set, "fixer").enforced.rate.expect("a rate");
    assert_eq!(
        rate.most,
        Rate {
            per_second: 5,
            burst: 10
        }
    );
}

#[test]
fn policies_in_mode_audit_limit_apart() {
    let audit = policy("trial", "mode: Audit\n  limits: {requestsPerSecond: 1}");
    let set = compile(&[&audit, &policy("p", "limits: {requestsPerSecond: 5}")]);
    let found = of(&set, "fixer");
    assert_eq!(found.enforced.rate.map(|rate| rate.most.per_second), Some(5));
    assert_eq!(found.audited.rate.map(|rate| rate.most.per_second), Some(1));
}

#[test]
fn limits_alone_refuse_no_decision() {
    let set = compile(&[
        &grant(ALL),
        &policy("p", "limits: {requestsPerSecond: 1, concurrentRequests: 1}"),
    ]);
    permitted(&set, "GET /api/v1/pods");
    permitted(&set, "GET /api/v1/pods");
}
