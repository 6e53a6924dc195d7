//! Watches: how long until very many all receive, and how late an event arrives at one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;

use super::client::{Connection, Dialer};
use super::{Session, on_one_thread};
use crate::clock;
use crate::plan::{Protocol, Target};

/// Streams that a client puts on one HTTP/2 connection; what an API server takes at once.
const STREAMS: usize = 100;
/// Watches being opened at once, over all connections: kube-apiserver refuses what does not fit the queues of one user
/// (k8s.io/apiserver pkg/apis/flowcontrol/bootstrap: 6 queues of 50 beside what is being served).
const OPENING: usize = 200;
/// Longer than this, and the watches do not all progress.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two events to a single watch.
const PAUSE: Duration = Duration::from_millis(2);

const MANY: &str = "watches-all-receiving";
const DELAY: &str = "watch-event";

#[derive(Deserialize)]
struct Tick {
    tick: u64,
}

/// Many watches at each target, then one with many events.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    let targets = session.plan.targets.clone();
    for protocol in session.plan.protocols.clone() {
        for target in &targets {
            if session.wants(&[MANY]) {
                let took = on_one_thread(async {
                    let many = timeout(LIMIT, many(session, target, protocol)).await;
                    many.with_context(|| {
                        format!("{}: not all watches received after {LIMIT:?}", target.name)
                    })?
                })?;
                session.add(MANY, protocol, "ms", target, took.as_secs_f64() * 1_000.0);
            }
        }
        if session.plan.paths.tick.is_some() && session.wants_latency(DELAY) {
            for target in &targets {
                let delays = on_one_thread(one(session, target, protocol))?;
                session.add_latency(DELAY, protocol, target, delays);
            }
        }
    }
    Ok(())
}

/// From the first dial until the last watch has its first event.
async fn many(session: &Session, target: &Target, protocol: Protocol) -> Result<Duration> {
    let (path, count) = (&session.plan.paths.watch, session.plan.extent.watches);
    let dialer = Dialer::new(target, protocol)?;
    let per_connection = match protocol {
        Protocol::Http1 => 1,
        Protocol::Http2 => STREAMS,
    };
    let start = Instant::now();
    let groups =
        (0..count.div_ceil(per_connection)).map(|group| per_connection.min(count - group * per_connection));
    let open = futures::stream::iter(groups).map(|watches| open(&dialer, path, watches));
    let held: Vec<_> = open
        .buffer_unordered(OPENING / per_connection)
        .try_collect()
        .await?;
    let took = start.elapsed();
    let open: usize = held.iter().map(|(_, watches)| watches.len()).sum();
    ensure!(open == count, "{open} of {count} watches are open");
    Ok(took)
}

/// One connection with as many watches, all of which have received.
async fn open(dialer: &Dialer, path: &str, watches: usize) -> Result<(Connection, Vec<Incoming>)> {
    let mut connection = dialer.dial().await?;
    let mut bodies = Vec::with_capacity(watches);
    if let Some(shared) = connection.share() {
        let starts = (0..watches).map(|_| {
            let connection = shared.share();
            async move { watch(&mut connection.context("no HTTP/2")?, path).await }
        });
        bodies = futures::future::try_join_all(starts).await?;
    } else {
        bodies.push(watch(&mut connection, path).await?);
    }
    Ok((connection, bodies))
}

/// A watch that has received its first event.
async fn watch(connection: &mut Connection, path: &str) -> Result<Incoming> {
    let mut body = connection.start(path).await?.into_body();
    next(&mut body).await?;
    Ok(body)
}

async fn next(body: &mut Incoming) -> Result<Bytes> {
    loop {
        let frame = body.frame().await.context("the watch ended")??;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(data);
        }
    }
}

/// How long each of many events took from the upstream to the client, in nanoseconds.
async fn one(session: &Session, target: &Target, protocol: Protocol) -> Result<Vec<u64>> {
    let plan = &session.plan;
    let (Some(direct), Some(tick)) = (
        plan.targets.iter().find(|target| target.name == "direct"),
        &plan.paths.tick,
    ) else {
        bail!("the plan has no direct target to send events through");
    };
    let mut sender = Dialer::new(direct, Protocol::Http1)?.dial().await?;
    let mut connection = Dialer::new(target, protocol)?.dial().await?;
    let mut body = watch(&mut connection, &plan.paths.watch).await?;
    let mut delays = Vec::with_capacity(plan.extent.events);
    for _ in 0..plan.extent.events {
        tokio::time::sleep(PAUSE).await;
        // Both at once: the event is on its way before the sender's own answer is.
        let arrival = async {
            let data = next(&mut body).await?;
            anyhow::Ok((clock::monotonic_ns(), data))
        };
        let ((arrived, data), ()) = tokio::try_join!(arrival, sender.get(tick))?;
        let sent: Tick = serde_json::from_slice(&data).context("the watch received no tick")?;
        delays.push(arrived.saturating_sub(sent.tick));
    }
    Ok(delays)
}
