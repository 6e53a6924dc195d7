//! An address as people write it: `address:port` or `name:port`.
//!
//! In: text from the configuration, or a URL. Out: a [`EndpointTarget`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::DnsName;

/// What https stands for where a URL names no port.
const HTTPS: u16 = 443;

/// Where something listens, by address or by a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointTarget {
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

/// A text is no [`EndpointTarget`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointTargetError {
    /// It has another form.
    #[error(
        "{0:?} is neither address:port nor name:port, such as 192.0.2.1:6443, [2001:db8::1]:6443 or api.example.com:6443"
    )]
    Form(String),
    /// It stands for several addresses.
    #[error("{0:?} is a range; give each address or name by itself")]
    Range(String),
    /// Nothing can listen at its port.
    #[error("{0:?} has no such port; a port is 1 to 65535")]
    Port(String),
}

impl EndpointTarget {
    /// The host and the port of a URL; `None` where it has no host, or a port that is none.
    #[must_use]
    pub fn of_url(url: &http::Uri) -> Option<Self> {
        let host = url.host()?;
        let port = match url.port_u16() {
            Some(port) => port,
            None if url.authority()?.as_str().ends_with(host) => HTTPS,
            // `https://host:99999` has no port either.
            None => return None,
        };
        (port != 0).then(|| Self::new(host, port))?
    }

    fn new(host: &str, port: u16) -> Option<Self> {
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

/// Whether this is several addresses as people write them: `10.0.0.0/8`, `10.0.0.1-5`, `10.0.0.*`, `[fd00::/8]`.
fn is_range(host: &str) -> bool {
    let six = host.starts_with('[');
    let numeric =
        |byte: u8| byte.is_ascii_digit() || (six && byte.is_ascii_hexdigit()) || b".:[]/-*".contains(&byte);
    host.contains(['/', '-', '*']) && host.bytes().all(numeric)
}

impl FromStr for EndpointTarget {
    type Err = EndpointTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || EndpointTargetError::Form(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        // An address with colons needs its brackets, or its last group would be taken for a port.
        if host.contains(':') && !host.starts_with('[') {
            return Err(bad());
        }
        if is_range(host) {
            return Err(EndpointTargetError::Range(text.to_owned()));
        }
        match port.parse() {
            Ok(port) if port != 0 => Self::new(host, port).ok_or_else(bad),
            _ if port.starts_with(|first: char| first.is_ascii_digit()) => {
                Err(EndpointTargetError::Port(text.to_owned()))
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for EndpointTarget {
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
            ("ip-10-0-0-1.example:443", "ip-10-0-0-1.example:443"),
        ] {
            assert_eq!(text.parse::<EndpointTarget>().unwrap().to_string(), shown);
        }
        let no_target = |text: &str| text.parse::<EndpointTarget>().unwrap_err();
        for text in [
            "192.0.2.1",
            "2001:db8::1:443",
            "192.0.2.300:443",
            "api.example.com:none",
            "api example:443",
            ":443",
            "https://api.example.com",
            "https://api.example.com:443",
        ] {
            let error = no_target(text);
            assert_eq!(error, EndpointTargetError::Form(text.to_owned()));
            assert!(error.to_string().contains("name:port"), "{error}");
        }
        for text in ["192.0.2.1:0", "api.example.com:65536", "192.0.2.1:80-90"] {
            let said = format!("{text:?} has no such port; a port is 1 to 65535");
            assert_eq!(no_target(text).to_string(), said);
        }
        for text in [
            "10.0.0.0/8:443",
            "10.0.0.1-5:80",
            "10.0.0.1-10.0.0.5:80",
            "10.0.0.*:80",
            "[fd00::/8]:443",
            "[fd00::]/8:443",
        ] {
            let said = format!("{text:?} is a range; give each address or name by itself");
            assert_eq!(no_target(text).to_string(), said);
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
            assert_eq!(EndpointTarget::of_url(&url).unwrap().to_string(), shown);
        }
        for url in ["https://10.0.0.1:0", "https://[fd00::1]:99999", "/path"] {
            assert_eq!(EndpointTarget::of_url(&url.parse().unwrap()), None, "{url}");
        }
    }
}
