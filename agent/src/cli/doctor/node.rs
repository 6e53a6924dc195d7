//! Whether the configuration is this node's: its name, the pods that it selects, the API server's own address, and its cloud.
//!
//! In: a configuration, and a client with the kubeconfig's credential. Out: a check of each, or why it could not be made.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use picket_controller::lenient::{self, Lenient};
use picket_controller::names::ENROLLED;
use picket_policy::DEFAULT_NAMESPACE;

use super::cloud;
use crate::cluster::{self, printable};
use crate::config::{Config, EnforceSection};
use crate::kernel::doctor::{Check, CheckStatus};

/// The names of the checks.
const NODE: &str = "node name";
const PODS: &str = "selected pods";
const SERVER: &str = "API server address";

/// How long all questions together may take, as those about rights may.
const LIMIT: Duration = Duration::from_secs(8);

/// How many Nodes and addresses are named: more help nobody to find a misspelt name.
const NAMED: usize = 8;

/// Another value in each boot of each machine, for all containers of a machine the same. The kubelet reports it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The Service of the API server, and the label that ties its slices to it.
const OWN_SERVICE: &str = "metadata.name=kubernetes";
const OWN_SLICES: &str = "kubernetes.io/service-name=kubernetes";

/// A server of the configuration, without a password that its URL may have.
#[derive(Debug, Clone)]
pub(super) struct Server<'a> {
    /// What names it.
    pub(super) field: &'a str,
    /// Its URL.
    pub(super) url: &'a str,
}

/// A check, or why it could not be made.
pub(super) type Tried = Result<Check, Check>;

/// All checks.
pub(super) async fn checks(config: &Config, client: &Client, servers: &[Server<'_>]) -> Vec<Tried> {
    let boot_id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    let node = &config.node_name;
    let (name, pods, address, cloud) = tokio::join!(
        in_time(NODE, name(client, node, boot_id.trim())),
        in_time(PODS, selected(client, node, &config.enforce)),
        in_time(SERVER, address(client, servers)),
        in_time(
            cloud::CLOUD,
            cloud::check(client, node, &config.protected_endpoints)
        ),
    );
    // That none of its pods is selected says nothing of a Node that is not there.
    match &name {
        Ok(check) if check.status == CheckStatus::Missing => vec![name, address],
        _ => vec![name, pods, address, cloud],
    }
}

async fn in_time(name: &'static str, asking: impl Future<Output = kube::Result<Check>>) -> Tried {
    let fault = match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(check)) => return Ok(check),
        Ok(Err(error)) => printable(&error),
        Err(_) => format!("the API server did not answer within {} s", LIMIT.as_secs()),
    };
    Err(missing(
        name,
        format!("not tested: {fault}"),
        "check the kubeconfig and its rights, and that the node reaches the API server".to_owned(),
    ))
}

fn missing(name: &'static str, detail: String, advice: String) -> Check {
    Check::bad(name, CheckStatus::Missing, detail, advice)
}

/// Whether there is a Node of this name, and it is this machine's. The agent follows the pods of that Node alone.
async fn name(client: &Client, name: &str, boot_id: &str) -> kube::Result<Check> {
    let nodes: Api<Lenient<Node>> = Api::all(client.clone());
    let of_name = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = lenient::list(&nodes, &of_name).await?.items.into_iter();
    let Some(found) = found.into_iter().find(|node| node.name_any() == name) else {
        let limit = u32::try_from(NAMED).unwrap_or(u32::MAX);
        let all = lenient::list(&nodes, &ListParams::default().limit(limit)).await?;
        let more = all.metadata.continue_.is_some_and(|more| !more.is_empty());
        let names = all.items.iter().map(ResourceExt::name_any);
        return Ok(missing(
            NODE,
            format!("no Node is called {name}, so the agent learns of no pod, and every pod stays closed"),
            format!("nodeName must be one of: {}", few(names, more)),
        ));
    };
    let reported = found.status.and_then(|status| status.node_info);
    let reported = reported.map(|info| info.boot_id).unwrap_or_default();
    if !boot_id.is_empty() && !reported.is_empty() && reported != boot_id {
        return Ok(missing(
            NODE,
            format!("Node {name} is another machine: its boot ID is {reported}, and here it is {boot_id}"),
            "set nodeName to the name of this machine's Node; soon after a boot, wait for the kubelet's report"
                .to_owned(),
        ));
    }
    Ok(Check::ok(NODE, format!("Node {name} exists")))
}

/// A few of these in a line.
fn few(items: impl Iterator<Item = String>, mut more: bool) -> String {
    let mut items: Vec<_> = items.take(NAMED + 1).collect();
    more |= items.len() > NAMED;
    items.truncate(NAMED);
    let dots = if more { ", ..." } else { "" };
    format!("{}{dots}", items.join(", "))
}

/// Whether the configuration selects any pod of this node, by each of its namespaces and by enrolment.
async fn selected(client: &Client, node: &str, enforce: &EnforceSection) -> kube::Result<Check> {
    let pods: Api<Lenient<Pod>> = Api::all(client.clone());
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = lenient::list(&pods, &here).await?.items;
    let enrolled = match enforce.enrolled {
        true => Some(enrolled_namespaces(client).await?),
        false => None,
    };
    let is_enrolled = |pod: &Pod| {
        let own = pod.labels().get(ENROLLED).is_some_and(|value| value == "true");
        let of_namespace = |names: &BTreeSet<String>| {
            pod.metadata
                .namespace
                .as_ref()
                .is_some_and(|name| names.contains(name))
        };
        enrolled.as_ref().is_some_and(|names| own || of_namespace(names))
    };
    let labelled = |pod: &Pod| {
        let labels = pod.labels();
        let mut wanted = enforce.match_labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    };
    let is_in = |pod: &Pod, namespace: &String| pod.metadata.namespace.as_ref() == Some(namespace);
    let mut nobody: Vec<_> = enforce
        .namespaces
        .iter()
        .filter(|namespace| !pods.iter().any(|pod| is_in(pod, namespace)))
        .map(|namespace| format!("no pod on this node is in namespace {namespace}"))
        .collect();
    let named = !enforce.namespaces.is_empty() || !enforce.match_labels.is_empty();
    let all = enforce.namespaces.is_empty();
    let in_named = |pod: &Pod| all || enforce.namespaces.iter().any(|namespace| is_in(pod, namespace));
    let is_selected = |pod: &&Pod| is_enrolled(pod) || (named && in_named(pod) && labelled(pod));
    let count = pods.iter().filter(is_selected).count();
    if nobody.is_empty() && count == 0 {
        nobody.push(match (&enrolled, named) {
            (Some(names), _) if names.is_empty() => {
                format!("no namespace has the label {ENROLLED}=true, and no pod on this node")
            }
            (Some(_), false) => "no pod on this node is enrolled".to_owned(),
            (Some(_), true) => {
                "no pod on this node is enrolled or has the labels of enforce.matchLabels".to_owned()
            }
            (None, _) => "no pod on this node has the labels of enforce.matchLabels".to_owned(),
        });
    }
    if nobody.is_empty() {
        return Ok(Check::ok(PODS, format!("{count} of the pods on this node")));
    }
    Ok(Check::bad(
        PODS,
        CheckStatus::Degraded,
        nobody.join("\n"),
        "as expected before the first AI agent's pod runs here; otherwise correct enforce, or label a namespace",
    ))
}

/// The namespaces whose label enrols their pods.
async fn enrolled_namespaces(client: &Client) -> kube::Result<BTreeSet<String>> {
    let namespaces: Api<Lenient<Namespace>> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{ENROLLED}=true"));
    let found = lenient::list(&namespaces, &labelled).await?.items;
    Ok(found.iter().map(ResourceExt::name_any).collect())
}

/// Whether the servers are named by another address than that of the API server's Service, which kube-proxy serves.
async fn address(client: &Client, servers: &[Server<'_>]) -> kube::Result<Check> {
    let services: Api<Lenient<Service>> = Api::namespaced(client.clone(), DEFAULT_NAMESPACE);
    let slices: Api<Lenient<EndpointSlice>> = Api::namespaced(client.clone(), DEFAULT_NAMESPACE);
    let services = lenient::list(&services, &ListParams::default().fields(OWN_SERVICE)).await?;
    let addresses: Vec<IpAddr> = services
        .items
        .into_iter()
        .filter(|service| service.name_any() == "kubernetes")
        .filter_map(|service| service.spec)
        .flat_map(|spec| spec.cluster_ips.unwrap_or_default())
        .filter_map(|text| cluster::address::address(&text))
        .collect();
    let mut faults = Vec::new();
    for Server { field, url } in servers {
        if let Some(found) = leads_to(url, &addresses).await {
            faults.push(format!(
                "{field} {url} leads to {found}, the address of the Service kubernetes, which kube-proxy serves; on a new \
                 node kube-proxy waits for the agent"
            ));
        }
    }
    if faults.is_empty() {
        return Ok(Check::ok(SERVER, "needs no Service"));
    }
    let own = lenient::list(&slices, &ListParams::default().labels(OWN_SLICES)).await?;
    let own = own.items.iter().flat_map(urls);
    Ok(missing(
        SERVER,
        faults.join("\n"),
        format!("write the API server's own address, such as: {}", few(own, false)),
    ))
}

/// The one of these addresses that a URL leads to. A name that cannot be looked up leads nowhere.
async fn leads_to(url: &str, addresses: &[IpAddr]) -> Option<IpAddr> {
    let url: Uri = url.parse().ok()?;
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, url.port_u16().unwrap_or(443))).await;
    let mut found = found.ok()?.map(|address| address.ip().to_canonical());
    found.find(|address| addresses.contains(address))
}

/// The URLs of a slice's addresses.
fn urls(slice: &EndpointSlice) -> Vec<String> {
    let ports = slice.ports.iter().flatten();
    let port = ports.filter_map(|port| port.port).next().unwrap_or(443);
    let endpoints = slice.endpoints.iter().flatten();
    let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let address = |address: &String| match address.contains(':') {
        true => format!("https://[{address}]:{port}"),
        false => format!("https://{address}:{port}"),
    };
    addresses.map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::Connector;
    use crate::cluster::testing::listing;

    /// The Node of this machine, one of its pods, and the API server's Service.
    fn cluster(kind: &str) -> Vec<Value> {
        match kind {
            "nodes" => vec![
                json!({"metadata": {"name": "node1"}, "status": {"nodeInfo": {
                    "bootID": "boot-1", "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                    "systemUUID": "",
                }}}),
                json!({"metadata": {"name": "node2"}}),
            ],
            "pods" => {
                vec![
                    json!({"metadata": {"name": "p", "namespace": "agents", "labels": {"app": "agent"}}}),
                    json!({"metadata": {"name": "q", "namespace": "elsewhere", "labels": {"picket.dev/enrolled": "true"}}}),
                    json!({"metadata": {"name": "r", "namespace": "shop"}}),
                    json!({"metadata": {"name": "s", "namespace": "elsewhere", "labels": {"picket.dev/enrolled": "no"}}}),
                ]
            }
            "namespaces" => vec![json!({"metadata": {"name": "shop"}})],
            "services" => {
                vec![
                    json!({"metadata": {"name": "kubernetes"}, "spec": {"clusterIPs": ["10.96.0.1", "fd00::1"]}}),
                ]
            }
            "endpointslices" => vec![json!({
                "metadata": {"name": "kubernetes"}, "addressType": "IPv4", "ports": [{"port": 6443}],
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
            })],
            other => panic!("{other} are asked for"),
        }
    }

    async fn client() -> (cluster::testing::Folder, Client) {
        let server = listing(|kind| Some(cluster(kind))).await;
        let (folder, connector) = Connector::for_tests(&server);
        (folder, connector.connect().await.expect("a client"))
    }

    #[tokio::test]
    async fn a_node_name_that_no_node_has_is_missing() {
        let (_folder, client) = client().await;
        let check = name(&client, "node-1", "boot-1").await.expect("an answer");
        assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
        assert!(check.detail.starts_with("no Node is called node-1,"), "{check:?}");
        let advice = "nodeName must be one of: node1, node2";
        assert_eq!(check.advice.as_deref(), Some(advice));
        for named in ["node1", "node2"] {
            let check = name(&client, named, "boot-1").await.expect("an answer");
            assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
        }
        // A Node of that name, of another machine.
        let check = name(&client, "node1", "boot-2").await.expect("an answer");
        assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
        assert!(
            check.detail.starts_with("Node node1 is another machine"),
            "{check:?}"
        );
    }

    #[test]
    fn few_names_are_printed() {
        let names = |count: usize| (0..count).map(|number| format!("n{number}"));
        assert_eq!(few(names(2), false), "n0, n1");
        assert_eq!(few(names(2), true), "n0, n1, ...");
        assert_eq!(few(names(NAMED), false), "n0, n1, n2, n3, n4, n5, n6, n7");
        assert_eq!(
            few(names(NAMED + 5), false),
            "n0, n1, n2, n3, n4, n5, n6, n7, ..."
        );
    }

    #[tokio::test]
    async fn a_namespace_without_a_pod_here_is_a_warning() {
        let (_folder, client) = client().await;
        let select = |enrolled: bool, namespaces: &[&str], labels: &[(&str, &str)]| EnforceSection {
            enrolled,
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            match_labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            unclassified_pods: crate::kernel::FailMode::Closed,
            static_pods: crate::kernel::FailMode::Closed,
        };
        for (enrolled, namespaces, labels, detail) in [
            (false, &["agents"][..], &[][..], "1 of the pods on this node"),
            (false, &[], &[("app", "agent")], "1 of the pods on this node"),
            (true, &[], &[], "2 of the pods on this node"),
            (true, &["agents"], &[], "3 of the pods on this node"),
            (
                false,
                &["agents", "agent"],
                &[],
                "no pod on this node is in namespace agent",
            ),
            (
                false,
                &["agents"],
                &[("app", "web")],
                "no pod on this node has the labels of enforce.matchLabels",
            ),
        ] {
            let check = selected(&client, "node1", &select(enrolled, namespaces, labels)).await;
            let check = check.expect("an answer");
            assert_eq!(check.detail, detail);
            let ok = check.status == CheckStatus::Ok;
            let counted = detail.starts_with(|first: char| first.is_ascii_digit());
            assert!(ok == counted && (ok || check.status == CheckStatus::Degraded));
        }
    }

    #[tokio::test]
    async fn a_node_without_an_enrolled_pod_is_a_warning() {
        let by_enrolment = EnforceSection {
            enrolled: true,
            namespaces: Vec::new(),
            match_labels: std::collections::BTreeMap::new(),
            unclassified_pods: crate::kernel::FailMode::Closed,
            static_pods: crate::kernel::FailMode::Closed,
        };
        for (namespaces, detail) in [
            (
                vec![json!({"metadata": {"name": "shop"}})],
                "no pod on this node is enrolled",
            ),
            (
                vec![],
                "no namespace has the label picket.dev/enrolled=true, and no pod on this node",
            ),
        ] {
            let server = listing(move |kind| match kind {
                "pods" => Some(vec![json!({"metadata": {"name": "p", "namespace": "agents"}})]),
                "namespaces" => Some(namespaces.clone()),
                other => panic!("{other} are asked for"),
            });
            let (_folder, connector) = Connector::for_tests(&server.await);
            let client = connector.connect().await.expect("a client");
            let check = selected(&client, "node1", &by_enrolment)
                .await
                .expect("an answer");
            assert_eq!(
                (check.status, check.detail.as_str()),
                (CheckStatus::Degraded, detail)
            );
        }
    }

    #[tokio::test]
    async fn the_address_of_the_service_is_told_from_the_api_servers_own() {
        let (_folder, client) = client().await;
        let own = Server {
            field: "upstream.server",
            url: "https://10.0.0.1:6443",
        };
        for url in [
            "https://10.96.0.1",
            "https://10.96.0.1:443",
            "https://[fd00::1]:443",
        ] {
            let field = "the server of cluster.kubeconfig";
            let service = Server { field, url };
            let check = address(&client, &[own.clone(), service])
                .await
                .expect("an answer");
            assert_eq!(check.status, CheckStatus::Missing, "{check:?}");
            assert!(
                check.detail.starts_with(&format!("{field} {url} leads to ")),
                "{check:?}"
            );
            let advice =
                "write the API server's own address, such as: https://10.0.0.1:6443, https://10.0.0.2:6443";
            assert_eq!(check.advice.as_deref(), Some(advice));
        }
        let check = address(&client, &[own]).await.expect("an answer");
        assert_eq!(check.status, CheckStatus::Ok, "{check:?}");
    }

    #[tokio::test]
    async fn what_the_api_server_does_not_list_is_not_tested() {
        let server = listing(|kind| (kind != "nodes").then(|| cluster(kind))).await;
        let (_folder, connector) = Connector::for_tests(&server);
        let client = connector.connect().await.expect("a client");
        let tried = in_time(NODE, name(&client, "node1", "")).await;
        let check = tried.expect_err("not tested");
        assert_eq!(check.status, CheckStatus::Missing);
        assert!(check.detail.starts_with("not tested: "), "{check:?}");
    }
}
