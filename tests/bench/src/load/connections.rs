//! New connections: a whole TLS handshake and one GET each, as many as the target takes, and what each costs it in CPU time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::Dialer;
use super::{Session, on_all_threads};
use crate::plan::{Plan, Protocol, Target};
use crate::process;

/// Connections being made at once.
const DIALING: usize = 16;
/// Before counting begins.
const WARM_UP: Duration = Duration::from_millis(200);

const RATE: &str = "new-connections";
const PER_CPU: &str = "new-connections-per-cpu-second";

/// Opens connections at each target in turn.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    if session.plan.extent.connect_ms == 0 || !session.wants(&[RATE, PER_CPU]) {
        return Ok(());
    }
    for protocol in session.plan.protocols.clone() {
        for target in session.plan.targets.clone() {
            let (rate, per_cpu) = on_all_threads(open(&session.plan, &target, protocol))?;
            session.add(RATE, protocol, "1/s", &target, rate);
            if let Some(per_cpu) = per_cpu {
                session.add(PER_CPU, protocol, "1/s", &target, per_cpu);
            }
        }
    }
    Ok(())
}

/// How many a second, and how many for each second of the target's CPU time.
async fn open(plan: &Plan, target: &Target, protocol: Protocol) -> Result<(f64, Option<f64>)> {
    let dialer = Dialer::new(target, protocol)?.without_resumption();
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for _ in 0..DIALING {
        let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
        let (dialer, path) = (dialer.clone(), plan.paths.small.clone());
        workers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                dialer.dial().await?.get(&path).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, cpu, start) = (
        count.load(Ordering::Relaxed),
        process::cpu_time(&target.pids)?,
        Instant::now(),
    );
    tokio::time::sleep(Duration::from_millis(plan.extent.connect_ms)).await;
    let made = (count.load(Ordering::Relaxed) - before) as f64;
    let took = start.elapsed();
    let cpu = process::cpu_time(&target.pids)?.saturating_sub(cpu);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await??;
    }
    let per_cpu = (!target.pids.is_empty()).then(|| made / cpu.as_secs_f64());
    Ok((made / took.as_secs_f64(), per_cpu))
}
