//! Client certificates in the handshake: asked for, and proven to be the client's own.
//!
//! In: the certificate that a client shows, and its signature over the handshake. Out: a session only for a client that has the
//! certificate's key. Whose the certificate is, and whether it counts, is `identity`'s to judge for each request: its refusal has
//! words and a record, and an alert of TLS has neither.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

/// Asks for a certificate, and takes a client without one.
#[derive(Debug)]
pub(crate) struct ProofOfKey(WebPkiSupportedAlgorithms);

impl ProofOfKey {
    pub(crate) fn new() -> Arc<Self> {
        let provider = rustls::crypto::ring::default_provider();
        Arc::new(Self(provider.signature_verification_algorithms))
    }
}

impl ClientCertVerifier for ProofOfKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Clients choose by this which certificate they show. The trust bundles change while the agent runs, and this cannot.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Not yet: see the module.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
