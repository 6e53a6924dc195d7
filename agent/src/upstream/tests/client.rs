//! Bodies as hyper receives them from a client.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::super::RequestBody;

/// The client's end of a connection, and the bodies of the requests that come over it.
pub(in crate::upstream) fn listening() -> (DuplexStream, mpsc::Receiver<Incoming>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (give, take) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let give = give.clone();
        async move {
            give.send(request.into_body()).await.expect("somebody takes it");
            // The connection must outlive the body's reading.
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(far), service));
    (near, take)
}

/// A body as hyper receives it from a client that sends these pieces, and the pieces' trailers. It has a length where
/// `length` says one.
pub(in crate::upstream) async fn received(
    pieces: &'static [&'static str],
    length: Option<usize>,
) -> RequestBody {
    let (near, mut bodies) = listening();
    let (mut sender, connection) = client::handshake(TokioIo::new(near)).await.expect("HTTP");
    tokio::spawn(connection);
    let frames = pieces.iter().map(|piece| match piece.strip_prefix("trailer:") {
        Some(value) => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", http::HeaderValue::from_static(value));
            Frame::trailers(trailers)
        }
        None => Frame::data(Bytes::from_static(piece.as_bytes())),
    });
    let frames: Vec<Result<Frame<Bytes>, Infallible>> = frames.map(Ok).collect();
    let mut request = Request::post("/")
        .header("trailer", "x-sum")
        .header("te", "trailers");
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    let body = StreamBody::new(futures::stream::iter(frames));
    let sending = sender.send_request(request.body(body).expect("a request"));
    tokio::spawn(sending);
    RequestBody::of_client(bodies.recv().await.expect("a body"), Version::HTTP_11).0
}
