//! What an evaluation comes to: the parts of which [`crate::decision`] makes a permit, an ask or a denial.
//!
//! In: the grant that allows the request, and the rules that fired. Out: a [`Evaluation`], with the user to impersonate or the
//! [`Cause`] of a refusal.

use std::sync::Arc;

use jiff::Timestamp;

/// The group of every user but the anonymous one; the API server adds it by itself.
const AUTHENTICATED: &str = "system:authenticated";

/// The user that the API server is asked to act as, from the grant that allows the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The groups of each service account of a namespace (k8s.io/apiserver pkg/authentication/serviceaccount/util.go).
fn account_groups(namespace: &str) -> [String; 2] {
    let all = "system:serviceaccounts";
    [all.to_owned(), format!("{all}:{namespace}")]
}

/// A rule that fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiredRule {
    /// The AgentPolicy's name.
    pub policy: String,
    /// The rule's name in it.
    pub rule: String,
    /// The rule's message.
    pub message: String,
}

/// Why a request was refused, for metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No grant allows it.
    NoGrant,
    /// A built-in deny.
    Builtin,
    /// A Deny rule of an AgentPolicy.
    Policy,
}

impl Cause {
    /// A stable, low-cardinality name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoGrant => "no_grant",
            Self::Builtin => "builtin",
            Self::Policy => "policy",
        }
    }
}

/// What the rules and grants come to, before [`crate::decision`] makes a proof of it.
pub(crate) enum Evaluation {
    /// A grant allows the request and no rule stops it.
    Allow(Allowance),
    /// Likewise, but these rules want a person to approve it.
    Ask(Allowance, Vec<FiredRule>),
    /// It is refused.
    Refuse(Box<Refusal>),
}

/// By which grant a request is allowed, and as whom.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(crate) impersonate: Arc<Impersonate>,
    pub(crate) grant: Arc<str>,
    pub(crate) rule: Arc<str>,
    /// The first moment at which time alone may end what the grant gives.
    pub(crate) until: Option<Timestamp>,
    pub(crate) warnings: Vec<FiredRule>,
    pub(crate) would_deny: Vec<FiredRule>,
}

/// Why a request is refused; read through [`crate::Denial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) message: String,
    pub(crate) allowed: String,
    pub(crate) would_deny: Vec<FiredRule>,
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
}
