//! The decision on one request: a [`Permit`] to send it, an [`Ask`] for a person, or a [`Denial`].
//!
//! In: a principal, the request as it was read, and the inputs that the policy set said it needs. Out: a [`Decision`]
//! that owns the request. This module alone builds permits, asks and denials.

use std::sync::Arc;

use jiff::Timestamp;
use thiserror::Error;

use crate::engine::{Allowance, Cause, Evaluation, FiredRule, Inputs, ItemFilter, PolicySet, Refusal};
use crate::identity::Principal;
use crate::request::{CanonicalRequest, KubeRequest, RequestObject};
use crate::upstream_user::UpstreamUser;

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It may go upstream.
    Permit(Permit),
    /// A person decides.
    Ask(Ask),
    /// It may not go upstream.
    Deny(Denial),
}

/// The proof that a request was judged and let through, together with that request.
///
/// Only [`PolicySet::decide`], its kin for Picket's own questions, and [`Ask::approve`] make one, and sending uses it up:
///
/// ```
/// use picket_policy::{Ask, Permit};
/// fn send(permit: Permit) -> http::request::Parts { permit.into_head() }
/// ```
///
/// It cannot be built,
///
/// ```compile_fail,E0451
/// use picket_policy::Permit;
/// fn forge(permit: Permit) -> Permit { Permit { approver: None, ..permit } }
/// ```
///
/// nor cloned,
///
/// ```compile_fail,E0277
/// use picket_policy::Permit;
/// fn copy<T: Clone>(value: &T) -> T { value.clone() }
/// fn two(permit: &Permit) -> Permit { copy(permit) }
/// ```
///
/// nor sent twice,
///
/// ```compile_fail,E0382
/// use picket_policy::Permit;
/// fn send(permit: Permit) -> http::request::Parts { permit.into_head() }
/// fn twice(permit: Permit) { send(permit); send(permit); }
/// ```
///
/// nor sent for another request,
///
/// ```compile_fail,E0616
/// use picket_policy::{CanonicalRequest, Permit};
/// fn swap(permit: &mut Permit, other: CanonicalRequest) { permit.request = other; }
/// ```
///
/// and an ask is no permit.
///
/// ```compile_fail,E0308
/// use picket_policy::{Ask, Permit};
/// fn send(permit: Permit) -> http::request::Parts { permit.into_head() }
/// fn unasked(ask: Ask) { send(ask); }
/// ```
#[derive(Debug)]
pub struct Permit {
    request: CanonicalRequest,
    principal: Arc<Principal>,
    allowance: Allowance,
    approver: Option<String>,
}

impl Permit {
    /// The request that was judged.
    #[must_use]
    pub fn request(&self) -> &Arc<KubeRequest> {
        self.request.kube()
    }

    /// The agent that the request comes from.
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// As whom the API server is asked.
    #[must_use]
    pub fn user(&self) -> &Arc<UpstreamUser> {
        &self.allowance.user
    }

    /// Rules with the action Warn that fired; the client gets each as a `Warning` header.
    #[must_use]
    pub fn warnings(&self) -> &[FiredRule] {
        &self.allowance.warnings
    }

    /// Rules of policies in mode Audit that fired and would have stopped the request.
    #[must_use]
    pub fn would_deny(&self) -> &[FiredRule] {
        &self.allowance.would_deny
    }

    /// What must be taken out of the answer before the agent gets it.
    #[must_use]
    pub fn filter(&self) -> Option<&Arc<ItemFilter>> {
        self.allowance.filter.as_ref()
    }

    /// The headers of the request, as they came.
    #[must_use]
    pub fn headers(&self) -> &http::HeaderMap {
        &self.request.head().headers
    }

    /// The name of the AgentGrant that allows the request.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.allowance.grant
    }

    /// The rule that allows it: `rules[N]` of the grant, or the name of an implicit grant such as `builtin/discovery`.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.allowance.rule
    }

    /// The first moment at which time alone may end what the grants give; judge again then.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.allowance.until
    }

    /// Who approved the request, where a rule asked for that.
    #[must_use]
    pub fn approver(&self) -> Option<&str> {
        self.approver.as_deref()
    }

    /// Gives the head of the request out, to be sent once.
    #[must_use]
    pub fn into_head(self) -> http::request::Parts {
        self.request.into_head()
    }
}

/// A granted request that rules want a person to approve first. [`Ask::approve`] is the only way on.
#[derive(Debug)]
pub struct Ask {
    request: CanonicalRequest,
    principal: Arc<Principal>,
    allowance: Allowance,
    rules: Vec<FiredRule>,
}

impl Ask {
    /// The request that waits.
    #[must_use]
    pub fn request(&self) -> &Arc<KubeRequest> {
        self.request.kube()
    }

    /// The agent that the request comes from.
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// The rules that want an approval, by name; there is at least one.
    #[must_use]
    pub fn rules(&self) -> &[FiredRule] {
        &self.rules
    }

    /// Rules of policies in mode Audit that fired and would have stopped the request.
    #[must_use]
    pub fn would_deny(&self) -> &[FiredRule] {
        &self.allowance.would_deny
    }

    /// Lets the request go on.
    ///
    /// # Errors
    /// Where the approval is for another request or another agent; the request is gone then.
    pub fn approve(self, approval: Approval) -> Result<Permit, ApprovalMismatch> {
        if approval.principal != self.principal || approval.request != *self.request() {
            return Err(ApprovalMismatch);
        }
        Ok(Permit {
            request: self.request,
            principal: self.principal,
            allowance: self.allowance,
            approver: Some(approval.approver),
        })
    }
}

/// A person's yes to one request of one agent. It is used up by the [`Ask`] that it is for.
#[derive(Debug)]
pub struct Approval {
    principal: Arc<Principal>,
    request: Arc<KubeRequest>,
    approver: String,
}

impl Approval {
    /// `approver` approves what is asked.
    #[must_use]
    pub fn new(ask: &Ask, approver: impl Into<String>) -> Self {
        Self {
            principal: Arc::clone(&ask.principal),
            request: Arc::clone(ask.request()),
            approver: approver.into(),
        }
    }
}

/// An approval that is for another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the approval is for another request or another agent")]
pub struct ApprovalMismatch;

/// A refusal, in words for the agent and for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial(Box<Refusal>);

impl Denial {
    /// The kind of refusal.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.0.cause
    }

    /// The policy that refused, or `builtin`.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.0.policy.as_deref()
    }

    /// The rule that refused, or the built-in's name such as `builtin/nodes-proxy`.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.0.rule.as_deref()
    }

    /// Who was refused what, by which policy and rule, the rule's own message, and what is allowed instead.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the agent may do instead, in at most 300 characters; empty where nothing sensible can be said.
    #[must_use]
    pub fn allowed(&self) -> &str {
        &self.0.allowed
    }

    /// Who answers for the agent, and can be asked for more.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.0.owner
    }

    /// Rules of policies in mode Audit that fired too.
    #[must_use]
    pub fn would_deny(&self) -> &[FiredRule] {
        &self.0.would_deny
    }
}

/// What a policy set says of a request that is under way already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recheck {
    /// It would be let through.
    Permit {
        /// As this user.
        user: Arc<UpstreamUser>,
        /// The first moment at which time alone may end that.
        until: Option<Timestamp>,
        /// What would be taken out of the answer.
        filter: Option<Arc<ItemFilter>>,
    },
    /// A person would be asked.
    Ask {
        /// The first moment at which time alone may end that.
        until: Option<Timestamp>,
        /// What would be taken out of the answer.
        filter: Option<Arc<ItemFilter>>,
    },
    /// It would be refused.
    Deny(Denial),
}

impl PolicySet {
    /// Judges a request: built-in denies, then Deny rules, then grants, then rules that ask. The order decides only
    /// which reason is given. `inputs` holds the time and what [`PolicySet::needs`] named; a rule whose input is missing fires.
    #[must_use]
    pub fn decide(
        &self,
        principal: Arc<Principal>,
        mut request: CanonicalRequest,
        inputs: Inputs,
    ) -> Decision {
        let kube = request.kube();
        if kube.is_unread() && !self.gives(&principal, kube, inputs) {
            // It is refused in any case, and the reason is the missing grant, not an object that nobody read.
            request.kube_mut().forgo_objects();
        }
        match self.evaluate(&principal, request.kube(), inputs) {
            Evaluation::Allow(allowance) => Decision::Permit(Permit {
                request,
                principal,
                allowance,
                approver: None,
            }),
            Evaluation::Ask(allowance, rules) => Decision::Ask(Ask {
                request,
                principal,
                allowance,
                rules,
            }),
            Evaluation::Refuse(refusal) => Decision::Deny(Denial(refusal)),
        }
    }

    /// Judges a probe ([`CanonicalRequest::as_probe`]): the dry run by which Picket learns which object a patch makes. A person is not
    /// asked about it, but about the patch.
    ///
    /// # Errors
    /// The denial, which is the patch's too; none for a request that is no probe.
    pub fn decide_probe(
        &self,
        principal: Arc<Principal>,
        probe: CanonicalRequest,
        inputs: Inputs,
    ) -> Result<Permit, Option<Denial>> {
        if probe.kube().object != RequestObject::Sought || !probe.kube().dry_run {
            return Err(None);
        }
        match self.evaluate(&principal, probe.kube(), inputs) {
            Evaluation::Allow(allowance) | Evaluation::Ask(allowance, _) => Ok(Permit {
                request: probe,
                principal,
                allowance,
                approver: None,
            }),
            Evaluation::Refuse(refusal) => Err(Some(Denial(refusal))),
        }
    }

    /// Judges a look: the GET by which Picket learns which object a write finds. Its answer goes to no client, so that it needs no grant of
    /// its own: what is judged is the write, without the rules that look into objects. A person is not asked about it, but about the write.
    ///
    /// # Errors
    /// The denial, which is the write's too; none for a request that finds no one object.
    pub fn decide_get(
        &self,
        principal: Arc<Principal>,
        write: &CanonicalRequest,
        inputs: Inputs,
    ) -> Result<Permit, Option<Denial>> {
        let look = write.as_get().ok_or(None)?;
        let mut head_alone = KubeRequest::clone(write.kube());
        head_alone.forgo_objects();
        match self.evaluate(&principal, &head_alone, inputs) {
            Evaluation::Allow(allowance) | Evaluation::Ask(allowance, _) => Ok(Permit {
                request: look,
                principal,
                allowance,
                approver: None,
            }),
            Evaluation::Refuse(refusal) => Err(Some(Denial(refusal))),
        }
    }

    /// Judges a request that is under way already, for whoever ends what would no longer be let through. The answer
    /// permits nothing.
    #[must_use]
    pub fn recheck(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> Recheck {
        match self.evaluate(principal, request, inputs) {
            Evaluation::Allow(allowance) => Recheck::Permit {
                user: allowance.user,
                until: allowance.until,
                filter: allowance.filter,
            },
            Evaluation::Ask(allowance, _) => Recheck::Ask {
                until: allowance.until,
                filter: allowance.filter,
            },
            Evaluation::Refuse(refusal) => Recheck::Deny(Denial(refusal)),
        }
    }
}
