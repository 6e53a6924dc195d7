//! Follows the objects of the cluster, and has them judged at each change.
//!
//! In: the agent's own client of the API server. Out: [`ClusterObjects`] kept current, and a new set after each change. While the
//! API server is away, the last objects stay in force.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use picket_controller::lenient::Lenient;
use picket_policy::api::{API_VERSION, GROUP};
use tokio_util::sync::CancellationToken;

use super::Store;
use super::cluster::{ClusterObjects, KINDS};
use crate::cluster::{Connector, follow_with, printable};

/// How long changes are gathered. What `kubectl apply` sends of a file comes within milliseconds, and a revoked identity's sessions
/// run on for as long.
const QUIET: Duration = Duration::from_millis(5);

/// The pause after a failure to judge, which only a fault of the agent's own makes.
const JUDGE_AGAIN: Duration = Duration::from_secs(5);

/// Objects that one answer lists.
const PAGE: u32 = 500;

impl Store {
    /// Follows the objects of the cluster until cancelled; ends at once where the configuration has none.
    pub async fn follow_cluster(self: Arc<Self>, connector: Connector, cancel: CancellationToken) {
        let Some(cluster) = self.cluster.clone() else {
            return cancel.cancelled().await;
        };
        let mut changes = cluster.changes();
        let judge = async {
            while changes.changed().await.is_ok() {
                tokio::time::sleep(QUIET).await;
                changes.mark_unchanged();
                let store = Arc::clone(&self);
                if let Err(error) = tokio::task::spawn_blocking(move || store.judge_cluster()).await {
                    tracing::error!(%error, "the agent cannot judge the objects of the cluster: the last set stays in force, and the agent tries again");
                    // Else a revocation would wait for somebody's next change.
                    tokio::time::sleep(JUDGE_AGAIN).await;
                    changes.mark_changed();
                }
            }
        };
        let [identities, grants, policies] =
            [0, 1, 2].map(|place| kind(&connector, Arc::clone(&cluster), place, &cancel));
        tokio::select! {
            _ = async { tokio::join!(identities, grants, policies) } => {}
            () = judge => {}
        }
    }

    /// Lists the objects of the cluster once, for a command that looks at what an agent would have in force.
    ///
    /// # Errors
    /// Why they cannot be listed, in words for people.
    pub(crate) async fn list_cluster(&self, client: &Client) -> Result<(), String> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        for (place, kind) in KINDS.iter().enumerate() {
            let api = Api::<Lenient<DynamicObject>>::all_with(client.clone(), &api_resource(place));
            cluster.event(place, Event::Init);
            let mut parameters = ListParams::default().limit(PAGE);
            loop {
                let page = api.list(&parameters).await;
                let page = page.map_err(|error| format!("{}: {}", kind.kind, printable(&error)))?;
                for object in page.items {
                    cluster.event(place, Event::InitApply(object.0));
                }
                let next = page.metadata.continue_.filter(|token| !token.is_empty());
                if next.is_none() {
                    break;
                }
                parameters.continue_token = next;
            }
            cluster.event(place, Event::InitDone);
        }
        self.judge_cluster();
        Ok(())
    }

    /// Waits until the API server has told of all the cluster's objects, or for as long as that may take.
    pub async fn listed(&self, limit: Duration) {
        let Some(cluster) = &self.cluster else { return };
        let mut changes = self.changes();
        let listed = async {
            while cluster.why_unlisted().is_some() || self.status().generation == 0 {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever asks finds out by the set in force.
        let _late = tokio::time::timeout(limit, listed).await;
    }
}

/// How an API server names a kind.
pub(super) fn api_resource(place: usize) -> ApiResource {
    let version = API_VERSION.rsplit('/').next().unwrap_or(API_VERSION);
    let kind = GroupVersionKind::gvk(GROUP, version, KINDS[place].kind);
    ApiResource::from_gvk_with_plural(&kind, KINDS[place].plural)
}

/// Follows one kind.
async fn kind(connector: &Connector, cluster: Arc<ClusterObjects>, place: usize, cancel: &CancellationToken) {
    let resource = api_resource(place);
    follow_with(
        connector,
        KINDS[place].plural,
        |client| Api::<Lenient<DynamicObject>>::all_with(client, &resource),
        watcher::Config::default(),
        cancel,
        |event| cluster.event(place, event),
        |error| {
            cluster.failed(place);
            if let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error
                && status.code == 404
            {
                cluster.not_installed(place);
            }
        },
    )
    .await;
}
