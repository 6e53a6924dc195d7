//! What is decided about pods and protected endpoints, put in force in the kernel and kept so.
//!
//! In: what the reconciler wants of each pod, and the protected endpoints. Out: listeners; classes, programs and protected
//! endpoints in the kernel; and alarms when somebody takes one of them away.

mod close_node;
mod endpoints;
mod enforcer;
mod maintain;
mod metrics;
mod moves;
mod new_endpoints;
mod table;
mod wanted_ports;
pub(crate) mod watchdog;

pub(crate) use close_node::close_node;
pub(crate) use endpoints::{Start, endpoints, in_kernel};
pub(crate) use enforcer::{KernelEnforcer, NodeListener, node_listener};
pub(crate) use metrics::EnforceMetrics;
pub(crate) use moves::moves;
pub(crate) use table::EnforcedPods;
pub(crate) use wanted_ports::{WantedPort, WantedPorts};
