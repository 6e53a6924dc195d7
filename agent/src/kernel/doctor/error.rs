//! Why a trial of the doctor's says nothing, or says that something is wrong.
//!
//! In: what the system, the kernel programs or the trial itself found. Out: a [`TrialError`], whose text is a check's detail.

use std::io;
use std::net::SocketAddr;

use crate::kernel::{Flow, KernelError};

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The kernel programs or their maps refused something.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The trial has no network to run in.
    #[error("cannot make a network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The packets of an attempt are nowhere.
    #[error("nothing arrived, and nothing was dropped")]
    Lost,
    /// Something else than Picket denied the attempt.
    #[error("denied with EPERM, and not by Picket: run as root, with CAP_NET_RAW")]
    DeniedElsewhere,
    /// The probe could not connect.
    #[error("the connection failed: {0}")]
    Connect(#[source] io::Error),
    /// The kernel took the connection for another one.
    #[error("the kernel recorded another connection: {0:?}")]
    OtherFlow(Flow),
    /// The kernel has no flow of the connection.
    #[error("the connection was redirected, and the kernel recorded nothing")]
    NoFlow,
    /// The client can see the redirect.
    #[error("the client dialled {dialled} and sees {seen}")]
    OtherPeer {
        /// The protected endpoint.
        dialled: SocketAddr,
        /// The peer that getpeername gives.
        seen: SocketAddr,
    },
}
