//! Any request line: no panic, and what is read has one reading only.
#![no_main]

use http::{HeaderMap, Method, Uri};
use libfuzzer_sys::fuzz_target;
use picket_policy::{KubeRequest, Target};

fuzz_target!(|data: &[u8]| {
    let Some(split) = data.iter().position(|byte| *byte == b' ') else {
        return;
    };
    let (Ok(method), Ok(uri)) = (
        Method::from_bytes(&data[..split]),
        Uri::try_from(&data[split + 1..]),
    ) else {
        return;
    };
    let Ok(request) = KubeRequest::read(&method, &uri, &HeaderMap::new()) else {
        return;
    };
    assert!(request.path.starts_with('/') && !request.path.contains("//") && !request.path.contains('%'));
    assert!(
        request
            .path
            .split('/')
            .all(|segment| segment != "." && segment != "..")
    );
    // Go's ParseQuery drops pairs with a semicolon, and all pairs when there are too many.
    let query = uri.query().unwrap_or_default();
    let most = if request.exec.is_some() { 10_000 } else { 1_000 };
    assert!(!query.contains(';') && query.matches('&').count() < most);
    // What is behind a proxy is the end of the path, and no query changes it.
    if let Some(behind) = &request.proxy_path {
        assert!(behind.is_empty() || behind.starts_with('/'));
        let whole = format!("{}{}", request.path, if behind.ends_with('/') { "/" } else { "" });
        assert!(whole.ends_with(&format!("/proxy{behind}")));
    }
    if let Target::Resource {
        resource, namespace, ..
    } = &request.target
    {
        assert!(!resource.is_empty() && namespace.as_deref() != Some(""));
    }
});
