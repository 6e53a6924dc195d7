//! Many pods with ten connections each: what the connections weigh, and how long requests of all of them take.
//!
//! In: a place with many pods and the ways to the upstream. Out: memory for each connection, CPU time for each request, and
//! latencies. Each pod has a process of its own (`picket-bench crowd`), as pods have. Requests are due at 1,000 a second over
//! all pods, one after the other, so that no two of them meet by plan.

use std::fs;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::sim::SimPod;

use crate::clock;
use crate::load::client::Dialer;
use crate::load::{on_one_thread, percentile};
use crate::plan::{Measure, PERCENTILES, Plan, Protocol, Target};
use crate::process::{self, Guarded};

/// Connections of each pod.
const CONNECTIONS: u64 = 10;
/// Between two requests, over all pods.
const PERIOD: Duration = Duration::from_millis(1);
/// How often each connection is used.
const ROUNDS: u64 = 2;
/// From the word to go to the first request, so that every pod has heard it.
const LEAD: Duration = Duration::from_millis(500);
/// For what the target does behind its last answer, and what ended processes leave.
const SETTLE: Duration = Duration::from_millis(500);

const CASE: &str = "many-pods";
const MEMORY: &str = "many-pods-memory-per-connection";
const CPU: &str = "many-pods-cpu";

/// One pod's part.
#[derive(Debug, clap::Args)]
pub(crate) struct CrowdArgs {
    /// Where, as JSON
    plan: PathBuf,
    /// The pod's number, from 0 on
    number: u64,
    /// How many pods there are
    pods: u64,
}

/// The cases' names.
pub(crate) fn cases() -> Vec<String> {
    let latencies = PERCENTILES.map(|(end, _)| format!("{CASE}-{end}"));
    let others = [MEMORY, CPU].map(str::to_owned);
    latencies.into_iter().chain(others).collect()
}

/// Measures each way with each protocol.
pub(crate) fn measure(pods: &[SimPod], dir: &Path, plan: &Plan) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for &protocol in &plan.protocols {
        for target in &plan.targets {
            let mut plan = plan.clone();
            plan.targets = vec![target.clone()];
            plan.protocols = vec![protocol];
            let file = dir.join("crowd.json");
            fs::write(&file, serde_json::to_vec(&plan)?)?;
            let found = all(pods, &file, target).with_context(|| format!("many pods at {}", target.name))?;
            measures.extend(report(target, protocol, found));
        }
    }
    measures.retain(|measure| measure.case.contains(&plan.only));
    Ok(measures)
}

/// What was found of one way: samples in nanoseconds, and of a way with processes bytes for each connection and CPU time for
/// each request.
struct Found {
    samples: Vec<u64>,
    bytes: f64,
    cpu: Duration,
}

fn report(target: &Target, protocol: Protocol, mut found: Found) -> Vec<Measure> {
    let measure = |case: &str, unit: &str, value| Measure {
        case: case.to_owned(),
        protocol,
        unit: unit.to_owned(),
        target: target.name.clone(),
        value,
    };
    found.samples.sort_unstable();
    let mut all = Vec::new();
    if !target.pids.is_empty() {
        all.push(measure(MEMORY, "KiB", found.bytes / 1_024.0));
        all.push(measure(CPU, "us", found.cpu.as_secs_f64() * 1e6));
    }
    for (end, share) in PERCENTILES {
        let value = percentile(&found.samples, share) / 1_000.0;
        all.push(measure(&format!("{CASE}-{end}"), "us", value));
    }
    all
}

fn all(pods: &[SimPod], plan: &Path, target: &Target) -> Result<Found> {
    let memory = process::resident_bytes(&target.pids)? as f64;
    let mut running = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("crowd").arg(plan);
        command.arg(number.to_string()).arg(pods.len().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        pod.place().apply(&mut command)?;
        let mut process = Guarded::spawn("a pod's load", &mut command)?;
        let (input, output) = (process.stdin()?, process.stdout()?);
        running.push((process, input, output));
    }
    let mut line = String::new();
    for (_, _, output) in &mut running {
        line.clear();
        output.read_line(&mut line)?;
        ensure!(line.trim() == "open", "a pod's load failed; it has written why");
    }
    std::thread::sleep(SETTLE);
    let connections = CONNECTIONS * pods.len() as u64;
    let bytes = (process::resident_bytes(&target.pids)? as f64 - memory).max(0.0) / connections as f64;
    let (cpu, start) = (
        process::cpu_time(&target.pids)?,
        clock::monotonic_ns() + LEAD.as_nanos() as u64,
    );
    for (_, input, _) in &mut running {
        writeln!(input, "{start}")?;
    }
    let mut samples = Vec::new();
    for (_, _, output) in &mut running {
        line.clear();
        output.read_line(&mut line)?;
        let found: Vec<u64> =
            serde_json::from_str(&line).context("a pod's load failed; it has written why")?;
        samples.extend(found);
    }
    let cpu = process::cpu_time(&target.pids)?.saturating_sub(cpu);
    let requests = u32::try_from(connections * ROUNDS)?;
    ensure!(samples.len() == requests as usize, "{} answers", samples.len());
    // All end at once when their inputs do, and not one after the other.
    let processes: Vec<Guarded> = running.into_iter().map(|(process, ..)| process).collect();
    std::thread::sleep(SETTLE);
    drop(processes);
    Ok(Found {
        samples,
        bytes,
        cpu: cpu / requests,
    })
}

/// Opens a pod's connections, says so, and sends requests from the instant that is told.
pub(crate) fn run(args: &CrowdArgs) -> Result<()> {
    let text = fs::read(&args.plan).with_context(|| format!("cannot read {}", args.plan.display()))?;
    let plan: Plan = serde_json::from_slice(&text)?;
    let target = plan.targets.first().context("nobody to ask")?;
    let protocol = *plan.protocols.first().context("no protocol")?;
    let path = &plan.paths.small;
    on_one_thread(async {
        let dialer = Dialer::new(target, protocol)?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = dialer.dial().await?;
            connection.get(path).await?;
            connections.push(connection);
        }
        println!("open");
        let start: u64 = line().await?.trim().parse().context("no instant to start at")?;
        let mut samples = Vec::new();
        for round in 0..ROUNDS {
            for (number, connection) in (0..).zip(&mut connections) {
                let due = start + place(round, args.number, number, args.pods) * PERIOD.as_nanos() as u64;
                let wait = due.saturating_sub(clock::monotonic_ns());
                tokio::time::sleep(Duration::from_nanos(wait)).await;
                let sent = Instant::now();
                connection.get(path).await?;
                samples.push(u64::try_from(sent.elapsed().as_nanos())?);
            }
        }
        println!("{}", serde_json::to_string(&samples)?);
        line().await?;
        Ok(())
    })
}

/// Where in the order of all requests one has its place: each round takes every connection once, pod after pod for the first
/// connection of each, then for the second.
fn place(round: u64, pod: u64, connection: u64, pods: u64) -> u64 {
    (round * CONNECTIONS + connection) * pods + pod
}

/// A line of the standard input, waited for beside the connections.
async fn line() -> Result<String> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    Ok(read.await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_place_of_its_own() {
        let pods = 25;
        let mut places = Vec::new();
        for pod in 0..pods {
            let mut last = None;
            for round in 0..ROUNDS {
                for connection in 0..CONNECTIONS {
                    let place = place(round, pod, connection, pods);
                    assert!(last < Some(place), "a pod sends its requests in their order");
                    last = Some(place);
                    places.push(place);
                }
            }
        }
        places.sort_unstable();
        let expected: Vec<u64> = (0..pods * CONNECTIONS * ROUNDS).collect();
        assert_eq!(places, expected);
    }
}
