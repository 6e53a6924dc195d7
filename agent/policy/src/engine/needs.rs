//! What a decision needs besides the head of a request, said before it is taken, so that nothing is read in vain.
//!
//! In: the rules that could fire. Out: [`Needs`] for who reads the request, and [`Inputs`] from there.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;

use super::PolicySet;
use super::builtin::makes_secret;
use super::evaluate::is_given;
use super::match_input::MatchInput;
use super::namespaces::{Namespaces, Selected};
use crate::api::v1alpha1::{Action, Mode};
use crate::identity::Principal;
use crate::request::{KubeRequest, ObjectName, Verb};

/// What a decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The object that the request would store, and from where.
    pub object: Option<ObjectSource>,
    /// Whether only rules that warn, and those of policies in mode Audit, need it. What they need must refuse nothing and change
    /// nothing.
    pub only_to_note: bool,
}

/// Where the object of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectSource {
    /// In the body, of which up to [`BODY_LIMIT`](crate::BODY_LIMIT) bytes are read. Of a server-side apply that is so where only a
    /// built-in asks.
    Body,
    /// In the API server's answer to the same patch as a dry run ([`CanonicalRequest::as_probe`](crate::CanonicalRequest::as_probe)).
    Probe,
}

/// What a decision is given besides the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs<'i> {
    /// The moment of the decision.
    pub now: Timestamp,
    /// What is known of the namespaces, where [`PolicySet::namespace_use`] asks for it. Without it none is known.
    pub namespaces: Option<&'i Arc<Namespaces>>,
}

/// What is known of namespaces where nobody told of any.
static NONE_GIVEN: LazyLock<Arc<Namespaces>> = LazyLock::new(|| Arc::new(Namespaces::given([])));

impl<'i> Inputs<'i> {
    /// The moment alone.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            namespaces: None,
        }
    }

    /// The same with what is known of the namespaces.
    #[must_use]
    pub fn beside(self, namespaces: Option<&'i Arc<Namespaces>>) -> Self {
        Self { namespaces, ..self }
    }

    /// What is known of the namespaces.
    pub(super) fn namespaces(self) -> &'i Arc<Namespaces> {
        self.namespaces.unwrap_or(&NONE_GIVEN)
    }
}

impl PolicySet {
    /// What [`PolicySet::decide`] needs to be given for this request. Most sets need nothing, and say so at once. Of a request that no
    /// grant allows nothing is read.
    #[must_use]
    pub fn needs(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> Needs {
        if !request.has_object() || !self.gives(principal, request, inputs) {
            return Needs::default();
        }
        let is_nameless = request.object_name() == ObjectName::Unknown;
        let by_builtin =
            (is_nameless || makes_secret(request)) && self.builtin_needs_object(principal, request);
        let by_rules = match self.rules.uses_objects() {
            true => self.rules_need_object(principal, request, is_nameless, inputs.namespaces()),
            false => (false, false),
        };
        let source = match request.verb {
            // The type of a Secret is in the apply that makes it, so that nobody else need be asked.
            Verb::Patch if by_rules.0 || !request.apply => ObjectSource::Probe,
            _ => ObjectSource::Body,
        };
        Needs {
            object: (by_builtin || by_rules.0).then_some(source),
            only_to_note: !by_builtin && !by_rules.1,
        }
    }

    /// Whether grants in force allow a request.
    pub(crate) fn gives(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> bool {
        is_given(&self.grants_for(principal), request, inputs.now)
    }

    /// Whether a rule that could fire looks into the object, or at the name of one whose name is not known; and whether one of these
    /// can stop the request.
    fn rules_need_object(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        is_nameless: bool,
        namespaces: &Namespaces,
    ) -> (bool, bool) {
        let input = MatchInput::new(request);
        let on_object = MatchInput::on_object(request);
        let firing = std::iter::once(&input)
            .chain(&on_object)
            .flat_map(|input| self.rules.firing(principal, input))
            .filter(|(rule, _)| rule.selects(request, namespaces) != Selected::No);
        let mut needed = (false, false);
        for (rule, mode) in firing {
            if rule.uses_object() || (is_nameless && rule.is_about_names()) {
                let stops = rule.action != Action::Warn && mode == Mode::Enforce;
                needed = (true, needed.1 || stops);
            }
        }
        needed
    }
}
