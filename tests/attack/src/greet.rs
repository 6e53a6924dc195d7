//! A greeting over a connection: a TLS handshake and one request, or whatever the other side says first.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::parse_x509_certificate;

use crate::report::{Failed, Outcome, Report};
use crate::sys::again;

/// The first byte of a TLS handshake record.
const HANDSHAKE: u8 = 0x16;

/// A request that anyone may make, and by which it is found in an audit log.
const REQUEST: &[u8] =
    b"GET /version HTTP/1.1\r\nHost: kubernetes\r\nUser-Agent: picket-attack\r\nConnection: close\r\n\r\n";

/// A TLS client before its first byte, so that the hello can go out with the SYN.
pub(crate) struct Greeting {
    client: io::Result<ClientConnection>,
    hello: Vec<u8>,
    sent: usize,
}

impl Greeting {
    pub(crate) fn new() -> Self {
        let mut client = client();
        let mut hello = Vec::new();
        if let Ok(client) = &mut client {
            // Into memory: it cannot fail.
            let _ = client.write_tls(&mut hello);
        }
        Self {
            client,
            hello,
            sent: 0,
        }
    }

    /// The client's hello.
    pub(crate) fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// So much of it has gone out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent = bytes;
    }

    /// Sends the rest of the hello and sees who answers, and how.
    pub(crate) fn exchange(self, mut stream: TcpStream) -> Result<Report, Failed> {
        let mut report = Report {
            outcome: Outcome::Answered,
            peer: stream.peer_addr().ok().map(|peer| peer.to_string()),
            ..Report::default()
        };
        let mut client = self.client.map_err(Failed::at("prepare TLS"))?;
        stream
            .write_all(&self.hello[self.sent..])
            .map_err(Failed::at("write"))?;
        let mut first = [0];
        if again(|| stream.peek(&mut first)).map_err(Failed::at("read"))? == 0 {
            report.outcome = Outcome::Closed;
            return Ok(report);
        }
        if first[0] != HANDSHAKE {
            let mut buffer = [0; 64];
            let read = again(|| stream.read(&mut buffer)).map_err(Failed::at("read"))?;
            report.first = Some(String::from_utf8_lossy(&buffer[..read]).trim().to_owned());
            return Ok(report);
        }
        while client.is_handshaking() {
            client.complete_io(&mut stream).map_err(Failed::at("handshake"))?;
        }
        if let Some(shown) = client.peer_certificates().and_then(|chain| chain.first())
            && let Ok((_, certificate)) = parse_x509_certificate(shown)
        {
            report.issuer = Some(certificate.issuer().to_string());
            report.subject = Some(certificate.subject().to_string());
        }
        let mut secure = rustls::Stream::new(&mut client, &mut stream);
        let mut answer = Vec::new();
        // Who answered is known; that the request fails is no more than a word in the report.
        if secure.write_all(REQUEST).is_ok() {
            let _ = secure.take(4096).read_to_end(&mut answer);
        }
        report.first = String::from_utf8_lossy(&answer).lines().next().map(str::to_owned);
        Ok(report)
    }
}

fn client() -> io::Result<ClientConnection> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("kubernetes").map_err(io::Error::other)?;
    ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)
}

/// Takes every certificate: it is here to see whose it is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
