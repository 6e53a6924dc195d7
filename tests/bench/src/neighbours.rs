//! Noisy neighbours: how long one pod's requests take while another pod takes what it can get, beside how long they take when
//! it is quiet.
//!
//! In: a place with two pods and the ways to the upstream. Out: latencies for each kind of noise, their ratio to the quiet
//! ones, and what the noise adds to the memory of what stands between. Both pods go the same way. The noisy pod's process has the lowest
//! priority, as a neighbour's own processor time is its own: what is measured is what the way between does to the pod beside it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use picket_tests::sys::Placement;

use crate::load_process;
use crate::noise::Kind;
use crate::plan::{Measure, PERCENTILES, Plan, Protocol, Target};
use crate::process::{self, Guarded};

/// Requests a second of the pod that is measured.
const RATE: u32 = 500;
/// The percentiles of which the ratio to the quiet ones is reported.
const RATIOS: [&str; 2] = ["p50", "p99"];
/// The end of the case for what the noise adds to the target's resident memory.
const MEMORY: &str = "memory";
/// The case that the load generator measures.
const LATENCY: &str = "latency";

/// The cases' names.
pub(crate) fn cases() -> Vec<String> {
    let of = |kind: Kind| {
        let latencies = PERCENTILES.map(|(end, _)| case(kind, end));
        latencies
            .into_iter()
            .chain(RATIOS.map(|end| case(kind, &format!("{end}-ratio"))))
            .chain([case(kind, MEMORY)])
    };
    Kind::ALL.into_iter().flat_map(of).collect()
}

fn case(kind: Kind, end: &str) -> String {
    format!("noisy-neighbour-{}-{end}", kind.name())
}

/// Measures the pod at `quiet` beside the one at `noisy`, for each kind of which a case is asked for.
pub(crate) fn measure(quiet: &Placement, noisy: &Placement, dir: &Path, plan: &Plan) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for kind in Kind::ALL {
        let asked = cases()
            .iter()
            .any(|name| name.contains(&plan.only) && name.starts_with(&case(kind, "")));
        for target in plan.targets.iter().filter(|target| asked && bears(kind, target)) {
            let name = || format!("{} beside noise of kind {}", target.name, kind.name());
            let mut plan = plan.clone();
            plan.targets = vec![target.clone()];
            let before = latency(quiet, dir, &plan).with_context(name)?;
            let memory = process::resident_bytes(&target.pids)? as f64;
            let mut noise = start(kind, noisy, dir, &plan)?;
            noise.wait_for_line("ready").with_context(name)?;
            let beside = latency(quiet, dir, &plan).with_context(name)?;
            let added = (process::resident_bytes(&target.pids)? as f64 - memory).max(0.0);
            noise.check()?;
            drop(noise);
            measures.extend(compare(kind, &before, &beside));
            if !target.pids.is_empty() {
                measures.push(Measure {
                    case: case(kind, MEMORY),
                    protocol: Protocol::Http2,
                    unit: "KiB".to_owned(),
                    target: target.name.clone(),
                    value: added / 1_024.0,
                });
            }
        }
    }
    measures.retain(|measure| measure.case.contains(&plan.only));
    Ok(measures)
}

/// Whether there is something to see: the upstream itself, which is the direct way, has nothing against frames without end and
/// is busy with them for minutes.
fn bears(kind: Kind, target: &Target) -> bool {
    kind != Kind::Frames || !target.pids.is_empty()
}

/// The latencies beside the noise, and their ratio to those before it.
fn compare(kind: Kind, before: &[Measure], beside: &[Measure]) -> Vec<Measure> {
    let mut all = Vec::new();
    for (quiet, noisy) in before.iter().zip(beside) {
        let end = noisy.case.strip_prefix("latency-").unwrap_or(&noisy.case);
        let mut measure = noisy.clone();
        measure.case = case(kind, end);
        all.push(measure.clone());
        if RATIOS.contains(&end) {
            measure.case = case(kind, &format!("{end}-ratio"));
            "x".clone_into(&mut measure.unit);
            measure.value = noisy.value / quiet.value;
            all.push(measure);
        }
    }
    all
}

/// One turn of the open loop.
fn latency(place: &Placement, dir: &Path, plan: &Plan) -> Result<Vec<Measure>> {
    let mut plan = plan.clone();
    LATENCY.clone_into(&mut plan.only);
    plan.rate = RATE;
    plan.protocols = vec![Protocol::Http2];
    plan.extent.rounds = 1;
    plan.extent.turn_ms = plan.extent.noise_ms;
    load_process::send(place, dir, &plan)
}

fn start(kind: Kind, place: &Placement, dir: &Path, plan: &Plan) -> Result<Guarded> {
    let file = dir.join("noise.json");
    fs::write(&file, serde_json::to_vec(plan)?)?;
    let mut command = Command::new("nice");
    command.args(["-n", "19"]);
    command.arg(std::env::current_exe().context("cannot find this program")?);
    command.args(["noise", kind.name()]).arg(&file);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    place.apply(&mut command)?;
    Guarded::spawn("the noisy pod", &mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_reported_beside_its_ratio_to_the_quiet_turn() {
        let measures = |values: [f64; 3]| {
            let of = |((end, _), value): ((&str, f64), f64)| Measure {
                case: format!("latency-{end}"),
                protocol: Protocol::Http2,
                unit: "us".to_owned(),
                target: "picket".to_owned(),
                value,
            };
            PERCENTILES.into_iter().zip(values).map(of).collect::<Vec<_>>()
        };
        let compared = compare(
            Kind::ZeroWindow,
            &measures([100.0, 400.0, 900.0]),
            &measures([150.0, 1_000.0, 2_000.0]),
        );
        let found: Vec<_> = compared
            .iter()
            .map(|measure| (measure.case.as_str(), measure.unit.as_str(), measure.value))
            .collect();
        assert_eq!(
            found,
            [
                ("noisy-neighbour-zero-window-p50", "us", 150.0),
                ("noisy-neighbour-zero-window-p50-ratio", "x", 1.5),
                ("noisy-neighbour-zero-window-p99", "us", 1_000.0),
                ("noisy-neighbour-zero-window-p99-ratio", "x", 2.5),
                ("noisy-neighbour-zero-window-p999", "us", 2_000.0),
            ]
        );
        assert!(
            found
                .iter()
                .all(|(name, ..)| cases().iter().any(|case| case == name))
        );
    }
}
