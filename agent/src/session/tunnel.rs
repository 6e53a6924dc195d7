//! Upgraded connections (exec, attach, port-forward, watches by WebSocket): bytes both ways until both sides are done, or until
//! the session is ended.
//!
//! In: the two upgrades. Out: how many bytes went each way and why it ended. The end of the API server's side is the session's:
//! the client gets what is left and the end, and both sides are closed soon after, whatever the client does. (kube-apiserver
//! itself closes both as soon as either ends: k8s.io/apimachinery pkg/util/proxy/upgradeaware.go.) When the client has no more
//! to send, the API server gets that end and may go on. When one side is gone, the other is closed at once. When Picket ends
//! the session the API server's side is closed first; the client gets the last word and a limited time to take it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ending::Ending;
use super::farewell::Farewell;
use super::pump::Pump;
use super::running::{Stop, Traffic};

/// How long a client may take to close its side once it has everything and the end. A client that reads closes within a round
/// trip; five seconds are for one that is busy, and the session and its record end by then. (What the client has not taken
/// is flushed before, as slowly as it reads; see `ClientStream` for a client that takes nothing.)
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long the API server's side may be silent after the client has closed its own: what a command still prints comes within
/// this time, and an API server closes at once.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// How long a client may take for the last word and its own close. Half of what an end may take in all: a client that does
/// not read must not hold its session.
const PARTING_LIMIT: Duration = Duration::from_millis(50);

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

/// Joins a client's upgraded connection with the API server's until one of them is done or `stop` ends it. Dropping the
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
        copied = copy(&mut client, &mut server) => Ok(copied),
    };
    match copied {
        Ok(Ok(end)) => end,
        Ok(Err(_)) if client.failed => TunnelEnd::ClientGone,
        Ok(Err(_)) => TunnelEnd::ServerGone,
        Err(ending) => {
            drop(server);
            let _in_time = timeout(PARTING_LIMIT, client.part(&ending)).await;
            TunnelEnd::Stopped(ending)
        }
    }
}

/// Which side has no more to send.
enum Ended {
    Client,
    Server,
}

/// Carries bytes both ways, until both sides are done or one of them has had its time.
async fn copy<C, S>(client: &mut Followed<C>, server: &mut S) -> io::Result<TunnelEnd>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_client, mut to_server) = (Pump::new(), Pump::new());
    let first = poll_fn(|cx| {
        if let Poll::Ready(done) = to_client.poll(cx, server, client) {
            return Poll::Ready(done.map(|()| Ended::Server));
        }
        // The client is learning of the end; nobody reads what it still sends, and a failure there is not the session's.
        if to_client.is_over() {
            return Poll::Pending;
        }
        to_server
            .poll(cx, client, server)
            .map(|done| done.map(|()| Ended::Client))
    });
    match first.await? {
        Ended::Server => {
            // Not waited for longer than it takes: what the client still says, nobody reads.
            let _closed = timeout(CLOSE_LIMIT, client.drain()).await;
            Ok(TunnelEnd::Closed)
        }
        Ended::Client => loop {
            let before = client.traffic.to_client();
            let rest = poll_fn(|cx| to_client.poll(cx, server, client));
            match timeout(SILENCE_LIMIT, rest).await {
                Ok(done) => return done.map(|()| TunnelEnd::Closed),
                Err(_) if client.traffic.to_client() == before => return Ok(TunnelEnd::ClientGone),
                Err(_) => {}
            }
        },
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
        self.drain().await
    }

    /// Reads what the client still sends, to its close. A close with bytes unread resets the connection, which may overtake
    /// what the client was sent.
    async fn drain(&mut self) -> io::Result<()> {
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
        self.failed |= matches!(polled, Poll::Ready(Err(_)));
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
    use tokio::io::{BufWriter, DuplexStream, duplex};

    use super::super::farewell::Upgrade;
    use super::super::kind::SessionKind;
    use super::super::registry::testing;
    use super::*;

    fn farewell() -> Farewell {
        let exec = HeaderMap::from_iter([(
            http::header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("v5.channel.k8s.io"),
        )]);
        Farewell::of_upgrade(SessionKind::Exec, Upgrade::WebSocket, &exec)
    }

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
        let stopped = Arc::clone(&stop);
        let running = tokio::spawn(async move {
            carry(near_client, near_server, Arc::default(), farewell(), &stopped).await
        });
        (client, server, stop, running)
    }

    #[tokio::test]
    async fn what_a_client_types_after_the_end_costs_it_no_output() {
        let (mut client, near_client) = duplex(16);
        let (mut server, near_server) = duplex(1024);
        let running = tokio::spawn(async move {
            // As with TLS, the end waits for what the client has not taken yet.
            let near_client = BufWriter::new(near_client);
            let stop = StopTunnel::default();
            carry(near_client, near_server, Arc::default(), farewell(), &stop).await
        });
        server.write_all(&[0; 100]).await.expect("writes");
        drop(server);
        client.write_all(b"typed").await.expect("writes");
        // The tunnel has its turn with a server that takes nothing any more.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.expect("an end");
        assert_eq!(output.len(), 100);
        drop(client);
        assert!(matches!(running.await.expect("no panic"), TunnelEnd::Closed));
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
    async fn an_end_goes_before_bytes_that_are_there_already() {
        for _ in 0..20 {
            let (mut client, mut server, stop, running) = tunnel(4096);
            // Both before the tunnel runs for the first time.
            server.write_all(&[0x82, 3, 1, b'o', b'k']).await.expect("writes");
            stop.stop(&Arc::new(testing::ending(Instant::now())));
            let mut word = Vec::new();
            client.read_to_end(&mut word).await.expect("an end");
            assert!(!word.starts_with(&[0x82, 3, 1, b'o', b'k']), "{word:?}");
            drop(client);
            assert!(matches!(running.await.expect("no panic"), TunnelEnd::Stopped(_)));
        }
    }

    /// A side whose connection was reset.
    struct Reset;

    impl AsyncRead for Reset {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_side_that_broke_off_is_named() {
        let stop = StopTunnel::default();
        let (_far, near) = duplex(64);
        let end = carry(near, Reset, Arc::default(), Farewell::Silent, &stop).await;
        assert!(matches!(end, TunnelEnd::ServerGone), "{end:?}");
        let (_far, near) = duplex(64);
        let end = carry(Reset, near, Arc::default(), Farewell::Silent, &stop).await;
        assert!(matches!(end, TunnelEnd::ClientGone), "{end:?}");
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

    /// The time that a tunnel took to end, and how it ended.
    async fn ended(running: tokio::task::JoinHandle<TunnelEnd>) -> (Duration, TunnelEnd) {
        let began = tokio::time::Instant::now();
        let end = running.await.expect("no panic");
        (began.elapsed(), end)
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_s_end_closes_both_sides_though_the_client_keeps_its_own_open() {
        let (mut client, mut server, _stop, running) = tunnel(4096);
        server.write_all(b"the last words").await.expect("writes");
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
        assert_eq!(rest, b"the last words");
        // It goes on to talk, to nobody.
        client.write_all(b"more").await.expect("writes");
        let (took, end) = ended(running).await;
        assert!(matches!(end, TunnelEnd::Closed), "{end:?}");
        assert!(took <= CLOSE_LIMIT, "{took:?}");
        assert!(client.write_all(b"more").await.is_err(), "it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_client_has_not_taken_is_flushed_first() {
        let (mut client, mut server, _stop, running) = tunnel(8);
        server.write_all(&[7; 1000]).await.expect("writes");
        drop(server);
        tokio::time::sleep(CLOSE_LIMIT * 3).await;
        assert!(!running.is_finished(), "992 bytes are left");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
        assert_eq!(rest.len(), 1000);
        drop(client);
        let (took, end) = ended(running).await;
        assert!(
            matches!(end, TunnelEnd::Closed) && took.is_zero(),
            "{end:?} after {took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_said_all_gets_the_rest() {
        let (mut client, mut server, _stop, running) = tunnel(4096);
        client.write_all(b"question").await.expect("writes");
        client.shutdown().await.expect("half a close");
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.expect("an end");
        assert_eq!(question, b"question");
        for _ in 0..3 {
            tokio::time::sleep(SILENCE_LIMIT - Duration::from_secs(1)).await;
            server.write_all(b"answer").await.expect("writes");
        }
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an end");
        assert_eq!(answer, b"answeransweranswer");
        drop(client);
        assert!(matches!(ended(running).await.1, TunnelEnd::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_after_the_client_s_end_does_not_hold_it() {
        let (mut client, server, _stop, running) = tunnel(4096);
        client.shutdown().await.expect("half a close");
        let (took, end) = ended(running).await;
        assert!(matches!(end, TunnelEnd::ClientGone), "{end:?}");
        assert!(took <= SILENCE_LIMIT + Duration::from_secs(1), "{took:?}");
        drop((client, server));
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_is_closed_before_the_client_has_taken_the_last_word() {
        let (_client, mut server, stop, running) = tunnel(8);
        server.write_all(&[0x82, 100]).await.expect("writes");
        server.write_all(&[7; 100]).await.expect("writes");
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        stop.stop(&Arc::new(testing::ending(Instant::now())));
        assert_eq!(server.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(began.elapsed(), Duration::ZERO, "it waited for the client");
        assert!(matches!(running.await.expect("no panic"), TunnelEnd::Stopped(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_still_sends_is_read_so_that_its_connection_is_not_reset() {
        let (mut client, _server, stop, running) = tunnel(1024);
        stop.stop(&Arc::new(testing::ending(Instant::now())));
        let mut word = Vec::new();
        client.read_to_end(&mut word).await.expect("an end");
        assert!(!word.is_empty());
        // More than lies between the two.
        client.write_all(&[0; 4096]).await.expect("somebody reads");
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
