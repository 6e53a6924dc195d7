//! Certificates: reading PEM files, the node's CA, the leaf certificates it signs, and the CAs of clients' certificates.
//!
//! In: the node CA's files, and the names and addresses that clients dial. Out: a [`ca::NodeCa`], and [`Leaf`] certificates in
//! memory. Nothing here is served; `tls` does that.

mod authorities;
pub mod ca;
mod issued;
mod leaf;
pub(crate) mod pem;
mod server_certificate;
#[cfg(test)]
pub(crate) mod testing;
mod trust_bundles;

use picket_controller::ec_key;

pub use authorities::Authorities;
pub use ca::CaFiles;
pub(crate) use issued::{CaRequest, IssuedCa, IssuedCaError};
pub use leaf::{LEAF_LIFETIME, LeafNames};
pub(crate) use leaf::{Leaf, mint};
pub use pem::PemError;
pub(crate) use server_certificate::{ServerCertificate, ServerCertificateSource};
pub use server_certificate::{ServerCertificateFiles, check_server_certificate};
pub use trust_bundles::{ChainError, TrustBundle, TrustBundles, TrustedRoots};

/// What goes wrong around certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the CA is missing or unfit.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A configured name is neither a DNS name nor an address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Name(String),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Mint(rcgen::Error),
    /// rustls refused a key or a setting.
    #[error("cannot set up TLS: {0}")]
    Rustls(rustls::Error),
}
