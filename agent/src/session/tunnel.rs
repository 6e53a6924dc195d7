//! Upgraded connections (exec, attach, port-forward, watches by WebSocket): bytes both ways until both sides are done, or
//! until the session is ended.
//!
//! In: the two upgrades. Out: how many bytes went each way and why it ended. When one side says that it has no more to
//! send, the other is told so and may go on; when one side is gone, the other is closed at once. When Picket ends the
//! session the API server's side is closed first; the client gets the last word and a limited time to take it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional_with_sizes,
};
use tokio_util::sync::CancellationToken;

use super::end::Ending;
use super::farewell::Farewell;
use super::registry::Stop;

/// What is read at once in each direction: one TLS record. Reading stops while the other side does not take it.
const BUFFER: usize = 16 * 1024;

/// How long a client may take for the last word and its own close. Half of what an end may take in all: a client that does
/// not read must not hold its session.
const PARTING_LIMIT: Duration = Duration::from_millis(50);

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

    pub(super) fn sent(&self, bytes: usize) {
        self.to_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn received(&self, bytes: usize) {
        self.from_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Why a session ended.
#[derive(Debug)]
pub(super) enum TunnelEnd {
    /// Both sides had said all they had to say.
    Closed,
    /// The client went away in the middle.
    ClientGone,
    /// The API server went away in the middle.
    ServerGone,
    /// One of the upgrades did not come about.
    NotUpgraded,
    /// Picket ended it.
    Stopped(Arc<Ending>),
}

/// The handle by which a tunnel is ended.
#[derive(Debug, Default)]
pub struct StopTunnel {
    ending: OnceLock<Arc<Ending>>,
    stopped: CancellationToken,
}

impl Stop for StopTunnel {
    fn stop(&self, ending: &Arc<Ending>) {
        if self.ending.set(Arc::clone(ending)).is_ok() {
            self.stopped.cancel();
        }
    }
}

impl StopTunnel {
    async fn ended(&self) -> Arc<Ending> {
        loop {
            self.stopped.cancelled().await;
            if let Some(ending) = self.ending.get() {
                return Arc::clone(ending);
            }
        }
    }
}

/// Joins a client's upgraded connection with the API server's until one of them is done or `stop` is told. Dropping the
/// future closes both.
pub(super) async fn join(
    client: OnUpgrade,
    server: OnUpgrade,
    traffic: Arc<Traffic>,
    farewell: Farewell,
    stop: &StopTunnel,
) -> TunnelEnd {
    let upgraded = tokio::select! {
        biased;
        ending = stop.ended() => return TunnelEnd::Stopped(ending),
        upgraded = async { tokio::try_join!(client, server) } => upgraded,
    };
    match upgraded {
        Ok((client, server)) => {
            carry(
                TokioIo::new(client),
                TokioIo::new(server),
                traffic,
                farewell,
                stop,
            )
            .await
        }
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not come about");
            TunnelEnd::NotUpgraded
        }
    }
}

async fn carry<C, S>(
    client: C,
    mut server: S,
    traffic: Arc<Traffic>,
    farewell: Farewell,
    stop: &StopTunnel,
) -> TunnelEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = Followed {
        inner: client,
        traffic,
        farewell,
        failed: false,
    };
    let copied = tokio::select! {
        // An end goes before bytes that are there already.
        biased;
        ending = stop.ended() => Err(ending),
        copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => Ok(copied),
    };
    match copied {
        Ok(Ok(_)) => TunnelEnd::Closed,
        Ok(Err(_)) if client.failed => TunnelEnd::ClientGone,
        Ok(Err(_)) => TunnelEnd::ServerGone,
        Err(ending) => {
            drop(server);
            let _in_time = tokio::time::timeout(PARTING_LIMIT, client.part(&ending)).await;
            TunnelEnd::Stopped(ending)
        }
    }
}

/// The client's side: counted, and followed for where a last word fits. The totals are there however the session ends.
struct Followed<T> {
    inner: T,
    traffic: Arc<Traffic>,
    farewell: Farewell,
    failed: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Followed<T> {
    /// The last word, and the close.
    async fn part(&mut self, ending: &Ending) -> io::Result<()> {
        if let Some(word) = self.farewell.last_word(ending) {
            self.write_all(&word).await?;
        }
        self.shutdown().await?;
        // What the client still sends is read: a close with bytes unread resets the connection, which may overtake the word.
        let mut unread = [0; 4096];
        while self.inner.read(&mut unread).await? > 0 {}
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Followed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = &buffer.filled()[before..];
        self.traffic.received(read.len());
        self.farewell.received(read);
        self.failed |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Followed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.traffic.sent(written);
            self.farewell.sent(&bytes[..written]);
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::{HeaderMap, HeaderValue};
    use tokio::io::{DuplexStream, duplex};

    use super::super::farewell::Upgrade;
    use super::super::kind::SessionKind;
    use super::super::registry::testing;
    use super::*;

    /// A tunnel that runs, the far ends of client and API server, and the handle that ends it.
    fn tunnel(
        room: usize,
    ) -> (
        DuplexStream,
        DuplexStream,
        Arc<StopTunnel>,
        tokio::task::JoinHandle<TunnelEnd>,
    ) {
        let (client, near_client) = duplex(room);
        let (server, near_server) = duplex(1024);
        let stop = Arc::new(StopTunnel::default());
        let exec = HeaderMap::from_iter([(
            http::header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("v5.channel.k8s.io"),
        )]);
        let farewell = Farewell::of_upgrade(SessionKind::Exec, Upgrade::WebSocket, &exec);
        let stopped = Arc::clone(&stop);
        let running =
            tokio::spawn(
                async move { carry(near_client, near_server, Arc::default(), farewell, &stopped).await },
            );
        (client, server, stop, running)
    }

    #[tokio::test]
    async fn an_ended_tunnel_closes_the_server_and_has_a_last_word_for_the_client() {
        let (mut client, mut server, stop, running) = tunnel(4096);
        server.write_all(&[0x82, 3, 1, b'o', b'k']).await.expect("writes");
        let mut frame = [0; 5];
        client.read_exact(&mut frame).await.expect("reads");
        stop.stop(&Arc::new(testing::ending(Instant::now())));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
        let text = String::from_utf8_lossy(&rest);
        assert!(text.contains("\"Forbidden\"") && text.contains("why"), "{text}");
        assert_eq!(server.read(&mut frame).await.expect("an end"), 0);
        drop(client);
        assert!(matches!(running.await.expect("no panic"), TunnelEnd::Stopped(_)));
    }

    #[tokio::test]
    async fn inside_a_frame_it_is_closed_without_a_word() {
        let (mut client, mut server, stop, running) = tunnel(4096);
        server.write_all(&[0x82, 9, 1, b'h']).await.expect("writes");
        let mut begun = [0; 4];
        client.read_exact(&mut begun).await.expect("reads");
        stop.stop(&Arc::new(testing::ending(Instant::now())));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
        assert!(rest.is_empty(), "{rest:?}");
        drop(client);
        assert!(matches!(running.await.expect("no panic"), TunnelEnd::Stopped(_)));
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_does_not_hold_it() {
        let (client, mut server, stop, running) = tunnel(8);
        server.write_all(&[0x82, 100]).await.expect("writes");
        server.write_all(&[7; 100]).await.expect("writes");
        tokio::task::yield_now().await;
        let began = Instant::now();
        stop.stop(&Arc::new(testing::ending(began)));
        assert!(matches!(running.await.expect("no panic"), TunnelEnd::Stopped(_)));
        assert!(began.elapsed() < Duration::from_secs(2));
        drop(client);
    }
}
