//! The port for metrics over TLS, of a configuration.
//!
//! In: its section `metrics`, and the gateway. Out: where it listens and by which certificate, or what is wrong.

use std::net::SocketAddr;

use picket_policy::yaml::{Decoder, Fields};

use super::read::{path, server_names};
use super::reference::fields_of;
use super::texts::{optional_path, optional_section};
use super::{GatewaySection, MetricsSection};
use crate::pki::ServerCertificateFiles;

/// Reads the section, which may be left out.
pub(super) fn read(
    decoder: &mut Decoder,
    top: &Fields<'_>,
    gateway: Option<&GatewaySection>,
) -> Option<MetricsSection> {
    let fields = optional_section(decoder, top, "metrics")?;
    let listen = decoder.required_text(&fields, "listen")?;
    let names = server_names(decoder, &fields, "names");
    let tls = own_certificate(decoder, &fields);
    let client_ca_file = optional_path(decoder, &fields, "clientCAFile");
    let address = listen.value.parse::<SocketAddr>().ok();
    let Some(address) = address.filter(|address| address.port() != 0) else {
        decoder.error_at(
            &listen.at,
            format!(
                "field `metrics.listen` is {:?}; write address:port, such as 0.0.0.0:9444 or '[::]:9444'",
                listen.value
            ),
        );
        return None;
    };
    if gateway.is_some_and(|gateway| gateway.listen.port() == address.port()) {
        decoder.error_at(
            &listen.at,
            "field `metrics.listen` has the port of `gateway.listen`; give each its own",
        );
    }
    Some(MetricsSection {
        listen: address,
        names,
        tls,
        client_ca_file,
    })
}

fn own_certificate(decoder: &mut Decoder, metrics: &Fields<'_>) -> Option<ServerCertificateFiles> {
    let node = metrics.get("tls")?;
    let fields = decoder.fields(node, "metrics.tls", &fields_of("metrics.tls"), &[])?;
    let certificate = path(decoder, &fields, "certificateFile");
    let key = path(decoder, &fields, "keyFile");
    Some(ServerCertificateFiles {
        certificate: certificate?,
        key: key?,
    })
}
