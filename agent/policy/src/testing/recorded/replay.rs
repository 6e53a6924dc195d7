//! What a set would have decided of a recorded request, beside what was decided.
//!
//! In: a set and an [`AuditEvent`]. Out: a [`Comparison`], or why the record does not tell the outcome.
//!
//! Who asked is taken from the record: an identity is not proven again. The moment is that of the request.

use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{AuditEvent, RecordedDecision, ReplayOutcome, Untold};
use crate::engine::{Inputs, NamespaceUse, Namespaces, ObjectSource, PolicySet};
use crate::identity::{Principal, PrincipalOrigin};
use crate::person::Person;
use crate::request::{BodyInput, CanonicalRequest, KubeRequest, OldObject, RequestObject};
use crate::testing::case::{Caller, CaseVerdict, Prepared, prepare, verdict};
use crate::testing::input::{InputError, PlannedRequest};
use crate::testing::model::ExpectedDecision;

/// How an identity can have been proven.
const ATTESTATIONS: [&str; 7] = [
    "pod",
    "jwt",
    "x509",
    "pod+jwt",
    "pod+x509",
    "jwt+x509",
    "pod+jwt+x509",
];

/// The built-in deny that looks into new Secrets.
const TOKEN_SECRETS: &str = "builtin/token-secrets";

/// The group of every user, which the API server adds by itself.
const AUTHENTICATED: &str = "system:authenticated";

/// What comes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// What was decided, and what would have been.
    Told(Box<Comparison>),
    /// It cannot be told.
    Untold(Untold),
}

/// What was decided of a request, and what would have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What was decided.
    pub recorded: RecordedDecision,
    /// What the set decides.
    pub replayed: RecordedDecision,
    /// What the agent would read of it; empty where it reads nothing.
    pub message: String,
    /// Rules that fired and stop nothing, in mode Audit or by `failurePolicy: Ignore`, as `policy/rule`.
    pub would_deny: Vec<String>,
    /// Whether there may be others than these, which the record does not tell.
    pub would_deny_untold: bool,
    /// The verb.
    pub verb: String,
    /// `pods/exec`, `deployments.apps`, or the path of a non-resource request.
    pub resource: String,
    /// The namespace, where the request has one.
    pub namespace: Option<String>,
    /// The name, where the request has one.
    pub name: Option<String>,
}

impl Comparison {
    /// Whether the request gets another outcome, or is stopped by something else. Another grant that allows it as well is no change.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.recorded.outcome != self.replayed.outcome || (self.is_stopped() && self.differs())
    }

    /// Whether another grant allows it.
    #[must_use]
    pub fn is_other_grant(&self) -> bool {
        !self.is_change() && self.differs()
    }

    fn is_stopped(&self) -> bool {
        self.recorded.outcome != ReplayOutcome::Allowed
    }

    fn differs(&self) -> bool {
        self.recorded.by != self.replayed.by && !self.recorded.by.is_empty()
    }

    /// What changes, in words: `allowed -> denied`, or `other rule`.
    #[must_use]
    pub fn change(&self) -> String {
        match self.recorded.outcome == self.replayed.outcome {
            true => "other rule".to_owned(),
            false => format!(
                "{} -> {}",
                self.recorded.outcome.word(),
                self.replayed.outcome.word()
            ),
        }
    }
}

/// Judges the request of a record as the set would have at that moment.
///
/// # Errors
/// Where the record is of no request.
pub fn replay(set: &PolicySet, event: &AuditEvent) -> Result<Replayed, InputError> {
    let compared = told(set, event)?;
    Ok(match compared {
        Ok(comparison) => Replayed::Told(Box::new(comparison)),
        Err(untold) => Replayed::Untold(untold),
    })
}

fn told(set: &PolicySet, event: &AuditEvent) -> Result<Result<Comparison, Untold>, InputError> {
    let facts = event.recorded().and_then(|recorded| {
        let now = event.at().ok_or(Untold::NoTime)?;
        Ok((recorded, caller(set, event, now)?, now))
    });
    let (recorded, caller, now) = match facts {
        Ok(facts) => facts,
        Err(untold) => return Ok(Err(untold)),
    };
    if !event.tells_request_line() {
        return Ok(Err(Untold::RequestLine));
    }
    let mut first: Option<Judged> = None;
    let mut would_deny_untold = false;
    for (planned, differs) in event.requests()? {
        for (judged, unread) in judge(set, &caller, event, &planned, now)? {
            would_deny_untold |= first
                .as_ref()
                .is_some_and(|known| known.would_deny != judged.would_deny);
            match &first {
                None => first = Some(judged),
                Some(known) if known.decided == judged.decided => {}
                // It is stopped in any case, and what stops it in the first fires in the others too: only which of them is told first
                // may differ.
                Some(known)
                    if known.decided.outcome == judged.decided.outcome
                        && recorded.outcome != known.decided.outcome => {}
                Some(_) => return Ok(Err(unread.or(differs).unwrap_or(Untold::Object))),
            }
        }
    }
    let Some(first) = first else {
        return Ok(Err(Untold::Undecided));
    };
    Ok(Ok(first.compared(recorded, would_deny_untold)))
}

/// Who asked.
fn caller(set: &PolicySet, event: &AuditEvent, now: Timestamp) -> Result<Caller, Untold> {
    let name = event.identity().ok_or(Untold::NoIdentity)?;
    let mut identities = set.identities().iter();
    let identity = identities
        .find(|identity| identity.name == name)
        .ok_or(Untold::UnknownIdentity)?;
    let origin = match event.pod() {
        Some(pod) => PrincipalOrigin::pod(&pod.namespace, &pod.name),
        None => PrincipalOrigin::Gateway {
            peer: Ipv4Addr::LOCALHOST.into(),
        },
    };
    let attestation = ATTESTATIONS
        .into_iter()
        .find(|known| *known == event.attestation())
        .unwrap_or("unknown");
    let person = event.person().map(|person| {
        let user = event.upstream().ok_or(Untold::Person)?;
        let groups: Vec<_> = user
            .groups
            .iter()
            .filter(|group| *group != AUTHENTICATED)
            .cloned()
            .collect();
        Person::recorded(&person.issuer, &person.subject, &person.username, &groups)
            .map_err(|_| Untold::Person)
    });
    let person = person.transpose()?;
    Ok(
        match Principal::new(Arc::clone(identity), origin, attestation, now) {
            Err(standing) => Err((name.to_owned(), standing)),
            Ok(principal) => Ok(Arc::new(match person {
                Some(person) => principal.on_behalf_of(Arc::new(person)),
                None => principal,
            })),
        },
    )
}

/// A request, as it was judged.
struct Judged {
    decided: RecordedDecision,
    message: String,
    would_deny: Vec<String>,
    target: Target,
}

#[derive(Default)]
struct Target {
    verb: String,
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

impl Target {
    fn of(request: &KubeRequest) -> Self {
        let group = request.group();
        let resource = request.resource_words();
        Self {
            verb: request.verb.as_str().to_owned(),
            resource: match group.is_empty() {
                true => resource,
                false => format!("{resource}.{group}"),
            },
            namespace: request.namespace().map(str::to_owned),
            name: request.name().map(str::to_owned),
        }
    }

    /// That of a request that cannot be read.
    fn unread(event: &AuditEvent) -> Self {
        let path = event.request_uri.split('?').next().unwrap_or_default();
        Self {
            verb: event.verb.clone(),
            resource: path.to_owned(),
            ..Self::default()
        }
    }
}

impl Judged {
    fn new(verdict: CaseVerdict, target: Target) -> Self {
        let outcome = match verdict.decision {
            ExpectedDecision::Allow | ExpectedDecision::Warn => ReplayOutcome::Allowed,
            ExpectedDecision::Pending => ReplayOutcome::Pending,
            ExpectedDecision::Deny | ExpectedDecision::Partial => ReplayOutcome::Denied,
        };
        let by = match outcome {
            ReplayOutcome::Allowed => verdict.grant,
            ReplayOutcome::Pending | ReplayOutcome::Denied => verdict.rule,
        };
        Self {
            decided: RecordedDecision { outcome, by },
            message: verdict.message,
            would_deny: verdict.would_deny,
            target,
        }
    }

    fn compared(self, recorded: RecordedDecision, would_deny_untold: bool) -> Comparison {
        Comparison {
            recorded,
            replayed: self.decided,
            message: self.message,
            would_deny: self.would_deny,
            would_deny_untold,
            verb: self.target.verb,
            resource: self.target.resource,
            namespace: self.target.namespace,
            name: self.target.name,
        }
    }
}

/// A request judged once, or for each extreme of what the labels of its namespace can be, which no record has: none of the rules that
/// look at them fires, or each of them does.
fn judge(
    set: &PolicySet,
    caller: &Caller,
    event: &AuditEvent,
    planned: &PlannedRequest,
    now: Timestamp,
) -> Result<Vec<(Judged, Option<Untold>)>, InputError> {
    let inputs = Inputs::at(now);
    if set.namespace_use() == NamespaceUse::Nothing {
        return judge_beside(set, caller, event, planned, inputs);
    }
    let silent = Arc::new(Namespaces::silent());
    let mut all = judge_beside(set, caller, event, planned, inputs.beside(Some(&silent)))?;
    let firing = judge_beside(set, caller, event, planned, inputs)?;
    all.extend(
        firing
            .into_iter()
            .map(|(judged, unread)| (judged, unread.or(Some(Untold::Namespace)))),
    );
    Ok(all)
}

/// A request judged once, or for each extreme of what the object that nobody knows can be: none of the rules that look into it fires,
/// or each of them does. Every object is between the two.
fn judge_beside(
    set: &PolicySet,
    caller: &Caller,
    event: &AuditEvent,
    planned: &PlannedRequest,
    inputs: Inputs<'_>,
) -> Result<Vec<(Judged, Option<Untold>)>, InputError> {
    let (principal, mut request) = match prepare(caller, planned)? {
        Prepared::Ready(principal, request) => (principal, request),
        Prepared::Refused(verdict) => {
            return Ok(vec![(Judged::new(verdict, Target::unread(event)), None)]);
        }
    };
    let decide = |request: CanonicalRequest| {
        let target = Target::of(request.kube());
        let decision = set.decide(Arc::clone(&principal), request, inputs);
        Judged::new(verdict(&decision), target)
    };
    let needs = set.needs(&principal, request.kube(), inputs);
    let has_object = request.kube().has_object();
    let is_read = needs.object == Some(ObjectSource::Body) && has_object && event.has_object();
    if is_read {
        request.look_at_object(BodyInput::Whole(&planned.body));
    }
    let is_unknown = needs.object.is_some() && has_object && !is_read;
    // No record has what was stored before.
    if !is_unknown && needs.old_object.is_none() {
        return Ok(vec![(decide(request), None)]);
    }
    let Prepared::Ready(_, mut again) = prepare(caller, planned)? else {
        return Ok(Vec::new());
    };
    if is_read {
        again.look_at_object(BodyInput::Whole(&planned.body));
    }
    if is_unknown {
        request.set_object(RequestObject::Sought);
    }
    request.set_old_object(OldObject::Sought);
    let unread = decide(again);
    let why = match unread.decided.by == TOKEN_SECRETS {
        true => Untold::SecretType,
        false if is_unknown => Untold::Object,
        false => Untold::OldObject,
    };
    Ok(vec![(decide(request), None), (unread, Some(why))])
}
