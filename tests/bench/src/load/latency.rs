//! Latency in an open loop: requests leave at a fixed rate whatever becomes of those before, and each one's time counts from
//! when it was due, so that a stall shows in every request it held up and not in one alone. Reads are GETs of 1 KB, writes
//! create ConfigMaps of 1 KB.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Ask, Connection, Dialer};
use super::pacer::Pacer;
use super::{Session, on_one_thread};
use crate::plan::{Protocol, Target};

/// Keep-alive connections of HTTP/1.1: enough that one is nearly always free at 1,000 requests a second.
const HTTP1_CONNECTIONS: usize = 16;
/// One, as client-go has.
const HTTP2_CONNECTIONS: usize = 1;
/// Before a target's first turn, so that connections, caches and the clients' code are warm.
const WARM_UP_REQUESTS: usize = 300;
/// What is still out at the end of a turn gets this long; longer is a fault, not a latency.
const STRAGGLERS: Duration = Duration::from_secs(10);

/// Of writes there are fewer a second: each is on disk before it is answered.
const WRITE_SHARE: u32 = 4;
/// What a created ConfigMap holds, so that it is about 1 KB.
const TEXT_BYTES: usize = 900;

const READ: &str = "latency";
const WRITE: &str = "write";

/// What is sent again and again.
struct Series {
    case: &'static str,
    ask: Ask,
    rate: u32,
    rounds: u32,
    warm_up: usize,
}

/// A target's connections, kept from turn to turn, and what was measured on them.
struct Lane {
    target: Target,
    free: mpsc::UnboundedReceiver<Connection>,
    back: mpsc::UnboundedSender<Connection>,
    samples: Vec<u64>,
}

/// Lets the targets take turns, once per series and protocol.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    let (paths, rate, extent) = (&session.plan.paths, session.plan.rate, session.plan.extent);
    let series = [
        Series {
            case: READ,
            ask: Ask::get(&paths.small),
            rate,
            rounds: extent.rounds,
            warm_up: WARM_UP_REQUESTS,
        },
        Series {
            case: WRITE,
            ask: Ask::post(&paths.create, config_map()),
            rate: (rate / WRITE_SHARE).max(1),
            rounds: extent.write_rounds,
            warm_up: WARM_UP_REQUESTS / WRITE_SHARE as usize,
        },
    ];
    for series in series.iter().filter(|series| series.rounds > 0) {
        if !session.wants_latency(series.case) {
            continue;
        }
        for protocol in session.plan.protocols.clone() {
            for lane in on_one_thread(turns(session, series, protocol))? {
                session.add_latency(series.case, protocol, &lane.target, lane.samples);
            }
        }
    }
    Ok(())
}

/// A ConfigMap that the API server finds a name for.
fn config_map() -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "bench-"},
        "data": {"text": "x".repeat(TEXT_BYTES)},
    });
    Bytes::from(object.to_string())
}

async fn turns(session: &Session, series: &Series, protocol: Protocol) -> Result<Vec<Lane>> {
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
            for _ in 0..series.warm_up / count {
                connection.carry_out(&series.ask).await?;
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
    for round in 0..series.rounds {
        // Another one begins each time, so that none always follows the same one.
        let first = round as usize % lanes.len();
        for turn in 0..lanes.len() {
            let lane = (first + turn) % lanes.len();
            let requests = u64::from(series.rate) * plan.extent.turn_ms / 1_000;
            lanes[lane].turn(series, requests as usize).await?;
        }
    }
    Ok(lanes)
}

impl Lane {
    async fn turn(&mut self, series: &Series, requests: usize) -> Result<()> {
        let (done, mut finished) = mpsc::unbounded_channel();
        let mut pacer = Pacer::new(series.rate)?;
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
                    let (back, done, ask) = (self.back.clone(), done.clone(), series.ask.clone());
                    tokio::spawn(async move {
                        let outcome = connection.carry_out(&ask).await;
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
