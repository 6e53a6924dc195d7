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
    for (granted, line, rules) in rows(TABLE) {
        let set = compile(&[&grant(&format!("[{rules}]"))]);
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
