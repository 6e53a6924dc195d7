//! Any head of a request: no panic; method and verb agree, the reading that is kept with the head is the reading, and HEAD is read as GET.
#![no_main]

use http::{HeaderMap, Method, Uri};
use libfuzzer_sys::fuzz_target;
use picket_fuzz::headers;
use picket_policy::{CanonicalRequest, KubeRequest, Target, Verb};

// A request line without its protocol, then headers.
fuzz_target!(|data: &[u8]| {
    let (line, fields) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let Some(split) = line.iter().position(|byte| *byte == b' ') else {
        return;
    };
    let (Ok(method), Ok(uri)) = (
        Method::from_bytes(&line[..split]),
        Uri::try_from(&line[split + 1..]),
    ) else {
        return;
    };
    let headers = headers(fields);
    let read = |method: &Method| KubeRequest::read(method, &uri, &headers);
    let result = read(&method);
    let mut head = http::Request::new(()).into_parts().0;
    (head.method, head.uri, head.headers) = (method.clone(), uri.clone(), headers.clone());
    let kept = CanonicalRequest::read(head);
    assert_eq!(kept.as_ref().map(|kept| kept.kube().as_ref()), result.as_ref());
    let request = match result {
        Ok(request) => request,
        Err(error) => {
            let said = error.to_string();
            assert!(
                !said.is_empty() && said.len() < 4_096 && !said.contains('\n'),
                "{said}"
            );
            return;
        }
    };
    let kept = kept.expect("it was read");
    assert_eq!(
        (&kept.head().method, &kept.head().uri, &kept.head().headers),
        (&method, &uri, &headers)
    );
    let reads = method == Method::GET || method == Method::HEAD;
    match &request.target {
        Target::Resource {
            resource,
            subresource,
            namespace,
            name,
            group,
            ..
        } => {
            assert!(
                verbs(&method).contains(&request.verb),
                "{method} {}",
                request.verb
            );
            let parts = [
                Some(resource),
                subresource.as_ref(),
                namespace.as_ref(),
                name.as_ref(),
            ];
            assert!(
                parts
                    .into_iter()
                    .flatten()
                    .all(|part| !part.is_empty() && !part.contains('/'))
            );
            let collection = matches!(request.verb, Verb::List | Verb::DeleteCollection);
            assert!(!collection || subresource.is_none());
            assert!(subresource.is_none() || name.is_some());
            assert_eq!(
                request.is_mutating(),
                !reads || request.is_session() || request.is_proxied()
            );
            assert!(!request.is_session() || group.is_empty() && resource == "pods" && name.is_some());
            assert!(request.exec.is_none() || request.is_session());
            if reads {
                assert_eq!(read(&Method::GET), read(&Method::HEAD));
            }
        }
        Target::NonResource { .. } => {
            assert_eq!(request.verb.to_string(), method.as_str().to_ascii_lowercase());
            assert!(request.exec.is_none() && request.proxy_path.is_none() && !request.is_session());
        }
    }
    let verb = request.verb_of_effect();
    assert!(verb == request.verb || verb == Verb::Create && request.is_session());
    assert!(request.words().starts_with(&format!("{verb} ")));
    // Without headers the same is asked, of whichever host.
    let plain = uri.path_and_query().expect("it was read").as_str();
    let Ok(plain) = Uri::try_from(plain) else { return };
    let plain = KubeRequest::read(&method, &plain, &HeaderMap::new()).expect("it was read with more");
    let (apply, upgrade) = (request.apply, request.upgrade);
    assert_eq!(KubeRequest::clone(&request), with(plain, apply, upgrade));
});

fn with(mut request: KubeRequest, apply: bool, upgrade: bool) -> KubeRequest {
    request.apply = apply;
    request.upgrade = upgrade;
    request
}

/// What a method can ask of a resource.
fn verbs(method: &Method) -> &'static [Verb] {
    match *method {
        Method::GET | Method::HEAD => &[Verb::Get, Verb::List, Verb::Watch],
        Method::POST => &[Verb::Create],
        Method::PUT => &[Verb::Update],
        Method::PATCH => &[Verb::Patch],
        Method::DELETE => &[Verb::Delete, Verb::DeleteCollection],
        _ => &[],
    }
}
