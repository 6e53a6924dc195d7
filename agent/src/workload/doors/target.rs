//! An address as people write it: `address:port` or `name:port`.
//!
//! In: text from the configuration, or a URL. Out: a [`Target`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::DnsName;
use serde::Deserialize;

/// What https stands for where a URL names no port.
const HTTPS: u16 = 443;

/// Where something listens, by address or by a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Target {
    /// By its address.
    Address(SocketAddr),
    /// By a name that has to be looked up.
    Name {
        /// The name, in lower case.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A text is neither `address:port` nor `name:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither address:port nor name:port, such as 192.0.2.1:6443, [2001:db8::1]:6443 or api.example.com:6443"
)]
pub struct TargetError(String);

impl Target {
    /// The host and the port of a URL.
    #[must_use]
    pub fn of_url(url: &http::Uri) -> Option<Self> {
        Self::new(url.host()?, url.port_u16().unwrap_or(HTTPS))
    }

    fn new(host: &str, port: u16) -> Option<Self> {
        if port == 0 {
            return None;
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Address(SocketAddr::new(address.to_canonical(), port)));
        }
        // A last label of digits is a mistyped address, which no server answers for.
        let last = host.trim_end_matches('.').rsplit('.').next()?;
        let name = DnsName::try_from(host).is_ok() && !last.bytes().all(|byte| byte.is_ascii_digit());
        name.then(|| Self::Name {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || TargetError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        // An address with colons needs its brackets, or its last group would be taken for a port.
        if host.contains(':') && !host.starts_with('[') {
            return Err(bad());
        }
        Self::new(host, port.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(out),
            Self::Name { host, port } => write!(out, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_names_and_nothing_else() {
        for (text, shown) in [
            ("192.0.2.1:6443", "192.0.2.1:6443"),
            ("[2001:db8::1]:6443", "[2001:db8::1]:6443"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1:443"),
            ("API.example.com:443", "api.example.com:443"),
            ("localhost:6443", "localhost:6443"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for text in [
            "192.0.2.1",
            "2001:db8::1:443",
            "192.0.2.300:443",
            "api.example.com:0",
            "api.example.com:65536",
            "api example:443",
            ":443",
            "https://api.example.com:443",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("name:port"), "{error}");
        }
    }

    #[test]
    fn a_url_has_a_host_and_a_port() {
        for (url, shown) in [
            ("https://10.0.0.1:6443", "10.0.0.1:6443"),
            ("https://api.example.com", "api.example.com:443"),
            ("https://[fd00::1]:6443/", "[fd00::1]:6443"),
        ] {
            let url: http::Uri = url.parse().unwrap();
            assert_eq!(Target::of_url(&url).unwrap().to_string(), shown);
        }
    }
}
