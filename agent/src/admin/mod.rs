//! The administrators' socket: HTTP/1.1 on a unix socket of mode 0600, with its server and its client.
//!
//! In: the configured path, and what the parts show: metrics, readiness, objects, sessions. Out: [`Admin`], which serves them,
//! and [`Client`], by which the commands of `picket` ask.
//!
//! There is no port: a pod can reach the node's network, but not its files. So no agent pod reaches this socket.
//!
//! | file | holds |
//! |---|---|
//! | `api` | the requests and answers, as types of both sides |
//! | `server`, `client` | the agent's side and the command line's side |
//! | `socket`, `lock` | a socket that only root can open, and the lock of its folder |
//! | `names` | the socket names of several agents on one node |
//! | `error` | why a socket cannot be had |

pub mod api;
mod client;
mod error;
mod lock;
mod names;
mod server;
mod socket;

pub use api::{AgentState, Failing, ReadyReport};
pub use client::{Answers, Client, ClientError, ON_NODE};
pub use error::SocketError;
pub use names::{ConfiguredName, open_own_socket, own_sockets};
pub use server::Admin;
pub use socket::{PrivateSocket, SOCKET_PATH_MAX, remove_left};

#[cfg(test)]
mod container_tests;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod race_tests;
