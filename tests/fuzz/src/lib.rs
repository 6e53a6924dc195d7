//! What the fuzz targets share: choices that an input makes, and other spellings of a request.
//!
//! In: the bytes of an input. Out: choices, requests that were read, and the same paths and queries written otherwise.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use picket_policy::{CanonicalRequest, KubeRequest, LongTarget, ReadError};

/// The methods that clients of the API server use, and two that it has no verb for.
pub const METHODS: [&str; 9] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "get",
];

/// An input as a row of choices; after its end each is the first.
pub struct Choices<'d>(&'d [u8]);

impl<'d> Choices<'d> {
    /// The choices that these bytes make.
    pub fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// One of several.
    pub fn of<'t, T>(&mut self, several: &'t [T]) -> &'t T {
        &several[self.below(several.len())]
    }

    /// Whether something that is so once in a while is so now.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// Up to `most` of several, each at most once, in their order.
    pub fn some<'t, T>(&mut self, several: &'t [T], most: usize) -> Vec<&'t T> {
        let mut places: Vec<usize> = (0..=self.below(most))
            .map(|_| self.below(several.len()))
            .collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| &several[place]).collect()
    }

    /// What is left.
    pub fn rest(&self) -> &'d [u8] {
        self.0
    }
}

/// Reads a head without headers; `None` where HTTP's own parser refuses the target.
pub fn read(method: &str, target: &[u8]) -> Option<Result<KubeRequest, ReadError>> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let uri = Uri::try_from(target).ok()?;
    Some(KubeRequest::read(&method, &uri, &HeaderMap::new()))
}

/// Reads the same head as one whose target is longer than a URI may be; `None` where the target cannot be such a one.
pub fn read_as_long(method: &str, target: &[u8]) -> Option<Result<KubeRequest, ReadError>> {
    let (mut head, ()) = http::Request::builder()
        .method(method)
        .uri("/")
        .body(())
        .ok()?
        .into_parts();
    head.extensions.insert(LongTarget::new(target)?);
    Some(CanonicalRequest::read(head).map(|request| KubeRequest::clone(request.kube())))
}

/// Headers out of lines `name: value`; lines that cannot be one are left out.
pub fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Undoes `%XX` by a second reading of RFC 3986; a broken escape stays as it is.
pub fn decoded(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let digits = behind
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &behind[2..];
            }
            _ => out.push(*first),
        }
    }
    out
}

/// Escapes text anew: all that must be, and of the rest what the choices say. A slash stays where `is_path`.
pub fn respelt(text: &str, is_path: bool, choices: &mut Choices<'_>) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        let must = !(byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        match (byte, choices.below(3)) {
            (b'/', _) if is_path => out.push('/'),
            (_, 1) => out.push_str(&format!("%{byte:02x}")),
            (_, kind) if must || kind == 2 => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// A query of the same pairs, escaped anew, with nothing in between.
pub fn respelt_query(pairs: &[(String, String)], choices: &mut Choices<'_>) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        if choices.once_in(4) {
            out.push('&');
        }
        out.push_str(&respelt(key, false, choices));
        if !value.is_empty() || choices.once_in(2) {
            out.push('=');
        }
        out.push_str(&respelt(value, false, choices));
        out.push('&');
    }
    if !choices.once_in(2) {
        out.pop();
    }
    out
}
