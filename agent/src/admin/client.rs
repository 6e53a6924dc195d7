//! The command line's side of the admin API.
//!
//! In: the socket's path and a typed request. Out: the typed answer, or a [`ClientError`] that says what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::{self, ApiError, KillAnswer, KillRequest, ObjectList, SessionList, SessionQuery};

/// How long an answer may take; the agent answers from memory.
const LIMIT: Duration = Duration::from_secs(15);

/// The largest answer: a hundred thousand sessions with room to spare.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {path}: {source}; is `picket agent` running on this node, and are you root?"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("the agent did not answer within {} s", LIMIT.as_secs())]
    Slow,
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The exchange broke.
    #[error("the agent's answer cannot be read: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Asks one agent.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the agent that serves this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// The objects that the agent read.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn objects(&self) -> Result<ObjectList, ClientError> {
        self.ask(Method::GET, api::OBJECTS, None::<&()>).await
    }

    /// The sessions that run.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sessions(&self, query: &SessionQuery) -> Result<SessionList, ClientError> {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        if let Some(identity) = &query.identity {
            pairs.append_pair("identity", identity);
        }
        if let Some(kind) = query.kind {
            pairs.append_pair("kind", kind.as_str());
        }
        let path = format!("{}?{}", api::SESSIONS, pairs.finish());
        self.ask(Method::GET, &path, None::<&()>).await
    }

    /// Ends sessions.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill_sessions(&self, request: &KillRequest) -> Result<KillAnswer, ClientError> {
        self.ask(Method::POST, api::KILL_SESSIONS, Some(request)).await
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Q>,
    ) -> Result<A, ClientError> {
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(broken)?
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "picket")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let (code, answer) = tokio::time::timeout(LIMIT, self.exchange(request))
            .await
            .map_err(|_| ClientError::Slow)??;
        if code.is_success() {
            return serde_json::from_slice(&answer).map_err(broken);
        }
        Err(ClientError::Refused(
            match serde_json::from_slice::<ApiError>(&answer) {
                Ok(refused) => refused.error,
                Err(_) => code.to_string(),
            },
        ))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect {
                path: self.socket.clone(),
                source,
            })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let running = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let answer = Limited::new(body, ANSWER_LIMIT).collect().await;
        running.abort();
        Ok((head.status, answer.map_err(ClientError::Broken)?.to_bytes()))
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Broken(Box::new(error))
}
