//! `picket-bench run`: makes a place without a way out, starts everything in it, has the load sent, and reports.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::plan::Extent;
use crate::{fast, issuer, kernel, load, real, report};

/// A pod with 1,000 connections takes as many here, and twice as many in what stands between.
const OPEN_FILES: u64 = 16_384;
/// What the requests end at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Upstream {
    /// None: the system calls that the kernel programs look at
    Kernel,
    /// None: the check of tokens, with the keys of an issuer
    Issuer,
    /// A server that answers from memory
    Fast,
    /// The API server of a cluster
    KubeApiserver,
}

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The agent to measure; only the other two ways, and no kube-apiserver, when it is not given
    #[arg(long)]
    picket: Option<PathBuf>,
    /// Fewer and shorter measurements
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    case: String,
    /// Only against this upstream
    #[arg(long)]
    upstream: Option<Upstream>,
    /// Requests per second of the open loop
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// The same against kube-apiserver, which needs about a millisecond of processor time for each
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    apiserver_rate: u32,
    /// Where criterion left its figures, to be reported with the others
    #[arg(long)]
    criterion: Option<PathBuf>,
    /// The figures as JSON; as Markdown they go beside it
    #[arg(long)]
    out: PathBuf,
    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,
}

/// Runs it all.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < OPEN_FILES {
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, hard.max(OPEN_FILES))
            .context("cannot raise the number of open files")?;
    }
    let start = Instant::now();
    let mut rows = Vec::new();
    let wanted = |upstream: Upstream| {
        let cases = match upstream {
            Upstream::Kernel => Vec::new(),
            Upstream::Issuer => issuer::cases(),
            Upstream::Fast => fast::cases(),
            Upstream::KubeApiserver => load::cases(),
        };
        args.upstream.is_none_or(|only| only == upstream)
            && cases.iter().any(|case| case.contains(&args.case))
    };
    if args.picket.is_some() && args.upstream.is_none_or(|only| only == Upstream::Kernel) {
        eprintln!("[bench] kernel programs ...");
        rows.extend(kernel::measure(args.quick, &args.case)?);
    }
    if wanted(Upstream::Issuer) {
        eprintln!("[bench] checks of tokens ...");
        rows.extend(issuer::measure(args.quick, &args.case)?);
    }
    if wanted(Upstream::Fast) {
        let extent = if args.quick { Extent::QUICK } else { Extent::FULL };
        eprintln!("[bench] fast upstream ...");
        rows.extend(report::rows(
            "fast",
            &fast::measure(args.picket.as_deref(), extent, args.rate, &args.case)?,
        ));
    }
    if let Some(picket) = args.picket.as_deref().filter(|_| wanted(Upstream::KubeApiserver)) {
        let extent = if args.quick {
            Extent::QUICK_APISERVER
        } else {
            Extent::APISERVER
        };
        eprintln!("[bench] kube-apiserver ...");
        rows.extend(report::rows(
            "kube-apiserver",
            &real::measure(picket, extent, args.apiserver_rate, &args.case)?,
        ));
    }
    if let Some(folder) = &args.criterion {
        rows.extend(
            report::criterion(folder)?
                .into_iter()
                .filter(|row| row.case.contains(&args.case)),
        );
    }
    if rows.is_empty() {
        bail!("no case has `{}` in its name", args.case);
    }
    report::write(&rows, &args.out)?;
    let markdown = report::markdown(&rows);
    std::fs::write(args.out.with_extension("md"), &markdown).context("cannot write the table")?;
    match args.markdown {
        true => println!("{markdown}"),
        false => println!("{}", report::table(&rows)),
    }
    println!(
        "Latency in an open loop of {} requests/s ({} against kube-apiserver), counted from when each was due.",
        args.rate, args.apiserver_rate
    );
    println!(
        "Bodies of 1 KB, TLS on both sides. nginx speaks HTTP/1.1 to its upstream whatever its client speaks. Took {:.0} s.",
        start.elapsed().as_secs_f64()
    );
    println!("The same as JSON: {}", args.out.display());
    Ok(())
}
