//! Heads as long as kube-apiserver takes them, and longer.

use picket_policy::MAX_HEAD;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::outcome;
use super::world::World;

/// Path and query of so many bytes.
fn pods(length: usize) -> String {
    let path = "/api/v1/namespaces/n/pods?labelSelector=";
    format!("{path}{}", "a".repeat(length - path.len()))
}

pub(super) fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: kubernetes\r\n{fields}\r\n").into_bytes()
}

/// Status and body of the next answer.
pub(super) async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, String) {
    let mut read = Vec::new();
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        if let Ok(httparse::Status::Complete(length)) = response.parse(&read) {
            let status = response.code.expect("a status");
            let field = |name: &str| {
                response
                    .headers
                    .iter()
                    .find(|field| field.name.eq_ignore_ascii_case(name))
            };
            let body: usize = field("content-length")
                .and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok())
                .expect("a length");
            if read.len() >= length + body {
                return (status, String::from_utf8_lossy(&read[length..]).into_owned());
            }
        }
        let count = stream.read_buf(&mut read).await.expect("an answer");
        assert!(
            count > 0,
            "the connection closes after {}",
            String::from_utf8_lossy(&read)
        );
    }
}

pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.expect("sent");
    stream.flush().await.expect("sent");
}

#[tokio::test]
async fn a_head_of_nearly_a_megabyte_arrives_whole_on_a_connection_that_goes_on() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let many: String = (0..3_000)
        .map(|number| format!("x-{number}: {number}\r\n"))
        .collect();
    let wide = format!("x-wide: {}\r\n", "v".repeat(200_000));
    let targets = [100, 60_000, 65_534, 65_535, 66_000, 1_000_000].map(pods);
    for target in &targets {
        send(&mut stream, &get(target, "")).await;
        assert_eq!(
            answer(&mut stream).await,
            (200, "done".to_owned()),
            "{}",
            target.len()
        );
    }
    for fields in [&many, &wide] {
        send(&mut stream, &get(&targets[0], fields)).await;
        assert_eq!(answer(&mut stream).await.0, 200);
    }
    let seen = world.seen();
    for (seen, target) in seen.iter().zip(&targets) {
        assert_eq!(seen.target.len(), target.len());
        assert!(seen.target == *target);
    }
    assert_eq!(seen[6].headers["x-2999"], "2999");
    assert_eq!(seen[7].headers["x-wide"].len(), 200_000);
    let records = world.records().await;
    assert_eq!(records.len(), 8);
    for (record, target) in records.iter().zip(&targets).skip(1) {
        assert_eq!(outcome(record)[1], "allow");
        let query = target.len() - "/api/v1/namespaces/n/pods?".len();
        assert_eq!(record["query"]["bytes"], query);
    }
}

#[tokio::test]
async fn a_long_head_with_a_body_in_pieces_is_the_same_request() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let target = pods(70_000).replace("pods", "configmaps");
    for _ in 0..2 {
        let request =
            format!("POST {target} HTTP/1.1\r\nhost: kubernetes\r\ncontent-length: 12\r\n\r\nhello world!");
        let (first, last) = request.as_bytes().split_at(request.len() - 8);
        for piece in first.chunks(7_001) {
            send(&mut stream, piece).await;
        }
        tokio::task::yield_now().await;
        send(&mut stream, last).await;
        assert_eq!(answer(&mut stream).await.0, 200);
    }
    // A short one behind it, and a head that comes byte by byte.
    for byte in get("/api/v1/namespaces/n/pods/x", "") {
        send(&mut stream, &[byte]).await;
    }
    assert_eq!(answer(&mut stream).await.0, 200);
    let seen = world.seen();
    assert_eq!(seen.len(), 3);
    for seen in &seen[..2] {
        assert!(seen.target == target && seen.body == "hello world!");
        assert_eq!(seen.headers["content-length"], "12");
    }
    assert_eq!(seen[2].target, "/api/v1/namespaces/n/pods/x");
}

/// That the answer is a `Status` which says the limit, and that there is one record.
async fn refused(world: &World, status: u16, body: &str) {
    assert_eq!(status, 431, "{body}");
    let status: Value = serde_json::from_str(body).expect("a Status");
    assert_eq!(status["kind"], "Status");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains(&MAX_HEAD.to_string()), "{message}");
    assert!(world.seen().is_empty());
    let records = world.ended(1).await;
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(outcome(&records[0])[1], "error");
    assert_eq!(records[0]["decision"]["reason"], "head_too_long");
    let uri = records[0]["requestURI"].as_str().unwrap_or_default();
    assert!(
        uri.starts_with("/api/v1/namespaces/n/pods?labelSelector=aaa"),
        "{uri}"
    );
}

#[tokio::test]
async fn a_longer_head_is_refused_with_the_limit_and_one_record() {
    for length in [MAX_HEAD, MAX_HEAD + 100_000, 4 << 20] {
        let world = World::new().await;
        let mut stream = world.stream().await;
        send(&mut stream, &get(&pods(length), "")).await;
        let (status, body) = answer(&mut stream).await;
        refused(&world, status, &body).await;
    }
    // Too many fields are refused likewise.
    let world = World::new().await;
    let mut stream = world.stream().await;
    let fields: String = (0..20_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    send(&mut stream, &get(&pods(100), &fields)).await;
    let (status, body) = answer(&mut stream).await;
    refused(&world, status, &body).await;
    // And fields that hyper must have, of which it takes 100.
    let world = World::new().await;
    let mut stream = world.stream().await;
    send(&mut stream, &get(&pods(100), &"connection: x\r\n".repeat(150))).await;
    let (status, body) = answer(&mut stream).await;
    refused(&world, status, &body).await;
}

#[tokio::test]
async fn what_is_no_http_is_refused_however_long_it_is() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let head = [
        b"GET /api/v1/pods HTTP/1.1\r\nx: ".to_vec(),
        vec![1; 70_000],
        b"\r\n\r\n".to_vec(),
    ]
    .concat();
    send(&mut stream, &head).await;
    assert_eq!(answer(&mut stream).await.0, 400);
    assert_eq!(world.ended(1).await[0]["decision"]["reason"], "unreadable");
}

/// A frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A string of HPACK without Huffman coding.
pub(super) fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut length = text.len();
    if length < 127 {
        out.push(length as u8);
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(length as u8 & 127 | 128);
            length >>= 7;
        }
        out.push(length as u8);
    }
    [out, text.as_bytes().to_vec()].concat()
}

/// HEADERS and CONTINUATIONs of a GET; `first` is how the path is indexed.
pub(super) fn get2(stream: u32, target: &str, first: u8) -> Vec<u8> {
    // :method GET, :scheme https, and an authority that goes into the table.
    let block = [
        &[0x82, 0x87, 0x41][..],
        &text("kubernetes"),
        &[first],
        &text(target),
    ]
    .concat();
    let chunks: Vec<&[u8]> = block.chunks(16_000).collect();
    let mut out = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let kind = if index == 0 { 1 } else { 9 };
        let flags = u8::from(index == 0) | if index + 1 == chunks.len() { 4 } else { 0 };
        out.extend(frame(kind, flags, stream, chunk));
    }
    out
}

/// The first octet of the header block that answers a stream, and the data behind it.
pub(super) async fn answer2(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    stream: u32,
) -> (Vec<u8>, String) {
    let (mut head, mut data) = (Vec::new(), Vec::new());
    loop {
        let mut begin = [0; 9];
        connection.read_exact(&mut begin).await.expect("a frame");
        let length = u32::from_be_bytes([0, begin[0], begin[1], begin[2]]) as usize;
        let mut payload = vec![0; length];
        connection.read_exact(&mut payload).await.expect("a payload");
        let (kind, flags) = (begin[3], begin[4]);
        match kind {
            4 if flags & 1 == 0 => send(connection, &frame(4, 1, 0, &[])).await,
            3 | 7 => panic!("the stream or connection is reset: {payload:?}"),
            1 => head = payload,
            0 => data.extend(payload),
            _ => {}
        }
        if (kind == 0 || kind == 1)
            && flags & 1 != 0
            && u32::from_be_bytes([begin[5], begin[6], begin[7], begin[8]]) == stream
        {
            return (head, String::from_utf8_lossy(&data).into_owned());
        }
    }
}

#[tokio::test]
async fn a_long_path_of_http2_arrives_whole_and_the_connection_goes_on() {
    let world = World::new().await;
    let mut connection = world.stream_of(b"h2").await;
    send(&mut connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    send(&mut connection, &frame(4, 0, 0, &[])).await;
    let targets = [100, 20_000, 66_000, 70_000, 100, 1_000_000, 300].map(pods);
    for (index, target) in targets.iter().enumerate() {
        let stream = 2 * index as u32 + 1;
        // With and without indexing: the tables of both sides must stay the same.
        let first = if index % 2 == 0 { 0x44 } else { 0x04 };
        let bytes = get2(stream, target, first);
        for piece in bytes.chunks(5_003) {
            send(&mut connection, piece).await;
        }
        let (head, data) = answer2(&mut connection, stream).await;
        assert_eq!(
            (head.first(), data.as_str()),
            (Some(&0x88), "done"),
            "{}",
            target.len()
        );
    }
    for (seen, target) in world.seen().iter().zip(&targets) {
        assert!(seen.target == *target, "{} {}", seen.target.len(), target.len());
        assert!(!seen.headers.contains_key("picket-long-path"));
    }
    assert_eq!(world.seen().len(), targets.len());
}

#[tokio::test]
async fn a_longer_head_of_http2_is_refused_with_the_limit_and_one_record() {
    let world = World::new().await;
    let mut connection = world.stream_of(b"h2").await;
    send(&mut connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    send(&mut connection, &frame(4, 0, 0, &[])).await;
    send(&mut connection, &get2(1, &pods(MAX_HEAD + 10_000), 0x04)).await;
    let (head, data) = answer2(&mut connection, 1).await;
    assert_ne!(head.first(), Some(&0x88));
    refused(&world, 431, &data).await;
}

/// A connection of HTTP/2 whose settings are exchanged.
pub(super) async fn connect2(world: &World) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let mut connection = world.stream_of(b"h2").await;
    send(&mut connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    send(&mut connection, &frame(4, 0, 0, &[])).await;
    connection
}

/// Permits of the pod that are free: heads that may be read, and kilobytes.
fn free(world: &World) -> (usize, usize) {
    let share = &world.share;
    (
        share.heads_read.available_permits(),
        share.head_kilobytes.available_permits(),
    )
}

const KILOBYTES: usize = 8 * 1024;

#[tokio::test]
async fn a_long_head_counts_by_its_size_until_its_request_ends_in_either_version() {
    let world = World::new().await;
    let target = format!("{}&slow=1", pods(900_000));
    let mut http1 = world.stream().await;
    send(&mut http1, &get(&target, "")).await;
    world.seen_are(1).await;
    let (read, kilobytes) = free(&world);
    assert_eq!(read, 2, "it was read to its end");
    assert!(
        (KILOBYTES - 890..KILOBYTES - 870).contains(&kilobytes),
        "{kilobytes}"
    );
    assert_eq!(answer(&mut http1).await.0, 200);
    world.ended(1).await;
    assert_eq!(free(&world), (2, KILOBYTES));

    let mut http2 = connect2(&world).await;
    send(&mut http2, &get2(1, &target, 0x04)).await;
    world.seen_are(2).await;
    let (read, kilobytes) = free(&world);
    assert_eq!(read, 2, "it was read to its end");
    assert!(
        (KILOBYTES - 890..KILOBYTES - 870).contains(&kilobytes),
        "{kilobytes}"
    );
    assert_eq!(answer2(&mut http2, 1).await.1, "done");
    world.ended(2).await;
    assert_eq!(free(&world), (2, KILOBYTES));
}

#[tokio::test]
async fn where_a_pod_reads_as_many_long_heads_as_it_may_the_next_one_waits() {
    let world = World::new().await;
    let places = world.share.heads_read.clone().acquire_many_owned(2).await;
    let places = places.expect("both are free");
    let (mut http1, mut http2) = (world.stream().await, connect2(&world).await);
    send(&mut http1, &get(&pods(300_000), "")).await;
    send(&mut http2, &get2(1, &pods(300_000), 0x04)).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(world.seen().is_empty());
    // Short ones are any connection's own affair.
    let mut short = world.stream().await;
    send(&mut short, &get(&pods(100), "")).await;
    assert_eq!(answer(&mut short).await.0, 200);
    drop(places);
    assert_eq!(answer(&mut http1).await.0, 200);
    assert_eq!(answer2(&mut http2, 1).await.1, "done");
}

#[tokio::test]
async fn a_pod_whose_long_heads_fill_its_share_is_refused_the_next_one() {
    let world = World::new().await;
    let all = world.share.head_kilobytes.clone();
    let all = all
        .acquire_many_owned(KILOBYTES as u32)
        .await
        .expect("all are free");
    let mut http1 = world.stream().await;
    send(&mut http1, &get(&pods(70_000), "")).await;
    let refused = answer(&mut http1).await;
    let mut http2 = connect2(&world).await;
    send(&mut http2, &get2(1, &pods(70_000), 0x04)).await;
    let body = answer2(&mut http2, 1).await.1;
    for body in [&refused.1, &body] {
        let status: Value = serde_json::from_str(body).expect("a Status");
        assert_eq!(status["code"], 429, "{status}");
    }
    drop(all);
    assert!(world.seen().is_empty());
    assert_eq!(world.ended(2).await[0]["decision"]["reason"], "heads_busy");
}

#[tokio::test]
async fn a_head_without_an_end_is_answered_and_its_connection_closed() {
    let world = World::new().await;
    let (mut reads, mut writes) = tokio::io::split(world.stream().await);
    let writing = tokio::spawn(async move {
        let piece = vec![b'a'; 64 * 1024];
        let begin = get(&pods(100), "x: ");
        let mut written = writes.write_all(&begin[..begin.len() - 2]).await.map(|()| 0);
        while let Ok(bytes) = written {
            if bytes > 64 << 20 {
                return false;
            }
            written = writes.write_all(&piece).await.map(|()| bytes + piece.len());
        }
        true
    });
    let (status, body) = answer(&mut reads).await;
    refused(&world, status, &body).await;
    assert!(writing.await.expect("no panic"), "it is read for ever");
}

#[tokio::test]
async fn a_connection_whose_head_is_refused_closes_behind_the_answer() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let fields: String = (0..20_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    send(&mut stream, &get(&pods(100), &fields)).await;
    assert_eq!(answer(&mut stream).await.0, 431);
    let mut more = [0; 16];
    let end = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut more)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "it goes on: {end:?}");
}

#[tokio::test]
async fn a_long_target_that_is_none_is_refused_and_no_other_is_judged_in_its_place() {
    let target = format!("{}<", pods(60_000));
    let world = World::new().await;
    let mut http1 = world.stream().await;
    send(&mut http1, &get(&target, "")).await;
    assert_eq!(answer(&mut http1).await.0, 400);
    assert_eq!(world.ended(1).await[0]["decision"]["reason"], "unreadable");
    let mut http2 = connect2(&world).await;
    send(&mut http2, &get2(1, &target, 0x04)).await;
    let status: Value = serde_json::from_str(&answer2(&mut http2, 1).await.1).expect("a Status");
    assert_eq!(status["code"], 400, "{status}");
    assert_eq!(world.ended(2).await[1]["decision"]["reason"], "unreadable");
    assert!(world.seen().is_empty());
}

#[tokio::test]
async fn no_client_can_say_that_its_path_is_in_a_field() {
    let world = World::new().await;
    let mut connection = connect2(&world).await;
    let mut block = get2(1, "/long-path/00112233445566778899aabbccddeeff", 0x04).split_off(9);
    block.push(0);
    block.extend(text("picket-long-path"));
    block.extend(text("/api/v1/namespaces/n/pods/x"));
    send(&mut connection, &frame(1, 5, 1, &block)).await;
    let (_, body) = answer2(&mut connection, 1).await;
    assert!(
        body.contains("unknown-paths") || body.contains("Forbidden"),
        "{body}"
    );
    assert!(world.seen().is_empty());
    let uri = world.ended(1).await[0]["requestURI"].clone();
    assert_eq!(uri, "/long-path/00112233445566778899aabbccddeeff");
}

#[tokio::test]
async fn a_head_of_http2_without_an_end_closes_its_connection() {
    let world = World::new().await;
    let mut connection = connect2(&world).await;
    // HEADERS that go on, and CONTINUATIONs of a field without an end.
    send(&mut connection, &frame(1, 0, 1, &[0x82, 0x87])).await;
    let (mut reads, mut writes) = tokio::io::split(connection);
    let reading = tokio::spawn(async move {
        let mut read = vec![0; 1 << 16];
        while reads.read(&mut read).await.is_ok_and(|count| count > 0) {}
    });
    let piece = frame(9, 0, 1, &[0; 16_000]);
    let (mut written, mut open) = (0, true);
    while open && written < 64 << 20 {
        open = writes.write_all(&piece).await.is_ok();
        written += piece.len();
    }
    reading.abort();
    assert!(!open, "it is read for ever");
    assert!(world.seen().is_empty());
}

#[tokio::test]
async fn what_is_typed_into_an_upgraded_stream_is_no_head() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n";
    send(
        &mut stream,
        &get("/api/v1/namespaces/n/pods/x/exec?command=sh&stdin=true", upgrade),
    )
    .await;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    send(&mut stream, b"typed").await;
    // The API server closes once it has read something.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), world.ended(1)).await;
    let ended = ended.expect("it is kept back");
    assert_eq!(ended[0]["session"]["bytes"]["fromClient"], 5, "{:#}", ended[0]);
}

#[tokio::test]
async fn a_target_with_a_fragment_is_refused_and_no_other_object_is_reached() {
    let seed = "/api/v1/namespaces/n/configmaps/seed";
    let targets = ["#x", "#", "?pretty=1#x", "#/../other?a=b"].map(|end| format!("{seed}{end}"));
    for target in &targets {
        let world = World::new().await;
        let refused = async |status: Value, records: usize| {
            assert_eq!(status["code"], 400, "{target}: {status}");
            assert!(world.seen().is_empty(), "{target}: {:?}", world.seen());
            let records = world.ended(records).await;
            let record = records.last().expect("a record");
            assert_eq!(record["decision"]["reason"], "unreadable", "{target}");
            assert_eq!(record["requestURI"], target.replace('#', "%23"));
        };
        let mut http1 = world.stream().await;
        let request = format!("DELETE {target} HTTP/1.1\r\nhost: kubernetes\r\n\r\n");
        send(&mut http1, request.as_bytes()).await;
        let (_, body) = answer(&mut http1).await;
        refused(serde_json::from_str(&body).expect("a Status"), 1).await;
        // Byte by byte, and as a reference to the table of what came before.
        let mut http2 = connect2(&world).await;
        for byte in get2(1, target, 0x44) {
            send(&mut http2, &[byte]).await;
        }
        let (_, body) = answer2(&mut http2, 1).await;
        refused(serde_json::from_str(&body).expect("a Status"), 2).await;
        send(&mut http2, &frame(1, 5, 3, &[0x82, 0x87, 0xbf, 0xbe])).await;
        let status: Value = serde_json::from_str(&answer2(&mut http2, 3).await.1).expect("a Status");
        assert_eq!(status["code"], 400, "{status}");
        // The connection goes on, and its table is as the client has it.
        send(&mut http2, &get2(5, seed, 0x44)).await;
        assert_eq!(answer2(&mut http2, 5).await.1, "done");
        send(&mut http2, &frame(1, 5, 7, &[0x82, 0x87, 0xbf, 0xbe])).await;
        assert_eq!(answer2(&mut http2, 7).await.1, "done");
        let seen = world.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.target == seed), "{seen:?}");
    }
}
