//! The node CA that Picket's controller signs: a key of the agent's own, and a certificate for three days.
//!
//! In: the node's name, its state folder and its credential. Out: one file with key and certificate, which `tls` reads; a new one each
//! day, with a new key. While the controller is away the last one is used to its end, over restarts, upgrades and boots.
//!
//! ```text
//!   request.rs  key and PKCS#10 -> CertificateSigningRequest; its status -> certificates, or a refusal
//!   exchange.rs the same with the API server, once, by the one agent of the node that has the lock
//!   keep.rs     the file: what is kept, and from when on a new one is due
//!   renew.rs    the loop: when, how often after a failure, and who is told
//! ```

mod exchange;
mod keep;
mod metrics;
mod renew;
mod request;
#[cfg(test)]
mod testing;

pub(crate) use exchange::NodeCaExchange;
pub(crate) use keep::KeptNodeCa;
pub(crate) use metrics::NodeCaMetrics;
pub(crate) use renew::{NodeCaRenewal, PART};
