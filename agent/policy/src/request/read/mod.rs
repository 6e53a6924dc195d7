//! The reading of a request, by the rules of `RequestInfoFactory.NewRequestInfo` (k8s.io/apiserver,
//! pkg/endpoints/request/requestinfo.go, release 1.36).
//!
//! In: an HTTP request's method, target and headers. Out: a [`KubeRequest`], or a [`ReadError`].

use http::{HeaderMap, Method, Uri};

use super::error::ReadError;
use super::head;
use super::query::{Pairs, Query};
use super::selector::listed_name;
use super::{Exec, KubeRequest, LongTarget, OldObject, RequestObject, Target, Verb, path};

/// Subresources of a namespace itself; any other third segment is a resource in the namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl KubeRequest {
    /// Reads a request's head.
    ///
    /// # Errors
    /// A [`ReadError`] for every request that the API server, or something between, could take for another one.
    pub fn read(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, ReadError> {
        Self::read_with(method, uri, None, headers)
    }

    /// Likewise, where the target is longer than a URI.
    pub(crate) fn read_with(
        method: &Method,
        uri: &Uri,
        long: Option<&LongTarget>,
        headers: &HeaderMap,
    ) -> Result<Self, ReadError> {
        head::check(uri, long, headers)?;
        let upgrade = head::asks_upgrade(headers)?;
        let (path, query) = match long.map(LongTarget::as_str) {
            Some(target) => target.split_once('?').unwrap_or((target, "")),
            None => (uri.path(), uri.query().unwrap_or("")),
        };
        let path = path::read(path)?;
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = if trimmed.is_empty() {
            Vec::new()
        } else {
            trimmed.split('/').collect()
        };
        let runs = matches!(parts[..], ["api", _, "namespaces", _, "pods", _, "exec"]);
        let query = Query::read(query, if runs { Pairs::Exec } else { Pairs::Any })?;

        let mut request = match split_group(&parts) {
            Some((group, version, rest)) => {
                let mut request = Self::resource(method, group, version, rest, &query)?;
                let slash = if path.ends_with('/') { "/" } else { "" };
                request.proxy_path = request.proxy_path.map(|path| path + slash);
                request
            }
            None => Self::non_resource(method, &path)?,
        };
        request.path = match &request.target {
            Target::Resource { .. } => format!("/{trimmed}"),
            Target::NonResource { .. } => path,
        };
        request.upgrade = upgrade;
        request.discovery =
            matches!(request.path.as_str(), "/api" | "/apis") && head::asks_discovery(headers);
        request.apply = request.verb == Verb::Patch && head::asks_apply(headers);
        request.follow |= request.verb == Verb::Watch;
        // What is behind a proxy may read any coding, and no rule looks into its bodies.
        if !request.is_proxied() {
            head::check_coding(headers)?;
        }
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
            proxy_path: None,
            upgrade: false,
            discovery: false,
            follow: false,
            resource_version: None,
            field_selector: None,
            label_selector: None,
            object: RequestObject::Unread,
            old_object: OldObject::Unread,
            held: false,
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
            _ => return Err(ReadError::method(method)),
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
            _ => return Err(ReadError::method(method)),
        };
        match parts {
            ["proxy", ..] => return Err(ReadError::Gone("the proxy verb as a path prefix")),
            ["watch"] => return Err(ReadError::Path("names nothing to watch")),
            ["watch", rest @ ..] => {
                // The API server calls any method here a watch and then serves GET alone.
                if verb != Verb::Get {
                    return Err(ReadError::method(method));
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
                    name = listed_name(query)?;
                }
                Verb::Delete => verb = Verb::DeleteCollection,
                _ => {}
            }
        }
        let exec = (group.is_empty() && resource == "pods")
            .then_some(subresource.as_deref())
            .flatten()
            .and_then(|sub| read_exec(sub, query));
        let follow = match subresource.as_deref() {
            Some("log") => query.flag("follow"),
            // What is behind a proxy may stream for as long as it likes.
            Some("proxy") => true,
            _ => false,
        };
        let mut dry_runs = query.all("dryRun");
        let dry_run = dry_runs.next() == Some("All") && dry_runs.next().is_none();
        // As `getRequestOptions` of k8s.io/apiserver, pkg/endpoints/handlers/rest.go, has it. The key `path` of the query, which
        // that overwrites, is no path here either.
        let proxy_path = (subresource.as_deref() == Some("proxy")).then(|| match parts.get(3..) {
            Some(rest) if !rest.is_empty() => format!("/{}", rest.join("/")),
            _ => String::new(),
        });

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
        request.proxy_path = proxy_path;
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
        env: match subresource {
            "exec" => query.all("env").map(str::to_owned).collect(),
            _ => Vec::new(),
        },
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    })
}

#[cfg(test)]
mod tests;
