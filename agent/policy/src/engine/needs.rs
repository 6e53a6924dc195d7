//! What a decision needs besides the head of a request, said before it is taken, so that nothing is read in vain.
//!
//! In: the rules that could fire. Out: [`Needs`] for who reads the request, and [`Inputs`] from there.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;

use super::PolicySet;
use super::builtin::makes_secret;
use super::evaluate::{can_stop, is_given};
use super::match_input::MatchInput;
use super::namespaces::{Namespaces, Selected};
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
    /// The object that the request finds in the cluster ([`PolicySet::decide_get`](crate::PolicySet::decide_get)), and what for.
    pub old_object: Option<OldObjectUse>,
}

/// What the stored object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldObjectUse {
    /// Rules that warn, and those of policies in mode Audit, look at it. Looking must refuse nothing and change nothing.
    ToNote,
    /// A rule that can stop the request looks at it. What is sent is held to the version that was judged, so that the body is read
    /// too: [`Needs::object`] is there, of a delete for its options.
    ToDecide,
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
        let finds_one = request.has_old_object() && self.rules.uses_objects();
        if !(request.has_object() || finds_one) || !self.gives(principal, request, inputs) {
            return Needs::default();
        }
        let is_nameless = request.object_name() == ObjectName::Unknown;
        let by_builtin = request.has_object()
            && (is_nameless || makes_secret(request))
            && self.builtin_needs_object(principal, request);
        let by_rules = match self.rules.uses_objects() {
            true => self.rules_need(principal, request, is_nameless, inputs.namespaces()),
            false => NeededByRules::default(),
        };
        let old_object = match by_rules.old_object {
            Needed { stops: true, .. } => Some(OldObjectUse::ToDecide),
            Needed { at_all: true, .. } => Some(OldObjectUse::ToNote),
            _ => None,
        };
        let binds = by_rules.old_object.stops;
        let source = match request.verb {
            // The type of a Secret is in the apply that makes it, so that nobody else need be asked.
            Verb::Patch if binds || by_rules.object.at_all || !request.apply => ObjectSource::Probe,
            _ => ObjectSource::Body,
        };
        Needs {
            object: (by_builtin || binds || by_rules.object.at_all).then_some(source),
            only_to_note: !(by_builtin || binds || by_rules.object.stops),
            old_object,
        }
    }

    /// Whether grants in force allow a request.
    pub(crate) fn gives(&self, principal: &Principal, request: &KubeRequest, inputs: Inputs) -> bool {
        is_given(&self.grants_for(principal), request, inputs.now)
    }

    /// What the rules that could fire look at.
    fn rules_need(
        &self,
        principal: &Principal,
        request: &KubeRequest,
        is_nameless: bool,
        namespaces: &Namespaces,
    ) -> NeededByRules {
        let input = MatchInput::new(request);
        let on_object = MatchInput::on_object(request);
        let firing = std::iter::once(&input)
            .chain(&on_object)
            .flat_map(|input| self.rules.firing(principal, input))
            .filter(|(rule, _)| rule.selects(request, namespaces) != Selected::No);
        let (has_object, finds_one) = (request.has_object(), request.has_old_object());
        let mut needed = NeededByRules::default();
        for (rule, mode) in firing {
            let stops = can_stop(rule, mode);
            if has_object && (rule.uses_object() || (is_nameless && rule.is_about_names())) {
                needed.object.note(stops);
            }
            if finds_one && rule.uses_old_object() {
                needed.old_object.note(stops);
            }
        }
        needed
    }
}

/// What rules look at.
#[derive(Default)]
struct NeededByRules {
    /// The object, or the name of one whose name is not known.
    object: Needed,
    /// The stored object.
    old_object: Needed,
}

#[derive(Default, Clone, Copy)]
struct Needed {
    /// A rule looks at it.
    at_all: bool,
    /// One of these can stop the request.
    stops: bool,
}

impl Needed {
    fn note(&mut self, stops: bool) {
        self.at_all = true;
        self.stops |= stops;
    }
}
