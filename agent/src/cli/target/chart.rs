//! Whom the chart runs the agents as, for commands that print rights for them.
//!
//! In: a client with the person's own rights. Out: the agents' service account, nothing where no DaemonSet of agents is there; and whether
//! Helm keeps their role.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use picket_controller::lenient::Lenient;
use picket_controller::names::AGENTS;

use super::person::{AskError, list};

/// The role by which the chart's agents impersonate users, which `picket grant rbac` prints by default too.
pub(in crate::cli) const IMPERSONATOR: &str = "picket-node-impersonate";

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

/// Whom the agents run as; nothing where nobody runs them by the chart.
///
/// # Errors
/// As [`daemonsets`].
pub(super) async fn agents(client: &Client) -> Result<Option<(String, String)>, AskError> {
    Ok(daemonsets(client).await?.first().map(account_of))
}

/// Whether Helm keeps [`IMPERSONATOR`]: it would undo what others write there. A role that nobody may look at counts as Helm's.
pub(in crate::cli) async fn helm_has_role(client: &Client) -> bool {
    let roles = Api::<Lenient<ClusterRole>>::all(client.clone());
    let role = roles.get_opt(IMPERSONATOR).await;
    let is_helms = |role: Lenient<ClusterRole>| {
        role.labels()
            .get("app.kubernetes.io/managed-by")
            .is_some_and(|by| by == "Helm")
    };
    role.map_or(true, |role| role.is_some_and(is_helms))
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
            let account = ("picket-system".to_owned(), "picket".to_owned());
            assert_eq!(agents(&client).await, Ok(Some(account)));
            assert_eq!(super::helm_has_role(&client).await, helm_has_role, "{by}");
        }
        let url = answering(|_| (200, json!({"metadata": {}, "items": []}))).await;
        let (_folder, connector) = Connector::for_tests(&url);
        let client = connector.connect().await.expect("a client");
        assert_eq!(agents(&client).await, Ok(None));
        let refused = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "not for you"});
        let url = answering(move |_| (403, refused.clone())).await;
        let (_folder, connector) = Connector::for_tests(&url);
        let client = connector.connect().await.expect("a client");
        assert_eq!(
            agents(&client).await,
            Err(AskError::Denied("not for you".to_owned()))
        );
    }
}
