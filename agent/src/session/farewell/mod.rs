//! Last words: where in a stream of bytes one fits, and what it is in each protocol.
//!
//! In: the bytes on their way to the client, and an [`Ending`]. Out: bytes to send before the close, or none where nothing
//! fits: a message is never put inside another one.
//!
//! | session | last word | where |
//! |---|---|---|
//! | watch over HTTP, JSON (tables too) | an event of type `ERROR` with the `Status` | after a line |
//! | watch over HTTP, protobuf | the same | after a length-delimited message |
//! | watch over a WebSocket | the same as a text message, then a close frame | between messages |
//! | exec, attach over a WebSocket (v4, v5) | the `Status` on the error channel, then a close frame (1000) | between messages |
//! | any other WebSocket | a close frame (1008) with the reason | between frames |
//! | exec, attach over SPDY (v4) | the `Status` on the error stream, with its end | between frames |
//! | logs, port-forward over SPDY, anything else | none | |
//!
//! Logs get none and no orderly end either: text of Picket's own would be taken for the container's, and an orderly end for
//! the log's.

mod protobuf;
mod spdy;
mod websocket;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL};

use super::ending::Ending;
use super::kind::SessionKind;
use protobuf::LengthDelimited;
use spdy::Spdy;
use websocket::{Says, WebSocket};

/// The subprotocol of a SPDY stream, as the API server agreed to it.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// What a connection changed its protocol to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// RFC 6455.
    WebSocket,
    /// `SPDY/3.1`.
    Spdy,
}

/// Follows a stream and knows whether, and how, a last word fits now.
#[derive(Debug)]
pub enum Farewell {
    /// JSON, one value a line.
    Lines {
        /// Whether the last byte ended a line, or none passed yet.
        between: bool,
    },
    /// Messages with their length before them.
    LengthDelimited(LengthDelimited),
    /// A WebSocket.
    WebSocket(WebSocket),
    /// SPDY with an error stream.
    Spdy(Spdy),
    /// Nothing can be said.
    Silent,
}

impl Farewell {
    /// For a response that goes on, by its head.
    #[must_use]
    pub fn of_response(kind: SessionKind, headers: &HeaderMap) -> Farewell {
        if kind != SessionKind::Watch || headers.contains_key(CONTENT_ENCODING) {
            return Farewell::Silent;
        }
        let media = text(headers, CONTENT_TYPE.as_str());
        // Watches are never indented: k8s.io/apiserver pkg/endpoints/handlers/negotiation has no pretty stream serializer.
        match media.split(';').next().map(str::trim) {
            Some("application/json") => Farewell::Lines { between: true },
            Some("application/vnd.kubernetes.protobuf") => {
                Farewell::LengthDelimited(LengthDelimited::default())
            }
            _ => Farewell::Silent,
        }
    }

    /// For a connection that changed its protocol, by the response's head.
    #[must_use]
    pub fn of_upgrade(kind: SessionKind, upgrade: Upgrade, headers: &HeaderMap) -> Farewell {
        let in_container = matches!(kind, SessionKind::Exec | SessionKind::Attach);
        match upgrade {
            Upgrade::WebSocket => {
                let channels = matches!(
                    text(headers, SEC_WEBSOCKET_PROTOCOL.as_str()),
                    "v4.channel.k8s.io" | "v5.channel.k8s.io"
                );
                let says = match kind {
                    SessionKind::Exec | SessionKind::Attach if channels => Says::OnErrorChannel,
                    SessionKind::Watch => Says::Event,
                    _ => Says::CloseAlone,
                };
                Farewell::WebSocket(WebSocket::new(says))
            }
            Upgrade::Spdy if in_container && text(headers, STREAM_PROTOCOL) == "v4.channel.k8s.io" => {
                Farewell::Spdy(Spdy::default())
            }
            Upgrade::Spdy => Farewell::Silent,
        }
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, data: &[u8]) {
        match self {
            Farewell::Lines { between } => {
                if let Some(last) = data.last() {
                    *between = *last == b'\n';
                }
            }
            Farewell::LengthDelimited(messages) => messages.sent(data),
            Farewell::WebSocket(frames) => frames.sent(data),
            Farewell::Spdy(frames) => frames.sent(data),
            Farewell::Silent => {}
        }
    }

    /// Bytes came from the client.
    pub fn received(&mut self, data: &[u8]) {
        if let Farewell::Spdy(frames) = self {
            frames.received(data);
        }
    }

    /// The last word, where one fits now.
    #[must_use]
    pub fn last_word(&self, ending: &Ending) -> Option<Bytes> {
        match self {
            Farewell::Lines { between: true } => {
                let mut line = event(ending);
                line.push(b'\n');
                Some(line.into())
            }
            Farewell::LengthDelimited(messages) if messages.between() => {
                Some(protobuf::error_event(&ending.status).into())
            }
            Farewell::WebSocket(frames) => frames.last_word(ending).map(Bytes::from),
            Farewell::Spdy(frames) => frames.last_word(ending).map(Bytes::from),
            Farewell::Lines { .. } | Farewell::LengthDelimited(_) | Farewell::Silent => None,
        }
    }
}

/// The watch event by which the API server ends a watch itself (k8s.io/apimachinery pkg/watch, `Error`).
fn event(ending: &Ending) -> Vec<u8> {
    let mut event = br#"{"type":"ERROR","object":"#.to_vec();
    event.extend(ending.status.to_json());
    event.push(b'}');
    event
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::{HeaderValue, Method, Uri};
    use picket_policy::KubeRequest;

    use super::*;
    use crate::reject::Rejection;

    pub(super) fn ending() -> Ending {
        let uri = Uri::from_static("/api/v1/namespaces/n/pods?watch=true");
        let request = KubeRequest::read(&Method::GET, &uri, &HeaderMap::new()).expect("reads");
        Ending::new(
            &Rejection::Killed("\"why\"\n".to_owned()),
            SessionKind::Watch,
            &request,
            Instant::now(),
        )
    }

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn a_json_watch_ends_with_an_event_after_a_whole_line_only() {
        let mut watch = Farewell::of_response(
            SessionKind::Watch,
            &headers("content-type", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        );
        let line = watch.last_word(&ending()).expect("fits before the first event");
        let text = std::str::from_utf8(&line).expect("text");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.ends_with('\n'));
        let event: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(event["type"], "ERROR");
        assert_eq!(event["object"]["kind"], "Status");
        assert_eq!(event["object"]["code"], 403);
        assert_eq!(event["object"]["reason"], "Forbidden");
        watch.sent(b"{\"type\":\"ADDED\",\"obj");
        assert!(watch.last_word(&ending()).is_none(), "inside an event");
        watch.sent(b"");
        assert!(watch.last_word(&ending()).is_none(), "still inside");
        watch.sent(b"ect\":{}}\n");
        assert!(watch.last_word(&ending()).is_some());
    }

    #[test]
    fn nothing_is_said_where_it_would_be_taken_for_something_else() {
        let json = headers("content-type", "application/json");
        assert!(matches!(
            Farewell::of_response(SessionKind::Logs, &json),
            Farewell::Silent
        ));
        let mut zipped = json.clone();
        zipped.insert("content-encoding", HeaderValue::from_static("gzip"));
        let cbor = headers("content-type", "application/cbor-seq");
        for headers in [&zipped, &cbor] {
            let farewell = Farewell::of_response(SessionKind::Watch, headers);
            assert!(farewell.last_word(&ending()).is_none());
        }
        let old = headers("x-stream-protocol-version", "v3.channel.k8s.io");
        for (kind, headers) in [(SessionKind::PortForward, &json), (SessionKind::Exec, &old)] {
            let farewell = Farewell::of_upgrade(kind, Upgrade::Spdy, headers);
            assert!(farewell.last_word(&ending()).is_none());
        }
    }

    #[test]
    fn upgrades_are_told_by_their_subprotocol() {
        for (kind, protocol, first) in [
            // FIN and the opcode: 2 is binary, 1 text, 8 close.
            (SessionKind::Exec, "v5.channel.k8s.io", 0x82),
            (SessionKind::Attach, "v4.channel.k8s.io", 0x82),
            (SessionKind::Exec, "base64.channel.k8s.io", 0x88),
            (SessionKind::PortForward, "SPDY/3.1+portforward.k8s.io", 0x88),
            (SessionKind::Proxy, "v4.channel.k8s.io", 0x88),
            (SessionKind::Watch, "", 0x81),
        ] {
            let headers = headers("sec-websocket-protocol", protocol);
            let farewell = Farewell::of_upgrade(kind, Upgrade::WebSocket, &headers);
            let word = farewell.last_word(&ending()).expect(protocol);
            assert_eq!(word.first(), Some(&first), "{kind} {protocol}");
        }
    }
}
