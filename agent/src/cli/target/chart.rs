//! Whom the chart runs the agents as, for commands that print rights for them.
//!
//! In: a client with the person's own rights. Out: the agents' service account, and whether Helm keeps their role; nothing where no
//! DaemonSet of agents is there, or where the person may not know.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use picket_controller::lenient::Lenient;
use picket_controller::names::AGENTS;

use super::person::{AskError, list};

/// The role by which the chart's agents impersonate users, which `picket grant rbac` prints by default too.
pub(in crate::cli) const IMPERSONATOR: &str = "picket-node-impersonate";

/// The agents of the chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct ChartAgents {
    /// Namespace and name of their service account.
    pub(in crate::cli) account: (String, String),
    /// Whether Helm keeps [`IMPERSONATOR`]: it would undo what others write there.
    pub(in crate::cli) helm_has_role: bool,
}

/// The DaemonSets of agents; none where nobody runs agents by the chart.
///
/// # Errors
/// Where the person may not list them.
pub(in crate::cli) async fn daemonsets(client: &Client) -> Result<Vec<DaemonSet>, AskError> {
    let sets = Api::<Lenient<DaemonSet>>::all(client.clone());
    list(&sets, "daemonsets", &ListParams::default().labels(AGENTS)).await
}

/// Namespace and name of the service account that a DaemonSet's pods have.
pub(in crate::cli) fn account_of(set: &DaemonSet) -> (String, String) {
    let pod = set.spec.template.spec.as_ref();
    let name = pod.and_then(|pod| pod.service_account_name.clone());
    let name = name.unwrap_or_else(|| "default".to_owned());
    (set.namespace().unwrap_or_default(), name)
}

/// Looks for them.
pub(super) async fn agents(client: &Client) -> Option<ChartAgents> {
    let found = daemonsets(client).await.ok()?;
    let account = account_of(found.first()?);
    let roles = Api::<Lenient<ClusterRole>>::all(client.clone());
    let role = roles.get_opt(IMPERSONATOR).await;
    let is_helms = |role: Lenient<ClusterRole>| {
        role.labels()
            .get("app.kubernetes.io/managed-by")
            .is_some_and(|by| by == "Helm")
    };
    Some(ChartAgents {
        account,
        // A role beside one that nobody may look at harms nothing.
        helm_has_role: role.map_or(true, |role| role.is_some_and(is_helms)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::Connector;
    use crate::cluster::testing::answering;

    #[tokio::test]
    async fn the_charts_account_and_who_keeps_its_role_are_told() {
        for (by, helm_has_role) in [("Helm", true), ("me", false)] {
            let url = answering(move |request| {
                let pod = json!({"spec": {"serviceAccountName": "picket", "containers": []}});
                let set = json!({
                    "metadata": {"name": "picket", "namespace": "picket-system"}, "spec": {"selector": {}, "template": pod},
                });
                match request.uri().path().ends_with("/daemonsets") {
                    true => (200, json!({"metadata": {}, "items": [set]})),
                    false => {
                        let labels = json!({"app.kubernetes.io/managed-by": by});
                        (200, json!({"metadata": {"name": IMPERSONATOR, "labels": labels}}))
                    }
                }
            })
            .await;
            let (_folder, connector) = Connector::for_tests(&url);
            let client = connector.connect().await.expect("a client");
            let expected = ChartAgents {
                account: ("picket-system".to_owned(), "picket".to_owned()),
                helm_has_role,
            };
            assert_eq!(agents(&client).await, Some(expected));
        }
        let url = answering(|_| (200, json!({"metadata": {}, "items": []}))).await;
        let (_folder, connector) = Connector::for_tests(&url);
        assert_eq!(agents(&connector.connect().await.expect("a client")).await, None);
    }
}
