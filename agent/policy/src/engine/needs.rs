//! What a decision needs besides the head of a request, said before it is taken, so that nothing is read in vain.
//!
//! In: the rules that could fire. Out: [`Needs`] for who reads the request, and [`Inputs`] from there.

use jiff::Timestamp;

use super::PolicySet;
use super::match_input::MatchInput;
use crate::identity::Principal;
use crate::request::KubeRequest;

/// The largest body that is read for a decision. etcd stores no larger request (`--max-request-bytes`, 1.5 MiB), so
/// that objects which can be stored fit; what is larger counts as matching every rule that looks into it.
pub const BODY_LIMIT: usize = 3 * 512 * 1024;

/// What a decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The request's body, up to that many bytes.
    pub body: Option<usize>,
}

/// What a decision is given besides the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs<'a> {
    /// The moment of the decision.
    pub now: Timestamp,
    /// The request's body.
    pub body: BodyInput<'a>,
}

impl Inputs<'_> {
    /// The moment alone.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            body: BodyInput::Unread,
        }
    }
}

/// A request's body as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyInput<'a> {
    /// Nobody read it.
    #[default]
    Unread,
    /// All of it; empty where there is none.
    Whole(&'a [u8]),
    /// It is larger than the limit.
    TooLarge,
}

impl PolicySet {
    /// What [`PolicySet::decide`] needs to be given for this request. Most sets need nothing, and say so at once.
    #[must_use]
    pub fn needs(&self, principal: &Principal, request: &KubeRequest) -> Needs {
        if !self.rules.needs_body() {
            return Needs::default();
        }
        let input = MatchInput::new(request);
        let on_object = MatchInput::on_object(request);
        let body = std::iter::once(&input).chain(&on_object).any(|input| {
            self.rules
                .firing(principal, input)
                .any(|(rule, _)| rule.condition.is_some())
        });
        Needs {
            body: body.then_some(BODY_LIMIT),
        }
    }
}
