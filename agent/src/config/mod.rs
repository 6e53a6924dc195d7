//! The node's configuration file: what an operator writes, checked whole before anything starts.
//!
//! In: a YAML file. Out: a [`Config`] whose paths and addresses are well formed, or all that is wrong, each with its place;
//! whether the files it names can be used is found out by
//! the parts that open them, and by [`Config::unusable`] for `picket doctor`.

mod addresses;
mod audit;
mod files;
mod metrics;
mod read;
mod reference;
#[cfg(test)]
mod tests;
mod texts;
mod trust;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use picket_policy::Diagnostic;

pub use addresses::ConfiguredEndpoints;
pub use reference::markdown as reference;

use crate::audit::AuditConfig;
use crate::kernel::FailMode;
use crate::pki::{CaFiles, ServerCertificateFiles, TrustBundle};
use crate::runtime::telemetry::LogConfig;

/// Where `picket` looks for its configuration when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/picket/agent.yaml";

/// The environment variable that names the node where the configuration does not, as a DaemonSet's pods do: they share one file.
pub const NODE_NAME_VARIABLE: &str = "PICKET_NODE_NAME";

/// The largest configuration file read; a node's has a few dozen lines, so more is a mistake.
const MAX_BYTES: u64 = 1024 * 1024;

/// The longest that an agent drains. One that transferred its listeners stays for as long, and two on a node should not for hours.
pub const MAX_DRAIN_SECONDS: u64 = 3600;

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{file}: cannot read the configuration: {source}")]
    Read {
        /// The file's path.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_BYTES`].
    #[error("{file}: the configuration is larger than {MAX_BYTES} bytes")]
    TooLarge {
        /// The file's path.
        file: String,
    },
    /// The file is no YAML, holds a field that is not known, or a value that makes no sense.
    #[error("the configuration is not valid:\n{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// All that is wrong, in the order of the file.
        errors: Vec<Diagnostic>,
    },
}

/// The configuration of one node's agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name in the cluster, as the pods' `spec.nodeName` has it; [`NODE_NAME_VARIABLE`] where the file has none.
    pub node_name: String,
    /// How Picket's own client reads pods, services, endpoint slices and nodes.
    pub cluster: ClusterSection,
    /// Where permitted requests go, and with which credential.
    pub upstream: UpstreamSection,
    /// The certificates that the pods' clients see.
    pub tls: TlsSection,
    /// The port for callers that are no enforced pods, if there is one.
    pub gateway: Option<GatewaySection>,
    /// The kernel programs' surroundings.
    pub kernel: KernelSection,
    /// Which pods are enforced.
    pub enforce: EnforceSection,
    /// Addresses whose connections are redirected or denied, besides those that the cluster itself names.
    pub protected_endpoints: ConfiguredEndpoints,
    /// Where AgentIdentity, AgentGrant and AgentPolicy objects are.
    pub objects: ObjectsSection,
    /// Whose tokens are verified.
    pub authentication: AuthenticationSection,
    /// Where audit records go.
    pub audit: AuditConfig,
    /// The administrators' socket.
    pub admin: AdminSection,
    /// The port for metrics over TLS, if there is one.
    pub metrics: Option<MetricsSection>,
    /// The agent's own log.
    pub log: LogConfig,
    /// How it stops.
    pub shutdown: ShutdownSection,
}

/// Where the objects are; in files, in the cluster, or both.
#[derive(Debug, Clone, Default)]
pub struct ObjectsSection {
    /// Files, and folders of files.
    pub files: Vec<PathBuf>,
    /// Whether the agent follows the objects that the API server keeps.
    pub cluster: bool,
}

/// How Picket's own client reaches the API server.
#[derive(Debug, Clone)]
pub struct ClusterSection {
    /// A kubeconfig whose current context may list and watch pods, services, endpoint slices and nodes, and
    /// namespaces where rules look at their labels.
    pub kubeconfig: PathBuf,
}

/// Where permitted requests go.
#[derive(Debug, Clone)]
pub struct UpstreamSection {
    /// The API server, as `https://host:port`.
    pub server: String,
    /// The bundle its certificate is checked against.
    pub ca_file: PathBuf,
    /// The client certificate with the right to impersonate (PEM); goes with `clientKeyFile`.
    pub client_certificate_file: Option<PathBuf>,
    /// The certificate's key (PEM).
    pub client_key_file: Option<PathBuf>,
    /// A bearer token with the right to impersonate, instead of a certificate.
    pub token_file: Option<PathBuf>,
}

/// The certificates that the pods' clients see.
#[derive(Debug, Clone)]
pub struct TlsSection {
    /// Where the node CA comes from.
    pub node_ca: NodeCaSource,
    /// DNS names that clients dial besides `kubernetes`, `kubernetes.default` and so on.
    pub extra_names: Vec<String>,
    /// The CAs of each trust domain whose client certificates count.
    pub trust_bundles: Vec<TrustBundle>,
}

/// Where the node CA comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeCaSource {
    /// From files that somebody else writes. The pods' bundle holds the certificate or leads to it.
    Files(CaFiles),
    /// From Picket's controller, which signs a key of the agent's own.
    Cluster,
}

/// Whose tokens are verified.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationSection {
    /// An `AuthenticationConfiguration` of the API server's form.
    pub config_file: Option<PathBuf>,
}

/// The port for callers that are no enforced pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySection {
    /// Where it listens.
    pub listen: SocketAddr,
    /// DNS names and addresses by which callers dial it, besides the address that they dial.
    pub names: Vec<String>,
    /// A certificate of its own, in place of one that the node CA signs.
    pub tls: Option<GatewayTlsSection>,
}

/// The gateway's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayTlsSection {
    /// The certificate and its key.
    pub files: ServerCertificateFiles,
    /// The CA that callers check it against, for the kubeconfigs that are made; the system's own where it is not given.
    pub ca_file: Option<PathBuf>,
}

/// The port for metrics over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSection {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Names in the certificate that the node CA signs, besides the address that is dialled.
    pub names: Vec<String>,
    /// A certificate of its own, in place of one that the node CA signs.
    pub tls: Option<ServerCertificateFiles>,
    /// The CA of clients' certificates, which count beside tokens.
    pub client_ca_file: Option<PathBuf>,
}

/// The kernel programs' surroundings.
#[derive(Debug, Clone)]
pub struct KernelSection {
    /// The cgroup v2 folder below which this node's pods live; found in /proc/mounts where it is not given.
    pub cgroup_root: Option<PathBuf>,
    /// A folder on a bpf file system for pinned links and maps, of this agent's own.
    pub bpffs: PathBuf,
}

impl Default for KernelSection {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            bpffs: PathBuf::from("/sys/fs/bpf/picket"),
        }
    }
}

/// Which pods are enforced: enrolled ones where that is said, and those in one of the namespaces whose labels match. All others are
/// left alone.
#[derive(Debug, Clone)]
pub struct EnforceSection {
    /// Whether pods are enforced that the label `picket.dev/enrolled=true` enrols, their own or their namespace's.
    pub enrolled: bool,
    /// Names of namespaces; an empty list stands for every namespace where labels are given.
    pub namespaces: Vec<String>,
    /// Labels that a pod must have, all of them.
    pub match_labels: BTreeMap<String, String>,
    /// What becomes of pods that no agent has judged yet while none runs: protected endpoints are closed to them, or open.
    pub unclassified_pods: FailMode,
    /// What becomes of static pods that the API server has not reported, while an agent runs.
    pub static_pods: FailMode,
}

/// The administrators' unix socket.
#[derive(Debug, Clone)]
pub struct AdminSection {
    /// Its path; only root can open it.
    pub socket: PathBuf,
}

impl AdminSection {
    /// Where one agent takes over from another: beside the admin socket, in the folder that only root can enter.
    #[must_use]
    pub fn upgrade_socket(&self) -> PathBuf {
        self.socket.with_file_name("upgrade.sock")
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/picket/admin.sock"),
        }
    }
}

/// How the agent stops.
#[derive(Debug, Clone)]
pub struct ShutdownSection {
    /// Seconds that requests in flight get to end, at most [`MAX_DRAIN_SECONDS`]; a pod's default grace period is 30, of
    /// which some is left over.
    pub drain_seconds: u64,
}

impl Default for ShutdownSection {
    fn default() -> Self {
        Self { drain_seconds: 20 }
    }
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, and the line and the reason of each thing that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&path.display().to_string(), &Self::text(path)?)
    }

    /// Reads the file without a check of what it says.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::TooLarge`].
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        let file = path.display().to_string();
        let failed = |source| ConfigError::Read {
            file: file.clone(),
            source,
        };
        let found = std::fs::metadata(path).map_err(failed)?;
        // A pipe of that name would hold the start, before anything has closed the node.
        if !found.is_file() {
            return Err(failed(std::io::Error::other("it is not a regular file")));
        }
        if found.len() > MAX_BYTES {
            return Err(ConfigError::TooLarge { file });
        }
        std::fs::read_to_string(path).map_err(failed)
    }

    /// Checks a configuration's text; `file` is the name that errors carry. Where the text has no `nodeName`, the environment's is taken.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        Self::parse_on(file, text, std::env::var(NODE_NAME_VARIABLE).ok())
    }

    /// As [`Config::parse`], with this for what the environment says of the node's name. An empty name says nothing.
    fn parse_on(file: &str, text: &str, node: Option<String>) -> Result<Self, ConfigError> {
        let node = node.filter(|name| !name.is_empty());
        read::config(file, text, node).map_err(|errors| ConfigError::Invalid { errors })
    }
}
