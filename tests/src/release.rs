//! The releases of Kubernetes that the cluster can run.
//!
//! In: `PICKET_KUBERNETES`, or what a command of xtask was told; the newest release where neither says anything. Out: the release, and
//! the module file that its cluster and its kubectl are built with.
//!
//! A release runs with its own defaults, as managed clusters do: no feature gate and no API is switched on here. What differs for Picket:
//!
//! | | 1.34 | 1.35 | 1.36 |
//! |---|---|---|---|
//! | MutatingAdmissionPolicy | off, v1beta1 | off, v1beta1 | on, v1 |
//! | constrained impersonation | - | off, alpha | on |
//! | pod certificates | off, v1alpha1 | off, v1beta1 | off, v1beta1 |
//! | ClusterTrustBundle | off, v1beta1 | off, v1beta1 | off, v1beta1 |
//! | a WebSocket to exec needs `create` on `pods/exec` | - | on | on |
//! | SPDY and WebSocket streams pass through to the kubelet | - | - | on |

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Says which release the cluster runs, as `1.35`.
pub const KUBERNETES: &str = "PICKET_KUBERNETES";

/// What this process was told in place of the variable.
static CHOSEN: OnceLock<Release> = OnceLock::new();

/// A release of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Release {
    /// 1.34.
    V1_34,
    /// 1.35.
    V1_35,
    /// 1.36.
    V1_36,
}

impl Release {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_34, Self::V1_35, Self::V1_36];
    /// The one that runs where nobody chose. Its module is the folder's own go.mod, and CI builds no other.
    pub const NEWEST: Self = Self::V1_36;

    /// Chooses for this process, before anything is built.
    pub fn choose(self) {
        // The first choice stays: a cluster may run already.
        let _ = CHOSEN.set(self);
    }

    /// The release to run.
    ///
    /// # Errors
    /// The variable names none.
    pub fn chosen() -> Result<Self> {
        if let Some(release) = CHOSEN.get() {
            return Ok(*release);
        }
        let Some(text) = std::env::var_os(KUBERNETES) else {
            return Ok(Self::NEWEST);
        };
        let text = text.to_string_lossy();
        text.parse().with_context(|| format!("{KUBERNETES}={text}"))
    }

    /// As `1.35`.
    pub fn minor(self) -> &'static str {
        match self {
            Self::V1_34 => "1.34",
            Self::V1_35 => "1.35",
            Self::V1_36 => "1.36",
        }
    }

    /// As `1.35.4`: what its module file names. Clients parse it, and an untagged build would say v0.0.0.
    pub fn version(self) -> &'static str {
        match self {
            Self::V1_34 => "1.34.4",
            Self::V1_35 => "1.35.4",
            Self::V1_36 => "1.36.3",
        }
    }

    /// Whether the API server serves MutatingAdmissionPolicies by default.
    pub fn has_mutating_policies(self) -> bool {
        self >= Self::V1_36
    }

    /// Whether the API server takes the verbs of constrained impersonation by default.
    pub fn has_constrained_impersonation(self) -> bool {
        self >= Self::V1_36
    }

    /// The arguments by which the API server runs MutatingAdmissionPolicies, where it does not by default: for worlds of tests that enrol
    /// pods without a controller, whose webhook users of these releases have.
    pub fn mutating_policies(self) -> &'static [&'static str] {
        if self.has_mutating_policies() {
            return &[];
        }
        &[
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        ]
    }

    /// The argument that has the API server serve requests for pod certificates, which no release does by default.
    pub fn pod_certificates_api(self) -> &'static str {
        match self {
            Self::V1_34 => "--runtime-config=certificates.k8s.io/v1alpha1/podcertificaterequests=true",
            Self::V1_35 | Self::V1_36 => {
                "--runtime-config=certificates.k8s.io/v1beta1/podcertificaterequests=true"
            }
        }
    }

    /// The module file to build with in place of the folder's own; its sums lie beside it.
    pub(crate) fn module_file(self) -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster-old");
        (self != Self::NEWEST).then(|| folder.join(format!("{}.mod", self.minor())))
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|release| release.minor() == text) {
            Some(release) => Ok(release),
            None => bail!(
                "no release {text}; there are {}",
                Self::ALL.map(Self::minor).join(", ")
            ),
        }
    }
}

impl Display for Release {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(self.minor())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_release_has_a_module_file_of_its_version() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/go.mod");
        for release in Release::ALL {
            let file = release.module_file().unwrap_or_else(|| own.clone());
            let text = fs::read_to_string(&file).unwrap();
            let version = release.version();
            let wanted = format!("\tk8s.io/kubernetes v{version}\n");
            assert!(text.contains(&wanted), "{} lacks {wanted}", file.display());
            // The parts of Kubernetes that are modules of their own are of the same release.
            let replaced: Vec<_> = text.lines().filter(|line| line.contains("=> k8s.io/")).collect();
            assert!(replaced.len() > 20, "{replaced:?}");
            let of_it = format!(" v0.{}", &version[2..]);
            assert!(replaced.iter().all(|line| line.ends_with(&of_it)), "{replaced:?}");
            assert!(file.with_extension("sum").is_file(), "{}", file.display());
            assert!(version.starts_with(&format!("{}.", release.minor())));
        }
    }

    #[test]
    fn a_release_is_named_by_its_minor_version() {
        assert_eq!("1.35".parse::<Release>().unwrap(), Release::V1_35);
        for other in ["1.33", "1.35.4", "v1.35", ""] {
            let said = other.parse::<Release>().unwrap_err().to_string();
            assert!(said.contains("there are 1.34, 1.35, 1.36"), "{said}");
        }
    }
}
