//! Throughput at saturation: as many requests in flight as keep the target busy, and what each costs it in CPU time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Session;
use super::client::Dialer;
use crate::plan::{Plan, Protocol, Target};
use crate::process;

/// Requests in flight.
const IN_FLIGHT: usize = 64;
/// HTTP/2 connections that they share.
const HTTP2_CONNECTIONS: usize = 4;
/// Before counting begins.
const WARM_UP: Duration = Duration::from_millis(300);
/// Turns per target, so that a disturbance does not hit one target alone.
const TURNS: u32 = 2;

const THROUGHPUT: &str = "throughput";
const PER_CPU: &str = "requests-per-cpu-second";

#[derive(Default)]
struct Sum {
    requests: u64,
    wall: Duration,
    cpu: Duration,
}

/// Saturates each target in turn.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    if session.plan.extent.saturate_ms == 0 || !session.wants(&[THROUGHPUT, PER_CPU]) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for protocol in session.plan.protocols.clone() {
        let targets = session.plan.targets.clone();
        let mut sums: Vec<Sum> = targets.iter().map(|_| Sum::default()).collect();
        for _ in 0..TURNS {
            for (target, sum) in targets.iter().zip(&mut sums) {
                runtime.block_on(saturate(&session.plan, target, protocol, sum))?;
            }
        }
        for (target, sum) in targets.iter().zip(&sums) {
            session.add(
                THROUGHPUT,
                protocol,
                "1/s",
                target,
                sum.requests as f64 / sum.wall.as_secs_f64(),
            );
            if !target.pids.is_empty() {
                session.add(
                    PER_CPU,
                    protocol,
                    "1/s",
                    target,
                    sum.requests as f64 / sum.cpu.as_secs_f64(),
                );
            }
        }
    }
    Ok(())
}

async fn saturate(plan: &Plan, target: &Target, protocol: Protocol, sum: &mut Sum) -> Result<()> {
    let dialer = Dialer::new(target, protocol)?;
    let mut connections = Vec::new();
    match protocol {
        Protocol::Http1 => {
            for _ in 0..IN_FLIGHT {
                connections.push(dialer.dial().await?);
            }
        }
        Protocol::Http2 => {
            for _ in 0..HTTP2_CONNECTIONS {
                let connection = dialer.dial().await?;
                connections.extend((1..IN_FLIGHT / HTTP2_CONNECTIONS).filter_map(|_| connection.share()));
                connections.push(connection);
            }
        }
    }
    let count = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for mut connection in connections {
        let (count, stop, path) = (Arc::clone(&count), Arc::clone(&stop), plan.paths.small.clone());
        workers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                connection.get(&path).await?;
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
    tokio::time::sleep(Duration::from_millis(plan.extent.saturate_ms) / TURNS).await;
    sum.wall += start.elapsed();
    sum.requests += count.load(Ordering::Relaxed) - before;
    sum.cpu += process::cpu_time(&target.pids)?.saturating_sub(cpu);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await??;
    }
    Ok(())
}
