//! Latency in an open loop: requests leave at a fixed rate whatever becomes of those before, and each one's time counts from
//! when it was due, so that a stall shows in every request it held up and not in one alone.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Connection, Dialer};
use super::pacer::Pacer;
use super::{Session, on_one_thread, percentile};
use crate::plan::{Protocol, Target};

/// Keep-alive connections of HTTP/1.1: enough that one is nearly always free at 1,000 requests a second.
const HTTP1_CONNECTIONS: usize = 16;
/// One, as client-go has.
const HTTP2_CONNECTIONS: usize = 1;
/// Before a target's first turn, so that connections, caches and the clients' code are warm.
const WARM_UP_REQUESTS: usize = 300;
/// What is still out at the end of a turn gets this long; longer is a fault, not a latency.
const STRAGGLERS: Duration = Duration::from_secs(10);

const CASES: [(&str, f64); 3] = [
    ("latency-p50", 0.5),
    ("latency-p99", 0.99),
    ("latency-p999", 0.999),
];

/// A target's connections, kept from turn to turn, and what was measured on them.
struct Lane {
    target: Target,
    free: mpsc::UnboundedReceiver<Connection>,
    back: mpsc::UnboundedSender<Connection>,
    samples: Vec<u64>,
}

/// Lets the targets take turns, once per protocol.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    if !session.wants(&CASES.map(|(case, _)| case)) {
        return Ok(());
    }
    for protocol in Protocol::BOTH {
        let lanes = on_one_thread(turns(session, protocol))?;
        for mut lane in lanes {
            lane.samples.sort_unstable();
            for (case, share) in CASES {
                session.add(
                    case,
                    protocol,
                    "us",
                    &lane.target,
                    percentile(&lane.samples, share) / 1_000.0,
                );
            }
        }
    }
    Ok(())
}

async fn turns(session: &Session, protocol: Protocol) -> Result<Vec<Lane>> {
    let plan = &session.plan;
    let count = match protocol {
        Protocol::Http1 => HTTP1_CONNECTIONS,
        Protocol::Http2 => HTTP2_CONNECTIONS,
    };
    let mut lanes = Vec::new();
    for target in &plan.targets {
        let dialer = Dialer::new(target, protocol)?;
        let (back, free) = mpsc::unbounded_channel();
        for _ in 0..count {
            let mut connection = dialer.dial().await?;
            for _ in 0..WARM_UP_REQUESTS / count {
                connection.get(&plan.path).await?;
            }
            back.send(connection).ok().context("the lane is gone")?;
        }
        lanes.push(Lane {
            target: target.clone(),
            free,
            back,
            samples: Vec::new(),
        });
    }
    for round in 0..plan.extent.rounds {
        // Another one begins each time, so that none always follows the same one.
        let first = round as usize % lanes.len();
        for turn in 0..lanes.len() {
            let lane = (first + turn) % lanes.len();
            let requests = u64::from(plan.rate) * plan.extent.turn_ms / 1_000;
            lanes[lane].turn(&plan.path, plan.rate, requests as usize).await?;
        }
    }
    Ok(lanes)
}

impl Lane {
    async fn turn(&mut self, path: &str, rate: u32, requests: usize) -> Result<()> {
        let (done, mut finished) = mpsc::unbounded_channel();
        let mut pacer = Pacer::new(rate)?;
        let mut started = 0;
        let mut ended = 0;
        let mut due = None;
        while started < requests {
            tokio::select! {
                biased;
                instant = pacer.due(), if due.is_none() => due = Some(instant?),
                connection = self.free.recv(), if due.is_some() => {
                    let mut connection = connection.context("the lane is gone")?;
                    let Some(instant) = due.take() else { continue };
                    started += 1;
                    if let Some(shared) = connection.share() {
                        self.back.send(shared).ok().context("the lane is gone")?;
                    }
                    let (back, done, path) = (self.back.clone(), done.clone(), path.to_owned());
                    tokio::spawn(async move {
                        let outcome = connection.get(&path).await;
                        let took = instant.elapsed();
                        if connection.share().is_none() {
                            let _ = back.send(connection);
                        }
                        let _ = done.send(outcome.map(|()| took));
                    });
                }
                took = finished.recv() => {
                    ended += 1;
                    self.sample(took)?;
                }
            }
        }
        while ended < started {
            let Ok(took) = timeout(STRAGGLERS, finished.recv()).await else {
                bail!(
                    "{}: {} requests had no answer after {STRAGGLERS:?}",
                    self.target.name,
                    started - ended
                );
            };
            ended += 1;
            self.sample(took)?;
        }
        ensure!(
            ended == requests,
            "{}: {ended} of {requests} requests ended",
            self.target.name
        );
        Ok(())
    }

    fn sample(&mut self, took: Option<Result<Duration>>) -> Result<()> {
        let took = took.context("the lane is gone")??;
        self.samples.push(u64::try_from(took.as_nanos())?);
        Ok(())
    }
}
