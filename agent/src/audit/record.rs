//! The record of one request, from its arrival to its end.
//!
//! In: a [`Received`] request, then the facts of each stage: caller, target, decision, response. Out: lines in the log: one
//! where something must be on disk before it takes effect, and the last one from `Drop`.
//!
//! A record that is dropped without an answer says so: aborted, unanswered, or a panic.

use std::any::Any;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::AuditError;
use super::bounds;
use super::ended;
use super::event::{
    AuditId, Caller, EndReason, Event, Finding, Masking, MaskingCounts, ObjectRef, Outcome, RawQuery,
    Received, ResponseStatus, Session, Stage, Text, Trace, User,
};
use super::exec::Exec;
use super::log::AuditLog;
use super::token::{PersonFacts, TokenFacts};

impl AuditLog {
    /// Begins the record of a request that has just arrived.
    ///
    /// # Errors
    /// [`AuditError::Full`] when there is no room: the request must be refused.
    pub async fn begin(&self, received: Received) -> Result<Record, AuditError> {
        let permit = self.reserve().await?;
        let redactor = self.redactor();
        let mut query = received.query;
        let uri = match redactor.uri(&received.uri) {
            Cow::Borrowed(_) => received.uri,
            Cow::Owned(clean) => {
                query = query.or_else(|| RawQuery::of(&received.uri));
                clean
            }
        };
        let mut event = Event::new(received.verb, uri);
        event.query = query;
        event.source = received.source;
        let clean = |value: Option<String>| value.map(|value| redactor.text(&value).into_owned());
        event.user_agent = clean(received.user_agent);
        event.trace = Trace {
            traceparent: clean(received.trace.traceparent),
            kubectl_session: clean(received.trace.kubectl_session),
            kubectl_command: clean(received.trace.kubectl_command),
        };
        event.caller = received.caller;
        Ok(Record::new(self.clone(), event, permit))
    }
}

/// What a record says whose request ended before there was an answer: a read, or a write that was not sent yet.
const ABORTED: (Outcome, &str, &str) = (
    Outcome::Error,
    "aborted",
    "the request ended before it was answered",
);

/// Likewise, of a write that was sent.
const UNANSWERED: (Outcome, &str, &str) = (
    Outcome::Unknown,
    "unanswered",
    "the request was sent to the API server, and Picket did not learn its answer; it may have been carried out",
);

/// What counts a request for as long as its record is there.
pub trait RequestCount: Send + Sync {
    /// The request has ended.
    fn ended(&self);
}

/// The record of one request, from its arrival to its end. Dropping it writes it: as the stages left it, as an error
/// when nobody answered, as a panic when the task panics. Hold it until the last byte was sent.
#[must_use = "dropping the record ends it"]
pub struct Record {
    log: AuditLog,
    /// `None` once the log has the last line.
    open: Option<(Box<Event>, OwnedSemaphorePermit)>,
    id: AuditId,
    /// What the request needs for as long as it lasts.
    kept: Option<Arc<dyn Any + Send + Sync>>,
    /// The request's places among its pod's.
    places: [Option<OwnedSemaphorePermit>; 3],
    /// What counts the request among its agent's.
    counted: Option<Arc<dyn RequestCount>>,
    /// Limits in audit mode that would have refused it, beside the rules that are told later.
    over_limits: Vec<Finding>,
}

impl Record {
    /// The pod's address, where it is known.
    pub fn source(&self) -> Option<IpAddr> {
        self.open.as_ref().and_then(|(event, _)| event.source)
    }

    fn new(log: AuditLog, event: Event, room: OwnedSemaphorePermit) -> Self {
        let id = event.id;
        Self {
            log,
            open: Some((Box::new(event), room)),
            id,
            kept: None,
            places: [const { None }; 3],
            counted: None,
            over_limits: Vec::new(),
        }
    }

    /// The request's id, to be sent upstream as `Audit-ID`.
    pub fn id(&self) -> AuditId {
        self.id
    }

    /// About how many bytes it is on disk.
    pub fn size(&self) -> usize {
        self.open.as_ref().map_or(0, |(event, _)| event.size())
    }

    /// Holds a place that the request has, until the record ends; two at most.
    pub fn holds(&mut self, place: Option<OwnedSemaphorePermit>) {
        if let Some(free) = self.places.iter_mut().find(|held| held.is_none()) {
            *free = place;
        }
    }

    /// Holds a place in place of the one that was held first.
    pub fn exchanges(&mut self, place: Option<OwnedSemaphorePermit>) {
        self.places[0] = place;
    }

    /// Takes the open record out, for whoever goes on with the request; what stays behind writes nothing.
    pub fn take(&mut self) -> Record {
        Record {
            log: self.log.clone(),
            open: self.open.take(),
            id: self.id,
            kept: self.kept.take(),
            places: std::mem::take(&mut self.places),
            counted: self.counted.take(),
            over_limits: std::mem::take(&mut self.over_limits),
        }
    }

    /// The request is counted until the record ends.
    pub fn counted_by(&mut self, counts: Arc<dyn RequestCount>) {
        self.counted = Some(counts);
    }

    /// The request has ended for its pod and its agent, though its record goes on.
    pub fn release(&mut self) {
        self.places = [const { None }; 3];
        self.kept = None;
        if let Some(counted) = self.counted.take() {
            counted.ended();
        }
    }

    /// Ends the record of a refusal without a line, as another record stands for it. The request is in the metrics all the same.
    pub fn unwritten(mut self) {
        if let Some((mut event, _)) = self.open.take() {
            event.reach(Stage::ResponseComplete);
            self.log.observe(&event);
        }
    }

    /// The record stands for so many further requests that were the same.
    pub fn repeats(&mut self, count: u32) {
        self.edit(|event| event.decision.repeats = Some(count));
    }

    /// Keeps something until the request has ended, such as the memory that it takes.
    pub fn keep(&mut self, kept: Arc<dyn Any + Send + Sync>) {
        self.kept = Some(kept);
    }

    /// What is kept so, if it is a `T`.
    pub fn keeps<T: Any>(&self) -> Option<&T> {
        self.kept.as_deref()?.downcast_ref()
    }

    fn edit(&mut self, change: impl FnOnce(&mut Event)) {
        if let Some((event, _)) = &mut self.open {
            change(event);
        }
    }

    /// As much of a message as is kept, without secrets.
    fn kept(&self, message: impl Into<String>) -> String {
        bounds::message(self.log.redactor(), message)
    }

    /// Who is at the other end, where it was not known at the beginning.
    pub fn caller(&mut self, caller: Arc<Caller>) {
        self.edit(|event| event.caller = Some(caller));
    }

    /// The user who asks: for a pod its service account.
    pub fn user(&mut self, user: Arc<User>) {
        self.edit(|event| event.user = Some(user));
    }

    /// The agent identity and how it was proven.
    pub fn identity(&mut self, name: impl Into<Arc<str>>, attestation: impl Into<Text>) {
        let (name, attestation) = (name.into(), attestation.into());
        self.edit(|event| {
            event.identity = Some(name);
            event.attestation = attestation;
        });
    }

    /// Whose token the request shows. What is kept of that can be given to the records of further requests.
    pub fn token(&mut self, facts: TokenFacts) -> Arc<TokenFacts> {
        let facts = Arc::new(facts.kept(self.log.redactor()));
        self.same_token(&facts);
        facts
    }

    /// Likewise, of a token that another record was told of.
    pub fn same_token(&mut self, facts: &Arc<TokenFacts>) {
        self.edit(|event| event.token = Some(Arc::clone(facts)));
    }

    /// For whom the agent asks. What is kept of that can be given to the records of further requests.
    pub fn person(&mut self, facts: PersonFacts) -> Arc<PersonFacts> {
        let facts = Arc::new(facts.kept(self.log.redactor()));
        self.same_person(&facts);
        facts
    }

    /// Likewise, as another record was told.
    pub fn same_person(&mut self, facts: &Arc<PersonFacts>) {
        self.edit(|event| event.person = Some(Arc::clone(facts)));
    }

    /// The user the API server is asked as.
    pub fn impersonated(&mut self, user: Arc<User>) {
        self.edit(|event| event.impersonated = Some(user));
    }

    /// What is asked: the Kubernetes verb and the object, `None` for a non-resource path.
    pub fn target(&mut self, verb: impl Into<Text>, object: Option<ObjectRef>) {
        let verb = verb.into();
        let object = object.map(|object| bounds::object(self.log.redactor(), object));
        self.edit(|event| {
            event.verb = verb;
            event.object = object;
        });
    }

    /// What an exec or attach runs, as it was judged.
    pub fn exec(&mut self, container: Option<&str>, command: &[String], stdin: bool, tty: bool) {
        let redactor = self.log.redactor();
        let container = container.map(|name| bounds::name(redactor, name.to_owned()));
        let exec = Exec::new(redactor, container.as_deref(), command, stdin, tty);
        self.edit(|event| event.exec = Some(Arc::new(exec)));
    }

    /// The request may pass, by this grant or policy and rule.
    pub fn allow(&mut self, policy: Option<String>, rule: Option<String>) {
        self.edit(|event| {
            event.decision.outcome = Some(Outcome::Allow);
            event.decision.permitted = true;
            // A rule that held the request says why it waited, which it does no more.
            event.decision.message = None;
            event.decision.policy = policy;
            event.decision.rule = rule;
        });
    }

    /// The request waits for a person, as `policy` and `rule` want it. That is on disk when this returns, and the record
    /// stays open for the decision.
    ///
    /// # Errors
    /// When it cannot be written: the request must be refused.
    pub async fn hold(
        &mut self,
        policy: Option<String>,
        rule: Option<String>,
        message: impl Into<String>,
    ) -> Result<(), AuditError> {
        let message = self.kept(message);
        self.edit(|event| {
            event.decision.outcome = Some(Outcome::Pending);
            event.decision.policy = policy;
            event.decision.rule = rule;
            event.decision.message = Some(message);
        });
        let Some((event, _)) = &self.open else {
            return Ok(());
        };
        let line = event.clone();
        let room = self.log.reserve().await?;
        self.log.commit(line, room).await
    }

    /// The request is refused by `policy` and `rule`. `reason` is a metric label: a constant of low cardinality.
    pub fn deny(
        &mut self,
        reason: &'static str,
        policy: Option<String>,
        rule: Option<String>,
        message: impl Into<String>,
    ) {
        let message = self.kept(message);
        self.edit(|event| {
            event.decision.outcome = Some(Outcome::Deny);
            event.decision.reason = reason;
            event.decision.policy = policy;
            event.decision.rule = rule;
            event.decision.message = Some(message);
        });
    }

    /// The request cannot be judged or carried out. `reason` as in [`Record::deny`].
    pub fn error(&mut self, reason: &'static str, message: impl Into<String>) {
        let message = self.kept(message);
        self.edit(|event| {
            event.decision.outcome = Some(Outcome::Error);
            event.decision.reason = reason;
            event.decision.message = Some(message);
        });
    }

    /// The request is a write and goes to the API server now. Should nobody learn its answer, the outcome is unknown, whatever an earlier
    /// try was answered.
    pub fn sent(&mut self) {
        self.edit(|event| {
            event.sent = true;
            event.response = None;
        });
    }

    /// The request was sent, and nobody knows whether it was carried out. `reason` as in [`Record::deny`].
    pub fn unknown(&mut self, reason: &'static str, message: impl Into<String>) {
        let message = self.kept(message);
        self.edit(|event| {
            event.decision.outcome = Some(Outcome::Unknown);
            event.decision.reason = reason;
            event.decision.message = Some(message);
        });
    }

    /// Rules that warned, and rules in audit mode that would have refused.
    pub fn findings(&mut self, warnings: Vec<Finding>, mut would_deny: Vec<Finding>) {
        would_deny.extend_from_slice(&self.over_limits);
        self.edit(|event| {
            event.decision.warnings = warnings;
            event.decision.would_deny = would_deny;
        });
    }

    /// A limit in audit mode that would have refused. It stays beside whatever rules are told.
    pub fn over_limit(&mut self, finding: Finding) {
        self.over_limits.push(finding.clone());
        self.edit(|event| event.decision.would_deny.push(finding));
    }

    /// Time spent judging.
    pub fn policy_took(&mut self, time: Duration) {
        self.edit(|event| event.decision.policy_took = Some(time));
    }

    /// Time from sending upstream to the response's head.
    pub fn upstream_took(&mut self, time: Duration) {
        self.edit(|event| event.decision.upstream_took = Some(time));
    }

    /// How Picket proved itself upstream, and which certificate or token it was; never the secret itself.
    pub fn credential(&mut self, method: impl Into<Text>, id: Option<Arc<str>>) {
        let method = method.into();
        self.edit(|event| event.credential = Some((method, id)));
    }

    /// The status the client is answered with. `reason` and `message` are those of a Status of Picket's own.
    pub fn response(&mut self, code: u16, reason: Option<Text>, message: Option<String>) {
        let message = message.map(|message| self.kept(message));
        self.edit(|event| {
            event.response = Some(ResponseStatus {
                status: (code >= 400).then_some("Failure"),
                message,
                reason,
                code,
            });
        });
    }

    /// Objects are taken out of the answer, by these rules.
    pub fn masking(&mut self, rules: Vec<String>) {
        self.edit(|event| event.masking = Some(Box::new(Masking { rules, counts: None })));
    }

    /// So many objects were looked at, and so many of them taken out.
    pub fn masked(&mut self, items: u64, hidden: u64) {
        self.edit(|event| {
            if let Some(masking) = &mut event.masking {
                masking.counts = Some(MaskingCounts { items, hidden });
            }
            if hidden > 0 && event.decision.outcome == Some(Outcome::Allow) {
                event.decision.outcome = Some(Outcome::Masked);
            }
        });
    }

    /// Marks a long request: `protocol` is `watch`, `logs`, or the upgrade's protocol.
    pub fn session(&mut self, id: Option<String>, protocol: impl Into<Text>) {
        let protocol = protocol.into();
        self.edit(|event| {
            event.session = Some(Session {
                id,
                protocol,
                ..Session::default()
            })
        });
    }

    /// Bytes carried by a long request so far, after the heads.
    pub fn session_bytes(&mut self, from_client: u64, to_client: u64) {
        self.edit(|event| {
            if let Some(session) = &mut event.session {
                session.from_client = from_client;
                session.to_client = to_client;
            }
        });
    }

    /// Picket ended the request while its answer was under way, for this cause and with this message to the client. Of an answer that
    /// is no session the decision has both: it would look whole.
    pub fn terminated(mut self, cause: &'static str, message: impl Into<String>) {
        let message = self.kept(message);
        self.edit(|event| match &mut event.session {
            Some(session) => session.ended = Some((cause, message)),
            None => {
                event.decision.reason = cause;
                event.decision.message = Some(message);
            }
        });
        self.finish(EndReason::Terminated);
    }

    /// Puts the record on disk before the effect that it reports happens, and waits for it. A refusal's record is thereby
    /// final; for anything else this is a first line of stage `RequestReceived` and the end writes another one.
    ///
    /// # Errors
    /// When it cannot be written: the request must be refused.
    pub async fn commit_before_effect(&mut self) -> Result<(), AuditError> {
        let Some((event, _)) = &self.open else {
            return Ok(());
        };
        let last = event.decision.outcome == Some(Outcome::Deny);
        let mut line = event.clone();
        if last {
            line.reach(Stage::ResponseComplete);
        }
        let room = self.log.reserve().await?;
        self.log.commit(line, room).await?;
        if last && let Some((mut event, _)) = self.open.take() {
            event.reach(Stage::ResponseComplete);
            self.log.observe(&event);
        }
        Ok(())
    }

    /// Puts the start record of a long request on disk, once its response's head is known and before the client gets it.
    ///
    /// # Errors
    /// When it cannot be written: the request must be refused.
    pub async fn started(&mut self) -> Result<(), AuditError> {
        let Some((event, _)) = &self.open else {
            return Ok(());
        };
        let mut line = event.clone();
        line.reach(Stage::ResponseStarted);
        let room = self.log.reserve().await?;
        self.log.commit(line, room).await
    }

    /// Queues a line that says that the response goes on, where there is room now; false where there is none.
    pub fn note_started(&self) -> bool {
        let Some((event, _)) = &self.open else {
            return true;
        };
        let Some(room) = self.log.try_reserve() else {
            return false;
        };
        let mut line = event.clone();
        line.reach(Stage::ResponseStarted);
        self.log.queue(line, room);
        true
    }

    /// Ends the record.
    pub fn finish(mut self, how: EndReason) {
        self.ends(how);
    }

    /// Says how the request ended, for a holder that drops the record later.
    pub fn ends(&mut self, how: EndReason) {
        self.edit(|event| event.end = Some(how));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            counted.ended();
        }
        let Some((mut event, room)) = self.open.take() else {
            return;
        };
        let unanswered = event.sent && event.response.is_none();
        if std::thread::panicking() {
            event.decision.outcome = Some(if unanswered {
                Outcome::Unknown
            } else {
                Outcome::Error
            });
            event.decision.reason = "panic";
            event.reach(Stage::Panic);
        } else {
            let settled = matches!(
                event.decision.outcome,
                Some(Outcome::Deny | Outcome::Pending | Outcome::Error | Outcome::Unknown)
            );
            if !settled && event.response.is_none() {
                let (outcome, reason, message) = if unanswered { UNANSWERED } else { ABORTED };
                event.decision.outcome = Some(outcome);
                event.decision.reason = reason;
                event.decision.message.get_or_insert_with(|| message.to_owned());
            }
            event.end.get_or_insert(EndReason::Aborted);
            event.reach(Stage::ResponseComplete);
        }
        ended::add(&self.log, (event, room));
    }
}
