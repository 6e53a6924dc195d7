//! The node's configuration file: what an operator writes, checked whole before anything starts.
//!
//! In: a YAML file. Out: a [`Config`] whose paths and addresses are well formed; whether the files it names can be
//! used is found out by the parts that open them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::audit;
use crate::kernel::Unknown;
use crate::runtime::telemetry::LogConfig;
use crate::workload::Target;

/// Where `picket` looks for its configuration when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/picket/agent.yaml";

/// The largest configuration file read; a node's has a few dozen lines, so more is a mistake.
const MAX_BYTES: u64 = 1024 * 1024;

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
    /// The file is no YAML, or holds a field that is not known or not of its type.
    #[error("{file}:{line}: {reason}")]
    Syntax {
        /// The file's path.
        file: String,
        /// The line, from 1; 0 where the reader could not tell.
        line: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A field's value makes no sense.
    #[error("{file}: {field}: {reason}")]
    Invalid {
        /// The file's path.
        file: String,
        /// The field, as a path from the top.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
}

/// The configuration of one node's agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The node's name in the cluster, as the pods' `spec.nodeName` has it.
    pub node_name: String,
    /// How Picket's own client reads pods, services, endpoint slices and nodes.
    pub cluster: Cluster,
    /// Where permitted requests go, and with which credential.
    pub upstream: Upstream,
    /// The certificates that the pods' clients see.
    pub tls: Tls,
    /// The kernel programs' surroundings.
    #[serde(default)]
    pub kernel: Kernel,
    /// Which pods are enforced.
    pub enforce: Enforce,
    /// Addresses that are the API server besides those that the cluster itself names, as `address:port` or `name:port`.
    #[serde(default)]
    pub doors: Vec<Target>,
    /// Addresses that enforced pods may not reach, besides kubelets, etcd, container runtimes and cloud metadata.
    #[serde(default)]
    pub refuse: Vec<Target>,
    /// Of what would be refused, addresses that enforced pods may reach after all.
    #[serde(default)]
    pub allow: Vec<SocketAddr>,
    /// Files or folders with AgentIdentity, AgentGrant and AgentPolicy objects.
    pub objects: Vec<PathBuf>,
    /// Where audit records go.
    #[serde(default)]
    pub audit: Audit,
    /// The administrators' socket.
    #[serde(default)]
    pub admin: Admin,
    /// The agent's own log.
    #[serde(default)]
    pub log: LogConfig,
    /// How it stops.
    #[serde(default)]
    pub shutdown: Shutdown,
}

/// How Picket's own client reaches the API server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// A kubeconfig whose current context may list and watch pods, services, endpoint slices and nodes.
    pub kubeconfig: PathBuf,
}

/// Where permitted requests go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Upstream {
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Tls {
    /// The node CA's certificate (PEM), which the pods' bundle holds or leads to.
    pub ca_certificate_file: PathBuf,
    /// The node CA's key (PEM).
    pub ca_key_file: PathBuf,
    /// DNS names that clients dial besides `kubernetes`, `kubernetes.default` and so on.
    #[serde(default)]
    pub extra_names: Vec<String>,
}

/// The kernel programs' surroundings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Kernel {
    /// The cgroup v2 folder below which this node's pods live; found in /proc/mounts where it is not given.
    pub cgroup_root: Option<PathBuf>,
    /// A folder on a bpf file system for pinned links and maps, of this agent's own.
    pub bpffs: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            bpffs: PathBuf::from("/sys/fs/bpf/picket"),
        }
    }
}

/// Which pods are enforced: those in one of the namespaces whose labels match. All others are left alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Enforce {
    /// Names of namespaces; an empty list stands for every namespace, and the labels must then be given.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Labels that a pod must have, all of them.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// What becomes of pods that no agent has judged yet while none runs: doors are `closed` to them, or `open`.
    #[serde(default)]
    pub unknown_pods: Unknown,
}

/// Where audit records go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Audit {
    /// The file, one JSON record a line.
    pub file: PathBuf,
    /// Whether each record also goes to standard output.
    pub stdout: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            file: PathBuf::from(audit::DEFAULT_FILE),
            stdout: false,
        }
    }
}

/// The administrators' unix socket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Admin {
    /// Its path; only root can open it.
    pub socket: PathBuf,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/picket/admin.sock"),
        }
    }
}

/// How the agent stops.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Shutdown {
    /// Seconds that requests in flight get to end; a pod's default grace period is 30, of which some is left over.
    pub drain_seconds: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_seconds: 20 }
    }
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line where there is one, and the reason.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let size = std::fs::metadata(path)
            .map_err(|source| ConfigError::Read {
                file: file.clone(),
                source,
            })?
            .len();
        if size > MAX_BYTES {
            return Err(ConfigError::TooLarge { file });
        }
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            file: file.clone(),
            source,
        })?;
        Self::parse(&file, &text)
    }

    /// Checks a configuration's text; `file` is the name that errors carry.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax {
            file: file.to_owned(),
            line: error.location().map_or(0, |at| at.line()),
            reason: error.without_snippet().to_string(),
        })?;
        config.validate(file)?;
        Ok(config)
    }

    fn validate(&self, file: &str) -> Result<(), ConfigError> {
        let bad = |field: &'static str, reason: &str| {
            Err(ConfigError::Invalid {
                file: file.to_owned(),
                field,
                reason: reason.to_owned(),
            })
        };
        if self.node_name.is_empty() {
            return bad(
                "nodeName",
                "is empty; give the node's name as `kubectl get nodes` shows it",
            );
        }
        let Ok(server) = self.upstream.server.parse::<http::Uri>() else {
            return bad("upstream.server", "is no URL; write https://host:port");
        };
        if server.scheme_str() != Some("https") || server.host().is_none() {
            return bad(
                "upstream.server",
                "must be https://host:port; Picket does not speak plain HTTP upstream",
            );
        }
        if !matches!(server.path(), "" | "/") || server.query().is_some() {
            return bad("upstream.server", "must have no path and no query");
        }
        let certificate = self.upstream.client_certificate_file.is_some();
        if certificate != self.upstream.client_key_file.is_some() {
            return bad("upstream", "clientCertificateFile and clientKeyFile go together");
        }
        if certificate == self.upstream.token_file.is_some() {
            return bad(
                "upstream",
                "give either clientCertificateFile with clientKeyFile, or tokenFile",
            );
        }
        if self.enforce.namespaces.is_empty() && self.enforce.match_labels.is_empty() {
            return bad("enforce", "names no pods; give namespaces, matchLabels or both");
        }
        if self.objects.is_empty() {
            return bad(
                "objects",
                "is empty; name the files or folders with identities, grants and policies",
            );
        }
        if let Some(both) = self.doors.iter().find(|door| self.refuse.contains(door)) {
            return bad(
                "refuse",
                &format!("{both} is under doors too; it is one or the other"),
            );
        }
        if !self.kernel.bpffs.is_absolute() {
            return bad("kernel.bpffs", "must be an absolute path on a bpf file system");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
nodeName: node-1
cluster:
  kubeconfig: /etc/picket/kubeconfig
upstream:
  server: https://10.0.0.1:6443
  caFile: /etc/picket/ca.crt
  tokenFile: /etc/picket/token
tls:
  caCertificateFile: /etc/picket/node-ca.crt
  caKeyFile: /etc/picket/node-ca.key
enforce:
  namespaces: [agents]
objects: [/etc/picket/objects]
";

    #[test]
    fn reads_a_small_file_and_fills_in_defaults() {
        let config = Config::parse("agent.yaml", GOOD).unwrap();
        assert_eq!(config.kernel.bpffs, Path::new("/sys/fs/bpf/picket"));
        assert_eq!(config.shutdown.drain_seconds, 20);
        assert_eq!(config.enforce.unknown_pods, Unknown::Closed);
        let open = GOOD.replace("[agents]", "[agents]\n  unknownPods: open");
        let config = Config::parse("agent.yaml", &open).unwrap();
        assert_eq!(config.enforce.unknown_pods, Unknown::Open);
    }

    #[test]
    fn names_file_and_line_of_an_unknown_field() {
        let error = Config::parse("agent.yaml", &GOOD.replace("  tokenFile", "  tokenFiel")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("agent.yaml:7: ") && text.contains("tokenFiel"),
            "{text}"
        );
    }

    #[test]
    fn doors_have_addresses_or_names() {
        let text = format!(
            "{GOOD}doors: [192.0.2.1:6443, api.example:443]\nrefuse: ['[fd00::1]:80']\nallow: [169.254.169.254:80]\n"
        );
        let config = Config::parse("agent.yaml", &text).unwrap();
        let shown: Vec<String> = config
            .doors
            .iter()
            .chain(&config.refuse)
            .map(Target::to_string)
            .collect();
        assert_eq!(shown, ["192.0.2.1:6443", "api.example:443", "[fd00::1]:80"]);
        let error = Config::parse("agent.yaml", &text.replace("443]", "none]"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("agent.yaml:14: ") && error.contains("name:port"),
            "{error}"
        );
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for (from, to, says) in [
            ("https://10.0.0.1:6443", "http://10.0.0.1:6443", "upstream.server"),
            (
                "https://10.0.0.1:6443",
                "https://10.0.0.1:6443/x",
                "upstream.server",
            ),
            ("  tokenFile: /etc/picket/token\n", "", "tokenFile"),
            ("  tokenFile:", "  clientCertificateFile:", "go together"),
            ("[agents]", "[]", "enforce"),
            ("[agents]", "[agents]\n  unknownPods: ajar", "ajar"),
            ("objects: [/etc/picket/objects]", "objects: []", "objects"),
            ("nodeName: node-1", "nodeName: ''", "nodeName"),
            (
                "enforce:",
                "doors: [a.example:1]\nrefuse: [A.example:1]\nenforce:",
                "one or the other",
            ),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let error = Config::parse("agent.yaml", &text).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
