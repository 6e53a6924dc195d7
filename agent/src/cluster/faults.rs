//! What is wrong with a client, in words that quote nothing of the files.
//!
//! In: kube's errors. Out: faults that name the kind and the place alone. The controller has the words, which both say.

pub use picket_controller::faults::{DataFault, KubeconfigFault, printable};

/// Why a client cannot be made, or cannot ask. The text quotes no credential, proxy or plugin.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ClientFault(String);

impl ClientFault {
    /// Nobody finished it: the runtime ends, or kube panicked.
    pub(super) fn interrupted() -> Self {
        Self("making it was interrupted".to_owned())
    }
}

impl From<&kube::Error> for ClientFault {
    fn from(error: &kube::Error) -> Self {
        Self(printable(error))
    }
}
