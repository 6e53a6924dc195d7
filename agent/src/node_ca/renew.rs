//! When the node gets a new CA, and who is told that none comes.
//!
//! In: the times of the CA that is kept, and clients' distrust of it: a root that was lost with its Secret is replaced by another, which nobody
//! tells the agents. Out: an exchange when it is due, and again after a failure; the part `node-ca` of `/readyz`, and
//! Kubernetes Events for what needs a person.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use tokio::time::Instant;

use super::exchange::{ExchangeError, Exchanged, NodeCaExchange};
use super::keep::KeptTimes;
use crate::notify::{About, EventQueue, KubeEvent, Reason};
use crate::runtime::backoff::Backoff;
use crate::runtime::readiness::Readiness;

/// The part in `/readyz`.
pub(crate) const PART: &str = "node-ca";

/// What a node without a CA says before anything else is known.
const ASKING: &str = "the agent asks Picket's controller for one";

/// The longest between two new CAs that distrust brought: a pod with a bundle of its own rejects every certificate, and hides from the agent
/// that the root is another one.
const LONGEST_DISTRUST: Duration = Duration::from_secs(3600);

/// When a client's distrust may bring a new CA.
#[derive(Debug)]
struct Distrust {
    first: Duration,
    pause: Duration,
    /// When it brought one last.
    last: Option<Instant>,
}

impl Distrust {
    fn new(first: Duration) -> Self {
        Self {
            first,
            pause: first,
            last: None,
        }
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.duration_since(last) >= self.pause)
    }

    /// It brought one. A pod that rejects each of them, however seldom, as one does that starts again and again, gets fewer.
    fn brought_one(&mut self, now: Instant) {
        let again = self
            .last
            .is_some_and(|last| now.duration_since(last) < self.pause + LONGEST_DISTRUST);
        self.pause = match again {
            true => LONGEST_DISTRUST.min(self.pause * 2),
            false => self.first,
        };
        self.last = Some(now);
    }
}

/// How the loop waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    /// The longest between two looks at the file: the node's other agent may replace it, and the clock may jump.
    pub(super) look: Duration,
    /// The first and the longest pause after a failure of the API server or the state folder.
    pub(super) failure: (Duration, Duration),
    /// The same after a refusal, which waits for a person.
    pub(super) refusal: (Duration, Duration),
    /// Between two Events that say that the node's CA ends.
    pub(super) event: Duration,
    /// The first between two new CAs that a client's distrust brought, and twice as long each time: any pod can reject a certificate.
    pub(super) distrust: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(5),
            failure: (Duration::from_secs(1), Duration::from_secs(15)),
            refusal: (Duration::from_secs(10), Duration::from_secs(300)),
            event: Duration::from_secs(3600),
            distrust: Duration::from_secs(60),
        }
    }
}

/// Keeps the node CA new.
pub(crate) struct NodeCaRenewal {
    exchange: NodeCaExchange,
    readiness: Readiness,
    kube_events: EventQueue,
    /// Has the certificates that pods see follow at once.
    changed: Arc<dyn Fn() + Send + Sync>,
    pub(super) pauses: Pauses,
    /// When an Event said last that the CA ends.
    told_of_end: Option<Instant>,
}

/// Why the last exchange brought nothing.
#[derive(Debug, Default)]
struct Trouble {
    /// Somebody refused, or what came is refused: waiting does not help.
    needs_person: bool,
    reason: Option<String>,
}

impl NodeCaRenewal {
    /// For an agent that serves. `changed` is called after each new CA.
    pub(crate) fn new(
        exchange: NodeCaExchange,
        readiness: Readiness,
        kube_events: EventQueue,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            exchange,
            readiness,
            kube_events,
            changed: Arc::new(changed),
            pauses: Pauses::default(),
            told_of_end: None,
        }
    }

    /// Renews for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let Pauses {
            look,
            failure,
            refusal,
            ..
        } = self.pauses;
        let [mut failures, mut refusals] =
            [failure, refusal].map(|(first, longest)| Backoff::jittered(first, longest));
        let mut trouble = Trouble::default();
        let mut distrust = Distrust::new(self.pauses.distrust);
        loop {
            let kept = self.told(&trouble);
            let now = SystemTime::now();
            let due_in = kept.and_then(|kept| kept.renew_at.duration_since(now).ok());
            let mut distrusted = None;
            if let Some(due_in) = due_in {
                trouble = Trouble::default();
                let may_ask = distrust.may_ask(Instant::now());
                tokio::select! {
                    () = tokio::time::sleep(due_in.min(look)) => continue,
                    () = self.kube_events.certificate_rejected(), if may_ask => {}
                }
                tracing::info!(
                    "a client rejected the node's certificate: the root may be another one now, so the agent asks for a new CA"
                );
                distrusted = kept;
            }
            let pause = match self.exchange_while_telling(&trouble, distrusted).await {
                Ok(Exchanged::New) => {
                    // What was rejected until now was the CA before.
                    _ = self.kube_events.certificate_rejected().now_or_never();
                    if distrusted.is_some() {
                        distrust.brought_one(Instant::now());
                    }
                    failures.reset();
                    refusals.reset();
                    trouble = Trouble::default();
                    (self.changed)();
                    continue;
                }
                Ok(Exchanged::Current) => Duration::ZERO,
                // It holds the lock while it waits, and lets go when it ends.
                Ok(Exchanged::Elsewhere) => failure.0,
                Err(error) => {
                    trouble = self.failed(&error);
                    if trouble.needs_person {
                        refusals.pause()
                    } else {
                        failures.pause()
                    }
                }
            };
            self.told(&trouble);
            tokio::time::sleep(pause).await;
        }
    }

    /// An exchange; it may wait for days, and what there is to tell changes meanwhile.
    async fn exchange_while_telling(
        &mut self,
        trouble: &Trouble,
        distrusted: Option<KeptTimes>,
    ) -> Result<Exchanged, ExchangeError> {
        let exchange = self.exchange.clone();
        let mut exchanging = std::pin::pin!(exchange.exchange(distrusted));
        loop {
            tokio::select! {
                exchanged = &mut exchanging => return exchanged,
                () = tokio::time::sleep(self.pauses.look) => {
                    self.told(trouble);
                }
            }
        }
    }

    fn failed(&self, error: &ExchangeError) -> Trouble {
        let needs_person = matches!(
            error,
            ExchangeError::Denied { .. } | ExchangeError::Refused { .. }
        );
        tracing::warn!(%error, "the node gets no new CA; the agent tries again");
        if needs_person {
            self.tell(Reason::NodeCaDenied, &error.to_string());
        }
        Trouble {
            needs_person,
            reason: Some(error.to_string()),
        }
    }

    /// Looks at what is kept and says in `/readyz` what is wrong; gives the times of a CA that can be used.
    fn told(&mut self, trouble: &Trouble) -> Option<KeptTimes> {
        let (kept, fault) = match self.exchange.look() {
            Ok(kept) => (kept, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let why = || {
            let waiting = self.exchange.waiting();
            let waiting =
                waiting.map(|name| format!("CertificateSigningRequest {name} waits for Picket's controller"));
            trouble
                .reason
                .clone()
                .or(waiting)
                .unwrap_or_else(|| ASKING.to_owned())
        };
        let now = SystemTime::now();
        let reason = match kept {
            None => {
                let fault = fault.map(|fault| format!(" ({fault})")).unwrap_or_default();
                Some(format!(
                    "the node has no CA, and no client gets a TLS session{fault}: {}",
                    why()
                ))
            }
            Some(kept) if now >= kept.late_at => {
                let end = jiff::Timestamp::try_from(kept.not_after).unwrap_or_default();
                let reason = format!("the node CA ends at {end}, and no new one came: {}", why());
                let is_due = |last: Instant| last.elapsed() >= self.pauses.event;
                if self.told_of_end.is_none_or(is_due) {
                    self.told_of_end = Some(Instant::now());
                    self.tell(Reason::NodeCaExpiring, &reason);
                }
                Some(reason)
            }
            // The node serves with the CA that it has, also where a new one was refused: the log and an Event say so at once.
            Some(_) => None,
        };
        match reason {
            Some(reason) => {
                if self.readiness.fails(PART, reason.clone()) {
                    tracing::warn!("{reason}");
                }
            }
            None => {
                if self.readiness.works(PART) {
                    tracing::info!("the node has a CA");
                }
            }
        }
        kept
    }

    /// The queue lets the same pass once a minute.
    fn tell(&self, reason: Reason, note: &str) {
        self.kube_events.report(KubeEvent {
            about: About::Node,
            reason,
            detail: PART.to_owned(),
            note: note.to_owned(),
        });
    }
}

#[cfg(test)]
#[path = "renew_tests.rs"]
mod tests;
