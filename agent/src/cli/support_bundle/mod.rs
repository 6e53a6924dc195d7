//! `picket support-bundle`: what a support case needs to know of the cluster's Picket, as one archive.
//!
//! In: the person's own kubeconfig. Out: a `.tar.gz` with objects, statuses, Events and logs, and a MANIFEST.md that says what is in it and
//! what is not. No Secret, token or kubeconfig is asked for, and secrets are taken out of all that is.
//!
//! | file | holds |
//! |---|---|
//! | `collect` | what is asked for |
//! | `scrub` | what is taken out |
//! | `archive` | the file |

mod archive;
mod collect;
mod scrub;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::Args;
use jiff::Timestamp;
use picket_policy::builtin;

use crate::cli::output::{self, clean, size};
use crate::cli::target::person::PersonalClientArgs;
use collect::Collector;

const HELP: &str = "\
Examples:
  picket support-bundle
  picket support-bundle --out case-1234.tar.gz --log-lines 10000

The archive holds PicketNodes, the objects with their statuses, Picket's own workloads, pods, Events, logs and ConfigMap, admission \
policies *.picket.dev, a part of each Node, and what `picket status` says. It holds no Secret and no audit record. Tokens, private keys, \
passwords and the like are taken out of all texts, as far as they can be told by name or shape: look into the archive before you send it.

Exit codes: 0 the archive is written, perhaps without what you may not read; 1 it is not; 2 wrong usage.";

/// Write an archive for a support case.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct SupportBundleArgs {
    /// The archive, which must not be there yet. Default: picket-support-TIME.tar.gz in this folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The namespace that Picket runs in.
    #[arg(short, long, value_name = "NAMESPACE", default_value = builtin::OWN_NAMESPACE)]
    namespace: String,
    /// How many lines of each log are taken, from its end.
    #[arg(long, value_name = "COUNT", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    log_lines: u32,
    #[command(flatten)]
    cluster: PersonalClientArgs,
}

/// Runs the command.
#[must_use]
pub(super) fn run(args: &SupportBundleArgs) -> ExitCode {
    match bundle(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::cli::fail(&error),
    }
}

fn bundle(args: &SupportBundleArgs) -> anyhow::Result<()> {
    let (runtime, client) = args.cluster.connect()?;
    let now = Timestamp::now();
    let stem = format!("picket-support-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{stem}.tar.gz")));
    // Before anything is asked for: a file that is there is somebody's.
    let out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let out = out.map_err(|error| {
        let path = clean(&path.display().to_string());
        match error.kind() {
            io::ErrorKind::AlreadyExists => anyhow!("{path} exists already: choose another name with --out"),
            _ => anyhow!("cannot write {path}: {error}"),
        }
    })?;
    let collected = runtime.block_on(Collector::new(client, &args.namespace, args.log_lines).collect(now));
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let written = collected.archive.write(&stem, seconds, out);
    if let Err(error) = written {
        // Nobody is to take a part for the whole.
        let _gone = std::fs::remove_file(&path);
        return Err(error).with_context(|| format!("cannot write {}", clean(&path.display().to_string())));
    }
    for left_out in &collected.left_out {
        output::warn(format_args!("picket: left out: {}", clean(left_out)));
    }
    let files = collected.archive.sizes().count();
    let bytes: usize = collected.archive.sizes().map(|(_, bytes)| bytes).sum();
    output::say(format_args!(
        "{}: {files} files, {} unpacked. Look into it before you send it: secrets without a known name or shape are not found.",
        clean(&path.display().to_string()),
        size(u64::try_from(bytes).unwrap_or(u64::MAX))
    ));
    Ok(())
}

#[cfg(test)]
mod tests;
