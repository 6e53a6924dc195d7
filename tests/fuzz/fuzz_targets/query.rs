//! Any query: no panic; what is read of it is what WHATWG's reader of forms finds, no key that is read once has two values, and every other
//! spelling of it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_fuzz::{Choices, read, read_as_long, respelt_query};
use picket_policy::{KubeRequest, ReadError, Verb};

/// Requests whose query means something.
const REQUESTS: [(&str, &str); 10] = [
    ("GET", "/api/v1/namespaces/n/pods"),
    ("GET", "/api/v1/namespaces/n/pods/p"),
    ("GET", "/api/v1/watch/namespaces/n/pods"),
    ("POST", "/api/v1/namespaces/n/pods/p/exec"),
    ("GET", "/api/v1/namespaces/n/pods/p/attach"),
    ("GET", "/api/v1/namespaces/n/pods/p/log"),
    ("GET", "/api/v1/namespaces/n/services/s/proxy/a"),
    ("DELETE", "/api/v1/namespaces/n/secrets"),
    ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d"),
    ("GET", "/openapi/v2"),
];

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (method, path) = *choices.of(&REQUESTS);
    let raw = choices.rest();
    // HTTP's own parser takes a fragment off.
    if raw.contains(&b'#') {
        return;
    }
    let whole = |query: &[u8]| [path.as_bytes(), b"?", query].concat();
    let as_uri = read(method, &whole(raw));
    if let (Some(as_uri), Some(as_long)) = (&as_uri, read_as_long(method, &whole(raw))) {
        assert_eq!(*as_uri, as_long);
    }
    let pairs: Vec<(String, String)> = form_urlencoded::parse(raw).into_owned().collect();
    let values = |key: &str| {
        pairs
            .iter()
            .filter(|(seen, _)| seen == key)
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()
    };
    let request = match as_uri {
        Some(Ok(request)) => request,
        Some(Err(ReadError::RepeatedQuery(key))) => {
            let values = values(&key);
            assert!(
                values.iter().any(|value| *value != values[0]),
                "{key}: {values:?}"
            );
            return;
        }
        _ => return,
    };
    // Go's ParseQuery drops pairs with a semicolon, and all pairs when there are too many.
    let most = if path.ends_with("/exec") { 10_000 } else { 1_000 };
    let count = raw.iter().filter(|byte| **byte == b'&').count();
    assert!(!raw.contains(&b';') && count < most);
    agrees(&request, path, &values);
    let read_anew = |query: &str| read(method, &whole(query.as_bytes()));
    let expected = Some(Ok(request));
    // The escapes are chosen by the input read backwards.
    let backwards: Vec<u8> = data.iter().rev().copied().collect();
    if count + pairs.len() + 2 < most && raw.len() < 8_192 {
        let again = respelt_query(&pairs, &mut Choices::new(&backwards));
        assert_eq!(read_anew(&again), expected, "{again}");
        let plain = respelt_query(&pairs, &mut Choices::new(&[]));
        assert_eq!(read_anew(&format!("zz=1&{plain}&watch%20=1")), expected);
    }
});

/// Whether a request says what its query says, read by another library.
fn agrees<'v>(request: &KubeRequest, path: &str, values: &impl Fn(&str) -> Vec<&'v str>) {
    let first = |key: &str| values(key).first().copied();
    let is_on =
        |key: &str| first(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
    if path == "/openapi/v2" {
        assert!(request.exec.is_none() && !request.follow && !request.dry_run);
        return;
    }
    assert_eq!(request.resource_version.as_deref(), first("resourceVersion"));
    assert_eq!(request.field_selector.as_deref(), first("fieldSelector"));
    assert_eq!(request.label_selector.as_deref(), first("labelSelector"));
    assert_eq!(request.dry_run, values("dryRun") == ["All"]);
    let lists = path == "/api/v1/namespaces/n/pods";
    assert_eq!(
        request.verb == Verb::Watch,
        path.contains("/watch/") || lists && is_on("watch")
    );
    let follows = path.contains("/proxy/") || path.ends_with("/log") && is_on("follow");
    assert_eq!(request.follow, follows || request.verb == Verb::Watch);
    if let Some(exec) = &request.exec {
        let command = if path.ends_with("/exec") {
            values("command")
        } else {
            Vec::new()
        };
        assert_eq!(exec.command, command);
        assert_eq!(
            exec.container.as_deref(),
            first("container").filter(|name| !name.is_empty())
        );
        let streams = [exec.stdin, exec.stdout, exec.stderr, exec.tty];
        assert_eq!(streams, ["stdin", "stdout", "stderr", "tty"].map(is_on));
    }
    // A name out of a selector is in the selector, but for the backslashes.
    if let (true, Some(name)) = (lists, request.name()) {
        let (selector, name) = (first("fieldSelector").unwrap_or_default(), name.replace('\\', ""));
        let selector = selector.replace('\\', "");
        assert!(
            ["=", "=="]
                .iter()
                .any(|equals| selector.contains(&format!("metadata.name{equals}{name}")))
        );
    }
}
