//! Commands in a container by WebSocket, as kubectl runs them: one byte there and back, and many bytes each way, which is what
//! `kubectl cp` is made of.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::client::Dialer;
use super::{Session, megabytes_per_second, on_one_thread, seconds_per_gigabyte};
use crate::plan::{Plan, Protocol, Target};
use crate::process;
use crate::websocket::{self, CLOSE_CHANNEL, Messages, STDIN, STDOUT, Sender};

/// What is sent in one message: what a kubelet reads of a command at once.
const CHUNK: usize = 32 * 1024;
/// Round trips before those that count.
const WARM_UP: usize = 20;
/// Longer than this, and it does not progress.
const LIMIT: Duration = Duration::from_secs(120);

const ROUND_TRIP: &str = "exec-round-trip";
const DOWNLOAD: &str = "cp-download";
const UPLOAD: &str = "cp-upload";
const CPU: &str = "cp-cpu";

/// A command that runs.
struct Command {
    output: Messages<ReadHalf<TokioIo<Upgraded>>>,
    input: WriteHalf<TokioIo<Upgraded>>,
}

/// Runs the commands at each target in turn. WebSocket is HTTP/1.1.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    let (extent, targets) = (session.plan.extent, session.plan.targets.clone());
    if extent.round_trips > 0 && session.wants_latency(ROUND_TRIP) {
        for target in &targets {
            let samples = on_one_thread(limited(round_trips(&session.plan, target)))?;
            session.add_latency(ROUND_TRIP, Protocol::Http1, target, samples);
        }
    }
    let bytes = extent.copy_bytes;
    if bytes > 0 && session.wants(&[DOWNLOAD, UPLOAD, CPU]) {
        for target in &targets {
            let cpu = process::cpu_time(&target.pids)?;
            let down = on_one_thread(limited(download(&session.plan, target, bytes)))?;
            let up = on_one_thread(limited(upload(&session.plan, target, bytes)))?;
            let cpu = process::cpu_time(&target.pids)?.saturating_sub(cpu);
            for (case, took) in [(DOWNLOAD, down), (UPLOAD, up)] {
                let speed = megabytes_per_second(bytes, took);
                session.add(case, Protocol::Http1, "MB/s", target, speed);
            }
            if !target.pids.is_empty() {
                let cost = seconds_per_gigabyte(cpu, bytes * 2);
                session.add(CPU, Protocol::Http1, "s/GB", target, cost);
            }
        }
    }
    Ok(())
}

async fn limited<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(LIMIT, work)
        .await
        .with_context(|| format!("no end after {LIMIT:?}"))?
}

/// How long each of many bytes took to `cat` and back, in nanoseconds.
async fn round_trips(plan: &Plan, target: &Target) -> Result<Vec<u64>> {
    let mut cat = Command::start(plan, target, "&stdin=true&command=cat").await?;
    let mut samples = Vec::with_capacity(plan.extent.round_trips);
    for _ in 0..WARM_UP + plan.extent.round_trips {
        let sent = Instant::now();
        cat.send(STDIN, b"x").await?;
        let output = cat.output().await?;
        ensure!(output == b"x", "{}: cat answers {output:?}", target.name);
        samples.push(u64::try_from(sent.elapsed().as_nanos())?);
    }
    Ok(samples.split_off(WARM_UP))
}

/// From the first byte of a command's output to its last.
async fn download(plan: &Plan, target: &Target, bytes: u64) -> Result<Duration> {
    let command = format!("&command=head&command=-c&command={bytes}&command=/dev/zero");
    let mut head = Command::start(plan, target, &command).await?;
    let mut received = head.output().await?.len() as u64;
    let start = Instant::now();
    while received < bytes {
        received += head.output().await?.len() as u64;
    }
    ensure!(received == bytes, "{}: {received} bytes came", target.name);
    Ok(start.elapsed())
}

/// From the first byte of a command's input until it says that it has them all.
async fn upload(plan: &Plan, target: &Target, bytes: u64) -> Result<Duration> {
    let mut count = Command::start(plan, target, "&stdin=true&command=wc&command=-c").await?;
    let (chunk, start) = ([0; CHUNK], Instant::now());
    let mut left = bytes;
    while left > 0 {
        let size = left.min(CHUNK as u64);
        count.send(STDIN, &chunk[..size as usize]).await?;
        left -= size;
    }
    count.send(CLOSE_CHANNEL, &[STDIN]).await?;
    let output = String::from_utf8_lossy(count.output().await?).trim().to_owned();
    ensure!(
        output == bytes.to_string(),
        "{}: {output} of {bytes} bytes arrived",
        target.name
    );
    Ok(start.elapsed())
}

impl Command {
    async fn start(plan: &Plan, target: &Target, query: &str) -> Result<Self> {
        let dialer = Dialer::new(target, Protocol::Http1)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(dialer.session().await?)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::get(format!("{}{query}", plan.paths.exec))
            .header(HOST, dialer.authority())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, websocket::KEY)
            .header(SEC_WEBSOCKET_PROTOCOL, websocket::PROTOCOL);
        if let Some(token) = &target.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::bail!(
                "{} answered {query} with {status}: {}",
                target.name,
                String::from_utf8_lossy(&body)
            );
        }
        let (read, write) = tokio::io::split(TokioIo::new(hyper::upgrade::on(response).await?));
        Ok(Self {
            output: Messages::new(read),
            input: write,
        })
    }

    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(data.len() + 16);
        websocket::message(&mut message, Sender::Client, channel, data);
        self.input.write_all(&message).await?;
        Ok(self.input.flush().await?)
    }

    /// The next data that the command writes.
    async fn output(&mut self) -> Result<&[u8]> {
        // The borrow of a message would last over the loop, so that its length goes out of it alone.
        loop {
            let (channel, data) = self.output.next().await?.context("the command has ended")?;
            // API servers begin each channel with an empty message.
            if channel == STDOUT && !data.is_empty() {
                break;
            }
        }
        Ok(self.output.last())
    }
}
