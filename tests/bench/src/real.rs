//! Against a real kube-apiserver, on a real node, with the load in a real pod's place.
//!
//! The direct way is another port of the node, which its packet filter takes to the API server's as kube-proxy takes a
//! Service's: nothing in the cluster tells of it, so that it is no protected endpoint. It and nginx use a token of a service account with
//! the rights of the user that Picket impersonates.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::agent::{self as installed, Agent, AgentOptions};
use picket_tests::cluster::{Cluster, ClusterOptions};
use picket_tests::pod::TestPod;
use picket_tests::sys::Placement;
use picket_tests::{cgroup, net};
use serde_json::json;

use crate::agent::{GROUP, NAMESPACE, OBJECTS, SERVICE_ACCOUNT, USER};
use crate::load_process;
use crate::nginx::{self, Proxy};
use crate::plan::{Extent, Measure, Paths, Plan, Protocol, Target};

/// An address that only the node has; documentation's own (RFC 5737), so that it is nobody's.
const PAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The service `kubernetes` of the test cluster.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 443);
/// The rule that makes the direct way.
const PAST_RULE: &str = "add table ip past; add chain ip past in { type nat hook prerouting priority -110; }; \
                         add rule ip past in tcp dport 6444 redirect to :6443";
/// How long the pod may take to run.
const POD_LIMIT: Duration = Duration::from_secs(60);
/// What the ConfigMap holds, so that the answer is about 1 KB.
const TEXT_BYTES: usize = 500;

/// Brings a cluster up, measures, and takes it down.
pub(crate) fn measure(picket: &Path, extent: Extent, rate: u32, only: &str) -> Result<Vec<Measure>> {
    let cluster = Cluster::up(ClusterOptions {
        nodes: 1,
        name: "benchapi".to_owned(),
        images: Vec::new(),
        ..ClusterOptions::default()
    })?;
    let result = on(&cluster, picket, extent, rate, only);
    let down = cluster.down();
    let measures = result.context("against kube-apiserver")?;
    down?;
    Ok(measures)
}

fn on(cluster: &Cluster, picket: &Path, extent: Extent, rate: u32, only: &str) -> Result<Vec<Measure>> {
    let node = cluster.node();
    net::ip(&node.netns, &format!("addr add {PAST}/32 dev lo\n"))?;
    let mut filter = Command::new("nft");
    filter.arg(PAST_RULE);
    let filtered = node.output(filter)?;
    ensure!(
        filtered.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&filtered.stderr).trim()
    );
    installed::enrol(cluster, &[NAMESPACE])?;
    let options = AgentOptions {
        objects: vec![("bench.yaml".to_owned(), OBJECTS.to_owned())],
        namespaces: vec![NAMESPACE.to_owned()],
        users: vec![USER.to_owned()],
        groups: vec![GROUP.to_owned()],
        log: "warn".to_owned(),
        binary: Some(picket.to_owned()),
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(cluster, node, &options)?;
    cluster.apply(&world().to_string())?;
    let pod = cluster.wait_ready(NAMESPACE, "load", POD_LIMIT)?;
    let token = cluster.kubectl(&["create", "token", "past", "-n", NAMESPACE, "--duration", "1h"])?;
    ensure!(
        token.status.success(),
        "no token: {}",
        String::from_utf8_lossy(&token.stderr).trim()
    );
    let token = String::from_utf8(token.stdout)?.trim().to_owned();

    let [past, server, proxied] = [6444, 6443, 8443].map(|port| SocketAddr::new(PAST.into(), port));
    let ca = cluster.ca_cert();
    let authority = picket_tests::pki::Authority::create(&node.dir.join("bench-pki"))?;
    let certificate = authority.server("nginx", &[nginx::UPSTREAM_NAME])?;
    let authorization = format!("Bearer {token}");
    let proxy = Proxy {
        listen: proxied,
        upstream: server,
        ca: &ca,
        certificate: &certificate,
        authorization: Some(&authorization),
    };
    let mut nginx = proxy.start(&node.place(), &node.dir.join("nginx"))?;
    let nginx_pids = nginx::wait(&mut nginx, &node.netns, proxied)?;

    let picket_ca = node.dir.join("picket-bundle.crt");
    let bundle = [
        "get",
        "configmap",
        "-n",
        NAMESPACE,
        "picket-ca.crt",
        "-o",
        "jsonpath={.data['ca\\.crt']}",
    ];
    std::fs::write(&picket_ca, cluster.kubectl(&bundle)?.stdout)?;
    let target = |name: &str, address, ca: &Path, token, pids| Target {
        name: name.to_owned(),
        address,
        server_name: Some(nginx::UPSTREAM_NAME.to_owned()),
        ca: ca.to_owned(),
        token,
        pids,
    };
    let agent_pid = agent.pid().context("picket has ended")?.cast_signed();
    let plan = Plan {
        targets: vec![
            target("direct", past, &ca, Some(token.clone()), Vec::new()),
            target("picket", SERVICE, &picket_ca, None, vec![agent_pid]),
            target("nginx", proxied, &authority.pair().cert, None, nginx_pids),
        ],
        paths: Paths::of(NAMESPACE),
        protocols: Protocol::BOTH.to_vec(),
        rate,
        extent,
        only: only.to_owned(),
    };
    let sandbox = cgroup::processes(pod.cgroup())
        .first()
        .copied()
        .context("the pod has no process")?;
    let place = Placement::new()
        .net(pod.netns())
        .cgroup(&container_cgroup(sandbox)?);
    let measures = load_process::send(&place, &node.dir, &plan)
        .with_context(|| format!("picket's log ends:\n{}", agent.log_end()))?;
    drop(nginx);
    agent.stop()?;
    agent.uninstall()?;
    Ok(measures)
}

/// Where a container's process is in the unified hierarchy: processes may be there, and not in the pod's own folder.
fn container_cgroup(pid: i32) -> Result<std::path::PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context("the pod has ended")?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("the pod is in no unified cgroup")?;
    Ok(cgroup::unified()?.join(path))
}

/// The pod in whose place the load is, what it reads, and the rights to read it, which are the same on each way.
fn world() -> serde_json::Value {
    let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
    let mut small = named("ConfigMap", "small");
    small["data"] = json!({"text": "x".repeat(TEXT_BYTES)});
    let mut pod = named("Pod", "load");
    pod["spec"] = json!({"serviceAccountName": SERVICE_ACCOUNT, "terminationGracePeriodSeconds": 0, "containers": [
        {"name": "main", "image": "picket.test/busybox:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}]});
    let api = "rbac.authorization.k8s.io/v1";
    let group = "rbac.authorization.k8s.io";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        named("ServiceAccount", SERVICE_ACCOUNT), named("ServiceAccount", "past"), small, pod,
        {"apiVersion": api, "kind": "Role", "metadata": {"name": "bench", "namespace": NAMESPACE},
         "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create"]},
                   {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]}]},
        {"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": "bench", "namespace": NAMESPACE},
         "roleRef": {"kind": "Role", "name": "bench", "apiGroup": group},
         "subjects": [{"kind": "User", "name": USER, "apiGroup": group},
                      {"kind": "ServiceAccount", "name": "past", "namespace": NAMESPACE}]},
    ]})
}
