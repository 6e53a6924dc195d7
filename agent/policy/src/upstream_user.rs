//! As whom the API server is asked, and by which credential.
//!
//! In: `spec.upstream` of an AgentGrant. Out: an [`UpstreamUser`], with the groups that the API server gives it.

use crate::api::v1alpha1::{GrantUpstream, UpstreamServiceAccount};

/// How the names of service accounts as users begin.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The group of every user but the anonymous one; the API server adds it by itself.
const AUTHENTICATED: &str = "system:authenticated";

/// As whom a request goes upstream, from the grant that allows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamUser {
    /// The node's credential asks to act as this user.
    Impersonated(Impersonate),
    /// The request carries a token of this service account, and no other credential.
    ServiceAccount(ServiceAccount),
}

impl UpstreamUser {
    /// The user of a grant. Where a grant that was never checked names none, an empty user is sent, which the API server
    /// refuses; a grant on behalf of people has no user of its own.
    pub(crate) fn of(upstream: &GrantUpstream) -> Self {
        match (&upstream.impersonate, &upstream.service_account) {
            (Some(user), _) => Self::Impersonated(Impersonate::new(&user.user, &user.groups)),
            (None, Some(UpstreamServiceAccount { namespace, name })) => {
                Self::ServiceAccount(ServiceAccount::new(namespace, name))
            }
            (None, None) => Self::Impersonated(Impersonate::default()),
        }
    }

    /// The user's name at the API server.
    #[must_use]
    pub fn username(&self) -> &str {
        match self {
            Self::Impersonated(impersonate) => &impersonate.user,
            Self::ServiceAccount(account) => account.username(),
        }
    }

    /// The groups that the API server gives the user.
    #[must_use]
    pub fn effective_groups(&self) -> Vec<String> {
        match self {
            Self::Impersonated(impersonate) => impersonate.effective_groups(),
            Self::ServiceAccount(account) => Impersonate::new(account.username(), &[]).effective_groups(),
        }
    }

    /// Whom the API server is asked to act as, where the node's credential asks.
    #[must_use]
    pub fn impersonate(&self) -> Option<&Impersonate> {
        match self {
            Self::Impersonated(impersonate) => Some(impersonate),
            Self::ServiceAccount(_) => None,
        }
    }

    /// Whose token the request carries, where it carries one.
    #[must_use]
    pub fn service_account(&self) -> Option<&ServiceAccount> {
        match self {
            Self::Impersonated(_) => None,
            Self::ServiceAccount(account) => Some(account),
        }
    }
}

/// A service account by its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    username: String,
    /// Where in `username` the name begins.
    name: usize,
}

impl ServiceAccount {
    /// The service account of this name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        let username = format!("{SERVICE_ACCOUNT}{namespace}:{name}");
        Self {
            name: username.len() - name.len(),
            username,
        }
    }

    /// The account's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.username
            .get(SERVICE_ACCOUNT.len()..self.name.saturating_sub(1))
            .unwrap_or_default()
    }

    /// The account's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.username.get(self.name..).unwrap_or_default()
    }

    /// `system:serviceaccount:NAMESPACE:NAME`.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }
}

/// The user that the API server is asked to act as.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Impersonate {
    /// Sent as `Impersonate-User`.
    pub user: String,
    /// Sent as one `Impersonate-Group` each, in this order.
    pub groups: Vec<String>,
}

impl Impersonate {
    /// The user and groups of a grant. The API server gives a service account the groups that every request of its own has only
    /// where no group is asked for, so they are asked for beside the grant's.
    #[must_use]
    pub fn new(user: &str, groups: &[String]) -> Self {
        let own = match service_account(user) {
            Some((namespace, _)) if !groups.is_empty() => account_groups(namespace).to_vec(),
            _ => Vec::new(),
        };
        let added = own.iter().filter(|group| !groups.contains(group));
        Self {
            user: user.to_owned(),
            groups: groups.iter().chain(added).cloned().collect(),
        }
    }

    /// The groups that the API server gives the user: those that are sent, and those that it adds by itself
    /// (k8s.io/apiserver pkg/endpoints/filters/impersonation).
    #[must_use]
    pub fn effective_groups(&self) -> Vec<String> {
        let mut groups = match service_account(&self.user) {
            Some((namespace, _)) if self.groups.is_empty() => account_groups(namespace).to_vec(),
            _ => self.groups.clone(),
        };
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        groups
    }
}

/// Namespace and name of `system:serviceaccount:NAMESPACE:NAME`.
#[must_use]
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The groups of each service account of a namespace (k8s.io/apiserver pkg/authentication/serviceaccount/util.go).
fn account_groups(namespace: &str) -> [String; 2] {
    let all = "system:serviceaccounts";
    [all.to_owned(), format!("{all}:{namespace}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_keeps_its_groups_beside_others() {
        let groups = |groups: &[&str]| -> Vec<String> { groups.iter().map(|&group| group.into()).collect() };
        let account = "system:serviceaccount:ci:bot";
        let own = ["system:serviceaccounts", "system:serviceaccounts:ci"];
        for (user, given, sent, seen) in [
            ("agent:a", &[][..], &[][..], &["system:authenticated"][..]),
            ("agent:a", &["g"], &["g"], &["g", "system:authenticated"]),
            (
                "agent:a",
                &["system:authenticated"],
                &["system:authenticated"],
                &["system:authenticated"],
            ),
            // Without groups the API server adds all of them.
            (account, &[], &[], &[own[0], own[1], "system:authenticated"]),
            (
                account,
                &["g"],
                &["g", own[0], own[1]],
                &["g", own[0], own[1], "system:authenticated"],
            ),
            (
                account,
                &["system:authenticated"],
                &["system:authenticated", own[0], own[1]],
                &["system:authenticated", own[0], own[1]],
            ),
        ] {
            let impersonate = Impersonate::new(user, &groups(given));
            assert_eq!(impersonate.groups, groups(sent), "{user} {given:?}");
            assert_eq!(impersonate.effective_groups(), groups(seen), "{user} {given:?}");
        }
    }

    #[test]
    fn a_service_account_by_its_token_has_its_own_groups() {
        let upstream = GrantUpstream {
            service_account: Some(UpstreamServiceAccount {
                namespace: "ci".to_owned(),
                name: "bot".to_owned(),
            }),
            ..GrantUpstream::default()
        };
        let user = UpstreamUser::of(&upstream);
        assert_eq!(user.username(), "system:serviceaccount:ci:bot");
        let own = [
            "system:serviceaccounts",
            "system:serviceaccounts:ci",
            "system:authenticated",
        ];
        assert_eq!(user.effective_groups(), own);
        let account = user.service_account().expect("an account");
        assert_eq!((account.namespace(), account.name()), ("ci", "bot"));
        // The same name by the two ways is not the same user: another credential has other rights.
        let impersonated = UpstreamUser::Impersonated(Impersonate::new("system:serviceaccount:ci:bot", &[]));
        assert_ne!(user, impersonated);
        assert!(user.impersonate().is_none() && impersonated.service_account().is_none());
    }
}
