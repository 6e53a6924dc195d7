//! What the orchestrator asks of the load generator and what comes back, as JSON between two processes.
//!
//! They are two processes because the load runs where agents run: inside a pod's network namespace and cgroup, so that the
//! kernel treats its connections as it treats an agent's.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything to measure against one upstream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The way to the upstream, by name: direct, picket, nginx. `direct` is always there.
    pub(crate) targets: Vec<Target>,
    /// A resource of about 1 KB.
    pub(crate) path: String,
    /// The same resource as a watch that sends one event at once.
    pub(crate) watch_path: String,
    /// Where a GET makes the upstream send one event to all watches, with the time in it; not every upstream can.
    pub(crate) tick_path: Option<String>,
    /// Requests per second of the open loop.
    pub(crate) rate: u32,
    /// How long and how often.
    pub(crate) extent: Extent,
    /// Which cases, by a part of their name; all when empty.
    pub(crate) only: String,
}

/// One way to the upstream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `direct`, `picket` or `nginx`.
    pub(crate) name: String,
    /// What is dialled.
    pub(crate) address: SocketAddr,
    /// The name its certificate must have; the address where it is not given.
    pub(crate) server_name: Option<String>,
    /// The bundle its certificate is checked against (PEM).
    pub(crate) ca: PathBuf,
    /// The bearer token sent with each request, where one is needed.
    pub(crate) token: Option<String>,
    /// The processes whose CPU time and memory count; none for direct.
    pub(crate) pids: Vec<i32>,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Extent {
    /// How often the targets take turns in the open loop.
    pub(crate) rounds: u32,
    /// How long one turn takes, in milliseconds.
    pub(crate) turn_ms: u64,
    /// How long each target is kept saturated, in milliseconds; not at all when 0.
    pub(crate) saturate_ms: u64,
    /// Connections held open for the memory they take; none when 0.
    pub(crate) connections: usize,
    /// Watches opened at once.
    pub(crate) watches: usize,
    /// Events sent to a single watch.
    pub(crate) events: usize,
}

impl Extent {
    /// About a minute and a half against the fast upstream.
    pub(crate) const FULL: Extent = Extent {
        rounds: 4,
        turn_ms: 2_000,
        saturate_ms: 3_000,
        connections: 1_000,
        watches: 1_000,
        events: 1_000,
    };

    /// About twenty seconds.
    pub(crate) const QUICK: Extent = Extent {
        rounds: 2,
        turn_ms: 700,
        saturate_ms: 600,
        connections: 200,
        watches: 200,
        events: 200,
    };

    /// The API server's own time is most of what is seen there, so latency and watches are what there is to see.
    pub(crate) const APISERVER: Extent = Extent {
        rounds: 3,
        turn_ms: 2_000,
        saturate_ms: 0,
        connections: 0,
        watches: 1_000,
        events: 0,
    };

    /// A few seconds, beside those that a cluster takes.
    pub(crate) const QUICK_APISERVER: Extent = Extent {
        rounds: 1,
        turn_ms: 700,
        saturate_ms: 0,
        connections: 0,
        watches: 100,
        events: 0,
    };
}

/// HTTP/1.1 or HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Protocol {
    #[serde(rename = "http1")]
    Http1,
    #[serde(rename = "http2")]
    Http2,
}

impl Protocol {
    /// Both, in the order they are measured in.
    pub(crate) const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];
}

/// One measured number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// Such as `latency-p50`.
    pub(crate) case: String,
    pub(crate) protocol: Protocol,
    /// Such as `us`.
    pub(crate) unit: String,
    /// The target's name.
    pub(crate) target: String,
    pub(crate) value: f64,
}

/// The cases there are, so that nothing is set up for a name that none has.
pub(crate) const CASES: [&str; 10] = [
    "memory-idle",
    "memory-per-connection",
    "watches-all-receiving",
    "watch-event-p50",
    "watch-event-p99",
    "latency-p50",
    "latency-p99",
    "latency-p999",
    "throughput",
    "requests-per-cpu-second",
];
