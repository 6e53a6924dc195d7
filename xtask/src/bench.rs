//! `cargo xtask bench`: the same requests direct, through Picket and through nginx.
//!
//! In: which measurements are meant. Out: the bench program's table, target/bench/latest.json and target/bench/latest.md.
//!
//! Everything is built as shipped. criterion's benches of the pure parts run first, then the bench program.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, Result};

use crate::agent::{Profile, build_beside};
use crate::sh;

/// What to measure.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                          everything, about ten minutes once it is built
  cargo xtask bench --quick                  shorter and coarser, under four minutes
  cargo xtask bench --case latency           the cases with `latency` in their name
  cargo xtask bench --upstream fast          without a cluster
  cargo xtask bench --upstream issuer        what the check of a token costs, in seconds
  cargo xtask bench --upstream kernel        what the kernel programs cost, in seconds")]
pub(crate) struct BenchArgs {
    /// Fewer and shorter measurements: under four minutes
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Only against this upstream: kernel or issuer (none at all), fast or kube-apiserver
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Requests per second at which latency is measured
    #[arg(long, value_name = "RATE")]
    rate: Option<u32>,
    /// Print the table as Markdown, as tests/bench/README.md has it
    #[arg(long)]
    markdown: bool,
}

/// Builds the bench programs and runs them.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let programs = sh::timed("release build", || {
        build_beside(Profile::Release, &["picket-bench"])
    })?;
    let pure = args.upstream.is_none();
    if pure {
        sh::timed("benches of the policy package", || criterion(args))?;
    }
    let mut bench = sh::command(&programs.join("picket-bench").to_string_lossy());
    bench.arg("run").arg("--picket").arg(programs.join("picket"));
    bench.arg("--out").arg(sh::target().join("bench/latest.json"));
    if pure {
        bench.arg("--criterion").arg(sh::target().join("criterion"));
    }
    pass_on(&mut bench, args);
    sh::timed("requests", || sh::run(&mut bench))
}

fn pass_on(bench: &mut Command, args: &BenchArgs) {
    if args.quick {
        bench.arg("--quick");
    }
    if args.markdown {
        bench.arg("--markdown");
    }
    for (flag, value) in [("--case", &args.case), ("--upstream", &args.upstream)] {
        if let Some(value) = value {
            bench.args([flag, value]);
        }
    }
    if let Some(rate) = args.rate {
        bench.args(["--rate", &rate.to_string()]);
    }
}

/// Criterion's own table goes nowhere: its figures are in the common one.
fn criterion(args: &BenchArgs) -> Result<()> {
    // Figures of benches that are no more would be reported with the others.
    match fs::remove_dir_all(sh::target().join("criterion")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("old figures"),
        _ => {}
    }
    let mut cargo = sh::cargo(&[
        "bench",
        "--package",
        "picket-policy",
        "--package",
        "picket-masking",
        "--bench=*",
        "--",
        "--noplot",
    ]);
    let (warm_up, measure) = if args.quick { ("0.2", "0.5") } else { ("0.5", "2") };
    cargo.args(["--warm-up-time", warm_up, "--measurement-time", measure]);
    sh::output(&mut cargo).map(|_| ())
}
