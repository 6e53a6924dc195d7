//! `picket health`: whether an agent of this node is ready, or answers at all. For probes, where nothing else speaks to the admin socket.
//!
//! In: which agent is meant, and its admin socket. Out: a line for each part that waits or fails, and the exit code.

use std::process::ExitCode;

use super::output;
use super::sessions::{Agent, block_on};
use crate::admin::Client;
use crate::admin::api::ReadyAnswer;

/// Arguments of `picket health`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  picket health               what /readyz says of the agent that serves
  picket health --own         likewise, of the agent in this container: a readiness probe
  picket health --live --own  whether that agent answers: a liveness probe

Exit codes: 0 the agent is ready, or with --live it answers; 1 it is not or does not; 2 wrong usage.")]
pub(super) struct HealthArgs {
    /// Ask whether the agent answers, and not whether every part works
    #[arg(long)]
    live: bool,
    /// Ask the agent that runs in the same container as this command. During an upgrade the node has two
    #[arg(long)]
    own: bool,
    #[command(flatten)]
    agent: Agent,
}

pub(super) fn run(args: &HealthArgs) -> ExitCode {
    match ask(args) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(answer)) => {
            output::say(format_args!("{}", lines(&answer)));
            match answer.ready {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => super::fail(&error),
    }
}

/// What the agent says of its parts; nothing where it was only asked whether it answers.
fn ask(args: &HealthArgs) -> anyhow::Result<Option<ReadyAnswer>> {
    let socket = args.agent.socket()?;
    let answer = block_on(async {
        let client = match args.own {
            true => Client::of_own_container(&socket).await?,
            false => Client::new(socket),
        };
        match args.live {
            true => client.alive().await.map(|()| None),
            false => client.ready().await.map(Some),
        }
    })??;
    Ok(answer)
}

/// A line a part, or one that says that all work.
fn lines(answer: &ReadyAnswer) -> String {
    let waiting = answer.waiting.iter().map(|part| format!("waiting: {part}"));
    let failing = answer
        .failing
        .iter()
        .map(|failing| format!("failing: {}: {}", failing.part, failing.reason));
    let parts: Vec<_> = waiting.chain(failing).map(|line| output::clean(&line)).collect();
    match (answer.ready, parts.is_empty()) {
        (true, true) => "ready".to_owned(),
        (false, true) => "not ready".to_owned(),
        _ => parts.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::FailingPart;

    #[test]
    fn each_part_that_waits_or_fails_is_a_line() {
        let mut answer = ReadyAnswer {
            ready: true,
            waiting: Vec::new(),
            failing: Vec::new(),
        };
        assert_eq!(lines(&answer), "ready");
        answer.ready = false;
        assert_eq!(lines(&answer), "not ready");
        answer.waiting.push("pods".to_owned());
        answer.failing.push(FailingPart {
            part: "audit".to_owned(),
            reason: "disk\nfull".to_owned(),
        });
        assert_eq!(lines(&answer), "waiting: pods\nfailing: audit: disk\\nfull");
    }
}
