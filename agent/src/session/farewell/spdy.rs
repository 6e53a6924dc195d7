//! SPDY/3.1 frames of exec and attach: where one ends, and a `Status` on the error stream.
//!
//! In: the bytes of both directions, and an [`Ending`]. Out: the frames of the last word, or none where no frame fits.
//!
//! The error stream is the first that the client opens. client-go does so in every version of the protocol (k8s.io/client-go
//! tools/remotecommand/v2.go and v4.go, `createStreams`), and no other client speaks SPDY. Its headers are compressed, so it is
//! known by being first. A stream that the server has not answered gets nothing.

use super::super::ending::Ending;

/// A frame's head: two words, and the first of a control frame's payload, which is the stream's number.
const HEAD: usize = 8;
const STREAM: usize = 4;

const CONTROL_V3: [u8; 2] = [0x80, 0x03];
const SYN_STREAM: u8 = 1;
const SYN_REPLY: u8 = 2;
const FIN: u8 = 1;

/// Follows both directions.
#[derive(Debug, Default)]
pub struct Spdy {
    /// The client's first bytes.
    opening: Head,
    head: Head,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// Whether the server took the error stream.
    answered: bool,
}

/// The first bytes of a frame.
#[derive(Debug, Default)]
struct Head {
    bytes: [u8; HEAD + STREAM],
    have: usize,
}

impl Head {
    fn push(&mut self, byte: u8) {
        self.bytes[self.have] = byte;
        self.have += 1;
    }

    /// The stream that a control frame of this type is about.
    fn stream(&self, frame: u8) -> Option<[u8; STREAM]> {
        let [a, b, _, kind, _, _, _, _, stream @ ..] = self.bytes;
        (self.have == HEAD + STREAM && [a, b] == CONTROL_V3 && kind == frame).then_some(stream)
    }

    fn length(&self) -> usize {
        let [.., a, b, c, _, _, _, _] = self.bytes;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }
}

impl Spdy {
    pub(super) fn received(&mut self, data: &[u8]) {
        for byte in data.iter().take(HEAD + STREAM - self.opening.have) {
            self.opening.push(*byte);
        }
    }

    pub(super) fn sent(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.head.have < HEAD {
                self.head.push(*first);
                data = rest;
                if self.head.have == HEAD {
                    self.left = self.head.length();
                }
            } else {
                let step = data.len().min(self.left);
                for byte in data[..step].iter().take(HEAD + STREAM - self.head.have) {
                    self.head.push(*byte);
                }
                self.left -= step;
                data = &data[step..];
            }
            if self.head.have >= HEAD && self.left == 0 {
                let replied = self.head.stream(SYN_REPLY);
                self.answered |= replied.is_some() && replied == self.opening.stream(SYN_STREAM);
                self.head.have = 0;
            }
        }
    }

    /// A data frame that ends the error stream, where it fits.
    pub(super) fn last_word(&self, ending: &Ending) -> Option<Vec<u8>> {
        let stream = self.opening.stream(SYN_STREAM)?;
        if !self.answered || self.head.have > 0 {
            return None;
        }
        let status = ending.status.to_json();
        let [0, length @ ..] = u32::try_from(status.len()).ok()?.to_be_bytes() else {
            return None;
        };
        let mut frame = stream.to_vec();
        frame.push(FIN);
        frame.extend(length);
        frame.extend(status);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ending;
    use super::*;

    fn control(kind: u8, stream: u8, rest: &[u8]) -> Vec<u8> {
        let length = (STREAM + rest.len()) as u8;
        let mut frame = vec![0x80, 3, 0, kind, 0, 0, 0, length, 0, 0, 0, stream];
        frame.extend_from_slice(rest);
        frame
    }

    fn data(stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, stream, 0, 0, 0, payload.len() as u8];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn the_error_stream_gets_a_status_once_the_server_took_it() {
        let mut spdy = Spdy::default();
        let opening = control(SYN_STREAM, 1, b"compressed");
        // By pieces, as it may come.
        spdy.received(&opening[..5]);
        spdy.received(&opening[5..]);
        spdy.received(&control(SYN_STREAM, 3, b"stdout"));
        assert!(spdy.last_word(&ending()).is_none(), "not answered");
        spdy.sent(&control(SYN_REPLY, 3, b"x"));
        assert!(spdy.last_word(&ending()).is_none(), "another one's answer");
        spdy.sent(&control(SYN_REPLY, 1, b""));
        let word = spdy.last_word(&ending()).expect("fits");
        assert_eq!(word[..5], [0, 0, 0, 1, FIN]);
        assert_eq!(
            usize::from(word[6]) << 8 | usize::from(word[7]),
            word.len() - HEAD
        );
        let status: serde_json::Value = serde_json::from_slice(&word[HEAD..]).expect("JSON");
        assert_eq!(status["reason"], "Forbidden");
    }

    #[test]
    fn nothing_is_put_inside_a_frame() {
        let reply = control(SYN_REPLY, 1, b"abc");
        let (first, second) = (data(3, b""), data(3, &[5; 200]));
        let stream = [&reply[..], &first, &second].concat();
        let ends = [reply.len(), reply.len() + first.len(), stream.len()];
        for step in [1, 2, 7, 11, 100] {
            let mut spdy = Spdy::default();
            spdy.received(&control(SYN_STREAM, 1, b"x"));
            let mut passed = 0;
            for piece in stream.chunks(step) {
                spdy.sent(piece);
                passed += piece.len();
                assert_eq!(
                    spdy.last_word(&ending()).is_some(),
                    ends.contains(&passed),
                    "{passed} by {step}"
                );
            }
        }
    }

    #[test]
    fn a_client_that_begins_otherwise_is_told_nothing() {
        let mut spdy = Spdy::default();
        spdy.received(&data(1, b"not a stream's opening"));
        spdy.sent(&control(SYN_REPLY, 1, b""));
        assert!(spdy.last_word(&ending()).is_none());
    }
}
