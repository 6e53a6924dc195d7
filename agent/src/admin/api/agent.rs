//! Which agent answers: during an upgrade or a drain a node has several.
//!
//! In: the agent's phase and process id. Out: [`AgentProcess`], which the list of sessions and the answer to a kill carry.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far an agent is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It takes over from another one, which still serves.
    Starting,
    /// It serves.
    Serving,
    /// It accepts no more connections, and ends once those that it has are closed.
    Draining,
}

impl fmt::Display for AgentState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            AgentState::Starting => "starting",
            AgentState::Serving => "serving",
            AgentState::Draining => "draining",
        })
    }
}

/// An agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentProcess {
    /// Its number, as its own pid namespace has it.
    pub pid: u32,
    /// What it does.
    pub state: AgentState,
}
