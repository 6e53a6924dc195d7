//! Writes that were sent: each is awaited, whether or not its client still is there.
//!
//! In: the exchange of a write with the API server, and the write's audit record. Out: both to the client's task, or, where
//! the client left first, the record with the result all the same. A client that resets its connection right after a write
//! takes nothing back, and must not be able to make the record say so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use picket_policy::KubeRequest;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::record::record_rejection;
use crate::audit::{EndReason, Record};
use crate::reject::Rejection;
use crate::runtime::drain::Drain;
use crate::upstream::{UpstreamBody, UsedCredential};

/// How long a write is awaited after its client left. kube-apiserver gives a request a minute (`--request-timeout`), so its
/// answer comes within this time or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);

/// Writes at once that go on without their clients, on the whole node. Each holds a stream to the API server, so a pod that
/// writes and resets without end must find a bound; beyond it the outcome is recorded as unknown.
const ABANDONED_WRITES: usize = 1024;

/// What an exchange brought, with the record of the write.
pub(super) struct Exchange {
    pub(super) record: Record,
    pub(super) response: Result<(Response<UpstreamBody>, Option<UsedCredential>), Rejection>,
}

/// An exchange that is under way.
pub(super) type Sending = Pin<Box<dyn Future<Output = Exchange> + Send>>;

/// Takes over the writes whose clients leave.
pub(super) struct AbandonedWrites {
    drain: Drain,
    slots: Arc<Semaphore>,
}

impl AbandonedWrites {
    /// They end with the drain.
    pub(super) fn new(drain: Drain) -> AbandonedWrites {
        AbandonedWrites {
            drain,
            slots: Arc::new(Semaphore::new(ABANDONED_WRITES)),
        }
    }

    /// The exchange for its client's task.
    pub(super) fn watch(&self, request: &Arc<KubeRequest>, sending: Sending) -> SentWrite<'_> {
        SentWrite {
            sending: Some((sending, Arc::clone(request))),
            abandoned: self,
        }
    }

    /// Goes on with what a client left. Where that cannot be, dropping it leaves a record of an unknown outcome.
    fn take_over(&self, sending: Sending, request: Arc<KubeRequest>) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return;
        };
        if Handle::try_current().is_err() {
            return;
        }
        self.drain.serve(async move {
            if let Ok(exchange) = tokio::time::timeout(ANSWER_TIMEOUT, sending).await {
                exchange.settle(&request);
            }
            drop(slot);
        });
    }
}

impl Exchange {
    /// Ends the record of a write that nobody waits for any more.
    fn settle(self, request: &KubeRequest) {
        let Exchange { mut record, response } = self;
        match response {
            Ok((response, _)) => record.response(response.status().as_u16(), None, None),
            Err(rejection) => record_rejection(&mut record, &rejection, Some(request)),
        }
        record.finish(EndReason::ClientClosed);
    }
}

/// A write that was sent, for as long as its client waits. Dropping it before its end hands it to [`AbandonedWrites`].
pub(super) struct SentWrite<'a> {
    sending: Option<(Sending, Arc<KubeRequest>)>,
    abandoned: &'a AbandonedWrites,
}

impl Future for SentWrite<'_> {
    type Output = Exchange;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exchange> {
        let Some((sending, _)) = &mut self.sending else {
            return Poll::Pending;
        };
        let exchange = std::task::ready!(sending.as_mut().poll(cx));
        self.sending = None;
        Poll::Ready(exchange)
    }
}

impl Drop for SentWrite<'_> {
    fn drop(&mut self) {
        if let Some((sending, request)) = self.sending.take() {
            self.abandoned.take_over(sending, request);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, Uri};

    use super::*;

    fn create() -> Arc<KubeRequest> {
        let uri = Uri::from_static("/api/v1/namespaces/n/configmaps");
        Arc::new(KubeRequest::read(&Method::POST, &uri, &HeaderMap::new()).expect("reads"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_awaited_for_a_minute_after_its_client_left_and_not_for_ever() {
        let drain = Drain::default();
        let abandoned = AbandonedWrites::new(drain.clone());
        drop(abandoned.watch(&create(), Box::pin(std::future::pending())));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(drain.open(), 1);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(drain.open(), 0);
        assert_eq!(abandoned.slots.available_permits(), ABANDONED_WRITES);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_writes_go_on_without_their_clients_and_no_more() {
        let drain = Drain::default();
        let abandoned = AbandonedWrites::new(drain.clone());
        let request = create();
        for _ in 0..1100 {
            drop(abandoned.watch(&request, Box::pin(std::future::pending())));
        }
        assert_eq!(drain.open(), 1024);
    }
}
