//! `picket-bench load`: runs a plan's phases against each target in turn and writes the measures to stdout as JSON.
//!
//! Phases: memory (first, while the processes are fresh), watches, latency in an open loop, throughput at saturation.

mod client;
mod latency;
mod memory;
mod pacer;
mod saturation;
mod watches;

use std::fs;
use std::future::Future;
use std::path::Path;

use anyhow::{Context, Result};

use crate::plan::{CASES, Measure, Plan, Protocol, Target};

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

    fn add(&mut self, case: &str, protocol: Protocol, unit: &str, target: &Target, value: f64) {
        debug_assert!(CASES.contains(&case), "{case} is missing from the list of cases");
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
    saturation::measure(&mut session).context("measuring throughput")?;
    serde_json::to_writer(std::io::stdout().lock(), &session.measures)?;
    Ok(())
}

/// Runs it on this thread alone, so that no hand-over between threads is in what is measured.
fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The value below which `share` of the sorted samples lie (nearest rank).
fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .map_or(f64::NAN, |&value| value as f64)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u64> = (1..=1_000).collect();
        assert_eq!(percentile(&samples, 0.5), 500.0);
        assert_eq!(percentile(&samples, 0.99), 990.0);
        assert_eq!(percentile(&samples, 0.999), 999.0);
        assert_eq!(percentile(&[7], 0.999), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
