//! WebSocket (RFC 6455) as far as commands in containers need it: messages of Kubernetes' channels, `v5.channel.k8s.io`, in
//! one frame each.
//!
//! In: bytes of an upgraded connection. Out: messages, each with its channel; and the other way about.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

/// The subprotocol whose messages begin with their channel, and which can end a channel (k8s.io/apimachinery
/// pkg/util/remotecommand/constants.go).
pub(crate) const PROTOCOL: &str = "v5.channel.k8s.io";
/// The example of RFC 6455, section 1.3: a key, and what a server answers to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The channels of a command.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
/// Tells that the channel named in the message ends.
pub(crate) const CLOSE_CHANNEL: u8 = 255;

/// What is read at once.
const BUFFER: usize = 64 * 1024;
/// No message here is longer; a longer one is none.
const MESSAGE_LIMIT: usize = 1024 * 1024;

const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;

/// Whose message it is: a client's is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

/// Appends one message to `out`. Its mask is of zeros, which leaves the data as it is.
pub(crate) fn message(out: &mut Vec<u8>, sender: Sender, channel: u8, data: &[u8]) {
    let masked = match sender {
        Sender::Client => MASKED,
        Sender::Server => 0,
    };
    let length = data.len() + 1;
    out.push(BINARY);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => out.push(masked | length),
        (_, Ok(length)) => {
            out.push(masked | 126);
            out.extend(length.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    if sender == Sender::Client {
        out.extend([0; 4]);
    }
    out.push(channel);
    out.extend(data);
}

/// The frame that ends a connection.
pub(crate) const fn close() -> [u8; 2] {
    [CLOSE, 0]
}

/// The messages that arrive.
pub(crate) struct Messages<R> {
    from: BufReader<R>,
    payload: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from: BufReader::with_capacity(BUFFER, from),
            payload: Vec::new(),
        }
    }

    /// The next message, its channel and its data; none after the end.
    pub(crate) async fn next(&mut self) -> Result<Option<(u8, &[u8])>> {
        loop {
            let mut head = [0; 2];
            if self.from.read_exact(&mut head).await.is_err() {
                return Ok(None);
            }
            let length = match head[1] & !MASKED {
                126 => usize::from(self.from.read_u16().await?),
                127 => usize::try_from(self.from.read_u64().await?)?,
                length => usize::from(length),
            };
            ensure!(length <= MESSAGE_LIMIT, "a message of {length} bytes");
            let mut mask = [0; 4];
            if head[1] & MASKED != 0 {
                self.from.read_exact(&mut mask).await?;
            }
            self.payload.resize(length, 0);
            self.from
                .read_exact(&mut self.payload)
                .await
                .context("the connection ended within a message")?;
            if mask != [0; 4] {
                for (byte, mask) in self.payload.iter_mut().zip(mask.iter().cycle()) {
                    *byte ^= mask;
                }
            }
            match (head[0], length) {
                (CLOSE, _) => return Ok(None),
                (BINARY, 1..) => break,
                // Pings and the like.
                _ => {}
            }
        }
        Ok(self.payload.split_first().map(|(channel, data)| (*channel, data)))
    }

    /// The data of the message that came last.
    pub(crate) fn last(&self) -> &[u8] {
        self.payload.get(1..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut messages, mut all) = (Messages::new(bytes), Vec::new());
            while let Some((channel, data)) = messages.next().await.unwrap() {
                all.push((channel, data.to_vec()));
            }
            all
        })
    }

    #[test]
    fn messages_of_each_length_come_back_with_their_channel() {
        for sender in [Sender::Client, Sender::Server] {
            for length in [0, 1, 124, 125, 65_534, 65_535, 70_000] {
                let (mut bytes, data) = (Vec::new(), vec![7; length]);
                message(&mut bytes, sender, STDOUT, &data);
                bytes.extend(close());
                assert_eq!(read(&bytes), [(STDOUT, data)], "{sender:?} {length}");
            }
        }
    }

    #[test]
    fn a_mask_is_taken_off_and_a_ping_is_no_message() {
        // RFC 6455, section 5.7: a masked "Hello", here as binary; before it a ping.
        let bytes = [
            0x89, 0x00, 0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(read(&bytes), [(b'H', b"ello".to_vec())]);
    }
}
