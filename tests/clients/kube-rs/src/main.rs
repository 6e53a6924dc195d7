//! A kube-rs program that the end-to-end suites run inside pods.
//!
//! In: the pod's own in-cluster configuration, and arguments that say what to do. Out: for `compat` a line `=== NAME` and below
//! it the answer as JSON for each call; for `watches` one line of JSON when all are open and one when all have progressed;
//! for `writes` one when all is done.

mod compat;
mod server;
mod watches;
mod writes;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the calls that the module `clients` of e2e compares.
    Compat {
        /// A namespace with a ConfigMap `seed` and a pod `target`.
        namespace: String,
    },
    /// Opens many watches on one ConfigMap and waits until each has seen it change.
    Watches(watches::WatchesArgs),
    /// Makes many writes, each of which must succeed once.
    Writes(writes::WritesArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Compat { namespace } => compat::run(&namespace).await,
        Command::Watches(args) => watches::run(&args).await,
        Command::Writes(args) => writes::run(&args).await,
    }
}
