//! Decisions on requests as clients send them, by files as people write them.

mod bound_writes;
mod builtins;
mod conditions;
mod decisions;
mod effects;
mod examples;
mod exclusive;
mod exec;
mod filter;
mod grants;
mod limits;
mod namespaces;
mod old_object;
mod on_behalf_of;
mod params;
mod properties;
mod rules;
mod windows;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::api::read_documents;
use crate::api::v1alpha1::{Action, State};
use crate::decision::{Ask, Decision, Denial, Permit, Recheck};
use crate::identity::{Principal, PrincipalOrigin, Standing};
use crate::request::{CanonicalRequest, KubeRequest};

/// The moment of the decisions that are about no time.
const NOW: Inputs = Inputs {
    now: Timestamp::UNIX_EPOCH,
    namespaces: None,
};

const BASE: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec:
  owner: team-a
  groups: [agents]
  attest: {pod: {namespace: ns, serviceAccount: fixer}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: other}
spec:
  owner: team-b
  attest: {pod: {namespace: ns, serviceAccount: other}}
"#;

/// Everything.
const ALL: &str =
    "[{verbs: ['*'], apiGroups: ['*'], resources: ['*']}, {verbs: ['*'], nonResourceURLs: ['*']}]";

/// A grant to the fixer with these rules.
fn grant(rules: &str) -> String {
    format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g}}\nspec:\n  to: {{identities: \
         [fixer]}}\n  upstream: {{impersonate: {{user: u, groups: [a, b]}}}}\n  rules: {rules}\n"
    )
}

/// A policy with these spec fields.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n"
    )
}

/// A policy with one rule.
fn deny(matches: &str) -> String {
    policy(
        "p",
        &format!("rules: [{{name: r, action: Deny, message: Not so., match: {{{matches}}}}}]"),
    )
}

fn try_compile(text: &str) -> Result<PolicySet, Vec<Diagnostic>> {
    PolicySet::compile(read_documents("f.yaml", text)?)
}

fn compile(parts: &[&str]) -> PolicySet {
    let text = format!("{BASE}{}", parts.concat());
    try_compile(&text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// `METHOD TARGET [NAME:VALUE]...`
fn canonical(line: &str) -> CanonicalRequest {
    let mut words = line.split(' ');
    let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
    let mut request = http::Request::builder().method(method).uri(target);
    for header in words {
        let (name, value) = header.split_once(':').expect("a header");
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    CanonicalRequest::read(head).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn request(line: &str) -> KubeRequest {
    KubeRequest::clone(canonical(line).kube())
}

/// The agent of that name in its pod.
fn principal(set: &PolicySet, name: &str) -> Arc<Principal> {
    let identity = set
        .identities()
        .iter()
        .find(|identity| identity.name == name)
        .expect("an identity");
    let pod = identity.attest.pod.as_ref().expect("recognised by its pod");
    let origin = PrincipalOrigin::pod(&pod.namespace, "p");
    let principal = Principal::new(Arc::clone(identity), origin, "pod", Timestamp::UNIX_EPOCH);
    Arc::new(principal.expect("an active identity"))
}

fn decide_as(set: &PolicySet, name: &str, line: &str) -> Decision {
    set.decide(principal(set, name), canonical(line), NOW)
}

fn permitted(set: &PolicySet, line: &str) -> Permit {
    match decide_as(set, "fixer", line) {
        Decision::Permit(permit) => permit,
        Decision::Ask(ask) => panic!("{line}: asks by {:?}", ask.rules()),
        Decision::Deny(denial) => panic!("{line}: {}", denial.message()),
    }
}

fn denied(set: &PolicySet, line: &str) -> Denial {
    match decide_as(set, "fixer", line) {
        Decision::Deny(denial) => denial,
        other => panic!("{line} was not refused: {other:?}"),
    }
}

fn passes(set: &PolicySet, line: &str) -> bool {
    matches!(decide_as(set, "fixer", line), Decision::Permit(_))
}

/// The rows of a table: `yes|no`, a request, and what they are about.
fn rows(table: &str) -> impl Iterator<Item = (bool, &str, &str)> {
    table
        .lines()
        .map(str::trim)
        .filter(|row| !row.is_empty() && !row.starts_with('#'))
        .map(|row| {
            let mut columns = row.split(" | ").map(str::trim);
            let mut next = || columns.next().unwrap_or_else(|| panic!("three columns: {row}"));
            (next() == "yes", next(), next())
        })
}

#[test]
fn audit_notes_and_warn_warns_and_neither_refuses() {
    let audit =
        "mode: Audit\n  rules: [{name: r, action: Deny, message: Would not., match: {resources: [pods]}}]";
    let audit = policy("trial", audit);
    let warn = policy(
        "hint",
        "rules: [{name: w, action: Warn, message: Careful., match: {resources: [pods]}}]",
    );
    let set = compile(&[&grant(ALL), &audit, &warn]);
    let permit = permitted(&set, "GET /api/v1/pods");
    let impersonate = permit.user().impersonate().expect("a user");
    assert_eq!(impersonate.user, "u");
    assert_eq!(impersonate.groups, ["a", "b"]);
    assert_eq!((permit.policy(), permit.rule()), ("g", "rules[0]"));
    let [finding] = permit.would_deny() else {
        panic!("{permit:?}")
    };
    let told = (
        finding.policy.as_str(),
        finding.rule.as_str(),
        finding.message.as_str(),
    );
    assert_eq!(told, ("trial", "r", "Would not."));
    assert_eq!(permit.warnings()[0].message, "Careful.");
    assert_eq!(permitted(&set, "GET /version").rule(), "rules[1]");

    let narrow = compile(&[
        &grant("[{verbs: [get], apiGroups: [''], resources: [nodes]}]"),
        &audit,
    ]);
    assert_eq!(permitted(&narrow, "GET /version").rule(), "builtin/discovery");
    let denial = denied(&narrow, "GET /api/v1/pods");
    assert_eq!((denial.cause(), denial.would_deny().len()), (Cause::NoGrant, 1));
}

#[test]
fn nothing_is_offered_that_the_rule_denies_too() {
    let rules = "[{verbs: [get], apiGroups: [''], resources: [services]}, {verbs: [get], apiGroups: [''], resources: [nodes]}]";
    let pods = "GET /api/v1/namespaces/x/pods/y";
    let allowed = |matches: &str| {
        let set = compile(&[&grant(rules), &deny(matches)]);
        denied(&set, pods).allowed().to_owned()
    };
    for (matches, said) in [
        ("resources: ['*']", ""),
        ("resources: [pods, services]", "requests for nodes"),
        ("verbs: [get], resources: [pods, nodes]", "requests for services"),
        // Of these some may pass.
        ("namespaces: [x]", "requests for services, nodes"),
        (
            "resources: ['*'], exceptNames: [z]",
            "requests for services, nodes",
        ),
        (
            "apiGroups: [apps, ''], resources: [pods]",
            "requests for services, nodes",
        ),
    ] {
        assert_eq!(allowed(matches), said, "{matches}");
    }
}

#[test]
fn beside_a_policy_that_is_not_valid_nothing_is_offered() {
    let rule = |name: &str, matches: &str| {
        format!("{{name: {name}, action: Deny, message: Broken., match: {{{matches}}}}}")
    };
    let resources = rule(INVALID_POLICY, "resources: ['*']");
    let paths = rule(INVALID_POLICY_PATHS, "nonResourceURLs: ['*']");
    let set = compile(&[
        &grant(ALL),
        &policy("p", &format!("rules: [{resources}, {paths}]")),
    ]);
    for (line, rule) in [
        ("GET /api/v1/pods", INVALID_POLICY),
        ("DELETE /api/v1/namespaces/x/pods/y", INVALID_POLICY),
        ("GET /version", INVALID_POLICY_PATHS),
    ] {
        let denial = denied(&set, line);
        assert_eq!((denial.rule(), denial.allowed()), (Some(rule), ""), "{line}");
        assert!(denial.message().ends_with(": Broken."), "{}", denial.message());
    }
    // A built-in refuses first.
    let unknown = denied(&set, "GET /unknown");
    assert_eq!((unknown.cause(), unknown.allowed()), (Cause::Builtin, ""));
}

#[test]
fn the_order_of_files_and_rules_never_shows() {
    let first = policy(
        "a",
        "rules: [{name: one, action: Deny, match: {resources: [pods]}}]",
    );
    let second = policy(
        "b",
        "rules: [{name: two, action: Deny, match: {resources: [pods]}}]",
    );
    let there = denied(&compile(&[&grant(ALL), &first, &second]), "GET /api/v1/pods");
    let back = denied(&compile(&[&second, &first, &grant(ALL)]), "GET /api/v1/pods");
    assert_eq!(there, back);
    assert_eq!(there.policy(), Some("a"));
}

#[test]
fn refusals_say_who_what_why_and_what_else() {
    let rules = "[{verbs: [get, list, delete], apiGroups: [''], resources: [namespaces, pods]}]";
    let set = compile(&[&grant(rules), &deny("verbs: [delete], resources: [namespaces]")]);
    assert_eq!(
        denied(&set, "DELETE /api/v1/namespaces/x").message(),
        "agent fixer may not delete namespaces \"x\" (policy p, rule r): Not so. Allowed instead: get, list namespaces."
    );
    assert_eq!(
        denied(&set, "GET /api/v1/namespaces/x/secrets/y").message(),
        "agent fixer may not get secrets \"y\" in namespace \"x\": no grant allows it. Allowed instead: requests for \
         namespaces, pods."
    );
    let on_exec = "agent fixer may not create pods/exec \"y\" in namespace \"x\" (policy p, rule r): Not so.";
    let exec = "POST /api/v1/namespaces/x/pods/y/exec?command=sh";
    for commands in ["commands: ['sh*']", "exceptCommands: [ls]"] {
        let rule = deny(&format!("resources: [pods/exec], {commands}"));
        let all = compile(&[&grant(ALL), &rule]);
        assert_eq!(
            denied(&all, exec).message(),
            format!("{on_exec} Allowed instead: pods/exec with another command.")
        );
        // A WebSocket client asks by GET, and is told the same.
        assert_eq!(denied(&all, &exec.replace("POST", "GET")), denied(&all, exec));
        // Where no other command passes either, nothing is said.
        let any = policy(
            "q",
            "rules: [{name: s, action: Deny, match: {resources: [pods/exec]}}]",
        );
        let none = compile(&[&grant(ALL), &rule, &any]);
        assert_eq!(denied(&none, exec).message(), on_exec);
        let reads = grant("[{verbs: [get], apiGroups: [''], resources: [pods/exec]}]");
        assert_eq!(denied(&compile(&[&reads, &rule]), exec).message(), on_exec);
        // What an attach joins is unknown, so that no other command can be named.
        let attach = deny(&format!("resources: [pods/attach], {commands}"));
        let denial = denied(
            &compile(&[&grant(ALL), &attach]),
            "POST /api/v1/namespaces/x/pods/y/attach",
        );
        assert_eq!(denial.allowed(), "");
    }
    let denial = denied(&set, "PUT /apis/apps/v1/namespaces/x/deployments/y/scale");
    assert!(
        denial
            .message()
            .starts_with("agent fixer may not update deployments/scale.apps \"y\" in namespace \"x\": ")
    );

    let Decision::Deny(denial) = decide_as(&set, "other", "GET /api") else {
        panic!("let through")
    };
    assert_eq!(
        denial.message(),
        "agent other may not get /api: no AgentGrant names this agent, so nothing is allowed until a cluster operator \
         adds one."
    );
    assert_eq!(denial.cause(), Cause::NoGrant);

    let many: Vec<_> = (0..200)
        .map(|number| format!("resource-number-{number}"))
        .collect();
    let many = format!(
        "[{{verbs: [get], apiGroups: [''], resources: [{}]}}]",
        many.join(", ")
    );
    let denial = denied(&compile(&[&grant(&many)]), "GET /api/v1/pods");
    assert!(
        denial.allowed().len() <= 300 && denial.allowed().ends_with("..."),
        "{}",
        denial.allowed()
    );
}

#[test]
fn documents_are_checked_against_each_other() {
    let identity = |name: &str, labels: &str| {
        format!(
            "---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec:\n  owner: t\n  \
             attest: {{pod: {{namespace: ns, serviceAccount: s, selector: {{matchLabels: {labels}}}}}}}\n"
        )
    };
    let second = |user: &str| {
        grant(ALL)
            .replace("name: g", "name: h")
            .replace("user: u", &format!("user: {user}"))
    };
    let about = |subjects: &str| {
        let rules = "rules: [{name: r, action: Deny, match: {verbs: [get]}}]";
        policy("p", &format!("subjects: {{{subjects}}}\n  {rules}"))
    };
    let certificate = |name: &str, attest: &str| {
        format!(
            "---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec:\n  owner: t\n  \
             attest: {{{attest}}}\n"
        )
    };
    let (ci, cd) = ("spiffe: {id: 'spiffe://d/ci'}", "spiffe: {id: 'spiffe://d/cd'}");
    let with_pod = |spiffe: &str| format!("pod: {{namespace: ns, serviceAccount: s}}, {spiffe}");
    for (extra, fault) in [
        (
            certificate("x", ci) + &certificate("y", ci),
            "could match one certificate of \"spiffe://d/ci\"",
        ),
        (
            certificate("x", ci) + &certificate("y", &with_pod(ci)),
            "could match one certificate of \"spiffe://d/ci\"",
        ),
        (
            identity("x", "{a: b}") + &certificate("y", &with_pod(ci)),
            "could match one pod of service account ns/s",
        ),
        (
            format!("{}{}", grant(ALL), grant(ALL)),
            "AgentGrant \"g\" is already at f.yaml:",
        ),
        (
            grant(ALL).replace("[fixer]", "[nobody]"),
            "no AgentIdentity is named \"nobody\"",
        ),
        (
            grant(ALL).replace("identities: [fixer]", "groups: [nobodies]"),
            "no AgentIdentity is in a group \"nobodies\"",
        ),
        (
            about("identities: [nobody]"),
            "no AgentIdentity is named \"nobody\"",
        ),
        (
            about("groups: [nobodies]"),
            "no AgentIdentity is in a group \"nobodies\"",
        ),
        (
            identity("x", "{a: b}") + &identity("y", "{c: d}"),
            "AgentIdentity \"y\" and \"x\" (f.yaml:",
        ),
        (
            grant(ALL) + &second("v"),
            "identity \"fixer\" would act as user \"v\" by this grant and as user \"u\" by grant",
        ),
        (
            grant(ALL) + &second("u").replace("[a, b]", "[a]"),
            "would act as user \"u\" without group \"b\" by this grant and as user \"u\" with group \"b\" by grant",
        ),
        (
            grant(ALL)
                + &second("u").replace(
                    "impersonate: {user: u, groups: [a, b]}",
                    "serviceAccount: {namespace: ci, name: bot}",
                ),
            "would act as service account \"ci/bot\" by this grant and as user \"u\" by grant",
        ),
    ] {
        let errors = try_compile(&format!("{BASE}{extra}")).expect_err("a fault");
        assert!(
            errors.len() == 1 && errors[0].to_string().contains(fault),
            "wanted {fault}, found {errors:#?}"
        );
    }
    compile(&[&identity("x", "{a: b}"), &identity("y", "{a: c}")]);
    compile(&[&certificate("x", &with_pod(ci)), &certificate("y", &with_pod(cd))]);
    let set = compile(&[&certificate("x", ci), &certificate("y", cd)]);
    let named = |id: &str| -> Vec<_> {
        set.identities_of_spiffe_id(id)
            .map(|identity| identity.name.clone())
            .collect()
    };
    assert_eq!(
        (named("spiffe://d/ci"), named("spiffe://d/c")),
        (vec!["x".to_owned()], vec![])
    );
    compile(&[&grant(ALL), &second("u").replace("[a, b]", "[b, a]")]);
}

#[test]
fn pods_find_their_identities_and_time_their_standing() {
    let set = compile(&[]);
    let found = set.identities_of_pod("ns", "fixer", &BTreeMap::new());
    assert_eq!(found.len(), 1);
    assert!(
        set.identities_of_pod("ns", "default", &BTreeMap::new())
            .is_empty()
    );
    let sole = |set: &PolicySet| {
        let sole = set.sole_identity_of_pod("ns", "fixer", &BTreeMap::new());
        sole.map(|identity| identity.name.clone())
    };
    assert_eq!(sole(&set), Some(found[0].name.clone()));
    // A pod that must show a certificate too is not known by itself.
    let pod = "pod: {namespace: ns, serviceAccount: fixer}";
    assert!(BASE.contains(pod), "{BASE}");
    let both = BASE.replace(pod, &format!("{pod}, spiffe: {{id: 'spiffe://d/fixer'}}"));
    let both = try_compile(&both).expect("a set");
    assert_eq!(both.identities_of_pod("ns", "fixer", &BTreeMap::new()).len(), 1);
    assert_eq!(sole(&both), None);
    let mut identity = (*found[0]).clone();
    let at: Timestamp = "2027-01-01T00:00:00Z".parse().expect("a moment");
    let before: Timestamp = "2026-12-31T23:59:59Z".parse().expect("a moment");
    assert_eq!(identity.standing(at), Standing::Active);
    identity.expires_at = Some(at);
    assert_eq!(identity.standing(before), Standing::Active);
    assert_eq!(identity.standing(at), Standing::Expired(at));
    identity.expires_at = None;
    identity.review_by = Some(at);
    assert_eq!(identity.standing(at), Standing::Active);
    identity.suspended_from = Some(at);
    assert_eq!(identity.standing(before), Standing::Active);
    assert_eq!(identity.standing(at), Standing::Overdue(at));
    assert_eq!(identity.ends_at(), Some(at));
    identity.state = State::Suspended;
    assert_eq!(identity.standing(before), Standing::Suspended);
    identity.state = State::Revoked;
    assert_eq!(identity.standing(at), Standing::Revoked);
    assert_eq!(PolicySet::default().summary(), PolicyCounts::default());
}

#[test]
fn identities_that_one_token_could_have_are_refused_and_those_that_a_claim_or_a_pod_tells_apart_are_not() {
    let identity = |name: &str, attest: &str| {
        format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, attest: \
             {{{attest}}}}}\n---\n"
        )
    };
    let jwt = |more: &str| format!("jwt: {{issuer: 'https://i', subject: s{more}}}");
    let pod = |account: &str| format!("pod: {{namespace: n, serviceAccount: {account}}}, ");
    for (one, other, is_refused) in [
        (jwt(""), jwt(""), true),
        (jwt(", audience: a"), jwt(", audience: b"), true),
        (jwt(", claims: {a: x}"), jwt(""), true),
        (jwt(", claims: {a: x}"), jwt(", claims: {b: y}"), true),
        (jwt(", claims: {a: x}"), jwt(", claims: {a: y}"), false),
        (pod("a") + &jwt(""), pod("b") + &jwt(""), false),
        (pod("a") + &jwt(""), jwt(""), true),
    ] {
        let text = identity("one", &one) + &identity("other", &other);
        let compiled = PolicySet::compile(read_documents("f.yaml", &text).expect("valid"));
        assert_eq!(compiled.is_err(), is_refused, "{one} and {other}");
        if let Err(errors) = compiled {
            let said = errors[0].to_string();
            assert!(
                said.contains("could match one token of issuer https://i and subject \"s\""),
                "{said}"
            );
        }
    }
}
