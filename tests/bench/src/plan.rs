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
    /// What is asked for.
    pub(crate) paths: Paths,
    /// The protocols to measure with.
    pub(crate) protocols: Vec<Protocol>,
    /// Requests per second of the open loop.
    pub(crate) rate: u32,
    /// How long and how often.
    pub(crate) extent: Extent,
    /// Which cases, by a part of their name; all when empty.
    pub(crate) only: String,
}

/// What there is to ask an upstream for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Paths {
    /// A resource of about 1 KB.
    pub(crate) small: String,
    /// The same resource as a watch that sends one event at once.
    pub(crate) watch: String,
    /// Where a GET makes the upstream send one event to all watches, with the time in it; not every upstream can.
    pub(crate) tick: Option<String>,
    /// Where a ConfigMap is created by POST.
    pub(crate) create: String,
    /// A list of 10 MB; not every upstream has one.
    pub(crate) list: Option<String>,
    /// Where commands are run in a container; the command is added.
    pub(crate) exec: String,
    /// What policy refuses.
    pub(crate) refused: String,
}

impl Paths {
    /// The paths that each upstream has.
    pub(crate) fn of(namespace: &str) -> Self {
        let below = format!("/api/v1/namespaces/{namespace}");
        Self {
            small: format!("{below}/configmaps/small"),
            watch: format!("{below}/configmaps?watch=true"),
            tick: None,
            create: format!("{below}/configmaps"),
            list: None,
            exec: format!("{below}/pods/load/exec?container=main&stdout=true"),
            refused: format!("{below}/secrets/refused"),
        }
    }
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
    /// Likewise, where the open loop is of writes.
    pub(crate) write_rounds: u32,
    /// How long one turn takes, in milliseconds.
    pub(crate) turn_ms: u64,
    /// How long each target is kept saturated, in milliseconds; not at all when 0.
    pub(crate) saturate_ms: u64,
    /// How long new connections are opened at each target, in milliseconds; not at all when 0.
    pub(crate) connect_ms: u64,
    /// Connections held open for the memory they take; none when 0.
    pub(crate) connections: usize,
    /// Watches opened at once.
    pub(crate) watches: usize,
    /// Events sent to a single watch.
    pub(crate) events: usize,
    /// How often the list of 10 MB is read.
    pub(crate) lists: usize,
    /// Bytes copied from a container and to it; none when 0.
    pub(crate) copy_bytes: u64,
    /// How often one byte goes to a command in a container and back.
    pub(crate) round_trips: usize,
    /// Pods of the case with many pods; not measured when 0.
    pub(crate) pods: usize,
    /// How long a pod is measured, quiet and then beside each noisy neighbour, in milliseconds; not at all when 0.
    pub(crate) noise_ms: u64,
}

impl Extent {
    /// About six minutes against the fast upstream.
    pub(crate) const FULL: Extent = Extent {
        rounds: 4,
        write_rounds: 2,
        turn_ms: 2_000,
        saturate_ms: 3_000,
        connect_ms: 2_000,
        connections: 1_000,
        watches: 1_000,
        events: 1_000,
        lists: 50,
        copy_bytes: 200_000_000,
        round_trips: 2_000,
        pods: 250,
        noise_ms: 3_000,
    };

    /// About two minutes.
    pub(crate) const QUICK: Extent = Extent {
        rounds: 2,
        write_rounds: 1,
        turn_ms: 700,
        saturate_ms: 600,
        connect_ms: 500,
        connections: 200,
        watches: 200,
        events: 200,
        lists: 10,
        copy_bytes: 50_000_000,
        round_trips: 300,
        pods: 25,
        noise_ms: 1_000,
    };

    /// The API server's own time is most of what is seen there, so latency and watches are what there is to see.
    pub(crate) const APISERVER: Extent = Extent {
        rounds: 3,
        write_rounds: 2,
        saturate_ms: 0,
        connect_ms: 0,
        connections: 0,
        events: 0,
        lists: 0,
        round_trips: 1_000,
        pods: 0,
        noise_ms: 0,
        ..Extent::FULL
    };

    /// A few seconds, beside those that a cluster takes.
    pub(crate) const QUICK_APISERVER: Extent = Extent {
        rounds: 1,
        write_rounds: 1,
        turn_ms: 700,
        watches: 100,
        copy_bytes: 20_000_000,
        round_trips: 100,
        ..Extent::APISERVER
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

/// The shares of samples that each case of latencies reports, by the end of the case's name.
pub(crate) const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];
