//! Resident memory of a target: before it carried anything, and per open connection that has served one request.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};

use super::client::Dialer;
use super::{Session, on_one_thread};
use crate::plan::Protocol;
use crate::process;

/// Handshakes at once: a node's pods do not all dial in the same moment.
const DIALING: usize = 16;
/// After the last request, for what the target does behind it.
const SETTLE: Duration = Duration::from_millis(300);
/// Before the first look: what a start took and needs no more goes back to the machine a while later.
const REST: Duration = Duration::from_secs(3);

pub(super) const IDLE: &str = "memory-idle";
pub(super) const PER_CONNECTION: &str = "memory-per-connection";

/// Opens many connections to each target that has processes, and looks at its memory before and after.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    if session.plan.extent.connections == 0 || !session.wants(&[IDLE, PER_CONNECTION]) {
        return Ok(());
    }
    for protocol in session.plan.protocols.clone() {
        for target in session.plan.targets.clone() {
            if target.pids.is_empty() {
                continue;
            }
            std::thread::sleep(REST);
            let before = process::resident_bytes(&target.pids)? as f64;
            let dialer = Dialer::new(&target, protocol)?;
            let (path, count) = (session.plan.paths.small.clone(), session.plan.extent.connections);
            let after = on_one_thread(async {
                let open = futures::stream::iter(0..count).map(|_| async {
                    let mut connection = dialer.dial().await?;
                    connection.get(&path).await?;
                    anyhow::Ok(connection)
                });
                let held: Vec<_> = open.buffer_unordered(DIALING).try_collect().await?;
                tokio::time::sleep(SETTLE).await;
                let after = process::resident_bytes(&target.pids)? as f64;
                drop(held);
                Ok(after)
            })?;
            if protocol == Protocol::BOTH[0] {
                session.add(IDLE, protocol, "KiB", &target, before / 1_024.0);
            }
            session.add(
                PER_CONNECTION,
                protocol,
                "KiB",
                &target,
                (after - before).max(0.0) / 1_024.0 / count as f64,
            );
        }
    }
    Ok(())
}
