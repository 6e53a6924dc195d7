//! The addresses of a configuration: what is the API server, what is refused, what is allowed after all.
//!
//! In: its fields `doors`, `refuse` and `allow`, and the upstream. Out: one meaning for each address, or what is wrong.

use std::fmt;
use std::net::SocketAddr;

use picket_policy::yaml::{Decoder, Fields, Spanned};

use super::Upstream;
use super::texts::{texts, values};
use crate::endpoints::{Target, TargetError};

/// What the lists name.
pub(super) struct Addresses {
    pub(super) doors: Vec<Target>,
    pub(super) refuse: Vec<Target>,
    pub(super) allow: Vec<SocketAddr>,
}

/// Reads the lists. An address of the upstream is a door, whether `doors` names it or not.
pub(super) fn read(decoder: &mut Decoder, top: &Fields<'_>, upstream: Option<&Upstream>) -> Addresses {
    let doors = list(decoder, top, "doors", str::parse);
    let refuse = list(decoder, top, "refuse", str::parse);
    let allow = list(decoder, top, "allow", allow);
    let server = upstream.and_then(|upstream| Target::of_url(&upstream.server.parse().ok()?));
    apart(decoder, server, &doors, &refuse, &allow);
    Addresses {
        doors: values(doors),
        refuse: values(refuse),
        allow: values(allow),
    }
}

fn allow(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(Target::Address(address)) => Ok(address),
        Ok(Target::Name { .. }) | Err(TargetError::Form(_)) => {
            Err(format!("{text:?} is no address:port; names are not taken here"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Addresses or names with a port each.
fn list<T, E: fmt::Display>(
    decoder: &mut Decoder,
    top: &Fields<'_>,
    name: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Vec<Spanned<T>> {
    let mut addresses = Vec::new();
    for Spanned { value: text, at } in texts(decoder, top, name) {
        match read(&text) {
            Ok(value) => addresses.push(Spanned { value, at }),
            Err(error) => decoder.error_at(&at, format!("field `{name}`: {error}")),
        }
    }
    addresses
}

/// One address in two lists would have two meanings, of which one silently wins.
fn apart(
    decoder: &mut Decoder,
    upstream: Option<Target>,
    doors: &[Spanned<Target>],
    refuse: &[Spanned<Target>],
    allow: &[Spanned<SocketAddr>],
) {
    let holds = |list: &[Spanned<Target>], target: &Target| list.iter().any(|entry| entry.value == *target);
    let door = |target: &Target| match target {
        target if holds(doors, target) => Some("under doors"),
        target if upstream.as_ref() == Some(target) => Some("upstream.server"),
        _ => None,
    };
    for Spanned { value, at } in refuse {
        if let Some(other) = door(value) {
            decoder.error_at(
                at,
                format!("field `refuse`: {value} is {other} too; an address is one or the other"),
            );
        }
    }
    for Spanned { value, at } in allow {
        let target = Target::Address(*value);
        if let Some(other) = door(&target) {
            decoder.error_at(
                at,
                format!(
                    "field `allow`: {value} is {other} too, and those are taken to Picket whatever is allowed"
                ),
            );
        } else if holds(refuse, &target) {
            decoder.error_at(
                at,
                format!("field `allow`: {value} is under refuse too; an address is one or the other"),
            );
        }
    }
}
