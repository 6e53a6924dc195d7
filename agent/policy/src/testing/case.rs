//! A case, run: its requests judged as the agent would judge them, and compared with what is expected.
//!
//! In: a set, a test, and the moment. Out: a [`CaseResult`] for each case, or what is wrong with the cases.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value as Json;

use super::input::{InputError, PlannedRequest, RequestRole, of_audit_record, of_http};
use super::kubectl::{self, CommandContext};
use super::model::{Expectation, ExpectedDecision, TestAgent, TestCase, TestNamespace};
use super::read::PolicyTest;
use crate::decision::Decision;
use crate::engine::{Cause, FiredRule, Inputs, ObjectSource, PolicySet, TraceOutcome, TracePart, TraceStep};
use crate::identity::{Principal, PrincipalOrigin, Standing};
use crate::kubernetes::DEFAULT_NAMESPACE;
use crate::person::Person;
use crate::request::{BodyInput, CanonicalRequest, OldObject};
use crate::yaml::{Diagnostic, SourceLocation};

/// The pod of an agent whose test names none.
const POD: &str = "agent";

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOutcome {
    /// Method and target.
    pub line: String,
    /// What it is to its command.
    pub role: RequestRole,
    /// What became of it.
    pub verdict: CaseVerdict,
    /// Every rule that fired, as `policy/rule`, whatever decided in the end.
    pub fired: Vec<String>,
}

/// A decision, as tests compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseVerdict {
    /// The decision.
    pub decision: ExpectedDecision,
    /// What decided: `policy/rule`, `builtin/NAME`, `no_grant`, `unreadable`, or `identity`; empty where nothing speaks against it.
    pub rule: String,
    /// The grant that allows it; empty where it is denied.
    pub grant: String,
    /// What the agent reads; empty where it reads nothing.
    pub message: String,
    /// Rules in mode Audit that would have denied.
    pub would_deny: Vec<String>,
    /// What the agent may do instead; empty where nothing is known.
    pub allowed_instead: String,
}

/// A request's outcome, and what every part of the set said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What became of it.
    pub outcome: RequestOutcome,
    /// What every part said; empty where the request cannot be read, or the agent may not act.
    pub steps: Vec<TraceStep>,
}

/// A case that was run.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// Its name, or its input where it has none.
    pub name: String,
    /// Where it stands.
    pub location: SourceLocation,
    /// What it sends, in a line.
    pub input: String,
    /// What was expected.
    pub expected: Expectation,
    /// What became of it as a whole.
    pub got: CaseVerdict,
    /// What became of each of its requests.
    pub requests: Vec<RequestOutcome>,
    /// How it differs from what was expected; empty where it passed.
    pub failures: Vec<String>,
}

/// Runs the cases of a test. `now` is the moment of cases that name none, and `read` gives the text of a file beside the test.
///
/// # Errors
/// Everything that is wrong with the cases, where they stand.
pub fn run(
    set: &PolicySet,
    test: &PolicyTest,
    now: Timestamp,
    read: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Vec<CaseResult>, Vec<Diagnostic>> {
    let mut results = Vec::new();
    let mut errors = Vec::new();
    let namespaces = Arc::new(TestNamespace::known(&test.spec().namespaces));
    for (index, case) in test.spec().cases.iter().enumerate() {
        let now = case.now.or(test.spec().now).unwrap_or(now);
        let agent = case.agent.as_ref().unwrap_or(&test.spec().agent);
        let inputs = Inputs::at(now).beside(Some(&namespaces));
        match run_case(set, case, agent, inputs, read) {
            Ok(run) => {
                let failures = compare(&case.expect, &run.got);
                results.push(CaseResult {
                    name: case.name.clone().unwrap_or_else(|| run.input.clone()),
                    location: test.case_location(index),
                    input: run.input,
                    expected: case.expect.clone(),
                    got: run.got,
                    requests: run.requests,
                    failures,
                });
            }
            Err((field, InputError(reason))) => errors.push(test.error_in_case(index, field, reason)),
        }
    }
    if errors.is_empty() {
        Ok(results)
    } else {
        Err(errors)
    }
}

/// A case's requests, judged.
struct Run {
    input: String,
    got: CaseVerdict,
    requests: Vec<RequestOutcome>,
}

/// What is wrong with a case, and in which field.
type CaseError = (&'static str, InputError);

fn run_case(
    set: &PolicySet,
    case: &TestCase,
    agent: &TestAgent,
    inputs: Inputs<'_>,
    read: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Run, CaseError> {
    let principal = principal(set, agent, inputs.now).map_err(|error| ("agent", error))?;
    let namespace = agent
        .pod_namespace(set)
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let (field, input, planned) = planned(case, &namespace, read)?;
    let mut requests = Vec::new();
    for mut request in planned {
        request.old_object = old_object(case);
        let judged = judge(set, &principal, &request, inputs).map_err(|error| (field, error))?;
        requests.push(judged.outcome);
    }
    Ok(Run {
        input,
        got: together(&requests),
        requests,
    })
}

/// The object that the API server has, as far as the case says so.
fn old_object(case: &TestCase) -> OldObject {
    match (&case.old_object, case.exists) {
        (Some(object), _) => OldObject::Read(Arc::new(object.clone())),
        (None, Some(false)) => OldObject::Absent,
        (None, _) => OldObject::Unread,
    }
}

/// The field that has a case's input, the input in a line, and its requests.
fn planned(
    case: &TestCase,
    namespace: &str,
    read: &dyn Fn(&str) -> Result<String, String>,
) -> Result<(&'static str, String, Vec<PlannedRequest>), CaseError> {
    if let Some(line) = &case.kubectl {
        let around = CommandContext {
            namespace,
            stdin: case.stdin.as_deref(),
            exists: case.exists.unwrap_or(true),
        };
        let requests = kubectl::requests(line, around).map_err(|error| ("kubectl", error))?;
        let line = line.strip_prefix("kubectl ").unwrap_or(line);
        return Ok(("kubectl", format!("kubectl {line}"), requests));
    }
    if let Some(request) = &case.request {
        let request = of_http(request).map_err(|error| ("request", error))?;
        return Ok(("request", request.line(), vec![request]));
    }
    if let Some(record) = &case.audit {
        let request = of_audit_record(record).map_err(|error| ("audit", error))?;
        return Ok(("audit", request.line(), vec![request]));
    }
    let file = case.audit_file.as_deref().unwrap_or_default();
    let wrong = |reason: String| ("auditFile", InputError(reason));
    let text = read(file).map_err(wrong)?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let records = lines.map(|(number, line)| {
        let record: Json = serde_json::from_str(line)
            .map_err(|error| wrong(format!("{file}, line {}: {error}", number + 1)))?;
        of_audit_record(&record).map_err(|error| wrong(format!("{file}, line {}: {error}", number + 1)))
    });
    let requests = records.collect::<Result<Vec<_>, _>>()?;
    if requests.is_empty() {
        return Err(wrong(format!("{file} has no records")));
    }
    Ok((
        "auditFile",
        format!("{} records of {file}", requests.len()),
        requests,
    ))
}

impl TestAgent {
    /// The namespace that the agent's pod is in, where one is known.
    #[must_use]
    pub fn pod_namespace(&self, set: &PolicySet) -> Option<String> {
        let mut identities = set.identities().iter();
        let of_identity = || {
            let identity = identities.find(|identity| identity.name == self.identity)?;
            identity.attest.pod.as_ref().map(|pod| pod.namespace.clone())
        };
        self.namespace.clone().or_else(of_identity)
    }
}

/// The principal of an agent; its standing where it may not act.
pub(super) type Caller = Result<Arc<Principal>, (String, Standing)>;

fn principal(set: &PolicySet, agent: &TestAgent, now: Timestamp) -> Result<Caller, InputError> {
    let mut identities = set.identities().iter();
    let Some(identity) = identities.find(|identity| identity.name == agent.identity) else {
        let known: Vec<_> = set
            .identities()
            .iter()
            .map(|identity| identity.name.as_str())
            .collect();
        return Err(InputError(format!(
            "no AgentIdentity is named {:?}; the files have: {}",
            agent.identity,
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        )));
    };
    let origin = match agent.pod_namespace(set) {
        Some(namespace) => PrincipalOrigin::pod(&namespace, agent.pod.as_deref().unwrap_or(POD)),
        None => PrincipalOrigin::Gateway {
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
        },
    };
    let person = agent.on_behalf_of.as_ref().map(|person| {
        Person::named(&person.issuer, &person.user, &person.groups).map_err(|error| {
            InputError(format!(
                "no agent can ask on behalf of {:?}: {error}",
                person.user
            ))
        })
    });
    let person = person.transpose()?;
    let principal = match Principal::new(Arc::clone(identity), origin, "test", now) {
        Ok(principal) => principal,
        Err(standing) => return Ok(Err((identity.name.clone(), standing))),
    };
    Ok(Ok(Arc::new(match person {
        Some(person) => principal.on_behalf_of(Arc::new(person)),
        None => principal,
    })))
}

/// Judges one request of an agent as Picket would, and says what every part of the set said.
///
/// # Errors
/// Where no client could send the request, or the set does not know the agent.
pub fn explain(
    set: &PolicySet,
    agent: &TestAgent,
    planned: &PlannedRequest,
    inputs: Inputs<'_>,
) -> Result<Explained, InputError> {
    judge(set, &principal(set, agent, inputs.now)?, planned, inputs)
}

fn judge(
    set: &PolicySet,
    caller: &Caller,
    planned: &PlannedRequest,
    inputs: Inputs<'_>,
) -> Result<Explained, InputError> {
    let explained = |verdict, fired, steps| Explained {
        outcome: RequestOutcome {
            line: planned.line(),
            role: planned.role,
            verdict,
            fired,
        },
        steps,
    };
    let (principal, mut request) = match prepare(caller, planned)? {
        Prepared::Ready(principal, request) => (principal, request),
        Prepared::Refused(verdict) => return Ok(explained(verdict, Vec::new(), Vec::new())),
    };
    // What a patch makes only the API server knows; a rule that looks into it fires here.
    let needs = set.needs(&principal, request.kube(), inputs);
    if needs.old_object.is_some() {
        request.set_old_object(planned.old_object.clone());
    }
    // Of a delete the body has options.
    if needs.object == Some(ObjectSource::Body)
        && request.kube().has_object()
        && let Err(error) = request.read_object(BodyInput::Whole(&planned.body))
    {
        let verdict = denied("unreadable", &error.to_string());
        return Ok(explained(verdict, Vec::new(), Vec::new()));
    }
    let steps = set.trace(&principal, request.kube(), inputs).steps;
    let fired = steps.iter().filter(|step| {
        step.part == TracePart::Rule && matches!(step.outcome, TraceOutcome::Fired | TraceOutcome::Audited)
    });
    let fired = fired.map(|step| step.name.clone()).collect();
    let decision = set.decide(principal, request, inputs);
    Ok(explained(verdict(&decision), fired, steps))
}

/// A request before its decision.
pub(super) enum Prepared {
    /// It can be judged.
    Ready(Arc<Principal>, CanonicalRequest),
    /// It is refused before that.
    Refused(CaseVerdict),
}

/// Reads a request of a caller.
pub(super) fn prepare(caller: &Caller, planned: &PlannedRequest) -> Result<Prepared, InputError> {
    let request = match planned.canonical()? {
        Ok(request) => request,
        Err(error) => return Ok(Prepared::Refused(denied("unreadable", &error.to_string()))),
    };
    Ok(match caller {
        Ok(principal) => Prepared::Ready(Arc::clone(principal), request),
        Err((name, standing)) => {
            let message = format!("agent {name} may not act: its AgentIdentity is {standing:?}");
            Prepared::Refused(denied("identity", &message))
        }
    })
}

fn denied(rule: &str, message: &str) -> CaseVerdict {
    CaseVerdict {
        decision: ExpectedDecision::Deny,
        rule: rule.to_owned(),
        grant: String::new(),
        message: message.to_owned(),
        would_deny: Vec::new(),
        allowed_instead: String::new(),
    }
}

fn full_name(fired: &FiredRule) -> String {
    format!("{}/{}", fired.policy, fired.rule)
}

pub(super) fn verdict(decision: &Decision) -> CaseVerdict {
    let names = |rules: &[FiredRule]| rules.iter().map(full_name).collect();
    let of_rules = |decision, rules: &[FiredRule], grant: &str, would_deny| CaseVerdict {
        decision,
        rule: rules.first().map(full_name).unwrap_or_default(),
        grant: grant.to_owned(),
        message: rules.first().map(|rule| rule.message.clone()).unwrap_or_default(),
        would_deny,
        allowed_instead: String::new(),
    };
    match decision {
        Decision::Permit(permit) => {
            let decision = match permit.warnings() {
                [] => ExpectedDecision::Allow,
                _ => ExpectedDecision::Warn,
            };
            of_rules(
                decision,
                permit.warnings(),
                permit.policy(),
                names(permit.would_deny()),
            )
        }
        Decision::Ask(ask) => of_rules(
            ExpectedDecision::Pending,
            ask.rules(),
            "",
            names(ask.would_deny()),
        ),
        Decision::Deny(denial) => {
            let rule = match (denial.cause(), denial.policy(), denial.rule()) {
                (Cause::Policy, Some(policy), Some(rule)) => format!("{policy}/{rule}"),
                (Cause::Builtin, _, Some(rule)) => rule.to_owned(),
                (cause, ..) => cause.code().to_owned(),
            };
            CaseVerdict {
                would_deny: names(denial.would_deny()),
                allowed_instead: denial.allowed().to_owned(),
                ..denied(&rule, denial.message())
            }
        }
    }
}

/// What becomes of a command by what becomes of its requests.
///
/// A command is denied where all that it is for is denied. Where a part passes, or kubectl cannot go on to what would pass, it is partial:
/// neither a test that expects a refusal nor one that expects success may pass then.
#[must_use]
pub fn together(requests: &[RequestOutcome]) -> CaseVerdict {
    let is_denied = |outcome: &&RequestOutcome| outcome.verdict.decision == ExpectedDecision::Deny;
    let counted = requests
        .iter()
        .filter(|outcome| outcome.role != RequestRole::Optional);
    let acting = || {
        requests
            .iter()
            .filter(|outcome| outcome.role == RequestRole::Acting)
    };
    let rank = |decision| match decision {
        ExpectedDecision::Pending => 2,
        ExpectedDecision::Warn => 1,
        _ => 0,
    };
    let refused = acting()
        .find(is_denied)
        .or_else(|| counted.clone().find(is_denied));
    let Some(refused) = refused else {
        let strictest = acting()
            .rev()
            .max_by_key(|outcome| rank(outcome.verdict.decision));
        return strictest.map_or_else(
            || denied("unreadable", "there is no request"),
            |outcome| outcome.verdict.clone(),
        );
    };
    let mut verdict = refused.verdict.clone();
    if !acting().all(|outcome| is_denied(&outcome)) {
        verdict.decision = ExpectedDecision::Partial;
        verdict.message = format!("{} is refused: {}", refused.line, verdict.message);
    }
    verdict
}

/// How a verdict differs from what was expected.
fn compare(expected: &Expectation, got: &CaseVerdict) -> Vec<String> {
    let mut failures = Vec::new();
    if expected.decision != got.decision {
        failures.push(format!(
            "decision is {}, expected {}",
            got.decision.word(),
            expected.decision.word()
        ));
    }
    let shown = |text: &str| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text.to_owned()
        }
    };
    for (what, expected, got) in [
        ("rule", &expected.rule, &got.rule),
        ("grant", &expected.grant, &got.grant),
    ] {
        if let Some(expected) = expected.as_ref().filter(|expected| *expected != got) {
            failures.push(format!("{what} is {}, expected {expected}", shown(got)));
        }
    }
    if let Some(part) = expected
        .message
        .as_ref()
        .filter(|part| !got.message.contains(part.as_str()))
    {
        failures.push(format!(
            "message is {:?}, expected to contain {part:?}",
            got.message
        ));
    }
    if let Some(rule) = expected
        .would_deny
        .as_ref()
        .filter(|rule| !got.would_deny.contains(rule))
    {
        failures.push(format!(
            "wouldDeny is {}, expected {rule}",
            shown(&got.would_deny.join(", "))
        ));
    }
    failures
}
