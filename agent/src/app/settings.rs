//! The settings of the parts, out of the configuration.
//!
//! In: a checked [`Config`]. Out: the upstream's settings, the protected endpoints and names of the API server, the cgroup
//! folder.

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::config::Config;
use crate::endpoints::{EndpointTarget, ProtectedEndpoints, ProtectedEndpointsConfig};
use crate::kernel;
use crate::upstream::{NodeCredential, UpstreamConfig};

/// How the API server is asked.
pub(super) fn upstream_config(config: &Config) -> anyhow::Result<UpstreamConfig> {
    let given = &config.upstream;
    let credential = match (
        &given.client_certificate_file,
        &given.client_key_file,
        &given.token_file,
    ) {
        (Some(certificate), Some(key), None) => NodeCredential::ClientCertificate {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        (None, None, Some(token)) => NodeCredential::TokenFile(token.clone()),
        // Config refuses the other combinations before it gets here.
        _ => bail!("upstream: give either clientCertificateFile with clientKeyFile, or tokenFile"),
    };
    Ok(UpstreamConfig {
        server: given.server.parse().context("upstream.server")?,
        server_name: None,
        ca: given.ca_file.clone(),
        credential,
    })
}

/// Where the API server is, as the configuration says.
fn api_servers(config: &Config) -> Vec<EndpointTarget> {
    let upstream = config.upstream.server.parse().ok();
    let upstream = upstream.and_then(|url| EndpointTarget::of_url(&url));
    config
        .protected_endpoints
        .api_server
        .iter()
        .cloned()
        .chain(upstream)
        .collect()
}

/// What clients dial the API server by, besides the service's names and the protected endpoints' addresses.
pub(super) fn server_names(config: &Config) -> Vec<String> {
    let endpoints = api_servers(config)
        .into_iter()
        .filter_map(|endpoint| match endpoint {
            EndpointTarget::Name { host, .. } => Some(host),
            EndpointTarget::Address(_) => None,
        });
    let gateway = config
        .gateway
        .iter()
        .flat_map(|gateway| gateway.names.iter().cloned());
    let extra = config.tls.extra_names.iter().cloned();
    extra.chain(endpoints).chain(gateway).collect()
}

/// The protected endpoints as the configuration has them, and those that the kernel has already.
pub(super) fn endpoints_config(config: &Config, inherited: ProtectedEndpoints) -> ProtectedEndpointsConfig {
    let gateway = config.gateway.iter().map(|gateway| gateway.listen);
    let metrics = config.metrics.iter().map(|metrics| metrics.listen);
    ProtectedEndpointsConfig {
        node: config.node_name.clone(),
        redirect: api_servers(config),
        deny: denied(config),
        deny_on_nodes: gateway.chain(metrics).map(|address| address.port()).collect(),
        allow: config.protected_endpoints.allow.iter().copied().collect(),
        inherited,
    }
}

/// What enforced pods may not reach, besides what is denied everywhere: the own addresses of gateway and metrics too.
fn denied(config: &Config) -> Vec<EndpointTarget> {
    let gateway = config.gateway.iter().map(|gateway| gateway.listen);
    let metrics = config.metrics.iter().map(|metrics| metrics.listen);
    let own = gateway
        .chain(metrics)
        .filter(|address| !address.ip().is_unspecified());
    let configured = config.protected_endpoints.deny.iter().cloned();
    configured.chain(own.map(EndpointTarget::Address)).collect()
}

/// The configured cgroup folder, or the cgroup v2 mount.
pub(super) fn cgroup_root(config: &Config) -> anyhow::Result<PathBuf> {
    match &config.kernel.cgroup_root {
        Some(folder) => Ok(folder.clone()),
        None => {
            kernel::cgroup_mount().context("kernel.cgroupRoot is not given, and no cgroup v2 mount was found")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enforced_pods_reach_no_port_of_the_agents_own_on_any_node() {
        let text = "nodeName: n\ncluster: {kubeconfig: /k}\n\
                    upstream: {server: 'https://api.example:6443', caFile: /ca, tokenFile: /t}\n\
                    tls: {caCertificateFile: /c, caKeyFile: /y}\nenforce: {namespaces: [a]}\nobjects: {files: [/o]}\n\
                    authentication: {configFile: /a}\ngateway: {listen: '0.0.0.0:6444'}\nmetrics: {listen: '192.0.2.1:9444'}\n";
        let config = Config::parse("f", text).expect("a configuration");
        let endpoints = endpoints_config(&config, ProtectedEndpoints::default());
        assert_eq!(endpoints.deny_on_nodes, [6444, 9444]);
        let own = EndpointTarget::Address(([192, 0, 2, 1], 9444).into());
        assert_eq!(endpoints.deny, [own]);
    }
}
