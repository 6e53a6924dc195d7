//! A pod that speaks HTTP/2 as no library does: it asks for long lists and lets nothing come, or sends frames without end.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::PAUSE;
use crate::http2;
use crate::load::client::{Ask, Dialer};

/// Connections of HTTP/2 that ask for lists with a window of 0, and the lists on each.
const HELD: usize = 10;
const LISTS: u32 = 100;
/// Connections of HTTP/1.1 that ask for a list and read no byte of it.
const UNREAD: usize = 64;
/// Connections that send pings and settings, and connections that send bodies of one byte a frame.
const CONTROL: usize = 4;
const BODIES: usize = 4;
/// Frames that are written at once: about a record of TLS.
const AT_ONCE: usize = 1_000;
/// Frames of one body, which the window of a stream takes at once at a proxy that has a large one.
const BODY_FRAMES: usize = 200_000;

/// What a server may send on a stream of a connection that sends frames.
const WINDOW: u32 = 65_535;
/// What is read at once, to be thrown away.
const BUFFER: usize = 16 * 1024;

/// Asks for long lists and takes nothing of them.
pub(super) fn hold(http1: &Dialer, http2: &Dialer, path: &str) {
    for _ in 0..UNREAD {
        let (dialer, ask) = (http1.clone(), Ask::get(path));
        again(move || {
            let (dialer, ask) = (dialer.clone(), ask.clone());
            async move {
                let mut connection = dialer.dial().await?;
                // A body that is not polled is not read from the socket, except for what fits a buffer.
                let _unread = connection.ask(&ask).await?;
                std::future::pending::<Result<()>>().await
            }
        });
    }
    for _ in 0..HELD {
        let (dialer, path) = (http2.clone(), path.to_owned());
        again(move || {
            let mut begin = http2::preface(0);
            for number in 0..LISTS {
                begin.extend(http2::get(number * 2 + 1, &dialer.authority(), &path));
            }
            send(dialer.clone(), begin, None)
        });
    }
}

/// Sends pings and settings without end, and bodies of one byte a frame, as fast as they are taken.
pub(super) fn flood(dialer: &Dialer, path: &str) {
    let begin = http2::preface(WINDOW);
    let control = [http2::ping(), http2::settings(WINDOW)].concat();
    let control = control.repeat(AT_ONCE / 2);
    for _ in 0..CONTROL {
        let (dialer, begin, control) = (dialer.clone(), begin.clone(), control.clone());
        again(move || send(dialer.clone(), begin.clone(), Some((control.clone(), usize::MAX))));
    }
    for _ in 0..BODIES {
        let (dialer, begin) = (dialer.clone(), begin.clone());
        let head = http2::post(1, &dialer.authority(), path);
        let body = http2::data(1).repeat(AT_ONCE);
        again(move || {
            let begin = [begin.clone(), head.clone()].concat();
            send(dialer.clone(), begin, Some((body.clone(), BODY_FRAMES / AT_ONCE)))
        });
    }
}

/// Does it again whenever it has ended.
fn again<F>(mut work: impl FnMut() -> F + Send + 'static)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            let _ = work().await;
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Writes the beginning, then the burst as often as said, and reads whatever is answered. Without a burst it stays.
async fn send(dialer: Dialer, begin: Vec<u8>, burst: Option<(Vec<u8>, usize)>) -> Result<()> {
    let (mut read, mut write) = tokio::io::split(dialer.session().await?);
    let reading = async {
        let mut buffer = vec![0; BUFFER];
        while read.read(&mut buffer).await? > 0 {}
        anyhow::Ok(())
    };
    let writing = async {
        write.write_all(&begin).await?;
        write.flush().await?;
        let Some((burst, times)) = burst else {
            return std::future::pending::<Result<()>>().await;
        };
        for _ in 0..times {
            write.write_all(&burst).await?;
        }
        Ok(write.flush().await?)
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}
