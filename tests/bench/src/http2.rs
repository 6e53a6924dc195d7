//! Single frames of HTTP/2 (RFC 9113), for clients that do what no library does.
//!
//! In: what a frame shall say. Out: its bytes.

/// The types of frames that are sent.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The setting for how much a server may send on a stream before it is told to go on.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Texts of requests are written without Huffman's code and with a length of one byte.
const TEXT_LIMIT: usize = 126;

/// The longest frame that every server takes.
#[cfg(test)]
const FRAME_LIMIT: usize = 16_384;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a client begins with. A server may send nothing on a stream when the window is 0.
pub(crate) fn preface(window: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(settings(window));
    bytes
}

/// Settings that repeat the window.
pub(crate) fn settings(window: u32) -> Vec<u8> {
    let mut payload = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    payload.extend(window.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// A ping, which the server answers.
pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

/// One byte of a body.
pub(crate) fn data(stream: u32) -> Vec<u8> {
    frame(DATA, 0, stream, b" ")
}

/// A GET, whose request is whole.
pub(crate) fn get(stream: u32, authority: &str, path: &str) -> Vec<u8> {
    // The static table of HPACK (RFC 7541, appendix A): 2 is GET, 7 is https.
    headers(END_STREAM, stream, &[0x82, 0x87], authority, path)
}

/// The head of a POST of JSON, whose body follows.
pub(crate) fn post(stream: u32, authority: &str, path: &str) -> Vec<u8> {
    // Index 3 is POST, 7 is https.
    let mut bytes = headers(0, stream, &[0x83, 0x87], authority, path);
    // Index 31 is content-type.
    text(&mut bytes, &[0x0f, 0x10], "application/json");
    let length = u32::try_from(bytes.len() - 9).unwrap_or(u32::MAX).to_be_bytes();
    bytes[..3].copy_from_slice(&length[1..]);
    bytes
}

fn headers(flags: u8, stream: u32, fields: &[u8], authority: &str, path: &str) -> Vec<u8> {
    let mut block = fields.to_vec();
    // Literals that are not indexed: 1 is the name of :authority, 4 that of :path.
    text(&mut block, &[0x01], authority);
    text(&mut block, &[0x04], path);
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}

fn text(block: &mut Vec<u8>, name: &[u8], value: &str) {
    debug_assert!(value.len() <= TEXT_LIMIT, "{value} is too long");
    block.extend(name);
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_their_length() {
        for bytes in [
            settings(0),
            ping(),
            data(1),
            get(1, "a:1", "/b"),
            post(3, "a:1", "/b"),
        ] {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            assert_eq!(length + 9, bytes.len());
            assert!(length <= FRAME_LIMIT);
        }
    }

    #[test]
    fn a_server_understands_them() {
        use hyper_util::rt::{TokioExecutor, TokioIo};
        use tokio::io::AsyncWriteExt;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(65_536);
            let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let head = format!("{} {}", request.method(), request.uri());
                seen.send((head, request.headers().contains_key("content-type")))
                    .unwrap();
                async { anyhow::Ok(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new())) }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(server), service),
            );
            let mut bytes = preface(0);
            bytes.extend(get(1, "a:1", "/b"));
            bytes.extend(post(3, "a:1", "/b"));
            bytes.extend([ping(), settings(0), data(3)].concat());
            client.write_all(&bytes).await.unwrap();
            assert_eq!(
                requests.recv().await.unwrap(),
                ("GET https://a:1/b".to_owned(), false)
            );
            assert_eq!(
                requests.recv().await.unwrap(),
                ("POST https://a:1/b".to_owned(), true)
            );
        });
    }
}
