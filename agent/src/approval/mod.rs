//! The stage that holds an [`Ask`] until a person decides.
//!
//! In: an ask. Out: the permit that an approval made of it, or why there is none. There is no approver yet, so that
//! every ask is refused: whatever nobody can approve must not pass.

use picket_policy::{Ask, FiredRule, Permit};

/// Why an ask became no permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// No approver is configured.
    #[error("{}", without_approver(agent, request, rule))]
    NoApprover {
        /// The agent's identity.
        agent: String,
        /// What it asked for, in words.
        request: String,
        /// The rule that wants an approval, the first by name.
        rule: FiredRule,
    },
}

impl ApprovalError {
    /// A label of low cardinality.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoApprover { .. } => "no_approver",
        }
    }

    /// The rule that wants an approval.
    #[must_use]
    pub fn rule(&self) -> &FiredRule {
        match self {
            Self::NoApprover { rule, .. } => rule,
        }
    }
}

/// Where approvals come from.
#[derive(Debug, Default)]
pub struct Approvals {}

impl Approvals {
    /// Waits for the decision on an ask.
    ///
    /// # Errors
    /// Always, as long as there is no approver.
    pub async fn wait(&self, ask: Ask) -> Result<Permit, ApprovalError> {
        Err(ApprovalError::NoApprover {
            agent: ask.principal().name().to_owned(),
            request: ask.request().words(),
            rule: first_rule(&ask),
        })
    }
}

/// The rule that is named as the one that asks: the first by name.
pub fn first_rule(ask: &Ask) -> FiredRule {
    ask.rules().first().cloned().unwrap_or_else(|| FiredRule {
        policy: String::new(),
        rule: String::new(),
        message: String::new(),
    })
}

fn without_approver(agent: &str, request: &str, rule: &FiredRule) -> String {
    let mut text = format!(
        "agent {agent} may {request} only with a person's approval (policy {}, rule {})",
        rule.policy, rule.rule
    );
    if !rule.message.is_empty() {
        text.push_str(": ");
        text.push_str(rule.message.trim_end_matches('.'));
    }
    text.push_str(". No approver is configured, so the request is refused.");
    text
}
