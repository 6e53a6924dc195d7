//! Upgraded connections (exec, attach, port-forward, watches by WebSocket): bytes both ways until both sides are done.
//!
//! In: the two upgrades. Out: how many bytes went each way and why it ended. When one side says that it has no more to
//! send, the other is told so and may go on; when one side is gone, the other is closed at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

/// What is read at once in each direction: one TLS record. Reading stops while the other side does not take it.
const BUFFER: usize = 16 * 1024;

/// What went through a session so far.
#[derive(Debug, Default)]
pub struct Traffic {
    from_client: AtomicU64,
    to_client: AtomicU64,
}

impl Traffic {
    /// Bytes the client sent.
    pub fn from_client(&self) -> u64 {
        self.from_client.load(Ordering::Relaxed)
    }

    /// Bytes the client was sent.
    pub fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }
}

/// Why a session ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides had said all they had to say.
    Closed,
    /// The client went away in the middle.
    ClientGone,
    /// The API server went away in the middle.
    ServerGone,
    /// One of the upgrades did not come about.
    NotUpgraded(hyper::Error),
}

/// Joins a client's upgraded connection with the API server's. Dropping the future closes both.
pub async fn join(client: OnUpgrade, server: OnUpgrade, traffic: Arc<Traffic>) -> Ended {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(both) => both,
        Err(error) => return Ended::NotUpgraded(error),
    };
    let mut client = Counted {
        inner: TokioIo::new(client),
        traffic,
        failed: false,
    };
    let mut server = TokioIo::new(server);
    match copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await {
        Ok(_) => Ended::Closed,
        Err(_) if client.failed => Ended::ClientGone,
        Err(_) => Ended::ServerGone,
    }
}

/// Counts at the client's side; the totals are there however the session ends.
struct Counted<T> {
    inner: T,
    traffic: Arc<Traffic>,
    failed: bool,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.traffic.from_client.fetch_add(read as u64, Ordering::Relaxed);
        self.failed |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.traffic
                .to_client
                .fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
