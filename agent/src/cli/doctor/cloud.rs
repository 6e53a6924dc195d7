//! Which cloud the node is of, and whether the addresses at which it gives credentials away are protected endpoints.
//!
//! In: the Node's `spec.providerID`, and the configuration. Out: a check that names each address that enforced pods can reach.
//!
//! The agent denies the metadata addresses of the known clouds on every node, whichever cloud it is of. So a finding here is one that
//! the configuration allows, or one that has only a name, which the agent does not look up unless it is told to.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use picket_controller::lenient::{self, Lenient};

use crate::config::ConfiguredEndpoints;
use crate::endpoints::{EndpointTarget, denied_as};
use crate::kernel::doctor::{Check, CheckStatus};

/// The name of the check.
pub(super) const CLOUD: &str = "cloud metadata";

/// A cloud: what its `providerID` begins with, its name, and where its machines learn of themselves.
struct Cloud {
    prefix: &'static str,
    name: &'static str,
    metadata: &'static [&'static str],
}

const fn cloud(prefix: &'static str, name: &'static str, metadata: &'static [&'static str]) -> Cloud {
    Cloud {
        prefix,
        name,
        metadata,
    }
}

/// Known clouds. The names of providers are those of their cloud controller managers, and the addresses those of the providers'
/// manuals.
const CLOUDS: [Cloud; 12] = [
    cloud("aws:", "AWS", &["169.254.169.254:80", "[fd00:ec2::254]:80"]),
    cloud(
        "gce:",
        "Google Cloud",
        &[
            "169.254.169.254:80",
            "[fd20:ce::254]:80",
            "169.254.169.252:988",
            "169.254.169.254:988",
            "169.254.169.254:8080",
        ],
    ),
    // The second is the WireServer, which hands out certificates of the machine.
    cloud(
        "azure:",
        "Azure",
        &["169.254.169.254:80", "168.63.129.16:80", "168.63.129.16:32526"],
    ),
    cloud("alicloud:", "Alibaba Cloud", &["100.100.100.200:80"]),
    cloud("qcloud:", "Tencent Cloud", &["metadata.tencentyun.com:80"]),
    cloud(
        "openstack:",
        "OpenStack",
        &["169.254.169.254:80", "[fe80::a9fe:a9fe]:80"],
    ),
    cloud(
        "oci:",
        "Oracle Cloud",
        &["169.254.169.254:80", "[fd00:c1::a9fe:a9fe]:80"],
    ),
    cloud(
        "ocid1.",
        "Oracle Cloud",
        &["169.254.169.254:80", "[fd00:c1::a9fe:a9fe]:80"],
    ),
    cloud("digitalocean:", "DigitalOcean", &["169.254.169.254:80"]),
    cloud("hcloud:", "Hetzner Cloud", &["169.254.169.254:80"]),
    cloud("scaleway:", "Scaleway", &["169.254.42.42:80", "[fd00:42::42]:80"]),
    cloud(
        "linode:",
        "Linode",
        &[
            "169.254.169.254:80",
            "[fd00:a9fe:a9fe::1]:80",
            "[fe80::a9fe:a9fe]:80",
        ],
    ),
];

/// Whether the metadata of this node's cloud is denied. Nothing where there is no such Node.
pub(super) async fn check(
    client: &Client,
    node: &str,
    endpoints: &ConfiguredEndpoints,
) -> kube::Result<Check> {
    let of_name = ListParams::default().fields(&format!("metadata.name={node}"));
    let nodes = Api::<Lenient<Node>>::all(client.clone());
    let nodes = lenient::list(&nodes, &of_name).await?.items;
    let found = nodes.into_iter().find(|found| found.name_any() == node);
    let provider = found.and_then(|node| node.spec).and_then(|spec| spec.provider_id);
    Ok(judge(provider.as_deref().unwrap_or_default(), endpoints))
}

/// What there is to tell of a `providerID`.
fn judge(provider: &str, endpoints: &ConfiguredEndpoints) -> Check {
    // What stands behind the name of the provider is the machine's own.
    let scheme = provider.split(':').next().unwrap_or_default();
    let Some(cloud) = CLOUDS.iter().find(|cloud| provider.starts_with(cloud.prefix)) else {
        let seen = match provider {
            "" => "the Node names no provider".to_owned(),
            _ => format!("provider {scheme:?} is not known"),
        };
        return Check::ok(
            CLOUD,
            format!(
                "{seen}; the metadata addresses of the known clouds are denied. Where this machine gives credentials away at another \
                 address, add that to protectedEndpoints.deny"
            ),
        );
    };
    let reached: Vec<_> = cloud
        .metadata
        .iter()
        .copied()
        .filter(|target| !is_denied(target, endpoints))
        .collect();
    if reached.is_empty() {
        let count = cloud.metadata.len();
        return Check::ok(CLOUD, format!("{}: {} denied", cloud.name, counted(count)));
    }
    let (allowed, unnamed): (Vec<&str>, Vec<&str>) = reached
        .into_iter()
        .partition(|target| is_allowed(target, endpoints));
    let mut advice = Vec::new();
    if !allowed.is_empty() {
        advice.push(format!(
            "take {} out of protectedEndpoints.allow",
            allowed.join(", ")
        ));
    }
    if !unnamed.is_empty() {
        advice.push(format!("add {} to protectedEndpoints.deny", unnamed.join(", ")));
    }
    let all = [allowed, unnamed].concat().join(", ");
    Check::bad(
        CLOUD,
        CheckStatus::Open,
        format!(
            "{}: enforced pods reach {all}, which gives this machine's credentials away",
            cloud.name
        ),
        advice.join("; "),
    )
}

fn counted(count: usize) -> String {
    match count {
        1 => "its metadata address is".to_owned(),
        count => format!("all {count} metadata addresses are"),
    }
}

fn is_allowed(target: &str, endpoints: &ConfiguredEndpoints) -> bool {
    let address = target.parse::<SocketAddr>();
    address.is_ok_and(|address| endpoints.allow.contains(&address))
}

/// Whether a connection there is denied: by the agent itself, or by the configuration.
fn is_denied(target: &str, endpoints: &ConfiguredEndpoints) -> bool {
    if is_allowed(target, endpoints) {
        return false;
    }
    let by_itself = target
        .parse::<SocketAddr>()
        .is_ok_and(|address| denied_as(address) == "metadata");
    let wanted: Option<EndpointTarget> = target.parse().ok();
    by_itself || wanted.is_some_and(|wanted| endpoints.deny.contains(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(deny: &[&str], allow: &[&str]) -> ConfiguredEndpoints {
        ConfiguredEndpoints {
            api_server: Vec::new(),
            deny: deny.iter().map(|text| text.parse().expect("a target")).collect(),
            allow: allow
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect(),
        }
    }

    #[test]
    fn the_metadata_of_a_known_cloud_is_denied_without_being_configured() {
        for provider in [
            "aws:///eu-west-1a/i-0123456789abcdef0",
            "gce://project/zone/name",
            "azure:///subscriptions/x/resourceGroups/y",
            "alicloud://cn-hangzhou.i-1",
            "openstack:///1",
            "ocid1.instance.oc1.phx.1",
            "scaleway://instance/fr-par-1/1",
        ] {
            let check = judge(provider, &endpoints(&[], &[]));
            assert_eq!(check.status, CheckStatus::Ok, "{provider}: {check:?}");
            assert!(check.detail.contains("denied"), "{check:?}");
            assert!(!check.detail.contains("i-0123456789abcdef0"), "{check:?}");
        }
    }

    #[test]
    fn an_address_that_the_configuration_allows_is_a_way_out() {
        let check = judge("aws:///a/i-1", &endpoints(&[], &["169.254.169.254:80"]));
        assert_eq!(check.status, CheckStatus::Open);
        assert!(check.detail.contains("AWS") && check.detail.contains("169.254.169.254:80"));
        let advice = "take 169.254.169.254:80 out of protectedEndpoints.allow";
        assert_eq!(check.advice.as_deref(), Some(advice));
        // Of another cloud it is nothing to this one.
        let other = judge("alicloud://r.i-1", &endpoints(&[], &["169.254.169.254:80"]));
        assert_eq!(other.status, CheckStatus::Ok, "{other:?}");
    }

    #[test]
    fn metadata_that_the_agent_does_not_know_by_itself_is_to_be_added() {
        let check = judge("qcloud:///800004/ins-1", &endpoints(&[], &[]));
        assert_eq!(check.status, CheckStatus::Open);
        let advice = "add metadata.tencentyun.com:80 to protectedEndpoints.deny";
        assert_eq!(check.advice.as_deref(), Some(advice));
        let added = judge(
            "qcloud:///800004/ins-1",
            &endpoints(&["metadata.tencentyun.com:80"], &[]),
        );
        assert_eq!(added.status, CheckStatus::Ok, "{added:?}");
        let six = judge("linode://1", &endpoints(&[], &[]));
        assert_eq!(
            six.advice.as_deref(),
            Some("add [fd00:a9fe:a9fe::1]:80 to protectedEndpoints.deny")
        );
    }

    #[test]
    fn another_machine_is_told_what_to_look_for() {
        for (provider, said) in [("", "no provider"), ("kind://docker/kind/a", "\"kind\"")] {
            let check = judge(provider, &endpoints(&[], &[]));
            assert_eq!(check.status, CheckStatus::Ok);
            assert!(
                check.detail.contains(said) && check.detail.contains("protectedEndpoints.deny"),
                "{check:?}"
            );
        }
    }

    #[test]
    fn every_address_of_the_table_is_one() {
        for cloud in &CLOUDS {
            for target in cloud.metadata {
                assert!(target.parse::<EndpointTarget>().is_ok(), "{target}");
            }
        }
    }
}
