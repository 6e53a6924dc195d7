//! The administrators' socket: metrics, health, readiness, version and sessions, as HTTP/1.1 on a unix socket of mode 0600.
//!
//! There is no port: a pod has the node's network in reach and not its files, so no agent comes near it.

pub mod api;
mod client;
mod lock;
mod names;
mod server;
mod socket;

pub use api::{AgentState, Failing, ReadyReport};
pub use client::{Answers, Client, ClientError};
pub use names::{ConfiguredName, own_socket, own_sockets};
pub use server::Admin;
pub use socket::{PrivateSocket, SOCKET_PATH_MAX, SocketError, remove_left};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod race_tests;
