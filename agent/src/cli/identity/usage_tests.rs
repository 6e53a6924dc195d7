//! What an audit log shows as used of each grant, by records.

use picket_policy::api::{AnyObject, read_documents};

use super::*;
use crate::audit::spool::chain::stored;

const IDENTITIES: &str = "\
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: b}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: b}}}
";

/// A grant to `a`, with these rules.
fn grant(name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: {name}}}\nspec: {{to: {{identities: [a]}}, upstream: \
         {{impersonate: {{user: u}}}}, rules: [{rules}]}}\n"
    )
}

/// A record of `a`, of the second `at`.
fn record(at: usize, outcome: &str, policy: &str, verb: &str, uri: &str) -> String {
    let event = format!(
        r#"{{"kind":"Event","stage":"ResponseComplete","verb":"{verb}","requestURI":"{uri}","stageTimestamp":"2026-01-02T03:04:{at:02}.000000Z","agent":{{"identity":"a"}},"decision":{{"outcome":"{outcome}","policy":"{policy}"}}}}"#
    );
    stored(&event, 1) + "\n"
}

fn usage(grants: &[String], records: &[String]) -> Usage {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log.jsonl");
    std::fs::write(&log, records.concat()).expect("written");
    let text = format!("{IDENTITIES}{}", grants.concat());
    let documents = read_documents("o.yaml", &text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let of_kind = documents.iter().filter_map(|document| match &document.object {
        AnyObject::Grant(grant) => Some(grant.clone()),
        AnyObject::Identity(_) | AnyObject::Policy(_) => None,
    });
    let grants = of_kind.collect();
    let set = PolicySet::compile(documents).expect("valid");
    let since = "2026-01-02T03:04:00Z".parse().expect("a moment");
    of(grants, &set, &[log], since).expect("reads")
}

const PODS: &str = "{apiGroups: [''], resources: [pods, pods/log], verbs: [get, list]}";

#[test]
fn an_unused_grant_is_to_be_deleted_and_a_used_one_to_be_narrowed() {
    let usage = usage(
        &[
            grant("pods", PODS),
            grant("maps", "{apiGroups: [''], resources: [configmaps], verbs: [get]}"),
        ],
        &[
            record(1, "allow", "pods", "list", "/api/v1/namespaces/x/pods?limit=500"),
            record(2, "allow", "pods", "list", "/api/v1/namespaces/x/pods?limit=500"),
            // Others say nothing of what is used: refused, and of discovery.
            record(3, "deny", "pods", "get", "/api/v1/namespaces/x/pods/a"),
            record(4, "allow", "maps", "get", "/version"),
        ],
    );
    let [pods, maps] = &usage.grants[..] else {
        panic!("{usage:?}")
    };
    assert_eq!((pods.requests, maps.requests), (2, 0));
    assert_eq!(
        pods.last.map(|at| at.to_string()).as_deref(),
        Some("2026-01-02T03:04:02Z")
    );
    let Proposal::Narrow(spec) = &pods.proposal else {
        panic!("{pods:?}")
    };
    assert_eq!(spec.namespaces, ["x"]);
    assert_eq!(
        (spec.rules.len(), &spec.rules[0].verbs[..]),
        (1, &["list".to_owned()][..])
    );
    assert_eq!(maps.proposal, Proposal::Delete);
}

#[test]
fn a_grant_of_which_all_was_used_is_kept_however_it_is_written() {
    let usage = usage(
        &[grant(
            "maps",
            "{apiGroups: [''], resources: [secrets, configmaps], verbs: [list]}",
        )],
        &[
            record(1, "allow", "maps", "list", "/api/v1/configmaps"),
            record(2, "unknown", "maps", "list", "/api/v1/secrets"),
        ],
    );
    assert_eq!(usage.grants[0].proposal, Proposal::Keep);
}

#[test]
fn a_patch_that_may_have_been_an_apply_keeps_the_right_to_create() {
    let rules = "{apiGroups: [''], resources: [configmaps], verbs: [patch, create, delete]}";
    let verbs = |uri: &str| {
        let usage = usage(
            &[grant("maps", rules)],
            &[record(1, "allow", "maps", "patch", uri)],
        );
        match &usage.grants[0].proposal {
            Proposal::Narrow(spec) => spec.rules[0].verbs.clone(),
            other => panic!("{other:?}"),
        }
    };
    let uri = "/api/v1/namespaces/x/configmaps/c";
    assert_eq!(verbs(uri), ["patch"]);
    assert_eq!(
        verbs(&format!("{uri}?fieldManager=kubectl&force=false")),
        ["create", "patch"]
    );
}

#[test]
fn names_are_kept_where_a_rule_has_names() {
    let rules = "{apiGroups: [''], resources: [secrets], resourceNames: [one, two], verbs: [get]}";
    let usage = usage(
        &[grant("secrets", rules)],
        &[record(
            1,
            "allow",
            "secrets",
            "get",
            "/api/v1/namespaces/x/secrets/two",
        )],
    );
    let Proposal::Narrow(spec) = &usage.grants[0].proposal else {
        panic!("{usage:?}")
    };
    assert_eq!(spec.rules[0].resource_names, ["two"]);
}

#[test]
fn a_record_that_was_cut_is_counted() {
    let usage = usage(
        &[grant("pods", PODS)],
        &[record(
            1,
            "allow",
            "pods",
            "get",
            "/api/v1/namespaces/x/pods/aaaa...TRUNCATED",
        )],
    );
    assert_eq!(usage.unread, 1);
    assert_eq!(usage.grants[0].proposal, Proposal::Delete);
}

/// A spec of grants with these rules.
fn spec(rules: &str) -> AgentGrantSpec {
    let text = format!("{IDENTITIES}{}", grant("g", rules));
    let documents = read_documents("o.yaml", &text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let grants = documents
        .into_iter()
        .filter_map(|document| match document.object {
            AnyObject::Grant(grant) => Some(grant.spec),
            AnyObject::Identity(_) | AnyObject::Policy(_) => None,
        });
    grants.last().expect("a grant")
}

#[test]
fn rules_give_all_where_they_do_so_together() {
    let rule = |verbs: &str, resources: &str| {
        format!("{{apiGroups: [''], resources: [{resources}], verbs: [{verbs}]}}")
    };
    let grant = spec(&rule("get, list", "pods, secrets"));
    let together = |rules: &[String]| gives_all(&spec(&rules.join(", ")), &grant);
    // Cut along verbs, along resources, and unevenly.
    assert!(together(&[rule("list, get", "secrets, pods")]));
    assert!(together(&[
        rule("get", "pods, secrets"),
        rule("list", "secrets, pods")
    ]));
    assert!(together(&[
        rule("get, list", "pods"),
        rule("get, list", "secrets")
    ]));
    let uneven = [
        rule("get", "pods, secrets"),
        rule("list", "pods"),
        rule("list", "secrets"),
    ];
    assert!(together(&uneven));
    assert!(!together(&uneven[..2]));
    assert!(!together(&[rule("get", "pods"), rule("list", "secrets")]));
    // A list without words is another right than one with some, and so is a dry run, and another namespace.
    let named =
        "{apiGroups: [''], resources: [pods, secrets], resourceNames: [a], verbs: [get, list]}".to_owned();
    assert!(!together(std::slice::from_ref(&named)));
    assert!(!gives_all(&grant, &spec(&named)));
    let (create, dry) = (
        rule("create", "pods"),
        rule("create", "pods").replace('}', ", dryRun: Only}"),
    );
    assert!(gives_all(&spec(&dry), &spec(&dry)) && !gives_all(&spec(&dry), &spec(&create)));
    let bound = AgentGrantSpec {
        namespaces: vec!["x".to_owned()],
        ..grant.clone()
    };
    assert!(!gives_all(&bound, &grant));
}

/// Its combinations would be texts for more memory than a node has.
#[test]
fn a_rule_of_many_lists_is_compared_without_its_combinations() {
    let numbered = |what: &str, count: usize| {
        let words = (0..count).map(|number| format!("{what}{number}"));
        words.collect::<Vec<_>>().join(", ")
    };
    let (groups, resources) = (numbered("group", 50), numbered("things", 200));
    let names = numbered("name", 256);
    let rule = format!(
        "{{apiGroups: [{groups}], resources: [{resources}], resourceNames: [{names}], verbs: [get, update, patch, delete]}}"
    );
    let usage = usage(
        &[grant("many", &rule)],
        &[record(
            1,
            "allow",
            "many",
            "get",
            "/apis/group1/v1/namespaces/x/things2/name3",
        )],
    );
    let Proposal::Narrow(spec) = &usage.grants[0].proposal else {
        panic!("{usage:?}")
    };
    assert_eq!(spec.rules[0].resource_names, ["name3"]);
}
