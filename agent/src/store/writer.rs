//! Writes a part of an object's status at the API server.
//!
//! In: an object, a field manager, and what that manager says of the object. Out: a server-side apply: the status has all that a manager
//! applied last, and nothing that the same manager applied before.

use std::future::Future;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use picket_controller::lenient::Lenient;
use picket_policy::api::API_VERSION;
use serde_json::{Value, json};

use super::StoreMetrics;
use super::cluster::KINDS;
use super::follow::api_resource;
use crate::cluster::{Connector, KeptClient, RequestError};

/// Writes statuses as one part of the agent.
pub(super) struct StatusWriter {
    client: KeptClient,
    metrics: StoreMetrics,
    /// What is written, for the log.
    what: &'static str,
    failing: bool,
}

impl StatusWriter {
    pub(super) fn new(connector: Connector, metrics: StoreMetrics, what: &'static str) -> Self {
        Self {
            client: KeptClient::new(connector),
            metrics,
            what,
            failing: false,
        }
    }

    /// Has the status of an object say this of `manager`, and nothing else; true where it does. A failure is counted, and told once until a
    /// write succeeds.
    pub(super) async fn write(
        &mut self,
        (place, name, uid): (usize, &str, &str),
        manager: &str,
        status: Value,
    ) -> bool {
        // The UID keeps the status of a removed object from one that was made anew under its name.
        let patch = json!({
            "apiVersion": API_VERSION, "kind": KINDS[place].kind,
            "metadata": {"name": name, "uid": uid},
            "status": status,
        });
        let parameters = PatchParams::apply(manager).force();
        let apply = |client| async move {
            let api = Api::<Lenient<DynamicObject>>::all_with(client, &api_resource(place));
            api.patch_status(name, &parameters, &Patch::Apply(&patch)).await
        };
        let written = self.ask(apply).await;
        self.metrics.status_written(written.is_ok());
        match &written {
            Ok(_) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => tracing::warn!(
                %error,
                name,
                "the agent cannot write {}; deploy/rbac.yaml has the rights for it",
                self.what
            ),
            Err(_) => {}
        }
        written.is_ok()
    }

    /// Asks the API server something.
    pub(super) async fn ask<T, F: Future<Output = kube::Result<T>>>(
        &mut self,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, RequestError> {
        self.client.ask(request).await
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
