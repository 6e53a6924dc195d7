//! `picket health`: whether an agent of this node is ready, or answers at all; or the controller of this pod. For probes, where nothing
//! else speaks to the admin socket, and where the kubelet's way to a pod's address may lead elsewhere.
//!
//! In: which agent is meant, and its admin socket; or the controller's address. Out: a line for each part that waits or fails, and the
//! exit code.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::output;
use super::sessions::{Agent, block_on};
use crate::admin::Client;
use crate::admin::api::ReadyAnswer;

/// How long the controller may take, which answers from memory: less than a probe may.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(4);

/// The largest answer of the controller: it names ten namespaces at most.
const CONTROLLER_ANSWER: usize = 64 * 1024;

/// Why the controller gives no answer.
#[derive(Debug, thiserror::Error)]
enum ControllerSilent {
    #[error(
        "no controller answers at {address}: {source}; this command asks in the pod of the controller alone"
    )]
    Connect { address: SocketAddr, source: io::Error },
    #[error("the controller at {0} did not answer within {limit} s", limit = CONTROLLER_LIMIT.as_secs())]
    Slow(SocketAddr),
    #[error("the answer of the controller at {address} cannot be read: {reason}")]
    Broken { address: SocketAddr, reason: String },
}

/// Arguments of `picket health`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  picket health               what /readyz says of the agent that serves
  picket health --own         likewise, of the agent in this container: a readiness probe
  picket health --live --own  whether that agent answers: a liveness probe
  picket health --controller  what the controller in this pod says of itself
  picket health --node n1     what the agent of node n1 says

Exit codes: 0 the agent or the controller is ready, or with --live it answers; 1 it is not or does not; 2 wrong usage.")]
pub(super) struct HealthArgs {
    /// Ask whether the agent answers, and not whether every part works
    #[arg(long)]
    live: bool,
    /// Ask the agent that runs in the same container as this command. During an upgrade the node has two
    #[arg(long)]
    own: bool,
    /// Ask the controller that runs in the same pod, at what its --health names. Default: 127.0.0.1:8081
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:8081",
        conflicts_with = "own"
    )]
    controller: Option<SocketAddr>,
    #[command(flatten)]
    agent: Agent,
}

impl HealthArgs {
    /// Another node that the command is to run on.
    pub(super) fn node(&self) -> Option<&str> {
        self.agent.node()
    }
}

pub(super) fn run(args: &HealthArgs) -> ExitCode {
    if let Some(address) = args.controller {
        return controller(address, args.live);
    }
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

/// Says what the controller says of itself.
fn controller(address: SocketAddr, live: bool) -> ExitCode {
    let path = if live { "/healthz" } else { "/readyz" };
    match block_on(ask_controller(address, path)) {
        Ok(Ok((status, text))) => {
            output::say(format_args!("{}", output::clean(text.trim_end())));
            match status.is_success() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Ok(Err(silent)) => super::fail(&silent.into()),
        Err(error) => super::fail(&error),
    }
}

async fn ask_controller(address: SocketAddr, path: &str) -> Result<(StatusCode, String), ControllerSilent> {
    let broken = |error: &dyn std::error::Error| ControllerSilent::Broken {
        address,
        reason: error.to_string(),
    };
    let asked = timeout(CONTROLLER_LIMIT, async {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|source| ControllerSilent::Connect { address, source })?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
        let request = Request::get(path)
            .header(header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let exchange = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| broken(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), CONTROLLER_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| broken(&*error))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::select! {
            answered = exchange => answered,
            Err(error) = connection => Err(broken(&error)),
        }
    });
    asked.await.unwrap_or(Err(ControllerSilent::Slow(address)))
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::admin::api::FailingPart;

    /// A controller that answers each connection with this, or with nothing where there is none.
    async fn controller_that_says(answer: Option<&'static str>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = answer {
                    // An answer before its question is an error of the connection to hyper.
                    let asked = stream.read(&mut [0; 512]).await.unwrap();
                    assert!(asked > 0, "a connection without a request");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                open.push(stream);
            }
        });
        address
    }

    #[tokio::test]
    async fn what_the_controller_says_is_told_and_what_nobody_says() {
        let says = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nno root\n";
        let address = controller_that_says(Some(says)).await;
        let (status, text) = ask_controller(address, "/readyz").await.unwrap();
        assert_eq!((status.as_u16(), text.as_str()), (503, "no root\n"));
        let address = controller_that_says(Some("nonsense\r\n\r\n")).await;
        let broken = ask_controller(address, "/readyz").await.unwrap_err();
        assert!(matches!(broken, ControllerSilent::Broken { .. }), "{broken}");
        let nobody = ask_controller(SocketAddr::from(([127, 0, 0, 1], 1)), "/readyz").await;
        assert!(matches!(nobody, Err(ControllerSilent::Connect { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn the_controller_has_a_limit_for_its_answer() {
        let silent = ask_controller(controller_that_says(None).await, "/readyz").await;
        assert!(matches!(silent, Err(ControllerSilent::Slow(_))));
    }

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
