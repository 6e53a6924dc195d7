//! Commands in containers, as far as the bench runs any: `cat`, `head -c BYTES /dev/zero` and `wc -c`.
//!
//! In: a request for a command by WebSocket. Out: the upgrade, and a task that plays the command.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::Body;
use crate::websocket::{self, CLOSE_CHANNEL, Messages, STDIN, STDOUT, Sender};

/// What a kubelet reads of a command's output at once.
const CHUNK: usize = 32 * 1024;

/// A command of the bench.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Cat,
    Head(usize),
    Count,
}

type Input = Messages<ReadHalf<TokioIo<Upgraded>>>;
type Output = WriteHalf<TokioIo<Upgraded>>;

/// Whether this is a request for a command.
pub(super) fn is_exec(request: &Request<Incoming>) -> bool {
    request.uri().path().ends_with("/exec") && request.headers().contains_key(UPGRADE)
}

/// Upgrades the connection and runs the command on it.
pub(super) fn start(mut request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    let Some(command) = Command::read(request.uri().query().unwrap_or_default()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A client that leaves ends the command; whoever measures sees bytes that are missing.
        if let Ok(upgraded) = upgrade.await {
            let (read, write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = command.run(Messages::new(read), write).await;
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (CONNECTION, "Upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_ACCEPT, websocket::ACCEPT),
        (SEC_WEBSOCKET_PROTOCOL, websocket::PROTOCOL),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Command {
    fn read(query: &str) -> Option<Self> {
        let argv: Vec<&str> = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("command="))
            .collect();
        match argv[..] {
            ["cat"] => Some(Self::Cat),
            // A proxy may have encoded the path anew.
            ["head", "-c", bytes, "/dev/zero" | "%2Fdev%2Fzero"] => bytes.parse().ok().map(Self::Head),
            ["wc", "-c"] => Some(Self::Count),
            _ => None,
        }
    }

    async fn run(self, mut input: Input, mut output: Output) -> Result<()> {
        match self {
            Self::Cat => {
                while let Some((channel, data)) = input.next().await? {
                    if channel == STDIN {
                        let data = Bytes::copy_from_slice(data);
                        write(&mut output, &data).await?;
                    }
                }
            }
            Self::Head(bytes) => {
                let (chunk, mut left) = ([0; CHUNK], bytes);
                while left > 0 {
                    let size = left.min(CHUNK);
                    write(&mut output, &chunk[..size]).await?;
                    left -= size;
                }
            }
            Self::Count => {
                let mut bytes = 0;
                loop {
                    let (channel, data) = input.next().await?.context("no end of the input")?;
                    match channel {
                        STDIN => bytes += data.len(),
                        CLOSE_CHANNEL => break,
                        _ => {}
                    }
                }
                write(&mut output, format!("{bytes}\n").as_bytes()).await?;
            }
        }
        output.write_all(&websocket::close()).await?;
        output.flush().await?;
        // The client closes once it has everything; what it still says is of no interest.
        while input.next().await?.is_some() {}
        Ok(())
    }
}

async fn write(output: &mut Output, data: &[u8]) -> Result<()> {
    let mut message = Vec::with_capacity(data.len() + 16);
    websocket::message(&mut message, Sender::Server, STDOUT, data);
    output.write_all(&message).await?;
    Ok(output.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bench_has_three_commands() {
        let read = |query| Command::read(query);
        assert_eq!(read("stdin=true&command=cat"), Some(Command::Cat));
        assert_eq!(read("stdin=true&command=wc&command=-c"), Some(Command::Count));
        for zero in ["/dev/zero", "%2Fdev%2Fzero"] {
            let query = format!("stdout=true&command=head&command=-c&command=12&command={zero}");
            assert_eq!(Command::read(&query), Some(Command::Head(12)));
        }
        assert_eq!(read("command=sh"), None);
    }
}
