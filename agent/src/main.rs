//! The `picket` binary: reads the arguments and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    picket::cli::Cli::parse().run()
}
