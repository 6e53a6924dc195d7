//! Kubernetes' addresses: `ip`, `isIP`, `ip.isCanonical` and what an address is.
//!
//! In: texts, and addresses. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of `k8s.io/apiserver/pkg/cel/library/ip.go`: an address has no zone, and an IPv4 address is not written as IPv6.

use std::net::IpAddr;

use ::cel::common::types::{STRING_TYPE, Type};
use ::cel::{DeclarationError, Env};

use super::opaque::{Named, Opaque, opaque};
use super::{Operands, Outcome, boolean, failed, integer, operand, string, text_at};

static IP: Type = Type::new_unspecified_type("net.IP");

impl Named for IpAddr {
    fn named() -> &'static Type {
        &IP
    }
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let ip = || IP.to_owned();
    env.add_type(ip())?;
    env.add_overload("ip", "string_to_ip", vec![STRING_TYPE], to_ip)?;
    env.add_overload("isIP", "is_ip", vec![STRING_TYPE], is_ip)?;
    env.add_overload(
        "ip.isCanonical",
        "ip_is_canonical",
        vec![STRING_TYPE],
        is_canonical,
    )?;
    env.add_overload("string", "ip_to_string", vec![ip()], to_text)?;
    env.add_member_overload("family", "ip_family", ip(), vec![], family)?;
    env.add_member_overload("isUnspecified", "ip_is_unspecified", ip(), vec![], is_unspecified)?;
    env.add_member_overload("isLoopback", "ip_is_loopback", ip(), vec![], is_loopback)?;
    env.add_member_overload(
        "isLinkLocalMulticast",
        "ip_is_llm",
        ip(),
        vec![],
        is_link_local_multicast,
    )?;
    env.add_member_overload(
        "isLinkLocalUnicast",
        "ip_is_llu",
        ip(),
        vec![],
        is_link_local_unicast,
    )?;
    env.add_member_overload(
        "isGlobalUnicast",
        "ip_is_global_unicast",
        ip(),
        vec![],
        is_global_unicast,
    )
}

/// An address as Kubernetes reads it.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

fn address(operands: &[::cel::common::value::CowVal<'_, '_>]) -> Result<IpAddr, ::cel::ExecutionError> {
    operand::<Opaque<IpAddr>>(operands, 0).map(|address| address.0)
}

fn to_ip<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    parse(text_at(&operands, 0)?)
        .map(opaque)
        .ok_or_else(|| failed("ip"))
}

fn is_ip<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(parse(text_at(&operands, 0)?).is_some()))
}

fn is_canonical<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let text = text_at(&operands, 0)?;
    let address = parse(text).ok_or_else(|| failed("ip.isCanonical"))?;
    Ok(boolean(address.to_string() == text))
}

fn to_text<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(address(&operands)?.to_string()))
}

fn family<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(integer(if address(&operands)?.is_ipv4() { 4 } else { 6 }))
}

fn is_unspecified<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(address(&operands)?.is_unspecified()))
}

fn is_loopback<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(address(&operands)?.is_loopback()))
}

fn is_link_local_multicast<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(match address(&operands)? {
        IpAddr::V4(address) => address.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(address) => address.octets()[0] == 0xff && address.octets()[1] & 0x0f == 0x02,
    }))
}

fn link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn is_link_local_unicast<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(link_local_unicast(address(&operands)?)))
}

/// As Go has it: private addresses are, and broadcast is not.
fn is_global_unicast<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let address = address(&operands)?;
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let is_other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    Ok(boolean(
        !is_broadcast && !is_other && !link_local_unicast(address),
    ))
}
