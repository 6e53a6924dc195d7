//! The parts that ask the cluster: objects and their status, the kubeconfig, Kubernetes Events.
//!
//! In: the opened parts. Out: their tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Handles, Shared, Tasks, pod_facts};
use crate::cluster::{Connector, Followed};
use crate::node_ca::NodeCaRenewal;
use crate::notify::{self, KubeEvent};
use crate::runtime::readiness::{Pending, Readiness};
use crate::store::Store;

/// The name in `/readyz` of the kubeconfig.
const CLUSTER: &str = "cluster";

/// The name in `/readyz` of lists that the API server answers with and that cannot be read.
const OBJECT_LISTS: &str = "object-lists";

/// How long a new agent's readiness waits for the namespaces that rules look at.
const NAMESPACES_LIMIT: Duration = Duration::from_secs(10);

/// How often a kubeconfig is read that could not be used at the start.
const KUBECONFIG_INTERVAL: Duration = Duration::from_secs(1);

/// The objects that the cluster keeps. Not ended with the others: requests and sessions go on while the agent drains, and are
/// judged by them.
pub(in crate::app) fn cluster_objects(
    connector: Connector,
    store: &Arc<Store>,
) -> impl Future<Output = ()> + Send + use<> {
    Arc::clone(store).follow_cluster(connector, CancellationToken::new())
}

/// The namespaces, while rules look at them. Not ended with the others either.
pub(in crate::app) fn namespaces(
    connector: Connector,
    store: &Arc<Store>,
) -> impl Future<Output = ()> + Send + use<> {
    Arc::clone(store).follow_namespaces(connector, CancellationToken::new())
}

/// The first set in force: until then every request is denied, and the agent is not ready.
pub(in crate::app) async fn first_set(store: Arc<Store>, ready: Pending) {
    let mut changes = store.changes();
    let is_there = changes.wait_for(|status| status.generation > 0).await.is_ok();
    if is_there {
        // Rules about labels of namespaces would fire for all of them.
        store.namespaces_tried(NAMESPACES_LIMIT).await;
        ready.ready();
    }
    std::future::pending::<()>().await;
}

/// The kubeconfig, where it could not be used at the start: `/readyz` says so until it can.
pub(in crate::app) fn kubeconfig(tasks: &mut Tasks, handles: &Handles) {
    let connector = handles.connector.clone();
    let readiness = handles.readiness.clone();
    tasks.spawn("kubeconfig", async move {
        while let Err(error) = connector.connect().await {
            readiness.fails(CLUSTER, error.to_string());
            tokio::time::sleep(KUBECONFIG_INTERVAL).await;
        }
        if readiness.works(CLUSTER) {
            tracing::info!("the kubeconfig can be used");
        }
        std::future::pending::<()>().await;
    });
}

/// Kinds of objects that cannot be read: `/readyz` names them, since the agent goes by older ones.
pub(in crate::app) fn unreadable(tasks: &mut Tasks, handles: &Handles) {
    let kinds = handles.connector.unreadable().subscribe();
    tasks.spawn(
        "unreadable objects",
        tell_unreadable(kinds, handles.readiness.clone()),
    );
}

async fn tell_unreadable(mut kinds: watch::Receiver<BTreeMap<Followed, String>>, readiness: Readiness) {
    loop {
        let found = kinds.borrow_and_update().clone();
        match found.first_key_value() {
            Some(((kind, _), reason)) => {
                let reason = format!("the list of {kind} cannot be read, and older ones count: {reason}");
                readiness.fails(OBJECT_LISTS, reason);
            }
            None => drop(readiness.works(OBJECT_LISTS)),
        }
        if kinds.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The status of the cluster's objects.
pub(in crate::app) fn object_status(tasks: &mut Tasks, handles: &Handles, shared: &Shared) {
    let enforced = shared.enforcer.enforced().clone();
    let pods = move || enforced.pods().iter().map(pod_facts).collect();
    let nodes = Arc::clone(&handles.store).report_nodes(
        handles.connector.clone(),
        handles.metrics.store.clone(),
        Arc::new(pods),
        handles.cancel.clone(),
    );
    tasks.spawn("nodes in statuses", nodes);
    let written = Arc::clone(&handles.store).report_conditions(
        handles.connector.clone(),
        handles.metrics.store.clone(),
        CancellationToken::new(),
    );
    tasks.spawn("status of objects", written);
}

/// The node CA, where Picket's controller signs it: asked for at once, since no client gets a TLS session without. A lock keeps the two
/// agents of an upgrade from asking both.
pub(in crate::app) fn node_ca(tasks: &mut Tasks, handles: &Handles) {
    let Some(exchange) = handles.files.node_ca.clone() else {
        return;
    };
    let certificates = Arc::clone(&handles.files.certificates);
    let renewal = NodeCaRenewal::new(
        exchange,
        handles.readiness.clone(),
        handles.kube_events.clone(),
        move || certificates.renew_due(SystemTime::now()),
    );
    let cancel = handles.cancel.clone();
    tasks.spawn("node CA", async move {
        cancel.run_until_cancelled(renewal.run()).await;
    });
}

/// Kubernetes Events.
pub(in crate::app) fn notify(tasks: &mut Tasks, handles: &Handles, events: mpsc::Receiver<KubeEvent>) {
    let posted = notify::post(
        handles.connector.clone(),
        handles.config.node_name.clone(),
        events,
        handles.metrics.notify.clone(),
        notify::Patience::default(),
    );
    tasks.spawn("kubernetes events", posted);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_kind_that_cannot_be_read_is_told_until_it_can() {
        let (kinds, told) = watch::channel(BTreeMap::from([(("services", 0), "a date".to_owned())]));
        let readiness = Readiness::default();
        let mut telling = Box::pin(tell_unreadable(told, readiness.clone()));
        assert!(telling.as_mut().now_or_never().is_none());
        let reason = "the list of services cannot be read, and older ones count: a date".to_owned();
        assert_eq!(readiness.failing(), [(OBJECT_LISTS, reason)]);
        kinds.send_replace(BTreeMap::new());
        assert!(telling.as_mut().now_or_never().is_none());
        assert!(readiness.failing().is_empty());
    }

    #[test]
    fn the_agent_is_not_ready_before_its_first_set_is_in_force() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "kind: Nothing").expect("a faulty file");
        let paths: [PathBuf; 1] = [folder.path().to_owned()];
        let store = Arc::new(Store::open_or_deny_all(&paths, false));
        let readiness = Readiness::default();
        let mut first = Box::pin(first_set(Arc::clone(&store), readiness.register("objects")));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(readiness.waiting(), ["objects"]);
        let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\n\
                    spec: {owner: o, attest: {pod: {namespace: n, serviceAccount: a}}}\n";
        std::fs::write(&file, text).expect("a good file");
        store.reload();
        assert!(
            first.as_mut().now_or_never().is_none(),
            "a core task does not end"
        );
        assert!(readiness.waiting().is_empty());
    }
}
