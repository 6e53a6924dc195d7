//! Which requests a rule is about, and whom.

use super::*;
use crate::api::AnyObject;
use crate::api::v1alpha1::{AgentPolicySpec, Match, Subjects};

/// Whether the rule fires, the request, the match.
const TABLE: &str = "
yes | DELETE /api/v1/namespaces/x        | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/namespaces/x/       | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/%6eamespaces/x      | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/Namespaces/x        | verbs: [delete], resources: [namespaces]
no  | GET /api/v1/namespaces/x           | verbs: [delete], resources: [namespaces]
no  | DELETE /api/v1/namespaces/x/pods/y | verbs: [delete], resources: [namespaces]
yes | DELETE /api/v1/namespaces/x/pods   | verbs: [delete], resources: [pods]
no  | DELETE /api/v1/namespaces/x/pods/y | verbs: [deletecollection], resources: [pods]
yes | PATCH /api/v1/namespaces/x/pods/y  | verbs: [update], resources: [pods]
yes | PUT /api/v1/namespaces/x/finalize  | verbs: [update], resources: [namespaces]
yes | PUT /api/v1/namespaces/x/status    | verbs: [update], resources: [namespaces]
no  | GET /api/v1/namespaces/x/finalize  | verbs: [update], resources: [namespaces]
yes | PUT /api/v1/namespaces/x/pods/y    | verbs: [patch], resources: [pods]
no  | PATCH /api/v1/namespaces/x/pods/y  | verbs: [create], resources: [pods]
yes | PATCH /api/v1/namespaces/x/pods/y content-type:application/apply-patch+yaml | verbs: [create], resources: [pods]
# A PUT creates some resources where there is none, by their status too.
yes | PUT /api/v1/namespaces/x/services/y        | verbs: [create], resources: [services]
yes | PUT /api/v1/namespaces/x/Services/y        | verbs: [create], resources: [services]
yes | PUT /api/v1/namespaces/x/services/y/status | verbs: [create], resources: [services]
yes | PUT /api/v1/namespaces/x/services/y/status | verbs: [create], resources: [services/status]
yes | PATCH /api/v1/namespaces/x/services/y/status content-type:application/apply-patch+yaml | verbs: [create], resources: [services]
yes | PUT /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/y | verbs: [create], apiGroups: ['*'], resources: [clusterrolebindings]
# The status of Kubernetes' own kinds brings labels, annotations and finalizers; of custom resources and some others it does not.
yes | PUT /api/v1/namespaces/x/services/y/status | verbs: [update], resources: [services]
yes | PATCH /api/v1/namespaces/x/Services/y/Status | verbs: [update], resources: [services]
yes | PATCH /apis/apps/v1/namespaces/x/deployments/y/status | verbs: [patch], apiGroups: ['*'], resources: [deployments]
yes | PUT /apis/apiextensions.k8s.io/v1/customresourcedefinitions/y/status | verbs: [update], apiGroups: ['*'], resources: [customresourcedefinitions]
yes | PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/y/approval | verbs: [update], apiGroups: ['*'], resources: [certificatesigningrequests]
yes | PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/y/status | verbs: [update], apiGroups: ['*'], resources: [certificatesigningrequests]
no  | GET /api/v1/namespaces/x/services/y/status | verbs: [update], resources: [services]
no  | GET /apis/certificates.k8s.io/v1/certificatesigningrequests/y/approval | verbs: [update], apiGroups: ['*'], resources: [certificatesigningrequests]
no  | PUT /apis/apps/v1/namespaces/x/deployments/y/scale | verbs: [update], apiGroups: ['*'], resources: [deployments]
no  | PUT /apis/storage.k8s.io/v1/volumeattachments/y/status | verbs: [update], apiGroups: ['*'], resources: [volumeattachments]
no  | PUT /apis/example.com/v1/namespaces/x/deployments/y/status | verbs: [update], apiGroups: ['*'], resources: [deployments]
no  | PUT /api/v1/namespaces/x/configmaps/y      | verbs: [create], resources: [configmaps]
no  | PUT /apis/example.com/v1/namespaces/x/services/y | verbs: [create], resources: [services]
no  | PATCH /api/v1/namespaces/x/services/y/status | verbs: [create], resources: [services]
# An eviction deletes its pod.
yes | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [delete], resources: [pods]
yes | POST /api/v1/namespaces/x/Pods/y/Eviction | verbs: [delete], resources: [pods]
yes | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [get, delete], resources: [pods], names: [y], namespaces: [x]
yes | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [create], resources: [pods/eviction]
no  | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [create], resources: [pods]
no  | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [deletecollection], resources: [pods]
no  | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [delete], resources: [pods], names: [z]
no  | POST /api/v1/namespaces/x/pods/y/eviction | verbs: [delete], resources: [services]
no  | POST /api/v1/namespaces/x/pods/y/binding  | verbs: [delete], resources: [pods]
yes | GET /api/v1/namespaces/x/secrets   | verbs: [get], resources: [secrets]
yes | GET /api/v1/watch/secrets          | verbs: [get], resources: [secrets]
no  | GET /api/v1/namespaces/x/secrets/y | verbs: [list], resources: [secrets]
yes | GET /api/v1/secrets?watch=1        | verbs: [list], resources: [secrets]
no  | GET /api/v1/secrets                | verbs: [watch], resources: [secrets]
yes | POST /api/v1/namespaces/x/configmaps | resources: [configmaps]
no  | GET /api/v1/namespaces/x/pods/y/log | resources: [pods]
yes | GET /api/v1/namespaces/x/pods/y/log | resources: [pods/log]
no  | GET /api/v1/namespaces/x/pods/y     | resources: [pods/log]
yes | GET /api/v1/namespaces/x/pods/y/log | resources: ['pods/*']
no  | GET /api/v1/namespaces/x/pods/y     | resources: ['pods/*']
yes | PUT /apis/apps/v1/namespaces/x/deployments/y/scale | resources: ['*/scale']
no  | PUT /apis/apps/v1/namespaces/x/deployments/y       | resources: ['*/scale']
yes | GET /api/v1/namespaces/x/pods/y/log | resources: ['*']
no  | GET /metrics                        | resources: ['*']
yes | GET /api/v1/namespaces/x/secrets/y  | resources: ['sec*']
no  | GET /apis/apps/v1/deployments       | apiGroups: ['']
yes | GET /apis/networking.k8s.io/v1/networkpolicies | apiGroups: ['*.k8s.io']
no  | GET /api/v1/namespaces/x/pods/y     | apiGroups: ['apps*'], resources: [pods]
yes | GET /api/v1/namespaces/prod-eu/pods | namespaces: ['prod-*']
yes | GET /api/v1/namespaces/PROD-eu/pods | namespaces: ['prod-*']
no  | GET /api/v1/namespaces/dev/pods     | namespaces: ['prod-*']
yes | DELETE /api/v1/namespaces/prod-eu   | namespaces: ['prod-*']
# All namespaces at once are those too, but what has no namespace is not.
yes | GET /api/v1/pods                    | namespaces: ['prod-*']
yes | GET /apis/example.com/v1/things     | namespaces: ['prod-*']
no  | GET /api/v1/nodes                   | namespaces: ['prod-*']
no  | GET /api/v1/nodes/n1                | namespaces: ['prod-*']
# A whole collection holds the named ones among the rest.
yes | GET /api/v1/namespaces/x/secrets/prod | verbs: [get, delete], resources: [secrets], names: [prod]
no  | GET /api/v1/namespaces/x/secrets/dev  | verbs: [get, delete], resources: [secrets], names: [prod]
yes | GET /api/v1/namespaces/x/secrets      | verbs: [get, delete], resources: [secrets], names: [prod]
no  | GET /api/v1/namespaces/x/secrets?fieldSelector=metadata.name=dev    | verbs: [get, delete], resources: [secrets], names: [prod]
yes | DELETE /api/v1/namespaces/x/secrets   | verbs: [get, delete], resources: [secrets], names: [prod]
yes | DELETE /api/v1/namespaces/x/secrets?fieldSelector=metadata.name=dev | verbs: [get, delete], resources: [secrets], names: [prod]
# A proxied object may have a scheme before its name and a port behind it.
yes | GET /api/v1/namespaces/x/services/admin/proxy/             | resources: [services/proxy], names: [admin]
yes | GET /api/v1/namespaces/x/services/admin:80/proxy/          | resources: [services/proxy], names: [admin]
yes | GET /api/v1/namespaces/x/services/https:admin:80/proxy/    | resources: [services/proxy], names: [admin]
yes | POST /api/v1/namespaces/x/services/http:admin:/proxy/x     | resources: [services/proxy], names: [admin]
yes | GET /api/v1/namespaces/x/services/http%3Aadmin%3A/proxy/   | resources: [services/proxy], names: [admin]
yes | GET /api/v1/namespaces/x/services/:admin:/proxy/           | resources: [services/proxy], names: [admin]
yes | GET /api/v1/namespaces/x/services/admin:/proxy/            | resources: [services/proxy], names: ['ad*']
yes | GET /api/v1/namespaces/x/Services/https:admin:/Proxy/      | resources: [services/proxy], names: [admin]
yes | GET /api/v1/namespaces/x/pods/admin-0:8080/proxy/          | resources: [pods/proxy], names: ['admin-*']
yes | GET /api/v1/nodes/https:n1:10250/proxy/pods                | resources: [nodes/proxy], names: [n1]
yes | GET /api/v1/namespaces/x/services/https:admin:80/proxy/    | resources: [services/proxy], names: ['https:admin:80']
yes | GET /api/v1/namespaces/x/services/a:http:admin:80/proxy/   | resources: [services/proxy], names: [admin]
no  | GET /api/v1/namespaces/x/services/https:other:80/proxy/    | resources: [services/proxy], names: [admin]
no  | GET /api/v1/namespaces/x/services/admin:80                 | verbs: [get, delete], resources: [services], names: [admin]
no  | GET /apis/example.com/v1/namespaces/x/services/admin:80/proxy/ | apiGroups: ['*'], resources: [services/proxy], names: [admin]
# WebSocket clients ask for a session by GET, SPDY clients by POST.
yes | GET /api/v1/namespaces/x/pods/y/exec?command=id  | verbs: [create], resources: [pods/exec]
yes | POST /api/v1/namespaces/x/pods/y/exec?command=id | verbs: [get], resources: [pods/exec]
no  | GET /api/v1/namespaces/x/pods/y/attach           | resources: [pods/exec]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=cat&command=/etc/passwd | resources: [pods/exec], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=/bin/cat&command=x      | resources: [pods/exec], commands: ['cat *']
no  | GET /api/v1/namespaces/x/pods/y/exec?command=ls                      | resources: [pods/exec], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=sh&command=-c&command=a%20b | resources: [pods/exec], commands: ['sh -c a b']
# Blanks around the program and empty arguments before it hide nothing, nor does other white space between words.
yes | GET /api/v1/namespaces/x/pods/y/exec?command=%20apk&command=add       | resources: [pods/exec], commands: ['apk *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=apk%09&command=add       | resources: [pods/exec], commands: ['apk *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=&command=apk&command=add | resources: [pods/exec], commands: ['apk *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=&command=%20&command=%0a/sbin/apk&command=add | resources: [pods/exec], commands: ['apk *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=apk%09add                | resources: [pods/exec], commands: ['apk *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=sh&command=-c&command=apk%09%20add%20x | resources: [pods/exec], commands: ['*apk add *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=apk&command=             | resources: [pods/exec], commands: [apk]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=a%20%20b                 | resources: [pods/exec], commands: ['a  b']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=a%20/b&command=c         | resources: [pods/exec], commands: ['a /b *']
no  | GET /api/v1/namespaces/x/pods/y/exec?command=ls&command=apk&command=x | resources: [pods/exec], commands: ['apk *']
yes | GET /api/v1/namespaces/x/pods/y/exec?command=&command=%20             | resources: [pods/exec], commands: ['apk *']
# What is left alone is left alone as it is written only.
yes | GET /api/v1/namespaces/x/pods/y/exec?command=%20id                    | resources: [pods/exec], exceptCommands: [id]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=&command=id              | resources: [pods/exec], exceptCommands: [id]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=ls%09x                   | resources: [pods/exec], exceptCommands: ['ls *']
# What cannot be told counts as matching.
yes | GET /api/v1/namespaces/x/pods/y/exec              | resources: [pods/exec], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/attach            | resources: [pods/attach], commands: ['cat *']
yes | GET /api/v1/namespaces/x/pods/y/attach            | resources: [pods/exec, pods/attach], exceptCommands: [id]
no  | GET /api/v1/namespaces/x/pods/y/exec?command=id   | resources: [pods/exec], exceptCommands: ['ls *', id]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=/tmp/id | resources: [pods/exec], exceptCommands: ['ls *', id]
yes | GET /api/v1/namespaces/x/pods/y/exec?command=sh   | resources: [pods/exec], exceptCommands: ['ls *', id]
yes | GET /metrics/slis  | nonResourceURLs: ['/metrics*']
yes | GET /metrics/      | nonResourceURLs: [/metrics]
yes | HEAD /metrics      | nonResourceURLs: [/metrics], verbs: [get]
no  | GET /readyz        | nonResourceURLs: [/metrics]
no  | GET /api/v1/pods   | nonResourceURLs: ['*']
";

#[test]
fn rules_match_what_has_their_effect_and_nothing_else() {
    let exceptions = "subjects: {identities: [fixer]}\n  exceptions: [builtin/unknown-paths, builtin/picket-namespace, \
         builtin/nodes-proxy, builtin/pods-proxy, builtin/services-proxy, builtin/certificate-requests, \
         builtin/apiserver-endpoints]";
    for (fires, line, matches) in rows(TABLE) {
        let set = compile(&[&grant(ALL), &deny(matches), &policy("exceptions", exceptions)]);
        assert_eq!(!passes(&set, line), fires, "{matches} on {line}");
        if fires {
            let denial = denied(&set, line);
            assert_eq!((denial.cause(), denial.policy()), (Cause::Policy, Some("p")));
            assert_eq!(denial.rule(), Some("r"));
        }
    }
}

#[test]
fn a_rule_that_an_eviction_meets_twice_is_told_once_and_nothing_refused_is_offered() {
    let warn = policy(
        "hint",
        "rules: [{name: w, action: Warn, message: Careful., match: {resources: ['*']}}]",
    );
    let line = "POST /api/v1/namespaces/x/pods/y/eviction";
    let set = compile(&[&grant(ALL), &warn]);
    assert_eq!(permitted(&set, line).warnings().len(), 1);
    let warn = policy(
        "hint",
        "rules: [{name: w, action: Warn, message: Careful., match: {verbs: [delete], resources: [pods]}}]",
    );
    let set = compile(&[&grant(ALL), &warn]);
    assert_eq!(permitted(&set, line).warnings().len(), 1);

    let rules = "[{verbs: [create], apiGroups: [''], resources: [pods/eviction]}, {verbs: [get], apiGroups: [''], \
                 resources: [pods]}]";
    let denial = denied(
        &compile(&[&grant(rules), &deny("verbs: [delete], resources: [pods]")]),
        line,
    );
    assert!(!denial.allowed().contains("create"), "{}", denial.allowed());
}

#[test]
fn subjects_say_whom_a_policy_is_about() {
    for (subjects, fires) in [
        ("identities: [fixer]", true),
        ("identities: ['fix*']", true),
        ("identities: [other]", false),
        ("groups: [agents]", true),
        ("groups: ['b*']", false),
        ("namespaces: [ns]", true),
        ("namespaces: [elsewhere]", false),
        // Any one that is named is meant.
        ("identities: [other], namespaces: [ns]", true),
    ] {
        let rules = "rules: [{name: r, action: Deny, match: {resources: [pods]}}]";
        let set = compile(&[
            &grant(ALL),
            &policy("p", &format!("subjects: {{{subjects}}}\n  {rules}")),
        ]);
        assert_eq!(!passes(&set, "GET /api/v1/pods"), fires, "{subjects}");
    }
}

#[test]
fn a_policy_on_namespaces_is_about_pods_there_and_never_about_a_client_of_the_gateway() {
    let of_namespaces = policy(
        "guard",
        "subjects: {namespaces: ['*']}\n  rules: [{name: r, action: Deny, match: {resources: [pods]}}]",
    );
    let of_identity = policy(
        "named",
        "subjects: {identities: [fixer]}\n  rules: [{name: r, action: Deny, match: {resources: [services]}}]",
    );
    let set = compile(&[&grant(ALL), &of_namespaces, &of_identity]);
    let in_pod = principal(&set, "fixer");
    let origin = PrincipalOrigin::Gateway {
        peer: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let at_gateway = Principal::new(
        Arc::clone(in_pod.identity()),
        origin,
        "jwt",
        Timestamp::UNIX_EPOCH,
    );
    let at_gateway = Arc::new(at_gateway.expect("an active identity"));
    assert_eq!((at_gateway.namespace(), at_gateway.pod()), (None, None));
    let code = |principal: &Arc<Principal>, line: &str| {
        let decision = set.decide(Arc::clone(principal), canonical(line), NOW);
        match decision {
            Decision::Deny(denial) => denial.cause().code(),
            _ => "permitted",
        }
    };
    for (line, from_pod, from_gateway) in [
        ("GET /api/v1/pods", "policy", "permitted"),
        ("GET /api/v1/services", "policy", "policy"),
    ] {
        assert_eq!(code(&in_pod, line), from_pod, "{line}");
        assert_eq!(code(&at_gateway, line), from_gateway, "{line}");
    }
}

/// A set whose policies have what reading refuses, as where Picket's own checks are at fault.
fn unchecked(parts: &[&str], change: impl Fn(&mut AgentPolicySpec)) -> PolicySet {
    let mut documents = read_documents("f.yaml", &format!("{BASE}{}", parts.concat())).expect("valid");
    for document in &mut documents {
        if let AnyObject::Policy(policy) = &mut document.object {
            change(&mut policy.spec);
        }
    }
    PolicySet::compile(documents).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn a_glob_that_no_check_has_seen_refuses_more_and_excepts_nobody() {
    let bad = || vec!["fix[er]*".to_owned()];
    let fields: [fn(&mut Match, Vec<String>); 4] = [
        |of, list| of.resources = Some(list),
        |of, list| of.api_groups = Some(list),
        |of, list| of.namespaces = Some(list),
        |of, list| of.names = Some(list),
    ];
    for (number, field) in fields.into_iter().enumerate() {
        let set = unchecked(&[&grant(ALL), &deny("resources: [pods]")], |spec| {
            field(&mut spec.rules[0].matches, bad());
        });
        assert!(!passes(&set, "GET /api/v1/namespaces/x/pods/y"), "{number}");
    }
    let subjects = |spec: &mut AgentPolicySpec, list: usize| {
        let mut subjects = Subjects::default();
        let lists = [
            &mut subjects.identities,
            &mut subjects.groups,
            &mut subjects.namespaces,
        ];
        *lists.into_iter().nth(list).expect("a list") = bad();
        spec.subjects = Some(subjects);
    };
    let of_other = policy(
        "p",
        "subjects: {identities: [other]}\n  rules: [{name: r, action: Deny, match: {resources: [pods]}}]",
    );
    assert!(passes(&compile(&[&grant(ALL), &of_other]), "GET /api/v1/pods"));
    let excepted = policy(
        "p",
        "subjects: {identities: [fixer]}\n  exceptions: [builtin/unknown-paths]",
    );
    assert!(passes(&compile(&[&grant(ALL), &excepted]), "GET /elsewhere"));
    for list in 0..3 {
        let set = unchecked(&[&grant(ALL), &of_other], |spec| subjects(spec, list));
        assert!(!passes(&set, "GET /api/v1/pods"), "{list}");
        let set = unchecked(&[&grant(ALL), &excepted], |spec| subjects(spec, list));
        assert!(!passes(&set, "GET /elsewhere"), "{list}");
    }
}
