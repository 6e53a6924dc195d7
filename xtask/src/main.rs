//! `cargo xtask`: the commands people and CI use to build, try, test and measure Picket.
//!
//! In: a subcommand. Out: what the subcommand prints, and a non-zero exit when it did not succeed.
//!
//! Only light crates are used here, so that this builds on a machine which lacks everything that `setup` installs.

mod agent;
mod bench;
mod check;
mod clean;
mod cluster;
mod demo;
mod fuzz;
mod image;
mod setup;
mod sh;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup                 install missing packages (Debian 12, root)
  cargo xtask demo                  Picket on a cluster with two agents: permitted and denied requests
  cargo xtask demo --keep           the same, and the cluster stays up for your own tries
  cargo xtask test                  everything: check, clippy, unit tests, fuzz targets, the suites
  cargo xtask check                 the rules of the source tree alone
  cargo xtask generate              write schemas and reference pages from the types
  cargo xtask test e2e              the suite tests/e2e only
  cargo xtask test e2e exec         its tests whose name contains `exec`
  cargo xtask test --keep e2e exec  the same, and the cluster stays up for inspection
  cargo xtask test --kubernetes 1.35 testbed  a suite on a cluster of another release of Kubernetes
  cargo xtask fuzz path query       two fuzz targets for a minute
  cargo xtask bench --quick         direct, through Picket and through nginx, in under four minutes
  cargo xtask image                 the container image as an OCI layout and a tar, with its SBOM
  cargo xtask cluster up            a Kubernetes cluster on this machine, without Picket
  cargo xtask clean                 remove the leftovers of crashed runs";

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Picket's build, test and demo commands", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install missing packages for builds, tests and the demo; skip those that are installed
    Setup,
    /// Start a cluster with Picket and show permitted and denied requests of two agents
    Demo(demo::DemoArgs),
    /// Run formatting, clippy, unit tests, fuzz targets and the suites, or one part of them
    Test(test::TestArgs),
    /// Check the source tree: imports between modules, headers, names, sizes, dependencies, generated files
    Check,
    /// Write the generated files anew: JSON Schemas and the reference pages of the manual
    Generate,
    /// Run fuzz targets: random requests, bodies, expressions and files against what must hold for each
    Fuzz(fuzz::FuzzArgs),
    /// Measure the same requests sent directly, through Picket and through nginx
    Bench(bench::BenchArgs),
    /// Build the container image, without a container daemon: an OCI layout, a tar, an SBOM and the symbols
    Image(image::ImageArgs),
    /// Start or stop a cluster of one or two nodes, or open a shell in it
    Cluster(cluster::ClusterArgs),
    /// Remove the leftovers of crashed runs: processes, mounts, namespaces, cgroups, sysctls
    Clean(clean::CleanArgs),
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup => setup::run(),
        Command::Demo(args) => {
            setup::ensure()?;
            demo::run(args)
        }
        Command::Test(args) => {
            setup::ensure()?;
            test::run(&args)
        }
        Command::Check => {
            check::sources()?;
            setup::ensure()?;
            check::generated()
        }
        Command::Generate => {
            setup::ensure()?;
            check::generate()
        }
        Command::Fuzz(args) => {
            setup::ensure()?;
            fuzz::run(&args)
        }
        Command::Bench(args) => {
            setup::ensure()?;
            bench::run(&args)
        }
        Command::Image(args) => {
            setup::ensure()?;
            image::run(&args)
        }
        Command::Cluster(args) => cluster::run(args),
        Command::Clean(args) => clean::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Args, Command};

    #[test]
    fn the_arguments_make_sense() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_examples_are_understood() {
        for example in super::EXAMPLES.lines().skip(1) {
            let words = example
                .split("  ")
                .map(str::trim)
                .find(|part| !part.is_empty())
                .unwrap();
            let words = words.strip_prefix("cargo xtask ").unwrap().split(' ');
            let args = std::iter::once("cargo xtask").chain(words);
            assert!(Args::try_parse_from(args).is_ok(), "{example}");
        }
    }

    #[test]
    fn what_follows_an_area_is_passed_on() {
        let words = ["cargo xtask", "test", "e2e", "exec", "--nocapture", "--exact"];
        let Command::Test(args) = Args::try_parse_from(words).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(args.filter(), ["exec", "--nocapture", "--exact"]);
    }
}
