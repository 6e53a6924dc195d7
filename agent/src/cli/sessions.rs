//! `picket sessions`: lists the watches, followed logs and upgraded streams of this node's agents, and kills them.
//!
//! In: which sessions are meant, and the admin sockets of all agents on the node. Out: a table, JSON or YAML on standard
//! output.
//!
//! During an upgrade or a drain the node has several agent processes with sessions. All of them are asked.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::on_node::NodeArgs;
use super::output::{self, Column, Format, Row};
use crate::admin::api::{KillAnswer, KillRequest, SessionItem, SessionQuery};
use crate::admin::{Answers, Client, ClientError};
use crate::session::SessionKind;

/// As much of an id as a table shows; it names a session as well as the whole.
const SHORT_ID: usize = 8;

const LIST_HELP: &str = "\
Examples:
  picket sessions list
  picket sessions list --identity triage --kind exec
  picket sessions list --node worker-1
  picket sessions list -o json | jq '.sessions[].request'

RECEIVED is what the client sent, SENT is what the client was sent, both after the heads of request and response. \
The ID is the beginning of the audit record's auditID; -o wide shows the whole. \
AGENT is the state of the agent process that carries the session: serving, draining (it ends once its sessions have ended, or \
shutdown.drainSeconds have passed), or starting (it takes over from another one). -o wide adds its process id.

Exit codes: 0 success, also where no session runs; 1 an agent does not answer; 2 wrong usage.";

const KILL_HELP: &str = "\
Examples:
  picket sessions kill 3f2b9c1d --reason 'reads too much'
  picket sessions kill --identity triage --kind exec
  picket sessions kill --identity triage --node worker-1
  picket sessions kill --all --reason 'maintenance'

Sessions are ended in every agent process of the node, in one that drains too. \
A killed session may be started again where policy permits it. To keep an agent out, suspend or revoke its AgentIdentity: \
that ends its sessions too.

Exit codes: 0 a session was ended; 1 none matched, or an agent does not answer; 2 wrong usage.";

/// Lists and ends sessions.
#[derive(Debug, Args)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// Lists the sessions that run on this node.
    #[command(after_help = LIST_HELP)]
    List(ListArgs),
    /// Ends sessions of this node.
    #[command(after_help = KILL_HELP)]
    Kill(KillArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only sessions of this AgentIdentity.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Only sessions of this kind.
    #[arg(long, value_enum)]
    kind: Option<SessionKind>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    agent: Agent,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["id", "identity", "all"]))]
struct KillArgs {
    /// The session's ID, or its first four or more characters.
    id: Option<String>,
    /// Every session of this AgentIdentity.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Every session of the node.
    #[arg(long)]
    all: bool,
    /// With --identity or --all: only sessions of this kind.
    #[arg(long, value_enum, conflicts_with = "id")]
    kind: Option<SessionKind>,
    /// Why, for the client and the audit record.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    agent: Agent,
}

/// Which agent is asked.
#[derive(Debug, Args)]
pub(super) struct Agent {
    /// The node's configuration file, which names the agent's socket. Default: /etc/picket/agent.yaml where that file exists,
    /// else the agent's own defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's socket, instead of the configured one.
    #[arg(long, value_name = "SOCKET", conflicts_with = "config")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

impl SessionsArgs {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        match &self.command {
            SessionsCommand::List(args) => args.agent.node(),
            SessionsCommand::Kill(args) => args.agent.node(),
        }
    }
}

impl Agent {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        self.node.node()
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        self.socket().map(Client::new)
    }

    /// The socket of the agent that serves.
    pub(super) fn socket(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.socket {
            Some(socket) => socket.clone(),
            None => {
                super::configuration(self.config.as_deref())?
                    .map(|config| config.admin)
                    .unwrap_or_default()
                    .socket
            }
        })
    }
}

pub(super) fn run(args: &SessionsArgs) -> ExitCode {
    let outcome = match &args.command {
        SessionsCommand::List(args) => list(args),
        SessionsCommand::Kill(args) => kill(args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let query = SessionQuery {
        identity: args.identity.clone(),
        kind: args.kind,
    };
    let client = args.agent.client()?;
    let Answers { answer: list, failed } = block_on(client.sessions(&query))??;
    output::print(args.output, &list, &list.sessions, "No session runs.")?;
    Ok(exit_code(&failed))
}

fn kill(args: &KillArgs) -> anyhow::Result<ExitCode> {
    let request = KillRequest {
        id: args.id.clone(),
        identity: args.identity.clone(),
        kind: args.kind,
        all: args.all,
        reason: args.reason.clone(),
    };
    let client = args.agent.client()?;
    let Answers { answer, failed } = block_on(client.kill_sessions(&request))??;
    let KillAnswer { ended } = answer;
    match ended.len() {
        0 => output::warn(format_args!("No session matched.")),
        1 => output::say(format_args!("Ended 1 session.")),
        count => output::say(format_args!("Ended {count} sessions.")),
    }
    Ok(exit_code_of_kill(&ended, &failed))
}

fn exit_code_of_kill(ended: &[String], failed: &[ClientError]) -> ExitCode {
    let code = exit_code(failed);
    if ended.is_empty() { ExitCode::FAILURE } else { code }
}

/// Says which agents did not answer: their sessions are not known, and none of them was ended.
fn exit_code(failed: &[ClientError]) -> ExitCode {
    for error in failed {
        output::warn(format_args!("picket: {error}"));
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

pub(super) fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(future))
}

impl Row for SessionItem {
    const COLUMNS: &'static [Column] = &[
        Column::text("ID"),
        Column::text("IDENTITY"),
        Column::text("POD"),
        Column::text("CONTAINER").wide(),
        Column::text("PROCESS").wide(),
        Column::text("KIND"),
        Column::text("PROTOCOL").wide(),
        Column::text("REQUEST"),
        Column::text("USER").wide(),
        Column::text("CREDENTIAL").wide(),
        Column::text("AGENT"),
        Column::number("AGE"),
        Column::number("RECEIVED"),
        Column::number("SENT"),
    ];

    fn cells(&self, format: Format) -> Vec<String> {
        let dash = |text: Option<String>| {
            text.filter(|text| !text.is_empty())
                .unwrap_or_else(|| "-".to_owned())
        };
        let shown = if format == Format::Wide {
            self.id.len()
        } else {
            SHORT_ID
        };
        let passed = Timestamp::now().duration_since(self.started).unsigned_abs();
        vec![
            self.id.chars().take(shown).collect(),
            self.identity.clone(),
            dash(
                self.namespace
                    .as_ref()
                    .zip(self.pod.as_ref())
                    .map(|(namespace, pod)| format!("{namespace}/{pod}")),
            ),
            dash(self.container.clone()),
            dash(
                self.process
                    .as_ref()
                    .map(|process| format!("{} ({})", process.comm, process.pid)),
            ),
            self.kind.to_string(),
            self.protocol.clone(),
            self.request.clone(),
            self.user.clone(),
            dash(self.credential.as_ref().map(|used| match &used.id {
                Some(id) => format!("{} {id}", used.method),
                None => used.method.clone(),
            })),
            if format == Format::Wide {
                format!("{} ({})", self.agent.state, self.agent.pid)
            } else {
                self.agent.state.to_string()
            },
            output::age(Duration::from_secs(passed.as_secs())),
            output::size(self.received_bytes),
            output::size(self.sent_bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;
    use super::*;

    #[test]
    fn success_is_that_every_agent_answered_and_that_a_kill_ended_something() {
        let slow = || vec![ClientError::Slow(PathBuf::from("/run/picket/admin.sock.2"))];
        let is = |code: ExitCode, wanted: ExitCode| format!("{code:?}") == format!("{wanted:?}");
        assert!(is(exit_code(&[]), ExitCode::SUCCESS));
        assert!(is(exit_code(&slow()), ExitCode::FAILURE));
        let ended = ["3f2b9c1d".to_owned()];
        assert!(is(exit_code_of_kill(&ended, &[]), ExitCode::SUCCESS));
        assert!(is(exit_code_of_kill(&ended, &slow()), ExitCode::FAILURE));
        assert!(is(exit_code_of_kill(&[], &[]), ExitCode::FAILURE));
    }

    #[test]
    fn a_kill_says_which_sessions_are_meant() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("picket sessions kill 3f2b9c1d"));
        assert!(parses(
            "picket sessions kill --identity triage --kind port-forward --reason x"
        ));
        assert!(parses("picket sessions kill --all"));
        assert!(!parses("picket sessions kill"));
        assert!(!parses("picket sessions kill --kind exec"));
        assert!(!parses("picket sessions kill 3f2b9c1d --all"));
        assert!(!parses("picket sessions kill 3f2b9c1d --kind exec"));
    }
}
