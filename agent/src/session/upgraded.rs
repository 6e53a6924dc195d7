//! Upgraded requests: the tunnel with the audit record beside it.
//!
//! In: both upgrades, the record, and the session's place in the registry. Out: a future that ends with the session. A
//! session that is dropped still leaves its numbers.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;

use super::farewell::Farewell;
use super::registry::Registered;
use super::running::Traffic;
use super::tunnel::{StopTunnel, TunnelEnd, join};
use crate::audit::{EndReason, Record};
use crate::upstream::TunnelPermit;

/// An upgraded request that is about to begin.
pub struct Upgraded {
    /// The client's side.
    pub client: OnUpgrade,
    /// The API server's side.
    pub server: OnUpgrade,
    /// How its client learns of the end.
    pub farewell: Farewell,
    /// How it is ended.
    pub stop: Arc<StopTunnel>,
    /// What it carries.
    pub traffic: Arc<Traffic>,
    /// Its place in the registry. The client's connection is held with it: HTTP ends with the answer, and the connection counts
    /// among its pod's until the tunnel has ended.
    pub registered: Registered,
    /// The place of its connection to the API server.
    pub permit: Option<TunnelPermit>,
}

impl Upgraded {
    /// Carries the bytes until the session ends. Dropping the future ends it.
    pub async fn carry(self, record: Record) {
        let mut running = Running {
            record: Some(record),
            traffic: Arc::clone(&self.traffic),
        };
        let ended = join(self.client, self.server, self.traffic, self.farewell, &self.stop).await;
        match ended {
            TunnelEnd::Closed => running.end(EndReason::Completed),
            TunnelEnd::ClientGone => running.end(EndReason::ClientClosed),
            TunnelEnd::ServerGone => running.end(EndReason::UpstreamClosed),
            TunnelEnd::NotUpgraded => running.end(EndReason::Failed),
            TunnelEnd::Stopped(ending) => {
                if let Some(record) = running.take() {
                    record.terminated(ending.cause, ending.message());
                }
            }
        }
        drop((self.registered, self.permit));
    }
}

/// The record of a running session.
struct Running {
    record: Option<Record>,
    traffic: Arc<Traffic>,
}

impl Running {
    fn take(&mut self) -> Option<Record> {
        let mut record = self.record.take()?;
        record.session_bytes(self.traffic.from_client(), self.traffic.to_client());
        Some(record)
    }

    fn end(&mut self, how: EndReason) {
        if let Some(record) = self.take() {
            record.finish(how);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(EndReason::Terminated);
    }
}
