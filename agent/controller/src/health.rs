//! Whether the controller works, for the kubelet's probes. It serves these two paths and nothing else.
//!
//! In: when the API server was last heard, whether this replica leads, why it has no root, and for which namespaces a rotation of the
//! root waits. Out: `/healthz` and `/readyz` on a port of the pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::http::{Answer, serve};

/// A replica that has not heard the API server for this long is not ready: twice the time for which a Lease counts.
const SILENCE: Duration = Duration::from_secs(30);

/// Connections at once, of which one address has half: many more than a kubelet makes.
const CONNECTIONS: usize = 256;

/// What the probes are told; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    state: Arc<Mutex<HealthState>>,
    /// Why there is no root.
    fault: watch::Receiver<Option<String>>,
}

#[derive(Debug, Default)]
struct HealthState {
    heard_at: Option<Instant>,
    leads: bool,
    /// Where the CA bundle cannot be written, so that a rotation waits.
    awaited: BTreeSet<String>,
    /// Whether the webhooks' server has a certificate; none where there are no webhooks.
    has_certificate: Option<bool>,
}

impl Health {
    pub(crate) fn new(fault: watch::Receiver<Option<String>>) -> Self {
        Self {
            state: Arc::default(),
            fault,
        }
    }

    /// The API server answered.
    pub(crate) fn heard(&self) {
        self.state.lock().heard_at = Some(Instant::now());
    }

    pub(crate) fn set_leading(&self, leads: bool) {
        self.state.lock().leads = leads;
    }

    /// The API server asks no replica without a certificate: such a one is not Ready, so that the Service leaves it out.
    pub(crate) fn set_without_certificate(&self, is_without: bool) {
        self.state.lock().has_certificate = Some(!is_without);
    }

    /// Notes for which namespaces a rotation waits; whether they are others than before.
    pub(crate) fn set_awaited(&self, awaited: &BTreeSet<String>) -> bool {
        let mut state = self.state.lock();
        let is_news = state.awaited != *awaited;
        if is_news {
            state.awaited.clone_from(awaited);
        }
        is_news
    }

    /// What `/readyz` answers.
    fn ready(&self, now: Instant) -> (StatusCode, String) {
        let state = self.state.lock();
        let not_ready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));
        let is_heard = state
            .heard_at
            .is_some_and(|at| now.saturating_duration_since(at) < SILENCE);
        match (is_heard, state.leads, self.fault.borrow().as_deref()) {
            (false, _, _) if state.heard_at.is_none() => not_ready("the API server has not answered yet"),
            (false, _, _) => not_ready("the API server does not answer"),
            // The webhooks need no root while their certificate is good, and the API server needs the webhooks.
            (true, true, Some(fault)) if state.has_certificate == Some(true) => {
                let text = format!(
                    "ready: this replica leads, and answers webhooks; there is no root CA: {fault}\n"
                );
                (StatusCode::OK, text)
            }
            (true, true, Some(fault)) => not_ready(fault),
            _ if state.has_certificate == Some(false) => {
                not_ready("the webhooks have no certificate: there is no root CA yet")
            }
            (true, true, None) if state.awaited.is_empty() => {
                (StatusCode::OK, "ready: this replica leads\n".to_owned())
            }
            // Whoever may fill a namespace's quota must not make the controller unready.
            (true, true, None) => {
                let names = few(&state.awaited);
                let text = format!(
                    "ready: this replica leads; a rotation of the root CA waits until the CA bundle is written in: {names}\n"
                );
                (StatusCode::OK, text)
            }
            (true, false, _) => (StatusCode::OK, "ready: this replica does not lead\n".to_owned()),
        }
    }

    fn answer(&self, path: &str) -> Answer {
        match path {
            // That it answers is all: a restart mends nothing that the API server or the root lack.
            "/healthz" => Answer::plain(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let (status, text) = self.ready(Instant::now());
                Answer::plain(status, text)
            }
            _ => Answer::not_found(),
        }
    }

    /// Serves until it is dropped.
    pub(crate) async fn serve(self, listener: TcpListener) {
        serve(listener, CONNECTIONS, move |path: &str| self.answer(path)).await;
    }
}

/// Some of the names for people, and how many others there are.
pub(crate) fn few(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replica_is_ready_while_it_hears_the_api_server_and_the_leader_has_a_root() {
        let (fault, faults) = watch::channel(None);
        let health = Health::new(faults);
        let not_ready =
            |why: &str| Answer::plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));
        assert_eq!(
            health.answer("/readyz"),
            not_ready("the API server has not answered yet")
        );
        assert_eq!(health.answer("/healthz").status, StatusCode::OK);
        assert_eq!(health.answer("/").status, StatusCode::NOT_FOUND);
        health.heard();
        assert_eq!(
            health.answer("/readyz"),
            Answer::plain(StatusCode::OK, "ready: this replica does not lead\n")
        );
        fault.send_replace(Some("no Secret".to_owned()));
        assert_eq!(
            health.answer("/readyz").status,
            StatusCode::OK,
            "that is the leader's"
        );
        health.set_leading(true);
        let Answer { status, text, .. } = health.answer("/readyz");
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: no Secret\n")
        );
        fault.send_replace(None);
        assert_eq!(health.answer("/readyz").status, StatusCode::OK);
        let awaited: BTreeSet<_> = (0..12).map(|number| format!("n{number:02}")).collect();
        assert!(health.set_awaited(&awaited) && !health.set_awaited(&awaited));
        let Answer { status, text, .. } = health.answer("/readyz");
        assert!(
            text.ends_with(" in: n00, n01, n02, n03, n04, n05, n06, n07, n08, n09 and 2 more\n"),
            "{text}"
        );
        assert_eq!(status, StatusCode::OK);
        assert!(health.set_awaited(&BTreeSet::new()));
        assert_eq!(health.answer("/readyz").text, "ready: this replica leads\n");
        health.set_without_certificate(true);
        let answer = health.answer("/readyz");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            answer.text.contains("the webhooks have no certificate"),
            "{}",
            answer.text
        );
        health.set_without_certificate(false);
        assert_eq!(health.answer("/readyz").status, StatusCode::OK);
        fault.send_replace(Some("no Secret".to_owned()));
        let answer = health.answer("/readyz");
        assert_eq!(answer.status, StatusCode::OK);
        assert!(
            answer.text.ends_with("there is no root CA: no Secret\n"),
            "{}",
            answer.text
        );
        health.set_without_certificate(true);
        assert_eq!(health.answer("/readyz").status, StatusCode::SERVICE_UNAVAILABLE);
        health.set_without_certificate(false);
        fault.send_replace(None);
        tokio::time::advance(SILENCE).await;
        assert_eq!(
            health.answer("/readyz"),
            not_ready("the API server does not answer")
        );
    }
}
