//! Any path: no panic; what is read is what a second decoder makes of it, its parts spell it, and every other spelling of it reads the
//! same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_fuzz::{Choices, METHODS, decoded, read, read_as_long, respelt};
use picket_policy::{KubeRequest, Target, Verb};

/// The longest path that is read (`MAX_PATH` of picket-policy).
const LONGEST: usize = 8 * 1024;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let method = *choices.of(&METHODS);
    let raw = choices.rest();
    // The other forms of a target, a query, and a fragment, which HTTP's own parser takes off.
    if !raw.starts_with(b"/") || raw.contains(&b'?') || raw.contains(&b'#') {
        return;
    }
    let as_uri = read(method, raw);
    if let (Some(as_uri), Some(as_long)) = (&as_uri, read_as_long(method, raw)) {
        assert_eq!(*as_uri, as_long);
    }
    let Some(Ok(request)) = as_uri else { return };
    let path = String::from_utf8(decoded(raw)).expect("a path that is read is UTF-8");
    assert!(path.starts_with('/') && !path.contains("//") && !path.contains(['%', '\\', '?', '#']));
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
    match &request.target {
        Target::NonResource { path: matched } => assert_eq!((matched, &request.path), (&path, &path)),
        Target::Resource { .. } => {
            assert_eq!(request.path, path.strip_suffix('/').unwrap_or(&path));
            assert!(
                spellings(&request).any(|spelling| begins(&request, &spelling)),
                "{request:?}"
            );
        }
    }
    // What is behind a proxy is the end of the path.
    if let Some(behind) = &request.proxy_path {
        assert!(behind.is_empty() || behind.starts_with('/'));
        assert!(path.ends_with(&format!("/proxy{behind}")));
    }
    // The escapes are chosen by the input read backwards.
    let backwards: Vec<u8> = data.iter().rev().copied().collect();
    let again = respelt(&path, true, &mut Choices::new(&backwards));
    if again.len() <= LONGEST {
        assert_eq!(read(method, again.as_bytes()), Some(Ok(request)), "{again}");
    }
});

/// The paths that a resource's parts can stand for.
fn spellings(request: &KubeRequest) -> impl Iterator<Item = String> {
    let Target::Resource {
        group,
        version,
        resource,
        subresource,
        namespace,
        name,
    } = &request.target
    else {
        panic!("no resource");
    };
    let group = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let segment = |part: &Option<String>| part.iter().map(|part| format!("/{part}")).collect::<String>();
    let object = format!("/{resource}{}{}", segment(name), segment(subresource));
    let within = namespace
        .as_ref()
        .map(|namespace| format!("/namespaces/{namespace}{object}"));
    // Of a namespace itself, the namespace is its name.
    let alone = (namespace.is_none() || (resource == "namespaces" && namespace == name)).then_some(object);
    let watch = if request.verb == Verb::Watch { "/watch" } else { "" };
    within
        .into_iter()
        .chain(alone)
        .map(move |object| format!("{group}{watch}{object}"))
}

/// Whether the path is that spelling; behind a subresource more may follow.
fn begins(request: &KubeRequest, spelling: &str) -> bool {
    let has_subresource = matches!(
        &request.target,
        Target::Resource {
            subresource: Some(_),
            ..
        }
    );
    request
        .path
        .strip_prefix(spelling)
        .is_some_and(|rest| rest.is_empty() || has_subresource && rest.starts_with('/'))
}
