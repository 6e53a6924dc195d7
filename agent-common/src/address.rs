//! One form for every address that the kernel programs compare.
//!
//! In: an address as a socket call named it. Out: an [`Address`]: 16 bytes in network order, IPv4 in the mapped form of RFC
//! 4291 section 2.5.5.2. With one form a protected endpoint is found whichever spelling a client dials.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The third word of `::ffff:0:0/96`, in network order.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// The first word of the well-known NAT64 prefix `64:ff9b::/96` (RFC 6052 section 2.1), in network order.
const NAT64: u32 = 0x0064_ff9b_u32.to_be();

/// `127.0.0.1` in network order.
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();

/// The bits of `127.0.0.0/8` that its addresses share.
const LOOPBACK4_MASK: u32 = 0xff00_0000_u32.to_be();

/// The bits of `fe80::/10` that its addresses share, and what they are (RFC 4291 section 2.5.6).
const LINK_LOCAL_MASK: u32 = 0xffc0_0000;
const LINK_LOCAL: u32 = 0xfe80_0000;

/// The last word of `::1` in network order.
const LOOPBACK6: u32 = 1_u32.to_be();

/// An IP address as four words, each in network order, as the kernel's contexts hold them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    words: [u32; 4],
}

impl Address {
    /// `127.0.0.1`, mapped.
    pub const V4_LOOPBACK: Self = Self::from_v4_word(LOOPBACK4);

    /// `::1`.
    pub const V6_LOOPBACK: Self = Self::from_v6_words([0, 0, 0, LOOPBACK6]);

    /// `fe80::`, which stands for all link-local addresses among the protected endpoints.
    pub const LINK_LOCAL: Self = Self::from_v6_words([LINK_LOCAL.to_be(), 0, 0, 0]);

    /// None: `::`, where an event has no address.
    pub const NOWHERE: Self = Self::from_v6_words([0; 4]);

    /// An IPv4 address from the word `user_ip4` of `struct bpf_sock_addr` (network order).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// An IPv6 address from the words `user_ip6` of `struct bpf_sock_addr` (network order), as they are.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The four words in network order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// The IPv4 word in network order; of use only where [`Self::is_v4`] holds.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.words[3]
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether both are the same, where a trait's function cannot be asked.
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.words, other.words);
        a == e && b == f && c == g && d == h
    }

    /// Whether this is the IPv6 any-address `::`.
    #[inline(always)]
    pub const fn is_v6_any(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && self.words[3] == 0
    }

    /// The form that protected endpoints and flows are compared in: NAT64's well-known prefix stands for the IPv4 address
    /// inside it, and an any-address stands for loopback, which is where the kernel takes such a connect.
    #[inline(always)]
    pub const fn canonical(self) -> Self {
        let [first, second, third, last] = self.words;
        if self.is_v6_any() {
            return Self::V6_LOOPBACK;
        }
        let translated = first == NAT64 && second == 0 && third == 0;
        if translated || self.is_v4() {
            if last == 0 {
                return Self::V4_LOOPBACK;
            }
            return Self::from_v4_word(last);
        }
        self
    }

    /// The form that protected endpoints are compared in: the canonical one, with all of `127.0.0.0/8` as one address, since every
    /// one of them is the same machine (RFC 1122 section 3.2.1.3). Flows need them told apart.
    #[inline(always)]
    pub const fn endpoint(self) -> Self {
        let canonical = self.canonical();
        if canonical.is_loopback() && canonical.is_v4() {
            return Self::V4_LOOPBACK;
        }
        canonical
    }

    /// Whether a canonical address is the machine's own loopback, which is another one in each network namespace.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let [first, second, third, last] = self.words;
        if self.is_v4() {
            return last & LOOPBACK4_MASK == LOOPBACK4 & LOOPBACK4_MASK;
        }
        first == 0 && second == 0 && third == 0 && last == LOOPBACK6
    }

    /// Whether this is an IPv6 link-local address. On a pod's link they are the node's end and the pod's own, and on the node's
    /// link its neighbours', which are nodes: so one rule stands for all, and costs the same however many links a node has.
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        u32::from_be(self.words[0]) & LINK_LOCAL_MASK == LINK_LOCAL
    }

    /// The address as Rust's own type; a mapped one comes back as IPv4.
    pub const fn to_ip(self) -> IpAddr {
        let [first, second, third, last] = self.words;
        if self.is_v4() {
            return IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(last)));
        }
        let high = ((u32::from_be(first) as u128) << 96) | ((u32::from_be(second) as u128) << 64);
        let low = ((u32::from_be(third) as u128) << 32) | (u32::from_be(last) as u128);
        IpAddr::V6(Ipv6Addr::from_bits(high | low))
    }
}

impl From<IpAddr> for Address {
    /// The address as it is; call [`Address::canonical`] before comparing.
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::from_v4_word(ip.to_bits().to_be()),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                Self {
                    words: [
                        ((bits >> 96) as u32).to_be(),
                        ((bits >> 64) as u32).to_be(),
                        ((bits >> 32) as u32).to_be(),
                        (bits as u32).to_be(),
                    ],
                }
            }
        }
    }
}

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> IpAddr {
        Address::from(text.parse::<IpAddr>().unwrap()).canonical().to_ip()
    }

    #[test]
    fn every_spelling_of_an_ipv4_address_is_one() {
        for spelling in [
            "10.96.0.1",
            "::ffff:10.96.0.1",
            "::ffff:0a60:0001",
            "64:ff9b::10.96.0.1",
        ] {
            assert_eq!(
                canonical(spelling),
                "10.96.0.1".parse::<IpAddr>().unwrap(),
                "{spelling}"
            );
        }
    }

    #[test]
    fn any_addresses_are_loopback() {
        assert_eq!(canonical("0.0.0.0"), "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(
            canonical("::ffff:0.0.0.0"),
            "127.0.0.1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(canonical("64:ff9b::"), "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(canonical("::"), "::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn endpoints_on_loopback_are_one() {
        let endpoint = |text: &str| {
            Address::from(text.parse::<IpAddr>().unwrap())
                .endpoint()
                .to_ip()
                .to_string()
        };
        for spelling in [
            "127.0.0.1",
            "127.9.9.9",
            "::ffff:127.0.0.2",
            "0.0.0.0",
            "64:ff9b::127.1.1.1",
        ] {
            assert_eq!(endpoint(spelling), "127.0.0.1", "{spelling}");
        }
        assert_eq!(endpoint("::"), "::1");
        assert_eq!(endpoint("128.0.0.1"), "128.0.0.1");
        let loopback = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_loopback();
        assert!(loopback("127.0.0.5") && loopback("::1"));
        assert!(!loopback("10.0.0.1") && !loopback("::2") && !loopback("::127.0.0.1"));
    }

    #[test]
    fn link_local_addresses_are_told_from_others() {
        let link_local = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_link_local();
        assert!(link_local("fe80::1") && link_local("fe80::") && link_local("febf:ffff::9"));
        assert!(!link_local("fec0::1") && !link_local("fe00::1") && !link_local("fd00::1"));
        assert!(!link_local("169.254.169.254") && !link_local("::ffff:254.128.0.1"));
        assert_eq!(Address::LINK_LOCAL.to_ip(), "fe80::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn other_addresses_stay() {
        for other in [
            "127.0.0.2",
            "fd00:10:96::1",
            "64:ff9b:1::a60:1",
            "64:ff9b::1:a60:1",
            "::10.96.0.1",
            "::fffe:a60:1",
        ] {
            assert_eq!(canonical(other), other.parse::<IpAddr>().unwrap(), "{other}");
        }
    }

    #[test]
    fn the_words_are_in_network_order() {
        let address = Address::from("10.96.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(address.v4_word().to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(address, Address::from_v4_word(u32::from_ne_bytes([10, 96, 0, 1])));
    }
}
