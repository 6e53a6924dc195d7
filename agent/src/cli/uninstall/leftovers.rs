//! What Picket's controller and agents made in the cluster, outside the release that installed them.
//!
//! In: an uninstallation whose agents have ended. Out: none of these objects, and no label of Picket's on a node. What is not there, or of
//! a kind that the cluster does not have, counts as removed.

use anyhow::bail;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt as _};
use picket_controller::lenient::Lenient;
use picket_controller::names::{AGENT_LABEL, BUNDLE, LEASE, OWN_LABELS, ROOT_SECRET, SIGNER};
use serde_json::json;

use super::cluster::Uninstall;
use crate::cli::output;

/// Removes all of it but the nodes' labels.
///
/// # Errors
/// The API server refuses a part; the others are removed all the same.
pub(super) async fn remove(of: &Uninstall) -> anyhow::Result<()> {
    let (secrets, leases) = (of.objects::<Secret>(), of.objects::<Lease>());
    let done = [
        of.delete(&secrets, ROOT_SECRET).await,
        of.delete(&leases, LEASE).await,
    ];
    let mut faults: Vec<anyhow::Error> = done.into_iter().filter_map(Result::err).collect();
    faults.extend(bundles(of).await.err());
    faults.extend(requests(of).await.err());
    faults.extend(node_objects(of).await.err());
    if faults.is_empty() {
        output::say(format_args!("removed what Picket made in the cluster"));
        return Ok(());
    }
    let faults: Vec<_> = faults.iter().map(|fault| format!("{fault:#}")).collect();
    bail!("objects of Picket's are left: {}", faults.join("; "))
}

async fn bundles(of: &Uninstall) -> anyhow::Result<()> {
    let namespaces: Api<Lenient<Namespace>> = Api::all(of.client.clone());
    for namespace in of.list(&namespaces, &ListParams::default()).await? {
        let maps: Api<Lenient<ConfigMap>> = Api::namespaced(of.client.clone(), &namespace.name_any());
        let map = of.ask(|| maps.get(BUNDLE)).await?;
        if map.is_some_and(|map| is_own(&map)) {
            of.delete(&maps, BUNDLE).await?;
        }
    }
    Ok(())
}

fn is_own(map: &Lenient<ConfigMap>) -> bool {
    let has = |(key, value): &(&str, &str)| map.labels().get(*key).is_some_and(|found| found == value);
    // One of that name that an operator made stays.
    OWN_LABELS.iter().all(has)
}

/// Removes the label of nodes with an agent that serves.
///
/// # Errors
/// The API server refuses it.
pub(super) async fn remove_node_labels(of: &Uninstall) -> anyhow::Result<()> {
    let nodes: Api<Lenient<Node>> = Api::all(of.client.clone());
    let parameters = PatchParams::default();
    let without = Patch::Merge(json!({"metadata": {"labels": {AGENT_LABEL: null}}}));
    for node in of
        .list(&nodes, &ListParams::default().labels(AGENT_LABEL))
        .await?
    {
        let name = node.name_any();
        of.ask(|| nodes.patch(&name, &parameters, &without)).await?;
    }
    Ok(())
}

async fn requests(of: &Uninstall) -> anyhow::Result<()> {
    let requests: Api<Lenient<CertificateSigningRequest>> = Api::all(of.client.clone());
    let which = ListParams::default().fields(&format!("spec.signerName={SIGNER}"));
    for request in of.list(&requests, &which).await? {
        let name = request.name_any();
        of.delete(&requests, &name).await?;
    }
    Ok(())
}

async fn node_objects(of: &Uninstall) -> anyhow::Result<()> {
    let kind = GroupVersionKind::gvk("picket.dev", "v1alpha1", "PicketNode");
    let kind = ApiResource::from_gvk_with_plural(&kind, "picketnodes");
    let objects: Api<Lenient<DynamicObject>> = Api::all_with(of.client.clone(), &kind);
    for object in of.list(&objects, &ListParams::default()).await? {
        let name = object.name_any();
        of.delete(&objects, &name).await?;
    }
    Ok(())
}
