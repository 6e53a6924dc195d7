//! The configuration files of the cluster's parts.
//!
//! In: paths and addresses. Out: text. What is unusual in it, and why, stands beside it.

use std::net::Ipv4Addr;
use std::path::Path;

/// Where services are; the first address is the API server's.
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/12";
/// Where pods are; each node has a /24 of it.
pub(super) const POD_RANGE: &str = "10.244.0.0/16";

/// There is no DNS: a lookup, in a pod or on a node, is refused at once by the loopback address where nobody listens. An empty
/// file would not do, since containerd replaces it with the machine's.
pub(super) const RESOLV_CONF: &str = "nameserver 127.0.0.1\n";

/// The API server's audit policy: every request but the health checks, without bodies but those that Picket's nodes write as
/// themselves. In these nobody may find a secret.
pub(super) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: [/healthz*, /livez*, /readyz*]
- level: Request
  userGroups: [picket:nodes]
  verbs: [create, update, patch]
  resources:
  - group: events.k8s.io
  - group: picket.dev
- level: Metadata
";

/// containerd with every path of its own. Written for 1.6, whose keys 1.7 reads too.
pub(super) fn containerd(dir: &Path, sandbox_image: &str) -> String {
    let dir = dir.display();
    // restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot lower a score, and need not here.
    // opt: its default makes a folder in /opt.
    // unprivileged: as containerd 2 and CRI-O have it by default; enrolled pods have no NET_RAW, and ping without it.
    format!(
        r#"version = 2
root = "{dir}/containerd/root"
state = "{dir}/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]

[grpc]
  address = "{dir}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  enable_unprivileged_icmp = true
  enable_unprivileged_ports = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{dir}/runc"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
"#
    )
}

/// A bridge per node. No masquerading: nothing here has a way out, and a pod's own address is what tests look for.
pub(super) fn cni(pod_cidr: &str) -> String {
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "picket",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_cidr}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// What a kubelet's configuration depends on.
pub(super) struct Kubelet<'a> {
    pub(super) dir: &'a Path,
    pub(super) address: Ipv4Addr,
    pub(super) cgroup: &'a str,
    pub(super) ca: &'a Path,
    pub(super) cert: &'a Path,
    pub(super) key: &'a Path,
}

/// The kubelet's configuration.
pub(super) fn kubelet(with: &Kubelet<'_>) -> String {
    let dir = with.dir.display().to_string();
    // failCgroupV1: the machine may have version 1 or hybrid cgroups.
    // evictionHard, imageGC*: a full disk of the machine is no matter of the test's.
    serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": with.address.to_string(),
        "containerRuntimeEndpoint": format!("unix://{dir}/containerd.sock"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", with.cgroup),
        "failCgroupV1": false,
        "failSwapOn": false,
        "podLogsDir": format!("{dir}/logs"),
        "resolvConf": format!("{dir}/resolv.conf"),
        "volumePluginDir": format!("{dir}/volume-plugins"),
        "staticPodPath": format!("{dir}/manifests"),
        "fileCheckFrequency": "1s",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": with.ca},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": with.cert,
        "tlsPrivateKeyFile": with.key,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 250,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    })
    .to_string()
}
