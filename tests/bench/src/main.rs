//! `picket-bench`: measures the same requests direct, through Picket and through nginx.
//!
//! `run` sets everything up, starts the other subcommands of this program where they belong, and reports. `upstream` is a
//! fast stand-in for an API server. `load` sends the requests from inside a pod, `crowd` from one of many pods, and `noise` is
//! what a pod's neighbour does.

mod agent;
mod clock;
mod crowd;
mod fast;
mod http2;
mod issuer;
mod kernel;
mod load;
mod load_process;
mod neighbours;
mod nginx;
mod noise;
mod plan;
mod process;
mod real;
mod report;
mod run;
mod tls;
mod upstream;
mod websocket;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Set up, measure, report
    Run(run::RunArgs),
    /// The fast upstream
    Upstream(upstream::UpstreamArgs),
    /// What the kernel programs cost
    Kernel(kernel::KernelArgs),
    /// A pod that takes what it can get
    Noise(noise::NoiseArgs),
    /// One of many pods with a few connections each
    Crowd(crowd::CrowdArgs),
    /// The load generator
    Load {
        /// What to measure, as JSON; the measures go to stdout
        plan: PathBuf,
    },
}

fn main() -> ExitCode {
    let result: Result<()> = match Command::parse() {
        Command::Run(args) => run::run(&args),
        Command::Upstream(args) => upstream::run(args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Noise(args) => noise::run(&args),
        Command::Crowd(args) => crowd::run(&args),
        Command::Load { plan } => load::run(&plan),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
