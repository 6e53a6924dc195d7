//! Whether the node's credentials reach the API server, and have there what deploy/rbac.yaml gives.
//!
//! In: a configuration. Out: a check of each credential: the kubeconfig's, for what the agent follows, and the upstream's, for
//! whom the grants let agents act as.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Uri;
use kube::Client;
use picket_policy::{Impersonate, service_account};

use super::{in_time, slow};
use crate::cluster::rights::{CredentialFiles, MAX_RIGHTS, Need, ReviewError, Right, lacking};
use crate::cluster::{ClusterError, Connector};
use crate::config::Config;
use crate::kernel::doctor::{Check, CheckStatus};
use crate::runtime::causes::with_causes;
use crate::store::Store;

/// The names of the checks.
const CLUSTER: &str = "cluster credential";
const UPSTREAM: &str = "upstream credential";

/// The verb of constrained impersonation, and of releases before it and of service accounts.
const CONSTRAINED: &str = "impersonate:user-info";
const PLAIN: &str = "impersonate";

/// The API group of impersonated users and groups.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// What the agent adds to each impersonated user.
const EXTRAS: [&str; 2] = ["picket.dev/identity", "picket.dev/pod"];

/// Both checks. Must be called within a tokio runtime.
pub(super) async fn checks(config: &Config, limit: Duration) -> Vec<Check> {
    // What objects cannot be read is the configuration's check.
    let users: BTreeSet<_> = match Store::open(&config.objects) {
        Ok(store) => {
            let policies = store.current();
            let grants = policies.grants().iter();
            let user = |impersonate: &Impersonate| (impersonate.user.clone(), impersonate.groups.clone());
            grants.map(|grant| user(grant.impersonate())).collect()
        }
        Err(_) => BTreeSet::new(),
    };
    let (followed, impersonated) = (followed(), impersonated(&users));
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
    let (cluster, upstream) = tokio::join!(
        check(CLUSTER, cluster.unwrap_or_else(late), &followed, advice),
        check(
            UPSTREAM,
            upstream.unwrap_or_else(late),
            &impersonated,
            "list these users and groups under resourceNames in ClusterRole picket-node-impersonate of deploy/rbac.yaml, apply \
             the file, and bind the role to the credential's group"
                .to_owned()
        ),
    );
    vec![cluster, upstream]
}

/// A client and the server that it asks, or what is to be told of it.
type Reached = Result<(Client, String), (String, String)>;

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

async fn check(name: &'static str, reached: Reached, needs: &[Need], advice: String) -> Check {
    let (client, server) = match reached {
        Ok(reached) => reached,
        Err((detail, advice)) => return Check::bad(name, CheckStatus::Missing, detail, advice),
    };
    let missing = |detail: String, advice: String| Check::bad(name, CheckStatus::Missing, detail, advice);
    match lacking(&client, needs).await {
        Ok(lacks) if lacks.is_empty() => {
            let asked = needs.len().min(MAX_RIGHTS);
            Check::ok(
                name,
                format!("accepted by {server}, with all {asked} rights asked for"),
            )
        }
        Ok(lacks) => {
            let mut lacks: Vec<_> = lacks
                .iter()
                .map(|need| format!("may not {}", need.what))
                .collect();
            lacks.dedup();
            missing(lacks.join("\n"), advice)
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

/// What the agent follows, and Events.
fn followed() -> Vec<Need> {
    let resources = [
        ("", "pods"),
        ("", "services"),
        ("", "nodes"),
        ("discovery.k8s.io", "endpointslices"),
    ];
    let follow = |(group, resource)| {
        ["list", "watch"].map(|verb| Need {
            what: format!("{verb} {resource}"),
            any_of: vec![Right::on(verb, group, resource)],
        })
    };
    resources.into_iter().flat_map(follow).collect()
}

/// What it takes to act as these users with their groups.
fn impersonated(users: &BTreeSet<(String, Vec<String>)>) -> Vec<Need> {
    let mut needs = BTreeSet::new();
    for (user, groups) in users {
        let account = service_account(user);
        let verbs: &[&'static str] = match account {
            // The API server lets nobody act as one by the constrained verb for users.
            Some(_) => &[PLAIN],
            None => &[CONSTRAINED, PLAIN],
        };
        let need = |what: String, right: &dyn Fn(&'static str) -> Right| Need {
            what: format!("impersonate {what}"),
            any_of: verbs.iter().copied().map(right).collect(),
        };
        needs.insert(match account {
            Some((namespace, name)) => need(format!("service account {namespace}/{name}"), &|verb| Right {
                namespace: Some(namespace.to_owned()),
                ..Right::on(verb, "", "serviceaccounts").named(name)
            }),
            None => need(format!("user {user}"), &|verb| {
                Right::on(verb, group_of(verb), "users").named(user)
            }),
        });
        for group in groups {
            let right = |verb| Right::on(verb, group_of(verb), "groups").named(group);
            needs.insert(need(format!("group {group}"), &right));
        }
        for extra in EXTRAS {
            needs.insert(need(format!("userextras/{extra}"), &|verb| Right {
                subresource: Some(extra),
                ..Right::on(verb, AUTHENTICATION, "userextras")
            }));
        }
    }
    if needs.is_empty() {
        // Nobody can act yet; the credential is tried all the same.
        let any = Right::on("create", "authorization.k8s.io", "selfsubjectaccessreviews");
        needs.insert(Need {
            what: "ask for its own rights".to_owned(),
            any_of: vec![any],
        });
    }
    needs.into_iter().collect()
}

/// The API group that users and groups have for a verb.
fn group_of(verb: &str) -> &'static str {
    if verb == CONSTRAINED { AUTHENTICATION } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::rights::MAX_RIGHTS;
    use crate::cluster::testing::reviewing;

    const SMALLEST: &str = "\
nodeName: n
cluster: {kubeconfig: /nonexistent/k}
upstream: {server: 'https://127.0.0.1:1', caFile: /nonexistent/ca, tokenFile: /nonexistent/t}
tls: {caCertificateFile: /nonexistent/c, caKeyFile: /nonexistent/y}
enforce: {namespaces: [a]}
objects: [/nonexistent/o]
";

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
        let server = reviewing(answer).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        check(UPSTREAM, Ok((client, server)), needs, "do this".to_owned()).await
    }

    #[tokio::test]
    async fn a_credential_with_the_rights_of_the_grants_is_accepted() {
        let needs = impersonated(&users());
        let what: Vec<_> = needs.iter().map(|need| need.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "impersonate group agents",
                "impersonate group readers",
                "impersonate service account ci/bot",
                "impersonate user agent:triage",
                "impersonate userextras/picket.dev/identity",
                "impersonate userextras/picket.dev/identity",
                "impersonate userextras/picket.dev/pod",
                "impersonate userextras/picket.dev/pod",
            ]
        );
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
        assert!(check.detail.contains("all 8 rights"), "{}", check.detail);
        // The older verb does, where the release has no other.
        let plain = |of: &serde_json::Value| Ok(of["verb"] == "impersonate");
        assert_eq!(asked(&needs, plain).await.status, CheckStatus::Ok);
    }

    #[tokio::test]
    async fn what_a_credential_lacks_is_named_with_what_to_do() {
        let needs = impersonated(&users());
        let check = asked(&needs, |of| {
            Ok(of["name"] != "agents" && of["resource"] != "serviceaccounts")
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
        let nobody = impersonated(&BTreeSet::new());
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
        assert!(needs.len() < MAX_RIGHTS);
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
        let check = check(CLUSTER, Ok((client, bare(&reached))), &followed(), String::new()).await;
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
        let check = check(CLUSTER, Ok((client, gone)), &followed(), String::new()).await;
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
