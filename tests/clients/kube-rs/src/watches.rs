//! Many watches at once: all are open before the object changes, and each must see the change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::Server;

/// What to watch, and how often.
#[derive(clap::Args)]
pub(crate) struct WatchesArgs {
    /// The ConfigMap's namespace.
    namespace: String,
    /// The ConfigMap that somebody else changes once all watches are open.
    name: String,
    /// Watches in all.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Watches on one HTTP/2 connection of this client.
    #[arg(long, default_value_t = 100)]
    per_connection: usize,
    /// How often each watch must see the object change.
    #[arg(long, default_value_t = 3)]
    changes: usize,
    /// Seconds that all of it may take.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

/// Opens the watches, says so, and waits until each has seen the changes.
pub(crate) async fn run(args: &WatchesArgs) -> Result<()> {
    let limit = Duration::from_secs(args.seconds);
    let progressed = Arc::new(AtomicUsize::new(0));
    match tokio::time::timeout(limit, all(args, &progressed)).await {
        Ok(done) => done,
        Err(_) => bail!(
            "after {limit:?} only {} of {} watches had progressed",
            progressed.load(Ordering::Relaxed),
            args.count
        ),
    }
}

async fn all(args: &WatchesArgs, progressed: &Arc<AtomicUsize>) -> Result<()> {
    let started = Instant::now();
    let server = Server::from_pod()?;
    let mut responses = Vec::with_capacity(args.count);
    let mut connections = 0;
    while responses.len() < args.count {
        let sender = server
            .http2()
            .await
            .with_context(|| format!("connection {connections}"))?;
        connections += 1;
        let streams = args.per_connection.min(args.count - responses.len());
        responses.extend(try_join_all((0..streams).map(|_| open(&server, sender.clone(), args))).await?);
    }
    println!(
        "{}",
        json!({"open": responses.len(), "connections": connections, "millis": started.elapsed().as_millis()})
    );

    let (ended, _) = watch::channel(());
    let followers = responses.into_iter().map(|body| {
        let progressed = Arc::clone(progressed);
        let mut over = ended.subscribe();
        async move {
            let kept = follow(body, args.changes).await?;
            progressed.fetch_add(1, Ordering::Relaxed);
            // All stay open until the last has progressed, so that none runs in the room another left.
            let _ = over.changed().await;
            drop(kept);
            Ok::<_, anyhow::Error>(())
        }
    });
    let teller = async {
        while progressed.load(Ordering::Relaxed) < args.count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!(
            "{}",
            json!({"progressed": args.count, "millis": started.elapsed().as_millis()})
        );
        let _ = ended.send(());
        Ok(())
    };
    tokio::try_join!(try_join_all(followers), teller)?;
    Ok(())
}

/// Opens one watch, and is done when the server's answer has begun.
async fn open(
    server: &Server,
    mut sender: SendRequest<Empty<Bytes>>,
    args: &WatchesArgs,
) -> Result<Incoming> {
    let WatchesArgs { namespace, name, .. } = args;
    let path =
        format!("/api/v1/namespaces/{namespace}/configmaps?watch=true&fieldSelector=metadata.name%3D{name}");
    let request = Request::get(format!("https://{}{path}", server.authority))
        .header(header::AUTHORIZATION, format!("Bearer {}", server.token))
        .header(header::ACCEPT, "application/json")
        .body(Empty::new())?;
    let response = sender.send_request(request).await?;
    ensure!(
        response.status().is_success(),
        "a watch was answered with {}",
        response.status()
    );
    Ok(response.into_body())
}

/// Reads events until the object has changed `changes` times; gives the stream back, still open.
async fn follow(mut body: Incoming, changes: usize) -> Result<Incoming> {
    let (mut pending, mut seen) = (Vec::new(), 0);
    while seen < changes {
        let frame = body.frame().await.context("the watch ended early")??;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).context("an event that is no JSON")?;
            seen += usize::from(event["type"] == "MODIFIED");
        }
    }
    Ok(body)
}
