//! Metrics of the agent.
