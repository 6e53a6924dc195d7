//! From an HTTP request's head to a [`KubeRequest`], by the rules of `RequestInfoFactory.NewRequestInfo`
//! (k8s.io/apiserver, pkg/endpoints/request/requestinfo.go, release 1.36).

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Uri};

use super::error::{MAX_HEAD, ReadError};
use super::query::{Query, selected_name};
use super::{Exec, KubeRequest, Target, Verb, path};

/// Headers by which some frameworks let a client replace the method.
const METHOD_OVERRIDES: [&[u8]; 3] = [b"x-http-method-override", b"x-http-method", b"x-method-override"];

/// Subresources of a namespace itself; any other third segment is a resource in the namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl KubeRequest {
    /// Reads a request's head.
    ///
    /// # Errors
    /// A [`ReadError`] for every request that the API server, or something between, could take for another one.
    pub fn read(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, ReadError> {
        check_size(uri, headers)?;
        check_authority(uri, headers)?;
        check_framing(headers)?;
        let upgrade = asks_upgrade(headers)?;
        let path = path::read(uri.path())?;
        let query = Query::read(uri.query().unwrap_or(""))?;

        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = if trimmed.is_empty() {
            Vec::new()
        } else {
            trimmed.split('/').collect()
        };
        let mut request = match split_group(&parts) {
            Some((group, version, rest)) => Self::resource(method, group, version, rest, &query)?,
            None => Self::non_resource(method, &path)?,
        };
        request.path = match &request.target {
            Target::Resource { .. } => format!("/{trimmed}"),
            Target::NonResource { .. } => path,
        };
        request.upgrade = upgrade;
        request.apply = request.verb == Verb::Patch && asks_apply(headers);
        request.follow |= request.verb == Verb::Watch;
        Ok(request)
    }

    fn blank(verb: Verb, target: Target) -> Self {
        Self {
            verb,
            path: String::new(),
            target,
            exec: None,
            dry_run: false,
            apply: false,
            upgrade: false,
            follow: false,
            resource_version: None,
            field_selector: None,
            label_selector: None,
        }
    }

    fn non_resource(method: &Method, path: &str) -> Result<Self, ReadError> {
        let verb = match *method {
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            Method::POST => Verb::Post,
            Method::PUT => Verb::Put,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            Method::OPTIONS => Verb::Options,
            _ => return Err(ReadError::Method(method.to_string())),
        };
        Ok(Self::blank(
            verb,
            Target::NonResource {
                path: path.to_owned(),
            },
        ))
    }

    fn resource(
        method: &Method,
        group: &str,
        version: &str,
        mut parts: &[&str],
        query: &Query,
    ) -> Result<Self, ReadError> {
        let mut verb = match *method {
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => return Err(ReadError::Method(method.to_string())),
        };
        match parts {
            ["proxy", ..] => return Err(ReadError::Gone("the proxy verb as a path prefix")),
            ["watch"] => return Err(ReadError::Path("nothing follows watch")),
            ["watch", rest @ ..] => {
                // The API server calls any method here a watch and then serves GET alone.
                if verb != Verb::Get {
                    return Err(ReadError::Method(method.to_string()));
                }
                verb = Verb::Watch;
                parts = rest;
            }
            _ => {}
        }
        let mut namespace = None;
        if let ["namespaces", name, rest @ ..] = parts {
            namespace = Some((*name).to_owned());
            if let [third, ..] = rest
                && !NAMESPACE_SUBRESOURCES.contains(third)
            {
                parts = rest;
            }
        }
        let at = |index: usize| parts.get(index).map(|part| (*part).to_owned());
        let (resource, mut name, subresource) = (at(0).unwrap_or_default(), at(1), at(2));

        let field_selector = query.get("fieldSelector");
        if name.is_none() {
            match verb {
                Verb::Get => {
                    verb = if query.flag("watch") {
                        Verb::Watch
                    } else {
                        Verb::List
                    };
                    name = field_selector.and_then(selected_name);
                }
                Verb::Delete => verb = Verb::DeleteCollection,
                _ => {}
            }
        }
        let exec = (group.is_empty() && resource == "pods")
            .then_some(subresource.as_deref())
            .flatten()
            .and_then(|sub| read_exec(sub, query));
        let follow = subresource.as_deref() == Some("log") && query.flag("follow");
        let mut dry_runs = query.all("dryRun").peekable();
        let dry_run = dry_runs.peek().is_some() && dry_runs.all(|value| value == "All");

        let mut request = Self::blank(
            verb,
            Target::Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                resource,
                subresource,
                namespace,
                name,
            },
        );
        request.exec = exec;
        request.follow = follow;
        request.dry_run = dry_run;
        request.resource_version = query.get("resourceVersion").map(str::to_owned);
        request.field_selector = field_selector.map(str::to_owned);
        request.label_selector = query.get("labelSelector").map(str::to_owned);
        Ok(request)
    }
}

/// Group, version and what follows, if the path is a resource's: `/api/v1/...` or `/apis/GROUP/VERSION/...`.
fn split_group<'a, 'b>(parts: &'b [&'a str]) -> Option<(&'a str, &'a str, &'b [&'a str])> {
    match parts {
        ["api", version, rest @ ..] if !rest.is_empty() => Some(("", version, rest)),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => Some((group, version, rest)),
        _ => None,
    }
}

/// Command and streams, for the subresources that have them.
fn read_exec(subresource: &str, query: &Query) -> Option<Exec> {
    let command = match subresource {
        "exec" => query.all("command").map(str::to_owned).collect(),
        "attach" => Vec::new(),
        _ => return None,
    };
    Some(Exec {
        container: query
            .get("container")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        command,
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    })
}

/// Refuses a request target that names another host than the Host header, or hides one before an `@`.
fn check_authority(uri: &Uri, headers: &HeaderMap) -> Result<(), ReadError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ReadError::Headers("there is more than one Host"));
    }
    if uri.path_and_query().is_none() {
        return Err(ReadError::Path("the request target has none"));
    }
    let Some(authority) = uri.authority() else {
        return Ok(());
    };
    if authority.as_str().contains('@') {
        return Err(ReadError::Headers("the authority has user information"));
    }
    match host {
        Some(host)
            if !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Err(ReadError::Headers(
                "Host and the request target's authority differ",
            ))
        }
        _ => Ok(()),
    }
}

/// Refuses a head that is longer than [`MAX_HEAD`].
fn check_size(uri: &Uri, headers: &HeaderMap) -> Result<(), ReadError> {
    let target = uri.path_and_query().map_or(0, |path| path.as_str().len())
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if target + fields > MAX_HEAD {
        return Err(ReadError::Head);
    }
    Ok(())
}

/// Whether a header is this one for a server that, as CGI (RFC 3875, 4.1.18) does, takes an underscore for a dash.
/// `HeaderName` is in lower case already.
fn same_header(name: &HeaderName, other: &[u8]) -> bool {
    let name = name.as_str().as_bytes();
    let dashed = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    name.len() == other.len() && name.iter().map(dashed).eq(other.iter().copied())
}

/// Refuses the doubles that request smuggling lives on.
fn check_framing(headers: &HeaderMap) -> Result<(), ReadError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(ReadError::Headers("there is more than one Content-Length"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some() {
        return Err(ReadError::Headers("there is more than one Transfer-Encoding"));
    }
    if coding.is_some() && length.is_some() {
        return Err(ReadError::Headers(
            "there are both Content-Length and Transfer-Encoding",
        ));
    }
    // The API server does not heed these, and nothing behind it should.
    if headers
        .keys()
        .any(|name| METHOD_OVERRIDES.iter().any(|other| same_header(name, other)))
    {
        return Err(ReadError::Headers("a header asks to override the method"));
    }
    Ok(())
}

/// Whether the body is an apply configuration (`application/apply-patch+yaml` or `+cbor`). Any value that could be
/// taken for one counts.
fn asks_apply(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .windows(11)
            .any(|window| window == b"apply-patch")
    })
}

/// Whether a switch of protocols is asked for: `Upgrade` together with `Connection: upgrade` (RFC 9110, 7.8).
fn asks_upgrade(headers: &HeaderMap) -> Result<bool, ReadError> {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let upgrade = upgrades.next();
    if upgrades.next().is_some() || upgrade.is_some_and(|value| value.as_bytes().contains(&b',')) {
        return Err(ReadError::Headers("there is more than one Upgrade"));
    }
    let connection = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    Ok(upgrade.is_some() && connection)
}

#[cfg(test)]
mod tests;
