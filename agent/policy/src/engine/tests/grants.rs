//! Grants against the meaning RBAC gives their rules.

use super::*;

/// Whether it is granted, the request, the rules.
const TABLE: &str = "
yes | GET /api/v1/namespaces/n/pods/x              | {verbs: [get], apiGroups: [''], resources: [pods]}
no  | GET /api/v1/namespaces/n/pods                | {verbs: [get], apiGroups: [''], resources: [pods]}
no  | GET /api/v1/namespaces/n/pods?watch=1        | {verbs: [list], apiGroups: [''], resources: [pods]}
no  | GET /api/v1/namespaces/n/pods/x/log          | {verbs: [get], apiGroups: [''], resources: [pods]}
yes | GET /api/v1/namespaces/n/pods/x/log          | {verbs: [get], apiGroups: [''], resources: [pods/log]}
no  | GET /api/v1/namespaces/n/pods/x              | {verbs: [get], apiGroups: [''], resources: [pods/log]}
yes | GET /api/v1/namespaces/n/pods/x/log          | {verbs: [get], apiGroups: [''], resources: ['*']}
yes | GET /apis/apps/v1/namespaces/n/deployments/x/scale | {verbs: [get], apiGroups: [apps], resources: ['*/scale']}
no  | GET /apis/apps/v1/namespaces/n/deployments/x | {verbs: [get], apiGroups: [apps], resources: ['*/scale']}
no  | GET /apis/apps/v1/namespaces/n/deployments/x | {verbs: [get], apiGroups: [example.com], resources: [deployments]}
yes | GET /apis/apps/v1/namespaces/n/deployments/x | {verbs: [get], apiGroups: ['*'], resources: [deployments]}
no  | GET /api/v1/namespaces/n/Pods/x              | {verbs: [get], apiGroups: [''], resources: [pods]}
no  | DELETE /api/v1/namespaces/n/pods             | {verbs: [delete], apiGroups: [''], resources: [pods]}
no  | DELETE /api/v1/namespaces/n/pods/x           | {verbs: [deletecollection], apiGroups: [''], resources: [pods]}
yes | GET /api/v1/namespaces/n/pods/x  | {verbs: ['*'], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods/y  | {verbs: ['*'], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods    | {verbs: ['*'], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | POST /api/v1/namespaces/n/pods   | {verbs: ['*'], apiGroups: [''], resources: [pods], resourceNames: [x]}
yes | GET /api/v1/namespaces/n/pods?watch=1&fieldSelector=metadata.name=x | {verbs: [watch], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | DELETE /api/v1/namespaces/n/pods?fieldSelector=metadata.name=x | {verbs: ['*'], apiGroups: [''], resources: [pods], resourceNames: [x]}
yes | GET /api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dx | {verbs: [list], apiGroups: [''], resources: [pods], resourceNames: [x]}
yes | GET /api/v1/namespaces/n/pods?fieldSelector=metadata.name%3D%3Dx&limit=500 | {verbs: [list], apiGroups: [''], resources: [pods], resourceNames: [x]}
yes | GET /api/v1/namespaces/n/pods?fieldSelector=status.phase%3DRunning,metadata.name%3Dx | {verbs: [list], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dx | {verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dx | {verbs: [watch], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dy | {verbs: [list], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods?fieldSelector=metadata.name!%3Dx | {verbs: [list], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/namespaces/n/pods?labelSelector=metadata.name%3Dx | {verbs: [list], apiGroups: [''], resources: [pods], resourceNames: [x]}
no  | GET /api/v1/watch/namespaces/n/pods?fieldSelector=metadata.name%3Dx | {verbs: ['*'], apiGroups: [''], resources: [pods], resourceNames: [x]}
# Dry runs of what is stored, and nothing else.
yes | POST /api/v1/namespaces/n/pods?dryRun=All | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
yes | PUT /api/v1/namespaces/n/services/x?dryRun=All | {verbs: [create, update], apiGroups: [''], resources: [services], dryRun: Only}
no  | PUT /api/v1/namespaces/n/services/x?dryRun=All | {verbs: [update], apiGroups: [''], resources: [services], dryRun: Only}
yes | PATCH /apis/apps/v1/namespaces/n/deployments/x/scale?dryRun=All&fieldManager=k | {verbs: [patch], apiGroups: [apps], resources: [deployments/scale], dryRun: Only}
yes | PATCH /apis/apps/v1/namespaces/n/deployments/x?dryRun=All content-type:application/apply-patch+yaml | {verbs: [create, patch], apiGroups: [apps], resources: [deployments], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods?dryRun=all | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods?dryRun= | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods?DryRun=All | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods?dryRun=All&dryRun=All | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods?dryRun=All&dryRun= | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods?dryRun=All,All | {verbs: [create], apiGroups: [''], resources: [pods], dryRun: Only}
no  | GET /api/v1/namespaces/n/pods/x?dryRun=All | {verbs: [update], apiGroups: [''], resources: [pods], dryRun: Only}
no  | DELETE /api/v1/namespaces/n/pods/x?dryRun=All | {verbs: [update], apiGroups: [''], resources: [pods], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods/x/eviction?dryRun=All | {verbs: [create], apiGroups: [''], resources: ['*'], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods/x/binding?dryRun=All | {verbs: [create], apiGroups: [''], resources: ['*'], dryRun: Only}
no  | POST /api/v1/namespaces/n/pods/x/exec?command=id&dryRun=All | {verbs: [create], apiGroups: [''], resources: ['*'], dryRun: Only}
no  | PATCH /api/v1/namespaces/n/pods/x/resize?dryRun=All | {verbs: [patch], apiGroups: [''], resources: ['*'], dryRun: Only}
no  | POST /apis/authorization.k8s.io/v1/subjectaccessreviews?dryRun=All | {verbs: [create], apiGroups: ['*'], resources: ['*'], dryRun: Only}
no  | POST /apis/authentication.k8s.io/v1/tokenreviews?dryRun=All | {verbs: [create], apiGroups: ['*'], resources: ['*'], dryRun: Only}
# Paths behind a proxy, to read.
yes | GET /api/v1/nodes/x/proxy/stats/summary | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
yes | HEAD /api/v1/nodes/x/proxy/stats/summary?only_cpu_and_memory=true | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | POST /api/v1/nodes/x/proxy/stats/summary | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x/proxy/stats/summary/ | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x/proxy/stats | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x/proxy/stats/summary/more | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x/proxy/Stats/summary | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x/proxy?path=/stats/summary | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x/proxy/ | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}
no  | GET /api/v1/nodes/x:2379/proxy/metrics | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/metrics]}
no  | GET /api/v1/nodes/https:x:10250/proxy/metrics | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/metrics]}
no  | GET /api/v1/nodes/x:2379/proxy/metrics | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], resourceNames: [x], proxyPaths: [/metrics]}
yes | GET /api/v1/namespaces/n/services/web:http/proxy/metrics | {verbs: [get], apiGroups: [''], resources: [services/proxy], resourceNames: ['web:http'], proxyPaths: [/metrics]}
yes | GET /api/v1/namespaces/n/pods/x/proxy/metrics/cadvisor | {verbs: [get], apiGroups: [''], resources: [pods/proxy], proxyPaths: ['/metrics/*']}
no  | GET /api/v1/namespaces/n/pods/x/proxy/metrics | {verbs: [get], apiGroups: [''], resources: [pods/proxy], proxyPaths: ['/metrics/*']}
no  | GET /api/v1/namespaces/n/pods/x/proxy/metrics | {verbs: [get], apiGroups: [''], resources: [services/proxy], proxyPaths: ['/metrics*']}
no  | GET /api/v1/namespaces/n/pods/x/proxy/metrics connection:upgrade upgrade:websocket | {verbs: [get], apiGroups: [''], resources: [pods/proxy], proxyPaths: ['/metrics*']}
no  | GET /api/v1/nodes/x/proxy/run | {verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/metrics]}, {verbs: ['*'], apiGroups: ['*'], resources: ['*']}
yes | GET /metrics                                 | {verbs: [get], nonResourceURLs: [/metrics]}
no  | GET /metrics/slis                            | {verbs: [get], nonResourceURLs: [/metrics]}
yes | GET /metrics/slis                            | {verbs: [get], nonResourceURLs: ['/metrics/*']}
no  | POST /metrics                                | {verbs: [get], nonResourceURLs: ['*']}
# A session needs create, whichever method asks for it.
no  | GET /api/v1/namespaces/n/pods/x/exec?command=id  | {verbs: [get], apiGroups: [''], resources: ['*']}
yes | GET /api/v1/namespaces/n/pods/x/exec?command=id  | {verbs: [create], apiGroups: [''], resources: [pods/exec]}
yes | POST /api/v1/namespaces/n/pods/x/exec?command=id | {verbs: [create], apiGroups: [''], resources: [pods/exec]}
no  | GET /api/v1/namespaces/n/pods/x/attach           | {verbs: [create], apiGroups: [''], resources: [pods/exec]}
# A server-side apply can create.
yes | PATCH /api/v1/namespaces/n/pods/x | {verbs: [patch], apiGroups: [''], resources: [pods]}
no  | PATCH /api/v1/namespaces/n/pods/x content-type:application/apply-patch+yaml | {verbs: [patch], apiGroups: [''], resources: [pods]}
yes | PATCH /api/v1/namespaces/n/pods/x content-type:application/apply-patch+yaml | {verbs: [patch, create], apiGroups: [''], resources: [pods]}
yes | PATCH /api/v1/namespaces/n/pods/x content-type:application/apply-patch+cbor | {verbs: [patch], apiGroups: [''], resources: [pods]}, {verbs: [create], apiGroups: [''], resources: [pods]}
# So can an update of some resources, and of their status; the API server asks for both too.
no  | PUT /api/v1/namespaces/n/services/x | {verbs: [update], apiGroups: [''], resources: [services]}
no  | PUT /api/v1/namespaces/n/services/x | {verbs: [create], apiGroups: [''], resources: [services]}
yes | PUT /api/v1/namespaces/n/services/x | {verbs: [update, create], apiGroups: [''], resources: [services]}
yes | PUT /api/v1/namespaces/n/services/x | {verbs: [update], apiGroups: [''], resources: [services]}, {verbs: [create], apiGroups: [''], resources: [services]}
no  | PUT /api/v1/namespaces/n/services/x | {verbs: [update], apiGroups: [''], resources: [services]}, {verbs: [create], apiGroups: [''], resources: [services], resourceNames: [y]}
no  | PUT /api/v1/namespaces/n/services/x/status | {verbs: [update], apiGroups: [''], resources: [services/status]}
yes | PUT /api/v1/namespaces/n/services/x/status | {verbs: [update, create], apiGroups: [''], resources: [services/status]}
no  | PUT /api/v1/namespaces/n/endpoints/x   | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /api/v1/namespaces/n/events/x      | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /api/v1/namespaces/n/limitranges/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/coordination.k8s.io/v1/namespaces/n/leases/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/coordination.k8s.io/v1beta1/namespaces/n/leasecandidates/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/events.k8s.io/v1/namespaces/n/events/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/node.k8s.io/v1/runtimeclasses/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/rbac.authorization.k8s.io/v1/clusterroles/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/rbac.authorization.k8s.io/v1/namespaces/n/roles/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
no  | PUT /apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings/x | {verbs: [update], apiGroups: ['*'], resources: ['*']}
# Other resources, custom ones among them, are not created so, nor does a patch create any.
yes | PUT /api/v1/namespaces/n/configmaps/x | {verbs: [update], apiGroups: [''], resources: [configmaps]}
yes | PUT /apis/example.com/v1/namespaces/n/services/x | {verbs: [update], apiGroups: [example.com], resources: [services]}
yes | PATCH /api/v1/namespaces/n/services/x | {verbs: [patch], apiGroups: [''], resources: [services]}
# Verbs of roles that no request has may stand in a rule, and grant nothing.
no  | GET /api/v1/namespaces/n/serviceaccounts/x | {verbs: [impersonate, use], apiGroups: [''], resources: [serviceaccounts]}
yes | GET /api/v1/namespaces/n/serviceaccounts/x | {verbs: [impersonate, get], apiGroups: [''], resources: [serviceaccounts]}
no  | PATCH /apis/rbac.authorization.k8s.io/v1/clusterroles/x | {verbs: [escalate, bind], apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles]}
no  | GET /api/v1/namespaces/n/pods/x | {verbs: ['impersonate:user-info'], apiGroups: [authentication.k8s.io], resources: [users], resourceNames: ['agent:triage']}, {verbs: ['impersonate-on:user-info:get'], apiGroups: ['*'], resources: ['*']}
yes | GET /api/v1/namespaces/n/pods/x | {verbs: ['impersonate-on:user-info:get', get], apiGroups: ['*'], resources: ['*']}
no  | GET /metrics | {verbs: ['impersonate-on:user-info:get'], nonResourceURLs: ['*']}
yes | GET /metrics | {verbs: ['impersonate-on:serviceaccount:post', get], nonResourceURLs: [/metrics]}
no  | GET /api/v1/nodes/x | {verbs: ['impersonate:associated-node', 'impersonate:arbitrary-node', 'impersonate:serviceaccount'], apiGroups: [authentication.k8s.io], resources: [nodes, serviceaccounts, userextras/picket.dev/pod]}
# What every client needs comes with any grant.
yes | GET /api                  | {verbs: [get], apiGroups: [''], resources: [pods]}
yes | GET /apis/apps/v1         | {verbs: [get], apiGroups: [''], resources: [pods]}
yes | GET /openapi/v3/api/v1    | {verbs: [get], apiGroups: [''], resources: [pods]}
yes | GET /version              | {verbs: [get], apiGroups: [''], resources: [pods]}
no  | POST /version             | {verbs: [get], apiGroups: [''], resources: [pods]}
no  | GET /metrics              | {verbs: [get], apiGroups: [''], resources: [pods]}
yes | POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews | {verbs: [get], apiGroups: [''], resources: [pods]}
yes | POST /apis/authentication.k8s.io/v1/selfsubjectreviews      | {verbs: [get], apiGroups: [''], resources: [pods]}
no  | POST /apis/authorization.k8s.io/v1/subjectaccessreviews     | {verbs: [get], apiGroups: [''], resources: [pods]}
";

#[test]
fn grants_follow_rbac() {
    // What built-ins deny is not the question here.
    let exceptions = policy(
        "exceptions",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/apiserver-endpoints]",
    );
    for (granted, line, rules) in rows(TABLE) {
        let set = compile(&[&grant(&format!("[{rules}]")), &exceptions]);
        assert_eq!(passes(&set, line), granted, "{rules} on {line}");
    }
}

#[test]
fn a_grants_namespaces_bound_its_rules() {
    let text = grant("[{verbs: ['*'], apiGroups: ['*'], resources: ['*']}]");
    let set = compile(&[&text.replace("  rules:", "  namespaces: ['team-*']\n  rules:")]);
    for (granted, line, _) in rows(
        "yes | GET /api/v1/namespaces/team-a/pods | -
         no  | GET /api/v1/namespaces/prod/pods   | -
         no  | GET /api/v1/pods                   | -
         no  | GET /api/v1/nodes                  | -
         yes | GET /api/v1/namespaces/team-a      | -
         no  | GET /api/v1/namespaces             | -
         yes | GET /api                           | -",
    ) {
        assert_eq!(passes(&set, line), granted, "{line}");
    }
    let denial = denied(&set, "GET /api/v1/namespaces/prod/pods");
    assert!(
        denial.message().contains("pods in namespace team-*"),
        "{}",
        denial.message()
    );
}

#[test]
fn a_refusal_names_the_dry_run_that_would_pass() {
    let set = compile(&[&grant(
        "[{verbs: [create, patch], apiGroups: [''], resources: [configmaps], dryRun: Only}]",
    )]);
    let denial = denied(&set, "POST /api/v1/namespaces/n/configmaps");
    assert_eq!(
        denial.message(),
        "agent fixer may not create configmaps in namespace \"n\": a grant allows it as a dry run only. Allowed instead: the \
         same request with dryRun=All (kubectl --dry-run=server); create, patch configmaps with dryRun=All."
    );
    let denial = denied(&set, "GET /api/v1/namespaces/n/configmaps/c");
    assert!(
        denial
            .message()
            .ends_with("no grant allows it. Allowed instead: create, patch configmaps with dryRun=All."),
        "{}",
        denial.message()
    );
    // Where a rule refuses the dry run too, it is not offered.
    let set = compile(&[
        &grant("[{verbs: [create], apiGroups: [''], resources: [configmaps], dryRun: Only}]"),
        &deny("resources: [configmaps]"),
    ]);
    let denial = denied(&set, "POST /api/v1/namespaces/n/configmaps");
    assert!(
        !denial.message().contains("the same request"),
        "{}",
        denial.message()
    );
}

#[test]
fn a_grant_lifts_the_built_in_of_a_proxy_for_its_paths_and_as_long_as_it_holds() {
    let paths = "[{verbs: [get], apiGroups: [''], resources: [nodes/proxy], proxyPaths: [/stats/summary]}]";
    let stats = "GET /api/v1/nodes/x/proxy/stats/summary";
    let ends = grant(paths).replace("  to:", "  expiresAt: 1970-01-02T00:00:00Z\n  to:");
    let all = grant(ALL).replace("name: g", "name: all");
    // What else gives the resource does not outlast what lifts the built-in.
    let set = compile(&[&all, &ends]);
    let until = permitted(&set, stats).until().expect("an end");
    assert_eq!(until.to_string(), "1970-01-02T00:00:00Z");
    let later = set.recheck(&principal(&set, "fixer"), &request(stats), Inputs::at(until));
    assert!(matches!(later, Recheck::Deny(_)), "{later:?}");
    let denial = denied(&set, "GET /api/v1/nodes/x/proxy/pods");
    assert_eq!(denial.rule(), Some("builtin/nodes-proxy"));
    assert!(
        denial
            .message()
            .ends_with("Allowed instead: get nodes/proxy at /stats/summary."),
        "{}",
        denial.message()
    );
    // A Deny rule holds all the same.
    let set = compile(&[&ends, &deny("resources: [nodes/proxy]")]);
    assert_eq!(denied(&set, stats).cause(), Cause::Policy);
    // An exception from the built-in does not widen the grant.
    let exception = policy(
        "e",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/nodes-proxy]",
    );
    let set = compile(&[&ends, &exception]);
    assert_eq!(
        denied(&set, "GET /api/v1/nodes/x/proxy/pods").cause(),
        Cause::NoGrant
    );
    // Nor does a path lift what Picket's own namespace is kept by.
    let own = "[{verbs: [get], apiGroups: [''], resources: [services/proxy], proxyPaths: [/metrics]}]";
    let set = compile(&[&grant(own)]);
    let denial = denied(
        &set,
        "GET /api/v1/namespaces/picket-system/services/picket/proxy/metrics",
    );
    assert_eq!(denial.rule(), Some("builtin/picket-namespace"));
}

#[test]
fn a_grant_is_bound_by_name_where_each_of_its_namespaces_is_a_name() {
    let rules = "[{verbs: [get], apiGroups: [''], resources: [pods]}, {verbs: [list], apiGroups: [''], resources: [pods]}]";
    for (namespaces, is_bound) in [("", false), ("[a, b]", true), ("[a, 'b*']", false)] {
        let bound = match namespaces {
            "" => grant(rules),
            list => grant(rules).replace("  rules:", &format!("  namespaces: {list}\n  rules:")),
        };
        let set = compile(&[&bound]);
        let grant = &set.grants()[0];
        assert_eq!(grant.is_bound_by_name(), is_bound, "{namespaces}");
        assert_eq!(grant.rules_on_resources().count(), 2);
    }
    // Paths are in no namespace.
    let set = compile(&[&grant(ALL)]);
    let rules: Vec<_> = set.grants()[0].rules_on_resources().collect();
    assert_eq!((rules.len(), &rules[0].resources[..]), (1, &["*".to_owned()][..]));
    assert!(!rules[0].verbs.is_empty() && rules[0].verbs.iter().all(|verb| verb != "*" && verb != "head"));
}
