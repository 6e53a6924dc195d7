//! A path as the API server takes it: decoded once, split at slashes.
//!
//! In: the raw path of a request's target. Out: the decoded path, or a [`ReadError`] where another parser could read it
//! otherwise.

use super::error::ReadError;

/// Longest path that is read. Group, version, namespace, resource, name and subresource together stay under 1,100
/// bytes; the rest is room for paths behind a proxy subresource.
const MAX_PATH: usize = 8 * 1024;

/// The byte that `%XX` at `at` stands for.
pub(super) fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |index: usize| bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok()
}

/// Decodes and checks a raw path. The result starts with a slash, has no empty, `.` or `..` segment but for one trailing
/// slash, no escape left, and no byte that ends a path for some parser.
pub(super) fn read(raw: &str) -> Result<String, ReadError> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(ReadError::Path("does not start with a slash"));
    }
    if bytes.len() > MAX_PATH {
        return Err(ReadError::Path("is longer than 8192 bytes"));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = if bytes[at] == b'%' {
            let byte = escape(bytes, at).ok_or(ReadError::Path("has a broken percent-escape"))?;
            at += 3;
            match byte {
                // Go decodes before it splits, others split first.
                b'/' => return Err(ReadError::Path("has an encoded slash")),
                b'%' => return Err(ReadError::Path("is encoded twice")),
                byte => byte,
            }
        } else {
            at += 1;
            bytes[at - 1]
        };
        match byte {
            0..0x20 | 0x7f => return Err(ReadError::Path("has a control character")),
            b'\\' | b'?' | b'#' => return Err(ReadError::Path("has one of \\ ? # in a segment")),
            byte => out.push(byte),
        }
    }
    let path = String::from_utf8(out).map_err(|_| ReadError::Path("is not UTF-8"))?;
    let inner = path.strip_prefix('/').unwrap_or(&path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for segment in inner.split('/') {
        match segment {
            "." | ".." => return Err(ReadError::Path("has a . or .. segment")),
            "" if path.len() > 1 => return Err(ReadError::Path("has an empty segment")),
            _ => {}
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths_pass_and_decode_once() {
        for (raw, path) in [
            ("/", "/"),
            ("/version", "/version"),
            ("/version/", "/version/"),
            ("/api/v1/namespaces/x/pods", "/api/v1/namespaces/x/pods"),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            ),
            ("/api/v1/%70ods", "/api/v1/pods"),
            ("/a%20b", "/a b"),
            ("/r%C3%B4le", "/rôle"),
        ] {
            assert_eq!(read(raw).expect(raw), path);
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for raw in [
            "",
            "*",
            "api",
            "//",
            "//api/v1/pods",
            "/api//v1/pods",
            "/api/v1/pods//",
            "/api/v1/../v1/pods",
            "/api/v1/./pods",
            "/api/v1/pods/..",
            "/api/v1/%2e%2e/pods",
            "/api/v1/%2E/pods",
            "/api/v1/namespaces%2fx/pods",
            "/api/v1/namespaces%2Fx",
            "/api/v1/%252e%252e",
            "/api/v1/pods%00",
            "/api/v1/pods%0a",
            "/api/v1/pods%3fwatch=true",
            "/api/v1/pods%23",
            "/api/v1\\pods",
            "/api/v1%5cpods",
            "/api/v1/pods%",
            "/api/v1/pods%2",
            "/api/v1/pods%zz",
            "/api/v1/%ff",
        ] {
            assert!(read(raw).is_err(), "{raw}");
        }
        assert!(read(&format!("/{}", "a".repeat(MAX_PATH))).is_err());
    }
}
