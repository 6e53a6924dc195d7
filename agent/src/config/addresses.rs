//! The protected endpoints of a configuration: which addresses are the API server, which are denied, which are allowed after all.
//!
//! In: its section `protectedEndpoints`, and the upstream. Out: one meaning for each address, or what is wrong.

use std::fmt;
use std::net::SocketAddr;

use picket_policy::yaml::{Decoder, Fields, Spanned};

use super::UpstreamSection;
use super::texts::{optional_section, texts, values};
use crate::endpoints::{EndpointTarget, EndpointTargetError};

/// The addresses of `protectedEndpoints`, and what becomes of connections there.
#[derive(Debug, Clone, Default)]
pub struct ConfiguredEndpoints {
    /// Addresses of the API server besides those that the cluster itself names, as `address:port` or `name:port`.
    pub api_server: Vec<EndpointTarget>,
    /// Addresses that enforced pods may not reach, besides kubelets, etcd, container runtimes and cloud metadata.
    pub deny: Vec<EndpointTarget>,
    /// Addresses that enforced pods may reach although they would be denied.
    pub allow: Vec<SocketAddr>,
}

/// Reads the lists. An address of the upstream is the API server's, whether `apiServer` names it or not.
pub(super) fn read(
    decoder: &mut Decoder,
    top: &Fields<'_>,
    upstream: Option<&UpstreamSection>,
) -> ConfiguredEndpoints {
    let Some(fields) = optional_section(decoder, top, "protectedEndpoints") else {
        return ConfiguredEndpoints::default();
    };
    let api_server = list(decoder, &fields, "apiServer", str::parse);
    let deny = list(decoder, &fields, "deny", str::parse);
    let allow = list(decoder, &fields, "allow", allowed);
    let server = upstream.and_then(|upstream| EndpointTarget::of_url(&upstream.server.parse().ok()?));
    disjoint(decoder, server, &api_server, &deny, &allow);
    ConfiguredEndpoints {
        api_server: values(api_server),
        deny: values(deny),
        allow: values(allow),
    }
}

fn allowed(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(EndpointTarget::Address(address)) => Ok(address),
        Ok(EndpointTarget::Name { .. }) | Err(EndpointTargetError::Form(_)) => {
            Err(format!("{text:?} is no address:port; names are not taken here"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Addresses or names with a port each.
fn list<T, E: fmt::Display>(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    name: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Vec<Spanned<T>> {
    let path = fields.path(name);
    let mut addresses = Vec::new();
    for Spanned { value: text, at } in texts(decoder, fields, name) {
        match read(&text) {
            Ok(value) => addresses.push(Spanned { value, at }),
            Err(error) => decoder.error_at(&at, format!("field `{path}`: {error}")),
        }
    }
    addresses
}

/// One address in two lists would have two meanings, of which one silently wins.
fn disjoint(
    decoder: &mut Decoder,
    upstream: Option<EndpointTarget>,
    api_server: &[Spanned<EndpointTarget>],
    deny: &[Spanned<EndpointTarget>],
    allow: &[Spanned<SocketAddr>],
) {
    let holds = |list: &[Spanned<EndpointTarget>], target: &EndpointTarget| {
        list.iter().any(|entry| entry.value == *target)
    };
    let server = |target: &EndpointTarget| match target {
        target if holds(api_server, target) => Some("under protectedEndpoints.apiServer"),
        target if upstream.as_ref() == Some(target) => Some("upstream.server"),
        _ => None,
    };
    for Spanned { value, at } in deny {
        if let Some(other) = server(value) {
            decoder.error_at(
                at,
                format!(
                    "field `protectedEndpoints.deny`: {value} is {other} too; an address is one or the other"
                ),
            );
        }
    }
    for Spanned { value, at } in allow {
        let target = EndpointTarget::Address(*value);
        if let Some(other) = server(&target) {
            decoder.error_at(
                at,
                format!(
                    "field `protectedEndpoints.allow`: {value} is {other} too; connections to the API server are always \
                     redirected to Picket"
                ),
            );
        } else if holds(deny, &target) {
            decoder.error_at(
                at,
                format!(
                    "field `protectedEndpoints.allow`: {value} is under protectedEndpoints.deny too; an address is one \
                     or the other"
                ),
            );
        }
    }
}
