//! Against an upstream that answers from memory, so that what stands between is all that is measured.
//!
//! Everything is on one simulated node: the upstream, nginx and the agent in the node, the load in an enforced pod. The
//! upstream listens twice: where the service `kubernetes` leads, which is a protected endpoint, and beside it, which is the direct way.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use picket_tests::net;
use picket_tests::pki::{Authority, CertificateFiles};
use picket_tests::pod::TestPod;
use picket_tests::sim::{SimNode, SimOptions, SimPod};
use serde_json::{Value, json};

use crate::agent::{self, Agent};
use crate::load_process;
use crate::nginx::{self, Proxy};
use crate::plan::{Extent, Measure, Plan, Target};
use crate::process::Guarded;

/// The address that pods know the API server by.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 443);
/// The node's name, in the fake API and in the agent's configuration.
const NODE: &str = "bench";

/// Sets it all up and measures.
pub(crate) fn measure(picket: Option<&Path>, extent: Extent, rate: u32, only: &str) -> Result<Vec<Measure>> {
    let node = SimNode::up("bench")?;
    // Small machines let fewer dials wait; see the queue of the upstream.
    net::sysctls(
        node.netns(),
        &[("core/somaxconn", "4096"), ("ipv4/tcp_max_syn_backlog", "4096")],
    )?;
    let ip = IpAddr::V4(node.address());
    let authority = Authority::create(&node.dir().join("pki"))?;
    let certificate = authority.server("server", &[&ip.to_string(), nginx::UPSTREAM_NAME])?;
    let ca = authority.pair().cert;
    let options = SimOptions {
        name: "load".to_owned(),
        namespace: agent::NAMESPACE.to_owned(),
        ..SimOptions::default()
    };
    let pod = node.pod(options)?;
    let (endpoint, past, proxied) = (
        SocketAddr::new(ip, 6443),
        SocketAddr::new(ip, 6444),
        SocketAddr::new(ip, 8443),
    );
    let _upstream = upstream(&node, &pod, &certificate, &[endpoint, past])?;
    let proxy = Proxy {
        listen: proxied,
        upstream: past,
        ca: &ca,
        certificate: &certificate,
        authorization: None,
    };
    let mut nginx = proxy.start(&node.place(), &node.dir().join("nginx"))?;
    let nginx_pids = nginx::wait(&mut nginx, node.netns(), proxied)?;
    let target = |name: &str, address, ca: &Path, pids| Target {
        name: name.to_owned(),
        address,
        server_name: None,
        ca: ca.to_owned(),
        token: None,
        pids,
    };
    let mut targets = vec![target("direct", past, &ca, Vec::new())];
    let agent = picket
        .map(|picket| Agent::start(&node, picket, NODE, endpoint, &ca))
        .transpose()?;
    if let Some(agent) = &agent {
        targets.push(target("picket", SERVICE, &agent.ca(), vec![agent.pid()]));
    }
    targets.push(target("nginx", proxied, &ca, nginx_pids));
    let plan = Plan {
        targets,
        path: format!("/api/v1/namespaces/{}/configmaps/small", agent::NAMESPACE),
        watch_path: format!("/api/v1/namespaces/{}/configmaps?watch=true", agent::NAMESPACE),
        tick_path: Some("/bench/tick".to_owned()),
        rate,
        extent,
        only: only.to_owned(),
    };
    load_process::send(&pod.place(), node.dir(), &plan).with_context(|| match &agent {
        Some(agent) => format!(
            "against the fast upstream; picket's log ends:\n{}",
            agent.log_end()
        ),
        None => "against the fast upstream".to_owned(),
    })
}

fn upstream(
    node: &SimNode,
    pod: &SimPod,
    certificate: &CertificateFiles,
    listen: &[SocketAddr],
) -> Result<Guarded> {
    let pods = node.dir().join("pods.json");
    fs::write(&pods, json!([object(pod)]).to_string())?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .arg("upstream")
        .arg("--pods")
        .arg(pods)
        .arg("--service")
        .arg(SERVICE.to_string());
    command
        .arg("--cert")
        .arg(&certificate.cert)
        .arg("--key")
        .arg(&certificate.key);
    for address in listen {
        command.arg("--listen").arg(address.to_string());
    }
    node.place()
        .apply(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut upstream = Guarded::spawn("the upstream", &mut command)?;
    upstream.wait_for_line("ready")?;
    Ok(upstream)
}

/// The pod as the API server would tell of it.
fn object(pod: &SimPod) -> Value {
    json!({
        "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid(), "resourceVersion": "1"},
        "spec": {"nodeName": NODE, "serviceAccountName": agent::SERVICE_ACCOUNT, "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running",
            "podIP": pod.address(),
            "containerStatuses": [{
                "name": "main", "containerID": format!("containerd://{}", pod.container_id()),
                "image": "", "imageID": "", "ready": true, "restartCount": 0,
            }],
        },
    })
}
