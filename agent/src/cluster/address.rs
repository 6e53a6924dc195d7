//! Addresses in objects of the API server, read as the cluster reads them.
//!
//! In: the text of a field. Out: the address that kube-proxy and the kubelet take it for.

use std::net::IpAddr;

/// Reads an address. Like Go's `ParseIPSloppy` it lets each part begin with zeros, and they mean nothing: `010.0.0.1` is 10.0.0.1. API
/// servers before 1.36 take such addresses, 1.36 keeps stored ones, and kube-proxy routes to them. An address that Picket did not know
/// would be a way past it. An IPv4 address in IPv6 form is the IPv4 address.
///
/// Sources: k8s.io/utils/internal/third_party/forked/golang/net/ip.go, KEP-4858.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    let parsed: IpAddr = match text.parse() {
        Ok(parsed) => parsed,
        Err(_) => without_zeros(text).parse().ok()?,
    };
    Some(parsed.to_canonical())
}

/// The text without the zeros that its parts begin with.
fn without_zeros(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    // Whether a part goes on that had another digit than zero; the zero that a part may be is written at its end.
    let (mut is_zero, mut has_digit) = (false, false);
    for character in text.chars() {
        match character {
            '0' if !has_digit => is_zero = true,
            digit if digit.is_ascii_hexdigit() => {
                has_digit = true;
                written.push(digit);
            }
            other => {
                if is_zero && !has_digit {
                    written.push('0');
                }
                (is_zero, has_digit) = (false, false);
                written.push(other);
            }
        }
    }
    if is_zero && !has_digit {
        written.push('0');
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_the_cluster_takes_it_for() {
        for (text, read) in [
            ("10.250.0.1", Some("10.250.0.1")),
            ("010.250.0.1", Some("10.250.0.1")),
            ("10.0250.00.001", Some("10.250.0.1")),
            ("000.0.0.0000", Some("0.0.0.0")),
            ("192.0.2.100", Some("192.0.2.100")),
            ("08.09.010.011", Some("8.9.10.11")),
            ("fd00::1", Some("fd00::1")),
            ("FD00:0000000:0::00001", Some("fd00::1")),
            ("::", Some("::")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::0FFFF:010.0.0.01", Some("10.0.0.1")),
            ("0256.0.0.1", None),
            ("10.0.0", None),
            ("0x10.0.0.1", None),
            ("10.0.0.1/24", None),
            ("fe80::1%eth0", None),
            (" 10.0.0.1", None),
            ("None", None),
            ("", None),
        ] {
            let expected = read.map(|read| read.parse().expect("an address"));
            assert_eq!(address(text), expected, "{text}");
        }
    }
}
