//! WebSocket frames (RFC 6455) on their way to the client: where one ends, and last words as frames.
//!
//! In: the bytes sent to the client, what kind of last word the session takes ([`Says`]), and an [`Ending`]. Out: the frames of
//! the last word, or none where no frame fits.

use super::super::ending::Ending;

/// A close frame's code where all was said before (RFC 6455 section 7.4.1). After any other, kubectl shows the close and not
/// what came on the error channel (k8s.io/client-go tools/remotecommand/websocket.go, `readDemuxLoop`).
const NORMAL: u16 = 1000;

/// A close frame's code for a peer that broke a policy.
const POLICY_VIOLATION: u16 = 1008;

/// The longest payload of a control frame, less the code.
const CLOSE_REASON: usize = 123;

/// The channel on which exec and attach end (k8s.io/apimachinery pkg/util/remotecommand).
const ERROR_CHANNEL: u8 = 3;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// What is said before the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// A `Status` on the error channel.
    OnErrorChannel,
    /// A watch event of type `ERROR`.
    Event,
    /// Nothing; the close frame has the reason.
    CloseAlone,
}

/// Follows the server's frames.
#[derive(Debug)]
pub struct WebSocket {
    says: Says,
    head: [u8; 14],
    have: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// Whether a message is under way that has further frames.
    fragmented: bool,
    /// The kind of the last message.
    last: u8,
    closed: bool,
}

impl WebSocket {
    pub(super) fn new(says: Says) -> WebSocket {
        WebSocket {
            says,
            head: [0; 14],
            have: 0,
            left: 0,
            fragmented: false,
            last: 0,
            closed: false,
        }
    }

    pub(super) fn sent(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.left > 0 {
                let step = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= step as u64;
                data = &data[step..];
                continue;
            }
            self.head[self.have] = *first;
            self.have += 1;
            data = rest;
            if self.have >= 2 && self.have == head_length(self.head[1]) {
                self.begin();
            }
        }
    }

    /// A frame's head is there.
    fn begin(&mut self) {
        let (finishes, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        self.left = match self.head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&self.head[2..10]);
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        // Control frames may stand between a message's frames.
        if opcode < CLOSE {
            self.fragmented = !finishes;
            if opcode != 0 {
                self.last = opcode;
            }
        }
        self.closed |= opcode == CLOSE;
        self.have = 0;
    }

    /// Frames to send before the connection is closed, where they fit.
    pub(super) fn last_word(&self, ending: &Ending) -> Option<Vec<u8>> {
        if self.left > 0 || self.have > 0 || self.closed {
            return None;
        }
        let mut out = Vec::new();
        let mut code = POLICY_VIOLATION;
        if !self.fragmented {
            match self.says {
                Says::OnErrorChannel => {
                    let mut message = vec![ERROR_CHANNEL];
                    message.extend(ending.status.to_json());
                    frame(&mut out, BINARY, &message);
                    code = NORMAL;
                }
                // A watch in a binary form has no event that could be written here.
                Says::Event if self.last != BINARY => frame(&mut out, TEXT, &super::event(ending)),
                Says::Event | Says::CloseAlone => {}
            }
        }
        let mut close = code.to_be_bytes().to_vec();
        let message = ending.message();
        let end = message.floor_char_boundary(CLOSE_REASON);
        close.extend_from_slice(&message.as_bytes()[..end]);
        frame(&mut out, CLOSE, &close);
        Some(out)
    }
}

/// The length of a frame's head, by its second byte: the payload's length and whether there is a mask.
fn head_length(second: u8) -> usize {
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 != 0 { 4 } else { 0 }
}

/// A whole message in one frame. A server's has no mask.
fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..65536 => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::super::tests::ending;
    use super::*;

    /// Splits whole frames apart: opcode and payload.
    fn frames(mut data: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        while let [first, second, rest @ ..] = data {
            let (length, rest) = match second {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                127 => panic!("longer than any here"),
                short => (usize::from(*short), rest),
            };
            found.push((first & 0x0f, rest[..length].to_vec()));
            data = &rest[length..];
        }
        found
    }

    #[test]
    fn the_error_channel_gets_a_status_and_then_the_close() {
        let socket = WebSocket::new(Says::OnErrorChannel);
        let frames = frames(&socket.last_word(&ending()).expect("fits"));
        assert_eq!(frames.len(), 2);
        let (opcode, message) = &frames[0];
        assert_eq!((*opcode, message[0]), (BINARY, ERROR_CHANNEL));
        let status: serde_json::Value = serde_json::from_slice(&message[1..]).expect("JSON");
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&"Status".into(), &403.into())
        );
        let (opcode, close) = &frames[1];
        assert_eq!((*opcode, &close[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]));
        assert!(close.len() <= 125);
    }

    #[test]
    fn nothing_is_put_inside_a_frame_or_a_message() {
        let long = vec![7; 70_000];
        let mut stream = Vec::new();
        frame(&mut stream, BINARY, &[1; 5]);
        let first = stream.len();
        frame(&mut stream, BINARY, &[2; 300]);
        let second = stream.len();
        frame(&mut stream, BINARY, &long);
        let third = stream.len();
        for step in [1, 3, 7, 1000, 65_000] {
            let mut socket = WebSocket::new(Says::OnErrorChannel);
            let mut passed = 0;
            for piece in stream.chunks(step) {
                socket.sent(piece);
                passed += piece.len();
                let fits = socket.last_word(&ending()).is_some();
                assert_eq!(
                    fits,
                    [first, second, third].contains(&passed),
                    "{passed} by {step}"
                );
            }
        }
        // The first of two frames of one message: a close may come between, a message may not.
        let mut socket = WebSocket::new(Says::OnErrorChannel);
        socket.sent(&[BINARY, 1, 9]);
        let said = frames(&socket.last_word(&ending()).expect("fits"));
        assert_eq!(
            said.iter().map(|(opcode, _)| *opcode).collect::<Vec<_>>(),
            [CLOSE]
        );
        // A ping between them ends nothing.
        socket.sent(&[0x89, 0]);
        let said = frames(&socket.last_word(&ending()).expect("fits"));
        assert_eq!(said.len(), 1);
        socket.sent(&[0x80, 1, 9]);
        assert_eq!(frames(&socket.last_word(&ending()).expect("fits")).len(), 2);
    }

    #[test]
    fn after_the_servers_own_close_nothing_follows() {
        let mut socket = WebSocket::new(Says::Event);
        socket.sent(&[0x88, 2, 3, 0xe8]);
        assert!(socket.last_word(&ending()).is_none());
    }

    #[test]
    fn a_binary_watch_is_closed_without_a_text() {
        let mut socket = WebSocket::new(Says::Event);
        socket.sent(&[0x80 | BINARY, 1, 9]);
        let said = frames(&socket.last_word(&ending()).expect("fits"));
        assert_eq!(
            said.iter().map(|(opcode, _)| *opcode).collect::<Vec<_>>(),
            [CLOSE]
        );
    }
}
