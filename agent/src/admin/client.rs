//! The command line's side of the admin API.
//!
//! In: the configured socket and a typed request. Out: the typed answer, or a [`ClientError`] that says what to do. Sessions run in
//! each agent of the node, in one that drains too, so all are asked about them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::{
    self, ApiError, KillAnswer, KillRequest, ObjectList, ReadyAnswer, SessionList, SessionQuery,
};
use super::names::own_sockets;
use super::socket::file_at;

/// How long an answer may take; the agent answers from memory.
const LIMIT: Duration = Duration::from_secs(15);

/// The largest answer: a hundred thousand sessions with room to spare.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;

/// How a command that is about a node is given to an agent that runs in a pod.
pub const ON_NODE: &str = "Where the chart runs it, add --node NAME: kubectl get nodes shows the names";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {path}: {source}; is `picket agent` running on this node, and are you root? {ON_NODE}"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("the agent at {} did not answer within {} s", _0.display(), LIMIT.as_secs())]
    Slow(PathBuf),
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The exchange broke.
    #[error("the answer of the agent at {path} cannot be read: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No agent of the node is in the container of who asks.
    #[error(
        "no agent of this container answers beside {}: it has not begun, or has ended, or waits until the agent that runs on this node \
         may be replaced, for a minute at most; its log says which", _0.display()
    )]
    NotHere(PathBuf),
    /// The id is the beginning of several, in one agent or in several.
    #[error("id {id} names {count} sessions; give more of the id")]
    Ambiguous {
        /// What was given.
        id: String,
        /// How many sessions it names.
        count: usize,
    },
}

impl ClientError {
    /// What is wrong, without what to do.
    #[must_use]
    pub fn fault(&self) -> String {
        match self {
            Self::Connect { path, source } => format!("no agent answers at {}: {source}", path.display()),
            other => other.to_string(),
        }
    }

    /// Whether no process is behind the socket, as one that was killed leaves it.
    fn is_nobody(&self) -> bool {
        let Self::Connect { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    }
}

/// What the agents of a node answered, as one answer.
#[derive(Debug)]
pub struct Answers<A> {
    /// The answer of all that gave one: there is one at least.
    pub answer: A,
    /// Why others gave none. Each is an agent that may run.
    pub failed: Vec<ClientError>,
}

/// Asks the agents of a node: the one that serves, and about sessions each one that runs.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the agents whose configuration names this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// For the agent that shares the mount namespace of this process, as a probe of the agent's container does. The configured socket
    /// is another agent's while one takes over from the other.
    ///
    /// # Errors
    /// [`ClientError::NotHere`] where there is none.
    pub async fn of_own_container(configured: &Path) -> Result<Client, ClientError> {
        for socket in own_sockets(configured) {
            let Ok(stream) = UnixStream::connect(&socket).await else {
                continue;
            };
            let holder = stream.peer_cred().ok().and_then(|peer| peer.pid());
            let holder = holder.and_then(|pid| mount_namespace(&pid.to_string()));
            if holder.is_some() && holder == mount_namespace("self") {
                return Ok(Client { socket });
            }
        }
        Err(ClientError::NotHere(configured.to_owned()))
    }

    /// Which parts of the agent wait or fail.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ready(&self) -> Result<ReadyAnswer, ClientError> {
        let (_, answer) = get(&self.socket, api::READY).await?;
        serde_json::from_slice(&answer).map_err(|error| broken(&self.socket, error))
    }

    /// Whether the agent answers: it is asked for its metrics, which all parts have a share in.
    ///
    /// # Errors
    /// See [`ClientError`], where it does not.
    pub async fn alive(&self) -> Result<(), ClientError> {
        match get(&self.socket, api::METRICS).await? {
            (code, _) if code.is_success() => Ok(()),
            (code, _) => Err(ClientError::Refused(code.to_string())),
        }
    }

    /// The objects that the agent that serves read.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn objects(&self) -> Result<ObjectList, ClientError> {
        ask(&self.socket, Method::GET, api::OBJECTS, None::<&()>).await
    }

    /// The sessions that run in any agent of the node, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`], where no agent answers.
    pub async fn sessions(&self, query: &SessionQuery) -> Result<Answers<SessionList>, ClientError> {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        if let Some(identity) = &query.identity {
            pairs.append_pair("identity", identity);
        }
        if let Some(kind) = query.kind {
            pairs.append_pair("kind", kind.as_str());
        }
        let path = format!("{}?{}", api::SESSIONS, pairs.finish());
        let answers = self.ask_all(Method::GET, &path, None::<&()>).await?;
        let lists: Vec<SessionList> = answers.answer;
        let mut sessions: Vec<_> = lists.into_iter().flat_map(|list| list.sessions).collect();
        sessions.sort_by_key(|session| session.started);
        // Where one agent was asked by two names.
        let mut seen = HashSet::new();
        sessions.retain(|session| seen.insert(session.id.clone()));
        Ok(Answers {
            answer: SessionList { sessions },
            failed: answers.failed,
        })
    }

    /// Ends sessions, in whichever agent of the node they run.
    ///
    /// # Errors
    /// See [`ClientError`], where no agent answers, or the id names several sessions.
    pub async fn kill_sessions(&self, request: &KillRequest) -> Result<Answers<KillAnswer>, ClientError> {
        if let Some(id) = &request.id {
            self.check_unique(id).await?;
        }
        let answers = self
            .ask_all(Method::POST, api::KILL_SESSIONS, Some(request))
            .await?;
        let ended: Vec<KillAnswer> = answers.answer;
        Ok(Answers {
            answer: KillAnswer {
                ended: ended.into_iter().flat_map(|answer| answer.ended).collect(),
            },
            failed: answers.failed,
        })
    }

    /// Each agent refuses an id that names several of its own sessions, and knows of no other's.
    async fn check_unique(&self, id: &str) -> Result<(), ClientError> {
        let all = self.sessions(&SessionQuery::default()).await?.answer.sessions;
        let count = all.iter().filter(|session| session.id.starts_with(id)).count();
        if count > 1 && id.len() >= api::ID_MIN {
            return Err(ClientError::Ambiguous {
                id: id.to_owned(),
                count,
            });
        }
        Ok(())
    }

    /// The sockets of the agents that may run. Each has one of its own; the configured one is another name for one of those,
    /// or an agent's of a version that has none of its own.
    fn sockets(&self) -> Vec<PathBuf> {
        let mut sockets = own_sockets(&self.socket);
        let configured = file_at(&self.socket);
        if configured.is_none() || !sockets.iter().any(|own| file_at(own) == configured) {
            sockets.push(self.socket.clone());
        }
        sockets
    }

    /// Asks all agents at once, so that one that does not answer holds up no other.
    async fn ask_all<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Q>,
    ) -> Result<Answers<Vec<A>>, ClientError> {
        let sockets = self.sockets();
        let asked = sockets
            .iter()
            .map(|socket| ask(socket, method.clone(), path, body));
        let (mut answer, mut failed, mut nobody) = (Vec::new(), Vec::new(), None);
        for answered in join_all(asked).await {
            match answered {
                Ok(one) => answer.push(one),
                Err(error) if error.is_nobody() => nobody = Some(error),
                Err(error) => failed.push(error),
            }
        }
        if answer.is_empty()
            && let Some(error) = failed.pop().or(nobody)
        {
            return Err(error);
        }
        Ok(Answers { answer, failed })
    }
}

async fn ask<Q: Serialize, A: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Q>,
) -> Result<A, ClientError> {
    let body = body
        .map(serde_json::to_vec)
        .transpose()
        .map_err(|error| broken(socket, error))?
        .unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "picket")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(socket, error))?;
    let (code, answer) = tokio::time::timeout(LIMIT, exchange(socket, request))
        .await
        .map_err(|_| ClientError::Slow(socket.to_owned()))??;
    if code.is_success() {
        return serde_json::from_slice(&answer).map_err(|error| broken(socket, error));
    }
    Err(ClientError::Refused(
        match serde_json::from_slice::<ApiError>(&answer) {
            Ok(refused) => refused.error,
            Err(_) => code.to_string(),
        },
    ))
}

/// Asks for something that has another form than [`ask`] reads.
async fn get(socket: &Path, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
    let request = Request::get(path)
        .header(header::HOST, "picket")
        .body(Full::default())
        .map_err(|error| broken(socket, error))?;
    tokio::time::timeout(LIMIT, exchange(socket, request))
        .await
        .map_err(|_| ClientError::Slow(socket.to_owned()))?
}

/// Device and inode of a process's mount namespace; `None` where the process is gone or may not be looked at.
fn mount_namespace(process: &str) -> Option<(u64, u64)> {
    let namespace = fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?;
    Some((namespace.dev(), namespace.ino()))
}

async fn exchange(socket: &Path, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(socket, error))?;
    let running = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| broken(socket, error))?;
    let (head, body) = response.into_parts();
    let answer = Limited::new(body, ANSWER_LIMIT).collect().await;
    running.abort();
    Ok((
        head.status,
        answer
            .map_err(|source| ClientError::Broken {
                path: socket.to_owned(),
                source,
            })?
            .to_bytes(),
    ))
}

fn broken(socket: &Path, error: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Broken {
        path: socket.to_owned(),
        source: Box::new(error),
    }
}
