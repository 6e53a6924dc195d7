//! `picket-bench load`: runs a plan's phases against each target in turn and writes the measures to stdout as JSON.
//!
//! Phases: memory (first, while the processes are fresh), watches, latency of reads and writes in an open loop, commands in
//! containers, long lists, new connections, throughput at saturation.

pub(crate) mod client;
mod connections;
mod exec;
mod latency;
mod list;
mod memory;
mod pacer;
mod saturation;
mod watches;

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::plan::{Measure, PERCENTILES, Plan, Protocol, Target};

/// The cases that the load generator measures; of a latency the name without its percentile.
const CASES: [&str; 10] = [
    "watches-all-receiving",
    "throughput",
    "requests-per-cpu-second",
    "new-connections",
    "new-connections-per-cpu-second",
    "list-10mb",
    "list-10mb-cpu",
    "cp-download",
    "cp-upload",
    "cp-cpu",
];
const LATENCIES: [&str; 4] = ["watch-event", "latency", "write", "exec-round-trip"];

/// What the names of the cases about memory have in common; they are measured in processes of their own.
pub(crate) const MEMORY: &str = "memory-";

/// The cases about memory.
pub(crate) fn memory_cases() -> Vec<String> {
    [memory::IDLE, memory::PER_CONNECTION].map(str::to_owned).into()
}

/// The others, each by its whole name.
pub(crate) fn cases() -> Vec<String> {
    let latencies = LATENCIES
        .iter()
        .flat_map(|case| PERCENTILES.map(|(end, _)| format!("{case}-{end}")));
    CASES
        .iter()
        .map(|case| (*case).to_owned())
        .chain(latencies)
        .collect()
}

/// Collects measures and knows which are wanted.
pub(crate) struct Session {
    plan: Plan,
    measures: Vec<Measure>,
}

impl Session {
    /// Whether any of these cases is asked for.
    fn wants(&self, cases: &[&str]) -> bool {
        cases.iter().any(|case| case.contains(&self.plan.only))
    }

    /// Whether any percentile of this case is asked for.
    fn wants_latency(&self, case: &str) -> bool {
        PERCENTILES
            .iter()
            .any(|(end, _)| self.wants(&[&format!("{case}-{end}")]))
    }

    /// Adds each percentile of these samples, which are in nanoseconds.
    fn add_latency(&mut self, case: &str, protocol: Protocol, target: &Target, mut samples: Vec<u64>) {
        samples.sort_unstable();
        for (end, share) in PERCENTILES {
            let value = percentile(&samples, share) / 1_000.0;
            self.add(&format!("{case}-{end}"), protocol, "us", target, value);
        }
    }

    fn add(&mut self, case: &str, protocol: Protocol, unit: &str, target: &Target, value: f64) {
        debug_assert!(
            cases().iter().chain(&memory_cases()).any(|known| known == case),
            "{case} is missing from the list of cases"
        );
        if case.contains(&self.plan.only) {
            let (case, unit, target) = (case.to_owned(), unit.to_owned(), target.name.clone());
            self.measures.push(Measure {
                case,
                protocol,
                unit,
                target,
                value,
            });
        }
    }
}

/// Runs the plan in this file.
pub(crate) fn run(file: &Path) -> Result<()> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let plan: Plan =
        serde_json::from_slice(&text).with_context(|| format!("{} is no plan", file.display()))?;
    let mut session = Session {
        plan,
        measures: Vec::new(),
    };
    memory::measure(&mut session).context("measuring memory")?;
    watches::measure(&mut session).context("measuring watches")?;
    latency::measure(&mut session).context("measuring latency")?;
    exec::measure(&mut session).context("measuring commands in containers")?;
    list::measure(&mut session).context("measuring long lists")?;
    connections::measure(&mut session).context("measuring new connections")?;
    saturation::measure(&mut session).context("measuring throughput")?;
    serde_json::to_writer(std::io::stdout().lock(), &session.measures)?;
    Ok(())
}

/// Runs it on as many threads as the machine has cores, for loads that one core cannot make.
pub(crate) fn on_all_threads<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}

/// Megabytes a second.
fn megabytes_per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

/// Seconds of CPU time for each gigabyte.
fn seconds_per_gigabyte(cpu: Duration, bytes: u64) -> f64 {
    cpu.as_secs_f64() / (bytes as f64 / 1e9)
}

/// Runs it on this thread alone, so that no hand-over between threads is in what is measured.
pub(crate) fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The value below which `share` of the sorted samples lie (nearest rank).
pub(crate) fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .map_or(f64::NAN, |&value| value as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{megabytes_per_second, percentile, seconds_per_gigabyte};

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u64> = (1..=1_000).collect();
        assert_eq!(percentile(&samples, 0.5), 500.0);
        assert_eq!(percentile(&samples, 0.99), 990.0);
        assert_eq!(percentile(&samples, 0.999), 999.0);
        assert_eq!(percentile(&[7], 0.999), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
    #[test]
    fn rates_are_of_decimal_megabytes_and_gigabytes() {
        let second = Duration::from_secs(1);
        assert_eq!(megabytes_per_second(10_000_000, second), 10.0);
        assert_eq!(megabytes_per_second(10_000_000, second / 2), 20.0);
        assert_eq!(seconds_per_gigabyte(second, 500_000_000), 2.0);
    }
}
