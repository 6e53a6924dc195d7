//! Many writes, each of which succeeds once and only once: a second time, each would be refused.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use serde_json::{Value, json};

use crate::server::Server;

/// Every so many objects one is as large as a client may expect to be sent again, and one is larger.
const LARGE_EVERY: usize = 50;
const LARGE: usize = 64 * 1024;
const HUGE: usize = 400 * 1024;

/// Of so many objects one is changed.
const CHANGE_EVERY: usize = 4;

/// What to write.
#[derive(clap::Args)]
pub(crate) struct WritesArgs {
    /// The namespace of the ConfigMaps.
    namespace: String,
    /// The start of their names.
    prefix: String,
    /// `1` or `2`, the version of HTTP.
    #[arg(long)]
    http: u8,
    /// ConfigMaps in all.
    #[arg(long, default_value_t = 2400)]
    count: usize,
    /// Requests at once.
    #[arg(long, default_value_t = 24)]
    at_once: usize,
}

/// Creates, updates, patches and deletes the ConfigMaps, and says how that went.
pub(crate) async fn run(args: &WritesArgs) -> Result<()> {
    let began = Instant::now();
    let server = Server::from_pod()?;
    let workers = (0..args.at_once).map(|worker| worker_run(&server, args, worker, Phase::Create));
    let later: usize = try_join_all(workers).await?.into_iter().sum();
    let there = count(&server, args).await?;
    ensure!(there == args.count, "{there} of {} objects are there", args.count);
    println!(
        "{}",
        json!({"created": there, "millis": began.elapsed().as_millis()})
    );
    for phase in [Phase::Change, Phase::Delete] {
        try_join_all((0..args.at_once).map(|worker| worker_run(&server, args, worker, phase))).await?;
        println!(
            "{}",
            json!({"phase": format!("{phase:?}"), "millis": began.elapsed().as_millis()})
        );
    }
    let there = count(&server, args).await?;
    ensure!(there == 0, "{there} objects are left");
    println!(
        "{}",
        json!({"written": args.count, "later": later, "millis": began.elapsed().as_millis()})
    );
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Create,
    Change,
    Delete,
}

/// Does one worker's share; gives how many requests were to come again later.
async fn worker_run(server: &Server, args: &WritesArgs, worker: usize, phase: Phase) -> Result<usize> {
    let mut client = Client::connect(server, args.http).await?;
    let mut later = 0;
    for number in (worker..args.count).step_by(args.at_once) {
        let name = format!("{}-{number}", args.prefix);
        let done = match phase {
            Phase::Create => create(&mut client, args, &name, number, &mut later).await,
            Phase::Change if number % CHANGE_EVERY != 0 => Ok(()),
            Phase::Change => change(&mut client, args, &name).await,
            Phase::Delete => client
                .expect(Method::DELETE, &path(args, &name), None, 200)
                .await
                .map(drop),
        };
        done.with_context(|| format!("object {name} over HTTP/{}", args.http))?;
    }
    Ok(later)
}

fn path(args: &WritesArgs, name: &str) -> String {
    format!("/api/v1/namespaces/{}/configmaps/{name}", args.namespace)
}

async fn create(
    client: &mut Client,
    args: &WritesArgs,
    name: &str,
    number: usize,
    later: &mut usize,
) -> Result<()> {
    let size = match number % LARGE_EVERY {
        0 => LARGE,
        1 => HUGE,
        _ => 1024,
    };
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"count": "0", "text": "x".repeat(size)},
        "metadata": {"name": name, "labels": {"written": args.prefix}}});
    let path = format!("/api/v1/namespaces/{}/configmaps", args.namespace);
    loop {
        let answer = client.send(Method::POST, &path, Some(&object)).await?;
        match answer.status {
            201 => return Ok(()),
            // What is too large to be kept may come back, and was not carried out.
            503 if size == HUGE && answer.retry_after => *later += 1,
            status => bail!("POST was answered with {status}: {}", answer.body),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn change(client: &mut Client, args: &WritesArgs, name: &str) -> Result<()> {
    let path = path(args, name);
    // A patch that holds once.
    let patch = json!([{"op": "test", "path": "/data/count", "value": "0"},
        {"op": "replace", "path": "/data/count", "value": "1"}, {"op": "replace", "path": "/data/text", "value": ""}]);
    let mut object = client.expect(Method::PATCH, &path, Some(&patch), 200).await?;
    // The resource version holds once as well.
    object["data"]["count"] = json!("2");
    client
        .expect(Method::PUT, &path, Some(&object), 200)
        .await
        .map(drop)
}

/// The objects that are there.
async fn count(server: &Server, args: &WritesArgs) -> Result<usize> {
    let mut client = Client::connect(server, args.http).await?;
    let path = format!(
        "/api/v1/namespaces/{}/configmaps?labelSelector=written%3D{}",
        args.namespace, args.prefix
    );
    let list = client.expect(Method::GET, &path, None, 200).await?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

struct Answer {
    status: u16,
    retry_after: bool,
    body: String,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One connection.
struct Client {
    server: Server,
    sender: Sender,
}

impl Client {
    async fn connect(server: &Server, http: u8) -> Result<Self> {
        let sender = match http {
            1 => Sender::Http1(server.http1().await?),
            2 => Sender::Http2(server.http2().await?),
            other => bail!("HTTP/{other} is not known"),
        };
        Ok(Self {
            server: server.clone(),
            sender,
        })
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let kind = match method {
            Method::PATCH => "application/json-patch+json",
            _ => "application/json",
        };
        let uri = match &self.sender {
            Sender::Http1(_) => path.to_owned(),
            Sender::Http2(_) => format!("https://{}{path}", self.server.authority),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.server.token));
        if let Sender::Http1(_) = &self.sender {
            request = request.header(header::HOST, &self.server.authority);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let answer = Answer {
            status: head.status.as_u16(),
            retry_after: head.headers.contains_key(header::RETRY_AFTER),
            body: String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned(),
        };
        // As every client does; one that closes without this word fails the next request.
        if head
            .headers
            .get(header::CONNECTION)
            .is_some_and(|value| value == "close")
        {
            self.sender = Self::connect(&self.server, 1).await?.sender;
        }
        Ok(answer)
    }

    async fn expect(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        status: u16,
    ) -> Result<Value> {
        let answer = self.send(method.clone(), path, body).await?;
        ensure!(
            answer.status == status,
            "{method} was answered with {}: {}",
            answer.status,
            answer.body
        );
        serde_json::from_str(&answer.body).context("an answer that is no JSON")
    }
}
