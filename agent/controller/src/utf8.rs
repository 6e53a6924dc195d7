//! Bodies of the API server's answers, with bytes that are no UTF-8 replaced.
//!
//! In: the frames of a client's answers. Out: the same frames, in which each such byte is a `?`.
//!
//! `metadata.managedFields` comes as somebody wrote it, byte for byte, and Go's decoders take any. A client that wants UTF-8 fails at the
//! whole list, before it looks at an object: see [`crate::lenient`].

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::{Body, Bytes};

/// The body of a response in UTF-8.
pub fn response<B>(
    response: Response<B>,
) -> Response<impl Body<Data = Bytes, Error = B::Error> + Send + 'static>
where
    B: Body<Data = Bytes> + Send + 'static,
{
    let mut utf8 = Utf8::default();
    response.map(|body| body.map_frame(move |frame| frame.map_data(|data| utf8.clean(data))))
}

/// What a body is read with.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character that the next frame goes on with.
    rest: Vec<u8>,
}

impl Utf8 {
    /// A frame, with the rest of the one before. A character that the last frame breaks off is left out: the body is cut then.
    fn clean(&mut self, data: Bytes) -> Bytes {
        if self.rest.is_empty() && std::str::from_utf8(&data).is_ok() {
            return data;
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(&data);
        let mut clean = Vec::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            clean.extend_from_slice(chunk.valid().as_bytes());
            let invalid = chunk.invalid();
            let goes_on = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if goes_on && chunks.peek().is_none() {
                self.rest = invalid.to_vec();
            } else {
                clean.resize(clean.len() + invalid.len(), b'?');
            }
        }
        clean.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &[&[u8]]) -> Vec<u8> {
        let mut utf8 = Utf8::default();
        let frames = frames
            .iter()
            .map(|frame| utf8.clean(Bytes::copy_from_slice(frame)));
        frames.collect::<Vec<_>>().concat()
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced_one_by_one() {
        let cases: [(&[&[u8]], &str); 8] = [
            (&[b"{\"a\":\"b\"}"], "{\"a\":\"b\"}"),
            (&[b"{\"f:\xff\":{}}"], "{\"f:?\":{}}"),
            (&[b"\xff\xfe", b"x"], "??x"),
            (&["é".as_bytes()], "é"),
            (&[b"\xc3", b"\xa9."], "é."),
            (&[b"a\xe2", b"\x82", b"\xac"], "a€"),
            (&[b"\xc3", b"x"], "?x"),
            (&[b"\xe2\x82", b"x\xff"], "??x?"),
        ];
        for (frames, expected) in cases {
            assert_eq!(String::from_utf8_lossy(&read(frames)), expected, "{frames:?}");
        }
    }

    #[test]
    fn a_good_frame_is_passed_on_as_it_is() {
        let frame = Bytes::from_static("größe".as_bytes());
        let passed = Utf8::default().clean(frame.clone());
        assert_eq!(passed.as_ptr(), frame.as_ptr());
    }
}
