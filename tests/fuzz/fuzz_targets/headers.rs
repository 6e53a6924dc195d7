//! Any headers: no panic; what is read has one framing, one host and no other method, and neither the order of headers nor a header that
//! says nothing to the API server changes it.
#![no_main]

use std::sync::LazyLock;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;
use picket_fuzz::{Choices, headers};
use picket_policy::{KubeRequest, MAX_HEAD, ReadError, Verb};

const REQUESTS: [(&str, &str); 6] = [
    ("PATCH", "/api/v1/namespaces/n/pods/p"),
    ("PATCH", "https://10.96.0.1/api/v1/namespaces/n/pods/p"),
    (
        "GET",
        "https://10.96.0.1:443/api/v1/namespaces/n/pods/p/exec?command=sh",
    ),
    ("POST", "/api/v1/namespaces/n/pods/p/exec?command=sh"),
    ("GET", "/api/v1/pods?watch=1"),
    ("GET", "/version"),
];

/// An eighth of the longest head that is read.
static EIGHTH: LazyLock<HeaderValue> = LazyLock::new(|| {
    let value = HeaderValue::from_str(&"v".repeat(MAX_HEAD / 8));
    value.expect("a value")
});

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (method, target) = *choices.of(&REQUESTS);
    let method: Method = method.parse().expect("a method");
    let uri: Uri = target.parse().expect("a target");
    let read = |headers: &HeaderMap| KubeRequest::read(&method, &uri, headers);
    let given = headers(choices.rest());
    let result = read(&given);
    assert_eq!(result, read(&given));
    let mut fields: Vec<_> = given
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    fields.reverse();
    let turned = read(&fields.into_iter().collect());
    let Ok(request) = result else {
        // Which of several faults is told depends on no order either, but for that of the protocols of an upgrade.
        assert!(turned.is_err());
        return;
    };
    assert_eq!(turned.as_ref(), Ok(&request));
    for once in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING] {
        assert!(given.get_all(&once).iter().count() <= 1, "{once}");
    }
    assert!(!(given.contains_key(CONTENT_LENGTH) && given.contains_key(TRANSFER_ENCODING)));
    for name in given.keys() {
        let name = name.as_str().replace('_', "-");
        assert!(!["x-http-method-override", "x-http-method", "x-method-override"].contains(&name.as_str()));
    }
    if let (Some(authority), Some(host)) = (uri.authority(), given.get(HOST)) {
        let host = host.to_str().expect("as the target").to_ascii_lowercase();
        let bare = |host: &str| host.strip_suffix(":443").unwrap_or(host).to_owned();
        assert_eq!(bare(&host), bare(authority.as_str()));
    }
    // Headers tell how a body is meant and which protocol follows, and nothing else.
    let plain = read(&HeaderMap::new()).expect("it was read with more");
    let (apply, upgrade) = (request.apply, request.upgrade);
    assert_eq!(KubeRequest::clone(&request), with(plain, apply, upgrade));
    let says = |name: &str, word: &str| {
        let mut values = given.get_all(name).iter();
        values.any(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .to_ascii_lowercase()
                .contains(word)
        })
    };
    assert_eq!(
        apply,
        request.verb == Verb::Patch && says(CONTENT_TYPE.as_str(), "apply-patch")
    );
    assert!(
        !upgrade
            || says("connection", "upgrade") && (says("upgrade", "websocket") || says("upgrade", "spdy/3.1"))
    );
    // A header that the API server does not know, and another case of the values that are words.
    let mut more = given.clone();
    more.append("x-other", "websocket".parse().expect("a value"));
    assert_eq!(read(&more).as_ref(), Ok(&request));
    let mut loud = HeaderMap::new();
    for (name, value) in &given {
        let value = value.as_bytes().to_ascii_uppercase();
        loud.append(name, value.as_slice().try_into().expect("a value"));
    }
    assert_eq!(read(&loud).as_ref(), Ok(&request));
    // Over the limit everything is refused, however it came.
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        more.append(HeaderName::from_static(name), EIGHTH.clone());
    }
    assert_eq!(read(&more), Err(ReadError::Head));
});

fn with(mut request: KubeRequest, apply: bool, upgrade: bool) -> KubeRequest {
    request.apply = apply;
    request.upgrade = upgrade;
    request
}
