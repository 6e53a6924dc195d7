//! Permits, asks and denials: what they own, and how one becomes the other.

use super::*;
use crate::decision::{Approval, ApprovalMismatch, Recheck};

/// A set in which each rule named `ask` wants an approval: code can say so, files cannot yet.
fn asking(parts: &[&str]) -> PolicySet {
    let text = format!("{BASE}{}", parts.concat());
    let mut documents = read_documents("f.yaml", &text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    for document in &mut documents {
        if let AnyObject::Policy(policy) = &mut document.object {
            for rule in &mut policy.spec.rules {
                if rule.name == "ask" {
                    rule.action = Action::RequireApproval;
                }
            }
        }
    }
    PolicySet::compile(documents).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn ask_rule(name: &str, spec: &str) -> String {
    policy(
        name,
        &format!(
            "{spec}rules: [{{name: ask, action: Deny, message: A person looks., match: {{resources: [secrets]}}}}]"
        ),
    )
}

fn asked(set: &PolicySet, line: &str) -> Ask {
    match decide_as(set, "fixer", line) {
        Decision::Ask(ask) => ask,
        other => panic!("{line} was not asked about: {other:?}"),
    }
}

#[test]
fn a_permit_owns_the_head_that_was_judged_and_the_principal() {
    let set = compile(&[&grant(ALL)]);
    let line = "PATCH /api/v1/namespaces/n/pods/x?fieldManager=k x-mine:1";
    let permit = permitted(&set, line);
    assert_eq!(permit.request().words(), request(line).words());
    assert_eq!((permit.principal().name(), permit.approver()), ("fixer", None));
    let head = permit.into_head();
    assert_eq!(
        (
            head.method.as_str(),
            head.uri.to_string().as_str(),
            &head.headers["x-mine"]
        ),
        (
            "PATCH",
            "/api/v1/namespaces/n/pods/x?fieldManager=k",
            &http::HeaderValue::from_static("1")
        )
    );
}

#[test]
fn grants_are_looked_up_by_the_principals_name_alone() {
    // Both agents ask the same set for the same request; the grant is one's alone.
    let set = compile(&[&grant(ALL)]);
    assert!(matches!(
        decide_as(&set, "fixer", "GET /api/v1/pods"),
        Decision::Permit(_)
    ));
    assert!(matches!(
        decide_as(&set, "other", "GET /api/v1/pods"),
        Decision::Deny(_)
    ));
    // A principal of a set that has been replaced finds no grant in one that does not know it.
    let fixer = principal(&set, "fixer");
    let decision = PolicySet::default().decide(fixer, canonical("GET /api/v1/pods"), NOW);
    assert!(matches!(decision, Decision::Deny(_)));
}

#[test]
fn a_rule_that_asks_makes_an_ask_and_its_approval_a_permit() {
    let set = asking(&[&grant(ALL), &ask_rule("b", ""), &ask_rule("a", "")]);
    let ask = asked(&set, "GET /api/v1/namespaces/n/secrets/x");
    let rules: Vec<_> = ask.rules().iter().map(|rule| rule.policy.as_str()).collect();
    assert_eq!(rules, ["a", "b"]);
    let approval = Approval::new(&ask, "kim");
    let permit = ask.approve(approval).expect("its own approval");
    assert_eq!(permit.approver(), Some("kim"));
    assert_eq!(permit.into_head().uri.path(), "/api/v1/namespaces/n/secrets/x");
    assert!(passes(&set, "GET /api/v1/namespaces/n/pods/x"));
}

#[test]
fn an_approval_opens_no_other_request_and_no_other_agents() {
    let to_both = grant(ALL).replace("[fixer]", "[fixer, other]");
    let set = asking(&[&to_both, &ask_rule("a", "")]);
    let line = "GET /api/v1/namespaces/n/secrets/x";
    let approval = Approval::new(&asked(&set, line), "kim");
    let other = asked(&set, "GET /api/v1/namespaces/n/secrets/y");
    assert_eq!(other.approve(approval).err(), Some(ApprovalMismatch));
    let approval = Approval::new(&asked(&set, line), "kim");
    let Decision::Ask(others) = decide_as(&set, "other", line) else {
        panic!("not asked")
    };
    assert_eq!(others.approve(approval).err(), Some(ApprovalMismatch));
}

#[test]
fn nobody_is_asked_about_what_is_denied_or_not_granted() {
    let line = "GET /api/v1/namespaces/n/secrets/x";
    let deny = deny("resources: [secrets]");
    let set = asking(&[&grant(ALL), &ask_rule("a", ""), &deny]);
    assert_eq!(denied(&set, line).cause(), Cause::Policy);
    let pods = grant("[{verbs: [get], apiGroups: [''], resources: [pods]}]");
    let set = asking(&[&pods, &ask_rule("a", "")]);
    assert_eq!(denied(&set, line).cause(), Cause::NoGrant);
    let set = asking(&[&grant(ALL), &ask_rule("a", "mode: Audit\n  ")]);
    let permit = permitted(&set, line);
    assert_eq!(permit.would_deny()[0].rule, "ask");
}

#[test]
fn a_recheck_says_what_a_decision_would() {
    let line = "GET /api/v1/namespaces/n/secrets/x";
    let recheck = |set: &PolicySet| set.recheck(&principal(set, "fixer"), &request(line), NOW);
    let Recheck::Permit {
        user: as_user,
        until: None,
        filter: None,
    } = recheck(&compile(&[&grant(ALL)]))
    else {
        panic!("not permitted")
    };
    assert_eq!(as_user.username(), "u");
    assert_eq!(
        recheck(&asking(&[&grant(ALL), &ask_rule("a", "")])),
        Recheck::Ask {
            until: None,
            filter: None
        }
    );
    let deny = deny("resources: [secrets]");
    let Recheck::Deny(denial) = recheck(&compile(&[&grant(ALL), &deny])) else {
        panic!("not denied")
    };
    assert_eq!(denial.rule(), Some("r"));
}
