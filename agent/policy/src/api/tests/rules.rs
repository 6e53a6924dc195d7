//! Rules of grants beyond RBAC's: dry runs, and paths behind a proxy.

use super::*;

/// The faults of a grant with this rule alone.
fn of(rule: &str) -> String {
    let (head, _) = GRANT.split_once("  rules:").expect("rules");
    faults(&format!("{head}  rules:\n  - {{{rule}}}\n"))
}

#[test]
fn a_dry_run_is_of_writes_to_what_is_stored() {
    for (rule, fault) in [
        (
            "verbs: [create, delete], apiGroups: [''], resources: [pods], dryRun: Only",
            "verb \"delete\": a rule with dryRun is about create, update and patch",
        ),
        (
            "verbs: ['*'], apiGroups: [''], resources: [pods], dryRun: Only",
            "verb \"*\": a rule with dryRun is about create, update and patch",
        ),
        (
            "verbs: [create], apiGroups: [''], resources: [pods/eviction], dryRun: Only",
            "resource \"pods/eviction\": a rule with dryRun is about objects, their status and their scale",
        ),
        (
            "verbs: [get], nonResourceURLs: [/metrics], dryRun: Only",
            "dryRun is of requests for resources; paths have no dry run",
        ),
        (
            "verbs: [create], apiGroups: [''], resources: [pods], dryRun: Never",
            "Only",
        ),
    ] {
        let found = of(rule);
        assert!(found.contains(fault), "{rule}: {found}");
        assert_eq!(found.lines().count(), 1, "{rule}: {found}");
    }
}

#[test]
fn a_proxy_path_is_one_that_a_request_can_have() {
    let rule = |paths: &str| {
        format!("verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [{paths}]")
    };
    for (rule, fault) in [
        (
            "verbs: [get], apiGroups: [''], resources: [nodes/proxy, nodes], proxyPaths: [/metrics]"
                .to_owned(),
            "proxyPaths is of nodes/proxy, services/proxy and pods/proxy of the core group",
        ),
        (
            "verbs: [get], apiGroups: ['*'], resources: [nodes/proxy], proxyPaths: [/metrics]".to_owned(),
            "proxyPaths is of nodes/proxy",
        ),
        (
            "verbs: [get, create], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/metrics]"
                .to_owned(),
            "verb \"create\": a rule with proxyPaths is about get",
        ),
        (rule("'*'"), "path \"*\" must start with /"),
        (rule("'/*'"), "names everything behind the proxy"),
        (rule("/"), "names everything behind the proxy"),
        (rule("metrics"), "must start with /"),
        (rule("/a/../b"), "an empty segment or one of dots"),
        (rule("/a//b"), "an empty segment or one of dots"),
        (rule("'/a*b'"), "with a * at the end alone"),
        (rule("'/a?x=1'"), "without a query"),
        (rule("'/a%2e'"), "written decoded"),
    ] {
        let found = of(&rule);
        assert!(found.contains(fault), "{rule}: {found}");
        assert_eq!(found.lines().count(), 1, "{rule}: {found}");
    }
}
