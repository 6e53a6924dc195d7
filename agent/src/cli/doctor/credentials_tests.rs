//! Unit tests of the credentials' checks, against an API server that answers reviews of rights.

use serde_json::json;

use super::*;
use crate::cli::doctor::needs::{AUTHENTICATION, CONSTRAINED, CONSTRAINED_ON, EXTRAS, Way};
use crate::cluster::rights::MAX_RIGHTS;
use crate::cluster::testing::{reviewing, reviewing_of_release, reviewing_with_rules, rules};

const SMALLEST: &str = "\
nodeName: n
cluster: {kubeconfig: /nonexistent/k}
upstream: {server: 'https://127.0.0.1:1', caFile: /nonexistent/ca, tokenFile: /nonexistent/t}
tls: {caCertificateFile: /nonexistent/c, caKeyFile: /nonexistent/y}
enforce: {namespaces: [a]}
objects: [/nonexistent/o]
";

const LIMIT: Duration = Duration::from_secs(10);

const ACCOUNT: &str = "system:serviceaccount:ci:bot";

fn users() -> BTreeSet<(String, Vec<String>)> {
    let user = |user: &str, groups: &[&str]| {
        (
            user.to_owned(),
            groups.iter().map(|group| (*group).to_owned()).collect(),
        )
    };
    [user("agent:triage", &["readers", "agents"]), user(ACCOUNT, &[])].into()
}

async fn asked(
    needs: &[Need],
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
) -> Check {
    asked_with_rules(needs, answer, rules(&[&format!("{CONSTRAINED_ON}get")], None)).await
}

async fn asked_with_rules(
    needs: &[Need],
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
    rules: serde_json::Value,
) -> Check {
    asked_of_release("36", needs, answer, rules).await
}

async fn asked_of_release(
    minor: &'static str,
    needs: &[Need],
    answer: impl Fn(&serde_json::Value) -> Result<bool, u16> + Send + Sync + 'static,
    rules: serde_json::Value,
) -> Check {
    let server = reviewing_of_release(minor, answer, rules).await;
    let (_folder, connector) = Connector::for_tests(&server);
    let client = connector.connect().await.expect("a client");
    check(
        UPSTREAM,
        Ok((client, server)),
        needs,
        &Bound::default(),
        "do this".to_owned(),
    )
    .await
}

#[tokio::test]
async fn who_serves_metrics_over_tls_must_be_let_ask_who_wants_them() {
    let needs = |more: &str| {
        let config = Config::parse("f", &format!("{SMALLEST}{more}")).expect("a configuration");
        needed(&config, None)
    };
    let with = needs("metrics: {listen: '0.0.0.0:9444'}\n");
    assert_eq!(with.len(), needs("").len() + 2);
    let check = asked(&with, |of| Ok(of["verb"] != "create")).await;
    assert_eq!(
        check.detail,
        "may not create tokenreviews, to know who asks for metrics\n\
         may not create subjectaccessreviews, to know who asks for metrics"
    );
}

#[tokio::test]
async fn a_credential_with_the_rights_of_the_grants_is_accepted() {
    let needs = impersonated(&users());
    let ways = |need: &Need| -> Vec<Vec<String>> {
        let what = |way: &Way| way.0.iter().map(|step| step.what.clone()).collect();
        need.ways().map(what).collect()
    };
    let extras = [
        "impersonate userextras/picket.dev/identity",
        "impersonate userextras/picket.dev/pod",
        "impersonate userextras/picket.dev/session",
    ];
    let user = [
        "impersonate group agents",
        "impersonate group readers",
        "impersonate user agent:triage",
    ];
    let constrained = [&user[..], &extras[..]].concat();
    let [of_user, of_account] = &needs[..] else {
        panic!("{needs:?}")
    };
    assert_eq!(ways(of_user), [constrained.clone(), constrained]);
    let account = ["impersonate service account ci/bot"];
    assert_eq!(ways(of_account), [[&account[..], &extras[..]].concat()]);
    // As deploy/rbac.yaml gives them, with the lines for a service account.
    let given = |of: &serde_json::Value| {
        let verb = of["verb"].as_str().unwrap_or_default();
        Ok(match (of["group"].as_str(), of["resource"].as_str()) {
            (Some(""), Some("serviceaccounts")) => {
                verb == "impersonate" && of["name"] == "bot" && of["namespace"] == "ci"
            }
            (Some(AUTHENTICATION), Some("userextras")) => {
                EXTRAS.iter().any(|extra| of["subresource"] == *extra)
            }
            (Some(AUTHENTICATION), Some("users")) => verb == CONSTRAINED && of["name"] == "agent:triage",
            (Some(AUTHENTICATION), Some("groups")) => {
                verb == CONSTRAINED && (of["name"] == "agents" || of["name"] == "readers")
            }
            _ => false,
        })
    };
    let check = asked(&needs, given).await;
    assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
    assert!(check.detail.contains("all 10 rights"), "{}", check.detail);
    let narrow = "narrow: impersonate-on:user-info:VERB for get alone";
    assert!(check.detail.ends_with(narrow), "{}", check.detail);
    // The older verb does, where the release has no other.
    let plain = |of: &serde_json::Value| Ok(of["verb"] == "impersonate");
    let check = asked_with_rules(&needs, plain, rules(&["impersonate"], None)).await;
    assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
}

#[tokio::test]
async fn the_right_to_request_tokens_is_asked_about_by_name() {
    const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: s}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: bot}
spec:
  to: {identities: [bot]}
  upstream: {serviceAccount: {namespace: ci, name: bot}}
  rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]
";
    let documents = picket_policy::read_documents("f", OBJECTS).expect("valid");
    let policies = PolicySet::compile(documents).expect("a policy set");
    let needs = granted(policies.grants());
    let given = |of: &serde_json::Value| {
        let token = of["resource"] == "serviceaccounts" && of["subresource"] == "token";
        Ok(token && of["verb"] == "create" && of["namespace"] == "ci" && of["name"] == "bot")
    };
    let check = asked(&needs, given).await;
    assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
    let check = asked(&needs, |_| Ok(false)).await;
    assert_eq!(
        (check.status, &*check.detail),
        (
            CheckStatus::Missing,
            "may not create serviceaccounts/token of service account ci/bot"
        )
    );
}

/// The Roles of a grant that names its namespace: the credential may act as the user, and send elsewhere.
#[tokio::test]
async fn a_missing_role_of_one_namespace_is_missing() {
    const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: a}
spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: s}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: a}
spec:
  to: {identities: [a]}
  namespaces: [vault]
  upstream: {impersonate: {user: 'agent:a'}}
  rules: [{verbs: [get], apiGroups: [''], resources: [secrets]}]
";
    let documents = picket_policy::read_documents("f", OBJECTS).expect("valid");
    let policies = PolicySet::compile(documents).expect("a policy set");
    let needs = granted(policies.grants());
    let on_get = format!("{CONSTRAINED_ON}get");
    let both: &'static [&str] = &[CONSTRAINED, "impersonate"];
    for (verbs, has_role, listed, status, says) in [
        (&both[..1], true, on_get.as_str(), CheckStatus::Ok, "accepted by"),
        (
            &both[..1],
            false,
            &on_get,
            CheckStatus::Missing,
            "may not send in namespace vault, as the grants' users: get secrets",
        ),
        // By the plain verb it may send whatever the user may, and without one it may not act as the user at all.
        (
            both,
            false,
            &on_get,
            CheckStatus::Degraded,
            "by the plain verb impersonate too",
        ),
        (&both[..0], false, &on_get, CheckStatus::Missing, "user agent:a"),
        // That it may send nothing anywhere is told once.
        (
            &both[..1],
            false,
            "get",
            CheckStatus::Missing,
            "no right impersonate-on:user-info:VERB",
        ),
    ] {
        let server = reviewing_with_rules(
            move |of| {
                let on_secrets = of["resource"] == "secrets" && of["namespace"] == "vault";
                let acts = of["verb"].as_str().is_some_and(|verb| verbs.contains(&verb));
                Ok(acts || (has_role && on_secrets))
            },
            json!({"resourceRules": [{"verbs": [listed], "apiGroups": [""], "resources": ["pods"]}],
                "nonResourceRules": [], "incomplete": false}),
        )
        .await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        let bound = Bound::of(policies.grants());
        let check = check(
            UPSTREAM,
            Ok((client, server)),
            &needs,
            &bound,
            "do this".to_owned(),
        )
        .await;
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.detail.contains(says), "{check:?}");
        let names_namespace = check.detail.contains("vault");
        assert_eq!(names_namespace, says.contains("vault"), "{check:?}");
    }
}

#[tokio::test]
async fn namespaces_that_are_not_asked_about_are_counted() {
    let namespaces: Vec<_> = (0..70).map(|number| format!("n{number}")).collect();
    let objects = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, attest: {{pod: {{namespace: n, \
         serviceAccount: s}}}}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: a}}\nspec:\n  to: \
         {{identities: [a]}}\n  namespaces: [{}]\n  upstream: {{impersonate: {{user: 'agent:a'}}}}\n  rules: [{{verbs: [get], \
         apiGroups: [''], resources: [pods]}}]\n",
        namespaces.join(", ")
    );
    let documents = picket_policy::read_documents("f", &objects).expect("valid");
    let policies = PolicySet::compile(documents).expect("a policy set");
    let bound = Bound::of(policies.grants());
    let answer = |of: &serde_json::Value| Ok(of["verb"] == CONSTRAINED);
    let server = reviewing_with_rules(answer, rules(&[&format!("{CONSTRAINED_ON}get")], None)).await;
    let (_folder, connector) = Connector::for_tests(&server);
    let client = connector.connect().await.expect("a client");
    let needs = granted(policies.grants());
    let check = check(UPSTREAM, Ok((client, server)), &needs, &bound, String::new()).await;
    assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
    assert!(
        check.detail.contains("; 64 of 70 namespaces are asked about"),
        "{check:?}"
    );
}

#[tokio::test]
async fn one_right_is_one_right() {
    let check = asked(&granted(&[]), |_| Ok(true)).await;
    assert!(
        check.detail.ends_with("with the one right asked for"),
        "{check:?}"
    );
}

#[tokio::test]
async fn rights_of_both_modes_are_a_warning() {
    let readers = ("agent:triage".to_owned(), vec!["readers".to_owned()]);
    let needs = impersonated(&[readers.clone()].into());
    let constrained = |of: &serde_json::Value| of["verb"].as_str() == Some(CONSTRAINED);
    // Each plain right that is left undoes a limit.
    for (resource, name) in [("users", "user agent:triage"), ("groups", "group readers")] {
        let left = move |of: &serde_json::Value| {
            Ok(constrained(of) || (of["verb"] == "impersonate" && of["resource"] == resource))
        };
        let check = asked(&needs, left).await;
        assert_eq!(check.status, CheckStatus::Degraded, "{check:?}");
        assert_eq!(
            check.detail,
            format!(
                "may impersonate {name} by the plain verb impersonate too, which voids the limits of impersonate:user-info"
            )
        );
    }
    // Of a service account's grant they are wanted, and its groups' too.
    let account = (ACCOUNT.to_owned(), vec!["readers".to_owned()]);
    let needs = impersonated(&[readers, account].into());
    let wanted = |of: &serde_json::Value| Ok(of["verb"] == CONSTRAINED || of["resource"] != "users");
    let check = asked(&needs, wanted).await;
    assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
}

/// The rights of deploy/rbac.yaml on a release that asks about the verb impersonate alone: the reviews say yes, each request is refused.
#[tokio::test]
async fn constrained_rights_are_worth_nothing_below_the_release_that_has_them() {
    let needs = impersonated(&[("agent:triage".to_owned(), vec!["readers".to_owned()])].into());
    let on = || rules(&[&format!("{CONSTRAINED_ON}get")], None);
    for (minor, status, said) in [
        (
            "34",
            CheckStatus::Missing,
            "may not act as user agent:triage by the verb impersonate:user-info: Kubernetes v1.34.0 does not know this verb",
        ),
        (
            "35",
            CheckStatus::Degraded,
            "unknown: whether it may act as user agent:triage by the verb impersonate:user-info: Kubernetes v1.35.0 has this verb by a \
             feature gate alone",
        ),
        ("36", CheckStatus::Ok, "accepted by"),
    ] {
        let constrained = |of: &serde_json::Value| Ok(of["verb"] == CONSTRAINED);
        let check = asked_of_release(minor, &needs, constrained, on()).await;
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.detail.starts_with(said), "{check:?}");
        // The plain form is right on each.
        let plain = |of: &serde_json::Value| Ok(of["verb"] == "impersonate");
        let check = asked_of_release(minor, &needs, plain, rules(&["list"], None)).await;
        assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
    }
}

#[tokio::test]
async fn half_of_a_constrained_set_is_told_apart() {
    let needs = impersonated(&[("agent:triage".to_owned(), vec!["readers".to_owned()])].into());
    let none = || rules(&["get", "create", "impersonate:user-info"], None);
    let all = |_: &serde_json::Value| Ok(true);
    let constrained = |of: &serde_json::Value| Ok(of["verb"] == CONSTRAINED);
    // The user's right alone, and filled up by plain ones.
    let check = asked_with_rules(&needs, constrained, none()).await;
    assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
    assert!(
        check.detail.contains("no right impersonate-on:user-info:VERB"),
        "{check:?}"
    );
    let check = asked_with_rules(&needs, all, none()).await;
    assert_eq!(check.status, CheckStatus::Degraded, "{check:?}");
    assert!(
        check.detail.contains("by the plain verb impersonate alone"),
        "{check:?}"
    );
    // The requests' rights alone, and filled up.
    let plain = |of: &serde_json::Value| Ok(of["verb"] == "impersonate");
    let check = asked(&needs, plain).await;
    assert_eq!(check.status, CheckStatus::Degraded, "{check:?}");
    assert!(
        check
            .detail
            .ends_with("nor impersonate userextras/picket.dev/session"),
        "{check:?}"
    );
    let check = asked(&needs, |_| Ok(false)).await;
    assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
    // The user by the constrained verb, and all else by the older: the API server takes one for a whole request.
    let mixed = |of: &serde_json::Value| Ok((of["verb"] == CONSTRAINED) == (of["resource"] == "users"));
    let check = asked(&needs, mixed).await;
    assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
    assert_eq!(
        check.detail,
        "may not impersonate user agent:triage by the verb impersonate"
    );
}

#[tokio::test]
async fn a_role_narrowed_to_some_resources_is_not_missing() {
    let needs = impersonated(&[("agent:triage".to_owned(), Vec::new())].into());
    let on = |resource: &'static str| {
        move |of: &serde_json::Value| {
            let on = of["verb"]
                .as_str()
                .is_some_and(|verb| verb.starts_with(CONSTRAINED_ON));
            Ok(of["verb"] == CONSTRAINED || (on && of["resource"] == resource))
        }
    };
    // The rule says it, whatever its resources are.
    let listed = rules(
        &["impersonate-on:user-info:list"],
        Some("a webhook does not list its rules"),
    );
    assert_eq!(
        asked_with_rules(&needs, on("leases"), listed).await.status,
        CheckStatus::Ok
    );
    // Where rules are not listed, more than one resource is asked about.
    let hidden = || rules(&["get"], Some("a webhook does not list its rules"));
    for resource in ["pods", "configmaps", "nodes", "deployments"] {
        let check = asked_with_rules(&needs, on(resource), hidden()).await;
        assert_eq!(check.status, CheckStatus::Ok, "{resource}: {check:?}");
    }
    let check = asked_with_rules(&needs, on("leases"), hidden()).await;
    assert_eq!(check.status, CheckStatus::Degraded, "{check:?}");
    assert!(check.detail.starts_with("unknown: "), "{check:?}");
    // The node authorizer of every cluster lists nothing, and lets nobody impersonate.
    let nodes = rules(
        &["get"],
        Some("node authorizer does not support user rule resolution"),
    );
    let check = asked_with_rules(&needs, on("leases"), nodes).await;
    assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
}

#[tokio::test]
async fn users_that_are_not_asked_about_are_counted() {
    let users: BTreeSet<_> = (0..MAX_RIGHTS)
        .map(|number| (format!("agent:{number}"), Vec::new()))
        .collect();
    let needs = impersonated(&users);
    let check = asked(&needs, |of| Ok(of["verb"] != "impersonate")).await;
    assert!(
        check.detail.contains("253 of 512 are asked about"),
        "{}",
        check.detail
    );
    let many = (0..MAX_RIGHTS).map(|number| format!("group-{number}")).collect();
    let one = impersonated(&[("agent:triage".to_owned(), many)].into());
    assert_eq!(first(&one).len(), 1);
}

#[tokio::test]
async fn what_a_credential_lacks_is_named_with_what_to_do() {
    let needs = impersonated(&users());
    let check = asked(&needs, |of| {
        let plain = of["verb"] == "impersonate" && of["resource"] == "users";
        Ok(of["name"] != "agents" && of["resource"] != "serviceaccounts" && !plain)
    })
    .await;
    assert_eq!(check.status, CheckStatus::Missing);
    assert_eq!(
        check.detail,
        "may not impersonate group agents\nmay not impersonate service account ci/bot"
    );
    assert_eq!(check.advice.as_deref(), Some("do this"));
    let check = asked(&followed(), |of| {
        Ok(of["resource"] != "nodes" || of["verb"] != "watch")
    })
    .await;
    assert_eq!(check.detail, "may not watch nodes");
    // Without any grant the credential is tried all the same.
    let nobody = granted(&[]);
    let check = asked(&nobody, |_| Err(401)).await;
    assert!(
        check
            .detail
            .ends_with("the API server does not accept the credential: no, and here is why"),
        "{}",
        check.detail
    );
    assert!(
        check
            .advice
            .is_some_and(|advice| advice.contains("issue a new credential"))
    );
    let check = asked(&nobody, |_| Err(403)).await;
    assert!(check.detail.contains("cannot be asked"), "{}", check.detail);
}

#[tokio::test]
async fn the_right_to_namespaces_is_asked_about_where_rules_or_enrolment_look_at_them() {
    let set = |matches: &str| {
        let policy = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: p}}\nspec:\n  rules: [{{name: r, action: Deny, match: \
             {{{matches}}}}}]\n"
        );
        PolicySet::compile(picket_policy::read_documents("f.yaml", &policy).expect("a policy"))
            .expect("a set")
    };
    let config = |enforce: &str| {
        let text = SMALLEST.replace("namespaces: [a]", enforce);
        Config::parse("f", &text.replace("[/nonexistent/o]", "{cluster: true}")).expect("a configuration")
    };
    let named = config("namespaces: [a]");
    let by_name = followed_with(&named, Some(&set("namespaces: [a]")));
    let check = asked(&by_name, |of| Ok(of["resource"] != "namespaces")).await;
    assert_eq!(check.status, CheckStatus::Ok, "{}", check.detail);
    let by_label = followed_with(
        &named,
        Some(&set("namespaceSelector: {matchLabels: {env: prod}}")),
    );
    let check = asked(&by_label, |of| Ok(of["resource"] != "namespaces")).await;
    assert_eq!(
        check.detail,
        "may not list namespaces, whose labels rules look at\nmay not watch namespaces, whose labels rules look at"
    );
    let by_enrolment = followed_with(&config("enrolled: true"), Some(&set("namespaces: [a]")));
    let check = asked(&by_enrolment, |of| Ok(of["resource"] != "namespaces")).await;
    assert_eq!(
        check.detail,
        "may not list namespaces, whose labels enrol pods\nmay not watch namespaces, whose labels enrol pods"
    );
}

#[tokio::test]
async fn the_right_to_a_node_ca_is_asked_about_where_the_controller_signs_it() {
    let server = reviewing(|of| Ok(of["resource"] != "certificatesigningrequests")).await;
    let (folder, _) = Connector::for_tests(&server);
    let text = SMALLEST.replace(
        "/nonexistent/k}",
        &folder.path().join("kubeconfig}").display().to_string(),
    );
    let by_cluster = text.replace(
        "tls: {caCertificateFile: /nonexistent/c, caKeyFile: /nonexistent/y}",
        "tls: {nodeCA: cluster}",
    );
    assert_ne!(text, by_cluster);
    let lacked = "may not create certificatesigningrequests, by which the controller signs the node CA\n\
                  may not get certificatesigningrequests, by which the controller signs the node CA";
    for (text, said) in [(text, None), (by_cluster, Some(lacked))] {
        let config = Config::parse("f", &text).expect("a configuration");
        let checks = checks(&config, LIMIT).await;
        let check = checks.iter().find(|check| check.name == CLUSTER).expect(CLUSTER);
        match said {
            Some(said) => assert_eq!(check.detail, said, "{check:?}"),
            None => assert_eq!(check.status, CheckStatus::Ok, "{check:?}"),
        }
    }
}

#[tokio::test]
async fn without_the_right_to_say_how_the_node_is_the_agent_is_restricted_and_works() {
    let told = async |may: bool| {
        let server = reviewing(move |of| Ok(may || of["subresource"] != "status")).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        told_of_node(Some((client, server))).await.expect("a check")
    };
    assert_eq!(told(true).await.status, CheckStatus::Ok);
    let lacking = told(false).await;
    assert_eq!(lacking.status, CheckStatus::Degraded);
    assert_eq!(lacking.detail, "may not patch picketnodes/status");
}

/// Key files that are not those of their certificates.
#[test]
fn a_key_of_another_certificate_is_found_before_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = ["one", "other"].map(|name| crate::pki::ca::create(name).expect("a CA"));
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    };
    let certificate = write("one.crt", &made[0].certificate_pem);
    let [own, foreign] =
        [("one.key", 0), ("other.key", 1)].map(|(name, at): (&str, usize)| write(name, &made[at].key_pem));
    let text = SMALLEST.replace(
        "tokenFile: /nonexistent/t",
        "clientCertificateFile: /n, clientKeyFile: /n",
    );
    let mut config = Config::parse("f", &text).expect("a configuration");
    let kubeconfig = |key: &std::path::Path| {
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"client-certificate": certificate, "client-key": key}}],
        });
        write("kubeconfig", &text.to_string())
    };
    for (key, found) in [(&own, false), (&foreign, true)] {
        config.tls.node_ca = NodeCaSource::Files(crate::pki::CaFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        });
        config.upstream.ca_file = certificate.clone();
        config.upstream.client_certificate_file = Some(certificate.clone());
        config.upstream.client_key_file = Some(key.clone());
        config.cluster.kubeconfig = kubeconfig(key);
        let checks = super::super::of_configuration(&config, LIMIT);
        let said = |name: &str, words: &str| {
            let check = checks.iter().find(|check| check.name == name).expect(name);
            check.status == CheckStatus::Missing && check.detail.contains(words)
        };
        let ca = format!("{}:1: this is not the key of the certificate in", key.display());
        assert_eq!(said(super::super::CONFIGURATION, &ca), found, "{checks:#?}");
        assert_eq!(said(CLUSTER, "cannot make a client"), found, "{checks:#?}");
        assert_eq!(said(UPSTREAM, "cannot make a client"), found, "{checks:#?}");
    }
}

#[test]
fn a_plugin_that_does_not_end_holds_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["20"],
            "interactiveMode": "Never",
        }}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).expect("written");
    let mut config = Config::parse("f", SMALLEST).expect("a configuration");
    config.cluster.kubeconfig = kubeconfig;
    let began = std::time::Instant::now();
    let checks = super::super::of_configuration(&config, Duration::from_secs(1));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let late: Vec<_> = checks
        .iter()
        .filter(|check| check.detail.contains("did not answer within 1 s"))
        .map(|check| (check.name, check.status))
        .collect();
    assert_eq!(
        late,
        [
            (super::super::CONFIGURATION, CheckStatus::Missing),
            (CLUSTER, CheckStatus::Missing)
        ]
    );
}

#[tokio::test]
async fn the_password_in_a_server_is_not_printed() {
    const SECRET: &str = "hunter2hunter2";
    let server = reviewing(|_| Ok(true)).await;
    let named = server.replace("http://", &format!("http://me:{SECRET}@"));
    let (_folder, connector) = Connector::for_tests(&named);
    let reached = connector.server().await.expect("a server");
    assert_eq!(bare(&reached), server);
    let client = connector.connect().await.expect("a client");
    let check = check(
        CLUSTER,
        Ok((client, bare(&reached))),
        &followed(),
        &Bound::default(),
        String::new(),
    )
    .await;
    assert!(!format!("{check:?}").contains(SECRET), "{check:?}");
    let mut config = Config::parse("f", SMALLEST).expect("a configuration");
    config.upstream.server = format!("https://me:{SECRET}@ x");
    let (detail, advice) = upstream(&config).err().expect("no server");
    assert!(!format!("{detail}{advice}").contains(SECRET), "{detail}");
}

#[tokio::test]
async fn a_server_or_a_file_that_is_not_there_is_said() {
    let gone = reviewing(|_| Ok(true)).await.replace("127.0.0.1", "127.0.0.2");
    let (_folder, connector) = Connector::for_tests(&gone);
    let client = connector.connect().await.expect("a client");
    let began = std::time::Instant::now();
    let check = check(
        CLUSTER,
        Ok((client, gone)),
        &followed(),
        &Bound::default(),
        String::new(),
    )
    .await;
    assert!(check.detail.contains("Connection refused"), "{}", check.detail);
    assert!(began.elapsed() < Duration::from_secs(10));
    let nothing = std::path::Path::new("/nonexistent/node.crt");
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, crate::pki::ca::create("api").expect("a CA").certificate_pem).expect("written");
    let files = CredentialFiles {
        ca: &ca,
        certificate: Some(nothing),
        key: None,
        token: None,
    };
    let error = files
        .client(&Uri::from_static("https://127.0.0.1:1"))
        .err()
        .expect("no file");
    let (detail, advice) = unusable(&error);
    assert!(
        detail.starts_with("not tested: /nonexistent/node.crt: No such file"),
        "{detail}"
    );
    assert!(advice.contains("readable"), "{advice}");
    // A file that was read is not to be made readable, and the bundle is named where the fault is in it.
    std::fs::write(&ca, "no PEM").expect("written");
    let files = CredentialFiles {
        certificate: None,
        ..files
    };
    let error = files.client(&Uri::from_static("https://127.0.0.1:1")).err();
    let (detail, advice) = unusable(&error.expect("no certificate"));
    assert!(detail.contains("ca.crt:1: no certificate in it"), "{detail}");
    assert!(advice.starts_with("correct what the file says"), "{advice}");
}
