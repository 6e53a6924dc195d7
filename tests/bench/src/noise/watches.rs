//! A pod that holds 3,000 watches and opens more: dials, begins as many watches as a connection takes, leaves, and begins anew.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use http::Response;
use hyper::body::Incoming;

use super::PAUSE;
use crate::load::client::{Ask, Connection, Dialer};

/// Connections that are held, and the watches on each: what an API server takes at once.
const HELD: usize = 30;
const STREAMS: usize = 100;
/// Connections being made at once while the held ones are opened.
const DIALING: usize = 4;
/// Connections that are opened and left all the time, with some watches each.
const OPENING: usize = 8;
const OPENED: usize = 10;

/// Holds the watches and starts what opens more.
pub(super) async fn start(dialer: &Dialer, path: &str) -> Result<()> {
    let ask = Ask::get(path);
    let opening = futures::stream::iter(0..HELD).map(|_| open(dialer, &ask, STREAMS));
    let held: Vec<_> = opening.buffer_unordered(DIALING).try_collect().await?;
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(held);
    });
    for _ in 0..OPENING {
        let (dialer, ask) = (dialer.clone(), ask.clone());
        tokio::spawn(async move {
            loop {
                // Opened or refused: the next one follows.
                if open(&dialer, &ask, OPENED).await.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
    }
    Ok(())
}

async fn open(dialer: &Dialer, ask: &Ask, watches: usize) -> Result<(Connection, Vec<Response<Incoming>>)> {
    let connection = dialer.dial().await?;
    let begin = (0..watches).map(|_| async {
        let mut shared = connection.share().context("no HTTP/2")?;
        shared.ask(ask).await
    });
    let bodies = futures::future::try_join_all(begin).await?;
    Ok((connection, bodies))
}
