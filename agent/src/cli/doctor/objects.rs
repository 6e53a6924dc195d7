//! The objects that the checks of the upstream credential are about: those in files, and those that the cluster keeps.
//!
//! In: a configuration, and a client by its kubeconfig. Out: the objects as an agent would have them in force, and why they may not be
//! all of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use picket_policy::{Grant, GrantState, Identity, PolicySet, Standing};

use crate::config::Config;
use crate::kernel::doctor::{Check, CheckStatus};
use crate::store::Store;

/// The objects, as far as they are known.
pub(super) struct KnownObjects {
    /// Those that could be read.
    pub(super) set: Option<Arc<PolicySet>>,
    /// Why there may be others in the cluster.
    pub(super) unlisted: Option<String>,
}

/// Reads the files and lists the cluster's objects, where the configuration has them.
pub(super) async fn known(config: &Config, client: Option<&Client>, limit: Duration) -> KnownObjects {
    let files = &config.objects.files;
    if !config.objects.cluster {
        // What files cannot be read is the configuration's check.
        return KnownObjects {
            set: Store::open(files).ok().map(|store| store.current()),
            unlisted: None,
        };
    }
    let store = Store::open_or_deny_all(files, true);
    let unlisted = match client {
        None => Some("the kubeconfig makes no client".to_owned()),
        Some(client) => match tokio::time::timeout(limit, store.list_cluster(client)).await {
            Ok(listed) => listed.err(),
            Err(_) => Some(format!(
                "the API server did not list them within {} s",
                limit.as_secs()
            )),
        },
    };
    if unlisted.is_none() && store.why_deny_all().is_none() {
        return KnownObjects {
            set: Some(store.current()),
            unlisted: None,
        };
    }
    let of_files = Store::open_beside(files, true).ok();
    KnownObjects {
        set: of_files.map(|store| store.current()),
        unlisted: unlisted.or_else(|| store.why_deny_all()),
    }
}

impl KnownObjects {
    /// The grants that somebody can use, now or later: those that `picket grant rbac` prints rights for.
    pub(super) fn usable(&self, now: Timestamp) -> Vec<Arc<Grant>> {
        let Some(set) = &self.set else {
            return Vec::new();
        };
        // A suspended one may be resumed, and needs its rights then.
        let may_act = |identity: &&Arc<Identity>| {
            !matches!(identity.standing(now), Standing::Revoked | Standing::Expired(_))
        };
        let acting = set.identities().iter().filter(may_act);
        let reached: BTreeSet<_> = acting
            .flat_map(|identity| set.grants_of(&identity.name))
            .map(|grant| grant.name())
            .collect();
        let is_usable = |grant: &&Arc<Grant>| {
            reached.contains(grant.name()) && grant.hours(now).state != GrantState::Expired
        };
        set.grants().iter().filter(is_usable).cloned().collect()
    }

    /// A check of what grants need is worth less where not all grants are known.
    pub(super) fn bound(&self, check: Check) -> Check {
        let Some(reason) = self
            .unlisted
            .as_ref()
            .filter(|_| check.status != CheckStatus::Missing)
        else {
            return check;
        };
        let detail = format!(
            "{}\nnot tested: what the grants in the cluster need: {reason}",
            check.detail
        );
        let advice = check.advice.unwrap_or_else(|| {
            "install the CRDs, and give the credential of cluster.kubeconfig the rights of deploy/rbac.yaml".to_owned()
        });
        Check::bad(check.name, CheckStatus::Degraded, detail, advice)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::Connector;
    use crate::cluster::testing::listing;

    const LIMIT: Duration = Duration::from_secs(10);

    fn config(files: &[&Path]) -> Config {
        let text = "nodeName: n\ncluster: {kubeconfig: /nonexistent/k}\n\
             upstream: {server: 'https://127.0.0.1:1', caFile: /nonexistent/ca, tokenFile: /nonexistent/t}\n\
             tls: {caCertificateFile: /nonexistent/c, caKeyFile: /nonexistent/y}\nenforce: {namespaces: [a]}\nobjects: {cluster: true}\n";
        let mut config = Config::parse("f", text).expect("a configuration");
        config.objects.files = files.iter().map(|path| (*path).to_owned()).collect();
        config
    }

    fn items(resource: &str) -> Vec<Value> {
        let object = |kind: &str, name: &str, spec: Value| {
            json!({
                "apiVersion": "picket.dev/v1alpha1", "kind": kind,
                "metadata": {"name": name, "uid": name, "generation": 1}, "spec": spec,
            })
        };
        match resource {
            "agentidentities" => {
                let pod = json!({"pod": {"namespace": "n", "serviceAccount": "a"}});
                vec![object("AgentIdentity", "a", json!({"owner": "o", "attest": pod}))]
            }
            "agentgrants" => {
                let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
                let upstream = json!({"impersonate": {"user": "agent:a"}});
                let spec = json!({"to": {"identities": ["a"]}, "upstream": upstream, "rules": rules});
                vec![object("AgentGrant", "g", spec)]
            }
            _ => Vec::new(),
        }
    }

    fn users(known: &KnownObjects) -> Vec<String> {
        let grants = known.set.iter().flat_map(|set| set.grants());
        grants
            .filter_map(|grant| Some(grant.user()?.username().to_owned()))
            .collect()
    }

    #[tokio::test]
    async fn grants_of_the_cluster_are_listed_and_judged_beside_the_files() {
        let server = listing(|resource| Some(items(resource))).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        let alone = known(&config(&[]), Some(&client), LIMIT).await;
        assert_eq!(
            (users(&alone), &alone.unlisted),
            (vec!["agent:a".to_owned()], &None)
        );
        let folder = tempfile::tempdir().expect("a folder");
        let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: f}\nspec: {to: {identities: [a]}, upstream: \
             {impersonate: {user: 'agent:a'}}, rules: [{verbs: [list], apiGroups: [''], resources: [pods]}]}\n";
        std::fs::write(folder.path().join("f.yaml"), text).expect("written");
        let beside = known(&config(&[folder.path()]), Some(&client), LIMIT).await;
        assert_eq!((users(&beside).len(), &beside.unlisted), (2, &None));
        let check = beside.bound(Check::ok("upstream credential", "accepted"));
        assert_eq!(check.status, CheckStatus::Ok);
    }

    #[tokio::test]
    async fn what_the_cluster_does_not_list_is_not_taken_for_tested() {
        let server = listing(|resource| (resource != "agentgrants").then(|| items(resource))).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        for client in [Some(&client), None] {
            let known = known(&config(&[]), client, LIMIT).await;
            assert!(known.unlisted.is_some());
            let check = known.bound(Check::ok("upstream credential", "accepted"));
            assert_eq!(check.status, CheckStatus::Degraded);
            assert!(
                check
                    .detail
                    .contains("not tested: what the grants in the cluster need: "),
                "{check:?}"
            );
        }
    }
}
