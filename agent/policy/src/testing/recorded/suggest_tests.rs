//! Suggested grants: they give all that was seen, each rule is needed, and nothing else is given.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::*;
use crate::api::{AnyObject, Document, read_documents};
use crate::engine::PolicySet;

const IDENTITIES: &str = "apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, attest: {pod: {namespace: agents, serviceAccount: a}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: b}
spec: {owner: o, attest: {pod: {namespace: agents, serviceAccount: b}}}
";

/// A request as a record tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    identity: &'static str,
    verb: &'static str,
    uri: String,
}

impl Sent {
    fn new(identity: &'static str, verb: &'static str, uri: impl Into<String>) -> Self {
        Self {
            identity,
            verb,
            uri: uri.into(),
        }
    }

    fn record(&self) -> Json {
        let subresource = self.uri.split('?').next().unwrap_or_default().split('/').nth(7);
        json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": self.verb, "requestURI": self.uri,
            "requestReceivedTimestamp": "2026-01-02T03:04:05.000000Z",
            "objectRef": {"subresource": subresource},
            "impersonatedUser": {"username": format!("user-{}", self.identity), "groups": ["readers", "system:authenticated"]},
            "agent": {"identity": self.identity, "attestation": "pod", "pod": {"namespace": "agents", "name": "p"}},
            "decision": {"outcome": "allow", "policy": "wide", "rule": "rules[0]"},
        })
    }

    fn event(&self) -> AuditEvent {
        serde_json::from_value(self.record()).expect("a record")
    }
}

fn suggested(all: &[Sent]) -> Suggestion {
    let mut rights = Rights::default();
    for sent in all {
        rights.add(&sent.event());
    }
    rights.suggest()
}

fn documents(suggestion: &Suggestion) -> Vec<Document> {
    let yaml = suggestion.to_yaml("a log");
    let mut documents = read_documents("i.yaml", IDENTITIES).expect("identities");
    if !suggestion.grants.is_empty() {
        documents
            .extend(read_documents("s.yaml", &yaml).unwrap_or_else(|errors| panic!("{yaml}\n{errors:#?}")));
    }
    documents
}

fn compiled(documents: Vec<Document>) -> PolicySet {
    PolicySet::compile(documents).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn is_allowed(set: &PolicySet, sent: &Sent) -> bool {
    match replay(set, &sent.event()).expect("a request") {
        Replayed::Told(comparison) => comparison.replayed.outcome == ReplayOutcome::Allowed,
        Replayed::Untold(untold) => panic!("{untold:?}: {sent:?}"),
    }
}

/// The documents without each rule in turn; a grant of one rule goes with it.
fn without_each_rule(documents: &[Document]) -> Vec<Vec<Document>> {
    let mut all = Vec::new();
    for (place, document) in documents.iter().enumerate() {
        let AnyObject::Grant(grant) = &document.object else {
            continue;
        };
        for rule in 0..grant.spec.rules.len() {
            let mut fewer = documents.to_vec();
            let mut grant = grant.clone();
            grant.spec.rules.remove(rule);
            if grant.spec.rules.is_empty() {
                fewer.remove(place);
            } else {
                fewer[place].object = AnyObject::Grant(grant);
            }
            all.push(fewer);
        }
    }
    all
}

/// Numbers that are the same in each run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("small")
    }

    fn one<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        let place = self.below(list.len());
        &list[place]
    }
}

const RESOURCES: [(&str, &str); 5] = [
    ("/api/v1", "pods"),
    ("/api/v1", "secrets"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/batch/v1", "jobs"),
    ("/api/v1", "configmaps"),
];
const NAMESPACES: [&str; 4] = ["shop", "dev", "prod", "test"];
const NAMES: [&str; 4] = ["web", "db", "true", "x-1"];
const PATHS: [&str; 4] = ["/metrics", "/healthz", "/logs/kubelet", "/version"];

/// Every request of a small world.
fn world() -> Vec<Sent> {
    let mut all = Vec::new();
    for identity in ["a", "b"] {
        for path in PATHS {
            all.push(Sent::new(identity, "get", path));
        }
        for name in NAMES {
            all.push(Sent::new(identity, "get", format!("/api/v1/nodes/{name}")));
        }
        all.push(Sent::new(identity, "list", "/api/v1/nodes"));
        for (base, resource) in RESOURCES {
            all.push(Sent::new(identity, "list", format!("{base}/{resource}")));
            for namespace in NAMESPACES {
                let list = format!("{base}/namespaces/{namespace}/{resource}");
                all.push(Sent::new(identity, "list", &list));
                all.push(Sent::new(identity, "watch", format!("{list}?watch=true")));
                all.push(Sent::new(identity, "create", &list));
                all.push(Sent::new(identity, "create", format!("{list}?dryRun=All")));
                for name in NAMES {
                    let object = format!("{list}/{name}");
                    for verb in ["get", "update", "delete", "patch"] {
                        all.push(Sent::new(identity, verb, &object));
                    }
                    let apply = format!("{object}?fieldManager=m&force=true");
                    all.push(Sent::new(identity, "patch", apply));
                    if resource == "pods" {
                        all.push(Sent::new(identity, "get", format!("{object}/log")));
                        all.push(Sent::new(identity, "get", format!("{object}/exec?command=ls")));
                        all.push(Sent::new(identity, "create", format!("{object}/eviction")));
                    }
                    if resource == "deployments" {
                        all.push(Sent::new(identity, "patch", format!("{object}/scale?dryRun=All")));
                    }
                }
            }
        }
    }
    all
}

/// The rights that a request takes, without namespace and name; its own verb first.
fn used_of(sent: &Sent) -> Vec<(&'static str, &'static str, String)> {
    let path = sent.uri.split('?').next().unwrap_or_default();
    let mut words = Vec::new();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if part == "namespaces" {
            parts.next();
        } else {
            words.push(part);
        }
    }
    // The base, version and resource, then the name; the base of a group has one word more.
    let name = if words.get(1) == Some(&"apis") { 5 } else { 4 };
    if path.starts_with("/api") && words.len() > name {
        words.remove(name);
    }
    let verbs: &[&'static str] = match sent.verb {
        _ if sent.uri.contains("/exec") => &["create"],
        "patch" if sent.uri.contains("force=") => &["patch", "create"],
        "update" => &["update", "create"],
        _ => std::slice::from_ref(&sent.verb),
    };
    let resource = words.join("/");
    verbs
        .iter()
        .map(|verb| (sent.identity, *verb, resource.clone()))
        .collect()
}

/// Grants of everything: what they do not give is denied by a built-in.
const WIDE: &str = "apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: wide}
spec:
  to: {identities: [a, b]}
  upstream: {impersonate: {user: u}}
  rules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*']}, {verbs: ['*'], nonResourceURLs: ['*']}]
";

#[test]
fn all_that_was_seen_is_given_and_no_rule_is_there_in_vain() {
    let wide = compiled(read_documents("w.yaml", &format!("{IDENTITIES}---\n{WIDE}")).expect("documents"));
    let mut world = world();
    // A built-in looks into new Secrets, which no record has.
    world.retain(|sent| match replay(&wide, &sent.event()).expect("a request") {
        Replayed::Told(comparison) => comparison.replayed.outcome == ReplayOutcome::Allowed,
        Replayed::Untold(untold) => {
            assert!(sent.uri.contains("/secrets"), "{untold:?}: {sent:?}");
            false
        }
    });
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    for round in 0..24 {
        let size = 1 + numbers.below([3, 12, 60][round % 3]);
        let seen: Vec<Sent> = (0..size).map(|_| numbers.one(&world).clone()).collect();
        let suggestion = suggested(&seen);
        assert!(suggestion.uncovered.is_empty(), "{:?}", suggestion.uncovered);
        let documents = documents(&suggestion);
        let set = compiled(documents.clone());
        for sent in &seen {
            assert!(
                is_allowed(&set, sent),
                "{sent:?}\n{}",
                suggestion.to_yaml("a log")
            );
        }
        for fewer in without_each_rule(&documents) {
            let set = compiled(fewer);
            assert!(
                seen.iter().any(|sent| !is_allowed(&set, sent)),
                "a rule is not needed: {seen:#?}\n{}",
                suggestion.to_yaml("a log")
            );
        }
        // Nothing is given of a verb and a resource that the agent did not use, but for what comes with any grant.
        let used: BTreeSet<_> = seen.iter().flat_map(used_of).collect();
        let implied = |sent: &Sent| ["/version", "/healthz"].contains(&sent.uri.as_str());
        let is_unused = |other: &&Sent| !implied(other) && !used.contains(&used_of(other)[0]);
        for other in world.iter().filter(is_unused) {
            assert!(
                !is_allowed(&set, other),
                "{other:?}\n{}",
                suggestion.to_yaml("a log")
            );
        }
    }
}

#[test]
fn a_grant_gives_what_was_seen_and_nothing_beside_it() {
    let seen = [
        Sent::new("a", "get", "/api/v1/namespaces/shop/pods/web"),
        Sent::new("a", "get", "/api/v1/namespaces/shop/pods/db"),
        Sent::new("a", "list", "/api/v1/namespaces/dev/pods"),
        Sent::new("a", "create", "/api/v1/namespaces/dev/pods?dryRun=All"),
        Sent::new("a", "get", "/api/v1/nodes/n1"),
    ];
    let suggestion = suggested(&seen);
    let set = compiled(documents(&suggestion));
    for (verb, uri, given) in [
        ("get", "/api/v1/namespaces/shop/pods/web", true),
        ("get", "/api/v1/namespaces/shop/pods/other", false),
        ("get", "/api/v1/namespaces/dev/pods/web", false),
        ("get", "/api/v1/namespaces/shop/pods/web/log", false),
        ("list", "/api/v1/namespaces/dev/pods", true),
        ("list", "/api/v1/namespaces/shop/pods", false),
        ("watch", "/api/v1/namespaces/dev/pods?watch=1", false),
        ("list", "/api/v1/pods", false),
        ("create", "/api/v1/namespaces/dev/pods?dryRun=All", true),
        ("create", "/api/v1/namespaces/dev/pods", false),
        ("get", "/api/v1/nodes/n1", true),
        ("get", "/api/v1/nodes/n2", false),
        ("get", "/apis/apps/v1/namespaces/shop/pods/web", false),
    ] {
        let sent = Sent::new("a", verb, uri);
        assert_eq!(
            is_allowed(&set, &sent),
            given,
            "{sent:?}\n{}",
            suggestion.to_yaml("a log")
        );
        let other = Sent::new("b", verb, uri);
        assert!(!is_allowed(&set, &other), "{other:?}");
    }
}

#[test]
fn a_dry_run_everywhere_gives_no_write_in_a_namespace() {
    // A namespace is in itself, and a new one in none.
    let seen = [
        Sent::new("a", "create", "/api/v1/namespaces?dryRun=All"),
        Sent::new("a", "patch", "/api/v1/namespaces/x?fieldManager=m&force=true"),
    ];
    let suggestion = suggested(&seen);
    compiled(documents(&suggestion));
    let gives_creation: Vec<_> = suggestion
        .grants
        .iter()
        .flat_map(|grant| grant.rules.iter().map(move |rule| (grant, &rule.rule)))
        .filter(|(_, rule)| rule.verbs.contains(&"create".to_owned()))
        .map(|(grant, rule)| (grant.namespaces.join(","), rule.dry_run.is_some()))
        .collect();
    assert_eq!(gives_creation, [(String::new(), true), ("x".to_owned(), false)]);
}

#[test]
fn the_yaml_says_of_each_rule_how_often_and_when() {
    let text = suggested(&[
        Sent::new("a", "get", "/api/v1/namespaces/shop/pods/web"),
        Sent::new("a", "list", "/api/v1/namespaces/shop/pods"),
        Sent::new("a", "list", "/api/v1/namespaces/shop/services"),
        Sent::new("a", "list", "/api/v1/namespaces/dev/pods"),
    ])
    .to_yaml("two logs");
    let expected = "\
# AgentGrants for the 4 allowed requests of two logs.
# 2026-01-02T03:04:05Z.
# Review each rule: it gives what was used, whether or not that was meant. Rare work may be missing.
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: a-dev}
spec:
  to: {identities: [a]}
  upstream: {impersonate: {user: user-a, groups: [readers]}}
  namespaces: [dev]
  rules:
  # 1 request, 2026-01-02T03:04:05Z
  - verbs: [list]
    apiGroups: [\"\"]
    resources: [pods]
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: a-shop}
spec:
  to: {identities: [a]}
  upstream: {impersonate: {user: user-a, groups: [readers]}}
  namespaces: [shop]
  rules:
  # 1 request, 2026-01-02T03:04:05Z
  - verbs: [get]
    apiGroups: [\"\"]
    resources: [pods]
    resourceNames: [web]
  # 2 requests, 2026-01-02T03:04:05Z
  - verbs: [list]
    apiGroups: [\"\"]
    resources: [pods, services]
";
    assert_eq!(text, expected);
}

#[test]
fn many_names_and_namespaces_are_left_out_and_that_is_said() {
    let names = |count: usize| -> Vec<Sent> {
        let uri = |number| format!("/api/v1/namespaces/shop/pods/p-{number}");
        (0..count)
            .map(|number| Sent::new("a", "get", uri(number)))
            .collect()
    };
    let few = suggested(&names(MAX_NAMED));
    assert_eq!(few.grants[0].rules[0].rule.resource_names.len(), MAX_NAMED);
    assert!(few.grants[0].rules[0].notes.is_empty());
    let many = suggested(&names(MAX_NAMED + 1));
    assert!(many.grants[0].rules[0].rule.resource_names.is_empty());
    assert!(
        many.to_yaml("x")
            .contains("  # more names than are listed were seen")
    );
    let namespaces = |count: usize| -> Vec<Sent> {
        let uri = |number| format!("/api/v1/namespaces/n-{number}/pods");
        (0..count)
            .map(|number| Sent::new("a", "list", uri(number)))
            .collect()
    };
    let few = suggested(&namespaces(MAX_NAMED));
    assert_eq!(few.grants[0].namespaces.len(), MAX_NAMED);
    let seen = namespaces(MAX_NAMED + 1);
    let many = suggested(&seen);
    assert_eq!(many.grants.len(), 1);
    assert!(many.grants[0].namespaces.is_empty() && many.grants[0].rules[0].seen.count == 17);
    assert!(
        many.to_yaml("x")
            .contains("  # seen in more namespaces than are listed")
    );
    let set = compiled(documents(&many));
    assert!(seen.iter().all(|sent| is_allowed(&set, sent)));
}

#[test]
fn what_no_rule_can_give_is_counted() {
    let mut seen = vec![
        Sent::new(
            "a",
            "list",
            "/api/v1/namespaces/shop/pods?labelSelector=a...TRUNCATED",
        ),
        Sent::new("a", "get", "/metrics/*"),
        Sent::new("a", "list", "/api/v1/namespaces/shop*/pods"),
        // In a rule these stand for everything, and in a request for nothing: the API server answers 404.
        Sent::new("a", "list", "/api/v1/namespaces/shop/*"),
        Sent::new("a", "list", "/apis/*/v1/namespaces/shop/pods"),
        Sent::new("a", "get", "/api/v1/namespaces/shop/*/x/log"),
        Sent::new("a", "get", "/api/v1/namespaces/shop/pods/x/*"),
        Sent::new("", "list", "/api/v1/namespaces/shop/pods"),
    ];
    seen.extend((0..=MAX_NAMED).map(|number| Sent::new("a", "get", format!("/logs/{number}"))));
    let suggestion = suggested(&seen);
    assert_eq!(suggestion.grants, []);
    let uncovered: Vec<_> = suggestion
        .uncovered
        .iter()
        .map(|(why, count)| (why.word(), *count))
        .collect();
    assert_eq!(
        uncovered,
        [
            ("no_identity", 1),
            ("request_line", 1),
            ("unnameable", 6),
            ("paths", 17)
        ]
    );
    assert!(
        suggestion
            .to_yaml("x")
            .contains("# 17 allowed requests are not covered: more paths")
    );
    // A denied request is no reason for a right.
    let mut rights = Rights::default();
    let mut denied = Sent::new("a", "get", "/metrics").record();
    denied["decision"] = json!({"outcome": "deny", "reason": "no_grant"});
    rights.add(&serde_json::from_value(denied).expect("a record"));
    assert_eq!(rights.suggest().seen.count, 0);
}

#[test]
fn what_comes_with_any_grant_stands_in_none_beside_others() {
    let discovery = Sent::new("a", "get", "/apis?timeout=32s");
    let review = Sent::new(
        "a",
        "create",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    );
    let alone = suggested(&[discovery.clone(), review.clone()]);
    let set = compiled(documents(&alone));
    assert!(is_allowed(&set, &discovery) && is_allowed(&set, &review));
    let with_more = suggested(&[discovery, review, Sent::new("a", "list", "/api/v1/nodes")]);
    let [grant] = &with_more.grants[..] else {
        panic!("{with_more:#?}")
    };
    assert_eq!(grant.rules.len(), 1);
}

#[test]
fn a_path_behind_a_proxy_is_named() {
    let sent = Sent::new(
        "a",
        "get",
        "/api/v1/namespaces/shop/services/web:80/proxy/metrics/",
    );
    let suggestion = suggested(std::slice::from_ref(&sent));
    assert_eq!(suggestion.grants[0].rules[0].rule.proxy_paths, ["/metrics/"]);
    let set = compiled(documents(&suggestion));
    assert!(is_allowed(&set, &sent), "{}", suggestion.to_yaml("x"));
    let other = Sent::new("a", "get", "/api/v1/namespaces/shop/services/web:80/proxy/admin");
    assert!(!is_allowed(&set, &other));
}

#[test]
fn the_user_upstream_is_that_of_the_records() {
    let mut rights = Rights::default();
    let mut add = |change: &dyn Fn(&mut Json)| {
        let mut record = Sent::new("a", "list", "/api/v1/nodes").record();
        change(&mut record);
        rights.add(&serde_json::from_value(record).expect("a record"));
    };
    add(&|_| {});
    add(&|record| {
        record["requestReceivedTimestamp"] = json!("2026-01-03T00:00:00Z");
        record["impersonatedUser"] =
            json!({"username": "system:serviceaccount:ci:bot", "groups": ["system:serviceaccounts"]});
        record["credential"] = json!({"method": "service-account-token"});
    });
    add(&|record| {
        record["agent"]["onBehalfOf"] =
            json!({"issuer": "https://login.test", "subject": "1", "username": "ann \"x\""});
    });
    let suggestion = rights.suggest();
    let text = suggestion.to_yaml("x");
    assert!(
        text.contains("upstream: {serviceAccount: {namespace: ci, name: bot}}"),
        "{text}"
    );
    assert!(
        text.contains("# 2 users or sets of groups were seen upstream"),
        "{text}"
    );
    let people = "upstream: {onBehalfOf: {issuers: [\"https://login.test\"], users: [\"ann \\\"x\\\"\"]}}";
    assert!(text.contains(people), "{text}");
    compiled(documents(&suggestion));
}

#[test]
fn a_name_cannot_break_out_of_the_yaml() {
    let sent = Sent::new(
        "a",
        "get",
        "/apis/w.test/v1/namespaces/shop/widgets/x%E2%80%AE%22%5D%20%7B%7D",
    );
    let suggestion = suggested(std::slice::from_ref(&sent));
    let set = compiled(documents(&suggestion));
    assert!(is_allowed(&set, &sent), "{}", suggestion.to_yaml("x"));
    let rule = &suggestion.grants[0].rules[0].rule;
    assert_eq!(rule.resource_names, ["x\u{202e}\"] {}"]);
    assert!(!suggestion.to_yaml("x").contains('\u{202e}'));
}

#[test]
fn a_name_that_no_rule_can_have_opens_no_other_names() {
    let pod = |name: &str| Sent::new("a", "get", format!("/api/v1/namespaces/shop/pods/{name}"));
    let suggestion = suggested(&[pod("web"), pod("*"), pod("Web"), pod("db")]);
    let uncovered: Vec<_> = suggestion.uncovered.iter().collect();
    assert_eq!(uncovered, [(&Uncovered::Unnameable, &2)]);
    let rule = &suggestion.grants[0].rules[0];
    assert_eq!(rule.rule.resource_names, ["db", "web"]);
    assert_eq!(rule.seen.count, 2);
    // Where there was no other name, there is no right.
    assert_eq!(suggested(&[pod("*")]).grants, []);
}

#[test]
fn a_dry_run_of_one_object_is_no_write_of_it_beside_a_write_of_another() {
    let patch = |name: &str, query: &str| {
        Sent::new(
            "a",
            "patch",
            format!("/apis/apps/v1/namespaces/shop/deployments/{name}{query}"),
        )
    };
    let seen = [
        patch("prod-db", "?dryRun=All"),
        patch("web", ""),
        patch("web", "?dryRun=All"),
    ];
    let suggestion = suggested(&seen);
    let [grant] = &suggestion.grants[..] else {
        panic!("{suggestion:#?}")
    };
    let rules: Vec<_> = grant
        .rules
        .iter()
        .map(|rule| (&rule.rule.resource_names[..], rule.rule.dry_run.is_some()))
        .collect();
    let names = [["web".to_owned()], ["prod-db".to_owned()]];
    assert_eq!(rules, [(&names[0][..], false), (&names[1][..], true)]);
    let set = compiled(documents(&suggestion));
    assert!(seen.iter().all(|sent| is_allowed(&set, sent)));
    assert!(!is_allowed(&set, &patch("prod-db", "")));
    // Nor does a write of one object give the dry run of any other.
    let seen = [
        Sent::new("a", "create", "/api/v1/namespaces/shop/pods?dryRun=All"),
        Sent::new(
            "a",
            "patch",
            "/api/v1/namespaces/shop/pods/x?fieldManager=m&force=true",
        ),
    ];
    let set = compiled(documents(&suggested(&seen)));
    assert!(seen.iter().all(|sent| is_allowed(&set, sent)));
    // A write gives the dry run too, also one of every name or namespace.
    let list = |query: &str| Sent::new("a", "create", format!("/api/v1/namespaces/shop/pods{query}"));
    let suggestion = suggested(&[list("?dryRun=All"), list("")]);
    assert_eq!(suggestion.grants[0].rules.len(), 1);
    assert_eq!(suggestion.grants[0].rules[0].seen.count, 2);
}

#[test]
fn the_root_behind_a_proxy_opens_no_other_service() {
    let proxied = |verb: &'static str, rest: &str| {
        Sent::new("a", verb, format!("/api/v1/namespaces/shop/services/{rest}"))
    };
    for seen in [
        proxied("get", "web/proxy/"),
        proxied("create", "web/proxy/metrics"),
    ] {
        let suggestion = suggested(std::slice::from_ref(&seen));
        let rule = &suggestion.grants[0].rules[0];
        assert_eq!(rule.rule.resource_names, ["web"], "{seen:?}");
        assert!(rule.rule.proxy_paths.is_empty());
        let text = suggestion.to_yaml("x");
        assert!(
            text.contains("  # it gives every path behind the proxy"),
            "{text}"
        );
    }
    let narrow = suggested(&[proxied("get", "web/proxy/metrics")]);
    let roots = suggested(&[proxied("get", "web/proxy"), proxied("get", "web/proxy/")]);
    assert_eq!(roots.grants[0].rules.len(), 1);
    assert_eq!(roots.grants[0].rules[0].rule.resource_names, ["web"]);
    // The rule for a path narrows none for the root.
    let both = suggested(&[proxied("get", "web/proxy/"), proxied("get", "web/proxy/metrics")]);
    let paths: Vec<_> = both.grants[0]
        .rules
        .iter()
        .map(|rule| rule.rule.proxy_paths.concat())
        .collect();
    assert_eq!(paths, ["", "/metrics"]);
    // As a pattern, such a path would give more than was seen.
    for rest in ["web/proxy/metrics*", "web/proxy/*", "web/proxy/a*b"] {
        let glob = suggested(&[proxied("get", rest)]);
        assert_eq!(glob.grants, [], "{rest}");
        assert_eq!(glob.uncovered.get(&Uncovered::Unnameable), Some(&1), "{rest}");
    }
    assert!(!narrow.to_yaml("x").contains("every path behind"));
}

#[test]
fn a_person_whose_name_is_a_glob_gives_it_to_nobody() {
    let mut rights = Rights::default();
    let mut add = |user: &str| {
        let mut record = Sent::new("a", "list", "/api/v1/nodes").record();
        record["agent"]["onBehalfOf"] =
            json!({"issuer": "https://login.test", "subject": "1", "username": user});
        rights.add(&serde_json::from_value(record).expect("a record"));
    };
    add("*");
    add("ann?");
    let suggestion = rights.suggest();
    assert_eq!(suggestion.grants, []);
    let uncovered: Vec<_> = suggestion.uncovered.iter().collect();
    assert_eq!(uncovered, [(&Uncovered::Unnameable, &2)]);
}

#[test]
fn what_the_api_server_refused_is_left_out_and_counted() {
    let mut rights = Rights::default();
    let mut add = |uri: &str, code: u16| {
        let mut record = Sent::new("a", "list", uri).record();
        record["responseStatus"] = json!({"code": code});
        rights.add(&serde_json::from_value(record).expect("a record"));
    };
    add("/api/v1/nodes", 200);
    add("/api/v1/secrets", 403);
    add("/api/v1/pods", 404);
    let suggestion = rights.suggest();
    let [grant] = &suggestion.grants[..] else {
        panic!("{suggestion:#?}")
    };
    assert_eq!(grant.rules[0].rule.resources, ["nodes", "pods"]);
    assert_eq!(suggestion.seen.count, 2);
    assert!(suggestion.uncovered.is_empty());
    let text = suggestion.to_yaml("x");
    assert!(
        text.contains("# 1 request is left out: Picket allowed it and the API server answered 403."),
        "{text}"
    );
}

#[test]
fn what_is_not_known_to_need_a_right_is_counted() {
    let uncovered = |rights: &mut Rights| {
        rights.add(&Sent::new("a", "list", "/api/v1/namespaces/shop/pods").event());
        let suggestion = rights.suggest();
        assert_eq!(suggestion.grants, []);
        suggestion.uncovered.into_keys().collect::<Vec<_>>()
    };
    let mut full = Rights {
        kept: MAX_RIGHTS,
        ..Rights::default()
    };
    assert_eq!(uncovered(&mut full), [Uncovered::Rights]);
    let mut without_probes = Rights {
        probes: Vec::new(),
        ..Rights::default()
    };
    assert_eq!(uncovered(&mut without_probes), [Uncovered::Unnameable]);
    // A grant in a namespace cannot give what is in none.
    let strange = suggested(&[Sent::new("a", "list", "/api/v1/namespaces/shop/nodes")]);
    assert_eq!(strange.grants, []);
    assert_eq!(strange.uncovered.get(&Uncovered::Unnameable), Some(&1));
}

#[test]
fn a_service_account_is_impersonated_where_its_token_was_not_used() {
    let mut record = Sent::new("a", "list", "/api/v1/nodes").record();
    record["impersonatedUser"]["username"] = json!("system:serviceaccount:ci:bot");
    let mut rights = Rights::default();
    rights.add(&serde_json::from_value(record).expect("a record"));
    let text = rights.suggest().to_yaml("x");
    assert!(
        text.contains("upstream: {impersonate: {user: \"system:serviceaccount:ci:bot\""),
        "{text}"
    );
}

#[test]
fn more_people_than_are_listed_are_everyone_and_that_is_said() {
    for (count, is_said) in [(MAX_NAMED, false), (MAX_NAMED + 1, true)] {
        let mut rights = Rights::default();
        for number in 0..count {
            let mut record = Sent::new("a", "list", "/api/v1/nodes").record();
            record["agent"]["onBehalfOf"] =
                json!({"issuer": "https://login.test", "subject": "1", "username": format!("ann-{number}")});
            rights.add(&serde_json::from_value(record).expect("a record"));
        }
        let suggestion = rights.suggest();
        let people = suggestion.grants[0].upstream.on_behalf_of.as_ref();
        let users = &people.expect("people").users;
        assert_eq!(users.len(), if is_said { 1 } else { count });
        assert_eq!(users.contains(&"*".to_owned()), is_said);
        let text = suggestion.to_yaml("x");
        assert_eq!(
            text.contains("# More than 16 people were seen"),
            is_said,
            "{text}"
        );
    }
}

#[test]
fn no_two_grants_have_one_name() {
    let suggestion = suggested(&[
        Sent::new("a", "list", "/api/v1/namespaces/shop/pods"),
        Sent::new("a-shop", "list", "/api/v1/nodes"),
    ]);
    let names: Vec<_> = suggestion.grants.iter().map(|grant| &grant.name[..]).collect();
    assert_eq!(names, ["a-shop", "a-shop-2"]);
}

#[test]
fn an_upgrade_behind_a_proxy_is_given_with_every_path() {
    let mut record = Sent::new("a", "get", "/api/v1/namespaces/shop/services/web/proxy/ws").record();
    record["session"] = json!({"protocol": "websocket"});
    let mut rights = Rights::default();
    rights.add(&serde_json::from_value(record).expect("a record"));
    // A path of proxyPaths is for reads without an upgrade.
    assert!(rights.suggest().grants[0].rules[0].rule.proxy_paths.is_empty());
}
