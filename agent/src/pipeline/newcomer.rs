//! A connection of the gateway, from its first byte until a credential has made its caller known.
//!
//! In: the listener's [`GatewayCaller`], and the agent that the first request proved to come from. Out: the shares that count
//! from then on, and when the connection is to end. Until then it has one request at once, and a short time for it; a refusal
//! is its last answer.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Pipeline;
use super::heads::{HeadBudget, HeldHead, PodHeads};
use crate::audit::Record;
use crate::listener::{EnforcedPodIndex, GatewayCaller, PodShare, REFUSED_STRANGER_LIMIT, STRANGER_LIMIT};
use crate::reject::{HeadError, Rejection};

/// Who came to the gateway by a connection.
#[derive(Debug)]
pub(super) struct Newcomer {
    caller: GatewayCaller,
    share: OnceLock<Arc<PodShare>>,
    heads: Arc<OnceLock<PodHeads>>,
    known: CancellationToken,
    refused: CancellationToken,
}

impl Newcomer {
    pub(super) fn new(caller: GatewayCaller) -> Newcomer {
        Newcomer {
            caller,
            share: OnceLock::new(),
            heads: Arc::default(),
            known: CancellationToken::new(),
            refused: CancellationToken::new(),
        }
    }

    /// The node's enforced pods.
    pub(super) fn enforced_pods(&self) -> &dyn EnforcedPodIndex {
        self.caller.enforced_pods()
    }

    /// What its long heads may take: the strangers' part of `heads` until it is known who calls.
    pub(super) fn heads(&self, heads: PodHeads) -> PodHeads {
        heads.until(&self.heads)
    }

    /// The share of the identity that the connection came to be known as.
    pub(super) fn share(&self) -> Option<&Arc<PodShare>> {
        self.share.get()
    }

    /// Whether it is still unknown who calls.
    pub(super) fn is_stranger(&self) -> bool {
        self.share.get().is_none()
    }

    /// The connection is this agent's from now on. Gives the agent's share; its long heads are the node's.
    fn known_as(&self, identity: &Arc<str>, node: &Arc<HeadBudget>) -> Arc<PodShare> {
        let share = self.caller.known_as(identity);
        // A stranger has one request at once, so that nobody was faster.
        let _first = self.heads.set(node.of_pod(&share));
        let _first = self.share.set(Arc::clone(&share));
        self.known.cancel();
        share
    }

    /// A stranger was refused.
    pub(super) fn refuse(&self) {
        self.refused.cancel();
    }

    /// Fires when a stranger was refused.
    pub(super) fn refused(&self) -> CancellationToken {
        self.refused.clone()
    }

    /// Holds a further request back until the caller is known.
    pub(super) fn gate(&self) -> Gate {
        Gate {
            known: self.known.clone(),
            waiting: None,
            has_passed: false,
        }
    }

    /// Ends when the connection of a stranger is to be closed, whatever it carries; never once it is known who calls.
    pub(super) async fn overdue(&self) {
        let refused = async {
            tokio::select! {
                () = self.refused.cancelled() => sleep(REFUSED_STRANGER_LIMIT).await,
                () = sleep(STRANGER_LIMIT) => {}
            }
        };
        tokio::select! {
            biased;
            () = self.known.cancelled() => std::future::pending().await,
            () = refused => {}
        }
    }
}

impl Pipeline {
    /// Counts a stranger's connection as this agent's, and what its first request holds as well.
    ///
    /// # Errors
    /// Where the agent's share has no room for the request's head.
    pub(super) async fn became_known(
        &self,
        newcomer: &Newcomer,
        identity: &Arc<str>,
        record: &mut Record,
    ) -> Result<(), Rejection> {
        let share = newcomer.known_as(identity, &self.heads);
        record.exchanges(share.request().await);
        if let Some(held) = record.keeps::<HeldHead>() {
            let held = self.heads.of_pod(&share).hold_instead(held);
            record.keep(Arc::new(held.ok_or(Rejection::Head(HeadError::Busy))?));
        }
        Ok(())
    }
}

/// Lets one request of HTTP/2 pass, and further ones once it is known who calls.
#[derive(Debug)]
pub(super) struct Gate {
    known: CancellationToken,
    waiting: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    has_passed: bool,
}

impl Gate {
    /// Whether the next request has to wait.
    pub(super) fn is_shut(&self) -> bool {
        self.has_passed && !self.known.is_cancelled()
    }

    /// A request passes.
    pub(super) fn pass(&mut self) {
        self.has_passed = true;
    }

    /// Ready once it is known who calls.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(self.known.clone().cancelled_owned()));
        waiting.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::listener::GatewayCallers;

    #[tokio::test(start_paused = true)]
    async fn a_strangers_time_is_shorter_after_a_refusal_and_endless_once_it_is_known() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let callers = GatewayCallers::beside_pod("u");
        let newcomer = || Newcomer::new(callers.stranger(address).expect("a place").0);
        let has = async |newcomer: &Newcomer| {
            let since = Instant::now();
            let over = timeout(STRANGER_LIMIT * 10, newcomer.overdue()).await;
            over.ok().map(|()| since.elapsed().as_secs())
        };
        let (stranger, refused, known) = (newcomer(), newcomer(), newcomer());
        refused.refuse();
        known.known_as(&"ci".into(), &HeadBudget::new());
        let seconds = |limit: Duration| Some(limit.as_secs());
        assert_eq!(has(&stranger).await, seconds(STRANGER_LIMIT));
        assert_eq!(has(&refused).await, seconds(REFUSED_STRANGER_LIMIT));
        // What refused it before counts no more.
        known.refuse();
        assert_eq!(has(&known).await, None);
    }
}
