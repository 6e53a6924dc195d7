//! A real cluster and simulated pods for Picket's tests and its demo.
//!
//! In: Debian's containerd, runc, CNI plugins and iproute2, the Go sources beside this package, and root. Out:
//! [`cluster::Cluster`], one or two Kubernetes nodes in network namespaces without uplink; [`sim::SimNode`], pods by the
//! hundred without a kubelet; [`pod::TestPod`], the small API both kinds share; and [`state::clean`], which removes what a
//! crash left.
//!
//! Everything one cluster makes is written down in its state folder before it is made. Every process it starts is in its own
//! cgroup from the first instruction. So taking it down never depends on the process that brought it up.

pub mod agent;
pub mod agreement;
pub mod audit;
pub mod build;
pub mod cgroup;
pub mod cluster;
pub mod encodings;
pub mod footprint;
pub mod harness;
pub mod helm;
pub mod images;
pub mod install;
pub mod issuer;
pub mod leaks;
pub mod net;
pub mod node_js;
pub mod other_layout;
pub mod output;
pub mod packets;
pub mod pair;
pub mod pki;
pub mod pod;
pub mod port_taker;
pub mod release;
pub mod running;
pub mod secrets;
pub mod sim;
pub mod state;
pub mod sys;
