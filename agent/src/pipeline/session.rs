//! Upgraded requests: the 101 answered, then bytes both ways with the audit record beside them.
//!
//! In: the API server's 101 and both upgrades. Out: the 101 for the client, and a task that ends with the session.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;

use super::Pipeline;
use super::body::ResponseBody;
use crate::audit::{EndReason, Record};
use crate::upstream::{Ended, Traffic, UpstreamBody, join};

/// A request whose connection changes its protocol.
pub(super) struct UpgradedResponse {
    response: Response<Full<Bytes>>,
    client: OnUpgrade,
    server: OnUpgrade,
}

impl UpgradedResponse {
    /// From the API server's 101 and the client's side.
    pub(super) fn new(mut response: Response<UpstreamBody>, client: OnUpgrade) -> UpgradedResponse {
        let server = hyper::upgrade::on(&mut response);
        UpgradedResponse {
            response: response.map(|_| Full::new(Bytes::new())),
            client,
            server,
        }
    }
}

impl Pipeline {
    /// Answers with the 101 and carries the session until it ends; the drain's limit cuts it.
    pub(super) fn begin_session(&self, upgraded: UpgradedResponse, record: Record) -> Response<ResponseBody> {
        let traffic = Arc::new(Traffic::default());
        let mut running = Running {
            record: Some(record),
            traffic: Arc::clone(&traffic),
        };
        self.drain.serve(async move {
            let how = match join(upgraded.client, upgraded.server, traffic).await {
                Ended::Closed => EndReason::Completed,
                Ended::ClientGone => EndReason::ClientClosed,
                Ended::ServerGone => EndReason::UpstreamClosed,
                Ended::NotUpgraded(_) => EndReason::Failed,
            };
            running.end(how);
        });
        upgraded.response.map(ResponseBody::Local)
    }
}

/// The record of a running session; a session that is cut still leaves its numbers.
struct Running {
    record: Option<Record>,
    traffic: Arc<Traffic>,
}

impl Running {
    fn end(&mut self, how: EndReason) {
        if let Some(mut record) = self.record.take() {
            record.session_bytes(self.traffic.from_client(), self.traffic.to_client());
            record.finish(how);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(EndReason::Terminated);
    }
}
