//! Kubernetes' networks: `cidr`, `isCIDR` and what a network contains.
//!
//! In: texts, and networks. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of `k8s.io/apiserver/pkg/cel/library/cidr.go`. The bits behind the prefix may be set; `masked` takes them away.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::cel::common::types::{STRING_TYPE, Type};
use ::cel::common::value::CowVal;
use ::cel::{DeclarationError, Env, ExecutionError};

use super::opaque::{Named, Opaque, opaque};
use super::{Operands, Outcome, boolean, failed, integer, ip, operand, string, text_at};

static CIDR: Type = Type::new_unspecified_type("net.CIDR");

/// An address, and how many of its bits are those of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Named for Cidr {
    fn named() -> &'static Type {
        &CIDR
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.rsplit_once('/')?;
        let address = ip::parse(address)?;
        let is_number = prefix.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number || (prefix.len() > 1 && prefix.starts_with('0')) {
            return None;
        }
        let prefix: u8 = prefix.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Self { address, prefix })
    }

    /// An address without the bits behind the prefix.
    fn network(&self, address: IpAddr) -> IpAddr {
        let prefix = u32::from(self.prefix);
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.network(address) == self.network(self.address)
    }
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let cidr = || CIDR.to_owned();
    let address = <Opaque<IpAddr> as ::cel::common::value::Val>::cel_type;
    env.add_type(cidr())?;
    env.add_overload("cidr", "string_to_cidr", vec![STRING_TYPE], to_cidr)?;
    env.add_overload("isCIDR", "is_cidr", vec![STRING_TYPE], is_cidr)?;
    env.add_overload("string", "cidr_to_string", vec![cidr()], to_text)?;
    env.add_member_overload(
        "containsIP",
        "cidr_contains_ip_string",
        cidr(),
        vec![STRING_TYPE],
        contains_ip,
    )?;
    env.add_member_overload(
        "containsIP",
        "cidr_contains_ip_ip",
        cidr(),
        vec![address().to_owned()],
        contains_ip,
    )?;
    env.add_member_overload(
        "containsCIDR",
        "cidr_contains_cidr_string",
        cidr(),
        vec![STRING_TYPE],
        contains_cidr,
    )?;
    env.add_member_overload(
        "containsCIDR",
        "cidr_contains_cidr",
        cidr(),
        vec![cidr()],
        contains_cidr,
    )?;
    env.add_member_overload("ip", "cidr_ip", cidr(), vec![], to_ip)?;
    env.add_member_overload(
        "prefixLength",
        "cidr_prefix_length",
        cidr(),
        vec![],
        prefix_length,
    )?;
    env.add_member_overload("masked", "cidr_masked", cidr(), vec![], masked)
}

fn cidr_at(operands: &[CowVal<'_, '_>], place: usize) -> Result<Cidr, ExecutionError> {
    operand::<Opaque<Cidr>>(operands, place).map(|cidr| cidr.0)
}

fn to_cidr<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let cidr = Cidr::parse(text_at(&operands, 0)?);
    cidr.map(opaque).ok_or_else(|| failed("cidr"))
}

fn is_cidr<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(Cidr::parse(text_at(&operands, 0)?).is_some()))
}

fn to_text<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(cidr_at(&operands, 0)?.to_string()))
}

fn contains_ip<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let address = match text_at(&operands, 1) {
        Ok(text) => ip::parse(text).ok_or_else(|| failed("containsIP"))?,
        Err(_) => operand::<Opaque<IpAddr>>(&operands, 1)?.0,
    };
    Ok(boolean(cidr_at(&operands, 0)?.contains(address)))
}

fn contains_cidr<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let other = match text_at(&operands, 1) {
        Ok(text) => Cidr::parse(text).ok_or_else(|| failed("containsCIDR"))?,
        Err(_) => cidr_at(&operands, 1)?,
    };
    let cidr = cidr_at(&operands, 0)?;
    Ok(boolean(
        cidr.prefix <= other.prefix && cidr.contains(other.address),
    ))
}

fn to_ip<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(opaque(cidr_at(&operands, 0)?.address))
}

fn prefix_length<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(integer(i64::from(cidr_at(&operands, 0)?.prefix)))
}

fn masked<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let cidr = cidr_at(&operands, 0)?;
    let address = cidr.network(cidr.address);
    Ok(opaque(Cidr { address, ..cidr }))
}
