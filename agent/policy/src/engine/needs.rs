//! What a decision needs besides the head of a request, said before it is taken, so that nothing is read in vain.
//!
//! In: the rules that could fire. Out: [`Needs`] for who reads the request, and [`Inputs`] from there.

use jiff::Timestamp;

use super::PolicySet;
use super::match_input::MatchInput;
use crate::identity::Principal;
use crate::request::{KubeRequest, ObjectName, Verb};

/// What a decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The object that the request would store, and from where.
    pub object: Option<ObjectSource>,
}

/// Where the object of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectSource {
    /// In the body, of which up to [`BODY_LIMIT`](crate::BODY_LIMIT) bytes are read.
    Body,
    /// In the API server's answer to the same patch as a dry run ([`CanonicalRequest::as_probe`](crate::CanonicalRequest::as_probe)).
    Probe,
}

/// What a decision is given besides the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    /// The moment of the decision.
    pub now: Timestamp,
}

impl Inputs {
    /// The moment alone.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { now }
    }
}

impl PolicySet {
    /// What [`PolicySet::decide`] needs to be given for this request. Most sets need nothing, and say so at once.
    #[must_use]
    pub fn needs(&self, principal: &Principal, request: &KubeRequest) -> Needs {
        if !request.has_object() {
            return Needs::default();
        }
        let is_nameless = request.object_name() == ObjectName::Unknown;
        let source = match request.verb {
            Verb::Patch => ObjectSource::Probe,
            _ => ObjectSource::Body,
        };
        let needed = (is_nameless && self.builtin_needs_name(principal, request))
            || (self.rules.uses_objects() && self.rule_needs_object(principal, request, is_nameless));
        Needs {
            object: needed.then_some(source),
        }
    }

    /// Whether a rule that could fire looks into the object, or at the name of one whose name is not known.
    fn rule_needs_object(&self, principal: &Principal, request: &KubeRequest, is_nameless: bool) -> bool {
        let input = MatchInput::new(request);
        let on_object = MatchInput::on_object(request);
        std::iter::once(&input).chain(&on_object).any(|input| {
            self.rules
                .firing(principal, input)
                .any(|(rule, _)| rule.uses_object() || (is_nameless && rule.is_about_names()))
        })
    }
}
