//! The client's end of a connection, and how long it may stand still.
//!
//! In: a socket that the listener accepted. Out: the same bytes, or an error once the client is gone, or if it does not begin with
//! TLS. A client that does not run for a while (a freezer, a debugger, a CPU limit) is not gone: its kernel still answers. So
//! nothing is asked of the client itself; the kernel probes a silent connection, and a write that is not taken for long fails.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::tls::PlainHttp;

/// A client's kernel is asked after so much silence, then at these intervals; so many unanswered probes end the connection.
/// A client that vanished is noticed within a minute. Data that is not acknowledged has the kernel's own limit
/// (`tcp_retries2`, about 15 minutes).
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// How long the client may take nothing of what is written to it. Until then the connection holds its buffers, and a watch's
/// record is open; ten minutes outlast a person at a debugger or a pager. (`TCP_USER_TIMEOUT` would do the same in the
/// kernel, but it also replaces the count of probes.)
const STALL_LIMIT: Duration = Duration::from_secs(600);

/// How long, and how many bytes, what a client still sends is read and dropped after the last answer. A socket that is closed over
/// unread bytes, or before the next ones, resets its connection, and the client loses the answer: 413, say, while it sends a
/// body. A client that has the end closes within a round trip. Go's server waits as long (net/http, `rstAvoidanceDelay`), but
/// reads nothing, so that longer bodies are reset there.
const LINGER_LIMIT: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 32 * 1024 * 1024;

/// A connection to a client.
#[derive(Debug)]
pub(super) struct ClientStream {
    socket: TcpStream,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether something was read.
    begun: bool,
    closing: Closing,
    tunnel: IsTunnel,
}

/// Says that a connection carries a tunnel. What its client still sends is TLS that the tunnel reads to its end itself.
#[derive(Debug, Clone, Default)]
pub(super) struct IsTunnel(Arc<AtomicBool>);

impl IsTunnel {
    /// From now on it does.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How far the end of a connection is.
#[derive(Debug)]
enum Closing {
    No,
    /// The client has the end. What it sends is dropped, up to so many bytes, for so long.
    Lingering(usize, Pin<Box<Sleep>>),
    Done,
}

impl ClientStream {
    /// A socket on which the kernel looks after the client.
    pub(super) fn new(socket: TcpStream) -> ClientStream {
        let probes = TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_INTERVAL)
            .with_retries(PROBES);
        // Small answers and watch events must leave at once; a failure costs latency only.
        let set = socket
            .set_nodelay(true)
            .and_then(|()| SockRef::from(&socket).set_tcp_keepalive(&probes));
        if let Err(error) = set {
            tracing::debug!(%error, "a client's socket takes no options");
        }
        ClientStream {
            socket,
            stalled: None,
            begun: false,
            closing: Closing::No,
            tunnel: IsTunnel::default(),
        }
    }

    /// For whoever learns that the connection becomes a tunnel.
    pub(super) fn tunnel(&self) -> IsTunnel {
        self.tunnel.clone()
    }

    /// Reads and drops what the client still sends; ready when it sends no more, or when it has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Closing::Lingering(left, clock) = &mut self.closing else {
            return Poll::Ready(());
        };
        let mut dropped = [0; 16 * 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut dropped);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && *left > 0 => {
                    *left = left.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                // Also where nothing is unread: a client pauses while it sends, on a busy machine above all.
                Poll::Pending => return clock.as_mut().poll(cx),
            }
        }
    }

    /// Passes a write on, and fails one that has waited for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_LIMIT)));
        stalled.as_mut().poll(cx).map(|()| {
            let limit = STALL_LIMIT.as_secs();
            let text = format!("the client took nothing of what was written to it for {limit} s");
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let client = self.get_mut();
        if client.begun {
            return Pin::new(&mut client.socket).poll_read(cx, buffer);
        }
        let filled = buffer.filled().len();
        ready!(Pin::new(&mut client.socket).poll_read(cx, buffer))?;
        client.begun = true;
        match buffer.filled().get(filled) {
            Some(byte) if PlainHttp::begins(*byte) => Poll::Ready(Err(io::Error::other(PlainHttp))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let client = self.get_mut();
        let written = Pin::new(&mut client.socket).poll_write(cx, bytes);
        client.in_time(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let client = self.get_mut();
        let written = Pin::new(&mut client.socket).poll_write_vectored(cx, bytes);
        client.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let client = self.get_mut();
        if let Closing::No = client.closing {
            ready!(Pin::new(&mut client.socket).poll_shutdown(cx))?;
            if client.tunnel.get() {
                client.closing = Closing::Done;
                return Poll::Ready(Ok(()));
            }
            client.closing = Closing::Lingering(LINGER_BYTES, Box::pin(tokio::time::sleep(LINGER_LIMIT)));
        }
        ready!(client.poll_linger(cx));
        client.closing = Closing::Done;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    async fn pair() -> (TcpStream, ClientStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
        (
            far.expect("connected"),
            ClientStream::new(near.expect("accepted").0),
        )
    }

    /// Writes until the kernel takes no more.
    async fn fill(client: &mut ClientStream) {
        let bytes = vec![7; 1 << 20];
        while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), client.write(&bytes)).await {
            written.expect("written");
        }
    }

    #[tokio::test]
    async fn the_kernel_probes_a_silent_client_and_has_no_other_limit() {
        let (_far, client) = pair().await;
        let socket = SockRef::from(&client.socket);
        assert!(socket.keepalive().expect("an option") && client.socket.nodelay().expect("an option"));
        let noticed = socket.tcp_keepalive_time().expect("an option")
            + socket.tcp_keepalive_interval().expect("an option")
                * socket.tcp_keepalive_retries().expect("an option");
        assert_eq!(noticed, Duration::from_secs(60));
        assert_eq!(
            socket.tcp_user_timeout().expect("an option").unwrap_or_default(),
            Duration::ZERO
        );
    }

    #[tokio::test]
    async fn a_client_without_tls_is_told_in_http() {
        let (mut far, client) = pair().await;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        far.write_all(b"GET /version HTTP/1.1\r\nHost: kubernetes\r\n\r\n")
            .await
            .expect("sent");
        let error = crate::tls::accept(Arc::new(config), client, crate::tls::HANDSHAKE_LIMIT)
            .await
            .expect_err("no TLS");
        assert!(error.to_string().contains("HTTP without TLS"), "{error}");
        let mut told = String::new();
        far.read_to_string(&mut told).await.expect("an answer");
        assert!(told.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{told}");
    }

    #[tokio::test]
    async fn a_client_that_still_sends_gets_its_answer() {
        let (far, mut client) = pair().await;
        let (mut reads, mut writes) = far.into_split();
        let sending = tokio::spawn(async move { writes.write_all(&vec![7; 20 << 20]).await });
        client.read_exact(&mut [0; 4096]).await.expect("a head");
        client.write_all(b"too large").await.expect("an answer");
        client.shutdown().await.expect("a close");
        drop(client);
        sending.await.expect("no panic").expect("sent");
        let mut answer = String::new();
        reads.read_to_string(&mut answer).await.expect("no reset");
        assert_eq!(answer, "too large");
    }

    #[tokio::test]
    async fn a_client_that_pauses_while_it_sends_gets_its_answer() {
        let (mut far, mut client) = pair().await;
        far.write_all(&[7; 4096]).await.expect("sent");
        client.read_exact(&mut [0; 4096]).await.expect("a head");
        client.write_all(b"too large").await.expect("an answer");
        let closing = tokio::spawn(async move { client.shutdown().await });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            far.write_all(&[7; 4096]).await.expect("no reset");
        }
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.expect("no reset");
        assert_eq!(answer, "too large");
        drop(far);
        closing.await.expect("no panic").expect("a close");
    }

    #[tokio::test]
    async fn a_client_that_has_closed_is_not_waited_for() {
        let (far, mut client) = pair().await;
        drop(far);
        client.socket.readable().await.expect("closed");
        tokio::time::pause();
        let began = Instant::now();
        client.shutdown().await.expect("a close");
        assert!(began.elapsed() < LINGER_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_stop_has_its_time() {
        let (mut far, mut client) = pair().await;
        far.write_all(&[7; 4096]).await.expect("sent");
        let began = Instant::now();
        client.shutdown().await.expect("a close");
        assert_eq!(began.elapsed(), LINGER_LIMIT);
        client.shutdown().await.expect("closed before");
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_for_long_is_given_up() {
        let (far, mut client) = pair().await;
        fill(&mut client).await;
        let began = Instant::now();
        let error = client.write_all(&[7; 4096]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= STALL_LIMIT - Duration::from_secs(2));
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_before_that_gets_everything() {
        let (mut far, mut client) = pair().await;
        fill(&mut client).await;
        let writing = tokio::spawn(async move { client.write_all(&[7; 1 << 20]).await });
        tokio::time::sleep(STALL_LIMIT - Duration::from_secs(10)).await;
        // What is on its way would else come after the clock.
        tokio::time::resume();
        let mut read = vec![0; 1 << 20];
        while !writing.is_finished() {
            far.read_exact(&mut read[..4096]).await.expect("bytes");
        }
        writing.await.expect("no panic").expect("written");
    }

    #[tokio::test(start_paused = true)]
    async fn each_standstill_has_the_whole_time() {
        let (mut far, mut client) = pair().await;
        let mut read = vec![0; 1 << 20];
        for _ in 0..3 {
            fill(&mut client).await;
            let stalled = tokio::time::timeout(STALL_LIMIT / 2, client.write(&[7; 4096])).await;
            assert!(stalled.is_err(), "nobody reads");
            tokio::time::resume();
            // The kernel has room again once most of it was read.
            let mut written = None;
            while written.is_none() {
                tokio::select! {
                    biased;
                    one = client.write(&[7; 4096]) => written = Some(one),
                    some = far.read(&mut read) => drop(some.expect("bytes")),
                }
            }
            written.expect("a write").expect("written");
            tokio::time::pause();
        }
    }
}
