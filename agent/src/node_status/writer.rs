//! The requests by which a node's status is written.
//!
//! In: the node's name and its status. Out: a PicketNode of that name, owned by the Node so that it goes with it, with this status.

use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use picket_controller::lenient::Lenient;
use picket_policy::api::v1alpha1::{PICKET_NODE_KIND, PICKET_NODE_PLURAL, PicketNodeStatus};
use picket_policy::api::{API_VERSION, GROUP};
use serde_json::{Value, json};

use super::NodeStatusMetrics;
use crate::cluster::{Connector, KeptClient, LastVersion, RequestError, StoreResets};

/// The field manager of agents. One agent writes an object, so that all agents can be one manager.
const MANAGER: &str = "picket-node";

/// Why a status is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WriteError {
    /// There is no Node of that name, and so nothing that the object could go with.
    #[error(
        "the API server has no Node {0}, so that its PicketNode is not written: nodeName must be a name that `kubectl get nodes` shows"
    )]
    NoNode(String),
    /// The API server has no such kind.
    #[error("the API server has no kind PicketNode: apply the CRDs, which `picket crds` prints")]
    NoKind,
    /// It denies.
    #[error("the API server denies it: {0}; deploy/rbac.yaml has the rights for it")]
    Denied(String),
    /// It is away, or says anything else.
    #[error("{0}")]
    Other(String),
}

/// Writes the status of one node.
pub(super) struct NodeWriter {
    node: String,
    client: KeptClient,
    metrics: NodeStatusMetrics,
    /// Whether the object is there, as far as this agent knows.
    is_there: bool,
    /// The failure that was told, until a write succeeds.
    told: Option<WriteError>,
    /// The version that the last write of a status made, by which a restore of an older state shows.
    last: LastVersion,
    resets: StoreResets,
}

impl NodeWriter {
    pub(super) fn new(node: &str, connector: Connector, metrics: NodeStatusMetrics) -> Self {
        Self {
            node: node.to_owned(),
            resets: connector.resets().clone(),
            client: KeptClient::new(connector),
            metrics,
            is_there: false,
            told: None,
            last: LastVersion::default(),
        }
    }

    /// Writes the status, and makes the object where it is not there. A failure is counted, and told once.
    pub(super) async fn write(&mut self, status: &PicketNodeStatus) -> Result<(), WriteError> {
        let written = self.try_write(status).await;
        self.metrics.wrote(written.is_ok());
        match &written {
            Ok(()) => {
                if self.told.take().is_some() {
                    tracing::info!("the status of this node's PicketNode is written again");
                }
            }
            Err(error) if self.told.as_ref() != Some(error) => {
                tracing::warn!(
                    %error,
                    "the agent cannot write the status of its node, which `picket status` shows; nothing else depends on it"
                );
                self.told = Some(error.clone());
            }
            Err(_) => {}
        }
        written
    }

    async fn try_write(&mut self, status: &PicketNodeStatus) -> Result<(), WriteError> {
        if !self.is_there {
            self.make().await?;
        }
        let written = self.apply_status(status).await;
        if self.is_there || written.is_ok() {
            return written;
        }
        // Somebody deleted it, or it went with an earlier Node of that name.
        self.make().await?;
        self.apply_status(status).await
    }

    /// Makes the object, which the Node owns.
    async fn make(&mut self) -> Result<(), WriteError> {
        let name = self.node.clone();
        // The agent may list Nodes, and not get one.
        let of_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let list = |client| async move { Api::<Lenient<Node>>::all(client).list(&of_name).await };
        let nodes = self.client.ask(list).await?.items;
        let node = nodes.into_iter().find(|node| node.name_any() == name);
        let uid = node.and_then(|node| node.uid());
        let Some(uid) = uid else {
            return Err(WriteError::NoNode(name));
        };
        let object = json!({
            "apiVersion": API_VERSION, "kind": PICKET_NODE_KIND,
            "metadata": {
                "name": name,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}],
            },
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let apply = |client| async move {
            let patch = Patch::Apply(&object);
            api(client).patch(&name, &parameters, &patch).await.map(drop)
        };
        self.client.ask(apply).await?;
        self.is_there = true;
        Ok(())
    }

    /// Looks at what a write of the status made: at a version older than that of the write before, all watches are begun anew.
    fn wrote(&mut self, object: &Lenient<DynamicObject>) {
        let version = object.resource_version();
        if self.last.shows_reset(version.as_deref(), &self.resets) {
            self.metrics.found_reset();
            tracing::warn!(
                version,
                "the API server's objects were set back to an older state, as by a restore of etcd: the agent lists all of them anew"
            );
        }
    }

    async fn apply_status(&mut self, status: &PicketNodeStatus) -> Result<(), WriteError> {
        let name = self.node.clone();
        let object = status_patch(&name, status);
        let parameters = PatchParams::apply(MANAGER).force();
        let apply = |client| async move {
            let patch = Patch::Apply(&object);
            api(client).patch_status(&name, &parameters, &patch).await
        };
        let applied = self.client.ask(apply).await.map_err(WriteError::from);
        if matches!(applied, Err(WriteError::NoKind)) {
            // An object that is gone is told like a kind that is not there.
            self.is_there = false;
        }
        self.wrote(&applied?);
        Ok(())
    }
}

impl From<RequestError> for WriteError {
    fn from(error: RequestError) -> Self {
        let said = error.to_string();
        match error {
            RequestError::Api(kube::Error::Api(status)) => match status.code {
                404 => Self::NoKind,
                401 | 403 => Self::Denied(said),
                _ => Self::Other(said),
            },
            _ => Self::Other(said),
        }
    }
}

fn status_patch(name: &str, status: &PicketNodeStatus) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": PICKET_NODE_KIND,
        "metadata": {"name": name},
        "status": status,
    })
}

fn api(client: Client) -> Api<Lenient<DynamicObject>> {
    let version = API_VERSION.rsplit('/').next().unwrap_or(API_VERSION);
    let kind = GroupVersionKind::gvk(GROUP, version, PICKET_NODE_KIND);
    Api::all_with(
        client,
        &ApiResource::from_gvk_with_plural(&kind, PICKET_NODE_PLURAL),
    )
}
