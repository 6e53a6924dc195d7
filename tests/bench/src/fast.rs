//! Against an upstream that answers from memory, so that what stands between is all that is measured.
//!
//! Everything is on one simulated node: the upstream, nginx and the agent in the node, the load in enforced pods. The
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
use crate::crowd;
use crate::load;
use crate::load_process;
use crate::neighbours;
use crate::nginx::{self, Proxy};
use crate::plan::{Extent, Measure, Paths, Plan, Protocol, Target};
use crate::process::Guarded;
use crate::upstream;

/// The address that pods know the API server by.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 443);
/// The node's name, in the fake API and in the agent's configuration.
const NODE: &str = "bench";

/// A node with its pods, the upstream, and the ways to it. Dropped in this order.
struct World {
    agent: Option<Agent>,
    _nginx: Guarded,
    _upstream: Guarded,
    pods: Vec<SimPod>,
    node: SimNode,
    targets: Vec<Target>,
}

/// Every case by its whole name.
pub(crate) fn cases() -> Vec<String> {
    [
        load::memory_cases(),
        load::cases(),
        crowd::cases(),
        neighbours::cases(),
    ]
    .concat()
}

/// Sets it all up and measures: one pod, then two of which one is noisy, then very many. Memory is measured in fresh processes for
/// each protocol: what connections of another protocol have left free would be taken before anything new.
pub(crate) fn measure(picket: Option<&Path>, extent: Extent, rate: u32, only: &str) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    let plan = |world: &World| Plan {
        targets: world.targets.clone(),
        paths: Paths {
            tick: Some("/bench/tick".to_owned()),
            list: Some(upstream::list_path(agent::NAMESPACE)),
            ..Paths::of(agent::NAMESPACE)
        },
        protocols: Protocol::BOTH.to_vec(),
        rate,
        extent,
        only: only.to_owned(),
    };
    let wanted = |cases: &[String]| cases.iter().any(|case| case.contains(only));
    if extent.connections > 0 && wanted(&load::memory_cases()) {
        for protocol in Protocol::BOTH {
            let world = World::up(picket, 1)?;
            let mut plan = plan(&world);
            plan.protocols = vec![protocol];
            load::MEMORY.clone_into(&mut plan.only);
            let found = load_process::send(&world.pods[0].place(), world.node.dir(), &plan);
            measures.extend(found.with_context(|| world.told())?);
        }
        measures.retain(|measure| measure.case.contains(only));
    }
    if wanted(&load::cases()) {
        let world = World::up(picket, 1)?;
        let mut plan = plan(&world);
        plan.extent.connections = 0;
        let found = load_process::send(&world.pods[0].place(), world.node.dir(), &plan);
        measures.extend(found.with_context(|| world.told())?);
    }
    if extent.noise_ms > 0 && wanted(&neighbours::cases()) {
        let world = World::up(picket, 2)?;
        let (quiet, noisy) = (world.pods[0].place(), world.pods[1].place());
        let found = neighbours::measure(&quiet, &noisy, world.node.dir(), &plan(&world));
        measures.extend(found.with_context(|| world.told())?);
    }
    if extent.pods > 0 && wanted(&crowd::cases()) {
        for protocol in Protocol::BOTH {
            let world = World::up(picket, extent.pods)?;
            let mut plan = plan(&world);
            plan.protocols = vec![protocol];
            let found = crowd::measure(&world.pods, world.node.dir(), &plan);
            measures.extend(found.with_context(|| world.told())?);
        }
    }
    Ok(measures)
}

impl World {
    fn up(picket: Option<&Path>, pods: usize) -> Result<Self> {
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
        let pods = node.pods((0..pods).map(|number| SimOptions {
            // The first has the name that commands are run in.
            name: if number == 0 {
                "load".to_owned()
            } else {
                format!("load-{number}")
            },
            namespace: agent::NAMESPACE.to_owned(),
            ..SimOptions::default()
        }))?;
        let [endpoint, past, proxied] = [6443, 6444, 8443].map(|port| SocketAddr::new(ip, port));
        let upstream = start_upstream(&node, &pods, &certificate, &[endpoint, past])?;
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
        Ok(Self {
            agent,
            _nginx: nginx,
            _upstream: upstream,
            pods,
            node,
            targets,
        })
    }

    /// Where it happened, and what the agent said last.
    fn told(&self) -> String {
        match &self.agent {
            Some(agent) => format!(
                "against the fast upstream; picket's log ends:\n{}",
                agent.log_end()
            ),
            None => "against the fast upstream".to_owned(),
        }
    }
}

fn start_upstream(
    node: &SimNode,
    pods: &[SimPod],
    certificate: &CertificateFiles,
    listen: &[SocketAddr],
) -> Result<Guarded> {
    let file = node.dir().join("pods.json");
    let objects: Vec<Value> = pods.iter().map(object).collect();
    fs::write(&file, serde_json::to_vec(&objects)?)?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .arg("upstream")
        .arg("--pods")
        .arg(file)
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
