//! Whether the node's credentials reach the API server, and have there what deploy/rbac.yaml gives.
//!
//! In: a configuration. Out: a check of each credential: the kubeconfig's, for what the agent follows, and the upstream's, for
//! whom the grants let agents act as; and what the API server says of the configuration by the kubeconfig's (node.rs).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use kube::Client;
use picket_policy::{Grant, Impersonate, UpstreamUser};

use super::needs::{
    Need, OnRights, Verdict, at_least, first, followed, impersonated, judge, kept_objects, narrowed,
    on_samples, on_verbs, tokens,
};
use super::node::{self, Server};
use super::{in_time, slow};
use crate::cluster::rights::{
    CredentialFiles, LISTED_NAMESPACE, ReviewError, RuleVerbs, lacking, rule_verbs,
};
use crate::cluster::{ClusterError, Connector};
use crate::config::Config;
use crate::kernel::doctor::{Check, CheckStatus};
use crate::runtime::causes::with_causes;
use crate::store::Store;

/// The names of the checks.
const CLUSTER: &str = "cluster credential";
const UPSTREAM: &str = "upstream credential";

/// All of them. Must be called within a tokio runtime.
pub(super) async fn checks(config: &Config, limit: Duration) -> Vec<Check> {
    // What objects cannot be read is the configuration's check.
    let (granted, namespaces) = match Store::open(&config.objects.files) {
        Ok(store) => {
            let set = store.current();
            (granted(set.grants()), bound_to(set.grants()))
        }
        Err(_) => (at_least(), Vec::new()),
    };
    let mut followed = followed();
    if config.objects.cluster {
        followed.extend(kept_objects());
    }
    let advice = format!(
        "give the credential the rights of deploy/rbac.yaml: apply the file, and bind ClusterRole picket-node to the group of \
         the credential in {}",
        config.cluster.kubeconfig.display()
    );
    let (of_cluster, of_upstream) = (config.clone(), config.clone());
    let (cluster, upstream) = tokio::join!(
        in_time(limit, async move { cluster(&of_cluster).await }),
        in_time(limit, async move { upstream(&of_upstream) })
    );
    let late = || {
        let advice = "correct the files that the configuration names, or the plugin of the kubeconfig";
        Err((format!("not tested: {}", slow(limit)), advice.to_owned()))
    };
    let cluster = cluster.unwrap_or_else(late);
    let asked = cluster.as_ref().ok().cloned();
    let (cluster, upstream, of_node) = tokio::join!(
        check(CLUSTER, cluster, &followed, &[], advice),
        check(
            UPSTREAM,
            upstream.unwrap_or_else(late),
            &granted,
            &namespaces,
            "apply what `picket grant rbac` prints, with --group or --service-account as the credential has it; one verb must do for a \
             user and all its groups"
                .to_owned()
        ),
        of_node(config, asked),
    );
    // A credential that may not ask is told of once.
    let may_ask = cluster.status != CheckStatus::Missing;
    let of_node = of_node
        .into_iter()
        .filter_map(|tried| tried.map_or_else(|untried| may_ask.then_some(untried), Some));
    [cluster, upstream].into_iter().chain(of_node).collect()
}

/// What the API server says of the configuration, where the kubeconfig makes a client.
async fn of_node(config: &Config, asked: Option<(Client, String)>) -> Vec<node::Tried> {
    let Some((client, kubeconfig)) = asked else {
        return Vec::new();
    };
    let upstream = config.upstream.server.parse().map(|server| bare(&server));
    let upstream = upstream.unwrap_or_default();
    let servers = [
        ("upstream.server", &upstream),
        ("the server of cluster.kubeconfig", &kubeconfig),
    ];
    let servers = servers.map(|(field, url)| Server { field, url });
    node::checks(config, &client, &servers).await
}

/// What the grants take upstream.
fn granted(grants: &[Arc<Grant>]) -> Vec<Need> {
    let users = grants.iter().map(|grant| grant.user());
    let user = |impersonate: &Impersonate| (impersonate.user.clone(), impersonate.groups.clone());
    let acting = users.clone().filter_map(UpstreamUser::impersonate).map(user);
    let tokens = tokens(users.filter_map(UpstreamUser::service_account));
    let needs = [impersonated(&acting.collect()), tokens].concat();
    if needs.is_empty() { at_least() } else { needs }
}

/// A client and the server that it asks, or what is to be told of it.
type Reached = Result<(Client, String), (String, String)>;

/// Most namespaces whose rules are listed, one question each. Grants of one kind share rights, so that a few stand for the others.
const MAX_LISTED: usize = 4;

/// Namespaces that grants are bound to: the rights for those may be in Roles there.
fn bound_to(grants: &[Arc<Grant>]) -> Vec<String> {
    let names: BTreeSet<_> = grants.iter().flat_map(|grant| grant.named_namespaces()).collect();
    names.into_iter().take(MAX_LISTED).map(str::to_owned).collect()
}

/// The verbs of the rules that hold everywhere, and of those in these namespaces.
async fn all_rule_verbs(client: &Client, namespaces: &[String]) -> Result<RuleVerbs, ReviewError> {
    let mut all = rule_verbs(client, LISTED_NAMESPACE).await?;
    for namespace in namespaces {
        let more = rule_verbs(client, namespace).await?;
        all.verbs.extend(more.verbs);
        all.complete &= more.complete;
    }
    Ok(all)
}

/// By the kubeconfig.
async fn cluster(config: &Config) -> Reached {
    let connector = Connector::new(&config.cluster.kubeconfig);
    let client = connector.connect().await.map_err(|error| unusable(&error))?;
    let server = connector.server().await.map_err(|error| unusable(&error))?;
    Ok((client, bare(&server)))
}

/// By the files of `upstream`.
fn upstream(config: &Config) -> Reached {
    let upstream = &config.upstream;
    let server: Uri = upstream.server.parse().map_err(|error: http::uri::InvalidUri| {
        let detail = format!("upstream.server: {error}");
        (detail, "write it as https://host:port".to_owned())
    })?;
    let files = CredentialFiles {
        ca: &upstream.ca_file,
        certificate: upstream.client_certificate_file.as_deref(),
        key: upstream.client_key_file.as_deref(),
        token: upstream.token_file.as_deref(),
    };
    let client = files.client(&server).map_err(|error| unusable(&error))?;
    Ok((client, bare(&server)))
}

/// A server's scheme, host and port. Its URL may have a name and a password too, which nobody is shown.
fn bare(server: &Uri) -> String {
    let scheme = server.scheme_str().unwrap_or("https");
    let host = server.host().unwrap_or_default();
    match server.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

fn unusable(error: &ClusterError) -> (String, String) {
    let advice = "make the file readable for the agent, or correct the configuration";
    (format!("not tested: {}", with_causes(error)), advice.to_owned())
}

async fn check(
    name: &'static str,
    reached: Reached,
    needs: &[Need],
    namespaces: &[String],
    advice: String,
) -> Check {
    let (client, server) = match reached {
        Ok(reached) => reached,
        Err((detail, advice)) => return Check::bad(name, CheckStatus::Missing, detail, advice),
    };
    let missing = |detail: String, advice: String| Check::bad(name, CheckStatus::Missing, detail, advice);
    match asked(&client, needs, namespaces).await {
        Ok(answers) if answers.verdict.missing.is_empty() => answers.unless_missing(name, &server),
        Ok(answers) => {
            let Verdict {
                missing: lacks,
                mixed,
                ..
            } = answers.verdict;
            missing([lacks, mixed].concat().join("\n"), advice)
        }
        Err(error @ ReviewError::Unauthorized(_)) => missing(
            format!("{server}: {error}"),
            "issue a new credential: it expired, or another cluster signed it".to_owned(),
        ),
        Err(error @ (ReviewError::Unreachable(_) | ReviewError::Silent)) => missing(
            format!("{server}: {error}"),
            "check the server's address and its CA bundle, and that the node reaches the address".to_owned(),
        ),
    }
}

/// What the API server said of a credential.
struct Answers {
    verdict: Verdict,
    /// What was asked about, for people.
    extent: String,
}

/// Asks for the rights that the needs take, and of users for those of constrained impersonation.
async fn asked(client: &Client, needs: &[Need], namespaces: &[String]) -> Result<Answers, ReviewError> {
    let asked = first(needs);
    let rights: BTreeSet<_> = asked.iter().flat_map(Need::rights).collect();
    let lacks = lacking(client, rights).await?;
    let rules = match asked.iter().any(|need| matches!(need, Need::User { .. })) {
        true => all_rule_verbs(client, namespaces).await?,
        false => RuleVerbs::default(),
    };
    let verbs = on_verbs(&rules);
    let samples = on_samples();
    let on = match (verbs.is_empty(), rules.complete) {
        (false, _) => OnRights::Some,
        (true, true) => OnRights::None,
        (true, false) if lacking(client, &samples).await?.len() < samples.len() => OnRights::Some,
        (true, false) => OnRights::Unknown,
    };
    let used: BTreeSet<_> = asked.iter().flat_map(|need| need.used(&lacks)).collect();
    let mut extent = format!("all {} rights asked for", used.len());
    if asked.len() < needs.len() {
        extent.push_str(&format!("; {} of {} are asked about", asked.len(), needs.len()));
    }
    if let Some(narrow) = narrowed(&verbs) {
        extent.push_str(&format!("; {narrow}"));
    }
    let verdict = judge(asked, &lacks, on);
    Ok(Answers { verdict, extent })
}

impl Answers {
    /// The check of a credential that lacks nothing. Picket works with rights of both modes, which limit nothing.
    fn unless_missing(self, name: &'static str, server: &str) -> Check {
        let Verdict { mixed, unknown, .. } = self.verdict;
        let advice = match (mixed.is_empty(), unknown.is_empty()) {
            (true, true) => {
                return Check::ok(name, format!("accepted by {server}, with {}", self.extent));
            }
            (false, _) => {
                "keep one form of the rights: where the API server has constrained impersonation (Kubernetes 1.36), give those of \
                 deploy/rbac.yaml and take the verb impersonate on these users and groups from all roles of the credential; \
                 elsewhere take impersonate:user-info from them"
            }
            (true, false) => {
                "send a request as an AI agent and look for `cannot impersonate-on` in the answer, or ask the API server as an \
                 administrator: kubectl auth can-i impersonate-on:user-info:get pods --as with the node's user and group"
            }
        };
        let detail = [mixed, unknown].concat().join("\n");
        Check::bad(name, CheckStatus::Degraded, detail, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::needs::{AUTHENTICATION, CONSTRAINED, CONSTRAINED_ON, EXTRAS, Way};
    use crate::cluster::rights::MAX_RIGHTS;
    use crate::cluster::testing::{reviewing, reviewing_with_rules, rules};

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
        let server = reviewing_with_rules(answer, rules).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        check(UPSTREAM, Ok((client, server)), needs, &[], "do this".to_owned()).await
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
        let policies = picket_policy::PolicySet::compile(documents).expect("a policy set");
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
        let [own, foreign] = [("one.key", 0), ("other.key", 1)]
            .map(|(name, at): (&str, usize)| write(name, &made[at].key_pem));
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
            config.tls.ca_certificate_file = certificate.clone();
            config.tls.ca_key_file = key.clone();
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
            &[],
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
        let check = check(CLUSTER, Ok((client, gone)), &followed(), &[], String::new()).await;
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
    }
}
