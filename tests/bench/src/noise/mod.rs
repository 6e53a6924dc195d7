//! `picket-bench noise`: a pod that takes what it can get, in one of several ways, until it is ended.
//!
//! In: a kind of noise and a plan with one target. Out: the line `ready` once the noise is there. What the target refuses or
//! closes is tried again: a noisy pod does not give up.

mod frames;
mod requests;
mod watches;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::load::client::Dialer;
use crate::load::on_all_threads;
use crate::plan::{Plan, Protocol};

/// How long noise that holds nothing goes on before somebody measures.
const BEGIN: Duration = Duration::from_millis(300);
/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// What a pod does to its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Holds 3,000 watches and opens more
    Watches,
    /// Sends requests at full speed over 32 connections
    Requests,
    /// Asks for lists of 10 MB and reads nothing
    ZeroWindow,
    /// Sends control frames and small frames of HTTP/2 without end
    Frames,
    /// Sends at full speed what policy refuses
    Refused,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [
        Kind::Watches,
        Kind::Requests,
        Kind::ZeroWindow,
        Kind::Frames,
        Kind::Refused,
    ];

    /// As cases and the command line call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Watches => "watches",
            Kind::Requests => "requests",
            Kind::ZeroWindow => "zero-window",
            Kind::Frames => "frames",
            Kind::Refused => "refused",
        }
    }
}

/// What noise to make.
#[derive(Debug, clap::Args)]
pub(crate) struct NoiseArgs {
    /// The kind
    kind: Kind,
    /// Where, as JSON
    plan: PathBuf,
}

/// Makes noise until it is ended.
pub(crate) fn run(args: &NoiseArgs) -> Result<()> {
    let text = std::fs::read(&args.plan).with_context(|| format!("cannot read {}", args.plan.display()))?;
    let plan: Plan = serde_json::from_slice(&text)?;
    let target = plan.targets.first().context("nobody to make noise at")?;
    let (http1, http2) = (
        Dialer::new(target, Protocol::Http1)?,
        Dialer::new(target, Protocol::Http2)?,
    );
    let list = plan.paths.list.clone().unwrap_or_default();
    on_all_threads(async {
        match args.kind {
            Kind::Watches => watches::start(&http2, &plan.paths.watch).await?,
            Kind::Requests => requests::start(&http1, &plan.paths.small),
            Kind::ZeroWindow => frames::hold(&http1, &http2, &list),
            Kind::Frames => frames::flood(&http2, &plan.paths.create),
            Kind::Refused => requests::start(&http1, &plan.paths.refused),
        }
        tokio::time::sleep(BEGIN).await;
        println!("ready");
        std::future::pending::<Result<()>>().await
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn kinds_are_named_alike_everywhere() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_str(kind.name(), false), Ok(kind));
        }
        assert_eq!(Kind::value_variants(), Kind::ALL);
    }
}
