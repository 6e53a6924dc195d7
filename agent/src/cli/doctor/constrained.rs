//! Whether the API server's release takes the verbs of constrained impersonation.
//!
//! In: the API server's version, and the users that a credential may act as by these verbs alone. Out: what is to be told of them.
//!
//! RBAC knows no verbs: an API server of any release says yes where a role gives `impersonate:user-info`. But a release without constrained
//! impersonation asks about the verb `impersonate` alone, and refuses each request of such a credential.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;

use super::needs::{CONSTRAINED, PLAIN, Verdict};

/// How long the API server may take to say its version.
const LIMIT: Duration = Duration::from_secs(8);

/// The minor version from which constrained impersonation is on by default, and the one where it is a feature gate that is off.
const ON: u32 = 36;
const GATED: u32 = 35;

/// What a release does with these verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Support {
    On,
    Gated,
    Never,
}

impl Support {
    fn of(major: &str, minor: &str) -> Option<Self> {
        // Some providers write 35+.
        let number = |text: &str| -> Option<u32> {
            let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
            digits.parse().ok()
        };
        Some(match (number(major)?, number(minor)?) {
            (1, ON..) | (2.., _) => Self::On,
            (1, GATED) => Self::Gated,
            _ => Self::Never,
        })
    }
}

impl Verdict {
    /// Adds what the API server's release makes of users that the credential may act as by the constrained verbs alone. A server that
    /// does not say its version is told nothing of.
    pub(super) async fn of_release(&mut self, client: &Client, users: &BTreeSet<&str>) {
        if users.is_empty() {
            return;
        }
        let Ok(Ok(version)) = tokio::time::timeout(LIMIT, client.apiserver_version()).await else {
            return;
        };
        let said = |user: &&str, does: &str| {
            format!(
                "act as user {user} by the verb {CONSTRAINED}: Kubernetes {} {does}, and takes the verb {PLAIN}, as `picket grant rbac \
                 --plain` prints it",
                version.git_version
            )
        };
        match Support::of(&version.major, &version.minor) {
            Some(Support::On) | None => {}
            Some(Support::Gated) => self.unknown.extend(users.iter().map(|user| {
                format!(
                    "unknown: whether it may {}",
                    said(user, "has this verb by a feature gate alone")
                )
            })),
            Some(Support::Never) => {
                let missing = users
                    .iter()
                    .map(|user| format!("may not {}", said(user, "does not know this verb")));
                self.missing.extend(missing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Support;

    #[test]
    fn a_version_is_read_as_providers_write_it() {
        for (major, minor, support) in [
            ("1", "34", Some(Support::Never)),
            ("1", "35", Some(Support::Gated)),
            ("1", "35+", Some(Support::Gated)),
            ("1", "36", Some(Support::On)),
            ("1", "40+", Some(Support::On)),
            ("2", "0", Some(Support::On)),
            ("", "", None),
            ("1", "x", None),
        ] {
            assert_eq!(Support::of(major, minor), support, "{major}.{minor}");
        }
    }
}
